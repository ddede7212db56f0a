"""The report of deletions."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import StartError
from hmacfs.keeping.report import Deletion, Report
from hmacfs.storage.names import SlotPath

DELETION = Deletion(
    time=1_795_428_000.12345,
    path=SlotPath.from_encoded("6f95/très\u2028cool \xff.jpg".encode()),
    size=482_113,
    uploaded=1_792_836_000.5,
    content_type="image/jpeg",
    owner="alice@example.org",
    reason="age",
    by="retention",
)


class ReportTests(SynchronousTestCase):
    """A line for each file that is gone."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "deleted.jsonl"
        self.path.parent.mkdir()
        self.report = Report(self.path)
        self.addCleanup(self.report.close)

    def lines(self) -> list[str]:
        return self.path.read_text("ascii").splitlines()

    def test_line(self) -> None:
        """In ASCII, and the path as in the URL."""
        self.report.add(DELETION)
        (line,) = self.lines()
        self.assertEqual(
            json.loads(line),
            {
                "time": 1_795_428_000.123,
                "path": "6f95/tr%C3%A8s%E2%80%A8cool%20%C3%BF.jpg",
                "size": 482_113,
                "uploaded": 1_792_836_000.5,
                "type": "image/jpeg",
                "owner": "alice@example.org",
                "reason": "age",
                "by": "retention",
            },
        )

    def test_owner_unknown(self) -> None:
        self.report.add(evolve(DELETION, owner=None))
        self.assertNotIn("owner", json.loads(self.lines()[0]))

    def test_line_breaks_in_the_type(self) -> None:
        """What a client chose can't begin a line."""
        self.report.add(evolve(DELETION, content_type="a/b\n{}", owner="\ud800"))
        self.assertEqual(len(self.lines()), 1)

    def test_appended(self) -> None:
        """To what is there, and by several processes in turn."""
        other = Report(self.path)
        self.addCleanup(other.close)
        for report in (self.report, other, self.report):
            report.add(DELETION)
        self.assertEqual(len(self.lines()), 3)

    def test_owner_of_a_new_file(self) -> None:
        """Whoever it is to belong to has it, after a rotation too; what was there already keeps its owner."""
        owners: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda _fd, user, group: owners.append((user, group)))
        path = self.path.with_name("new.jsonl")
        for _ in range(2):
            report = Report(path, owner=(12, 34))
            self.addCleanup(report.close)
        self.assertEqual(owners, [(12, 34)])
        path.unlink()
        report.reopen()
        self.assertEqual(owners, [(12, 34)] * 2)

    def test_rotated(self) -> None:
        """At once when it is told, without the loss of a line."""
        self.report.add(DELETION)
        self.path.rename(self.path.with_suffix(".1"))
        self.report.reopen()
        self.report.add(DELETION)
        self.assertEqual(len(self.lines()), 1)

    def test_for_the_group(self) -> None:
        """Not for everybody: who knows a path can download what is there, or find out whose it was."""
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_full_disk(self) -> None:
        """Nothing is raised: a file is gone whether or not that can be written down."""
        report = Report(Path("/dev/full"))
        self.addCleanup(report.close)
        report.add(DELETION)

    def test_none(self) -> None:
        report = Report(None)
        report.add(DELETION)
        report.reopen()
        report.close()

    def test_cannot_be_had(self) -> None:
        """Who wants a report is told at start that there is none."""
        path = self.path.parent / "missing" / "deleted.jsonl"
        error = self.assertRaises(StartError, Report, path)
        self.assertIn(f"ReportFile {path}: there is no directory {path.parent}.", str(error))
