"""The index of stored files: one row each, in an SQLite file.

It is a cache of the tree. It may be removed at any time, nothing waits for it on the way of a byte, and what it says of
a file is looked at again in the tree before anything is done to the file.
"""

from __future__ import annotations

import fnmatch
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import evolve, field, fields, frozen

from hmacfs.keeping.account import account_of
from hmacfs.storage.database import Database
from hmacfs.storage.facts import Facts
from hmacfs.storage.tree import Identity, Stamp

T = TypeVar("T")

#: The name of its file, in ``.hmacfs``.
FILE_NAME: Final = "index.sqlite"

#: Rows that one transaction changes: other processes wait for it, for some milliseconds.
BATCH: Final = 64

_SCHEMA: Final = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    uploaded REAL NOT NULL,
    content_type TEXT NOT NULL,
    sha256 BLOB,
    user TEXT,
    domain TEXT NOT NULL,
    expires REAL,
    quarantined INTEGER NOT NULL,
    source TEXT NOT NULL,
    first_seen REAL NOT NULL,
    read_day INTEGER,
    ends REAL,
    scheduled INTEGER NOT NULL
);
CREATE INDEX files_uploaded ON files (uploaded);
CREATE INDEX files_user ON files (user, uploaded) WHERE user IS NOT NULL;
CREATE INDEX files_domain ON files (domain, uploaded) WHERE domain <> '';
CREATE INDEX files_ends ON files (ends) WHERE ends IS NOT NULL AND NOT quarantined;
CREATE INDEX files_quarantined ON files (uploaded) WHERE quarantined;
CREATE INDEX files_unscheduled ON files (number) WHERE NOT scheduled;
CREATE TABLE usage (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    files INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TRIGGER files_added AFTER INSERT ON files BEGIN
    INSERT INTO usage VALUES ('all', '', 1, NEW.size), ('domain', NEW.domain, 1, NEW.size)
        ON CONFLICT DO UPDATE SET files = files + 1, size_bytes = size_bytes + excluded.size_bytes;
    INSERT INTO usage SELECT 'user', NEW.user, 1, NEW.size WHERE NEW.user IS NOT NULL
        ON CONFLICT DO UPDATE SET files = files + 1, size_bytes = size_bytes + excluded.size_bytes;
END;
CREATE TRIGGER files_removed AFTER DELETE ON files BEGIN
    UPDATE usage SET files = files - 1, size_bytes = size_bytes - OLD.size WHERE kind = 'all';
    UPDATE usage SET files = files - 1, size_bytes = size_bytes - OLD.size WHERE kind = 'domain' AND name = OLD.domain;
    UPDATE usage SET files = files - 1, size_bytes = size_bytes - OLD.size WHERE kind = 'user' AND name = OLD.user;
    DELETE FROM usage WHERE kind = 'domain' AND name = OLD.domain AND files = 0;
    DELETE FROM usage WHERE kind = 'user' AND name = OLD.user AND files = 0;
END;
CREATE TRIGGER files_changed AFTER UPDATE OF size, user, domain ON files
WHEN NEW.size <> OLD.size OR NEW.domain <> OLD.domain OR NEW.user IS NOT OLD.user BEGIN
    UPDATE usage SET size_bytes = size_bytes + NEW.size - OLD.size WHERE kind = 'all';
    UPDATE usage SET files = files - 1, size_bytes = size_bytes - OLD.size WHERE kind = 'domain' AND name = OLD.domain;
    UPDATE usage SET files = files - 1, size_bytes = size_bytes - OLD.size WHERE kind = 'user' AND name = OLD.user;
    INSERT INTO usage VALUES ('domain', NEW.domain, 1, NEW.size)
        ON CONFLICT DO UPDATE SET files = files + 1, size_bytes = size_bytes + excluded.size_bytes;
    INSERT INTO usage SELECT 'user', NEW.user, 1, NEW.size WHERE NEW.user IS NOT NULL
        ON CONFLICT DO UPDATE SET files = files + 1, size_bytes = size_bytes + excluded.size_bytes;
    DELETE FROM usage WHERE kind = 'domain' AND name = OLD.domain AND files = 0;
    DELETE FROM usage WHERE kind = 'user' AND name = OLD.user AND files = 0;
END;
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('birthmark', HEX(RANDOMBLOB(16)));
PRAGMA user_version = 1;
"""
_VERSION: Final = 1


def _expiry_or(ends: float | None, expires: float | None) -> float | None:
    return min((time for time in (ends, expires) if time is not None), default=None)


@frozen
class Entry:
    """What the index knows of one file.

    :ivar path: as :attr:`hmacfs.storage.names.SlotPath.encoded`.
    :ivar size: in bytes.
    :ivar mtime_ns: of the last change, in nanoseconds since the epoch.
    :ivar inode: with size and mtime tells two files of one path apart.
    :ivar uploaded: in seconds since the epoch; of a file that was adopted, its mtime.
    :ivar content_type: as in :class:`~hmacfs.storage.facts.Facts`.
    :ivar sha256: likewise.
    :ivar user: as in :class:`~hmacfs.keeping.account.Account`.
    :ivar domain: likewise.
    :ivar expires: when the uploader wanted the file gone, in seconds since the epoch.
    :ivar quarantined: whether the operator has taken it down.
    :ivar source: ``upload``, ``adopted``, ``import ...``.
    :ivar first_seen: when the index saw the file first, in seconds since the epoch. An index that was begun anew sees
        everything for the first time.
    :ivar read_day: of the last download, in days since the epoch; ``None`` if there was none that we know of.
    :ivar ctime_ns: of the last change of the file or its attributes, in nanoseconds since the epoch.
    :ivar ends: when the file is to go, as the rules (:meth:`Index.reschedule`) and the uploader have it.
    :ivar number: of the row; 0 where there is none.
    """

    path: bytes
    size: int
    mtime_ns: int
    inode: int
    uploaded: float
    content_type: str
    sha256: bytes | None
    user: str | None
    domain: str
    expires: float | None
    quarantined: bool = field(converter=bool)
    source: str
    first_seen: float
    read_day: int | None = None
    ctime_ns: int = field(default=0, eq=False)
    ends: float | None = field(default=None, eq=False)
    number: int = field(default=0, eq=False)

    @classmethod
    def of(cls, path: bytes, stamp: Stamp, facts: Facts, now: float) -> Entry:
        """What is to be known of a file that is in the tree.

        :param now: in seconds since the epoch.
        """
        account = account_of(facts.owner, path)
        return cls(
            path=path,
            size=stamp.size,
            mtime_ns=stamp.mtime_ns,
            inode=stamp.inode,
            uploaded=facts.uploaded,
            content_type=_storable(facts.content_type),
            sha256=facts.sha256,
            user=None if account.user is None else _storable(account.user),
            domain=_storable(account.domain),
            expires=facts.expires,
            quarantined=facts.quarantined is not None,
            source=_storable(facts.source or "upload"),
            first_seen=now,
            ctime_ns=stamp.ctime_ns,
        )

    def agrees_with(self, other: Entry) -> bool:
        """Whether the tree says the same in both; when the index saw the file, and who read it, isn't in the tree."""
        return evolve(self, first_seen=other.first_seen, read_day=other.read_day) == other

    @property
    def identity(self) -> Identity:
        """What tells the file from another one that takes its path."""
        return Identity(self.size, self.mtime_ns, self.inode)

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.size, self.mtime_ns, self.inode, self.ctime_ns)


