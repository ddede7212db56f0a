"""SIGHUP, and the secret that is read again: what is taken up while hmacfs runs, by one process and by several."""

from __future__ import annotations

import os
import signal
from hashlib import sha256
from itertools import count

from tests.e2e import signing
from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import wait_until
from tests.e2e.signing import SECRET
from tests.e2e.test_workers import MIB, NEW_SECRET, PATH, Load, WorkersTestCase
from tests.e2e.wire import Connection, ask

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""


def fingerprint(secret: str) -> str:
    """As ``sha256sum`` begins."""
    return sha256(secret.encode()).hexdigest()[:8]


class ReloadTestCase(WorkersTestCase):
    """A daemon whose secret is in a file.

    :cvar cores: how many processes serve.
    """

    cores = 1

    def setUp(self) -> None:
        super().setUp()
        self.secret = self.directory / "secret"
        self.secret.touch(0o600)
        self.write_secret(SECRET)

    def write_secret(self, secret: str) -> None:
        """Put it in the place of the old one."""
        new = self.secret.with_suffix(".new")
        new.touch(0o600)
        new.write_text(f"{secret}\n", "utf-8")
        new.rename(self.secret)

    def serve(self, **keys: TomlValue) -> Daemon:
        daemon = super().serve(NumCores=self.cores, **keys)
        self.assertIn(f"The secret's fingerprint is {fingerprint(SECRET)}", daemon.process.output)
        return daemon

    def reload(self, times: int = 1) -> None:
        self.daemon.process.signal(signal.SIGHUP)
        self.daemon.process.wait_for_line("has been taken up", count=times)

    def put(self, name: str, secret: str) -> int:
        """The status of an upload that is signed with *secret*."""
        return self.daemon.ask("PUT", signing.v(f"slot/{name}", 3, secret), body=b"abc").status

    def shown(self) -> list[str]:
        """The fingerprints that are in the metrics."""
        text = ask(self.daemon.metrics_port, "GET", "/metrics").text
        front = 'hmac_file_server_secret_info{fingerprint="'
        return [line[len(front) :].split('"')[0] for line in text.splitlines() if line.startswith(front)]


