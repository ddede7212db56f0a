"""Room on the store's file system, promised before a body is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.storage.promises import IPromises, Others

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
        if self._outstanding_bytes:
            self._give_back(self._outstanding_bytes)

    def _give_back(self, size_bytes: int) -> None:
        self._outstanding_bytes -= size_bytes
        self._ledger.withdraw(size_bytes)


class Reservations:
    """What the uploads in flight here will still take, so that together they don't fill the disk.

    To be used on the reactor's thread alone. What other programs write is seen once it is written, not before:
    ``MinFreeSpace`` absorbs that, and an upload that meets a full disk after all fails with ENOSPC.

    :param free_bytes: what is free for us now (:meth:`hmacfs.storage.store.Store.free_bytes`).
    :param min_free_bytes: what must stay free (``MinFreeSpace``).
    :param promises: what we and the others that serve with us tell each other.
    :ivar promised_bytes: reserved here and not yet written.
    """

    _log = Logger()

    def __init__(
        self, free_bytes: Callable[[], int], min_free_bytes: int, clock: IReactorTime, promises: IPromises
    ) -> None:
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._promises = promises
        self._looked_at: float | None = None
        self._seen_free_bytes = 0
        self._seen_others = Others()
        self._spent_since_bytes = 0
        self._written_bytes = 0
        self.promised_bytes = 0

    def reserve(self, size_bytes: int) -> Reservation:
        """Promise room for *size_bytes*, what of a resumed upload is still to come.

        :raises Refused: 507 ``no-space``, with ``Retry-After``.
        :raises OSError: when the file system doesn't say.
        """
        with self._promises.one_at_a_time():
            self._check(size_bytes)
            self.promised_bytes += size_bytes
            self._tell()
        return Reservation(self, size_bytes)

    def check(self, size_bytes: int) -> None:
        """See whether there is room for so much now, and promise nothing.

        :raises Refused, OSError: as :meth:`reserve`.
        """
        with self._promises.one_at_a_time():
            self._check(size_bytes)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._available_bytes():
            raise self._refusal()

    def spent(self, size_bytes: int) -> None:
        """So many bytes were written since statvfs was asked. Those that were promised are still to be withdrawn."""
        self._spent_since_bytes += size_bytes
        self._written_bytes += size_bytes

    def withdraw(self, size_bytes: int) -> None:
        """So many bytes aren't promised any more: they are written, or won't be."""
        self.promised_bytes -= size_bytes
        self._tell()

    def _tell(self) -> None:
        self._promises.tell(self.promised_bytes, self._written_bytes)

    def _refusal(self) -> Refused:
        self._log.error(
            "no room for an upload: it would leave less than MinFreeSpace. Free are {free} bytes",
            free=self._seen_free_bytes,
            seldom="MinFreeSpace",
        )
        return Refused(
            507,
            "no-space",
            "The server has no room for this file at the moment.",
            {"Retry-After": str(RETRY_AFTER_S)},
        )

    def _available_bytes(self) -> int:
        now = self._clock.seconds()
        others = self._promises.others()
        # A clock that was set back makes the answer look as if it came from the future.
        is_fresh = self._looked_at is not None and 0 <= now - self._looked_at < REFRESH_S
        # What a member has written that has ended since is in no sum any more.
        if not is_fresh or others.members != self._seen_others.members:
            self._seen_free_bytes = self._free_bytes()
            self._seen_others = others
            self._looked_at = now
            self._spent_since_bytes = 0
        spent_bytes = self._spent_since_bytes + others.written_bytes - self._seen_others.written_bytes
        promised_bytes = self.promised_bytes + others.promised_bytes
        return self._seen_free_bytes - spent_bytes - promised_bytes - self._min_free_bytes
