"""The index by itself: what it remembers of entries, and how it finds them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.keeping.index import BATCH, Entry, Index, Query, Schedule, Usage
from hmacfs.storage.database import WrongFormat
from hmacfs.storage.facts import Facts
from hmacfs.storage.tree import Stamp

NOW = 1_796_000_000.0
DAY = 86_400.0


def entry(path: bytes = b"a/b", **fields: Any) -> Entry:
    usual: dict[str, Any] = {
        "size": 7,
        "mtime_ns": 5,
        "inode": 3,
        "uploaded": NOW,
        "content_type": "image/jpeg",
        "sha256": None,
        "user": None,
        "domain": "",
        "expires": None,
        "quarantined": False,
        "source": "upload",
        "first_seen": NOW,
    }
    return Entry(path=path, **{**usual, **fields})


def paths(entries: Sequence[Entry]) -> list[bytes]:
    return [each.path for each in entries]


class IndexTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "index.sqlite"
        self.path.parent.mkdir()
        self.index = self.open()

    def open(self) -> Index:
        """As another process would."""
        index = Index(self.path)
        self.addCleanup(index.close)
        return index


class EntryTests(SynchronousTestCase):
    """What is taken from the tree."""

    def test_facts(self) -> None:
        """All that is known of a file beside its bytes."""
        facts = Facts("image/png", bytes(32), "alice@example.org", NOW + 9, NOW, "complaint 5", "import ejabberd")
        made = Entry.of(b"a/b", Stamp(7, 5, 3, 11), facts, NOW + 1)
        self.assertEqual(
            made,
            entry(
                content_type="image/png",
                sha256=bytes(32),
                user="alice@example.org",
                domain="example.org",
                expires=NOW + 9,
                quarantined=True,
                source="import ejabberd",
                first_seen=NOW + 1,
            ),
        )
        self.assertEqual(made.stamp, Stamp(7, 5, 3, 11))

    def test_sources(self) -> None:
        """A file without facts was adopted; facts that name no source are an upload's."""
        adopted = Entry.of(b"a", Stamp(7, 5, 3, 11), Facts.guessed(b"a", NOW), NOW)
        uploaded = Entry.of(b"a", Stamp(7, 5, 3, 11), Facts("a/b", None, None, None, NOW), NOW)
        self.assertEqual((adopted.source, uploaded.source), ("adopted", "upload"))

    def test_surrogates(self) -> None:
        """JSON can have text that SQLite can't."""
        made = Entry.of(
            b"a", Stamp(7, 5, 3, 11), Facts("a/\ud800", None, "\udc80@\udfff", None, NOW, None, "\ud800"), NOW
        )
        for text in (made.content_type, made.user, made.domain, made.source):
            assert text is not None
            text.encode("utf-8")


