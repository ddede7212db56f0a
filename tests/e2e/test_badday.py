"""Days on which the disk is full, the clock is wrong, and clients don't come back."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, ClassVar

from tests.e2e.daemon import Daemon, TomlValue, command
from tests.e2e.processes import PeerTestCase, Process, program, run, wait_until
from tests.e2e.resuming import MIB, OnRedis, ResumeTestCase
from tests.e2e.wire import Connection
from tests.smalldisk import SmallDisk

if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object


class FullDiskTests(ResumeTestCase):
    """The store's file system has no room."""

    needs: ClassVar[tuple[str, ...]] = ("small disk",)
    size_bytes = 12 * MIB

    def setUp(self) -> None:
        self.disk = SmallDisk()
        self.addCleanup(self.disk.close)
        super().setUp()
        self.daemon.store = self.disk.path / "store"

    def keys(self) -> dict[str, TomlValue]:
        return {"StoreDir": str(self.disk.path / "store"), "MinFreeSpace": 0}

    def test_refused_before_the_body(self) -> None:
        """What would leave less than ``MinFreeSpace`` is not asked for; what wouldn't is stored."""
        self.daemon.process.stop()
        self.daemon.config.write_text(
            self.daemon.config.read_text().replace("MinFreeSpace = 0", 'MinFreeSpace = "8MiB"')
        )
        self.daemon.restart()
        filler = self.disk.fill(leave_bytes=8 * MIB + self.size_bytes // 2)
        with Connection(self.daemon.port) as connection:
            connection.send_head("PUT", self.client.target, {"Expect": "100-continue"}, self.size_bytes)
            answer = connection.answer("PUT")
        self.assertEqual((answer.status, answer.interim), (507, ()))
        self.assertGreater(int(answer.header("Retry-After") or ""), 0)
        small = self.make_client(MIB, path="slot/small")
        self.assertEqual(small.put().status, 201)
        filler.unlink()
        self.becomes_possible()

    def becomes_possible(self) -> None:
        """Wait until the server has seen that there is room, and use it."""
        wait_until(lambda: self.client.put().status == 201, "the server sees the room")
        self.assertTrue(self.client.get().body == self.client.content)
        self.assertEqual(self.daemon.parts(), [])

    def test_runs_full(self) -> None:
        """Somebody else has used the room meanwhile: 507, nothing is left over, and what is stored is served."""
        stored = self.make_client(MIB, path="slot/stored")
        self.assertEqual(stored.put().status, 201)
        with self.client.begin(6 * MIB) as connection:
            self.arrived(6 * MIB)
            filler = self.disk.fill(leave_bytes=MIB)
            connection.send_while_wanted([self.client.content[6 * MIB :]])
            self.assertEqual(connection.answer("PUT").status, 507)
        self.assertEqual((self.daemon.files(), self.daemon.parts()), (["slot/stored"], []))
        self.assertTrue(stored.get().body == stored.content)
        self.assertEqual(self.client.get().status, 404)
        filler.unlink()
        self.becomes_possible()

    def test_resumed_upload_waits(self) -> None:
        """The rest doesn't fit: it is not asked for, and what is here stays until it does."""
        self.interrupt(6 * MIB)
        self.assertEqual(self.client.offset(), 6 * MIB)
        filler = self.disk.fill(leave_bytes=MIB)
        # It looks once a second.
        self.daemon.process.stop()
        self.daemon.restart()
        self.assertEqual([self.client.part(6 * MIB).status for _ in range(9)], [507] * 9)
        filler.unlink()
        wait_until(lambda: self.client.part(6 * MIB).status == 201, "the server sees the room")
        self.assertTrue(self.client.get().body == self.client.content)

    def test_start(self) -> None:
        """A server whose disk is full starts, serves what it has, and refuses what it has no room for."""
        stored = self.make_client(MIB, path="slot/stored")
        self.assertEqual(stored.put().status, 201)
        self.daemon.process.kill()
        filler = self.disk.fill()
        self.daemon.restart()
        self.assertTrue(stored.get().body == stored.content)
        self.assertEqual(self.client.put().status, 507)
        filler.unlink()
        self.becomes_possible()


class ClockedDaemon(Daemon):
    """A server that sees another time than everybody else."""

    def __init__(self, case: PeerTestCase, **keys: TomlValue) -> None:
        self._shift = case.directory / "shift"
        self.see("+0s")
        super().__init__(case, text=None, **keys)

    def see(self, shift: str) -> None:
        """From now on it is that much later, or earlier, as libfaketime writes it."""
        temporary = self._shift.with_suffix(".new")
        temporary.write_text(f"{shift}\n", encoding="ascii")
        temporary.replace(self._shift)

    def spawn(self) -> None:
        argv = [*command("twistd"), "-n", "--pidfile=", "hmacfs", "-c", str(self.config)]
        env = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._shift),
            "FAKETIME_NO_CACHE": "1",
            # As when somebody sets a clock: only that one, and not the times that files have already.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.process = self._case.started(Process("hmacfs", argv, cwd=self.directory, env=env))


