from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hmacfs.errors import StartError
from hmacfs.storage import syncs
from hmacfs.storage.disk import Disk, UnsyncedDisk
from hmacfs.storage.facts import ATTRIBUTE, Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import AlreadyStored, Publication, Removed, Store, StoredFile
from hmacfs.storage.tree import Identity, PathConflict
from tests.descriptors import none_left_open
from tests.storage.support import FACTS, Crash, ScriptedDisk, StoreTestCase
from tests.storage.test_names import good_segments


class OpenTests(StoreTestCase):
    """Opening the store at start."""

    def start_error(self, root: Path, disk: ScriptedDisk | None = None) -> str:
        with none_left_open(self):
            error = str(self.assertRaises(StartError, Store.open, root, disk))
            self.assertIn(str(root), error)
        return error

    def test_made_when_missing(self) -> None:
        """With what is above it, whatever the umask, and durably: the first upload may come right after."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.root = self.root / "new" / "newer"
        disk = ScriptedDisk()
        self.open_store(disk)
        self.assertEqual([self.root.stat().st_mode & 0o7777, self.root.parent.stat().st_mode & 0o7777], [0o750, 0o750])
        for directory in (self.root.parent.parent, self.root.parent, self.root, self.root / ".hmacfs"):
            self.assertIn(("sync", str(directory)), disk.calls)

    def test_relative(self) -> None:
        """A path may be relative, and the working directory may change afterwards."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.root)
        store = Store.open("data/here")
        self.addCleanup(store.close)
        os.chdir("/")
        self.put("a", store=store)
        self.assertTrue((self.root / "data/here/a").exists())

    def test_may_be_a_link(self) -> None:
        """Where StoreDir itself lies is the operator's business."""
        link = self.root.with_name("link")
        link.symlink_to(self.root)
        self.addCleanup(Store.open(link).close)

    def test_leaves_nothing(self) -> None:
        """Trying out what the disk can do leaves no trace."""
        self.assertEqual((self.tree(), self.own_files("")), ([], []))

    def test_adopted(self) -> None:
        """A directory with files in it stays as it is, and its mode with it."""
        self.root = self.root / "adopted"
        (self.root / "slot").mkdir(parents=True)
        (self.root / "slot" / "cat.png").write_bytes(b"cat")
        self.root.chmod(0o755)
        store = self.open_store()
        self.assertEqual(self.get("slot/cat.png", store), b"cat")
        self.assertEqual(self.root.stat().st_mode & 0o7777, 0o755)

    def test_own_directories_are_closed(self) -> None:
        """Ours were opened to others, by a copy for example: they are closed again."""
        (self.root / ".hmacfs" / "parts").chmod(0o755)
        (self.root / ".hmacfs").chmod(0o777)
        self.open_store()
        for directory in (".hmacfs", ".hmacfs/parts"):
            self.assertEqual((self.root / directory).stat().st_mode & 0o7777, 0o700)

    def test_not_a_directory(self) -> None:
        """StoreDir, or something that should be in it, is a file."""
        file = self.root / "file"
        file.write_bytes(b"")
        self.assertIn("must be directories", self.start_error(file))
        self.assertIn("must be directories", self.start_error(file / "below"))

    def test_own_directory_is_a_link(self) -> None:
        """Parts are never written through a link."""
        root, elsewhere = self.root / "store", self.root / "elsewhere"
        root.mkdir()
        elsewhere.mkdir()
        (root / ".hmacfs").symlink_to(elsewhere)
        self.assertIn("must be directories", self.start_error(root))
        self.assertEqual(list(elsewhere.iterdir()), [])

    def test_dangling_link(self) -> None:
        """StoreDir is a link to a disk that isn't mounted."""
        link = self.root / "link"
        link.symlink_to(self.root / "unmounted")
        self.start_error(link)

    def test_reasons(self) -> None:
        """Each says what to do."""
        for method, code, advice in (
            ("set_mode", errno.EPERM, "belong to the user"),
            ("create", errno.EACCES, "belong to the user"),
            ("create", errno.EROFS, "read-write"),
            ("sync", errno.EINVAL, "use another one"),
            ("sync_data", errno.EIO, "Input/output error"),
            ("make_directory", errno.ENOSPC, "No space left"),
        ):
            disk = ScriptedDisk()
            disk.fail(method, code)
            self.assertIn(advice, self.start_error(self.root, disk))
        self.assertEqual(self.own_files(""), [])

    def test_cannot_publish(self) -> None:
        """A file system that can only overwrite."""

        def refuse(method: str) -> None:
            if method in ("link", "rename_new"):
                raise OSError(errno.EPERM if method == "link" else errno.EINVAL, "no")

        disk = ScriptedDisk()
        disk.before = refuse
        self.assertIn("use another one", self.start_error(self.root, disk))

    def test_full(self) -> None:
        """A full disk is no reason not to serve what is there."""
        self.put("a", b"there")
        for method in ("create", "write", "sync_data", "link"):
            for code in (errno.ENOSPC, errno.EDQUOT):
                disk = ScriptedDisk()
                disk.fail(method, code)
                store = self.open_store(disk)
                self.assertEqual(self.get("a", store), b"there")
        self.assertEqual(self.own_files(""), [])


