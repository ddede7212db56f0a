"""Bytes are moved no faster than they may be: ``--limit-rate`` of put and get, ``--rate`` of verify."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli.exchange import CHUNK_BYTES
from hmacfs.cli.pace import Pace


class PaceTests(SynchronousTestCase):
    """With a clock that only sleeping moves."""

    def setUp(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pace(self, rate_bytes_s: int | None) -> Pace:
        return Pace(rate_bytes_s, lambda: self.now, self.sleep)

    def passed(self, pace: Pace, chunks: int) -> float:
        """How long it takes until so many chunks of 100 bytes were moved."""
        began = self.now
        for _ in range(chunks):
            pace.passed(100)
        return self.now - began

    def test_rate(self) -> None:
        self.assertAlmostEqual(self.passed(self.pace(1000), 50), 5.0)

    def test_any_rate(self) -> None:
        self.assertEqual(self.passed(self.pace(None), 50), 0)

    def test_break(self) -> None:
        """What wasn't sent during a break isn't made up for after it."""
        pace = self.pace(1000)
        self.passed(pace, 10)
        self.now += 60
        self.assertAlmostEqual(self.passed(pace, 50), 4.0)

    def test_jitter(self) -> None:
        """What was late by less than a second is made up for."""
        pace = self.pace(1000)
        self.passed(pace, 10)
        self.now += 0.5
        self.assertAlmostEqual(self.passed(pace, 50), 4.5)

    def test_chunks(self) -> None:
        """At a low rate little is moved at once, but never nothing."""
        chunks = [self.pace(rate).chunk_bytes for rate in (1, 800, 10**9, None)]
        self.assertEqual(chunks, [1, 100, CHUNK_BYTES, CHUNK_BYTES])
