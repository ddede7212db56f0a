"""The daemon as its operator sees it: starting, stopping, dying, what it writes and what it takes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.e2e import signing
from tests.e2e.daemon import Daemon, toml
from tests.e2e.processes import ROOT, PeerTestCase, accepts, wait_until
from tests.e2e.wire import Answer, Connection, ask

MIB = 1 << 20
PATH = "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/photo.jpg"
FEW_BYTES = 5 * MIB
"""Memory that does not grow with the size of what passes through."""


def zeros(size_bytes: int) -> Iterator[bytes]:
    """So many bytes, without having them."""
    piece = bytes(MIB)
    return (piece for _ in range(size_bytes // MIB))


class StartTests(PeerTestCase):
    """A start that can't succeed ends at once, with status 1 and lines for a person."""

    def check_refused(self, daemon: Daemon, *words: str) -> None:
        """It ended, and said why."""
        self.assertEqual(daemon.process.wait(), 1)
        self.assertNotIn("Traceback", daemon.process.output)
        for word in words:
            self.assertIn(word, daemon.process.output)

    def test_faults_all_at_once(self) -> None:
        """Every fault of a config file is named: file, line, key, and the nearest known one."""
        faulty = (
            'Secret = "a-secret-of-the-tests-0123456789"\nStoreDir = 5\nMaxRetentionTime = "6m"\nLogLevle = "info"\n'
        )
        daemon = Daemon(self, text=faulty)
        self.check_refused(daemon, "StoreDir", "MaxRetentionTime", "6mo", "LogLevle", "LogLevel")
        for line in (2, 3, 4):
            self.assertIn(f"{daemon.config}:{line}", daemon.process.output)

    def test_not_toml(self) -> None:
        """A file that is no TOML."""
        daemon = Daemon(self, text="Secret = \nStoreDir\n")
        self.check_refused(daemon, str(daemon.config))

    def test_no_file(self) -> None:
        """No file at all."""
        daemon = Daemon(self, text="")
        daemon.process.wait()
        daemon.config.unlink()
        daemon.spawn()
        self.check_refused(daemon, str(daemon.config))

    def test_no_secret(self) -> None:
        """A server without a secret would let everybody in."""
        self.check_refused(Daemon(self, Secret=""), "Secret")

    def test_store_not_writable(self) -> None:
        """A directory that can't be made."""
        file = self.directory / "file"
        file.write_bytes(b"")
        self.check_refused(Daemon(self, StoreDir=str(file / "store")), str(file))

    def test_port_in_use(self) -> None:
        """A port that somebody else has."""
        first = Daemon(self).started()
        self.check_refused(Daemon(self, ListenPort=f"127.0.0.1:{first.port}"), str(first.port))

    def test_metrics_port_in_use(self) -> None:
        """The same for the metrics."""
        first = Daemon(self).started()
        self.check_refused(Daemon(self, MetricsPort=f"127.0.0.1:{first.port}"), str(first.port))


