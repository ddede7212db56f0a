"""Retention on a real store with a clock of its own: what goes, what stays, and what is said of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.config import Config
from hmacfs.config_retention import RetentionRule
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Entry, Index
from hmacfs.keeping.report import Deletion
from hmacfs.keeping.retention import (
    CONFIRM_S,
    JUMP_S,
    SCAN_PATIENCE_S,
    STEP,
    Policy,
    Retention,
    RetentionSweeps,
    policy_of,
)
from hmacfs.keeping.scan import SCANNED_KEY, Scan, refresh
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.facts import Facts
from tests.keeping.test_lifetimes import AVATARS, ENTRY, VIDEOS
from tests.storage.support import StoreTestCase

DAY_S = 86_400.0
HOUR_S = 3_600.0

#: When retention is seen to be on for the first time, unless a test says otherwise.
START = 1_790_000_000.0

AGE = Policy(default_s=30 * DAY_S)
SIZE = Policy(default_s=30 * DAY_S, max_bytes=1000)


class RetentionTestCase(StoreTestCase):
    """A store with an index, and sweeps over it whenever the test wants one.

    :ivar now: the time.
    :ivar deletions: what was reported.
    :ivar lines: what was logged.
    """

    policy = AGE
    interval_s = HOUR_S

    def setUp(self) -> None:
        super().setUp()
        self.now = START
        self.clock = Clock()
        self.deletions: list[Deletion] = []
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.index = self.open_index()
        self.index.set_setting(SCANNED_KEY, repr(START))
        self.lines: list[str] = []

        def observe(event: LogEvent) -> None:
            self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.sweeps = self.make_sweeps()

    def open_index(self) -> Index:
        index = Index(self.store.own_directory / FILE_NAME)
        self.addCleanup(index.close)
        return index

    def make_sweeps(self, policy: Policy | None = None, index: Index | None = None) -> RetentionSweeps:
        """A process with this policy."""
        index = index or self.index
        return RetentionSweeps(
            Retention(index, policy or self.policy, self.interval_s),
            Deleting(self.store, index, self.deletions.append, "retention").delete,
            clock=self.clock,
            threads=InlineThreads(),
            now=lambda: self.now,
            metrics=self.metrics,
        )

    def restart(self, policy: Policy | None = None) -> None:
        """End the process, and begin another one, maybe with another policy."""
        self.sweeps = self.make_sweeps(policy)

    def begun(self) -> Deferred[None]:
        """A sweep that may have to wait for something."""
        return Deferred.fromCoroutine(self.sweeps.sweep())

    def sweep(self, at: float | None = None) -> list[str]:
        """Sweep once; the paths that went, with the reasons."""
        if at is not None:
            self.now = at
        before = len(self.deletions)
        self.successResultOf(self.begun())
        return sorted(f"{deletion.path.text} {deletion.reason}" for deletion in self.deletions[before:])

    def sweep_until(self, until: float) -> None:
        """What a server does that is always on, though not every hour."""
        while self.now < until:
            self.sweep(min(self.now + DAY_S, until))

    def has_swept(self, at: float) -> None:
        """The clock has come here in an honest way."""
        Retention(self.index, self.policy, self.interval_s).has_swept(at)

    def file(self, path: str, size: int = 100, *, uploaded: float = START, **facts: Any) -> None:
        """A stored file that the index knows."""
        part = self.store.begin(f"put-{os.urandom(8).hex()}")
        part.write(bytes(size))
        usual: dict[str, Any] = {"content_type": "image/jpeg", "sha256": None, "owner": None, "expires": None}
        self.store.publish(part, self.path(path), Facts(**{**usual, **facts}, uploaded=uploaded))
        self.known(path)

    def known(self, *paths: str) -> None:
        """Have the index see what is at these paths."""
        refresh(self.store, self.index, [path.encode() for path in paths], self.now)

    def files(self) -> list[str]:
        return sorted(path.decode() for path, _ in self.store.walk())

    def indexed(self) -> list[str]:
        return sorted(entry.path.decode() for entry in self.index.oldest(1000))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"hmac_file_server_{name}", labels)


class AgeTests(RetentionTestCase):
    """Files go by their age."""

    def test_at_its_time(self) -> None:
        """Not a second before it, and with the next sweep after it."""
        self.file("a/x.jpg")
        self.sweep()
        self.assertEqual(self.sweep(START + 1), [])
        self.sweep_until(START + 30 * DAY_S - 1)
        self.assertEqual(self.files(), ["a/x.jpg"])
        self.assertEqual(self.sweep(START + 30 * DAY_S), ["a/x.jpg age"])
        self.assertEqual((self.tree(), self.indexed()), ([], []))

    def test_parents(self) -> None:
        """A directory that has become empty goes, and no other."""
        self.file("a/b/x")
        self.file("a/c/y", uploaded=START + DAY_S)
        self.sweep()
        self.sweep_until(START + 30 * DAY_S)
        self.assertEqual(self.tree(), ["a", "a/c", "a/c/y"])

    def test_rules(self) -> None:
        """A rule takes the place of the default."""
        self.restart(evolve(AGE, rules=(AVATARS, VIDEOS)))
        self.file("avatars/me")
        self.file("x/film.mp4", content_type="video/mp4")
        self.file("x/photo.jpg")
        self.sweep()
        self.sweep_until(START + 7 * DAY_S)
        self.assertEqual(self.files(), ["avatars/me", "x/photo.jpg"])
        self.sweep_until(START + 31 * DAY_S)
        self.assertEqual(self.files(), ["avatars/me"])

    def test_other_rules(self) -> None:
        """After a change of the rules, the new ones hold for old files, too."""
        self.file("x/film.mp4", content_type="video/mp4")
        self.sweep()
        self.sweep_until(START + 8 * DAY_S)
        self.restart(evolve(AGE, rules=(VIDEOS,)))
        self.assertEqual(self.sweep(), ["x/film.mp4 age"])

    def test_more_than_a_step(self) -> None:
        """All of them, in pieces."""
        for number in range(STEP + 3):
            self.file(f"a/{number}")
        self.sweep()
        self.sweep_until(START + 30 * DAY_S - HOUR_S)
        self.assertEqual(len(self.sweep(START + 30 * DAY_S)), STEP + 3)
        self.assertEqual(self.tree(), [])


class ExpiryTests(RetentionTestCase):
    """Files whose uploader said when they end."""

    def test_without_a_policy(self) -> None:
        self.restart(Policy())
        self.file("a/x", expires=START + DAY_S)
        self.file("a/y")
        self.sweep(START + DAY_S - 1)
        self.assertEqual(self.sweep(START + DAY_S), ["a/x expired"])
        self.sweep_until(START + 3 * DAY_S)
        self.assertEqual(self.files(), ["a/y"])

    def test_earlier_than_the_policy(self) -> None:
        self.file("a/x", expires=START + DAY_S)
        self.sweep(START + DAY_S - 1)
        self.assertEqual(self.sweep(START + DAY_S), ["a/x expired"])

    def test_later_than_the_policy(self) -> None:
        """It is no wish to be kept for longer."""
        self.file("a/x", expires=START + 60 * DAY_S)
        self.sweep()
        self.sweep_until(START + 30 * DAY_S)
        self.assertEqual([deletion.reason for deletion in self.deletions], ["age"])

    def test_no_grace(self) -> None:
        """Also where the file was there before, and where it is to be kept for ever."""
        self.restart(evolve(AGE, rules=(AVATARS,)))
        self.file("avatars/me", uploaded=START - DAY_S, expires=START - 1, source="import prosody-file-share")
        self.assertEqual(self.sweep(), ["avatars/me expired"])

    def test_quarantined(self) -> None:
        """What the operator has put aside stays until the operator says otherwise."""
        self.file("a/x", expires=START + 1, quarantined="police")
        self.file("a/y", uploaded=START - 99 * DAY_S, quarantined="police")
        self.sweep()
        self.sweep_until(START + 3 * DAY_S)
        self.assertEqual(self.files(), ["a/x", "a/y"])


class SizeTests(RetentionTestCase):
    """The oldest go while there is too much of all."""

    policy = SIZE

    def test_oldest_first(self) -> None:
        """As many as have to go, and not one more."""
        self.sweep()
        for number in range(12):
            self.file(f"a/{number:02}", uploaded=START + number)
        self.assertEqual(self.sweep(START + HOUR_S), ["a/00 size", "a/01 size"])
        self.assertEqual(self.sweep(), [])

    def test_exactly_full(self) -> None:
        self.sweep()
        self.file("a/x", 1000, uploaded=START + 1)
        self.assertEqual(self.sweep(START + HOUR_S), [])

    def test_age_goes_first(self) -> None:
        """What goes by its age makes room for the others."""
        self.sweep()
        for number in range(12):
            self.file(f"a/{number:02}", uploaded=START + number * DAY_S)
        self.has_swept(START + 31 * DAY_S)
        self.assertEqual(self.sweep(START + 31 * DAY_S), ["a/00 age", "a/01 age"])

    def test_spared(self) -> None:
        """Neither what is to be kept for ever, nor what is put aside, nor what was there before."""
        self.restart(evolve(SIZE, rules=(AVATARS,)))
        self.file("avatars/old", 600, uploaded=START - 9)
        self.file("b/old", 600, uploaded=START - 8)
        self.sweep()
        self.file("avatars/me", 600, uploaded=START + 1)
        self.file("c/aside", 600, uploaded=START + 2, quarantined="police")
        self.file("c/x", 600, uploaded=START + 3)
        self.file("c/y", 600, uploaded=START + 4)
        self.assertEqual(self.sweep(START + HOUR_S), ["c/x size", "c/y size"])
        self.sweep_until(START + DAY_S)
        self.assertEqual(self.files(), ["avatars/me", "avatars/old", "c/aside"])

    def test_disk_in_the_way(self) -> None:
        """Where one can't be deleted, the next ones make the room."""
        self.sweep()
        for number in range(12):
            self.file(f"a/{number:02}", uploaded=START + number)
        self.disk.fail("rename", errno.EACCES, times=1)
        self.assertEqual(self.sweep(START + HOUR_S), ["a/01 size", "a/02 size"])
        (line,) = [line for line in self.lines if line.startswith("error")]
        self.assertEqual(line, "error: retention: 1 file could not be deleted: Permission denied")


