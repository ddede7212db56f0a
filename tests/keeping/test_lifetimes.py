"""When files end: every policy, the rules, the grace, and what comes of all of them together."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.config_retention import RetentionRule
from hmacfs.keeping.index import Entry
from hmacfs.keeping.lifetimes import Lifetimes

DAY_S = 86_400.0

#: When retention was switched on.
SINCE = 1_790_000_000.0

GRACE_S = DAY_S

#: Uploaded when retention had been on for a while.
ENTRY = Entry(
    path=b"6f95dd3c/photo.jpg",
    size=1000,
    mtime_ns=int(SINCE * 1e9),
    inode=1,
    uploaded=SINCE + 10 * DAY_S,
    content_type="image/jpeg",
    sha256=None,
    user="alice@example.org",
    domain="example.org",
    expires=None,
    quarantined=False,
    source="upload",
    first_seen=SINCE + 10 * DAY_S,
)

AVATARS = RetentionRule("avatars/*", None, None)
VIDEOS = RetentionRule(None, "video/*", 7 * DAY_S)
CHAT_IMAGES = RetentionRule("*/chat_*", "image/*", 90 * DAY_S)


def lifetimes(*rules: RetentionRule, default_s: float | None = 30 * DAY_S) -> Lifetimes:
    return Lifetimes(rules, default_s, since=SINCE, grace_s=GRACE_S)


class EndsTests(SynchronousTestCase):
    """How long after its upload a file ends."""

    def kept_s(self, entry: Entry, *rules: RetentionRule, default_s: float | None = 30 * DAY_S) -> float | None:
        ends = lifetimes(*rules, default_s=default_s).ends(entry)
        return None if ends is None else ends - entry.uploaded

    def test_default(self) -> None:
        self.assertEqual(self.kept_s(ENTRY), 30 * DAY_S)

    def test_no_policy(self) -> None:
        self.assertIsNone(self.kept_s(ENTRY, default_s=None))

    def test_rule_by_path(self) -> None:
        """It takes the place of the default, for better or worse."""
        for path, kept_s in {b"avatars/me.png": None, b"other/me.png": 30 * DAY_S, b"x/avatars/a": 30 * DAY_S}.items():
            self.assertEqual(self.kept_s(evolve(ENTRY, path=path), AVATARS), kept_s, path)

    def test_rule_by_type(self) -> None:
        """Parameters and case of the type make no difference."""
        for content_type in ("video/mp4", "Video/MP4; codecs=x", "video/x-foo ;a=b"):
            self.assertEqual(self.kept_s(evolve(ENTRY, content_type=content_type), VIDEOS), 7 * DAY_S, content_type)
        for content_type in ("image/png", "application/video/mp4", "", "text/plain; x=video/mp4"):
            self.assertEqual(self.kept_s(evolve(ENTRY, content_type=content_type), VIDEOS), 30 * DAY_S, content_type)

    def test_rule_by_both(self) -> None:
        chat = evolve(ENTRY, path=b"f00/1/chat_a.jpg")
        self.assertEqual(self.kept_s(chat, CHAT_IMAGES), 90 * DAY_S)
        self.assertEqual(self.kept_s(evolve(chat, content_type="text/plain"), CHAT_IMAGES), 30 * DAY_S)
        self.assertEqual(self.kept_s(ENTRY, CHAT_IMAGES), 30 * DAY_S)

    def test_first_rule_counts(self) -> None:
        entry = evolve(ENTRY, path=b"avatars/film.mp4", content_type="video/mp4")
        self.assertIsNone(self.kept_s(entry, AVATARS, VIDEOS))
        self.assertEqual(self.kept_s(entry, VIDEOS, AVATARS), 7 * DAY_S)

    def test_rule_without_a_policy(self) -> None:
        """One switch is enough."""
        film = evolve(ENTRY, content_type="video/mp4")
        self.assertEqual(self.kept_s(film, VIDEOS, default_s=None), 7 * DAY_S)
        self.assertIsNone(self.kept_s(ENTRY, VIDEOS, default_s=None))

    def test_globs(self) -> None:
        """A star stands for slashes, too; a question mark is one character and not one byte; case counts."""
        for glob, path, fits in (
            ("a/*", "a/b/c", True),
            ("*.jpg", "a/b.jpg", True),
            ("*.jpg", "a/b.JPG", False),
            ("a/?.txt", "a/ä.txt", True),
            ("a/?.txt", "a/bc.txt", False),
            ("a/[ab]", "a/b", True),
            ("a/[!ab]", "a/b", False),
            ("a", "a/b", False),
            ("a.b", "axb", False),
        ):
            kept_s = self.kept_s(evolve(ENTRY, path=path.encode()), RetentionRule(glob, None, 60.0))
            self.assertEqual(kept_s == 60, fits, (glob, path))

    def test_path_that_is_not_text(self) -> None:
        """Bytes that aren't UTF-8 are characters of some kind."""
        entry = evolve(ENTRY, path=b"a/\xff\n.txt")
        self.assertEqual(self.kept_s(entry, RetentionRule("a/??.txt", None, 60.0)), 60)

    def test_expiry_is_not_asked(self) -> None:
        """The index knows that itself."""
        self.assertEqual(self.kept_s(evolve(ENTRY, expires=ENTRY.uploaded + 1)), 30 * DAY_S)


