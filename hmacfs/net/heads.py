"""The head of an HTTP/1.x request, looked at line by line: what no parser should have to guess about."""

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


def uri_too_long() -> MalformedHead:
    """The request line goes beyond the bound."""
    return MalformedHead(414, "uri-too-long", "The request line is too long.")


def head_too_large() -> MalformedHead:
    """The headers go beyond the bound."""
    return MalformedHead(431, "head-too-large", "The request has too many or too long headers.")


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_HEADER = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_LENGTH = re.compile(rb"[0-9]{1,18}")
# uri-host [ ":" port ], both of which may be empty (RFC 9112 section 3.2, RFC 3986 section 3.2.2).
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:._~%-]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
_RAW_OCTET = re.compile(rb"[\x80-\xff]")


class HeadGuard:
    """Looks at the lines of one request's head before Twisted does, so that every version of it sees the same.

    What two parsers on a request's way could understand differently is refused, not repaired: RFC 9112 sections 2.2, 3,
    5.1, 5.2 and 6.3, RFC 9110 section 5.5. Each method takes one line without its CRLF, and may raise
    :class:`MalformedHead`.

    :param max_bytes: of all lines together.
    :param max_headers: how many header lines.
    """

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self._bytes_left = max_bytes
        self._headers_left = max_headers
        self._is_1_0 = False
        self._hosts = 0
        self._length = False
        self._coding = False

    def request_line(self, line: bytes) -> bytes:
        """Check the request line.

        :return: the line as Twisted is to see it: octets beyond ASCII, which some clients send as they are and some
            versions of Twisted refuse, percent-encoded.
        """
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise uri_too_long()
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise MalformedHead(400, "malformed-head", "The request line is malformed.")
        major, minor = match[3], match[4]
        if major != b"1" or minor not in (b"0", b"1"):
            raise MalformedHead(505, "unknown-version", "This server speaks HTTP/1.0 and HTTP/1.1.")
        self._is_1_0 = minor == b"0"
        return _RAW_OCTET.sub(lambda octet: b"%%%02X" % ord(octet[0]), line)

    def header(self, line: bytes) -> None:
        """Check one header line."""
        self._bytes_left -= len(line)
        self._headers_left -= 1
        if self._bytes_left < 0 or self._headers_left < 0:
            raise head_too_large()
        match = _HEADER.fullmatch(line)
        if match is None:
            # Also folded lines, bare CR, LF and NUL, and space before the colon.
            raise MalformedHead(400, "malformed-head", "A header line is malformed.")
        name = match[1].lower()
        if name == b"content-length":
            self._check_length(match[2].strip(b" \t"))
        elif name == b"transfer-encoding":
            self._check_coding(match[2].strip(b" \t"))
        elif name == b"host":
            self._check_host(match[2].strip(b" \t"))

    def end(self) -> None:
        """Check what only the whole head tells."""
        if self._length and self._coding:
            raise MalformedHead(400, "malformed-head", "Content-Length and Transfer-Encoding exclude each other.")
        if self._hosts > 1 or (self._hosts == 0 and not self._is_1_0):
            raise MalformedHead(400, "malformed-head", "A request needs exactly one Host header.")

    def _check_host(self, value: bytes) -> None:
        if _HOST.fullmatch(value) is None:
            raise MalformedHead(400, "malformed-head", "The Host header names no host.")
        self._hosts += 1

    def _check_length(self, value: bytes) -> None:
        if self._length or _LENGTH.fullmatch(value) is None:
            raise MalformedHead(400, "malformed-head", "Content-Length must stand once, and be a decimal number.")
        self._length = True

    def _check_coding(self, value: bytes) -> None:
        if value.lower() != b"chunked":
            raise MalformedHead(501, "unknown-coding", "The only Transfer-Encoding here is chunked.")
        if self._coding or self._is_1_0:
            raise MalformedHead(400, "malformed-head", "Transfer-Encoding may stand once, in HTTP/1.1.")
        self._coding = True