class PublishTests(StoreTestCase):
    """From a part to a stored file."""

    def test_stored(self) -> None:
        """The file is there, with what is known of it; the part is gone, and closed."""
        part = self.store.begin("part")
        part.write(b"content")
        stored = self.store.publish(part, self.path("a/b.jpg"), FACTS)
        status = (self.root / "a/b.jpg").stat()
        self.assertEqual(
            (stored.size, stored.mtime_ns, stored.inode), (status.st_size, status.st_mtime_ns, status.st_ino)
        )
        self.assertEqual((stored.size, stored.facts), (7, FACTS))
        self.assertEqual((part.fd, status.st_nlink, self.own_files("parts")), (-1, 1, []))

    def test_empty(self) -> None:
        """A file may have no bytes."""
        self.put("a", b"")
        self.assertEqual(self.get("a"), b"")

    def test_resumed_part(self) -> None:
        """A part that another process had begun is published like any other."""
        part = self.open_store().begin("part")
        part.write(b"one")
        part.close()
        part = self.store.reopen("part")
        part.write(b"two")
        self.store.publish(part, self.path("a"), FACTS)
        self.assertEqual(self.get("a"), b"onetwo")

    def test_order(self) -> None:
        """Attributes, the file's fsync, the link, the fsync of every directory on the way: only then it is stored."""
        self.put("a/b/c")
        part = next(path for method, path in self.disk.calls if method == "create")
        relevant = [call for call in self.disk.calls if call[0] in ("set_attribute", "sync", "link", "unlink")]
        self.assertEqual(
            relevant,
            [
                ("set_attribute", part),
                ("sync", part),
                ("link", str(self.root / "a/b/c")),
                ("sync", str(self.root / "a/b")),
                ("sync", str(self.root / "a")),
                ("sync", str(self.root)),
                ("unlink", part),
            ],
        )
        modes = [number for number, call in enumerate(self.disk.calls) if call == ("set_mode", part)]
        self.assertLess(modes[0], self.disk.calls.index(("sync", part)))

    def test_directories_that_were_there_are_synced(self) -> None:
        """Who made them a moment ago may not have come so far."""
        (self.root / "a" / "b").mkdir(parents=True)
        self.put("a/b/c")
        for directory in ("a/b", "a", ""):
            self.assertIn(("sync", str(self.root / directory)), self.disk.calls)

    def test_never_overwrites(self) -> None:
        """The first one stays, bytes, facts and times; the second one's part is still his."""
        first = self.put("a/b", b"first")
        part = self.store.begin("part")
        part.write(b"second")
        error = self.assertRaises(
            AlreadyStored, self.store.publish, part, self.path("a/b"), Facts("text/html", None, None, None, 1.0)
        )
        self.assertEqual(error.path, self.path("a/b"))
        self.assertEqual(part.read_at(0, 10), b"second")
        found = self.store.open_file(self.path("a/b"))
        assert found is not None
        self.addCleanup(found.close)
        self.assertEqual((found.facts, found.mtime_ns, found.inode), (FACTS, first.mtime_ns, first.inode))
        self.assertEqual(self.get("a/b"), b"first")
        part.discard()
        self.assertEqual(self.own_files("parts"), [])

    def test_two_processes(self) -> None:
        """Another process's file isn't overwritten either."""
        self.put("a/b", b"first", self.open_store())
        self.assertRaises(AlreadyStored, self.put, "a/b", b"second")
        self.assertEqual(self.get("a/b"), b"first")

    def test_many_at_once(self) -> None:
        """Of uploads to one path that end in the same instant, exactly one is stored."""
        contents = [b"%d" % number * 1000 for number in range(8)]
        gate = threading.Barrier(len(contents))
        outcomes: list[bytes | None] = []

        def upload(content: bytes) -> None:
            store = Store.open(self.root)
            part = store.begin(f"part-{content[:1].decode()}")
            part.write(content)
            gate.wait()
            try:
                store.publish(part, self.path("a/b/c"), FACTS)
                outcomes.append(content)
            except AlreadyStored:
                outcomes.append(None)
            part.discard()
            store.close()

        threads = [threading.Thread(target=upload, args=(content,)) for content in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [content for content in outcomes if content is not None]
        self.assertEqual((len(outcomes), len(winners)), (8, 1))
        self.assertEqual(self.get("a/b/c"), winners[0])
        self.assertEqual(self.own_files("parts"), [])

    def test_without_hard_links(self) -> None:
        """The same by renaming: stored once, never overwritten."""
        self.disk.fail("link", errno.EPERM)
        self.put("a/b", b"first")
        self.assertRaises(AlreadyStored, self.put, "a/b", b"second")
        (self.root / "directory").mkdir()
        self.assertRaises(PathConflict, self.put, "directory", b"third")
        self.assertEqual((self.get("a/b"), self.facts("a/b")), (b"first", FACTS))
        self.assertEqual(self.own_files("parts"), [])

    def test_part_that_lost_bytes(self) -> None:
        """A part whose flush failed once is never published, although the disk says that all is well now."""
        part = self.store.begin("part")
        self.addCleanup(part.close)
        part.write(b"content")
        self.disk.fail("sync_data", errno.EIO, times=1)
        self.assertRaises(OSError, part.sync)
        self.assert_fails_with(errno.EIO, self.store.publish, part, self.path("a"), FACTS)
        self.assertEqual(self.tree(), [])

    def test_second_name_that_stays(self) -> None:
        """What is stored is stored, though the part's name can't be removed; a sweep does it later."""
        self.disk.fail("unlink", errno.EIO)
        self.put("a")
        self.disk.fail("unlink", errno.EIO, times=0)
        self.assertEqual(len(self.own_files("parts")), 1)
        self.store.sweep_parts(0, 2e10)
        self.assertEqual((self.get("a"), self.own_files("parts")), (b"content", []))

    def test_names_as_clients_send_them(self) -> None:
        """Hidden, decomposed, emoji, right-to-left, 255 bytes, a backslash, no UTF-8: each is its own file."""
        names = [
            b".hidden",
            "é.txt".encode(),
            "e\u0301.txt".encode(),
            "🐈‍⬛.webp".encode(),
            "خید.xlsx".encode(),
            b"x" * 255,
            "é".encode() * 127 + b"x",
            b"a\\b",
            b"-rf *",
            b"'\"$(reboot)`",
            b"\xff\xfe\x80",
            b"...",
            b"con.",
        ]
        for number, name in enumerate(names):
            self.put(b"slot/" + name, b"%d" % number)
        for number, name in enumerate(names):
            self.assertEqual(self.get(b"slot/" + name), b"%d" % number, name)
        self.assertEqual(sorted(os.listdir(os.fsencode(self.root / "slot"))), sorted(names))

    @given(st.lists(good_segments, min_size=1, max_size=4), st.binary(max_size=20))
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    def test_any_path(self, segments: list[bytes], content: bytes) -> None:
        """Any path that is one is stored where it says, and found again, or meets another one's in its way."""
        path = SlotPath(tuple(segments))
        try:
            self.put(path.encoded, content)
        except (AlreadyStored, PathConflict):
            return
        self.assertEqual(self.get(path.encoded), content)
        with open(os.fsencode(self.root) + b"/" + path.encoded, "rb") as file:
            self.assertEqual(file.read(), content)


class CrashTests(StoreTestCase):
    """Publishing ends half-way. The file is there as a whole, or not at all, and can be uploaded again."""

    def setUp(self) -> None:
        super().setUp()
        self.count = 0

    def fresh(self) -> str:
        """Another path, with directories to be made."""
        self.count += 1
        return f"slot{self.count}/dir/file.jpg"

    def refuse(self, *methods: str) -> None:
        """A poorer file system."""
        for method in methods:

            def refuse(*_: object) -> None:
                raise OSError(errno.ENOTSUP, "none")

            self.patch(Disk, method, refuse)

    def calls_of_publish(self) -> int:
        """How many steps there are to fail at."""
        part = self.store.begin("count")
        part.write(b"content")
        self.disk.calls.clear()
        self.store.publish(part, self.path(self.fresh()), FACTS)
        return len(self.disk.calls)

    def assert_whole_or_nothing(self, encoded: str) -> None:
        self.assertIn((self.get(encoded), self.facts(encoded)), [(None, None), (b"content", FACTS)])

    def kill_everywhere(self) -> None:
        """Kill the process before and after each step; then start again, and upload again."""
        steps = self.calls_of_publish()
        self.assertGreater(steps, 7)
        for number in range(steps):
            for after in (False, True):
                disk, encoded = ScriptedDisk(), self.fresh()
                store = self.open_store(disk)
                part = store.begin(f"part{self.count}")
                part.write(b"content")
                disk.crash(number, after)
                self.assertRaises(Crash, store.publish, part, self.path(encoded), FACTS)
                part.close()
                self.assert_whole_or_nothing(encoded)
                store = self.open_store()
                store.sweep_parts(0, 2e10)
                self.assertEqual(self.own_files("parts"), [])
                self.assert_whole_or_nothing(encoded)
                self.put_again(encoded, b"content", store)
                self.assertEqual((self.get(encoded), self.facts(encoded)), (b"content", FACTS))

    def fail_everywhere(self) -> None:
        """Let each step fail once; then publish the same part again, or discard it and upload again."""
        steps = self.calls_of_publish()
        for number in range(steps):
            encoded = self.fresh()
            part = self.store.begin(f"part{self.count}")
            part.write(b"content")
            flushed = self.fail_once(number)
            try:
                self.store.publish(part, self.path(encoded), FACTS)
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO)
                self.assert_whole_or_nothing(encoded)
                if self.get(encoded) is None:
                    self.assertFalse((self.root / encoded).parent.parent.exists())
                if flushed():
                    part.discard()
                    self.put(encoded)
                else:
                    self.store.publish(part, self.path(encoded), FACTS)
            part.discard()
            self.store.sweep_parts(0, 2e10)
            self.assertEqual((self.get(encoded), self.facts(encoded)), (b"content", FACTS))
            self.assertEqual(self.own_files("parts"), [])

    def fail_once(self, number: int) -> Callable[[], bool]:
        """Let call *number* from now fail. Returns whether it was the one that flushes the part."""
        first = len(self.disk.calls)

        def fail(_method: str) -> None:
            if len(self.disk.calls) - first == number + 1:
                raise OSError(errno.EIO, "sick")

        self.disk.before = fail

        def flushed() -> bool:
            method, path = self.disk.calls[first + number]
            return method == "sync" and "/parts/" in path

        return flushed

    def test_killed(self) -> None:
        """With attributes and links."""
        self.kill_everywhere()

    def test_killed_without_attributes(self) -> None:
        """With sidecars."""
        self.refuse("set_attribute", "get_attribute")
        self.kill_everywhere()

    def test_killed_without_links(self) -> None:
        """By renaming."""
        self.refuse("link")
        self.kill_everywhere()

    def test_error(self) -> None:
        """With attributes and links."""
        self.fail_everywhere()

    def test_error_without_attributes(self) -> None:
        """With sidecars, none of which stays for a file that isn't there."""
        self.refuse("set_attribute", "get_attribute")
        self.fail_everywhere()
        self.assertEqual(len(self.own_files("meta")), self.count)

    def test_error_without_links(self) -> None:
        """By renaming."""
        self.refuse("link")
        self.fail_everywhere()


