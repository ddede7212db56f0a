"""Bringing the index in step with the tree, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.keeping.index import BATCH, FILE_NAME, Entry, Index, Query, Usage
from hmacfs.keeping.indexing import Indexing
from hmacfs.keeping.scan import SCANNED_KEY, Difference, Kind, Scan, look_up, refresh
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import AlreadyStored, Store
from hmacfs.storage.tree import PathConflict
from tests.descriptors import none_left_open
from tests.storage.support import FACTS, StoreTestCase

NOW = 1_796_000_000.0


def rows(index: Index) -> dict[bytes, Entry]:
    return {entry.path: entry for entry in index.select(Query(), limit=100_000)}


class ScanTestCase(StoreTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.index = Index(self.store.own_directory / FILE_NAME)
        self.addCleanup(self.index.close)

    def scan(self, mend: bool = True) -> set[tuple[bytes, Kind]]:
        """Compare all, and say what differed."""
        self.last = Scan(self.store, self.index, lambda: NOW, mend)
        found: list[Difference] = []
        while (differences := self.last.step()) is not None:
            found.extend(differences)
        return {(each.path, each.kind) for each in found}

    def assert_in_step(self) -> None:
        tree = {path: look_up(self.store, path, NOW) for path, _ in self.store.walk()}
        known = rows(self.index)
        self.assertEqual(set(known), set(tree))
        for path, entry in tree.items():
            assert entry is not None
            self.assertTrue(known[path].agrees_with(entry), path)


class WholeTests(ScanTestCase):
    """The whole tree is compared."""

    def test_adopted(self) -> None:
        """A tree that was there before us, with files of ours in it."""
        self.put("alice/random/photo.jpg")
        (self.root / "slot").mkdir()
        (self.root / "slot" / "cat.png").write_bytes(b"cat")
        os.utime(self.root / "slot" / "cat.png", (NOW, NOW))
        self.assertEqual(self.scan(), {(b"alice/random/photo.jpg", Kind.MISSING), (b"slot/cat.png", Kind.MISSING)})
        ours, adopted = self.index.get(b"alice/random/photo.jpg"), self.index.get(b"slot/cat.png")
        assert ours is not None and adopted is not None
        self.assertEqual((ours.user, ours.source, ours.expires), (FACTS.owner, "upload", FACTS.expires))
        self.assertEqual((adopted.user, adopted.source, adopted.uploaded), (None, "adopted", NOW))
        self.assertEqual((self.last.files, self.scan()), (2, set()))

    def test_changed_behind_our_back(self) -> None:
        """Files that came, went, were written to, replaced, or given other facts."""
        for name in ("kept", "gone", "written", "replaced", "told"):
            self.put(f"a/{name}")
        self.scan()
        (self.root / "a/gone").unlink()
        (self.root / "a/written").write_bytes(b"more")
        (self.root / "a/replaced").unlink()
        self.put("a/replaced")
        self.store.set_facts(self.path("a/told"), evolve(FACTS, quarantined="complaint 5"))
        self.put("b/new")
        found = self.scan()
        self.assertEqual(
            found,
            {
                (b"a/gone", Kind.VANISHED),
                (b"a/written", Kind.CHANGED),
                (b"a/replaced", Kind.CHANGED),
                (b"a/told", Kind.CHANGED),
                (b"b/new", Kind.MISSING),
            },
        )
        self.assert_in_step()
        self.assertEqual(self.scan(), set())

    def test_only_looked_for(self) -> None:
        """What differs is told, and nothing is changed; facts are compared even where the file seems untouched."""
        self.put("a")
        self.put("b")
        self.scan()
        known = self.index.get(b"a")
        assert known is not None
        self.index.put([evolve(known, expires=None)])
        (self.root / "b").unlink()
        before = rows(self.index)
        for _ in range(2):
            self.assertEqual(self.scan(mend=False), {(b"a", Kind.CHANGED), (b"b", Kind.VANISHED)})
        self.assertEqual(rows(self.index), before)

    def test_names_without_a_url(self) -> None:
        """They are left alone, and counted."""
        (self.root / "new\nline").write_bytes(b"x")
        (self.root / ("d" * 200)).mkdir()
        (self.root / ("d" * 200) / "fine").write_bytes(b"x")
        self.assertEqual(self.scan(), {(b"d" * 200 + b"/fine", Kind.MISSING)})
        self.assertEqual((self.last.files, self.last.skipped), (2, 1))

    def test_links_and_ours(self) -> None:
        """Nothing is followed out of the store, and what is ours is no file."""
        outside = Path(self.mktemp()).absolute()
        outside.mkdir()
        (outside / "secret").write_bytes(b"x")
        (self.root / "link").symlink_to(outside)
        (self.root / "file").symlink_to(outside / "secret")
        os.mkfifo(self.root / "fifo")
        self.store.begin("part").write(b"unfinished")
        self.assertEqual((self.scan(), self.last.files), (set(), 0))

    def test_became_a_link(self) -> None:
        """A file in whose place, or on whose way, there is a link now, has vanished."""
        for name in ("a/x", "b/x"):
            self.put(name)
        self.scan()
        (self.root / "a/x").unlink()
        (self.root / "a/x").symlink_to("../b/x")
        (self.root / "b").rename(self.root / "c")
        (self.root / "b").symlink_to("c")
        self.assertEqual(self.scan(), {(b"a/x", Kind.VANISHED), (b"b/x", Kind.VANISHED), (b"c/x", Kind.MISSING)})

    def test_unreadable(self) -> None:
        """A file whose facts can't be read is left alone, and doesn't keep the others from being seen."""
        self.put("a")
        self.put("b")

        def fail(method: str) -> None:
            if method == "get_attribute" and self.disk.calls[-1][1].endswith("/a"):
                raise OSError(errno.EIO, "broken")

        self.disk.before = fail
        self.assertEqual(self.scan(), {(b"b", Kind.MISSING)})
        self.assertEqual(self.last.skipped, 1)
        self.assertEqual(self.scan(mend=False), {(b"a", Kind.MISSING)})

    def test_directory_that_fails(self) -> None:
        """Files that can't be found for the moment aren't forgotten."""
        self.put("a/b")
        self.scan()
        before = rows(self.index)
        real_open = os.open

        def fails(name: bytes, *args: int, **kwargs: int) -> int:
            if name == b"a":
                raise OSError(errno.EIO, "broken")
            return real_open(name, *args, **kwargs)

        patched = self.patch(os, "open", fails)
        self.assertEqual((self.scan(), rows(self.index)), (set(), before))
        patched.restore()

    def test_remembers_its_end(self) -> None:
        """Of a whole one, not of one that only looks, or was broken off."""
        self.put("a")
        self.scan(mend=False)
        broken_off = Scan(self.store, self.index, lambda: NOW)
        broken_off.step()
        broken_off.close()
        self.assertIsNone(broken_off.step())
        self.assertIsNone(self.index.setting(SCANNED_KEY))
        self.scan()
        self.assertEqual(self.index.setting(SCANNED_KEY), repr(NOW))

    def test_index_begun_anew(self) -> None:
        """Of one that was lost on the way the new index knows but a part: it hasn't been scanned."""
        self.put("a")
        scan = Scan(self.store, self.index, lambda: NOW)
        scan.step()
        self.index.renew()
        while scan.step() is not None:
            pass
        self.assertIsNone(self.index.setting(SCANNED_KEY))

    def test_orphaned_sidecars(self) -> None:
        """They go, if they are old; those that are needed stay."""

        def refuse(method: str) -> None:
            if method.endswith("_attribute"):
                raise OSError(errno.ENOTSUP, "none")

        self.disk.before = refuse
        self.put("a")
        self.put("b")
        (self.root / "a").unlink()
        for sidecar in self.own_files("meta"):
            os.utime(sidecar, (NOW - 1000, NOW - 1000))
        self.scan(mend=False)
        self.assertEqual(len(self.own_files("meta")), 2)
        self.scan()
        self.assertEqual((len(self.own_files("meta")), self.last.sidecars), (1, 1))
        self.assertEqual(self.facts("b"), FACTS)

    def test_short_steps(self) -> None:
        """However many files there are, a step looks at so many of them, in one directory or in many."""
        for number in range(BATCH + 10):
            (self.root / f"{number}").mkdir()
            (self.root / f"{number}/f").write_bytes(b"")
            (self.root / f"0/{number}").write_bytes(b"")
        scan = Scan(self.store, self.index, lambda: NOW)
        seen = [0]
        while scan.step() is not None:
            self.assertLessEqual(scan.files - seen[-1], BATCH)
            seen.append(scan.files)
        self.assertEqual(scan.files, 2 * (BATCH + 10))
        self.assert_in_step()

    def test_nothing_stays_open(self) -> None:
        """However it ends."""
        self.put("a/b/c")
        self.scan()
        with none_left_open(self):
            self.scan()
            broken_off = Scan(self.store, self.index, lambda: NOW)
            broken_off.step()
            broken_off.close()


