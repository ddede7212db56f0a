"""How many connections and requests there may be: hmacfs.web.site."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.scopes import Scopes
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, RequestsInProgress
from hmacfs.net.limits import Limits
from hmacfs.net.streaming import RETRY_AFTER_S
from hmacfs.web.site import HmacfsSite
from tests.net.wire import HandlerResource, Later, MemoryTransport, Wire, respond
from tests.web.support import request

PROXY = "192.0.2.9"


class LimitsTestCase(SynchronousTestCase):
    """A site whose requests wait for the test, behind a proxy or not."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.registry = CollectorRegistry()
        self.entries: list[RequestEntry] = []
        self.later = Later()
        addresses = ClientAddresses([ip_network(PROXY)])
        scopes = Scopes(addresses, 64)
        self.site = HmacfsSite(
            HandlerResource(self.later),
            reactor=self.clock,
            limits=Limits(),
            addresses=addresses,
            access_log=self.entries.append,
            metrics=Metrics(self.registry),
            connections=Connections(3, 2, scopes.of_peer),
            in_progress=RequestsInProgress(2),
            scopes=scopes,
        )

    def connect(self, host: str = PROXY) -> Wire:
        return Wire(self.site, MemoryTransport(host))

    def get(self, client: str, headers: Mapping[str, str] | None = None) -> Wire:
        """A request that a proxy passes on."""
        wire = self.connect()
        wire.send(request("GET", "/f", {"X-Forwarded-For": client, **(headers or {})}))
        return wire

    def refused(self, limit: str) -> float | None:
        return self.registry.get_sample_value("hmac_file_server_excess_connections_total", {"limit": limit})


class RequestTests(LimitsTestCase):
    """Requests of one client behind a proxy at the same time."""

    def setUp(self) -> None:
        super().setUp()
        self.site.connections.most = 0

    def test_too_many(self) -> None:
        """429; others are served, and so is the client when one of its own is over."""
        first, second = (self.get("203.0.113.9") for _ in range(2))
        third = self.get("203.0.113.9")
        answer = third.answer()
        self.assertEqual((answer.status, answer.headers["retry-after"]), (429, str(RETRY_AFTER_S)))
        self.assertTrue(answer.body.startswith(b"too-many-connections: "))
        self.assertEqual(answer.headers["access-control-allow-origin"], "*")
        self.assertEqual(self.get("203.0.113.10").transport.value(), b"")
        respond(self.later.requests[0], 200)
        second.vanish()
        more = [self.get("203.0.113.9") for _ in range(3)]
        self.assertEqual([wire.statuses() for wire in (first, *more)], [[200], [], [], [429]])

    def test_connection_goes_on(self) -> None:
        """It is the proxy's, and other clients' requests will come by it."""
        for _ in range(2):
            self.get("203.0.113.9")
        wire = self.get("203.0.113.9")
        wire.send(request("GET", "/f", {"X-Forwarded-For": "203.0.113.10"}))
        respond(self.later.request, 200)
        self.assertEqual(wire.statuses(), [429, 200])

    def test_logged(self) -> None:
        """With its reason and its client."""
        for _ in range(3):
            self.get("203.0.113.9")
        (entry,) = self.entries
        self.assertEqual((entry.status, entry.reason, entry.client), (429, "too-many-connections", "203.0.113.9"))

    def test_network(self) -> None:
        """A network of IPv6 is one client."""
        answers = [self.get(f"2001:db8::{number}").statuses() for number in range(3)]
        self.assertEqual(answers, [[], [], [429]])

    def test_proxy_itself(self) -> None:
        """A proxy that doesn't say for whom it speaks isn't limited: it may be for everybody."""
        for _ in range(5):
            wire = self.connect()
            wire.send(request("GET", "/f"))
            self.assertEqual(wire.transport.value(), b"")

    def test_direct(self) -> None:
        """Whoever comes directly is limited by connections, and may say in headers what it wants."""
        for _ in range(2):
            self.connect("198.51.100.7").send(request("GET", "/f", {"X-Forwarded-For": "203.0.113.9"}))
        self.assertEqual([self.get("203.0.113.9").statuses() for _ in range(3)], [[], [], [429]])


class ConnectionTests(LimitsTestCase):
    """Connections, of one address and in all."""

    def test_address(self) -> None:
        """Counted, though not as a request."""
        wires = [self.connect("198.51.100.7") for _ in range(3)]
        self.assertEqual(wires[-1].answer().status, 429)
        self.assertEqual((self.refused("address"), self.refused("total"), self.entries), (1, None, []))

    def test_total(self) -> None:
        """A proxy's connections count in all."""
        wires = [self.connect() for _ in range(4)]
        self.assertEqual((wires[-1].answer().status, self.refused("total")), (503, 1))

    def test_said_once_a_minute(self) -> None:
        """A warning, and not one for each of them."""
        with capturedLogs() as events:
            for _ in range(10):
                self.connect("198.51.100.7")
            self.clock.advance(59)
            self.assertEqual(len(events), 1)
            self.clock.advance(1)
            self.connect("2001:db8::1")
            for _ in range(3):
                self.connect()
        self.assertEqual([event["peer"] for event in events], ["198.51.100.7", PROXY])
