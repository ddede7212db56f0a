"""An SQLite file that several processes share, and that may be lost without harm. Knows nothing of hmacfs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from twisted.logger import Logger

from hmacfs.storage.disk import heir

T = TypeVar("T")

#: How long one call waits for the other processes' writes, in seconds. One write takes far less than a millisecond.
BUSY_TIMEOUT_S: Final = 5.0


class DatabaseAway(Exception):
    """The file can't be used now.

    :param reason: one hyphenated word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WrongFormat(Exception):
    """Another version has made the file. The text names it and both formats."""


class Database:
    """An SQLite file that several processes share. Every method blocks; several threads are let in one by one.

    In WAL mode with ``synchronous=NORMAL``: a power loss may undo the last changes, and no more than that; a crash of
    the process undoes none. Nothing waits for the disk but a checkpoint, once in about a thousand changes.

    A damaged file is moved aside (``….corrupt``, the one before is dropped) and begun anew. So is, without the noise,
    one that was removed or replaced by another process: the file is looked at again before each use.

    :param path: of the file, in a directory that is not made if it is missing: it may be on a disk that isn't there now.
    :param schema: statements that make an empty file ours, ``PRAGMA user_version`` among them.
    :param version: what that pragma sets.
    :param busy_timeout_s: how long to wait for other processes.
    """

    _log = Logger()

    def __init__(self, path: Path, schema: str, version: int, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._schema = schema
        self._version = version
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call *work*, which changes nothing, in a transaction of its own.

        :raises DatabaseAway: the file can't be used now.
        :raises WrongFormat: another version made it.
        """
        return self._run("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As :meth:`read`, for changes. What *work* raises undoes them."""
        # IMMEDIATE: a transaction that began by reading could not wait for another writer, it would fail at once.
        return self._run("BEGIN IMMEDIATE", work)

    def close(self) -> None:
        """Close the file if it is open; :meth:`read` and :meth:`write` open it again."""
        with self._lock:
            self._close()

    def remove(self) -> None:
        """Remove the file, whatever is in it: whoever uses it next begins anew."""
        with self._lock:
            self._close()
            with self._alone():
                # The log first: one that stayed would be played into the new file.
                for suffix in ("-wal", "-shm", ""):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._path}{suffix}")

    def _run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._lock:
                try:
                    return self._transaction(begin, work)
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._set_aside(error)
                    return self._transaction(begin, work)
        except (sqlite3.Error, OSError) as error:
            raise DatabaseAway(_reason(error)) from error

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._current()
        connection.execute(begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return result

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _current(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self._path) == self._opened:
            return self._connection
        self._close()
        with self._alone():
            return self._open()

    def _open(self) -> sqlite3.Connection:
        self._opened = _identity(self._path) or self._make()
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._take_over(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _make(self) -> tuple[int, int] | None:
        # Only what is not there is opened here: closing a file drops the locks that SQLite has on it in this process.
        os.close(_created(self._path, os.O_EXCL))
        return _identity(self._path)

    def _take_over(self, connection: sqlite3.Connection) -> None:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"malformed: {verdict}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {self._schema} COMMIT;")
        elif version != self._version:
            raise WrongFormat(f"{self._path}: has format {version}, expected {self._version}")

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Move the damaged file away, unless another process has done so since."""
        self._close()
        with self._alone():
            if _identity(self._path) != self._opened:
                return
            aside = self._path.with_name(self._path.name + ".corrupt")
            self._log.error(
                "{path} is damaged ({error}): moved to {aside.name} and begun anew",
                path=self._path,
                error=error,
                aside=aside,
            )
            # The log first: one that stayed would be played into the new file.
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self._path}{suffix}", f"{aside}{suffix}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While the processes make, check or replace the file, they do it one after another."""
        fd = _created(self._path.with_name(self._path.name + ".lock"))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _created(path: Path, flags: int = 0) -> int:
    """A file, made if it isn't there, and open. What SQLite puts beside it has the same owner."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    owner = heir(path.parent)
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # sqlite_errorcode is there from Python 3.11 on; these texts are SQLite's own and have been for twenty years.
    return "malformed" in str(error) or "not a database" in str(error)


_REASONS: Final = {
    "full": "no-space",
    "no space": "no-space",
    "locked": "busy",
    "readonly": "read-only",
    "read-only": "read-only",
}


def _reason(error: sqlite3.Error | OSError) -> str:
    text = str(error).lower()
    return next((reason for part, reason in _REASONS.items() if part in text), "store-error")
