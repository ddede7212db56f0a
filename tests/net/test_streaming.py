"""Request bodies that stream: hmacfs.net.streaming."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from hmacfs.net.bodies import BodyTimeout, MalformedBody, RequestBody
from hmacfs.net.limits import Limits
from hmacfs.net.streaming import StreamingRequest, StreamingSite
from hmacfs.net.wheel import TICK_S
from tests.net.wire import (
    ABORTED,
    CLOSED,
    OPEN,
    Collector,
    Echo,
    Later,
    MemoryTransport,
    RecordingSite,
    StubbornTransport,
    Wire,
    connect,
    get,
    parse_answers,
    put,
    put_chunked,
    refuse,
    respond,
)

KiB = 1024
MiB = 1024 * KiB


def body_of(request: StreamingRequest) -> RequestBody:
    assert request.body is not None
    return request.body


class RenderingTests(SynchronousTestCase):
    """When a resource is rendered, and what it finds."""

    def test_rendered_when_the_headers_are_in(self) -> None:
        """The resource is asked before a byte of the body has been sent."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(length=1000, path=b"/a/b%20c?q=1"))
        request = later.request
        self.assertEqual((request.method, request.uri, request.path), (b"PUT", b"/a/b%20c?q=1", b"/a/b%20c"))
        self.assertEqual(request.postpath, [b"a", b"b c"])
        self.assertEqual((body_of(request).length, body_of(request).size), (1000, 1000))
        self.assertEqual(body_of(request).received, 0)

    def test_chunked_body_has_no_length(self) -> None:
        """The length of a chunked body is not known."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n")
        self.assertIs(body_of(later.request).length, UNKNOWN_LENGTH)
        self.assertIsNone(body_of(later.request).size)

    def test_no_body(self) -> None:
        """A request without a length, or with 0, has none."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(b""))
        self.assertIsNone(later.request.body)
        respond(later.request, 200)
        wire.send(get())
        self.assertIsNone(later.request.body)

    def test_body_is_a_body_producer(self) -> None:
        """It provides the interface that a client's bodies have."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(b"x"))
        self.assertTrue(verifyObject(IBodyProducer, later.request.body))

    def test_forms_are_not_parsed(self) -> None:
        """Neither a form's body nor the query gets into ``args``, and ``content`` is empty."""
        later = Later()
        wire, _, _ = connect(later)
        form = b"Content-Type: application/x-www-form-urlencoded"
        wire.send(put(b"a=1&b=2", form, path=b"/?c=3").replace(b"PUT", b"POST"))
        self.assertEqual(later.request.args, {})
        self.assertEqual(later.request.content.read(), b"")

    def test_absolute_form(self) -> None:
        """A request target with scheme and host means the same as without."""
        wire, _, _ = connect(Echo())
        wire.send(get(b"HTTP://h:80//a/b?c"), get(b"http://h"), get(b"http://h?q"))
        self.assertEqual([answer.body for answer in wire.answers()], [b"GET //a/b?c", b"GET /", b"GET /?q"])

    def test_no_absolute_form(self) -> None:
        """What looks like scheme and host further on belongs to the path."""
        wire, _, _ = connect(Echo())
        wire.send(get(b"/a/http://h/b"), get(b"xhttp://h/b"), get(b"/?q=http://h/b"))
        bodies = [answer.body for answer in wire.answers()]
        self.assertEqual(bodies, [b"GET /a/http://h/b", b"GET /xhttp://h/b", b"GET /?q=http://h/b"])

    def test_raw_octets_in_the_target(self) -> None:
        """Octets beyond ASCII, which some clients don't encode, arrive encoded."""
        wire, _, _ = connect(Echo())
        wire.send(get("/ä€".encode()))
        self.assertEqual(wire.answer().body, b"GET /%C3%A4%E2%82%AC")

    def test_cookies(self) -> None:
        """They are parsed as ever."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(b"", b"Cookie: a=b"))
        self.assertEqual(later.request.getCookie(b"a"), b"b")

    def test_options_star(self) -> None:
        """``OPTIONS *`` asks about the server and reaches no resource."""
        wire, _, _ = connect(Later())
        wire.send(get(b"*", b"OPTIONS"))
        self.assertEqual(wire.answer().status, 200)

    def test_site_headers_stand_on_every_answer(self) -> None:
        """Those of resources, of Twisted and of the channel alike; a resource may replace them."""

        def handler(request: StreamingRequest) -> Any:
            if request.path == b"/own":
                request.setHeader(b"x-site", b"own")
            if request.path == b"/fails":
                raise ValueError("on purpose")
            return b"fine"

        wire, _, _ = connect(handler, headers=[(b"X-Site", b"yes")])
        wire.send(get(), get(b"/own"), get(b"/fails"), b"garbage\r\n\r\n")
        answers = wire.answers()
        self.assertEqual([answer.status for answer in answers], [200, 200, 500, 400])
        self.assertEqual([answer.headers["x-site"] for answer in answers], ["yes", "own", "yes", "yes"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class BodyTests(SynchronousTestCase):
    """The body as a producer."""

    def setUp(self) -> None:
        self.later = Later()
        self.wire, self.site, self.clock = connect(self.later)

    def test_bytes_reach_the_consumer_as_they_arrive(self) -> None:
        """Nothing is kept back until there is more."""
        self.wire.send(put(length=6))
        collector, done = self.later.start()
        self.wire.send(b"abc")
        self.assertEqual(collector.data, b"abc")
        self.assertNoResult(done)
        self.wire.send(b"def")
        self.assertEqual(collector.data, b"abcdef")
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(body_of(self.later.request).received, 6)

    def test_nothing_is_read_before_it_is_wanted(self) -> None:
        """What came with the headers waits; the socket is left alone until somebody wants the body."""
        self.wire.send(put(b"a" * 1000, length=5000), b"b" * 1000, b"c" * 3000)
        self.assertEqual(self.wire.unread, 4000)
        collector, done = self.later.start()
        self.wire.pump()
        self.successResultOf(done)
        self.assertEqual(collector.data, b"a" * 1000 + b"b" * 1000 + b"c" * 3000)

    def test_whole_body_with_the_headers(self) -> None:
        """A body that was there before anybody asked is delivered at once."""
        self.wire.send(put(b"abc"))
        collector, done = self.later.start()
        self.successResultOf(done)
        self.assertEqual(collector.data, b"abc")

    def test_backpressure_reaches_the_socket(self) -> None:
        """A paused body is not read; a resumed one goes on where it was."""
        self.wire.send(put(length=4))
        collector, done = self.later.start()
        body_of(self.later.request).pauseProducing()
        self.assertFalse(self.wire.reading)
        self.wire.send(b"abcd")
        self.assertEqual(collector.data, b"")
        body_of(self.later.request).resumeProducing()
        self.wire.pump()
        self.assertEqual(collector.data, b"abcd")
        self.successResultOf(done)

    def test_paused_body_writes_nothing(self) -> None:
        """What has been read already, here further chunks of one packet, waits for the end of the pause."""
        self.wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        body = body_of(self.later.request)

        class PausesAfterOne(Collector):
            def write(self, data: bytes) -> None:
                super().write(data)
                body.pauseProducing()

        collector = PausesAfterOne()
        done = body.startProducing(collector)
        self.wire.send(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
        self.assertEqual(collector.data, b"a")
        body.resumeProducing()
        self.assertEqual(collector.data, b"ab")
        self.successResultOf(done)

    def test_paused_before_the_start(self) -> None:
        """A consumer that has nowhere to put things yet may say so when the body is registered."""
        self.wire.send(put(b"abcd"))
        body = body_of(self.later.request)
        body.pauseProducing()
        collector, done = self.later.start()
        self.assertEqual(collector.data, b"")
        body.resumeProducing()
        self.assertEqual(collector.data, b"abcd")
        self.successResultOf(done)

    def test_consumer_that_resumes_while_it_is_written_to(self) -> None:
        """The order of the bytes stands, whatever a consumer calls from its ``write``."""
        self.wire.send(put_chunked(b"a", b"b", b"c"))
        body = body_of(self.later.request)

        class Restless(Collector):
            def write(self, data: bytes) -> None:
                body.pauseProducing()
                body.resumeProducing()
                super().write(data)

        collector = Restless()
        done = body.startProducing(collector)
        self.assertEqual(collector.data, b"abc")
        self.successResultOf(done)

    def test_room_for_an_answer_does_not_resume_a_held_body(self) -> None:
        """The transport's own pausing and that of the body's consumer are two things."""
        self.wire.send(put(length=4))
        self.later.start()
        body_of(self.later.request).pauseProducing()
        self.wire.channel.pauseProducing()
        self.wire.channel.resumeProducing()
        self.assertFalse(self.wire.reading)

    def test_body_is_not_read_while_the_peer_does_not_read(self) -> None:
        """A consumer that wants more doesn't override the transport."""
        self.wire.send(put(length=4))
        self.later.start()
        body = body_of(self.later.request)
        body.pauseProducing()
        self.wire.channel.pauseProducing()
        body.resumeProducing()
        self.assertFalse(self.wire.reading)
        self.wire.channel.resumeProducing()
        self.assertTrue(self.wire.reading)

    def test_consumer_that_raises(self) -> None:
        """Its very exception is the failure, it is written to no more, and an answer is possible."""
        error = OSError(28, "No space left on device")

        class Full(Collector):
            def write(self, data: bytes) -> None:
                super().write(data)
                raise error

        self.wire.send(put(length=200 * KiB))
        full = Full()
        done = body_of(self.later.request).startProducing(full)
        self.wire.send(b"a", b"b")
        self.assertIs(self.failureResultOf(done).value, error)
        self.assertEqual(full.writes, 1)
        respond(self.later.request, 507)
        self.assertEqual(self.wire.statuses(), [507])

    def test_stopped_body_waits_for_the_answer(self) -> None:
        """After a failure the peer is held back: nothing is read that nobody wants, until the answer is decided."""
        self.wire.send(put(length=200 * KiB))
        _, done = self.later.start()
        body_of(self.later.request).stopProducing()
        self.assertNoResult(done)
        self.assertFalse(self.wire.reading)
        respond(self.later.request, 403)
        self.assertTrue(self.wire.reading)

    def test_cancelling_stops(self) -> None:
        """A cancelled Deferred stops the body."""
        self.wire.send(put(length=4))
        collector, done = self.later.start()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.wire.send(b"abcd")
        self.assertEqual(collector.data, b"")

    def test_lost_peer(self) -> None:
        """The failure is the connection's own reason; what had arrived was written before."""
        self.wire.send(put(length=4), b"ab")
        collector, done = self.later.start()
        reason = self.wire.vanish()
        self.assertIs(self.failureResultOf(done), reason)
        self.assertEqual(collector.data, b"ab")

    def test_peer_lost_before_the_start(self) -> None:
        """Whoever asks late gets what there was, and then the reason."""
        self.wire.send(put(b"ab", length=4))
        self.wire.vanish()
        collector, done = self.later.start()
        self.failureResultOf(done, ConnectionDone)
        self.assertEqual(collector.data, b"ab")

    def test_peer_lost_while_paused(self) -> None:
        """Bytes that had been read before are not lost with the peer."""
        self.wire.send(put(b"ab", length=4))
        body = body_of(self.later.request)
        body.pauseProducing()
        collector, done = self.later.start()
        self.wire.vanish()
        self.assertNoResult(done)
        body.resumeProducing()
        self.assertEqual(collector.data, b"ab")
        self.failureResultOf(done, ConnectionDone)

    def test_consumer_outlives_the_connection(self) -> None:
        """What it says to the body then has no effect on a transport that may serve somebody else."""
        self.wire.send(put(length=4))
        _, done = self.later.start()
        self.wire.vanish()
        self.failureResultOf(done, ConnectionDone)
        body_of(self.later.request).pauseProducing()
        self.assertTrue(self.wire.reading)

    def test_lost_request(self) -> None:
        """``notifyFinish`` tells of it as ever."""
        self.wire.send(put(length=4))
        finished = self.later.request.notifyFinish()
        reason = self.wire.vanish()
        self.assertIs(self.failureResultOf(finished), reason)
        self.assertTrue(self.later.request.lost)

    def test_only_once(self) -> None:
        """A body can't be had twice, nor after it was stopped."""
        self.wire.send(put(length=2))
        self.later.start()
        self.assertRaises(RuntimeError, self.later.start)
        self.wire.send(b"ab")
        self.assertRaises(RuntimeError, self.later.start)
        respond(self.later.request, 200)
        self.wire.send(put(b"ab"))
        body_of(self.later.request).stopProducing()
        self.assertRaises(RuntimeError, self.later.start)

    def test_consumer_that_stops_and_raises(self) -> None:
        """The Deferred never fires, as promised; the exception is logged."""

        class Contrary(Collector):
            def write(inner, data: bytes) -> None:
                body_of(self.later.request).stopProducing()
                raise ValueError("on purpose")

        self.wire.send(put(b"ab"))
        done = body_of(self.later.request).startProducing(Contrary())
        self.assertNoResult(done)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_more_is_read_at_a_time(self) -> None:
        """The socket's read size is raised for a long body, and only as long as it arrives."""
        wire, _, _ = connect(self.later, body_buffer_bytes=256 * KiB)
        wire.send(put(length=70_000))
        self.assertEqual(wire.transport.bufferSize, 64 * KiB)
        self.later.start()
        self.assertEqual(wire.transport.bufferSize, 256 * KiB)
        wire.send(b"a" * 70_000)
        self.assertEqual(wire.transport.bufferSize, 64 * KiB)

    def test_short_body_needs_no_buffer(self) -> None:
        """A body that fits into the usual read is read as usual."""
        wire, _, _ = connect(self.later, body_buffer_bytes=256 * KiB)
        wire.send(put(length=1000))
        self.later.start()
        self.assertEqual(wire.transport.bufferSize, 64 * KiB)