class StopTests(PeerTestCase):
    """The end of a daemon."""

    def test_term(self) -> None:
        """SIGTERM, as systemd sends it: no complaint, and the port is free."""
        daemon = Daemon(self).started()
        self.assertIn(daemon.process.stop(), (0, -signal.SIGTERM))
        self.assertNotIn("Traceback", daemon.process.output)
        self.assertNotIn("Unhandled", daemon.process.output)
        self.assertFalse(accepts(daemon.port))

    def test_term_in_mid_upload(self) -> None:
        """An upload that a stop cuts off leaves nothing visible, and its URL can be used again."""
        self.interrupted(signal.SIGTERM)

    def test_kill_in_mid_upload(self) -> None:
        """The same for SIGKILL, where nobody can tidy up."""
        self.interrupted(signal.SIGKILL)

    def interrupted(self, number: signal.Signals) -> None:
        """End the daemon with half a file in its hands, and start it again."""
        content = os.urandom(4 * MIB)
        target = signing.v(PATH, len(content))
        daemon = Daemon(self).started()
        with Connection(daemon.port) as connection:
            connection.send_head("PUT", target, length=len(content))
            connection.send(content[: 2 * MIB])
            wait_until(lambda: sum(part.stat().st_size for part in daemon.parts()) == 2 * MIB, "half has arrived")
            daemon.process.signal(number)
            daemon.process.wait()
        self.assertEqual(daemon.files(), [])
        daemon.restart()
        self.assertEqual(daemon.ask("GET", signing.url_path(PATH)).status, 404)
        self.assertEqual(daemon.ask("PUT", target, body=content).status, 201)
        self.assertEqual(daemon.ask("GET", signing.url_path(PATH)).body, content)
        self.assertEqual(daemon.files(), [PATH])

    def test_files_survive(self) -> None:
        """What was answered with 201 is there after SIGKILL, with its type."""
        daemon = Daemon(self).started()
        target = signing.v2(PATH, 3, "image/jpeg")
        self.assertEqual(daemon.ask("PUT", target, {"Content-Type": "image/jpeg"}, b"abc").status, 201)
        daemon.process.kill()
        get = daemon.restart().ask("GET", signing.url_path(PATH))
        self.assertEqual((get.status, get.body, get.header("Content-Type")), (200, b"abc", "image/jpeg"))


class MemoryTests(PeerTestCase):
    """Bodies pass through; they don't pile up."""

    def warm(self) -> Daemon:
        """A daemon that has done everything once."""
        daemon = Daemon(self, MaxUploadSize="2GiB", BlockAfterFails=0).started()
        self.assertEqual(daemon.ask("PUT", signing.v("warm/up", MIB), body=bytes(MIB)).status, 201)
        self.assertEqual(daemon.ask("GET", signing.url_path("warm/up")).status, 200)
        return daemon

    def send(self, daemon: Daemon, method: str, target: str, headers: dict[str, str], size_bytes: int) -> Answer:
        """Send a request with so many zeros, and read no answer before."""
        with Connection(daemon.port) as connection:
            connection.send_head(method, target, headers, size_bytes)
            connection.send_while_wanted(zeros(size_bytes))
            return connection.answer(method)

    def test_upload(self) -> None:
        """A PUT of 1 GiB."""
        daemon = self.warm()
        before = daemon.rss_bytes()
        self.assertEqual(self.send(daemon, "PUT", signing.v(PATH, 1 << 30), {}, 1 << 30).status, 201)
        self.assertLess(daemon.peak_rss_bytes() - before, FEW_BYTES)
        self.assertEqual((daemon.store / PATH).stat().st_size, 1 << 30)

    def test_forms(self) -> None:
        """Form bodies, which Twisted would parse in memory, are refused when their headers are in."""
        daemon = self.warm()
        before = daemon.rss_bytes()
        for content_type in ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
            for method in ("POST", "PUT"):
                headers = {"Content-Type": content_type}
                with Connection(daemon.port) as connection:
                    connection.send_head(method, signing.url_path(PATH), headers, 200 * MIB)
                    early = connection.answer()
                late = self.send(daemon, method, signing.url_path(PATH), headers, 200 * MIB)
                self.assertEqual((early.status, late.status), (415, 415), f"{method} {content_type}")
        self.assertLess(daemon.peak_rss_bytes() - before, FEW_BYTES)
        self.assertEqual(daemon.parts(), [])


