"""What lies in contrib/ for other programs, read by those programs."""

from __future__ import annotations

import json
import re
import shutil
from typing import ClassVar

from hmacfs.metrics import Metrics
from tests.e2e import signing
from tests.e2e.contrib import CONTRIB
from tests.e2e.daemon import Daemon
from tests.e2e.processes import PeerTestCase, program, run
from tests.e2e.wire import Connection

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

_OURS = re.compile(r"hmac_file_server_[a-z_]+")


def exposed() -> set[str]:
    """The names of all series that hmacfs has, those of what not everybody has among them."""
    metrics = Metrics()
    metrics.watch(metrics.redis_up, lambda: 1)
    metrics.watch(metrics.redis_round_trip_seconds, lambda: 0.001)
    text = metrics.expose().decode()
    declared = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    names = {name for name, _ in declared}
    return names | {name + suffix for name, kind in declared for suffix in _suffixes(kind)}


def _suffixes(kind: str) -> tuple[str, ...]:
    return ("_bucket", "_count", "_sum") if kind == "histogram" else ()


class PrometheusTests(PeerTestCase):
    """promtool reads the files."""

    needs: ClassVar[tuple[str, ...]] = ("promtool",)

    def test_alerts(self) -> None:
        """Each alert comes when it should, and not before."""
        directory = CONTRIB / "prometheus"
        finished = run([program("promtool"), "test", "rules", "alerts.test.yml"], cwd=directory)
        self.assertEqual(finished.status, 0, finished.text + finished.stderr)

    def test_all_tested(self) -> None:
        """There is a test for every alert."""
        names = re.findall(r"alert: (\w+)", (CONTRIB / "prometheus" / "alerts.yml").read_text())
        tested = re.findall(r"alertname: (\w+)", (CONTRIB / "prometheus" / "alerts.test.yml").read_text())
        self.assertEqual(set(names), set(tested))

    def test_scrape(self) -> None:
        """The configuration is one."""
        shutil.copyfile(CONTRIB / "prometheus" / "scrape.yml", self.directory / "prometheus.yml")
        finished = run([program("promtool"), "check", "config", self.directory / "prometheus.yml"])
        self.assertEqual(finished.status, 0, finished.text + finished.stderr)

    def test_lint(self) -> None:
        """What hmacfs exposes has names and kinds as Prometheus wants them."""
        daemon = Daemon(self, text=None).started()
        text = run([program("curl"), "-sS", f"http://127.0.0.1:{daemon.metrics_port}/metrics"]).stdout
        finished = run([program("promtool"), "check", "metrics"], stdin=text)
        self.assertEqual(finished.status, 0, finished.text + finished.stderr)

    def test_names(self) -> None:
        """Alerts are about metrics that there are."""
        used = set(_OURS.findall((CONTRIB / "prometheus" / "alerts.yml").read_text()))
        self.assertEqual(used - exposed(), set())


class LuaTests(PeerTestCase):
    """Prosody's and Metronome's files. Metronome isn't in Debian: that it is Lua is all that is seen of that."""

    needs: ClassVar[tuple[str, ...]] = ("luac",)

    def test_syntax(self) -> None:
        """Each of them is Lua."""
        files = sorted(CONTRIB.glob("*/*.lua"))
        self.assertEqual({file.parent.name for file in files}, {"metronome", "prosody"})
        for file in files:
            finished = run([program("luac5.4"), "-p", file])
            self.assertEqual(finished.status, 0, finished.stderr)


class GrafanaTests(PeerTestCase):
    """The dashboard."""

    def setUp(self) -> None:
        self.text = (CONTRIB / "grafana" / "hmacfs.json").read_text(encoding="utf-8")
        self.dashboard = json.loads(self.text)

    def test_names(self) -> None:
        """It shows every metric that there is, and none that there isn't."""
        known = exposed()
        used = set(_OURS.findall(self.text))
        self.assertEqual(used - known, set())
        shown = {name for name in known if any(each.startswith(name) for each in used)}
        ours = {name for name in known if name.startswith("hmac_file_server_") and not name.endswith("_created")}
        left = {name for name in ours - shown if not re.search("_(bucket|count|sum)$", name)}
        self.assertEqual(left, set())

    def test_panels(self) -> None:
        """Each has a number and a place of its own, and a data source that can be chosen."""
        panels = self.dashboard["panels"]
        numbers = [panel["id"] for panel in panels]
        self.assertEqual(len(numbers), len(set(numbers)))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
        self.assertEqual(len(places), len(set(places)))
        for panel in panels:
            for target in panel.get("targets", ()):
                self.assertEqual(target["datasource"]["uid"], "${datasource}")
                self.assertIn("$instance", target["expr"])

    def test_old_dashboard(self) -> None:
        """The four metrics that dashboards of hmac-file-server ask for are there under their names."""
        old = ("goroutines", "upload_duration_seconds", "upload_errors_total", "uploads_total")
        self.assertEqual({f"hmac_file_server_{name}" for name in old} - exposed(), set())


class Fail2banTests(PeerTestCase):
    """fail2ban's own program tries the filter on a log."""

    needs: ClassVar[tuple[str, ...]] = ("fail2ban",)

    def test_filter(self) -> None:
        """Hostile requests are found, with their address; all others are not."""
        log = self.directory / "hmacfs.log"
        daemon = Daemon(self, text=None, LogFile=str(log), BlockAfterFails=0).started()
        daemon.ask("PUT", signing.v("a/b.txt", 5), {}, b"right")
        daemon.ask("GET", "/upload/a/none.txt")
        daemon.ask("PUT", signing.v("a/b.txt", 6), {}, b"wrong")
        daemon.ask("PUT", "/upload/a/c.txt", {}, b"unsigned")
        daemon.ask("PUT", "/upload/a/%2e%2e/c.txt?v=" + "0" * 64, {}, b"x")
        with Connection(daemon.port) as connection:
            connection.send(b"GET /upload/x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
            connection.answer("GET")
        daemon.process.stop()
        rule = CONTRIB / "fail2ban" / "filter.d" / "hmacfs.conf"
        finished = run([program("fail2ban-regex"), "--print-all-matched", log, rule])
        self.assertIn("4 matched", finished.text, finished.text)
        matched = finished.text.partition("Matched line(s):")[2].partition("`-")[0]
        self.assertEqual(matched.count("from 127.0.0.1"), 4, finished.text)
        self.assertNotIn("none.txt", matched)
