"""Request bodies that stream, over true sockets: what only the kernel can show."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.web.server import NOT_DONE_YET

from hmacfs.net.streaming import StreamingRequest
from tests.net.sockets import LiveSite, LiveTestCase, ask, dial, in_thread, read_all
from tests.net.wire import Collector, Echo, get, parse_answers, put, put_chunked, refuse

KiB = 1024
MiB = 1024 * KiB

PROXY = b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 80\r\n"
CLOSE = b"Connection: close"


def send_until(client: socket.socket, size: int, enough: Callable[[], bool]) -> int:
    """Send up to *size* bytes, as fast as they are taken, and stop at *enough* or when the peer has closed."""
    sent = 0
    block = b"x" * 64 * KiB
    try:
        while sent < size and not enough():
            sent += client.send(block)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


class Refused(LiveTestCase):
    """The status of an early refusal reaches a client that is still sending its body."""

    def refused(self, head: bytes, address: Any, size: int, *, tls: bool = False) -> tuple[int, int]:
        """Send *head* and *size* bytes without looking up; then read. Returns the status and how much was sent."""
        with dial(address, tls=tls) as client:
            client.sendall(head)
            sent = send_until(client, size, lambda: False)
            answer = b""
            while not answer.endswith(b"no"):
                piece = client.recv(65536)
                assert piece, f"closed after {answer!r}"
                answer += piece
            [parsed] = parse_answers(answer)
            assert parsed.headers["connection"] == "close"
            return parsed.status, sent

    @inlineCallbacks
    def check(self, listen: Callable[[LiveSite], Any], head: bytes, *, tls: bool = False) -> Iterator[Any]:
        site = LiveSite(refuse(413))
        address = listen(site)
        result = yield in_thread(lambda: self.refused(head, address, 6 * MiB, tls=tls))
        self.assertEqual(result, (413, 6 * MiB))
        self.assertEqual(len(site.finished), 1)

    def test_tcp(self) -> Any:
        """Six MiB of five hundred have been sent before the client looks."""
        return self.check(self.tcp, put(length=500 * MiB))

    def test_unix(self) -> Any:
        """The same over a UNIX socket, which has no reset but an error of its own."""
        return self.check(self.unix, put(length=500 * MiB))

    def test_tls(self) -> Any:
        """The same over TLS."""
        return self.check(self.tls, put(length=500 * MiB), tls=True)

    def test_proxy_protocol(self) -> Any:
        """The same behind the PROXY protocol."""
        return self.check(self.proxied, PROXY + put(length=500 * MiB))

    def test_http_1_0(self) -> Any:
        """The same in HTTP/1.0."""
        return self.check(self.tcp, put(length=500 * MiB).replace(b"HTTP/1.1", b"HTTP/1.0"))

    def test_expect(self) -> Any:
        """The same from a client that announced to wait, and doesn't."""
        return self.check(self.tcp, put(b"", b"Expect: 100-continue", length=500 * MiB))

    def test_chunked(self) -> Any:
        """The same with a chunked body, of which no end can be foreseen, and whose rest is no such coding at all."""
        return self.check(self.tcp, b"PUT /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")

    @inlineCallbacks
    def test_client_that_never_looks_up(self) -> Iterator[Any]:
        """A client that reads nothing before it has sent all is held back, cut off, and finds the answer then."""
        site = LiveSite(refuse(413), linger_bytes=MiB, linger_s=0.1)
        address = self.tcp(site)
        status, sent = yield in_thread(self.refused, put(length=500 * MiB), address, 500 * MiB)
        self.assertEqual(status, 413)
        self.assertLess(sent, 500 * MiB)

    @inlineCallbacks
    def test_malformed_head(self) -> Iterator[Any]:
        """The refusal of a head arrives as well."""
        site = LiveSite(Echo())
        address = self.tcp(site)
        head = b"PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n"

        def send() -> bytes:
            with dial(address) as client:
                client.sendall(head)
                send_until(client, 6 * MiB, lambda: False)
                return client.recv(65536)

        answer = yield in_thread(send)
        self.assertEqual([a.status for a in parse_answers(answer)], [400])

    @inlineCallbacks
    def test_client_that_looks_up(self) -> Iterator[Any]:
        """A client that looks for an answer while it sends need not send it all, nor the bound on discarding."""
        site = LiveSite(refuse(403))
        address = self.tcp(site)

        def send() -> tuple[int, bytes]:
            with dial(address) as client:
                client.sendall(put(length=500 * MiB))
                sent = send_until(client, 500 * MiB, lambda: bool(select.select([client], [], [], 0)[0]))
                return sent, client.recv(65536)

        sent, answer = yield in_thread(send)
        self.assertEqual([a.status for a in parse_answers(answer)], [403])
        self.assertLess(sent, 500 * MiB)

    @inlineCallbacks
    def test_whole_body(self) -> Iterator[Any]:
        """When all of the body has gone by the connection is closed properly, at once."""
        site = LiveSite(refuse(409), linger_s=3600)
        answer = yield in_thread(ask, self.tcp(site), put(b"x" * MiB))
        self.assertEqual([a.status for a in parse_answers(answer)], [409])

    @inlineCallbacks
    def test_short_bodies(self) -> Iterator[Any]:
        """Refused uploads that are short leave the connection to the next request."""
        site = LiveSite(refuse(409))
        data = put(b"x" * 10_000) * 5 + put(b"", CLOSE)
        answers = yield in_thread(ask, self.tcp(site), data)
        self.assertEqual([a.status for a in parse_answers(answers)], [409] * 6)

    @inlineCallbacks
    def test_nothing_behind_a_refusal_is_answered(self) -> Iterator[Any]:
        """A malformed chunk or another request behind it: still one answer."""
        site = LiveSite(refuse(403), linger_s=0.1)
        address = self.tcp(site)
        head = b"PUT /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        for rest in (b"not a chunk\r\n", b"0\r\n\r\n" + get()):
            answers = yield in_thread(ask, address, head + rest)
            self.assertEqual([a.status for a in parse_answers(answers)], [403])
        self.assertEqual(site.malformed, [])