class ContinueTests(SynchronousTestCase):
    """``Expect: 100-continue`` (RFC 9110 section 10.1.1)."""

    EXPECT = b"Expect: 100-Continue"

    def setUp(self) -> None:
        self.later = Later()
        self.wire, _, _ = connect(self.later)

    def test_sent_when_the_body_is_wanted(self) -> None:
        """Not before, and once."""
        self.wire.send(put(self.EXPECT[:0], self.EXPECT, length=3))
        self.assertTrue(self.later.request.expectsContinue)
        self.assertEqual(self.wire.transport.value(), b"")
        _, done = self.later.start()
        self.assertEqual(self.wire.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wire.send(b"abc")
        self.successResultOf(done)
        respond(self.later.request, 201)
        self.assertEqual((self.wire.answer().status, self.wire.answer().interim), (201, (100,)))
        self.assertEqual(self.wire.end, OPEN)

    def test_refused(self) -> None:
        """No 100; the connection closes, since the body may follow or not."""
        self.wire.send(put(b"", self.EXPECT, length=3))
        respond(self.later.request, 403)
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.interim, answer.headers["connection"]), (403, (), "close"))
        self.wire.send(b"abc")
        self.assertEqual(self.wire.end, CLOSED)

    def test_refused_and_not_sent(self) -> None:
        """Where the body doesn't follow the connection closes after a while."""
        wire, _, clock = connect(refuse(403), linger_s=5)
        wire.send(put(b"", self.EXPECT, length=3))
        clock.advance(4)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual(wire.end, CLOSED)

    def test_sent_anyway(self) -> None:
        """A client that doesn't wait gets no 100, and keeps its connection if the body is short."""
        self.wire.send(put(b"ab", self.EXPECT, length=3))
        self.assertFalse(self.later.request.expectsContinue)
        respond(self.later.request, 403)
        self.wire.send(b"c" + get())
        respond(self.later.request, 200)
        self.assertEqual([(a.status, a.interim) for a in self.wire.answers()], [(403, ()), (200, ())])

    def test_answered_after_it_was_sent(self) -> None:
        """A client that was told to go on will send the body: a short one is skipped."""
        self.wire.send(put(b"", self.EXPECT, length=3))
        self.later.start()
        respond(self.later.request, 507)
        self.wire.send(b"abc" + get())
        self.assertEqual((len(self.later.requests), self.wire.end), (2, OPEN))

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 client doesn't know 1xx responses."""
        self.wire.send(put(b"", self.EXPECT, length=3).replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertFalse(self.later.request.expectsContinue)
        self.later.start()
        self.assertEqual(self.wire.transport.value(), b"")

    def test_nothing_to_wait_for(self) -> None:
        """A request without a body is not told to go on with it."""
        wire, _, _ = connect(Echo())
        wire.send(put(b"", self.EXPECT))
        self.assertEqual(wire.answer().interim, ())


class EarlyAnswerTests(SynchronousTestCase):
    """An answer before the body has arrived."""

    def test_short_rest_is_skipped(self) -> None:
        """The connection goes on, with the next request."""
        wire, site, _ = connect(refuse(403))
        wire.send(put(length=64 * KiB))
        self.assertEqual(wire.statuses(), [403])
        wire.send(b"x" * 64 * KiB, put(b"", path=b"/2"))
        self.assertEqual(wire.statuses(), [403, 403])
        self.assertEqual(wire.end, OPEN)
        self.assertEqual([request.path for request in site.finished], [b"/f", b"/2"])

    def test_short_bodies_pipelined(self) -> None:
        """Refused requests with their bodies in one packet get their answers in order."""
        wire, _, _ = connect(refuse(409))
        wire.send(put(b"GET /no HTTP/1.1\r\n\r\n") * 3 + get())
        self.assertEqual(wire.statuses(), [409] * 4)

    def test_short_rest_that_does_not_come(self) -> None:
        """It is not waited for beyond *linger_s*."""
        wire, _, clock = connect(refuse(403), linger_s=5)
        wire.send(put(b"x", length=1000))
        clock.advance(4)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual(wire.end, CLOSED)
        self.assertEqual(wire.statuses(), [403])

    def test_long_body(self) -> None:
        """It is answered with ``Connection: close`` at once, and the answer is not cut off by a close."""
        wire, _, _ = connect(refuse(413))
        wire.send(put(length=500 * MiB))
        answer = wire.answer()
        self.assertEqual((answer.status, answer.headers["connection"], answer.body), (413, "close", b"no"))
        for _ in range(4):
            wire.send(b"x" * MiB)
        self.assertEqual(wire.end, OPEN)

    def test_discarding_has_a_size(self) -> None:
        """After *linger_bytes* nothing is read any more: a peer that can't send will look up."""
        wire, _, clock = connect(refuse(413), linger_bytes=MiB, linger_s=5)
        wire.send(put(length=500 * MiB), b"x" * MiB)
        self.assertTrue(wire.reading)
        wire.send(b"x")
        self.assertFalse(wire.reading)
        clock.advance(4)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual(wire.end, CLOSED)

    def test_discarding_has_an_end(self) -> None:
        """After *linger_s* it ends, however busy the peer is."""
        wire, _, clock = connect(refuse(413), linger_s=5)
        wire.send(put(length=500 * MiB))
        for _ in range(5):
            self.assertEqual(wire.end, OPEN)
            wire.send(b"x")
            clock.advance(1)
        self.assertEqual(wire.end, CLOSED)

    def test_whole_body_discarded(self) -> None:
        """Once all of a long body has gone by, there is nothing to wait for."""
        wire, _, _ = connect(refuse(413))
        wire.send(put(length=MiB), b"x" * (MiB - 1))
        self.assertEqual(wire.end, OPEN)
        wire.send(b"x")
        self.assertEqual(wire.end, CLOSED)

    def test_chunked_body_is_not_skipped(self) -> None:
        """How much of it is to come nobody knows."""
        wire, _, _ = connect(refuse(411))
        wire.send(put_chunked(b"a" * 10) + get())
        self.assertEqual((wire.answer().status, wire.answer().headers["connection"]), (411, "close"))

    def test_nothing_is_parsed_after_a_close_was_announced(self) -> None:
        """Neither a broken chunk nor another request in the rest of a refused body gets a second answer."""
        head = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        for rest in (b"not a chunk\r\n", b"0\r\n\r\n" + get(), b"5\r\nabcdeXX\r\n", b"\r\n\r\n" + get()):
            for pieces in ([head + rest], [head, rest], [head, *(rest[i : i + 1] for i in range(len(rest)))]):
                wire, site, _ = connect(refuse(403))
                wire.send(*pieces)
                self.assertEqual(wire.statuses(), [403], rest)
                self.assertEqual((len(site.finished), site.malformed), (1, []))

    def test_answer_in_the_middle_of_a_packet(self) -> None:
        """A consumer that fails on the first of several chunks makes the rest of the packet unheard."""

        class Full(Collector):
            def write(self, data: bytes) -> None:
                raise ValueError("full")

        def handler(request: StreamingRequest) -> Any:
            done = body_of(request).startProducing(Full())
            done.addErrback(lambda _: respond(request, 507))
            return NOT_DONE_YET

        for rest, end in ((b"1\r\nb\r\n0\r\n\r\n" + get(), CLOSED), (b"1\r\nb\r\n", OPEN), (b"broken", OPEN)):
            wire, site, clock = connect(handler)
            wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n" + rest)
            self.assertEqual(wire.statuses(), [507])
            self.assertEqual((len(site.finished), site.malformed), (1, []))
            self.assertEqual(wire.end, end)
            clock.advance(5)
            self.assertEqual(wire.end, CLOSED)

    def test_failure_on_the_last_byte(self) -> None:
        """A body that is refused when all of it has arrived leaves the connection in order."""

        class Picky(Collector):
            def write(self, data: bytes) -> None:
                raise ValueError("wrong digest")

        def handler(request: StreamingRequest) -> Any:
            if request.body is None:
                return b"next"
            done = request.body.startProducing(Picky())
            done.addErrback(lambda _: respond(request, 400))
            return NOT_DONE_YET

        wire, _, _ = connect(handler)
        wire.send(put(b"x" * 100 * KiB) + get())
        self.assertEqual(wire.statuses(), [400, 200])

    def test_answer_after_a_while(self) -> None:
        """A decision that takes its time finds the peer held back, and behaves as one taken at once."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(length=10 * MiB), *[b"x" * 64 * KiB] * 20)
        self.assertEqual(wire.unread, 19 * 64 * KiB)
        respond(later.request, 403)
        wire.pump()
        self.assertEqual(wire.unread, 0)
        self.assertEqual(wire.answer().headers["connection"], "close")

    def test_long_answer_before_the_body(self) -> None:
        """What arrives while such an answer is being written is discarded, and not for ever."""
        later = Later()
        wire, _, _ = connect(later, linger_bytes=MiB)
        wire.send(put(b"x", length=10 * MiB))
        self.assertFalse(wire.reading)
        request = later.request
        request.setHeader(b"content-length", b"2")
        request.write(b"a")
        self.assertTrue(wire.reading)
        wire.send(*[b"x" * 64 * KiB] * 40)
        self.assertFalse(wire.reading)
        self.assertEqual(wire.end, OPEN)
        request.write(b"b")
        request.finish()
        self.assertEqual((wire.answer().body, wire.reading), (b"ab", False))

    def test_answer_in_chunks(self) -> None:
        """An early answer without Content-Length ends properly."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(length=10 * MiB))
        later.request.write(b"abc")
        later.request.finish()
        self.assertEqual(wire.answer().body, b"abc")

    def test_http_1_0(self) -> None:
        """The status arrives, and the connection lingers as well."""
        wire, _, _ = connect(refuse(403))
        wire.send(put(b"x", length=100).replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual(wire.statuses(), [403])
        self.assertEqual(wire.end, OPEN)
        wire.send(b"x" * 99)
        self.assertEqual(wire.end, CLOSED)

    def test_finished_is_finished(self) -> None:
        """``notifyFinish`` fires with the answer, not when the body has gone by; a peer that leaves changes nothing."""
        later = Later()
        wire, site, _ = connect(later)
        wire.send(put(length=10 * MiB))
        finished = later.request.notifyFinish()
        respond(later.request, 403)
        self.assertIsNone(self.successResultOf(finished))
        wire.vanish()
        self.assertEqual(site.finished, [later.request])
        self.assertFalse(later.request.lost)

    def test_stopped_body_is_left_alone(self) -> None:
        """A resource that answers while its consumer is still being written to has stopped the body."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(length=10))
        collector, done = later.start()
        wire.send(b"ab")
        respond(later.request, 200)
        wire.send(b"cdefghij", get())
        self.assertEqual(collector.data, b"ab")
        self.assertNoResult(done)
        self.assertEqual(len(later.requests), 2)


class ConnectionTests(SynchronousTestCase):
    """Requests one after the other."""

    def test_keep_alive(self) -> None:
        """Bodies and requests without one alternate on one connection."""
        wire, _, _ = connect(Echo())
        wire.send(put(b"abc"))
        wire.send(get())
        wire.send(put_chunked(b"d", b"ef", trailers=b"X-T: 1\r\n"))
        wire.send(put(b""))
        self.assertEqual([answer.body for answer in wire.answers()], [b"abc", b"GET /g", b"def", b"PUT /f"])
        self.assertEqual(wire.end, OPEN)

    def test_pipelined(self) -> None:
        """The same in one packet."""
        wire, _, _ = connect(Echo())
        wire.send(put(b"abc") + get() + put_chunked(b"d", b"ef", trailers=b"X-T: 1\r\n") + put(b"") + put(b"g"))
        self.assertEqual([answer.body for answer in wire.answers()], [b"abc", b"GET /g", b"def", b"PUT /f", b"g"])

    def test_pipelined_while_a_resource_is_at_work(self) -> None:
        """The next request waits until the answer before it is finished, and is not read into memory."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get() + put(length=MiB), *[b"x" * 64 * KiB] * 16)
        self.assertEqual(len(later.requests), 1)
        self.assertFalse(wire.reading)
        respond(later.request, 200)
        wire.pump()
        collector, done = later.start()
        wire.pump()
        self.successResultOf(done)
        self.assertEqual(len(collector.data), MiB)

    def test_malformed_request_behind_a_good_one(self) -> None:
        """Its refusal comes after the good one's answer, not into it."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get() + b"GET / HTTP/1.1\r\nHost: h\r\nbad header\r\n\r\n")
        request = later.request
        request.setHeader(b"content-length", b"4")
        request.write(b"ab")
        self.assertTrue(wire.transport.value().endswith(b"ab"))
        request.write(b"cd")
        request.finish()
        self.assertEqual([answer.status for answer in wire.answers()], [200, 400])

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 request with a body is answered and the connection closed."""
        wire, _, _ = connect(Echo())
        wire.send(b"PUT /f HTTP/1.0\r\nContent-Length: 3\r\n\r\nab", b"c" + get())
        self.assertEqual(wire.answer().body, b"abc")
        self.assertEqual(wire.end, CLOSED)

    def test_connection_close(self) -> None:
        """A client's wish to close is followed."""
        wire, _, _ = connect(Echo())
        wire.send(put(b"abc", b"Connection: close") + get())
        self.assertEqual(wire.answer().headers["connection"], "close")
        self.assertEqual(wire.end, CLOSED)

    def test_resource_that_closes(self) -> None:
        """An answer that says ``Connection: close`` is the connection's last."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get() + get())
        later.request.setHeader(b"connection", b"close")
        respond(later.request, 503)
        self.assertEqual((wire.statuses(), len(later.requests), wire.end), ([503], 1, CLOSED))

    def test_head(self) -> None:
        """The answer to HEAD has no body, and the connection goes on."""
        wire, _, _ = connect(Echo())
        wire.send(get(method=b"HEAD") + get())
        self.assertEqual([a.body for a in wire.answers("HEAD", "GET")], [b"", b"GET /g"])

    def test_early_answer_to_head(self) -> None:
        """Strange, but a HEAD may have a body."""
        wire, _, _ = connect(refuse(403))
        wire.send(put(b"abc").replace(b"PUT", b"HEAD") + get())
        self.assertEqual([a.status for a in wire.answers("HEAD", "GET")], [403, 403])

    def test_empty_line_before_a_request(self) -> None:
        """One is skipped (RFC 9112 section 2.2)."""
        wire, _, _ = connect(Echo())
        wire.send(put(b"abc") + b"\r\n" + get())
        self.assertEqual(wire.statuses(), [201, 200])

    def test_unread_body_does_not_stay_held(self) -> None:
        """A connection whose body was paused to its end reads the next request."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(put(b"abc"))
        _, done = later.start()
        self.successResultOf(done)
        respond(later.request, 201)
        wire.send(put(b"abc"), get())
        respond(later.request, 409)
        wire.pump()
        self.assertEqual(len(later.requests), 3)
        wire.channel.pauseProducing()
        wire.channel.resumeProducing()
        self.assertTrue(wire.reading)

    def test_resource_fails_after_its_answer_has_begun(self) -> None:
        """The connection is cut: nothing else tells the client that the answer is not whole."""

        def handler(request: StreamingRequest) -> Any:
            request.setHeader(b"content-length", b"10")
            request.write(b"abc")
            raise ValueError("on purpose")

        wire, site, _ = connect(handler)
        wire.send(get())
        self.assertEqual(wire.end, ABORTED)
        self.assertEqual(wire.transport.value().count(b"HTTP/1.1"), 1)
        self.assertTrue(site.finished[0].lost)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_resource_fails_after_its_answer(self) -> None:
        """The answer stands."""

        def handler(request: StreamingRequest) -> Any:
            respond(request, 200)
            raise ValueError("on purpose")

        wire, _, _ = connect(handler)
        wire.send(get())
        self.assertEqual((wire.statuses(), wire.end), ([200], OPEN))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_producer_that_comes_late(self) -> None:
        """A push producer that registers while the transport is full is told so at once."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get())
        wire.channel.pauseProducing()
        told = []

        class Producer:
            def pauseProducing(self) -> None:
                told.append("pause")

            def resumeProducing(self) -> None:
                told.append("resume")

        self.assertFalse(wire.channel.writable)
        later.request.registerProducer(Producer(), True)
        self.assertEqual(told, ["pause"])
        wire.channel.resumeProducing()
        wire.channel.pauseProducing()
        self.assertEqual(told, ["pause", "resume", "pause"])

    def test_answers_that_nobody_reads(self) -> None:
        """A request behind an answer that has filled the transport waits, so that answers don't pile up in memory."""
        later = Later()
        wire, _, clock = connect(later, idle_timeout_s=60, write_timeout_s=900)
        wire.send(get() + put(b"abc") + get())
        wire.channel.pauseProducing()
        respond(later.request, 200, b"x" * 100 * KiB)
        self.assertEqual(len(later.requests), 1)
        clock.advance(899)
        self.assertEqual(wire.end, OPEN)
        wire.channel.resumeProducing()
        self.assertEqual(len(later.requests), 2)
        respond(later.request, 200)
        respond(later.request, 200)
        self.assertEqual(wire.statuses(), [200] * 3)
        clock.advance(60)
        self.assertEqual(wire.end, CLOSED)

    def test_answers_that_nobody_reads_after_a_refusal(self) -> None:
        """The same where the rest of a body was skipped."""
        later = Later()
        wire, _, clock = connect(later, linger_s=5)
        wire.send(put(length=3))
        wire.channel.pauseProducing()
        respond(later.request, 403)
        wire.channel.dataReceived(b"abc" + get())
        clock.advance(100)
        self.assertEqual((wire.end, len(later.requests)), (OPEN, 1))
        wire.channel.resumeProducing()
        self.assertEqual(len(later.requests), 2)

    def test_no_http2(self) -> None:
        """A TLS endpoint must not agree on h2, whose requests are rendered late."""
        self.assertEqual(StreamingSite(Resource(), reactor=Clock()).acceptableProtocols(), [b"http/1.1"])


#: A head that is refused, and with which status.
MALFORMED = [
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\nGET /evil HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x1bb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: h\n\n\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX\n: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX\t: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n" + b"a" * 70000, 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n\xc3\xa4: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h@evil\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\nHost: h, evil/\r\n\r\n", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3_0\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: \xb2\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\n\r\nabc" % (b"9" * 5000), 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\ncontent-length: 5\r\n\r\nabc", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"PUT / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400),
    (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\n\r\n", 505),
    (b"GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400),
    (b"GET / http/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET / a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
    (b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET /\x0b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET /a\nb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 17000), 414),
    (b"GET /%b" % (b"a" * 70000), 414),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"a" * 17000), 431),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: %b" % (b"a" * 70000), 431),
    (b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % (b"X: 1234567890\r\n" * 1500), 431),
    (b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % (b"X:\r\n" * 501), 431),
]


class MalformedHeadTests(SynchronousTestCase):
    """Heads that could be understood in two ways, or not at all: the same on every version of Twisted."""

    def check(self, status: int, *pieces: bytes) -> None:
        wire, site, clock = connect(Echo())
        wire.send(*pieces)
        answer = wire.answer()
        self.assertEqual((answer.status, answer.headers["connection"]), (status, "close"))
        self.assertEqual([(host, code) for host, code, _ in site.malformed], [("192.0.2.1", status)])
        self.assertEqual(site.finished, [])
        clock.advance(5)
        self.assertEqual(wire.end, CLOSED)

    def test_refused_once(self) -> None:
        """Each gets one answer and is reported once; what follows is not looked at."""
        for head, status in MALFORMED:
            self.check(status, head + get())

    def test_refused_once_byte_by_byte(self) -> None:
        """The same when every byte comes alone."""
        for head, status in MALFORMED:
            if len(head) < 1000:
                self.check(status, *(head[i : i + 1] for i in range(len(head))))

    def test_answer_says_why(self) -> None:
        """A word and a sentence, and nothing of the request."""
        wire, _, _ = connect(Echo())
        wire.send(b"GET /secret HTTP/1.1\r\nHost: h\r\nX : secret\r\n\r\n")
        answer = wire.answer()
        self.assertEqual(answer.body, b"malformed-head: A header line is malformed.\n")
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")

    def test_refusal_lingers(self) -> None:
        """A client that is still sending its body sees the refusal."""
        wire, _, _ = connect(Echo())
        wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", b"x" * MiB)
        self.assertEqual(wire.end, OPEN)

    def test_twisteds_own_objections(self) -> None:
        """What Twisted's parser refuses beyond our checks is answered and reported alike."""
        wire, site, _ = connect(Echo())
        wire.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        wire.channel._respondToBadRequestAndDisconnect()
        wire.send(b"\r\n")
        self.assertEqual(wire.statuses(), [400])
        self.assertEqual(site.malformed, [("192.0.2.1", 400, "malformed-head")])

    def test_hook_that_fails(self) -> None:
        """It is logged; the wire sees nothing of it."""

        class Broken(RecordingSite):
            def malformedRequest(self, *args: Any) -> None:
                raise ValueError("on purpose")

        wire = Wire(Broken(Echo(), Clock()))
        wire.send(b"garbage\r\n\r\n")
        self.assertEqual(wire.statuses(), [400])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class MalformedBodyTests(SynchronousTestCase):
    """A chunked body whose coding is broken."""

    def test_body_fails_and_the_resource_answers(self) -> None:
        """Once, with close; what arrived before the fault was written."""
        echo = Echo()
        wire, site, clock = connect(echo)
        wire.send(put_chunked(b"abc")[:-5], b"XX\r\n" + get())
        self.assertEqual((wire.answer().status, wire.answer().body), (400, b"MalformedBody"))
        self.assertEqual(wire.answer().headers["connection"], "close")
        self.assertEqual(site.malformed, [("192.0.2.1", 400, "malformed-body")])
        self.assertEqual(len(site.finished), 1)
        clock.advance(5)
        self.assertEqual(wire.end, CLOSED)

    def test_fault_before_the_body_is_wanted(self) -> None:
        """It is told to whoever asks."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX")
        collector, done = later.start()
        self.failureResultOf(done, MalformedBody)
        self.assertEqual(collector.data, b"abc")

    def test_fault_while_an_answer_is_being_written(self) -> None:
        """It does not get into that answer (twisted issue 4894)."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        later.start()
        later.request.setHeader(b"content-length", b"4")
        later.request.write(b"ab")
        wire.send(b"broken\r\n")
        later.request.write(b"cd")
        later.request.finish()
        self.assertEqual(wire.answer().body, b"abcd")

    def test_negative_and_huge_chunk_sizes(self) -> None:
        """A size that is no plain hexadecimal number is a fault; a huge one is none by itself."""
        for size, failed in ((b"-1", 1), (b"+1", 1), (b"0x1", 1), (b"1_0", 1), (b" 1", 1), (b"", 1), (b"f" * 30, 0)):
            echo = Echo()
            wire, _, _ = connect(echo)
            wire.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\nabc")
            self.assertEqual(len(echo.errors), failed, size)


class TimeTests(SynchronousTestCase):
    """No connection lives for ever."""

    def test_silent_connection(self) -> None:
        """A connection without a byte is closed without a word."""
        wire, site, clock = connect(Echo(), header_timeout_s=30)
        clock.advance(29)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual((wire.end, wire.transport.value(), site.malformed), (CLOSED, b"", []))

    def test_slow_head(self) -> None:
        """However busily a client trickles its headers, they must be whole in time."""
        wire, site, clock = connect(Echo(), header_timeout_s=30)
        clock.advance(20)
        wire.send(b"GET / HTTP/1.1\r\n")
        for _ in range(29):
            clock.advance(1)
            wire.send(b"X: y\r\n")
        self.assertEqual(wire.transport.value(), b"")
        clock.advance(1)
        self.assertEqual((wire.answer().status, wire.answer().headers["connection"]), (408, "close"))
        self.assertEqual(site.malformed, [("192.0.2.1", 408, "head-timeout")])
        clock.advance(5)
        self.assertEqual(wire.end, CLOSED)

    def test_slow_head_of_a_later_request(self) -> None:
        """The time counts from the request's first byte, not from the connection's."""
        wire, _, clock = connect(Echo(), header_timeout_s=30, idle_timeout_s=60)
        wire.send(get())
        clock.advance(50)
        wire.send(b"G")
        clock.advance(29)
        self.assertEqual(wire.statuses(), [200])
        clock.advance(1)
        self.assertEqual(wire.statuses(), [200, 408])

    def test_slow_head_behind_another_request(self) -> None:
        """The same where its beginning came in one packet with the request before."""
        wire, _, clock = connect(Echo(), header_timeout_s=30, idle_timeout_s=60)
        wire.send(get() + b"GET / HTTP/1.1\r\n")
        clock.advance(30)
        self.assertEqual(wire.statuses(), [200, 408])

    def test_idle(self) -> None:
        """Between requests a connection is kept for *idle_timeout_s*."""
        wire, _, clock = connect(Echo(), idle_timeout_s=60)
        for _ in range(3):
            wire.send(put(b"abc"))
            clock.advance(59)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual((wire.statuses(), wire.end), ([201] * 3, CLOSED))

    def test_resource_takes_its_time(self) -> None:
        """A request whose resource is at work has no end of ours."""
        later = Later()
        wire, _, clock = connect(later)
        wire.send(get())
        clock.advance(100_000)
        respond(later.request, 200)
        self.assertEqual(wire.statuses(), [200])

    def test_body_stands_still(self) -> None:
        """After *read_timeout_s* without a byte the body fails; the resource answers, and that closes."""
        echo = Echo()
        wire, site, clock = connect(echo, read_timeout_s=900, min_body_rate=0)
        wire.send(put(length=100), b"a")
        clock.advance(899)
        wire.send(b"b")
        clock.advance(899)
        self.assertEqual(wire.transport.value(), b"")
        clock.advance(1)
        self.assertIsInstance(echo.errors[0], BodyTimeout)
        self.assertEqual((wire.answer().body, wire.answer().headers["connection"]), (b"BodyTimeout", "close"))
        wire.send(b"c" * 98 + get())
        self.assertEqual(wire.unread, 0)
        self.assertEqual((len(wire.answers()), len(site.finished), site.malformed), (1, 1, []))
        clock.advance(5)
        self.assertEqual(wire.end, CLOSED)

    def test_failed_body_is_not_read(self) -> None:
        """What comes after all waits for the answer."""
        later = Later()
        wire, _, clock = connect(later, read_timeout_s=900)
        wire.send(put(length=100))
        _, done = later.start()
        clock.advance(900)
        self.failureResultOf(done, BodyTimeout)
        wire.send(b"x" * 100)
        self.assertEqual(wire.unread, 100)
        respond(later.request, 408)
        wire.pump()
        self.assertEqual((wire.unread, wire.statuses()), (0, [408]))

    def test_every_minute_is_judged_by_itself(self) -> None:
        """A bad start may be made up for within the minute; a good minute doesn't help the next."""
        echo = Echo()
        wire, _, clock = connect(echo, min_body_rate=256)
        wire.send(put(length=100 * MiB), b"x")
        clock.pump([1] * 59)
        wire.send(b"x" * MiB)
        clock.advance(1)
        for _ in range(59):
            wire.send(b"x")
            clock.advance(1)
        self.assertEqual(echo.errors, [])
        clock.advance(1)
        self.assertIsInstance(echo.errors[0], BodyTimeout)

    def test_body_trickles(self) -> None:
        """A minute with fewer bytes than the minimum is the end."""
        echo = Echo()
        wire, _, clock = connect(echo, min_body_rate=256)
        wire.send(put(length=MiB))
        for _ in range(60):
            wire.send(b"x" * 256)
            clock.advance(1)
        self.assertEqual(echo.errors, [])
        for _ in range(60):
            wire.send(b"x" * 255)
            clock.advance(1)
        self.assertIsInstance(echo.errors[0], BodyTimeout)

    def test_minimum_rate_off(self) -> None:
        """With 0 a byte now and then will do."""
        echo = Echo()
        wire, _, clock = connect(echo, min_body_rate=0)
        wire.send(put(length=MiB))
        for _ in range(200):
            wire.send(b"x")
            clock.advance(1)
        self.assertEqual(echo.errors, [])

    def test_silent_minute_is_not_a_slow_one(self) -> None:
        """Silence is bounded by *read_timeout_s* alone."""
        echo = Echo()
        wire, _, clock = connect(echo, min_body_rate=256, read_timeout_s=900)
        wire.send(put(length=MiB))
        clock.pump([1] * 899)
        self.assertEqual(echo.errors, [])
        clock.advance(1)
        self.assertEqual(len(echo.errors), 1)

    def test_body_that_we_hold_back(self) -> None:
        """Neither counts while the consumer doesn't take anything; after that the time begins anew."""
        later = Later()
        wire, _, clock = connect(later, read_timeout_s=900)
        wire.send(put(length=10 * MiB))
        clock.advance(10_000)
        _, done = later.start()
        clock.advance(1)
        wire.send(b"x" * MiB)
        body_of(later.request).pauseProducing()
        clock.pump([1] * 2000)
        body_of(later.request).resumeProducing()
        clock.advance(59)
        wire.send(b"x")
        self.assertNoResult(done)
        clock.advance(1)
        self.failureResultOf(done, BodyTimeout)

    def test_body_completed_while_held(self) -> None:
        """A connection whose body was held back to its end has its timers again."""
        later = Later()
        wire, _, clock = connect(later, idle_timeout_s=60)
        wire.send(put(b"abc"))
        body = body_of(later.request)
        body.pauseProducing()
        _, done = later.start()
        clock.advance(1000)
        body.resumeProducing()
        self.successResultOf(done)
        respond(later.request, 201)
        clock.advance(60)
        self.assertEqual(wire.end, CLOSED)

    def test_reader_stands_still(self) -> None:
        """A peer that doesn't take an answer is cut off."""
        later = Later()
        wire, site, clock = connect(later, write_timeout_s=900)
        wire.send(get())
        later.request.write(b"much")
        wire.channel.pauseProducing()
        clock.advance(899)
        wire.channel.resumeProducing()
        wire.channel.pauseProducing()
        clock.advance(899)
        self.assertEqual(wire.end, OPEN)
        clock.advance(1)
        self.assertEqual(wire.end, ABORTED)
        self.assertTrue(site.finished[0].lost)

    def closing(self, *, full: bool) -> tuple[Wire, Clock]:
        clock = Clock()
        later = Later()
        wire = Wire(RecordingSite(later, clock, close_timeout_s=30, write_timeout_s=900), StubbornTransport())
        wire.send(put(b"abc", b"Connection: close"))
        if full:
            wire.channel.pauseProducing()
        respond(later.request, 200)
        self.assertEqual(wire.end, CLOSED)
        return wire, clock

    def test_close_that_takes_too_long(self) -> None:
        """A close whose last bytes nobody takes, or to which a TLS peer doesn't agree, ends with a cut."""
        wire, clock = self.closing(full=False)
        clock.advance(29)
        self.assertEqual(wire.end, CLOSED)
        clock.advance(1)
        self.assertEqual(wire.end, ABORTED)

    def test_close_with_much_to_send(self) -> None:
        """A long answer has the time of an answer."""
        wire, clock = self.closing(full=True)
        clock.advance(899)
        self.assertEqual(wire.end, CLOSED)
        clock.advance(1)
        self.assertEqual(wire.end, ABORTED)

    def test_closing_connection_stays_closing(self) -> None:
        """A resource that goes on after its connection was closed doesn't bring it back to life."""
        clock = Clock()
        later = Later()
        wire = Wire(RecordingSite(later, clock, close_timeout_s=30), StubbornTransport())
        wire.send(get() + get())
        wire.channel.loseConnection()
        wire.channel.loseConnection()
        respond(later.request, 200)
        self.assertEqual(len(later.requests), 1)
        clock.advance(30)
        self.assertEqual(wire.end, ABORTED)

    def test_nothing_is_left_behind(self) -> None:
        """The site's clock stands still when the last connection is gone, and ticks again with the next."""
        wire, site, clock = connect(Echo())
        other = Wire(site)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        self.assertEqual(site.channels, {wire.channel, other.channel})
        wire.vanish()
        other.vanish()
        self.assertEqual((clock.getDelayedCalls(), site.channels), ([], set()))
        Wire(site)
        self.assertEqual(len(clock.getDelayedCalls()), 1)

    def test_one_broken_connection_does_not_stop_the_clock(self) -> None:
        """An error of ours ends that connection and no other's timers."""
        wire, site, clock = connect(Echo(), header_timeout_s=30)
        other = Wire(site)

        def fail(now: float) -> float:
            raise ValueError("on purpose")

        wire.channel.checkTime = fail  # type: ignore[method-assign]
        clock.advance(30)
        self.assertEqual((wire.end, other.end), (ABORTED, CLOSED))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class PunctualityTests(SynchronousTestCase):
    """Every kind of slow client is cut at its second: not before, and no tick after."""

    def check(self, at: float, begin: Callable[[Wire], object], do: Callable[[Wire], object], **limits: Any) -> None:
        """Begin in the middle of a second, then do something every quarter of a second until it is over."""
        clock = Clock()
        clock.advance(1000.3)
        wire = Wire(RecordingSite(Echo(), clock, **limits), StubbornTransport())
        clock.advance(0.35)
        begin(wire)
        begun = clock.seconds()
        while wire.end == OPEN and not wire.transport.value():
            self.assertLess(clock.seconds() - begun, at + TICK_S)
            clock.advance(0.25)
            do(wire)
        self.assertGreaterEqual(clock.seconds() - begun, at)

    def test_slow_head(self) -> None:
        """A header now and then."""
        self.check(
            30, lambda wire: wire.send(b"GET / HTTP/1.1\r\n"), lambda wire: wire.send(b"X: y\r\n"), header_timeout_s=30
        )

    def test_slow_body(self) -> None:
        """Bytes, and then none."""
        self.check(7, lambda wire: wire.send(put(length=9), b"x"), lambda wire: None, read_timeout_s=7)

    def test_trickling_body(self) -> None:
        """A byte now and then."""
        self.check(
            60, lambda wire: wire.send(put(length=MiB)), lambda wire: wire.send(b"x"), min_body_rate=5, read_timeout_s=9
        )

    def test_slow_reader(self) -> None:
        """An answer that isn't taken."""

        def begin(wire: Wire) -> None:
            wire.send(b"G")
            wire.channel.pauseProducing()

        self.check(13, begin, lambda wire: None, write_timeout_s=13)

    def test_idle(self) -> None:
        """No next request."""

        def begin(wire: Wire) -> None:
            wire.send(get())
            wire.transport.clear()

        self.check(75, begin, lambda wire: None, idle_timeout_s=75, header_timeout_s=30)

    def test_a_busy_connection(self) -> None:
        """Who is busy is never cut, whatever its connection has been filed for before."""
        clock = Clock()
        wire = Wire(RecordingSite(Echo(), clock, idle_timeout_s=10, header_timeout_s=5, read_timeout_s=7))
        for _ in range(100):
            wire.send(put(length=2))
            clock.pump([0.5] * 12)
            wire.send(b"a")
            clock.pump([0.5] * 12)
            wire.send(b"b")
            clock.pump([0.5] * 19)
        self.assertEqual((wire.end, wire.statuses()), (OPEN, [201] * 100))


class HookTests(SynchronousTestCase):
    """``requestFinished``: once for every request."""

    def test_answered(self) -> None:
        """With all there is to log."""
        wire, site, clock = connect(Echo())
        clock.advance(5)
        wire.send(put(b"abc"))
        [request] = site.finished
        self.assertEqual((request.code, request.sentLength, request.startedAt), (201, 3, 5))
        self.assertEqual((body_of(request).received, request.lost), (3, False))

    def test_lost(self) -> None:
        """Once as well, though the resource may not have noticed."""
        later = Later()
        wire, site, _ = connect(later)
        wire.send(put(b"ab", length=3))
        wire.vanish()
        [request] = site.finished
        self.assertEqual((request.lost, body_of(request).received), (True, 2))

    def test_lost_after_the_answer(self) -> None:
        """A peer that leaves afterwards is not news."""
        wire, site, _ = connect(Echo())
        wire.send(put(b"abc"))
        wire.vanish()
        self.assertEqual(len(site.finished), 1)

    def test_head_never_whole(self) -> None:
        """A request that never was is not reported as one."""
        wire, site, _ = connect(Echo())
        wire.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        wire.vanish()
        self.assertEqual(site.finished, [])

    def test_pipelined_request_lost(self) -> None:
        """A request that waits behind a lost one was never rendered."""
        later = Later()
        wire, site, _ = connect(later)
        wire.send(get() + get())
        wire.vanish()
        self.assertEqual(len(site.finished), 1)

    def test_hook_that_fails(self) -> None:
        """It is logged; the connection goes on."""

        class Broken(RecordingSite):
            def requestFinished(self, request: StreamingRequest) -> None:
                raise ValueError("on purpose")

        wire = Wire(Broken(Echo(), Clock()))
        wire.send(get() + get())
        self.assertEqual(wire.statuses(), [200, 200])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_abort(self) -> None:
        """A request can be cut, once or twice, but not after its end."""
        later = Later()
        wire, site, _ = connect(later)
        wire.send(get())
        respond(later.request, 200)
        later.request.abort()
        self.assertEqual(wire.end, OPEN)
        wire.send(get())
        later.request.abort()
        later.request.abort()
        self.assertEqual((wire.end, site.finished[1].lost), (ABORTED, True))


def without_dates(wire: Wire, methods: tuple[str, ...]) -> list[tuple[int, tuple[int, ...], bytes, str | None]]:
    answers = parse_answers(wire.transport.value(), methods)
    return [(a.status, a.interim, a.body, a.headers.get("connection")) for a in answers]


#: A request, the method that the reader of its answer has to know, and status and body of the answer.
Exchange = tuple[bytes, str, int, bytes]


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    kind = draw(st.sampled_from(["get", "head", "identity", "chunked", "refused", "empty"]))
    body = draw(st.binary(min_size=1, max_size=60))
    if kind == "get":
        return get(b"/x"), "GET", 200, b"GET /x"
    if kind == "head":
        return get(b"/x", b"HEAD"), "HEAD", 200, b""
    if kind == "identity":
        return put(body), "PUT", 201, body
    if kind == "refused":
        return put(body, path=b"/refused"), "PUT", 403, b"no"
    if kind == "empty":
        return put(b""), "PUT", 200, b"PUT /f"
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    trailers = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
    return put_chunked(*chunks, trailers=trailers), "PUT", 201, b"".join(chunks)


def split(data: bytes, cuts: set[int]) -> list[bytes]:
    """*data* in pieces that begin at *cuts*."""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


class PickyEcho(Echo):
    """Refuses one path before the body."""

    def __call__(self, request: StreamingRequest) -> Any:
        if request.path == b"/refused":
            return refuse(403)(request)
        return super().__call__(request)


class SplitTests(SynchronousTestCase):
    """However the bytes of some requests are cut into packets, the answers are the same."""

    @settings(max_examples=200)
    @given(
        st.lists(exchanges(), min_size=1, max_size=6),
        st.sets(st.integers(0, 600)),
        st.booleans(),
    )
    def test_any_split(self, requests: list[Exchange], cuts: set[int], last: bool) -> None:
        """Identity and chunked bodies, refused ones, none; pipelined or not; to the last request and beyond."""
        data = b"".join(request for request, _, _, _ in requests)
        if last:
            data += b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX\r\n" + get()
        wire, site, _ = connect(PickyEcho())
        wire.send(*split(data, cuts))
        expected = [(status, (), body, None) for _, _, status, body in requests]
        if last:
            expected.append((400, (), b"MalformedBody", "close"))
        methods = tuple(method for _, method, _, _ in requests)
        self.assertEqual(without_dates(wire, methods), expected)
        self.assertEqual(len(site.finished), len(expected))

    @settings(max_examples=100)
    @given(st.binary(min_size=1, max_size=300), st.sets(st.integers(0, 600)), st.lists(st.booleans()), st.booleans())
    def test_any_rhythm(self, body: bytes, cuts: set[int], pauses: list[bool], chunked: bool) -> None:
        """A consumer that pauses when it likes gets the same bytes, and then the end."""
        half = len(body) // 2
        data = put_chunked(*filter(None, (body[:half], body[half:]))) if chunked else put(body)
        later = Later()
        wire, _, _ = connect(later)
        pieces = split(data, cuts)
        rhythm = iter(pauses)
        while not later.requests:
            wire.send(pieces.pop(0))
        received = body_of(later.request)

        class Consumer(Collector):
            def write(self, data: bytes) -> None:
                super().write(data)
                if next(rhythm, False):
                    received.pauseProducing()

        consumer = Consumer()
        done = received.startProducing(consumer)
        wire.send(*pieces)
        for _ in range(len(pauses) + 1):
            received.resumeProducing()
            wire.pump()
        self.successResultOf(done)
        self.assertEqual(consumer.data, body)
        respond(later.request, 201)
        self.assertEqual((wire.statuses(), wire.end), ([201], OPEN))


#: What requests are made of, and what they should not be made of.
LINES = [
    b"GET / HTTP/1.1\r\nHost: h",
    b"PUT / HTTP/1.1\r\nHost: h",
    b"PUT /refused HTTP/1.1\r\nHost: h",
    b"PUT / HTTP/1.0",
]
HEADERS = [b"Content-Length: 3", b"Content-Length: 99999", b"Transfer-Encoding: chunked", b"Expect: 100-continue"]
MORE = [b"Connection: close", b"X: y", b"", b"\r\n", b"3\r\nabc", b"0\r\n", b"0\r\nT: x\r\n", b"-1", b"f" * 30]
FRAGMENTS = [line + b"\r\n" for line in LINES + HEADERS + MORE] + [b"abc", b"\n", b"\r", b"\0", b" ", b"x" * 17000]


class AnythingTests(SynchronousTestCase):
    """Whatever comes, in whatever pieces."""

    @settings(max_examples=300)
    @given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=9), max_size=25), st.sets(st.integers(0, 900)))
    def test_anything(self, fragments: list[bytes], cuts: set[int]) -> None:
        """What goes out is a sequence of whole answers, one for each request; and the connection comes to an end."""
        wire, site, clock = connect(PickyEcho())
        wire.send(*split(b"".join(fragments), cuts))
        clock.pump([10] * 200)
        self.assertNotEqual(wire.end, OPEN)
        heads = [reason for _, _, reason in site.malformed if reason != "malformed-body"]
        answered = [request for request in site.finished if not request.lost]
        self.assertEqual(len(wire.answers()), len(answered) + len(heads))
        self.assertLess(len(heads), 2)
        self.assertEqual((clock.getDelayedCalls(), site.channels), ([], set()))


class LimitsTests(SynchronousTestCase):
    """The defaults."""

    def test_defaults(self) -> None:
        """A site without limits has those of :class:`Limits`."""
        site = StreamingSite(Resource(), reactor=Clock())
        self.assertEqual(site.limits, Limits())
        self.assertEqual((Limits().header_timeout_s, Limits().read_timeout_s), (30, 900))

    def test_transport_without_a_read_size(self) -> None:
        """Fakes need not have one."""

        class Bare(MemoryTransport):
            bufferSize = None  # type: ignore[assignment]

        wire = Wire(RecordingSite(Echo(), Clock()), Bare())
        wire.send(put_chunked(b"abc"))
        self.assertEqual(wire.answer().body, b"abc")
