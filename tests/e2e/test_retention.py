"""Files leave: by their age, by their uploader's will, for a quota, and because the XMPP server asks for it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.e2e import signing
from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.wire import Answer

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

DAY_S = 86_400
NUL = b"\0"

ALICE = "alice@localhost"
BOB = "bob@localhost"


class RetentionTestCase(PeerTestCase):
    """A server that sweeps every second, and writes down what it deletes."""

    def serve(self, **keys: TomlValue) -> Daemon:
        report = str(self.directory / "deleted.jsonl")
        return Daemon(self, text=None, RetentionInterval=1, ReportFile=report, **keys)

    def put(self, daemon: Daemon, path: str, size: int, *, sub: str = ALICE, keep_s: float | None = None) -> Answer:
        """Upload a file as Prosody's users do."""
        token = signing.bearer(path, size, sub=sub, keep_s=keep_s)
        return daemon.ask("PUT", signing.url_path(path), {"Authorization": token}, bytes(size))

    def get(self, daemon: Daemon, path: str) -> int:
        return daemon.ask("GET", signing.url_path(path)).status

    def report(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in Path(self.directory / "deleted.jsonl").read_text().splitlines()]

    def wait_until_gone(self, daemon: Daemon, *paths: str) -> None:
        wait_until(lambda: not set(paths) & set(daemon.files()), f"{paths} are gone")


class AgeTests(RetentionTestCase):
    """``DeleteFiles``."""

    def test_by_age(self) -> None:
        """A file goes by itself, with its directory, and with a line in the log and in the report."""
        daemon = self.serve(DeleteFiles=True, DeleteFilesAfterPeriod=1).started()
        self.assertEqual(self.put(daemon, "a/photo.jpg", 1000).status, 201)
        self.wait_until_gone(daemon, "a/photo.jpg")
        wait_until(lambda: not (daemon.store / "a").exists(), "its directory is gone")
        self.assertEqual(self.get(daemon, "a/photo.jpg"), 404)
        line = daemon.process.wait_for_line("retention: deleted")
        self.assertRegex(
            line, r"deleted 1 file, 1\.0 kB \(1 by age\), oldest from \d{4}-\d\d-\d\d; 0 files, 0 B remain"
        )
        (deleted,) = self.report()
        self.assertEqual((deleted["path"], deleted["size"], deleted["owner"]), ("a/photo.jpg", 1000, ALICE))
        self.assertEqual((deleted["reason"], deleted["by"]), ("age", "retention"))
        self.assertGreaterEqual(float(str(deleted["time"])), float(str(deleted["uploaded"])) + 1)
        self.assertEqual(daemon.metrics()['hmac_file_server_deleted_files_total{reason="age"}'], 1)

    def test_report_is_rotated(self) -> None:
        """SIGHUP makes it anew, as it does the log."""
        daemon = self.serve(DeleteFiles=True, DeleteFilesAfterPeriod=1).started()
        report = self.directory / "deleted.jsonl"
        report.rename(report.with_suffix(".1"))
        daemon.process.signal(signal.SIGHUP)
        wait_until(report.exists, "there is a new one")
        self.put(daemon, "a/x", 1)
        self.wait_until_gone(daemon, "a/x")
        wait_until(lambda: len(self.report()) == 1, "it is in the new one")
        self.assertEqual(report.with_suffix(".1").read_text(), "")


class ExpiryTests(RetentionTestCase):
    """A bearer token's ``expires``."""

    def test_without_a_policy(self) -> None:
        """Nobody gets the file from that second on, and soon it isn't there any more."""
        daemon = self.serve().started()
        self.put(daemon, "a/story.mp4", 10, keep_s=2)
        self.put(daemon, "a/other.mp4", 10, keep_s=DAY_S)
        found = daemon.ask("HEAD", signing.url_path("a/story.mp4"))
        self.assertEqual(found.status, 200)
        (max_age_s,) = re.findall(r"max-age=(\d+)", found.header("Cache-Control") or "")
        self.assertLessEqual(int(max_age_s), 2)
        wait_until(lambda: self.get(daemon, "a/story.mp4") != 200, "its time is over")
        self.wait_until_gone(daemon, "a/story.mp4")
        self.assertEqual(self.get(daemon, "a/story.mp4"), 404)
        self.assertEqual(daemon.files(), ["a/other.mp4"])
        (deleted,) = wait_until(self.report, "its line in the report")
        self.assertEqual(deleted["reason"], "expired")