class PutTests(IndexTestCase):
    """Files are written down and forgotten."""

    def test_others_see_it(self) -> None:
        self.index.put([entry(b"a/\xff", sha256=bytes(32), expires=NOW, read_day=5)])
        self.assertEqual(self.open().get(b"a/\xff"), entry(b"a/\xff", sha256=bytes(32), expires=NOW, read_day=5))
        self.assertIsNone(self.index.get(b"a"))

    def test_many(self) -> None:
        """More than go into one transaction."""
        many = [entry(b"%d" % number) for number in range(3 * BATCH + 1)]
        self.index.put(many)
        self.assertEqual(self.index.usage().files, len(many))
        self.index.note_read(paths(many), 7)
        self.assertEqual({each.read_day for each in self.index.select(Query())}, {7})
        self.index.drop(paths(many))
        self.assertEqual(self.index.usage().files, 0)

    def test_changed(self) -> None:
        """What is put again is the new one, and the row keeps its number."""
        self.index.put([entry()])
        before = self.index.get(b"a/b")
        self.index.put([entry(quarantined=True, content_type="text/plain")])
        after = self.index.get(b"a/b")
        assert before is not None and after is not None
        self.assertEqual(after, entry(quarantined=True, content_type="text/plain"))
        self.assertEqual(after.number, before.number)

    def test_first_seen_stays(self) -> None:
        """Who looks at a file again hasn't seen it first; who reads it isn't forgotten for it."""
        self.index.put([entry(first_seen=NOW)])
        self.index.note_read([b"a/b"], 5)
        self.index.put([entry(first_seen=NOW + 9)])
        self.assertEqual(self.index.get(b"a/b"), entry(first_seen=NOW, read_day=5))

    def test_another_file(self) -> None:
        """A file that has taken the path was not there before."""
        self.index.put([entry(first_seen=NOW)])
        self.index.note_read([b"a/b"], 5)
        self.index.put([entry(first_seen=NOW + 9, inode=4)])
        self.assertEqual(self.index.get(b"a/b"), entry(first_seen=NOW + 9, inode=4))

    def test_read_day(self) -> None:
        """The last one counts, whoever comes later with an earlier one."""
        self.index.put([entry()])
        for day in (5, 7, 6):
            self.index.note_read([b"a/b", b"unknown"], day)
        known = self.index.get(b"a/b")
        assert known is not None
        self.assertEqual((known.read_day, self.index.usage().files), (7, 1))

    def test_removed_behind_our_back(self) -> None:
        """The file may be deleted at any time, and is begun anew."""
        self.index.put([entry()])
        self.path.unlink()
        self.assertEqual(self.index.usage(), Usage(0, 0))
        self.index.put([entry()])
        self.assertEqual(self.open().get(b"a/b"), entry())

    def test_another_version(self) -> None:
        """It is told, and can be begun anew."""
        self.index.put([entry()])
        self.index.close()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        self.assertRaises(WrongFormat, self.index.usage)
        self.index.renew()
        self.assertEqual(self.index.usage(), Usage(0, 0))


class SettleTests(IndexTestCase):
    """What was seen in the tree is written down if it still holds."""

    def settle(self, found: dict[bytes, Entry | None], there: dict[bytes, Stamp]) -> Sequence[bytes]:
        return self.index.settle(found, there.get)

    def test_holds(self) -> None:
        self.index.put([entry(b"old")])
        new = entry(b"new", ctime_ns=11)
        self.assertEqual(self.settle({b"new": new, b"old": None}, {b"new": new.stamp}), [])
        self.assertEqual(paths(self.index.select(Query())), [b"new"])

    def test_gone_meanwhile(self) -> None:
        """A file that was deleted while it was looked at isn't raised from the dead."""
        self.assertEqual(self.settle({b"new": entry(b"new")}, {}), [b"new"])
        self.assertIsNone(self.index.get(b"new"))

    def test_there_meanwhile(self) -> None:
        """A file that was published while nothing was found isn't forgotten."""
        self.index.put([entry(b"old")])
        self.assertEqual(self.settle({b"old": None}, {b"old": entry().stamp}), [b"old"])
        self.assertEqual(self.index.get(b"old"), entry(b"old"))

    def test_changed_meanwhile(self) -> None:
        """Facts that were replaced while they were read: the file's ctime tells."""
        self.index.put([entry(quarantined=True, ctime_ns=12)])
        self.assertEqual(self.settle({b"a/b": entry(ctime_ns=11)}, {b"a/b": entry(ctime_ns=12).stamp}), [b"a/b"])
        self.assertEqual(self.index.get(b"a/b"), entry(quarantined=True))

    def test_looked_at_alone(self) -> None:
        """While it is seen whether it holds, nobody else writes."""
        self.index.put([entry()])
        with closing(sqlite3.connect(self.path, timeout=0)) as other:

            def there(_path: bytes) -> Stamp | None:
                error = self.assertRaises(sqlite3.OperationalError, other.execute, "DELETE FROM files")
                self.assertIn("locked", str(error))
                return None

            self.index.settle({b"a/b": None}, there)
        self.assertIsNone(self.index.get(b"a/b"))


