"""The store of upload states in Redis: the promises of every store, and those for the days when Redis is not well.

txredisapi takes its timers from the global reactor, so these tests run on it, against a Redis that they start.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from hmacfs.config_addresses import RedisAddress
from hmacfs.uploads.redisstate import RedisUploadState, redis_endpoint
from hmacfs.uploads.redislink import RedisLink
from tests.uploads.redisserver import Certificates, RedisServer, free_port
from tests.uploads.test_state import NOW, TTL_S, AwaitedTestCase, UploadStateMixin

PREFIX = "test:"


class RedisMixin(UploadStateMixin):
    """Two processes' views of one Redis, which is emptied before each test."""

    server: RedisServer
    address: RedisAddress
    ca_file: Path | None = None
    username = password = ""

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.remove()

    def setUp(self) -> Deferred[object]:
        self.server.command("FLUSHALL")
        self.clock = Clock()
        self.clock.advance(NOW)
        self.state = self.make_state()
        self.other = self.make_state()
        self.addCleanup(self.state.stop)
        self.addCleanup(self.other.stop)
        return self.state.start().addCallback(lambda _: self.other.start())

    def make_state(self) -> RedisUploadState:
        link = RedisLink(
            reactor,
            redis_endpoint(reactor, self.address, self.ca_file),
            str(self.address),
            username=self.username,
            password=self.password,
            probe_key=f"{PREFIX}probe",
        )
        return RedisUploadState(link, self.clock, TTL_S, PREFIX)

    def lapse(self, uid: str) -> None:
        self.server.command("DEL", f"{PREFIX}{{up1}}:{uid}:lease")


class UnixSocketTests(RedisMixin, AwaitedTestCase):
    """Over a UNIX socket, without a password."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = RedisServer()
        cls.server.start()
        cls.address = RedisAddress(unix_path=cls.server.socket)
