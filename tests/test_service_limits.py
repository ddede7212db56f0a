"""How many connections the service takes."""

from __future__ import annotations

import hmacfs.service
from hmacfs.net.descriptors import PER_CONNECTION, RESERVE
from tests.test_service import METRICS, ServiceTestCase
from tests.web.support import request


class ConnectionLimitTests(ServiceTestCase):
    """``MaxConnections`` and ``MaxConnectionsPerIP``."""

    def test_total(self) -> None:
        """At the places for files; monitoring still works."""
        self.start(MaxConnections=1)
        first, second = self.connect(b""), self.connect(b"")
        self.assertEqual((first.transport.value(), second.answer().status), (b"", 503))
        self.assertEqual(self.scrape()["hmac_file_server_connections"], 1)

    def test_address(self) -> None:
        """Of one address."""
        self.start(MaxConnectionsPerIP=2)
        wires = [self.connect(b"") for _ in range(3)]
        self.assertEqual([wire.transport.value()[:12] for wire in wires], [b"", b"", b"HTTP/1.1 429"])

    def test_metrics_are_not_counted(self) -> None:
        """Neither by the one nor by the other."""
        self.start(MaxConnections=1, MaxConnectionsPerIP=1)
        wires = [self.connect(request("GET", "/healthz"), METRICS) for _ in range(5)]
        self.assertEqual({wire.answer().status for wire in wires}, {200})

    def test_too_few_descriptors(self) -> None:
        """The limit is lowered to what they are enough for, and a warning says so."""
        self.patch(hmacfs.service, "raise_limit", lambda: RESERVE + 2 * PER_CONNECTION)
        self.start(MaxConnectionsPerIP=0)
        wires = [self.connect(b"") for _ in range(3)]
        self.assertEqual([wire.transport.value()[:12] for wire in wires], [b"", b"", b"HTTP/1.1 503"])
        self.assertIn("MaxConnections is 2, not 10000", self.logged())

    def test_enough_descriptors(self) -> None:
        """Nothing is said, and 0 stays without a limit."""
        self.patch(hmacfs.service, "raise_limit", lambda: 1000)
        self.start(MaxConnections=0, MaxConnectionsPerIP=0)
        self.assertNotIn("MaxConnections is", self.logged())
        self.assertEqual({self.connect(b"").transport.value() for _ in range(1000)}, {b""})
