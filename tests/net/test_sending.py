"""Files as responses: hmacfs.net.sending."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from hmacfs.net import sending
from hmacfs.net.sending import COPY_BYTES, SLICE_BYTES, FileShrank, SendStalled, send_file
from hmacfs.net.streaming import StreamingChannel, StreamingRequest
from tests.net.sockets import LiveSite, LiveTestCase, ask, dial, in_thread, reactor, read_all
from tests.net.wire import ABORTED, CLOSED, OPEN, Later, connect, get, parse_answers, put

KiB = 1024
MiB = 1024 * KiB

#: More than any socket on loopback keeps in its buffers.
HUGE = 64 * MiB


class FileHandler:
    """A resource that sends a part of a file, as the URL says: ``/offset-size``; or ``/much`` that is no file.

    :param begins: the head is written before the file is sent.
    :ivar results: of every sending, in order of their ends: ``None`` or the failure.
    """

    def __init__(self, path: Path, stall_s: float = 60.0, *, begins: bool = False) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.stall_s = stall_s
        self._begins = begins
        self.results: list[Failure | None] = []
        self.sendings: list[Deferred[None]] = []
        self._waiting: list[Deferred[None]] = []

    def __call__(self, request: StreamingRequest) -> Any:
        if request.path == b"/much":
            return b"x" * MiB
        offset, _, size = request.path[1:].partition(b"-")
        if self._begins:
            request.beginWith(200, b"OK", b"Content-Length: %b\r\n" % size, more=True)
        else:
            request.setHeader(b"content-length", size)
        sending = send_file(request, self.fd, int(offset), int(size), self.stall_s)
        self.sendings.append(sending)
        sending.addBoth(self._ended)
        return NOT_DONE_YET

    def next_end(self) -> Deferred[None]:
        """Fires when the next sending ends."""
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def _ended(self, result: Any) -> None:
        self.results.append(result)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)


def pattern(size: int) -> bytes:
    """Bytes of which no two places look the same."""
    return b"".join(b"%08d" % i for i in range(size // 8 + 1))[:size]


class CopyTests(SynchronousTestCase):
    """Sending by reading and writing, in memory."""

    def setUp(self) -> None:
        self.data = pattern(5 * COPY_BYTES + 100)
        self.path = Path(self.mktemp())
        self.path.write_bytes(self.data)
        self.handler = FileHandler(self.path, stall_s=60)
        self.addCleanup(os.close, self.handler.fd)
        self.wire, self.site, self.clock = connect(self.handler)

    def test_whole(self) -> None:
        """All bytes, and the request is finished and logged with its size."""
        self.wire.send(get(b"/0-%d" % len(self.data)))
        self.assertEqual(self.wire.answer().body, self.data)
        self.assertEqual(self.handler.results, [None])
        self.assertEqual([request.sentLength for request in self.site.finished], [len(self.data)])

    def test_parts_one_after_the_other(self) -> None:
        """Ranges, pipelined, small and large."""
        parts = [(0, 1), (70_000, 200_000), (len(self.data) - 5, 5), (3, COPY_BYTES)]
        self.wire.send(b"".join(get(b"/%d-%d" % part) for part in parts))
        self.assertEqual([a.body for a in self.wire.answers()], [self.data[at : at + size] for at, size in parts])
        self.assertEqual(self.wire.end, OPEN)

    def test_reader_sets_the_pace(self) -> None:
        """No more is read from the file than the transport takes."""
        wire = self.wire
        write = wire.transport.write

        def write_and_fill(data: bytes) -> None:
            write(data)
            wire.channel.pauseProducing()

        wire.transport.write = write_and_fill  # type: ignore[method-assign]
        wire.send(get(b"/0-%d" % len(self.data)))
        for _ in range(5):
            self.assertEqual(self.handler.results, [])
            sent = len(wire.transport.value())
            wire.channel.resumeProducing()
            self.assertLessEqual(len(wire.transport.value()) - sent, COPY_BYTES)
        self.assertEqual(wire.answer().body, self.data)

    def test_transport_that_is_full_already(self) -> None:
        """Answers that nobody reads do not pile up in memory: the file waits for room."""
        self.stalled()
        self.assertTrue(self.wire.transport.value().endswith(b"\r\n\r\n"))
        self.assertEqual(self.handler.results, [])
        self.wire.channel.resumeProducing()
        self.assertEqual(self.handler.results, [None])

    def test_file_that_shrinks(self) -> None:
        """The connection is cut: never a short body with a clean end."""
        os.ftruncate(self.handler.fd, 100_000)
        self.wire.send(get(b"/0-%d" % len(self.data)))
        self.assertEqual(self.wire.end, ABORTED)
        self.handler.results[0].trap(FileShrank)
        self.assertTrue(self.site.finished[0].lost)

    def test_file_that_cannot_be_read(self) -> None:
        """A failing disk is told apart from a leaving client."""

        def fails(*args: Any) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(sending.os, "pread", fails)
        self.wire.send(get(b"/0-100"))
        self.assertEqual(self.wire.end, ABORTED)
        self.handler.results[0].trap(OSError)

    def stalled(self) -> None:
        """A sending that waits for room: its request came after others, whose answers nobody reads."""
        self.wire.send(get(b"/0-1"))
        self.handler.results.clear()
        self.handler.sendings.clear()
        self.wire.channel.pauseProducing()
        self.wire.channel.dataReceived(get(b"/0-%d" % len(self.data)))

    def test_stall(self) -> None:
        """A reader that takes nothing for *stall_s* is cut off."""
        self.stalled()
        self.clock.advance(59)
        self.assertEqual(self.wire.end, OPEN)
        self.clock.advance(1)
        self.assertEqual(self.wire.end, ABORTED)
        self.handler.results[0].trap(SendStalled)

    def test_slow_but_steady(self) -> None:
        """Every progress begins the time anew."""
        write = self.wire.transport.write

        def write_and_fill(data: bytes) -> None:
            write(data)
            self.wire.channel.pauseProducing()

        self.wire.transport.write = write_and_fill  # type: ignore[method-assign]
        self.wire.send(get(b"/0-%d" % len(self.data)))
        for _ in range(5):
            self.clock.advance(59)
            self.wire.channel.resumeProducing()
        self.assertEqual(self.handler.results, [None])

    def test_peer_leaves(self) -> None:
        """The Deferred fails with the connection's reason, and no timer stays behind."""
        self.stalled()
        reason = self.wire.vanish()
        self.assertIs(self.handler.results[0].value, reason.value)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """A cancelled sending cuts the connection."""
        self.stalled()
        self.handler.sendings[0].cancel()
        self.handler.results[0].trap(CancelledError)
        self.assertEqual(self.wire.end, ABORTED)

    def test_no_timer_stays(self) -> None:
        """After a sending only the site's clock ticks."""
        self.wire.send(get(b"/0-100"))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_file_is_not_closed(self) -> None:
        """The descriptor is the caller's, and its position stays."""
        self.wire.send(get(b"/0-100"))
        self.stalled()
        self.wire.vanish()
        self.assertEqual(os.lseek(self.handler.fd, 0, os.SEEK_CUR), 0)

    def test_peer_that_left_before(self) -> None:
        """Nothing is sent to nobody."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get())
        wire.vanish()
        self.failureResultOf(send_file(later.request, self.handler.fd, 0, 1, 60), ConnectionLost)

    def test_length_is_needed(self) -> None:
        """A response without Content-Length would be chunked, which a file is not."""
        later = Later()
        wire, _, _ = connect(later)
        wire.send(get())
        self.assertRaises(ValueError, send_file, later.request, self.handler.fd, 0, 1, 60)

    def test_close_after_the_file(self) -> None:
        """A client that asked for it gets its connection closed."""
        self.wire.send(get(b"/0-100").replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertEqual((self.wire.answer().body, self.wire.end), (self.data[:100], CLOSED))

    def test_request_with_a_body(self) -> None:
        """A body that nobody wanted doesn't get in the way."""
        self.wire.send(put(b"abc", path=b"/0-100") + get(b"/0-3"))
        self.assertEqual([a.body for a in self.wire.answers()], [self.data[:100], self.data[:3]])


