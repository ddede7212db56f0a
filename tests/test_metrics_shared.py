"""The metrics of several processes, each of which is a real one: prometheus_client has one kind of metrics in a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from math import isnan
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.metrics import mark_dead
from tests.test_metrics import GIVEN_NAMES, NAMES

#: Runs the lines that it is sent, and shows for each of them what became of ``answer``.
_PROCESS = """
import os, sys
from math import nan
from pathlib import Path
from hmacfs.metrics import Metrics, Sharing, SupervisorMetrics
directory, name, supervisor = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sharing = Sharing(directory, name, supervisor)
metrics = SupervisorMetrics(sharing) if name == "supervisor" else Metrics(sharing=sharing)
for line in sys.stdin:
    answer = ""
    exec(line)
    print(len(answer.encode()), flush=True)
    print(answer, end="", flush=True)
"""

#: What a worker never says itself.
_OF_THE_SUPERVISOR = {"hmac_file_server_workers", "hmac_file_server_worker_restarts_total"}


class Process:
    """One of the processes of a service."""

    def __init__(self, directory: Path, name: str) -> None:
        arguments = [sys.executable, "-c", _PROCESS, str(directory), name, str(os.getpid())]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.read(int(self._process.stdout.readline()))

    def scrape(self) -> dict[tuple[str, tuple[str, ...]], float]:
        families = text_string_to_metric_families(self.do("answer = metrics.expose().decode()"))
        return {
            (sample.name.removeprefix("hmac_file_server_"), tuple(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name: str, *labels: str) -> float | None:
        return self.scrape().get((name, labels))

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()


class SharedCase(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.first, self.second = self.process("w0"), self.process("w1")

    def process(self, name: str) -> Process:
        process = Process(self.directory, name)
        self.addCleanup(process.kill)
        return process

    def both(self, name: str, *labels: str) -> tuple[float | None, float | None]:
        """What a scrape of either finds."""
        return self.first.value(name, *labels), self.second.value(name, *labels)


class CounterTests(SharedCase):
    """What has happened is added up."""

    def test_sum(self) -> None:
        """Whoever is asked says the same, at once."""
        self.first.do("metrics.uploads.inc(2)")
        self.second.do("metrics.uploads.inc(3)")
        self.assertEqual(self.both("uploads_total"), (5, 5))

    def test_labels(self) -> None:
        self.first.do("metrics.count_request('PUT', 201)")
        self.second.do("metrics.count_request('PUT', 201); metrics.count_request('GET', 404)")
        self.assertEqual(self.both("requests_total", "PUT", "201"), (2, 2))
        self.assertEqual(self.both("requests_total", "GET", "404"), (1, 1))

    def test_histogram(self) -> None:
        self.first.do("metrics.upload_duration.observe(0.2)")
        self.second.do("metrics.upload_duration.observe(2)")
        scrape = self.first.scrape()
        found = [scrape["upload_duration_seconds_bucket", (le,)] for le in ("0.1", "0.25", "1.0", "2.5", "+Inf")]
        self.assertEqual(found, [0, 1, 1, 2, 2])
        self.assertEqual(scrape["upload_duration_seconds_sum", ()], 2.2)

    def test_killed(self) -> None:
        """What a process has counted stays, and the next one of its name goes on from there."""
        self.first.do("metrics.uploads.inc(2); metrics.upload_duration.observe(1)")
        self.first.kill()
        mark_dead(self.directory, "w0")
        self.assertEqual(self.second.value("uploads_total"), 2)
        self.first = self.process("w0")
        self.first.do("metrics.uploads.inc()")
        self.assertEqual(self.both("uploads_total"), (3, 3))
        self.assertEqual(self.second.value("upload_duration_seconds_count"), 1)


class GaugeTests(SharedCase):
    """What is so now."""

    def test_in_progress(self) -> None:
        """It is added up; of itself a process knows it now, of the others by what they said last."""
        self.first.do("metrics.watch(metrics.uploads_in_progress, lambda: 2)")
        self.second.do("metrics.watch(metrics.uploads_in_progress, lambda: 3); metrics.publish()")
        self.assertEqual(self.first.value("uploads_in_progress"), 5)

    def test_killed(self) -> None:
        """Nothing is in progress in a process that has ended, nor in the next one of its name."""
        self.first.do("metrics.watch(metrics.connections, lambda: 2); metrics.publish()")
        self.assertEqual(self.second.value("connections"), 2)
        self.first.kill()
        mark_dead(self.directory, "w0")
        self.assertEqual(self.second.value("connections"), 0)
        self.first = self.process("w0")
        self.assertEqual(self.both("connections"), (0, 0))

    def test_common(self) -> None:
        """What all of them see is said once, by the one that is asked."""
        self.first.do("metrics.watch(metrics.disk_free_bytes, lambda: 10); metrics.stored_files.set(1)")
        self.second.do("metrics.watch(metrics.disk_free_bytes, lambda: 11); metrics.stored_files.set(2)")
        self.assertEqual((self.both("disk_free_bytes"), self.both("stored_files")), ((10, 11), (1, 2)))

    def test_not_known(self) -> None:
        """It is no number, whether one process sees it or all are to be added up."""
        self.first.do("metrics.watch(metrics.store_up, lambda: nan)")
        self.first.do("metrics.watch(metrics.connections, lambda: nan); metrics.publish()")
        scrape = self.second.scrape()
        self.assertTrue(isnan(scrape["connections", ()]))
        self.assertEqual(scrape["store_up", ()], 0)
        self.assertTrue(isnan(self.first.value("store_up") or 0))

    def test_of_the_leader(self) -> None:
        """What one process does for all it tells; when retention has swept is known when it is gone, too."""
        self.first.do("metrics.retention_last_sweep.set(1000); metrics.retention_sweep_seconds.set(7)")
        self.assertEqual(self.both("retention_last_sweep_timestamp_seconds"), (1000, 1000))
        self.assertEqual(self.both("retention_sweep_seconds"), (7, 7))
        self.first.kill()
        mark_dead(self.directory, "w0")
        self.assertEqual(self.second.value("retention_last_sweep_timestamp_seconds"), 1000)
        self.assertEqual(self.second.value("retention_sweep_seconds"), 0)

    def test_redis(self) -> None:
        """Where there is none, there are no metrics of it; where there is one, each says what it sees."""
        self.assertEqual(self.first.value("redis_up"), None)
        self.first.do("metrics.watch(metrics.redis_up, lambda: 1)")
        self.assertEqual(self.first.value("redis_up"), 1)


class WholeTests(SharedCase):
    """What a dashboard sees."""

    def test_names(self) -> None:
        """They are those of one process, each once, and none has a label for the process."""
        text = self.first.do("answer = metrics.expose().decode()")
        names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
        self.assertEqual((NAMES | GIVEN_NAMES) - names, set())
        self.assertNotIn("pid=", text)
        helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
        self.assertEqual(len(helps), len(set(helps)))

    def test_version(self) -> None:
        self.assertEqual([value for (name, _), value in self.first.scrape().items() if name == "build_info"], [1])

    def test_supervisor(self) -> None:
        """It says how many workers there are, which is the supervisor's to know."""
        supervisor = self.process("supervisor")
        supervisor.do("metrics.workers.set(2); metrics.worker_restarts.inc(3)")
        self.assertEqual((self.both("workers"), self.both("worker_restarts_total")), ((2, 2), (3, 3)))

    def test_process(self) -> None:
        """What the processes take is added up. The supervisor here is the one that runs this test."""
        scrape = self.first.scrape()
        own = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.assertGreater(scrape["process_resident_memory_bytes", ()], own + 2 * 5_000_000)
        self.assertGreater(scrape["process_open_fds", ()], len(os.listdir("/proc/self/fd")))
        self.assertEqual(len([name for name, _ in scrape if name == "process_start_time_seconds"]), 1)

    def test_cpu_of_the_dead(self) -> None:
        """A counter doesn't go back when a process ends."""
        self.second.do("import time; [None for _ in iter(lambda: time.process_time() > 0.5, True)]")
        before = self.first.value("process_cpu_seconds_total")
        self.second.kill()
        after = self.first.value("process_cpu_seconds_total")
        assert before is not None
        assert after is not None
        self.assertGreaterEqual(after, before)
