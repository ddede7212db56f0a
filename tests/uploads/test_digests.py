"""What requests state about the integrity of their bytes."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from hmacfs.errors import Refused
from hmacfs.uploads.digests import Digest, StatedDigests, algorithms, check, etag, repr_digest

#: RFC 9530 appendix D: its example, with its digests there.
HELLO = b'{"hello": "world"}'
HELLO_FIELDS = {
    "sha256": b"sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
    "sha512": b"sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    "md5": b"md5=:Sd/dVLAcvNLSq16eXua5uQ==:",
    "sha1": b"sha=:07CavjDP4u3/TungoUHJO/Wzr4c=:",
}

FIELDS = (
    b"Content-Digest",
    b"Repr-Digest",
    b"Want-Repr-Digest",
    b"Digest",
    b"Content-MD5",
    b"X-Checksum",
    b"X-Checksum-Sha256",
    b"X-Content-SHA256",
    b"X-SHA256",
)

#: What valid and nearly valid fields are made of.
FRAGMENTS = (
    *(value[:-1] for value in HELLO_FIELDS.values()),
    *(b"sha-256=", b"AAAA", b"0" * 64, b"a", b"1", b" ", b"\xe9"),
    *(bytes([character]) for character in b'=:,@"(-.?%\\'),
)


def read(*fields: tuple[bytes, bytes]) -> StatedDigests:
    """What a request with these header fields states."""
    headers = Headers()
    for name, value in fields:
        headers.addRawHeader(name, value)
    return StatedDigests.from_headers(headers)


def digest_of(algorithm: str, content: bytes) -> Digest:
    """The true digest of *content*."""
    return Digest(algorithm, hashlib.new(algorithm, content, usedforsecurity=False).digest())


class ReadingCase(SynchronousTestCase):
    """Reads header fields."""

    def assert_bad(self, name: bytes, value: bytes) -> Refused:
        """The field is refused as one that can't be meant."""
        refused: Refused = self.assertRaises(Refused, read, (name, value))
        self.assertEqual((refused.status, refused.reason), (400, "bad-digest"))
        return refused


class StructuredFieldTests(ReadingCase):
    """``Repr-Digest`` and ``Content-Digest`` (RFC 9530)."""

    def test_vectors(self) -> None:
        """The RFC's example under each algorithm that we verify."""
        for algorithm, value in HELLO_FIELDS.items():
            self.assertEqual(read((b"Repr-Digest", value)).representation, (digest_of(algorithm, HELLO),))

    def test_two_kinds(self) -> None:
        """A digest of the whole file isn't one of the body, nor the other way round."""
        stated = read((b"Repr-Digest", HELLO_FIELDS["sha256"]), (b"Content-Digest", HELLO_FIELDS["sha512"]))
        self.assertEqual(stated.representation, (digest_of("sha256", HELLO),))
        self.assertEqual(stated.content, (digest_of("sha512", HELLO),))

    def test_several_members_and_lines(self) -> None:
        """All digests count, in one line or in several."""
        stated = read(
            (b"Repr-Digest", HELLO_FIELDS["sha256"] + b", " + HELLO_FIELDS["md5"]),
            (b"Repr-Digest", HELLO_FIELDS["sha512"]),
        )
        self.assertEqual(algorithms(stated.representation), {"sha256", "md5", "sha512"})

    def test_unknown_algorithms_are_passed_over(self) -> None:
        """What we can't compute we needn't verify (RFC 9530 section 2); its neighbours still count."""
        stated = read((b"Repr-Digest", b"crc32c=:Q3lHIA==:, unixsum=1, " + HELLO_FIELDS["sha256"]))
        self.assertEqual((stated.representation, stated.ignored), ((digest_of("sha256", HELLO),), ()))

    def test_parameters_are_passed_over(self) -> None:
        """Parameters have no meaning here (RFC 9651 section 3.1.2)."""
        stated = read((b"Repr-Digest", HELLO_FIELDS["sha256"] + b";source=phone"))
        self.assertEqual(stated.representation, (digest_of("sha256", HELLO),))

    def test_syntax_error_costs_the_field(self) -> None:
        """One error of syntax and nothing of the field is used; the log can say so."""
        for wrong in (b"sha-256=:X48E9q", b"SHA-256=:AAAA:", b"sha-256=:%%%:", b"\xff", b"sha-256=@"):
            stated = read((b"Repr-Digest", HELLO_FIELDS["md5"] + b", " + wrong))
            self.assertEqual((stated.representation, stated.ignored), ((), ("repr-digest",)), wrong)

    def test_value_of_another_type(self) -> None:
        """A digest that isn't a byte sequence is an error of the same kind."""
        for wrong in (b"sha-256=abc", b'sha-256="abc"', b"sha-256", b"sha-256=1", b"sha-256=(:AAAA:)"):
            stated = read((b"Content-Digest", wrong))
            self.assertEqual((stated.content, stated.ignored), ((), ("content-digest",)), wrong)

    def test_wrong_length(self) -> None:
        """A digest that is too short or too long can't be meant."""
        for size in (0, 31, 33, 64):
            self.assert_bad(b"Repr-Digest", b"sha-256=:" + b64encode(bytes(size)) + b":")

    def test_nothing_stated(self) -> None:
        """Most requests state nothing."""
        self.assertEqual(read((b"Content-Type", b"image/png")), StatedDigests())