class Sendfile:
    """The true sendfile(2), watched.

    :ivar sizes: how much each call was asked for.
    """

    def __init__(self, test: LiveTestCase) -> None:
        self.sizes: list[int] = []
        self._sendfile = os.sendfile
        self._waiting: list[Deferred[None]] = []
        test.patch(sending.os, "sendfile", self._call)

    def until_called(self) -> Deferred[None]:
        """Fires after the next call."""
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def _call(self, out: int, fd: int, offset: int, size: int) -> int:
        self.sizes.append(size)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:  # not from within the transport's call
            reactor.callLater(0, deferred.callback, None)
        return self._sendfile(out, fd, offset, size)


class SendfileTests(LiveTestCase):
    """Sending by sendfile(2), over true sockets."""

    begins = False

    def setUp(self) -> None:
        self.data = pattern(3 * MiB + 1000)
        self.sendfile = Sendfile(self)

    def serve(self, data: bytes | None = None, size: int | None = None, **kw: Any) -> tuple[FileHandler, LiveSite]:
        path = self.file(self.data if data is None else data)
        if size is not None:
            os.truncate(path, size)
        handler = FileHandler(path, begins=self.begins)
        self.addCleanup(os.close, handler.fd)
        return handler, LiveSite(handler, **kw)

    @inlineCallbacks
    def check_kinds(self, address: Any, handler: FileHandler, site: LiveSite, *, tls: bool = False) -> Iterator[Any]:
        parts = [(0, len(self.data)), (0, 1), (100, 2 * MiB), (1, COPY_BYTES), (len(self.data) - 70_000, 70_000)]
        requests = [get(b"/%d-%d" % part) for part in parts]
        requests[-1] = requests[-1].replace(b"Host: h", b"Host: h\r\nConnection: close")
        received = yield in_thread(lambda: ask(address, b"".join(requests), tls=tls))
        self.assertEqual([a.body for a in parse_answers(received)], [self.data[at : at + size] for at, size in parts])
        self.assertEqual(handler.results, [None] * 5)
        self.assertEqual([request.sentLength for request in site.finished], [size for _, size in parts])

    def test_tcp(self) -> Any:
        """Whole files and parts, pipelined on one connection, small ones between."""
        handler, site = self.serve()
        ended = self.check_kinds(self.tcp(site), handler, site)
        return ended.addCallback(lambda _: self.assertTrue(self.sendfile.sizes))

    def test_unix(self) -> Any:
        """The same over a UNIX socket."""
        handler, site = self.serve()
        ended = self.check_kinds(self.unix(site), handler, site)
        return ended.addCallback(lambda _: self.assertTrue(self.sendfile.sizes))

    def test_tls(self) -> Any:
        """Over TLS the bytes are copied, since they have to be encrypted."""
        handler, site = self.serve()
        ended = self.check_kinds(self.tls(site), handler, site, tls=True)
        return ended.addCallback(lambda _: self.assertEqual(self.sendfile.sizes, []))

    @inlineCallbacks
    def test_proxy_protocol(self) -> Iterator[Any]:
        """Behind a wrapper that is not TLS the socket is still to be had."""
        handler, site = self.serve()
        address = self.proxied(site)
        request = get(b"/0-%d" % len(self.data)).replace(b"Host: h", b"Host: h\r\nConnection: close")
        received = yield in_thread(ask, address, b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 80\r\n" + request)
        self.assertEqual([a.body for a in parse_answers(received)], [self.data])
        self.assertEqual((handler.results, site.finished[0].getClientAddress().host), ([None], "192.0.2.7"))
        self.assertTrue(self.sendfile.sizes)

    @inlineCallbacks
    def test_slices(self) -> Iterator[Any]:
        """A connection sends no more than a slice at a time."""
        _, site = self.serve()
        yield in_thread(ask, self.tcp(site), get(b"/0-%d" % len(self.data)).replace(b"1.1", b"1.0"))
        self.assertLessEqual(max(self.sendfile.sizes), SLICE_BYTES)

    @inlineCallbacks
    def test_slow_reader(self) -> Iterator[Any]:
        """A reader with little room gets every byte."""
        handler, site = self.serve()
        address = self.tcp(site)

        def read() -> bytes:
            with dial(address, receive_buffer=4096) as client:
                client.sendall(get(b"/0-%d" % len(self.data)).replace(b"1.1", b"1.0"))
                return read_all(client)

        received = yield in_thread(read)
        self.assertEqual(parse_answers(received)[0].body, self.data)
        self.assertEqual(handler.results, [None])

    @inlineCallbacks
    def begin(self, handler: FileHandler, site: LiveSite, size: int) -> Iterator[Any]:
        """A client that has asked and doesn't read; fires with it when the sending has begun."""
        address = self.tcp(site)
        begun = self.sendfile.until_called()
        client = dial(address)
        self.addCleanup(client.close)
        client.sendall(get(b"/0-%d" % size))
        yield begun
        return client

    @inlineCallbacks
    def test_stall(self) -> Iterator[Any]:
        """A reader that takes nothing is cut off after *stall_s*."""
        clock = Clock()
        handler, site = self.serve(b"", HUGE, clock=clock)
        yield self.begin(handler, site, HUGE)
        while not handler.results:  # the socket may take a little more, each time with new patience
            clock.advance(59)
            self.assertEqual(handler.results, [])
            clock.advance(1)
            yield deferLater(reactor, 0, lambda: None)
        handler.results[0].trap(SendStalled)
        self.assertTrue(site.finished[0].lost)
        self.assertLess(site.finished[0].sentLength, HUGE)

    @inlineCallbacks
    def test_file_that_shrinks(self) -> Iterator[Any]:
        """The client gets a cut connection, not a short body with a clean end."""
        handler, site = self.serve(b"", HUGE)
        client = yield self.begin(handler, site, HUGE)
        os.ftruncate(handler.fd, 1000)
        ended = handler.next_end()
        with self.assertRaises(ConnectionResetError):
            yield in_thread(read_all, client)
        yield ended
        handler.results[0].trap(FileShrank)

    @inlineCallbacks
    def test_client_leaves(self) -> Iterator[Any]:
        """The Deferred fails with the connection's reason, and the descriptor stays the caller's."""
        handler, site = self.serve(b"", HUGE)
        client = yield self.begin(handler, site, HUGE)
        ended = handler.next_end()
        client.close()
        yield ended
        handler.results[0].trap(ConnectionDone, ConnectionLost)
        self.assertEqual(os.fstat(handler.fd).st_size, HUGE)
        yield site.when_empty()

    @inlineCallbacks
    def test_cancel(self) -> Iterator[Any]:
        """A cancelled sending cuts the connection."""
        handler, site = self.serve(b"", HUGE)
        yield self.begin(handler, site, HUGE)
        handler.sendings[0].cancel()
        handler.results[0].trap(CancelledError)
        yield site.when_empty()

    @inlineCallbacks
    def test_file_system_without_sendfile(self) -> Iterator[Any]:
        """Where the kernel can't, the bytes are copied."""

        def unsupported(*args: Any) -> int:
            raise OSError(22, "Invalid argument")

        self.patch(sending.os, "sendfile", unsupported)
        handler, site = self.serve()
        address = self.tcp(site)
        requests = get(b"/0-%d" % len(self.data)) + get(b"/5-100000").replace(b"1.1", b"1.0")
        received = yield in_thread(ask, address, requests)
        self.assertEqual([a.body for a in parse_answers(received)], [self.data, self.data[5:100_005]])
        self.assertEqual(handler.results, [None, None])

    @inlineCallbacks
    def check_without(self, error: OSError, result: type[BaseException]) -> Iterator[Any]:
        """A sending that meets *error*."""

        def fails(*args: Any) -> int:
            raise error

        self.patch(sending.os, "sendfile", fails)
        handler, site = self.serve()
        address = self.tcp(site)
        ended = handler.next_end()
        with self.assertRaises(ConnectionResetError):
            yield in_thread(ask, address, get(b"/0-%d" % len(self.data)))
        yield ended
        self.assertIsInstance(handler.results[0].value, result)

    def test_file_that_cannot_be_read(self) -> Any:
        """A failing disk is told apart from a leaving client."""
        return self.check_without(OSError(5, "Input/output error"), OSError)

    def test_connection_that_breaks(self) -> Any:
        """What the socket says of the peer is told as the transport would tell it."""
        return self.check_without(BrokenPipeError(32, "Broken pipe"), ConnectionLost)

    @inlineCallbacks
    def test_interrupted(self) -> Iterator[Any]:
        """A socket that was not ready after all is asked again."""
        true, answers = os.sendfile, [BlockingIOError(11, "not now"), InterruptedError(4, "a signal"), None]

        def hesitant(*args: int) -> int:
            answer = answers.pop(0) if answers else None
            if answer is not None:
                raise answer
            return true(*args)

        self.patch(sending.os, "sendfile", hesitant)
        _, site = self.serve()
        received = yield in_thread(ask, self.tcp(site), get(b"/0-%d" % len(self.data)).replace(b"1.1", b"1.0"))
        self.assertEqual(parse_answers(received)[0].body, self.data)

    @inlineCallbacks
    def test_file_that_shrinks_over_tls(self) -> Iterator[Any]:
        """The same where the bytes are copied."""
        handler, site = self.serve()
        os.ftruncate(handler.fd, 100_000)
        address = self.tls(site)
        ended = handler.next_end()
        with self.assertRaises((ConnectionResetError, ssl.SSLError)):
            yield in_thread(lambda: ask(address, get(b"/0-%d" % len(self.data)), tls=True))
        yield ended
        handler.results[0].trap(FileShrank)

    @inlineCallbacks
    def test_pace_of_later_answers(self) -> Iterator[Any]:
        """After a file the connection knows again when its peer doesn't read."""
        _, site = self.serve(write_timeout_s=0.1)
        client = dial(self.tcp(site))
        self.addCleanup(client.close)
        client.sendall(get(b"/0-100000") + get(b"/much") * 50)
        yield site.when_first()
        yield site.when_empty()
        self.assertLess(len(site.finished), 50)

    @inlineCallbacks
    def test_after_answers_that_filled_the_transport(self) -> Iterator[Any]:
        """Small parts, which are copied and may fill the transport, and files take turns without end."""
        handler, site = self.serve()
        address = self.tcp(site)
        requests = get(b"/0-60000") * 5 + get(b"/0-%d" % len(self.data)) + get(b"/7-9") * 2000
        requests += get(b"/0-3").replace(b"1.1", b"1.0")
        received = yield in_thread(ask, address, requests)
        self.assertEqual(len(parse_answers(received)), 2007)
        self.assertEqual(handler.results, [None] * 2007)


class AtOnceTests(SendfileTests):
    """The same, with heads that have been written: what the sockets take leaves right away."""

    begins = True

    def sockets(self, *refusals: OSError) -> list[int]:
        """Have sockets fail to take heads, or take a few bytes of them after that.

        :return: how much was taken of each head.
        """
        left, taken = list(refusals), list[int]()

        class Slow:
            def __init__(self, socket: Any) -> None:
                self.fileno = socket.fileno
                self._socket = socket

            def send(self, data: bytes, flags: int) -> int:
                if left:
                    raise left.pop()
                taken.append(self._socket.send(data[:7], flags))
                return taken[-1]

        free: Any = StreamingChannel.freeSocket.fget
        found = property(lambda channel: None if free(channel) is None else Slow(free(channel)))
        self.patch(StreamingChannel, "freeSocket", found)
        return taken

    @inlineCallbacks
    def test_nobody_waits(self) -> Iterator[Any]:
        """The sending is over when it has begun, and nothing has been registered for it."""
        self.patch(sending, "_Sendfile", None)
        handler, _ = self.serve()
        over: list[bool] = []

        def render(request: StreamingRequest) -> Any:
            result = handler(request)
            over.append(handler.sendings[-1].called)
            return result

        received = yield in_thread(ask, self.tcp(LiveSite(render)), get(b"/7-20000").replace(b"1.1", b"1.0"))
        self.assertEqual((parse_answers(received)[0].body, over), (self.data[7:20_007], [True]))

    @inlineCallbacks
    def check_sockets(self) -> Iterator[Any]:
        handler, site = self.serve()
        requests = get(b"/0-300") + get(b"/5-100000").replace(b"1.1", b"1.0")
        received = yield in_thread(ask, self.tcp(site), requests)
        self.assertEqual([a.body for a in parse_answers(received)], [self.data[:300], self.data[5:100_005]])
        self.assertEqual(handler.results, [None, None])

    @inlineCallbacks
    def test_half_a_head(self) -> Iterator[Any]:
        """What a socket doesn't take of a head goes before the file."""
        taken = self.sockets()
        yield self.check_sockets()
        self.assertEqual(taken[0], 7)

    def test_no_room_for_the_head(self) -> Any:
        """A socket that takes nothing of it is waited for."""
        self.sockets(BlockingIOError(11, "not now"), BlockingIOError(11, "not now"))
        return self.check_sockets()
