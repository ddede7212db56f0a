"""hmacfs doctor, behind nginx that is configured right, and wrong in every way that is known of operators."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from hmacfs.cli.doctor.findings import CURES
from tests.e2e.daemon import Daemon, command
from tests.e2e.nginx import MAIN
from tests.e2e.processes import PeerTestCase, Process, accepts, program, run, wait_until
from tests.e2e.signing import SECRET
from tests.e2e.tls import Certificate

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

HTTP = """
    gzip_types *;
    gzip_min_length 1;
    gzip_proxied any;
    upstream hmacfs {{ server 127.0.0.1:{upstream}; keepalive 8; }}
{servers}
"""

SERVER = """
    server {{
        listen 127.0.0.1:{port}{listen};
        {outside}
        location {location} {{
            proxy_pass {to};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            {inside}
        }}
    }}
"""

FORWARDED = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
RIGHT = f"{FORWARDED} client_max_body_size 0; proxy_request_buffering off;"

#: What is wrong: the lines inside the location, and what is different around it.
WRONG: dict[str, dict[str, str]] = {
    "body-size": {"inside": f"{FORWARDED} proxy_request_buffering off;"},
    "request-buffering": {"inside": f"{FORWARDED} client_max_body_size 0;"},
    "methods": {"inside": f"{RIGHT} if ($request_method ~ ^(PATCH|DELETE)$) {{ return 405; }}"},
    "url-encoding": {"inside": RIGHT, "to": "http://hmacfs/upload/"},
    "request-headers": {"inside": f'{RIGHT} proxy_set_header Upload-Offset "";'},
    "response-headers": {"inside": f"{RIGHT} proxy_hide_header Repr-Digest;"},
    "compression": {"inside": f"{RIGHT} gzip on;"},
    "cors-twice": {"inside": f"{RIGHT} add_header Access-Control-Allow-Origin * always;"},
    "cors-missing": {"inside": f"{RIGHT} proxy_hide_header Access-Control-Allow-Origin;"},
    "timeouts": {"inside": f"{RIGHT} proxy_read_timeout 1s;"},
    "client-address-forged": {
        "inside": "client_max_body_size 0; proxy_request_buffering off; proxy_set_header X-Real-IP $remote_addr;"
    },
    "elsewhere": {"inside": RIGHT, "to": "http://hmacfs/other/"},
}


class DoctorTests(PeerTestCase):
    """One hmacfs, and an nginx with a port for each way to be in front of it."""

    needs: ClassVar[tuple[str, ...]] = ("nginx", "openssl")

    def setUp(self) -> None:
        self.daemon = Daemon(self, text=None).started()
        self.ports = {name: self.free_port() for name in ("right", "secure", *WRONG)}
        self.certificate = Certificate.make(self.directory)
        secure = f"ssl_certificate {self.certificate.chain}; ssl_certificate_key {self.certificate.key};"
        servers = [self.server("right", RIGHT), self.server("secure", RIGHT, listen=" ssl", outside=secure)]
        servers += [self.server(name, **lines) for name, lines in WRONG.items()]
        config = self.directory / "nginx.conf"
        http = HTTP.format(upstream=self.daemon.port, servers="".join(servers))
        text = MAIN.format(directory=self.directory, level="crit", http=http)
        config.write_text(text, encoding="utf-8")
        argv = [program("nginx"), "-c", str(config), "-p", str(self.directory), "-e", "stderr"]
        self.started(Process("nginx", argv))
        wait_until(lambda: accepts(self.ports["elsewhere"]), "nginx is listening")

    def server(self, name: str, inside: str, to: str = "http://hmacfs", listen: str = "", outside: str = "") -> str:
        return SERVER.format(
            port=self.ports[name], listen=listen, outside=outside, location="/upload/", to=to, inside=inside
        )

    def examine(
        self, name: str, *options: str, scheme: str = "http", host: str = "127.0.0.1"
    ) -> tuple[int, dict[str, Any]]:
        """Let the doctor look at a port: the status, and what it says."""
        url = f"{scheme}://{host}:{self.ports[name]}/upload"
        argv = [*command("hmacfs"), "doctor", "--json", "--url", url, "-c", str(self.daemon.config), *options]
        finished = run(argv)
        self.assertEqual(finished.stderr, "")
        said: dict[str, Any] = json.loads(finished.text)
        return finished.status, said

    def faults(self, said: dict[str, Any]) -> dict[str, dict[str, str]]:
        return {each["check"]: each for each in said["findings"] if each["verdict"] == "fault"}

    def test_right(self) -> None:
        """Nothing is wrong, all was looked at, and nothing is left over."""
        status, said = self.examine("right")
        self.assertEqual((status, self.faults(said)), (0, {}))
        self.assertEqual(said["proxy"], "nginx")
        verdicts = {each["check"]: each["verdict"] for each in said["findings"]}
        self.assertEqual({check for check, verdict in verdicts.items() if verdict == "skipped"}, {"timeouts"})
        for check in ("resume", "signature-v", "signature-v2", "signature-token", "signature-jwt", "cors", "clock"):
            self.assertEqual(verdicts[check], "fine", check)
        self.assertEqual(self.daemon.files(), [])
        self.assertNotIn(SECRET, json.dumps(said))

    def test_secure(self) -> None:
        """Over TLS with a certificate that is to be trusted; and with one that isn't."""
        trusted = self.examine("secure", "--cacert", str(self.certificate.chain), scheme="https", host="localhost")[1]
        self.assertEqual(self.faults(trusted), {})
        status, said = self.examine("secure", scheme="https", host="localhost")
        self.assertEqual((status, [*self.faults(said)]), (1, ["tls"]))

    def test_wrong(self) -> None:
        """Each mistake is found, and the line that is named is the one to change."""
        names = [name for name in WRONG if name not in ("elsewhere", "timeouts")]
        with ThreadPoolExecutor(4) as pool:
            results = [*pool.map(self.examine, names)]
        for name, (status, said) in zip(names, results, strict=True):
            found = self.faults(said)
            check = "cors" if name.startswith("cors") else name.replace("-forged", "")
            self.assertEqual((name, status), (name, 1))
            self.assertIn(check, found)
            self.assertEqual((found[check]["culprit"], found[check]["cure"]), ("nginx", CURES[name]["nginx"]))

    def test_timeouts(self) -> None:
        """A proxy without patience is found by waiting, if that is wished."""
        found = self.faults(self.examine("timeouts", "--slow")[1])
        self.assertEqual(found["timeouts"]["cure"], CURES["timeouts"]["nginx"])

    def test_elsewhere(self) -> None:
        """A URL that doesn't lead here ends the examination."""
        status, said = self.examine("elsewhere")
        self.assertEqual((status, [*self.faults(said)], said["findings"][-1]["check"]), (1, ["reach"], "reach"))

    def test_another_secret(self) -> None:
        """The secret is another one than hmacfs has: that is said, and not that it can't be reached."""
        other = self.directory / "secret"
        other.write_text("another secret, quite as long\n", encoding="ascii")
        url = f"http://127.0.0.1:{self.ports['right']}/upload/"
        finished = run([*command("hmacfs"), "doctor", "--url", url, "--secret-file", other])
        self.assertEqual(finished.status, 1)
        self.assertIn("another secret than this one", finished.text)
        self.assertNotIn("quite as long", finished.text)

    def test_direct(self) -> None:
        """Without anything in front there is nothing to complain about but what isn't there."""
        url = f"http://127.0.0.1:{self.daemon.port}/upload/"
        finished = run([*command("hmacfs"), "doctor", "--url", url, "-c", self.daemon.config])
        self.assertEqual(finished.status, 0, finished.text)
        self.assertIn("nothing that shows itself", finished.text)

    def test_nobody(self) -> None:
        """Where nobody listens, and where there is no name."""
        for url in (f"http://127.0.0.1:{self.free_port()}/upload/", "http://nobody.invalid/upload/"):
            finished = run([*command("hmacfs"), "doctor", "--url", url, "-c", self.daemon.config])
            self.assertEqual(finished.status, 1)
            self.assertIn("dns:", finished.text)


