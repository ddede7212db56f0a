"""A whole server in memory: everything between the wire and the disk, without sockets, threads or waiting."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote_from_bytes

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from hmacfs.access.addresses import ClientAddresses, Trusted
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.indexing import Indexing
from hmacfs.keeping.quotas import QuotaLimits, Quotas
from hmacfs.keeping.report import Deletion
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.limits import Limits
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.disk import Disk
from hmacfs.storage.names import SlotPath
from hmacfs.storage.promises import Circle
from hmacfs.storage.space import Reservations
from hmacfs.storage.store import Store, StoredFile
from hmacfs.uploads.embedded import EmbeddedUploadState
from hmacfs.uploads.identity import server_key
from hmacfs.uploads.retrying import Retries
from hmacfs.uploads.state import IUploadState, StateUnavailable
from hmacfs.uploads.upload import Means
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.downloads import Downloads
from hmacfs.web.entrance import Entrance
from hmacfs.web.mirror import Mirror
from hmacfs.web.offloading import Offloading
from hmacfs.web.root import build_root
from hmacfs.web.site import HmacfsSite
from tests.access.vectors import WHEN, hex_mac, jwt
from tests.net.wire import Answer, MemoryTransport, Wire
from tests.storage.support import StoreTestCase

SECRET = "it-is-secret"

#: When all tests happen, in seconds since the epoch.
NOW = WHEN

PATH = "6f95dd3c/photo.jpg"
URL = "/upload/6f95dd3c/photo.jpg"
TOKEN = "tok-5c1e-0001"

TTL_S = 86_400.0

_CREDENTIALS = re.compile(r"[0-9a-f]{64}|(?<=Bearer )\S{8,}")


def encoded(path: str | bytes) -> bytes:
    return path.encode() if isinstance(path, str) else path


def url(path: str | bytes) -> str:
    """The URL path of a slot, escaped as Prosody does."""
    return f"/upload/{quote_from_bytes(encoded(path))}"


def v(path: str | bytes, size: int) -> str:
    """The request target of a version 1 slot."""
    return f"{url(path)}?v={hex_mac(encoded(path) + b' %d' % size, SECRET)}"


def v2(path: str | bytes, size: int, content_type: str, parameter: str = "v2") -> str:
    """The request target of a version 2 slot; with *parameter* ``token`` of one of Metronome's."""
    signed = b"\0".join([encoded(path), b"%d" % size, content_type.encode()])
    return f"{url(path)}?{parameter}={hex_mac(signed, SECRET)}"


def v3(path: str, expires: int) -> str:
    signed = f"PUT\n{expires}\n/upload/{path}".encode()
    return f"{url(path)}?v3={hex_mac(signed, SECRET)}&expires={expires}"


def bearer(path: str, size: int, **claims: object) -> dict[str, str]:
    """The header of a slot of Prosody's mod_http_file_share; *claims* take the place of the usual ones."""
    slot, _, name = path.partition("/")
    usual = {"sub": "alice@localhost", "slot": slot, "filename": name, "filesize": size, "exp": NOW + 300}
    return {"Authorization": "Bearer " + jwt({**usual, "filetype": "image/jpeg", **claims}, SECRET)}


