"""Part files: what has arrived of uploads that are not complete.

Every open part is locked with flock(2). The kernel lets go of the lock when the process dies, however it dies: an
upload can be taken over at once, and whatever isn't locked is nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable
from typing import Final

from attrs import frozen

from hmacfs.storage.attributes import attach, attached, detach
from hmacfs.storage.disk import Disk

NOTE_ATTRIBUTE: Final = "user.hmacfs.upload"

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class PartBusy(Exception):
    """Another writer, in this process or in another one, holds the part."""


class Part:
    """One part file, open and locked.

    Bytes are appended. To be used by one thread at a time, but for :meth:`sync`, which may run in a thread while
    :meth:`write` goes on: it makes durable what was written before it was called.

    :ivar name: of the part, unique in the store.
    :ivar size: bytes written so far.
    :ivar durable_size: so many of them have reached the device.
    """

    def __init__(self, disk: Disk, directory_fd: int, name: str, fd: int, size: int) -> None:
        self._disk = disk
        self._directory_fd = directory_fd
        self._fd = fd
        self._entry_is_durable = False
        self._lost = False
        self.name = name
        self.size = size
        self.durable_size = 0

    @property
    def fd(self) -> int:
        """The open file; -1 once closed."""
        return self._fd

    @property
    def lost(self) -> bool:
        """Whether bytes after :attr:`durable_size` must be taken for lost: see :meth:`sync`."""
        return self._lost

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append to the page cache. On the reactor's thread.

        :raises OSError: ENOSPC, EDQUOT, EIO, ...; :attr:`size` then says how much of *data* was taken nevertheless.
        """
        rest = memoryview(data)
        while rest:
            written = self._disk.write(self._fd, rest, self.size)
            self.size += written
            rest = rest[written:]

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """At most *size_bytes* from *offset* on. May block."""
        return os.pread(self._fd, size_bytes, offset)

    def truncate(self, size_bytes: int) -> None:
        """Forget what lies beyond *size_bytes*. May block.

        :raises ValueError: when there are not so many bytes: a part never gets a hole.
        """
        if not 0 <= size_bytes <= self.size:
            raise ValueError(f"{self.name} has {self.size} bytes and can't be cut to {size_bytes}")
        self._disk.truncate(self._fd, size_bytes)
        self.size = size_bytes
        if size_bytes <= self.durable_size:
            self.durable_size = size_bytes
            self._lost = False

    def sync(self) -> None:
        """Make what was written so far durable, under the part's name. Blocks.

        After a failure the kernel counts the pages as clean although they never reached the device, so that another
        fsync would succeed and mean nothing (https://lwn.net/Articles/752063/). Therefore every later call fails as
        well, until :meth:`truncate` has cut the part back to :attr:`durable_size` or less.

        :raises OSError: when the bytes after :attr:`durable_size` must be taken for lost.
        """
        size = self._flush(self._disk.sync_data)
        if not self._entry_is_durable:
            self._disk.sync(self._directory_fd)
            self._entry_is_durable = True
        self.durable_size = size

    def sync_all(self, flush: Callable[[int], None]) -> None:
        """As :meth:`sync`, with mode and attributes, but not under the part's name: before it is published. Blocks.

        :param flush: does that to a descriptor, or tells how it went when it was done for many.
        """
        self.durable_size = self._flush(flush)

    def _flush(self, flush: Callable[[int], None]) -> int:
        if self._lost:
            raise OSError(errno.EIO, "bytes were lost when the part was flushed before", self.name)
        size = self.size
        try:
            flush(self._fd)
        except OSError:
            self._lost = self.durable_size < size
            raise
        return size

    def set_note(self, note: bytes) -> bool:
        """Keep a few hundred bytes about the part with it; false where the file system has no place for them.

        They are as durable as the next :meth:`sync_all` makes them. May block.
        """
        return attach(self._disk, self._fd, NOTE_ATTRIBUTE, note)

    def note(self) -> bytes | None:
        """What :meth:`set_note` kept, in this process or an earlier one; ``None`` where there is nothing."""
        return attached(self._disk, self._fd, NOTE_ATTRIBUTE)

    def drop_note(self) -> None:
        """Forget the note, if there is one. May block."""
        detach(self._disk, self._fd, NOTE_ATTRIBUTE)

    def discard(self) -> None:
        """Remove the part. Blocks: freeing a large file takes its time. Does nothing once closed."""
        if self._fd < 0:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(os.fsencode(self.name), self._directory_fd)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the part and leave it where it is. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@frozen
