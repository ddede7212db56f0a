"""A strict reader of requests, written from RFC 9112 alone: what a stream of bytes is, whoever parses it.

The server under test must see the same requests in it, or fewer of them, and none behind the first that is malformed.
"""

from __future__ import annotations

import re

from attrs import define, field

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_HEADER = re.compile(rb"(%b):[ \t]*(.*?)[ \t]*" % _TOKEN, re.DOTALL)
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[ \t]*(?:;.*)?")


@define
class Seen:
    """One request in a stream.

    :ivar body: as much of it as there is, without its coding.
    :ivar whole: whether the stream has all of the request.
    """

    method: bytes
    target: bytes
    minor: int
    headers: list[tuple[bytes, bytes]] = field(factory=list)
    body: bytes = b""
    whole: bool = False

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)


def read_requests(data: bytes) -> tuple[list[Seen], bool]:
    """Every request whose head is whole, and whether something that is no request follows.

    What follows an incomplete head is unknown, and not called malformed.
    """
    seen: list[Seen] = []
    while data:
        data = data.removeprefix(b"\r\n")
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not blank:
            return seen, _is_malformed_beginning(data)
        request = _head(head)
        if request is None:
            return seen, True
        seen.append(request)
        left = _body(request, rest)
        if left is None:
            return seen, not request.whole and b"transfer-encoding" in dict(request.headers)
        data = left
    return seen, False


def _is_malformed_beginning(data: bytes) -> bool:
    line, ended, _ = data.partition(b"\r\n")
    return bool(ended) and _LINE.fullmatch(line) is None


def _head(head: bytes) -> Seen | None:
    first, *lines = head.split(b"\r\n")
    match = _LINE.fullmatch(first)
    if match is None or match[3] != b"1" or match[4] not in b"01":
        return None
    request = Seen(match[1], match[2], int(match[4]))
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or _BAD_VALUE.search(header[2]):
            return None
        request.headers.append((header[1].lower(), header[2]))
    names = [name for name, _ in request.headers]
    lengths = [value for name, value in request.headers if name == b"content-length"]
    codings = [value for name, value in request.headers if name == b"transfer-encoding"]
    if names.count(b"host") > 1 or (request.minor == 1 and b"host" not in names):
        return None
    if len(lengths) + len(codings) > 1 or any(re.fullmatch(rb"[0-9]+", length) is None for length in lengths):
        return None
    if codings and (codings[0].lower() != b"chunked" or not request.minor):
        return None
    return request


def _body(request: Seen, data: bytes) -> bytes | None:
    """What follows the body; ``None`` if the body isn't whole or is malformed."""
    if request.header(b"transfer-encoding") is not None:
        return _chunked(request, data)
    size = int(request.header(b"content-length") or b"0")
    request.body = data[:size]
    request.whole = len(request.body) == size
    return data[size:] if request.whole else None


def _chunked(request: Seen, data: bytes) -> bytes | None:
    while True:
        line, ended, data = data.partition(b"\r\n")
        match = _CHUNK.fullmatch(line)
        if not ended or match is None:
            return None
        size = int(match[1], 16)
        if not size:
            return _trailers(request, data)
        request.body += data[:size]
        if data[size : size + 2] != b"\r\n":
            return None
        data = data[size + 2 :]


def _trailers(request: Seen, data: bytes) -> bytes | None:
    while True:
        line, ended, data = data.partition(b"\r\n")
        if not ended:
            return None
        if not line:
            request.whole = True
            return data
