"""What becomes of uploads, begun in tus or in the IETF's draft, when servers and Redis die, stop, and forget."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.draft import DraftClient
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.resuming import sha256
from tests.e2e.sharing import OnRedis, ServedTestCase, SharedTestCase
from tests.e2e.test_workers import children, server_of
from tests.e2e.tus import TusClient
from tests.e2e.uploader import Uploader
from tests.e2e.wire import Closed, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

SIZE = 6_000_000
HALF = 3_000_000

if TYPE_CHECKING:
    _Case = ServedTestCase
else:
    _Case = object


class _InSomeDialect(_Case):
    """A client, and what it takes for success."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.make_client()

    def make_client(self) -> Uploader:
        """One with a file that nobody else has."""
        raise NotImplementedError

    def went_on(self, offset: int) -> None:
        """The rest is taken, and the file is the one that was sent."""
        answer = self.client.rest(offset)
        self.assertIn(answer.status, (201, 204), answer.text)
        get = self.client.get()
        self.assertEqual((get.status, get.header("Repr-Digest")), (200, sha256(self.client.content)))
        self.assertTrue(get.body == self.client.content)

    def broken(self, arrived: int) -> None:
        """Begin the upload, and break it there."""
        self.client.created()
        with self.client.begin(0, arrived):
            self.arrived(arrived)


class InTus(_InSomeDialect):
    """Speaks tus."""

    def make_client(self) -> Uploader:
        return TusClient(self.daemon.port, SIZE)


class InDraft(_InSomeDialect):
    """Speaks the draft."""

    def make_client(self) -> Uploader:
        return DraftClient(self.daemon.port, SIZE)


class SurvivalMixin(_InSomeDialect):
    """On either store."""

    def test_killed(self) -> None:
        """What was durable is known when the server is back, no matter how often it dies."""
        self.broken(HALF)
        offset = self.client.offset()
        self.assertEqual(offset, HALF)
        for arrived in (HALF + 500_000, HALF + 1_000_000):
            with self.client.begin(offset, arrived):
                self.arrived(arrived)
                self.daemon.process.kill()
            self.daemon.restart()
            before, offset = offset, self.client.offset()
            self.assertTrue(before <= offset <= arrived)
        self.went_on(offset)

    def test_stopped(self) -> None:
        """A server that is being stopped keeps what has arrived; its clients hear that they should come back."""
        self.client.created()
        connection = self.client.begin(0, HALF)
        self.arrived(HALF)
        self.daemon.process.signal(signal.SIGTERM)
        self.assert_told_to_come_back(connection)
        connection.close()
        self.daemon.process.wait()
        self.daemon.restart()
        self.assertEqual(self.client.offset(), HALF)
        self.went_on(HALF)

    def assert_told_to_come_back(self, connection: Connection) -> None:
        """5xx, or no answer at all: both mean so."""
        try:
            self.assertEqual(connection.answer("PATCH").status, 503)
        except (Closed, OSError):
            pass

    def test_silent(self) -> None:
        """A client that falls silent is told so, with a status that makes it come back; what it sent stays."""
        self.daemon.process.kill()
        self.daemon.config.write_text(self.daemon.config.read_text("utf-8") + "ReadTimeout = 1\n", "utf-8")
        self.daemon.restart()
        self.client.created()
        connection = self.client.begin(0, HALF)
        self.assert_told_to_come_back(connection)
        connection.close()
        self.assertEqual(self.client.offset(), HALF)
        self.went_on(HALF)

    def test_two_servers(self) -> None:
        """The newest request wins wherever it comes in, and not one byte is sent twice."""
        other = self.second_server()
        self.client.created()
        first = self.client.begin(0, HALF)
        self.arrived(HALF)
        self.client.port = other.port
        self.assertEqual(self.client.offset(), HALF)
        self.assertTrue(first.closed_by_peer())
        first.close()
        second = self.client.begin(HALF, HALF + 500_000)
        self.arrived(HALF + 500_000)
        self.client.port = self.daemon.port
        self.went_on(HALF + 500_000)
        self.assertTrue(second.closed_by_peer())
        second.close()

    def second_server(self) -> Daemon:
        """With the same directory, and the same store of states."""
        return Daemon(self, text=None, **{**self.again(), "StoreDir": str(self.daemon.store)}).started()

    def again(self) -> dict[str, TomlValue]:
        """The keys of the first server."""
        return {}


