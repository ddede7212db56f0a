from __future__ import annotations

import errno

from attrs import evolve

from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Entry, Index
from hmacfs.keeping.report import Deletion
from hmacfs.keeping.scan import look_up, refresh
from tests.storage.support import FACTS, StoreTestCase

NOW = 1_796_000_000.0


class DeletingTests(StoreTestCase):
    """A file is deleted because somebody has decided so."""

    def setUp(self) -> None:
        super().setUp()
        self.index = Index(self.store.own_directory / FILE_NAME)
        self.addCleanup(self.index.close)
        self.reported: list[Deletion] = []
        self.deleting = Deleting(self.store, self.index, self.reported.append, "retention")

    def known(self, encoded: str = "a/b") -> Entry:
        refresh(self.store, self.index, [encoded.encode()], NOW - 9)
        entry = self.index.get(encoded.encode())
        assert entry is not None
        return entry

    def test_deleted(self) -> None:
        """The file, its line in the index, and a line in the report with what was known of it."""
        self.put("a/b")
        self.assertEqual(self.deleting.delete(self.known(), "age", NOW), 7)
        self.assertEqual((self.tree(), self.index.usage().files), ([], 0))
        self.assertEqual(
            self.reported,
            [
                Deletion(
                    time=NOW,
                    path=self.path("a/b"),
                    size=7,
                    uploaded=FACTS.uploaded,
                    content_type=FACTS.content_type,
                    owner=FACTS.owner,
                    reason="age",
                    by="retention",
                )
            ],
        )

    def test_empty_file(self) -> None:
        """It frees nothing, and is deleted nevertheless."""
        self.put("a", b"")
        self.assertEqual(self.deleting.delete(self.known("a"), "age", NOW), 0)
        self.assertEqual(len(self.reported), 1)

    def test_without_the_index(self) -> None:
        """Who knows but the path decides upon what the tree says."""
        self.put("a/b")
        entry = look_up(self.store, b"a/b", NOW)
        assert entry is not None
        self.assertEqual(self.deleting.delete(entry, "asked", NOW), 7)

    def assert_spared(self, entry: Entry) -> None:
        """Nothing was deleted or reported, and the index knows better now."""
        tree = self.tree()
        self.assertIsNone(self.deleting.delete(entry, "age", NOW))
        self.assertEqual((self.tree(), self.reported), (tree, []))
        self.assertEqual(self.index.get(entry.path), look_up(self.store, entry.path, NOW))

    def test_gone(self) -> None:
        self.put("a/b")
        entry = self.known()
        (self.root / "a/b").unlink()
        self.assert_spared(entry)

    def test_another_file(self) -> None:
        """One that has taken the path since is not what was decided upon."""
        self.put("a/b")
        entry = self.known()
        (self.root / "a/b").unlink()
        self.put("a/b", b"newer")
        self.assert_spared(entry)

    def test_other_facts(self) -> None:
        """What is in quarantine since, or was given more time, isn't deleted for what it was."""
        for changed in (evolve(FACTS, quarantined="evidence"), evolve(FACTS, expires=None)):
            self.put("a/b")
            entry = evolve(self.known(), first_seen=NOW)
            self.store.set_facts(self.path("a/b"), changed)
            self.index.drop([b"a/b"])
            self.assert_spared(entry)
            self.store.delete(self.path("a/b"))

    def test_read_since(self) -> None:
        """A download changes nothing about the file."""
        self.put("a/b")
        entry = self.known()
        self.index.note_read([b"a/b"], 5)
        self.assertEqual(self.deleting.delete(entry, "age", NOW), 7)

    def test_index_is_away(self) -> None:
        """The file goes, and it is reported; the next scan finds the rest."""
        self.put("a/b")
        entry = self.known()
        self.index.close()
        (self.store.own_directory / FILE_NAME).unlink()
        (self.store.own_directory / FILE_NAME).mkdir()
        self.assertEqual(self.deleting.delete(entry, "age", NOW), 7)
        self.assertEqual((self.get("a/b"), len(self.reported)), (None, 1))

    def test_disk_fails(self) -> None:
        """Nothing is reported of a file that is still there."""
        self.put("a/b")
        entry = self.known()
        self.disk.fail("rename", errno.EIO)
        self.assert_fails_with(errno.EIO, self.deleting.delete, entry, "age", NOW)
        self.assertEqual((self.get("a/b"), self.reported), (b"content", []))
