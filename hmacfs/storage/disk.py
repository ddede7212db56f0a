"""The kernel calls by which storage leaves something behind, in one object, so that a test can stand in between.

Opening and reading files isn't here: it needs no substitute and is on the way of every download.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

#: What link(2) says where it isn't to be had: EPERM on FAT and exFAT, EMLINK where one name is the limit, the others on
#: network and FUSE file systems.
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})

_RENAME_NOREPLACE: Final = 1

_SYNC_FILE_RANGE_WAIT_BEFORE: Final = 1
_SYNC_FILE_RANGE_WRITE: Final = 2

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

#: Offset and length, which is 0 for all that there is.
_WHOLE: Final = (ctypes.c_int64(0), ctypes.c_int64(0))

#: Whether libc has the calls of :meth:`Disk.sync_file_system` and :meth:`Disk.check_written` (glibc does).
CAN_SYNC_TOGETHER: Final = hasattr(_LIBC, "syncfs") and hasattr(_LIBC, "sync_file_range")


class Disk:
    """Each method is one system call, and raises :class:`OSError`. Those named sync wait for the device.

    :cvar waits: whether they do.
    """

    waits = True

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write to the page cache, and say how many bytes went."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def sync(self, fd: int) -> None:
        """Make a file with its attributes, or the entries of a directory, survive a power loss."""
        os.fsync(fd)

    def sync_data(self, fd: int) -> None:
        """Make a file's bytes and size survive a power loss, and not necessarily its attributes."""
        os.fdatasync(fd)

    def sync_file_system(self, fd: int) -> None:
        """Make all that is on the file system of *fd* survive a power loss: syncfs(2)."""
        _succeed(_LIBC.syncfs(fd))

    def check_written(self, fd: int) -> None:
        """See that what was written back of a file has reached the device, whoever had it written back.

        It flushes nothing. sync_file_range(2), which raises what fsync would.
        """
        _succeed(_LIBC.sync_file_range(fd, *_WHOLE, _SYNC_FILE_RANGE_WAIT_BEFORE))

    def begin_writing(self, fd: int) -> None:
        """Have the kernel begin to write a file back, and don't wait for it: sync_file_range(2)."""
        _succeed(_LIBC.sync_file_range(fd, *_WHOLE, _SYNC_FILE_RANGE_WRITE))

    def set_mode(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def set_attribute(self, fd: int, name: str, value: bytes) -> None:
        os.setxattr(fd, name, value)

    def get_attribute(self, fd: int, name: str) -> bytes:
        return os.getxattr(fd, name)

    def remove_attribute(self, fd: int, name: str) -> None:
        os.removexattr(fd, name)

    def create(self, name: bytes, directory_fd: int, flags: int) -> int:
        """Open a file that isn't there yet, or is empty for its new writer: 0600 until somebody says otherwise."""
        fd = os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
        owner = heir(directory_fd)
        if owner is not None:
            os.fchown(fd, *owner)
        return fd

    def unlink(self, name: bytes, directory_fd: int) -> None:
        os.unlink(name, dir_fd=directory_fd)

    def make_directory(self, name: bytes, directory_fd: int, mode: int) -> None:
        os.mkdir(name, mode, dir_fd=directory_fd)
        owner = heir(directory_fd)
        if owner is not None:
            os.chown(name, *owner, dir_fd=directory_fd, follow_symlinks=False)

    def remove_directory(self, name: bytes, directory_fd: int) -> None:
        """Remove a directory if it is empty."""
        os.rmdir(name, dir_fd=directory_fd)

    def link(self, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
        os.link(name, new_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)

    def rename(self, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
        """Rename, in place of what has the new name."""
        os.rename(name, new_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def rename_new(self, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
        """Rename, unless the new name is taken: renameat2(2) with RENAME_NOREPLACE.

        :raises OSError: ENOSYS where libc has no such call (glibc has since 2.28).
        """
        renameat2 = getattr(_LIBC, "renameat2", None)
        if renameat2 is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        if renameat2(from_fd, name, to_fd, new_name, _RENAME_NOREPLACE) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), new_name)


class UnsyncedDisk(Disk):
    """A disk that nothing waits for (``Durability = "none"``): the kernel writes when it likes to."""

    waits = False

    def sync(self, fd: int) -> None:
        pass

    def sync_data(self, fd: int) -> None:
        pass

    def sync_file_system(self, fd: int) -> None:
        pass

    def check_written(self, fd: int) -> None:
        pass

    def begin_writing(self, fd: int) -> None:
        pass


def _succeed(result: int) -> None:
    """:raises OSError: when a call of libc has failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def heir(directory: int | Path) -> tuple[int, int] | None:
    """User and group to whom root gives what it makes in a directory: those who have the directory.

    The operator's command may run as root in a store that the daemon, another user, has to write to.

    :param directory: open, or its path.
    :return: ``None`` where that is no question.
    """
    if os.geteuid() != 0:
        return None
    status = os.stat(directory)
    return None if status.st_uid == 0 else (status.st_uid, status.st_gid)


def move_new(disk: Disk, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
    """Give a file a new name that nobody has, atomically. The old one may remain, as a second name of the same file.

    By hard link, which every POSIX file system has; by renameat2 where there are none.

    :raises FileExistsError: when the new name is taken.
    :raises OSError: the rename's error where neither can be had.
    """
    try:
        disk.link(name, from_fd, new_name, to_fd)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        return
    disk.rename_new(name, from_fd, new_name, to_fd)
