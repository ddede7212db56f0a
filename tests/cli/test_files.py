"""``hmacfs files``."""

from __future__ import annotations

import hashlib
import json
import os
import time

from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from tests.cli.storing import DAY_S, StoredTestCase


class FilesTestCase(StoredTestCase):
    """A store with four files."""

    def setUp(self) -> None:
        super().setUp()
        now = time.time()
        self.put("slot1/a.png", b"a" * 10, uploaded=now - 40 * DAY_S, owner="alice@example.org")
        self.put("slot2/b.mp4", b"b" * 2_000_000, uploaded=now - 30 * DAY_S, content_type="video/mp4")
        self.put(
            "slot3/c.png",
            b"c",
            uploaded=now - 20 * DAY_S,
            owner="bob@example.org",
            sha256=hashlib.sha256(b"c").digest(),
        )
        self.put("slot4/d.txt", b"d", uploaded=now - DAY_S, content_type="text/plain", owner="eve@example.net")
        self.scan()


class ListTests(FilesTestCase):
    """``list``: which files, in which order, in which form."""

    def chosen(self, *choice: str) -> list[str]:
        return [record["path"] for record in self.json_of("files", "list", *choice)]

    def test_all(self) -> None:
        """Oldest first."""
        self.assertEqual(self.chosen(), ["slot1/a.png", "slot2/b.mp4", "slot3/c.png", "slot4/d.txt"])

    def test_every_choice(self) -> None:
        digest = hashlib.sha256(b"c").hexdigest()
        for choice, expected in (
            (["--user", "alice@example.org"], "a"),
            (["--domain", "example.org"], "ac"),
            (["--sha256", digest.upper()], "c"),
            (["--pattern", "*.png"], "ac"),
            (["--type", "VIDEO/*"], "b"),
            (["--older-than", "25d"], "ab"),
            (["--newer-than", "25d"], "cd"),
            (["--larger-than", "1MB"], "b"),
            (["--smaller-than", "10"], "cd"),
            (["--source", "upload"], "abcd"),
            (["--quarantined"], ""),
            (["--type", "image/*", "--domain", "example.org", "--newer-than", "25d"], "c"),
            (["slot1/a.png", "/slot4/d.txt"], "ad"),
            (["https://upload.example.org/upload/slot2/b.mp4?v=abc"], "b"),
        ):
            letters = "".join(path[6] for path in self.chosen(*choice))
            self.assertEqual(letters, expected, choice)

    def test_limit(self) -> None:
        self.assertEqual(self.chosen("--limit", "2"), ["slot1/a.png", "slot2/b.mp4"])
        self.assertEqual(self.chosen("--limit", "0"), [])

    def test_for_people(self) -> None:
        status, out, err = self.run_it("files", "list", "--user", "alice@example.org")
        self.assertEqual((status, err), (0, ""))
        head, row = out.splitlines()
        self.assertEqual(head.split(), ["uploaded", "size", "type", "user", "path"])
        self.assertEqual(row.split()[2:], ["10", "B", "image/png", "alice@example.org", "slot1/a.png"])

    def test_dangerous_names(self) -> None:
        """What would move the cursor, or isn't text, is shown and does nothing."""
        self.put(b"slot5/\xc2\x9b31m\xff", b"e")
        self.scan()
        _, out, _ = self.run_it("files", "list", "--older-than", "1s")
        self.assertIn("slot5/\\x9b31m\\xff", out)
        self.assertNotIn("\x9b", out)

    def test_nothing(self) -> None:
        self.assertEqual(self.chosen("--user", "nobody@example.org"), [])

    def test_mistakes(self) -> None:
        """Each is said, and nothing is guessed."""
        for choice, status, said in (
            (["slot1/a.png", "--user", "x@y"], 2, "not both"),
            (["--sha256", "abc"], 2, "64"),
            (["--older-than", "6m"], 2, "6m"),
            (["slot1/nothing"], 1, "no such file"),
            (["slot1/../x"], 1, "bad-path"),
            (["https://upload.example.org/other/slot1/a.png"], 1, "/upload/"),
        ):
            got, out, err = self.run_it("files", "list", *choice)
            self.assertEqual((got, out if status == 2 else ""), (status, ""), choice)
            self.assertIn(said, err)

    def test_index_that_knows_little(self) -> None:
        """The operator is told that this may not be all."""
        (self.root / ".hmacfs" / "index.sqlite").unlink()
        status, _, err = self.run_it("files", "list")
        self.assertEqual(status, 0)
        self.assertIn("index rebuild", err)

    def test_named_without_an_index(self) -> None:
        """Who knows the name needs no index."""
        (self.root / ".hmacfs" / "index.sqlite").unlink()
        self.assertEqual(self.chosen("slot1/a.png"), ["slot1/a.png"])

    def test_no_store(self) -> None:
        """A command doesn't make one."""
        self.config.write_text(self.config.read_text().replace("/store", "/nowhere"))
        status, _, err = self.run_it("files", "list")
        self.assertEqual(status, 1)
        self.assertIn("no such directory", err)
        self.assertFalse((self.directory / "nowhere").exists())


