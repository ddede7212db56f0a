"""Unfinished uploads that nobody will go on with, and what crashes leave behind: found and removed."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from hmacfs.metrics import Metrics
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part, PartBusy
from hmacfs.storage.store import Store
from hmacfs.uploads.identity import upload_id
from hmacfs.uploads.state import (
    Busy,
    Holder,
    IUploadState,
    Lease,
    StateUnavailable,
    Status,
    UnknownUpload,
    UploadRecord,
)

#: Records that are looked at in one go.
_BATCH = 100

#: A part is somebody's for so many seconds before it is taken for an orphan: its upload may be about to be recorded.
_YOUNG_S = 600.0


class Janitor:
    """Cleans up after uploads. To be used on the reactor's thread alone.

    :param key: :func:`hmacfs.uploads.identity.server_key`: tells this store's uploads from those of another one that
        shares the Redis server.
    :param now: the time in seconds since the epoch.
    :param session_ttl_s: how long an unfinished upload can be resumed.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        state: IUploadState,
        key: bytes,
        threads: Threads,
        now: Callable[[], float],
        session_ttl_s: float,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._state = state
        self._key = key
        self._threads = threads
        self._now = now
        self._session_ttl_s = session_ttl_s
        self._metrics = metrics

    async def expire(self) -> None:
        """Remove the uploads whose time is over: their parts, and their records. Does nothing while the store is away."""
        removed = 0
        try:
            while True:
                records = await self._state.expired(self._now(), _BATCH)
                gone = [record for record in records if await self._expire(record)]
                removed += sum(record.status is Status.ACTIVE for record in gone)
                if not gone:
                    break
        except StateUnavailable as away:
            self._log.debug("the janitor waits: {away}", away=away)
        if removed:
            self._log.info("janitor: removed {removed} uploads that were not finished in time", removed=removed)

    async def reconcile(self) -> None:
        """Remove parts that no upload knows, and records whose part is gone: what a crash, or an emptied Redis, leaves."""
        try:
            await self._drop_vanished()
            known = await self._known_parts()
        except StateUnavailable as away:
            self._log.warn("janitor: orphans can't be looked for now: {away}", away=away)
            return
        now = self._now()
        swept = await self._threads.run(self._store.sweep_parts, _YOUNG_S, now, self._is_somebodys(known))
        old = await self._threads.run(self._store.sweep_parts, self._session_ttl_s + _YOUNG_S, now, known.__contains__)
        if swept.files or old.files:
            self._log.info(
                "janitor: removed {files} part files that belonged to no upload, {size} bytes",
                files=swept.files + old.files,
                size=swept.size_bytes + old.size_bytes,
            )

    async def _expire(self, record: UploadRecord) -> bool:
        """Whether *record* is gone now."""
        part: Part | None = None
        try:
            part = self._store.reopen(record.uid)
        except FileNotFoundError:
            pass
        except PartBusy:
            return False
        try:
            # Who has the lock on the part may take the lease: no other process of this host writes.
            lease = await self._lease(record, steal=part is not None)
            if lease is None or lease.record.expires > self._now():
                return False
            if part is not None:
                await self._threads.run(part.discard)
            await self._state.discard(lease)
        finally:
            if part is not None:
                part.close()
        if record.status is Status.ACTIVE:
            self._metrics.sessions_expired.inc()
        return True

    async def _lease(self, record: UploadRecord, *, steal: bool) -> Lease | None:
        try:
            return await self._state.acquire(record.uid, Holder(lambda: None), steal, False)
        except (Busy, UnknownUpload):
            return None

    async def _drop_vanished(self) -> None:
        cursor = ""
        while True:
            page = await self._state.unfinished(cursor)
            for record in page.records:
                if self._is_ours(record) and record.offset and not self._store.has_part(record.uid):
                    await self._drop(record)
            cursor = page.cursor
            if not cursor:
                return

    def _is_ours(self, record: UploadRecord) -> bool:
        return upload_id(self._key, record.path, record.signature) == record.uid

    async def _drop(self, record: UploadRecord) -> None:
        stored = self._is_stored(record)
        lease = await self._lease(record, steal=stored)
        if lease is None:
            return
        if stored:
            # The process died when the file had its name, and before it could say so.
            await self._state.discard(lease)
        elif lease.record.status is Status.ACTIVE and not self._store.has_part(record.uid):
            self._log.warn("janitor: the bytes of an unfinished upload have vanished")
            self._metrics.sessions_lost.inc()
            # Who comes back for it is told that it is gone.
            await self._state.fail(lease, "lost")
        else:
            await self._state.release(lease)

    def _is_stored(self, record: UploadRecord) -> bool:
        stored = self._store.open_file(SlotPath.from_encoded(record.path))
        if stored is None:
            return False
        stored.close()
        return True

    async def _known_parts(self) -> set[str]:
        known: set[str] = set()
        cursor = ""
        while True:
            page = await self._state.unfinished(cursor)
            known.update(record.uid for record in page.records)
            cursor = page.cursor
            if not cursor:
                return known

    def _is_somebodys(self, known: set[str]) -> Callable[[str], bool]:
        """Whether a part can be gone on with: the state store knows it, or it has a note. Called in a thread."""
        return lambda name: name in known or self._store.part_note(name) is not None