class MeanwhileTests(ScanTestCase):
    """What others do while a scan is under way."""

    def steps(self, between: Callable[[int], None]) -> None:
        """Scan, and do something else between the steps."""
        scan = Scan(self.store, self.index, lambda: NOW)
        number = 0
        between(number)
        while scan.step() is not None:
            number += 1
            between(number)

    def test_published(self) -> None:
        """A file that is published at whatever moment is known afterwards, whether the walk came by or not."""
        for moment in range(4):
            name = f"new{moment}"

            def publish(number: int, moment: int = moment, name: str = name) -> None:
                if number == moment:
                    self.put(name)
                    refresh(self.store, self.index, [name.encode()], NOW)

            self.steps(publish)
            self.assert_in_step()

    def test_passed_by(self) -> None:
        """A file that the walk has missed, because directories were renamed under it, isn't taken for gone."""
        self.put("a")
        self.scan()
        self.patch(self.store, "walk", lambda: iter(()))
        self.assertEqual(self.scan(), set())
        self.assertEqual(set(rows(self.index)), {b"a"})

    def test_deleted(self) -> None:
        """A file that is deleted at whatever moment stays forgotten."""
        for moment in range(3):
            self.put("a/b")

            def delete(number: int, moment: int = moment) -> None:
                if number == moment:
                    self.store.delete(self.path("a/b"))
                    refresh(self.store, self.index, [b"a/b"], NOW)

            self.steps(delete)
            self.assert_in_step()

    def test_deleted_while_looked_at(self) -> None:
        """Between the look at the file and the line in the index."""
        self.put("a/b")
        other = self.open_store()

        def delete(method: str) -> None:
            if method == "get_attribute":
                self.disk.after = lambda _method: None
                other.delete(self.path("a/b"))

        self.disk.after = delete
        self.scan()
        self.assertEqual(rows(self.index), {})

    def test_facts_changed_while_read(self) -> None:
        """The file is looked at once more, and the new ones are found."""
        self.put("a/b")
        other = self.open_store()

        def change(method: str) -> None:
            if method == "get_attribute":
                self.disk.after = lambda _method: None
                other.set_facts(self.path("a/b"), evolve(FACTS, quarantined="complaint 5"))

        self.disk.after = change
        self.scan()
        known = self.index.get(b"a/b")
        assert known is not None
        self.assertTrue(known.quarantined)

    def test_ever_changing(self) -> None:
        """A file that changes whenever it is looked at is left to the next scan, and holds up nobody."""
        self.put("a/b")
        self.put("c")
        other = self.open_store()
        times = iter(range(1, 1000))

        def change(method: str) -> None:
            if method == "get_attribute" and self.disk.calls[-1][1].endswith("/b"):
                other.set_facts(self.path("a/b"), evolve(FACTS, uploaded=float(next(times))))

        self.disk.after = change
        self.scan()
        self.assertIn(b"c", rows(self.index))
        self.disk.after = lambda _method: None
        self.scan()
        self.assert_in_step()