class OneProcessTests(ReloadTestCase):
    """All in one process."""

    def test_under_load(self) -> None:
        """No request fails: not on new connections, not on those that are kept, no upload that was under way, and no slot
        that was signed before. The new secret is in force, too, and so are the new limits.
        """
        self.serve(SecretGracePeriod="1h")
        self.assertEqual(self.daemon.ask("PUT", signing.v("old/file", 3), body=b"abc").status, 201)
        content = os.urandom(2 * MIB)
        upload = self.begin_upload(content, MIB)
        late = signing.v("late/slot", 3)
        load = Load(self, self.daemon.port, "old/file")
        load.go_on()
        self.configure(Secret=NEW_SECRET, MaxUploadSize=3000, TrustedProxies=["192.0.2.1"], LogFormat="json")
        self.reload(1)
        load.go_on()
        load.secret = NEW_SECRET
        load.go_on()
        self.configure(MaxUploadSize=2000)
        self.reload(2)
        load.go_on()
        load.end()
        self.assertEqual(load.failures, [])
        upload.send(content[MIB:])
        self.assertEqual(upload.answer("PUT").status, 201)
        self.assertEqual(self.daemon.ask("GET", signing.url_path(PATH)).body, content)
        self.assertEqual(self.daemon.ask("PUT", late, body=b"abc").status, 201)
        self.assertEqual(
            self.daemon.ask("PUT", signing.v("too/large", 2500, NEW_SECRET), body=bytes(2500)).status,
            413,
        )
        output = self.daemon.process.output
        self.assertIn(f"{fingerprint(NEW_SECRET)} now, and {fingerprint(SECRET)} is accepted for 1h more", output)
        self.assertRegex(output, "taken up; changed: .*TrustedProxies, Secret, MaxUploadSize, LogFormat")
        self.assertEqual(self.shown(), [fingerprint(NEW_SECRET)])
        for secret in (SECRET, NEW_SECRET):
            self.assertNotIn(secret, output)
        self.daemon.process.stop()
        self.assertNotIn("Traceback", self.daemon.process.output)

    def test_faulty_configuration(self) -> None:
        """It changes nothing, and is told with all its faults; nor does one that can't be served by."""
        self.serve()
        good = self.daemon.config.read_text("utf-8")
        self.daemon.config.write_text(
            good.replace(SECRET, NEW_SECRET) + "LogLevle = 5\nReadTimeout = true\nMaxUploadSize = 1\n", "utf-8"
        )
        self.daemon.process.signal(signal.SIGHUP)
        line = self.daemon.process.wait_for_line("the old one stays in force")
        self.assertIn("LogLevle", line)
        self.assertIn("ReadTimeout", line)
        self.daemon.config.write_text(good, "utf-8")
        self.configure(ReportFile=str(self.directory / "none" / "report"), MaxUploadSize=1)
        self.daemon.process.signal(signal.SIGHUP)
        self.daemon.process.wait_for_line("the old one stays in force: ReportFile")
        self.assertEqual(self.put("new", NEW_SECRET), 403)
        self.assertEqual(self.put("old", SECRET), 201)

    def test_keys_that_take_a_restart(self) -> None:
        """They are named, and the others are taken up; the old places are listened at."""
        self.serve()
        self.configure(ListenPort=f"127.0.0.1:{self.free_port()}", MaxUploadSize=2)
        self.reload()
        self.assertIn("ListenPort has changed, which takes a restart", self.daemon.process.output)
        self.assertEqual(self.put("a", SECRET), 413)

    def test_retention(self) -> None:
        """Files are deleted from now on; a sweep that went on before does so no longer."""
        self.serve()
        self.assertEqual(self.put("a", SECRET), 201)
        self.configure(DeleteFiles=True, DeleteFilesAfterPeriod=1, RetentionInterval=1, RetentionGrace=0)
        self.reload()
        wait_until(lambda: not self.daemon.files(), "the file is deleted")
        self.configure(DeleteFiles=False)
        self.reload(2)
        self.assertEqual(self.put("b", SECRET), 201)
        # The old sweep has ended once there is a new one.
        self.configure(DeleteFiles=True, DeleteFilesAfterPeriod=3600)
        self.reload(3)
        self.assertEqual(self.daemon.files(), ["slot/b"])

    def test_log(self) -> None:
        """Another file, level and format."""
        log = self.directory / "new.log"
        self.serve()
        self.configure(LogFile=str(log), LogFormat="json")
        self.daemon.process.signal(signal.SIGHUP)
        wait_until(lambda: log.exists() and "has been taken up" in log.read_text("utf-8"), "the new file has the line")
        self.put("a", SECRET)
        # The line is written after the answer.
        wait_until(lambda: '"status": 201' in log.read_text("utf-8"), "the request is in the new file")
        self.configure(LogLevel="warn")
        self.daemon.process.signal(signal.SIGHUP)
        wait_until(lambda: self.put_is_quiet(log.read_text("utf-8")), "requests aren't logged any more")

    def put_is_quiet(self, before: str) -> bool:
        self.daemon.ask("GET", "/upload/no/thing")
        return '"status": 404' not in (self.directory / "new.log").read_text("utf-8")[len(before) :]

    def test_idle_connection(self) -> None:
        """One that is kept gets another answer, the last one."""
        self.serve()
        with Connection(self.daemon.port) as kept:
            self.assertIsNone(kept.request("GET", signing.url_path(PATH)).header("connection"))
            self.configure(MaxUploadSize=1)
            self.reload()
            self.assertEqual(kept.request("GET", signing.url_path(PATH)).header("connection"), "close")
            self.assertTrue(kept.closed_by_peer())

    def test_quota(self) -> None:
        """An upload that was under way counts for those that begin after it, as it did before."""
        self.serve(QuotaTotal=2 * MIB + 100)
        content = os.urandom(2 * MIB)
        upload = self.begin_upload(content, MIB)
        self.configure(MaxUploadSize="1GiB")
        self.reload()
        self.assertEqual(self.daemon.ask("PUT", signing.v("slot/large", 101), body=bytes(101)).status, 413)
        self.assertEqual(self.daemon.ask("PUT", signing.v("slot/small", 100), body=bytes(100)).status, 201)
        upload.send(content[MIB:])
        self.assertEqual(upload.answer("PUT").status, 201)

    def test_stop(self) -> None:
        """What was begun before a reload is stopped as all else is: what has arrived stays."""
        self.serve(ShutdownGrace=0)
        content = os.urandom(2 * MIB)
        upload = self.begin_upload(content, MIB)
        self.configure(MaxUploadSize="1GiB", ReadTimeout=800)
        self.reload()
        self.daemon.process.stop()
        self.assertEqual(upload.answer("PUT").status, 503)
        self.assertEqual(sum(part.stat().st_size for part in self.daemon.parts()), MIB)
        self.assertNotIn("Traceback", self.daemon.process.output)