class GraceTests(RetentionTestCase):
    """Nothing goes by surprise."""

    def test_switched_on_over_old_files(self) -> None:
        """What was uploaded before has a day."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.assertEqual(self.sweep(), [])
        self.sweep_until(START + DAY_S - 1)
        self.assertEqual(self.files(), ["a/old"])
        self.assertEqual(self.sweep(START + DAY_S), ["a/old age"])

    def test_adopted_tree(self) -> None:
        """A tree of another server, when retention has been on for long."""
        self.sweep()
        self.sweep_until(START + 5 * DAY_S)
        (self.root / "a").mkdir()
        (self.root / "a" / "old").write_bytes(b"x")
        os.utime(self.root / "a" / "old", (START - 99 * DAY_S, START - 99 * DAY_S))
        self.known("a/old")
        self.assertEqual(self.sweep(), [])
        self.sweep_until(START + 6 * DAY_S - 1)
        self.assertEqual(self.files(), ["a/old"])
        self.assertEqual(self.sweep(START + 6 * DAY_S), ["a/old age"])

    def test_uploaded_before_the_first_sweep(self) -> None:
        """Retention is on from the start, not from when a first scan lets the first sweep begin."""
        self.index.close()
        for path in self.store.own_directory.glob(f"{FILE_NAME}*"):
            path.unlink()
        done = self.begun()
        self.now += 1
        self.file("a/x", uploaded=self.now)
        self.index.set_setting(SCANNED_KEY, repr(START))
        self.clock.advance(1)
        self.successResultOf(done)
        ends = [entry.ends for entry in self.index.oldest(1)]
        self.assertEqual(ends, [START + 1 + 30 * DAY_S])

    def test_once(self) -> None:
        """A restart begins no new grace."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.sweep()
        self.sweep_until(START + DAY_S - HOUR_S)
        self.restart()
        self.assertEqual(self.sweep(START + DAY_S), ["a/old age"])

    def test_switched_off_and_on(self) -> None:
        """Who switches it on again is as surprised as the first time."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.sweep()
        self.restart(Policy())
        self.sweep_until(START + 2 * DAY_S)
        self.restart(AGE)
        self.assertEqual(self.sweep(), [])
        self.sweep_until(START + 3 * DAY_S - 1)
        self.assertEqual(self.files(), ["a/old"])
        self.assertEqual(self.sweep(START + 3 * DAY_S), ["a/old age"])

    def test_noted_by_a_wrong_clock(self) -> None:
        """A grace that begins in ten years spares nothing for ten years."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.sweep(START + 3650 * DAY_S)
        self.assertEqual(self.sweep(START), [])
        self.sweep_until(START + DAY_S)
        self.assertEqual(self.files(), [])

    def test_index_begun_anew(self) -> None:
        """Without the index nobody knows since when: a day more, and no file less."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.sweep()
        self.sweep_until(START + DAY_S - HOUR_S)
        self.index.close()
        for path in self.store.own_directory.glob(f"{FILE_NAME}*"):
            path.unlink()
        self.index = self.open_index()
        self.index.set_setting(SCANNED_KEY, repr(self.now))
        self.known("a/old")
        self.restart()
        self.assertEqual(self.sweep(START + DAY_S), [])
        self.sweep_until(START + 2 * DAY_S)
        self.assertEqual(self.files(), [])


class AnnouncementTests(RetentionTestCase):
    """What is said at start."""

    def said(self) -> list[str]:
        return [line for line in self.lines if "retention is on" in line]

    def test_spared_and_going(self) -> None:
        """How much goes, and how much would without the grace."""
        self.file("a/1", 1000, uploaded=START - 40 * DAY_S)
        self.file("a/2", 2000, uploaded=START - 30 * DAY_S)
        self.file("a/3", 4000, uploaded=START - 29 * DAY_S)
        self.file("a/4", 500, uploaded=START - 40 * DAY_S, expires=START - 1)
        self.sweep()
        self.assertEqual(
            self.said(),
            [
                "info: retention is on: 1 file, 500 B, go now; 2 files, 3.0 kB, that were there before are spared until "
                "2026-09-22 14:13 UTC (RetentionGrace)"
            ],
        )

    def test_size(self) -> None:
        self.restart(SIZE)
        for number in range(15):
            self.file(f"a/{number}", uploaded=START - 100 + number)
        self.sweep()
        self.assertIn("0 files, 0 B, go now; 5 files, 500 B, that were there", self.said()[0])

    def test_size_where_something_else_goes(self) -> None:
        """Those that are spared are told, though others have to go for them."""
        self.restart(SIZE)
        self.now = START - 1
        self.sweep()
        self.now = START
        for number in range(5):
            self.file(f"a/{number}", uploaded=START - 100 + number)
        for number in range(10):
            self.file(f"b/{number}", uploaded=START + number)
        self.restart(SIZE)
        self.sweep()
        self.assertIn("5 files, 500 B, go now; 5 files, 500 B, that were there", self.said()[-1])

    def test_size_beside_age(self) -> None:
        """What goes by its age makes room for what was there before, once."""
        self.restart(SIZE)
        self.now = START - 31 * DAY_S
        self.sweep()
        self.file("a/old", 200, uploaded=self.now)
        self.now = START
        self.has_swept(START)
        for number in range(11):
            self.file(f"b/{number}", uploaded=START - 100 + number, source="import ejabberd")
        self.restart(SIZE)
        self.sweep()
        self.assertIn("1 file, 200 B, go now; 1 file, 100 B, that were there", self.said()[-1])

    def test_nothing_spared(self) -> None:
        self.sweep()
        self.assertEqual(self.said(), ["info: retention is on: 0 files, 0 B, go now"])

    def test_once_a_start(self) -> None:
        self.sweep()
        self.sweep(START + HOUR_S)
        self.assertEqual(len(self.said()), 1)
        self.restart()
        self.sweep(START + 2 * HOUR_S)
        self.assertEqual(len(self.said()), 2)

    def test_off(self) -> None:
        self.restart(Policy())
        self.sweep()
        self.assertEqual(self.lines, [])

    def test_waits_for_the_tree(self) -> None:
        """Of a tree that nobody has looked at yet there is nothing to be said."""
        (self.root / "a").mkdir()
        (self.root / "a" / "old").write_bytes(bytes(1000))
        os.utime(self.root / "a" / "old", (0, 0))
        self.forget_the_scan()
        done = self.begun()
        self.clock.advance(1)
        self.assertNoResult(done)
        self.scan()
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertIn("1 file, 1.0 kB, that were there before", self.said()[0])

    def test_does_not_wait_for_ever(self) -> None:
        """A tree that can't be read to its end must not keep everything that ever was."""
        self.file("a/x", expires=START)
        self.forget_the_scan()
        done = self.begun()
        self.clock.pump([1] * int(SCAN_PATIENCE_S))
        self.successResultOf(done)
        self.assertEqual((self.files(), self.said()), ([], []))
        self.scan()
        self.sweep(START + HOUR_S)
        self.assertEqual(len(self.said()), 1)

    def forget_the_scan(self) -> None:
        self.index.close()
        for path in self.store.own_directory.glob(f"{FILE_NAME}*"):
            path.unlink()
        self.known(*self.files())

    def scan(self) -> None:
        scan = Scan(self.store, self.index, lambda: self.now)
        while scan.step() is not None:
            pass


