"""Prosody's data files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.keeping.luadata import LuaSyntax, items

#: As Prosody 0.12.3 has written it.
LIST = rb"""
item({
	["attr"] = {
		["content-type"] = "image/jpeg";
		["filename"] = "tr\195\168s \"cool\".jpg";
		["size"] = "23456";
		["stamp"] = "2026-11-22T20:00:00Z";
		["xmlns"] = "urn:xmpp:http:upload:0";
	};
	["key"] = "Pj__UbJNdvMTFgzSiuid-7wL";
	["name"] = "request";
	["when"] = 1795364564;
	["with"] = "alice@localhost";
});
item({
	["key"] = "b"; -- the last one
	["when"] = 1.5e3;
});
"""


def lua(value: object) -> bytes:
    """A value as Prosody's serializer writes it."""
    match value:
        case bool():
            return b"true" if value else b"false"
        case int() | float():
            return repr(value).encode()
        case bytes():
            return (
                b'"'
                + b"".join(b"\\%03d" % byte if byte in b'"\\' or byte < 32 else bytes((byte,)) for byte in value)
                + b'"'
            )
        case dict():
            return b"{" + b"".join(b"[%b] = %b;\n" % (lua(key), lua(each)) for key, each in value.items()) + b"}"
    raise TypeError(value)


TABLES = some.dictionaries(
    some.binary(max_size=8),
    some.recursive(
        some.binary(max_size=20)
        | some.integers()
        | some.booleans()
        | some.floats(allow_nan=False, allow_infinity=False),
        lambda values: some.dictionaries(some.binary(max_size=8) | some.integers(), values, max_size=4),
        max_leaves=8,
    ),
)


class ItemsTests(SynchronousTestCase):
    """The entries of a list."""

    def test_as_prosody_writes_it(self) -> None:
        first, second = items(LIST)
        self.assertEqual(first[b"key"], b"Pj__UbJNdvMTFgzSiuid-7wL")
        self.assertEqual(first[b"when"], 1795364564)
        attributes = first[b"attr"]
        assert isinstance(attributes, dict)
        self.assertEqual(attributes[b"filename"].decode(), 'très "cool".jpg')
        self.assertEqual(second, {b"key": b"b", b"when": 1500.0})

    def test_nothing(self) -> None:
        self.assertEqual(list(items(b" \n-- nothing\n")), [])

    def test_other_forms_of_lua(self) -> None:
        """Names for keys, entries without keys, escapes, the word nil."""
        self.assertEqual(
            list(items(rb'item({ a = "\x41\n\\\z   b\	", "one", nil, 0x10, -1 })')),
            [{b"a": b"A\n\\b\t", 1: b"one", 2: None, 3: 16, 4: -1}],
        )

    def test_what_is_no_list(self) -> None:
        """Nothing is executed, and the place is named."""
        for text in (
            b"return {}",
            b"item(os.exit())",
            b'item({ ["a"] = "b" }',
            b"item({ [{}] = 1 })",
            b'item({ "unterminated })',
            rb'item({ "\999" })',
            b"item({ 1 2 })",
            b"item(5)",
            b"item(" + b"{" * 100 + b"}" * 100 + b")",
        ):
            self.assertRaises(LuaSyntax, list, items(text))

    @given(some.lists(TABLES, max_size=3))
    def test_any_table(self, tables: list[dict[object, object]]) -> None:
        """What was written is read."""
        self.assertEqual(list(items(b"".join(b"item(%b);\n" % lua(table) for table in tables))), tables)

    @given(some.binary(max_size=200))
    def test_any_bytes(self, text: bytes) -> None:
        """Nothing but LuaSyntax is raised."""
        try:
            list(items(b"item({" + text))
        except LuaSyntax:
            pass
