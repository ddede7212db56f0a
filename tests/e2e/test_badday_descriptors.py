"""A day on which the server may not open one file more."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from tests.e2e.badday import BadDayTestCase
from tests.e2e.processes import wait_until
from tests.e2e.wire import Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

ACCEPT = "warn: too many open files: connections are turned away"
OPEN = "error: too many open files"


class DescriptorsTests(BadDayTestCase):
    """``RLIMIT_NOFILE`` is reached."""

    def setUp(self) -> None:
        super().setUp()
        self.stored = self.make_client(path="slot/stored")
        self.assertEqual(self.stored.put().status, 201)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.daemon.process.pid}/fd"))

    def allow(self, files: int) -> None:
        """Let the server have so many descriptors, those included that it has."""
        _, hard = resource.prlimit(self.daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.daemon.process.pid, resource.RLIMIT_NOFILE, (files, hard))

    def allow_all(self) -> None:
        _, hard = resource.prlimit(self.daemon.process.pid, resource.RLIMIT_NOFILE)
        self.allow(hard)

    def connect(self) -> Connection:
        """A connection that the server has taken."""
        connection = Connection(self.daemon.port)
        self.addCleanup(connection.close)
        self.assertEqual(connection.request("GET", "/upload/slot/stored").status, 200)
        return connection

    def cpu_s(self) -> float:
        """Seconds that the server has computed so far."""
        fields = Path(f"/proc/{self.daemon.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def assert_at_rest(self) -> None:
        """It doesn't compute all the time: of a second, less than half."""
        before = self.cpu_s()
        time.sleep(1)
        self.assertLess(self.cpu_s() - before, 0.5)

    def test_requests(self) -> None:
        """Who is connected is told to come back: uploads and downloads alike, and one line says so."""
        connection, uploading = self.connect(), self.connect()
        self.allow(self.open_files())
        for _ in range(3):
            self.assert_come_back(connection.request("GET", "/upload/slot/stored"), 503, "unavailable")
        answer = uploading.request("PUT", self.client.target, body=self.client.content)
        self.assert_come_back(answer, 503, "unavailable")
        self.assert_said_once(OPEN)
        self.allow_all()
        self.assertEqual(self.refused("unavailable"), 1)
        self.assertEqual(self.daemon.metrics()['hmac_file_server_download_errors_total{reason="unavailable"}'], 3)
        self.assertEqual(connection.request("GET", "/upload/slot/stored").status, 200)
        self.recovers()

    def test_end_of_an_upload(self) -> None:
        """A whole body that can't be published waits, as a broken upload does."""
        with self.client.begin(400_000) as connection:
            self.arrived(400_000)
            self.allow(self.open_files())
            connection.send(self.client.content[400_000:])
            self.assert_come_back(connection.answer("PUT"), 503, "unavailable")
        self.allow_all()
        self.assertEqual(self.client.offset(), len(self.client.content))
        self.assert_stored(self.client.query())

    def test_connections(self) -> None:
        """Those that can't be taken are turned away, or wait; the server doesn't spin, and goes on afterwards."""
        kept = self.connect()
        self.allow(self.open_files())
        waiting = [Connection(self.daemon.port) for _ in range(20)]
        wait_until(lambda: self.said(ACCEPT), "the server notices")
        self.assert_at_rest()
        self.assertEqual(kept.request("OPTIONS", "/upload/slot/stored").status, 204)
        self.assert_said_once(ACCEPT)
        for connection in waiting:
            connection.close()
        self.allow_all()
        self.recovers()

    def test_fewer_than_it_has(self) -> None:
        """An operator has lowered the limit: not even what is kept in reserve can be used."""
        kept = self.connect()
        self.allow(4)
        waiting = [Connection(self.daemon.port) for _ in range(20)]
        wait_until(lambda: self.said(ACCEPT), "the server notices")
        self.assert_at_rest()
        self.assertEqual(kept.request("OPTIONS", "/upload/slot/stored").status, 204)
        for connection in waiting:
            connection.close()
        self.allow_all()
        self.recovers()
        self.assert_said_once(ACCEPT)
