"""The headers of a file, whose uploader and whose name may both be hostile."""

from __future__ import annotations

import os
import re
import time
from email.utils import formatdate
from urllib.parse import unquote_to_bytes

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from hmacfs.storage.facts import Facts
from hmacfs.storage.store import StoredFile
from hmacfs.storage.types import storable_type
from hmacfs.web.fileheaders import (
    HeadLines,
    disposition,
    entity_tag,
    file_headers,
    is_current,
    range_applies,
    served_type,
)

NOW = 1_795_000_000.0
MTIME = 1_790_000_000
MODIFIED = b"Mon, 21 Sep 2026 14:13:20 GMT"
FACTS = Facts(content_type="image/jpeg", sha256=bytes(range(32)), owner=None, expires=None, uploaded=NOW)
FILE = StoredFile(size=100, mtime_ns=MTIME * 1_000_000_000 + 999_999_999, inode=7, facts=FACTS)
UNHASHED = evolve(FILE, facts=evolve(FACTS, sha256=None))

#: What a client may send as a date.
DATES = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.text("0123456789 :,-+GMTonJaeDcZ", max_size=40),
    st.integers(-(10**14), 10**14).map(lambda seconds: f"Mon, {seconds} Sep 2026 14:13:20 GMT"),
)


def kind(content_type: str) -> str:
    return disposition(content_type, b"x").partition(";")[0]


class TypeTests(SynchronousTestCase):
    """``Content-Type`` and the choice between inline and attachment."""

    def test_inline(self) -> None:
        """Pictures, sound, films and plain text, in whatever case and with whatever parameters."""
        for content_type in (
            "image/png",
            "image/jpeg",
            "IMAGE/GIF",
            "image/webp",
            "image/avif",
            "image/bmp",
            "audio/ogg",
            "audio/ogg; codecs=opus",
            'video/mp4; codecs="avc1.42E01E, mp4a.40.2"',
            "text/plain",
            "Text/Plain; charset=utf-8",
            "text/plain;charset=utf-8",
        ):
            self.assertEqual(kind(served_type(content_type)), "inline", content_type)
            self.assertEqual(served_type(content_type), content_type)

    def test_attachment(self) -> None:
        """Whatever can carry a script, and whatever isn't known."""
        for content_type in (
            "text/html",
            "TEXT/HTML; charset=utf-8",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/xml",
            "text/xml",
            "application/pdf",
            "text/javascript",
            "text/css",
            "application/octet-stream",
            "application/pgp-encrypted",
            "image/x-unknown",
            "multipart/x-mixed-replace; boundary=x",
            "message/rfc822",
            "imagex/png",
            "xaudio/ogg",
            "video/x+xml",
            "AUDIO/SVG+XML; charset=utf-8",
        ):
            self.assertEqual(kind(served_type(content_type)), "attachment", content_type)

    def test_no_media_type(self) -> None:
        """What browsers could make something of that we don't see in it is served as bytes."""
        for content_type in (
            "",
            "text",
            "text/html;x",
            "text/plain, text/html",
            "text/plain text/html",
            "text/html\tx",
            "audio/",
            "/png",
            "image/png;=x",
            'image/png;x="',
            "image/png; x=y z",
            "video/mp4; x='a b'",
            "text/html\x0b",
            "text/html\x00",
            "text/html\r\nSet-Cookie: a=b",
            'text/plain; x="\r\n"',
            'text/plain; x="\u00e9"',
            'text/plain; x="\ud800"',
            "image/png\u3002",
        ):
            self.assertEqual(served_type(content_type), "application/octet-stream", content_type)
            self.assertEqual(kind(served_type(content_type)), "attachment")

    @given(st.text(max_size=40) | st.text('a;="\\ \t\x0b\r\n\ud800é', max_size=9).map('text/plain; x="{}"'.format))
    def test_any_stored_type(self, stored: str) -> None:
        """Nor does anything that somebody else has written into a file's facts."""
        headers = file_headers(evolve(FILE, facts=evolve(FACTS, content_type=stored)), b"x", NOW)
        for _, value in headers:
            self.assertTrue(value.isascii() and value.isprintable(), value)

    @given(st.binary(max_size=40))
    def test_any_type(self, stated: bytes) -> None:
        """Nothing that a slot can be signed for makes two headers, or another type than the one that was judged."""
        served = served_type(storable_type(stated))
        self.assertTrue(served.isascii() and served.isprintable())
        self.assertRegex(served, "^[^/;, ]+/[^/;, ]+")
        if kind(served) == "inline":
            self.assertRegex(served.lower(), "^(audio/|video/|text/plain|image/(png|jpeg|gif|webp|avif|bmp))")


