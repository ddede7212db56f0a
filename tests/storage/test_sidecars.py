from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

from attrs import evolve

from hmacfs.storage.facts import ATTRIBUTE, Facts
from hmacfs.storage.store import AlreadyStored
from hmacfs.storage.tree import PathConflict
from tests.storage.support import FACTS, Crash, StoreTestCase


class NoAttributesCase(StoreTestCase):
    """On a file system that has no attributes."""

    def setUp(self) -> None:
        super().setUp()
        self.refuse_attributes()

    def refuse_attributes(self, code: int = errno.ENOTSUP) -> None:
        def refuse(method: str) -> None:
            if method in ("set_attribute", "get_attribute"):
                raise OSError(code, os.strerror(code))

        self.disk.before = refuse


class SidecarTests(NoAttributesCase):
    """Facts on a file system that has no attributes."""

    def test_noticed_at_start(self) -> None:
        """The store knows which way facts go."""
        self.assertTrue(self.store.has_attributes)
        self.assertFalse(self.open_store(self.disk).has_attributes)

    def test_facts_survive(self) -> None:
        """A restart changes nothing, and nothing is left on the file itself."""
        self.put("a/b.jpg")
        self.assertEqual(self.facts("a/b.jpg", self.open_store(self.disk)), FACTS)
        self.assertEqual(os.listxattr(self.root / "a/b.jpg"), [])

    def test_private(self) -> None:
        """Nobody else may read who uploaded what."""
        self.addCleanup(os.umask, os.umask(0))
        self.put("a/b.jpg")
        for path in (self.root / ".hmacfs" / "meta").rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_no_room_in_the_file(self) -> None:
        """Attributes exist, but these facts are too many: the sidecar is found although the file could have some."""
        self.refuse_attributes(errno.ENOSPC)
        self.put("a/b.jpg")
        self.assertEqual(self.facts("a/b.jpg", self.open_store()), FACTS)

    def test_really_no_room_in_the_file(self) -> None:
        """Facts larger than a file system takes: ext4 and XFS stop at 4 and 64 KiB."""
        facts = Facts("text/plain", None, "x" * 65_000, None, 1.0)
        store = self.open_store()
        part = store.begin("part")
        store.publish(part, self.path("a"), facts)
        self.assertEqual(self.facts("a", store), facts)

    def test_another_file_of_that_path(self) -> None:
        """Who replaces a file behind our back doesn't inherit its facts, even with size and inode the same."""
        self.put("a/b.txt", b"12345")
        (self.root / "a/b.txt").write_bytes(b"54321")
        os.utime(self.root / "a/b.txt", (7.0, 7.0))
        self.assertEqual(self.facts("a/b.txt"), Facts.guessed(b"b.txt", 7.0))

    def test_deleted_and_uploaded_anew(self) -> None:
        """Facts are the newest file's."""
        self.put("a/b.txt", b"12345")
        (self.root / "a/b.txt").unlink()
        part = self.store.begin("part")
        part.write(b"54321")
        facts = Facts("text/html", None, "bob@example.org", None, 1.0)
        self.store.publish(part, self.path("a/b.txt"), facts)
        self.assertEqual(self.facts("a/b.txt"), facts)

    def test_copied_tree(self) -> None:
        """A store that was copied with its times, to another disk or from a backup, keeps its facts."""
        self.put("a/b.jpg")
        copy = Path(self.mktemp()).absolute()
        shutil.copytree(self.root, copy)
        self.root = copy
        self.assertEqual(self.facts("a/b.jpg", self.open_store(self.disk)), FACTS)

    def test_damaged(self) -> None:
        """Whatever stands in a sidecar, the file is served."""
        self.put("a/b.png")
        [sidecar] = self.own_files("meta")
        for content in (b"", b"\0" * 50, b'{"v":1}', b"[" * 70_000, b"\xff\n\n"):
            sidecar.write_bytes(content)
            facts = self.facts("a/b.png")
            assert facts is not None
            self.assertEqual((facts.content_type, facts.owner), ("image/png", None))

    def test_names_its_file(self) -> None:
        """A janitor, or a person, can tell whose facts these are."""
        self.put("a/très cool.jpg")
        [sidecar] = self.own_files("meta")
        self.assertEqual(sidecar.read_bytes(), FACTS.encode() + b"\na/tr%C3%A8s%20cool.jpg\n")

    def test_durable_before_published(self) -> None:
        """Sidecar, its directories, then the link: facts and bytes appear together."""
        self.put("a/b.jpg")
        [sidecar] = self.own_files("meta")
        own = self.root / ".hmacfs"
        linked = self.disk.calls.index(("link", str(self.root / "a/b.jpg")))
        renamed = self.disk.calls.index(("rename", str(sidecar)))
        [written] = [place for call, place in self.disk.calls[:renamed] if call == "create" and "/meta/" in place]
        self.assertIn(("sync", written), self.disk.calls[:renamed])
        for path in (sidecar.parent, own / "meta", own):
            self.assertIn(("sync", str(path)), self.disk.calls[renamed:linked])

    def test_loser_leaves_nothing(self) -> None:
        """An upload that came second, or met something in its way, takes its sidecar with it; the winner keeps his."""
        self.put("a/b.jpg", b"first")
        self.assertRaises(AlreadyStored, self.put, "a/b.jpg", b"second")
        self.assertRaises(PathConflict, self.put, "a/b.jpg/c", b"third")
        self.assertEqual(len(self.own_files("meta")), 1)
        self.assertEqual(self.facts("a/b.jpg"), FACTS)

    def test_full_disk(self) -> None:
        """No room for the sidecar: nothing is published, and no half of it stays."""

        def full(method: str) -> None:
            if method.endswith("_attribute"):
                raise OSError(errno.ENOTSUP, "none")
            if method == "write" and self.disk.calls[-1][1].startswith(str(self.root / ".hmacfs" / "meta")):
                raise OSError(errno.ENOSPC, "full")

        self.disk.before = full
        self.assert_fails_with(errno.ENOSPC, self.put, "a/b.jpg")
        self.assertEqual((self.tree(), self.own_files("meta"), self.own_files("parts")), ([], [], []))

    def test_attribute_goes_first(self) -> None:
        """Where the file has facts of its own, nobody looks for a sidecar."""
        self.put("a/b.jpg")
        os.setxattr(self.root / "a/b.jpg", ATTRIBUTE, Facts("a/b", None, None, None, 2.0).encode())
        self.assertEqual(self.facts("a/b.jpg", self.open_store()), Facts("a/b", None, None, None, 2.0))


