"""Tests for :mod:`hmacfs.net.rests`."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.rests import Rests


class RestsTests(SynchronousTestCase):
    """How long a rest is."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rests = Rests(self.clock)

    def take(self, seconds: float) -> Deferred[None]:
        return Deferred.fromCoroutine(self.rests.take(seconds))

    def test_to_its_end(self) -> None:
        """As long as it is to be, one after the other."""
        for _ in range(2):
            taken = self.take(3)
            self.clock.advance(2.9)
            self.assertNoResult(taken)
            self.clock.advance(0.1)
            self.successResultOf(taken)

    def test_ended(self) -> None:
        """It is over at once, nothing is left of it, and there are no others."""
        taken = self.take(3)
        self.rests.end()
        self.successResultOf(taken)
        self.successResultOf(self.take(3))
        self.assertEqual(self.clock.getDelayedCalls(), [])