class GraceTests(SynchronousTestCase):
    """Files that were there before."""

    def ends(self, **changes: object) -> float | None:
        return lifetimes(default_s=DAY_S / 2).ends(evolve(ENTRY, **changes))  # type: ignore[arg-type]

    def test_uploaded_before(self) -> None:
        """A file that was uploaded before retention was on ends no sooner than the grace."""
        self.assertEqual(self.ends(uploaded=SINCE - 100 * DAY_S), SINCE + GRACE_S)
        self.assertEqual(self.ends(uploaded=SINCE - 1), SINCE + GRACE_S)

    def test_uploaded_after(self) -> None:
        self.assertEqual(self.ends(uploaded=SINCE), SINCE + DAY_S / 2)

    def test_adopted_before(self) -> None:
        """Of a tree that was there, files end no sooner than the grace, whenever they were written."""
        for uploaded in (0.0, SINCE - 1, SINCE + 1):
            ends = self.ends(source="adopted", uploaded=uploaded, first_seen=SINCE - 10 * DAY_S)
            self.assertEqual(ends, SINCE + GRACE_S)

    def test_adopted_later(self) -> None:
        """A file that is found later has its own grace from then on: its time of change is hearsay."""
        for source in ("adopted", "import ejabberd"):
            ends = self.ends(source=source, uploaded=0.0, first_seen=SINCE + 5 * DAY_S)
            self.assertEqual(ends, SINCE + 5 * DAY_S + GRACE_S)

    def test_grace_makes_nothing_shorter(self) -> None:
        entry = evolve(ENTRY, uploaded=SINCE - 1)
        self.assertEqual(lifetimes().ends(entry), entry.uploaded + 30 * DAY_S)

    def test_grace_does_not_end_what_stays(self) -> None:
        entry = evolve(ENTRY, path=b"avatars/a", uploaded=0.0)
        self.assertIsNone(lifetimes(AVATARS).ends(entry))

    def test_when_it_ends(self) -> None:
        """Of a file that wasn't there before, it has ended long ago."""
        self.assertEqual(lifetimes().grace_ends(evolve(ENTRY, uploaded=SINCE - 1)), SINCE + GRACE_S)
        self.assertLess(lifetimes().grace_ends(ENTRY), 0)


class ReasonTests(SynchronousTestCase):
    """Whether a file goes now, and why."""

    def test_table(self) -> None:
        now = ENTRY.uploaded + 30 * DAY_S
        for changes, at, reason in (
            ({}, now - 1, None),
            ({}, now, "age"),
            ({"expires": now - 5}, now - 5, "expired"),
            ({"expires": now - 5}, now - 6, None),
            ({"expires": now + 5}, now, "age"),
            ({"expires": now - 5}, now, "expired"),
            ({"quarantined": True}, now, None),
            ({"quarantined": True, "expires": now - 5}, now, None),
            ({"path": b"avatars/a"}, now, None),
            ({"path": b"avatars/a", "expires": now - 5}, now, "expired"),
            ({"source": "adopted", "first_seen": now - 1}, now, None),
            ({"source": "adopted", "first_seen": now - 1, "expires": now}, now, "expired"),
            ({"source": "adopted", "first_seen": now - GRACE_S}, now, "age"),
        ):
            entry = evolve(ENTRY, **changes)  # type: ignore[arg-type]
            self.assertEqual(lifetimes(AVATARS).reason(entry, at), reason, (changes, at - now))

    def test_without_policies(self) -> None:
        """Who signs an expiry means it, whatever the operator has set."""
        entry = evolve(ENTRY, expires=ENTRY.uploaded + 1)
        self.assertEqual(lifetimes(default_s=None).reason(entry, ENTRY.uploaded + 1), "expired")


