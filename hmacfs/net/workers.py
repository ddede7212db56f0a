"""Processes that do the same work side by side, and whoever looks after them.

There are so many *slots*, and one worker is in force for each. A worker that ends by itself is replaced: at once if it had
served for a while, else after a pause that doubles. All of them can be replaced by others while the work goes on; those
that leave may take their time.

Every worker has a name, ``w0``, ``w1`` ..., the lowest that no living one has.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from hmacfs.net.orders import ORDERS_FD, Order, Report, framed, news

#: A worker that has served for so many seconds is well; the next is started at once when it ends.
WELL_AFTER_S: Final = 10.0

#: The first pause before another is started, and the longest, in seconds.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

#: How long a worker may take until it serves, in seconds.
START_WITHIN_S: Final = 300.0

#: How long a worker that has been replaced may take to leave before it is told to stop, in seconds.
RETIRE_WITHIN_S: Final = 3600.0

#: How much longer than it was told a worker may take to stop before it is killed, in seconds.
KILL_AFTER_S: Final = 10.0


class WorkerFailed(Exception):
    """A worker has ended, or was ended, before it served. Its text is a sentence or the manner of its end.

    :ivar sentence: what it had to say, if anything.
    """

    def __init__(self, name: str, how: str, sentence: str | None) -> None:
        super().__init__(sentence or f"{name} {how}")
        self.sentence = sentence


class Start(Protocol):
    """Starts a worker's process."""

    def __call__(self, name: str, slot: int, protocol: ProcessProtocol) -> bytes:
        """
        :param slot: counted from 0.
        :param protocol: of the process, whose descriptor :data:`~hmacfs.net.orders.ORDERS_FD` must be a pipe from us,
            and which has another pipe to us for its reports.
        :return: the worker's brief.
        """


class Watcher(Protocol):
    """Is told what happens."""

    def workers_changed(self, serving: int) -> None:
        """So many serve now."""

    def worker_restarted(self) -> None:
        """One is started because another had ended by itself."""

    def worker_gone(self, name: str) -> None:
        """A process has ended; nobody has its name now."""


class Worker(ProcessProtocol):
    """One process, from its start to its end.

    :ivar ready: fires when it serves; fails with :exc:`WorkerFailed` if it never will.
    """

    def __init__(self, name: str, slot: int, clock: IReactorTime, ended: Callable[[Worker, str], None]) -> None:
        self.name = name
        self.slot = slot
        self.ready: Deferred[None] = Deferred()
        self.began_at = clock.seconds()
        self.serves = False
        self.leaves = False
        self.sentence: str | None = None
        self._clock = clock
        self._ended = ended
        self._received = b""
        self._timer: IDelayedCall | None = clock.callLater(START_WITHIN_S, self._kill)

    def brief(self, data: bytes) -> None:
        """The first thing that it is told."""
        self._tell(framed(data))

    def inform(self, content: bytes) -> None:
        """Tell it what it is to know."""
        self._tell(news(content))

    def retire(self, stop_within_s: float) -> None:
        """Another one has its place."""
        self._leave(Order.RETIRE)
        self._set_timer(RETIRE_WITHIN_S, lambda: self.stop(stop_within_s))

    def stop(self, within_s: float) -> None:
        """End it, if need be by force."""
        self._leave(Order.STOP)
        self._set_timer(within_s + KILL_AFTER_S, self._kill)

    def hurry(self) -> None:
        """End it sooner than it was told."""
        self._leave(Order.HURRY)
        self._set_timer(KILL_AFTER_S, self._kill)

    def _leave(self, order: Order) -> None:
        self.leaves = True
        self._tell(order.value + b"\n")

    def _tell(self, data: bytes) -> None:
        transport: Any = self.transport
        try:
            transport.writeToChild(ORDERS_FD, data)
        except (AttributeError, KeyError):
            # There is no process, or its end of the pipe is closed, and its end will be known in a moment.
            pass

    def _kill(self) -> None:
        self._timer = None
        transport: Any = self.transport
        transport.signalProcess("KILL")

    def _set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(seconds, function)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # ProcessProtocol

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            if word == Report.FAILED.value:
                self.sentence = json.loads(rest)
            elif word == Report.READY.value and not self.serves:
                self.serves = True
                if not self.leaves:
                    self._cancel_timer()
                self.ready.callback(None)

    def processEnded(self, reason: Failure) -> None:
        self.end(_how(reason))

    def end(self, how: str) -> None:
        """It is over.

        :param how: it came to that.
        """
        self._cancel_timer()
        served, self.serves = self.serves, False
        self._ended(self, how)
        if not served:
            self.ready.errback(WorkerFailed(self.name, how, self.sentence))


@define(eq=False)
class _Slot:
    """
    :ivar start: how its workers are started.
    :ivar current: the worker in force, or the one that is to be.
    :ivar coming: who is to replace it.
    :ivar pause_s: before the last worker was started.
    :ivar later: the start of the next one.
    """

    number: int
    start: Start
    current: Worker | None = None
    coming: Worker | None = None
    pause_s: float = 0.0
    later: IDelayedCall | None = None