class GraceTests(RetentionTestCase):
    """A tree that was there before."""

    def test_adopted(self) -> None:
        """Nothing of it is deleted on the first day, and the log says how much would be."""
        daemon = self.serve(Secret="", DeleteFiles=True)
        self.assertEqual(daemon.process.wait(), 1)
        old = daemon.store / "0f" / "film.mp4"
        old.parent.mkdir(parents=True)
        old.write_bytes(bytes(5000))
        os.utime(old, (time.time() - 90 * DAY_S,) * 2)
        daemon.config.write_text(daemon.config.read_text().replace('Secret = ""', f'Secret = "{signing.SECRET}"'))
        daemon.restart()
        line = daemon.process.wait_for_line("retention is on")
        self.assertRegex(
            line,
            r"retention is on: 0 files, 0 B, go now; 1 file, 5\.0 kB, that were there before are spared until "
            r"\d{4}-\d\d-\d\d \d\d:\d\d UTC \(RetentionGrace\)",
        )
        swept = daemon.metrics()["hmac_file_server_retention_last_sweep_timestamp_seconds"]
        wait_until(
            lambda: daemon.metrics()["hmac_file_server_retention_last_sweep_timestamp_seconds"] > swept,
            "it has swept again",
        )
        self.assertEqual((daemon.files(), self.report()), (["0f/film.mp4"], []))


class QuotaTests(RetentionTestCase):
    """Quotas."""

    def test_refuse(self) -> None:
        """413 with a sentence for the person who reads it; the others are not concerned."""
        daemon = self.serve(QuotaPerUser="10kB").started()
        self.assertEqual(self.put(daemon, "a/1", 6000).status, 201)
        answer = self.put(daemon, "a/2", 6000)
        self.assertEqual((answer.status, answer.text.partition(":")[0]), (413, "over-quota"))
        self.assertIn("Your files may take 10.0 kB together", answer.text)
        self.assertEqual(self.put(daemon, "b/1", 6000, sub=BOB).status, 201)
        daemon.process.wait_for_line("PUT /upload/a/2 413 over-quota")
        self.assertEqual(daemon.files(), ["a/1", "b/1"])

    def test_survives_a_restart(self) -> None:
        """What counts is what is there."""
        daemon = self.serve(QuotaPerUser="10kB").started()
        self.put(daemon, "a/1", 6000)
        daemon.process.kill()
        daemon.restart()
        # A killed process may not have told the index; the scan at start does.
        wait_until(lambda: daemon.metrics()["hmac_file_server_stored_files"] == 1, "the file is known")
        self.assertEqual(self.put(daemon, "a/2", 6000).status, 413)
        (daemon.store / "a" / "1").unlink()
        daemon.process.stop()
        daemon.restart()
        wait_until(lambda: daemon.metrics()["hmac_file_server_stored_files"] == 0, "the index has forgotten it")
        self.assertEqual(self.put(daemon, "a/2", 6000).status, 201)

    def test_oldest(self) -> None:
        """The oldest file of the same user makes room, once the new one is here."""
        daemon = self.serve(QuotaPerUser="10kB", QuotaPolicy="oldest").started()
        for path in ("a/1", "a/2", "a/3"):
            self.assertEqual(self.put(daemon, path, 4000).status, 201)
        self.put(daemon, "b/1", 4000, sub=BOB)
        self.assertEqual(daemon.files(), ["a/2", "a/3", "b/1"])
        (deleted,) = wait_until(self.report, "its line in the report")
        self.assertEqual((deleted["path"], deleted["reason"], deleted["by"]), ("a/1", "quota", "quota"))


class DeletionTests(RetentionTestCase):
    """``DeleteSecret``."""

    def target(self, path: str) -> str:
        """As Metronome makes it."""
        return f"{signing.url_path(path)}?token={signing.mac(path.encode() + NUL + b'delete-me')}"

    def test_asked(self) -> None:
        """204 for a file that was there, and for one that wasn't; anything else deletes nothing."""
        daemon = self.serve(DeleteSecret="delete-me").started()
        path = "6f95dd3c/très cool.jpg"
        self.assertEqual(daemon.ask("PUT", signing.v2(path, 3, "", parameter="token"), body=b"cat").status, 201)
        wrong = self.target(path).replace("token=", "v=")
        self.assertEqual(daemon.ask("DELETE", wrong).status, 409)
        upload = signing.v2(path, 3, "", parameter="token")
        self.assertEqual(daemon.ask("DELETE", upload).status, 403)
        self.assertEqual(daemon.files(), [path])
        for _ in range(2):
            self.assertEqual(daemon.ask("DELETE", self.target(path)).status, 204)
        self.assertEqual(daemon.files(), [])
        (deleted,) = self.report()
        self.assertEqual((deleted["reason"], deleted["by"]), ("asked", "xmpp-server"))
        self.assertNotIn(signing.mac(path.encode() + NUL + b"delete-me"), daemon.process.output)

    def test_off(self) -> None:
        """Where there is no delete secret, nothing that is stored can be deleted."""
        daemon = self.serve().started()
        self.put(daemon, "a/x", 3)
        self.assertEqual(daemon.ask("DELETE", self.target("a/x")).status, 409)
        self.assertEqual(daemon.files(), ["a/x"])
