"""The site: what is counted and logged of every request, whatever became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import inf
from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from hmacfs.access.addresses import ClientAddress, ClientAddresses
from hmacfs.access.bans import Bans, Verdict
from hmacfs.access.banstate import Kind
from hmacfs.access.scopes import Scopes
from hmacfs.errors import Refused
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, Excess, RequestsInProgress
from hmacfs.net.canned import canned_answer
from hmacfs.net.limits import Limits
from hmacfs.net.streaming import RETRY_AFTER_S, StreamingChannel, StreamingRequest, StreamingSite
from hmacfs.net.wheel import Wheel
from hmacfs.web.answers import ALWAYS, refusal, write_answer

#: What a request is logged with whose client was gone before it had an answer, as nginx does it. Never sent.
CLIENT_GONE = 499


#: How many answers to blocked clients are kept, and for how many peers who they are.
_CANNED = 1024
_REMEMBERED_PEERS = 4096
_IP = (IPv4Address, IPv6Address)

#: How often it is said at most that connections are turned away, in seconds.
_WARN_EVERY_S = 60.0

#: For the operator.
_WHY: Mapping[Excess, str] = {
    Excess.ADDRESS: "its address has MaxConnectionsPerIP",
    Excess.TOTAL: "there are MaxConnections, and all are busy",
}

#: What a GET has brought, by status.
_DOWNLOADS: Mapping[int, str] = {200: "whole", 206: "part", 304: "unchanged"}

#: What blocked clients may still do where ``BlockScope`` is ``uploads``.
_READING = frozenset({b"GET", b"HEAD", b"OPTIONS"})


@define
class Notes:
    """What is to be said of a request when it is over, beside what it shows itself.

    :ivar reason: why it was refused, one hyphenated word.
    :ivar remark: a sentence for the log that is still being found out.
    :ivar session: the session token.
    :ivar resumed_at: the offset at which an upload went on.
    :ivar stored: whether a file was stored by it.
    :ivar blocked: whether it was refused for a block or a ban, which has lines of its own in the log.
    """

    reason: str = ""
    remark: Deferred[str | None] | None = None
    session: str = ""
    resumed_at: int | None = None
    stored: bool = False
    blocked: bool = False


class HmacfsRequest(StreamingRequest):
    """A request with room for notes."""

    def __init__(self, channel: StreamingChannel, *args: Any, **kw: Any) -> None:
        super().__init__(channel, *args, **kw)
        self.notes = Notes()
        #: Whom it is counted for while it is in progress, if it is.
        self.counted_for: str | None = None

    def process(self) -> None:
        site = self.channel.site
        assert isinstance(site, HmacfsSite)
        site.in_flight += 1
        verdict = site.verdict_on(self)
        if verdict is None:
            super().process()
        else:
            self._turn_away(site, verdict)

    def _turn_away(self, site: HmacfsSite, verdict: Verdict) -> None:
        """Answer before anything of the request is looked at, and without the cost of an answer like others."""
        self.site = site
        self.notes.blocked = True
        if not site.is_proxy(self.client):
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        bodiless = self.method == b"HEAD"
        status = _refused(verdict.kind, None).status
        self.finishWith(status, lambda closes: site.refusal_of(verdict, closes=closes, bodiless=bodiless))

    def render(self, resource: IResource) -> None:
        """Called by twisted.web, unless something is wrong with the request."""
        site = self.channel.site
        assert isinstance(site, HmacfsSite)
        try:
            site.admit_request(self)
        except Refused as refused:
            self.notes.reason = refused.reason
            write_answer(self, refusal(refused, self.getHeader(b"accept")))
        else:
            super().render(resource)


class HmacfsSite(StreamingSite):
    """See the module.

    :param access_log: takes one entry for each request.
    :param always: the headers of every answer.
    :param in_progress: counts the requests of clients behind trusted proxies.
    :param scopes: says whom they are counted for.
    :ivar in_flight: how many requests are being worked on.
    :ivar bans: who is blocked or banned; ``None`` for nobody.
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
        access_log: Callable[[RequestEntry], None],
        metrics: Metrics,
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
        self.bans: Bans | None = None
        self._addresses = addresses
        self._access_log = access_log
        self._metrics = metrics
        self._in_progress = in_progress or RequestsInProgress(0)
        self._scopes = scopes or Scopes(addresses, 128)
        self._canned = lru_cache(_CANNED)(self._can)
        self._resolve_host = lru_cache(_REMEMBERED_PEERS)(
            lambda host: addresses.resolve(IPv6Address("TCP", host, 0), Headers())
        )
        self._warned_of_headers = False
        self._warned_of_excess_at = -inf

    def admit(self, peer: IAddress) -> bytes | None:
        """Turn away who is blocked from everything, before a byte is parsed."""
        verdict = self._verdict(self._resolve_peer(peer), reading=True) if self._may_refuse else None
        return None if verdict is None else self.refusal_of(verdict, closes=True, bodiless=False)

    def verdict_on(self, request: HmacfsRequest) -> Verdict | None:
        """Whether the client of *request* is blocked or banned. It is counted then."""
        if not self._may_refuse:
            return None
        client = self._addresses.resolve(request.client, request.requestHeaders)
        return self._verdict(client, reading=request.method in _READING)

    def is_proxy(self, peer: IAddress) -> bool:
        """Whether a connection isn't its peer's alone."""
        return self._scopes.of_peer(peer) is None

    def refusal_of(self, verdict: Verdict, *, closes: bool, bodiless: bool) -> bytes:
        """The whole answer to somebody who is blocked or banned.

        Within a second all are the same that are told the same.
        """
        return self._canned(verdict.kind, verdict.retry_after_s, closes, bodiless, int(self.wheel.now()))

    def _can(self, kind: Kind, retry_after_s: int | None, closes: bool, bodiless: bool, _second: int) -> bytes:
        refused = _refused(kind, retry_after_s)
        headers = {name: value for name, value in refusal(refused, None).headers.items() if name != "Content-Type"}
        return canned_answer(
            refused.status,
            refused.reason,
            refused.detail,
            [*self.headers, *((name.encode(), value.encode()) for name, value in headers.items())],
            closes=closes,
            bodiless=bodiless,
        )

    def _resolve_peer(self, peer: IAddress) -> ClientAddress:
        """Who a peer is that speaks for itself."""
        return self._resolve_host(peer.host) if isinstance(peer, _IP) else self._addresses.resolve(peer, Headers())

    @property
    def _may_refuse(self) -> bool:
        return self.bans is not None and self.bans.has_any

    def _verdict(self, client: ClientAddress, reading: bool) -> Verdict | None:
        return None if self.bans is None else self.bans.verdict(client, reading)

    def admit_request(self, request: HmacfsRequest) -> None:
        """Decide whether a request is to be worked on.

        Who comes directly has one request for each connection, and these are counted.

        :raises Refused: its client has too many others in progress.
        """
        if self._scopes.of_peer(request.client) is not None:
            return
        client = self._addresses.resolve(request.client, request.requestHeaders)
        if client.is_proxy:
            return
        scope = self._scopes.of_host(client.host)
        if not self._in_progress.begin(scope):
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise Refused(
                429, "too-many-connections", "There are too many requests of yours at the same time.", headers
            )
        request.counted_for = scope

    def turnedAway(self, peer: IAddress, excess: Excess) -> None:
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
            self._in_progress.end(request.counted_for)
        if request.notes.blocked:
            self._metrics.count_request(request.method.decode("ascii", "replace"), request.code)
            return
        client = self._addresses.resolve(request.client, request.requestHeaders)
        entry = self._entry(request, client)
        self._count(entry, request.notes)
        if self.bans is not None:
            self.bans.refused(client, request.notes.reason)
        remark, request.notes.remark = request.notes.remark, None
        if remark is None:
            self._access_log(entry)
        else:
            remark.addErrback(lambda failure: self._log.failure("no explanation was found", failure))
            remark.addCallback(lambda text: self._access_log(entry.with_remark(text or "")))

    def malformedRequest(self, channel: StreamingChannel, status: int, reason: str) -> None:
        self._metrics.malformed_requests.labels(reason).inc()
        if reason == "malformed-body":
            # The request came to its resource, and has a line of its own.
            return
        client = self._addresses.resolve(channel.getPeer(), Headers())
        if self.bans is not None:
            self.bans.refused(client, reason)
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

    def _entry(self, request: HmacfsRequest, client: ClientAddress) -> RequestEntry:
        if client.headers_ignored and not self._warned_of_headers:
            self._warned_of_headers = True
            self._log.warn(
                "{peer} sent X-Forwarded-For, X-Real-IP or Forwarded and is not believed, as it isn't in TrustedProxies."
                " If it is your proxy, add it; this is said once.",
                peer=client.host,
            )
        notes = request.notes
        return RequestEntry(
            client=client.host,
            method=request.method.decode("ascii", "replace"),
            path=request.path.decode("ascii", "backslashreplace"),
            status=CLIENT_GONE if request.lost else request.code,
            received_bytes=0 if request.body is None else request.body.received,
            sent_bytes=request.sentLength,
            seconds=self.wheel.now() - request.startedAt,
            reason=notes.reason or ("client-gone" if request.lost else ""),
            session=notes.session,
            resumed_at=notes.resumed_at,
        )

    def _count(self, entry: RequestEntry, notes: Notes) -> None:
        metrics = self._metrics
        metrics.count_request(entry.method, entry.status)
        metrics.received_bytes.inc(entry.received_bytes)
        metrics.sent_bytes.inc(entry.sent_bytes)
        if notes.stored:
            metrics.uploads.inc()
            metrics.upload_duration.observe(entry.seconds)
        elif entry.reason:
            errors = metrics.download_errors if entry.method in ("GET", "HEAD") else metrics.upload_errors
            errors.labels(entry.reason).inc()
        elif entry.method == "GET" and entry.status in _DOWNLOADS:
            metrics.downloads.labels(_DOWNLOADS[entry.status]).inc()


def _refused(kind: Kind, retry_after_s: int | None) -> Refused:
    """What somebody is told who is blocked or banned."""
    if kind is Kind.BANNED:
        return Refused(403, "banned", "This server takes no requests from your address.")
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Refused(429, "blocked", "Too many requests from your address have failed.", headers)
