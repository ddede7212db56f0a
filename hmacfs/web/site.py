"""The site: what is counted and logged of every request, whatever became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from hmacfs.access.addresses import ClientAddress, ClientAddresses
from hmacfs.access.bans import Verdict
from hmacfs.access.scopes import Scopes
from hmacfs.errors import Refused
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, Excess, RequestsInProgress
from hmacfs.net.limits import Limits
from hmacfs.net.streaming import StreamingChannel, StreamingRequest, StreamingSite
from hmacfs.net.wheel import Wheel
from hmacfs.storage.names import UPLOADS_SEGMENT
from hmacfs.web.answers import ALWAYS, refusal, write_answer
from hmacfs.web.door import Door, told

#: What a request is logged with whose client was gone before it had an answer, as nginx does it. Never sent.
CLIENT_GONE = 499


#: How often it is said at most that connections are turned away, in seconds.
_WARN_EVERY_S = 60.0

#: What the URLs of uploads have that other URLs, as a rule, have not.
_UPLOADS = b"/%b/" % UPLOADS_SEGMENT

#: For the operator.
_WHY: Mapping[Excess, str] = {
    Excess.ADDRESS: "its address has MaxConnectionsPerIP",
    Excess.TOTAL: "there are MaxConnections, and all are busy",
}

#: What a GET has brought, by status.
_DOWNLOADS: Mapping[int, str] = {200: "whole", 206: "part", 304: "unchanged"}


@define
class Notes:
    """What is to be said of a request when it is over, beside what it shows itself.

    :ivar reason: why it was refused, one hyphenated word.
    :ivar remark: a sentence for the log that is still being found out.
    :ivar session: the session token.
    :ivar resumed_at: the offset at which an upload went on.
    :ivar stored: whether a file was stored by it.
    :ivar blocked: whether it was refused for a block or a ban, which has lines of its own in the log.
    :ivar offloaded: whether it was left to a proxy to send the file.
    """

    reason: str = ""
    remark: Deferred[str | None] | None = None
    session: str = ""
    resumed_at: int | None = None
    stored: bool = False
    blocked: bool = False
    offloaded: bool = False


class HmacfsRequest(StreamingRequest):
    """A request with room for notes."""

    #: Who sent it, once somebody has asked: :meth:`HmacfsSite.sender_of`.
    sender: ClientAddress | None = None
    #: Whom the door counts it for while it is in progress, if it does.
    counted_for: str | None = None

    def __init__(self, channel: StreamingChannel, *args: Any, **kw: Any) -> None:
        super().__init__(channel, *args, **kw)
        self.notes = Notes()

    @property
    def outcome(self) -> int:
        """The status that it is logged and counted with, once it is over."""
        return CLIENT_GONE if self.lost else self.code

    @property
    def reason(self) -> str:
        """Why it came to nothing, one hyphenated word; empty if it didn't."""
        return self.notes.reason or ("client-gone" if self.lost else "")

    @property
    def received_bytes(self) -> int:
        """How much of its body has arrived, in bytes."""
        return 0 if self.body is None else self.body.received

    def process(self) -> None:
        site = self.channel.site
        assert isinstance(site, HmacfsSite)
        site.in_flight += 1
        verdict = site.door.verdict_on(site.sender_of(self), self.method) if site.door.is_guarded else None
        if verdict is None:
            super().process()
        else:
            self._turn_away(site, verdict)

    def _turn_away(self, site: HmacfsSite, verdict: Verdict) -> None:
        """Answer before anything of the request is looked at, and without the cost of an answer like others."""
        self.site = site
        self.notes.blocked = True
        if not site.door.speaks_for_many(self.client):
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        bodiless = self.method == b"HEAD"
        status = told(verdict.kind, None).status
        self.finishWith(status, lambda closes: site.door.refusal(verdict, closes=closes, bodiless=bodiless))

    def render(self, resource: IResource) -> None:
        """Called by twisted.web, unless something is wrong with the request."""
        site = self.channel.site
        assert isinstance(site, HmacfsSite)
        try:
            self.counted_for = site.door.enter(self.client, site.sender_of(self))
        except Refused as refused:
            self.notes.reason = refused.reason
            write_answer(self, refusal(refused, self.getHeader(b"accept")))
        else:
            super().render(resource)