class UnwellTests(PeerTestCase):
    """What is wrong is the server itself, or this machine's clock."""

    needs: ClassVar[tuple[str, ...]] = ("faketime",)

    def examined(self, daemon: Daemon, *before: str) -> dict[str, dict[str, str]]:
        """The faults that the doctor finds."""
        url = f"http://127.0.0.1:{daemon.port}/upload/"
        argv = [*before, *command("hmacfs"), "doctor", "--json", "--url", url, "-c", str(daemon.config)]
        findings = json.loads(run(argv).text)["findings"]
        return {each["check"]: each for each in findings if each["verdict"] == "fault"}

    def test_storage_and_redis(self) -> None:
        """There is no room, and Redis is away."""
        away = f"127.0.0.1:{self.free_port()}"
        daemon = Daemon(self, text=None, MinFreeSpace="1000TiB", RedisAddr=away).started()
        found = self.examined(daemon)
        self.assertEqual((found["storage"]["culprit"], found["redis"]["culprit"]), ("the disk", "Redis"))
        self.assertIn("MinFreeSpace", found["storage"]["sentence"])

    def test_clock(self) -> None:
        """Ten minutes are too much; that the doctor's own clock is wrong looks the same."""
        daemon = Daemon(self, text=None).started()
        found = self.examined(daemon, program("faketime"), "-f", "+10m")
        self.assertIn("600 seconds", found["clock"]["sentence"])
