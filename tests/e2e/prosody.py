"""Prosody with upload components, one for each way it signs slots, and one that keeps the files itself."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, program, run, wait_until
from tests.e2e.signing import SECRET
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
modules_enabled = {{ "roster", "saslauth", "disco", "posix" }}
modules_disabled = {{ "s2s", "tls", "offline" }}
allow_unencrypted_plain_auth = true
c2s_require_encryption = false
authentication = "internal_plain"
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
s2s_ports = {{}}
http_interfaces = {{ "127.0.0.1" }}
http_ports = {{ {http_port} }}
https_ports = {{}}
VirtualHost "localhost"
Component "{v1}" "http_upload_external"
  http_upload_external_base_url = "{base_url}"
  http_upload_external_secret = "{secret}"
  http_upload_external_file_size_limit = {limit}
Component "{v2}" "http_upload_external"
  http_upload_external_base_url = "{base_url}"
  http_upload_external_secret = "{secret}"
  http_upload_external_file_size_limit = {limit}
  http_upload_external_protocol = "v2"
Component "{share}" "http_file_share"
  http_file_share_base_url = "{base_url}"
  http_file_share_secret = "{secret}"
  http_file_share_size_limit = {limit}
Component "{internal}" "http_file_share"
  http_host = "127.0.0.1"
  http_external_url = "http://127.0.0.1:{http_port}/"
  http_file_share_size_limit = {limit}
"""


class Prosody(Client):
    """A Prosody on loopback with the user ``alice@localhost``.

    :param case: the test; it ends Prosody.
    :param base_url: of the upload server, ends in a slash.
    :param secret: as Prosody has it.
    :ivar data: its data directory.
    """

    def __init__(self, case: PeerTestCase, base_url: str, secret: str = SECRET) -> None:
        super().__init__(case.free_port())
        directory = case.directory / f"prosody-{self.port}"
        self.data: Path = directory / "data"
        self.data.mkdir(parents=True)
        config = directory / "prosody.cfg.lua"
        config.write_text(
            CONFIG.format(
                directory=directory,
                port=self.port,
                http_port=case.free_port(),
                base_url=base_url,
                secret=secret,
                limit=SIZE_LIMIT_BYTES,
                v1=V1,
                v2=V2,
                share=SHARE,
                internal=INTERNAL,
            ),
            encoding="utf-8",
        )
        user, host = USER.split("@")
        registered = run([program("prosodyctl"), "--config", config, "register", user, host, PASSWORD])
        if registered.status != 0:
            raise GaveUp(f"prosodyctl register: {registered.text} {registered.stderr}")
        process = case.started(Process("prosody", [program("prosody"), "--config", str(config), "-F"]))
        wait_until(lambda: process.running and accepts(self.port), "Prosody is listening")