class PublishAllTests(StoreTestCase):
    """Many parts at once, on a file system where syncs are shared."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(syncs, "_file_system", lambda _fd: "ext4")
        self.patch(syncs, "_dirty_bytes", lambda: 0)
        self.store = self.open_store(self.disk)
        self.disk.calls.clear()
        self.count = 0

    def publications(self, store: Store | None = None) -> list[Publication]:
        """Four parts, two of them for one directory that isn't there."""
        self.count += 1
        slot = f"slot{self.count}"
        paths = [f"{slot}a/file", f"{slot}b/file", f"{slot}both/one", f"{slot}both/two"]
        return [self.publication(path, store) for path in paths]

    def publication(self, path: str, store: Store | None = None) -> Publication:
        part = (store or self.store).begin(path.replace("/", "-"))
        self.addCleanup(part.close)
        part.write(path.encode())
        return Publication(part, self.path(path), FACTS)

    def content(self, publication: Publication) -> bytes | None:
        return self.get(publication.path.encoded)

    def assert_whole_or_nothing(self, publication: Publication) -> None:
        found = (self.content(publication), self.facts(publication.path.encoded))
        self.assertIn(found, [(None, None), (publication.path.encoded, FACTS)])

    def test_two_syncs(self) -> None:
        """One for the bytes of all of them, before any has its name; one for all names, before any is answered."""
        outcomes = self.store.publish_all(publications := self.publications())
        self.assertEqual([type(outcome) for outcome in outcomes], [StoredFile] * 4)
        self.assertEqual([self.content(each) for each in publications], [each.path.encoded for each in publications])
        steps = ("sync", "sync_data", "sync_file_system", "link", "unlink")
        relevant = [method for method, _ in self.disk.calls if method in steps]
        self.assertEqual(relevant, ["sync_file_system", *["link"] * 4, "sync_file_system", *["unlink"] * 4])
        self.assertEqual(self.own_files("parts"), [])

    def test_facts_before_the_sync(self) -> None:
        """Mode and facts are as durable as the bytes."""
        self.store.publish_all(self.publications())
        methods = [method for method, _ in self.disk.calls]
        before = methods[: methods.index("sync_file_system")]
        self.assertEqual((before.count("set_attribute"), before.count("set_mode")), (4, 4))
        self.assertNotIn("set_attribute", methods[len(before) :])

    def test_failure_of_one(self) -> None:
        """It is nobody else's: what is in its way is in its own."""
        self.put("taken", b"first")
        publications = [self.publication("taken"), *self.publications()]
        outcomes = self.store.publish_all(publications)
        self.assertEqual([type(outcome) for outcome in outcomes], [AlreadyStored] + [StoredFile] * 4)
        self.assertEqual(self.get("taken"), b"first")
        self.assertGreaterEqual(publications[0].part.fd, 0)

    def test_one_path_twice(self) -> None:
        """The first one is stored, the other is told so."""
        one, other = self.publication("one"), self.publication("other")
        outcomes = self.store.publish_all([one, Publication(other.part, one.path, FACTS)])
        self.assertEqual([type(outcome) for outcome in outcomes], [StoredFile, AlreadyStored])
        self.assertEqual(self.get("one"), b"one")

    def test_shared_sync_fails(self) -> None:
        """Nobody's bytes are durable, and nobody's file gets its name; another try is not believed."""
        publications = self.publications()
        self.disk.fail("sync_file_system", errno.EIO, times=1)
        outcomes = self.store.publish_all(publications)
        self.assertEqual([getattr(outcome, "errno", None) for outcome in outcomes], [errno.EIO] * 4)
        self.assertEqual(self.tree(), [])
        self.assertTrue(all(each.part.lost for each in publications))
        outcomes = self.store.publish_all(publications)
        self.assertEqual([getattr(outcome, "errno", None) for outcome in outcomes], [errno.EIO] * 4)
        self.assertEqual(self.tree(), [])

    def test_bytes_of_one_were_lost(self) -> None:
        """The kernel told somebody else: of that file, no more is published than of one whose own fsync failed."""
        publications = self.publications()
        self.disk.fail("check_written", errno.EIO, times=1)
        outcomes = self.store.publish_all(publications)
        self.assertEqual([type(outcome) for outcome in outcomes], [OSError] + [StoredFile] * 3)
        self.assertIsNone(self.content(publications[0]))
        self.assertEqual([each.part.lost for each in publications], [True] + [False] * 3)

    def test_sync_of_the_names_fails(self) -> None:
        """Nobody is told that his file is stored; it can be tried again, as the bytes are durable."""
        publications = self.publications()
        calls = iter([None, OSError(errno.EIO, "sick")])

        def fail(method: str) -> None:
            if method == "sync_file_system" and (error := next(calls, None)) is not None:
                raise error

        self.disk.before = fail
        outcomes = self.store.publish_all(publications)
        self.assertEqual([getattr(outcome, "errno", None) for outcome in outcomes], [errno.EIO] * 4)
        outcomes = self.store.publish_all(publications)
        self.assertEqual([type(outcome) for outcome in outcomes], [StoredFile] * 4)
        self.assertEqual([self.content(each) for each in publications], [each.path.encoded for each in publications])

    def test_killed(self) -> None:
        """Before and after each step: every file is there as a whole or not at all, and can be uploaded again."""
        self.store.publish_all(self.publications())
        steps = sum(method not in ("create", "write") for method, _ in self.disk.calls)
        self.assertGreater(steps, 25)
        for number in range(steps):
            for after in (False, True):
                disk = ScriptedDisk()
                store = self.open_store(disk)
                publications = self.publications(store)
                disk.crash(number, after)
                self.assertRaises(Crash, store.publish_all, publications)
                for each in publications:
                    each.part.close()
                    self.assert_whole_or_nothing(each)
                store = self.open_store()
                store.sweep_parts(0, 2e10)
                self.assertEqual(self.own_files("parts"), [])
                for each in publications:
                    self.put_again(each.path.encoded.decode(), each.path.encoded, store)
                    self.assertEqual(self.content(each), each.path.encoded)

    def test_no_descriptor_is_left(self) -> None:
        """However it goes."""
        with none_left_open(self):
            self.store.publish_all(self.publications())
            self.disk.fail("link", errno.EIO)
            for each in self.publications():
                self.store.publish_all([each])
                each.part.discard()


