"""A body that is sent again for a file that is stored already: compared with it, never written."""

from __future__ import annotations

import os
from collections.abc import Callable

from hmacfs.net.threads import Threads
from hmacfs.uploads.beside import Beside
from hmacfs.uploads.body import BodyConsumer, ContentMismatch, raise_failure
from hmacfs.uploads.upload import common_prefix


class Comparison(BodyConsumer):
    """Compares a body with a stored file while it arrives, in a thread.

    :param fd: of the stored file. Stays the caller's, and open until :meth:`receive` has ended.
    """

    def __init__(self, fd: int, start: int, end: int, threads: Threads, arrived: Callable[[int], None]) -> None:
        super().__init__(start, end, arrived)
        self._fd = fd
        self._compared = start
        self._beside = Beside(self._compare, threads, *self._brake.pedals("comparison"))

    def _take(self, data: bytes) -> None:
        raise_failure(self._beside.failure)
        self._beside.add(data)

    async def _finish(self) -> None:
        await self._beside.drained()

    async def _settle(self) -> None:
        await self._beside.stop()

    def _compare(self, chunk: bytes) -> None:
        """In a thread.

        :raises ContentMismatch: at the first difference.
        """
        stored = os.pread(self._fd, len(chunk), self._compared)
        if stored != chunk:
            raise ContentMismatch(self._compared + common_prefix(chunk, stored))
        self._compared += len(chunk)


def same_content(one_fd: int, other_fd: int, size: int) -> bool:
    """Whether two files have the same first *size* bytes. Blocks."""
    step = 1024 * 1024
    return all(os.pread(one_fd, step, at) == os.pread(other_fd, step, at) for at in range(0, size, step))
