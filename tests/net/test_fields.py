"""Structured field values, by the examples of RFC 9651 and beside another reader of them."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import http_sf
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.fields import DisplayString, FieldError, Token, parse_dictionary, parse_item

#: Pieces of fields, right and wrong.
PIECES = (
    *(b"a", b"b2", b"*k", b"A", b"sha-256", b"u", b"=", b"=", b"=", b",", b", ", b"\t,", b";", b"; ", b"(", b")", b" "),
    *(
        b"1",
        b"-7",
        b"0",
        b"999999999999999",
        b"1000000000000000",
        b"1.5",
        b"1.",
        b"-0.125",
        b"1.2345",
        b"1234567890123.1",
    ),
    *(b'"x"', b'"a\\"b\\\\"', b'"\\n"', b'"', b"tok/en:1", b"!", b":aGk=:", b":aGk:", b"::", b":a:", b":=:", b":a b:"),
    *(
        b"?1",
        b"?0",
        b"?2",
        b"@1659578233",
        b"@-1",
        b"@1.5",
        b'%"f%c3%bc"',
        b'%"%C3"',
        b'%"%ff"',
        b"%",
        b"\xe4",
        b"\x00",
    ),
)

fields = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


def right(rng: random.Random) -> bytes:
    """A dictionary without a fault."""
    values = (b"1", b"-2.5", b'"s t"', b"token", b":aGVsbG8=:", b"?0", b"@12", b'%"%c3%a9"', b"(1 a;p)", b"()")
    members = []
    for key in rng.sample((b"a", b"b", b"*c", b"d-1"), rng.randrange(1, 4)):
        value = rng.choice((b"", *(b"=" + value for value in values)))
        parameters = b"".join(b";p%d=%b" % (at, rng.choice(values[:8])) for at in range(rng.randrange(3)))
        members.append(key + value + parameters)
    return rng.choice((b",", b", ", b" \t,\t ")).join(members)


def plain(value: Any) -> Any:
    """A value as both readers may say it: types by name, Decimals as such."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, datetime):
        return ("date", value.timestamp())
    if isinstance(value, (float, Decimal)):
        return ("decimal", Decimal(str(value)))
    return (type(value).__name__, str(value) if isinstance(value, str) else value)


class ItemTests(SynchronousTestCase):
    """Section 3.3, type by type."""

    def test_types(self) -> None:
        """Each of them is what it is to Python."""
        cases: list[tuple[bytes, object]] = [
            (b"42", 42),
            (b"-999999999999999", -999_999_999_999_999),
            (b"4.5", Decimal("4.5")),
            (b'"hello world"', "hello world"),
            (b'"a \\"b\\" \\\\"', 'a "b" \\'),
            (b"foo123/456", Token("foo123/456")),
            (b":cHJldGVuZCB0aGlzIGlzIGJpbmFyeSBjb250ZW50Lg==:", b"pretend this is binary content."),
            (b"?1", True),
            (b"?0", False),
            (b"@1659578233", datetime(2022, 8, 4, 1, 57, 13, tzinfo=timezone.utc)),
            (
                b'%"This is intended for display to %c3%bcsers."',
                DisplayString("This is intended for display to üsers."),
            ),
        ]
        for text, expected in cases:
            value, parameters = parse_item(text)
            self.assertEqual((type(value), value, parameters), (type(expected), expected, {}), text)

    def test_parameters(self) -> None:
        """They come with an item; one without a value is true; the last of a name counts."""
        self.assertEqual(parse_item(b"1; a;b=?0; a=tok"), (1, {"a": Token("tok"), "b": False}))

    def test_faults(self) -> None:
        """Each costs the field."""
        for text in (
            *(b"", b"1 2", b"1,", b"1.", b"-", b"1234567890123456", b"1234567890123.1", b"1.2345", b'"a', b'"a\\b"'),
            *(
                b'"\xc3\xa4"',
                b":a:",
                b":a-b:",
                b":aGk",
                b"?2",
                b"?",
                b"@1.0",
                b"@999999999999999",
                b'%"%C3%A4"',
                b'%"%ff"',
            ),
            *(b"(1)", b"\t1", b"1;A=2", b"1;a=", b"1;", b"\xe4"),
        ):
            with self.assertRaises(FieldError, msg=text):
                parse_item(text)

    def test_says_nothing(self) -> None:
        """A fault is told by its place, not by what stands there."""
        error = self.assertRaises(FieldError, parse_item, b"?hunter2")
        self.assertEqual(str(error), "expected a Boolean at byte 0")


class DictionaryTests(SynchronousTestCase):
    """Section 3.2."""

    def test_members(self) -> None:
        """Items, inner lists, and keys that are all there is."""
        parsed = parse_dictionary(b'en="Applepie", da=:w4ZibGV0w6ZydGU=:,a\t,\tl=(1 tok;q=2 );x')
        self.assertEqual(
            parsed,
            {
                "en": ("Applepie", {}),
                "da": ("Æbletærte".encode(), {}),
                "a": (True, {}),
                "l": ([(1, {}), (Token("tok"), {"q": 2})], {"x": True}),
            },
        )

    def test_twice(self) -> None:
        """The last member of a key counts."""
        self.assertEqual(parse_dictionary(b"a=1, b=2, a=3"), {"a": (3, {}), "b": (2, {})})

    def test_empty(self) -> None:
        """Nothing is a dictionary without members."""
        self.assertEqual(parse_dictionary(b"  "), {})

    def test_faults(self) -> None:
        """Each costs the field."""
        for text in (
            b"a=1,",
            b",a=1",
            b"a=1 b=2",
            b"a=1,,b=2",
            b"A=1",
            b"=1",
            b"a=",
            b"a=(1",
            b"a=(1\t2)",
            b"a=(1(2))",
            b"1",
        ):
            with self.assertRaises(FieldError, msg=text):
                parse_dictionary(text)


class BesideAnotherTests(SynchronousTestCase):
    """What the library http_sf reads and refuses, we read and refuse."""

    def check(self, text: bytes, kind: str) -> None:
        ours: Any
        try:
            ours = plain(parse_item(text) if kind == "item" else parse_dictionary(text))
        except FieldError:
            ours = None
        try:
            theirs = plain(http_sf.parse(text, tltype=kind))
        except (ValueError, LookupError, ArithmeticError):
            theirs = None
        self.assertEqual(ours, theirs, text)

    @settings(max_examples=400)
    @given(fields)
    def test_pieces(self, text: bytes) -> None:
        """Of whatever is put together from pieces."""
        for kind in ("item", "dictionary"):
            self.check(text, kind)

    @settings(max_examples=200)
    @given(st.randoms(use_true_random=False), st.integers(0, 255), st.integers(0, 60))
    def test_nearly_right(self, rng: random.Random, byte: int, at: int) -> None:
        """Of a dictionary that is right, and of the same with one byte changed."""
        text = right(rng)
        self.check(text, "dictionary")
        self.assertIsInstance(parse_dictionary(text), dict)
        self.check(text[:at] + bytes([byte]) + text[at + 1 :], "dictionary")

    @settings(max_examples=200)
    @given(st.binary(max_size=200))
    def test_anything(self, text: bytes) -> None:
        """Of anything: it is read, or refused as a whole."""
        for parse in (parse_item, parse_dictionary):
            try:
                parse(text)
            except FieldError:
                pass
