"""What type a name suggests, and which stated types are kept."""

from __future__ import annotations

import mimetypes
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.types import KNOWN_TYPES, MAX_TYPE_BYTES, OCTET_STREAM, guess_type, storable_type


class GuessTests(SynchronousTestCase):
    def test_types_of_chat(self) -> None:
        """What people send each other has the type that browsers and chat clients show it by."""
        expected = {
            b"photo.jpg": "image/jpeg",
            b"photo.jpeg": "image/jpeg",
            b"sticker.webp": "image/webp",
            b"photo.avif": "image/avif",
            b"IMG_0001.heic": "image/heic",
            b"voice.opus": "audio/ogg",
            b"voice.m4a": "audio/mp4",
            b"clip.mp4": "video/mp4",
            b"clip.3gp": "video/3gpp",
            b"clip.mkv": "video/x-matroska",
            b"notes.txt": "text/plain",
            b"report.pdf": "application/pdf",
            b"report.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            b"page.html": "text/html",
            b"drawing.svg": "image/svg+xml",
        }
        self.assertEqual({name: guess_type(name) for name in expected}, expected)

    def test_case_of_the_extension_is_ignored(self) -> None:
        self.assertEqual(guess_type(b"DSC01.JPG"), "image/jpeg")

    def test_only_the_last_extension_counts(self) -> None:
        """A compressed archive is compressed data, as nothing says Content-Encoding when it is served."""
        self.assertEqual(guess_type(b"backup.tar.gz"), "application/gzip")
        self.assertEqual(guess_type(b"photo.jpg.exe"), OCTET_STREAM)

    def test_names_without_a_known_extension(self) -> None:
        """They are taken for nothing in particular, above all not for HTML."""
        for name in (b"", b"noextension", b"file.", b".html", b"a.unheardof", b"a.h\xff\xfe", "a.тхт".encode()):
            self.assertEqual(guess_type(name), OCTET_STREAM, name)

    def test_a_name_is_not_a_url(self) -> None:
        """Python's own guess takes ``data:text/html,x`` for a data URL."""
        self.assertEqual(guess_type(b"data:text/html,x"), OCTET_STREAM)
        self.assertEqual(guess_type(b"c:photo.png"), "image/png")

    def test_the_machine_has_no_say(self) -> None:
        """What the system's mime.types or another part of the program adds to Python's table changes no guess."""
        with patch.dict(mimetypes.types_map, {".unheardof": "text/html", ".jpg": "text/html"}):
            self.assertEqual(guess_type(b"a.unheardof"), OCTET_STREAM)
            self.assertEqual(guess_type(b"a.jpg"), "image/jpeg")

    @given(st.binary())
    def test_any_name_has_a_type(self, name: bytes) -> None:
        self.assertIn(guess_type(name), KNOWN_TYPES)

    def test_every_known_type_can_be_stored(self) -> None:
        for known in KNOWN_TYPES:
            self.assertEqual(storable_type(known.encode()), known)


class StorableTests(SynchronousTestCase):
    def test_kept_as_stated(self) -> None:
        """Case and parameters stay: the signature covers them."""
        for stated in ("image/jpeg", "text/plain; charset=utf-8", "Text/Plain;Charset=UTF-8"):
            self.assertEqual(storable_type(stated.encode()), stated)

    def test_nothing_stated(self) -> None:
        self.assertEqual(storable_type(b""), OCTET_STREAM)
        self.assertEqual(storable_type(b" \t"), OCTET_STREAM)

    def test_what_could_end_a_header_is_not_kept(self) -> None:
        for stated in (b"text/html\r\nSet-Cookie: a=b", b"text/\x00html", b"text/html\x7f", "text/ä".encode()):
            self.assertEqual(storable_type(stated), OCTET_STREAM, stated)

    def test_longest(self) -> None:
        longest = b"a/" + b"b" * (MAX_TYPE_BYTES - 2)
        self.assertEqual(storable_type(longest), longest.decode())
        self.assertEqual(storable_type(longest + b"b"), OCTET_STREAM)

    @given(st.binary())
    def test_never_anything_but_printable_ascii(self, stated: bytes) -> None:
        kept = storable_type(stated)
        self.assertTrue(kept.isascii() and kept.isprintable())
        self.assertTrue(0 < len(kept) <= MAX_TYPE_BYTES)
