from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hmacfs.storage.disk import Disk
from hmacfs.storage.facts import ATTRIBUTE
from hmacfs.storage.parts import NOTE_ATTRIBUTE, Part, PartBusy, Swept
from tests.descriptors import none_left_open
from tests.storage.support import FACTS, StoreTestCase

HOLDER = """
import sys
from hmacfs.storage.store import Store

part = Store.open(sys.argv[1]).begin("held")
part.write(b"12345")
print("held", flush=True)
sys.stdin.read()
"""


class PartTestCase(StoreTestCase):
    """With a part at hand."""

    def setUp(self) -> None:
        super().setUp()
        self.part = self.begin("part")
        self.file = self.root / ".hmacfs" / "parts" / "part"

    def begin(self, name: str) -> Part:
        part = self.store.begin(name)
        self.addCleanup(part.close)
        return part

    def reopen(self, name: str = "part") -> Part:
        part = self.store.reopen(name)
        self.addCleanup(part.close)
        return part


class PartTests(PartTestCase):
    """One part file."""

    def test_append(self) -> None:
        """What is written is in the file, in order, and counted."""
        for data in (b"ab", b"", bytearray(b"cd"), memoryview(b"xefx")[1:3]):
            self.part.write(data)
        self.assertEqual(self.file.read_bytes(), b"abcdef")
        self.assertEqual(self.part.size, 6)

    def test_private(self) -> None:
        """Nobody else may read what isn't complete, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        self.begin("open")
        self.assertEqual((self.file.parent / "open").stat().st_mode & 0o7777, 0o600)
        self.assertEqual(self.file.parent.stat().st_mode & 0o7777, 0o700)

    def test_short_writes(self) -> None:
        """The kernel may take less than it was given."""
        real = Disk.write
        self.patch(self.disk, "write", lambda fd, data, offset: real(self.disk, fd, data[:3], offset))
        self.part.write(b"abcdefgh")
        self.assertEqual(self.file.read_bytes(), b"abcdefgh")

    def test_disk_full_midway(self) -> None:
        """The error is the caller's to see, and the size what was taken before it."""
        real = Disk.write

        def fill_up(fd: int, data: memoryview, offset: int) -> int:
            if offset >= 4:
                raise OSError(errno.ENOSPC, "full")
            return real(self.disk, fd, data[: 4 - offset], offset)

        self.patch(self.disk, "write", fill_up)
        self.part.write(b"ab")
        self.assert_fails_with(errno.ENOSPC, self.part.write, b"cdef")
        self.assertEqual(self.part.size, 4)
        self.part.discard()
        self.assertEqual(self.own_files("parts"), [])

    def test_read_at(self) -> None:
        """Earlier bytes can be read again, without changing where the next ones go."""
        self.part.write(b"abcdef")
        self.assertEqual(self.part.read_at(2, 3), b"cde")
        self.assertEqual(self.part.read_at(5, 10), b"f")
        self.assertEqual(self.part.read_at(6, 10), b"")
        self.part.write(b"g")
        self.assertEqual(self.file.read_bytes(), b"abcdefg")

    def test_truncate(self) -> None:
        """Cut back, then gone on with."""
        self.part.write(b"abcdef")
        self.part.truncate(2)
        self.part.write(b"X")
        self.assertEqual((self.file.read_bytes(), self.part.size), (b"abX", 3))

    def test_no_holes(self) -> None:
        """A part can't be made longer than what has arrived."""
        self.part.write(b"ab")
        self.assertRaises(ValueError, self.part.truncate, 3)
        self.assertRaises(ValueError, self.part.truncate, -1)
        self.assertEqual(self.file.read_bytes(), b"ab")

    def test_discard(self) -> None:
        """Nothing is left, and saying so again, or after somebody else has removed it, is fine."""
        self.part.discard()
        self.part.discard()
        other = self.begin("other")
        (self.file.parent / "other").unlink()
        other.discard()
        self.assertEqual(self.own_files("parts"), [])

    def test_close_keeps(self) -> None:
        """A closed part can be taken up again; it can't be written to, or discarded by who doesn't hold it any more."""
        self.part.write(b"ab")
        self.part.close()
        self.part.close()
        self.part.discard()
        self.assertEqual(self.file.read_bytes(), b"ab")
        self.assert_fails_with(errno.EBADF, self.part.write, b"c")

    def test_names_are_plain(self) -> None:
        """The name of a part comes from us; one that could lead elsewhere is a mistake."""
        for name in ("", ".", "..", ".x", "a/b", "/etc", "a\0", "é", "x" * 201, "a\n"):
            self.assertRaises(ValueError, self.store.begin, name)
            self.assertRaises(ValueError, self.store.reopen, name)

    def test_name_taken(self) -> None:
        """Each part is begun once, and by nobody through a symbolic link."""
        self.assertRaises(FileExistsError, self.store.begin, "part")
        victim = self.root / "victim"
        (self.file.parent / "link").symlink_to(victim)
        self.assertRaises(FileExistsError, self.store.begin, "link")
        self.assertFalse(victim.exists())


