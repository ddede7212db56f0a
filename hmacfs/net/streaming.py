"""Request bodies that stream through :mod:`twisted.web`.

Stock twisted.web renders a resource when the whole body has been read and stored, and sends ``100 Continue`` before
anybody could say no (twisted issues 4688, 6928, 8143, 10190). Here a resource is rendered when the *headers* are in,
and the body is the mirror image of a client's: an :class:`~twisted.web.iweb.IBodyProducer` that writes into an
:class:`~twisted.internet.interfaces.IConsumer`.

    client:  Agent.request(method, uri, headers, bodyProducer)
    server:  request.body.startProducing(consumer) -> Deferred

What a resource may count on:

* Nothing of the body is read, and no ``100 Continue`` is sent, until ``startProducing``. A body that nobody wants is
  never stored; ``request.content`` is empty and ``request.args`` too, whatever the request is.
* It may answer before the body has arrived. The answer reaches a client that is still sending; afterwards either the
  small rest of the body is skipped and the connection goes on, or what still arrives is thrown away, up to a bound,
  and after a while the connection ends. RFC 9112 section 9.6 says why: closing at once would reset the connection, and
  the client might never see the answer.
* One request gets one answer. Once an answer has begun after which the connection will close, nothing that is received
  is parsed any more.
* No connection lives for ever: every phase of it has a bound (:class:`Limits`).

Written for Twisted 22.4 (with the security patches of 2023) and later. Of private names it uses the channel's
``_command``, ``_path``, ``_version``, ``_networkProducer`` and ``_respondToBadRequestAndDisconnect``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from enum import Enum
from http import HTTPStatus
from io import BytesIO
from math import inf
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IReactorTime, ITCPTransport
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from twisted.web.resource import IResource
from zope.interface import implementer

from hmacfs.net.heads import HeadGuard, MalformedHead, head_too_large, uri_too_long

#: How often a site looks after the time of its connections, in seconds: they are cut up to so much late.
TICK_S = 1.0
#: Over how many seconds :attr:`Limits.min_body_rate` is averaged.
RATE_WINDOW_S = 60.0

#: Scheme and host of a request target in absolute form.
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


@frozen
class Limits:
    """What a connection may cost, in seconds and bytes.

    :ivar header_timeout_s: from a request's first byte, or from the connection's start, to the end of its headers.
    :ivar idle_timeout_s: between two requests.
    :ivar read_timeout_s: without a byte of a body that a resource is waiting for.
    :ivar write_timeout_s: without room for more of an answer, because the peer doesn't read.
    :ivar close_timeout_s: for the last bytes of an answer to leave, and a TLS peer to agree, once we close.
    :ivar min_body_rate: bytes per second that a body must bring on average over a minute; 0 means any. A minute without
        any byte is left to *read_timeout_s*.
    :ivar linger_s: how long we wait after an answer to an unwanted body before we close, for the peer to see the answer.
    :ivar linger_bytes: how much of that body is read and thrown away meanwhile. After that the peer is held back.
    :ivar drain_bytes: an unwanted body of which no more than this is missing is skipped, and the connection goes on.
    :ivar body_buffer_bytes: what is read from the socket at a time while a body arrives.
    """

    header_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    read_timeout_s: float = 900.0
    write_timeout_s: float = 900.0
    close_timeout_s: float = 30.0
    min_body_rate: float = 256.0
    linger_s: float = 5.0
    linger_bytes: int = 8 * 1024 * 1024
    drain_bytes: int = 64 * 1024
    body_buffer_bytes: int = 64 * 1024


class BodyFailed(Exception):
    """The body won't come to its end, though the connection stands: the resource may answer, and that closes it."""


class BodyTimeout(BodyFailed):
    """The peer sends no more of the body, or sends it too slowly: 408."""


class MalformedBody(BodyFailed):
    """The body's chunked coding is broken (RFC 9112 section 7.1): 400."""


