"""Publishing the files of uploads that end at about the same time together, so that they share their syncs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure

from hmacfs.net.threads import Threads
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part
from hmacfs.storage.store import Publication, Store, StoredFile

#: So many threads publish at a time: while one waits for the device, the other one has something to do. More of them
#: would only compete for Python's lock.
LANES: Final = 2

#: So many files are published by one of them at most, so that the first doesn't wait long for the last.
MOST_TOGETHER: Final = 32

#: A part of which more has to be flushed is published by itself, so that the others don't wait for it.
FLUSHED_ALONE_BYTES: Final = 1024 * 1024


class Publisher:
    """Publishes parts, in threads where it takes waiting for a device. To be used on the reactor's thread alone."""

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._waiting: list[tuple[Publication, Deferred[StoredFile]]] = []
        self._running = 0

    def publish(self, part: Part, path: SlotPath, facts: Facts) -> Deferred[StoredFile]:
        """Give a part its final name: :meth:`hmacfs.storage.store.Store.publish`.

        Those that come while the lanes are busy wait, and go together.
        """
        if not self._store.waits:
            return execute(self._store.publish, part, path, facts)
        if not self._store.gathers or part.size - part.durable_size > FLUSHED_ALONE_BYTES:
            return self._threads.run(self._store.publish, part, path, facts)
        done: Deferred[StoredFile] = Deferred()
        self._waiting.append((Publication(part, path, facts), done))
        self._go_on()
        return done

    def _go_on(self) -> None:
        while self._waiting and self._running < LANES:
            together, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            self._running += 1
            outcomes = self._threads.run(self._store.publish_all, [publication for publication, _ in together])
            outcomes.addBoth(self._published, [done for _, done in together])

    def _published(
        self, outcomes: Sequence[StoredFile | Exception] | Failure, waiting: Sequence[Deferred[StoredFile]]
    ) -> None:
        self._running -= 1
        self._go_on()
        for number, done in enumerate(waiting):
            outcome = outcomes if isinstance(outcomes, Failure) else outcomes[number]
            if isinstance(outcome, StoredFile):
                done.callback(outcome)
            else:
                done.errback(outcome)
