"""``hmacfs retention`` and ``hmacfs index``."""

from __future__ import annotations

import json
import os
import sqlite3
import time

from hmacfs.cli import storing
from tests.cli.storing import DAY_S, StoredTestCase


class RetentionTests(StoredTestCase):
    """What would go, and that it goes."""

    def setUp(self) -> None:
        super().setUp()
        self.configure('DeleteFiles = true\nDeleteFilesAfterPeriod = "30d"\nRetentionGrace = 0\n')
        now = time.time()
        self.put("slot1/old", b"12345", uploaded=now - 40 * DAY_S)
        self.put("slot2/new", b"123", uploaded=now - DAY_S)
        self.put("slot3/over", b"1234567", uploaded=now - DAY_S, expires=now - 60)
        self.scan()

    def test_plan(self) -> None:
        """By reason; nothing is deleted."""
        (plan,) = self.json_of("retention", "plan")
        self.assertEqual((plan["would_delete"]["files"], plan["would_delete"]["bytes"]), (2, 12))
        self.assertEqual(plan["would_delete"]["by_reason"], {"age": 1, "expired": 1})
        _, out, _ = self.run_it("retention", "plan")
        self.assertIn("would be deleted (age)", out)
        self.assertEqual(len(self.there()), 3)

    def test_run(self) -> None:
        status, out, _ = self.run_it("retention", "run", "--yes")
        self.assertEqual((status, out), (0, "deleted 2 files, 12 B.\n"))
        self.assertEqual(self.there(), ["slot2/new"])
        self.assertEqual(len(self.audited), 1)

    def test_asks_first(self) -> None:
        self.assertEqual(self.run_it("retention", "run")[0], 1)
        self.assertEqual(len(self.there()), 3)

    def test_dry_run(self) -> None:
        self.assertIn("would be deleted (age)", self.run_it("retention", "run", "--dry-run")[1])
        self.assertEqual(len(self.there()), 3)

    def test_nothing_to_do(self) -> None:
        self.run_it("retention", "run", "--yes")
        status, out, _ = self.run_it("retention", "run", "--yes")
        self.assertEqual(status, 0)
        self.assertIn("nothing would be deleted", out)

    def test_grace(self) -> None:
        """What was there before retention was switched on is spared, and the plan says so."""
        self.configure('DeleteFiles = true\nDeleteFilesAfterPeriod = "30d"\nRetentionGrace = "24h"\n')
        (plan,) = self.json_of("retention", "plan")
        self.assertEqual((plan["would_delete"]["by_reason"], plan["spared"]["files"]), ({"expired": 1}, 1))
        self.assertIn("spared until", self.run_it("retention", "plan")[1])

    def test_off(self) -> None:
        """Only what says itself when it ends."""
        self.configure("")
        _, out, _ = self.run_it("retention", "plan")
        self.assertIn("Retention is off", out)
        self.run_it("retention", "run", "--yes")
        self.assertEqual(self.there(), ["slot1/old", "slot2/new"])

    def test_unknown_tree(self) -> None:
        """Nothing is deleted by an index that knows a part of the files."""
        (self.root / ".hmacfs" / "index.sqlite").unlink()
        status, _, err = self.run_it("retention", "run", "--yes")
        self.assertEqual(status, 1)
        self.assertIn("index rebuild", err)

    def test_plan_of_an_unknown_tree(self) -> None:
        """It is no promise that nothing would be deleted."""
        (self.root / ".hmacfs" / "index.sqlite").unlink()
        status, out, err = self.run_it("retention", "plan")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("index rebuild", err)

    def test_report(self) -> None:
        report = self.directory / "report"
        self.configure(f'DeleteFiles = true\nRetentionGrace = 0\nReportFile = "{report}"\n')
        self.run_it("retention", "run", "--yes")
        reasons = {json.loads(line)["path"]: json.loads(line)["reason"] for line in report.read_text().splitlines()}
        self.assertEqual(reasons, {"slot1/old": "age", "slot3/over": "expired"})

    def test_report_that_root_makes(self) -> None:
        """It belongs to whom the store belongs to, or the daemon could not write to it."""
        owners: list[tuple[int, int]] = []
        self.patch(storing, "heir", lambda directory: (12, 34) if directory == self.root else None)
        self.patch(os, "fchown", lambda _fd, user, group: owners.append((user, group)))
        self.configure(f'DeleteFiles = true\nRetentionGrace = 0\nReportFile = "{self.directory / "report"}"\n')
        self.run_it("retention", "run", "--yes")
        self.assertEqual(owners, [(12, 34)])


class IndexTests(StoredTestCase):
    """The index, put right and looked over."""

    def setUp(self) -> None:
        super().setUp()
        self.put("slot1/a")
        self.put("slot2/b")
        self.scan()

    def disturb(self) -> None:
        """Change the tree behind the index' back."""
        self.put("slot3/new")
        (self.root / "slot1" / "a").unlink()
        (self.root / "slot2" / "b").write_bytes(b"something else")

    def test_verify(self) -> None:
        """Says what is wrong, and leaves it so."""
        self.assertEqual(self.run_it("index", "verify")[0], 0)
        self.disturb()
        for _ in range(2):
            status, out, _ = self.run_it("index", "verify", "--json")
            found = {each["path"]: each["is"] for each in map(json.loads, out.splitlines())}
            self.assertEqual(status, 1)
            self.assertEqual(found, {"slot3/new": "missing", "slot1/a": "vanished", "slot2/b": "changed"})

    def test_rebuild(self) -> None:
        self.disturb()
        status, out, _ = self.run_it("index", "rebuild")
        self.assertEqual((status, out), (0, "The index has 2 files. 1 was added, 1 corrected, 1 forgotten.\n"))
        self.assertEqual(self.run_it("index", "verify")[0], 0)
        self.assertEqual([each["path"] for each in self.json_of("files", "list")], ["slot2/b", "slot3/new"])

    def test_from_scratch(self) -> None:
        """Also where the old file is another version's, of which the operator is told."""
        index = self.root / ".hmacfs" / "index.sqlite"
        self.overwrite_version()
        status, _, err = self.run_it("files", "list")
        self.assertEqual(status, 1)
        self.assertIn("index rebuild --from-scratch", err)
        self.assertIn(str(index), err)
        self.assertEqual(self.json_of("index", "rebuild", "--from-scratch")[0]["missing"], 2)
        self.assertEqual(len(self.json_of("files", "list")), 2)

    def overwrite_version(self) -> None:
        connection = sqlite3.connect(self.root / ".hmacfs" / "index.sqlite")
        connection.execute("PRAGMA user_version = 77")
        connection.close()

    def test_names_that_no_url_has(self) -> None:
        """They are counted and left alone."""
        (self.root / "slot1" / "line\nbreak").write_bytes(b"")
        self.assertIn("1 file is left out", self.run_it("index", "rebuild")[1])
