"""One request's hold on an unfinished upload: its part file, what the store knows of it, and the lease.

A short upload never troubles the state store: it is recorded at its first checkpoint, which is after
:data:`~hmacfs.uploads.upload.CHECKPOINT_S` or when its connection breaks. Until then the lock on its part file is all the
protection it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from hmacfs.net.threads import Threads
from hmacfs.storage.parts import Part
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.note import write_note
from hmacfs.uploads.state import (
    Fenced,
    Holder,
    IUploadState,
    Lease,
    NewUpload,
    OffsetMismatch,
    StateUnavailable,
    UnknownUpload,
    expiry,
)

#: How often the state store is told of progress that the part itself tells of, in seconds. A fast upload has a hundred
#: checkpoints in that time, and each change of the store costs more than the note.
ANNOUNCE_EVERY_S: Final = 0.25


class Superseded(Exception):
    """Somebody newer has the upload: this request must not write another byte of it."""


class Session:
    """See the module. To be used on the reactor's thread alone, but for :meth:`restart_at`.

    :param part: open and locked; the session closes it.
    :param upload: what is known of the upload, with its durable offset.
    :param lease: if it has been taken already.
    :param let_go: called when somebody on another host wants the upload.
    """

    _log = Logger()

    def __init__(
        self,
        part: Part,
        upload: NewUpload,
        state: IUploadState,
        threads: Threads,
        holder: Holder,
        lease: Lease | None = None,
    ) -> None:
        self.part = part
        self._upload = upload
        self._state = state
        self._threads = threads
        self._holder = holder
        self._lease = lease
        self._is_noted = False
        self._announced_at = -inf
        # A restart is decided in a thread, maybe while another one makes bytes durable that it cuts off.
        self._changing = threading.Lock()

    @property
    def upload(self) -> NewUpload:
        """What is known of the upload, as it is now."""
        return self._upload

    @property
    def token(self) -> str:
        return self._upload.token

    @property
    def name(self) -> UploadName:
        """What the upload is called in URLs, as it is now."""
        return UploadName(self._upload.uid, self._upload.generation)

    @property
    def recorded(self) -> bool:
        """Whether the state store knows of the upload."""
        return self._lease is not None

    @property
    def durable(self) -> int:
        """How many bytes of the file survive a crash, as the client may be told."""
        return self._upload.offset

    def expires(self, now: float, ttl_s: float) -> float:
        """When the upload can no longer be resumed if nothing of it comes after *now*, in seconds since the epoch.

        :param ttl_s: how long after its last byte.
        """
        return now + ttl_s if self._lease is None else expiry(self._lease.record, now, ttl_s)

    async def checkpoint(self) -> None:
        """Make what has been written durable, and note and record it.

        An upload goes on without a state store: what is noted with the part is enough to resume it later.

        :raises OSError: when the bytes can't be made durable.
        :raises Superseded: when the lease is over.
        """
        await self._threads.run(self._sync)
        await self.announce()

    async def advance(self, now: float) -> None:
        """As :meth:`checkpoint`, of an upload that goes on: the state store may hear of it a moment later.

        :param now: the time in seconds, of any beginning.
        """
        await self._threads.run(self._sync)
        if self._is_noted and now - self._announced_at < ANNOUNCE_EVERY_S:
            return
        self._announced_at = now
        await self.announce()

    async def announce(self) -> None:
        """Record how much is durable so far, and hold on to the upload; without a state store, do nothing.

        :raises Superseded: when the lease is over.
        """
        try:
            await self._record()
        except StateUnavailable as away:
            self._log.debug("not recorded: {away}", away=away)
        except Fenced:
            raise Superseded from None

    async def record(self) -> None:
        """Make the upload known, whatever has arrived of it, so that it can be asked about.

        :raises StateUnavailable: when that can't be had now.
        """
        await self._threads.run(self._sync)
        await self._record()

    def restart_at(self, offset: int) -> None:
        """Begin a new generation that keeps the first *offset* bytes, and cut the part there. In a thread.

        The note goes first: of a part that is shorter than its note says, nothing can be used.
        """
        with self._changing:
            self._upload = evolve(self._upload, offset=offset, generation=self._upload.generation + 1)
            write_note(self.part, self._upload)
            self.part.truncate(offset)

    async def finished(self, sha256: bytes | None) -> None:
        """The file is published: nothing of the upload is left but its record, if it had one."""
        lease, self._lease = self._lease, None
        if lease is not None:
            size = self._upload.total
            assert size is not None
            await self._quietly(lambda: self._finish(lease, size, sha256))

    async def _finish(self, lease: Lease, size: int, sha256: bytes | None) -> None:
        if lease.record.generation < self._upload.generation:
            # Begun anew, perhaps with another size, and over before its first checkpoint.
            lease = await self._state.restart(lease, self._upload)
        await self._state.finish(lease, size, sha256)

    async def failed(self, reason: str) -> None:
        """The upload can't go on: its bytes go now, and whoever asks is told that they are gone."""
        await self._threads.run(self.part.discard)
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._quietly(lambda: self._state.fail(lease, reason))

    async def discarded(self) -> None:
        """The upload is to be forgotten, as if it had never begun."""
        await self._threads.run(self.part.discard)
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._quietly(lambda: self._state.discard(lease))

    async def left(self) -> None:
        """The upload waits for another request. Nothing happens after one of the other endings."""
        self.part.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._quietly(lambda: self._state.release(lease))

    def _sync(self) -> None:
        """In a thread."""
        with self._changing:
            self.part.sync()
            self._upload = evolve(self._upload, offset=self.part.durable_size)
            self._is_noted = write_note(self.part, self._upload)

    async def _record(self) -> None:
        upload = self._upload
        if self._lease is None:
            self._lease = await self._create(upload)
        elif self._lease.record.generation < upload.generation:
            self._lease = await self._state.restart(self._lease, upload)
        try:
            await self._state.commit(self._lease, upload.offset)
        except UnknownUpload:
            # The store has been emptied; we have not.
            self._lease = await self._create(upload)
        except OffsetMismatch:
            # It counts another generation, begun while it was away. What is on the disk is right.
            self._lease = await self._state.restart(self._lease, upload)

    async def _create(self, upload: NewUpload) -> Lease:
        made = await self._state.create(upload, self._holder)
        if isinstance(made, Lease):
            return made
        # The lock on the part is ours, so whoever the record is of is dead, or elsewhere and about to be fenced.
        lease = await self._state.acquire(upload.uid, self._holder, True, False)
        return await self._state.restart(lease, upload)

    async def _quietly(self, change: Callable[[], object]) -> None:
        """Tell the store what has happened on disk already. If it can't be told, the janitor will see."""
        try:
            await change()  # type: ignore[misc]
        except (StateUnavailable, Fenced, UnknownUpload) as error:
            self._log.debug("not recorded: {error}", error=error)
