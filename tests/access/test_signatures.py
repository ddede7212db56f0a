"""The signed texts against every signature that is known from elsewhere, and the comparison of MACs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.keys import Secret
from hmacfs.access.signatures import (
    content_types,
    is_signed,
    mac,
    parse_mac,
    text_deletion,
    text_v,
    text_v2,
    text_v3,
)
from tests.access.vectors import flipped, signatures

SECRET = Secret(b"it-is-secret")


class VectorTests(SynchronousTestCase):
    """Each of them, and each with one bit changed."""

    def check(self, secret: str, text: bytes, expected: str) -> None:
        self.assertEqual(mac(Secret(secret.encode()), text).hex(), expected)
        for index in range(32):
            self.assertFalse(is_signed(text, flipped(bytes.fromhex(expected), index), [Secret(secret.encode())]))
        for index in range(len(text)):
            self.assertFalse(is_signed(flipped(text, index), bytes.fromhex(expected), [Secret(secret.encode())]))

    def test_v(self) -> None:
        for vector in signatures("v"):
            self.check(vector["secret"], text_v(vector["path"].encode(), vector["size"]), vector["mac"])

    def test_v2(self) -> None:
        for vector in signatures("v2"):
            text = text_v2(vector["path"].encode(), vector["size"], vector["content_type"].encode())
            self.check(vector["secret"], text, vector["mac"])

    def test_v3(self) -> None:
        for vector in signatures("v3"):
            text = text_v3(vector["method"].encode(), vector["expires"], vector["path"].encode())
            self.check(vector["secret"], text, vector["mac"])

    def test_deletion(self) -> None:
        for vector in signatures("token-delete"):
            text = text_deletion(vector["path"].encode(), vector["delete_secret"].encode())
            self.check(vector["secret"], text, vector["mac"])

    def test_collision(self) -> None:
        """v and v2 do collide where a path holds a NUL: that is why no such path may come here."""
        (vector,) = signatures("collision")
        v, v2 = vector["v"], vector["v2"]
        text = text_v(v["path"].encode(), v["size"])
        self.assertEqual(text, text_v2(v2["path"].encode(), v2["size"], v2["content_type"].encode()))
        self.assertEqual(mac(SECRET, text).hex(), vector["mac"])


class IsSignedTests(SynchronousTestCase):
    def test_any_of_the_secrets(self) -> None:
        other = Secret(b"another")
        given_ = mac(SECRET, b"text")
        self.assertTrue(is_signed(b"text", given_, [other, SECRET]))
        self.assertFalse(is_signed(b"text", given_, [other]))
        self.assertFalse(is_signed(b"text", given_, []))

    def test_short_mac(self) -> None:
        self.assertFalse(is_signed(b"text", mac(SECRET, b"text")[:31], [SECRET]))
        self.assertFalse(is_signed(b"text", b"", [SECRET]))


class ParseMacTests(SynchronousTestCase):
    def test_either_case(self) -> None:
        self.assertEqual(parse_mac(b"0aF" + b"0" * 61), bytes.fromhex("0af" + "0" * 61))

    def test_anything_else_is_none(self) -> None:
        """Above all what Python's own parser of hexadecimal digits lets pass: white space and other scripts' digits."""
        good = b"a" * 64
        for text in (b"", good[1:], good + b"a", b" " + good, good + b"\n", b"0x" + good[2:], b"aa " * 32, b"g" * 64):
            self.assertIsNone(parse_mac(text), text)
        self.assertIsNone(parse_mac("٣".encode() * 32))

    @given(st.binary(min_size=32, max_size=32), st.booleans())
    def test_round_trip(self, mac_: bytes, upper: bool) -> None:
        text = mac_.hex().upper() if upper else mac_.hex()
        self.assertEqual(parse_mac(text.encode()), mac_)

    @given(st.binary(max_size=80) | st.text("0123456789abcdefABCDEF \nx", min_size=62, max_size=66).map(str.encode))
    def test_any_bytes(self, text: bytes) -> None:
        """32 bytes or nothing, and 32 bytes only for the text that says so."""
        parsed = parse_mac(text)
        self.assertEqual(
            parsed is not None, len(text) == 64 and all(byte in b"0123456789abcdefABCDEF" for byte in text)
        )
        if parsed is not None:
            self.assertEqual(parsed.hex().encode(), text.lower())


class ContentTypesTests(SynchronousTestCase):
    def test_order(self) -> None:
        """Verbatim, without parameters, nothing in particular, by the name, empty."""
        self.assertEqual(
            content_types(b"Text/Plain; Charset=UTF-8", b"photo.jpg"),
            (b"Text/Plain; Charset=UTF-8", b"text/plain", b"application/octet-stream", b"image/jpeg", b""),
        )

    def test_each_once(self) -> None:
        self.assertEqual(content_types(b"image/jpeg", b"a.jpg"), (b"image/jpeg", b"application/octet-stream", b""))

    def test_none_sent(self) -> None:
        expected = (b"application/octet-stream", b"image/jpeg", b"")
        self.assertEqual(content_types(None, b"a.jpg"), expected)

    def test_empty_one_sent(self) -> None:
        """As browsers do for an extension that they don't know; the slot was asked for in the same way."""
        self.assertEqual(content_types(b"", b"a.jpg"), (b"", b"application/octet-stream", b"image/jpeg"))
