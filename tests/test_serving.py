"""What several that serve one store share, on a reactor that a test drives."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.defer import Deferred

from hmacfs.net.leadership import STAND_EVERY_S
from hmacfs.service import HmacfsService
from hmacfs.serving import Serving
from tests.test_service import CONTENT, HTTP, METRICS, ServiceTestCase
from tests.web.support import PATH

SWEPT = "hmac_file_server_retention_last_sweep_timestamp_seconds"


class SweepingTests(ServiceTestCase):
    """Two on one store, each with ports of its own.

    :ivar first: the one that was there first.
    """

    def setUp(self) -> None:
        super().setUp()
        self.first = self.start()
        self.start(ListenPort=f"127.0.0.1:{HTTP + 1}", MetricsPort=f"127.0.0.1:{METRICS + 1}")
        self.addCleanup(self.stop_first)

    def stop_first(self) -> None:
        if self.first.running:
            stopped = self.first.stopService()
            self.reactor.pump([0.02] * 60)
            self.successResultOf(stopped)

    def swept(self, port: int) -> bool:
        return self.scrape(port)[SWEPT] > 0

    def test_once(self) -> None:
        """Only one of them sweeps."""
        self.reactor.advance(10 * STAND_EVERY_S)
        self.assertEqual((self.swept(METRICS), self.swept(METRICS + 1)), (True, False))

    def test_first_has_ended(self) -> None:
        """The other one goes on within a second."""
        self.stop_first()
        self.reactor.advance(STAND_EVERY_S)
        self.assertTrue(self.swept(METRICS + 1))

    def test_handed_over(self) -> None:
        """Who is about to end, and has uploads to finish before, lets the other one sweep, and serves meanwhile."""
        handed_over = self.hand_over(self.first)
        self.reactor.advance(STAND_EVERY_S)
        self.successResultOf(handed_over)
        self.assertTrue(self.swept(METRICS + 1))
        self.assertEqual(self.put().status, 201)

    def hand_over(self, service: HmacfsService) -> Deferred[None]:
        serving = service._front.serving
        assert isinstance(serving, Serving)
        return Deferred.fromCoroutine(serving.hand_over())


class DurabilityTests(ServiceTestCase):
    """What an upload waits for before it is answered."""

    def setUp(self) -> None:
        super().setUp()
        self.synced = 0
        for name in ("fsync", "fdatasync"):
            self.patch(os, name, self.count(getattr(os, name)))

    def count(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def counting(fd: int) -> None:
            self.synced += 1
            call(fd)

        return counting

    def test_fsync(self) -> None:
        """As it ships: for the file, its directory and the store."""
        self.start()
        self.synced = 0
        self.assertEqual(self.put().status, 201)
        self.assertGreaterEqual(self.synced, 3)

    def test_none(self) -> None:
        """Where the operator wants it so: for nothing. The file is there all the same."""
        self.start(Durability="none")
        self.synced = 0
        self.assertEqual(self.put().status, 201)
        self.assertEqual(self.synced, 0)
        self.assertEqual((self.directory / "store" / PATH).read_bytes(), CONTENT)