class TusSurvivalTests(InTus, SurvivalMixin, ServedTestCase):
    """tus; known in SQLite."""


class DraftSurvivalTests(OnRedis, InDraft, SurvivalMixin, ServedTestCase):
    """The draft; known in Redis, which has ways to fail of its own."""

    def again(self) -> dict[str, TomlValue]:
        return {"RedisAddr": f"unix:{self.redis.socket}"}

    def test_forgotten_by_redis(self) -> None:
        """Somebody has emptied it: the part on the disk is enough to go on."""
        self.broken(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.redis.admin().order("FLUSHALL")
        self.assertEqual(self.client.offset(), HALF)
        self.went_on(HALF)

    def test_redis_restarted(self) -> None:
        """It was away for a while, and comes back empty. Meanwhile clients are told to come back."""
        self.broken(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.redis.process.kill()
        self.assertEqual(self.client.rest(HALF).status, 503)
        self.redis.start()
        wait_until(lambda: self.client.head().status < 500, "the server finds its Redis again")
        self.assertEqual(self.client.offset(), HALF)
        self.went_on(HALF)


class ExpiryMixin(_InSomeDialect):
    """Clients that don't come back in time."""

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        return {**super().keys(house), "SessionTTL": 1}

    def test_expired(self) -> None:
        """Gone: 410 as long as it is known, 404 after that; nothing is left of it, and the slot may be used anew."""
        self.broken(HALF)
        over = time.time() + 1.1
        wait_until(lambda: time.time() > over, "its time is over")
        self.assertIn(self.client.rest(HALF).status, (404, 410))
        self.daemon.process.stop()
        self.daemon.restart()
        wait_until(lambda: not self.daemon.parts(), "the janitor comes")
        wait_until(lambda: self.client.rest(HALF).status == 404, "nothing is known of it")
        self.client.created()
        self.went_on(0)


class TusExpiryTests(InTus, ExpiryMixin, ServedTestCase):
    """tus; known in SQLite."""


class DraftExpiryTests(OnRedis, InDraft, ExpiryMixin, ServedTestCase):
    """The draft; known in Redis."""


class OfTwoProcesses(InTus, SharedTestCase):
    """One server of two processes."""

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        return {**super().keys(house), "NumCores": 2}

    def worker_of(self, connection: Connection) -> int:
        """The process at the other end."""
        return server_of(connection, children(self.daemon.process.pid))

    def begin(self) -> Connection:
        """Begin the upload in one process; the client's other requests go to the other one."""
        first = self.client.created().begin(0, HALF)
        self.addCleanup(first.close)
        self.arrived(HALF)
        busy = self.worker_of(first)

        def connect() -> Connection | None:
            # The kernel chooses.
            connection = Connection(self.daemon.port)
            self.addCleanup(connection.close)
            connection.request("GET", "/upload/nothing/nothing.txt")
            return connection if self.worker_of(connection) != busy else None

        self.client.connection = wait_until(connect, "a connection to the other process")
        return first


class WorkersTests(OfTwoProcesses):
    """Which of the two has a client's connection makes no difference."""

    def test_head(self) -> None:
        """It ends the PATCH that runs in the other one, and tells an offset that is good."""
        first = self.begin()
        self.assertEqual(self.client.offset(), HALF)
        self.assertTrue(first.closed_by_peer())
        self.went_on(HALF)

    def test_newest_wins(self) -> None:
        """Also if it doesn't ask before."""
        first = self.begin()
        self.went_on(HALF)
        self.assertTrue(first.closed_by_peer())

    def test_given_up(self) -> None:
        """DELETE there ends it here."""
        first = self.begin()
        self.assertEqual(self.client.delete().status, 204)
        self.assertTrue(first.closed_by_peer())


class KilledWorkerTests(OfTwoProcesses):
    """One of the two dies."""

    def test_killed(self) -> None:
        """What was durable in a process that dies is in the hands of the other one at once."""
        first = self.begin()
        os.kill(self.worker_of(first), signal.SIGKILL)
        offset = self.client.offset()
        self.assertTrue(0 <= offset <= HALF)
        self.went_on(offset)
