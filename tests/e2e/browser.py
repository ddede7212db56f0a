"""A browser: headless Chromium, with a page on an origin of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

from attrs import field, frozen

from tests.e2e.processes import GaveUp, PeerTestCase, Process, program, wait_until

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


@frozen
class Origin:
    """Serves a page and what belongs to it, and hears what the page reports with ``POST /report``.

    :param contents: by path; ``/`` is the page.
    :ivar reports: in order.
    """

    contents: Mapping[str, bytes]
    reports: list[str] = field(factory=list)

    def served(self, case: PeerTestCase) -> int:
        """Start it.

        :return: its port on 127.0.0.1.
        """
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = origin.contents.get(self.path.partition("?")[0])
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Type", "text/html" if self.path.startswith("/?") else "text/javascript")
                self.end_headers()
                self.wfile.write(content or b"")

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                origin.reports.append(self.rfile.read(length).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, name="origin", daemon=True).start()
        case.addCleanup(server.server_close)
        case.addCleanup(server.shutdown)
        return server.server_port


class Page:
    """A page in a browser.

    :param case: the test; it ends the browser.
    :param contents: as of :class:`Origin`.
    :param query: of its URL.
    """

    def __init__(self, case: PeerTestCase, contents: Mapping[str, bytes], query: Mapping[str, str]) -> None:
        self._origin = Origin(contents)
        url = f"http://127.0.0.1:{self._origin.served(case)}/?{urlencode(query)}"
        profile = case.directory / "profile"
        argv = [program("chromium"), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
        self._process = case.started(Process("chromium", argv))
        case.addCleanup(self._process.kill)

    @property
    def reports(self) -> list[str]:
        """What the page has said so far."""
        return [*self._origin.reports]

    def said(self, beginning: str) -> str:
        """Wait until the page says something.

        :raises GaveUp: it failed instead.
        """

        def find() -> str | None:
            failed = [line for line in self.reports if line.startswith("failed")]
            if failed or not self._process.running:
                raise GaveUp(f"the page says {self.reports}")
            return next((line for line in self.reports if line.startswith(beginning)), None)

        return wait_until(find, f"the page says {beginning!r}") or ""