class Accepted(LiveTestCase):
    """Bodies that are wanted."""

    @inlineCallbacks
    def check(self, listen: Callable[[LiveSite], Any], prefix: bytes = b"", *, tls: bool = False) -> Iterator[Any]:
        site = LiveSite(Echo(), body_buffer_bytes=256 * KiB)
        address = listen(site)
        body = bytes(range(256)) * 8192
        data = prefix + put(body) + get() + put_chunked(body[:1000], body, b"z") + put(b"last", CLOSE)
        answers = yield in_thread(lambda: ask(address, data, tls=tls))
        expected = [body, b"GET /g", body[:1000] + body + b"z", b"last"]
        self.assertEqual([a.body == b for a, b in zip(parse_answers(answers), expected, strict=True)], [True] * 4)

    def test_tcp(self) -> Any:
        """Bodies of both kinds, pipelined."""
        return self.check(self.tcp)

    def test_unix(self) -> Any:
        """The same over a UNIX socket."""
        return self.check(self.unix)

    def test_tls(self) -> Any:
        """The same over TLS."""
        return self.check(self.tls, tls=True)

    def test_proxy_protocol(self) -> Any:
        """The same behind the PROXY protocol."""
        return self.check(self.proxied, PROXY)

    @inlineCallbacks
    def buffer_sizes(self, listen: Callable[[LiveSite], Any], prefix: bytes, *, tls: bool) -> Iterator[Any]:
        """The read sizes of the socket before, during and after a body."""
        sizes = []

        def handler(request: StreamingRequest) -> Any:
            transport: Any = request.channel.transport
            while hasattr(transport, "wrappedProtocol"):
                transport = transport.transport
            sizes.append(transport.bufferSize)
            if request.body is None:
                return b""
            sizes.append((request.body.startProducing(Collector()), transport.bufferSize)[1])
            return b""

        site = LiveSite(handler, body_buffer_bytes=256 * KiB)
        address = listen(site)
        yield in_thread(lambda: ask(address, prefix + put(b"x" * 100_000, CLOSE), tls=tls))
        self.assertEqual(sizes, [64 * KiB, 256 * KiB])

    def test_read_size(self) -> Any:
        """The socket itself is told to read more, however it is wrapped."""
        return self.buffer_sizes(self.tcp, b"", tls=False)

    def test_read_size_below_tls(self) -> Any:
        """The same below TLS."""
        return self.buffer_sizes(self.tls, b"", tls=True)

    def test_read_size_below_proxy_protocol(self) -> Any:
        """The same below the PROXY protocol."""
        return self.buffer_sizes(self.proxied, PROXY, tls=False)

    @inlineCallbacks
    def test_no_delay(self) -> Iterator[Any]:
        """A header and a file's bytes that leave one after the other must not wait for each other (Nagle)."""
        delays = []

        def handler(request: StreamingRequest) -> Any:
            delays.append(request.channel.transport.getTcpNoDelay())
            return b""

        yield in_thread(ask, self.tcp(LiveSite(handler)), put(b"", CLOSE))
        self.assertEqual(delays, [True])

    @inlineCallbacks
    def test_backpressure(self) -> Iterator[Any]:
        """A body that nobody reads fills the kernel's buffers, and no more."""
        asked: Deferred[StreamingRequest] = Deferred()

        def handler(request: StreamingRequest) -> Any:
            asked.callback(request)
            return NOT_DONE_YET

        address = self.tcp(LiveSite(handler))
        client = dial(address)
        self.addCleanup(client.close)
        client.sendall(put(length=500 * MiB))
        request = yield asked

        def send() -> int:
            client.settimeout(0.5)
            sent = 0
            try:
                while sent < 500 * MiB:
                    sent += client.send(b"x" * MiB)
            except TimeoutError:
                pass
            return sent

        sent = yield in_thread(send)
        self.assertLess(sent, 100 * MiB)
        self.assertLessEqual(request.body.received, 64 * KiB)

    @inlineCallbacks
    def lost(self, reset: bool) -> Iterator[Any]:
        echo = Echo()
        site = LiveSite(echo)
        client = dial(self.tcp(site))
        client.sendall(put(b"abc", length=10))
        yield site.when_first()
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        yield site.when_empty()
        return echo.errors

    @inlineCallbacks
    def test_client_leaves(self) -> Iterator[Any]:
        """The body fails with the connection's reason: a clean end."""
        errors = yield self.lost(reset=False)
        self.assertEqual([type(error) for error in errors], [ConnectionDone])

    @inlineCallbacks
    def test_client_resets(self) -> Iterator[Any]:
        """The body fails with the connection's reason: not a clean end."""
        errors = yield self.lost(reset=True)
        self.assertEqual([type(error) for error in errors], [ConnectionLost])

    @inlineCallbacks
    def test_continue(self) -> Iterator[Any]:
        """A client that waits for 100 Continue gets it, and then sends."""
        address = self.tcp(LiveSite(Echo()))

        def send() -> tuple[bytes, bytes]:
            with dial(address) as client:
                client.sendall(put(b"", b"Expect: 100-continue", CLOSE, length=3))
                interim = client.recv(1000)
                client.sendall(b"abc")
                return interim, read_all(client)

        interim, answer = yield in_thread(send)
        self.assertEqual(interim, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual([a.body for a in parse_answers(answer)], [b"abc"])

    @inlineCallbacks
    def test_reader_that_stands_still(self) -> Iterator[Any]:
        """A client that reads no answer is cut off, and the requests that it has sent at once are not answered."""
        site = LiveSite(lambda request: b"x" * MiB, write_timeout_s=0.1)
        client = dial(self.tcp(site))
        self.addCleanup(client.close)
        client.sendall(get() * 100)
        yield site.when_first()
        yield site.when_empty()
        self.assertLess(len(site.finished), 100)
