"""Deadlines of very many things, at a cost that doesn't grow with them.

What has a deadline is filed under the second in which it falls, and visited in that second. Most deadlines of a busy
connection are put off again and again, and few are ever reached; so one that is put off stays filed where it was, and
says so when it is visited too early. Nothing else is looked at: a tick in which nothing is due costs a comparison.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import floor, inf
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: How often the wheel turns, in seconds: everything is visited in time, or up to so much late.
TICK_S = 1.0


class Timed(Protocol):
    """Something with a deadline. It is known by its identity."""

    def checkTime(self, now: float) -> float:
        """Do what is due.

        :return: when there is to be another visit, in seconds of the clock; ``inf`` for never.
        """

    def abortConnection(self) -> None:
        """Called when :meth:`checkTime` has raised something."""


class Wheel:
    """Visits what is filed in it.

    :param reactor: tells the time, which may be set back, and drives the wheel.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime) -> None:
        #: The time in seconds, by the reactor's clock. Asked for at every step of every request.
        self.now = reactor.seconds
        self._reactor = reactor
        self._filed: dict[Timed, int] = {}
        self._slots: dict[int, set[Timed]] = {}
        #: The keys of *_slots* as a heap.
        self._order: list[int] = []
        #: The next tick, while there is something to be visited.
        self._next: IDelayedCall | None = None

    def __len__(self) -> int:
        """How many things are filed."""
        return len(self._filed)

    def file(self, timed: Timed, at: float) -> None:
        """Visit *timed* in the second of *at*, or when it is already filed for, if that is sooner."""
        if at != inf and self._filed.get(timed, inf) > at:
            self._take_out(timed)
            self._put(timed, floor(at))

    def drop(self, timed: Timed) -> None:
        """Don't visit *timed* any more."""
        self._take_out(timed)
        if not self._filed and self._next is not None:
            self._next.cancel()
            self._next = None

    def _put(self, timed: Timed, slot: int) -> None:
        self._filed[timed] = slot
        if slot not in self._slots:
            self._slots[slot] = set()
            heappush(self._order, slot)
        self._slots[slot].add(timed)
        if self._next is None:
            self._next = self._reactor.callLater(TICK_S, self._tick)

    def _take_out(self, timed: Timed) -> None:
        slot = self._filed.pop(timed, None)
        if slot in self._slots:  # else its second has come, and its visit is a matter of moments
            self._slots[slot].discard(timed)

    def _tick(self) -> None:
        self._next = None
        now = self.now()
        current = floor(now)
        due: list[Timed] = []
        while self._order and self._order[0] <= current:
            due += self._slots.pop(heappop(self._order))
        for timed in due:
            # Unless a visit to another has dropped it.
            if self._filed.get(timed, inf) <= current:
                self._visit(timed, now, current)
        if self._filed and self._next is None:
            self._next = self._reactor.callLater(TICK_S, self._tick)

    def _visit(self, timed: Timed, now: float, current: int) -> None:
        del self._filed[timed]
        try:
            again = timed.checkTime(now)
        except Exception:
            # Must not end the ticking for all the others.
            self._log.failure("A connection's time could not be checked")
            timed.abortConnection()
            return
        if again != inf:
            # What is due later in this second is visited in the next tick.
            self.file(timed, max(again, current + 1))
