"""A strict reader of what a server sends: no client would have to guess."""

from __future__ import annotations

import re

from attrs import frozen

from tests.fuzz.target import must

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9]) ([\x20-\x7e]*)")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,17}")

#: What is answered to what never became a request.
MALFORMED = frozenset({400, 408, 414, 431, 501, 505})

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@frozen
class Response:
    """One final response.

    :ivar headers: by lower-case name.
    :ivar whole: whether all of it is there.
    :ivar continues: how many ``100 Continue`` came before it.
    """

    status: int
    minor: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool
    continues: int

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection", b"").lower() == b"close"


def read_responses(data: bytes, methods: list[bytes], *, cut: bool) -> list[Response]:
    """Everything that a server has sent on one connection.

    :param methods: of the requests, as far as they could be understood.
    :param cut: whether the connection broke, so that the last response may not be whole.
    :raises Broken: it isn't a sequence of responses.
    """
    responses: list[Response] = []
    while data:
        must(not (responses and responses[-1].closes), "bytes after an answer that closes:", data[:80])
        continues = 0
        while data.startswith(CONTINUE):
            data = data.removeprefix(CONTINUE)
            continues += 1
        must(continues <= 1, "100 Continue twice")
        head, blank, rest = data.partition(b"\r\n\r\n")
        if cut and not blank:
            break
        if continues and not data:
            break
        must(blank, "a head without an end:", data[:80])
        method = methods[len(responses)] if len(responses) < len(methods) else b""
        response, data = _read_one(head, rest, method, continues, cut)
        responses.append(response)
    return responses


def _read_one(head: bytes, rest: bytes, method: bytes, continues: int, cut: bool) -> tuple[Response, bytes]:
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    must(match, "no status line:", first[:80])
    assert match is not None
    status = int(match[2])
    must(status >= 200, "an interim response in the place of a final one:", first)
    headers = _headers(lines)
    size = _length(status, method, headers)
    if status in MALFORMED and rest and headers.get(b"connection") == b"close":
        # Of a request that was malformed after its first line nobody knows that it was a HEAD.
        size = _length(status, b"", headers)
    body, data = rest[:size], rest[size:]
    whole = len(body) == size
    must(whole or cut, "a body of", len(body), "bytes, announced as", size)
    return Response(status, int(match[1]), headers, body, whole, continues), data


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        must(match, "no header line:", line[:80])
        assert match is not None
        name = match[1].lower()
        must(name not in headers, "a header twice:", line[:80])
        headers[name] = match[2] or b""
    return headers


def _length(status: int, method: bytes, headers: dict[bytes, bytes]) -> int:
    must(b"transfer-encoding" not in headers, "a transfer coding")
    if status in (204, 304):
        must(status == 304 or b"content-length" not in headers, "a length of nothing")
        return 0
    length = headers.get(b"content-length")
    must(length is not None and _NUMBER.fullmatch(length), "no length:", status, length)
    assert length is not None
    return 0 if method == b"HEAD" else int(length)
