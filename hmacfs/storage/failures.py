"""What a client is told, and how the operator hears of it, when the storage doesn't do what it should."""

from __future__ import annotations

import errno
from typing import Final

from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.storage.space import RETRY_AFTER_S as NO_SPACE_RETRY_AFTER_S

#: When to come back, in seconds: nobody mends a disk faster.
RETRY_AFTER_S: Final = 30

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})

#: What may pass by itself: a flaky disk or network file system, a quota that is being raised.
_PASSING: Final = frozenset({errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EDQUOT, errno.ETIMEDOUT, errno.EINTR})

#: What no disk says to who asks it the right thing.
_FAULTS: Final = frozenset({errno.EBADF, errno.EFAULT, errno.EINVAL})


def may_pass(error: OSError) -> bool:
    """Whether what failed is worth another try."""
    return error.errno in _PASSING


def is_no_room(error: OSError) -> bool:
    """Whether the file system has no space, no inode or no quota left."""
    return error.errno in _NO_ROOM


def storage_refusal(error: OSError, log: Logger) -> Refused:
    """The refusal for a call of the system that failed: 507 ``no-space``, 503 ``unavailable``, 503 ``storage``.

    It is logged in *log*, one line a minute for each kind of error however many requests meet it.

    :raises OSError: *error*, when it isn't the storage's but ours.
    """
    if error.errno in _FAULTS or error.errno is None:
        raise error
    kind = errno.errorcode.get(error.errno, str(error.errno))
    if is_no_room(error):
        log.error("no room for an upload: {error}", error=error.strerror, seldom=kind)
        return Refused(
            507,
            "no-space",
            "The server has run out of room for this file.",
            {"Retry-After": str(NO_SPACE_RETRY_AFTER_S)},
        )
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if error.errno in _NO_DESCRIPTORS:
        log.error("too many open files. Let the process have more (LimitNOFILE=)", seldom=kind)
        return Refused(503, "unavailable", "The server has too much to do at the moment.", headers)
    log.error("the storage fails: {error}", error=error.strerror, seldom=kind)
    if may_pass(error):
        return Refused(503, "unavailable", "The server's storage has failed. What is durable is kept.", headers)
    return Refused(503, "storage", "The server's storage is out of order. What is durable is kept.", headers)
