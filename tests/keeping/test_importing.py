"""Files of another server are taken over: linked, moved or copied, whole and with what was known of them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from hmacfs.errors import StartError
from hmacfs.keeping.importing import How, Importer, Taken
from hmacfs.keeping.layouts import LAYOUTS, Hints, Passed
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import OpenFile
from tests.storage.support import StoreTestCase

PATH = SlotPath.from_encoded(b"slot/photo.jpg")


class ImportTestCase(StoreTestCase):
    """A store, and a directory of prosody-filer beside it."""

    def setUp(self) -> None:
        super().setUp()
        self.old = Path(self.mktemp())
        self.source = self.old / "slot" / "photo.jpg"
        self.source.parent.mkdir(parents=True)
        self.source.write_bytes(b"a photo")

    def take(self, how: How, layout: str = "prosody-filer") -> list[Taken | Passed]:
        importer = Importer(self.store, how)
        return list(importer.run(LAYOUTS[layout](self.old, Hints())))

    def stored(self) -> OpenFile:
        stored = self.store.open_file(PATH)
        assert stored is not None
        self.addCleanup(stored.close)
        return stored


class TakingTests(ImportTestCase):
    """One file."""

    def test_linked(self) -> None:
        """It is the same file under a second name; no byte was copied."""
        (taken,) = self.take(How.LINK)
        assert isinstance(taken, Taken)
        assert taken.stored is not None
        self.assertEqual(taken.stored.inode, self.source.stat().st_ino)
        self.assertEqual(self.get("slot/photo.jpg"), b"a photo")
        facts = self.stored().facts
        self.assertEqual((facts.content_type, facts.source), ("image/jpeg", "import prosody-filer"))
        self.assertEqual(facts.uploaded, self.source.stat().st_mtime)

    def test_moved(self) -> None:
        inode = self.source.stat().st_ino
        self.take(How.MOVE)
        self.assertFalse(self.source.exists())
        self.assertEqual((self.stored().inode, self.get("slot/photo.jpg")), (inode, b"a photo"))

    def test_copied(self) -> None:
        """The old one is another file, and stays as it was."""
        before = self.source.stat()
        self.take(How.COPY)
        self.assertEqual(self.get("slot/photo.jpg"), b"a photo")
        self.assertNotEqual(self.stored().inode, before.st_ino)
        self.assertEqual(
            (self.source.stat().st_mode, self.source.stat().st_ctime_ns), (before.st_mode, before.st_ctime_ns)
        )
        self.assertEqual(self.stored().facts.source, "import prosody-filer")

    def test_mode(self) -> None:
        """As of every stored file."""
        self.source.chmod(0o606)
        self.take(How.LINK)
        self.assertEqual(stat.S_IMODE(os.fstat(self.stored().fd).st_mode), 0o640)

    def test_again(self) -> None:
        """What has been taken over is left alone."""
        self.take(How.LINK)
        (again,) = self.take(How.LINK)
        self.assertEqual(again, Taken(PATH, None))

    def test_copied_again(self) -> None:
        self.take(How.COPY)
        inode = self.stored().inode
        (again,) = self.take(How.COPY)
        assert isinstance(again, Taken)
        self.assertIsNone(again.stored)
        self.assertEqual(self.stored().inode, inode)

    def test_move_that_was_cut(self) -> None:
        """Killed between the new name and the old one: the next run removes the old one."""
        self.take(How.LINK)
        self.take(How.MOVE)
        self.assertFalse(self.source.exists())
        self.assertEqual(self.get("slot/photo.jpg"), b"a photo")

    def test_another_file_is_there(self) -> None:
        """It is not overwritten, and the operator is told."""
        self.put("slot/photo.jpg", b"another")
        for how in How:
            (passed,) = self.take(how)
            self.assertEqual(passed, Passed(self.source, "conflict"))
        self.assertEqual((self.get("slot/photo.jpg"), self.source.read_bytes()), (b"another", b"a photo"))

    def test_a_directory_is_there(self) -> None:
        (self.root / "slot" / "photo.jpg").mkdir(parents=True)
        for how in How:
            self.assertEqual(self.take(how), [Passed(self.source, "conflict")])

    def test_link_in_the_store(self) -> None:
        """A symbolic link that somebody has put into the store leads nowhere."""
        outside = Path(self.mktemp())
        outside.mkdir()
        (self.root / "slot").symlink_to(outside.absolute())
        for how in How:
            self.assertEqual(self.take(how), [Passed(self.source, "conflict")])
        self.assertEqual(list(outside.iterdir()), [])


class InPlaceTests(ImportTestCase):
    """The old server's directory has become ``StoreDir``."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.root
        self.source = self.root / "slot" / "photo.jpg"
        self.source.parent.mkdir(parents=True)
        self.source.write_bytes(b"a photo")

    def test_same_tree(self) -> None:
        """Nothing moves; what is known is noted. Not even MOVE removes what is its own place."""
        inode = self.source.stat().st_ino
        for how in How:
            (taken,) = self.take(how)
            self.assertEqual(taken, Taken(PATH, None))
            self.assertEqual(self.stored().inode, inode)
        self.assertEqual(self.stored().facts.source, "import prosody-filer")

    def test_other_names(self) -> None:
        """Of xmpp-http-upload the files get the names of their URLs."""
        self.source.rename(self.source.with_name("photo.jpg.data"))
        self.take(How.MOVE, "xhu")
        self.assertEqual([path.name for path in self.source.parent.iterdir()], ["photo.jpg"])
        self.assertEqual(self.get("slot/photo.jpg"), b"a photo")

    def test_what_was_uploaded_here(self) -> None:
        """It has its facts from its upload, and keeps them."""
        stored = self.put("slot/ours")
        self.take(How.LINK)
        self.assertEqual(self.facts("slot/ours"), stored.facts)


class TroubleTests(ImportTestCase):
    """What the disk says no to."""

    def test_other_file_system(self) -> None:
        """The operator is told that it takes a copy; nothing is left behind."""
        self.disk.fail("link", errno.EXDEV)
        error = self.assertRaises(StartError, self.take, How.LINK)
        self.assertIn("--copy", str(error))
        self.assertFalse((self.root / "slot").exists())

    def test_not_allowed(self) -> None:
        self.disk.fail("link", errno.EPERM)
        self.assertIn("root", str(self.assertRaises(StartError, self.take, How.MOVE)))
        self.assertTrue(self.source.exists())

    def test_no_room(self) -> None:
        """It ends, rather than saying so for every file."""
        self.disk.fail("write", errno.ENOSPC)
        self.assertRaises(StartError, self.take, How.COPY)
        self.assertEqual(list((self.root / ".hmacfs" / "parts").iterdir()), [])

    def test_bad_sector(self) -> None:
        """One file that can't be had doesn't stop the others."""
        (self.old / "slot" / "second").write_bytes(b"second")
        self.disk.fail("write", errno.EIO, times=1)
        first, second = self.take(How.COPY)
        self.assertEqual(first, Passed(self.source, "unreadable"))
        self.assertIsInstance(second, Taken)