class UnsyncedTests(StoreTestCase):
    """``Durability = "none"``."""

    def setUp(self) -> None:
        super().setUp()

        def refuse(fd: int) -> None:
            raise AssertionError("waits for the device")

        for name in ("fsync", "fdatasync"):
            self.patch(os, name, refuse)
        self.store = self.open_store(UnsyncedDisk())

    def test_nothing_is_synced(self) -> None:
        """Neither for a checkpoint, nor to publish, nor to answer for a file that is there."""
        part = self.store.begin("part")
        part.write(b"content")
        part.sync()
        self.assertEqual(part.durable_size, 7)
        stored = self.store.publish(part, self.path("a/b"), FACTS)
        self.assertEqual((stored.size, self.get("a/b"), self.facts("a/b")), (7, b"content", FACTS))
        self.assertTrue(self.store.settle(self.path("a/b")))
        self.assertEqual(self.own_files("parts"), [])

    def test_nothing_is_overwritten(self) -> None:
        """All else is as ever."""
        self.put("a/b", b"first")
        self.assertRaises(AlreadyStored, self.put, "a/b", b"second")
        self.assertEqual(self.get("a/b"), b"first")

    def test_waits_for_nothing(self) -> None:
        """It takes no thread."""
        self.assertFalse(self.store.waits)


