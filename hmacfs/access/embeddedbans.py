"""Bans in an SQLite file, for all the processes of one host."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from hmacfs.access.banstate import (
    MAX_RECORDS,
    PAGE_RECORDS,
    BansAway,
    Change,
    Changes,
    IBanState,
    Mark,
    Record,
)
from hmacfs.errors import StartError
from hmacfs.net.threads import Threads
from hmacfs.storage.database import Database, DatabaseAway, WrongFormat

T = TypeVar("T")

#: The file's name, in ``<StoreDir>/.hmacfs/``.
FILE_NAME: Final = "bans.sqlite"

_VERSION: Final = 1

# version is that of the change that a record's sentence came with, 0 where it never had one.
_SCHEMA: Final = """
CREATE TABLE records (
    scope TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    version INTEGER NOT NULL,
    forgotten REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_version ON records (version) WHERE version > 0;
CREATE INDEX by_end ON records (forgotten);
CREATE TABLE life (name TEXT NOT NULL, version INTEGER NOT NULL);
INSERT INTO life VALUES (lower(hex(randomblob(8))), 0);
PRAGMA user_version = 1;
"""


def _update(scopes: Sequence[str], change: Change, connection: sqlite3.Connection) -> list[Record]:
    return [_update_one(scope, change, connection) for scope in scopes]


def _update_one(scope: str, change: Change, connection: sqlite3.Connection) -> Record:
    row = connection.execute("SELECT record, version FROM records WHERE scope = ?", (scope,)).fetchone()
    old = Record(scope) if row is None else Record.from_text(scope, row[0])
    new = change(old)
    if new == old:
        return old
    version = 0 if row is None else row[1]
    if new.sentence != old.sentence:
        (version,) = connection.execute("UPDATE life SET version = version + 1 RETURNING version").fetchone()
    connection.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (scope, new.to_text(), version, new.forgotten))
    return new


def _changes(mark: Mark, connection: sqlite3.Connection) -> Changes:
    life, version = connection.execute("SELECT name, version FROM life").fetchone()
    if life == mark.life and version == mark.version:
        return Changes(mark, (), more=False)
    rows = connection.execute(
        "SELECT scope, record, version FROM records WHERE version > ? AND version > 0 ORDER BY version LIMIT ?",
        (mark.version if life == mark.life else 0, PAGE_RECORDS),
    ).fetchall()
    more = len(rows) == PAGE_RECORDS
    records = [Record.from_text(scope, text) for scope, text, _ in rows]
    return Changes(Mark(life, rows[-1][2] if more else version), records, more)


def _purge(now: float, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM records WHERE forgotten < ?", (now,))
    (count,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
    if count > MAX_RECORDS:
        connection.execute(
            "DELETE FROM records WHERE scope IN"
            " (SELECT scope FROM records WHERE forgotten < ? ORDER BY forgotten LIMIT ?)",
            (inf, count - MAX_RECORDS),
        )


@implementer(IBanState)
class EmbeddedBanState:
    """See :class:`~hmacfs.access.banstate.IBanState`. Its calls are made one after another.

    :param path: of the database file; see :data:`FILE_NAME`.
    :param now: the time in seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, path: Path, threads: Threads, now: Callable[[], float]) -> None:
        self._database = Database(path, _SCHEMA, _VERSION)
        self._threads = threads
        self._now = now
        self._turn = DeferredLock()

    def start(self) -> Deferred[None]:
        return self._run(self._database.write, lambda _: None).addErrback(self._not_yet)

    def _not_yet(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, WrongFormat):
            raise StartError(
                f"{error}. Start the hmacfs that made it, or remove the file: all bans are lifted then."
            ) from error
        if not isinstance(error, BansAway):
            failure.raiseException()

    def stop(self) -> Deferred[None]:
        return self._turn.run(lambda: self._threads.run(self._database.close))

    def update(self, scopes: Sequence[str], change: Change) -> Deferred[Sequence[Record]]:
        return self._run(self._database.write, partial(_update, scopes, change))

    def changes(self, mark: Mark) -> Deferred[Changes]:
        return self._run(self._database.read, partial(_changes, mark))

    def purge(self) -> Deferred[None]:
        return self._run(self._database.write, partial(_purge, self._now()))

    def _run(
        self,
        transaction: Callable[[Callable[[sqlite3.Connection], T]], T],
        work: Callable[[sqlite3.Connection], T],
    ) -> Deferred[T]:
        return self._turn.run(lambda: self._threads.run(transaction, work)).addErrback(_away)


def _away(failure: Failure) -> NoReturn:
    if isinstance(failure.value, DatabaseAway):
        raise BansAway(failure.value.reason) from failure.value
    failure.raiseException()