class PlanTests(RetentionTestCase):
    """Looking without touching."""

    def test_empty(self) -> None:
        plan = Retention(self.index, SIZE, HOUR_S).plan(START)
        self.assertEqual((plan.going.all_files, plan.going.oldest, plan.spared.all_bytes), (0, None, 0))

    def test_changes_nothing(self) -> None:
        """Neither a file nor when the grace begins."""
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.file("a/x", expires=START)
        plan = Retention(self.index, AGE, HOUR_S).plan(START)
        self.assertEqual((plan.going.all_files, plan.spared.all_files), (1, 1))
        self.assertEqual(plan.spared_until, START + DAY_S)
        self.assertEqual(self.files(), ["a/old", "a/x"])
        self.sweep(START + 100)
        self.sweep_until(START + 100 + DAY_S - 1)
        self.assertEqual(self.files(), ["a/old"])

    def test_reasons(self) -> None:
        """By reason, in files and in bytes, with the oldest."""
        self.sweep()
        for number in range(12):
            self.file(f"a/{number:02}", uploaded=START + number, expires=START + 50 if number == 3 else None)
        plan = Retention(self.index, SIZE, HOUR_S).plan(START + 100)
        self.assertEqual(plan.going.files, {"expired": 1, "size": 1})
        self.assertEqual(plan.going.bytes, {"expired": 100, "size": 100})
        self.assertEqual(plan.going.oldest, START)