class DurabilityTests(PartTestCase):
    """What of a part survives a power loss."""

    def test_sync(self) -> None:
        """The bytes, then once the entry of the directory."""
        self.part.write(b"abc")
        self.assertEqual(self.part.durable_size, 0)
        self.disk.calls.clear()
        self.part.sync()
        self.assertEqual(self.part.durable_size, 3)
        self.part.write(b"de")
        self.part.sync()
        self.assertEqual(self.part.durable_size, 5)
        data, entry = ("sync_data", str(self.file)), ("sync", str(self.file.parent))
        self.assertEqual([call for call in self.disk.calls if call[0] != "write"], [data, entry, data])

    def test_written_meanwhile(self) -> None:
        """What arrives while the device is at work isn't counted: it may have come too late."""
        self.part.write(b"abc")
        self.disk.after = lambda method: self.part.write(b"xyz") if method == "sync_data" else None
        self.part.sync()
        self.assertEqual((self.part.durable_size, self.part.size), (3, 6))

    def test_no_entry_no_durability(self) -> None:
        """Bytes whose name may be lost don't count."""
        self.part.write(b"abc")
        self.disk.fail("sync", errno.EIO, times=1)
        self.assert_fails_with(errno.EIO, self.part.sync)
        self.assertEqual(self.part.durable_size, 0)

    def test_failed_sync_is_not_forgotten(self) -> None:
        """The kernel forgets that a flush failed; a second one must not seem to have done what the first one didn't."""
        self.part.write(b"abc")
        self.part.sync()
        self.part.write(b"def")
        self.disk.fail("sync_data", errno.EIO, times=1)
        self.assert_fails_with(errno.EIO, self.part.sync)
        self.assert_fails_with(errno.EIO, self.part.sync)
        self.assert_fails_with(errno.EIO, self.part.sync_all, self.disk.sync)
        self.assertEqual(self.part.durable_size, 3)

    def test_sent_again_after_failed_sync(self) -> None:
        """Cut back to what is durable, the part is good to go on with; cut back to less isn't less."""
        self.part.write(b"abc")
        self.part.sync()
        self.part.write(b"def")
        self.disk.fail("sync_data", errno.EIO, times=1)
        self.assert_fails_with(errno.EIO, self.part.sync)
        self.part.truncate(4)
        self.assert_fails_with(errno.EIO, self.part.sync)
        self.part.truncate(2)
        self.assertEqual(self.part.durable_size, 2)
        self.part.write(b"CDEF")
        self.part.sync()
        self.assertEqual((self.part.durable_size, self.file.read_bytes()), (6, b"abCDEF"))