class OpenFileTests(StoreTestCase):
    """Finding a stored file."""

    def test_found(self) -> None:
        """With its bytes, its facts and what identifies it."""
        stored = self.put("a/b.jpg", b"content")
        found = self.store.open_file(self.path("a/b.jpg"))
        assert found is not None
        self.addCleanup(found.close)
        self.assertEqual(os.pread(found.fd, 100, 0), b"content")
        self.assertEqual(
            (found.size, found.mtime_ns, found.inode, found.facts),
            (stored.size, stored.mtime_ns, stored.inode, stored.facts),
        )

    def test_close(self) -> None:
        """Closing twice never closes what somebody else has opened meanwhile."""
        self.put("a")
        found = self.store.open_file(self.path("a"))
        assert found is not None
        fd = found.fd
        found.close()
        other = os.open(self.root / "a", os.O_RDONLY)
        self.addCleanup(os.close, other)
        self.assertEqual(other, fd)
        found.close()
        os.fstat(other)
        self.assertRaises(ValueError, lambda: found.fd)

    def test_nothing(self) -> None:
        """No file of that name, or no directory."""
        (self.root / "a").mkdir()
        for encoded in ("b", "a/b", "c/d"):
            self.assertIsNone(self.get(encoded))

    def test_readable_after_deletion(self) -> None:
        """A download that has begun is not cut by a sweep."""
        self.put("a/b", b"content")
        found = self.store.open_file(self.path("a/b"))
        assert found is not None
        (self.root / "a/b").unlink()
        with found.handle as handle:
            self.assertEqual(handle.read(), b"content")

    def test_adopted_file(self) -> None:
        """prosody-filer's files have no facts: their type is their name's, their upload the last change."""
        (self.root / "slot").mkdir()
        file = self.root / "slot" / "cat.png"
        file.write_bytes(b"cat")
        os.utime(file, ns=(0, 1_700_000_000_500_000_000))
        self.assertEqual(self.facts("slot/cat.png"), Facts.guessed(b"cat.png", 1_700_000_000.5))
        self.assertEqual(self.get("slot/cat.png"), b"cat")

    def test_damaged_facts(self) -> None:
        """Whatever stands in the attribute, the file is served."""
        self.put("a/b.png")
        for damaged in (b"", b"\0\xff", b"{}", b'{"v":9,"type":"text/html"}', b"[" * 2000):
            os.setxattr(self.root / "a/b.png", ATTRIBUTE, damaged)
            facts = self.facts("a/b.png")
            assert facts is not None
            self.assertEqual((facts.content_type, facts.expires), ("image/png", None))

    def test_sick_disk(self) -> None:
        """An error is not an absence, and leaves no descriptor behind."""
        self.put("a/b")
        with none_left_open(self):
            self.disk.fail("get_attribute", errno.EIO)
            self.assert_fails_with(errno.EIO, self.store.open_file, self.path("a/b"))

    def test_part_is_never_found(self) -> None:
        """What isn't complete can't be had."""
        self.store.begin("part").write(b"half")
        self.assertIsNone(self.store.open_file(self.path("part")))