@implementer(IBodyProducer)
class RequestBody:
    """The body of a request that is still arriving.

    It can be had once: by one call of :meth:`startProducing`.

    :ivar length: in bytes, or :data:`~twisted.web.iweb.UNKNOWN_LENGTH` if it is chunked.
    :ivar size: the same, with ``None`` for unknown.
    :ivar received: how many bytes of it have arrived, whether or not anybody wanted them.
    :ivar complete: whether all of it has.
    """

    _log = Logger()

    def __init__(self, channel: StreamingChannel, size: int | None) -> None:
        self.size = size
        self.length: int | str = UNKNOWN_LENGTH if size is None else size
        self.received = 0
        self.complete = False
        self._channel = channel
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._waiting: deque[bytes] = deque()
        self._failure: Failure | None = None
        self._started = False
        self._stopped = False
        self._paused = False
        self._delivering = False
        self._lastByteAt = 0.0
        self._windowStart = 0.0
        self._windowReceived = 0

    # IBodyProducer: the resource's side

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body to *consumer*, from its first byte on. Sends ``100 Continue`` to a client that waits for it.

        :return: fires with ``None`` when all of it has been written. Fails with whatever ``consumer.write`` raised,
            with a :class:`BodyFailed`, or with the connection's reason if the peer is gone; what had arrived before has
            been written then. Cancelling stops the body.
        :raises RuntimeError: the second time, or after :meth:`stopProducing`.
        """
        if self._started or self._stopped:
            raise RuntimeError("The body of a request can be had once.")
        self._started = True
        self._consumer = consumer
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._done = done
        self.restartClock()
        if not self.complete and self._failure is None:
            self._channel.bodyWanted(self)
        self._flow()
        return done

    def pauseProducing(self) -> None:
        """Write nothing until :meth:`resumeProducing`. Soon the peer can't send any more either."""
        self._paused = True
        if not self.complete:
            self._channel.holdBody()

    def resumeProducing(self) -> None:
        self._paused = False
        self.restartClock()
        self._flow()

    def stopProducing(self) -> None:
        """Write nothing any more. The peer is held back until the request is answered; the Deferred never fires."""
        self.abandon()
        if not self.complete:
            self._channel.holdBody()

    # The request's and the channel's side

    @property
    def missing(self) -> int | None:
        """How many bytes have not arrived yet; ``None`` if nobody knows."""
        return None if self.size is None else self.size - self.received

    def dataReceived(self, data: bytes) -> None:
        """The next bytes have arrived."""
        self.received += len(data)
        self._lastByteAt = self._channel.clock.seconds()
        if self._stopped:
            return
        self._waiting.append(data)
        self._flow()
        if self._waiting:
            self._channel.holdBody()

    def dataFinished(self) -> None:
        """All of it has arrived."""
        self.complete = True
        self._flow()

    def fail(self, reason: Failure) -> None:
        """No more of it will arrive."""
        if not self.complete and self._failure is None:
            self._failure = reason
            self._flow()

    def abandon(self) -> None:
        """Let go of the consumer, without a word to it. What still arrives is counted and thrown away."""
        self._stopped = True
        self._consumer = self._done = None
        self._waiting.clear()
        self._channel.bodyUnwanted()

    def restartClock(self) -> None:
        """Whatever held the body back, it was not the peer: its time counts from now."""
        self._lastByteAt = self._windowStart = self._channel.clock.seconds()
        self._windowReceived = self.received

    def overdue(self, now: float, limits: Limits) -> BodyTimeout | None:
        """What the peer has to hear if it keeps us waiting for too long."""
        if self._consumer is None or self._paused or self.complete or self._failure is not None:
            return None
        if now - self._lastByteAt >= limits.read_timeout_s:
            return BodyTimeout(f"no byte of the body within {limits.read_timeout_s:g} s")
        window_s = now - self._windowStart
        if window_s < RATE_WINDOW_S:
            return None
        arrived = self.received - self._windowReceived
        self._windowStart, self._windowReceived = now, self.received
        if 0 < arrived < limits.min_body_rate * window_s:
            return BodyTimeout(f"fewer than {limits.min_body_rate:g} bytes of the body per second")
        return None

    def _flow(self) -> None:
        """Write what waits; then end, or have more sent."""
        if self._delivering:  # consumer.write has called us
            return
        self._delivering = True
        try:
            while self._waiting and self._consumer is not None and not self._paused:
                self._deliver(self._consumer, self._waiting.popleft())
        finally:
            self._delivering = False
        if self._consumer is None or self._waiting:
            return
        if self.complete or self._failure is not None:
            self._end(self._failure)
        elif not self._paused:
            self._channel.releaseBody()

    def _deliver(self, consumer: IConsumer, data: bytes) -> None:
        try:
            consumer.write(data)
        except Exception:
            reason, done = Failure(), self._done
            self.stopProducing()
            if done is None:
                self._log.failure("A consumer stopped a body and failed then", failure=reason)
            else:
                done.errback(reason)

    def _end(self, reason: Failure | None) -> None:
        done = self._done
        self.abandon()
        if done is None:
            return
        if reason is None:
            done.callback(None)
        else:
            done.errback(reason)


