"""What ``hmacfs put`` and ``hmacfs get`` have in common."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli import transfers
from hmacfs.cli.transfers import Pace


class FakeTime:
    """A clock that only sleep moves.

    :ivar slept_s: how long all sleeps have taken together.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept_s = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept_s += seconds


class PaceTests(SynchronousTestCase):
    """``--limit-rate``."""

    def setUp(self) -> None:
        self.time = FakeTime()
        self.patch(transfers, "time", self.time)

    def passed(self, pace: Pace, chunks: int) -> float:
        """How long it takes until so many chunks of 100 bytes were moved."""
        began = self.time.now
        for _ in range(chunks):
            pace.passed(100)
        return self.time.now - began

    def test_rate(self) -> None:
        self.assertAlmostEqual(self.passed(Pace(1000), 50), 5.0)

    def test_any_rate(self) -> None:
        self.passed(Pace(None), 50)
        self.assertEqual(self.time.slept_s, 0)

    def test_break(self) -> None:
        """What wasn't sent during a break isn't made up for after it."""
        pace = Pace(1000)
        self.passed(pace, 10)
        self.time.now += 60
        self.assertAlmostEqual(self.passed(pace, 50), 4.0)

    def test_jitter(self) -> None:
        """What was late by less than a second is made up for."""
        pace = Pace(1000)
        self.passed(pace, 10)
        self.time.now += 0.5
        self.assertAlmostEqual(self.passed(pace, 50), 4.5)
