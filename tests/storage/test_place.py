"""A store that is unmounted, moved or replaced under a running server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hmacfs.storage.parts import Part
from hmacfs.storage.place import StoreGone
from hmacfs.uploads.identity import server_key
from tests.descriptors import none_left_open
from tests.storage.support import FACTS, StoreTestCase


class PlaceTestCase(StoreTestCase):
    """A store with a file, a part, and a key."""

    def setUp(self) -> None:
        super().setUp()
        self.key = server_key(self.store.own_directory)
        self.put("slot/a", b"content")
        self.away = self.root.with_name("away")

    def begin(self, name: str = "part", content: bytes = b"first") -> Part:
        part = self.store.begin(name)
        self.addCleanup(part.close)
        part.write(content)
        part.sync()
        return part

    def leave(self) -> None:
        """The store is somewhere else, and in its place is an empty directory, as where something was mounted."""
        self.root.rename(self.away)
        self.root.mkdir()

    def come_back(self) -> None:
        self.root.rmdir()
        self.away.rename(self.root)

    def exchange(self, source: Path | None = None) -> None:
        """A copy takes the store's place."""
        self.root.rename(self.away)
        shutil.copytree(source or self.away, self.root)


class GoneTests(PlaceTestCase):
    """It isn't there any more."""

    def test_nothing_is_begun(self) -> None:
        """Neither a new upload, nor an old one; and nothing is made where it was."""
        self.begin("left").close()
        self.leave()
        for call in (lambda: self.store.begin("new"), lambda: self.store.reopen("left"), self.store.probe):
            self.assertRaises(StoreGone, call)
        self.assertRaises(StoreGone, self.store.look, self.key)
        self.assertEqual(list(self.root.iterdir()), [])

    def test_no_directory(self) -> None:
        """Not even that: it isn't made."""
        self.root.rename(self.away)
        error = self.assertRaises(StoreGone, self.store.look, self.key)
        self.assertIn(f"StoreDir {self.root}: there is no such directory", str(error))
        self.assertFalse(self.root.exists())

    def test_nothing_is_published(self) -> None:
        """What was on its way when it went: it can't be said that it is stored. It waits."""
        part = self.begin()
        self.leave()
        self.assertRaises(StoreGone, self.store.publish, part, self.path("b"), FACTS)
        self.assertRaises(StoreGone, self.store.settle, self.path("slot/a"))
        self.come_back()
        self.store.publish(part, self.path("b"), FACTS)
        self.assertEqual((self.root / "b").read_bytes(), b"first")

    def test_goes_while_it_is_published(self) -> None:
        """In the last moment: the file has its name, but not where others look. The next try finds it."""
        part = self.begin()
        self.disk.before = lambda method: self.leave() if method == "link" else None
        self.assertRaises(StoreGone, self.store.publish, part, self.path("b"), FACTS)
        self.disk.before = lambda _method: None
        self.come_back()
        self.store.publish(part, self.path("b"), FACTS)
        self.assertEqual(self.get("b"), b"first")

    def test_files_are_served(self) -> None:
        """As long as the kernel has them for us."""
        self.leave()
        self.assertEqual(self.get("slot/a"), b"content")

    def test_back(self) -> None:
        """The same directory: as if nothing had been."""
        self.leave()
        self.assertRaises(StoreGone, self.store.look, self.key)
        self.come_back()
        self.assertFalse(self.store.look(self.key))
        self.put("b")


class ReplacedTests(PlaceTestCase):
    """Another directory is in its place."""

    def test_copy(self) -> None:
        """One with the store's key is the store: what is stored from now on is stored there, and no descriptor is left."""
        self.exchange()
        self.assertRaises(StoreGone, self.store.begin, "new")
        with none_left_open(self):
            self.assertTrue(self.store.look(self.key))
            self.assertFalse(self.store.look(self.key))
        self.put("b", b"new")
        self.assertEqual(((self.root / "b").read_bytes(), (self.away / "b").exists()), (b"new", False))

    def test_own_directory_of_the_copy(self) -> None:
        """It is as closed as that of the first."""
        self.exchange()
        self.store.look(self.key)
        self.assertEqual([path for path, _ in self.store.walk()], [b"slot/a"])

    def test_part_of_before(self) -> None:
        """The copy has less of it under the same name: that must not be taken for the whole."""
        part = self.begin()
        self.exchange()
        part.write(b" and second")
        self.store.look(self.key)
        self.assertRaises(StoreGone, self.store.publish, part, self.path("b"), FACTS)
        self.assertIsNone(self.get("b"))

    def test_another_store(self) -> None:
        """Maybe one that hmacfs made where nothing was mounted, once: it is left alone."""
        other = self.root.with_name("other")
        (other / ".hmacfs").mkdir(parents=True)
        server_key(other / ".hmacfs")
        self.exchange(other)
        error = self.assertRaises(StoreGone, self.store.look, self.key)
        self.assertIn("restart hmacfs", str(error))
        self.assertEqual(os.listdir(self.root / ".hmacfs"), ["server.key"])


class OwnDirectoryTests(PlaceTestCase):
    """Somebody has tidied up."""

    def test_all_of_it(self) -> None:
        """It is made anew, closed and with the key, as the files are still those that we know."""
        shutil.rmtree(self.root / ".hmacfs")
        self.assertRaises(StoreGone, self.store.begin, "new")
        self.assertTrue(self.store.look(self.key))
        self.assertEqual((self.root / ".hmacfs").stat().st_mode & 0o777, 0o700)
        self.assertEqual(server_key(self.root / ".hmacfs"), self.key)
        self.put("b")
        self.store.delete(self.path("b"))

    def test_parts(self) -> None:
        """Half of it."""
        shutil.rmtree(self.root / ".hmacfs" / "parts")
        self.assertTrue(self.store.look(self.key))
        self.put("b")