class SettleTests(StoreTestCase):
    """Making sure of a file that another writer may still be syncing."""

    def test_settled(self) -> None:
        """The file, then every directory above it."""
        self.put("a/b/c")
        self.disk.calls.clear()
        self.assertTrue(self.store.settle(self.path("a/b/c")))
        synced = [path for method, path in self.disk.calls if method == "sync"]
        self.assertEqual(synced, [str(self.root / path) for path in ("a/b/c", "a/b", "a", "")])

    def test_gone(self) -> None:
        """Nothing there, and nothing made."""
        self.assertFalse(self.store.settle(self.path("a/b")))
        self.assertEqual(self.tree(), [])

    def test_deleted_meanwhile(self) -> None:
        """A deletion that comes in between leaves no empty directories of ours."""
        self.put("a/b")

        def delete(method: str) -> None:
            if method == "sync" and (self.root / "a").exists() and self.disk.calls[-1][1].endswith("/b"):
                (self.root / "a/b").unlink()
                (self.root / "a").rmdir()

        self.disk.before = delete
        self.store.settle(self.path("a/b"))
        self.assertEqual(self.tree(), [])

    def test_error(self) -> None:
        """If the disk can't say, nobody is told that all is well."""
        self.put("a/b")
        self.disk.fail("sync", errno.EIO)
        self.assertRaises(OSError, self.store.settle, self.path("a/b"))