class HmacfsSite(StreamingSite):
    """See the module.

    :param access_log: takes one entry for each request; ``None`` where nobody reads them.
    :param metrics: ``None`` where requests aren't counted.
    :param always: the headers of every answer.
    :param in_progress: counts the requests of clients behind trusted proxies.
    :param scopes: says whom they are counted for.
    :ivar in_flight: how many requests are being worked on.
    :ivar door: whom it lets in.
    """

    requestFactory = HmacfsRequest
    #: Twisted would log when it starts and stops, by its address in memory. The service says where we listen.
    noisy = False

    _log = Logger()

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        limits: Limits,
        addresses: ClientAddresses,
        access_log: Callable[[RequestEntry], None] | None,
        metrics: Metrics | None,
        always: Iterable[tuple[str, str]] = ALWAYS,
        connections: Connections | None = None,
        wheel: Wheel | None = None,
        in_progress: RequestsInProgress | None = None,
        scopes: Scopes | None = None,
    ) -> None:
        super().__init__(
            resource,
            reactor=reactor,
            limits=limits,
            connections=connections,
            wheel=wheel,
            headers=[(name.encode(), value.encode()) for name, value in always],
        )
        self.in_flight = 0
        self._addresses = addresses
        self.door = Door(
            addresses,
            scopes or Scopes(addresses, 128),
            in_progress or RequestsInProgress(0),
            self.headers,
            self.wheel.now,
        )
        self._access_log = access_log
        self._metrics = metrics
        self._warned_of_headers = False
        self._warned_of_excess_at = -inf

    def sender_of(self, request: HmacfsRequest) -> ClientAddress:
        """Who sent a request, as far as trusted proxies say."""
        if request.sender is None:
            request.sender = self._addresses.resolve(request.client, request.requestHeaders)
        return request.sender

    def admit(self, peer: IAddress) -> bytes | None:
        """Turn away who is blocked from everything, before a byte is parsed."""
        verdict = self.door.verdict_on_peer(peer)
        return None if verdict is None else self.door.refusal(verdict, closes=True, bodiless=False)

    def turnedAway(self, peer: IAddress, excess: Excess) -> None:
        if self._metrics is not None:
            self._metrics.excess_connections.labels(excess.name.lower()).inc()
        now = self.wheel.now()
        if now - self._warned_of_excess_at < _WARN_EVERY_S:
            return
        self._warned_of_excess_at = now
        self._log.warn(
            "Connections are turned away, one from {peer}: {why}. This is said once a minute at most.",
            peer=self._addresses.resolve(peer, Headers()).host,
            why=_WHY[excess],
        )

    def requestFinished(self, request: StreamingRequest) -> None:
        assert isinstance(request, HmacfsRequest)
        self.in_flight -= 1
        if request.counted_for is not None:
            self.door.leave(request.counted_for)
        if request.notes.blocked:
            if self._metrics is not None:
                self._metrics.count_request(request.method.decode("ascii", "replace"), request.code)
            return
        sender = self.sender_of(request)
        if sender.headers_ignored and not self._warned_of_headers:
            self._warn_of_headers(sender)
        if request.notes.reason:
            self.door.failed(sender, request.notes.reason)
        if self._metrics is not None:
            self._count(self._metrics, request)
        if self._access_log is not None:
            self._write_down(self._access_log, request, sender)

    def malformedRequest(self, channel: StreamingChannel, status: int, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.malformed_requests.labels(reason).inc()
        if reason == "malformed-body":
            # The request came to its resource, and has a line of its own.
            return
        client = self._addresses.resolve(channel.getPeer(), Headers())
        self.door.failed(client, reason)
        if self._access_log is not None:
            self._access_log(
                RequestEntry(
                    client=client.host,
                    method="-",
                    path="-",
                    status=status,
                    received_bytes=0,
                    sent_bytes=0,
                    seconds=0.0,
                    reason=reason,
                )
            )

    def _warn_of_headers(self, client: ClientAddress) -> None:
        self._warned_of_headers = True
        self._log.warn(
            "{peer} sent X-Forwarded-For, X-Real-IP or Forwarded and is not believed, as it isn't in TrustedProxies."
            " If it is your proxy, add it; this is said once.",
            peer=client.host,
        )

    def _write_down(
        self, access_log: Callable[[RequestEntry], None], request: HmacfsRequest, client: ClientAddress
    ) -> None:
        notes = request.notes
        entry = RequestEntry(
            client=client.host,
            method=request.method.decode("ascii", "replace"),
            path=_shown(request.path).decode("ascii", "backslashreplace"),
            status=request.outcome,
            received_bytes=request.received_bytes,
            sent_bytes=request.sentLength,
            seconds=self.wheel.now() - request.startedAt,
            reason=request.reason,
            session=notes.session,
            resumed_at=notes.resumed_at,
        )
        remark, notes.remark = notes.remark, None
        if remark is None:
            access_log(entry)
        else:
            remark.addErrback(lambda failure: self._log.failure("no explanation was found", failure))
            remark.addCallback(lambda text: access_log(entry.with_remark(text or "")))

    def _count(self, metrics: Metrics, request: HmacfsRequest) -> None:
        notes, reason, status = request.notes, request.reason, request.outcome
        metrics.count_request(request.method.decode("ascii", "replace"), status)
        if request.received_bytes:
            metrics.received_bytes.inc(request.received_bytes)
        if request.sentLength:
            metrics.sent_bytes.inc(request.sentLength)
        if notes.stored:
            metrics.uploads.inc()
            metrics.upload_duration.observe(self.wheel.now() - request.startedAt)
        elif reason:
            errors = metrics.download_errors if request.method in (b"GET", b"HEAD") else metrics.upload_errors
            errors.labels(reason).inc()
        elif request.method == b"GET" and status in _DOWNLOADS:
            metrics.count_download("offloaded" if notes.offloaded else _DOWNLOADS[status])


def _shown(path: bytes) -> bytes:
    """*path* as it may stand in a log: to know that of an upload is to be allowed to write to it."""
    before, uploads, _ = path.partition(_UPLOADS)
    return before + uploads + b"..." if uploads else path