class SelectTests(IndexTestCase):
    """Files are found by what an operator knows of them."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = entry(b"x/alice.jpg", user="alice@a.org", domain="a.org", size=10, uploaded=NOW - 3)
        self.bob = entry(b"x/bob.mp4", user="bob@a.org", domain="a.org", content_type="Video/MP4", uploaded=NOW - 2)
        self.carol = entry(b"y/carol.jpg", user="carol@c.org", domain="c.org", sha256=bytes(32), uploaded=NOW - 1)
        self.nobody = entry(b"z/\xff.jpg", quarantined=True, source="adopted")
        self.index.put([self.nobody, self.carol, self.bob, self.alice])

    def assert_found(self, query: Query, *expected: Entry) -> None:
        self.assertEqual(self.index.select(query), list(expected))

    def test_all(self) -> None:
        """Oldest upload first."""
        self.assert_found(Query(), self.alice, self.bob, self.carol, self.nobody)

    def test_whose(self) -> None:
        self.assert_found(Query(user="bob@a.org"), self.bob)
        self.assert_found(Query(domain="a.org"), self.alice, self.bob)
        self.assert_found(Query(domain="b.org"))

    def test_what(self) -> None:
        """By digest, type in whatever case, source and quarantine."""
        self.assert_found(Query(sha256=bytes(32)), self.carol)
        self.assert_found(Query(content_type="VIDEO/*"), self.bob)
        self.assert_found(Query(source="adopted"), self.nobody)
        self.assert_found(Query(quarantined=True), self.nobody)
        self.assert_found(Query(quarantined=False), self.alice, self.bob, self.carol)

    def test_where(self) -> None:
        """A pattern is of the whole path, and an asterisk stands for slashes, and bytes that are no text."""
        self.assert_found(Query(pattern=b"*.jpg"), self.alice, self.carol, self.nobody)
        self.assert_found(Query(pattern=b"x/*"), self.alice, self.bob)
        self.assert_found(Query(pattern=b"X/*"))
        self.assert_found(Query(pattern=b"?/\xff.jpg"), self.nobody)
        self.assert_found(Query(pattern=b"carol.jpg"))

    def test_how_old_and_large(self) -> None:
        self.assert_found(Query(uploaded_before=NOW - 2), self.alice)
        self.assert_found(Query(uploaded_after=NOW - 1), self.carol, self.nobody)
        self.assert_found(Query(larger_than=9), self.alice)
        self.assert_found(Query(smaller_than=10, domain="a.org"), self.bob)

    def test_everything_applies(self) -> None:
        self.assert_found(Query(domain="a.org", pattern=b"*.jpg", quarantined=False), self.alice)
        self.assert_found(Query(user="alice@a.org", domain="c.org"))

    def test_oldest(self) -> None:
        """Whose files may go first; those in quarantine don't."""
        self.assertEqual(self.index.oldest(2), [self.alice, self.bob])
        self.assertEqual(self.index.oldest(9), [self.alice, self.bob, self.carol])
        self.assertEqual(self.index.oldest(9, user="bob@a.org"), [self.bob])

    @settings(max_examples=20)
    @given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
    def test_pages(self, times: list[int], limit: int) -> None:
        """However large a page is, every file is on one, in order, also those uploaded in the same moment."""
        self.index.drop(paths(self.index.select(Query())))
        self.index.put([entry(b"%d" % number, uploaded=time) for number, time in enumerate(times)])
        found: list[Entry] = []
        while page := self.index.select(Query(), found[-1] if found else None, limit):
            self.assertLessEqual(len(page), limit)
            found.extend(page)
        self.assertEqual([each.uploaded for each in found], sorted(times))
        self.assertEqual(len(set(paths(found))), len(times))

    def test_by_an_index(self) -> None:
        """What is asked for often is found without looking at every row."""
        asked: list[Callable[[], object]] = [
            lambda: self.index.select(Query(), self.alice),
            lambda: self.index.select(Query(user="x")),
            lambda: self.index.select(Query(domain="x")),
            lambda: self.index.select(Query(quarantined=True)),
            lambda: self.index.oldest(1, user="x"),
            lambda: self.index.due(NOW, 1, evolve(self.alice, ends=NOW)),
            lambda: self.index.usage(user="x"),
            lambda: self.index.get(b"x"),
            lambda: self.index.reschedule(Schedule("rules", lambda _entry: None)),
        ]
        statements: list[str] = []
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(statements.append)
            return connection

        self.index.close()
        self.patch(sqlite3, "connect", traced)
        for ask in asked:
            ask()
        selects = [text for text in statements if text.startswith("SELECT")]
        self.assertGreaterEqual(len(selects), len(asked))
        with closing(connect(self.path)) as connection:
            for text in selects:
                for row in connection.execute(f"EXPLAIN QUERY PLAN {text}"):
                    self.assertNotRegex(row[3], r"SCAN \w+( USING INDEX files_uploaded)?$", text)


