"""Which part of a file a ``Range`` header asks for (RFC 9110 section 14)."""

from __future__ import annotations

import re

from attrs import frozen

# The digits of 64 bits, with which some say "to the end"; int() of more would only cost time. Blanks around it are
# stripped first: where two runs of them can meet, a header of nothing else takes the square of its length.
_RANGE = re.compile(rb"([0-9]{0,20})[ \t]*-[ \t]*([0-9]{0,20})", re.ASCII)


@frozen
class ByteRange:
    """A part of a file.

    :ivar start: offset of its first byte.
    :ivar size: its length in bytes, at least 1.
    """

    start: int
    size: int

    def content_range(self, total: int) -> str:
        """The ``Content-Range`` of a 206 answer, in a file of *total* bytes."""
        return f"bytes {self.start}-{self.start + self.size - 1}/{total}"


class Unsatisfiable(Exception):
    """The range is well-formed, and no byte of the file is in it: 416 (RFC 9110 section 15.5.17)."""


def parse_range(header: bytes, total: int) -> ByteRange | None:
    """Read a ``Range`` header.

    :param total: the file's length in bytes.
    :returns: ``None`` where the header is to be ignored and the whole file sent: another unit, bad syntax, or several
        ranges (a server may ignore them, RFC 9110 section 14.2; serving them all would multiply the work).
    :raises Unsatisfiable: where it asks for nothing that is there.
    """
    unit, equals, ranges = header.partition(b"=")
    match = _RANGE.fullmatch(ranges.strip(b" \t"))
    if not equals or unit.strip().lower() != b"bytes" or match is None:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, total)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= total:
        raise Unsatisfiable
    end = min(int(last), total - 1) if last else total - 1
    return ByteRange(start, end - start + 1)


def _suffix(length: bytes, total: int) -> ByteRange | None:
    if not length:
        return None
    size = min(int(length), total)
    if not size:
        raise Unsatisfiable
    return ByteRange(total - size, size)
