"""Keeping the index in step with the tree, beside everything else."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from hmacfs.keeping.index import Index, Usage
from hmacfs.keeping.scan import SCANNED_KEY, Kind, Scan, refresh
from hmacfs.metrics import Metrics
from hmacfs.net.rests import Rests
from hmacfs.net.threads import Threads
from hmacfs.storage.database import DatabaseAway, WrongFormat
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store

#: What happens to files is written down so many seconds later, or sooner if so many files are waiting.
FLUSH_AFTER_S: Final = 1.0
FLUSH_AT: Final = 1000

#: So many files may be waiting while the index is slow. What happens to others then is left to a scan.
MAX_WAITING: Final = 100_000

#: A scan rests so many times as long as it works: it takes a fifth of a core, and of the disk, at most.
REST: Final = 4

#: From the begin of one whole scan to the next one, in seconds.
SCAN_EVERY_S: Final = 86_400.0

_DAY_S: Final = 86_400

#: Where a process leaves word in the index that it wishes a scan: another word each time.
_WISH_KEY: Final = "scan wished"


class Indexing:
    """Tells the index what happens to files, and compares it with the tree. To be used on the reactor's thread alone.

    Nobody waits for it. What it has not written down when the process dies is found by the next scan.

    :param now: the time in seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        index: Index,
        clock: IReactorTime,
        threads: Threads,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._threads = threads
        self._now = now
        self._metrics = metrics
        self._changed: set[bytes] = set()
        self._read: set[bytes] = set()
        self._timer: IDelayedCall | None = None
        self._writing = DeferredLock()
        self._rests = Rests(clock)
        self._halted = False
        self._is_away = False
        # The wish for a scan that is still to be told. The first is for what happened while no process of ours was there,
        # and for what one that was killed had not written down.
        self._wish = _new_wish()
        self._granted: str | None = None

    async def start(self) -> None:
        """See that there is an index that we can read: one of another version is begun anew."""
        try:
            try:
                await self._threads.run(self._index.usage)
            except WrongFormat as other:
                self._log.warn("{other}: it is begun anew from the files", other=other)
                await self._threads.run(self._index.renew)
            await self._tell_wish()
        except DatabaseAway as away:
            self._went_away(away)

    def changed(self, path: SlotPath) -> None:
        """A file was stored or deleted, or what is known of it has changed. Takes microseconds."""
        if len(self._changed) < MAX_WAITING:
            self._changed.add(path.encoded)
            self._flush_soon()
        else:
            self._wish = self._wish or _new_wish()

    def read(self, path: SlotPath) -> None:
        """A file was downloaded. Takes microseconds."""
        if len(self._read) < MAX_WAITING:
            self._read.add(path.encoded)
            self._flush_soon()

    async def flush(self) -> None:
        """Write down what is waiting. Never fails: what can't be written is left to a scan."""
        await self._writing.acquire()
        try:
            self._stop_timer()
            changed, self._changed = self._changed, set()
            read, self._read = self._read, set()
            if changed or read:
                self._show(await self._threads.run(self._write, changed, read))
                self._came_back()
        except (DatabaseAway, WrongFormat) as away:
            self._wish = self._wish or _new_wish()
            self._went_away(away)
        finally:
            self._writing.release()
        if self._changed or self._read:
            self._flush_soon()

    async def look(self) -> None:
        """Show what is stored, and tell who looks after the index if it has lost something. For every process."""
        try:
            self._show(await self._threads.run(self._index.usage))
            await self._tell_wish()
            self._came_back()
        except (DatabaseAway, WrongFormat) as away:
            self._went_away(away)

    async def look_after(self) -> None:
        """Scan if it is time to: a day after the last time, and whenever a process wishes it. For one process."""
        try:
            await self._tell_wish()
            wish = await self._threads.run(self._index.setting, _WISH_KEY)
            if wish != self._granted or not await self._threads.run(self._is_scanned):
                await self.scan()
                if not self._halted:
                    self._granted = wish
            self._came_back()
        except (DatabaseAway, WrongFormat) as away:
            self._went_away(away)

    async def _tell_wish(self) -> None:
        if self._wish:
            wish = self._wish
            await self._threads.run(self._index.set_setting, _WISH_KEY, wish)
            if wish == self._wish:
                self._wish = ""

    async def scan(self) -> None:
        """Compare the whole tree with the index, and correct the index, little by little.

        :raises DatabaseAway: the index can't be used.
        """
        scan = Scan(self._store, self._index, self._now)
        kinds: Counter[Kind] = Counter()
        begun = self._clock.seconds()
        try:
            while not self._halted:
                step_begun = self._clock.seconds()
                differences = await self._threads.run(scan.step)
                if differences is None:
                    break
                kinds.update(difference.kind for difference in differences)
                self._metrics.index_scanned_files.set(scan.files)
                await self._rests.take((self._clock.seconds() - step_begun) * REST)
        finally:
            scan.close()
        self._count(scan, kinds, self._clock.seconds() - begun)
        self._show(await self._threads.run(self._index.usage))

    def halt(self) -> None:
        """Let a scan that is under way come to its end now."""
        self._halted = True
        self._rests.end()

    async def stop(self) -> None:
        """Write down what is waiting, and close the index."""
        self.halt()
        await self.flush()
        self._stop_timer()
        await self._threads.run(self._index.close)

    def _flush_soon(self) -> None:
        if self._writing.locked:
            # It comes here again when it is done.
            return
        if len(self._changed) + len(self._read) >= FLUSH_AT:
            self._flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(FLUSH_AFTER_S, self._flush)

    def _flush(self) -> None:
        self._stop_timer()
        Deferred.fromCoroutine(self.flush()).addErrback(
            lambda failure: self._log.failure("the index could not be written", failure)
        )

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _write(self, changed: Collection[bytes], read: Collection[bytes]) -> Usage:
        now = self._now()
        refresh(self._store, self._index, tuple(changed), now)
        self._index.note_read(tuple(read), int(now // _DAY_S))
        return self._index.usage()

    def _is_scanned(self) -> bool:
        """Whether this very index file has seen a whole scan since yesterday."""
        scanned = self._index.setting(SCANNED_KEY)
        return scanned is not None and self._now() - float(scanned) < SCAN_EVERY_S

    def _show(self, usage: Usage) -> None:
        self._metrics.stored_files.set(usage.files)
        self._metrics.stored_bytes.set(usage.size_bytes)

    def _count(self, scan: Scan, kinds: Counter[Kind], took_s: float) -> None:
        for kind, count in kinds.items():
            self._metrics.index_differences.labels(kind.value).inc(count)
        self._metrics.index_skipped_files.set(scan.skipped)
        if kinds or scan.sidecars:
            self._log.info(
                "index: {missing} files added, {changed} corrected, {vanished} forgotten, {sidecars} orphaned sidecars"
                " removed; saw {files} files in {took} s, {skipped} of them left out",
                missing=kinds[Kind.MISSING],
                changed=kinds[Kind.CHANGED],
                vanished=kinds[Kind.VANISHED],
                sidecars=scan.sidecars,
                files=scan.files,
                skipped=scan.skipped,
                took=round(took_s, 1),
            )

    def _went_away(self, away: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            self._log.error("the index of files can't be used, uploads and downloads go on: {away}", away=away)

    def _came_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._log.info("the index of files can be used again")


def _new_wish() -> str:
    return secrets.token_hex(8)