class UsageTests(IndexTestCase):
    """What the files amount to."""

    def test_whose(self) -> None:
        """Of a user, of a domain, and all; quarantine makes no difference."""
        self.index.put([entry(b"a", user="a@x", domain="x", size=1), entry(b"b", user="b@x", domain="x", size=2)])
        self.index.put([entry(b"c", user="b@x", domain="x", size=4, quarantined=True), entry(b"d", size=8)])
        self.assertEqual(self.index.usage(), Usage(4, 15))
        self.assertEqual(self.index.usage(user="b@x"), Usage(2, 6))
        self.assertEqual(self.index.usage(domain="x"), Usage(3, 7))
        self.assertEqual(self.index.usage(domain=""), Usage(1, 8))
        self.assertEqual(self.index.usage(user="c@x"), Usage(0, 0))

    @settings(max_examples=30)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from((b"a", b"b", b"c")),
                st.none() | st.tuples(st.integers(0, 9), st.sampled_from((None, "a@x", "b@x", "a@y"))),
            ),
            max_size=20,
        )
    )
    def test_is_the_sum(self, changes: list[tuple[bytes, tuple[int, str | None] | None]]) -> None:
        """Whatever was put, changed and dropped, it is what a count would say; and nobody is left over."""
        self.index.drop([b"a", b"b", b"c"])
        for path, change in changes:
            if change is None:
                self.index.drop([path])
            else:
                size, user = change
                domain = "" if user is None else user.partition("@")[2]
                self.index.put([entry(path, size=size, user=user, domain=domain)])
        files = self.index.select(Query())
        for user in ("a@x", "b@x", "a@y"):
            self.assert_sum(self.index.usage(user=user), [each for each in files if each.user == user])
        for domain in ("x", "y", ""):
            self.assert_sum(self.index.usage(domain=domain), [each for each in files if each.domain == domain])
        self.assert_sum(self.index.usage(), files)
        with closing(sqlite3.connect(self.path)) as connection:
            (empty,) = connection.execute("SELECT COUNT(*) FROM usage WHERE files = 0 AND kind <> 'all'").fetchone()
        self.assertEqual(empty, 0)

    def assert_sum(self, usage: Usage, files: Sequence[Entry]) -> None:
        self.assertEqual(usage, Usage(len(files), sum(each.size for each in files)))