class OtherFieldTests(ReadingCase):
    """The fields before RFC 9530 and beside it."""

    def test_rfc3230(self) -> None:
        """Algorithms in any case, several in one line, ``=`` as part of the value."""
        sha256, md5 = digest_of("sha256", HELLO), digest_of("md5", HELLO)
        line = b"SHA-256=" + b64encode(sha256.value) + b",UNIXsum=30637, md5=" + b64encode(md5.value)
        self.assertEqual(read((b"Digest", line)).representation, (sha256, md5))

    def test_rfc3230_errors(self) -> None:
        """A digest that is no base64, or of a wrong length."""
        for wrong in (b"sha-256=?", b"sha-256", b"sha-256=QUFB", b"md5=\xff"):
            self.assert_bad(b"Digest", wrong)

    def test_content_md5(self) -> None:
        """RFC 1864: of the body."""
        md5 = digest_of("md5", HELLO)
        self.assertEqual(read((b"Content-MD5", b" " + b64encode(md5.value))).content, (md5,))

    def test_content_md5_errors(self) -> None:
        """Hexadecimal digits are a common slip."""
        right = b64encode(digest_of("md5", HELLO).value)
        for wrong in (digest_of("md5", HELLO).value.hex().encode(), b"QUFB", b"", b"?" + right):
            self.assert_bad(b"Content-MD5", wrong)

    def test_hexadecimal(self) -> None:
        """Four names, small and capital digits, with the name of the algorithm or without."""
        sha256 = digest_of("sha256", HELLO)
        digits = sha256.value.hex().encode()
        for name in (b"X-Checksum", b"X-Checksum-Sha256", b"X-Content-SHA256", b"X-SHA256"):
            for value in (digits, digits.upper(), b"sha256:" + digits, b"SHA-256:" + digits):
                self.assertEqual(read((name, value)).representation, (sha256,), (name, value))

    def test_hexadecimal_errors(self) -> None:
        """The digits of another algorithm, or of none."""
        for wrong in (b"", b"0" * 63, b"0" * 65, b"g" * 64, b"md5:" + b"0" * 32, "٠".encode() * 64):
            self.assert_bad(b"X-Checksum", wrong)

    def test_error_names_the_field(self) -> None:
        """The client reads which of its fields is wrong."""
        self.assertIn("X-Checksum: ", self.assert_bad(b"X-Checksum", b"abc").detail)

    def test_many_fields(self) -> None:
        """All that are stated count, whatever field they come in."""
        digits = digest_of("sha256", HELLO).value.hex().encode()
        stated = read((b"X-Checksum", digits), (b"X-SHA256", b"0" * 64), (b"Repr-Digest", HELLO_FIELDS["md5"]))
        self.assertEqual(len(stated.representation), 3)


