"""``hmacfs import``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.storing import StoredTestCase


class ImportTests(StoredTestCase):
    """A directory of another server, taken over."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.directory / "old"
        (self.old / "slot").mkdir(parents=True)
        (self.old / "slot" / "a.png").write_bytes(b"a photo")
        (self.old / "slot" / "link").symlink_to("a.png")

    def run_import(self, *words: str) -> tuple[int, str, str]:
        return self.run_it("import", *words, words=1)

    def test_taken_over(self) -> None:
        """The file is in the store and in the index; what was left is said, and why."""
        status, out, err = self.run_import("prosody-filer", str(self.old))
        self.assertEqual((status, self.there()), (0, ["slot/a.png"]))
        self.assertIn("1 file was taken over, 7 B; 0 were there before.", out)
        self.assertIn("symbolic links", out)
        self.assertIn(f"{self.old}/slot/link: left where it is (symbolic-link)", err)
        (listed,) = self.json_of("files", "list", "slot/a.png")
        self.assertEqual((listed["source"], listed["type"]), ("import prosody-filer", "image/png"))
        self.assertTrue((self.old / "slot" / "a.png").exists())

    def test_again(self) -> None:
        self.run_import("prosody-filer", str(self.old))
        _, out, _ = self.run_import("prosody-filer", str(self.old))
        self.assertIn("0 files were taken over, 0 B; 1 was there before.", out)

    def test_moved_and_copied(self) -> None:
        self.run_import("ejabberd", str(self.old), "--copy")
        self.assertTrue((self.old / "slot" / "a.png").exists())
        (self.old / "slot" / "b.png").write_bytes(b"b")
        self.run_import("ejabberd", str(self.old), "--move")
        self.assertFalse((self.old / "slot" / "b.png").exists())
        self.assertEqual(self.there(), ["slot/a.png", "slot/b.png"])

    def test_dry_run(self) -> None:
        status, out, _ = self.run_import("prosody-filer", str(self.old), "--dry-run")
        self.assertEqual((status, self.there()), (0, []))
        self.assertIn("1 file would be taken over.", out)

    def test_json(self) -> None:
        status, out, _ = self.run_import("prosody-filer", str(self.old), "--json")
        self.assertEqual(status, 0)
        self.assertEqual(
            json.loads(out), {"taken": 1, "bytes": 7, "there_before": 0, "passed_over": {"symbolic-link": 1}}
        )

    def test_conflict(self) -> None:
        """Is a fault: somebody has to look."""
        self.put("slot/a.png", b"another")
        status, out, err = self.run_import("prosody-filer", str(self.old))
        self.assertEqual(status, 1)
        self.assertIn("(conflict)", err)
        self.assertIn("another file has that path", out)

    def test_in_place(self) -> None:
        """The old directory has become the store: what is known is noted, nothing moves."""
        (self.root / "slot").mkdir()
        (self.root / "slot" / "b.png").write_bytes(b"b")
        status, out, _ = self.run_import("prosody-filer", str(self.root))
        self.assertEqual((status, out), (0, "0 files were taken over, 0 B; 1 was there before.\n"))
        (listed,) = self.json_of("files", "list", "slot/b.png")
        self.assertEqual(listed["source"], "import prosody-filer")

    def test_within_the_store(self) -> None:
        """Its files would be there twice, under two URLs."""
        inner = self.root / "inner"
        inner.mkdir()
        status, _, err = self.run_import("prosody-filer", str(inner))
        self.assertEqual(status, 1)
        self.assertIn("within StoreDir", err)

    def test_no_directory(self) -> None:
        status, _, err = self.run_import("xhu", str(Path("nowhere")))
        self.assertEqual(status, 1)
        self.assertIn("no such directory", err)

    def test_unknown_layout(self) -> None:
        self.assertEqual(self.run_import("apache", str(self.old))[0], 2)
