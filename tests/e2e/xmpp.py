"""What an XMPP client does with the upload services of its server: slixmpp, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.e2e.processes import GaveUp, run

PASSWORD = "pw"
USER = "alice@localhost"


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


class Client:
    """:data:`USER`, on a server at a port of the loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def slot(self, component: str, filename: str, size_bytes: int, content_type: str | None = None) -> SlotReply:
        """Request a slot.

        :param content_type: ``None`` leaves the attribute out.
        :raises RequestFailed: the server refuses.
        """
        return self.slots(component, [(filename, size_bytes, content_type)])[0]

    def slots(self, component: str, requests: list[tuple[str, int, str | None]]) -> list[SlotReply]:
        """The same for several files, in one session."""
        replies = self._ask({"do": "slots", "component": component, "requests": requests})
        return [SlotReply(reply["put"], reply["get"], reply["headers"]) for reply in replies]

    def upload(self, component: str, files: list[tuple[Path, str | None]]) -> list[str]:
        """Find the component, request a slot for each file and upload it; the GET URLs.

        :raises RequestFailed: the upload was refused, by the XMPP server or by the upload server.
        """
        named = [(str(path), content_type) for path, content_type in files]
        urls: list[str] = self._ask({"do": "upload", "component": component, "files": named})
        return urls

    def _ask(self, task: dict[str, object]) -> Any:
        order = {"jid": USER, "password": PASSWORD, "port": self.port, **task}
        argv = [sys.executable, "-m", "tests.e2e.xmpp_client"]
        finished = run(argv, stdin=json.dumps(order).encode(), env={"PYTHONPATH": os.pathsep.join(sys.path)})
        if finished.status != 0:
            raise GaveUp(f"the XMPP client ended with {finished.status}: {finished.stderr}")
        outcome = json.loads(finished.stdout)
        if "error" in outcome:
            raise RequestFailed(outcome["error"])
        return outcome["result"]