class LogTests(PeerTestCase):
    """What is written, where to, and what never is."""

    def requests(self, daemon: Daemon) -> None:
        """A good upload, its download, and some refusals."""
        body, headers = b"abc", {"Content-Type": "image/jpeg"}
        for target in (signing.v(PATH, 3), signing.v2("slot/2", 3, "image/jpeg"), signing.v("slot/3", 4)):
            daemon.ask("PUT", target, headers, body)
        for slot, secret in (("slot/4", signing.SECRET), ("slot/5", "another-secret-of-the-tests-0123")):
            token = {"Authorization": signing.bearer(slot, 3, secret=secret)}
            daemon.ask("PUT", signing.url_path(slot), token, body)
        daemon.ask("GET", signing.url_path(PATH), {"Authorization": signing.bearer("slot/5", 3)})
        daemon.ask("GET", signing.v(PATH, 3))

    def test_line_for_each_request(self) -> None:
        """Method, path, status, reason and client address, in one line."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        self.requests(daemon)
        for line in (
            r"PUT /upload/6f95dd3c\S*/photo\.jpg 201 .*from 127\.0\.0\.1",
            r"PUT /upload/slot/3 403 bad-signature from 127\.0\.0\.1",
            r"PUT /upload/slot/4 201 .*from 127\.0\.0\.1",
            r"PUT /upload/slot/5 403 bad-signature from 127\.0\.0\.1",
            r"GET /upload/6f95dd3c\S*/photo\.jpg 200 .*from 127\.0\.0\.1",
        ):
            daemon.process.wait_for_line(line)

    def test_no_credentials(self) -> None:
        """No signature, no token and no secret, at any level and in no file."""
        daemon = Daemon(self, BlockAfterFails=0, LogLevel="debug").started()
        self.requests(daemon)
        daemon.process.stop()
        self.assertIn("slot/5", daemon.process.output)
        self.assertNotIn(signing.SECRET, daemon.process.output)
        self.assertEqual(re.findall(r"[0-9a-f]{64}|eyJ[\w-]+\.|[?&]v2?=\w", daemon.process.output), [])

    def test_wrong_signature_explained(self) -> None:
        """The operator learns which difference makes a signature wrong; the client does not."""
        daemon = Daemon(self).started()
        doubled = signing.url_path("upload/slot/1") + signing.v("slot/1", 3).partition("slot/1")[2]
        answer = daemon.ask("PUT", doubled, body=b"abc")
        self.assertEqual(answer.status, 403)
        self.assertNotIn("right if", answer.text)
        daemon.process.wait_for_line(r"right if")

    def test_json(self) -> None:
        """``LogFormat = "json"``: one object a line, in a file of its own."""
        file = self.directory / "hmacfs.log"
        daemon = Daemon(self, LogFormat="json", LogFile=str(file), BlockAfterFails=0).started()
        self.requests(daemon)
        daemon.process.stop()
        entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        [refused] = [entry for entry in entries if entry.get("path") == "/upload/slot/5"]
        self.assertEqual((refused["method"], refused["status"], refused["reason"]), ("PUT", 403, "bad-signature"))

    def test_rotation(self) -> None:
        """A log file that was renamed is followed by a new one."""
        file, old = self.directory / "hmacfs.log", self.directory / "hmacfs.log.1"
        daemon = Daemon(self, LogFile=str(file)).started()
        daemon.ask("GET", "/upload/before")
        wait_until(lambda: "/upload/before" in file.read_text(encoding="utf-8"), "the line is written")
        file.rename(old)

        def followed() -> bool:
            daemon.ask("GET", "/upload/after")
            return file.exists() and "/upload/after" in file.read_text(encoding="utf-8")

        wait_until(followed, "a new file")
        self.assertIn("/upload/before", old.read_text(encoding="utf-8"))
        self.assertNotIn("/upload/before", file.read_text(encoding="utf-8"))


class MetricsTests(PeerTestCase):
    """The second port."""

    def test_health(self) -> None:
        """Alive and ready."""
        daemon = Daemon(self).started()
        for target in ("/healthz", "/readyz"):
            self.assertEqual(ask(daemon.metrics_port, "GET", target).status, 200, target)

    def test_names(self) -> None:
        """The names that dashboards know, with the numbers of what has happened."""
        daemon = Daemon(self).started()
        self.assertEqual(daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 201)
        self.assertEqual(daemon.ask("PUT", signing.v("slot/1", 4), body=b"abc").status, 403)
        metrics = daemon.metrics()
        self.assertIn("hmac_file_server_goroutines", metrics)
        self.assertEqual(metrics["hmac_file_server_uploads_total"], 1)
        self.assertEqual(metrics["hmac_file_server_upload_duration_seconds_count"], 1)
        self.assertEqual(metrics['hmac_file_server_upload_errors_total{reason="bad-signature"}'], 1)

    def test_not_on_the_first_port(self) -> None:
        """The public port says nothing about the server's health."""
        daemon = Daemon(self).started()
        for target in ("/metrics", "/healthz", "/readyz"):
            self.assertEqual(daemon.ask("GET", target).status, 404, target)

    def test_off(self) -> None:
        """Without metrics there is no second port."""
        daemon = Daemon(self, MetricsEnabled=False).started()
        self.assertFalse(accepts(daemon.metrics_port))


