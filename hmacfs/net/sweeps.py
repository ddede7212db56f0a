"""Work that is done again and again, beside everything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class Sweeps:
    """LoopingCalls that a failure doesn't end: it is logged, and the next round comes at its time.

    A round that takes longer than its interval is waited for; rounds of one sweep never overlap.

    :ivar running: how many sweeps are at work now.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: list[LoopingCall] = []
        self._ends: list[Deferred[LoopingCall]] = []
        self.running = 0

    def start(self, name: str, interval_s: float, sweep: Callable[[], Awaitable[None]]) -> None:
        """Call *sweep* now, and every *interval_s* seconds from now on.

        :param name: for the log, where it fails.
        """

        async def guarded() -> None:
            self.running += 1
            try:
                await sweep()
            except OSError as error:
                # The disk's trouble, not a fault of the sweep: it comes again with the next round.
                self._log.error("{sweep} failed: {error}", sweep=name, error=error, seldom=name)
            except Exception:
                self._log.failure("{sweep} failed", sweep=name)
            finally:
                self.running -= 1

        call = LoopingCall(lambda: Deferred.fromCoroutine(guarded()))
        call.clock = self._clock
        self._calls.append(call)
        self._ends.append(call.start(interval_s))

    def stop(self) -> Deferred[None]:
        """Begin no more rounds. Fires when those that have begun are over."""
        for call in self._calls:
            call.stop()
        ends = DeferredList(self._ends, consumeErrors=True)
        self._calls, self._ends = [], []
        return ends.addCallback(lambda _: None)
