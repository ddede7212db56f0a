"""Work that is done again and again."""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.sweeps import Sweeps


class SweepsTests(SynchronousTestCase):
    """One sweep every ten seconds.

    :ivar rounds: when rounds began.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.sweeps = Sweeps(self.clock)
        self.rounds: list[float] = []

    def start(self, end: Callable[[], Deferred[None] | None] = lambda: None) -> None:
        async def sweep() -> None:
            self.rounds.append(self.clock.seconds())
            waiting = end()
            if waiting is not None:
                await waiting

        self.sweeps.start("the sweep", 10, sweep)

    def test_at_once_and_then(self) -> None:
        self.start()
        self.clock.pump([5] * 5)
        self.assertEqual(self.rounds, [0, 10, 20])

    def test_failure_is_not_the_end(self) -> None:
        """It is logged under the sweep's name; the next round comes at its time."""
        fails = iter([True, False, False])

        async def sweep() -> None:
            self.rounds.append(self.clock.seconds())
            if next(fails):
                raise ValueError("no")

        self.sweeps.start("the sweep", 10, sweep)
        self.clock.pump([10, 10])
        self.assertEqual(self.rounds, [0, 10, 20])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.sweeps.running, 0)

    def test_disk_out_of_order(self) -> None:
        """Not a fault of the sweep: a line without a traceback, which is told from those of other sweeps."""

        async def sweep() -> None:
            raise OSError(errno.EIO, "Input/output error")

        with capturedLogs() as events:
            self.sweeps.start("the sweep", 10, sweep)
        [event] = events
        self.assertEqual(
            (formatEvent(event), event["seldom"]), ("the sweep failed: [Errno 5] Input/output error", "the sweep")
        )
        self.assertNotIn("log_failure", event)

    def test_rounds_do_not_overlap(self) -> None:
        """One that takes long is waited for; the times of the others stay what they are."""
        waiting: Deferred[None] = Deferred()
        self.start(lambda: waiting)
        self.clock.pump([10, 10, 5])
        self.assertEqual((self.rounds, self.sweeps.running), ([0], 1))
        waiting.callback(None)
        self.assertEqual(self.sweeps.running, 0)
        self.clock.advance(5)
        self.assertEqual(self.rounds, [0, 30])

    def test_independent(self) -> None:
        """A slow sweep doesn't hold up another one."""
        self.sweeps.start("the slow one", 10, lambda: Deferred())
        self.start()
        self.clock.pump([10, 10])
        self.assertEqual(self.rounds, [0, 10, 20])

    def test_stop(self) -> None:
        """No round begins any more."""
        self.start()
        self.successResultOf(self.sweeps.stop())
        self.clock.pump([10, 10])
        self.assertEqual((self.rounds, self.clock.getDelayedCalls()), ([0], []))

    def test_stop_waits(self) -> None:
        """What has begun comes to its end: it may hold a lock."""
        waiting: Deferred[None] = Deferred()
        self.start(lambda: waiting)
        stopped = self.sweeps.stop()
        self.assertNoResult(stopped)
        waiting.callback(None)
        self.successResultOf(stopped)
        self.clock.advance(10)
        self.assertEqual(self.rounds, [0])

    def test_stop_without_any(self) -> None:
        self.successResultOf(self.sweeps.stop())