class LockTests(PartTestCase):
    """Who has a part."""

    def test_left_part(self) -> None:
        """A part that was let go of goes on where it was."""
        self.part.write(b"abc")
        self.part.close()
        part = self.reopen()
        self.assertEqual((part.size, part.durable_size, part.name), (3, 0, "part"))
        part.write(b"def")
        self.assertEqual(self.file.read_bytes(), b"abcdef")

    def test_busy(self) -> None:
        """One writer at a time, in one process as in several."""
        self.assertRaises(PartBusy, self.store.reopen, "part")
        self.assertRaises(PartBusy, self.open_store().reopen, "part")

    def test_opened_by_another_while_begun(self) -> None:
        """A new part has its name before its lock. Who opens it in between has it, as if it had been there before."""
        other = self.open_store()

        def open_it(method: str) -> None:
            if method == "create":
                self.addCleanup(other.reopen("new").close)

        self.disk.after = open_it
        self.assertRaises(FileExistsError, self.store.begin, "new")
        self.assertTrue(self.store.has_part("new"))

    def test_removed_by_another_while_begun(self) -> None:
        """And who has removed it by then, too: it has been there."""
        other = self.open_store()

        def remove_it(method: str) -> None:
            if method == "create":
                other.reopen("new").discard()

        self.disk.after = remove_it
        self.assertRaises(FileExistsError, self.store.begin, "new")
        self.disk.after = lambda _method: None
        self.begin("new")

    def test_gone(self) -> None:
        """There is no such part, or not any more."""
        self.assertRaises(FileNotFoundError, self.store.reopen, "nothing")
        self.part.discard()
        self.assertRaises(FileNotFoundError, self.store.reopen, "part")

    def test_has_part(self) -> None:
        """Whether there is one, whoever holds it."""
        self.assertTrue(self.store.has_part("part"))
        self.assertFalse(self.store.has_part("nothing"))

    def test_published_while_waiting(self) -> None:
        """The lock of a part that its holder has just published is no way to a stored file."""
        os.link(self.file, self.root / "stored")
        self.part.close()
        self.assertRaises(FileNotFoundError, self.store.reopen, "part")
        self.assertFalse(self.file.exists())
        self.assertTrue((self.root / "stored").exists())

    def test_removed_while_waiting(self) -> None:
        """The lock of a file that has lost its name to another is worth nothing."""
        self.part.close()
        replaced = self.file.with_name("moved")

        def swap(*_: object) -> None:
            self.file.rename(replaced)
            self.file.write_bytes(b"another")

        self.patch(sys.modules["hmacfs.storage.parts"].fcntl, "flock", swap)
        self.assertRaises(FileNotFoundError, self.store.reopen, "part")

    def test_not_through_links(self) -> None:
        """Something else under a part's name is never opened for writing."""
        victim = self.root / "victim"
        victim.write_bytes(b"victim")
        (self.file.parent / "link").symlink_to(victim)
        os.mkfifo(self.file.parent / "fifo")
        self.assertRaises(OSError, self.store.reopen, "link")
        self.assertRaises(OSError, self.store.reopen, "fifo")

    def test_no_descriptor_left(self) -> None:
        """However opening a part ends, no descriptor stays behind."""
        with none_left_open(self):
            for name in ("part", "nothing"):
                self.assertRaises((PartBusy, OSError), self.store.reopen, name)
            self.assertRaises(FileExistsError, self.store.begin, "part")

    def test_killed_holder(self) -> None:
        """A process that is killed lets go of its parts at once, and what it wrote is there."""
        package_parent = str(Path(sys.modules["hmacfs"].__file__ or "").parent.parent)
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(self.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": package_parent},
        ) as holder:
            assert holder.stdout is not None
            self.assertEqual(holder.stdout.readline(), b"held\n")
            self.assertRaises(PartBusy, self.store.reopen, "held")
            holder.send_signal(signal.SIGKILL)
        part = self.reopen("held")
        self.assertEqual((part.size, part.read_at(0, 10)), (5, b"12345"))