class SecretTests(ReloadTestCase):
    """The secret, read again from its file."""

    def test_sighup(self) -> None:
        """The old one is accepted for a while, and no longer."""
        self.serve(SecretFile=str(self.secret))
        before = signing.v("slot/before", 3)
        self.write_secret(NEW_SECRET)
        self.reload()
        # What connects just then may still be the old worker's, which is about to leave.
        wait_until(lambda: self.put("new", NEW_SECRET) == 201, "the new one is in force")
        self.assertEqual(self.daemon.ask("PUT", before, body=b"abc").status, 201)
        third = f"{NEW_SECRET}-3"
        self.configure(SecretGracePeriod=1)
        self.write_secret(third)
        self.reload(2)
        wait_until(lambda: self.put("third", third) == 201, "the third one is in force")
        numbers = count()
        wait_until(lambda: self.put(f"after-{next(numbers)}", NEW_SECRET) == 403, "the grace is over")

    def test_interval(self) -> None:
        """The secret alone is read from time to time. One that can't be had changes nothing, and is told once."""
        self.serve(SecretFile=str(self.secret), ReaskSecretInterval=1, SecretGracePeriod=0)
        self.configure(MaxUploadSize=2)
        self.secret.unlink()
        self.daemon.process.wait_for_line("The secret can't be read again, and stays in force: .*No such file")
        self.assertEqual(self.put("old", SECRET), 201)
        self.write_secret("")
        self.daemon.process.wait_for_line("stays in force: .*is empty")
        self.write_secret(NEW_SECRET)
        wait_until(lambda: self.shown() == [fingerprint(NEW_SECRET)], "the new one is in force")
        # Where there are several workers, it is so in each of them a moment later.
        wait_until(lambda: {self.put(f"old-{each}", SECRET) for each in range(4)} == {403}, "for all")
        self.assertEqual(self.put("new", NEW_SECRET), 201)
        output = self.daemon.process.output
        self.assertEqual(output.count("No such file"), 1)
        self.assertNotIn("has been taken up", output)
        self.assertIn(f"now, and {fingerprint(SECRET)} isn't accepted any more", output)
        for secret in (SECRET, NEW_SECRET):
            self.assertNotIn(secret, output)

    def test_not_wanted(self) -> None:
        """The secret that was there at the start stays, by SIGHUP too."""
        self.serve(SecretFile=str(self.secret), ReaskSecretEnabled=False)
        self.write_secret(NEW_SECRET)
        self.reload()
        self.assertIn("Secret has changed, which takes a restart", self.daemon.process.output)
        self.assertEqual(self.put("new", NEW_SECRET), 403)
        self.assertEqual(self.put("old", SECRET), 201)


class WorkersSecretTests(SecretTests):
    """The same with several processes."""

    cores = 2