def request(
    method: str,
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    length: int | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of a request.

    :param length: what it states, where that is not the length of *body*.
    """
    lines = [b"%b %b HTTP/%b" % (method.encode(), encoded(target), version.encode()), b"Host: h"]
    lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
    if body is not None or length is not None:
        lines.append(b"Content-Length: %d" % (len(body or b"") if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(target: str, headers: Mapping[str, str], *chunks: bytes) -> bytes:
    """The bytes of a PUT whose length only its end tells."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request("PUT", target, {**headers, "Transfer-Encoding": "chunked"}) + coded + b"0\r\n\r\n"


def _sync_nothing(_disk: Disk, fd: int) -> None:
    os.fstat(fd)  # fails as fsync does where there is no such descriptor


class SwitchedState:
    """A state store that can be taken away.

    :ivar away: whether nothing is heard of it.
    :ivar before: called with each call's name before it is made.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self.away = False
        self.before: Callable[[str], None] = lambda _method: None

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Deferred[Any]:
            self.before(name)
            if self.away:
                return fail(StateUnavailable("timeout", 3.0))
            called: Deferred[Any] = getattr(self._state, name)(*args)
            return called

        return call


class Server:
    """Serves a store.

    :ivar entries: what has been logged of requests.
    :ivar credentials: every signature and token that was sent.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        threads: Threads | None = None,
        upload_sub_dir: Sequence[str] = ("upload",),
        max_upload_bytes: int | None = None,
        free_bytes: Callable[[], int] | None = None,
        min_free_bytes: int = 0,
        hash_all: bool = True,
        accept_v3: bool = False,
        retries: int = 0,
        get_retries: bool = False,
        max_attempts: int = 5,
        limits: Limits | None = None,
        quota_limits: QuotaLimits | None = None,
        delete_secret: bytes = b"",
        trusted: Iterable[Trusted] = (),
        offloading: Offloading | None = None,
        interim_responses: str = "auto",
        state: IUploadState | None = None,
    ) -> None:
        self.clock = clock
        self.entries: list[RequestEntry] = []
        self.credentials: set[str] = set()
        self.published: list[StoredFile] = []
        self.read: list[SlotPath] = []
        self.reported: list[Deletion] = []
        self.retried: list[str] = []
        self._registry = CollectorRegistry()
        self.metrics = Metrics(self._registry)
        threads = self.threads = threads or InlineThreads()
        self.store = store
        self.index = Index(store.own_directory / FILE_NAME)
        # Only where somebody wants it: it looks at files, some time after they were stored.
        self._is_indexed = quota_limits is not None
        self.indexing = Indexing(store, self.index, clock, threads, clock.seconds, self.metrics)
        database = EmbeddedUploadState(store.own_directory / "state.sqlite", threads, clock, TTL_S, clock.seconds)
        self.stop_state = database.stop
        self.state = SwitchedState(state or database)
        means = Means(clock, threads, Retries(retries, 1.0, clock, self.retried.append))
        self.reservations = Reservations(free_bytes or (lambda: 1 << 40), min_free_bytes, clock, Circle().join())
        self.uploads = Uploads(
            store,
            cast(IUploadState, self.state),
            server_key(store.own_directory),
            means,
            reservations=self.reservations,
            quotas=self._make_quotas(quota_limits or QuotaLimits()),
            now=clock.seconds,
            hash_all=hash_all,
            max_attempts=max_attempts,
            session_ttl_s=TTL_S,
            metrics=self.metrics,
            published=self._note_published,
        )
        self.downloads = Downloads(
            store,
            clock.seconds,
            stall_s=60.0,
            retries=means.retries if get_retries else Retries(0, 0.0, clock, self.retried.append),
            publishing=self.uploads.completion.publishing if get_retries else None,
            read=self.read.append,
            offloading=offloading,
        )
        keyring = Keyring(Secret(SECRET.encode()))
        gate = Gate(keyring, "/".join(upload_sub_dir), accept_v3, clock.seconds, delete_secret)
        deletions = AskedDeletions(store, self._deleting("xmpp-server"), threads, clock.seconds, self.metrics)
        self.entrance = Entrance(gate, self.uploads, threads, max_upload_bytes)
        self.root = build_root(
            self.entrance,
            self.uploads,
            self.downloads,
            deletions,
            Mirror(keyring, clock, clock.seconds, self._condition),
            upload_sub_dir=upload_sub_dir,
            now=clock.seconds,
            interim_responses=interim_responses,
        )
        self.site = HmacfsSite(
            self.root,
            reactor=clock,
            limits=limits or Limits(),
            addresses=ClientAddresses(trusted),
            access_log=self.entries.append,
            metrics=self.metrics,
        )

    async def _condition(self) -> Mapping[str, object]:
        return {"failing": {}, "free_bytes": 1000, "redis": None}

    def _make_quotas(self, limits: QuotaLimits) -> Quotas:
        return Quotas(
            limits,
            self.index,
            delete=self._deleting("quota").delete,
            is_kept=lambda _entry, _now: False,
            flush=self.indexing.flush,
            promises=Circle().join(),
            clock=self.clock,
            threads=self.threads,
            now=self.clock.seconds,
            metrics=self.metrics,
        )

    def _deleting(self, by: str) -> Deleting:
        return Deleting(self.store, self.index, self.reported.append, by)

    def _note_published(self, path: SlotPath, stored: StoredFile) -> None:
        self.published.append(stored)
        if self._is_indexed:
            self.indexing.changed(path)

    def connect(self, *data: bytes, transport: MemoryTransport | None = None) -> Wire:
        """A connection, on which *data* is sent at once; every argument arrives on its own."""
        wire = Wire(self.site, transport)
        self.credentials.update(_CREDENTIALS.findall(b"".join(data).decode("latin-1")))
        wire.send(*data)
        return wire

    def ask(self, *data: bytes) -> Answer:
        """Send one request on a connection of its own."""
        answers = self.connect(*data).answers(data[0].partition(b" ")[0].decode())
        assert len(answers) == 1, answers
        return answers[0]

    def stalled(self, data: bytes) -> Wire:
        """Send a request on a connection that takes no answer until its channel's ``resumeProducing``."""
        wire = self.connect(data[:1])
        wire.channel.pauseProducing()
        wire.channel.dataReceived(data[1:])
        return wire

    def put(self, path: str | bytes, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """PUT to a version 1 slot."""
        return self.ask(request("PUT", v(path, len(body)), headers, body))

    def get(self, path: str | bytes = PATH, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        return self.ask(request(method, url(path), headers))

    def head(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask(request("HEAD", target, headers))

    def broken(self, path: str, body: bytes, arrived: int, headers: Mapping[str, str] | None = None) -> None:
        """A PUT whose client is gone when so many bytes of *body* have arrived."""
        wire = self.connect(request("PUT", v(path, len(body)), headers, body[:arrived], length=len(body)))
        assert wire.answers() == []
        wire.vanish()

    def metric(self, name: str, **labels: str) -> float | None:
        """What a scrape would show; ``None`` for a sample that isn't there."""
        return self._registry.get_sample_value(f"hmac_file_server_{name}", labels)


class ServerTestCase(StoreTestCase):
    """A test with a server. Whatever it does, no credential that was sent to the server may be in a log.

    Nothing waits for the device: what a power loss does is the business of the tests of the store.

    :ivar server: with the usual settings.
    """

    def setUp(self) -> None:
        for method in ("sync", "sync_data"):
            self.patch(Disk, method, _sync_nothing)
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW)
        self._servers: list[Server] = []
        self._events: list[LogEvent] = []
        observer = cast(ILogObserver, self._events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.server = self.serve()

    def tearDown(self) -> None:
        credentials = [credential for server in self._servers for credential in server.credentials]
        for line in self.logged():
            self.assertFalse([credential for credential in credentials if credential in line], line)

    def serve(self, store: Store | None = None, **settings: Any) -> Server:
        """Another server, over the same store if no other is given."""
        server = Server(store or self.store, self.clock, **settings)
        self._servers.append(server)
        self.addCleanup(server.stop_state)
        self.addCleanup(server.index.close)
        return server

    def logged(self) -> list[str]:
        """All that has been logged, as nobody has masked it yet."""
        entries = [repr(entry) for server in self._servers for entry in server.entries]
        tracebacks = [event["log_failure"].getTraceback() for event in self._events if "log_failure" in event]
        return [*entries, *map(formatEvent, self._events), *tracebacks]

    def assert_refused(self, answer: Answer, status: int, reason: str, server: Server | None = None) -> None:
        """The answer, the only log line and the metric have one reason."""
        server = server or self.server
        self.assertEqual((answer.status, answer.body.partition(b":")[0].decode()), (status, reason))
        entry = server.entries[-1]
        self.assertEqual((entry.status, entry.reason), (status, reason))
        reading = ("GET", "HEAD")
        kind = "download" if entry.method in reading else "upload"
        alike = [logged for logged in server.entries if (logged.method in reading) == (entry.method in reading)]
        same = [logged for logged in alike if logged.reason == reason]
        self.assertEqual(server.metric(f"{kind}_errors_total", reason=reason), len(same))
