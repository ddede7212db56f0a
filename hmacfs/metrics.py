"""What Prometheus is told. No label has a path, an address or a JID in it, and every label has few values."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import nan
from operator import add
from pathlib import Path
from typing import Any, Final, Literal

import twisted
from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector
from twisted.logger import Logger

from hmacfs import __version__

#: Of :meth:`Metrics.expose`. Not prometheus_client's CONTENT_TYPE_LATEST, which says from 0.22 on that metrics may have
#: names that ours haven't, and that an older Prometheus doesn't know.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "hmac_file_server_"

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})

#: Seconds: from a thumbnail on a LAN to a film on a phone.
_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


#: How a gauge of one process becomes that of all of them (prometheus_client's ``multiprocess_mode``). Everybody's are
#: added up, of those that live. What only one process knows at a time is the greatest: the others say 0. What each
#: process knows of what they share, the one says that is asked; prometheus_client has no such mode, so its default
#: stands for it.
_Mode = Literal["livesum", "livemax", "max", "all"]
_ADDED: Final = "livesum"
_GREATEST: Final = "livemax"
_GREATEST_EVER: Final = "max"
_OWN: Final = "all"

#: Of each file that is shared: more than all our series take.
_FILE_BYTES: Final = 1 << 18

#: What becomes of two processes' figures of themselves that can't be added.
_MERGED: Final[Mapping[str, Callable[[float, float], float]]] = {
    "process_start_time_seconds": min,
    "process_max_fds": min,
}


@frozen
class Sharing:
    """How the processes of one service share their metrics.

    Each writes its own to files that are mapped into its memory, and whoever is asked reads those of all. So a counter
    goes on where it was when its process was killed, if the next one has its name.

    :ivar directory: theirs alone, and empty when the first of them starts.
    :ivar name: of this process, without ``_``. No two that run at the same time may have the same one.
    :ivar supervisor: the process that all the others are children of, this one or its parent.
    """

    directory: Path
    name: str
    supervisor: int

    def begin(self) -> None:
        """Share the metrics that are made from now on in this process. prometheus_client knows no narrower scope.

        :raises OSError: there is no room, or no right, for the files.
        """
        for kind in ("counter", "histogram", *(f"gauge_{mode}" for mode in (_ADDED, _GREATEST, _GREATEST_EVER))):
            _make_room(self.directory / f"{kind}_{self.name}.db")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.directory)
        mapped = values.MultiProcessValue(lambda: self.name)

        def value(*args: Any, multiprocess_mode: str = "", **kw: Any) -> object:
            kind = values.MutexValue if multiprocess_mode == _OWN else mapped
            return kind(*args, multiprocess_mode=multiprocess_mode, **kw)

        values.ValueClass = value


def _make_room(path: Path) -> None:
    """Who wrote to a page of a mapped file that the file system has no room for would be killed.

    prometheus_client makes its files without pages, and takes those that are there.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _FILE_BYTES)
    finally:
        os.close(fd)


def mark_dead(directory: Path, name: str) -> None:
    """The process of that name has ended: nothing is in progress there any more. Its counters stay."""
    multiprocess.mark_process_dead(name, str(directory))


