"""A coroutine's way to exactly one answer."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.addresses import ClientAddresses
from hmacfs.errors import Refused
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.limits import Limits
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource, Nothing
from hmacfs.web.site import HmacfsRequest, HmacfsSite
from tests.net.wire import ABORTED, OPEN, Wire
from tests.web.support import request

GET = request("GET", "/")

_DENIED = ("the storage fails: Permission denied", "EACCES")


class OneResource(AsyncResource):
    """GET and PUT are whatever a test says."""

    isLeaf = True

    def __init__(self, handler: Callable[[HmacfsRequest], Any]) -> None:
        async def handle(request: HmacfsRequest) -> Answer | None:
            answer: Answer | None = await handler(request)
            return answer

        super().__init__([(b"GET", handle), (b"PUT", handle)])


class BaseCase(SynchronousTestCase):
    """A site of one resource."""

    def setUp(self) -> None:
        self.entries: list[RequestEntry] = []

    def connect(self, resource: AsyncResource, *data: bytes) -> Wire:
        self.site = HmacfsSite(
            resource,
            reactor=Clock(),
            limits=Limits(),
            addresses=ClientAddresses([]),
            access_log=self.entries.append,
            metrics=Metrics(),
        )
        wire = Wire(self.site)
        wire.send(*data)
        return wire

    def handled(self, handler: Callable[[HmacfsRequest], Any], data: bytes = GET) -> Wire:
        return self.connect(OneResource(handler), data)

    @property
    def outcome(self) -> tuple[int, str]:
        (entry,) = self.entries
        return entry.status, entry.reason


class AnswerTests(BaseCase):
    """What a handler does, and what the client gets."""

    def test_answer(self) -> None:
        """Its body with its length, its headers, and those of every answer."""

        async def handler(_request: HmacfsRequest) -> Answer:
            return Answer(200, {"X-Own": "1"}, b"hello")

        answer = self.handled(handler).answer()
        self.assertEqual((answer.status, answer.body, answer.headers["content-length"]), (200, b"hello", "5"))
        self.assertEqual((answer.headers["x-own"], answer.headers["x-content-type-options"]), ("1", "nosniff"))
        self.assertEqual((answer.headers["server"], self.outcome), ("hmacfs", (200, "")))

    def test_no_content(self) -> None:
        """204 has neither a body nor a length (RFC 9110 section 8.6)."""

        async def handler(_request: HmacfsRequest) -> Answer:
            return Answer(204)

        wire = self.handled(handler, GET + GET)
        self.assertEqual(wire.statuses(), [204, 204])
        self.assertNotIn("content-length", wire.answers()[0].headers)

    def test_later(self) -> None:
        """A handler may wait."""
        waiting: Deferred[Answer] = Deferred()
        wire = self.handled(lambda _request: waiting)
        self.assertEqual((wire.answers(), self.entries, self.site.in_flight), ([], [], 1))
        waiting.callback(Answer(200))
        self.assertEqual((wire.answer().status, self.outcome, self.site.in_flight), (200, (200, ""), 0))

    def test_refused(self) -> None:
        async def handler(_request: HmacfsRequest) -> Answer:
            raise Refused(423, "busy", "Not now.", {"Retry-After": "1"})

        answer = self.handled(handler).answer()
        self.assertEqual((answer.status, answer.body), (423, b"busy: Not now.\n"))
        self.assertEqual((answer.headers["retry-after"], self.outcome), ("1", (423, "busy")))

    def test_refused_head(self) -> None:
        """HEAD is told as much as GET would be, without the text."""
        wire = self.connect(Nothing(), request("HEAD", "/") + request("GET", "/"))
        head, get = wire.answers("HEAD", "GET")
        for answer in (head, get):
            del answer.headers["date"]
        self.assertEqual((head.status, head.headers, head.body), (get.status, get.headers, b""))

    def test_unknown_method(self) -> None:
        """405, with the methods that there are."""

        async def handler(_request: HmacfsRequest) -> Answer:
            return Answer(200)

        answer = self.handled(handler, request("DELETE", "/")).answer()
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "OPTIONS, GET, PUT"))
        self.assertEqual(self.outcome, (405, "method-not-allowed"))


class FaultTests(BaseCase):
    """A handler that has a fault."""

    def test_before_the_answer(self) -> None:
        """500 without details, one line in the log, one traceback; the connection goes on."""

        async def handler(_request: HmacfsRequest) -> Answer:
            raise ValueError("a path of ours")

        wire = self.handled(handler)
        self.assertEqual((wire.answer().status, wire.end), (500, OPEN))
        self.assertNotIn(b"path of ours", wire.transport.value())
        self.assertEqual(self.outcome, (500, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_storage(self) -> None:
        """A disk that is out of order is no fault of the handler's: 503 without details, and a line for the operator."""

        async def handler(_request: HmacfsRequest) -> Answer:
            raise OSError(errno.EACCES, "Permission denied", "a path of ours")

        with capturedLogs() as events:
            answer = self.handled(handler).answer()
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "30"))
        self.assertNotIn(b"path of ours", answer.body)
        self.assertEqual(self.outcome, (503, "storage"))
        self.assertEqual([(formatEvent(event), event["seldom"]) for event in events], [_DENIED])

    def test_wrong_call(self) -> None:
        """What no disk says to who asks it the right thing is ours."""

        async def handler(_request: HmacfsRequest) -> Answer:
            raise OSError(errno.EBADF, "Bad file descriptor")

        self.assertEqual(self.handled(handler).answer().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_for_programs(self) -> None:
        """Problem details where they are asked for, as of every refusal."""

        async def handler(_request: HmacfsRequest) -> Answer:
            raise ValueError

        wire = self.handled(handler, request("GET", "/", {"Accept": "application/json"}))
        self.assertEqual(wire.answer().headers["content-type"], "application/problem+json")
        self.flushLoggedErrors(ValueError)

    def test_after_it_began(self) -> None:
        """The client must not take for whole what isn't."""

        async def handler(request: HmacfsRequest) -> Answer:
            request.setHeader(b"content-length", b"10")
            request.write(b"12345")
            raise ValueError

        wire = self.handled(handler)
        self.assertEqual((wire.end, self.outcome), (ABORTED, (499, "internal")))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_after_it_ended(self) -> None:
        """What has been said stays said; the fault is logged."""

        async def handler(request: HmacfsRequest) -> Answer:
            request.setHeader(b"content-length", b"0")
            request.finish()
            raise ValueError

        wire = self.handled(handler)
        self.assertEqual(wire.answer().status, 200)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(wire.end, OPEN)


class GoneTests(BaseCase):
    """The client is gone while its handler is at work."""

    def setUp(self) -> None:
        super().setUp()
        self.waiting: Deferred[Answer] = Deferred()
        self.wire = self.handled(lambda _request: self.waiting)
        self.wire.vanish()

    def test_logged(self) -> None:
        """At once, once, with the status that nginx has for it."""
        self.assertEqual((self.outcome, self.site.in_flight), ((499, "client-gone"), 0))

    def test_answer_comes_late(self) -> None:
        self.waiting.callback(Answer(200, {}, b"hello"))
        self.assertEqual((self.wire.transport.value(), len(self.entries)), (b"", 1))

    def test_refusal_comes_late(self) -> None:
        self.waiting.errback(Refused(404, "not-found", "No."))
        self.assertEqual((self.wire.transport.value(), len(self.entries)), (b"", 1))

    def test_handler_hears_of_it(self) -> None:
        """A connection that was lost is no fault of ours, and no traceback."""
        self.waiting.errback(ConnectionLost())
        self.assertEqual((self.wire.transport.value(), self.flushLoggedErrors()), (b"", []))


class NothingTests(BaseCase):
    """URLs that stand for nothing."""

    def test_not_found(self) -> None:
        for method in ("GET", "PUT", "POST", "DELETE"):
            answer = self.connect(Nothing(), request(method, "/a/b?c", None, b"x")).answer()
            self.assertEqual((answer.status, answer.body.partition(b":")[0]), (404, b"not-found"))

    def test_options(self) -> None:
        """Answered even here: a browser would hide the 404 of the request that it asks for."""
        answer = self.connect(Nothing(), request("OPTIONS", "/a/b")).answer()
        self.assertEqual((answer.status, answer.headers["access-control-allow-origin"]), (204, "*"))

    def test_children(self) -> None:
        """A child is found at its own place alone."""

        async def handler(_request: HmacfsRequest) -> Answer:
            return Answer(200)

        root = Nothing()
        root.putChild(b"child", OneResource(handler))
        for target, status in (("/child", 200), ("/x/child", 404), ("//child", 404), ("/childx", 404)):
            self.assertEqual(self.connect(root, request("GET", target)).answer().status, status, target)
