"""Facts of stored files whose file system has no place for them in the file itself.

A sidecar lies in ``.hmacfs/meta/`` under a name made from the file's path, size and time of last change. Whoever has
the open file finds it, no other file ever does: one that takes the path later was written at another time. Inode
numbers would not do: they are given out again, FAT makes them up at every mount, and a copied tree has others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from hmacfs.errors import Refused
from hmacfs.storage.disk import Disk
from hmacfs.storage.names import SlotPath

_DIRECTORY: Final = b"meta"
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Far more than facts ever take.
_MAX_BYTES: Final = 65536


class Sidecars:
    """The sidecars of one store.

    A file is known by its path and what fstat(2) says of it; its bytes must not change between :meth:`write` and
    :meth:`read`, nor its mtime.

    :param own_fd: the ``.hmacfs`` directory. Stays the caller's.
    """

    def __init__(self, disk: Disk, own_fd: int) -> None:
        self._disk = disk
        self._own_fd = own_fd

    def read(self, path: SlotPath, status: os.stat_result) -> bytes | None:
        """What :meth:`write` wrote, or ``None``.

        :raises OSError: when it is there and can't be read.
        """
        shelf, name = _place(path, status)
        try:
            fd = os.open(b"/".join((_DIRECTORY, shelf, name)), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._own_fd)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, _MAX_BYTES).partition(b"\n")[0]
        finally:
            os.close(fd)

    def write(self, path: SlotPath, status: os.stat_result, encoded: bytes) -> None:
        """Store a file's facts, durably, in place of those it had; before the file is published. Blocks.

        The path stands in the second line, for those who look after files that were deleted behind our back.

        :param encoded: one line.
        """
        shelf, name = _place(path, status)
        with contextlib.ExitStack() as stack:
            meta_fd = self._directory(stack, _DIRECTORY, self._own_fd)
            shelf_fd = self._directory(stack, shelf, meta_fd)
            new = name + b"." + secrets.token_hex(8).encode("ascii")
            fd = self._disk.create(new, shelf_fd, os.O_WRONLY | os.O_EXCL)
            stack.callback(os.close, fd)
            try:
                self._fill(fd, encoded + b"\n" + path.url.encode("ascii") + b"\n")
                self._disk.sync(fd)
                self._disk.rename(new, shelf_fd, name, shelf_fd)
            except OSError:
                self._disk.unlink(new, shelf_fd)
                raise
            for each in (shelf_fd, meta_fd, self._own_fd):
                self._disk.sync(each)

    def remove(self, path: SlotPath, status: os.stat_result) -> None:
        """Remove what :meth:`write` wrote, if it is there. Blocks."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(b"/".join((_DIRECTORY, *_place(path, status))), self._own_fd)

    def sweep(
        self, status_of: Callable[[SlotPath], os.stat_result | None], older_than_s: float, now: float
    ) -> Iterator[bool]:
        """Remove the sidecars of files that are gone or have changed, and halves that a crash has left. Blocks.

        :param status_of: what lstat says of the regular file at a path; ``None`` where there is none.
        :param older_than_s: spares those that were written since: their files may be about to be published.
        :param now: in seconds since the epoch.
        :return: for each sidecar whether it was removed, one at a time, so that the caller may pause.
        """
        for shelf in self._names(_DIRECTORY):
            for name in self._names(_DIRECTORY + b"/" + shelf):
                yield self._sweep_one(shelf, name, status_of, now - older_than_s)

    def _names(self, directory: bytes) -> list[bytes]:
        try:
            fd = os.open(directory, _DIRECTORY_FLAGS, dir_fd=self._own_fd)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def _sweep_one(
        self, shelf: bytes, name: bytes, status_of: Callable[[SlotPath], os.stat_result | None], before: float
    ) -> bool:
        place = b"/".join((_DIRECTORY, shelf, name))
        try:
            if self._is_needed(place, shelf, name, status_of, before):
                return False
            self._disk.unlink(place, self._own_fd)
        except OSError:
            # What can't be read now may well be needed.
            return False
        return True

    def _is_needed(
        self,
        place: bytes,
        shelf: bytes,
        name: bytes,
        status_of: Callable[[SlotPath], os.stat_result | None],
        before: float,
    ) -> bool:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._own_fd)
        try:
            if os.fstat(fd).st_mtime >= before:
                return True
            content = os.read(fd, _MAX_BYTES)
        finally:
            os.close(fd)
        path = _path_in(content)
        status = None if path is None else status_of(path)
        return path is not None and status is not None and _place(path, status) == (shelf, name)

    def _directory(self, stack: contextlib.ExitStack, name: bytes, parent_fd: int) -> int:
        with contextlib.suppress(FileExistsError):
            self._disk.make_directory(name, parent_fd, 0o700)
        fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent_fd)
        stack.callback(os.close, fd)
        return fd

    def _fill(self, fd: int, content: bytes) -> None:
        offset = 0
        while offset < len(content):
            offset += self._disk.write(fd, memoryview(content)[offset:], offset)


def _path_in(content: bytes) -> SlotPath | None:
    """The path that :meth:`Sidecars.write` has written into the second line."""
    lines = content.split(b"\n")
    try:
        return SlotPath.from_url(lines[1].split(b"/"))
    except (IndexError, Refused):
        return None


def _place(path: SlotPath, status: os.stat_result) -> tuple[bytes, bytes]:
    key = b"%b\0%d\0%d" % (path.encoded, status.st_size, status.st_mtime_ns)
    name = hashlib.sha256(key).hexdigest().encode("ascii")
    return name[:2], name
