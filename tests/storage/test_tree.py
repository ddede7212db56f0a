from __future__ import annotations

import errno
import os
from pathlib import Path

from hmacfs.errors import Refused
from hmacfs.storage.store import PUBLISH_TRIES, AlreadyStored
from hmacfs.storage.tree import PathConflict, Stamp
from tests.descriptors import none_left_open
from tests.storage.support import StoreTestCase


class LinkAttackTests(StoreTestCase):
    """Symbolic links that somebody has put into the store."""

    def setUp(self) -> None:
        super().setUp()
        self.outside = Path(self.mktemp()).absolute()
        (self.outside / "b" / "c").mkdir(parents=True)
        for directory in (self.outside, self.outside / "b", self.outside / "b" / "c"):
            (directory / "secret.txt").write_bytes(b"secret")
        self.before = self.everything_outside()

    def everything_outside(self) -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in self.outside.rglob("*"))

    def assert_closed(self, encoded: str) -> None:
        """Neither read nor written."""
        path = self.path(encoded)
        self.assertIsNone(self.store.open_file(path))
        self.assertFalse(self.store.settle(path))
        self.assertRaises(PathConflict, self.store.check_free, path)
        self.assertRaises(PathConflict, self.put, encoded)
        self.assertEqual(self.everything_outside(), self.before)
        self.assertEqual(self.own_files("parts"), [])

    def test_first_directory(self) -> None:
        """A link to a directory, in the place of a slot's."""
        (self.root / "a").symlink_to(self.outside)
        self.assert_closed("a/secret.txt")
        self.assert_closed("a/b/secret.txt")
        self.assert_closed("a/b/new/secret.txt")

    def test_directory_further_down(self) -> None:
        """At every other level, and relative."""
        (self.root / "a" / "b").mkdir(parents=True)
        (self.root / "a" / "link").symlink_to(os.path.relpath(self.outside, self.root / "a"))
        (self.root / "a" / "b" / "link").symlink_to(self.outside / "b")
        self.assert_closed("a/link/secret.txt")
        self.assert_closed("a/link/b/c/secret.txt")
        self.assert_closed("a/b/link/c/secret.txt")

    def test_the_file_itself(self) -> None:
        """A link to a file, to a directory, to nothing, to itself."""
        for name, target in (
            ("file", self.outside / "secret.txt"),
            ("directory", self.outside),
            ("dangling", self.outside / "new.txt"),
            ("loop", "loop"),
            ("inside", "file"),
        ):
            (self.root / name).symlink_to(target)
            self.assert_closed(name)

    def test_back_into_our_own(self) -> None:
        """A link is no way into .hmacfs either."""
        (self.root / "a").symlink_to(".hmacfs")
        self.assert_closed("a/parts/x")

    def test_swapped_while_publishing(self) -> None:
        """A directory that becomes a link while the file is on its way: the file goes where the directory went."""
        (self.root / "a").mkdir()
        moved = self.root / "moved"

        def swap(method: str) -> None:
            if method == "link":
                (self.root / "a").rename(moved)
                (self.root / "a").symlink_to(self.outside)

        self.disk.before = swap
        self.put("a/x")
        self.assertEqual((moved / "x").read_bytes(), b"content")
        self.assertEqual(self.everything_outside(), self.before)

    def test_not_counted(self) -> None:
        """What a link points at takes no room in the store."""
        (self.root / "directory").symlink_to(self.outside)
        (self.root / "file").symlink_to(self.outside / "secret.txt")
        (self.root / "up").symlink_to("..")
        self.assertEqual(list(self.store.walk()), [])


