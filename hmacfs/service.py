"""Assembly: from a configuration to the services of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from hmacfs.access.bans import Bans
from hmacfs.access.banstate import IBanState, Policy
from hmacfs.access.embeddedbans import FILE_NAME as BANS_FILE_NAME
from hmacfs.access.embeddedbans import EmbeddedBanState
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.redisbans import RedisBanState
from hmacfs.access.scopes import Scopes
from hmacfs.config import Config, Listen, RedisAddress
from hmacfs.errors import StartError
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.indexing import Indexing
from hmacfs.keeping.quotas import QuotaLimits, Quotas
from hmacfs.keeping.report import Report
from hmacfs.keeping.retention import Retention, RetentionSweeps, policy_of
from hmacfs.logs import Logs, RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, RequestsInProgress
from hmacfs.net.descriptors import PER_CONNECTION, affordable_connections, raise_limit
from hmacfs.net.limits import Limits
from hmacfs.net.listening import CannotListen, Listener
from hmacfs.net.redislink import RedisLink
from hmacfs.net.sweeps import Sweeps
from hmacfs.net.threads import Threads
from hmacfs.net.wheel import Wheel
from hmacfs.storage.space import Reservations
from hmacfs.storage.store import Store
from hmacfs.storage.watch import LOOK_EVERY_S, Watch
from hmacfs.uploads.embedded import EmbeddedUploadState
from hmacfs.uploads.identity import server_key
from hmacfs.uploads.janitor import Janitor
from hmacfs.uploads.redisstate import RedisUploadState, redis_endpoint
from hmacfs.uploads.retrying import Retries
from hmacfs.uploads.state import IUploadState, StateUnavailable, Status
from hmacfs.uploads.upload import Means
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.answers import ALWAYS, EVERYWHERE
from hmacfs.web.base import Nothing
from hmacfs.web.downloads import Downloads
from hmacfs.web.offloading import ACCEL_REDIRECT, Offloading
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
_BANS_EVERY_S = 1.0
_PURGE_BANS_EVERY_S = 60.0
_INDEX_EVERY_S = 60.0
_RECONCILE_EVERY_S = 86_400.0


class Serving:
    """What takes uploads and serves files: everything behind the sites.

    Made when the process has become what it will be (daemon, user), and no request has come yet.

    :param addresses: says who sent a request.
    :param scopes: says whom failures are counted for.
    :ivar root: the resource tree.
    :ivar bans: who is blocked or banned.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        threads: Threads,
        metrics: Metrics,
        addresses: ClientAddresses,
        scopes: Scopes,
    ) -> None:
        self._threads = threads
        self._addresses = addresses
        self._metrics = metrics
        self._config = config
        self._store = Store.open(config.store_dir)
        self._index = Index(self._store.own_directory / FILE_NAME)
        self._indexing = Indexing(self._store, self._index, reactor, threads, time.time, metrics)
        self._report = Report(config.report_file)
        self._retention = RetentionSweeps(
            Retention(self._index, policy_of(config), config.retention_interval_s),
            self._deleting("retention").delete,
            clock=reactor,
            threads=threads,
            now=time.time,
            metrics=metrics,
        )
        key = server_key(self._store.own_directory)
        self._watch_over_store = Watch(self._store, key, threads)
        self._link = None if config.redis is None else redis_link(config, reactor, config.redis)
        self._state = _make_state(config, self._link, reactor, threads, self._store)
        self.bans = Bans(
            _make_ban_state(config, self._link, threads, self._store),
            _ban_policy(config),
            scopes=scopes,
            spares_readers=config.block_scope == "uploads",
            now=time.time,
            monotonic=time.monotonic,
            metrics=metrics,
        )
        retries = Retries(config.max_retries, config.retry_delay_s, reactor, self._count_retry)
        self._uploads = Uploads(
            self._store,
            self._state,
            key,
            Means(reactor, threads, retries),
            reservations=Reservations(self._store.free_bytes, config.min_free_bytes, reactor),
            quotas=self._make_quotas(config),
            now=time.time,
            hash_all=config.checksum_verification,
            # With 0 nothing could ever be resumed.
            max_attempts=max(1, config.max_retries),
            session_ttl_s=config.session_ttl_s,
            metrics=metrics,
            published=lambda path, _stored: self._indexing.changed(path),
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
        if self._link is not None:
            await start_link(self._link)
        await self._state.start()
        await self.bans.start()
        await self._threads.run(self._store.sweep_going)
        await self._indexing.start()
        sweeps.start("retention", self._config.retention_interval_s, self._retention.sweep)
        sweeps.start("the index of stored files", _INDEX_EVERY_S, self._indexing.look_after)
        sweeps.start("the end of blocks and bans", _BANS_EVERY_S, self.bans.turn)
        sweeps.start("the removal of old failures", _PURGE_BANS_EVERY_S, self.bans.purge)
        sweeps.start("the removal of expired uploads", _EXPIRE_EVERY_S, self._janitor.expire)
        sweeps.start("the watch over StoreDir", LOOK_EVERY_S, self._watch_over_store.look)
        sweeps.start("the count of uploads", _EXPIRE_EVERY_S, self._count_sessions)
        sweeps.start("the search for orphans", _RECONCILE_EVERY_S, self._janitor.reconcile)

    def halt(self) -> None:
        """Let long work in the background come to its end."""
        self._indexing.halt()
        self._retention.halt()

    def reopen(self) -> None:
        """Take files that were rotated away anew."""
        self._report.reopen()

    async def stop(self) -> None:
        """Make durable what has arrived of uploads, and close the stores."""
        await self._uploads.shutdown()
        await self._indexing.stop()
        await self._state.stop()
        await self.bans.stop()
        if self._link is not None:
            await self._link.stop()
        self._store.close()
        self._report.close()

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
        keyring, prefix = Keyring(Secret(config.secret)), "/".join(config.upload_sub_dir)
        gate = Gate(keyring, prefix, config.accept_v3, time.time, config.delete_secret.encode())
        downloads = Downloads(
            self._store,
            time.time,
            stall_s=config.write_timeout_s,
            retries=retries if config.get_retries else Retries(0, 0.0, reactor, self._count_retry),
            publishing=self._uploads.publishing if config.get_retries else None,
            read=self._indexing.read,
            offloading=_make_offloading(config, self._addresses),
        )
        deletions = AskedDeletions(self._store, self._deleting("xmpp-server"), self._threads, time.time, self._metrics)
        slots = SlotResource(gate, self._uploads, downloads, deletions, self._threads, config.max_upload_bytes)
        return build_root(slots, config.upload_sub_dir)

    def _make_quotas(self, config: Config) -> Quotas:
        limits = QuotaLimits(
            config.quota_per_user_bytes,
            config.quota_per_domain_bytes,
            config.quota_total_bytes,
            oldest_go=config.quota_policy == "oldest",
        )
        return Quotas(
            limits,
            self._index,
            delete=self._deleting("quota").delete,
            is_kept=policy_of(config).without_grace().is_spared,
            flush=self._indexing.flush,
            threads=self._threads,
            now=time.time,
            metrics=self._metrics,
        )

    def _deleting(self, by: str) -> Deleting:
        return Deleting(self._store, self._index, self._report.add, by)

    def _watch(self) -> None:
        metrics, state, store = self._metrics, self._state, self._store
        metrics.watch(metrics.uploads_in_progress, lambda: len(self._uploads))
        metrics.watch(metrics.store_up, lambda: int(self._watch_over_store.well))
        metrics.watch(metrics.disk_free_bytes, store.free_bytes)
        metrics.watch(metrics.disk_size_bytes, store.total_bytes)
        if isinstance(state, RedisUploadState):
            metrics.watch(metrics.redis_up, lambda: int(state.available))
            metrics.watch(metrics.redis_round_trip_seconds, lambda: state.round_trip_s or 0.0)

    def _count_retry(self, step: str) -> None:
        self._metrics.retries.labels(step).inc()

    async def _count_sessions(self) -> None:
        try:
            counts = await self._state.counts()
        except StateUnavailable:
            return
        self._metrics.sessions_active.set(counts.get(Status.ACTIVE, 0))


def redis_link(config: Config, reactor: Any, address: RedisAddress) -> RedisLink:
    """The link to Redis that all of a process share. It is to be started when they are all made."""
    return RedisLink(
        reactor,
        redis_endpoint(reactor, address, config.redis_ca_file),
        str(address),
        username=config.redis_username,
        password=config.redis_password,
        database=config.redis_db,
        probe_key=f"{config.redis_prefix}probe",
    )


async def start_link(link: RedisLink) -> None:
    """Start it. That Redis is away is no failure.

    :raises StartError: a library is missing.
    """
    try:
        await link.start()
    except ImportError as error:
        raise StartError("RedisAddr is set, and txredisapi (python3-txredisapi) is not installed.") from error


def _make_state(config: Config, link: RedisLink | None, reactor: Any, threads: Threads, store: Store) -> IUploadState:
    if link is None:
        path = store.own_directory / "state.sqlite"
        state: IUploadState = EmbeddedUploadState(path, threads, reactor, config.session_ttl_s, time.time)
        return state
    return RedisUploadState(link, time.time, config.session_ttl_s, config.redis_prefix)


def _make_ban_state(config: Config, link: RedisLink | None, threads: Threads, store: Store) -> IBanState:
    if link is None:
        state: IBanState = EmbeddedBanState(store.own_directory / BANS_FILE_NAME, threads, time.time)
        return state
    return RedisBanState(link, time.time, config.redis_prefix)


def _make_offloading(config: Config, addresses: ClientAddresses) -> Offloading | None:
    if not config.sendfile_header:
        return None
    if config.sendfile_header == ACCEL_REDIRECT:
        return Offloading.below_prefix(config.sendfile_prefix, addresses)
    return Offloading.below_directory(config.store_dir, addresses)


def _ban_policy(config: Config) -> Policy:
    ban_s = config.auto_ban_time_s if config.auto_unban else None
    return Policy(config.block_after_fails, config.block_duration_s, config.auto_ban_time_s, ban_s)


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
        self._addresses = ClientAddresses(config.trusted_proxies)
        self._scopes = Scopes(self._addresses, config.ban_prefix_v6)
        self._wheel = Wheel(reactor)
        self._connections = Connections(config.max_connections, config.max_connections_per_ip, self._scopes.of_peer)
        # Scrapes and probes are not what the metrics, the log and the limits are about.
        self._site = self._make_site(
            self._metrics,
            self._logs.request,
            ALWAYS,
            connections=self._connections,
            in_progress=RequestsInProgress(config.max_connections_per_ip),
        )
        # Nor are they for the pages of other origins, in the browser of somebody who can reach that port.
        self._status_site = self._make_site(Metrics(), lambda _entry: None, EVERYWHERE)
        self._listen(config.listen, self._site)
        if config.metrics_enabled:
            self._listen(config.metrics_listen, self._status_site)
        self._metrics.watch(self._metrics.goroutines, self._units_of_work)
        self._metrics.watch(self._metrics.connections, lambda: len(self._connections))
        self._metrics.watch(self._metrics.log_lines_lost, lambda: self._logs.lost)

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
        self._fit_connections(raise_limit())
        with _ends_with_a_sentence():
            self._serving = Serving(
                self._config, self._reactor, self._threads, self._metrics, self._addresses, self._scopes
            )
            self._site.resource = self._serving.root
            self._site.door.bans = self._serving.bans
            self._status_site.resource = build_status(self._metrics, self._serving.failing)
            super().startService()
        self._pool.start()
        self._reactor.callWhenRunning(self._begin, self._serving)

    def _fit_connections(self, descriptors: int) -> None:
        """Don't take more connections than *descriptors* are enough for."""
        wanted, affordable = self._connections.most, affordable_connections(descriptors)
        if wanted > affordable:
            self._connections.most = affordable
            self._log.warn(
                "MaxConnections is {affordable}, not {wanted}: there are {descriptors} file descriptors, and a connection"
                " may need {each}. For more, raise LimitNOFILE in the systemd unit, or ulimit -Hn.",
                affordable=affordable,
                wanted=wanted,
                descriptors=descriptors,
                each=PER_CONNECTION,
            )

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
        self._reactor.callFromThread(self._reopen)

    def _reopen(self) -> None:
        self._logs.reopen()
        if self._serving is not None:
            self._serving.reopen()

    async def _stop(self) -> None:
        await super().stopService()
        if self._serving is not None:
            self._serving.halt()
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

    def _make_site(
        self,
        metrics: Metrics,
        access_log: Callable[[RequestEntry], None],
        always: Iterable[tuple[str, str]],
        *,
        connections: Connections | None = None,
        in_progress: RequestsInProgress | None = None,
    ) -> HmacfsSite:
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
            addresses=self._addresses,
            access_log=access_log,
            metrics=metrics,
            always=always,
            connections=connections,
            wheel=self._wheel,
            in_progress=in_progress,
            scopes=self._scopes,
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
