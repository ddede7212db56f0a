"""Prosody with upload components, one for each way it signs slots, and one that keeps the files itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.e2e.contrib import adapted
from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, program, run, wait_until
from tests.e2e.signing import SECRET
from tests.e2e.tls import Certificate
from tests.e2e.xmpp import PASSWORD, USER, Client, RequestFailed, SlotReply

__all__ = ["INTERNAL", "SHARE", "SIZE_LIMIT_BYTES", "V1", "V2", "Prosody", "RequestFailed", "SlotReply"]

V1, V2, SHARE, INTERNAL = "v1.localhost", "v2.localhost", "share.localhost", "internal.localhost"
SIZE_LIMIT_BYTES = 100 << 20

CONFIG = """
daemonize = false
run_as_root = true
pidfile = "{directory}/prosody.pid"
data_path = "{directory}/data"
log = {{ {{ levels = {{ min = "info" }}, to = "console" }} }}
modules_enabled = {{ "roster", "saslauth", "disco", "posix", {enabled} }}
modules_disabled = {{ "s2s", "offline" }}
{encryption}
authentication = "internal_plain"
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
s2s_ports = {{}}
http_interfaces = {{ "127.0.0.1" }}
http_ports = {{ {http_port} }}
https_ports = {{}}
VirtualHost "localhost"
"""


def _of_contrib(module: str, host: str) -> str:
    """The component as operators get it, with names for what is different here."""
    return adapted(
        f"prosody/{module}.cfg.lua",
        ('"upload.example.org"', f'"{host}"'),
        ("https://upload.example.org/upload/", "{base_url}"),
        ("the same secret", "{secret}"),
        ("1024*1024*1024", "{limit}"),
    )


COMPONENTS = {
    V1: """
Component "v1.localhost" "http_upload_external"
  http_upload_external_base_url = "{base_url}"
  http_upload_external_secret = "{secret}"
  http_upload_external_file_size_limit = {limit}
""",
    V2: _of_contrib("http_upload_external", V2),
    SHARE: _of_contrib("http_file_share", SHARE),
    INTERNAL: """
Component "internal.localhost" "http_file_share"
  http_host = "127.0.0.1"
  http_external_url = "http://127.0.0.1:{http_port}/"
  http_file_share_size_limit = {limit}
""",
}

PLAIN = """
allow_unencrypted_plain_auth = true
c2s_require_encryption = false
"""

ENCRYPTED = """
c2s_require_encryption = true
ssl = {{ certificate = "{certificate.chain}"; key = "{certificate.key}" }}
"""


class Prosody(Client):
    """A Prosody on loopback with the user ``alice@localhost``.

    :param case: the test; it ends Prosody.
    :param base_url: of the upload server, ends in a slash.
    :param secret: as Prosody has it.
    :param components: those it has. A client that doesn't choose takes the only one.
    :param certificate: it talks to its clients over TLS alone, with STARTTLS; without one, not at all.
    :ivar data: its data directory.
    """

    def __init__(
        self,
        case: PeerTestCase,
        base_url: str,
        secret: str = SECRET,
        components: Sequence[str] = tuple(COMPONENTS),
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(case.free_port())
        directory = case.directory / f"prosody-{self.port}"
        self.data: Path = directory / "data"
        self.data.mkdir(parents=True)
        config = directory / "prosody.cfg.lua"
        template = CONFIG + "".join(COMPONENTS[name] for name in components)
        config.write_text(
            template.format(
                directory=directory,
                port=self.port,
                http_port=case.free_port(),
                base_url=base_url,
                secret=secret,
                limit=SIZE_LIMIT_BYTES,
                enabled='"tls"' if certificate else "",
                encryption=ENCRYPTED.format(certificate=certificate) if certificate else PLAIN,
            ),
            encoding="utf-8",
        )
        user, host = USER.split("@")
        registered = run([program("prosodyctl"), "--config", config, "register", user, host, PASSWORD])
        if registered.status != 0:
            raise GaveUp(f"prosodyctl register: {registered.text} {registered.stderr}")
        process = case.started(Process("prosody", [program("prosody"), "--config", str(config), "-F"]))
        wait_until(lambda: process.running and accepts(self.port), "Prosody is listening")