class FullDiskTests(StoreTestCase):
    """No space left on the device: a real one where it can be had, otherwise one that says so."""

    size_bytes = 1024 * 1024

    def setUp(self) -> None:
        super().setUp()
        self.mounted = self.mount()
        self.store = self.open_store(self.disk)
        if not self.mounted:
            self.disk.before = self.pretend

    def mount(self) -> bool:
        """A tmpfs over the store's directory, which needs root."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size_bytes}", "tmpfs", str(self.root)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.root)], check=True)
        return True

    def pretend(self, method: str) -> None:
        used = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        if method == "write" and used + 65536 > self.size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def test_midway(self) -> None:
        """The upload fails with ENOSPC and leaves nothing; what is there is served, and there is room again."""
        self.put("kept", b"k" * 300_000)
        part = self.store.begin("large")
        with self.assertRaises(OSError) as raised:
            while part.size < 2 * self.size_bytes:
                part.write(b"x" * 65536)
        self.assertEqual(raised.exception.errno, errno.ENOSPC)
        self.assertLess(part.size, self.size_bytes)
        part.discard()
        self.assertEqual((self.own_files("parts"), self.tree()), ([], ["kept"]))
        self.put("next", b"n" * 300_000)
        self.assertEqual((self.get("kept"), self.get("next")), (b"k" * 300_000, b"n" * 300_000))

    def test_free_bytes(self) -> None:
        """What is free gets less by what is written."""
        before = self.store.free_bytes()
        part = self.store.begin("part")
        self.addCleanup(part.close)
        part.write(b"x" * 400_000)
        if self.mounted:
            self.assertLessEqual(before, self.size_bytes)
            self.assertLessEqual(self.store.free_bytes(), before - 400_000)
        else:
            self.assertGreater(before, 0)

    def test_restart_when_full(self) -> None:
        """hmacfs starts on a full disk, and serves."""
        self.put("kept", b"kept")
        filler = self.store.begin("filler")
        self.addCleanup(filler.close)
        with self.assertRaises(OSError):
            while filler.size < 2 * self.size_bytes:
                filler.write(b"x" * 4096)
        self.assertEqual(self.get("kept", self.open_store(self.disk)), b"kept")


class DeleteTests(StoreTestCase):
    """A file is deleted, and nothing else is."""

    def delete(self, encoded: str, expected: Identity | None = None) -> Removed | None:
        return self.store.delete(self.path(encoded), expected)

    def identity(self, encoded: str) -> Identity:
        return Identity.of((self.root / encoded).lstat())

    def test_gone(self) -> None:
        """The file and the directories that it alone was in; a neighbour keeps his."""
        self.put("a/b/c/d")
        self.put("a/e")
        self.assertEqual(self.delete("a/b/c/d", self.identity("a/b/c/d")), Removed(size=7, freed=7))
        self.assertEqual(self.tree(), ["a", "a/e"])
        self.delete("a/e")
        self.assertEqual((self.tree(), self.own_files("going")), ([], []))

    def test_nothing_there(self) -> None:
        """No file of that name, none of that directory, or no file at all: nothing is done."""
        self.put("a/b")
        (self.root / "link").symlink_to("a/b")
        (self.root / "dir").symlink_to("a")
        os.mkfifo(self.root / "fifo")
        (self.root / "empty").mkdir()
        before = self.tree()
        for encoded in ("x", "x/y", "a", "a/b/c", "link", "dir/b", "fifo", "empty"):
            self.assertIsNone(self.delete(encoded), encoded)
        self.assertEqual(self.tree(), before)

    def test_name_that_cannot_be(self) -> None:
        """A file system that refuses the name has no such file."""

        real = os.stat

        def stat(path: bytes, **how: Any) -> os.stat_result:
            if path == b"x":
                raise OSError(errno.EILSEQ, "not UTF-8")
            return real(path, **how)

        self.patch(os, "stat", stat)
        self.assertIsNone(self.delete("x"))

    def test_root_stays(self) -> None:
        self.put("a")
        self.delete("a")
        self.assertTrue(self.root.is_dir())

    def test_another_file(self) -> None:
        """What was decided about another file of that path says nothing of this one."""
        self.put("a/b")
        expected = self.identity("a/b")
        for wrong in (evolve(expected, size=8), evolve(expected, mtime_ns=1), evolve(expected, inode=1)):
            self.assertIsNone(self.delete("a/b", wrong))
        self.assertEqual(self.get("a/b"), b"content")

    def swap(self, then: Callable[[], object]) -> None:
        """Do something between the look at the file and its being taken away."""

        def before(method: str) -> None:
            if method == "rename":
                self.disk.before = lambda _method: None
                then()

        self.disk.before = before

    def replace(self, encoded: str) -> None:
        (self.root / encoded).unlink()
        self.put(encoded, b"newer", self.open_store())

    def test_replaced_at_that_moment(self) -> None:
        """The file that has taken the path meanwhile gets it back."""
        self.put("a/b")
        expected = self.identity("a/b")
        self.swap(lambda: self.replace("a/b"))
        self.assertIsNone(self.delete("a/b", expected))
        self.assertEqual((self.get("a/b"), self.own_files("going")), (b"newer", []))

    def test_replaced_by_a_link(self) -> None:
        """A link that has taken the path is put back, and what it points to isn't touched."""
        self.put("a/b")
        self.put("other")
        self.swap(lambda: ((self.root / "a/b").unlink(), (self.root / "a/b").symlink_to("../other")))
        self.assertIsNone(self.delete("a/b"))
        self.assertEqual(((self.root / "a/b").is_symlink(), self.get("other")), (True, b"content"))

    def test_put_back_over_nothing(self) -> None:
        """Where a third file has come meanwhile, it stays, and the caller is told."""
        self.put("a/b")
        expected = self.identity("a/b")

        def third(method: str) -> None:
            if method == "rename":
                self.disk.after = lambda _method: None
                self.put("a/b", b"third", self.open_store())

        self.swap(lambda: self.replace("a/b"))
        self.disk.after = third
        self.assertRaises(FileExistsError, self.delete, "a/b", expected)
        self.assertEqual(self.get("a/b"), b"third")

    def test_vanished_at_that_moment(self) -> None:
        """Another process was faster."""
        self.put("a/b")
        other = self.open_store()
        self.swap(lambda: other.delete(self.path("a/b")))
        self.assertIsNone(self.delete("a/b"))

    def test_open_download(self) -> None:
        """Who reads it reads it to its end."""
        self.put("a/b")
        found = self.store.open_file(self.path("a/b"))
        assert found is not None
        self.delete("a/b")
        with found.handle as handle:
            self.assertEqual(handle.read(), b"content")

    def test_other_name(self) -> None:
        """A hard link, of a deduplicating server or a backup, keeps its file."""
        self.put("a/b")
        os.link(self.root / "a/b", self.root / "other")
        self.assertEqual(self.delete("a/b"), Removed(size=7, freed=0))
        self.assertEqual(self.get("other"), b"content")

    def test_upload_into_pruned_directory(self) -> None:
        """An upload that was about to put its file into the directory that is pruned makes it anew."""
        self.put("a/b/old")
        other = self.open_store()

        def before(method: str) -> None:
            if method == "link":
                self.disk.before = lambda _method: None
                other.delete(self.path("a/b/old"))

        self.disk.before = before
        self.put("a/b/new")
        self.assertEqual(self.tree(), ["a", "a/b", "a/b/new"])

    def test_disk_fails(self) -> None:
        """An error before the file is taken away leaves it; one after that doesn't bring it back."""
        self.put("a/b")
        self.disk.fail("rename", errno.EIO)
        self.assert_fails_with(errno.EIO, self.delete, "a/b")
        self.assertEqual(self.get("a/b"), b"content")
        self.disk.fail("unlink", errno.EIO)
        self.assert_fails_with(errno.EIO, self.delete, "a/b")
        self.assertIsNone(self.get("a/b"))
        self.disk.before = lambda _method: None
        self.assertEqual(self.store.sweep_going(), 1)

    def test_killed(self) -> None:
        """At any moment: the file is whole, or gone, and nothing of it is left after the next start."""
        reached = set()
        for number in range(8):
            for after in (False, True):
                self.put("a/b/c")
                self.disk.crash(number, after)
                with contextlib.suppress(Crash):
                    self.delete("a/b/c")
                self.disk.before = self.disk.after = lambda _method: None
                later = self.open_store()
                later.sweep_going()
                content = self.get("a/b/c", later)
                self.assertIn(content, (b"content", None))
                self.assertEqual(self.own_files("going"), [])
                reached.add(content)
                later.delete(self.path("a/b/c"))
        self.assertEqual(reached, {b"content", None})

    def test_sweep_spares_what_is_under_way(self) -> None:
        """A file that another process has taken away, and may yet put back, isn't an orphan."""
        self.put("a/b")
        other = self.open_store()
        swept: list[int] = []

        def after(method: str) -> None:
            if method == "rename":
                swept.append(other.sweep_going())

        self.disk.after = after
        self.delete("a/b")
        self.assertEqual(swept, [0])

    def test_no_descriptor_left(self) -> None:
        with none_left_open(self):
            self.put("a/b")
            for encoded in ("a/b", "a/b", "x/y"):
                self.delete(encoded)
            self.store.sweep_going()


