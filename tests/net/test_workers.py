"""The pool of workers, with processes that a test plays."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.orders import ORDERS_FD, Order, Supervisor
from hmacfs.net.workers import (
    FIRST_PAUSE_S,
    KILL_AFTER_S,
    LONGEST_PAUSE_S,
    RETIRE_WITHIN_S,
    START_WITHIN_S,
    WELL_AFTER_S,
    WorkerFailed,
    WorkerPool,
)

_STOP_WITHIN_S = 30.0


class FakeProcess:
    """A process, and its transport."""

    def __init__(self, name: str, slot: int, protocol: ProcessProtocol, program: str) -> None:
        self.name, self.slot, self.program = name, slot, program
        self.protocol = protocol
        self.told = b""
        self.signals: list[str] = []
        protocol.makeConnection(self)

    def writeToChild(self, fd: int, data: bytes) -> None:
        assert fd == ORDERS_FD
        self.told += data

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    @property
    def orders(self) -> list[str]:
        """What it was told after its brief."""
        size = 4 + int.from_bytes(self.told[:4], "big")
        return self.told[size:].decode().split()

    def ready(self) -> None:
        self.protocol.childDataReceived(5, b"rea")
        self.protocol.childDataReceived(5, b"dy\n")

    def fail(self, sentence: str) -> None:
        self.protocol.childDataReceived(5, b"failed " + json.dumps(sentence).encode() + b"\n")
        self.end(1)

    def end(self, status: int | None = None, signal: int | None = None) -> None:
        reason = ProcessDone(None) if status == 0 else ProcessTerminated(status, signal, None)
        self.protocol.processEnded(Failure(reason))


class WorkerPoolTests(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.processes: list[FakeProcess] = []
        self.serving = 0
        self.restarts = 0
        self.gone: list[str] = []
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)
        self.pool = WorkerPool(self.clock, 2, self, _STOP_WITHIN_S)

    def _observe(self, event: Any) -> None:
        self.logged.append(str(event["log_format"]).format(**event))

    def workers_changed(self, serving: int) -> None:
        self.serving = serving

    def worker_restarted(self) -> None:
        self.restarts += 1

    def worker_gone(self, name: str) -> None:
        self.gone.append(name)

    def program(self, name: str) -> Any:
        def start(worker: str, slot: int, protocol: ProcessProtocol) -> bytes:
            self.processes.append(FakeProcess(worker, slot, protocol, name))
            return b"brief of " + worker.encode()

        return start

    def begin(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.pool.start(self.program("old")))

    def begun(self) -> list[FakeProcess]:
        """Two that serve."""
        started = self.begin()
        for process in self.processes:
            process.ready()
        self.successResultOf(started)
        return self.processes

    def replace(self) -> tuple[Deferred[None], list[FakeProcess]]:
        """Two that are to replace the others."""
        replaced = Deferred.fromCoroutine(self.pool.replace(self.program("new")))
        return replaced, self.processes[-2:]

    def test_start(self) -> None:
        """It has started when all serve; each has a slot, a name and its brief."""
        started = self.begin()
        first, second = self.processes
        self.assertEqual([(first.name, first.slot), (second.name, second.slot)], [("w0", 0), ("w1", 1)])
        self.assertEqual(first.told, b"\0\0\0\x0bbrief of w0")
        first.ready()
        self.assertNoResult(started)
        self.assertEqual(self.serving, 1)
        second.ready()
        self.successResultOf(started)
        self.assertEqual((self.serving, self.clock.getDelayedCalls()), (2, []))

    def test_start_fails(self) -> None:
        """With the sentence of the one that can't, when the others have said what they have to; none is started again."""
        started = self.begin()
        self.processes[0].fail("hmacfs: no room")
        self.processes[1].ready()
        error = self.failureResultOf(started, WorkerFailed).value
        self.assertEqual(str(error), "hmacfs: no room")
        self.clock.advance(LONGEST_PAUSE_S)
        self.assertEqual(len(self.processes), 2)

    def test_start_ends_without_a_word(self) -> None:
        started = self.begin()
        self.processes[0].end(signal=9)
        self.processes[1].ready()
        self.assertEqual(str(self.failureResultOf(started, WorkerFailed).value), "w0 was ended by SIGKILL")

    def test_news(self) -> None:
        """They come to all, to those that leave too, whatever bytes they are."""
        self.begun()
        replaced = Deferred.fromCoroutine(self.pool.replace(self.program("new")))
        for process in self.processes[2:]:
            process.ready()
        self.successResultOf(replaced)
        content = bytes(range(256)) * 100
        self.pool.inform(content)
        for process in self.processes:
            heard: list[bytes] = []
            supervisor = Supervisor(-1, lambda: None)
            supervisor._obey = {Order.NEWS: heard.append, Order.RETIRE: lambda _: None}
            supervisor.makeConnection(StringTransport())
            size = 4 + int.from_bytes(process.told[:4], "big")
            supervisor.dataReceived(process.told[size:])
            self.assertEqual(heard, [content])

    def test_no_process(self) -> None:
        """The system does not start one."""

        def refuse(_name: str, _slot: int, _protocol: ProcessProtocol) -> bytes:
            raise PermissionError(13, "Permission denied")

        started = Deferred.fromCoroutine(self.pool.start(refuse))
        self.assertNoResult(started)
        self.clock.advance(0)
        error = self.failureResultOf(started, WorkerFailed).value
        self.assertEqual(str(error), "w0 could not be started: Permission denied")
        self.successResultOf(self.pool.stop())

    def test_start_takes_too_long(self) -> None:
        """It is killed."""
        self.begin()
        self.clock.advance(START_WITHIN_S)
        self.assertEqual(self.processes[0].signals, ["KILL"])

    def test_dies_while_others_start(self) -> None:
        """It is replaced when they have."""
        started = self.begin()
        first, second = self.processes
        first.ready()
        first.end(1)
        second.ready()
        self.successResultOf(started)
        self.clock.advance(FIRST_PAUSE_S)
        self.assertEqual([(process.name, process.slot) for process in self.processes[2:]], [("w0", 0)])

    def test_restart(self) -> None:
        """A worker that was well is replaced at once, in its slot and with its name; it is said how it ended."""
        self.begun()
        self.clock.advance(WELL_AFTER_S)
        self.processes[1].end(signal=11)
        self.clock.advance(0)
        self.assertEqual((self.gone, self.serving, self.restarts), (["w1"], 1, 1))
        self.assertEqual((self.processes[2].name, self.processes[2].slot), ("w1", 1))
        self.assertTrue(any("w1 was ended by SIGSEGV; another one is started at once" in line for line in self.logged))
        self.processes[2].ready()
        self.assertEqual(self.serving, 2)

    def test_pauses_double(self) -> None:
        """Up to a longest one; a worker that is well ends them."""
        self.begun()
        pauses = []
        for _ in range(9):
            self.processes[-1].end(1)
            (later,) = self.clock.getDelayedCalls()
            pauses.append(later.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60])
        self.processes[-1].ready()
        self.clock.advance(WELL_AFTER_S)
        self.processes[-1].end(1)
        self.assertEqual(self.clock.getDelayedCalls()[0].getTime(), self.clock.seconds())

    def test_restart_fails(self) -> None:
        """A sentence is only logged when it can't serve any more."""
        self.begun()
        self.processes[1].end(1)
        self.clock.advance(FIRST_PAUSE_S)
        self.processes[2].fail("hmacfs: gone")
        self.assertTrue(any("(hmacfs: gone); another one is started in 2 s" in line for line in self.logged))

    def test_replace(self) -> None:
        """The old ones leave when all the new ones serve, and keep their names until they are gone."""
        old = [*self.begun()]
        replaced, new = self.replace()
        self.assertEqual([process.name for process in new], ["w2", "w3"])
        new[0].ready()
        self.assertEqual([process.orders for process in old], [[], []])
        new[1].ready()
        self.successResultOf(replaced)
        self.assertEqual([process.orders for process in old], [["retire"], ["retire"]])
        old[0].end(0)
        self.assertEqual(self.serving, 3)
        replaced, newest = self.replace()
        self.assertEqual([process.name for process in newest], ["w0", "w4"])

    def test_replace_fails(self) -> None:
        """Nothing has changed: the old ones stay, and whoever is new leaves."""
        old = [*self.begun()]
        replaced, new = self.replace()
        new[0].ready()
        new[1].fail("hmacfs: bad")
        self.assertEqual(str(self.failureResultOf(replaced, WorkerFailed).value), "hmacfs: bad")
        self.assertEqual((new[0].orders, [process.orders for process in old]), (["stop"], [[], []]))
        new[0].end(0)
        self.clock.advance(WELL_AFTER_S)
        self.assertEqual(len(self.processes), 4)
        old[0].end(1)
        self.clock.advance(0)
        self.assertEqual(self.processes[-1].program, "old")

    def test_dies_while_it_is_replaced(self) -> None:
        """Who replaces it is there already."""
        old = [*self.begun()]
        replaced, new = self.replace()
        old[0].end(1)
        for process in new:
            process.ready()
        self.successResultOf(replaced)
        self.clock.advance(LONGEST_PAUSE_S)
        self.assertEqual((len(self.processes), self.serving), (4, 3))

    def test_dies_while_its_replacement_fails(self) -> None:
        """It is started again."""
        old = [*self.begun()]
        replaced, new = self.replace()
        old[0].end(1)
        new[0].ready()
        new[1].fail("hmacfs: bad")
        self.failureResultOf(replaced, WorkerFailed)
        self.clock.advance(FIRST_PAUSE_S)
        self.assertEqual([(process.slot, process.program) for process in self.processes[4:]], [(0, "old")])

    def test_new_one_dies_before_the_others_serve(self) -> None:
        """It is started again, as what is new now."""
        self.begun()
        replaced, new = self.replace()
        new[0].ready()
        new[0].end(1)
        new[1].ready()
        self.successResultOf(replaced)
        self.clock.advance(FIRST_PAUSE_S)
        self.assertEqual([(process.slot, process.program) for process in self.processes[4:]], [(0, "new")])

    def test_restart_after_replacement(self) -> None:
        """As what is new now."""
        self.begun()
        replaced, new = self.replace()
        for process in new:
            process.ready()
        self.successResultOf(replaced)
        self.clock.advance(WELL_AFTER_S)
        new[0].end(1)
        self.clock.advance(0)
        self.assertEqual(self.processes[-1].program, "new")

    def test_retiring_takes_too_long(self) -> None:
        """After an hour it is told to stop, and then killed."""
        (old, _) = self.begun()
        _, new = self.replace()
        for process in new:
            process.ready()
        self.clock.advance(RETIRE_WITHIN_S)
        self.assertEqual((old.orders, old.signals), (["retire", "stop"], []))
        self.clock.advance(_STOP_WITHIN_S + KILL_AFTER_S)
        self.assertEqual(old.signals, ["KILL"])

    def test_stop(self) -> None:
        """It is over when the last process is gone; none is started again."""
        first, second = self.begun()
        stopped = self.pool.stop()
        self.assertEqual([first.orders, second.orders], [["stop"], ["stop"]])
        first.end(0)
        self.assertNoResult(stopped)
        second.end(1)
        self.successResultOf(stopped)
        self.assertEqual((self.serving, self.clock.getDelayedCalls()), (0, []))

    def test_stop_takes_too_long(self) -> None:
        """They are killed, a while after they should have stopped."""
        first, _ = self.begun()
        self.pool.stop()
        self.clock.advance(_STOP_WITHIN_S + KILL_AFTER_S)
        self.assertEqual(first.signals, ["KILL"])

    def test_hurry(self) -> None:
        """They are told, and have little time."""
        first, _ = self.begun()
        self.pool.stop()
        self.pool.hurry()
        self.assertEqual(first.orders, ["stop", "hurry"])
        self.clock.advance(KILL_AFTER_S)
        self.assertEqual(first.signals, ["KILL"])

    def test_stop_in_a_pause(self) -> None:
        """Nobody is started afterwards."""
        first, second = self.begun()
        first.end(1)
        stopped = self.pool.stop()
        second.end(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_starting(self) -> None:
        """The start has failed, and the stop succeeds."""
        started = self.begin()
        stopped = self.pool.stop()
        for process in self.processes:
            process.end(0)
        self.failureResultOf(started, WorkerFailed)
        self.successResultOf(stopped)
