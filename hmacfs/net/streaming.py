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
* No connection lives for ever: every phase of it has a bound (:class:`~hmacfs.net.limits.Limits`).

Written for Twisted 22.4 (with the security patches of 2023) and later. Of private names it uses the channel's
``_command``, ``_path``, ``_version``, ``_buffer``, ``_networkProducer`` and ``_respondToBadRequestAndDisconnect``, the
socket's ``_tempDataBuffer``, and of private modules that of the PROXY protocol's wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from io import BytesIO
from math import inf
from socket import MSG_MORE, SHUT_WR, socket
from time import time
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IReactorTime, ISSLTransport, ITCPTransport
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, getChildForRequest

from hmacfs.net.admission import Connections, Excess
from hmacfs.net.bodies import BodyFailed, MalformedBody, RequestBody
from hmacfs.net.canned import canned_answer
from hmacfs.net.heads import Head, MalformedHead, read_request_line
from hmacfs.net.limits import Limits
from hmacfs.net.wheel import Wheel

#: After how many seconds a peer is to try again for which there was no room.
RETRY_AFTER_S = 5

#: How much is read and thrown away of what a peer sends that was turned away. After that it is cut off.
_FAREWELL_BYTES = 1024 * 1024

#: How many interim responses a request may get, ``100 Continue`` among them. Some clients and proxies take more of them
#: for an attack: the first of those known gives up at the sixth.
MAX_INTERIM_RESPONSES = 4

#: Scheme and host of a request target in absolute form.
_ABSOLUTE = re.compile(rb"\Ahttps?://[^/?#]*", re.IGNORECASE)


