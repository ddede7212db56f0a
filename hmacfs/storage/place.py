"""Whether ``StoreDir`` still is the store whose directories we hold open, and how they are taken up again when it is back.

A file system that is unmounted lazily lives on for those who have something of it open, and vanishes with them: what is
written to it then is lost. The directory below, where it was mounted, is somebody else's disk: nothing may be written
there either.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from hmacfs.storage.disk import Disk
from hmacfs.storage.names import OWN_DIRECTORY

#: Below ``.hmacfs``: what has arrived of unfinished uploads, and files that are being deleted.
PARTS: Final = b"parts"
GOING: Final = b"going"

#: Below ``.hmacfs``: random bytes that no other store has (:func:`hmacfs.uploads.identity.server_key`). A store is known
#: by them when it is back, for a copy on another disk has other inodes.
KEY: Final = "server.key"

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_OWN_MODE: Final = 0o700

#: What says that there is no directory, and not that it can't be seen now.
_NOTHING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class StoreGone(OSError):
    """``StoreDir`` isn't the store any more. The text is for the operator, who has unmounted, moved or replaced it."""

    def __init__(self, root: Path, what: str) -> None:
        super().__init__(errno.ENODEV, f"StoreDir {root}: {what}")


class Place:
    """The directories of one store, which are held open.

    :param root: ``StoreDir``.
    :param root_fd: it, open. The descriptors stay the caller's, and keep their numbers, whatever they lead to.
    :param own_fd: ``.hmacfs`` in it.
    :param parts_fd: ``.hmacfs/parts``.
    """

    def __init__(self, disk: Disk, root: Path, root_fd: int, own_fd: int, parts_fd: int) -> None:
        self._disk = disk
        # Not Path.absolute, which is slow to look at: this is asked before each upload.
        self._root = os.path.abspath(root)
        self._innermost = os.path.join(os.fsencode(self._root), OWN_DIRECTORY, PARTS)
        self._shown = root
        self._root_fd = root_fd
        self._own_fd = own_fd
        self._parts_fd = parts_fd
        self._parts = _identity(os.fstat(parts_fd))

    def check(self) -> None:
        """See that what is held is what ``StoreDir`` names. One system call, on the reactor.

        :raises StoreGone: it isn't.
        :raises OSError: nobody can say.
        """
        try:
            there = _identity(os.stat(self._innermost))
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            there = None
        if there != self._parts:
            raise StoreGone(self._shown, "it has been unmounted, moved or replaced")

    def take_up(self, key: bytes) -> bool:
        """If it isn't, hold what ``StoreDir`` names now, if that is the same store. In a thread.

        Our own directories are made anew where they were removed from a store that has stayed the same, and nowhere
        else.

        :param key: the store's (:data:`KEY`).
        :return: whether anything was taken up.
        :raises StoreGone: there is nothing, or something else.
        """
        try:
            self.check()
        except StoreGone:
            with contextlib.ExitStack() as opened:
                self._take_up(key, opened)
            return True
        return False

    def _take_up(self, key: bytes, opened: contextlib.ExitStack) -> None:
        root_fd = self._open_root(opened)
        same = os.path.samestat(os.fstat(root_fd), os.fstat(self._root_fd))
        own_fd = self._open_own(root_fd, key, same, opened)
        parts_fd = open_own(self._disk, PARTS, own_fd)
        opened.callback(os.close, parts_fd)
        os.close(open_own(self._disk, GOING, own_fd))
        # Under the same numbers, each in one step: they are in use meanwhile, and in many hands.
        for fd, held in ((own_fd, self._own_fd), (parts_fd, self._parts_fd), (root_fd, self._root_fd)):
            os.dup2(fd, held, inheritable=False)
        self._parts = _identity(os.fstat(parts_fd))

    def _open_root(self, opened: contextlib.ExitStack) -> int:
        try:
            root_fd = os.open(self._root, DIRECTORY)
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            raise StoreGone(self._shown, "there is no such directory any more") from error
        opened.callback(os.close, root_fd)
        return root_fd

    def _open_own(self, root_fd: int, key: bytes, same: bool, opened: contextlib.ExitStack) -> int:
        try:
            own_fd = os.open(OWN_DIRECTORY, DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
        except FileNotFoundError:
            if not same:
                raise StoreGone(self._shown, "there is another directory now. Is its file system mounted?") from None
            own_fd = open_own(self._disk, OWN_DIRECTORY, root_fd)
        opened.callback(os.close, own_fd)
        found = _key(own_fd)
        if found is None and same:
            _write_key(own_fd, key)
        elif found != key:
            raise StoreGone(self._shown, f"there is another store now ({KEY} differs). To use it, restart hmacfs")
        return own_fd


def open_own(disk: Disk, name: bytes, parent_fd: int) -> int:
    """Open one of our own directories, and make it if it isn't there."""
    with contextlib.suppress(FileExistsError):
        disk.make_directory(name, parent_fd, _OWN_MODE)
    fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        disk.set_mode(fd, _OWN_MODE)
        disk.sync(parent_fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _key(own_fd: int) -> bytes | None:
    try:
        fd = os.open(KEY, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=own_fd)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _write_key(own_fd: int, key: bytes) -> None:
    fd = os.open(KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=own_fd)
    try:
        os.write(fd, key)
        os.fsync(fd)
    finally:
        os.close(fd)
