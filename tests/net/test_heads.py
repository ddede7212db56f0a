"""The checks of a request's head: hmacfs.net.heads. What becomes of them on the wire is in test_streaming."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.heads import HeadGuard, MalformedHead


class HeadGuardTests(SynchronousTestCase):
    """The checks by themselves."""

    def test_fine_lines_pass(self) -> None:
        """Every character that RFC 9110 allows in a name or a value."""
        guard = HeadGuard(1000, 10)
        self.assertEqual(guard.request_line(b"M-SEARCH /a?b HTTP/1.1"), b"M-SEARCH /a?b HTTP/1.1")
        for line in (b"Host:", b"!#$%&'*+-.^_`|~09azAZ: \t a\tb c~\x80\xff \t", b"content-length:\t 000003 "):
            guard.header(line)
        guard.end()

    def test_http_1_0_needs_no_host(self) -> None:
        """Host came with HTTP/1.1."""
        guard = HeadGuard(1000, 10)
        guard.request_line(b"GET / HTTP/1.0")
        guard.end()

    def test_size_counts_all_lines(self) -> None:
        """The bound is on the head, not on one line of it."""
        guard = HeadGuard(30, 10)
        guard.request_line(b"GET / HTTP/1.0")
        guard.header(b"A: 12345678")
        self.assertEqual(self.assertRaises(MalformedHead, guard.header, b"B: 123").status, 431)

    def refused(self, *headers: bytes) -> bool:
        guard = HeadGuard(1000, 10)
        guard.request_line(b"PUT / HTTP/1.1")
        try:
            for header in (b"Host: h", *headers):
                guard.header(header)
            guard.end()
        except MalformedHead as malformed:
            self.assertEqual(malformed.status, 400)
            return True
        return False

    def test_one_framing(self) -> None:
        """A body has one length or one coding, whether or not Twisted would mind."""
        length, coding = b"Content-Length: 3", b"transfer-encoding: chunked"
        self.assertFalse(self.refused(length))
        self.assertFalse(self.refused(coding))
        for headers in ((length, length), (coding, coding), (length, coding), (coding, length)):
            self.assertTrue(self.refused(*headers), headers)

    def host(self, value: bytes) -> bool:
        """Whether a request to this host passes."""
        guard = HeadGuard(1000, 10)
        guard.request_line(b"GET / HTTP/1.1")
        try:
            guard.header(b"Host: " + value)
        except MalformedHead as malformed:
            self.assertEqual(malformed.status, 400)
            return False
        guard.end()
        return True

    def test_hosts(self) -> None:
        """Whatever a URL may have between its slashes, and nothing at all (RFC 9112 section 3.2)."""
        for value in (b"", b"h", b"h:", b"h:80", b"127.0.0.1:8080", b"[::1]", b"[::1]:80", b"[fe80::1%25eth0]:80"):
            self.assertTrue(self.host(value), value)
        for value in (b"ex_ample.org", b"xn--bcher-kva.example", b"b%C3%BCcher.example", b"h ", b"\th"):
            self.assertTrue(self.host(value), value)

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
            self.assertFalse(self.host(value), value)
        for value in (b"a\\b", b"%4", b"%zz", b'"h"', b"<script>", b"h:-1", b"[::1]x", b"http://h"):
            self.assertFalse(self.host(value), value)

    @given(st.binary(max_size=60))
    def test_framing_headers_are_clean(self, value: bytes) -> None:
        """A Content-Length that passes is a number that every parser reads the same way."""
        guard = HeadGuard(1000, 10)
        guard.request_line(b"GET / HTTP/1.1")
        try:
            guard.header(b"Content-Length: " + value)
        except MalformedHead:
            return
        self.assertRegex(value, rb"\A[ \t]*[0-9]+[ \t]*\Z")