class ClockTests(RetentionTestCase):
    """A clock that is set wrong must not empty the store."""

    def setUp(self) -> None:
        super().setUp()
        self.sweep(START - 5 * DAY_S)
        self.has_swept(START)
        self.file("a/x", uploaded=START + 1)
        self.assertEqual(self.sweep(START + HOUR_S), [])

    def test_jump(self) -> None:
        """A year ahead: nothing goes, and somebody is told."""
        self.assertEqual(self.sweep(START + 365 * DAY_S), [])
        self.assertIn("warn: retention: nothing is deleted now: the clock is far ahead", self.lines[-1])

    def test_jump_and_back(self) -> None:
        """What it said meanwhile has no consequences."""
        self.sweep(START + 365 * DAY_S)
        self.sweep(START + 2 * HOUR_S)
        self.sweep_until(START + 2 * DAY_S)
        self.assertEqual(self.files(), ["a/x"])

    def test_confirmed(self) -> None:
        """It was the former time that was wrong, or the server was off for a year."""
        self.sweep(START + 365 * DAY_S)
        self.assertEqual(self.sweep(START + 365 * DAY_S + HOUR_S), ["a/x age"])

    def test_restarts_confirm_nothing(self) -> None:
        """A service manager that is impatient, and a clock that is still to be set."""
        for second in range(5):
            self.restart()
            self.assertEqual(self.sweep(START + 365 * DAY_S + second), [])

    def test_jump_after_a_jump(self) -> None:
        self.sweep(START + 365 * DAY_S)
        self.assertEqual(self.sweep(START + 800 * DAY_S), [])
        self.assertEqual(self.sweep(START + 800 * DAY_S + CONFIRM_S), ["a/x age"])

    def test_back_and_jump(self) -> None:
        """A clock that went back is the next one to be compared with."""
        self.sweep(START - 900 * DAY_S)
        self.assertEqual(self.sweep(START + 31 * DAY_S), [])

    def test_jump_in_the_grace(self) -> None:
        """A clock that began in 1970, or a server that was off: the grace begins anew."""
        self.restart(Policy())
        self.sweep(0)
        self.file("a/old", uploaded=START - 99 * DAY_S)
        self.restart(AGE)
        self.assertEqual(self.sweep(0), [])
        self.assertEqual(self.sweep(START), [])
        self.assertEqual(self.sweep(START + HOUR_S), [])
        self.sweep_until(START + HOUR_S + DAY_S - 1)
        self.assertEqual(self.files(), ["a/old", "a/x"])
        self.assertEqual(self.sweep(START + HOUR_S + DAY_S), ["a/old age"])

    def test_small_steps(self) -> None:
        """Less than a day over the interval is a server that was restarted, or suspended."""
        self.sweep(START + HOUR_S + JUMP_S)
        self.assertEqual([line for line in self.lines if line.startswith("warn")], [])

    def test_expired_too(self) -> None:
        """Nobody gets it any more; whether it goes is another matter."""
        self.file("a/y", expires=START + 2 * DAY_S)
        self.assertEqual(self.sweep(START + 365 * DAY_S), [])


