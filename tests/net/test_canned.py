"""Whole responses: hmacfs.net.canned, and requests that are finished with one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from hmacfs.net.canned import canned_answer
from hmacfs.net.streaming import StreamingRequest
from tests.net.wire import CLOSED, OPEN, connect, get, parse_answers, put


def no(request: StreamingRequest) -> Any:
    """A resource that has its answer ready."""
    bodiless = request.method == b"HEAD"
    request.finishWith(
        429, lambda closes: canned_answer(429, "no", "Not now.", [(b"X-A", b"b")], closes=closes, bodiless=bodiless)
    )
    return NOT_DONE_YET


class CannedTests(SynchronousTestCase):
    """The response."""

    def test_whole(self) -> None:
        """A date, a reason, a length, and the end of the connection."""
        (answer,) = parse_answers(canned_answer(403, "no", "Not you.", [(b"X-A", b"b")]))
        self.assertEqual((answer.status, answer.body), (403, b"no: Not you.\n"))
        self.assertEqual((answer.headers["connection"], answer.headers["x-a"]), ("close", "b"))
        self.assertTrue(answer.headers["date"].endswith(" GMT"))

    def test_to_head(self) -> None:
        """With the length, and without the body."""
        answer = canned_answer(403, "no", "Not you.", bodiless=True)
        self.assertTrue(answer.endswith(b"Content-Length: 13\r\n\r\n"))


class FinishWithTests(SynchronousTestCase):
    """A request that is finished with it."""

    def test_connection_goes_on(self) -> None:
        """To a GET, to a HEAD, and to a short body that is skipped."""
        wire, site, _ = connect(no)
        wire.send(get(), get(method=b"HEAD"), put(b"abc"), get())
        answers = wire.answers("GET", "HEAD", "PUT", "GET")
        self.assertEqual([answer.status for answer in answers], [429] * 4)
        self.assertEqual([answer.headers.get("connection") for answer in answers], [None] * 4)
        self.assertEqual((wire.end, [request.code for request in site.finished]), (OPEN, [429] * 4))

    def test_long_body(self) -> None:
        """The answer says that the connection closes; the body is nobody's business."""
        wire, site, clock = connect(no, drain_bytes=10, linger_s=5)
        wire.send(put(length=1000), b"x" * 100)
        self.assertEqual((wire.answer().status, wire.answer().headers["connection"]), (429, "close"))
        clock.advance(5)
        self.assertEqual((wire.end, len(site.finished)), (CLOSED, 1))

    def test_last_request(self) -> None:
        """A client that says so gets it said as well."""
        wire, _, _ = connect(no)
        wire.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        self.assertEqual((wire.answer().headers["connection"], wire.end), ("close", CLOSED))
