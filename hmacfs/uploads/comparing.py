"""A file that is sent again although it is stored already: compared with what is there, never written."""

from __future__ import annotations

import os
from collections.abc import Callable

from hmacfs.errors import Refused
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import OpenFile, Store, StoredFile
from hmacfs.uploads.beside import Beside
from hmacfs.uploads.body import BodyConsumer, ContentMismatch, raise_failure
from hmacfs.uploads.digests import algorithms
from hmacfs.uploads.exchange import Incoming, Receipt
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.plan import plan
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.state import IUploadState
from hmacfs.uploads.upload import Means, common_prefix


class Comparison(BodyConsumer):
    """Compares a body with a stored file while it arrives, in a thread.

    :param fd: of the stored file. Stays the caller's, and open until :meth:`receive` has ended.
    """

    def __init__(self, fd: int, start: int, end: int, threads: Threads, arrived: Callable[[int], None]) -> None:
        super().__init__(start, end, arrived)
        self._fd = fd
        self._compared = start
        self._beside = Beside(self._compare, threads, *self._brake.pedals("comparison"))

    def _take(self, data: bytes) -> None:
        raise_failure(self._beside.failure)
        self._beside.add(data)

    async def _finish(self) -> None:
        await self._beside.drained()

    async def _settle(self) -> None:
        await self._beside.stop()

    def _compare(self, chunk: bytes) -> None:
        """In a thread.

        :raises ContentMismatch: at the first difference.
        """
        stored = os.pread(self._fd, len(chunk), self._compared)
        if stored != chunk:
            raise ContentMismatch(self._compared + common_prefix(chunk, stored))
        self._compared += len(chunk)


def same_content(one_fd: int, other_fd: int, size: int) -> bool:
    """Whether two files have the same first *size* bytes. Blocks."""
    step = 1024 * 1024
    return all(os.pread(one_fd, step, at) == os.pread(other_fd, step, at) for at in range(0, size, step))


class Repeats:
    """Takes what is sent for a file that is stored already. To be used on the reactor's thread alone.

    :param now: the time in seconds since the epoch.
    """

    def __init__(self, store: Store, state: IUploadState, means: Means, now: Callable[[], float]) -> None:
        self._store = store
        self._state = state
        self._means = means
        self._now = now

    async def find(self, path: SlotPath) -> OpenFile | None:
        """The file that is stored at *path*; ``None`` where none is.

        :raises Refused: 503 where the storage doesn't answer.
        """
        return await self._means.retries.call("read", self._store.open_file, path)

    async def receive(self, incoming: Incoming, stored: OpenFile) -> Receipt:
        """A slot's file is here: the same one is as good as stored just now, any other is refused.

        :param stored: closed then.
        :raises Refused: 409 where it is another one; see ``docs/protocol.md``.
        :raises StateUnavailable: where an upload would begin, and nobody knows its name.
        """
        asked, total = incoming.asked, incoming.total
        name = None
        try:
            stored.facts.check_served(self._now())
            if total != stored.size:
                raise conflict()
            if asked.creates:
                # Without its bytes nothing tells whether it would be the same file.
                if asked.length not in (None, total):
                    raise conflict()
                name = await self._last_name(incoming.turn.uid)
            if not _stated_to_be(stored, asked):
                await self._compare(stored, asked.as_whole() if asked.creates else asked, incoming)
            await self._means.threads.run(self._store.settle, incoming.slot.path)
        finally:
            stored.close()
        return Receipt(total, total, stored, None, name)

    async def add_nothing(self, incoming: Incoming, stored: OpenFile) -> Receipt:
        """An upload that has a name is over: whoever didn't hear that it is hears it now, but there is nothing more to be
        sent.

        :param stored: closed then.
        :raises Refused: 409 where something is.
        """
        try:
            stored.facts.check_served(self._now())
            await self._compare(stored, incoming.asked, incoming)
        finally:
            stored.close()
        return Receipt(stored.size, stored.size, stored, None, incoming.name)

    async def _last_name(self, uid: str) -> UploadName:
        record = await self._state.get(uid)
        return UploadName(uid, 1 if record is None else record.generation)

    async def _compare(self, stored: OpenFile, asked: UploadRequest, incoming: Incoming) -> None:
        placed = plan(asked, stored.size, stored.size)
        comparison = Comparison(stored.fd, placed.start, placed.end, self._means.threads, _uncounted)
        incoming.turn.consume_with(comparison)
        try:
            await comparison.receive(incoming.body)
        except ContentMismatch:
            raise conflict() from None


def conflict() -> Refused:
    """What is stored is another file."""
    return Refused(409, "conflict", "There is another file at this URL, and nothing that is stored is overwritten.")


def _stated_to_be(stored: StoredFile, asked: UploadRequest) -> bool:
    """Whether the request states the digest of *stored*, so that its body needn't be read.

    :raises Refused: 409 where it states another one.
    """
    if asked.asks:
        return True
    whole = asked.part is None and asked.length in (None, stored.size)
    stated = asked.digests.of_whole_file() if whole else asked.digests
    if stored.facts.sha256 is None or algorithms(stated.representation) != {"sha256"}:
        return False
    if any(digest.value != stored.facts.sha256 for digest in stated.representation):
        raise conflict()
    return True


def _uncounted(_size: int) -> None:
    """Bytes that are compared take no room."""
