"""Upload states in an SQLite file: the store that needs no other program, for all the processes of one host."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from attrs import evolve, fields
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from hmacfs.errors import StartError
from hmacfs.net.threads import Threads
from hmacfs.storage.database import Database, DatabaseAway, WrongFormat
from hmacfs.uploads.state import (
    LEASE_S,
    Busy,
    Fenced,
    Holder,
    Holdings,
    IUploadState,
    Lease,
    NewUpload,
    OffsetMismatch,
    Page,
    StateUnavailable,
    Status,
    UnknownUpload,
    UploadRecord,
    beginning,
    expiry,
)

T = TypeVar("T")

#: How often a process that holds uploads looks whether another process wants one, in seconds.
LET_GO_POLL_S: Final = 0.25

#: Records on one page of :meth:`EmbeddedUploadState.unfinished`.
PAGE_RECORDS: Final = 100

#: When to ask again, in seconds.
RETRY_AFTER_S: Final = 5.0

_VERSION: Final = 1

# The record's fields, under their names, and the lease. let_go is the last epoch that somebody wanted to end.
_SCHEMA: Final = f"""
CREATE TABLE uploads (
    uid TEXT PRIMARY KEY,
    path BLOB NOT NULL,
    signature BLOB NOT NULL,
    token TEXT NOT NULL,
    content_type TEXT NOT NULL,
    total INTEGER,
    owner TEXT,
    file_expires REAL,
    offset INTEGER NOT NULL,
    hash_state BLOB NOT NULL,
    generation INTEGER NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created REAL NOT NULL,
    modified REAL NOT NULL,
    expires REAL NOT NULL,
    attempts_without_progress INTEGER NOT NULL,
    sha256 BLOB,
    metadata TEXT NOT NULL,
    holder TEXT NOT NULL,
    lease_until REAL NOT NULL,
    let_go INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_expiry ON uploads (expires);
CREATE INDEX by_status ON uploads (status, uid);
PRAGMA user_version = {_VERSION};
"""

_FIELDS: Final = tuple(attribute.name for attribute in fields(UploadRecord))
_COLUMNS: Final = (*_FIELDS, "holder", "lease_until", "let_go")
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM uploads"  # noqa: S608 (names of our own)
_REPLACE: Final = f"REPLACE INTO uploads ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608


class _Row:
    """An upload in the table: its record, and its lease."""

    def __init__(self, values: Sequence[Any]) -> None:
        *record, self.holder, self.lease_until, self.let_go = values
        named = dict(zip(_FIELDS, record, strict=True))
        self.record = UploadRecord(**{**named, "status": Status(named["status"])})

    def is_held(self, now: float) -> bool:
        # An end that is far away is from before the clock was set back. Twice as far as a lease lasts, for *now* is as old
        # as the call, which may have waited for other threads and processes.
        return bool(self.holder) and now < self.lease_until <= now + 2 * LEASE_S


def _find(connection: sqlite3.Connection, uid: str) -> _Row | None:
    values = connection.execute(f"{_SELECT} WHERE uid = ?", (uid,)).fetchone()
    return None if values is None else _Row(values)


def _get(uid: str, connection: sqlite3.Connection) -> UploadRecord | None:
    row = _find(connection, uid)
    return None if row is None else row.record


def _held(connection: sqlite3.Connection, lease: Lease) -> _Row:
    """The upload, if *lease* is in force. It is until somebody else has one, even if its time is over."""
    row = _find(connection, lease.uid)
    if row is None:
        raise UnknownUpload(lease.uid)
    if row.record.epoch != lease.epoch or row.holder != lease.holder:
        raise Fenced(lease.uid)
    return row


def _write(
    connection: sqlite3.Connection, record: UploadRecord, holder: str, lease_until: float, let_go: int
) -> UploadRecord:
    values = [getattr(record, name) for name in _FIELDS]
    values[_FIELDS.index("status")] = record.status.value
    connection.execute(_REPLACE, (*values, holder, lease_until, let_go))
    return record


class _Changes:
    """What is done to one upload in one transaction. Runs in a thread; times are seconds since the epoch."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s

    def create(
        self, new: NewUpload, holder: str, now: float, connection: sqlite3.Connection
    ) -> tuple[bool, UploadRecord]:
        row = _find(connection, new.uid)
        if row is not None:
            return row.holder == holder, row.record
        return True, _write(connection, beginning(new, 1, now, self._ttl_s), holder, now + LEASE_S, 0)

    def acquire(
        self, uid: str, holder: str, steal: bool, attempt: bool, now: float, connection: sqlite3.Connection
    ) -> UploadRecord | _Row:
        """The record under its new epoch; or the row as it is, with the holder told to let go."""
        row = _find(connection, uid)
        if row is None:
            raise UnknownUpload(uid)
        record = row.record
        if row.holder == holder:
            return _write(connection, record, holder, now + LEASE_S, row.let_go)
        if row.is_held(now) and not steal:
            connection.execute("UPDATE uploads SET let_go = epoch WHERE uid = ?", (uid,))
            return row
        attempts = record.attempts_without_progress + (attempt and record.status is Status.ACTIVE)
        record = evolve(record, epoch=record.epoch + 1, attempts_without_progress=attempts)
        return _write(connection, record, holder, now + LEASE_S, row.let_go)

    def commit(self, lease: Lease, offset: int, hash_state: bytes, now: float, connection: sqlite3.Connection) -> None:
        row = _held(connection, lease)
        record = row.record
        if record.status is not Status.ACTIVE:
            raise Fenced(lease.uid)
        if offset < record.offset or (record.total is not None and offset > record.total):
            raise OffsetMismatch(lease.uid, record.offset)
        record = evolve(
            record,
            offset=offset,
            hash_state=hash_state,
            modified=now,
            expires=expiry(record, now, self._ttl_s),
            attempts_without_progress=0 if offset > record.offset else record.attempts_without_progress,
        )
        _write(connection, record, lease.holder, now + LEASE_S, row.let_go)

    def renew(self, lease: Lease, now: float, connection: sqlite3.Connection) -> None:
        _held(connection, lease)
        connection.execute("UPDATE uploads SET lease_until = ? WHERE uid = ?", (now + LEASE_S, lease.uid))

    def release(self, lease: Lease, connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE uploads SET holder = '', lease_until = 0 WHERE uid = ? AND epoch = ? AND holder = ?",
            (lease.uid, lease.epoch, lease.holder),
        )

    def finish(self, lease: Lease, size: int, sha256: bytes | None, now: float, connection: sqlite3.Connection) -> None:
        row = _held(connection, lease)
        record = row.record
        if record.status is Status.FAILED:
            raise Fenced(lease.uid)
        if size < record.offset or (record.total is not None and size != record.total):
            raise OffsetMismatch(lease.uid, record.offset)
        self._end(connection, row, now, status=Status.COMPLETE, total=size, offset=size, sha256=sha256)

    def fail(self, lease: Lease, reason: str, now: float, connection: sqlite3.Connection) -> None:
        row = _held(connection, lease)
        if row.record.status is Status.COMPLETE:
            raise Fenced(lease.uid)
        self._end(connection, row, now, status=Status.FAILED, reason=reason)

    def _end(self, connection: sqlite3.Connection, row: _Row, now: float, **changes: Any) -> None:
        expires = expiry(row.record, now, self._ttl_s)
        record = evolve(row.record, hash_state=b"", modified=now, expires=expires, **changes)
        # The holder stays named, so that the same call made again is known for what it is.
        _write(connection, record, row.holder, 0, row.let_go)

    def restart(self, lease: Lease, new: NewUpload, now: float, connection: sqlite3.Connection) -> UploadRecord:
        row = _held(connection, lease)
        record = beginning(new, lease.epoch, now, self._ttl_s)
        return _write(connection, record, row.holder, now + LEASE_S, row.let_go)

    def discard(self, lease: Lease, connection: sqlite3.Connection) -> None:
        with contextlib.suppress(UnknownUpload):
            _held(connection, lease)
            connection.execute("DELETE FROM uploads WHERE uid = ?", (lease.uid,))


def _expired(now: float, limit: int, connection: sqlite3.Connection) -> list[UploadRecord]:
    rows = connection.execute(f"{_SELECT} WHERE expires < ? ORDER BY expires LIMIT ?", (now, limit))
    return [_Row(values).record for values in rows]


def _unfinished(cursor: str, connection: sqlite3.Connection) -> Page:
    rows = connection.execute(
        f"{_SELECT} WHERE status = ? AND uid > ? ORDER BY uid LIMIT ?", (Status.ACTIVE.value, cursor, PAGE_RECORDS)
    )
    records = [_Row(values).record for values in rows]
    return Page(records, records[-1].uid if len(records) == PAGE_RECORDS else "")


def _known(uids: Sequence[str], connection: sqlite3.Connection) -> dict[str, int]:
    found = {}
    for uid in uids:
        row = connection.execute("SELECT generation FROM uploads WHERE uid = ?", (uid,)).fetchone()
        if row is not None:
            (found[uid],) = row
    return found


def _counts(connection: sqlite3.Connection) -> dict[Status, int]:
    counted = dict(connection.execute("SELECT status, COUNT(*) FROM uploads GROUP BY status"))
    return {status: counted.get(status.value, 0) for status in Status}


def _wanted(held: Mapping[str, int], connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """Which of the *held* uploads somebody wants, or has taken already, and the epochs that they are held under."""
    wanted = []
    for uid, epoch in held.items():
        row = connection.execute("SELECT epoch, let_go FROM uploads WHERE uid = ?", (uid,)).fetchone()
        if row is not None and (row[0] != epoch or row[1] == epoch):
            wanted.append((uid, epoch))
    return wanted


@implementer(IUploadState)
class EmbeddedUploadState:
    """See :class:`~hmacfs.uploads.state.IUploadState`. Needs no Redis; the processes of one host share a file.

    The file may forget the last moments before a power loss, and is therefore never ahead of the disk as long as the
    caller syncs the bytes before it commits their offset.

    Its calls are made one after another, so that the store never has more than one thread of the pool.

    Another process is asked to let go through a column, which it looks at every :data:`LET_GO_POLL_S` seconds while it
    holds anything; a holder in this process is told at once.

    :param path: of the database file: ``<StoreDir>/.hmacfs/state.sqlite``. On a disk of this host: SQLite's WAL does
        not work over the network; several hosts share a Redis.
    :param clock: the reactor.
    :param ttl_s: ``SessionTTL`` in seconds.
    :param now: the time in seconds since the epoch.
    """

    available = True
    round_trip_s: float | None = None

    _log = Logger()

    def __init__(
        self, path: Path, threads: Threads, clock: IReactorTime, ttl_s: float, now: Callable[[], float]
    ) -> None:
        self._database = Database(path, _SCHEMA, _VERSION)
        self._changes = _Changes(ttl_s)
        self._threads = threads
        self._now = now
        self._turn = DeferredLock()
        self._holdings = Holdings()
        self._poll = LoopingCall(self._look_for_wishes)
        self._poll.clock = clock

    def start(self) -> Deferred[None]:
        return self._write(lambda _: None).addErrback(self._not_yet)

    def _not_yet(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, WrongFormat):
            raise StartError(
                f"{error}. Start the hmacfs that made it, or remove the file: unfinished uploads then begin anew."
            ) from error
        if not isinstance(error, StateUnavailable):
            failure.raiseException()
        self._log.error("{error}. Trying again with each upload", error=error)

    def stop(self) -> Deferred[None]:
        if self._poll.running:
            self._poll.stop()
        return self._turn.run(lambda: self._threads.run(self._database.close))

    def create(self, new: NewUpload, holder: Holder) -> Deferred[Lease | UploadRecord]:
        def created(outcome: tuple[bool, UploadRecord]) -> Lease | UploadRecord:
            is_ours, record = outcome
            return self._leased(record, holder) if is_ours else record

        return self._write(partial(self._changes.create, new, holder.name, self._now())).addCallback(created)

    def get(self, uid: str) -> Deferred[UploadRecord | None]:
        return self._read(partial(_get, uid))

    def acquire(self, uid: str, holder: Holder, steal: bool = False, attempt: bool = True) -> Deferred[Lease]:
        def acquired(outcome: UploadRecord | _Row) -> Lease:
            if isinstance(outcome, UploadRecord):
                return self._leased(outcome, holder)
            self._holdings.tell(uid, outcome.record.epoch)
            raise Busy(uid, outcome.holder)

        change = partial(self._changes.acquire, uid, holder.name, steal, attempt, self._now())
        return self._write(change).addCallback(acquired)

    def commit(self, lease: Lease, offset: int, hash_state: bytes = b"") -> Deferred[None]:
        return self._under(lease, partial(self._changes.commit, lease, offset, hash_state, self._now()))

    def renew(self, lease: Lease) -> Deferred[None]:
        return self._under(lease, partial(self._changes.renew, lease, self._now()))

    def release(self, lease: Lease) -> Deferred[None]:
        self._holdings.drop(lease)
        return self._write(partial(self._changes.release, lease))

    def finish(self, lease: Lease, size: int, sha256: bytes | None) -> Deferred[None]:
        change = partial(self._changes.finish, lease, size, sha256, self._now())
        return self._under(lease, change).addCallback(self._let_go_of, lease)

    def fail(self, lease: Lease, reason: str) -> Deferred[None]:
        change = partial(self._changes.fail, lease, reason, self._now())
        return self._under(lease, change).addCallback(self._let_go_of, lease)

    def restart(self, lease: Lease, new: NewUpload) -> Deferred[Lease]:
        new = evolve(new, generation=max(new.generation, lease.record.generation + 1))
        change = partial(self._changes.restart, lease, new, self._now())
        return self._under(lease, change).addCallback(lambda record: evolve(lease, record=record))

    def discard(self, lease: Lease) -> Deferred[None]:
        return self._under(lease, partial(self._changes.discard, lease)).addCallback(self._let_go_of, lease)

    def expired(self, now: float, limit: int) -> Deferred[Sequence[UploadRecord]]:
        return self._read(partial(_expired, now, limit))

    def unfinished(self, cursor: str = "") -> Deferred[Page]:
        return self._read(partial(_unfinished, cursor))

    def known(self, uids: Sequence[str]) -> Deferred[Mapping[str, int]]:
        return self._read(partial(_known, uids))

    def counts(self) -> Deferred[Mapping[Status, int]]:
        return self._read(_counts)

    def _leased(self, record: UploadRecord, holder: Holder) -> Lease:
        lease = Lease(record.uid, holder.name, record.epoch, record)
        self._holdings.add(lease, holder)
        if not self._poll.running:
            self._poll.start(LET_GO_POLL_S, now=False)
        return lease

    def _let_go_of(self, _: object, lease: Lease) -> None:
        self._holdings.drop(lease)

    def _under(self, lease: Lease, change: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Make a change that *lease* allows; if it is over, nobody needs to be told to let go of it."""

        def over(failure: Failure) -> Failure:
            if isinstance(failure.value, (Fenced, UnknownUpload)):
                self._holdings.drop(lease)
            return failure

        return self._write(change).addErrback(over)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        return self._run(self._database.read, work)

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        return self._run(self._database.write, work)

    def _run(
        self,
        transaction: Callable[[Callable[[sqlite3.Connection], T]], T],
        work: Callable[[sqlite3.Connection], T],
    ) -> Deferred[T]:
        def timed() -> tuple[float, T]:
            began = time.perf_counter()
            result = transaction(work)
            return time.perf_counter() - began, result

        return self._turn.run(lambda: self._threads.run(timed)).addCallbacks(self._well, self._ill)

    def _well(self, timed: tuple[float, T]) -> T:
        self.round_trip_s, result = timed
        self.available = True
        return result

    def _ill(self, failure: Failure) -> NoReturn:
        error = failure.value
        if isinstance(error, DatabaseAway):
            self.available = False
            raise StateUnavailable(error.reason, RETRY_AFTER_S) from error
        failure.raiseException()

    def _look_for_wishes(self) -> Deferred[None]:
        if not self._holdings:
            self._poll.stop()
            return succeed(None)
        return self._read(partial(_wanted, self._holdings.epochs())).addCallbacks(self._tell, self._look_again)

    def _tell(self, wanted: Sequence[tuple[str, int]]) -> None:
        for uid, epoch in wanted:
            self._holdings.tell(uid, epoch)

    def _look_again(self, failure: Failure) -> None:
        if not isinstance(failure.value, StateUnavailable):
            self._log.failure("Looking for who wants an upload failed", failure=failure)