class ShowTests(FilesTestCase):
    """``show``."""

    def test_all_that_is_known(self) -> None:
        (known,) = self.json_of("files", "show", "slot3/c.png")
        self.assertEqual(known["sha256"], hashlib.sha256(b"c").hexdigest())
        self.assertEqual((known["user"], known["domain"], known["size"]), ("bob@example.org", "example.org", 1))
        self.assertEqual((known["type"], known["source"]), ("image/png", "upload"))

    def test_for_people(self) -> None:
        _, out, _ = self.run_it("files", "show", "slot3/c.png")
        self.assertIn("bob@example.org", out)

    def test_which(self) -> None:
        """Not all of them by mistake."""
        self.assertEqual(self.run_it("files", "show")[0], 2)


class DeleteTests(FilesTestCase):
    """``delete``."""

    def test_deleted(self) -> None:
        """The files are gone, the others aren't; the index knows; one line is left in the system's log."""
        status, out, _ = self.run_it("files", "delete", "--type", "image/*", "--yes")
        self.assertEqual((status, out), (0, "deleted 2 files, 11 B.\n"))
        self.assertEqual(self.there(), ["slot2/b.mp4", "slot4/d.txt"])
        self.assertFalse((self.root / "slot1").exists())
        self.assertEqual(len(self.json_of("files", "list")), 2)
        (line,) = self.audited
        self.assertIn("files delete: deleted 2 files, 11 bytes", line)

    def test_dry_run(self) -> None:
        """Says what would go, and leaves it."""
        status, out, _ = self.run_it("files", "delete", "--type", "image/*", "--dry-run")
        self.assertEqual(status, 0)
        self.assertIn("would delete slot1/a.png", out)
        self.assertEqual((len(self.there()), self.audited), (4, []))

    def test_asks_first(self) -> None:
        """Without a terminal nobody can answer: nothing is done."""
        status, _, err = self.run_it("files", "delete", "slot1/a.png")
        self.assertEqual(status, 1)
        self.assertIn("Delete 1 file, 10 B?", err)
        self.assertIn("--yes", err)
        self.assertEqual(len(self.there()), 4)

    def test_nothing_chosen(self) -> None:
        """Not everything by mistake."""
        self.assertEqual(self.run_it("files", "delete", "--yes")[0], 2)
        self.assertEqual(len(self.there()), 4)

    def test_by_url(self) -> None:
        """As somebody complains about it."""
        self.run_it("files", "delete", "http://example.org/upload/slot2/b.mp4", "--yes")
        self.assertNotIn("slot2/b.mp4", self.there())

    def test_again(self) -> None:
        """What isn't there can't be deleted; a choice that fits nothing is no fault."""
        self.run_it("files", "delete", "slot1/a.png", "--yes")
        self.assertEqual(self.run_it("files", "delete", "slot1/a.png", "--yes")[0], 1)
        self.assertEqual(self.run_it("files", "delete", "--user", "alice@example.org", "--yes")[0], 0)

    def test_dry_run_reports_nothing(self) -> None:
        """Where nothing is deleted, not even an empty ReportFile is made."""
        report = self.directory / "report"
        self.configure(f'ReportFile = "{report}"\n')
        self.run_it("files", "delete", "--type", "image/*", "--dry-run")
        self.run_it("files", "delete", "--type", "no/such", "--yes")
        self.assertEqual(self.run_it("files", "delete", "--type", "image/*")[0], 1)
        self.assertFalse(report.exists())

    def test_report(self) -> None:
        """Each file has a line in ReportFile."""
        report = self.directory / "report"
        self.configure(f'ReportFile = "{report}"\n')
        self.run_it("files", "delete", "slot1/a.png", "slot2/b.mp4", "--yes")
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        self.assertEqual([line["path"] for line in lines], ["slot1/a.png", "slot2/b.mp4"])
        self.assertEqual({line["reason"] for line in lines}, {"asked"})
        self.assertTrue(all(line["by"].startswith("operator ") for line in lines))

    def test_json(self) -> None:
        """One object for each file that is gone."""
        done = self.json_of("files", "delete", "--type", "image/*", "--yes")
        self.assertEqual(
            [(record["done"], record["path"]) for record in done],
            [("deleted", "slot1/a.png"), ("deleted", "slot3/c.png")],
        )

    def test_changed_meanwhile(self) -> None:
        """Another file that has taken the path since the index was made isn't deleted for what the old one was."""
        os.unlink(self.root / "slot1" / "a.png")
        self.put("slot1/a.png", b"another", content_type="image/png")
        status, out, _ = self.run_it("files", "delete", "--older-than", "35d", "--yes")
        self.assertEqual((status, out), (0, "deleted 0 files, 0 B.\n"))
        self.assertIn("slot1/a.png", self.there())


