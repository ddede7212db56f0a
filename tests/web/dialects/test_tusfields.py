"""The headers of tus that have a grammar of their own."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.uploads.digests import Digest
from hmacfs.web.dialects.tusfields import ALGORITHMS, MAX_METADATA_BYTES, parse_checksum, parse_metadata

KEYS = st.text("".join(map(chr, range(0x21, 0x7F))).replace(",", ""), min_size=1, max_size=20)


class MetadataTests(SynchronousTestCase):
    @given(st.dictionaries(KEYS, st.binary(max_size=30), max_size=8), st.sampled_from([",", ", ", " , ", "\t,"]))
    def test_round_trip(self, values: dict[str, bytes], separator: str) -> None:
        """All pairs are there, in their order, and what is told of them is what was sent."""
        pairs = [f"{key} {b64encode(value).decode()}".strip() for key, value in values.items()]
        parsed = parse_metadata([separator.join(pairs).encode()])
        self.assertEqual((dict(parsed.values), parsed.text), (values, ",".join(pairs)))

    @given(st.lists(st.binary(max_size=300), max_size=3))
    def test_anything(self, lines: list[bytes]) -> None:
        """Whatever comes, what is kept of it can be told in a header, and means the same when it is read again."""
        parsed = parse_metadata(lines)
        self.assertRegex(parsed.text, r"\A[ -~]*\Z")
        self.assertEqual(parse_metadata([parsed.text.encode()]), parsed)

    def test_malformed(self) -> None:
        """Pairs without a key, or with a value that isn't base64, are passed over."""
        parsed = parse_metadata(
            [b"foo aGVsbG8=,hah INVALID,empty, ,  x,dGVzdA==,a  aGVsbG8=,b aGVsbG8= c,\xe9 aGVsbG8="]
        )
        self.assertEqual(dict(parsed.values), {"foo": b"hello", "empty": b"", "x": b"", "dGVzdA==": b""})

    def test_twice(self) -> None:
        """The last one counts."""
        parsed = parse_metadata([b"a YQ==,b Yg==", b"a Yw=="])
        self.assertEqual((parsed.text, dict(parsed.values)), ("a Yw==,b Yg==", {"a": b"c", "b": b"b"}))

    def test_bound(self) -> None:
        parse_metadata([b"a" * MAX_METADATA_BYTES])
        with self.assertRaises(Refused) as caught:
            parse_metadata([b"a" * MAX_METADATA_BYTES, b""])
        self.assertEqual(caught.exception.reason, "bad-upload-header")

    def test_content_type(self) -> None:
        """The first of the usual keys that has one, in whatever case."""
        for text, expected in (
            (b"filename YQ==", None),
            (b"filetype", None),
            (b"type YQ==,filetype Yg==", b"b"),
            (b"type YQ==,filetype", b"a"),
            (b"FileType YQ==", b"a"),
            (b"Content-Type YQ==,type Yg==", b"a"),
        ):
            self.assertEqual(parse_metadata([text]).content_type, expected, text)


class ChecksumTests(SynchronousTestCase):
    @given(st.sampled_from(sorted(ALGORITHMS)), st.binary(max_size=50))
    def test_round_trip(self, algorithm: str, content: bytes) -> None:
        value = hashlib.new(algorithm, content, usedforsecurity=False).digest()
        parsed = parse_checksum(f"{algorithm} {b64encode(value).decode()}".encode())
        self.assertEqual(parsed, Digest(algorithm, value))

    @given(st.binary(max_size=100) | st.builds(bytes.__add__, st.just(b"sha1 "), st.binary(max_size=40)))
    def test_anything(self, text: bytes) -> None:
        """A digest of the algorithm's length, or a refusal that quotes nothing."""
        try:
            parsed = parse_checksum(text)
        except Refused as refused:
            self.assertEqual((refused.status, refused.reason), (400, "bad-digest"))
        else:
            self.assertEqual(len(parsed.value), ALGORITHMS[parsed.algorithm])

    def test_malformed(self) -> None:
        for text in (
            b"",
            b"sha1",
            b"sha1 ",
            b"sha1 AAAA",
            b"SHA1 " + b"A" * 27 + b"=",
            b"crc32 AAAAAA==",
            b"sha1  " + b"A" * 28,
        ):
            self.assertRaises(Refused, parse_checksum, text)
