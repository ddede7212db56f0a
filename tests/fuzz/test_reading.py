"""The strict readers of requests and responses, which every example is measured with."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.requests import read_requests
from tests.fuzz.responses import CONTINUE, read_responses
from tests.fuzz.target import Broken

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BYE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class ResponseTests(SynchronousTestCase):
    """What a server sends."""

    def statuses(self, data: bytes, *methods: bytes, cut: bool = False) -> list[int]:
        return [response.status for response in read_responses(data, list(methods), cut=cut)]

    def test_sequence(self) -> None:
        self.assertEqual(self.statuses(OK + CONTINUE + OK + BYE), [200, 200, 400])

    def test_head(self) -> None:
        """The answer to a HEAD has no body, whatever its length says."""
        self.assertEqual(self.statuses(OK[:-2] + OK, b"HEAD", b"GET"), [200, 200])

    def test_cut(self) -> None:
        """What a broken connection may end with, a whole one may not."""
        for data in (OK[:-1], OK[:20], CONTINUE):
            self.statuses(data, cut=True)
        for data in (OK[:-1], OK[:20]):
            self.assertRaises(Broken, self.statuses, data)

    def test_faults(self) -> None:
        for data in (
            BYE + OK,
            OK + b"x",
            CONTINUE + CONTINUE + OK,
            OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"),
            OK.replace(b"Content-Length", b"Content-Length "),
            OK.replace(b"OK", b"O\rK"),
            OK.replace(b": 2", b": +2"),
            OK.replace(b"Content-Length: 2", b"X: y"),
            OK.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
            OK.replace(b"200", b"102"),
            OK.replace(b"1.1", b"2.0"),
            OK.replace(b"200", b"204"),
        ):
            self.assertRaises(Broken, self.statuses, data)


class RequestTests(SynchronousTestCase):
    """What a client sends."""

    def test_sequence(self) -> None:
        put = b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        chunked = b"PUT /y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunked += b"2;a=b\r\nab\r\n1\r\nc\r\n0\r\nA: b\r\n\r\n"
        seen, malformed = read_requests(put + b"\r\n" + chunked + GET)
        self.assertEqual(
            [(request.target, request.body) for request in seen], [(b"/x", b"abc"), (b"/y", b"abc"), (b"/", b"")]
        )
        self.assertTrue(all(request.whole for request in seen))
        self.assertFalse(malformed)

    def test_incomplete(self) -> None:
        """A head that isn't whole is no request; a body that isn't is a part of one."""
        self.assertEqual(read_requests(GET[:-2]), ([], False))
        (request,), malformed = read_requests(b"PUT /x HTTP/1.0\r\nContent-Length: 3\r\n\r\nab")
        self.assertEqual((request.body, request.whole, malformed), (b"ab", False, False))

    def test_malformed(self) -> None:
        """Nothing is a request from there on."""
        for wrong in (
            GET.replace(b"Host", b"Host "),
            GET.replace(b"Host: h", b"X: y"),
            GET.replace(b"Host: h", b"Host: h\r\nHost: h"),
            GET.replace(b"Host: h", b"Host: h\nX: y"),
            GET.replace(b"Host: h", b"Host: h\r\n folded"),
            GET.replace(b"Host: h", b"Host: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked"),
            GET.replace(b"Host: h", b"Host: h\r\nContent-Length: +1"),
            GET.replace(b"Host: h", b"Host: h\r\nTransfer-Encoding: gzip"),
            GET.replace(b"1.1", b"2.0"),
            GET.replace(b" /", b""),
        ):
            seen, malformed = read_requests(GET + wrong + GET)
            self.assertEqual((len(seen), malformed), (1, True), wrong)

    def test_malformed_body(self) -> None:
        for chunk in (b"x\r\n", b"1\r\nab\r\n", b"-1\r\n", b"1\nx\n"):
            head = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            (request,), malformed = read_requests(head + chunk + b"0\r\n\r\n" + GET)
            self.assertEqual((request.whole, malformed), (False, True), chunk)
