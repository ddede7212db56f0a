"""The proxies that Debian has, each with its file of contrib/ in front of hmacfs, over TLS on loopback."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tests.e2e.contrib import adapted
from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, program, wait_until
from tests.e2e.tls import Certificate
from tests.e2e.wire import Secure

UPSTREAM = "127.0.0.1:8080"
CERTIFICATE = "/etc/ssl/upload.example.org/fullchain.pem"
KEY = "/etc/ssl/upload.example.org/privkey.pem"


class Proxy(ABC):
    """A running proxy.

    :param case: looks after it.
    :param upstream: where hmacfs is, as the proxy's file has it.

    :cvar name: as ``hmacfs doctor`` has it.
    :cvar peer: its name in :data:`tests.peers.PEERS`.
    :ivar address: where it listens.
    :ivar process: the proxy.
    """

    name: ClassVar[str]
    peer: ClassVar[str]

    def __init__(self, case: PeerTestCase, upstream: str) -> None:
        self.upstream = upstream
        self.port = case.free_port()
        self.directory = case.directory / f"{self.peer}-{self.port}"
        self.directory.mkdir()
        # The workers of some are another user.
        case.directory.chmod(0o755)
        self.certificate = Certificate.make(self.directory)
        self.address = Secure(self.port, self.certificate.chain)
        config = self.directory / "config"
        config.write_text(self.config(), encoding="utf-8")
        self.process = case.started(Process(self.peer, self.argv(config), env={"HOME": str(self.directory)}))
        wait_until(self._listens, f"{self.name} is listening")

    def _listens(self) -> bool:
        if not self.process.running:
            raise GaveUp(f"{self.name} has ended:\n{self.process.output}")
        return accepts(self.port)

    @property
    def base(self) -> str:
        """Its URL."""
        return f"https://127.0.0.1:{self.port}"

    @abstractmethod
    def config(self) -> str:
        """All of its configuration."""

    @abstractmethod
    def argv(self, config: Path) -> list[str]:
        """How it is started."""


class Nginx(Proxy):
    """Compresses text for everything else that it serves."""

    name = "nginx"
    peer = "nginx"

    def config(self) -> str:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "\n".join(f"{kind}_temp_path {self.directory}/{kind};" for kind in kinds)
        server = adapted(
            "nginx/hmacfs.conf",
            (UPSTREAM, self.upstream),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("    listen [::]:443 ssl http2;\n", ""),
            (CERTIFICATE, str(self.certificate.chain)),
            (KEY, str(self.certificate.key)),
        )
        # Without root there is no other user, and the line is ignored.
        return f"""
daemon off;
user root;
worker_processes 1;
pid {self.directory}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
access_log off;
gzip on;
gzip_types *;
{temporary}
{server}
}}
"""

    def argv(self, config: Path) -> list[str]:
        return [program("nginx"), "-c", str(config), "-p", str(self.directory), "-e", "stderr"]


class Apache(Proxy):
    """As Debian ships it: with mod_reqtimeout, and with mod_deflate for text."""

    name = "Apache"
    peer = "apache"

    MODULES = Path("/usr/lib/apache2/modules")
    LOADED = (
        "mpm_event",
        "authz_core",
        "filter",
        "deflate",
        "env",
        "proxy",
        "proxy_http",
        "reqtimeout",
        "ssl",
        "http2",
    )

    def config(self) -> str:
        modules = "\n".join(f"LoadModule {name}_module {self.MODULES}/mod_{name}.so" for name in self.LOADED)
        host = adapted(
            "apache/hmacfs.conf",
            (UPSTREAM, self.upstream),
            ("*:443", f"127.0.0.1:{self.port}"),
            (CERTIFICATE, str(self.certificate.chain)),
            (KEY, str(self.certificate.key)),
        )
        return f"""
ServerRoot {self.directory}
DefaultRuntimeDir {self.directory}
PidFile {self.directory}/pid
ServerName localhost
Listen 127.0.0.1:{self.port}
ErrorLog /dev/stderr
LogLevel warn
{modules}
{"User www-data" if os.geteuid() == 0 else ""}
{"Group www-data" if os.geteuid() == 0 else ""}
Timeout 300
AddOutputFilterByType DEFLATE text/html text/plain
RequestReadTimeout header=20-40,minrate=500
RequestReadTimeout body=10,minrate=500
{host}
"""

    def argv(self, config: Path) -> list[str]:
        return [program("apache2"), "-f", str(config), "-D", "FOREGROUND"]


class HAProxy(Proxy):
    """Has certificate and key in one file."""

    name = "HAProxy"
    peer = "haproxy"

    def config(self) -> str:
        together = self.directory / "both.pem"
        together.write_bytes(self.certificate.chain.read_bytes() + self.certificate.key.read_bytes())
        return adapted(
            "haproxy/hmacfs.cfg",
            (UPSTREAM, self.upstream),
            ("bind :443 ", f"bind 127.0.0.1:{self.port} "),
            ("/etc/haproxy/upload.example.org.pem", str(together)),
        )

    def argv(self, config: Path) -> list[str]:
        return [program("haproxy"), "-db", "-f", str(config)]


class Caddy(Proxy):
    """Must be given a certificate here, and told to fetch none."""

    name = "Caddy"
    peer = "caddy"

    def config(self) -> str:
        certificate = f"\ttls {self.certificate.chain} {self.certificate.key}\n"
        sites = f"https://localhost:{self.port}, https://127.0.0.1:{self.port} {{\n\tbind 127.0.0.1\n{certificate}"
        # No HTTP/3: the UDP port of the same number is what keeps ours ours.
        options = "{\n\tadmin off\n\tauto_https off\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n"
        return options + adapted("caddy/Caddyfile", (UPSTREAM, self.upstream), ("upload.example.org {\n", sites))

    def argv(self, config: Path) -> list[str]:
        return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
