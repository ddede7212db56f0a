"""Room on the store's file system, promised before a body is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hmacfs.errors import Refused

#: How old an answer of statvfs may be, in seconds.
REFRESH_S: Final = 1.0

#: What a client that found no room is told, in seconds: by then a sweep or an operator may have made some.
RETRY_AFTER_S: Final = 300


class Reservation:
    """Room that one upload has been promised."""

    def __init__(self, ledger: Reservations, size_bytes: int) -> None:
        self._ledger = ledger
        self._outstanding_bytes = size_bytes

    def wrote(self, size_bytes: int) -> None:
        """So many bytes more are in the file: from now on statvfs counts them. More than was promised is fine."""
        self._ledger.spent(size_bytes)
        self._give_back(min(size_bytes, self._outstanding_bytes))

    def release(self) -> None:
        """The upload is over, one way or the other. May be called again."""
        self._give_back(self._outstanding_bytes)

    def _give_back(self, size_bytes: int) -> None:
        self._outstanding_bytes -= size_bytes
        self._ledger.promised_bytes -= size_bytes


class Reservations:
    """What the uploads in flight in this process will still take, so that together they don't fill the disk.

    To be used on the reactor's thread alone. Other worker processes' uploads are seen once they are written, not
    before: ``MinFreeSpace`` absorbs that, and an upload that meets a full disk after all fails with ENOSPC.

    :param free_bytes: what is free for us now (:meth:`hmacfs.storage.store.Store.free_bytes`).
    :param min_free_bytes: what must stay free (``MinFreeSpace``).
    :ivar promised_bytes: reserved and not yet written.
    """

    _log = Logger()

    def __init__(self, free_bytes: Callable[[], int], min_free_bytes: int, clock: IReactorTime) -> None:
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._looked_at: float | None = None
        self._seen_free_bytes = 0
        self._spent_since_bytes = 0
        self.promised_bytes = 0

    def reserve(self, size_bytes: int) -> Reservation:
        """Promise room for *size_bytes*, what of a resumed upload is still to come.

        :raises Refused: 507 ``no-space``, with ``Retry-After``.
        :raises OSError: when the file system doesn't say.
        """
        if size_bytes > self._available_bytes():
            self._log.error(
                "no room for an upload: it would leave less than MinFreeSpace. Free are {free} bytes",
                free=self._seen_free_bytes,
                seldom="MinFreeSpace",
            )
            raise Refused(
                507,
                "no-space",
                "The server has no room for this file at the moment.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self.promised_bytes += size_bytes
        return Reservation(self, size_bytes)

    def spent(self, size_bytes: int) -> None:
        """So many bytes were written since statvfs was asked."""
        self._spent_since_bytes += size_bytes

    def _available_bytes(self) -> int:
        now = self._clock.seconds()
        # A clock that was set back makes the answer look as if it came from the future.
        if self._looked_at is None or not 0 <= now - self._looked_at < REFRESH_S:
            self._seen_free_bytes = self._free_bytes()
            self._looked_at = now
            self._spent_since_bytes = 0
        return self._seen_free_bytes - self._spent_since_bytes - self.promised_bytes - self._min_free_bytes
