"""One of several processes of a host does what is to be done once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hmacfs.net.threads import Threads

#: How often who doesn't lead should try to, in seconds: so long nobody leads at most after the leader has ended.
STAND_EVERY_S: Final = 1.0


class Leadership:
    """Whoever has the lock on a file leads, until it resigns or its process ends, however that ends.

    The lock is flock(2)'s, so a process on another host leads beside it, and so may one that has found another file at
    *path* because the first was moved away. What is led must bear that. To be used on the reactor's thread alone.

    :param path: of the file. It is made if need be, stays empty, and is never removed.
    :param begin: called once, when this process begins to lead.
    """

    def __init__(self, path: Path, begin: Callable[[], None], threads: Threads) -> None:
        self._path = path
        self._begin = begin
        self._threads = threads
        self._fd = -1
        self._has_resigned = False

    @property
    def leads(self) -> bool:
        """Whether this process does."""
        return self._fd >= 0

    async def stand(self) -> None:
        """Try to lead, unless it does already, or has resigned.

        :raises OSError: the file can't be opened, or locked.
        """
        if not self._may_stand():
            return
        fd = await self._threads.run(_locked, self._path)
        if fd < 0:
            return
        if self._may_stand():
            self._fd = fd
            self._begin()
        else:
            os.close(fd)

    def resign(self) -> None:
        """Let another process lead, now and for good."""
        self._has_resigned = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _may_stand(self) -> bool:
        return self._fd < 0 and not self._has_resigned


def _locked(path: Path) -> int:
    """A descriptor with the lock on a file; -1 while another one has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd
