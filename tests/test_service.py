"""All parts put together, on a reactor that a test drives."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from prometheus_client.parser import text_string_to_metric_families
from twisted.application.service import Application
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from hmacfs import config as config_module
from hmacfs import service as service_module
from hmacfs.config import load
from hmacfs.errors import StartError
from hmacfs.keeping.indexing import FLUSH_AFTER_S
from hmacfs.keeping.quotas import AGAIN_AFTER_S
from hmacfs.net.switching import Switch
from hmacfs.net.threads import InlineThreads
from hmacfs.service import HmacfsService
from hmacfs.serving import redis_link, start_link
from hmacfs.storage.store import Store
from hmacfs.web.site import HmacfsSite
from tests.net.wire import Answer, Wire
from tests.web.support import PATH, SECRET, URL, bearer, request, v, v3

CONTENT = b"a photo of a cat"
HTTP, METRICS = 8080, 9090


class Reactor(MemoryReactorClock):
    """One whose calls from elsewhere come at once, and whose ports may be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: set[int] = set()
        self.advance(time.time())

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        function(*args)

    def listenTCP(self, port: int, *args: Any, **kw: Any) -> Any:
        if port in self.taken:
            raise CannotListenError("127.0.0.1", port, OSError(errno.EADDRINUSE, "in use"))
        return super().listenTCP(port, *args, **kw)