class StreamingRequest(server.Request):
    """A request that is rendered as soon as its headers have arrived.

    :ivar body: ``None`` if there is none: no ``Content-Length``, or 0, and no ``Transfer-Encoding``.
    :ivar startedAt: when its first bytes arrived, in seconds of the site's clock.
    :ivar expectsContinue: whether the client waits for ``100 Continue`` before it sends the body. Other expectations
        are left to the resource (RFC 9110 section 10.1.1: 417, or nothing).
    :ivar lost: whether the connection went away before the answer was finished. Nothing can be written any more then,
        and :meth:`finish` must not be called.
    """

    channel: StreamingChannel
    body: RequestBody | None = None
    expectsContinue = False
    lost = False
    startedAt = -inf
    _rendered = False
    _informed = 0

    def abort(self) -> None:
        """Cut the connection: the only way to say that an answer which has begun will not become whole.

        No effect once it is whole.
        """
        if not self.lost and not self.finished:
            self.channel.abortConnection()

    def interim(self, status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Send an interim response (RFC 9110 section 15.2), if the client can have one.

        It can't if it speaks HTTP/1.0, is gone, doesn't read what is written, has had enough of them
        (:data:`MAX_INTERIM_RESPONSES`), or if the answer has begun.

        :param status: from 102 to 199; ``100 Continue`` is sent by itself.
        :return: whether it was sent.
        """
        has_had = self._informed + self.expectsContinue
        if self.clientproto != b"HTTP/1.1" or self.startedWriting or self.lost or has_had >= MAX_INTERIM_RESPONSES:
            return False
        if not self.channel.writable:
            return False
        self._informed += 1
        clean = Headers()
        for name, value in headers:
            clean.addRawHeader(name, value)
        lines = [b"%b: %b\r\n" % (name, value) for name, values in clean.getAllRawHeaders() for value in values]
        self.channel.writeInterim(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, b"".join(lines)))
        return True

    def sendContinue(self) -> None:
        """Have a client that waits for it send the body."""
        if self.expectsContinue and not self.startedWriting:
            self.expectsContinue = False
            self._informed += 1
            self.channel.writeInterim(b"HTTP/1.1 100 Continue\r\n\r\n")

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
        target = uri if uri.startswith(b"/") else _ABSOLUTE.sub(b"", uri, count=1)
        self.uri = target if target.startswith((b"/", b"*")) else b"/" + target
        self.path = self.uri.partition(b"?")[0]
        self.args = {}
        if self.body is not None and version == b"HTTP/1.1":
            expectations = self.requestHeaders.getRawHeaders(b"expect")
            self.expectsContinue = expectations is not None and expectations[0].lower() == b"100-continue"
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
        """The stock method, but the headers of every answer wait until one begins: most have theirs ready.

        And nothing is noted for sessions.
        """
        if self.path == b"*":
            super().process()
            return
        self.site = self.channel.site
        self.prepath = []
        segments = self.path[1:].split(b"/")
        self.postpath = [unquote_to_bytes(segment) for segment in segments] if b"%" in self.path else segments
        try:
            self.render(getChildForRequest(self.site.resource, self))
        except BaseException:
            self.processingFailed(Failure())

    def _addCommonHeaders(self) -> None:
        headers = self.responseHeaders
        if self.path == b"*":  # the stock method has put its own name there
            headers.removeHeader(b"server")
        for name, value in self.channel.site.commonHeaders:
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])

    def processingFailed(self, reason: Failure) -> Failure:
        if not self.startedWriting and not self.lost:
            super().processingFailed(reason)
            return reason
        self._log.failure("{method} failed after its answer had begun", failure=reason, method=self.method)
        self.abort()
        return reason

    def write(self, data: bytes) -> None:
        if not self.startedWriting and not self.lost:
            self._addCommonHeaders()
            self._decideWhatFollows()
        super().write(data)

    def beginWith(self, status: int, phrase: bytes, lines: bytes, body: bytes = b"", *, more: bool = False) -> None:
        """Begin the answer with a head that is ready.

        It gets the site's headers, the date, and those that were set on the request. To have Twisted put one together,
        header by header, takes longer than to send a small file.

        :param phrase: the words that go with *status*.
        :param lines: further headers, each with its CRLF, ``Content-Length`` among them if there can be a body. None of
            them may be among the site's, or those that were set on the request.
        :param body: the whole body, to go out with the head.
        :param more: whether the caller is about to send a body. What is whole leaves when the request is finished, and is
            logged and counted by then.
        """
        self._decideWhatFollows()
        self.setResponseCode(status, phrase)
        self.startedWriting = 1
        set_here = [
            b"%b: %b\r\n" % (name, value)
            for name, values in self.responseHeaders.getAllRawHeaders()
            for value in values
        ]
        head = (self.clientproto, status, phrase, self.channel.site.headerLines, b"".join(set_here), lines)
        self.sentLength += len(body)
        begun = b"%b %d %b\r\n%b%b%b\r\n" % head + body
        if more:
            self.channel.writeNow(begun, MSG_MORE)
        else:
            self.channel.holdAnswer(begun)

    def finishWith(self, status: int, answer: Callable[[bool], bytes]) -> None:
        """Answer with a whole response that somebody else has made, and finish.

        :param status: of that response.
        :param answer: is called with whether the connection closes after it.
        """
        self._decideWhatFollows()
        self.setResponseCode(status)
        self.startedWriting = 1
        self.channel.write(answer(not self.channel.persistent))
        self.finish()

    def _decideWhatFollows(self) -> None:
        """The answer begins: whether the connection will go on after it must be known now."""
        channel, body = self.channel, self.body
        if channel.site.isLeaving:
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
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

    NEW = "accepted; nothing has arrived"
    IDLE = "waits for a request"
    HEAD = "some of a request's head is there"
    REQUEST = "a request is with its resource, its body may arrive"
    DRAINING = "answered; the rest of the body is skipped, then the connection goes on"
    ANSWERING = "an answer is being written after which the connection closes; what arrives is thrown away"
    LINGERING = "answered; what arrives is thrown away for a while, then we close"
    TURNED_AWAY = "got an answer to a request that nobody has read; what arrives is thrown away for a moment"
    CLOSING = "closed by us, for what is left to be sent"
    CLOSED = "gone"

    #: That of Enum is a function in Python, called wherever a phase is looked up in a set.
    __hash__ = object.__hash__


#: Phases in which what arrives is thrown away.
_DISCARDING = frozenset({_Phase.ANSWERING, _Phase.LINGERING})
#: Phases in which nothing that arrives is parsed.
_DEAF = _DISCARDING | {_Phase.TURNED_AWAY, _Phase.CLOSING, _Phase.CLOSED}
#: Phases in which a peer waits for an answer, or for the rest of one.
_OWING = frozenset({_Phase.HEAD, _Phase.REQUEST, _Phase.ANSWERING, _Phase.CLOSING})
#: Phases in which a request's head is to come, or the rest of it.
_AWAITING = frozenset({_Phase.IDLE, _Phase.HEAD})
#: Phases in which nothing of a request has arrived.
_VACANT = frozenset({_Phase.NEW, _Phase.IDLE})
#: Phases in which HTTPChannel knows nothing of the connection yet.
_OUTSIDE = frozenset({_Phase.NEW, _Phase.TURNED_AWAY})


class StreamingChannel(HTTPChannel):
    """An :class:`~twisted.web.http.HTTPChannel` that hands over a request before its body.

    The timers of HTTPChannel are out of use; its site's wheel visits it instead (:meth:`checkTime`).
    """

    site: StreamingSite
    requests: list[StreamingRequest]
    requestFactory = StreamingRequest

    #: To LineReceiver a head is one line, which ends with an empty one.
    delimiter = b"\r\n\r\n"
    MAX_LENGTH = HTTPChannel.totalHeadersSize + 2 * (HTTPChannel.maxHeaders + 2)

    _log = Logger()
    _phase = _Phase.NEW
    _deadline = inf
    _bodyHeld = False
    _heldAnswer = b""
    #: When the first bytes of the latest request arrived, and whether its first line was looked at before the others.
    _begunAt = -inf
    _isLineChecked = False
    #: Whether the peer says by the PROXY protocol for whom it speaks.
    _isAnnounced = False
    #: Since when the transport takes no more of an answer.
    _blockedSince: float | None = None
    #: A request that is done but for that.
    _answered: StreamingRequest | None = None
    #: How much has been thrown away, and how much there is to come, if known.
    _discarded = 0
    _toDiscard: int | None = None
    #: The socket and its usual read size, while that is changed.
    _widened: tuple[Any, int] | None = None
    #: The ends of the connection, once they are settled. To ask the transport takes a system call, for each request.
    _peer: IAddress | None = None
    _host: IAddress | None = None

    def now(self) -> float:
        """The time, in seconds of the site's clock."""
        return self.site.wheel.now()

    def getPeer(self) -> IAddress:
        return super().getPeer() if self._peer is None else self._peer

    def getHost(self) -> IAddress:
        return super().getHost() if self._host is None else self._host

    @property
    def writable(self) -> bool:
        """Whether the transport takes more of an answer, without having to keep it in memory for long."""
        return self._blockedSince is None

    # IProtocol

    def connectionMade(self) -> None:
        """Not HTTPChannel's: what it sets up would be in vain for a peer that is turned away."""
        self._enter(_Phase.NEW, self.site.limits.header_timeout_s)
        self.site.channelMade(self)
        self._isAnnounced = _announcesItsPeer(self.transport)
        excess = self.site.connections.enter(self, None if self._isAnnounced else self.getPeer())
        if excess is not None:
            self._turnAwayFor(excess)

    def dataReceived(self, data: bytes) -> None:
        if self._phase is _Phase.NEW:
            self._begin()
        if self._phase in _DEAF:
            self._discard(len(data))
            return
        # Past HTTPChannel's, which would see to its timer.
        LineReceiver.dataReceived(self, data)
        if self._buffer and self._phase in _AWAITING:
            self._beginningReceived()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._enter(_Phase.CLOSED)
        self.site.wheel.drop(self)
        self.site.connections.leave(self)
        try:
            super().connectionLost(reason)
        finally:
            self.site.channelLost(self)

    def _begin(self) -> None:
        """The first bytes are there, and with them the peer's address: the PROXY protocol's header came before them."""
        peer = self.getPeer()
        answer = self.site.admit(peer)
        if answer is not None:
            self._turnAway(answer)
            return
        excess = self.site.connections.identify(self, peer) if self._isAnnounced else None
        if excess is not None:
            self._turnAwayFor(excess)
            return
        super().connectionMade()
        self._peer, self._host = peer, self.getHost()
        # UNIX sockets say that they were TCP in Twisted 22.4.
        if ITCPTransport.providedBy(self.transport) and isinstance(self.getHost(), (IPv4Address, IPv6Address)):
            self.transport.setTcpNoDelay(True)
        self._phase = _Phase.IDLE

    def _turnAwayFor(self, excess: Excess) -> None:
        self.site.reportExcess(self.getPeer(), excess)
        headers = [*self.site.headers, (b"Retry-After", b"%d" % RETRY_AFTER_S)]
        if excess is Excess.ADDRESS:
            detail = "There are too many connections from your address."
            self._turnAway(canned_answer(429, "too-many-connections", detail, headers))
        else:
            detail = "There are too many connections at the moment."
            self._turnAway(canned_answer(503, "too-many-connections", detail, headers))

    def _turnAway(self, answer: bytes) -> None:
        """Write *answer* to a peer of which nothing has been read, and close soon after it."""
        transport: Any = self.transport
        self._enter(_Phase.TURNED_AWAY, self.site.limits.farewell_s)
        hasTime = self.site.connections.farewell(self)
        if hasTime and _saidAtOnce(transport, answer):
            return
        transport.write(answer)
        if not hasTime:
            self.loseConnection()
        elif ISSLTransport.providedBy(transport):
            # Says close_notify, and waits for the peer's.
            transport.loseConnection()
        else:
            # To close at once would reset the connection if more of the request is on its way (RFC 9112 section 9.6).
            # A peer that has its answer closes at its end, and that is the end.
            transport.loseWriteConnection()

    # LineReceiver

    def lineReceived(self, line: bytes) -> None:
        """A whole head is there: a line that ends with an empty one."""
        if self._phase in _DEAF:
            return
        if self._phase is _Phase.IDLE:
            self._beginHead()
        # One empty line may precede a request (RFC 9112 section 2.2).
        block = line.removeprefix(b"\r\n")
        try:
            head = Head(block, self.totalHeadersSize, self.maxHeaders)
        except MalformedHead as malformed:
            self._refuse(malformed)
        else:
            self._headReceived(head)

    #: Of what is too long to be a head, the first line with something wrong says what.
    lineLengthExceeded = lineReceived

    def _beginHead(self) -> None:
        """The first of a request is there."""
        self._begunAt = self.now()
        self._isLineChecked = False
        self.site.connections.works(self)

    def _beginningReceived(self) -> None:
        """Some of a head is there, and not all of it: its first line may be.

        Who speaks another protocol waits for an answer to that one, and never ends the head.
        """
        if self._phase is _Phase.IDLE:
            self._beginHead()
            self._enter(_Phase.HEAD, self.site.limits.header_timeout_s)
        line, isWhole, _ = self._buffer.removeprefix(b"\r\n").partition(b"\r\n")
        if isWhole and not self._isLineChecked:
            self._isLineChecked = True
            try:
                read_request_line(line, self.totalHeadersSize)
            except MalformedHead as malformed:
                self._refuse(malformed)

    def _headReceived(self, head: Head) -> None:
        """What HTTPChannel does with the lines of a head, but for its own look at each of them."""
        request = self.requestFactory(self)
        request.startedAt = self._begunAt
        self.requests.append(request)
        self._command, self._path, self._version = head.method, head.target, head.version
        for name, value in head.headers:
            request.requestHeaders.addRawHeader(name, value)
        # That one finds the decoder for the body.
        if head.framing is not None and not self.headerReceived(head.framing):
            return
        self.allHeadersReceived()
        if self.length == 0:
            self.allContentReceived()
        else:
            self.setRawMode()

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
        if self._heldAnswer:
            answer, self._heldAnswer = self._heldAnswer, b""
            self.writeNow(answer)
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
            self.site.connections.waits(self)
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
        self.site.connections.works(self)
        limits = self.site.limits
        isOutside = self._phase in _OUTSIDE
        self._enter(_Phase.CLOSING, limits.close_timeout_s if self.writable else limits.write_timeout_s)
        if isOutside:
            transport: Any = self.transport
            transport.loseConnection()
        else:
            super().loseConnection()

    def abortConnection(self) -> None:
        """Cut the connection, whatever there is left to be sent."""
        transport: Any = self.transport
        transport.abortConnection()

    @property
    def isOwing(self) -> bool:
        """Whether the peer waits for an answer, or for the rest of one."""
        return self._phase in _OWING

    @property
    def isVacant(self) -> bool:
        """Whether nothing of a request has arrived."""
        return self._phase in _VACANT

    def makeRoom(self) -> None:
        """Close a connection that is between two requests, so that its descriptor is free soon."""
        if ISSLTransport.providedBy(self.transport):
            # There would be a wait for the peer's close_notify.
            self.abortConnection()
        else:
            self.loseConnection()

    # IPushProducer: the transport has room for an answer, or not

    def pauseProducing(self) -> None:
        if self._blockedSince is None:
            self._blockedSince = self.now()
            self.site.wheel.file(self, self._blockedUntil)
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

    @property
    def freeSocket(self) -> socket | None:
        """The socket, if it may be written to past the transport: it is a bare one, and all before has left."""
        transport: Any = self.transport
        if not isinstance(transport, Connection) or transport.TLS:
            return None
        waits = transport.dataBuffer or transport._tempDataBuffer
        if waits or transport.disconnecting or not transport.connected:
            return None
        found: socket = transport.socket
        return found

    def holdAnswer(self, answer: bytes) -> None:
        """Take a whole answer, to be written when its request is done."""
        self._heldAnswer = answer

    def writeNow(self, data: bytes, flags: int = 0) -> None:
        """Write some of an answer, into the socket where that has room.

        The transport would have the reactor watch the socket, and write in its next turn.

        :param flags: of send(2): with ``MSG_MORE`` it may wait for what follows, so that both leave in one packet.
        """
        free = self.freeSocket
        try:
            sent = 0 if free is None else free.send(data, flags)
        except OSError:
            # It is full; or gone, which the transport finds out too.
            sent = 0
        if sent < len(data):
            self.write(data[sent:])

    def writeInterim(self, head: bytes) -> None:
        """Send the whole of an interim response."""
        assert self.transport is not None
        self.transport.write(head)

    # The body's side

    def bodyWanted(self, body: RequestBody) -> None:
        """Somebody is going to read *body*."""
        self.requests[0].sendContinue()
        self._widen(body)

    def bodyUnwanted(self) -> None:
        """Nobody is going to read more of it."""
        if self._widened is not None:
            (transport, usual), self._widened = self._widened, None
            transport.bufferSize = usual

    def bodyClockRestarted(self) -> None:
        """When the body's time is over has changed."""
        self.site.wheel.file(self, self._bodyDueAt)

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
        answer = canned_answer(malformed.status, malformed.reason, malformed.detail, self.site.headers)
        self.write(answer)
        self._linger()

    def _linger(self) -> None:
        """All is written: give the peer the time to see it."""
        self._enter(_Phase.LINGERING, self.site.limits.linger_s)
        self._resumeReading()
        self._discard(0)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._phase is _Phase.TURNED_AWAY:
            if self._discarded > _FAREWELL_BYTES:
                self.abortConnection()
        elif self._phase is _Phase.LINGERING and self._toDiscard is not None and self._discarded >= self._toDiscard:
            self.loseConnection()
        elif self._discarded > self.site.limits.linger_bytes and self._phase in _DISCARDING:
            # A peer that can't send any more looks up. nginx, for one, sends all that it can before it does.
            self._networkProducer.pauseProducing()

    # Time

    def _enter(self, phase: _Phase, timeout_s: float = inf) -> None:
        self._phase = phase
        if timeout_s == inf:
            self._deadline = inf
        else:
            self._deadline = self.now() + timeout_s
            self.site.wheel.file(self, self._deadline)

    def checkTime(self, now: float) -> float:
        """Called by the wheel: end what has taken too long.

        :return: when there may be something to end next.
        """
        if now >= self._deadline:
            self._deadlinePassed()
        elif now >= self._blockedUntil:
            self.abortConnection()
        elif self._phase is _Phase.REQUEST:
            body = self.requests[0].body
            timeout = None if body is None else body.overdue(now, self.site.limits)
            if timeout is not None:
                self._failBody(timeout)
        return min(self._deadline, self._blockedUntil, self._bodyDueAt)

    @property
    def _blockedUntil(self) -> float:
        """When the peer's time to take more of an answer is over."""
        return inf if self._blockedSince is None else self._blockedSince + self.site.limits.write_timeout_s

    @property
    def _bodyDueAt(self) -> float:
        """When the peer's time to send more of a body is over."""
        body = self.requests[0].body if self._phase is _Phase.REQUEST else None
        return inf if body is None else body.dueAt(self.site.limits)

    def _deadlinePassed(self) -> None:
        if self._phase in (_Phase.CLOSING, _Phase.TURNED_AWAY):
            self.abortConnection()
        elif self._phase is _Phase.HEAD:
            self._refuse(MalformedHead(408, "head-timeout", "The request's headers took too long."))
        else:
            self.loseConnection()


def _announcesItsPeer(transport: Any) -> bool:
    """Whether a PROXY protocol header comes, or has come, before the first bytes."""
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, HAProxyProtocolWrapper):
            return True
        transport = transport.transport
    return False


