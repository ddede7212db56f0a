"""What Prometheus is told, and how."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.metrics import CONTENT_TYPE, Metrics

#: Those whose exact names dashboards and alerts of old know.
GIVEN_NAMES = {
    "hmac_file_server_goroutines",
    "hmac_file_server_upload_duration_seconds_bucket",
    "hmac_file_server_uploads_total",
}
NAMES = GIVEN_NAMES | {
    "hmac_file_server_store_up",
    "hmac_file_server_log_lines_lost",
    "hmac_file_server_uploads_in_progress",
    "hmac_file_server_received_bytes_total",
    "hmac_file_server_sent_bytes_total",
    "hmac_file_server_stored_files",
    "hmac_file_server_stored_bytes",
    "hmac_file_server_index_scanned_files",
    "hmac_file_server_index_skipped_files",
    "hmac_file_server_disk_free_bytes",
    "hmac_file_server_disk_size_bytes",
    "hmac_file_server_uploads_resumed_total",
    "hmac_file_server_resumed_bytes_saved_total",
    "hmac_file_server_sessions_active",
    "hmac_file_server_sessions_expired_total",
    "hmac_file_server_sessions_lost_total",
    "hmac_file_server_build_info",
    "process_resident_memory_bytes",
    "process_open_fds",
}


class MetricsCase(SynchronousTestCase):
    """Scrapes metrics."""

    def setUp(self) -> None:
        self.metrics = Metrics()

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """What a scrape finds: values by name and the labels' values, as Prometheus' own parser reads them."""
        families = text_string_to_metric_families(self.metrics.expose().decode())
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name: str, *labels: str) -> float | None:
        return self.samples().get((f"hmac_file_server_{name}", labels))


class MetricsTests(MetricsCase):
    """One process' metrics."""

    def test_names(self) -> None:
        """All that need no label are there from the start, so that an alert never waits for the first of something."""
        self.assertEqual(NAMES - {name for name, _ in self.samples()}, set())

    def test_secret(self) -> None:
        """Only that in force has a sample."""
        self.assertNotIn("secret_info{", self.metrics.expose().decode())
        for fingerprint in ("01234567", "89abcdef"):
            self.metrics.show_secret(fingerprint)
        lines = [line for line in self.metrics.expose().decode().splitlines() if "secret_info{" in line]
        self.assertEqual(lines, ['hmac_file_server_secret_info{fingerprint="89abcdef"} 1.0'])

    def test_names_with_labels(self) -> None:
        """The others come with their first event, under these names and labels."""
        metrics = self.metrics
        metrics.upload_errors.labels("too-large").inc()
        metrics.downloads.labels("whole").inc()
        metrics.download_errors.labels("not-found").inc()
        metrics.malformed_requests.labels("bad-request").inc()
        metrics.retries.labels("write").inc()
        for name, label in (
            ("upload_errors_total", "too-large"),
            ("downloads_total", "whole"),
            ("download_errors_total", "not-found"),
            ("malformed_requests_total", "bad-request"),
            ("retries_total", "write"),
        ):
            self.assertEqual(self.value(name, label), 1.0, name)

    def test_goroutines_are_explained(self) -> None:
        """A name from another language needs its meaning said."""
        (line,) = [
            line
            for line in self.metrics.expose().decode().splitlines()
            if line.startswith("# HELP hmac_file_server_goroutines ")
        ]
        for unit in ("requests", "threads", "sweeps"):
            self.assertIn(unit, line)

    def test_buckets(self) -> None:
        """From a thumbnail to a film: 5 ms to an hour."""
        bounds = [labels[0] for name, labels in self.samples() if name.endswith("upload_duration_seconds_bucket")]
        self.assertEqual((bounds[0], bounds[-2], bounds[-1]), ("0.005", "3600.0", "+Inf"))

    def test_counted_requests(self) -> None:
        """By method and status."""
        for status in (201, 201, 403):
            self.metrics.count_request("PUT", status)
        self.assertEqual(
            (self.value("requests_total", "PUT", "201"), self.value("requests_total", "PUT", "403")), (2.0, 1.0)
        )

    def test_made_up_methods(self) -> None:
        """Who makes up methods makes no new series."""
        for number in range(1000):
            self.metrics.count_request(f"METHOD{number}", 405)
        self.assertEqual(self.value("requests_total", "other", "405"), 1000.0)
        self.assertEqual(len([name for name, _ in self.samples() if name.endswith("_requests_total")]), 1)

    def test_two_of_them(self) -> None:
        """They share nothing: a test, or a second site, has its own."""
        Metrics().uploads.inc()
        self.assertEqual(self.value("uploads_total"), 0.0)

    def test_given_registry(self) -> None:
        """Somebody else's metrics can stand beside ours."""
        registry = CollectorRegistry()
        Metrics(registry).uploads.inc()
        self.assertEqual(registry.get_sample_value("hmac_file_server_uploads_total"), 1.0)

    def test_content_type(self) -> None:
        """What is exposed is the text format that every Prometheus reads, and says so."""
        self.assertEqual(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")


class WatchedTests(MetricsCase):
    """Gauges that are asked for at each scrape."""

    def test_present_value(self) -> None:
        """Every scrape sees the value of its time."""
        values = iter([1, 2])
        self.metrics.watch(self.metrics.goroutines, lambda: next(values))
        self.assertEqual([self.value("goroutines"), self.value("goroutines")], [1.0, 2.0])

    def test_watched_anew(self) -> None:
        """The last who watches it has the say."""
        self.metrics.watch(self.metrics.goroutines, lambda: 1)
        self.metrics.watch(self.metrics.goroutines, lambda: 2)
        self.assertEqual(self.value("goroutines"), 2.0)

    def test_no_redis_any_more(self) -> None:
        """It is as if there had never been one, and there may be one again."""
        redis_up = self.metrics.redis_up
        for _ in range(2):
            self.metrics.forget(redis_up)
            self.assertIsNone(self.value("redis_up"))
            self.metrics.watch(redis_up, lambda: 1)
            self.assertEqual(self.value("redis_up"), 1.0)

    def test_value_that_cannot_be_had(self) -> None:
        """It is no number then, not an old one; everything else is exposed, and the log says why."""

        def disk() -> float:
            raise OSError(5, "I/O error")

        self.metrics.disk_free_bytes.set(7)
        self.metrics.watch(self.metrics.disk_free_bytes, disk)
        self.metrics.watch(self.metrics.goroutines, lambda: 1)
        with capturedLogs() as events:
            free = self.value("disk_free_bytes")
        assert free is not None
        self.assertIn("disk_free_bytes could not be found out: [Errno 5]", formatEvent(events[0]))
        self.assertNotEqual(free, free)
        self.assertEqual(self.value("goroutines"), 1.0)
        self.assertEqual(self.flushLoggedErrors(OSError), [])

    def test_redis_where_there_is_none(self) -> None:
        """No Redis isn't a Redis that is down."""
        self.assertEqual((self.value("redis_up"), self.value("redis_round_trip_seconds")), (None, None))

    def test_redis(self) -> None:
        """Where there is one it has both, whoever watches them again."""
        for _ in range(2):
            self.metrics.watch(self.metrics.redis_up, lambda: 0)
            self.metrics.watch(self.metrics.redis_round_trip_seconds, lambda: 0.25)
        self.assertEqual((self.value("redis_up"), self.value("redis_round_trip_seconds")), (0.0, 0.25))