class SetFactsTests(StoreTestCase):
    """What is known of a stored file changes."""

    def test_changed(self) -> None:
        """They are the new ones for everybody, and durable."""
        self.put("a/b")
        self.disk.calls.clear()
        other = evolve(FACTS, quarantined="complaint 5")
        self.assertTrue(self.store.set_facts(self.path("a/b"), other))
        self.assertEqual(self.facts("a/b", self.open_store()), other)
        file = str(self.root / "a/b")
        self.assertEqual(self.disk.calls[1:3], [("set_attribute", file), ("sync", file)])
        self.assertEqual(self.get("a/b"), b"content")

    def test_no_such_file(self) -> None:
        """Neither nothing nor a link gets any."""
        self.put("a")
        (self.root / "link").symlink_to("a")
        self.assertFalse(self.store.set_facts(self.path("link"), evolve(FACTS, owner=None)))
        self.assertFalse(self.store.set_facts(self.path("b"), FACTS))
        self.assertEqual(self.facts("a"), FACTS)

    def test_file_is_the_same(self) -> None:
        """Its size, time and inode are: downloads go on, and nobody fetches it anew."""
        self.put("a")
        before = Identity.of((self.root / "a").stat())
        self.store.set_facts(self.path("a"), evolve(FACTS, owner=None))
        self.assertEqual(Identity.of((self.root / "a").stat()), before)
