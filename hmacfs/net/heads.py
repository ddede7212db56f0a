"""The head of an HTTP/1.x request, from its first line to its last header: what no parser should have to guess about."""

from __future__ import annotations

import re


class MalformedHead(Exception):
    """A request's head can't be had.

    :param status: what to answer with; the connection closes after it.
    :param reason: one hyphenated word.
    :param detail: one sentence for the person who reads the answer. Quotes nothing of the request.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) (HTTP/[0-9]\.[0-9])" % _TOKEN)
_HEADER = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_LENGTH = re.compile(rb"[0-9]{1,18}")
# uri-host [ ":" port ], both of which may be empty (RFC 9112 section 3.2, RFC 3986 section 3.2.2).
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:._~%-]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
_RAW_OCTET = re.compile(rb"[\x80-\xff]")


def read_request_line(line: bytes, max_bytes: int) -> tuple[bytes, bytes, bytes]:
    """Take the first line of a head apart.

    :return: method, target and version, as :class:`Head` has them.
    :raises MalformedHead: if something is wrong with it.
    """
    if len(line) > max_bytes:
        raise MalformedHead(414, "uri-too-long", "The request line is too long.")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise MalformedHead(400, "malformed-head", "The request line is malformed.")
    method, target, version = match.groups()
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise MalformedHead(505, "unknown-version", "This server speaks HTTP/1.0 and HTTP/1.1.")
    if not target.isascii():
        target = _RAW_OCTET.sub(lambda octet: b"%%%02X" % ord(octet[0]), target)
    return method, target, version


class Head:
    """A request's head that passes.

    It is read here and not by Twisted, so that every version of it sees the same. What two parsers on a request's way
    could understand differently is refused, not repaired: RFC 9112 sections 2.2, 3, 5.1, 5.2 and 6.3, RFC 9110 section
    5.5.

    :param block: all of the head, without the empty line that ends it.
    :param max_bytes: of all lines together, without what ends them.
    :param max_headers: how many header lines.
    :raises MalformedHead: for the first line with something wrong.

    :ivar method: as it was sent.
    :ivar target: as Twisted is to see it: octets beyond ASCII, which some clients send as they are and some versions of
        Twisted refuse, percent-encoded.
    :ivar version: ``HTTP/1.0`` or ``HTTP/1.1``.
    :ivar headers: names, as they were sent, and values; the one that is *framing* isn't among them.
    :ivar framing: the line that says where the body ends, ``Content-Length`` or ``Transfer-Encoding``; ``None`` where
        there is no body.
    """

    def __init__(self, block: bytes, max_bytes: int, max_headers: int) -> None:
        request_line, *lines = block.split(b"\r\n")
        self.framing: bytes | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self.method, self.target, self.version = read_request_line(request_line, max_bytes)
        self._read_headers(lines, max_bytes - len(request_line), max_headers)
        self._check_whole()

    def _read_headers(self, lines: list[bytes], bytes_left: int, headers_left: int) -> None:
        for line in lines:
            bytes_left -= len(line)
            headers_left -= 1
            if bytes_left < 0 or headers_left < 0:
                raise MalformedHead(431, "head-too-large", "The request has too many or too long headers.")
            match = _HEADER.fullmatch(line)
            if match is None:
                # Also folded lines, bare CR, LF and NUL, and space before the colon.
                raise MalformedHead(400, "malformed-head", "A header line is malformed.")
            name, value = match[1], match[2].strip(b" \t")
            known = name.lower()
            if known == b"content-length":
                self._check_length(value)
                self._frame(line)
            elif known == b"transfer-encoding":
                self._check_coding(value)
                self._frame(line)
            else:
                if known == b"host":
                    self._check_host(value)
                self.headers.append((name, value))

    def _check_whole(self) -> None:
        """Check what only the whole head tells."""
        if self._hosts > 1 or (self._hosts == 0 and self.version != b"HTTP/1.0"):
            raise MalformedHead(400, "malformed-head", "A request needs exactly one Host header.")

    def _check_host(self, value: bytes) -> None:
        if _HOST.fullmatch(value) is None:
            raise MalformedHead(400, "malformed-head", "The Host header names no host.")
        self._hosts += 1

    def _check_length(self, value: bytes) -> None:
        if _LENGTH.fullmatch(value) is None:
            raise MalformedHead(400, "malformed-head", "Content-Length must be a decimal number, of 18 digits at most.")

    def _check_coding(self, value: bytes) -> None:
        if value.lower() != b"chunked":
            raise MalformedHead(501, "unknown-coding", "The only Transfer-Encoding here is chunked.")
        if self.version == b"HTTP/1.0":
            raise MalformedHead(400, "malformed-head", "HTTP/1.0 has no Transfer-Encoding.")

    def _frame(self, line: bytes) -> None:
        if self.framing is not None:
            detail = "Content-Length or Transfer-Encoding may stand once, and not beside each other."
            raise MalformedHead(400, "malformed-head", detail)
        self.framing = line
