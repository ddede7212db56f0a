"""``hmacfs users``."""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
from unittest.mock import Mock

from hmacfs.cli import users
from hmacfs.uploads.note import encode
from hmacfs.uploads.state import NewUpload
from tests.cli.storing import StoredTestCase

ALICE = "alice@example.org"
DIRECTORY = hashlib.sha1(ALICE.encode()).hexdigest()


class UsersTestCase(StoredTestCase):
    """Files of two users; one of them came by two XMPP servers."""

    def setUp(self) -> None:
        super().setUp()
        self.put("slot1/a.png", b"12345", owner=ALICE)
        self.put(f"{DIRECTORY}/random/b.png", b"123", owner=None)
        self.put("slot2/c.png", b"1234567", owner="bob@example.org")
        self.put("slot3/d.png", b"1", owner=None)
        self.scan()

    def unfinished(self, name: str, owner: str | None, path: bytes = b"slot9/x") -> None:
        part = self.store.begin(name)
        part.write(b"some")
        part.set_note(encode(NewUpload(name, path, b"s" * 32, "token", "image/png", 10, owner, None, 4)))
        part.close()

    def parts(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".hmacfs" / "parts").iterdir())


class ListTests(UsersTestCase):
    """``list``."""

    def test_most_first(self) -> None:
        users = self.json_of("users", "list")
        self.assertEqual(
            [(each["user"], each["files"], each["bytes"]) for each in users],
            [("bob@example.org", 1, 7), (ALICE, 1, 5), (DIRECTORY, 1, 3)],
        )

    def test_for_people(self) -> None:
        _, out, _ = self.run_it("users", "list")
        self.assertIn("bob@example.org", out)


class ExportTests(UsersTestCase):
    """``export``."""

    def test_listed(self) -> None:
        """All that is known of each file, by token and by ejabberd's directory."""
        status, out, _ = self.run_it("users", "export", f"{ALICE}/phone")
        self.assertEqual(status, 0)
        paths = [json.loads(line)["path"] for line in out.splitlines()]
        self.assertEqual(paths, ["slot1/a.png", f"{DIRECTORY}/random/b.png"])

    def test_archive(self) -> None:
        """The files and what is known of them, for nobody else's eyes."""
        archive = self.directory / "alice.tar"
        self.run_it("users", "export", ALICE, "--tar", str(archive))
        self.assertEqual(stat.S_IMODE(archive.stat().st_mode), 0o600)
        with tarfile.open(archive) as tar:
            self.assertEqual(tar.getnames(), ["files/slot1/a.png", f"files/{DIRECTORY}/random/b.png", "files.json"])
            member, manifest = tar.extractfile("files/slot1/a.png"), tar.extractfile("files.json")
            assert member is not None and manifest is not None
            self.assertEqual(member.read(), b"12345")
            self.assertEqual([each["size"] for each in json.load(manifest)], [5, 3])

    def test_archive_is_there(self) -> None:
        """Nothing is overwritten."""
        archive = self.directory / "alice.tar"
        archive.write_text("precious")
        self.assertEqual(self.run_it("users", "export", ALICE, "--tar", str(archive))[0], 1)
        self.assertEqual(archive.read_text(), "precious")

    def test_archive_that_breaks_off(self) -> None:
        """A part of somebody's files isn't left behind under the name of all of them, after Ctrl-C neither."""
        archive = self.directory / "alice.tar"
        for error, expected in ((OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)):
            fails = self.patch(users, "_add", Mock(side_effect=[True, error]))
            self.assertEqual(self.run_it("users", "export", ALICE, "--tar", str(archive))[0], expected)
            fails.restore()
            self.assertFalse(archive.exists())

    def test_nobody(self) -> None:
        self.assertEqual(self.run_it("users", "export", "nobody@example.org")[:2], (0, ""))


class DeleteTests(UsersTestCase):
    """``delete``."""

    def test_everything(self) -> None:
        """Files, wherever they came from, and unfinished uploads; nothing of anybody else."""
        self.unfinished("alices", ALICE)
        self.unfinished("alices-by-ejabberd", None, f"{DIRECTORY}/random/x".encode())
        self.unfinished("bobs", "bob@example.org")
        self.unfinished("somebodys", None)
        status, out, _ = self.run_it("users", "delete", ALICE, "--yes")
        self.assertEqual(status, 0)
        self.assertEqual(self.there(), ["slot2/c.png", "slot3/d.png"])
        self.assertEqual(self.parts(), ["bobs", "somebodys"])
        self.assertIn("removed 2 unfinished uploads", out)
        self.assertEqual([each["user"] for each in self.json_of("users", "list")], ["bob@example.org"])
        self.assertTrue(all("users delete alice@example.org" in line for line in self.audited))

    def test_dry_run(self) -> None:
        self.unfinished("alices", ALICE)
        _, out, _ = self.run_it("users", "delete", ALICE, "--dry-run")
        self.assertEqual(out.count("would delete"), 2)
        self.assertEqual((len(self.there()), self.parts()), (4, ["alices"]))

    def test_asks_first(self) -> None:
        self.assertEqual(self.run_it("users", "delete", ALICE)[0], 1)
        self.assertEqual(len(self.there()), 4)

    def test_in_quarantine(self) -> None:
        """Goes as well: the person's right doesn't end there."""
        self.run_it("files", "quarantine", "slot1/a.png", "--yes")
        self.run_it("users", "delete", ALICE, "--yes")
        self.assertNotIn("slot1/a.png", self.there())

    def test_nobody(self) -> None:
        """Is no fault: a second time all is as it should be."""
        status, out, _ = self.run_it("users", "delete", "nobody@example.org", "--yes")
        self.assertEqual((status, out), (0, "0 files, 0 B.\n"))