def library() -> str:
    """The library that the program faketime would have loaded, which knows no file to be steered by."""
    return run([program("faketime"), "-m", "now", "sh", "-c", "echo $LD_PRELOAD"]).text.strip()


class ClockMixin(_Case):
    """The clock is set back by two days: more than ``SessionTTL``."""

    daemon: ClockedDaemon

    def serve(self, **keys: TomlValue) -> Daemon:
        return ClockedDaemon(self, **{**self.keys(), **keys}).started()

    def seen(self) -> float:
        """The time of the server's last line in its log, in seconds since the epoch."""
        self.daemon.ask("GET", "/upload/what/time")
        stamp = self.daemon.process.wait_for_line("what/time").split(".")[0]
        return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S")) - time.timezone

    def test_set_back(self) -> None:
        """Uploads under way go on, broken ones can be resumed, before and after a restart; nothing is removed."""
        broken, restarted = self.make_client(path="slot/broken"), self.make_client(path="slot/restarted")
        for client, arrived in ((broken, 1_000_000), (restarted, 1_100_000)):
            self.interrupt(arrived, client=client)
            self.assertEqual(client.offset(), arrived)
        with self.client.begin(2_000_000) as connection:
            self.arrived(2_000_000)
            self.daemon.see("-2d")
            connection.send(self.client.content[2_000_000:])
            self.assertEqual(connection.answer("PUT").status, 201)
        self.assertLess(self.seen(), time.time() - 86_400)
        self.assertEqual(broken.offset(), 1_000_000)
        self.assertEqual(broken.part(1_000_000).status, 201)
        self.daemon.process.stop()
        # The janitor comes with the start.
        self.daemon.restart()
        self.assertEqual(restarted.offset(), 1_100_000)
        self.assertEqual(restarted.part(1_100_000).status, 201)
        for client in (self.client, broken, restarted):
            self.assertTrue(client.get().body == client.content)

    def test_right_again(self) -> None:
        """It was an hour behind, and is put right: what broke before that can be resumed."""
        self.daemon.see("-1h")
        self.assertLess(self.seen(), time.time() - 3000)
        self.interrupt(1_000_000)
        self.assertEqual(self.client.offset(), 1_000_000)
        self.daemon.see("+0s")
        self.daemon.process.stop()
        self.daemon.restart()
        self.assert_stored(self.client.part(1_000_000))


class EmbeddedClockTests(ClockMixin, ResumeTestCase):
    """Leases and expiries by the clock of the server."""

    needs: ClassVar[tuple[str, ...]] = ("faketime",)


class RedisClockTests(OnRedis, ClockMixin, ResumeTestCase):
    """Expiries by the clock of the server, leases by that of Redis."""

    needs: ClassVar[tuple[str, ...]] = ("faketime", "redis")


class ForgottenMixin(_Case):
    """Clients that don't come back."""

    def keys(self) -> dict[str, TomlValue]:
        return {"SessionTTL": 1}

    def test_expired(self) -> None:
        """After ``SessionTTL`` what is unfinished is removed, and it is as if it had never begun."""
        self.interrupt(1_000_000)
        self.assertEqual(self.client.offset(), 1_000_000)
        self.daemon.process.stop()
        over = time.time() + 1.1
        wait_until(lambda: time.time() > over, "its time is over")
        # The janitor comes at the start, and then once a minute.
        self.daemon.restart()
        wait_until(lambda: not self.daemon.parts(), "the janitor comes")
        wait_until(lambda: self.client.head().status == 404, "nothing is known of it")
        metrics = self.daemon.metrics()
        self.assertEqual(metrics["hmac_file_server_sessions_expired_total"], 1)
        self.assert_stored(self.client.put())


class EmbeddedForgottenTests(ForgottenMixin, ResumeTestCase):
    """Known in SQLite."""

    def test_orphans(self) -> None:
        """Parts that nothing is known of are found at the next start; young ones, and files, are left alone."""
        self.assert_stored(self.client.put())
        self.daemon.process.kill()
        parts = self.daemon.store / ".hmacfs" / "parts"
        for name, age_s in (("old", 86_400), ("young", 0)):
            (parts / name).write_bytes(b"x" * 1000)
            os.utime(parts / name, (time.time() - age_s,) * 2)
        self.daemon.restart()
        wait_until(lambda: not (parts / "old").exists(), "the janitor comes")
        self.assertTrue((parts / "young").exists())
        self.assertEqual(self.client.get().status, 200)


class RedisForgottenTests(OnRedis, ForgottenMixin, ResumeTestCase):
    """Known in Redis."""