def _saidAtOnce(transport: object, answer: bytes) -> bool:
    """Write all that will ever be written to a socket, and say so, without waiting for the reactor's next turn.

    It saves a tenth of what turning somebody away costs.

    :return: whether that is done; if not, nothing is.
    """
    if not isinstance(transport, Connection) or transport.TLS:
        return False
    try:
        # What is new has room for far more.
        sent = transport.socket.send(answer)
        if sent == len(answer):
            transport.socket.shutdown(SHUT_WR)
            return True
    except OSError:
        # The reactor finds out, too.
        return True
    transport.write(answer[sent:])
    transport.loseWriteConnection()
    return True


class StreamingSite(server.Site):
    """A site whose requests are rendered when their headers are in.

    It writes no access log; override :meth:`requestFinished`.

    :param resource: the root.
    :param reactor: drives all timers, and tells the time.
    :param limits: of every connection.
    :param headers: stand on every answer: on those of resources, which may replace them, and on those that Twisted or
        the channel gives by itself.
    :param connections: how many there may be; of all sites that share this.
    :param wheel: keeps the time of the connections; one will do for all sites.

    :ivar channels: the connections that are open.
    :ivar isLeaving: whether every connection is to close after its next answer; false, until it is set.
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
        connections: Connections | None = None,
        wheel: Wheel | None = None,
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.timeOut = None
        self.limits = limits or Limits()
        self.headers = tuple(headers)
        self._lines = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        self._datedLines = self._date = b""
        self._datedAt = -inf
        self.channels: set[StreamingChannel] = set()
        self.isLeaving = False
        self.connections = Connections() if connections is None else connections
        self.wheel = Wheel(reactor) if wheel is None else wheel

    @property
    def headerLines(self) -> bytes:
        """Date and :attr:`headers`, as they stand in an answer."""
        self._lookAtTheClock()
        return self._datedLines

    @property
    def commonHeaders(self) -> Sequence[tuple[bytes, bytes]]:
        """The same, one by one."""
        self._lookAtTheClock()
        return ((b"Date", self._date), *self.headers)

    def _lookAtTheClock(self) -> None:
        second = int(time())
        if second != self._datedAt:
            self._datedAt = second
            self._date = datetimeToString(second)
            self._datedLines = b"Date: %b\r\n%b" % (self._date, self._lines)

    def closeIdle(self) -> None:
        """Close the connections on which nothing of a request has arrived."""
        for channel in [each for each in self.channels if each.isVacant]:
            channel.loseConnection()

    @property
    def owing(self) -> int:
        """How many peers wait for an answer, or for the rest of one."""
        return sum(channel.isOwing for channel in self.channels)

    # To be overridden

    def admit(self, peer: IAddress) -> bytes | None:
        """Whether to listen to a peer at all. Called once for every connection, when its first bytes are there.

        :param peer: of the connection; behind the PROXY protocol, whom that has announced.
        :return: ``None``, or a whole response to turn the peer away with, which must say ``Connection: close``. Nothing
            of what it sends is parsed then, there is no request, and nothing else is called for it.
        """
        return None

    def turnedAway(self, peer: IAddress, excess: Excess) -> None:
        """Called once for every connection for which there was no room.

        Not for those that :meth:`admit` has turned away, which knows of them.
        """

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

    def channelLost(self, channel: StreamingChannel) -> None:
        self.channels.discard(channel)

    def reportExcess(self, peer: IAddress, excess: Excess) -> None:
        """:meth:`turnedAway`, whose errors are nobody's problem on the wire."""
        try:
            self.turnedAway(peer, excess)
        except Exception:
            self._log.failure("turnedAway failed")

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
