"""Medians, and how far apart the runs lie."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.ratios import Spread, ratios


class SpreadTests(SynchronousTestCase):
    """Several measurements of the same thing."""

    def test_ends(self) -> None:
        """One run that went wrong moves an end, and not the middle."""
        self.assertEqual(Spread.of([3.0, 100.0, 1.0]), Spread(3.0, 1.0, 100.0))

    def test_even(self) -> None:
        """Of an even number the middle lies between two."""
        self.assertEqual(Spread.of([1.0, 2.0, 4.0, 8.0]).median, 3.0)


class RatioTests(SynchronousTestCase):
    """One server against another."""

    def test_neighbours(self) -> None:
        """Each run is compared with the one beside it: a machine that slows down changes nothing."""
        self.assertEqual(ratios([10.0, 5.0, 2.0], [20.0, 10.0, 4.0]), Spread(0.5, 0.5, 0.5))

    def test_uneven(self) -> None:
        """Runs without a neighbour don't count."""
        self.assertEqual(ratios([1.0], [2.0, 100.0]), Spread(0.5, 0.5, 0.5))