class OldConfigTests(PeerTestCase):
    """Configurations that were written for other servers."""

    def test_hmac_file_server(self) -> None:
        """The example of old runs with nothing changed but paths and ports."""
        port, metrics_port = self.free_port(), self.free_port()
        changed = {
            "ListenPort": f":{port}",
            "MetricsPort": f":{metrics_port}",
            "StoreDir": str(self.directory / "uploads"),
            "LogFile": str(self.directory / "hmac-file-server.log"),
        }
        text = (ROOT / "tests/vectors/config-of-old.toml").read_text(encoding="utf-8")
        for key, value in changed.items():
            text, count = re.subn(rf'^{key} = "[^"]*"', toml({key: value}).strip(), text, flags=re.MULTILINE)
            self.assertEqual(count, 1, key)
        Daemon(self, text=text).started_on(lambda: accepts(port))
        target = signing.v(PATH, 3, secret="mysecret").replace("/upload/", "/uploads/", 1)
        self.assertEqual(ask(port, "PUT", target, body=b"abc").status, 201)
        self.assertEqual(ask(port, "GET", f"/uploads/{PATH}").body, b"abc")
        self.assertEqual(Path(changed["StoreDir"], PATH).read_bytes(), b"abc")
        self.assertIn("hmac_file_server_uploads_total", ask(metrics_port, "GET", "/metrics").text)

    def test_prosody_filer(self) -> None:
        """prosody-filer's configuration and its directory: the old files are served, new ones taken."""
        store, port = self.directory / "filer", self.free_port()
        (store / "thomas" / "abc").mkdir(parents=True)
        (store / "thomas" / "abc" / "catmetal.jpg").write_bytes(b"miaow")
        text = toml(
            {
                "listenport": f"127.0.0.1:{port}",
                "unixSocket": False,
                "secret": "mysecret",
                "storeDir": f"{store}/",
                "uploadSubDir": "upload/",
                "loglevel": "info",
            }
        )
        # prosody-filer has no metrics: its users get those of hmacfs on the usual port, which may be taken here
        Daemon(self, text=text + toml({"MetricsEnabled": False})).started_on(lambda: accepts(port))
        get = ask(port, "GET", "/upload/thomas/abc/catmetal.jpg")
        self.assertEqual((get.status, get.body, get.header("Content-Type")), (200, b"miaow", "image/jpeg"))
        target = signing.v("thomas/abc/new.jpg", 3, secret="mysecret")
        self.assertEqual(ask(port, "PUT", target, body=b"abc").status, 201)
        self.assertEqual((store / "thomas" / "abc" / "new.jpg").read_bytes(), b"abc")
        again = signing.v("thomas/abc/catmetal.jpg", 5, secret="mysecret")
        self.assertEqual([ask(port, "PUT", again, body=body).status for body in (b"miaow", b"grrrr")], [201, 409])

    def test_later_features(self) -> None:
        """Keys that this version does not act on yet are accepted."""
        daemon = Daemon(self, RedisAddr="127.0.0.1:1", DeleteFiles=True, RetentionPolicyEnabled=True).started()
        self.assertEqual(daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 201)
