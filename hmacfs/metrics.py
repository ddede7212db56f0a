"""What Prometheus is told. No label has a path, an address or a JID in it, and every label has few values."""

from __future__ import annotations

import platform
from collections.abc import Callable
from math import nan
from typing import Final

import twisted
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from twisted.logger import Logger

from hmacfs import __version__

#: Of :meth:`Metrics.expose`. Not prometheus_client's CONTENT_TYPE_LATEST, which says from 0.22 on that metrics may have
#: names that ours haven't, and that an older Prometheus doesn't know.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "hmac_file_server_"

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})

#: Seconds: from a thumbnail on a LAN to a film on a phone.
_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """All metrics of one process, each an attribute named as it is exposed, without the prefix and the unit's suffixes.

    In several processes these have to change: the gauges that are watched (``multiprocess_mode``: sums for what is in
    progress, one process' word for the disk, the store and the sessions), and the process' own, which are this one's.

    :param registry: where they live; an own one, so that two of these don't meet.
    """

    _log = Logger()

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._watched: dict[Gauge, Callable[[], float]] = {}
        self._absent: set[Gauge] = set()

        self.goroutines = self._gauge(
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
        self.uploads_in_progress = self._gauge("uploads_in_progress", "Uploads that are being received.")
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
        self.connections = self._gauge("connections", "Connections that are open, those to metrics not among them.")
        self.excess_connections = self._counter(
            "excess_connections",
            "Connections turned away: for the limit of their address, or for that of all together.",
            "limit",
        )

        self.stored_files = self._gauge("stored_files", "Files in the store.")
        self.stored_bytes = self._gauge("stored_bytes", "Bytes in the store.")
        self.store_up = self._gauge("store_up", "Whether files can be stored: 0 while StoreDir is gone or read-only.")
        self.log_lines_lost = self._gauge("log_lines_lost", "Lines that could not be written to the log.")
        self.deleted_files = self._counter("deleted_files", "Stored files that were deleted, by reason.", "reason")
        self.deleted_bytes = self._counter("deleted_bytes", "Bytes of deleted files, by reason.", "reason")
        self.retention_last_sweep = self._gauge(
            "retention_last_sweep_timestamp_seconds", "When the last sweep of retention began that came to its end."
        )
        self.retention_sweep_seconds = self._gauge("retention_sweep_seconds", "How long that sweep took.")
        self.index_scanned_files = self._gauge(
            "index_scanned_files", "Files that the last comparison of the store with its index has seen so far."
        )
        self.index_skipped_files = self._gauge(
            "index_skipped_files", "Files in the store that no URL can name, or that can't be read."
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

        self._gauge("build_info", "1, labelled with versions.", "version", "python", "twisted").labels(
            __version__, platform.python_version(), twisted.__version__
        ).set(1)

    def count_request(self, method: str, status: int) -> None:
        """One request is over. Methods that nobody knows are one method."""
        self.requests.labels(method if method in _METHODS else "other", str(status)).inc()

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Ask *value* for what *gauge* is to show, at each scrape.

        It must not block. While it raises, the gauge shows NaN: that the last good value still holds is not known.
        """
        if gauge in self._absent:
            self._absent.discard(gauge)
            self._registry.register(gauge)
        self._watched[gauge] = value

    def expose(self) -> bytes:
        """The metrics in Prometheus' text format."""
        for gauge, value in self._watched.items():
            try:
                now = value()
            except OSError as error:
                name = next(iter(gauge.describe())).name
                self._log.error("{metric} could not be found out: {error}", metric=name, error=error, seldom=name)
                now = nan
            except Exception:
                self._log.failure("{metric} could not be found out", metric=next(iter(gauge.describe())).name)
                now = nan
            gauge.set(now)
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, help_text, labels, registry=self._registry)

    def _absent_gauge(self, name: str, help_text: str) -> Gauge:
        """A gauge that isn't exposed until it is watched: of what not everybody has."""
        gauge = Gauge(_PREFIX + name, help_text, registry=None)
        self._absent.add(gauge)
        return gauge

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(_PREFIX + name, help_text, registry=self._registry, buckets=_DURATIONS)
