"""An SQLite file that several processes share: its transactions, and what happens when it is damaged, gone or full."""

from __future__ import annotations

import fcntl
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.database import Database, DatabaseAway, WrongFormat

SCHEMA = "CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL); PRAGMA user_version = 4;"
MIB = 1024 * 1024


def count_up(connection: sqlite3.Connection) -> int:
    """Count one more, reading first."""
    row = connection.execute("SELECT count FROM counters WHERE name = 'calls'").fetchone()
    count = 1 if row is None else int(row[0]) + 1
    connection.execute("REPLACE INTO counters VALUES ('calls', ?)", (count,))
    return count


def count(connection: sqlite3.Connection) -> int:
    """How often it was counted."""
    (total,) = connection.execute("SELECT TOTAL(count) FROM counters").fetchone()
    return int(total)


class DatabaseCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "ours" / "counters.sqlite"
        self.path.parent.mkdir()

    def open(self, busy_timeout_s: float = 5.0) -> Database:
        """As another process would."""
        database = Database(self.path, SCHEMA, 4, busy_timeout_s)
        self.addCleanup(database.close)
        return database

    def names(self) -> set[str]:
        return {path.name for path in self.path.parent.iterdir()}


class TransactionTests(DatabaseCase):
    def test_others_see_it(self) -> None:
        """What one has written another one reads, and so does who opens the file again."""
        one, other = self.open(), self.open()
        one.write(count_up)
        self.assertEqual(other.read(count), 1)
        one.close()
        self.assertEqual(one.read(count), 1)

    def test_undone_by_an_error(self) -> None:
        """A change that fails half-way has not been made, and the next one can be."""

        def fails(connection: sqlite3.Connection) -> None:
            count_up(connection)
            raise ZeroDivisionError

        database = self.open()
        self.assertRaises(ZeroDivisionError, database.write, fails)
        self.assertEqual(database.read(count), 0)
        database.write(count_up)

    def test_reading_does_not_wait_for_a_writer(self) -> None:
        """While another process writes, the state before can be read."""
        reader, writer = self.open(), self.open()
        reader.write(count_up)

        def read_meanwhile(connection: sqlite3.Connection) -> None:
            count_up(connection)
            self.assertEqual(reader.read(count), 1)

        writer.write(read_meanwhile)
        self.assertEqual(reader.read(count), 2)

    def test_writing_waits_for_a_writer(self) -> None:
        """But not for ever: it is told when the other one takes too long."""
        patient, hurried = self.open(), self.open(busy_timeout_s=0.01)
        hurried.write(count_up)

        def write_meanwhile(connection: sqlite3.Connection) -> None:
            error = self.assertRaises(DatabaseAway, hurried.write, count_up)
            self.assertEqual(error.reason, "busy")

        patient.write(write_meanwhile)
        hurried.write(count_up)

    def test_threads(self) -> None:
        """Threads that call at once are let in one by one."""
        database = self.open()
        threads = [threading.Thread(target=lambda: [database.write(count_up) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(database.read(count), 200)


class FileTests(DatabaseCase):
    def test_made_by_one_at_a_time(self) -> None:
        """While another process makes, checks or replaces the file, one that opens it waits."""
        database = self.open()
        with open(f"{self.path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=database.read, args=(count,))
            thread.start()
            # Not for it to be done, but to see that it isn't.
            thread.join(0.05)
            self.assertEqual((thread.is_alive(), self.path.exists()), (True, False))
        thread.join()
        self.assertEqual(self.path.exists(), True)

    def test_nobody_else_may_read_it(self) -> None:
        """Every file that SQLite makes is ours alone."""
        self.open().write(count_up)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.path.parent.iterdir()}
        self.assertIn("counters.sqlite-wal", modes)
        self.assertEqual(set(modes.values()), {0o600})

    def test_store_is_not_there(self) -> None:
        """Where the directory has gone (a disk that isn't mounted), nothing is made in its place, before and after."""
        database = self.open()
        database.write(count_up)
        away = self.path.parent.rename(self.directory / "away")
        error = self.assertRaises(DatabaseAway, database.read, count)
        self.assertEqual(error.reason, "store-error")
        self.assertRaises(DatabaseAway, self.open().write, count_up)
        self.assertEqual(self.path.parent.exists(), False)
        away.rename(self.path.parent)
        self.assertEqual(database.read(count), 1)

    def test_another_format(self) -> None:
        """A file that another version has made is left as it is, and named."""
        self.open().write(lambda connection: connection.execute("PRAGMA user_version = 5"))
        error = self.assertRaises(WrongFormat, self.open().read, count)
        self.assertEqual(str(error), f"{self.path}: has format 5, expected 4")

    def test_full(self) -> None:
        """SQLite finds no room for more: the change isn't made, and the next one is when there is room again."""

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA max_page_count = 1")
            connection.execute("INSERT INTO counters VALUES (HEX(ZEROBLOB(1000000)), 1)")

        database = self.open()
        database.write(count_up)
        error = self.assertRaises(DatabaseAway, database.write, fill)
        self.assertEqual(error.reason, "no-space")
        database.write(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
        self.assertEqual(database.read(count), 1)

    def test_read_only(self) -> None:
        """A file that can't be written has a word of its own."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA query_only = ON")
            count_up(connection)

        self.assertEqual(self.assertRaises(DatabaseAway, self.open().write, write).reason, "read-only")


class DamageTests(DatabaseCase):
    def damage(self) -> None:
        """Write over the middle of the file, of which no process has seen everything."""
        with closing(sqlite3.connect(self.path)) as connection:
            for number in range(5):
                connection.execute("INSERT INTO counters VALUES (? || HEX(ZEROBLOB(500000)), 1)", (number,))
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with self.path.open("r+b") as file:
            file.seek(MIB)
            file.write(b"damage" * MIB)

    def test_found_at_the_start(self) -> None:
        """A file that isn't a database is moved aside, said so in the log, and begun anew."""
        self.path.write_bytes(b"not a database, but a file that is long enough to be one " * 100)
        with capturedLogs() as events:
            self.assertEqual(self.open().read(count), 0)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [f"{self.path} is damaged (file is not a database): moved to counters.sqlite.corrupt and begun anew"],
        )
        self.assertIn(b"not a database", (self.path.parent / "counters.sqlite.corrupt").read_bytes())

    def test_found_by_the_check(self) -> None:
        """Damage that nobody has stumbled over is found when the file is opened."""
        self.open().write(count_up)
        self.damage()
        self.open().read(lambda connection: None)
        self.assertIn("counters.sqlite.corrupt", self.names())

    def test_log_of_changes_goes_too(self) -> None:
        """What SQLite keeps beside the file, and another process has open, is not taken for the new file's."""
        self.open().write(count_up)
        self.damage()
        self.open().read(count)
        self.assertLess({f"counters.sqlite.corrupt{suffix}" for suffix in ("", "-wal", "-shm")}, self.names())

    def test_found_by_two_at_once(self) -> None:
        """Who finds the damage when another process has just begun anew leaves the new file where it is."""
        finder, late = self.open(), self.open()
        late.write(count_up)
        self.damage()
        errors = [sqlite3.DatabaseError("database disk image is malformed")]

        def stumble(connection: sqlite3.Connection) -> int:
            if errors:
                finder.write(count_up)
                raise errors.pop()
            return count(connection)

        self.assertEqual(late.read(stumble), 1)

    def test_found_while_in_use(self) -> None:
        """Damage that is found half-way costs what was there, and not the call that found it."""
        database = self.open()
        database.write(count_up)
        self.damage()
        database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone())
        self.assertNotIn("counters.sqlite.corrupt", self.names())
        self.assertEqual(database.read(lambda connection: count(connection) and 0), 0)
        self.assertEqual(database.write(count_up), 1)
        self.assertIn("counters.sqlite.corrupt", self.names())

    def test_other_processes_follow(self) -> None:
        """Who had the damaged file open goes on with the new one, and spoils nothing when it closes the old one."""
        follower, finder, third = self.open(), self.open(), self.open()
        follower.write(count_up)
        third.write(count_up)
        self.damage()
        self.assertEqual(finder.write(count_up), 1)
        third.close()
        self.assertEqual(follower.write(count_up), 2)
        self.assertEqual(finder.write(count_up), 3)
        follower.close()
        self.assertEqual(finder.write(count_up), 4)
        finder.close()
        self.assertEqual(self.open().read(count), 4)

    def test_one_file_is_kept(self) -> None:
        """However often it happens, no more than one damaged file takes up room."""
        for content in (b"first " * 1000, b"second " * 1000):
            self.path.write_bytes(content)
            database = self.open()
            database.read(count)
            database.close()
        kept = [name for name in self.names() if ".corrupt" in name]
        self.assertEqual(kept, ["counters.sqlite.corrupt"])
        self.assertIn(b"second", (self.path.parent / kept[0]).read_bytes())

    def test_removed(self) -> None:
        """A file that somebody has removed is begun anew, by all processes together."""
        one, other = self.open(), self.open()
        one.write(count_up)
        other.write(count_up)
        self.path.unlink()
        self.assertEqual(one.write(count_up), 1)
        self.assertEqual(other.write(count_up), 2)
        one.close()
        self.assertEqual(self.open().read(count), 2)