class CacheTests(RetentionTestCase):
    """The index is a cache: what is true in the tree counts."""

    def setUp(self) -> None:
        super().setUp()
        self.file("a/x")
        self.sweep()
        self.sweep_until(START + 30 * DAY_S - 1)

    def test_put_aside_meanwhile(self) -> None:
        """Before the index heard of it."""
        found = self.store.open_file(self.path("a/x"))
        assert found is not None
        found.close()
        self.store.set_facts(self.path("a/x"), evolve(found.facts, quarantined="police"))
        self.assertEqual(self.sweep(START + 30 * DAY_S), [])
        self.assertEqual(self.files(), ["a/x"])

    def test_another_file(self) -> None:
        """Deleted behind our back, and another one uploaded."""
        (self.root / "a" / "x").unlink()
        self.put("a/x", b"another")
        self.assertEqual(self.sweep(START + 30 * DAY_S), [])
        self.assertEqual(self.get("a/x"), b"another")

    def test_vanished(self) -> None:
        (self.root / "a" / "x").unlink()
        self.assertEqual(self.sweep(START + 30 * DAY_S), [])
        self.assertEqual(self.indexed(), [])

    def test_symbolic_link(self) -> None:
        """Neither the link nor what it leads to is touched."""
        outside = Path(self.mktemp())
        outside.write_bytes(bytes(100))
        (self.root / "a" / "x").unlink()
        (self.root / "a" / "x").symlink_to(outside.absolute())
        self.assertEqual(self.sweep(START + 30 * DAY_S), [])
        self.assertTrue(outside.exists() and (self.root / "a" / "x").is_symlink())

    def test_download_under_way(self) -> None:
        """It gets all of the file."""
        found = self.store.open_file(self.path("a/x"))
        assert found is not None
        with found.handle as handle:
            self.assertEqual(self.sweep(START + 30 * DAY_S), ["a/x age"])
            self.assertEqual(handle.read(), bytes(100))


