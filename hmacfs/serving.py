"""Assembly: what takes uploads and serves files, everything behind the sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from twisted.logger import Logger

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.bans import Bans
from hmacfs.access.banstate import IBanState, Policy
from hmacfs.access.embeddedbans import FILE_NAME as BANS_FILE_NAME
from hmacfs.access.embeddedbans import EmbeddedBanState
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring
from hmacfs.access.redisbans import RedisBanState
from hmacfs.access.scopes import Scopes
from hmacfs.config import Config, RedisAddress
from hmacfs.errors import StartError
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.indexing import Indexing
from hmacfs.keeping.quotas import QuotaLimits, Quotas
from hmacfs.keeping.report import Report
from hmacfs.keeping.retention import Retention, RetentionSweeps, policy_of
from hmacfs.metrics import Metrics, Sharing
from hmacfs.net.leadership import STAND_EVERY_S, Leadership
from hmacfs.net.redislink import RedisLink
from hmacfs.net.sweeps import Sweeps
from hmacfs.net.threads import Threads
from hmacfs.storage.disk import Disk, UnsyncedDisk
from hmacfs.storage.promises import IPromises, SharedPromises
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
from hmacfs.web.downloads import Downloads
from hmacfs.web.entrance import Entrance
from hmacfs.web.mirror import Mirror
from hmacfs.web.offloading import ACCEL_REDIRECT, Offloading
from hmacfs.web.root import build_root

_EXPIRE_EVERY_S = 60.0
_BANS_EVERY_S = 1.0
_SHARED_EVERY_S = 1.0
_PURGE_BANS_EVERY_S = 60.0
_INDEX_EVERY_S = 60.0
_RECONCILE_EVERY_S = 86_400.0

#: In .hmacfs/: locked by the process that sweeps for all that share the store.
_LOCK = "sweeps.lock"

#: Where the processes of a service share what they tell each other of their uploads.
_PROMISES = "promises"


class Serving:
    """Takes uploads and serves files.

    Made when the process has become what it will be (daemon, user), and no request has come yet.

    :param addresses: says who sent a request.
    :param scopes: says whom failures are counted for.
    :param keyring: what slots may be signed with.
    :param join: has us tell the others that serve with us of our uploads. May raise :exc:`StartError`.
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
        keyring: Keyring,
        join: Callable[[], IPromises],
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._addresses = addresses
        self._metrics = metrics
        self._config = config
        with ExitStack() as opened:
            self._promises = join()
            opened.callback(self._promises.close)
            self._report = Report(config.report_file)
            opened.callback(self._report.close)
            self._store = Store.open(config.store_dir, Disk() if config.durability == "fsync" else UnsyncedDisk())
            opened.callback(self._store.close)
            key = server_key(self._store.own_directory)
            opened.pop_all()
        self._index = Index(self._store.own_directory / FILE_NAME)
        self._indexing = Indexing(self._store, self._index, reactor, threads, time.time, metrics)
        self._retention = RetentionSweeps(
            Retention(self._index, policy_of(config), config.retention_interval_s),
            self._deleting("retention").delete,
            clock=reactor,
            threads=threads,
            now=time.time,
            metrics=metrics,
        )
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
            reservations=Reservations(self._store.free_bytes, config.min_free_bytes, reactor, self._promises),
            quotas=self._make_quotas(config),
            now=time.time,
            hash_all=config.checksum_verification,
            # With 0 nothing could ever be resumed.
            max_attempts=max(1, config.max_retries),
            session_ttl_s=config.session_ttl_s,
            metrics=metrics,
            published=lambda path, _stored: self._indexing.changed(path),
        )
        self._once = Sweeps(reactor)
        self._leadership = Leadership(self._store.own_directory / _LOCK, self._begin_to_lead, threads)
        self._janitor = Janitor(self._store, self._state, key, threads, time.time, config.session_ttl_s, metrics)
        self.root = self._make_root(config, reactor, retries, keyring)

    async def start(self, sweeps: Sweeps) -> None:
        """Open the state store, and begin what is done again and again.

        :raises StartError: what the operator has to mend.
        """
        if not self._store.has_attributes:
            self._log.warn(
                "{store} has no extended attributes: what is known of files is kept beside them, in .hmacfs/meta/",
                store=self._config.store_dir,
            )
        if self._metrics.are_shared:
            sweeps.start("the sharing of metrics", _SHARED_EVERY_S, self._share_metrics)
        if self._link is not None:
            await start_link(self._link)
        await self._state.start()
        await self.bans.start()
        await self._threads.run(self._store.sweep_going)
        await self._indexing.start()
        shown_every_s = _SHARED_EVERY_S if self._metrics.are_shared else _INDEX_EVERY_S
        sweeps.start("the index of stored files", shown_every_s, self._indexing.look)
        sweeps.start("the end of blocks and bans", _BANS_EVERY_S, self.bans.turn)
        sweeps.start("the watch over StoreDir", LOOK_EVERY_S, self._watch_over_store.look)
        sweeps.start("the count of uploads", _EXPIRE_EVERY_S, self._count_sessions)
        sweeps.start("the choice of who sweeps", STAND_EVERY_S, self._leadership.stand)

    def _begin_to_lead(self) -> None:
        """What one process does for all that share the store."""
        start = self._once.start
        start("retention", self._config.retention_interval_s, self._retention.sweep)
        start("the scan of stored files", _INDEX_EVERY_S, self._indexing.look_after)
        start("the removal of old failures", _PURGE_BANS_EVERY_S, self.bans.purge)
        start("the removal of expired uploads", _EXPIRE_EVERY_S, self._janitor.expire)
        start("the search for orphans", _RECONCILE_EVERY_S, self._janitor.reconcile)

    @property
    def uploading(self) -> int:
        """How many uploads are being received."""
        return len(self._uploads)

    @property
    def sweeping(self) -> int:
        """How many of the sweeps that are one process' are at work here."""
        return self._once.running

    async def hand_over(self) -> None:
        """Leave to another process what one does for all, now and for good. This one may go on serving."""
        self._leadership.resign()
        self._indexing.halt()
        self._retention.halt()
        await self._once.stop()

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
        self._promises.close()

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

    async def _condition(self) -> Mapping[str, object]:
        """How the server is, for the operator who asks from outside."""
        redis = self._state.available if isinstance(self._state, RedisUploadState) else None
        return {"failing": await self.failing(), "free_bytes": self._store.free_bytes(), "redis": redis}

    def _make_root(self, config: Config, reactor: Any, retries: Retries, keyring: Keyring) -> Any:
        prefix = "/".join(config.upload_sub_dir)
        gate = Gate(keyring, prefix, config.accept_v3, time.time, config.delete_secret.encode())
        downloads = Downloads(
            self._store,
            time.time,
            stall_s=config.write_timeout_s,
            retries=retries if config.get_retries else Retries(0, 0.0, reactor, self._count_retry),
            publishing=self._uploads.completion.publishing if config.get_retries else None,
            read=self._indexing.read,
            offloading=_make_offloading(config, self._addresses),
        )
        deletions = AskedDeletions(self._store, self._deleting("xmpp-server"), self._threads, time.time, self._metrics)
        entrance = Entrance(gate, self._uploads, self._threads, config.max_upload_bytes)
        mirror = Mirror(keyring, reactor, time.time, self._condition)
        return build_root(
            entrance,
            self._uploads,
            downloads,
            deletions,
            mirror,
            upload_sub_dir=config.upload_sub_dir,
            now=time.time,
            interim_responses=config.interim_responses,
        )

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
            promises=self._promises,
            clock=self._reactor,
            threads=self._threads,
            now=time.time,
            metrics=self._metrics,
        )

    def _deleting(self, by: str) -> Deleting:
        return Deleting(self._store, self._index, self._report.add, by)

    def show(self) -> None:
        """Have the metrics show how our store is."""
        metrics, state, store = self._metrics, self._state, self._store
        metrics.watch(metrics.store_up, lambda: int(self._watch_over_store.well))
        metrics.watch(metrics.disk_free_bytes, store.free_bytes)
        metrics.watch(metrics.disk_size_bytes, store.total_bytes)
        if isinstance(state, RedisUploadState):
            metrics.watch(metrics.redis_up, lambda: int(state.available))
            metrics.watch(metrics.redis_round_trip_seconds, lambda: state.round_trip_s or 0.0)
        else:
            metrics.forget(metrics.redis_up)
            metrics.forget(metrics.redis_round_trip_seconds)

    async def _share_metrics(self) -> None:
        self._metrics.publish()

    def _count_retry(self, step: str) -> None:
        self._metrics.retries.labels(step).inc()

    async def _count_sessions(self) -> None:
        try:
            counts = await self._state.counts()
        except StateUnavailable:
            return
        self._metrics.sessions_active.set(counts.get(Status.ACTIVE, 0))


def join_workers(sharing: Sharing, reactor: Any) -> IPromises:
    """Have this process tell the other workers of its uploads.

    :raises StartError: it can't.
    """
    directory = sharing.directory / _PROMISES
    try:
        promises: IPromises = SharedPromises(directory, sharing.name, reactor)
    except OSError as error:
        raise StartError(f"The worker can't use {directory}: {error.strerror or error}.") from error
    return promises


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