class SparedTests(SynchronousTestCase):
    """What may not be deleted for its size."""

    def test_table(self) -> None:
        now = ENTRY.uploaded
        for changes, spared in (
            ({}, False),
            ({"quarantined": True}, True),
            ({"path": b"avatars/a"}, True),
            ({"source": "adopted", "first_seen": now - 1}, True),
            ({"source": "adopted", "first_seen": now - GRACE_S}, False),
            ({"uploaded": SINCE - 1}, False),
        ):
            entry = evolve(ENTRY, **changes)  # type: ignore[arg-type]
            self.assertIs(lifetimes(AVATARS).is_spared(entry, now), spared, changes)

    def test_in_the_grace(self) -> None:
        entry = evolve(ENTRY, uploaded=SINCE - 1)
        self.assertTrue(lifetimes().is_spared(entry, SINCE + GRACE_S - 1))
        self.assertFalse(lifetimes().is_spared(entry, SINCE + GRACE_S))

    def test_no_age(self) -> None:
        """That nothing ends a file is no wish to keep it."""
        self.assertFalse(lifetimes(default_s=None).is_spared(ENTRY, ENTRY.uploaded))


class FingerprintTests(SynchronousTestCase):
    """By which the index knows that other rules are in force."""

    def test_of_everything(self) -> None:
        """Whatever changes an end changes it; the same configuration, read again, doesn't."""
        made = [
            Lifetimes(rules, default_s, since=since, grace_s=grace_s)
            for rules in ((), (AVATARS,), (AVATARS, VIDEOS), (VIDEOS, AVATARS))
            for default_s in (None, 1.0)
            for since in (0.0, 1.0)
            for grace_s in (0.0, 1.0)
        ]
        self.assertEqual(len({each.fingerprint for each in made}), len(made))
        again = RetentionRule("avatars/*", None, None)
        self.assertEqual(lifetimes(again).fingerprint, lifetimes(AVATARS).fingerprint)


class PropertyTests(SynchronousTestCase):
    """Whatever is configured."""

    @given(
        st.lists(
            st.builds(
                RetentionRule,
                st.sampled_from([None, "*", "a/*", "*.mp4"]),
                st.sampled_from([None, "*", "video/*"]),
                st.none() | st.floats(1, 1e6),
            )
        ),
        st.none() | st.floats(1, 1e6),
        st.floats(0, 2e6),
        st.floats(0, 2e6),
        st.floats(0, 1e6),
        st.sampled_from([b"a/x.mp4", b"b/x"]),
        st.sampled_from(["upload", "adopted"]),
    )
    def test_not_before_its_time(
        self,
        rules: list[RetentionRule],
        default_s: float | None,
        uploaded: float,
        first_seen: float,
        grace_s: float,
        path: bytes,
        source: str,
    ) -> None:
        """No file ends before the shortest time that anything gives it, nor one that was there before the grace."""
        since = 1e6
        entry = evolve(ENTRY, path=path, source=source, uploaded=uploaded, first_seen=first_seen)
        ends = Lifetimes(rules, default_s, since=since, grace_s=grace_s).ends(entry)
        ages = [rule.keep_s for rule in rules if rule.keep_s is not None]
        ages += [] if default_s is None else [default_s]
        if ends is None:
            return
        self.assertGreaterEqual(ends, uploaded + min(ages))
        if source == "adopted":
            self.assertGreaterEqual(ends, first_seen + grace_s)
        if uploaded < since:
            self.assertGreaterEqual(ends, since + grace_s)
        self.assertLessEqual(ends, max(uploaded + max(ages), since + grace_s, first_seen + grace_s))