class ProcessTests(RetentionTestCase):
    """Beside others, and in bad times."""

    def test_two_processes(self) -> None:
        """Sweeping at the same time, step by step: each file goes once."""
        for number in range(3 * STEP):
            self.file(f"a/{number}")
        self.sweep()
        sweeps = []
        for _ in range(2):
            index = self.open_index()
            delete = Deleting(self.store, index, self.deletions.append, "retention").delete
            at = START + 30 * DAY_S

            def is_gone(entry: Entry, reason: str, delete: Any = delete, at: float = at) -> bool:
                return delete(entry, reason, at) is not None

            sweeps.append(Retention(index, AGE, HOUR_S).sweep(at, is_gone))
        running = list(sweeps)
        while running:
            running = [sweep for sweep in running if sweep.step()]
        self.assertEqual(self.files(), [])
        self.assertEqual(len(self.deletions), 3 * STEP)
        self.assertEqual(sum(sweep.tally.all_files for sweep in sweeps), 3 * STEP)

    def test_stopped(self) -> None:
        """A sweep ends after the file that it is at; the rest is for the next start."""
        self.file("a/x")
        self.file("a/y")
        self.sweep()
        self.now = START + 30 * DAY_S
        self.has_swept(self.now)
        self.disk.after = lambda method: self.sweeps.halt() if method == "unlink" else None
        self.assertEqual(len(self.sweep()), 1)
        self.assertEqual(len(self.files()), 1)
        self.assertEqual(self.metric("deleted_files_total", reason="age"), 1)
        self.restart()
        self.assertEqual(len(self.sweep()), 1)

    def test_stopped_while_it_waits(self) -> None:
        """Nobody waits for it."""
        self.index.close()
        for path in self.store.own_directory.glob(f"{FILE_NAME}*"):
            path.unlink()
        done = self.begun()
        self.assertNoResult(done)
        self.sweeps.halt()
        self.successResultOf(done)

    def test_index_away(self) -> None:
        """A warning, and the next sweep is as good as any."""
        self.file("a/x", expires=START)
        self.index.close()
        database = self.store.own_directory / FILE_NAME
        moved = database.rename(database.with_suffix(".moved"))
        database.mkdir()
        self.assertEqual(self.sweep(), [])
        self.assertIn("warn: retention: nothing is deleted now, as the index can't be used", self.lines[-1])
        database.rmdir()
        moved.rename(database)
        self.assertEqual(self.sweep(), ["a/x expired"])

    def test_disk_in_the_way(self) -> None:
        """What can't be deleted is tried again with the next sweep, and keeps nothing else."""
        for number in range(STEP + 5):
            self.file(f"a/{number:03}", expires=START + number / 1000)
        self.disk.fail("rename", errno.EIO, times=STEP + 2)
        self.assertEqual(len(self.sweep(START + 1)), 3)
        self.assertIn(f"{STEP + 2} files could not be deleted", "\n".join(self.lines))
        self.assertEqual(len(self.sweep()), STEP + 2)


