"""The page that the results are written into."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.__main__ import SECTIONS
from bench.report import file_system, provenance, put_section
from tests.e2e.processes import ROOT

PAGE = "# Title\n\n<!-- begin one -->\nold\n<!-- end one -->\n\n<!-- begin two -->\nkept\n<!-- end two -->\n"


class SectionTests(SynchronousTestCase):
    """A section is written anew, the rest of the page stays."""

    def test_replaced(self) -> None:
        """Once or twice, with the same result."""
        once = put_section(PAGE, "one", "new\n")
        self.assertEqual(once, PAGE.replace("old\n", "\nnew\n\n"))
        self.assertEqual(put_section(once, "one", "new\n"), once)

    def test_unknown(self) -> None:
        """Ten minutes of measurements are not to vanish without a word."""
        self.assertRaises(ValueError, put_section, PAGE, "three", "new\n")

    def test_page(self) -> None:
        """docs/benchmarks.md has a place for all that is measured."""
        page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
        for name in (*SECTIONS, "targets"):
            put_section(page, name, "")


class ProvenanceTests(SynchronousTestCase):
    """The line above the results."""

    def test_machine(self) -> None:
        """It says how and on what kind of machine, and neither where the files were nor what the machine is called."""
        line = provenance(["python -m bench", "--rounds", "5"], 5, [Path("/proc"), Path("/")])
        self.assertIn("`python -m bench --rounds 5`", line)
        self.assertIn("proc and", line)
        self.assertNotIn(Path("/proc/sys/kernel/hostname").read_text(encoding="utf-8").strip(), line)

    def test_file_system(self) -> None:
        """The innermost mount that holds a path is the one that counts."""
        self.assertEqual(file_system(Path("/proc/self")), "proc")
