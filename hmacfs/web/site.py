"""The site: what is counted and logged of every request, whatever became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from hmacfs.access.addresses import ClientAddresses
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.streaming import Limits, StreamingChannel, StreamingRequest, StreamingSite
from hmacfs.web.answers import ALWAYS

#: What a request is logged with whose client was gone before it had an answer, as nginx does it. Never sent.
CLIENT_GONE = 499


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
    """

    reason: str = ""
    remark: Deferred[str | None] | None = None
    session: str = ""
    resumed_at: int | None = None
    stored: bool = False


class HmacfsRequest(StreamingRequest):
    """A request with room for notes."""

    def __init__(self, channel: StreamingChannel, *args: Any, **kw: Any) -> None:
        super().__init__(channel, *args, **kw)
        self.notes = Notes()

    def process(self) -> None:
        site = self.channel.site
        assert isinstance(site, HmacfsSite)
        site.in_flight += 1
        super().process()


class HmacfsSite(StreamingSite):
    """See the module.

    :param access_log: takes one entry for each request.
    :ivar in_flight: how many requests are being worked on.
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
    ) -> None:
        super().__init__(
            resource,
            reactor=reactor,
            limits=limits,
            headers=[(name.encode(), value.encode()) for name, value in ALWAYS],
        )
        self.in_flight = 0
        self._addresses = addresses
        self._access_log = access_log
        self._metrics = metrics
        self._warned_of_headers = False

    def requestFinished(self, request: StreamingRequest) -> None:
        assert isinstance(request, HmacfsRequest)
        self.in_flight -= 1
        entry = self._entry(request)
        self._count(entry, request.notes)
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
        self._access_log(
            RequestEntry(
                client=self._addresses.resolve(channel.getPeer(), Headers()).host,
                method="-",
                path="-",
                status=status,
                received_bytes=0,
                sent_bytes=0,
                seconds=0.0,
                reason=reason,
            )
        )

    def _entry(self, request: HmacfsRequest) -> RequestEntry:
        client = self._addresses.resolve(request.client, request.requestHeaders)
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
            seconds=self.reactor.seconds() - request.startedAt,
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
