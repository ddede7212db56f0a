"""Who may come in: hmacfs.net.admission."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.admission import MOST_FAREWELLS, Connections, Excess, RequestsInProgress


class Connection:
    """Remembers that it had to go."""

    def __init__(self) -> None:
        self.left = False

    def makeRoom(self) -> None:
        self.left = True


def peer(host: str) -> IPv4Address:
    return IPv4Address("TCP", host, 50000)


def scope(address: IAddress) -> str | None:
    return address.host if isinstance(address, IPv4Address) and address.host != "127.0.0.1" else None


class ConnectionsTests(SynchronousTestCase):
    """The two limits."""

    def entered(self, connections: Connections, host: str) -> Connection:
        connection = Connection()
        self.assertIsNone(connections.enter(connection, peer(host)))
        return connection

    def test_one_address(self) -> None:
        """One has so many, another as many again, and who leaves makes room."""
        connections = Connections(0, 2, scope)
        first = self.entered(connections, "192.0.2.1")
        self.entered(connections, "192.0.2.1")
        self.assertIs(connections.enter(Connection(), peer("192.0.2.1")), Excess.ADDRESS)
        self.entered(connections, "192.0.2.2")
        connections.leave(first)
        connections.leave(first)
        self.entered(connections, "192.0.2.1")
        self.assertIs(connections.enter(Connection(), peer("192.0.2.1")), Excess.ADDRESS)
        self.assertEqual(len(connections), 3)

    def test_proxies_and_unix_sockets(self) -> None:
        """Who speaks for many isn't limited."""
        connections = Connections(0, 1, scope)
        for address in (peer("127.0.0.1"), UNIXAddress(b"/run/x"), None):
            for _ in range(5):
                self.assertIsNone(connections.enter(Connection(), address))

    def test_announced_later(self) -> None:
        """Whom a PROXY protocol header announces counts from then on."""
        connections = Connections(0, 1, scope)
        announced, other = Connection(), Connection()
        for connection in (announced, other):
            self.assertIsNone(connections.enter(connection, None))
        self.assertIsNone(connections.identify(announced, peer("192.0.2.1")))
        self.assertIs(connections.identify(other, peer("192.0.2.1")), Excess.ADDRESS)
        connections.leave(announced)
        self.assertIsNone(connections.identify(other, peer("192.0.2.1")))

    def test_longest_idle_makes_room(self) -> None:
        """Who has waited longest for a request goes; who is at work, or new, stays."""
        connections = Connections(3, 0, scope)
        first, second, third = (self.entered(connections, "192.0.2.1") for _ in range(3))
        for connection in (first, second, third):
            connections.waits(connection)
        connections.works(first)
        connections.waits(first)
        connections.works(second)
        self.entered(connections, "192.0.2.2")
        self.entered(connections, "192.0.2.3")
        self.assertEqual([c.left for c in (first, second, third)], [True, False, True])
        self.assertIs(connections.enter(Connection(), peer("192.0.2.4")), Excess.TOTAL)
        self.assertEqual(len(connections), 3)

    def test_greedy_address_costs_nobody_a_connection(self) -> None:
        """Who has too many gets no room at the cost of others."""
        connections = Connections(2, 1, scope)
        idle = self.entered(connections, "192.0.2.1")
        connections.waits(idle)
        self.entered(connections, "192.0.2.2")
        self.assertIs(connections.enter(Connection(), peer("192.0.2.2")), Excess.ADDRESS)
        self.assertFalse(idle.left)

    def test_no_limits(self) -> None:
        """0 means any number."""
        connections = Connections(0, 0, scope)
        for _ in range(1000):
            self.entered(connections, "192.0.2.1")
        self.assertEqual(len(connections), 1000)

    def test_farewells(self) -> None:
        """Who is turned away gives its place back at once; only so many get the time to hear why."""
        connections = Connections(1, 1, scope)
        leaving = [Connection() for _ in range(MOST_FAREWELLS + 1)]
        for connection in leaving[:-1]:
            self.assertIsNone(connections.enter(connection, peer("192.0.2.1")))
            self.assertTrue(connections.farewell(connection))
        self.assertFalse(connections.farewell(leaving[-1]))
        connections.leave(leaving[0])
        self.assertTrue(connections.farewell(leaving[-1]))

    def test_nothing_is_left(self) -> None:
        """Of connections that are gone nothing is remembered, nor of one that never came."""
        connections = Connections(5, 5, scope)
        connection = self.entered(connections, "192.0.2.1")
        connections.leave(connection)
        connections.waits(connection)
        for _ in range(5):
            self.entered(connections, "192.0.2.1")
        self.assertIs(connections.enter(Connection(), peer("192.0.2.2")), Excess.TOTAL)


class RequestsInProgressTests(SynchronousTestCase):
    """Requests of one client at a time."""

    def test_limit(self) -> None:
        """One client has so many, another as many again; what ends makes room."""
        requests = RequestsInProgress(2)
        begun = [requests.begin(client) for client in ("a", "a", "a", "b")]
        self.assertEqual(begun, [True, True, False, True])
        requests.end("a")
        self.assertEqual([requests.begin("a"), requests.begin("a")], [True, False])

    def test_no_limit(self) -> None:
        """0 means any number."""
        requests = RequestsInProgress(0)
        self.assertTrue(all(requests.begin("a") for _ in range(1000)))