class ServiceTestCase(SynchronousTestCase):
    """A service that a test configures."""

    def setUp(self) -> None:
        self.patch(service_module, "Threads", lambda _reactor, _pool: InlineThreads())
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.log = self.directory / "hmacfs.log"
        self.reactor = Reactor()

    def make(self, **keys: str | int | bool | list[str]) -> HmacfsService:
        """A service with *keys* in its configuration, beside a secret, a directory, a log and two ports."""
        usual = {
            "Secret": SECRET,
            "StoreDir": "store",
            "LogFile": "hmacfs.log",
            "ListenPort": f"127.0.0.1:{HTTP}",
            "MetricsPort": f"127.0.0.1:{METRICS}",
            "MinFreeSpace": 0,
            "ShutdownGrace": 0,
        }
        settings = {**usual, **keys}
        file = self.directory / "config.toml"
        file.touch(0o600)
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()), encoding="utf-8")
        self.service = HmacfsService(load(file), self.reactor)
        self.application: Any = Application("hmacfs")
        self.service.setServiceParent(self.application)
        return self.service

    def start(self, **keys: str | int | bool | list[str]) -> HmacfsService:
        """Start one, as twistd does."""
        service = self.make(**keys)
        self.observe()
        service.privilegedStartService()
        service.startService()
        self.addCleanup(self.stop)
        hooks, self.reactor.whenRunningHooks = self.reactor.whenRunningHooks, []
        for function, args, kw in hooks:
            function(*args, **kw)
        return service

    def stop(self) -> None:
        if self.service.running:
            stopped = self.service.stopService()
            self.reactor.pump([0.02] * 60)
            self.successResultOf(stopped)

    def connect(self, data: bytes, port: int = HTTP) -> Wire:
        (switch,) = [listening[1] for listening in self.reactor.tcpServers if listening[0] == port]
        assert isinstance(switch, Switch)
        site = switch.current
        assert isinstance(site, HmacfsSite)
        wire = Wire(site)
        wire.send(data)
        return wire

    def ask(self, data: bytes, port: int = HTTP) -> Answer:
        return self.connect(data, port).answer()

    def put(self, target: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask(request("PUT", target or v(PATH, len(CONTENT)), headers, CONTENT))

    def logged(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def scrape(self, port: int = METRICS) -> dict[str, float]:
        """What Prometheus would see, of what has no labels."""
        answer = self.ask(request("GET", "/metrics"), port)
        families = text_string_to_metric_families(answer.body.decode())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    def observe(self) -> None:
        """Let the log that twistd was given have all events."""
        observer = ILogObserver(self.application)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)


class LifeTests(ServiceTestCase):
    """From start to stop."""

    def test_file_in_and_out(self) -> None:
        self.start()
        self.assertEqual(self.put().status, 201)
        self.assertEqual(self.ask(request("GET", URL)).body, CONTENT)
        self.assertEqual((self.directory / "store" / PATH).read_bytes(), CONTENT)

    def test_bans(self) -> None:
        """A client that fails is blocked, also by the service that starts next; scrapes are not."""
        self.start(TrustedProxies=[])
        for _ in range(3):
            self.assertEqual(self.put(f"{URL}?v={'0' * 64}").status, 403)
        self.assertEqual(self.put().status, 429)
        self.stop()
        self.reactor = Reactor()
        self.start(TrustedProxies=[])
        self.assertEqual(self.put().status, 429)
        self.assertEqual(self.scrape()["hmac_file_server_blocked_addresses"], 1)

    def test_requests_are_logged(self) -> None:
        """Those for files; not the scrapes and probes, of which there are many."""
        self.start()
        self.put()
        for target in ("/metrics", "/healthz", "/readyz"):
            self.ask(request("GET", target), METRICS)
        requests = [line for line in self.logged().splitlines() if " from " in line]
        self.assertEqual(len(requests), 1)
        self.assertRegex(requests[0], f" PUT {URL} 201 16 B in .+ from 192.0.2.1")

    def test_metrics(self) -> None:
        """Under the names that dashboards know."""
        self.start()
        self.put()
        self.reactor.advance(FLUSH_AFTER_S)
        shown = self.scrape()
        prefix = "hmac_file_server_"
        self.assertEqual(shown[prefix + "uploads_total"], 1)
        self.assertEqual(shown[prefix + "upload_duration_seconds_count"], 1)
        self.assertEqual((shown[prefix + "stored_files"], shown[prefix + "stored_bytes"]), (1, 16))
        for name in ("goroutines", "uploads_in_progress", "disk_free_bytes", "disk_size_bytes", "sessions_active"):
            self.assertIn(prefix + name, shown)

    def test_metrics_are_not_for_other_origins(self) -> None:
        """A web page in the browser of somebody who can reach the port reads nothing there; files are for everybody."""
        self.start()
        for page in ("/metrics", "/readyz", "/healthz", "/nothing", "/metrics/"):
            for method in ("GET", "OPTIONS", "PUT"):
                answer = self.ask(request(method, page), METRICS)
                self.assertNotIn("access-control-allow-origin", answer.headers, f"{method} {page}")
                self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
                self.assertEqual(answer.headers["server"], "hmacfs")
        self.assertNotIn("access-control-allow-origin", self.ask(b"garbage\r\n", METRICS).headers)
        self.assertEqual(self.ask(request("GET", "/upload/x/y")).headers["access-control-allow-origin"], "*")

    def test_work_in_flight(self) -> None:
        self.start()
        quiet = self.scrape()["hmac_file_server_goroutines"]
        wire = self.connect(request("PUT", v(PATH, 16), None, CONTENT[:5], length=16))
        self.assertEqual(self.scrape()["hmac_file_server_goroutines"], quiet + 1)
        self.assertEqual(self.scrape()["hmac_file_server_uploads_in_progress"], 1)
        wire.send(CONTENT[5:])
        self.assertEqual(self.scrape()["hmac_file_server_goroutines"], quiet)

    def test_stored_files_are_counted_at_start(self) -> None:
        (self.directory / "store" / "old").mkdir(parents=True)
        (self.directory / "store" / "old" / "f").write_bytes(b"12345")
        self.start()
        # Between the steps of the scan.
        self.reactor.pump([0.0] * 10)
        shown = self.scrape()
        self.assertEqual((shown["hmac_file_server_stored_files"], shown["hmac_file_server_stored_bytes"]), (1, 5))

    def test_ready(self) -> None:
        self.start()
        self.assertEqual(self.ask(request("GET", "/readyz"), METRICS).status, 200)
        self.assertEqual(self.ask(request("GET", "/healthz"), METRICS).status, 200)

    def test_not_ready(self) -> None:
        """A disk on which nothing may be stored."""
        self.start(MinFreeSpace="1000PiB")
        answer = self.ask(request("GET", "/readyz"), METRICS)
        self.assertEqual(answer.status, 503)
        self.assertIn("MinFreeSpace", json.loads(answer.body)["failing"]["storage"])
        self.assertEqual(self.put().status, 507)

    def test_places(self) -> None:
        """Said once everything is open; each of several addresses is one."""
        self.start(ListenPort=["127.0.0.1:8080", "127.0.0.1:8081"])
        self.assertIn("listens at", self.logged())
        self.assertEqual([listening[0] for listening in self.reactor.tcpServers], [8080, 8081, METRICS])

    def test_without_metrics(self) -> None:
        self.start(MetricsEnabled=False)
        self.assertEqual([listening[0] for listening in self.reactor.tcpServers], [HTTP])

    def test_stop(self) -> None:
        """A running upload is told to come back, and what arrived of it is there after the next start."""
        self.start()
        wire = self.connect(request("PUT", v(PATH, 16), None, CONTENT[:5], length=16))
        self.stop()
        self.assertEqual((wire.answer().status, wire.answer().headers["retry-after"]), (503, "5"))
        self.assertIn("has stopped", self.logged())
        self.reactor = Reactor()
        self.start()
        answer = self.ask_head(v(PATH, 16))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "5"))

    def ask_head(self, target: str) -> Answer:
        (answer,) = self.connect(request("HEAD", target)).answers("HEAD")
        return answer

    def test_stop_leaves_nothing(self) -> None:
        """No timer, and no descriptor but the log's, which twistd still writes to."""
        self.start()
        self.put()
        self.stop()
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        still_open = [os.readlink(link) for link in links if link.exists()]
        self.assertEqual([path for path in still_open if path.startswith(str(self.directory))], [str(self.log)])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_hangup(self) -> None:
        """SIGHUP makes the log anew, and ends nothing."""
        before = signal.getsignal(signal.SIGHUP)
        self.start()
        self.log.rename(self.log.with_suffix(".1"))
        os.kill(os.getpid(), signal.SIGHUP)
        self.put()
        self.assertIn(" 201 ", self.logged())
        self.stop()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)


