"""Extended attributes of open files, where the file system has them."""

from __future__ import annotations

import errno
from typing import Final

from hmacfs.storage.disk import Disk

#: setxattr: the file system has no user attributes, or no room for this one (ext4 has one block for all of a file's).
_NO_ROOM: Final = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE})
_NOTHING: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOSYS})


def attach(disk: Disk, fd: int, name: str, value: bytes) -> bool:
    """Write an attribute onto an open file; False where the file system has no place for it.

    :raises OSError: for any other failure.
    """
    try:
        disk.set_attribute(fd, name, value)
    except OSError as error:
        if error.errno in _NO_ROOM:
            return False
        raise
    return True


def attached(disk: Disk, fd: int, name: str) -> bytes | None:
    """What :func:`attach` wrote onto an open file; ``None`` if nothing is there.

    :raises OSError: when the file can't be read, which says nothing about what it has.
    """
    try:
        return disk.get_attribute(fd, name)
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise


def detach(disk: Disk, fd: int, name: str) -> None:
    """Take an attribute away from an open file, if it is there.

    :raises OSError: for any other failure.
    """
    try:
        disk.remove_attribute(fd, name)
    except OSError as error:
        if error.errno not in _NOTHING:
            raise