class SayingTests(RetentionTestCase):
    """The line of a sweep, the metrics and the report."""

    policy = SIZE

    def test_line(self) -> None:
        """One that deleted something has one line."""
        self.sweep()
        for number in range(12):
            expires = START + 1 if number == 11 else None
            self.file(f"a/{number:02}", uploaded=START + number, expires=expires)
        self.sweep(START + HOUR_S)
        (line,) = [line for line in self.lines if "deleted" in line]
        self.assertEqual(
            line,
            "info: retention: deleted 2 files, 200 B (1 expired, 1 by size), oldest from 2026-09-21; "
            "10 files, 1.0 kB remain; took 0 s",
        )

    def test_nothing_deleted(self) -> None:
        self.restart(Policy())
        self.sweep()
        self.assertEqual(self.lines, [])

    def test_metrics(self) -> None:
        self.sweep()
        self.file("a/x", 1100, uploaded=START + 1)
        self.sweep(START + HOUR_S)
        self.assertEqual(self.metric("deleted_files_total", reason="size"), 1)
        self.assertEqual(self.metric("deleted_bytes_total", reason="size"), 1100)
        self.assertEqual(self.metric("retention_last_sweep_timestamp_seconds"), START + HOUR_S)
        self.assertEqual(self.metric("retention_sweep_seconds"), 0)

    def test_report(self) -> None:
        self.file("a/x", 7, owner="alice@example.org", uploaded=START - 5, expires=START)
        self.sweep()
        (deletion,) = self.deletions
        expected = Deletion(
            START, self.path("a/x"), 7, START - 5, "image/jpeg", "alice@example.org", "expired", "retention"
        )
        self.assertEqual(deletion, expected)


class PolicyTests(SynchronousTestCase):
    """From the configuration."""

    def config(self, **settings_: Any) -> Policy:
        return policy_of(Config(secret=b"x" * 32, **settings_))

    def test_off(self) -> None:
        self.assertFalse(self.config().is_on)
        self.assertFalse(self.config(retention_rules=(AVATARS,)).is_on)

    def test_one_switch(self) -> None:
        for policy in (
            self.config(delete_files=True),
            self.config(retention_enabled=True),
            self.config(retention_rules=(AVATARS, VIDEOS)),
        ):
            self.assertTrue(policy.is_on)

    def test_earlier_end(self) -> None:
        ages = {"delete_files_after_s": 5.0, "max_retention_s": 7.0, "max_retention_bytes": 9}
        for on, expected in (
            ({"delete_files": True}, (5.0, None)),
            ({"retention_enabled": True}, (7.0, 9)),
            ({"delete_files": True, "retention_enabled": True}, (5.0, 9)),
        ):
            policy = self.config(**ages, **on)
            self.assertEqual((policy.default_s, policy.max_bytes), expected)

    def test_shortest(self) -> None:
        self.assertEqual(self.config(delete_files=True, retention_rules=(AVATARS, VIDEOS)).shortest_s, 7 * DAY_S)
        self.assertIsNone(self.config(retention_rules=(AVATARS,)).shortest_s)


RULES = st.lists(
    st.sampled_from([AVATARS, VIDEOS, RetentionRule("a/*", None, 3 * DAY_S), RetentionRule("*", "text/*", None)]),
    max_size=3,
)
POLICIES = st.builds(
    Policy,
    RULES,
    st.none() | st.floats(DAY_S, 60 * DAY_S),
    st.none() | st.integers(0, 3000),
    st.floats(0, 5 * DAY_S),
)
ENTRIES = st.builds(
    lambda **changes: evolve(ENTRY, **changes),
    path=st.binary(min_size=1, max_size=3).map(lambda name: b"a/" + name.hex().encode())
    | st.sampled_from([b"avatars/1", b"avatars/2", b"x/1", b"x/2"]),
    size=st.integers(0, 1000),
    uploaded=st.floats(START - 90 * DAY_S, START + 90 * DAY_S),
    content_type=st.sampled_from(["image/jpeg", "video/mp4", "text/plain"]),
    expires=st.none() | st.floats(START - DAY_S, START + 90 * DAY_S),
    quarantined=st.booleans(),
    source=st.sampled_from(["upload", "adopted"]),
    first_seen=st.floats(START - 10 * DAY_S, START + 90 * DAY_S),
)