class ChangeTests(NoAttributesCase):
    """Facts that are changed, on a file system that has no attributes, or none that are large enough."""

    def test_replaced_at_once(self) -> None:
        """Killed at any moment: the sidecar says the one or the other, and is never half there."""
        other = evolve(FACTS, owner="bob@example.org")
        for number in range(20):
            name = f"f{number}"
            self.put(name)
            refuse = self.disk.before
            self.disk.crash(number, after=bool(number % 2))
            die = self.disk.before
            self.disk.before = lambda method, die=die, refuse=refuse: (die(method), refuse(method))  # type: ignore[misc]
            with contextlib.suppress(Crash):
                self.store.set_facts(self.path(name), other)
            self.disk.before, self.disk.after = refuse, lambda _method: None
            self.assertIn(self.facts(name), (FACTS, other))
        self.assertEqual(self.facts(name), other)

    def test_attribute_gives_way(self) -> None:
        """Facts that have outgrown their attribute are in a sidecar, and the old ones aren't believed any more."""
        store = self.open_store()
        self.put("a/b", store=store)
        large = evolve(FACTS, quarantined="x" * 65_000)
        self.assertTrue(store.set_facts(self.path("a/b"), large))
        self.assertEqual(self.facts("a/b", store), large)
        self.assertTrue(store.set_facts(self.path("a/b"), FACTS))
        self.assertEqual(self.facts("a/b", store), FACTS)
        self.assertEqual(self.own_files("meta"), [])


class SweepTests(NoAttributesCase):
    """Sidecars that nobody needs."""

    def sweep(self, older_than_s: float = 600.0) -> list[bool]:
        return list(self.store.sweep_sidecars(older_than_s, time.time() + 1000.0))

    def test_file_is_gone(self) -> None:
        """Removed behind our back, or replaced: its sidecar goes, and others stay."""
        for name in ("gone", "changed", "kept"):
            self.put(name, b"12345")
        (self.root / "gone").unlink()
        (self.root / "changed").write_bytes(b"1")
        self.assertEqual(sorted(self.sweep()), [False, True, True])
        self.assertEqual(len(self.own_files("meta")), 1)
        self.assertEqual(self.facts("kept"), FACTS)

    def test_young(self) -> None:
        """One whose file may be about to be published is left alone."""
        self.put("a")
        (self.root / "a").unlink()
        self.assertEqual(self.sweep(older_than_s=2000.0), [False])

    def test_halves(self) -> None:
        """What a crash has left of a sidecar that was just written, and things that nobody can read."""
        self.put("a")
        [sidecar] = self.own_files("meta")
        shutil.copy(sidecar, f"{sidecar}.0123456789abcdef")
        (sidecar.parent / "garbage").write_bytes(b"\0")
        (sidecar.parent / "outside").write_bytes(b"{}\n../../a\n")
        self.assertEqual(sorted(self.sweep()), [False, True, True, True])
        self.assertEqual(self.own_files("meta"), [sidecar])

    def test_storage_fails(self) -> None:
        """What can't be found out is no reason to remove anything."""
        self.put("a/b")
        real_stat = os.stat

        def fails(name: bytes, **kwargs: Any) -> os.stat_result:
            if name == b"b":
                raise OSError(errno.EIO, "broken")
            return real_stat(name, **kwargs)

        self.patch(os, "stat", fails)
        self.assertEqual(self.sweep(), [False])