def _storable(text: str) -> str:
    """Without lone surrogates, which JSON can have, and SQLite's UTF-8 can't."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@frozen
class Usage:
    """What the stored files amount to.

    :ivar size_bytes: their sizes added up, not the blocks that they take.
    """

    files: int
    size_bytes: int


@frozen
class Query:
    """Which files are asked for: those to which everything applies that is given.

    :ivar user: as in :class:`Entry`, exactly.
    :ivar domain: likewise.
    :ivar sha256: likewise.
    :ivar source: likewise.
    :ivar quarantined: likewise.
    :ivar pattern: of the whole path, as in :mod:`fnmatch`: a ``*`` stands for slashes, too.
    :ivar content_type: a pattern likewise, in whatever case: ``image/*``.
    :ivar uploaded_before: in seconds since the epoch.
    :ivar uploaded_after: this very second included.
    :ivar larger_than: in bytes.
    :ivar smaller_than: in bytes.
    """

    user: str | None = None
    domain: str | None = None
    sha256: bytes | None = None
    source: str | None = None
    quarantined: bool | None = None
    pattern: bytes | None = None
    content_type: str | None = None
    uploaded_before: float | None = None
    uploaded_after: float | None = None
    larger_than: int | None = None
    smaller_than: int | None = None


@frozen
class Schedule:
    """When files are to go by the operator's rules.

    :ivar fingerprint: another one for other rules.
    :ivar ending: of an entry, in seconds since the epoch; ``None`` for never. Need not look at ``Entry.expires``.
    """

    fingerprint: str
    ending: Callable[[Entry], float | None]


_COLUMNS: Final = tuple(attribute.name for attribute in fields(Entry))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM files"  # noqa: S608 (names of our own)
_KEPT: Final = _COLUMNS[:-2]
_WRITTEN: Final = (*_KEPT, "ends", "scheduled")
_values_of: Final = attrgetter(*_KEPT)
_ASSIGNED: Final = ", ".join(f"{name} = excluded.{name}" for name in _WRITTEN[1:])
_PUT: Final = (
    f"INSERT INTO files ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))}) "  # noqa: S608
    f"ON CONFLICT (path) DO UPDATE SET {_ASSIGNED}"
)

#: A setting that is there from the start: another one in each index that is begun anew.
BIRTHMARK_KEY: Final = "birthmark"

#: Where the fingerprint is kept of the rules that the rows go by.
_SCHEDULE_KEY: Final = "schedule"


class Index:
    """The index of one store. Every method blocks: in a thread. Several threads and processes may use one index.

    All raise :class:`hmacfs.storage.database.DatabaseAway` when the file can't be used now.

    :ivar path: of the SQLite file, usually :data:`FILE_NAME` in ``.hmacfs``, which is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path, _SCHEMA, _VERSION)
        self._schedule: Schedule | None = None

    def close(self) -> None:
        """Close the file if it is open; it is opened again when it is needed."""
        self._database.close()

    def renew(self) -> None:
        """Forget everything, settings included: for a file that another version has made."""
        self._database.remove()

    def put(self, entries: Sequence[Entry]) -> None:
        """Write down files, new ones and known ones. Of a known file ``first_seen`` and ``read_day`` are kept.

        For who has an entry but no tree; otherwise :func:`hmacfs.keeping.scan.refresh` is the way.
        """
        for batch in batches(entries, BATCH):
            self._database.write(lambda connection, batch=batch: self._put(connection, batch))  # type: ignore[misc]

    def drop(self, paths: Sequence[bytes]) -> None:
        """Forget files; see :meth:`put`."""
        for batch in batches(paths, BATCH):
            self._database.write(lambda connection, batch=batch: _drop(connection, batch))  # type: ignore[misc]

    def settle(self, found: Mapping[bytes, Entry | None], there: Callable[[bytes], Stamp | None]) -> Sequence[bytes]:
        """Write down what was found in the tree, as far as it still holds.

        *there* is called while nobody else can write to the index. So whoever changes the tree first and settles it
        then finds the index right when this returns, whatever others do meanwhile.

        :param found: by path: what is there, or ``None`` where there is nothing. No more than :data:`BATCH`.
        :param there: the stamp of the file that is at a path now.
        :return: the paths of which something else holds now, and which were left as they are.
        """

        def settle(connection: sqlite3.Connection) -> list[bytes]:
            good, gone, other = [], [], []
            for path, entry in found.items():
                if there(path) != (None if entry is None else entry.stamp):
                    other.append(path)
                elif entry is None:
                    gone.append(path)
                else:
                    good.append(entry)
            self._put(connection, good)
            _drop(connection, gone)
            return other

        return self._database.write(settle)

    def note_read(self, paths: Sequence[bytes], day: int) -> None:
        """Files were downloaded.

        :param day: in days since the epoch.
        """
        for batch in batches(paths, BATCH):
            rows = [(day, path, day) for path in batch]
            self._database.write(
                lambda connection, rows=rows: connection.executemany(  # type: ignore[misc]
                    "UPDATE files SET read_day = ? WHERE path = ? AND (read_day IS NULL OR read_day < ?)", rows
                )
            )

    def get(self, path: bytes) -> Entry | None:
        """What is known of the file at a path."""
        found = self._page(["path = :path"], {"path": path}, "number", None, 1)
        return found[0] if found else None

    def stamps(self, paths: Sequence[bytes]) -> Mapping[bytes, tuple[int, Stamp]]:
        """The row numbers and stamps of those paths that are known.

        :param paths: no more than :data:`BATCH`.
        """
        asked = ", ".join("?" * len(paths))
        sql = f"SELECT path, number, size, mtime_ns, inode, ctime_ns FROM files WHERE path IN ({asked})"  # noqa: S608
        rows = self._database.read(lambda connection: connection.execute(sql, paths).fetchall())
        return {path: (number, Stamp(*stamp)) for path, number, *stamp in rows}

    def numbered(self, after: int, last: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Row numbers and paths in order of the numbers, from the one behind *after* up to *last*."""
        sql = "SELECT number, path FROM files WHERE number > ? AND number <= ? ORDER BY number LIMIT ?"
        return self._database.read(lambda connection: connection.execute(sql, (after, last, limit)).fetchall())

    def last_number(self) -> int:
        """Of the newest row; rows that are added later have larger ones."""
        sql = "SELECT COALESCE(MAX(number), 0) FROM files"
        return int(self._database.read(lambda connection: connection.execute(sql).fetchone())[0])

    def select(self, query: Query, after: Entry | None = None, limit: int = 1000) -> Sequence[Entry]:
        """The files that are asked for, oldest upload first, a page at a time.

        :param after: the last entry of the page before.
        """
        conditions, values = _conditions(query)
        return self._page(conditions, values, "uploaded", after, limit, _matcher(query.pattern))

    def oldest(self, limit: int, user: str | None = None, after: Entry | None = None) -> Sequence[Entry]:
        """The files that were uploaded first, without those that are quarantined.

        :param after: as in :meth:`select`.
        """
        return self.select(Query(user=user, quarantined=False), after, limit)

    def due(self, now: float, limit: int, after: Entry | None = None) -> Sequence[Entry]:
        """The files whose time is over by the rules or by their uploader's will, without those that are quarantined.

        The one whose time was over first is first.

        :param now: in seconds since the epoch.
        :param after: as in :meth:`select`: to get past those that can't be deleted.
        """
        return self._page(["ends <= :now", "NOT quarantined"], {"now": now}, "ends", after, limit)

    def usage(self, user: str | None = None, domain: str | None = None) -> Usage:
        """What the files amount to, of a user, of a domain, or all; those in quarantine included. Takes microseconds."""
        key = ("user", user) if user is not None else ("domain", domain) if domain is not None else ("all", "")
        sql = "SELECT files, size_bytes FROM usage WHERE kind = ? AND name = ?"
        row = self._database.read(lambda connection: connection.execute(sql, key).fetchone())
        return Usage(0, 0) if row is None else Usage(*row)

    def users(self) -> Sequence[tuple[str, Usage]]:
        """What each user's files amount to, the most first."""
        sql = "SELECT name, files, size_bytes FROM usage WHERE kind = 'user' ORDER BY size_bytes DESC, name"
        rows = self._database.read(lambda connection: connection.execute(sql).fetchall())
        return [(name, Usage(*usage)) for name, *usage in rows]

    def setting(self, key: str) -> str | None:
        """What :meth:`set_setting` has written; ``None`` where nothing is, or the index was begun anew since."""
        return self._database.read(lambda connection: _setting(connection, key))

    def set_setting(self, key: str, value: str) -> None:
        """Keep something with the index, for as long as it lives."""
        self._database.write(lambda connection: _set_setting(connection, key, value))

    def reschedule(self, schedule: Schedule, cancelled: Callable[[], bool] = lambda: False) -> int:
        """From now on let ``Entry.ends`` be what *schedule* says, and correct the rows that don't.

        All of them if the rules are others than before; otherwise those that processes have put which know no rules.
        In short transactions; to be called before each sweep, which costs nothing if nothing is to be done.

        :param cancelled: asked between two of them; true breaks off, and the next call begins again.
        :return: how many rows were looked at.
        """
        self._schedule = schedule
        known = self.setting(_SCHEDULE_KEY) == schedule.fingerprint
        condition = "NOT scheduled" if known else "1"
        number = looked_at = 0
        while not cancelled():
            batch = self._database.write(lambda connection, n=number: self._schedule_some(connection, condition, n))  # type: ignore[misc]
            if not batch:
                if not known:
                    self.set_setting(_SCHEDULE_KEY, schedule.fingerprint)
                break
            number, looked_at = batch[-1].number, looked_at + len(batch)
        return looked_at

    def _schedule_some(self, connection: sqlite3.Connection, condition: str, after: int) -> Sequence[Entry]:
        sql = f"{_SELECT} WHERE {condition} AND number > ? ORDER BY number LIMIT ?"
        batch = [Entry(*row) for row in connection.execute(sql, (after, BATCH))]
        rows = [(self._ends(entry), entry.number) for entry in batch]
        connection.executemany("UPDATE files SET ends = ?, scheduled = 1 WHERE number = ?", rows)
        return batch

    def _ends(self, entry: Entry) -> float | None:
        return _expiry_or(None if self._schedule is None else self._schedule.ending(entry), entry.expires)

    def _put(self, connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
        for entry in entries:
            known = _as_known(connection, entry)
            connection.execute(_PUT, (*_values_of(known), self._ends(known), self._schedule is not None))

    def _page(
        self,
        conditions: Sequence[str],
        values: Mapping[str, Any],
        order: str,
        after: Entry | None,
        limit: int,
        path_matches: Callable[[bytes], bool] = lambda _path: True,
    ) -> Sequence[Entry]:
        values = {**values, "limit": limit}
        if after is not None:
            conditions = [*conditions, f"({order}, number) > (:after, :number)"]
            values.update(after=getattr(after, order), number=after.number)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"{_SELECT} {where} ORDER BY {order}, number LIMIT :limit"

        def page(connection: sqlite3.Connection) -> list[Entry]:
            connection.create_function("path_matches", 1, path_matches, deterministic=True)
            return [Entry(*row) for row in connection.execute(sql, values)]

        return self._database.read(page)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """*items* in pieces of *size*."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _as_known(connection: sqlite3.Connection, entry: Entry) -> Entry:
    """*entry* with what only the index knows of the file: an upload and a scan may both come with it."""
    row = connection.execute(
        "SELECT first_seen, read_day FROM files WHERE path = ? AND (size, mtime_ns, inode) = (?, ?, ?)",
        (entry.path, entry.size, entry.mtime_ns, entry.inode),
    ).fetchone()
    if row is None:
        return entry
    first_seen, read_day = row
    return evolve(
        entry,
        first_seen=min(first_seen, entry.first_seen),
        read_day=read_day if entry.read_day is None else entry.read_day,
    )


def _drop(connection: sqlite3.Connection, paths: Iterable[bytes]) -> None:
    connection.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in paths))


def _setting(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _set_setting(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("REPLACE INTO settings VALUES (?, ?)", (key, value))


_CONDITIONS: Final = {
    "user": "user = :user",
    # The second half is what the partial index is known by.
    "domain": "domain = :domain AND domain <> ''",
    "sha256": "sha256 = :sha256",
    "source": "source = :source",
    "pattern": "path_matches(path)",
    "content_type": "LOWER(content_type) GLOB :content_type",
    "uploaded_before": "uploaded < :uploaded_before",
    "uploaded_after": "uploaded >= :uploaded_after",
    "larger_than": "size > :larger_than",
    "smaller_than": "size < :smaller_than",
}


def _conditions(query: Query) -> tuple[list[str], dict[str, Any]]:
    asked = {attribute.name: getattr(query, attribute.name) for attribute in fields(Query)}
    values = {name: value for name, value in asked.items() if value is not None}
    quarantined = values.pop("quarantined", None)
    conditions = [_CONDITIONS[name] for name in values]
    if quarantined is not None:
        conditions.append("quarantined" if quarantined else "NOT quarantined")
    if query.content_type is not None:
        values["content_type"] = query.content_type.lower()
    return conditions, values


def _matcher(pattern: bytes | None) -> Callable[[bytes], bool]:
    if pattern is None:
        return lambda _path: True
    return lambda path: fnmatch.fnmatchcase(path, pattern)