class DispositionTests(SynchronousTestCase):
    """``Content-Disposition``, with the name as the uploader gave it."""

    def test_both_forms(self) -> None:
        """RFC 6266: one for old clients, one for all others."""
        self.assertEqual(
            disposition("image/png", "très cool.png".encode()),
            "inline; filename=\"tr__s cool.png\"; filename*=UTF-8''tr%C3%A8s%20cool.png",
        )

    @given(st.binary(min_size=1, max_size=60))
    def test_any_name(self, name: bytes) -> None:
        """No name ends the quotes, the parameter or the header, and each comes back byte for byte."""
        header = disposition("image/png", name)
        match = re.fullmatch(r"inline; filename=\"([ !#-\[\]-~]*)\"; filename\*=UTF-8''([A-Za-z0-9._~%-]+)", header)
        assert match is not None, header
        self.assertNotIn("%", match[1])
        self.assertEqual(len(match[1]), len(name))
        self.assertEqual(unquote_to_bytes(match[2]), name)


class ValidatorTests(SynchronousTestCase):
    """``ETag``, and what a cache may do."""

    def test_tag_of_content(self) -> None:
        """The same bytes have the same tag, wherever and whenever they were stored."""
        other = evolve(FILE, mtime_ns=1, inode=8)
        self.assertEqual(entity_tag(FILE), entity_tag(other))
        self.assertNotEqual(entity_tag(FILE), entity_tag(evolve(FILE, facts=evolve(FACTS, sha256=bytes(32)))))

    def test_tag_without_digest(self) -> None:
        """Another file at the same path has another tag: one of the three differs."""
        others = (UNHASHED, evolve(UNHASHED, size=9), evolve(UNHASHED, mtime_ns=9), evolve(UNHASHED, inode=9))
        self.assertEqual(len(set(map(entity_tag, others))), 4)

    def test_tags_have_no_comma(self) -> None:
        """Which is what a list of them is split at."""
        for stored in (FILE, UNHASHED):
            self.assertRegex(entity_tag(stored), '^"[0-9a-f-]+"$')

    def test_times_that_no_date_can_name(self) -> None:
        """A file system may know the year 36812, or one before Christ. HTTP doesn't."""
        for mtime_ns, shown in (
            (2**40 * 10**9, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (-(2**40) * 10**9, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ):
            stored = evolve(FILE, mtime_ns=mtime_ns)
            self.assertEqual(dict(file_headers(stored, b"x", NOW))["Last-Modified"], shown)
            self.assertTrue(is_current(Headers({b"if-modified-since": [shown.encode()]}), stored))

    def test_cached_for_long(self) -> None:
        """What is at a URL never changes."""
        self.assertEqual(self.cache_control(None), "private, max-age=31536000, immutable")
        self.assertEqual(self.cache_control(NOW + 10**9), "private, max-age=31536000, immutable")

    def test_cached_until_it_expires(self) -> None:
        self.assertEqual(self.cache_control(NOW + 59.9), "private, max-age=59, immutable")
        self.assertEqual(self.cache_control(NOW - 1), "private, max-age=0, immutable")

    def cache_control(self, expires: float | None) -> str:
        stored = evolve(FILE, facts=evolve(FACTS, expires=expires))
        return dict(file_headers(stored, b"x", NOW))["Cache-Control"]


class HeadLinesTests(SynchronousTestCase):
    """The same headers as lines, some of them from before."""

    def test_never_stale(self) -> None:
        """Whatever has changed about a file, or the time: the lines are those of its headers now."""
        facts = Facts("image/png", b"x" * 32, None, 5000.0, 1.0)
        file = StoredFile(10, 1_000_000_000, 7, facts)
        lines = HeadLines()
        changed = [
            evolve(file, size=11, facts=evolve(facts, sha256=None)),
            evolve(file, mtime_ns=9_000_000_000),
            evolve(file, inode=8, facts=evolve(facts, sha256=None)),
            evolve(file, facts=evolve(facts, content_type="text/html")),
            evolve(file, facts=evolve(facts, sha256=b"y" * 32)),
            evolve(file, facts=evolve(facts, expires=None)),
        ]
        for each in (file, *changed, file):
            for name, now in ((b"a", 0.0), (b"b", 0.0), (b"a", 4000.5)):
                wanted = "".join(f"{header}: {value}\r\n" for header, value in file_headers(each, name, now))
                self.assertEqual(lines(each, name, now), wanted.encode())


class ConditionTests(SynchronousTestCase):
    """Whether the client has the file, or the beginning of it."""

    def current(self, stored: StoredFile = FILE, **conditions: bytes) -> bool:
        named = {name.replace("_", "-").encode(): [value] for name, value in conditions.items()}
        return is_current(Headers(named), stored)

    def since(self, date: bytes) -> bool:
        return self.current(if_modified_since=date)

    def test_every_form_of_date(self) -> None:
        """RFC 9110 section 5.6.7: a recipient must accept all three, and they are all in UTC, wherever we are."""
        zone = os.environ.get("TZ")
        self.addCleanup(self.set_zone, zone)
        for here in ("UTC", "Asia/Kolkata", "America/New_York"):
            self.set_zone(here)
            for same, earlier in (
                (MODIFIED, b"Mon, 21 Sep 2026 14:13:19 GMT"),
                (b"Monday, 21-Sep-26 14:13:20 GMT", b"Monday, 21-Sep-26 14:13:19 GMT"),
                (b"Mon Sep 21 14:13:20 2026", b"Mon Sep 21 14:13:19 2026"),
            ):
                self.assertEqual((self.since(same), self.since(earlier)), (True, False), (here, same))

    def set_zone(self, zone: str | None) -> None:
        os.environ.pop("TZ", None)
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    def test_own_date(self) -> None:
        """The date that we gave, which has no fractions of a second."""
        given_date = dict(file_headers(FILE, b"x", NOW))["Last-Modified"].encode()
        self.assertEqual(given_date, formatdate(MTIME, usegmt=True).encode())
        self.assertTrue(self.since(given_date))

    @given(DATES)
    def test_any_date(self, date: str) -> None:
        """Nothing that a client can write raises anything."""
        written = date.encode("latin-1")
        self.assertIn(self.since(written), (True, False))
        self.assertIn(range_applies(Headers({b"if-range": [written]}), FILE), (True, False))

    def test_several_headers(self) -> None:
        """Lines of one list."""
        tags = Headers({b"if-none-match": [b'"a"', entity_tag(FILE).encode()]})
        self.assertTrue(is_current(tags, FILE))

    def test_weak_tags(self) -> None:
        """Good enough for having it, not for having its beginning (RFC 9110 section 13.1.5)."""
        weak = b"W/" + entity_tag(FILE).encode()
        self.assertTrue(self.current(if_none_match=weak))
        self.assertFalse(range_applies(Headers({b"if-range": [weak]}), FILE))

    def test_file_without_digest(self) -> None:
        """Its tag counts just as well."""
        tag = entity_tag(UNHASHED).encode()
        self.assertTrue(self.current(UNHASHED, if_none_match=tag))
        self.assertTrue(range_applies(Headers({b"if-range": [tag]}), UNHASHED))