@define(eq=False)
class WorkerPool:
    """See the module.

    :param clock: the reactor.
    :param size: the number of slots.
    :param watcher: is told what happens.
    :param stop_within_s: how long a worker may take to stop.
    """

    _log = Logger()

    _clock: IReactorTime
    _size: int
    _watcher: Watcher
    _stop_within_s: float
    _slots: list[_Slot] = field(factory=list)
    _alive: dict[str, Worker] = field(factory=dict)
    _has_begun: bool = False
    _stopped: Deferred[None] | None = None

    async def start(self, start: Start) -> None:
        """Start all.

        :raises WorkerFailed: one of them can't serve. The others are to be stopped.
        """
        self._slots = [_Slot(number, start) for number in range(self._size)]
        for slot in self._slots:
            slot.current = self._spawn(slot.number, start)
        await _all_ready(slot.current for slot in self._slots)
        self._has_begun = True
        self._fill()

    async def replace(self, start: Start) -> None:
        """Replace all by others, when all of those serve.

        :param start: is what starts workers from then on.
        :raises WorkerFailed: one of the others can't serve. Nothing has changed then.
        """
        for slot in self._slots:
            slot.coming = self._spawn(slot.number, start)
        try:
            await _all_ready(slot.coming for slot in self._slots)
        except WorkerFailed:
            self._send_away_those_coming()
            raise
        for slot in self._slots:
            self._install(slot, start)
        self._fill()

    def inform(self, content: bytes) -> None:
        """Tell all, those that are leaving too, what they are to know."""
        for worker in self._alive.values():
            worker.inform(content)

    def stop(self) -> Deferred[None]:
        """End all. Fires when the last process has ended."""
        stopped = self._stopped = Deferred()
        for slot in self._slots:
            if slot.later is not None:
                slot.later.cancel()
                slot.later = None
        for worker in [*self._alive.values()]:
            worker.stop(self._stop_within_s)
        self._look_for_end()
        return stopped

    def hurry(self) -> None:
        """End those sooner that are being ended."""
        for worker in [*self._alive.values()]:
            worker.hurry()

    def _install(self, slot: _Slot, start: Start) -> None:
        old, slot.current, slot.coming = slot.current, slot.coming, None
        slot.start, slot.pause_s = start, 0.0
        if slot.later is not None:
            slot.later.cancel()
            slot.later = None
        if old is not None and old.name in self._alive:
            old.retire(self._stop_within_s)

    def _send_away_those_coming(self) -> None:
        for slot in self._slots:
            coming, slot.coming = slot.coming, None
            if coming is not None:
                coming.stop(self._stop_within_s)
        self._fill()

    def _fill(self) -> None:
        """Have a worker for slots whose own one has ended while others were being waited for."""
        for slot in self._slots:
            if slot.current is None and slot.later is None and self._stopped is None:
                self._start_later(slot, FIRST_PAUSE_S)

    def _spawn(self, slot: int, start: Start) -> Worker:
        name = next(name for name in map("w{}".format, count()) if name not in self._alive)
        worker = self._alive[name] = Worker(name, slot, self._clock, self._ended)
        worker.ready.addCallback(lambda _: self._count())
        try:
            worker.brief(start(name, slot, worker))
        except OSError as error:
            # Not at once: nobody has the worker yet.
            self._clock.callLater(0, worker.end, f"could not be started: {error.strerror or error}")
        return worker

    def _count(self) -> None:
        self._watcher.workers_changed(sum(worker.serves for worker in self._alive.values()))

    def _ended(self, worker: Worker, how: str) -> None:
        del self._alive[worker.name]
        self._watcher.worker_gone(worker.name)
        self._count()
        for slot in self._slots:
            if slot.coming is worker:
                slot.coming = None
            elif slot.current is worker:
                slot.current = None
                self._missed(slot, worker, how)
        self._look_for_end()

    def _missed(self, slot: _Slot, worker: Worker, how: str) -> None:
        """A worker in force has ended."""
        if self._stopped is not None or not self._has_begun:
            return
        well = self._clock.seconds() - worker.began_at >= WELL_AFTER_S
        pause_s = 0.0 if well else min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * slot.pause_s))
        self._log.error(
            "{name} {how}; another one is started {when}",
            name=worker.name,
            how=how if worker.sentence is None else f"{how} ({worker.sentence})",
            when=f"in {pause_s:g} s" if pause_s else "at once",
        )
        if slot.coming is None:
            self._start_later(slot, pause_s)

    def _start_later(self, slot: _Slot, pause_s: float) -> None:
        slot.pause_s = pause_s
        slot.later = self._clock.callLater(pause_s, self._start_again, slot)

    def _start_again(self, slot: _Slot) -> None:
        slot.later = None
        slot.current = self._spawn(slot.number, slot.start)
        # What its end is followed by is decided when it ends.
        slot.current.ready.addErrback(lambda _: None)
        self._watcher.worker_restarted()

    def _look_for_end(self) -> None:
        if self._stopped is not None and not self._alive and not self._stopped.called:
            self._stopped.callback(None)


async def _all_ready(workers: Iterable[Worker | None]) -> None:
    """
    :raises WorkerFailed: the first that isn't.
    """
    waiting: Sequence[Deferred[None]] = [worker.ready for worker in workers if worker is not None]
    failures: list[Failure] = []
    await gatherResults([each.addErrback(failures.append) for each in waiting])
    if failures:
        failures[0].raiseException()


def _how(reason: Failure) -> str:
    """How a process has ended."""
    end = reason.value
    if isinstance(end, ProcessTerminated) and end.signal is not None:
        return f"was ended by {signal.Signals(end.signal).name}"
    return f"has ended with status {getattr(end, 'exitCode', 0)}"
