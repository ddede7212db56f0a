"""The whole life of stored files: whatever happens, index and tree agree in the end, and none went before its time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.config_retention import RetentionRule
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Entry, Index
from hmacfs.keeping.retention import Policy, Retention
from hmacfs.keeping.scan import Scan, refresh
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import AlreadyStored, Store

DAY_S = 86_400.0
BEGIN = 1_795_000_000.0
KEEP_S = 30 * DAY_S
VIDEO_S = 7 * DAY_S
GRACE_S = DAY_S
MAX_BYTES = 400

#: Where syncing costs nothing, if there is such a place.
_FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: Few, so that they meet again.
PATHS = [b"a/one", b"a/two", b"b/avatar", b"c/d/e", b"f"]

POLICY = Policy(
    rules=(
        RetentionRule(path="*/avatar", content_type=None, keep_s=None),
        RetentionRule(path=None, content_type="video/*", keep_s=VIDEO_S),
    ),
    default_s=KEEP_S,
    max_bytes=MAX_BYTES,
    grace_s=GRACE_S,
)


@define
class Known:
    """What the test knows of a file in the tree.

    :ivar expected_s: how long it must stay, from its upload; ``None`` for ever.
    :ivar adopted: whether it came behind our back.
    """

    uploaded: float
    expires: float | None
    expected_s: float | None
    size: int
    adopted: bool = False
    quarantined: bool = False


class World:
    """A store, its index, a clock, and the test's own books."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = BEGIN
        self.files: dict[bytes, Known] = {}
        self.since: float | None = None
        self.waiting: list[bytes] = []
        self.parts = 0
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.root)
        self.index = Index(self.store.own_directory / FILE_NAME)
        self.retention = Retention(self.index, POLICY, 3600.0)
        self.deleting = Deleting(self.store, self.index, lambda _deletion: None, "test")

    def close(self) -> None:
        self.index.close()
        self.store.close()

    # What may happen

    def upload(self, path: bytes, size: int, video: bool, expires_in_days: int | None) -> None:
        expires = None if expires_in_days is None else self.now + expires_in_days * DAY_S
        facts = Facts("video/mp4" if video else "image/png", None, None, expires, self.now)
        self.parts += 1
        part = self.store.begin(f"part{self.parts}")
        try:
            part.write(bytes(size))
            self.store.publish(part, SlotPath.from_encoded(path), facts)
        except AlreadyStored:
            return
        finally:
            part.discard()
        self.waiting.append(path)
        expected_s = None if path.endswith(b"avatar") else VIDEO_S if video else KEEP_S
        self.files[path] = Known(self.now, expires, expected_s, size)

    def put_behind_our_back(self, path: bytes, size: int) -> None:
        if path in self.files:
            return
        place = self.root / path.decode()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(size))
        expected_s = None if path.endswith(b"avatar") else KEEP_S
        self.files[path] = Known(place.stat().st_mtime, None, expected_s, size, adopted=True)

    def delete_behind_our_back(self, path: bytes) -> None:
        if self.files.pop(path, None) is not None:
            (self.root / path.decode()).unlink()

    def quarantine(self, path: bytes) -> None:
        known = self.files.get(path)
        found = self.store.open_file(SlotPath.from_encoded(path))
        if known is None or found is None:
            return
        found.close()
        known.quarantined = not known.quarantined
        facts = evolve(found.facts, quarantined="why" if known.quarantined else None)
        self.store.set_facts(SlotPath.from_encoded(path), facts)
        self.waiting.append(path)

    def pass_time(self, days: float) -> None:
        self.now += days * DAY_S

    def flush(self) -> None:
        refresh(self.store, self.index, tuple(set(self.waiting)), self.now)
        self.waiting = []

    def crash(self) -> None:
        """What the index has not been told is forgotten."""
        self.waiting = []
        self.close()
        self.open()

    def scan(self) -> None:
        scan = Scan(self.store, self.index, lambda: self.now)
        while scan.step() is not None:
            pass

    def sweep(self) -> dict[bytes, str]:
        """What was deleted, and why."""
        if self.since is None:
            self.since = self.now
        gone: dict[bytes, str] = {}

        def delete(entry: Entry, reason: str) -> bool:
            done = self.deleting.delete(entry, reason, self.now) is not None
            if done:
                gone[entry.path] = reason
            return done

        self.retention.sweep(self.now, delete).to_the_end()
        return gone

    # What must hold

    def check_deleted(self, gone: dict[bytes, str]) -> None:
        """None of them went before its time."""
        for path, reason in gone.items():
            known = self.files.pop(path)
            assert not known.quarantined, (path, reason)
            if reason == "expired":
                assert known.expires is not None and known.expires <= self.now, (path, known)
                continue
            assert known.expected_s is not None, (path, reason)
            assert self.since is not None
            if known.adopted or known.uploaded < self.since:
                assert self.now >= self.since + GRACE_S, (path, known)
            if reason == "age":
                assert known.uploaded + known.expected_s <= self.now, (path, known)
            else:
                assert reason == "size", reason

    def tree(self) -> dict[bytes, int]:
        return {path: stamp.size for path, stamp in self.store.walk()}

    def indexed(self) -> dict[bytes, int]:
        entries = (self.index.get(path) for path in PATHS)
        return {entry.path: entry.size for entry in entries if entry is not None}


_paths = some.sampled_from(PATHS)
_sizes = some.integers(0, 200)
_steps: some.SearchStrategy[Callable[[World], object]] = some.one_of(
    some.builds(
        lambda path, size, video, days: lambda world: world.upload(path, size, video, days),
        _paths,
        _sizes,
        some.booleans(),
        some.none() | some.integers(0, 10),
    ),
    some.builds(lambda path, size: lambda world: world.put_behind_our_back(path, size), _paths, _sizes),
    some.builds(lambda path: lambda world: world.delete_behind_our_back(path), _paths),
    some.builds(lambda path: lambda world: world.quarantine(path), _paths),
    some.builds(lambda days: lambda world: world.pass_time(days), some.floats(0, 20)),
    some.just(lambda world: world.flush()),
    some.just(lambda world: world.crash()),
    some.just(lambda world: world.scan()),
    some.just(lambda world: world.check_deleted(world.sweep())),
)


class LifeTests(SynchronousTestCase):
    """Uploads, deletions, crashes, sweeps, in any order."""

    @settings(max_examples=200)
    @given(some.lists(_steps, max_size=25))
    def test_whatever_happens(self, steps: list[Callable[[World], object]]) -> None:
        root = Path(tempfile.mkdtemp(dir=_FAST))
        world = World(root)
        try:
            for step in steps:
                step(world)
            # Once everything is known, what is over its time goes, and nothing else has.
            world.flush()
            world.scan()
            world.check_deleted(world.sweep())
            self.assertEqual(world.tree(), {path: known.size for path, known in world.files.items()})
            self.assertEqual(world.indexed(), world.tree())
            for path, known in world.files.items():
                if known.expires is not None and not known.quarantined:
                    self.assertGreater(known.expires, world.now, path)
            self.assertEqual(sorted(entry.name for entry in (root / ".hmacfs" / "going").iterdir()), [])
        finally:
            world.close()
            shutil.rmtree(root)
