"""What an operator would run instead of hmacfs, or before it: nginx, Prosody and ejabberd as Debian has them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from bench import slots
from bench.servers import CannotMeasure, Server, free_port, own_directory
from bench.slots import SECRET, Slot
from tests.e2e.ejabberd import INTERNAL, libraries
from tests.e2e.xmpp import PASSWORD, USER, Client
from tests.peers import which

_SIZE_LIMIT_BYTES = 4 << 30

_NGINX = """
daemon off;
user root;
worker_processes 2;
worker_rlimit_nofile 20000;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush off;
    keepalive_requests 100000000;
    keepalive_timeout 600;
    client_max_body_size 0;
    client_body_temp_path {files};
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        root {files};
        location / {{ dav_methods PUT; }}
    }}
}}
"""

_PROSODY = """
daemonize = false
run_as_root = true
pidfile = "{directory}/prosody.pid"
data_path = "{files}"
log = {{ {{ levels = {{ min = "warn" }}, to = "console" }} }}
modules_enabled = {{ "disco", "posix" }}
modules_disabled = {{ "s2s", "c2s", "tls", "offline" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{}}
s2s_ports = {{}}
http_interfaces = {{ "127.0.0.1" }}
http_ports = {{ {port} }}
https_ports = {{}}
limits = {{}}
VirtualHost "localhost"
Component "upload.localhost" "http_file_share"
  http_host = "127.0.0.1"
  http_external_url = "http://127.0.0.1:{port}/"
  http_file_share_secret = "{secret}"
  http_file_share_size_limit = {limit}
"""


def nginx(root: Path, name: str = "nginx") -> Server:
    """nginx with two workers: ``dav_methods PUT``, and sendfile for GETs. It asks nobody, hashes nothing, syncs nothing.

    Bodies go to a file in the directory that they end in, so that publishing one is a rename.
    """
    program = _program("nginx")
    directory = own_directory(root, name)
    files = directory / "files"
    files.mkdir()
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, files=files, port=port), encoding="utf-8")
    argv = [program, "-c", str(config), "-p", str(directory), "-e", "stderr"]
    return Server(name, port, argv, directory, files, slots.unsigned)


def prosody(root: Path, name: str = "Prosody") -> Server:
    """Prosody's mod_http_file_share. The slots are made as Prosody would make them: the secret is known."""
    program = _program("prosody")
    directory = own_directory(root, name)
    files = directory / "data"
    files.mkdir()
    port = free_port()
    config = directory / "prosody.cfg.lua"
    text = _PROSODY.format(directory=directory, files=files, port=port, secret=SECRET, limit=_SIZE_LIMIT_BYTES)
    config.write_text(text, encoding="utf-8")
    share = files / "upload%2elocalhost" / "http_file_share"
    return Server(name, port, [program, "--config", str(config), "-F"], directory, share, slots.bearer)


def ejabberd(root: Path, name: str = "ejabberd") -> Server:
    """ejabberd's mod_http_upload, without the programs that make ejabberd a cluster."""
    program, code = _program("erl"), libraries()
    if code is None:
        raise CannotMeasure("ejabberd is not installed")
    directory = own_directory(root, name)
    port, xmpp_port = free_port(), free_port()
    files = directory / "files"
    config = directory / "ejabberd.yml"
    # JSON is YAML.
    config.write_text(json.dumps(_ejabberd(port, xmpp_port, files)), encoding="utf-8")
    user, host = USER.split("@")
    start = (
        "{ok, _} = application:ensure_all_started(ejabberd), "
        f'ok = ejabberd_auth:try_register(<<"{user}">>, <<"{host}">>, <<"{PASSWORD}">>).'
    )
    environment = {
        "EJABBERD_CONFIG_PATH": str(config),
        "EJABBERD_LOG_PATH": str(directory / "ejabberd.log"),
        "ERL_LIBS": str(code),
        "ERL_CRASH_DUMP": "/dev/null",
        "HOME": str(directory),
    }
    argv = [program, "-noinput", "+K", "true", "-mnesia", "dir", f'"{directory}/db"', "-eval", start]
    return _Ejabberd(name, port, argv, directory, files, environment, xmpp_port)


class _Ejabberd(Server):
    """Its slots are to be had by XMPP alone.

    :param xmpp_port: where its users log in.
    """

    #: As many slots are asked for at a time, at most: it takes a millisecond or two for each.
    _MOST_SLOTS = 500

    def __init__(
        self,
        name: str,
        port: int,
        argv: list[str],
        directory: Path,
        files: Path,
        environment: dict[str, str],
        xmpp_port: int,
    ) -> None:
        super().__init__(name, port, argv, directory, files, environment=environment)
        self._client = Client(xmpp_port)

    def slots(self, count: int, size: int) -> list[Slot]:
        wanted = [("file.bin", size, None)] * min(count, self._MOST_SLOTS)
        return [Slot(urlsplit(reply.put).path, "") for reply in self._client.slots(INTERNAL, [*wanted])]


def _ejabberd(port: int, xmpp_port: int, files: Path) -> dict[str, object]:
    url = f"http://127.0.0.1:{port}/upload"
    loopback = {"ip": "127.0.0.1"}
    handlers = {"/upload": "mod_http_upload"}
    upload = {
        "access": "all",
        "docroot": str(files),
        "get_url": url,
        "host": INTERNAL,
        "max_size": _SIZE_LIMIT_BYTES,
        "put_url": url,
    }
    return {
        "loglevel": "warning",
        "hosts": ["localhost"],
        "auth_method": "internal",
        "listen": [
            {**loopback, "port": xmpp_port, "module": "ejabberd_c2s", "starttls": False, "access": "all"},
            {**loopback, "port": port, "module": "ejabberd_http", "request_handlers": handlers},
        ],
        "modules": {"mod_disco": {}, "mod_http_upload": upload},
    }


def _program(name: str) -> str:
    path = which(name)
    if path is None:
        raise CannotMeasure(f"{name} is not installed")
    return path