class StreamingRequest(server.Request):
    """A request that is rendered as soon as its headers have arrived.

    :ivar body: ``None`` if there is none: no ``Content-Length``, or 0, and no ``Transfer-Encoding``.
    :ivar startedAt: when its first line arrived, in seconds of the site's clock.
    :ivar expectsContinue: whether the client waits for ``100 Continue`` before it sends the body. Other expectations
        are left to the resource (RFC 9110 section 10.1.1: 417, or nothing).
    :ivar lost: whether the connection went away before the answer was finished. Nothing can be written any more then,
        and :meth:`finish` must not be called.
    """

    channel: StreamingChannel
    body: RequestBody | None = None
    expectsContinue = False
    lost = False
    _rendered = False

    def __init__(self, channel: StreamingChannel, *args: Any, **kw: Any) -> None:
        super().__init__(channel, *args, **kw)
        self.startedAt = channel.clock.seconds()

    def abort(self) -> None:
        """Cut the connection: the only way to say that an answer which has begun will not become whole.

        No effect once it is whole.
        """
        if not self.lost and not self.finished:
            self.channel.abortConnection()

    # The channel's side

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length != 0:
            self.body = RequestBody(self.channel, length)

    def headersReceived(self, method: bytes, uri: bytes, version: bytes) -> None:
        """Render the request. Its body, if any, is still on its way."""
        self._rendered = True
        self.method, self.clientproto = method, version
        # RFC 9112 section 3.2.2: a server must take the absolute form as well.
        target = _ABSOLUTE.sub(b"", uri, count=1)
        self.uri = target if target.startswith((b"/", b"*")) else b"/" + target
        self.path = self.uri.partition(b"?")[0]
        self.args = {}
        expectations = self.requestHeaders.getRawHeaders(b"expect")
        self.expectsContinue = (
            self.body is not None
            and version == b"HTTP/1.1"
            and expectations is not None
            and expectations[0].lower() == b"100-continue"
        )
        self.process()

    def handleContentChunk(self, data: bytes) -> None:
        self.expectsContinue = False
        assert self.body is not None
        self.body.dataReceived(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self.body is None:
            self.headersReceived(command, path, version)
        else:
            self.body.dataFinished()

    def connectionLost(self, reason: Failure) -> None:
        if self.finished:  # all was said; the peer left while the rest of the body was being skipped
            return
        self.lost = True
        super().connectionLost(reason)
        if self.body is not None:
            self.body.fail(reason)
        if self._rendered and self.site is not None:
            self.site.log(self)

    # The resource's side

    def process(self) -> None:
        for name, value in self.channel.site.headers:
            self.responseHeaders.setRawHeaders(name, [value])
        super().process()

    def processingFailed(self, reason: Failure) -> Failure:
        if not self.startedWriting and not self.lost:
            super().processingFailed(reason)
            return reason
        self._log.failure("{method} failed after its answer had begun", failure=reason, method=self.method)
        self.abort()
        return reason

    def write(self, data: bytes) -> None:
        if not self.startedWriting and not self.lost:
            self._decideWhatFollows()
        super().write(data)

    def _decideWhatFollows(self) -> None:
        """The answer begins: whether the connection will go on after it must be known now."""
        channel, body = self.channel, self.body
        if self.responseHeaders.getRawHeaders(b"connection") == [b"close"]:
            channel.persistent = False
        if body is None or body.complete:
            return
        if channel.persistent and self._isWorthDraining(body):
            return
        self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        channel.stopParsing(body)

    def _isWorthDraining(self, body: RequestBody) -> bool:
        # Whether a client that still waits for 100 Continue will send the body, nobody knows.
        if self.expectsContinue or body.missing is None:
            return False
        return body.missing <= self.channel.site.limits.drain_bytes


class _Phase(Enum):
    """Where a connection stands."""

    IDLE = "waits for a request"
    HEAD = "a request's head arrives"
    REQUEST = "a request is with its resource, its body may arrive"
    DRAINING = "answered; the rest of the body is skipped, then the connection goes on"
    ANSWERING = "an answer is being written after which the connection closes; what arrives is thrown away"
    LINGERING = "answered; what arrives is thrown away for a while, then we close"
    CLOSING = "closed by us, for what is left to be sent"
    CLOSED = "gone"


#: Phases in which what arrives is thrown away.
_DISCARDING = frozenset({_Phase.ANSWERING, _Phase.LINGERING})
#: Phases in which nothing that arrives is parsed.
_DEAF = _DISCARDING | {_Phase.CLOSING, _Phase.CLOSED}


class StreamingChannel(HTTPChannel):
    """An :class:`~twisted.web.http.HTTPChannel` that hands over a request before its body.

    The timers of HTTPChannel are out of use, its site's clock visits it instead (:meth:`checkTime`).
    """

    site: StreamingSite
    requests: list[StreamingRequest]

    _log = Logger()
    _phase = _Phase.IDLE
    _deadline = inf
    _guard: HeadGuard | None = None
    _bodyHeld = False
    #: Since when the transport takes no more of an answer.
    _blockedSince: float | None = None
    #: A request that is done but for that.
    _answered: StreamingRequest | None = None
    #: How much has been thrown away, and how much there is to come, if known.
    _discarded = 0
    _toDiscard: int | None = None
    #: The socket and its usual read size, while that is changed.
    _widened: tuple[Any, int] | None = None

    @property
    def clock(self) -> IReactorTime:
        return self.site.reactor

    @property
    def writable(self) -> bool:
        """Whether the transport takes more of an answer, without having to keep it in memory for long."""
        return self._blockedSince is None

    # IProtocol

    def connectionMade(self) -> None:
        super().connectionMade()
        # UNIX sockets say that they were TCP in Twisted 22.4.
        if ITCPTransport.providedBy(self.transport) and isinstance(self.getHost(), (IPv4Address, IPv6Address)):
            self.transport.setTcpNoDelay(True)
        self._enter(_Phase.IDLE, self.site.limits.header_timeout_s)
        self.site.channelMade(self)

    def dataReceived(self, data: bytes) -> None:
        if self._phase in _DEAF:
            self._discard(len(data))
            return
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD, self.site.limits.header_timeout_s)
        super().dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._enter(_Phase.CLOSED)
        try:
            super().connectionLost(reason)
        finally:
            self.site.channelLost(self)

    # LineReceiver

    def lineReceived(self, line: bytes) -> None:
        if self._phase in _DEAF:
            return
        try:
            line = self._checkLine(line)
        except MalformedHead as malformed:
            self._refuse(malformed)
        else:
            super().lineReceived(line)

    def _checkLine(self, line: bytes) -> bytes:
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.HEAD, self.site.limits.header_timeout_s)
        if self._guard is None:
            if line:  # else the one empty line that may precede a request (RFC 9112 section 2.2)
                self._guard = HeadGuard(self.totalHeadersSize, self.maxHeaders)
                line = self._guard.request_line(line)
        elif line:
            self._guard.header(line)
        else:
            self._guard.end()
            self._guard = None
        return line

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(uri_too_long() if self._guard is None else head_too_large())

    def rawDataReceived(self, data: bytes) -> None:
        if self._phase in _DEAF:
            self._discard(len(data))
        else:
            super().rawDataReceived(data)

    # HTTPChannel: requests

    def allHeadersReceived(self) -> None:
        """The stock method without the automatic ``100 Continue``; and whatever has a body is rendered now."""
        request = self.requests[-1]
        request.parseCookies()
        self.persistent = self.checkPersistence(request, self._version)
        self._enter(_Phase.REQUEST)
        request.gotLength(self.length)
        if request.body is not None:
            request.headersReceived(self._command, self._path, self._version)

    def allContentReceived(self) -> None:
        if self._phase in _DEAF:  # the decoder was still at work when the answer began
            self._toDiscard = self._discarded
            self._discard(0)
            return
        if self._bodyHeld:
            self._resumeReading()
        drained = self.requests[0] if self._phase is _Phase.DRAINING else None
        super().allContentReceived()
        if drained is not None:
            self._goOn(drained)

    def requestDone(self, request: StreamingRequest) -> None:
        """The answer is finished, which need not mean that the request is."""
        body = request.body
        if body is not None:
            body.abandon()
        if self._phase is _Phase.ANSWERING:
            self._linger()
        elif self._phase in _DEAF:  # somebody has closed the connection meanwhile
            return
        elif body is not None and not body.complete:
            self._enter(_Phase.DRAINING, self.site.limits.linger_s)
            self._resumeReading()
        else:
            self._goOn(request)

    def _goOn(self, request: StreamingRequest) -> None:
        """Have the next request, once the answer to *request* has found its way into the socket: whoever sends many
        requests at once and reads no answers must not fill our memory with them."""
        if self.persistent and not self.writable:
            self._enter(_Phase.REQUEST)
            self._answered = request
        else:
            self._enter(_Phase.IDLE, self.site.limits.idle_timeout_s)
            super().requestDone(request)

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted's parser gives up."""
        if self._phase in _DEAF:
            return
        if self._phase is _Phase.REQUEST:
            self.site.reportMalformed(self, 400, "malformed-body")
            self._failBody(MalformedBody("the chunked coding is broken"))
        else:
            self._refuse(MalformedHead(400, "malformed-head", "The request is malformed."))

    def loseConnection(self) -> None:
        """Close, once what was written has left."""
        if self._phase is _Phase.CLOSING or self._phase is _Phase.CLOSED:
            return
        limits = self.site.limits
        self._enter(_Phase.CLOSING, limits.close_timeout_s if self.writable else limits.write_timeout_s)
        super().loseConnection()

    def abortConnection(self) -> None:
        """Cut the connection, whatever there is left to be sent."""
        transport: Any = self.transport
        transport.abortConnection()

    # IPushProducer: the transport has room for an answer, or not

    def pauseProducing(self) -> None:
        if self._blockedSince is None:
            self._blockedSince = self.clock.seconds()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._blockedSince = None
        super().resumeProducing()
        if self._bodyHeld:
            self._networkProducer.pauseProducing()
        if self._answered is not None:
            answered, self._answered = self._answered, None
            self._goOn(answered)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        if streaming and not self.writable:
            # The transport has told us, and won't repeat it for a newcomer.
            producer.pauseProducing()

    # The body's side

    def bodyWanted(self, body: RequestBody) -> None:
        """Somebody is going to read *body*."""
        request = self.requests[0]
        if request.expectsContinue and not request.startedWriting:
            request.expectsContinue = False
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._widen(body)

    def bodyUnwanted(self) -> None:
        """Nobody is going to read more of it."""
        if self._widened is not None:
            (transport, usual), self._widened = self._widened, None
            transport.bufferSize = usual

    def holdBody(self) -> None:
        """Keep the peer from sending more of the body."""
        if not self._bodyHeld and self._phase is _Phase.REQUEST:
            self._bodyHeld = True
            self._networkProducer.pauseProducing()

    def releaseBody(self) -> None:
        """Let the peer send the body."""
        if self._bodyHeld and self._phase is _Phase.REQUEST:
            self._resumeReading()

    def _widen(self, body: RequestBody) -> None:
        """Read more at a time: fewer turns of the reactor, and calls, for every MiB."""
        transport: Any = self.transport
        while isinstance(transport, ProtocolWrapper):  # TLS, PROXY protocol: the socket is below
            transport = transport.transport
        usual = getattr(transport, "bufferSize", None)
        wanted = self.site.limits.body_buffer_bytes
        if usual is not None and (body.size is None or body.size > usual):
            self._widened = (transport, usual)
            transport.bufferSize = wanted

    def _resumeReading(self) -> None:
        self._bodyHeld = False
        if self.writable:
            self._networkProducer.resumeProducing()

    # Ways to the end

    def stopParsing(self, body: RequestBody) -> None:
        """An answer begins after which the connection will close, though *body* is not complete."""
        if self._phase is _Phase.REQUEST:
            self._deafen()
            self._toDiscard = body.missing
            self._resumeReading()

    def _deafen(self) -> None:
        self.persistent = False
        self._enter(_Phase.ANSWERING)

    def _failBody(self, error: BodyFailed) -> None:
        """No more of the body is read. The resource answers, or is about to anyway."""
        body = self.requests[0].body
        assert body is not None
        self._deafen()
        self._networkProducer.pauseProducing()
        body.fail(Failure(error))

    def _refuse(self, malformed: MalformedHead) -> None:
        """Answer to a request that never came into being."""
        self.site.reportMalformed(self, malformed.status, malformed.reason)
        self.clearLineBuffer()
        text = f"{malformed.reason}: {malformed.detail}\n".encode()
        phrase = HTTPStatus(malformed.status).phrase
        headers = [
            *self.site.headers,
            (b"Date", datetimeToString()),
            (b"Connection", b"close"),
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", b"%d" % len(text)),
        ]
        self.writeHeaders(b"HTTP/1.1", b"%d" % malformed.status, phrase.encode(), headers)
        self.write(text)
        self._linger()

    def _linger(self) -> None:
        """All is written: give the peer the time to see it."""
        self._enter(_Phase.LINGERING, self.site.limits.linger_s)
        self._resumeReading()
        self._discard(0)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._phase is _Phase.LINGERING and self._toDiscard is not None and self._discarded >= self._toDiscard:
            self.loseConnection()
        elif self._discarded > self.site.limits.linger_bytes and self._phase in _DISCARDING:
            # A peer that can't send any more looks up. nginx, for one, sends all that it can before it does.
            self._networkProducer.pauseProducing()

    # Time

    def _enter(self, phase: _Phase, timeout_s: float = inf) -> None:
        self._phase = phase
        self._deadline = inf if timeout_s == inf else self.clock.seconds() + timeout_s

    def checkTime(self, now: float) -> None:
        """Called by the site every :data:`TICK_S` seconds: end what has taken too long."""
        if now >= self._deadline:
            self._deadlinePassed()
        elif self._blockedSince is not None and now - self._blockedSince >= self.site.limits.write_timeout_s:
            self.abortConnection()
        elif self._phase is _Phase.REQUEST:
            body = self.requests[0].body
            timeout = None if body is None else body.overdue(now, self.site.limits)
            if timeout is not None:
                self._failBody(timeout)

    def _deadlinePassed(self) -> None:
        if self._phase is _Phase.CLOSING:
            self.abortConnection()
        elif self._phase is _Phase.HEAD:
            self._refuse(MalformedHead(408, "head-timeout", "The request's headers took too long."))
        else:
            self.loseConnection()