class NoteTests(PartTestCase):
    """What is known of an unfinished upload, kept with its part."""

    def test_kept(self) -> None:
        """For whoever takes the part up, and who only looks while another has it."""
        self.assertIsNone(self.part.note())
        self.assertTrue(self.part.set_note(b"first"))
        self.assertTrue(self.part.set_note(b"note"))
        self.assertEqual(self.open_store().part_note("part"), b"note")
        self.part.close()
        self.assertEqual(self.reopen().note(), b"note")

    def test_none(self) -> None:
        """No part, no note, no attributes: nothing is known, and that is no error."""
        self.assertIsNone(self.store.part_note("nothing"))
        self.assertIsNone(self.store.part_note("part"))
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.assertFalse(self.part.set_note(b"note"))
        self.assertIsNone(self.part.note())

    def test_dropped(self) -> None:
        """Forgotten, and forgotten again."""
        self.part.set_note(b"note")
        self.part.drop_note()
        self.part.drop_note()
        self.assertIsNone(self.part.note())

    def test_never_published(self) -> None:
        """A stored file tells nobody how it was uploaded, though the note was another process's."""
        self.part.set_note(b"token")
        self.part.close()
        self.store.publish(self.reopen(), self.path("a"), FACTS)
        self.assertEqual(os.listxattr(self.root / "a"), [ATTRIBUTE])

    def test_not_through_links(self) -> None:
        """A link in the place of a part isn't read."""
        victim = self.root / "victim"
        victim.write_bytes(b"victim")
        os.setxattr(victim, NOTE_ATTRIBUTE, b"secret")
        (self.file.parent / "link").symlink_to(victim)
        self.assert_fails_with(errno.ELOOP, self.store.part_note, "link")


class SweepTests(PartTestCase):
    """Parts that nobody will take up again."""

    def sweep(self, older_than_s: float = 0, now: float | None = None, **keep: object) -> Swept:
        return self.store.sweep_parts(older_than_s, time.time() + 1 if now is None else now, **keep)  # type: ignore[arg-type]

    def leave(self, name: str, content: bytes = b"left") -> Path:
        part = self.begin(name)
        part.write(content)
        part.close()
        return self.file.with_name(name)

    def test_removes_leftovers(self) -> None:
        """What nobody holds goes, and is counted; what somebody holds stays."""
        self.leave("one", b"12")
        self.leave("two", b"345")
        self.assertEqual(self.sweep(), Swept(files=2, size_bytes=5))
        self.assertEqual(self.own_files("parts"), [self.file])
        self.assertEqual(self.sweep(), Swept(files=0, size_bytes=0))

    def test_spares_the_young(self) -> None:
        """Another process may just be opening it."""
        file = self.leave("young")
        os.utime(file, (1000.0, 1000.0))
        self.sweep(older_than_s=60, now=1059.0)
        self.assertTrue(file.exists())
        self.sweep(older_than_s=60, now=1060.0)
        self.assertFalse(file.exists())

    def test_spares_what_is_to_be_kept(self) -> None:
        """An upload that can be resumed keeps its part."""
        kept, other = self.leave("kept"), self.leave("other")
        self.sweep(keep=lambda name: name == "kept")
        self.assertEqual((kept.exists(), other.exists()), (True, False))

    def test_second_name_of_stored_file(self) -> None:
        """A crash between publishing and removing the part's name: it goes, kept or young; the file stays."""
        file = self.leave("left")
        os.link(file, self.root / "stored")
        self.assertEqual(self.sweep(older_than_s=3600, keep=lambda _name: True), Swept(files=0, size_bytes=0))
        self.assertFalse(file.exists())
        self.assertEqual((self.root / "stored").read_bytes(), b"left")

    def test_strange_things(self) -> None:
        """What isn't a part isn't touched, and doesn't end the sweep."""
        victim = self.root / "victim"
        victim.write_bytes(b"victim")
        (self.file.parent / "link").symlink_to(victim)
        (self.file.parent / "directory").mkdir()
        os.mkfifo(self.file.parent / "fifo")
        (self.file.parent / ".hidden").write_bytes(b"")
        self.leave("left")
        self.assertEqual(self.sweep().files, 1)
        self.assertEqual(victim.read_bytes(), b"victim")
        self.assertEqual(
            sorted(entry.name for entry in self.file.parent.iterdir()), [".hidden", "directory", "fifo", "link", "part"]
        )
