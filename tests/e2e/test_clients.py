"""Clients of other people, whose networks break and whose server dies while they upload."""

from __future__ import annotations

import http.client
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.e2e import node
from tests.e2e.curl import curl
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.draft import DraftClient
from tests.e2e.processes import PATIENCE_S, Process, program
from tests.e2e.sharing import ServedTestCase
from tests.e2e.tus import TusClient

if TYPE_CHECKING:
    import h11

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

SIZE = 12_000_000
RATE_BYTES_S = 6_000_000
FAULTS = (
    Fault(cut_after_bytes=1_500_000, reset=True),
    Fault(cut_after_bytes=2_500_000),
    Fault(rate_bytes_s=RATE_BYTES_S),
)
"""A network that breaks twice; then it is slow enough for the server to die in between."""

TUSPY = """
import sys
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

endpoint, path, urls = sys.argv[1:]
uploader = TusClient(endpoint).uploader(
    path, chunk_size=1_000_000, retries=60, retry_delay=0.1, store_url=True, url_storage=FileStorage(urls),
    metadata={"filename": "film.mp4"}, upload_checksum=True,
)
while uploader.offset < uploader.get_file_size():
    uploader.upload_chunk()
    print("at", uploader.offset, flush=True)
print("done", uploader.url)
"""


class ClientsTestCase(ServedTestCase):
    """A file, and a network that breaks.

    :ivar file: with the client's content.
    """

    def setUp(self) -> None:
        super().setUp()
        self.client = TusClient(self.daemon.port, SIZE)
        self.file = self.directory / "film.mp4"
        self.file.write_bytes(self.client.content)

    def through(self, *faults: Fault) -> str:
        """The slot's URL, through a network with such faults."""
        return f"http://127.0.0.1:{CuttingProxy(self, self.daemon.port, *faults).port}{self.client.slot}"

    def kill_at(self, size_bytes: int) -> None:
        """Kill the server when it has that much, and start it again."""
        self.arrived(size_bytes)
        self.daemon.process.kill()
        self.daemon.restart()

    def assert_stored(self) -> None:
        """The file is served as it was sent, and nothing is left over."""
        self.assertTrue(self.client.get().body == self.client.content)
        self.assertEqual(self.daemon.parts(), [])