class StreamingSite(server.Site):
    """A site whose requests are rendered when their headers are in.

    It writes no access log; override :meth:`requestFinished`.

    :param resource: the root.
    :param reactor: drives all timers, and tells the time.
    :param limits: of every connection.
    :param headers: stand on every answer: on those of resources, which may replace them, and on those that Twisted or
        the channel gives by itself.

    :ivar channels: the connections that are open.
    """

    protocol = StreamingChannel  # type: ignore[assignment]
    requestFactory = StreamingRequest

    _log = Logger()

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        limits: Limits | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.timeOut = None
        self.limits = limits or Limits()
        self.headers = tuple(headers)
        self.channels: set[StreamingChannel] = set()
        self._ticker = LoopingCall(self._tick)
        self._ticker.clock = reactor

    # To be overridden

    def requestFinished(self, request: StreamingRequest) -> None:
        """Called once for every request that was rendered: when its answer is finished, or when it is lost.

        ``request.lost``, ``code``, ``sentLength``, ``startedAt`` and ``body.received`` tell what there is to log.
        """

    def malformedRequest(self, channel: StreamingChannel, status: int, reason: str) -> None:
        """Called once for every request that never came to a resource, and for every body with a broken coding.

        :param channel: ``getPeer()`` tells who it was.
        :param reason: ``malformed-head``, ``uri-too-long``, ``head-too-large``, ``unknown-coding``,
            ``unknown-version``, ``head-timeout`` or ``malformed-body``.
        """

    # The channels' side

    def channelMade(self, channel: StreamingChannel) -> None:
        self.channels.add(channel)
        if not self._ticker.running:
            self._ticker.start(TICK_S, now=False)

    def channelLost(self, channel: StreamingChannel) -> None:
        self.channels.discard(channel)
        if not self.channels and self._ticker.running:
            self._ticker.stop()

    def reportMalformed(self, channel: StreamingChannel, status: int, reason: str) -> None:
        """:meth:`malformedRequest`, whose errors are nobody's problem on the wire."""
        try:
            self.malformedRequest(channel, status, reason)
        except Exception:
            self._log.failure("malformedRequest failed")

    def log(self, request: StreamingRequest) -> None:  # type: ignore[override]
        """:meth:`requestFinished`, whose errors are nobody's problem on the wire."""
        try:
            self.requestFinished(request)
        except Exception:
            self._log.failure("requestFinished failed")

    # Site

    def acceptableProtocols(self) -> list[bytes]:
        """Not h2: its streams are rendered after their bodies."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Nothing: there is no access log whose clock would have to tick."""

    def _tick(self) -> None:
        now = self.reactor.seconds()
        for channel in list(self.channels):
            self._check(channel, now)

    def _check(self, channel: StreamingChannel, now: float) -> None:
        try:
            channel.checkTime(now)
        except Exception:
            # Must not end the ticking for all the others.
            self._log.failure("A connection's time could not be checked")
            channel.abortConnection()
