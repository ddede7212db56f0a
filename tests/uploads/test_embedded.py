"""The store of upload states that needs no other program."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.uploads.embedded import LET_GO_POLL_S, EmbeddedUploadState
from hmacfs.uploads.state import LEASE_S
from tests.uploads.test_state import NOW, OFFSETS, STEPS, TTL_S, AwaitedTestCase, Step, UploadStateMixin


class EmbeddedMixin(UploadStateMixin):
    def make_store(self, threads: Threads) -> None:
        """Two processes' views of one file."""
        self.clock = Clock()
        self.clock.advance(NOW)
        self.path = Path(self.mktemp()) / ".hmacfs" / "state.sqlite"
        self.path.parent.parent.mkdir()
        self.state = self.make_state(threads)
        self.other = self.make_state(threads)

    def make_state(self, threads: Threads) -> EmbeddedUploadState:
        return EmbeddedUploadState(self.path, threads, self.clock, TTL_S)

    def lapse(self, uid: str) -> None:
        # To the letter: time passes for everybody.
        self.clock.advance(LEASE_S)

    def deliver(self) -> None:
        self.clock.advance(LET_GO_POLL_S)


class InlineTests(EmbeddedMixin, AwaitedTestCase):
    """In the order in which it is written."""

    def setUp(self) -> None:
        self.make_store(InlineThreads())


class ThreadsTests(EmbeddedMixin, AwaitedTestCase):
    """As it is run: the calls of two processes in threads."""

    def setUp(self) -> None:
        pool = ThreadPool(0, 4)
        pool.start()
        self.addCleanup(pool.stop)
        self.make_store(Threads(reactor, pool))
        # Cleanups run backwards: first the stores, then their threads.
        self.addCleanup(self.state.stop)
        self.addCleanup(self.other.stop)
