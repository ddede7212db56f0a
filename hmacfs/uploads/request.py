"""What a request says about the upload that it is about; and how a PUT on a slot URL says it: pure parsing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import evolve, frozen
from twisted.web.http_headers import Headers

from hmacfs.errors import Refused
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.identity import check_token

# 15 digits: what a structured field's integer may have, and more than any file.
_CONTENT_RANGE = re.compile(rb"bytes[ \t]+(?:([0-9]{1,15})-([0-9]{1,15})|\*)/([0-9]{1,15})", re.ASCII | re.IGNORECASE)
# lftp's ``put -c`` sends a part this way.
_RANGE_OF_PUT = re.compile(rb"bytes=([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.ASCII | re.IGNORECASE)


@frozen
class Part:
    """The part of the file that a body carries (RFC 9110 section 14.4).

    :ivar start: offset of its first byte.
    :ivar size: its length in bytes; 0 asks how far the upload is, or creates it (``bytes */N``).
    :ivar total: of the whole file, in bytes.
    """

    start: int
    size: int
    total: int

    @property
    def is_query(self) -> bool:
        return self.size == 0

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.start + self.size


@frozen
class Append:
    """That the body goes on exactly where the upload is, as in tus and in the IETF's resumable uploads.

    :ivar offset: where the client believes that is; 0 where it begins one.
    :ivar total: size of the whole file in bytes, where the request tells it.
    :ivar last: whether the file ends with the body; ``None`` where only its size tells. A file is not published by a
        request that is not to be the last, even if every byte of it is here.
    :ivar creates: whether an upload begins, and whatever is here of another one to this slot is forgotten.
    :ivar metadata: see :class:`~hmacfs.uploads.state.NewUpload`.
    """

    offset: int
    total: int | None = None
    last: bool | None = None
    creates: bool = False
    metadata: str = ""


@frozen
class UploadRequest:
    """What a request says about its upload, before anything is known of that upload.

    :ivar length: of the body in bytes; ``None`` where only its end will tell (chunked), 0 where there is none.
    :ivar part: which part of the file the body carries; ``None`` for the whole file (or an unannounced remainder).
    :ivar token: the client's session token.
    :ivar digests: what the client states of its bytes.
    :ivar append: in the dialects that know no parts.
    """

    length: int | None
    part: Part | None
    token: str | None
    digests: StatedDigests
    append: Append | None = None

    @property
    def total(self) -> int | None:
        """The size of the whole file as this request announces it, which is what the signature covers."""
        if self.append is not None:
            return self.append.total
        return self.part.total if self.part is not None else self.length

    @property
    def asks(self) -> bool:
        """Whether it asks how far the upload is, or has it finished, and brings nothing of it."""
        if self.append is not None:
            return self.length == 0 and not self.append.creates
        return self.part is not None and self.part.is_query

    @property
    def creates(self) -> bool:
        """Whether an upload begins, and nothing that is here counts."""
        return self.append is not None and self.append.creates

    @property
    def continues(self) -> bool:
        """Whether another request is to follow, even if this one brings the file's last byte."""
        return self.append is not None and self.append.last is False

    def end(self, total: int) -> int:
        """The offset after the last byte that the body may have, in a file of *total* bytes."""
        if self.part is not None:
            return self.part.end
        if self.append is None or self.append.creates or self.length is None:
            return total
        return min(total, self.append.offset + self.length)

    def as_whole(self) -> UploadRequest:
        """The same as a plain request with the whole file."""
        return evolve(self, append=None)

    def relies_on_offset(self, total: int) -> bool:
        """Whether the request is about what an earlier one has left, in a file of *total* bytes."""
        if self.append is not None:
            return not self.append.creates
        if self.part is not None:
            return self.part.is_query or self.part.start > 0
        return self.length not in (None, total)

    @classmethod
    def from_headers(cls, headers: Headers, length: int | None) -> UploadRequest:
        """Read the headers of a request with a body of *length* bytes.

        :raises Refused: 400 for a ``Content-Range`` that is malformed or contradicts the length, a ``Range`` that could
            only be ignored, or a malformed session token or digest.
        """
        part = _part(headers)
        if part is not None and length is not None and length != part.size:
            raise Refused(400, "bad-range", f"The body has {length} bytes, its Content-Range {part.size}.")
        tokens = headers.getRawHeaders(b"x-session-token")
        return cls(
            length=length,
            part=part,
            token=check_token(tokens[-1]) if tokens else None,
            digests=StatedDigests.from_headers(headers),
        )


def _part(headers: Headers) -> Part | None:
    announced = headers.getRawHeaders(b"content-range")
    if announced is not None:
        return _read(_CONTENT_RANGE, announced, "Content-Range: bytes FIRST-LAST/TOTAL, or bytes */TOTAL")
    asked = headers.getRawHeaders(b"range")
    if asked is not None:
        return _read(_RANGE_OF_PUT, asked, "no Range on a PUT; Content-Range says which part of the file the body is")
    return None


def _read(pattern: re.Pattern[bytes], values: Sequence[bytes], expected: str) -> Part:
    match = pattern.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None:
        raise Refused(400, "bad-range", f"Expected {expected}.")
    first, last, total = (None if digits is None else int(digits) for digits in match.groups())
    assert total is not None
    if first is None or last is None:
        return Part(0, 0, total)
    if not first <= last < total:
        raise Refused(400, "bad-range", f"There are no bytes {first} to {last} in a file of {total} bytes.")
    return Part(first, last - first + 1, total)
