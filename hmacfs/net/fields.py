"""Structured field values (RFC 9651): the Items and Dictionaries that HTTP fields of today are written in.

An error of syntax costs the whole field, as RFC 9651 section 4.2 has it; what to do then is its reader's business. The
time that this takes grows with the length of the field, and with nothing else.
"""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes


class FieldError(ValueError):
    """A field that is not written as RFC 9651 says."""


class Token(str):
    """A Token (section 3.3.4), which is no String."""

    __slots__ = ()


class DisplayString(str):
    """A Display String (section 3.3.8), which may have any character in it."""

    __slots__ = ()


BareItem: TypeAlias = "bool | int | Decimal | str | Token | bytes | datetime | DisplayString"
Parameters: TypeAlias = "dict[str, BareItem]"
Item: TypeAlias = "tuple[BareItem, Parameters]"
InnerList: TypeAlias = "tuple[list[Item], Parameters]"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

_KEY: Final = re.compile(rb"[a-z*][a-z0-9_.*-]*")
_DECIMAL: Final = re.compile(rb"-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])")
_INTEGER: Final = re.compile(rb"-?[0-9]{1,15}(?![0-9.])")
_STRING: Final = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN: Final = re.compile(rb"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*")
_BYTES: Final = re.compile(rb":([A-Za-z0-9+/]*)(={0,2}):")
_BOOLEAN: Final = re.compile(rb"\?([01])")
_DATE: Final = re.compile(rb"@(-?[0-9]{1,15})(?![0-9.])")
_DISPLAY: Final = re.compile(rb'%"((?:[ !#$&-~]|%[0-9a-f]{2})*)"')

_ESCAPED: Final = re.compile(r"\\(.)")


def parse_item(text: bytes) -> Item:
    """The value of a field that is an Item, with its parameters (section 4.2.3).

    :raises FieldError: as said.
    """
    reader = _Reader(text)
    item = reader.item()
    reader.end()
    return item


def parse_dictionary(text: bytes) -> dict[str, Item | InnerList]:
    """The members of a field that is a Dictionary (section 4.2.2), in their order.

    :param text: of all lines of the field, joined by commas.
    :raises FieldError: as said.
    """
    reader = _Reader(text)
    members: dict[str, Item | InnerList] = {}
    while not reader.at_end:
        key = reader.key()
        # The last of several with one key counts, in the place of the first.
        members[key] = reader.member()
        if not reader.comma():
            break
    reader.end()
    return members


class _Reader:
    """Reads one field from its beginning to its end.

    :ivar at_end: whether nothing is left.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text.strip(b" ")
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._text)

    def end(self) -> None:
        """Nothing may be left."""
        if not self.at_end:
            raise self._wrong("the end")

    def comma(self) -> bool:
        """The comma before the next member; false at the end."""
        self._skip(b" \t")
        if self.at_end:
            return False
        if not self._takes(b","):
            raise self._wrong("a comma")
        self._skip(b" \t")
        if self.at_end:
            raise self._wrong("another member after the comma")
        return True

    def member(self) -> Item | InnerList:
        """What follows the key of a member."""
        if not self._takes(b"="):
            return True, self._parameters()
        return self._inner_list() if self._takes(b"(") else self.item()

    def item(self) -> Item:
        return self._bare_item(), self._parameters()

    def key(self) -> str:
        return self._expect(_KEY, "a key").group().decode("ascii")

    def _inner_list(self) -> InnerList:
        items: list[Item] = []
        while True:
            spaces = self._skip(b" ")
            if self._takes(b")"):
                return items, self._parameters()
            if items and not spaces:
                raise self._wrong("a space, or the end of the inner list")
            items.append(self.item())

    def _parameters(self) -> Parameters:
        parameters: Parameters = {}
        while self._takes(b";"):
            self._skip(b" ")
            key = self.key()
            # As for members: a later one changes the value, not the place.
            parameters[key] = self._bare_item() if self._takes(b"=") else True
        return parameters

    def _bare_item(self) -> BareItem:
        first = self._text[self._at : self._at + 1]
        if first == b'"':
            text = self._expect(_STRING, "a String").group(1).decode("ascii")
            return _ESCAPED.sub(r"\1", text)
        if first == b":":
            return self._bytes()
        if first == b"?":
            return self._expect(_BOOLEAN, "a Boolean").group(1) == b"1"
        if first == b"@":
            return self._date()
        if first == b"%":
            return self._display_string()
        if first and first in b"-0123456789":
            return self._number()
        return Token(self._expect(_TOKEN, "an Item").group().decode("ascii"))

    def _number(self) -> int | Decimal:
        match = _INTEGER.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
            return int(match.group())
        return Decimal(self._expect(_DECIMAL, "a number").group().decode("ascii"))

    def _bytes(self) -> bytes:
        digits, padding = self._expect(_BYTES, "a Byte Sequence").groups()
        missing = -len(digits) % 4
        # Section 4.2.7: padding that is missing is not to be minded.
        if missing == 3 or len(padding) not in (0, missing):
            raise self._wrong("base64")
        return b64decode(digits + b"=" * missing)

    def _date(self) -> datetime:
        seconds = int(self._expect(_DATE, "a Date").group(1))
        try:
            return _EPOCH + timedelta(seconds=seconds)
        except OverflowError as error:
            raise self._wrong("a Date that there is") from error

    def _display_string(self) -> DisplayString:
        quoted = self._expect(_DISPLAY, "a Display String").group(1)
        try:
            return DisplayString(unquote_to_bytes(quoted).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._wrong("UTF-8") from error

    def _expect(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._wrong(what)
        self._at = match.end()
        return match

    def _takes(self, character: bytes) -> bool:
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at += 1
        return True

    def _skip(self, characters: bytes) -> int:
        began = self._at
        while self._text[self._at : self._at + 1] and self._text[self._at] in characters:
            self._at += 1
        return self._at - began

    def _wrong(self, expected: str) -> FieldError:
        # Not what is there instead: it comes from a stranger, and may be a secret.
        return FieldError(f"expected {expected} at byte {self._at}")