class WishTests(ReadingCase):
    """``Want-Repr-Digest`` (RFC 9530 section 4)."""

    def test_wanted(self) -> None:
        """Those with a weight above 0 that we can compute."""
        stated = read((b"Want-Repr-Digest", b"sha-512=3, sha-256=10, md5=0, unixsum=1"))
        self.assertEqual(stated.wanted, {"sha512", "sha256"})

    def test_errors(self) -> None:
        """A wish that can't be read is none, and no reason to refuse an upload."""
        for wrong in (b"sha-256", b"sha-256=0.5", b"sha-256=high", b"=", b"sha-256=:AAAA:"):
            stated = read((b"Want-Repr-Digest", wrong))
            self.assertEqual((stated.wanted, stated.ignored), (frozenset(), ("want-repr-digest",)), wrong)


class AnyInputTests(ReadingCase):
    """Whatever is sent."""

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(FIELDS),
                st.binary(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=6).map(b"".join),
            ),
            max_size=4,
        )
    )
    def test_only_ever_refused(self, fields: list[tuple[bytes, bytes]]) -> None:
        """No field is a reason for anything but a refusal, and what is read has the length of its algorithm."""
        try:
            stated = read(*fields)
        except Refused as refused:
            self.assertEqual((refused.status, refused.reason), (400, "bad-digest"))
            return
        for digest in (*stated.representation, *stated.content):
            self.assertEqual(len(digest.value), hashlib.new(digest.algorithm).digest_size)


class CheckTests(SynchronousTestCase):
    """Comparing what was stated with what was computed."""

    def test_all_right(self) -> None:
        """True digests raise nothing."""
        stated = [digest_of("sha256", HELLO), digest_of("md5", HELLO)]
        check(stated, {digest.algorithm: digest.value for digest in stated})

    def test_every_one_counts(self) -> None:
        """One wrong digest among right ones is enough, wherever it stands."""
        right, other, wrong = (
            digest_of("sha256", HELLO),
            digest_of("md5", HELLO),
            digest_of("sha256", b"something else"),
        )
        computed = {digest.algorithm: digest.value for digest in (right, other)}
        for stated in ([wrong, right, other], [right, other, wrong]):
            refused = self.assertRaises(Refused, check, stated, computed)
            self.assertEqual((refused.status, refused.reason), (400, "digest-mismatch"))
            self.assertIn("sha256", refused.detail)

    def test_what_must_be_computed(self) -> None:
        """Each algorithm once."""
        stated = [digest_of("sha256", HELLO), digest_of("sha256", b""), digest_of("md5", HELLO)]
        self.assertEqual(algorithms(stated), {"sha256", "md5"})

    def test_body_that_is_the_whole_file(self) -> None:
        """There, both kinds of digests are about the file; everything else stays as it was."""
        file, body = digest_of("sha256", HELLO), digest_of("md5", HELLO)
        stated = StatedDigests((file,), (body,), frozenset({"sha512"}), ("digest",))
        self.assertEqual(stated.of_whole_file(), StatedDigests((file, body), (), frozenset({"sha512"}), ("digest",)))


class StatingTests(SynchronousTestCase):
    """What we state ourselves."""

    def test_repr_digest(self) -> None:
        """As RFC 9530 writes it, and as we would read it."""
        digest = digest_of("sha256", HELLO)
        self.assertEqual(repr_digest(digest.value).encode(), HELLO_FIELDS["sha256"])

    def test_etag(self) -> None:
        """Strong, quoted, and half of the digest."""
        self.assertEqual(etag(bytes(range(32))), '"000102030405060708090a0b0c0d0e0f"')