class Metrics:
    """All metrics of one process, each an attribute named as it is exposed, without the prefix and the unit's suffixes.

    :param registry: where they live; an own one, so that two of these don't meet.
    :param sharing: with whom they are shared. Then there can be one of these in the process.
    """

    _log = Logger()

    def __init__(self, registry: CollectorRegistry | None = None, sharing: Sharing | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self._sharing = sharing
        self._watched: dict[Gauge, Callable[[], float]] = {}
        self._absent: set[Gauge] = set()
        self._added: set[Gauge] = set()
        if sharing is None:
            ProcessCollector(registry=self._registry)
            SupervisorMetrics(registry=self._registry).workers.set(1)
        else:
            sharing.begin()
            self._registry.register(_Processes(sharing.supervisor))
            multiprocess.MultiProcessCollector(self._registry, str(sharing.directory))

        self.goroutines = self._added_gauge(
            "goroutines",
            "Units of work in flight: requests, threads of the pool that are busy, sweeps that are running.",
        )
        self.upload_duration = self._histogram(
            "upload_duration_seconds", "Time from the first byte of a request to the 201 of its stored file."
        )
        self.upload_errors = self._counter(
            "upload_errors", "Requests to write that were refused or broke off, by reason.", "reason"
        )
        self.uploads = self._counter("uploads", "Files stored.")
        self.uploads_in_progress = self._added_gauge("uploads_in_progress", "Uploads that are being received.")
        self.downloads = self._counter(
            "downloads", "Files sent, by kind: whole, part, unchanged (304) or offloaded (to a proxy).", "kind"
        )
        self.download_errors = self._counter(
            "download_errors", "GETs and HEADs that ended without a file, by reason.", "reason"
        )
        self.received_bytes = self._counter("received_bytes", "Bytes of request bodies received.")
        self.sent_bytes = self._counter("sent_bytes", "Bytes of response bodies sent.")
        self.requests = self._counter("requests", "Requests, by method and status.", "method", "status")
        self.malformed_requests = self._counter(
            "malformed_requests",
            "Requests that were no HTTP, or too dangerous to be read as such, by reason.",
            "reason",
        )
        self.connections = self._added_gauge(
            "connections", "Connections that are open, those to metrics not among them."
        )
        self.excess_connections = self._counter(
            "excess_connections",
            "Connections turned away: for the limit of their address, or for that of all together.",
            "limit",
        )

        self.stored_files = self._gauge("stored_files", "Files in the store.")
        self.stored_bytes = self._gauge("stored_bytes", "Bytes in the store.")
        self.store_up = self._gauge("store_up", "Whether files can be stored: 0 while StoreDir is gone or read-only.")
        self.log_lines_lost = self._added_gauge("log_lines_lost", "Lines that could not be written to the log.")
        self.deleted_files = self._counter("deleted_files", "Stored files that were deleted, by reason.", "reason")
        self.deleted_bytes = self._counter("deleted_bytes", "Bytes of deleted files, by reason.", "reason")
        self.retention_last_sweep = self._gauge(
            "retention_last_sweep_timestamp_seconds",
            "When the last sweep of retention began that came to its end.",
            mode=_GREATEST_EVER,
        )
        self.retention_sweep_seconds = self._gauge(
            "retention_sweep_seconds", "How long that sweep took.", mode=_GREATEST
        )
        self.index_scanned_files = self._gauge(
            "index_scanned_files",
            "Files that the last comparison of the store with its index has seen so far.",
            mode=_GREATEST,
        )
        self.index_skipped_files = self._gauge(
            "index_skipped_files", "Files in the store that no URL can name, or that can't be read.", mode=_GREATEST
        )
        self.index_differences = self._counter(
            "index_differences", "Files of which the index was wrong and was corrected, by kind.", "kind"
        )
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Bytes free for us on the store's file system.")
        self.disk_size_bytes = self._gauge("disk_size_bytes", "Size of the store's file system in bytes.")

        self.uploads_resumed = self._counter("uploads_resumed", "Requests that went on with an interrupted upload.")
        self.resumed_bytes_saved = self._counter(
            "resumed_bytes_saved", "Bytes that resuming spared clients to send again."
        )
        self.sessions_active = self._gauge("sessions_active", "Unfinished uploads that can be resumed.")
        self.sessions_expired = self._counter(
            "sessions_expired", "Unfinished uploads that were removed after SessionTTL."
        )
        self.sessions_lost = self._counter("sessions_lost", "Unfinished uploads whose bytes had vanished.")
        self.redis_up = self._absent_gauge("redis_up", "Whether Redis answers.")
        self.redis_round_trip_seconds = self._absent_gauge(
            "redis_round_trip_seconds", "How long Redis' last answer took."
        )
        self.failures = self._counter("failures", "Failed attempts that count towards a block, by reason.", "reason")
        self.bans_imposed = self._counter("bans_imposed", "Blocks and bans that failures led to, by kind.", "kind")
        self.blocked_requests = self._counter(
            "blocked_requests", "Requests and connections refused because of a block or a ban, by kind.", "kind"
        )
        self.blocked_addresses = self._gauge("blocked_addresses", "Addresses or networks that are blocked.")
        self.banned_addresses = self._gauge("banned_addresses", "Addresses or networks that are banned.")
        self.retries = self._counter(
            "retries", "Steps tried again because they had failed on our side, by step.", "step"
        )

        self._secret = _SecretInfo()
        self._registry.register(self._secret)
        self._by_status, self._by_kind = _Children(self.requests), _Children(self.downloads)
        self._gauge("build_info", "1, labelled with versions.", "version", "python", "twisted").labels(
            __version__, platform.python_version(), twisted.__version__
        ).set(1)

    def show_secret(self, fingerprint: str) -> None:
        """Which secret is in force."""
        self._secret.fingerprint = fingerprint

    def count_request(self, method: str, status: int) -> None:
        """One request is over. Methods that nobody knows are one method."""
        self._by_status[method if method in _METHODS else "other", status].inc()

    def count_download(self, kind: str) -> None:
        """A GET has brought its file."""
        self._by_kind[kind,].inc()

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Ask *value* for what *gauge* is to show, at each scrape.

        It must not block. While it raises, the gauge shows NaN: that the last good value still holds is not known.
        """
        if gauge in self._absent:
            self._absent.discard(gauge)
            self._registry.register(gauge)
        self._watched[gauge] = value

    def forget(self, gauge: Gauge) -> None:
        """Show a gauge no longer that isn't shown until it is watched."""
        if self._watched.pop(gauge, None) is not None:
            self._absent.add(gauge)
            self._registry.unregister(gauge)

    @property
    def are_shared(self) -> bool:
        """Whether other processes' metrics are exposed with these."""
        return self._sharing is not None

    def publish(self) -> None:
        """Have the other processes know what is in progress in this one. To be called every second, if they are shared."""
        for gauge in self._added & self._watched.keys():
            self._ask(gauge)

    def expose(self) -> bytes:
        """The metrics in Prometheus' text format."""
        for gauge in self._watched:
            self._ask(gauge)
        return generate_latest(self._registry)

    def _ask(self, gauge: Gauge) -> None:
        try:
            now = self._watched[gauge]()
        except OSError as error:
            name = next(iter(gauge.describe())).name
            self._log.error("{metric} could not be found out: {error}", metric=name, error=error, seldom=name)
            now = nan
        except Exception:
            self._log.failure("{metric} could not be found out", metric=next(iter(gauge.describe())).name)
            now = nan
        gauge.set(now)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, help_text, labels, registry=self._registry_of(None))

    def _gauge(self, name: str, help_text: str, *labels: str, mode: _Mode = _OWN) -> Gauge:
        return Gauge(_PREFIX + name, help_text, labels, registry=self._registry_of(mode), multiprocess_mode=mode)

    def _added_gauge(self, name: str, help_text: str) -> Gauge:
        gauge = self._gauge(name, help_text, mode=_ADDED)
        self._added.add(gauge)
        return gauge

    def _absent_gauge(self, name: str, help_text: str) -> Gauge:
        """A gauge that isn't exposed until it is watched: of what not everybody has."""
        gauge = Gauge(_PREFIX + name, help_text, registry=None, multiprocess_mode=_OWN)
        self._absent.add(gauge)
        return gauge

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(_PREFIX + name, help_text, registry=self._registry_of(None), buckets=_DURATIONS)

    def _registry_of(self, mode: _Mode | None) -> CollectorRegistry | None:
        """Where a metric is exposed; ``None`` if it is with those of the other processes."""
        return self._registry if self._sharing is None or mode == _OWN else None


