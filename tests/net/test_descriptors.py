"""File descriptors: hmacfs.net.descriptors."""

from __future__ import annotations

import resource

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.descriptors import PER_CONNECTION, RESERVE, affordable_connections, raise_limit


class DescriptorTests(SynchronousTestCase):
    """How many there are, and for what."""

    def test_soft_limit_is_raised(self) -> None:
        """To the hard limit, which only root may raise."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        self.assertEqual((raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)), (hard, (hard, hard)))

    def test_affordable(self) -> None:
        """A connection may take several; some are kept back for everything else."""
        self.assertEqual(affordable_connections(RESERVE + 100 * PER_CONNECTION), 100)
        self.assertEqual(affordable_connections(10), 1)