class QuarantineTests(FilesTestCase):
    """``quarantine`` and ``release``."""

    def served(self, path: str) -> str:
        found = self.store.open_file(SlotPath.from_encoded(path.encode()))
        assert found is not None
        found.close()
        try:
            found.facts.check_served(time.time())
        except Refused as refused:
            return refused.reason
        return "served"

    def test_there_and_back(self) -> None:
        """Kept on disk, not served, listed; then as before."""
        self.run_it("files", "quarantine", "slot1/a.png", "--reason", "complaint 17", "--yes")
        self.assertEqual((self.served("slot1/a.png"), self.served("slot3/c.png")), ("quarantined", "served"))
        (listed,) = self.json_of("files", "list", "--quarantined")
        self.assertEqual(listed["path"], "slot1/a.png")
        (known,) = self.json_of("files", "show", "slot1/a.png")
        self.assertEqual((known["quarantined"], known["user"]), ("complaint 17", "alice@example.org"))
        self.assertEqual(self.run_it("files", "release", "--quarantined", "--yes")[1], "released 1 file, 10 B.\n")
        self.assertEqual((self.served("slot1/a.png"), self.json_of("files", "list", "--quarantined")), ("served", []))
        self.assertEqual(len(self.audited), 2)

    def test_dry_run(self) -> None:
        self.run_it("files", "quarantine", "slot1/a.png", "--dry-run")
        self.assertEqual(self.served("slot1/a.png"), "served")

    def test_again(self) -> None:
        """Nothing is done twice."""
        self.run_it("files", "quarantine", "slot1/a.png", "--yes")
        self.assertEqual(self.run_it("files", "quarantine", "slot1/a.png", "--yes")[1], "quarantined 0 files, 0 B.\n")

    def test_deleted_from_quarantine(self) -> None:
        """The operator may."""
        self.run_it("files", "quarantine", "slot1/a.png", "--yes")
        self.run_it("files", "delete", "slot1/a.png", "--yes")
        self.assertNotIn("slot1/a.png", self.there())
