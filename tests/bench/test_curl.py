"""What curl says of its transfers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.curl import seconds
from bench.wrk import LoadFailed


class SecondsTests(SynchronousTestCase):
    """Status and time, a line each."""

    def test_sum(self) -> None:
        """All transfers count."""
        self.assertAlmostEqual(seconds("200 0.25\n200 0.5\n", 200), 0.75)

    def test_other_status(self) -> None:
        """An error that comes fast is not to look like a fast server."""
        self.assertRaises(LoadFailed, seconds, "201 0.25\n413 0.001\n", 201)

    def test_nothing(self) -> None:
        """No transfer takes no time at all."""
        self.assertRaises(LoadFailed, seconds, "", 200)