class RefreshTests(ScanTestCase):
    """Single files are looked at."""

    def test_as_they_are(self) -> None:
        """Published, deleted, never there, or impossible: what counts is the tree."""
        self.put("a")
        self.put("b")
        refresh(self.store, self.index, [b"a", b"b", b"c", b"../x", b".hmacfs/y"], NOW)
        self.assertEqual(set(rows(self.index)), {b"a", b"b"})
        self.store.delete(self.path("a"))
        refresh(self.store, self.index, [b"a"], NOW)
        self.assertEqual(set(rows(self.index)), {b"b"})

    def test_unreadable(self) -> None:
        """What can't be read is told, and remains as it was known."""
        self.put("a")
        refresh(self.store, self.index, [b"a"], NOW)
        self.disk.fail("get_attribute", errno.EIO)
        self.assertEqual(refresh(self.store, self.index, [b"a"], NOW), [b"a"])
        self.assertEqual(set(rows(self.index)), {b"a"})


NAMES = st.sampled_from(("a/x", "a/y", "a/b/x", "b/x", "z"))


class InStep(RuleBasedStateMachine):
    """Two processes that upload and delete, a person who changes the tree, crashes: a last scan makes it all good."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(f"in-step-{os.urandom(8).hex()}").absolute()
        self.store = Store.open(self.root)
        self.path = self.store.own_directory / FILE_NAME
        self.time = NOW
        self.processes = [self.start(), self.start()]
        self.scans: list[Scan] = []

    def start(self) -> tuple[Index, Indexing, Clock]:
        index, clock = Index(self.path), Clock()
        return index, Indexing(self.store, index, clock, InlineThreads(), self.now, Metrics()), clock

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def teardown(self) -> None:
        for _, _, clock in self.processes:
            clock.advance(2.0)
        index, _, _ = self.processes[0]
        scan = Scan(self.store, index, self.now)
        while scan.step() is not None:
            pass
        tree = {path: look_up(self.store, path, NOW) for path, _ in self.store.walk()}
        known = rows(index)
        assert set(known) == set(tree), (known, tree)
        for path, entry in tree.items():
            assert entry is not None and known[path].agrees_with(entry), (known[path], entry)
        assert index.usage() == Usage(len(tree), sum(entry.size for entry in tree.values() if entry is not None))
        for index, _, _ in self.processes:
            index.close()
        self.store.close()
        shutil.rmtree(self.root)

    @rule(name=NAMES, size=st.integers(0, 3), who=st.integers(0, 1))
    def publish(self, name: str, size: int, who: int) -> None:
        part = self.store.begin(f"p{os.urandom(8).hex()}")
        part.write(b"x" * size)
        path = SlotPath.from_encoded(name.encode())
        try:
            self.store.publish(part, path, Facts("image/png", None, "a@b", None, self.now()))
        except (AlreadyStored, PathConflict):
            return
        finally:
            part.discard()
        self.processes[who][1].changed(path)

    @rule(name=NAMES, who=st.integers(0, 1))
    def delete(self, name: str, who: int) -> None:
        path = SlotPath.from_encoded(name.encode())
        if self.store.delete(path) is not None:
            self.processes[who][1].changed(path)

    @rule(name=NAMES, who=st.integers(0, 1))
    def quarantine(self, name: str, who: int) -> None:
        path = SlotPath.from_encoded(name.encode())
        found = self.store.open_file(path)
        if found is not None:
            found.close()
            self.store.set_facts(path, evolve(found.facts, quarantined="complaint"))
            self.processes[who][1].changed(path)

    @rule(name=NAMES, content=st.binary(max_size=2))
    def write_behind_our_back(self, name: str, content: bytes) -> None:
        with contextlib.suppress(OSError):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)

    @rule(name=NAMES)
    def remove_behind_our_back(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / name).unlink()

    @rule(one=st.sampled_from(("a", "b", "z")), other=st.sampled_from(("a", "b", "z")))
    def rename_behind_our_back(self, one: str, other: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / one).rename(self.root / other)

    @rule(who=st.integers(0, 1))
    def flush(self, who: int) -> None:
        self.processes[who][2].advance(2.0)

    @rule(who=st.integers(0, 1))
    def crash(self, who: int) -> None:
        self.processes[who][0].close()
        self.processes[who] = self.start()

    @rule()
    def lose_the_index(self) -> None:
        self.path.unlink(missing_ok=True)

    @rule(who=st.integers(0, 1))
    def begin_a_scan(self, who: int) -> None:
        if len(self.scans) < 2:
            self.scans.append(Scan(self.store, self.processes[who][0], self.now))

    @rule()
    def go_on_with_a_scan(self) -> None:
        if self.scans and self.scans[0].step() is None:
            self.scans.pop(0)

    @invariant()
    def usage_is_the_sum(self) -> None:
        index = self.processes[0][0]
        known = rows(index).values()
        assert index.usage() == Usage(len(known), sum(entry.size for entry in known))


class InStepTests(SynchronousTestCase):
    def test_after_all_that(self) -> None:
        """After any sequence of these, a last scan leaves index and tree saying the same."""
        run_state_machine_as_test(InStep, settings=settings(max_examples=60, stateful_step_count=25, database=None))