class InTheWayTests(StoreTestCase):
    """Something is where a file should go."""

    def assert_conflict(self, encoded: str) -> None:
        self.assertRaises(PathConflict, self.store.check_free, self.path(encoded))
        self.assertRaises(PathConflict, self.put, encoded)
        self.assertEqual(self.own_files("parts"), [])

    def test_file_in_place_of_directory(self) -> None:
        """A file has no files in it."""
        self.put("a/b")
        self.assert_conflict("a/b/c")
        self.assert_conflict("a/b/c/d")
        self.assertIsNone(self.get("a/b/c"))
        self.assertEqual(self.get("a/b"), b"content")

    def test_directory_in_place_of_file(self) -> None:
        """A directory isn't overwritten, empty or not, and isn't served."""
        self.put("a/b/c")
        self.assert_conflict("a/b")
        self.assert_conflict("a")
        self.assertIsNone(self.get("a/b"))

    def test_neither_file_nor_directory(self) -> None:
        """Nobody waits for a FIFO's other end."""
        os.mkfifo(self.root / "fifo")
        self.assertIsNone(self.get("fifo"))
        self.assert_conflict("fifo")
        self.assert_conflict("fifo/x")

    def test_our_directory_under_another_name(self) -> None:
        """Where the file system gives .hmacfs a second name, as FAT does, it isn't ours to serve under that either."""
        (self.root / ".hmacfs").rename(self.root / "HMACFS~1")
        (self.root / "HMACFS~1" / "parts" / "x").write_bytes(b"secret")
        self.assertIsNone(self.get("HMACFS~1/parts/x"))
        self.assertIsNone(self.get("HMACFS~1/parts"))
        self.assertRaises(PathConflict, self.store.check_free, self.path("HMACFS~1/parts/y"))
        self.assertEqual(list(self.store.walk()), [])

    def test_free(self) -> None:
        """Nothing there, whether or not there are directories; and looking makes none."""
        self.store.check_free(self.path("a/b/c"))
        self.assertEqual(self.tree(), [])
        self.put("a/b/c")
        self.store.check_free(self.path("a/b/d"))
        self.assertRaises(AlreadyStored, self.store.check_free, self.path("a/b/c"))

    def test_name_that_can_not_be(self) -> None:
        """Some file systems take shorter names, or fewer: a refusal for who uploads, nothing for who downloads."""
        for code in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            for method in ("link", "make_directory"):
                self.disk.fail(method, code)
                refused = self.assertRaises(Refused, self.put, "a/b")
                self.assertEqual((refused.status, refused.reason), (400, "bad-name"))
        self.assertEqual(self.tree(), [])
        real_open = os.open

        def short_names_only(name: bytes, flags: int, *args: int, **kwargs: int) -> int:
            if name == b"long":
                raise OSError(errno.ENAMETOOLONG, "too long")
            return real_open(name, flags, *args, **kwargs)

        self.patch(os, "open", short_names_only)
        self.assertIsNone(self.store.open_file(self.path("a/long")))
        self.assertIsNone(self.store.open_file(self.path("long")))


