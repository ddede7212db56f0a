"""Assembly: from a configuration to the services of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from hmacfs import __version__
from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.config import Config, Listen
from hmacfs.errors import StartError
from hmacfs.logs import Logs, RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.listening import CannotListen, Listener
from hmacfs.net.redislink import RedisLink
from hmacfs.net.streaming import Limits
from hmacfs.net.sweeps import Sweeps
from hmacfs.net.threads import Threads
from hmacfs.storage.space import Reservations
from hmacfs.storage.store import Store, StoredFile
from hmacfs.uploads.embedded import EmbeddedUploadState
from hmacfs.uploads.identity import server_key
from hmacfs.uploads.janitor import Janitor
from hmacfs.uploads.redisstate import RedisUploadState, redis_endpoint
from hmacfs.uploads.retrying import Retries
from hmacfs.uploads.state import IUploadState, StateUnavailable, Status
from hmacfs.uploads.upload import Means
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.base import Nothing
from hmacfs.web.downloads import Downloads
from hmacfs.web.root import build_root
from hmacfs.web.site import HmacfsSite
from hmacfs.web.slots import SlotResource
from hmacfs.web.status import build_status

#: How many calls may block at a time (fsync, hashing, SQLite); the others wait in line.
_THREADS = 16

#: Between two requests, in seconds. More than the 60 after which nginx drops a connection to us that it has kept: who
#: closes second never closes on a request that is under way.
_IDLE_TIMEOUT_S = 75.0

#: How often, and after how many seconds each, connections are looked after when we stop.
_FAREWELL_TURNS = 50
_FAREWELL_TURN_S = 0.02

#: How long, and how much of, a refused body is thrown away. Apache, and clients that send everything before they read,
#: see a broken connection instead of the refusal if we stop reading before they have sent what they have.
_LINGER_S = 30.0
_LINGER_BYTES = 1024 * 1024 * 1024

_EXPIRE_EVERY_S = 60.0
_COUNT_EVERY_S = 3_600.0
_RECONCILE_EVERY_S = 86_400.0


class Serving:
    """What takes uploads and serves files: everything behind the sites.

    Made when the process has become what it will be (daemon, user), and no request has come yet.

    :ivar root: the resource tree.
    """

    _log = Logger()

    def __init__(self, config: Config, reactor: Any, threads: Threads, metrics: Metrics) -> None:
        self._threads = threads
        self._metrics = metrics
        self._config = config
        self._store = Store.open(config.store_dir)
        key = server_key(self._store.own_directory)
        self._state = _make_state(config, reactor, threads, self._store)
        retries = Retries(config.max_retries, config.retry_delay_s, reactor, self._count_retry)
        self._uploads = Uploads(
            self._store,
            self._state,
            key,
            Means(reactor, threads, retries),
            reservations=Reservations(self._store.free_bytes, config.min_free_bytes, reactor),
            now=time.time,
            hash_all=config.checksum_verification,
            # With 0 nothing could ever be resumed.
            max_attempts=max(1, config.max_retries),
            session_ttl_s=config.session_ttl_s,
            metrics=metrics,
            published=self._count_stored,
        )
        self._janitor = Janitor(self._store, self._state, key, threads, time.time, config.session_ttl_s, metrics)
        self.root = self._make_root(config, reactor, retries)

    async def start(self, sweeps: Sweeps) -> None:
        """Open the state store, and begin what is done again and again.

        :raises StartError: what the operator has to mend.
        """
        if not self._store.has_attributes:
            self._log.warn(
                "{store} has no extended attributes: what is known of files is kept beside them, in .hmacfs/meta/",
                store=self._config.store_dir,
            )
        self._watch()
        await self._state.start()
        sweeps.start("the count of stored files", _COUNT_EVERY_S, self._count_all)
        sweeps.start("the removal of expired uploads", _EXPIRE_EVERY_S, self._janitor.expire)
        sweeps.start("the count of uploads", _EXPIRE_EVERY_S, self._count_sessions)
        sweeps.start("the search for orphans", _RECONCILE_EVERY_S, self._janitor.reconcile)

    async def stop(self) -> None:
        """Make durable what has arrived of uploads, and close the stores."""
        await self._uploads.shutdown()
        await self._state.stop()
        self._store.close()

    async def failing(self) -> Mapping[str, str]:
        """What keeps us from taking an upload, by what it is about."""
        failing = {}
        try:
            await self._threads.run(self._store.probe)
            if self._store.free_bytes() < self._config.min_free_bytes:
                failing["storage"] = "less than MinFreeSpace is free"
        except OSError as error:
            failing["storage"] = error.strerror or str(error)
        return failing

    def _make_root(self, config: Config, reactor: Any, retries: Retries) -> Any:
        gate = Gate(Keyring(Secret(config.secret)), "/".join(config.upload_sub_dir), config.accept_v3, time.time)
        downloads = Downloads(
            self._store,
            time.time,
            stall_s=config.write_timeout_s,
            retries=retries if config.get_retries else Retries(0, 0.0, reactor, self._count_retry),
            publishing=self._uploads.publishing if config.get_retries else None,
        )
        slots = SlotResource(gate, self._uploads, downloads, self._threads, config.max_upload_bytes)
        return build_root(slots, config.upload_sub_dir)

    def _watch(self) -> None:
        metrics, state, store = self._metrics, self._state, self._store
        metrics.watch(metrics.uploads_in_progress, lambda: len(self._uploads))
        metrics.watch(metrics.disk_free_bytes, store.free_bytes)
        metrics.watch(metrics.disk_size_bytes, store.total_bytes)
        if isinstance(state, RedisUploadState):
            metrics.watch(metrics.redis_up, lambda: int(state.available))
            metrics.watch(metrics.redis_round_trip_seconds, lambda: state.round_trip_s or 0.0)

    def _count_retry(self, step: str) -> None:
        self._metrics.retries.labels(step).inc()

    def _count_stored(self, stored: StoredFile) -> None:
        self._metrics.stored_files.inc()
        self._metrics.stored_bytes.inc(stored.size)

    async def _count_all(self) -> None:
        usage = await self._threads.run(self._store.usage)
        self._metrics.stored_files.set(usage.files)
        self._metrics.stored_bytes.set(usage.size_bytes)

    async def _count_sessions(self) -> None:
        try:
            counts = await self._state.counts()
        except StateUnavailable:
            return
        self._metrics.sessions_active.set(counts.get(Status.ACTIVE, 0))


def _make_state(config: Config, reactor: Any, threads: Threads, store: Store) -> IUploadState:
    address = config.redis
    if address is None:
        path = store.own_directory / "state.sqlite"
        state: IUploadState = EmbeddedUploadState(path, threads, reactor, config.session_ttl_s)
        return state
    link = RedisLink(
        reactor,
        redis_endpoint(reactor, address, config.redis_ca_file),
        str(address),
        username=config.redis_username,
        password=config.redis_password,
        database=config.redis_db,
        probe_key=f"{config.redis_prefix}probe",
    )
    return RedisUploadState(link, reactor, config.session_ttl_s, config.redis_prefix)


class HmacfsService(MultiService):
    """All of hmacfs in one process.

    What may go wrong when it starts ends the process with status 1 and a sentence.

    :param reactor: the real one.
    """

    _log = Logger()

    def __init__(self, config: Config, reactor: Any) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._logs = Logs(config.log_level, config.log_file, config.log_format)
        self._metrics = Metrics()
        self._pool = ThreadPool(minthreads=1, maxthreads=_THREADS, name="hmacfs")
        self._threads = Threads(reactor, self._pool)
        self._sweeps = Sweeps(reactor)
        self._serving: Serving | None = None
        # Scrapes and probes are not what the metrics and the log are about.
        self._site = self._make_site(self._metrics, self._logs.request)
        self._status_site = self._make_site(Metrics(), lambda _entry: None)
        self._listen(config.listen, self._site)
        if config.metrics_enabled:
            self._listen(config.metrics_listen, self._status_site)
        self._metrics.watch(self._metrics.goroutines, self._units_of_work)

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Called by twistd with the application, before logging begins."""
        super().setServiceParent(parent)
        parent.setComponent(ILogObserver, self._logs.observer)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        with _ends_with_a_sentence():
            super().privilegedStartService()

    def startService(self) -> None:
        self._replaced_handler = signal.signal(signal.SIGHUP, self._hung_up)
        for line in (*self._config.warnings, *self._config.inactive):
            self._log.warn("{line}", line=line)
        with _ends_with_a_sentence():
            self._serving = Serving(self._config, self._reactor, self._threads, self._metrics)
            self._site.resource = self._serving.root
            self._status_site.resource = build_status(self._metrics, self._serving.failing)
            super().startService()
        self._pool.start()
        self._reactor.callWhenRunning(self._begin, self._serving)

    def _begin(self, serving: Serving) -> None:
        Deferred.fromCoroutine(serving.start(self._sweeps)).addCallbacks(self._ready, self._cannot_start)

    def _cannot_start(self, failure: Failure) -> None:
        self._log.critical("hmacfs can't start: {error}", error=failure.value)
        # twistd ends with status 0 whenever the reactor is stopped, and by then it runs.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.stop()

    def _ready(self, _: None) -> None:
        places = ", ".join(service.describe() for service in self if isinstance(service, Listener))
        self._log.info("hmacfs {version} listens at {places}", version=__version__, places=places)

    def stopService(self) -> Deferred[None]:
        signal.signal(signal.SIGHUP, self._replaced_handler)
        return Deferred.fromCoroutine(self._stop())

    def _hung_up(self, _signal: int, _frame: object) -> None:
        """SIGHUP, which ends a process that doesn't know it: whoever sends it has rotated the log."""
        self._reactor.callFromThread(self._logs.reopen)

    async def _stop(self) -> None:
        await super().stopService()
        await self._sweeps.stop()
        if self._serving is not None:
            await self._serving.stop()
        await self._close_connections()
        self._pool.stop()
        self._log.info("hmacfs has stopped")

    async def _close_connections(self) -> None:
        """Close them all; what uploads that were stopped are told gets the time to go out."""
        for _ in range(_FAREWELL_TURNS):
            # First of all: who was stopped just now has not been answered yet.
            await deferLater(self._reactor, _FAREWELL_TURN_S, lambda: None)
            channels = [*self._site.channels, *self._status_site.channels]
            if not channels:
                break
            for channel in channels:
                channel.loseConnection()

    def _make_site(self, metrics: Metrics, access_log: Callable[[RequestEntry], None]) -> HmacfsSite:
        config = self._config
        return HmacfsSite(
            Nothing(),
            reactor=self._reactor,
            limits=Limits(
                read_timeout_s=config.read_timeout_s,
                write_timeout_s=config.write_timeout_s,
                min_body_rate=config.min_body_rate,
                body_buffer_bytes=config.buffer_bytes,
                idle_timeout_s=_IDLE_TIMEOUT_S,
                linger_s=_LINGER_S,
                linger_bytes=_LINGER_BYTES,
            ),
            addresses=ClientAddresses(config.trusted_proxies),
            access_log=access_log,
            metrics=metrics,
        )

    def _listen(self, places: tuple[Listen, ...], site: HmacfsSite) -> None:
        for place in places:
            Listener(self._reactor, place.endpoint, site, place.name, place.fallback).setServiceParent(self)

    def _units_of_work(self) -> int:
        return self._site.in_flight + self._threads.busy + self._sweeps.running


@contextmanager
def _ends_with_a_sentence() -> Iterator[None]:
    """A start that fails for a reason that the operator can mend is no traceback, and status 1."""
    try:
        yield
    except (StartError, CannotListen) as error:
        raise SystemExit(f"hmacfs: {error}") from None