class TusPyTests(ClientsTestCase):
    """tuspy, in Python."""

    needs: ClassVar[tuple[str, ...]] = ("tuspy",)

    def test_upload(self) -> None:
        """In chunks, each with a checksum."""
        # Its chunks are requests of their own, on connections that it keeps.
        faults = (Fault(cut_after_bytes=2_500_000, reset=True), Fault(rate_bytes_s=RATE_BYTES_S))
        argv = [sys.executable, "-c", TUSPY, self.through(*faults), str(self.file), str(self.directory / "urls")]
        process = self.started(Process("tuspy", argv))
        self.kill_at(SIZE // 2)
        process.wait_for_line("^done ")
        self.assertEqual(process.wait(), 0)
        self.assert_stored()


class TusJsTests(ClientsTestCase):
    """tus-js-client, in Node."""

    needs: ClassVar[tuple[str, ...]] = ("node", "npm")

    def check(self, protocol: str) -> None:
        """Upload in that protocol; what was sent once and has arrived is not sent again."""
        modules = node.installed()
        script, urls = node.SCRIPTS / "tus.cjs", self.directory / "urls.json"
        argv = [program("node"), str(script), self.through(*FAULTS), str(self.file), protocol, str(urls)]
        process = self.started(Process("tus-js-client", argv, env={"NODE_PATH": str(modules)}))
        self.kill_at(SIZE // 2)
        process.wait_for_line("^done ")
        self.assertEqual(process.wait(), 0)
        offsets = [int(offset) for offset in re.findall(r"^PATCH (\d+) 20", process.output, re.MULTILINE)]
        self.assertGreater(max(offsets), 0)
        self.assert_stored()

    def test_tus(self) -> None:
        """tus 1.0.0."""
        self.check("tus-v1")

    def test_draft_03(self) -> None:
        """The IETF's draft, interop version 5."""
        self.check("ietf-draft-03")

    def test_draft_05(self) -> None:
        """The IETF's draft, interop version 6."""
        self.check("ietf-draft-05")


class CurlTests(ClientsTestCase):
    """curl, and a shell's patience."""

    needs: ClassVar[tuple[str, ...]] = ("curl",)

    def test_tus(self) -> None:
        """A tus upload by hand."""
        version = ("-H", "Tus-Resumable: 1.0.0")
        post = curl("-X", "POST", *version, "-H", f"Upload-Length: {SIZE}", self.daemon.url(self.client.slot))
        location = post.header("Location") or ""
        self.client.upload = location
        url = self.daemon.url(location)
        broken = f"http://127.0.0.1:{CuttingProxy(self, self.daemon.port, FAULTS[0]).port}{location}"
        self.assertNotEqual(curl(*self.sending(0), broken).exit_status, 0)
        offset = curl("-I", *version, url).header("Upload-Offset") or ""
        self.daemon.process.kill()
        self.daemon.restart()
        self.assertEqual(curl("-I", *version, url).header("Upload-Offset"), offset)
        done = curl(*self.sending(int(offset)), url)
        self.assertEqual((done.status, done.header("Upload-Offset")), (204, str(SIZE)))
        self.assert_stored()

    def sending(self, offset: int) -> list[str | Path]:
        """curl's arguments for all that comes from there on."""
        rest = self.directory / "rest"
        rest.write_bytes(self.client.content[offset:])
        headers = ("Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream", f"Upload-Offset: {offset}")
        return ["-X", "PATCH", "-T", rest, *(word for header in headers for word in ("-H", header))]

    def test_interim(self) -> None:
        """It passes over a 104 that it asked for."""
        headers = [
            word for header in ("Upload-Complete: ?1", "Upload-Draft-Interop-Version: 8") for word in ("-H", header)
        ]
        put = curl("-T", self.file, *headers, self.daemon.url(self.client.slot))
        self.assertEqual((put.status, put.header("Upload-Complete")), (201, "?1"))
        self.assertIn("HTTP/1.1 104 ", put.head)
        self.assert_stored()


class H11Tests(ClientsTestCase):
    """What a client of the draft has to do, on h11: learn the upload's URL from the 104."""

    needs: ClassVar[tuple[str, ...]] = ("h11",)

    def setUp(self) -> None:
        super().setUp()
        self.draft = DraftClient(self.daemon.port, self.client.content, 8, self.client.path)

    def upload(self, port: int) -> Iterator[h11.InformationalResponse | h11.Response]:
        """PUT the whole file; what comes back, as it comes. Ends when the connection does."""
        headers = {
            "Host": "localhost",
            "Content-Length": str(SIZE),
            "Upload-Complete": "?1",
            "Upload-Draft-Interop-Version": "8",
        }
        import h11

        protocol = h11.Connection(h11.CLIENT)
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            try:
                head = h11.Request(method="PUT", target=self.draft.slot, headers=list(headers.items()))
                connection.sendall(protocol.send(head) or b"")
                yield self.event(protocol, connection)
                connection.sendall(protocol.send(h11.Data(data=self.client.content)) or b"")
                while True:
                    yield self.event(protocol, connection)
            except (OSError, h11.RemoteProtocolError):
                return

    def event(self, protocol: h11.Connection, connection: socket.socket) -> h11.InformationalResponse | h11.Response:
        """The next response, interim or final.

        :raises ConnectionError: there is none any more.
        """
        import h11

        while (event := protocol.next_event()) is h11.NEED_DATA:
            protocol.receive_data(connection.recv(1 << 16))
        if not isinstance(event, (h11.InformationalResponse, h11.Response)):
            raise ConnectionError
        return event

    def test_upload(self) -> None:
        """Cut, and the server killed."""
        first, *_ = self.upload(CuttingProxy(self, self.daemon.port, FAULTS[0]).port)
        self.assertEqual(first.status_code, 104)
        self.draft.upload = dict(first.headers)[b"location"].decode()
        offset = self.draft.offset()
        self.assertLess(offset, 1_500_000)
        with self.draft.begin(offset, SIZE // 2):
            self.kill_at(SIZE // 2)
        before, offset = offset, self.draft.offset()
        self.assertTrue(before <= offset <= SIZE // 2)
        self.assertEqual(self.draft.rest(offset).status, 201)
        self.assert_stored()

    def test_nothing_breaks(self) -> None:
        """The 104 with the URL, at most two with the progress, and the end."""
        statuses = [response.status_code for response in self.upload(self.daemon.port)]
        self.assertEqual((statuses[0], statuses[-1]), (104, 201))
        self.assertLessEqual(len(statuses), 4)
        self.assert_stored()


class InnocentTests(ClientsTestCase):
    """Clients that would take a 104 for the end: Python's own. They don't ask for one, and get none."""

    def test_http_client(self) -> None:
        """Its first answer is the final one, also with a header of the draft's."""
        for headers in ({}, {"Upload-Complete": "?1"}):
            connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=PATIENCE_S)
            connection.request("PUT", self.client.slot, self.client.content, headers)
            self.assertEqual(connection.getresponse().status, 201)
            connection.close()
        self.assert_stored()

    def test_urllib(self) -> None:
        """The same."""
        url = self.daemon.url(self.client.slot)
        request = urllib.request.Request(url, self.client.content, {"Content-Type": "video/mp4"}, method="PUT")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=PATIENCE_S) as answer:
            self.assertEqual(answer.status, 201)
        self.assert_stored()
