"""The index is told what happens, and compared with the tree, without anybody waiting for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from hmacfs.keeping import indexing as module
from hmacfs.keeping.index import BATCH, FILE_NAME, Index, Query
from hmacfs.keeping.indexing import FLUSH_AFTER_S, FLUSH_AT, REST, SCAN_EVERY_S, Indexing
from hmacfs.keeping.scan import SCANNED_KEY
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.database import DatabaseAway
from tests.storage.support import StoreTestCase

T = TypeVar("T")
NOW = 1_796_000_000.0


class HeldThreads(Threads):
    """Calls that run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        deferred: Deferred[T] = Deferred()
        self.waiting.append((deferred, lambda: function(*args, **kwargs)))
        return deferred

    def go(self) -> None:
        """Run those that are waiting now."""
        waiting, self.waiting = self.waiting, []
        for deferred, call in waiting:
            deferred.callback(call())


class IndexingTestCase(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.index = Index(self.store.own_directory / FILE_NAME)
        self.addCleanup(self.index.close)
        self.clock = Clock()
        self.indexing = self.make(InlineThreads())

    def make(self, threads: Threads) -> Indexing:
        self.registry = CollectorRegistry()
        return Indexing(
            self.store, self.index, self.clock, threads, lambda: NOW + self.clock.seconds(), Metrics(self.registry)
        )

    def run_now(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """To its end, without a second going by."""
        done = Deferred.fromCoroutine(coroutine)
        for _ in range(100):
            self.clock.advance(0)
        self.successResultOf(done)

    def known(self) -> list[bytes]:
        return sorted(entry.path for entry in self.index.select(Query()))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"hmac_file_server_{name}", labels)

    def break_index(self) -> None:
        """Put something else in its place."""
        self.index.renew()
        (self.store.own_directory / FILE_NAME).mkdir()

    def mend_index(self) -> None:
        (self.store.own_directory / FILE_NAME).rmdir()


class TellingTests(IndexingTestCase):
    """What happens to files is written down a little later."""

    def test_within_a_second(self) -> None:
        """Files that came and went, and the totals with them; nothing is left to do then."""
        self.put("a")
        self.put("b")
        self.indexing.changed(self.path("a"))
        self.indexing.changed(self.path("b"))
        self.assertEqual(self.known(), [])
        self.clock.advance(FLUSH_AFTER_S)
        self.assertEqual(self.known(), [b"a", b"b"])
        self.assertEqual((self.metric("stored_files"), self.metric("stored_bytes")), (2, 14))
        self.store.delete(self.path("a"))
        self.indexing.changed(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        self.assertEqual((self.known(), self.metric("stored_files")), ([b"b"], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_at_once(self) -> None:
        """A rush isn't gathered for a whole second."""
        self.put("a")
        self.indexing.changed(self.path("a"))
        for number in range(FLUSH_AT - 1):
            self.indexing.changed(self.path(f"none-{number}"))
        self.assertEqual(self.known(), [b"a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_downloads(self) -> None:
        """The day of the last one is known, however often it was."""
        self.put("a")
        self.indexing.changed(self.path("a"))
        for _ in range(3):
            self.indexing.read(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        known = self.index.get(b"a")
        assert known is not None
        self.assertEqual(known.read_day, int(NOW // 86_400))
        self.clock.advance(86_400)
        self.indexing.read(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        known = self.index.get(b"a")
        assert known is not None
        self.assertEqual(known.read_day, int(NOW // 86_400) + 1)

    def test_one_at_a_time(self) -> None:
        """What comes while a slow disk is being written to is gathered, and written after it, in one go."""
        threads = HeldThreads()
        indexing = self.make(threads)
        self.put("a")
        indexing.changed(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        for number in range(2 * FLUSH_AT):
            indexing.changed(self.path(f"none-{number}"))
        self.put("b")
        indexing.changed(self.path("b"))
        self.clock.advance(FLUSH_AFTER_S)
        self.assertEqual(len(threads.waiting), 1)
        threads.go()
        self.assertEqual((self.known(), len(threads.waiting)), ([b"a"], 1))
        threads.go()
        self.assertEqual((self.known(), len(threads.waiting)), ([b"a", b"b"], 0))

    def test_bounded(self) -> None:
        """While the index is slow, no more than so many files wait; what happens to the others is scanned for."""
        self.patch(module, "MAX_WAITING", 3)
        threads = HeldThreads()
        indexing = self.make(threads)
        self.finish(indexing.scan(), threads)
        self.put("z")
        for name in ("a", "b", "c", "z"):
            indexing.changed(self.path(name))
            indexing.read(self.path(name))
        self.finish(indexing.flush(), threads)
        self.assertEqual(self.known(), [])
        self.finish(indexing.look_after(), threads)
        self.assertEqual(self.known(), [b"z"])

    def finish(self, coroutine: Coroutine[Any, Any, None], threads: HeldThreads) -> None:
        done = Deferred.fromCoroutine(coroutine)
        for _ in range(100):
            threads.go()
            self.clock.advance(0)
        self.successResultOf(done)

    def test_at_the_end(self) -> None:
        """A stop writes down what was waiting."""
        self.put("a")
        self.indexing.changed(self.path("a"))
        self.run_now(self.indexing.stop())
        self.assertEqual(self.known(), [b"a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_on_demand(self) -> None:
        """Who needs to know now waits for it."""
        self.put("a")
        self.indexing.changed(self.path("a"))
        self.run_now(self.indexing.flush())
        self.assertEqual(self.known(), [b"a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ScanningTests(IndexingTestCase):
    """The tree is compared in the background."""

    def look_after(self) -> None:
        """What is done again and again."""
        self.run_now(self.indexing.look_after())

    def test_at_start(self) -> None:
        """Whatever the last process said: it may have been killed."""
        self.put("a")
        self.index.set_setting(SCANNED_KEY, repr(NOW))
        self.look_after()
        self.assertEqual(self.known(), [b"a"])
        self.assertEqual((self.metric("stored_files"), self.metric("index_scanned_files")), (1, 1))
        self.assertEqual(self.metric("index_differences_total", kind="missing"), 1)

    def test_once_a_day(self) -> None:
        self.look_after()
        self.put("a")
        self.clock.advance(SCAN_EVERY_S - 1)
        self.look_after()
        self.assertEqual(self.known(), [])
        self.clock.advance(1)
        self.look_after()
        self.assertEqual(self.known(), [b"a"])

    def test_index_was_removed(self) -> None:
        """It is made anew at the next turn."""
        self.put("a")
        self.look_after()
        (self.store.own_directory / FILE_NAME).unlink()
        self.look_after()
        self.assertEqual(self.known(), [b"a"])

    def test_rests(self) -> None:
        """It takes a fifth of the time, so that others have the rest."""
        for number in range(BATCH + 1):
            (self.root / f"{number}").write_bytes(b"")
        clock = self.clock

        class SlowThreads(InlineThreads):
            def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
                clock.rightNow += 0.25
                return super().run(function, *args, **kwargs)

        scanned = Deferred.fromCoroutine(self.make(SlowThreads()).scan())
        self.assertEqual(self.metric("index_scanned_files"), BATCH)
        self.clock.advance(0.25 * REST - 0.01)
        self.assertEqual(self.metric("index_scanned_files"), BATCH)
        self.clock.advance(0.01)
        self.assertEqual(self.metric("index_scanned_files"), BATCH + 1)
        self.clock.pump([0.25 * REST] * 3)
        self.successResultOf(scanned)

    def test_halted(self) -> None:
        """It ends at once when we stop, and is due again."""
        for number in range(2 * BATCH):
            (self.root / f"{number}").write_bytes(b"")
        scanned = Deferred.fromCoroutine(self.indexing.look_after())
        self.indexing.halt()
        self.successResultOf(scanned)
        self.assertEqual((len(self.known()), self.index.setting(SCANNED_KEY)), (BATCH, None))
        self.run_now(self.indexing.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_halted_in_a_step(self) -> None:
        """The step is waited for, and no other one comes."""
        threads = HeldThreads()
        indexing = self.make(threads)
        self.put("a")
        scanned = Deferred.fromCoroutine(indexing.scan())
        indexing.halt()
        self.assertNoResult(scanned)
        while threads.waiting:
            threads.go()
        self.successResultOf(scanned)
        self.assertIsNone(self.index.setting(SCANNED_KEY))

    def test_said(self) -> None:
        """One line, if there was anything to be corrected."""
        (self.root / "no\nurl").write_bytes(b"")
        self.put("a")
        with capturedLogs() as events:
            self.look_after()
            self.clock.advance(SCAN_EVERY_S)
            self.look_after()
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "index: 1 files added, 0 corrected, 0 forgotten, 0 orphaned sidecars removed;"
                " saw 2 files in 0.0 s, 1 of them left out"
            ],
        )
        self.assertEqual(self.metric("index_skipped_files"), 1)


class SharedTests(IndexingTestCase):
    """Several processes tell one index; one of them looks after it.

    :ivar indexing: the one that does.
    """

    def setUp(self) -> None:
        super().setUp()
        self.run_now(self.indexing.start())
        self.run_now(self.indexing.look_after())
        self.ours = self.registry

    def test_stored_elsewhere(self) -> None:
        """Each shows what all have stored."""
        other = self.make(InlineThreads())
        self.put("a")
        other.changed(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        self.run_now(self.indexing.look())
        shown = self.ours.get_sample_value("hmac_file_server_stored_files")
        self.assertEqual((shown, self.metric("stored_files")), (1, 1))

    def test_started_elsewhere(self) -> None:
        """A process that was killed had not told everything: the next one has the tree compared."""
        self.put("a")
        self.run_now(self.indexing.look_after())
        self.assertEqual(self.known(), [])
        self.run_now(self.make(InlineThreads()).start())
        self.run_now(self.indexing.look_after())
        self.assertEqual(self.known(), [b"a"])

    def test_lost_elsewhere(self) -> None:
        """What another process could not write down is found, and that is scanned for once."""
        other = self.make(InlineThreads())
        self.run_now(other.start())
        self.run_now(self.indexing.look_after())
        self.put("a")
        other.changed(self.path("a"))
        self.break_index()
        self.clock.advance(FLUSH_AFTER_S)
        self.mend_index()
        self.run_now(other.look())
        self.run_now(self.indexing.look_after())
        self.assertEqual(self.known(), [b"a"])
        self.put("b")
        self.run_now(other.look())
        self.run_now(self.indexing.look_after())
        self.assertEqual(self.known(), [b"a"])

    def test_lost_while_it_was_scanned_for(self) -> None:
        """A wish that comes while another one is granted is granted after it."""
        other = self.make(InlineThreads())
        self.run_now(other.start())
        threads = HeldThreads()
        leader = self.make(threads)
        scanned = Deferred.fromCoroutine(leader.look_after())
        for _ in range(4):
            threads.go()
        self.run_now(self.make(InlineThreads()).start())
        for _ in range(100):
            threads.go()
            self.clock.advance(0)
        self.successResultOf(scanned)
        self.put("a")
        looked = Deferred.fromCoroutine(leader.look_after())
        for _ in range(100):
            threads.go()
            self.clock.advance(0)
        self.successResultOf(looked)
        self.assertEqual(self.known(), [b"a"])


class TroubleTests(IndexingTestCase):
    """The index can't be used."""

    def test_said_once(self) -> None:
        """What it missed is found by a scan as soon as it is back."""
        self.run_now(self.indexing.scan())
        self.break_index()
        self.put("a")
        with capturedLogs() as events:
            for _ in range(2):
                self.indexing.changed(self.path("a"))
                self.clock.advance(FLUSH_AFTER_S)
                self.run_now(self.indexing.look_after())
            self.mend_index()
            self.run_now(self.indexing.look_after())
        self.assertEqual(self.known(), [b"a"])
        said = [formatEvent(event) for event in events]
        self.assertEqual(said[0], "the index of files can't be used, uploads and downloads go on: store-error")
        self.assertEqual(said[-1], "the index of files can be used again")
        self.assertEqual(len(said), 3)

    def test_full_disk(self) -> None:
        """What could not be written down is scanned for as soon as something can."""
        self.run_now(self.indexing.scan())

        def full(*_args: object) -> None:
            raise DatabaseAway("no-space")

        self.put("a")
        settle = self.patch(self.index, "settle", full)
        with capturedLogs() as events:
            self.indexing.changed(self.path("a"))
            self.clock.advance(FLUSH_AFTER_S)
            settle.restore()
            self.run_now(self.indexing.look_after())
        self.assertEqual((self.known(), "no-space" in formatEvent(events[0])), ([b"a"], True))

    def test_at_start(self) -> None:
        """It is no reason not to start, nor not to stop."""
        self.break_index()
        with capturedLogs() as events:
            self.run_now(self.indexing.start())
            self.indexing.changed(self.path("a"))
            self.run_now(self.indexing.stop())
        self.assertEqual(len(events), 1)

    def test_lost_while_scanning(self) -> None:
        """The scan is over, and comes again."""
        for number in range(2 * BATCH):
            (self.root / f"{number}").write_bytes(b"")
        scanned = Deferred.fromCoroutine(self.indexing.look_after())
        self.break_index()
        with capturedLogs() as events:
            self.clock.advance(0)
        self.successResultOf(scanned)
        self.assertEqual(len(events), 1)
        self.mend_index()
        self.run_now(self.indexing.look_after())
        self.assertEqual(len(self.known()), 2 * BATCH)

    def test_another_version(self) -> None:
        """An index that another version has made is begun anew: nothing is in it that isn't in the tree."""
        self.put("a")
        self.run_now(self.indexing.scan())
        self.index.close()
        with closing(sqlite3.connect(self.store.own_directory / FILE_NAME)) as connection:
            connection.execute("PRAGMA user_version = 99")
        with capturedLogs() as events:
            self.run_now(self.indexing.start())
        self.assertRegex(formatEvent(events[0]), "has format 99, expected 1: it is begun anew from the files")
        self.assertEqual(self.known(), [])

    def test_a_bug(self) -> None:
        """Is logged, and what happens later is written down nevertheless."""
        self.patch(module, "refresh", lambda *_args: 1 / 0)
        self.indexing.changed(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(module, "refresh", lambda *_args: [])
        self.indexing.changed(self.path("a"))
        self.clock.advance(FLUSH_AFTER_S)
        self.assertEqual(self.metric("stored_files"), 0)