class Swept:
    """What a sweep removed."""

    files: int
    size_bytes: int


class Parts:
    """The directory of part files.

    :param directory_fd: stays the caller's.
    """

    def __init__(self, disk: Disk, directory_fd: int) -> None:
        self._disk = disk
        self._directory_fd = directory_fd

    def begin(self, name: str) -> Part:
        """Make a new part, see :meth:`hmacfs.storage.store.Store.begin`."""
        fd = self._disk.create(_checked(name), self._directory_fd, os.O_RDWR | os.O_EXCL)
        try:
            return self._locked(name, fd)
        except (PartBusy, FileNotFoundError):
            # Another process has opened it before it was locked, and perhaps removed it.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None

    def reopen(self, name: str) -> Part:
        """Open a part that was left, see :meth:`hmacfs.storage.store.Store.reopen`."""
        fd = os.open(_checked(name), _REOPEN, dir_fd=self._directory_fd)
        return self._locked(name, fd)

    def note(self, name: str) -> bytes | None:
        """See :meth:`hmacfs.storage.store.Store.part_note`."""
        try:
            fd = os.open(_checked(name), _LOOK, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return None
        try:
            return attached(self._disk, fd, NOTE_ATTRIBUTE)
        finally:
            os.close(fd)

    def has(self, name: str) -> bool:
        """See :meth:`hmacfs.storage.store.Store.has_part`."""
        try:
            os.stat(_checked(name), dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def sweep(self, older_than_s: float, now: float, keep: Callable[[str], bool]) -> Swept:
        """Remove what nobody holds, see :meth:`hmacfs.storage.store.Store.sweep_parts`."""
        # Not through our own descriptor, whose position in the directory others share.
        listing_fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory_fd)
        try:
            names = os.listdir(listing_fd)
        finally:
            os.close(listing_fd)
        removed = [self._sweep_one(name, now - older_than_s, keep) for name in names]
        sizes_bytes = [size_bytes for size_bytes in removed if size_bytes is not None]
        return Swept(files=len(sizes_bytes), size_bytes=sum(sizes_bytes))

    def _sweep_one(self, name: str, before: float, keep: Callable[[str], bool]) -> int | None:
        """Remove one leftover and say what it freed, in bytes; ``None`` if it isn't one."""
        try:
            status = os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)
            # One that has a second name is a stored file by now: reopen takes care of that.
            if status.st_nlink == 1 and (status.st_mtime > before or keep(name)):
                return None
            part = self.reopen(name)
        except (OSError, PartBusy, ValueError):
            return None
        part.discard()
        return status.st_size

    def _locked(self, name: str, fd: int) -> Part:
        """The open part, once nobody else can have it.

        :raises PartBusy: when somebody has.
        :raises FileNotFoundError: when the former holder has published or removed it before the lock was ours.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = self._size_if_ours(name, fd)
        except BlockingIOError:
            os.close(fd)
            raise PartBusy(name) from None
        except BaseException:
            os.close(fd)
            raise
        return Part(self._disk, self._directory_fd, name, fd, size)

    def _size_if_ours(self, name: str, fd: int) -> int:
        held = os.fstat(fd)
        named = os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)
        if not stat.S_ISREG(held.st_mode) or not os.path.samestat(held, named):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if held.st_nlink != 1:
            # A process died between publishing the file and removing its old name: to write to it now would change a
            # stored file.
            self._disk.unlink(os.fsencode(name), self._directory_fd)
            raise FileNotFoundError(errno.ENOENT, "already published", name)
        return held.st_size


_REOPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOOK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _checked(name: str) -> bytes:
    """:raises ValueError: for a name that is no plain file name: not the client's, but a caller's mistake."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of a part")
    return name.encode("ascii")
