"""Several workers are one server: in what a scrape says, in what is done once, and in what fits in."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e import signing
from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.wire import Closed, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

PREFIX = "hmac_file_server_"
SIZE = 1000


class TwoWorkersTestCase(PeerTestCase):
    """A server with two workers. A connection comes to either of them, by chance."""

    def serve(self, **keys: TomlValue) -> Daemon:
        self.daemon = Daemon(self, text=None, NumCores=2, **keys).started()
        return self.daemon

    def workers(self) -> set[int]:
        supervisor = self.daemon.process.pid
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii")
        return {int(child) for child in children.split()}

    def value(self, name: str) -> float:
        return self.daemon.metrics()[PREFIX + name]

    def wait_for(self, name: str, value: float) -> None:
        wait_until(lambda: self.value(name) == value, f"{name} is {value}, not {self.value(name)}")

    def put(self, path: str) -> int:
        return self.daemon.ask("PUT", signing.v(path, SIZE), {}, bytes(SIZE)).status


class CountedTests(TwoWorkersTestCase):
    """What a scrape finds, whoever answers it."""

    def put_many(self, directory: str, count: int) -> None:
        with ThreadPoolExecutor(4) as pool:
            statuses = [*pool.map(self.put, [f"{directory}/{number}" for number in range(count)])]
        self.assertEqual(statuses, [201] * count)

    def check(self, files: int) -> None:
        """All that was sent is counted, by either worker."""
        for _ in range(6):
            metrics = self.daemon.metrics()
            self.assertEqual(metrics[PREFIX + 'requests_total{method="PUT",status="201"}'], files)
            self.assertEqual(metrics[PREFIX + "uploads_total"], files)
            self.assertEqual(metrics[PREFIX + "received_bytes_total"], files * SIZE)
            self.assertEqual(metrics[PREFIX + 'upload_duration_seconds_bucket{le="+Inf"}'], files)
        for name, value in (("stored_files", files), ("stored_bytes", files * SIZE), ("connections", 0)):
            self.wait_for(name, value)

    def test_killed(self) -> None:
        """Nothing that was counted is lost with a worker, and nothing that it was doing stays."""
        self.serve()
        self.assertEqual((self.value("workers"), self.value("worker_restarts_total")), (2, 0))
        self.put_many("a", 40)
        self.check(40)
        memory = self.daemon.metrics()["process_resident_memory_bytes"]
        self.assertGreater(memory, self.daemon.rss_bytes())
        begun = Connection(self.daemon.port)
        self.addCleanup(begun.close)
        begun.send_head("PUT", signing.v("b/1", SIZE), {}, SIZE)
        begun.send(b"begun")
        self.wait_for("uploads_in_progress", 1)
        before = self.workers()
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(self.workers() - before) == 2 and self.is_back(), "there are two others")
        self.assertEqual(self.value("worker_restarts_total"), 2)
        self.wait_for("uploads_in_progress", 0)
        self.check(40)
        self.put_many("c", 20)
        self.check(60)

    def test_reloaded(self) -> None:
        """While old workers give way to new ones, which are there beside them, all of them are counted."""
        self.serve(ShutdownGrace=30)
        before = self.workers()
        self.put_many("a", 10)
        self.daemon.process.signal(signal.SIGHUP)
        sent = 0
        while self.workers() & before:
            sent += 1
            self.assertEqual(self.put(f"b/{sent}"), 201)
        self.put_many("c", 10)
        self.check(20 + sent)
        self.assertEqual((self.value("workers"), self.value("worker_restarts_total")), (2, 0))

    def is_back(self) -> bool:
        try:
            return self.value("workers") == 2
        except (OSError, Closed):
            return False


class OnceTests(TwoWorkersTestCase):
    """What one process does for all."""

    def leader(self) -> set[int]:
        """Who has the lock, as the kernel says."""
        inode = (self.daemon.store / ".hmacfs" / "sweeps.lock").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
        return {int(pid) for pid in re.findall(rf"FLOCK +ADVISORY +WRITE (\d+) \S+:{inode} ", locks)}

    def test_leader_is_killed(self) -> None:
        """One of the workers sweeps; when it is gone, another one does."""
        self.serve(RetentionInterval=1, DeleteFiles=True, DeleteFilesAfterPeriod="1h")
        wait_until(self.leader, "somebody leads")
        (first,) = self.leader()
        self.assertIn(first, self.workers())
        wait_until(lambda: self.value("retention_last_sweep_timestamp_seconds") > 0, "it has swept")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: self.leader() - {first}, "somebody else leads")
        swept = self.value("retention_last_sweep_timestamp_seconds")
        wait_until(lambda: self.value("retention_last_sweep_timestamp_seconds") > swept, "it has swept, too")


class TogetherTests(TwoWorkersTestCase):
    """What fits in, of uploads that have begun and sent nothing yet, in both workers."""

    def begin(self, path: str, size: int) -> str:
        """Begin one, and hear whether its body is wanted."""
        connection = Connection(self.daemon.port)
        self.addCleanup(connection.close)
        connection.send_head("PUT", signing.v(path, size), {"Expect": "100-continue"}, size)
        return connection.socket.recv(1 << 16).decode().split()[1]

    def test_room_and_quota(self) -> None:
        """Two of twelve have room on the disk, and then two of twelve of one user's, whoever was asked."""
        disk = os.statvfs(self.directory)
        large, small = disk.f_bavail * disk.f_frsize * 2 // 5, 40_000
        self.serve(MaxUploadSize=large, MinFreeSpace=0, QuotaPerUser=100_000)
        begun = [self.begin(f"{number}/x", large) for number in range(12)]
        self.assertEqual(begun, ["100"] * 2 + ["507"] * 10)
        begun = [self.begin(f"user/{number}/x", small) for number in range(12)]
        self.assertEqual(begun, ["100"] * 2 + ["413"] * 10)
        self.wait_for("uploads_in_progress", 4)
