"""Clients that take their time, and clients that are too many, at a server with short limits."""

from __future__ import annotations

import socket
import time

from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.signing import url_path, v
from tests.e2e.wire import Answer, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

MIB = 1 << 20
#: Larger than what the sockets of both ends take without anybody reading.
LARGE = 32 * MIB

EXCESS = 'hmac_file_server_excess_connections_total{limit="%s"}'


class SlowClientTests(PeerTestCase):
    """A body that stands still and an answer that nobody reads."""

    def setUp(self) -> None:
        self.daemon = Daemon(self, ReadTimeout=1, WriteTimeout=1, MinFreeSpace=0).started()

    def upload(self, path: str, size_bytes: int) -> None:
        answer = self.daemon.ask("PUT", v(path, size_bytes), None, bytes(size_bytes))
        self.assertEqual(answer.status, 201)

    def test_slow_body(self) -> None:
        """It is told so, after ``ReadTimeout`` and not before; what has arrived can be gone on with."""
        began = time.monotonic()
        with Connection(self.daemon.port) as connection:
            connection.send_head("PUT", v("a/slow", MIB), None, MIB)
            connection.send(bytes(1000))
            answer = connection.answer("PUT")
            self.assertGreaterEqual(time.monotonic() - began, 1)
            self.assertEqual((answer.status, answer.header("Connection")), (408, "close"))
            self.assertTrue(answer.text.startswith("timeout: "))
        self.assertEqual(self.daemon.ask("HEAD", v("a/slow", MIB)).header("Upload-Offset"), "1000")

    def test_slow_reader(self) -> None:
        """It is cut off, and doesn't hold the file any longer; who reads gets all of it."""
        self.upload("a/large", LARGE)
        with Connection(self.daemon.port) as connection:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.send_head("GET", url_path("a/large"))
            self.daemon.process.wait_for_line(f"GET {url_path('a/large')} 499")
            with self.assertRaises(ConnectionResetError):
                connection.rest()
        self.assertEqual(len(self.daemon.ask("GET", url_path("a/large")).body), LARGE)

    def test_others_are_served(self) -> None:
        """Slow ones of every kind at once disturb nobody, and each hears what it must."""
        self.upload("a/large", LARGE)
        slow: list[Connection] = []
        for number in range(60):
            connection = Connection(self.daemon.port)
            self.addCleanup(connection.close)
            slow.append(connection)
            if number % 3 == 0:
                connection.send_head("PUT", v(f"a/{number}", MIB), None, MIB)
            elif number % 3 == 1:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.send_head("GET", url_path("a/large"))
            else:
                connection.send(b"GET / HT")
        for number in range(10):
            self.upload(f"b/{number}", 100_000)
        wait_until(lambda: self.requests("PUT", 408) == self.requests("GET", 499) == 20, "the slow ones are cut")
        self.upload("b/last", 100_000)

    def requests(self, method: str, status: int) -> float:
        name = f'hmac_file_server_requests_total{{method="{method}",status="{status}"}}'
        return self.daemon.metrics().get(name, 0)


class TooManyTests(PeerTestCase):
    """``MaxConnections`` and ``MaxConnectionsPerIP``."""

    def daemon(self, **limits: TomlValue) -> Daemon:
        keys: dict[str, TomlValue] = {"TrustedProxies": [], "MinFreeSpace": 0, **limits}
        return Daemon(self, text=None, **keys).started()

    def connect(self, daemon: Daemon, source: str = "127.0.0.1") -> Connection:
        connection = Connection(daemon.port, source)
        self.addCleanup(connection.close)
        return connection

    def served(self, connection: Connection) -> bool:
        answer = connection.request("GET", "/nothing")
        return answer.status == 404 and answer.header("Connection") is None

    def turned_away(self, connection: Connection) -> Answer:
        """It is told so without having asked, and that is the end of the connection."""
        answer = connection.answer()
        self.assertTrue(answer.text.startswith("too-many-connections: "))
        self.assertTrue(connection.closed_by_peer())
        return answer

    def test_one_address(self) -> None:
        """Others are not meant, and one that ends makes room."""
        daemon = self.daemon(MaxConnectionsPerIP=2)
        first, second = (self.connect(daemon, "127.0.0.2") for _ in range(2))
        self.assertEqual((self.served(first), self.served(second)), (True, True))
        answer = self.turned_away(self.connect(daemon, "127.0.0.2"))
        self.assertEqual((answer.status, answer.header("Access-Control-Allow-Origin")), (429, "*"))
        self.assertTrue(self.served(self.connect(daemon, "127.0.0.3")))
        self.assertEqual(daemon.metrics()[EXCESS % "address"], 1)
        first.close()
        wait_until(lambda: daemon.metrics()["hmac_file_server_connections"] == 2, "the server sees the end")
        self.assertTrue(self.served(self.connect(daemon, "127.0.0.2")))

    def test_all_together(self) -> None:
        """Who waits for longest goes for a new one; where all are busy the new one is told so."""
        daemon = self.daemon(MaxConnections=2)
        first, second = self.connect(daemon), self.connect(daemon)
        self.assertEqual((self.served(first), self.served(second)), (True, True))
        third = self.connect(daemon)
        self.assertTrue(self.served(third))
        self.assertTrue(first.closed_by_peer())
        for connection, path in ((second, "a/second"), (third, "a/third")):
            connection.send_head("PUT", v(path, MIB), None, MIB)
            connection.send(b"x")
        wait_until(lambda: daemon.metrics()["hmac_file_server_uploads_in_progress"] == 2, "both are busy")
        answer = self.turned_away(self.connect(daemon))
        self.assertEqual((answer.status, answer.header("Retry-After")), (503, "5"))
        self.assertEqual(daemon.metrics()[EXCESS % "total"], 1)

    def test_behind_a_proxy(self) -> None:
        """One client's requests at the same time are counted, whatever connections they come by."""
        daemon = Daemon(self, MaxConnectionsPerIP=1, MinFreeSpace=0).started()
        client = {"X-Forwarded-For": "203.0.113.9"}
        with Connection(daemon.port) as busy, Connection(daemon.port) as other:
            busy.send_head("PUT", v("a/busy", MIB), client, MIB)
            busy.send(b"x")
            wait_until(lambda: daemon.metrics()["hmac_file_server_uploads_in_progress"] == 1, "it is busy")
            self.assertEqual(other.request("GET", "/nothing", client).status, 429)
            self.assertEqual(other.request("GET", "/nothing", {"X-Forwarded-For": "203.0.113.10"}).status, 404)
