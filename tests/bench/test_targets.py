"""Which targets are met."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.cells import GETS, NGINX, SHIPPED
from bench.targets import verdicts
from bench.throughput import Run

(LARGE,) = (cell for cell in GETS if cell.important and cell.connections == 1)


def run(seconds: float, cpu_s: float) -> Run:
    return Run(LARGE.size, 1, seconds, cpu_s)


class VerdictTests(SynchronousTestCase):
    """Of GET of 1 GiB: as fast as nginx, and 1.3 times its CPU at most."""

    def met(self, seconds: float, cpu_s: float) -> list[bool]:
        """Whether throughput and CPU are good enough, where nginx takes 1 s and 1 s of CPU."""
        found = verdicts({LARGE: {SHIPPED: [run(seconds, cpu_s)] * 3, NGINX: [run(1.0, 1.0)] * 3}})
        return [verdict.met for verdict in found]

    def test_met(self) -> None:
        """Both, at the very edge."""
        self.assertEqual(self.met(1.0, 1.3), [True, True])

    def test_missed(self) -> None:
        """Each for itself: more throughput is better, less CPU is."""
        self.assertEqual(self.met(1.1, 0.5), [False, True])
        self.assertEqual(self.met(0.5, 1.4), [True, False])

    def test_absent(self) -> None:
        """A server that wasn't there is no target missed, and none met."""
        self.assertEqual(verdicts({LARGE: {SHIPPED: [run(1.0, 1.0)]}}), [])
