"""The data files that Prosody's internal storage writes: ``item({ … });`` for each entry of a list.

They are Lua, of which only what Prosody's ``util.serialization`` writes is read here, and nothing is executed: tables
with keys in brackets, or without, strings, numbers, true, false and nil.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from attrs import define, field

#: Deeper than anything that Prosody stores of an upload, and far less than Python's stack takes.
_MAX_DEPTH: Final = 32

_BLANK: Final = re.compile(rb"(?:\s|--[^\n]*\n)*")
_STRING: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(\d{1,3}|x[0-9A-Fa-f]{2}|z\s*|.)", re.DOTALL)
_NUMBER: Final = re.compile(rb"-?(?:0x[0-9A-Fa-f]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_NAME: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")

_ESCAPES: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_WORDS: Final[dict[bytes, bool | None]] = {b"true": True, b"false": False, b"nil": None}


class LuaSyntax(ValueError):
    """It isn't what Prosody writes. The text says at which byte."""


def items(text: bytes) -> Iterator[dict[object, object]]:
    """The entries of a list file, one after another.

    :raises LuaSyntax: at the first place that can't be read; what was before it has been had.
    """
    reader = _Reader(text)
    while not reader.at_end():
        reader.expect(b"item")
        reader.expect(b"(")
        entry = reader.value(0)
        reader.expect(b")")
        reader.skip(b";")
        if not isinstance(entry, dict):
            raise LuaSyntax(f"byte {reader.position}: expected a table")
        yield entry


@define
class _Reader:
    text: bytes
    position: int = field(default=0)

    def at_end(self) -> bool:
        self._blank()
        return self.position == len(self.text)

    def skip(self, word: bytes) -> bool:
        """Step over *word* if it is next."""
        self._blank()
        found = self.text.startswith(word, self.position)
        if found:
            self.position += len(word)
        return found

    def expect(self, word: bytes) -> None:
        if not self.skip(word):
            raise LuaSyntax(f"byte {self.position}: expected {word.decode()}")

    def value(self, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise LuaSyntax(f"byte {self.position}: too deep")
        if self.skip(b"{"):
            return self._table(depth)
        if (match := self._match(_STRING)) is not None:
            return _ESCAPE.sub(_unescaped, match[1])
        if (match := self._match(_NUMBER)) is not None:
            return _number(match[0])
        match = self._match(_NAME)
        if match is not None and match[0] in _WORDS:
            return _WORDS[match[0]]
        raise LuaSyntax(f"byte {self.position}: expected a value")

    def _table(self, depth: int) -> dict[object, object]:
        table: dict[object, object] = {}
        following = 1
        while not self.skip(b"}"):
            key = self._key(depth)
            if key is None:
                key, following = following, following + 1
            elif isinstance(key, dict):
                raise LuaSyntax(f"byte {self.position}: a table for a key")
            table[key] = self.value(depth + 1)
            if not (self.skip(b";") or self.skip(b",")):
                self.expect(b"}")
                break
        return table

    def _key(self, depth: int) -> object:
        """The key of the next entry; ``None`` where it has none of its own."""
        if self.skip(b"["):
            key = self.value(depth + 1)
            self.expect(b"]")
            self.expect(b"=")
            return key
        before = self.position
        match = self._match(_NAME)
        if match is not None and self.skip(b"="):
            return match[0]
        self.position = before
        return None

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        self._blank()
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def _blank(self) -> None:
        match = _BLANK.match(self.text, self.position)
        assert match is not None
        self.position = match.end()


def _unescaped(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if escape.isdigit():
        code = int(escape)
        if code > 255:
            raise LuaSyntax(f"\\{code} is no byte")
        return bytes((code,))
    if escape.startswith(b"x") and len(escape) == 3:
        return bytes((int(escape[1:], 16),))
    if escape.startswith(b"z"):
        return b""
    return _ESCAPES.get(escape, escape)


def _number(text: bytes) -> int | float:
    try:
        return int(text, 0) if b"x" in text else int(text)
    except ValueError:
        return float(text)
