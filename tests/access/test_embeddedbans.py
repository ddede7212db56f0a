"""The store of bans that needs no other program."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access import embeddedbans
from hmacfs.access.banstate import BansAway, Mark, Record, sentenced, unchanged
from hmacfs.access.embeddedbans import EmbeddedBanState
from hmacfs.errors import StartError
from hmacfs.net.threads import InlineThreads
from tests.access.test_banstate import BAN, NOW, SCOPE, BanStateMixin
from tests.awaiting import AwaitedTestCase


class EmbeddedMixin:
    """Two processes' views of one file."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.path = Path(self.mktemp()) / ".hmacfs" / "bans.sqlite"
        self.path.parent.mkdir(parents=True)
        self.state, self.other = self.make_state(), self.make_state()

    def make_state(self) -> EmbeddedBanState:
        state = EmbeddedBanState(self.path, InlineThreads(), self.clock.seconds)
        self.addCleanup(state.stop)
        return state


class EmbeddedTests(EmbeddedMixin, BanStateMixin, AwaitedTestCase):
    """The promises of every store."""


class BadDayTests(EmbeddedMixin, SynchronousTestCase):
    def ban(self) -> None:
        self.successResultOf(self.state.update([SCOPE], lambda record: sentenced(record, BAN, 600.0)))

    def test_outlives_the_process(self) -> None:
        """A process that starts finds what the one before has left."""
        self.ban()
        self.successResultOf(self.state.stop())
        changes = self.successResultOf(self.make_state().changes(Mark()))
        self.assertEqual([record.sentence for record in changes.records], [BAN])

    def test_locked(self) -> None:
        """Another process that holds the file makes the store one that is away, until it lets go."""
        self.ban()
        self.patch(self.state._database, "_busy_timeout_s", 0.01)
        self.successResultOf(self.state.stop())
        holder = sqlite3.connect(self.path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        error = self.failureResultOf(self.state.update([SCOPE], lambda record: sentenced(record, BAN, 1.0)), BansAway)
        self.assertEqual(error.value.reason, "busy")
        holder.close()
        self.ban()

    def test_begun_anew(self) -> None:
        """A file that was removed is another life: what there was has to be told again."""
        self.ban()
        mark = self.successResultOf(self.other.changes(Mark())).mark
        for file in self.path.parent.iterdir():
            file.unlink()
        changes = self.successResultOf(self.other.changes(mark))
        self.assertNotEqual(changes.mark.life, mark.life)
        self.assertEqual(self.successResultOf(self.other.update([SCOPE], unchanged)), [Record(SCOPE)])

    def test_another_version(self) -> None:
        """The operator reads what to do."""
        with sqlite3.connect(self.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        error = self.failureResultOf(self.state.start(), StartError)
        self.assertIn("remove the file", str(error.value))

    def test_away_at_start(self) -> None:
        """A directory that is no directory is a bad day, and no reason not to start."""
        self.path.parent.rmdir()
        self.path.parent.write_text("in the way")
        self.successResultOf(self.state.start())

    def test_bounded(self) -> None:
        """What would be forgotten soonest makes room."""
        self.patch(embeddedbans, "MAX_RECORDS", 2)
        for number in range(4):
            change = lambda record: sentenced(record, BAN, float(100 - number))  # noqa: B023, E731
            self.successResultOf(self.state.update([f"192.0.2.{number}"], change))
        self.successResultOf(self.state.purge())
        changes = self.successResultOf(self.state.changes(Mark()))
        self.assertEqual([record.scope for record in changes.records], ["192.0.2.0", "192.0.2.1"])
