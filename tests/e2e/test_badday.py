"""Days on which the disk is full, and clients don't come back."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, ClassVar

from tests.e2e.badday import DiskTestCase
from tests.e2e.daemon import TomlValue
from tests.e2e.processes import wait_until
from tests.e2e.resuming import MIB, OnRedis, ResumeTestCase
from tests.e2e.wire import Answer, Connection
from tests.smalldisk import SmallDisk

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object


class FullDiskTests(DiskTestCase):
    """The store's file system has no room."""

    needs: ClassVar[tuple[str, ...]] = ("small disk",)
    size_bytes = 12 * MIB

    def assert_no_space(self, answer: Answer, line: str) -> None:
        """507, and when to come back; a line in the log, once; and the metric."""
        self.assert_come_back(answer, 507, "no-space")
        self.assert_said_once(f"error: no room for an upload: {line}")
        self.assertGreater(self.refused("no-space"), 0)

    def test_refused_before_the_body(self) -> None:
        """What would leave less than ``MinFreeSpace`` is not asked for; what wouldn't is stored."""
        self.daemon.process.stop()
        self.daemon.config.write_text(
            self.daemon.config.read_text().replace("MinFreeSpace = 0", 'MinFreeSpace = "8MiB"')
        )
        self.daemon.restart()
        filler = self.disk.fill(leave_bytes=8 * MIB + self.size_bytes // 2)
        for _ in range(3):
            with Connection(self.daemon.port) as connection:
                connection.send_head("PUT", self.client.target, {"Expect": "100-continue"}, self.size_bytes)
                answer = connection.answer("PUT")
            self.assertEqual(answer.interim, ())
            self.assert_no_space(answer, "it would leave less than MinFreeSpace")
        self.assertEqual(self.refused("no-space"), 3)
        small = self.make_client(MIB, path="slot/small")
        self.assertEqual(small.put().status, 201)
        filler.unlink()
        self.recovers()

    def test_runs_full(self) -> None:
        """Somebody else has used the room meanwhile: 507, nothing is left over, and what is stored is served."""
        stored = self.make_client(MIB, path="slot/stored")
        self.assertEqual(stored.put().status, 201)
        with self.client.begin(6 * MIB) as connection:
            self.arrived(6 * MIB)
            filler = self.disk.fill(leave_bytes=MIB)
            connection.send_while_wanted([self.client.content[6 * MIB :]])
            self.assert_no_space(connection.answer("PUT"), "No space left on device")
        self.assertEqual((self.daemon.files(), self.daemon.parts()), (["slot/stored"], []))
        self.assertTrue(stored.get().body == stored.content)
        self.assertEqual(self.client.get().status, 404)
        filler.unlink()
        self.recovers()

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
        self.recovers()


class InodesTests(DiskTestCase):
    """There is room, but not for one name more."""

    needs: ClassVar[tuple[str, ...]] = ("mounting",)

    def make_disk(self) -> SmallDisk:
        return SmallDisk(inodes=200)

    def test_before(self) -> None:
        """507 as for a full disk, before the body; what is stored is served."""
        stored = self.make_client(path="slot/stored")
        self.assertEqual(stored.put().status, 201)
        many = self.disk.use_up_inodes()
        for _ in range(3):
            self.assert_come_back(self.client.put(), 507, "no-space")
        self.assertEqual(self.refused("no-space"), 3)
        self.assert_said_once("error: no room for an upload: No space left on device")
        self.assertEqual((self.daemon.files(), self.daemon.parts()), (["slot/stored"], []))
        self.assertTrue(stored.get().body == stored.content)
        self.assertIn("No space left", self.failing()["storage"])
        shutil.rmtree(many)
        self.recovers()

    def test_during(self) -> None:
        """The body is here, and there is none for its directory: as when the disk runs full."""
        with self.client.begin(400_000) as connection:
            self.arrived(400_000)
            many = self.disk.use_up_inodes()
            connection.send(self.client.content[400_000:])
            self.assert_come_back(connection.answer("PUT"), 507, "no-space")
        self.assertEqual((self.daemon.files(), self.daemon.parts()), ([], []))
        shutil.rmtree(many)
        self.recovers()


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
