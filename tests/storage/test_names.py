from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote_from_bytes, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.storage.names import MAX_PATH_BYTES, MAX_SEGMENTS, SlotPath

VECTORS = Path(__file__).parent.parent / "vectors"

#: Any byte, and often what decoders and file systems trip over.
awkward = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from([b".", b"..", b"/", b"%", b"%2e", b"%2F", b"%252e", b"%00", b"\\", b"\xff", b".hmacfs", b"%"]),
    ),
    max_size=5,
).map(b"".join)

#: Segments that a file can have.
good_segments = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: bytes(byte for byte in raw if byte > 0x1F and byte not in b"\x7f/"))
    .filter(lambda segment: segment not in (b"", b".", b"..") and segment.lower() not in (b".hmacfs", b".up"))
)


class FromUrlTests(SynchronousTestCase):
    """What of a URL becomes a path."""

    def decoded(self, *raw_segments: bytes) -> bytes:
        return SlotPath.from_url(raw_segments).encoded

    def refused(self, *raw_segments: bytes) -> None:
        refused = self.assertRaises(Refused, SlotPath.from_url, raw_segments)
        self.assertEqual((refused.status, refused.reason), (400, "bad-path"))

    def impossible(self, *raw_segments: bytes) -> None:
        refused = self.assertRaises(Refused, SlotPath.from_url, raw_segments)
        self.assertEqual((refused.status, refused.reason), (400, "bad-name"))

    def test_segments_are_decoded_and_joined(self) -> None:
        """The signed text is the decoded path without a slash in front."""
        self.assertEqual(self.decoded(b"2f983b3b", b"a%2Bb%20c.txt"), b"2f983b3b/a+b c.txt")

    def test_decoded_once(self) -> None:
        """``%2520`` is a percent sign and ``20``."""
        self.assertEqual(self.decoded(b"f%2520g"), b"f%20g")

    def test_plus_is_a_plus(self) -> None:
        """A ``+`` in a path is no space, which it is in forms: Prosody's token URLs carry it bare."""
        self.assertEqual(self.decoded(b"a+b"), b"a+b")

    def test_stray_percent_stays(self) -> None:
        """A ``%`` that two hexadecimal digits don't follow stays as it is."""
        self.assertEqual(self.decoded(b"100%", b"%zz%4"), b"100%/%zz%4")

    def test_case_of_escapes_is_all_the_same(self) -> None:
        """Prosody writes lower-case escapes, ejabberd upper-case ones, and clients write them anew."""
        self.assertEqual(SlotPath.from_url([b"%c3%a9"]), SlotPath.from_url([b"%C3%A9"]))

    def test_ordinary_names(self) -> None:
        """Names as clients send them: hidden, with a backslash, a colon, emoji, right-to-left, not UTF-8."""
        for name in (
            b".hidden",
            b"...",
            b"a\\b",
            b"c:d",
            b"hmacfs",
            b".hmacfs2",
            "🐈‍⬛.png".encode(),
            "خید".encode(),
            b"\xff\xfe",
        ):
            self.assertEqual(SlotPath.from_url([name, quote_from_bytes(name).encode()]).segments, (name, name))

    def test_no_normalisation(self) -> None:
        """``e`` and a combining accent are signed as such, and are another file than ``é``."""
        self.assertNotEqual(SlotPath.from_url([b"e%cc%81"]), SlotPath.from_url([b"%c3%a9"]))

    def test_own_directory_only_in_front(self) -> None:
        """A file may be called as our directory is, just not be in it."""
        self.assertEqual(self.decoded(b"a", b".hmacfs"), b"a/.hmacfs")

    def test_name_of_255_bytes(self) -> None:
        """What file systems can have at most; one more is refused, whether escaped or not."""
        self.assertEqual(len(self.decoded("é".encode() * 127 + b"x")), 255)
        self.impossible(b"x" * 256)
        self.impossible(b"%c3%a9" * 128)

    def test_number_of_segments(self) -> None:
        """Each is a directory to be made: there is an end to it."""
        self.decoded(*[b"x"] * MAX_SEGMENTS)
        self.impossible(*[b"x"] * (MAX_SEGMENTS + 1))

    def test_length_of_path(self) -> None:
        """The slashes count."""
        segments = [b"x" * 255] * (MAX_PATH_BYTES // 256)
        self.assertEqual(len(self.decoded(*segments)), MAX_PATH_BYTES - 1)
        self.impossible(*segments, b"")
        self.impossible(*segments, b"x")

    def test_traversal(self) -> None:
        """Dots, however they are written, in any place."""
        for dots in (b".", b"..", b"%2e", b"%2e%2E", b".%2e"):
            self.refused(dots)
            self.refused(dots, b"x")
            self.refused(b"uuid", dots)
            self.refused(b"uuid", dots, b"x")

    def test_empty(self) -> None:
        """No segment, or an empty one: a double slash, or one at the end."""
        self.impossible()
        self.impossible(b"")
        self.impossible(b"a", b"", b"b")
        self.impossible(b"a", b"")

    def test_encoded_slash(self) -> None:
        """``%2F`` would make two segments of one, which not everybody counts alike."""
        self.refused(b"a%2Fb")
        self.refused(b"..%2fetc")

    def test_control_characters(self) -> None:
        """All of C0, and DEL. A NUL would let one signature pass for another."""
        for code in (*range(0x20), 0x7F):
            self.refused(b"a%%%02xb" % code)
            self.refused(bytes([code]))

    def test_hostile_first(self) -> None:
        """Nobody hides what is hostile behind what may happen to anybody."""
        self.refused(b"x" * 256, b"..")
        self.refused(b"", b"..", b"x")
        self.refused(b".hmacfs", b"")
        self.refused(*[b"x"] * MAX_SEGMENTS, b"a%00b")

    def test_own_directory(self) -> None:
        """Nothing in .hmacfs is reachable, on file systems that ignore case either."""
        self.refused(b".hmacfs", b"parts", b"x")
        self.refused(b".hmacfs")
        self.refused(b"%2Ehmacfs", b"x")
        self.refused(b".HMACfs", b"x")

    def test_unfinished_uploads(self) -> None:
        """Where they have their URLs there are no slots; nobody means harm by asking for one there."""
        with self.assertRaises(Refused) as caught:
            SlotPath.from_url([b".up", b"x"])
        self.assertEqual((caught.exception.status, caught.exception.reason), (400, "bad-name"))
        for path in (b"a/.up", b".UP/x", b".upx/x"):
            self.assertEqual(SlotPath.from_url(path.split(b"/")).encoded, path)

    @given(st.lists(awkward, max_size=6))
    def test_never_escapes(self, raw_segments: list[bytes]) -> None:
        """Whatever the URL, a path is refused or lies below the store and out of our directory."""
        try:
            path = SlotPath.from_url(raw_segments)
        except Refused:
            return
        joined = os.path.normpath(os.path.join(b"/store", path.encoded))
        self.assertEqual(joined, b"/store/" + path.encoded)
        self.assertFalse((joined + b"/").startswith(b"/store/.hmacfs/"))
        self.assertNotIn(b"\0", joined)
        self.assertEqual(len(path.segments), len(raw_segments))

    @given(st.lists(good_segments, min_size=1, max_size=5))
    def test_round_trip(self, segments: list[bytes]) -> None:
        """A path comes back from each of its forms."""
        path = SlotPath.from_url([quote_from_bytes(segment, safe="").encode() for segment in segments])
        self.assertEqual(path.segments, tuple(segments))
        self.assertEqual(SlotPath.from_encoded(path.encoded), path)
        self.assertEqual(SlotPath.from_url(path.url.encode("ascii").split(b"/")), path)
        self.assertEqual(os.fsencode(path.text), path.encoded)

    def test_slots_of_real_servers(self) -> None:
        """Every slot that Prosody and ejabberd issued is a path; Prosody's end in the name that was asked for."""
        for vector in json.loads((VECTORS / "slots.json").read_text()):
            if "refused" in vector:
                continue
            below = urlsplit(vector["slot"]["put"]).path.removeprefix(urlsplit(vector["base_url"]).path)
            path = SlotPath.from_url(below.encode().split(b"/"))
            if vector["server"].startswith("prosody"):
                self.assertEqual(path.name.decode(), vector["request"]["filename"])


class FormsTests(SynchronousTestCase):
    """How a path is written."""

    def test_url_is_ascii(self) -> None:
        """Fit for a header and a log line, whatever the bytes."""
        self.assertEqual(SlotPath((b"a b", "é\u202e".encode(), b'\xff"')).url, "a%20b/%C3%A9%E2%80%AE/%FF%22")

    def test_text_keeps_bytes_apart(self) -> None:
        """Bytes that are no UTF-8 survive as surrogates."""
        self.assertEqual(SlotPath((b"\xc3\xa9", b"\xff")).text, "é/\udcff")

    def test_name(self) -> None:
        """The file's own."""
        self.assertEqual(SlotPath((b"uuid", b"cat.png")).name, b"cat.png")

    def test_from_encoded_is_not_decoded(self) -> None:
        """What comes from a state store was decoded before."""
        self.assertEqual(SlotPath.from_encoded(b"a/%2e%2e").segments, (b"a", b"%2e%2e"))

    def test_from_encoded_checks(self) -> None:
        """What comes from a state store isn't trusted either."""
        for encoded in (b"", b"/etc/passwd", b"a/../b", b"a//b", b".hmacfs/parts/x", b"a\0b"):
            self.assertRaises(Refused, SlotPath.from_encoded, encoded)

    def test_constructor_checks(self) -> None:
        """There is no way to a path that isn't safe."""
        self.assertRaises(Refused, SlotPath, (b"..",))
        self.assertRaises(Refused, SlotPath, (b"a/b",))
