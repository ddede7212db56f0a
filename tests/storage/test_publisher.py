"""Tests for :mod:`hmacfs.storage.publisher`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage import syncs
from hmacfs.storage.parts import Part
from hmacfs.storage.publisher import FLUSHED_ALONE_BYTES, LANES, MOST_TOGETHER, Publisher
from hmacfs.storage.store import AlreadyStored, StoredFile
from tests.storage.support import FACTS, StoreTestCase

T = TypeVar("T")


class HeldThreads(Threads):
    """Threads in which nothing happens until a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.waiting.append(lambda: InlineThreads().run(function, *args, **kwargs).chainDeferred(done))
        return done

    def finish_one(self) -> None:
        self.waiting.pop(0)()


class PublisherTests(StoreTestCase):
    """Which parts go together."""

    file_system = "ext4"

    def setUp(self) -> None:
        super().setUp()
        self.patch(syncs, "_file_system", lambda _fd: self.file_system)
        self.patch(syncs, "_dirty_bytes", lambda: 0)
        self.restart()

    def restart(self) -> None:
        self.store = self.open_store(self.disk)
        self.threads = HeldThreads()
        self.publisher = Publisher(self.store, self.threads)
        self.disk.calls.clear()

    def part(self, name: str, size: int = 7) -> Part:
        part = self.store.begin(name)
        self.addCleanup(part.close)
        part.write(b"x" * size)
        return part

    def publish(self, name: str, size: int = 7) -> Deferred[StoredFile]:
        return self.publisher.publish(self.part(name, size), self.path(f"slot/{name}"), FACTS)

    def calls(self, method: str) -> int:
        return [called for called, _ in self.disk.calls].count(method)

    def test_alone(self) -> None:
        """Who comes first doesn't wait for company."""
        done = self.publish("one")
        self.threads.finish_one()
        self.assertEqual(self.successResultOf(done).size, 7)
        self.assertEqual(self.get("slot/one"), b"x" * 7)

    def test_together(self) -> None:
        """Those who come while all lanes are busy go together, with the syncs of one."""
        early = [self.publish(f"early{number}") for number in range(LANES)]
        late = [self.publish(f"late{number}") for number in range(10)]
        self.assertEqual(len(self.threads.waiting), LANES)
        for _ in early:
            self.threads.finish_one()
        self.disk.calls.clear()
        self.threads.finish_one()
        self.assertEqual([self.successResultOf(done).size for done in early + late], [7] * (LANES + 10))
        self.assertEqual((self.calls("sync_file_system"), self.calls("sync"), self.calls("link")), (2, 0, 10))
        self.assertEqual(self.threads.waiting, [])

    def test_not_too_many(self) -> None:
        """Nobody waits for an endless crowd; what is left goes on the next lane that is free."""
        done = [self.publish(f"file{number}") for number in range(LANES + MOST_TOGETHER + 1)]
        self.threads.finish_one()
        self.disk.calls.clear()
        while self.threads.waiting:
            self.threads.finish_one()
        self.assertEqual(len([self.successResultOf(each) for each in done]), LANES + MOST_TOGETHER + 1)
        self.assertEqual(self.calls("sync_file_system"), 2)

    def test_each_has_its_own_outcome(self) -> None:
        """A conflict of one is nobody else's."""
        self.put("slot/taken", b"first")
        busy = [self.publish(f"busy{number}") for number in range(LANES)]
        taken, free = self.publish("taken"), self.publish("free")
        while self.threads.waiting:
            self.threads.finish_one()
        self.failureResultOf(taken, AlreadyStored)
        self.assertEqual(self.successResultOf(free).size, 7)
        self.assertEqual([self.successResultOf(done).size for done in busy], [7] * LANES)

    def test_what_nobody_expected(self) -> None:
        """An error of ours reaches all who wait, and the lanes go on."""

        def fail(_publications: object) -> None:
            raise ZeroDivisionError

        self.patch(self.store, "publish_all", fail)
        broken = [self.publish(f"one{number}") for number in range(LANES)]
        while self.threads.waiting:
            self.threads.finish_one()
        for done in broken:
            self.failureResultOf(done, ZeroDivisionError)
        self.restart()
        done = self.publish("other")
        self.threads.finish_one()
        self.successResultOf(done)

    def test_large_part(self) -> None:
        """Nobody waits for its flush."""
        for number in range(LANES):
            self.publish(f"busy{number}")
        self.publish("large", FLUSHED_ALONE_BYTES + 1)
        self.assertEqual(len(self.threads.waiting), LANES + 1)

    def test_large_part_that_is_durable(self) -> None:
        """One that has been flushed is as good as a small one."""
        for number in range(LANES):
            self.publish(f"busy{number}")
        part = self.part("large", FLUSHED_ALONE_BYTES + 1)
        part.sync()
        self.publisher.publish(part, self.path("slot/large"), FACTS)
        self.assertEqual(len(self.threads.waiting), LANES)

    def test_other_file_systems(self) -> None:
        """Where no call is for all, each has a thread of its own."""
        self.file_system = "fuse"
        self.restart()
        for number in range(LANES + 3):
            self.publish(f"file{number}")
        self.assertEqual(len(self.threads.waiting), LANES + 3)

    def test_in_memory(self) -> None:
        """Where nothing waits for a device, it is done at once, whatever may come of it."""
        self.put("slot/taken", b"first")
        self.file_system = "tmpfs"
        self.restart()
        self.assertEqual(
            self.successResultOf(self.publish("one", FLUSHED_ALONE_BYTES + 1)).size, FLUSHED_ALONE_BYTES + 1
        )
        self.failureResultOf(self.publish("taken"), AlreadyStored)
        self.assertEqual(self.threads.waiting, [])
