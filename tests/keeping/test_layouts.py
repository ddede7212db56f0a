"""The layouts of other servers: what is found in them, and what is passed over."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import StartError
from hmacfs.keeping.layouts import LAYOUTS, Found, Hints, Passed

MTIME = 1_790_000_000


class LayoutTestCase(SynchronousTestCase):
    """Makes a directory."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.root.mkdir()

    def make(self, name: str | bytes, content: bytes = b"content") -> Path:
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (MTIME, MTIME))
        return path

    def found(self, layout: str, hints: Hints | None = None) -> dict[bytes, Found]:
        """The files that are found, by their paths."""
        every = LAYOUTS[layout](self.root, hints or Hints())
        return {each.path.encoded: each for each in every if isinstance(each, Found)}

    def passed(self, layout: str, hints: Hints | None = None) -> dict[str, str]:
        """The reasons for what is passed over, by the paths below the directory."""
        every = LAYOUTS[layout](self.root, hints or Hints())
        return {str(each.source.relative_to(self.root)): each.reason for each in every if isinstance(each, Passed)}


class TreeTests(LayoutTestCase):
    """Servers whose tree is that of the URLs."""

    def test_a_file(self) -> None:
        """Its path, its type by its name, its time; whose it is says the path."""
        source = self.make("9f1c/tr\u00e8s cool.JPG")
        (found,) = self.found("prosody-filer").values()
        self.assertEqual(found.source, source)
        self.assertEqual(found.path.encoded, "9f1c/très cool.JPG".encode())
        facts = found.facts
        self.assertEqual((facts.content_type, facts.uploaded, facts.owner), ("image/jpeg", MTIME, None))
        self.assertEqual((facts.sha256, facts.expires, facts.source), (None, None, "import prosody-filer"))

    def test_any_depth(self) -> None:
        for name in ("a", "b/c", "d/e/f", "d/e/g/h"):
            self.make(name)
        self.assertEqual(sorted(self.found("ejabberd")), [b"a", b"b/c", b"d/e/f", b"d/e/g/h"])

    def test_names_that_are_no_text(self) -> None:
        self.make(b"slot/\xff\xfe")
        self.assertEqual(list(self.found("prosody-filer")), [b"slot/\xff\xfe"])

    def test_links_and_odd_things(self) -> None:
        """No link is followed, whatever it leads to."""
        outside = Path(self.mktemp())
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (self.root / "directory").symlink_to(outside.absolute())
        (self.root / "file").symlink_to((outside / "secret").absolute())
        os.mkfifo(self.root / "pipe")
        self.assertEqual(self.found("prosody-filer"), {})
        self.assertEqual(
            self.passed("prosody-filer"),
            {"directory": "symbolic-link", "file": "symbolic-link", "pipe": "not-a-file"},
        )

    def test_our_own_directory(self) -> None:
        """A store of ours that is looked through in place has no files in ``.hmacfs``."""
        self.make(".hmacfs/parts/abc")
        self.make("slot/file")
        self.assertEqual((list(self.found("prosody-filer")), self.passed("prosody-filer")), ([b"slot/file"], {}))

    def test_names_that_no_url_leads_to(self) -> None:
        self.make("slot/line\nbreak")
        self.assertEqual(self.passed("prosody-filer"), {"slot/line\nbreak": "bad-path"})

    def test_prefix(self) -> None:
        """hmac-file-server keeps the URL's prefix; files beside it keep their paths."""
        self.make("upload/slot/file.png")
        self.make("other/file.png")
        hints = Hints(prefix=b"upload")
        self.assertEqual(sorted(self.found("hmac-file-server", hints)), [b"other/file.png", b"slot/file.png"])

    def test_unfinished(self) -> None:
        self.make("slot/file.part")
        self.assertEqual(self.passed("hmac-file-server"), {"slot/file.part": "unfinished"})
        self.assertEqual(list(self.found("prosody-filer")), [b"slot/file.part"])

    def test_no_directory(self) -> None:
        for layout in ("prosody-filer", "xhu", "ejabberd", "hmac-file-server"):
            self.assertRaises(StartError, list, LAYOUTS[layout](self.root / "nowhere", Hints()))


