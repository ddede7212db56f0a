"""Heads of requests: hmacfs.net.heads. What becomes of them on the wire is in test_streaming."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.heads import Head, MalformedHead


def read(*lines: bytes, max_bytes: int = 1000, max_headers: int = 10) -> Head:
    """A head of these lines."""
    return Head(b"\r\n".join(lines), max_bytes, max_headers)


class HeadTests(SynchronousTestCase):
    """Reading them, apart from the wire."""

    def refused(self, *lines: bytes, max_bytes: int = 1000, max_headers: int = 10) -> int:
        """The status with which a head of these lines is refused; 0 if it isn't."""
        try:
            read(*lines, max_bytes=max_bytes, max_headers=max_headers)
        except MalformedHead as malformed:
            return malformed.status
        return 0

    def test_request_line(self) -> None:
        """Taken apart."""
        head = read(b"M-SEARCH /a?b HTTP/1.1", b"Host: h")
        self.assertEqual((head.method, head.target, head.version), (b"M-SEARCH", b"/a?b", b"HTTP/1.1"))

    def test_raw_octets(self) -> None:
        """Octets beyond ASCII stand in a target as they do in the ones of other clients."""
        self.assertEqual(read("GET /ä%C3 HTTP/1.0".encode()).target, b"/%C3%A4%C3")

    def test_headers(self) -> None:
        """Every character that RFC 9110 allows in a name or a value; the white space around a value isn't part of it."""
        odd = b"!#$%&'*+-.^_`|~09azAZ"
        head = read(b"GET / HTTP/1.1", b"Host:", odd + b": \t a\tb c~\x80\xff \t", b"A:1", b"a: 2")
        self.assertEqual(head.headers, [(b"Host", b""), (odd, b"a\tb c~\x80\xff"), (b"A", b"1"), (b"a", b"2")])

    def test_framing(self) -> None:
        """What says where the body ends is apart from the others."""
        self.assertIsNone(read(b"GET / HTTP/1.0").framing)
        for line in (b"content-length:\t 000003 ", b"Content-Length: 0", b"Transfer-Encoding: Chunked"):
            head = read(b"PUT / HTTP/1.1", b"Host: h", line, b"A: b")
            self.assertEqual((head.framing, head.headers), (line, [(b"Host", b"h"), (b"A", b"b")]))

    def test_http_1_0_needs_no_host(self) -> None:
        """Host came with HTTP/1.1."""
        self.assertEqual(self.refused(b"GET / HTTP/1.0"), 0)
        self.assertEqual(self.refused(b"GET / HTTP/1.1"), 400)

    def test_size_counts_all_lines(self) -> None:
        """The bound is on the head, not on one line of it; and not on what ends the lines."""
        lines = (b"GET / HTTP/1.0", b"A: 12345678", b"B: 12")
        self.assertEqual(self.refused(*lines, max_bytes=30), 0)
        self.assertEqual(self.refused(*lines, max_bytes=29), 431)
        self.assertEqual(self.refused(*lines, max_bytes=13), 414)

    def test_number_of_headers(self) -> None:
        """The one that says where the body ends counts, too."""
        lines = (b"PUT / HTTP/1.0", b"A: b", b"Content-Length: 3")
        self.assertEqual(self.refused(*lines, max_headers=2), 0)
        self.assertEqual(self.refused(*lines, max_headers=1), 431)

    def test_first_fault_counts(self) -> None:
        """What follows a fault is not looked at."""
        self.assertEqual(self.refused(b"GET / HTTP/1.0", b"no colon", b"A: " + b"a" * 2000), 400)
        self.assertEqual(self.refused(b"GET / HTTP/3.0", b"no colon"), 505)
        self.assertEqual(self.refused(b"GET / HTTP/1.0", b"Transfer-Encoding: gzip", b"no colon"), 501)

    def test_one_framing(self) -> None:
        """A body has one length or one coding, whether or not Twisted would mind."""
        length, coding = b"Content-Length: 3", b"transfer-encoding: chunked"
        first = (b"PUT / HTTP/1.1", b"Host: h")
        self.assertEqual((self.refused(*first, length), self.refused(*first, coding)), (0, 0))
        for headers in ((length, length), (coding, coding), (length, coding), (coding, length)):
            self.assertEqual(self.refused(*first, *headers), 400, headers)

    def test_hosts(self) -> None:
        """Whatever a URL may have between its slashes, and nothing at all (RFC 9112 section 3.2)."""
        for value in (b"", b"h", b"h:", b"h:80", b"127.0.0.1:8080", b"[::1]", b"[::1]:80", b"[fe80::1%25eth0]:80"):
            self.assertEqual(self.refused(b"GET / HTTP/1.1", b"Host: " + value), 0, value)
        for value in (b"ex_ample.org", b"xn--bcher-kva.example", b"b%C3%BCcher.example", b"h ", b"\th"):
            self.assertEqual(self.refused(b"GET / HTTP/1.1", b"Host: " + value), 0, value)

    def test_invalid_hosts(self) -> None:
        """What one parser takes for one host, and another one for another: 400 (RFC 9112 section 3.2)."""
        for value in (
            b"a b",
            b"a/b",
            b"u@h",
            b"h:x",
            b"h:80:80",
            b"[::1",
            b"::1",
            b"[]",
            b"b\xc3\xbccher",
            b"a?b",
            b"a#b",
        ):
            self.assertEqual(self.refused(b"GET / HTTP/1.1", b"Host: " + value), 400, value)
        for value in (b"a\\b", b"%4", b"%zz", b'"h"', b"<script>", b"h:-1", b"[::1]x", b"http://h"):
            self.assertEqual(self.refused(b"GET / HTTP/1.1", b"Host: " + value), 400, value)

    @given(st.binary(max_size=60).filter(lambda value: b"\r\n" not in value))
    def test_framing_headers_are_clean(self, value: bytes) -> None:
        """A Content-Length that passes is a number that every parser reads the same way."""
        if not self.refused(b"GET / HTTP/1.1", b"Host: h", b"Content-Length: " + value):
            self.assertRegex(value, rb"\A[ \t]*[0-9]+[ \t]*\Z")
