"""One connection to a site, in memory: what a client sends, and what it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IConsumer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from hmacfs.net.admission import Excess
from hmacfs.net.limits import Limits
from hmacfs.net.streaming import StreamingChannel, StreamingRequest, StreamingSite

#: Every kind of connection's end that a test wants to tell from the others.
OPEN, CLOSED, ABORTED = "open", "closed", "aborted"


@frozen
class Answer:
    """One response.

    :ivar headers: by lower-case name; a header that stands twice is a fault of its own.
    :ivar interim: statuses of the 1xx responses before it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[int, ...] = ()


def parse_answers(data: bytes, methods: tuple[str, ...] = ()) -> list[Answer]:
    """Every response in *data*; anything that is not one, or not whole, is an error.

    :param methods: of the requests, where HEAD is among them.
    """
    answers: list[Answer] = []
    interim: list[int] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"not a whole response: {head!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version in ("HTTP/1.0", "HTTP/1.1"), first
        if status.startswith("1"):
            interim.append(int(status))
            continue
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers, f"{name} stands twice"
            headers[name.lower()] = value
        bodiless = status in ("204", "304") or methods[len(answers) : len(answers) + 1] == ("HEAD",)
        body, data = (b"", data) if bodiless else _take_body(headers, data)
        answers.append(Answer(int(status), headers, body, tuple(interim)))
        interim.clear()
    assert not interim, "a 1xx response that nothing follows"
    return answers


def _take_body(headers: dict[str, str], data: bytes) -> tuple[bytes, bytes]:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, _, data = data.partition(b"\r\n")
            length = int(size, 16)
            body += data[:length]
            assert data[length : length + 2] == b"\r\n", "a broken chunk"
            data = data[length + 2 :]
            if not length:
                return body, data
    if "content-length" not in headers:  # ends with the connection
        return data, b""
    length = int(headers["content-length"])
    assert len(data) >= length, f"{len(data)} of {length} bytes"
    return data[:length], data[length:]


class MemoryTransport(StringTransportWithDisconnection):
    """Remembers how it ended, and takes a limited amount when told so."""

    #: As of a socket.
    bufferSize = 65536

    def __init__(self, host: str = "192.0.2.1") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 50000))
        self.end = OPEN
        #: Whether the peer was told that no more will come.
        self.half_closed = False

    def loseConnection(self) -> None:
        if self.end == OPEN:
            self.end = CLOSED
        super().loseConnection()

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.end = ABORTED
        super().loseConnection()


class StubbornTransport(MemoryTransport):
    """Does not close: something is left to be sent, and the peer doesn't read."""

    def loseConnection(self) -> None:
        self.end = CLOSED


class Wire:
    """A connection. What is sent while the site doesn't read waits, as it would in a socket."""

    def __init__(self, site: StreamingSite, transport: MemoryTransport | None = None) -> None:
        channel = site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        assert isinstance(channel, StreamingChannel)
        self.channel = channel
        self.transport = transport or MemoryTransport()
        self.transport.protocol = channel
        self._unread: list[bytes] = []
        channel.makeConnection(self.transport)

    def send(self, *data: bytes) -> None:
        """Send; every argument arrives on its own."""
        self._unread += data
        self.pump()

    def pump(self) -> None:
        """Let arrive what the site is willing to read."""
        while self._unread and self.reading and self.end == OPEN:
            self.channel.dataReceived(self._unread.pop(0))

    def vanish(self) -> Failure:
        """The peer goes away; returns the reason that is told."""
        reason = Failure(ConnectionDone())
        self.transport.connected = False
        self.channel.connectionLost(reason)
        return reason

    @property
    def reading(self) -> bool:
        return self.transport.producerState == "producing"

    @property
    def unread(self) -> int:
        """How many bytes wait to be read."""
        return sum(map(len, self._unread))

    @property
    def end(self) -> str:
        return self.transport.end

    def answers(self, *methods: str) -> list[Answer]:
        return parse_answers(self.transport.value(), methods)

    def answer(self) -> Answer:
        """The only one."""
        answers = self.answers()
        assert len(answers) == 1, answers
        return answers[0]

    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers()]