class XhuTests(LayoutTestCase):
    """xmpp-http-upload."""

    def test_a_file(self) -> None:
        """The type is the one that was sent."""
        self.make("slot/a.bin.data")
        self.make("slot/a.bin.meta", json.dumps({"headers": {"Content-Type": "image/png"}}).encode())
        found = self.found("xhu")[b"slot/a.bin"]
        self.assertEqual(found.facts.content_type, "image/png")
        self.assertEqual(self.passed("xhu"), {})

    def test_no_type(self) -> None:
        """Without one that can be read it is guessed by the name."""
        for name, meta in (
            ("a", b"{"),
            ("b", b'{"headers": {}}'),
            ("c", b'{"headers": {"Content-Type": 5}}'),
            ("d", b"[]"),
        ):
            self.make(f"slot/{name}.png.data")
            self.make(f"slot/{name}.png.meta", meta)
        self.make("slot/e.png.data")
        types = {found.facts.content_type for found in self.found("xhu").values()}
        self.assertEqual((len(self.found("xhu")), types), (5, {"image/png"}))

    def test_hostile_type(self) -> None:
        """A type that can't stand in a header isn't kept."""
        self.make("slot/a.png.data")
        self.make("slot/a.png.meta", json.dumps({"headers": {"Content-Type": "a/b\r\nX: y"}}).encode())
        self.assertEqual(self.found("xhu")[b"slot/a.png"].facts.content_type, "application/octet-stream")

    def test_other_files(self) -> None:
        self.make("README")
        self.assertEqual(self.passed("xhu"), {"README": "no-metadata"})


class ProsodyFileShareTests(LayoutTestCase):
    """Prosody's mod_http_file_share."""

    def list(self, **attributes: str) -> None:
        listed = "".join(f'["{name.replace("_", "-")}"] = "{value}";\n' for name, value in attributes.items())
        self.make(
            "uploads.list",
            f"""item({{ ["attr"] = {{ {listed} }}; ["key"] = "slot-1_x"; ["name"] = "request"; ["when"] = 1700000000;
            ["with"] = "alice@localhost"; }});""".encode(),
        )

    def test_a_file(self) -> None:
        """Its name on disk has every odd byte as %xx; the archive knows the rest."""
        self.list(filename="my photo.jpg", size="7", content_type="image/jpeg")
        self.make("http_file_share/slot%2d1%5fx.bin")
        found = self.found("prosody-file-share")[b"slot-1_x/my photo.jpg"]
        facts = found.facts
        self.assertEqual((facts.content_type, facts.owner, facts.uploaded), ("image/jpeg", "alice@localhost", MTIME))
        self.assertEqual((facts.expires, facts.source), (None, "import prosody-file-share"))

    def test_expiry(self) -> None:
        """Counted from the slot, as Prosody does."""
        self.list(filename="a", size="7")
        self.make("http_file_share/slot%2d1%5fx.bin")
        (found,) = self.found("prosody-file-share", Hints(expires_after_s=86400)).values()
        self.assertEqual((found.facts.expires, found.facts.content_type), (1_700_086_400, "application/octet-stream"))

    def test_passed_over(self) -> None:
        """Uploads that were never finished, files whose slot is forgotten, and names that were made to harm."""
        self.list(filename="..", size="7")
        self.make("http_file_share/slot%2d1%5fx.bin")
        self.make("http_file_share/other.bin")
        self.make("http_file_share/unfinished.bin~")
        self.assertEqual(
            self.passed("prosody-file-share"),
            {
                "http_file_share/slot%2d1%5fx.bin": "bad-path",
                "http_file_share/other.bin": "no-metadata",
                "http_file_share/unfinished.bin~": "unfinished",
            },
        )

    def test_archive_in_sqlite(self) -> None:
        self.make("http_file_share/abc.bin")
        database = self.root / "prosody.sqlite"
        connection = sqlite3.connect(database)
        connection.execute('CREATE TABLE prosodyarchive (host, user, store, key, "when" INTEGER, "with", type, value)')
        connection.executemany(
            "INSERT INTO prosodyarchive VALUES (?, '', 'uploads', ?, 1700000000, 'bob@localhost', 'xml', ?)",
            [
                ("share.localhost", "abc", "<request filename='x&amp;y.png' content-type='image/png' size='7'/>"),
                ("share.localhost", "broken", "<request"),
                ("other.localhost", "abc", "<request filename='wrong' size='7'/>"),
            ],
        )
        connection.commit()
        connection.close()
        hints = Hints(database=database, host="share.localhost")
        found = self.found("prosody-file-share", hints)[b"abc/x&y.png"]
        self.assertEqual((found.facts.owner, found.facts.content_type), ("bob@localhost", "image/png"))
        self.assertRaises(StartError, self.found, "prosody-file-share", Hints(database=database))
        self.assertRaises(StartError, self.found, "prosody-file-share", Hints(database=self.root, host="x"))

    def test_no_archive(self) -> None:
        """The operator is told where it should be, and what else there is."""
        (self.root / "http_file_share").mkdir()
        error = self.assertRaises(StartError, self.found, "prosody-file-share")
        self.assertIn("uploads.list", str(error))
        self.assertIn("--sqlite", str(error))
        self.make("uploads.list", b"return {}")
        self.assertRaises(StartError, self.found, "prosody-file-share")
