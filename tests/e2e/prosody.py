"""Prosody with three upload components, one for each way it signs slots, and slixmpp as its client."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, program, run, wait_until
from tests.e2e.signing import SECRET

PASSWORD = "pw"
USER = "alice@localhost"
V1, V2, SHARE = "v1.localhost", "v2.localhost", "share.localhost"
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
http_ports = {{}}
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
"""


@frozen
class SlotReply:
    """What the XMPP server answered to a slot request (XEP-0363 section 4).

    :ivar put: the URL to upload to.
    :ivar get: the URL of the file.
    :ivar headers: what the client must send with the PUT.
    """

    put: str
    get: str
    headers: dict[str, str]


class RequestFailed(Exception):
    """The client could not do what the test asked for: the error in its own words."""


class Prosody:
    """A Prosody on loopback with the user ``alice@localhost``.

    :param case: the test; it ends Prosody.
    :param base_url: of the upload server, ends in a slash.
    :param secret: as Prosody has it.
    """

    def __init__(self, case: PeerTestCase, base_url: str, secret: str = SECRET) -> None:
        self._port = case.free_port()
        directory = case.directory / f"prosody-{self._port}"
        (directory / "data").mkdir(parents=True)
        config = directory / "prosody.cfg.lua"
        config.write_text(
            CONFIG.format(
                directory=directory,
                port=self._port,
                base_url=base_url,
                secret=secret,
                limit=SIZE_LIMIT_BYTES,
                v1=V1,
                v2=V2,
                share=SHARE,
            ),
            encoding="utf-8",
        )
        user, host = USER.split("@")
        registered = run([program("prosodyctl"), "--config", config, "register", user, host, PASSWORD])
        if registered.status != 0:
            raise GaveUp(f"prosodyctl register: {registered.text} {registered.stderr}")
        self._process = case.started(Process("prosody", [program("prosody"), "--config", str(config), "-F"]))
        wait_until(lambda: self._process.running and accepts(self._port), "Prosody is listening")

    def slot(self, component: str, filename: str, size_bytes: int, content_type: str | None = None) -> SlotReply:
        """Have the client request a slot.

        :param component: one of :data:`V1`, :data:`V2`, :data:`SHARE`.
        :param content_type: ``None`` leaves the attribute out.
        :raises RequestFailed: Prosody refuses.
        """
        return self.slots(component, [(filename, size_bytes, content_type)])[0]

    def slots(self, component: str, requests: list[tuple[str, int, str | None]]) -> list[SlotReply]:
        """The same for several files, in one session."""
        replies = self._client({"do": "slots", "component": component, "requests": requests})
        return [SlotReply(reply["put"], reply["get"], reply["headers"]) for reply in replies]

    def upload(self, component: str, files: list[tuple[Path, str | None]]) -> list[str]:
        """Have slixmpp find the component, request a slot for each file and upload it, and return the GET URLs.

        :raises RequestFailed: the upload was refused, by Prosody or by the upload server.
        """
        named = [(str(path), content_type) for path, content_type in files]
        urls: list[str] = self._client({"do": "upload", "component": component, "files": named})
        return urls

    def _client(self, task: dict[str, object]) -> Any:
        order = {"jid": USER, "password": PASSWORD, "port": self._port, **task}
        argv = [sys.executable, "-m", "tests.e2e.xmpp_client"]
        finished = run(argv, stdin=json.dumps(order).encode(), env={"PYTHONPATH": os.pathsep.join(sys.path)})
        if finished.status != 0:
            raise GaveUp(f"the XMPP client ended with {finished.status}: {finished.stderr}")
        outcome = json.loads(finished.stdout)
        if "error" in outcome:
            raise RequestFailed(outcome["error"])
        return outcome["result"]