class HandlerResource(Resource):
    """Every URL: whatever a function says."""

    isLeaf = True

    def __init__(self, handler: Callable[[StreamingRequest], Any]) -> None:
        super().__init__()
        self._handler = handler

    def render(self, request: Any) -> Any:
        return self._handler(request)


def host_of(peer: IAddress) -> str:
    """A name for whoever it is."""
    return peer.host if isinstance(peer, (IPv4Address, IPv6Address)) else "unix"


class RecordingSite(StreamingSite):
    """Remembers what it was told."""

    def __init__(self, handler: Callable[[StreamingRequest], Any], clock: Any, **limits: Any) -> None:
        headers = limits.pop("headers", ())
        connections = limits.pop("connections", None)
        super().__init__(
            HandlerResource(handler), reactor=clock, limits=Limits(**limits), headers=headers, connections=connections
        )
        self.finished: list[StreamingRequest] = []
        self.malformed: list[tuple[str, int, str]] = []
        #: What is said to a host that is not to be listened to.
        self.banned: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.excess: list[tuple[str, Excess]] = []

    def admit(self, peer: IAddress) -> bytes | None:
        self.asked.append(host_of(peer))
        return self.banned.get(host_of(peer))

    def turnedAway(self, peer: IAddress, excess: Excess) -> None:
        self.excess.append((host_of(peer), excess))

    def requestFinished(self, request: StreamingRequest) -> None:
        self.finished.append(request)

    def malformedRequest(self, channel: StreamingChannel, status: int, reason: str) -> None:
        self.malformed.append((channel.getPeer().host, status, reason))


@implementer(IConsumer)
class Collector:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.data = b""
        self.writes = 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        raise NotImplementedError

    def unregisterProducer(self) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.data += data


@frozen
class Echo:
    """A resource that answers with what it was sent, or 400 and the kind of error."""

    errors: list[BaseException] = field(factory=list)

    def __call__(self, request: StreamingRequest) -> Any:
        collector = Collector()
        if request.body is None:
            return b"%b %b" % (request.method, request.uri)
        done = request.body.startProducing(collector)
        done.addCallback(lambda _: respond(request, 201, collector.data))
        done.addErrback(self._failed, request)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: StreamingRequest) -> None:
        self.errors.append(failure.value)
        if not request.lost:
            respond(request, 400, type(failure.value).__name__.encode())


def respond(request: StreamingRequest, status: int, body: bytes = b"") -> None:
    """Answer and finish."""
    request.setResponseCode(status)
    request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)
    request.finish()


def refuse(status: int) -> Callable[[StreamingRequest], Any]:
    """A resource that reads no body."""

    def handler(request: StreamingRequest) -> Any:
        respond(request, status, b"no")
        return NOT_DONE_YET

    return handler


class Later:
    """A resource whose requests wait for the test."""

    def __init__(self) -> None:
        self.requests: list[StreamingRequest] = []

    def __call__(self, request: StreamingRequest) -> Any:
        self.requests.append(request)
        return NOT_DONE_YET

    @property
    def request(self) -> StreamingRequest:
        """The latest."""
        return self.requests[-1]

    def start(self) -> tuple[Collector, Deferred[None]]:
        """Have the latest request's body written to a collector."""
        collector = Collector()
        assert self.request.body is not None
        return collector, self.request.body.startProducing(collector)


def connect(handler: Callable[[StreamingRequest], Any], **limits: Any) -> tuple[Wire, RecordingSite, Clock]:
    """A connection to a site of one resource."""
    clock = Clock()
    site = RecordingSite(handler, clock, **limits)
    return Wire(site), site, clock


def put(body: bytes = b"", *headers: bytes, path: bytes = b"/f", length: int | None = None) -> bytes:
    """A PUT with Content-Length."""
    size = len(body) if length is None else length
    lines = [b"PUT %b HTTP/1.1" % path, b"Host: h", b"Content-Length: %d" % size, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def put_chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """A PUT with a chunked body."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"PUT /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + coded + b"0\r\n" + trailers + b"\r\n"


def get(path: bytes = b"/g", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, path)
