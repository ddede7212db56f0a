"""Rests between the steps of long work."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater


class Rests:
    """The rests of one worker. Nobody who wants it to end waits for one. To be used on the reactor's thread alone."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._rest: Deferred[None] | None = None
        self._are_over = False

    async def take(self, seconds: float) -> None:
        """Wait for so long, or until :meth:`end` is called; not at all after that."""
        if self._are_over:
            return
        self._rest = deferLater(self._clock, seconds, lambda: None)
        try:
            await self._rest
        except CancelledError:
            pass
        finally:
            self._rest = None

    def end(self) -> None:
        """Back to work now, and without a rest from now on."""
        self._are_over = True
        if self._rest is not None:
            self._rest.cancel()
