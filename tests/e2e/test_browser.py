"""Web clients: pages of another origin, in a real browser."""

from __future__ import annotations

from typing import ClassVar

from tests.e2e import node
from tests.e2e.browser import Page
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.resuming import TOKEN
from tests.e2e.sharing import ServedTestCase
from tests.e2e.tus import TusClient

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

SIZE = 12_000_000
HTML = b'<!DOCTYPE html><meta charset="utf-8"><title>upload</title><script src="/page.js"></script>'


class BrowserTests(ServedTestCase):
    """The page and hmacfs have different ports: to a browser these are different origins."""

    needs: ClassVar[tuple[str, ...]] = ("chromium", "node", "npm")

    def setUp(self) -> None:
        super().setUp()
        self.client = TusClient(self.daemon.port, SIZE)

    def open(self, by: str, port: int) -> Page:
        """Have a page upload the client's file."""
        script = self.directory / "page.js"
        node.bundle("page.js", script)
        contents = {"/": HTML, "/page.js": script.read_bytes(), "/film.mp4": self.client.content}
        return Page(self, contents, {"by": by, "to": f"http://127.0.0.1:{port}{self.client.slot}", "token": TOKEN})

    def assert_stored(self) -> None:
        """The file is served as it was sent."""
        self.assertTrue(self.client.get().body == self.client.content)

    def test_uppy(self) -> None:
        """tus by Uppy: its connection is cut, its server is killed; it goes on, to 100 %."""
        # The first connection is the preflight's, and the creation's.
        faults = (Fault(cut_after_bytes=3_000_000, reset=True), Fault(rate_bytes_s=6_000_000))
        page = self.open("uppy", CuttingProxy(self, self.daemon.port, *faults, *faults).port)
        self.arrived(SIZE // 2)
        self.daemon.process.kill()
        self.daemon.restart()
        page.said("done ")
        page.said("progress 100 %")
        self.assert_stored()
        self.daemon.process.wait_for_line(r"PATCH .* 204 .*resumed-at=[1-9]")

    def test_fetch(self) -> None:
        """PUT by ``fetch``, as a web client of XMPP does it: it may send a session token, and read the answer."""
        answer = self.open("fetch", self.daemon.port).said("done ").split()
        self.assertEqual(answer[1:4], ["201", TOKEN, str(SIZE)])
        self.assertRegex(answer[4], '^".+"$')
        self.assert_stored()