class SupervisorMetrics:
    """What the supervisor says, which is never asked itself: its workers expose it.

    :ivar workers: how many are running.
    :ivar worker_restarts: how many were started because one had ended by itself.
    """

    def __init__(self, sharing: Sharing | None = None, registry: CollectorRegistry | None = None) -> None:
        if sharing is not None:
            sharing.begin()
        self.workers = Gauge(_PREFIX + "workers", "Processes that serve.", registry=registry, multiprocess_mode=_ADDED)
        self.worker_restarts = Counter(
            _PREFIX + "worker_restarts", "Workers started because one had ended by itself.", registry=registry
        )


class _Children(dict[tuple[object, ...], Counter]):
    """The children of a counter with labels, by these. To ask the counter itself costs a microsecond each time."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __missing__(self, labels: tuple[object, ...]) -> Counter:
        child = self[labels] = self._counter.labels(*labels)
        return child


class _SecretInfo(Collector):
    """Which secret is in force: one at a time, where a gauge of prometheus_client would keep the label of the last one.

    :ivar fingerprint: of the secret; empty while it isn't known.
    """

    def __init__(self) -> None:
        self.fingerprint = ""

    def collect(self) -> Iterable[Metric]:
        """One sample, or none."""
        metric = Metric(_PREFIX + "secret_info", "1, labelled with the fingerprint of the secret in force.", "gauge")
        if self.fingerprint:
            metric.add_sample(metric.name, {"fingerprint": self.fingerprint}, 1)
        return [metric]


class _Processes(Collector):
    """``process_*`` of a supervisor and its workers, under the names that one process has.

    Sums, but for when it all began, which is when the supervisor did, and for how many files each may open. What ended
    workers have taken of the CPU is still counted, so that the counter never goes back. The resident memory counts pages
    that processes share once for each of them.

    :param supervisor: a process' id.
    """

    def __init__(self, supervisor: int, proc: str = "/proc") -> None:
        self._supervisor = supervisor
        self._proc = Path(proc)

    def collect(self) -> Iterable[Metric]:
        """What is to be known now; a process that ends meanwhile is left out."""
        merged: dict[str, Metric] = {}
        for process in (self._supervisor, *self._workers()):
            for metric in ProcessCollector(pid=partial(int, process), proc=str(self._proc), registry=None).collect():
                first = merged.setdefault(metric.name, metric)
                if first is not metric:
                    (ours,), (other,) = first.samples, metric.samples
                    first.samples = [ours._replace(value=_MERGED.get(metric.name, add)(ours.value, other.value))]
        cpu = merged.get("process_cpu_seconds")
        if cpu is not None:
            (ours,) = cpu.samples
            cpu.samples = [ours._replace(value=ours.value + self._ended_s())]
        return merged.values()

    def _workers(self) -> Iterable[int]:
        supervisor = str(self._supervisor)
        try:
            children = (self._proc / supervisor / "task" / supervisor / "children").read_text("ascii")
        except OSError:
            return ()
        return map(int, children.split())

    def _ended_s(self) -> float:
        """CPU seconds of the workers that have ended."""
        try:
            status = (self._proc / str(self._supervisor) / "stat").read_text("ascii", "replace")
        except OSError:
            return 0.0
        user, system = status.rpartition(")")[2].split()[13:15]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