class ReloadTests(ServiceTestCase):
    """SIGHUP, in the one process that there is."""

    def configure(self, **keys: str | int | bool) -> None:
        """Add keys to the configuration file, and send the signal."""
        with (self.directory / "config.toml").open("a", encoding="utf-8") as file:
            file.writelines(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        os.kill(os.getpid(), signal.SIGHUP)

    def open_files(self) -> list[str]:
        links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        targets = [os.readlink(link) for link in links if link.exists()]
        return sorted(target for target in targets if target.startswith(str(self.directory)))

    def test_upload_meanwhile(self) -> None:
        """It ends as it has begun, and is counted as long; then nothing of that time is left."""
        self.start(MinBodyRate=0)
        # SQLite keeps a descriptor of a closed database for the next one who opens it, while somebody else has it open.
        self.configure(RetryDelay=1)
        self.reactor.pump([0.2] * 20)
        before = self.open_files()
        wire = self.connect(request("PUT", v(PATH, 16), None, CONTENT[:5], length=16))
        self.configure(MaxUploadSize=15)
        self.assertEqual(self.put(v("another/file", 16)).status, 413)
        self.reactor.advance(600)
        self.assertEqual(self.scrape()["hmac_file_server_uploads_in_progress"], 1)
        wire.send(CONTENT[5:])
        self.assertEqual((wire.answer().status, wire.answer().headers["connection"]), (201, "close"))
        wire.vanish()
        self.reactor.pump([0.2] * 20)
        self.assertEqual(self.scrape()["hmac_file_server_uploads_in_progress"], 0)
        self.assertEqual(self.open_files(), before)

    def test_quota_is_promised(self) -> None:
        """What was begun before counts for what is begun now, until it breaks off, or its file counts."""
        self.start(QuotaTotal=50, MinBodyRate=0)
        going, breaking = self.begin("going/file", 16), self.begin("breaking/file", 16)
        self.configure(MaxUploadSize=16)
        self.assertEqual(self.put_patiently("second/file").status, 201)
        self.assertEqual(self.put_patiently("third/file").status, 413)
        breaking.vanish()
        self.assertEqual(self.put_patiently("third/file").status, 201)
        going.send(CONTENT[5:])
        self.assertEqual(going.answer().status, 201)
        self.assertEqual(self.put_patiently("fourth/file").status, 413)

    def test_room_is_promised(self) -> None:
        """What was begun before has the room that it was promised."""
        self.patch(Store, "free_bytes", lambda _store: 50)
        self.start(MinFreeSpace=10, MinBodyRate=0)
        wire = self.begin("first/file", 30)
        self.configure(MaxUploadSize=100)
        self.assertEqual(self.put(v("second/file", 16)).status, 507)
        wire.vanish()
        self.assertEqual(self.put(v("second/file", 16)).status, 201)

    def begin(self, path: str, size: int) -> Wire:
        """An upload of which little has arrived."""
        return self.connect(request("PUT", v(path, size), None, CONTENT[:5], length=size))

    def put_patiently(self, path: str) -> Answer:
        """One that may have to wait until what is under way elsewhere is counted again."""
        wire = self.connect(request("PUT", v(path, len(CONTENT)), None, CONTENT))
        self.reactor.pump([AGAIN_AFTER_S] * 4)
        return wire.answer()

    def test_can_not_serve(self) -> None:
        """Nothing is left of what could not begin."""
        self.start()
        before = self.open_files()
        self.configure(ReportFile=str(self.directory / "none" / "report"), MaxUploadSize=15)
        self.reactor.pump([0.05] * 60)
        self.assertIn("the old one stays in force: ReportFile", self.logged())
        self.assertEqual(self.open_files(), before)
        self.assertEqual(self.put().status, 201)

    def test_stop_before_start(self) -> None:
        """A place isn't announced when it is closed already."""
        service = self.make()
        self.observe()
        service.privilegedStartService()
        service.startService()
        self.addCleanup(self.stop)
        self.stop()
        hooks, self.reactor.whenRunningHooks = self.reactor.whenRunningHooks, []
        for function, args, kw in hooks:
            function(*args, **kw)
        self.assertNotIn("listens at", self.logged())


class RedisTests(ServiceTestCase):
    """Without a Redis to talk to."""

    def test_txredisapi_is_missing(self) -> None:
        """The operator reads what to install."""
        config = self.make(RedisAddr="localhost:6379")._config
        assert config.redis is not None
        link = redis_link(config, self.reactor, config.redis)
        with patch.dict(sys.modules, {"txredisapi": None}):
            error = self.failureResultOf(Deferred.fromCoroutine(start_link(link)), StartError)
        self.assertIn("python3-txredisapi", str(error.value))


class StartTests(ServiceTestCase):
    """A start that can't succeed, or that there is something to be said about."""

    def ended(self, **keys: str | int | bool) -> str:
        """The sentence; as an exit code it means status 1."""
        service = self.make(**keys)

        def start() -> None:
            service.privilegedStartService()
            service.startService()

        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        ended = self.assertRaises(SystemExit, start)
        assert isinstance(ended.code, str)
        return ended.code

    def test_port_taken(self) -> None:
        self.reactor.taken.add(HTTP)
        self.assertRegex(self.ended(), r"^hmacfs: .*8080.*in use")

    def test_metrics_port_taken(self) -> None:
        self.reactor.taken.add(METRICS)
        self.assertRegex(self.ended(), r"^hmacfs: .*9090.*in use")

    def test_no_store(self) -> None:
        (self.directory / "store").mkdir()
        (self.directory / "store" / ".hmacfs").write_bytes(b"")
        self.assertRegex(self.ended(), "^hmacfs: StoreDir .*/store")

    def test_damaged_key(self) -> None:
        """Not silently another one: that would lose every unfinished upload."""
        (self.directory / "store" / ".hmacfs").mkdir(parents=True)
        (self.directory / "store" / ".hmacfs" / "server.key").write_bytes(b"short")
        self.assertIn("server.key", self.ended())

    def test_state_of_another_version(self) -> None:
        """What is only found when the reactor runs: a line in the log, and status 1 in spite of twistd."""
        (self.directory / "store" / ".hmacfs").mkdir(parents=True)
        with sqlite3.connect(self.directory / "store" / ".hmacfs" / "state.sqlite") as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        events: list[Any] = []
        self.patch(HmacfsService, "_log", _Recorder(events))
        self.start()
        self.assertTrue(self.reactor.hasStopped)
        self.assertIn((os._exit, (1,), {}), self.reactor.triggers["after"]["shutdown"])
        self.assertTrue(any("can't start" in text and "state.sqlite" in text for text in events), events)

    def test_nothing_served_before(self) -> None:
        """Between the opening of the ports and the rest of the start there is nothing, not even a traceback."""
        service = self.make()
        service.privilegedStartService()
        self.assertEqual(self.ask(request("GET", URL)).status, 404)
        self.assertEqual(self.put().status, 404)

    def test_warnings(self) -> None:
        """What is dangerous in a configuration, and what has no effect yet, is said at each start."""
        events: list[Any] = []
        self.patch(HmacfsService, "_log", _Recorder(events))
        self.patch(config_module, "MISSING_FEATURES", {"patience": ("MaxRetries",)})
        service = self.start(Secret="short", MaxRetries=4)
        for line in (*service._config.warnings, *service._config.inactive):
            self.assertIn(line, events)
        self.assertTrue(any("MaxRetries" in text for text in events))

    def test_log_observer(self) -> None:
        """Events, Twisted's own among them, go where requests go."""
        self.start()
        Logger("elsewhere").warn("hello {name}", name="world")
        self.assertIn("warn: hello world", self.logged())


class SettingsTests(ServiceTestCase):
    """What stands in the configuration arrives where it counts."""

    def test_upload_sub_dir(self) -> None:
        self.start(UploadSubDir="share/files")
        self.assertEqual(self.put().status, 404)
        self.assertEqual(self.put(v(PATH, 16).replace("/upload/", "/share/files/")).status, 201)

    def test_max_upload_size(self) -> None:
        self.start(MaxUploadSize=15)
        self.assertEqual(self.put().status, 413)

    def test_accept_v3(self) -> None:
        target = v3(PATH, int(time.time()) + 60)
        self.start()
        self.assertEqual(self.put(target).status, 403)
        self.stop()
        self.reactor = Reactor()
        self.start(AcceptV3=True)
        self.assertEqual(self.put(target).status, 201)

    def test_tokens(self) -> None:
        """The time of tokens is the time of the clock on the wall."""
        self.start()
        self.assertEqual(self.put(URL, bearer(PATH, 16, exp=time.time() - 1)).status, 403)
        self.assertEqual(self.put(URL, bearer(PATH, 16, exp=time.time() + 60)).status, 201)

    def test_checksum_verification(self) -> None:
        self.start(ChecksumVerification=False)
        self.assertNotIn("repr-digest", self.put().headers)

    def test_trusted_proxies(self) -> None:
        self.start(TrustedProxies=["192.0.2.0/24"])
        self.put(None, {"X-Forwarded-For": "203.0.113.9"})
        self.assertIn("from 203.0.113.9", self.logged())

    def test_read_timeout(self) -> None:
        self.start(ReadTimeout="10s")
        wire = self.connect(request("PUT", v(PATH, 16), None, CONTENT[:5], length=16))
        self.reactor.pump([1] * 11)
        self.assertEqual(wire.answer().status, 408)

    def test_retries(self) -> None:
        """How often, and how far apart; each is counted."""
        self.start(MaxRetries=2, RetryDelay=3)
        real = os.link
        fails = iter([errno.EIO, errno.EIO])

        def link(*args: Any, **kw: Any) -> None:
            code = next(fails, None)
            if code is not None:
                raise OSError(code, "flaky")
            real(*args, **kw)

        self.patch(os, "link", link)
        wire = self.connect(request("PUT", v(PATH, 16), None, CONTENT))
        self.reactor.pump([3])
        self.assertEqual(wire.answers(), [])
        self.reactor.pump([3])
        self.assertEqual(wire.answer().status, 201)
        self.assertIn(b'retries_total{step="publish"} 2.0', self.ask(request("GET", "/metrics"), METRICS).body)

    def test_log_level(self) -> None:
        """Requests are of level info."""
        self.start(LogLevel="warn")
        self.put()
        self.assertNotIn(" from ", self.logged())

    def test_log_format(self) -> None:
        self.start(LogFormat="json")
        self.put()
        self.assertEqual(json.loads(self.logged().splitlines()[-1])["status"], 201)

    def test_redis(self) -> None:
        """Whether it is up is shown where there is one, and only there."""
        self.start()
        self.assertNotIn("hmac_file_server_redis_up", self.scrape())
        self.stop()
        self.reactor = Reactor()
        self.start(RedisAddr="127.0.0.1:6379")
        self.assertEqual(self.scrape()["hmac_file_server_redis_up"], 0)


class _Recorder:
    """A logger that keeps what it is told, as text."""

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda text, **values: self._events.append(text.format(**values))