class ScheduleTests(IndexTestCase):
    """When files are to go."""

    def due(self, now: float, index: Index | None = None) -> list[bytes]:
        return paths((index or self.index).due(now, 1000))

    def test_without_rules(self) -> None:
        """Only what its uploader wanted gone goes, at that very second; the one whose time was over first is first."""
        self.index.put([entry(b"a"), entry(b"b", expires=NOW + 2), entry(b"c", expires=NOW + 1)])
        self.assertEqual(self.due(NOW + 0.5), [])
        self.assertEqual(self.due(NOW + 1), [b"c"])
        self.assertEqual(self.due(NOW + 2), [b"c", b"b"])

    def test_rules(self) -> None:
        """Of files that are there, and of those that come later; whatever ends a file first counts."""
        self.index.put([entry(b"a"), entry(b"b", expires=NOW + 1)])
        self.assertEqual(self.index.reschedule(Schedule("2 s", lambda each: each.uploaded + 2)), 2)
        self.index.put([entry(b"c", uploaded=NOW - 1.5)])
        self.assertEqual(self.due(NOW + 2), [b"c", b"b", b"a"])
        self.assertEqual([each.ends for each in self.index.due(NOW + 2, 9)], [NOW + 0.5, NOW + 1, NOW + 2])

    def test_other_rules(self) -> None:
        """All files go by them; the same rules once more cost nothing, in whatever process."""
        many = [entry(b"%d" % number) for number in range(2 * BATCH + 1)]
        self.index.put(many)
        self.index.reschedule(Schedule("soon", lambda each: each.uploaded))
        self.assertEqual(len(self.due(NOW)), len(many))
        never = Schedule("never", lambda _each: None)
        self.assertEqual(self.index.reschedule(never), len(many))
        self.assertEqual(self.due(NOW), [])
        self.assertEqual(self.open().reschedule(never), 0)

    def test_broken_off(self) -> None:
        """What was not finished begins again."""
        self.index.put([entry(b"%d" % number) for number in range(2 * BATCH)])
        soon = Schedule("soon", lambda each: each.uploaded)
        self.assertEqual(self.index.reschedule(soon, iter((False, True)).__next__), BATCH)
        self.assertEqual(self.index.reschedule(soon), 2 * BATCH)
        self.assertEqual(len(self.due(NOW)), 2 * BATCH)

    def test_who_knows_no_rules(self) -> None:
        """A file that another process has put, which knows none, goes by them from the next sweep on."""
        soon = Schedule("soon", lambda each: each.uploaded)
        self.index.reschedule(soon)
        self.open().put([entry()])
        self.assertEqual(self.due(NOW), [])
        self.assertEqual(self.index.reschedule(soon), 1)
        self.assertEqual(self.due(NOW), [b"a/b"])

    def test_known_to_the_rules(self) -> None:
        """They are asked about the file as the index knows it: first seen when it was, not when it was looked at."""
        self.index.reschedule(Schedule("grace", lambda each: each.first_seen + DAY))
        self.index.put([entry(first_seen=NOW)])
        self.index.put([entry(first_seen=NOW + DAY)])
        self.assertEqual(self.due(NOW + DAY), [b"a/b"])

    def test_quarantine(self) -> None:
        """What is kept for somebody to look at doesn't go."""
        self.index.reschedule(Schedule("soon", lambda each: each.uploaded))
        self.index.put([entry(quarantined=True, expires=NOW)])
        self.assertEqual(self.due(NOW), [])

    def test_pages(self) -> None:
        """Those that can't be deleted don't keep the others from their turn."""
        self.index.put([entry(b"%d" % number, expires=NOW + number // 2) for number in range(5)])
        found = list(self.index.due(NOW + 9, 2))
        found += self.index.due(NOW + 9, 2, found[-1])
        found += self.index.due(NOW + 9, 2, found[-1])
        self.assertEqual(paths(found), [b"0", b"1", b"2", b"3", b"4"])


class SettingTests(IndexTestCase):
    def test_kept(self) -> None:
        """With the index, for every process, until it is begun anew."""
        self.assertIsNone(self.index.setting("since"))
        self.index.set_setting("since", "5")
        self.index.set_setting("since", "6")
        self.assertEqual(self.open().setting("since"), "6")
        self.index.renew()
        self.assertIsNone(self.index.setting("since"))
