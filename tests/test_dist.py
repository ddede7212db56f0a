"""What is given away: one version, wherever it is written."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from twisted.trial.unittest import SynchronousTestCase

from hmacfs import __version__
from tests.e2e.processes import ROOT


class VersionTests(SynchronousTestCase):
    """``hmacfs.__version__`` is the version; setup.cfg reads it."""

    def first(self, page: str, pattern: str) -> str:
        """What the first match on a page has in its group."""
        match = re.search(pattern, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert match is not None, page
        return match[1]

    def test_changelog(self) -> None:
        """The uppermost heading of the changelog is about it."""
        self.assertEqual(self.first("CHANGELOG.md", r"^## \[([^\]]+)\]"), __version__)

    def test_debian(self) -> None:
        """The package has it, with a revision."""
        self.assertEqual(self.first("debian/changelog", r"\Ahmacfs \((.+)-[^-]+\) "), __version__)

    def test_setup(self) -> None:
        """Nobody writes it a second time."""
        self.assertEqual(self.first("setup.cfg", r"^version = (.+)$"), "attr: hmacfs.__version__")

    def test_time(self) -> None:
        """The time that archives get without git can be read."""
        written = self.first("debian/changelog", r"^ -- .*>  (.+)$")
        self.assertLess(
            datetime(2026, 1, 1, tzinfo=timezone.utc), datetime.strptime(written, "%a, %d %b %Y %H:%M:%S %z")
        )