class PropertyTests(SynchronousTestCase):
    """Whatever is in the store, whatever the policy, whenever a sweep comes."""

    @given(POLICIES, st.lists(ENTRIES, max_size=25, unique_by=lambda entry: entry.path), st.floats(0, 120 * DAY_S))
    @settings(max_examples=60)
    def test_sweep(self, policy: Policy, entries: list[Entry], later_s: float) -> None:
        """Nothing goes before its time, everything goes that is over it, and the oldest go for the size."""
        index = Index(Path(self.mktemp()))
        self.addCleanup(index.close)
        index.put(entries)
        retention = Retention(index, policy, HOUR_S)
        retention.sweep(START, lambda _entry, _reason: False)
        now = START + later_s
        gone: dict[bytes, str] = {}

        def delete(entry: Entry, reason: str) -> bool:
            gone[entry.path] = reason
            index.drop([entry.path])
            return True

        plan = retention.plan(now)
        sweep = retention.sweep(now, delete)
        sweep.to_the_end()
        self.assertEqual(sweep.tally.files, plan.going.files)
        self.check(entries, gone, policy, now)
        self.assertEqual(retention.sweep(now, delete).to_the_end().all_files, 0)

    def check(self, entries: Iterable[Entry], gone: dict[bytes, str], policy: Policy, now: float) -> None:
        """By what the documentation says, not by what the code does."""
        kept = [entry for entry in entries if entry.path not in gone]
        for entry in entries:
            reason = self.reason(entry, policy, now)
            if reason is not None:
                self.assertEqual(gone.get(entry.path), reason)
            else:
                self.assertIn(gone.get(entry.path), (None, "size"))
        by_size = [entry for entry in entries if gone.get(entry.path) == "size"]
        candidates = [entry for entry in kept if not self.spared(entry, policy, now)]
        if by_size:
            assert policy.max_bytes is not None
            total = sum(entry.size for entry in kept)
            last = max(by_size, key=lambda entry: (entry.uploaded, entry.size))
            self.assertGreater(total + last.size, policy.max_bytes)
            newest = max(entry.uploaded for entry in by_size)
            self.assertTrue(all(entry.uploaded >= newest for entry in candidates))
            self.assertFalse(any(self.spared(entry, policy, now) for entry in by_size))
        if policy.max_bytes is not None and candidates:
            self.assertLessEqual(sum(entry.size for entry in kept), policy.max_bytes)

    def keep_s(self, entry: Entry, policy: Policy) -> float | None:
        fits = {
            AVATARS: entry.path.startswith(b"avatars/"),
            VIDEOS: entry.content_type == "video/mp4",
            RetentionRule("a/*", None, 3 * DAY_S): entry.path.startswith(b"a/"),
            RetentionRule("*", "text/*", None): entry.content_type == "text/plain",
        }
        return next((rule.keep_s for rule in policy.rules if fits[rule]), policy.default_s)

    def in_grace(self, entry: Entry, policy: Policy, now: float) -> bool:
        if entry.source == "adopted":
            return now < max(entry.first_seen, START) + policy.grace_s
        return entry.uploaded < START and now < START + policy.grace_s

    def spared(self, entry: Entry, policy: Policy, now: float) -> bool:
        for_ever = self.keep_s(entry, policy) is None and self.keep_s(entry, evolve(policy, default_s=1.0)) is None
        return entry.quarantined or for_ever or self.in_grace(entry, policy, now)

    def reason(self, entry: Entry, policy: Policy, now: float) -> str | None:
        if entry.quarantined:
            return None
        if entry.expires is not None and entry.expires <= now:
            return "expired"
        keep_s = self.keep_s(entry, policy)
        is_on = policy.default_s is not None or policy.max_bytes is not None or policy.shortest_s is not None
        if keep_s is None or entry.uploaded + keep_s > now or (is_on and self.in_grace(entry, policy, now)):
            return None
        return "age"