class DirectoryTests(StoreTestCase):
    """Directories come and go."""

    def prune(self, method: str, directory: str, times: int) -> None:
        """As a sweep would: remove a directory just before the next calls of *method*, as soon as it is there."""
        left = [times]

        def prune(called: str) -> None:
            if called == method and left[0] and (self.root / directory).is_dir():
                left[0] -= 1
                (self.root / directory).rmdir()

        self.disk.before = prune

    def test_pruned_under_a_new_file(self) -> None:
        """The directory vanishes between being opened and taking the file: it is made once more."""
        self.prune("link", "a/b", times=3)
        self.put("a/b/c")
        self.assertEqual(self.get("a/b/c"), b"content")
        self.assertEqual(self.own_files("parts"), [])

    def test_pruned_while_growing(self) -> None:
        """The directory vanishes before the next one is made in it, or before its mode is set."""
        self.prune("make_directory", "a", times=3)
        self.put("a/b/c")
        self.prune("set_mode", "x", times=3)
        self.put("x/y")
        self.assertEqual(self.tree(), ["a", "a/b", "a/b/c", "x", "x/y"])

    def test_pruned_for_ever(self) -> None:
        """There is an end to it."""
        self.prune("link", "a", times=1000)
        self.assertRaises(FileNotFoundError, self.put, "a/b")
        self.assertEqual([method for method, _ in self.disk.calls].count("link"), PUBLISH_TRIES)
        self.assertEqual((self.tree(), self.own_files("parts")), ([], []))

    def test_made_by_somebody_else(self) -> None:
        """Two uploads that make one directory at the same time don't mind."""

        def race(method: str) -> None:
            if method == "make_directory":
                (self.root / "a" / "b").mkdir(parents=True, exist_ok=True)

        self.disk.before = race
        self.put("a/b/c")
        self.assertEqual(self.get("a/b/c"), b"content")

    def test_unused_ones_go(self) -> None:
        """A file that could not be published leaves no new directories, and takes no old ones along."""
        (self.root / "old").mkdir()
        self.disk.fail("link", errno.ENOSPC)
        self.assert_fails_with(errno.ENOSPC, self.put, "old/new/newer/file")
        self.assertEqual(self.tree(), ["old"])

    def test_used_ones_stay(self) -> None:
        """... unless another upload has put something there."""

        def race(method: str) -> None:
            if method == "link":
                (self.root / "a" / "other").write_bytes(b"other")
                raise OSError(errno.ENOSPC, "full")

        self.disk.before = race
        self.assert_fails_with(errno.ENOSPC, self.put, "a/b/c")
        self.assertEqual(self.tree(), ["a", "a/other"])

    def test_modes(self) -> None:
        """Directories and files are as they should be, whatever the umask."""
        for umask in (0, 0o022, 0o027, 0o077):
            previous = os.umask(umask)
            try:
                self.put(f"{umask}/b/c")
            finally:
                os.umask(previous)
            modes = [(self.root / f"{umask}{rest}").stat().st_mode & 0o7777 for rest in ("", "/b", "/b/c")]
            self.assertEqual(modes, [0o750, 0o750, 0o640])

    def test_given_mode(self) -> None:
        """The file's mode can be had otherwise."""
        part = self.store.begin("part")
        self.store.publish(part, self.path("a"), self.put("b").facts, mode=0o604)
        self.assertEqual((self.root / "a").stat().st_mode & 0o7777, 0o604)

    def test_directories_that_were_there(self) -> None:
        """What the operator has set is left alone, and a group that is to be inherited is."""
        (self.root / "a").mkdir()
        (self.root / "a").chmod(0o2705)
        self.put("a/b/c")
        self.assertEqual((self.root / "a").stat().st_mode & 0o7777, 0o2705)
        self.assertEqual((self.root / "a/b").stat().st_mode & 0o7777, 0o2750)

    def test_no_descriptor_left(self) -> None:
        """However storing and opening end, no descriptor stays behind but the one that was asked for."""
        self.put("a/b/c")
        (self.root / "link").symlink_to("a")
        with none_left_open(self):
            self.put("d/e/f")
            for encoded in ("a/b/c", "a/b", "a/b/c/d", "link/b", "nothing/there"):
                self.get(encoded)
            for encoded in ("a/b/c", "a/b/c/d", "link/b", "a/b"):
                self.assertRaises((AlreadyStored, PathConflict), self.put, encoded)
            self.disk.fail("sync", errno.EIO)
            self.assertRaises(OSError, self.put, "g/h/i")
            list(self.store.walk())


class WalkTests(StoreTestCase):
    """What is stored."""

    def walked(self) -> list[tuple[bytes, int]]:
        return sorted((path, stamp.size) for path, stamp in self.store.walk())

    def test_depths(self) -> None:
        """Files at every depth, whatever their names, without what is ours."""
        self.put("top", b"1")
        self.put("a/b/c/d", b"22")
        self.put("a/.hmacfs/e", b"333")
        self.store.begin("part").write(b"unfinished")
        (self.root / os.fsdecode(b"\xff")).write_bytes(b"4444")
        self.assertEqual(self.walked(), [(b"a/.hmacfs/e", 3), (b"a/b/c/d", 2), (b"top", 1), (b"\xff", 4)])

    def test_stamps(self) -> None:
        """They are those that a look at the one file gives."""
        self.put("a/b")
        self.assertEqual(list(self.store.walk()), [(b"a/b", Stamp.of((self.root / "a/b").stat()))])
        self.assertEqual(self.store.stamp(self.path("a/b")), Stamp.of((self.root / "a/b").stat()))
        for nothing in ("a", "a/c", "a/b/c"):
            self.assertIsNone(self.store.stamp(self.path(nothing)))

    def test_deeper_than_any_url(self) -> None:
        """Nobody can make us climb down for ever."""
        deepest = self.root.joinpath(*"x" * 31)
        (deepest / "y").mkdir(parents=True)
        (deepest / "file").write_bytes(b"1")
        (deepest / "y" / "file").write_bytes(b"22")
        self.assertEqual(self.walked(), [(b"x/" * 31 + b"file", 1)])

    def test_vanishing(self) -> None:
        """A tree that changes under the walk is walked as well as can be."""
        self.put("a/b", b"1")
        self.put("c/d", b"22")
        real_open = os.open

        def gone(name: bytes, flags: int, *args: int, **kwargs: int) -> int:
            if name == b"a":
                raise FileNotFoundError(errno.ENOENT, "gone")
            return real_open(name, flags, *args, **kwargs)

        self.patch(os, "open", gone)
        self.assertEqual(self.walked(), [(b"c/d", 2)])
