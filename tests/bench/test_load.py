"""The loads against servers that answer: wrk with our script, and our own client."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from bench import load, wrk
from bench.slots import Slot
from bench.wrk import Asking, LoadFailed
from tests.e2e.processes import PeerTestCase


class _Handler(BaseHTTPRequestHandler):
    """Takes what is put, and gives a kilobyte."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/there" else 404, b"x" * 1024)

    def do_PUT(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to read it."""


class LoadTestCase(PeerTestCase):
    """With a server on loopback."""

    def setUp(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str | None]] = []
        self.server.seen = self.seen  # type: ignore[attr-defined]
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.port = self.server.server_address[1]
        self.source = self.directory / "source"
        self.source.write_bytes(b"x" * 5000)


class WrkTests(LoadTestCase):
    """wrk with wrk.lua."""

    needs: ClassVar[tuple[str, ...]] = ("wrk",)

    def test_get(self) -> None:
        """Downloads as many as it can."""
        outcome = wrk.finish(Asking(self.port, "GET", "/there", 1024, 2, 1).start(self.directory))
        self.assertGreater(outcome.requests, 0)
        self.assertGreater(outcome.p99_s, 0)

    def test_put(self) -> None:
        """Every slot is used once, with its header; the clock stops with the last of them."""
        slots = [Slot(f"/{number}", f"Authorization: Bearer {number}") for number in range(10)]
        outcome = wrk.finish(Asking(self.port, "PUT", "/", 1024, 1, 1).start(self.directory, slots))
        wanted = {(slot.target, slot.header.removeprefix("Authorization: ")) for slot in slots}
        self.assertLessEqual(set(self.seen), wanted)
        self.assertEqual(len(self.seen), len(set(self.seen)))
        self.assertGreater(outcome.requests, 0)

    def test_refused(self) -> None:
        """A server that refuses isn't measured."""
        running = Asking(self.port, "GET", "/away", 1024, 1, 1).start(self.directory)
        self.assertRaises(LoadFailed, wrk.finish, running)


class OwnTests(LoadTestCase):
    """Our own client, for files that wrk isn't made for."""

    def test_put(self) -> None:
        """Every slot is used once, over all connections."""
        slots = [Slot(f"/{number}") for number in range(6)]
        self.assertGreater(load.run(self.port, "PUT", slots, self.source, 2), 0)
        self.assertEqual(sorted(path for path, _ in self.seen), [slot.target for slot in slots])

    def test_get(self) -> None:
        """Whole answers, one after the other on one connection."""
        self.assertGreater(load.run(self.port, "GET", [Slot("/there")] * 3, self.source, 1), 0)

    def test_refused(self) -> None:
        """What it was answered is said."""
        failed = self.assertRaises(LoadFailed, load.run, self.port, "GET", [Slot("/away")], self.source, 1)
        self.assertIn("404", str(failed))
