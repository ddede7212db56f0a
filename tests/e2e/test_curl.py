"""One file's life with curl, over every kind of endpoint, and what happens when the network breaks."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import ClassVar

from tests.e2e import signing
from tests.e2e.curl import curl
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.daemon import Daemon
from tests.e2e.processes import PeerTestCase, accepts, program, run, wait_until
from tests.e2e.wire import Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

PATH = "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/photo.jpg"


class CurlTestCase(PeerTestCase):
    """Tests that upload files of their own with curl."""

    needs: ClassVar[tuple[str, ...]] = ("curl",)

    def file(self, size_bytes: int = 100_000, name: str = "photo.jpg") -> Path:
        """A file whose bytes are not to be guessed."""
        path = self.directory / name
        path.write_bytes(os.urandom(size_bytes))
        return path

    def put_url(self, daemon: Daemon, path: Path, slot: str = PATH) -> str:
        """A signed URL for *path*'s size."""
        return daemon.url(signing.v(slot, path.stat().st_size))


class TransferTests(CurlTestCase):
    """PUT, GET, HEAD and OPTIONS as they should be."""

    def test_put_get_head(self) -> None:
        """What was PUT comes back byte by byte and under its type, and HEAD describes it exactly."""
        daemon, file = Daemon(self).started(), self.file()
        put = curl("-T", file, "-H", "Content-Type: image/jpeg", self.put_url(daemon, file))
        self.assertEqual(put.status, 201, put.text)
        get = curl(daemon.url(signing.url_path(PATH)))
        self.assertEqual((get.status, get.body), (200, file.read_bytes()))
        head = curl("-I", daemon.url(signing.url_path(PATH)))
        self.assertEqual(head.status, 200)
        self.assertEqual(head.header("Content-Length"), "100000")
        self.assertEqual(head.header("Content-Type"), "image/jpeg")
        for name in ("content-length", "content-type", "etag", "last-modified", "accept-ranges", "cache-control"):
            self.assertEqual(head.header(name), get.header(name), name)
            self.assertIsNotNone(get.header(name), name)

    def test_empty_file(self) -> None:
        """A file of no bytes is a file (Prosody issues slots for it)."""
        daemon, file = Daemon(self).started(), self.file(0)
        self.assertEqual(curl("-T", file, self.put_url(daemon, file)).status, 201)
        get = curl(daemon.url(signing.url_path(PATH)))
        self.assertEqual((get.status, get.header("Content-Length"), get.body), (200, "0", b""))

    def test_preflight(self) -> None:
        """A browser that asks first may PUT, with a token and a type."""
        daemon = Daemon(self).started()
        asking = ["-H", "Origin: https://chat.example", "-H", "Access-Control-Request-Method: PUT"]
        asking += ["-H", "Access-Control-Request-Headers: authorization,content-type"]
        answer = curl("-X", "OPTIONS", *asking, daemon.url(signing.url_path(PATH)))
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.header("Access-Control-Allow-Origin"), "*")
        self.assertIn("PUT", answer.header("Access-Control-Allow-Methods") or "")
        for name in ("authorization", "content-type"):
            self.assertIn(name, (answer.header("Access-Control-Allow-Headers") or "").lower())

    def test_errors_carry_cors_once(self) -> None:
        """A browser shows a page the status of a refusal only if the answer lets it."""
        daemon, file = Daemon(self).started(), self.file()
        unsigned, missing = daemon.url(signing.url_path(PATH)), daemon.url(signing.url_path("no/file"))
        for status, answer in ((403, curl("-T", file, unsigned)), (404, curl(missing))):
            self.assertEqual((answer.status, answer.header("Access-Control-Allow-Origin")), (status, "*"))

    def test_one_connection(self) -> None:
        """Upload, download and a question in vain share a connection."""
        daemon, file = Daemon(self).started(), self.file()
        fixed: list[str | Path] = ["-q", "-sS", "-o", os.devnull, "-w", "%{http_code} %{num_connects}\n"]
        put: list[str | Path] = [*fixed, "-T", file, self.put_url(daemon, file)]
        missing, found = (daemon.url(signing.url_path(path)) for path in ("no/file", PATH))
        done = run([program("curl"), *put, "--next", *fixed, missing, "--next", *fixed, found])
        self.assertEqual(done.text, "201 1\n404 0\n200 0\n")

    def test_refused_body_is_skipped(self) -> None:
        """Behind a body that was refused the next request of the connection is found, pipelined or not."""
        daemon = Daemon(self).started()
        body = os.urandom(50_000)
        head = f"PUT {signing.v(PATH, 50_000)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n".encode()
        with Connection(daemon.port) as connection:
            self.assertEqual(connection.request("PUT", signing.url_path(PATH), body=body).status, 403)
            connection.send(head.replace(b"?v=", b"?x=") + body + head + body)
            self.assertEqual([connection.answer("PUT").status for _ in range(2)], [403, 201])
        self.assertEqual(daemon.ask("GET", signing.url_path(PATH)).body, body)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 clients (Pidgin) upload and download, and the end of the connection ends the answer."""
        daemon, file = Daemon(self).started(), self.file()
        put = curl("--http1.0", "-T", file, self.put_url(daemon, file))
        self.assertEqual(put.status, 201, put.text)
        self.assertNotIn(" 100 ", put.head)
        get = curl("--http1.0", daemon.url(signing.url_path(PATH)))
        self.assertEqual((get.status, get.body), (200, file.read_bytes()))

    def test_chunked_needs_a_token(self) -> None:
        """A signature over the size can't be checked without a length; a token states the size itself."""
        daemon, file = Daemon(self).started(), self.file()
        chunked: list[str | Path] = ["-T", file, "-H", "Transfer-Encoding: chunked"]
        refused = curl(*chunked, self.put_url(daemon, file))
        self.assertEqual(refused.status, 411)
        self.assertIn("length-required", refused.text)
        token = signing.bearer(PATH, 100_000, "image/jpeg")
        url = daemon.url(signing.url_path(PATH))
        self.assertEqual(curl(*chunked, "-H", f"Authorization: {token}", url).status, 201)
        self.assertEqual(curl(url).body, file.read_bytes())

    def test_other_methods(self) -> None:
        """What a slot does not take is answered with what it takes."""
        daemon = Daemon(self).started()
        answer = curl("-X", "PROPFIND", daemon.url(signing.url_path(PATH)))
        self.assertEqual(answer.status, 405)
        self.assertIn("PUT", answer.header("Allow") or "")

    def test_names(self) -> None:
        """File names survive percent-encoding of either case, and none at all of what needs none."""
        daemon, file = Daemon(self).started(), self.file(10)
        for name in (
            "a b+c%d.jpg",
            "e\u0301.txt",
            "emoji \U0001f600.webp",
            ".hidden",
            "n" * 255,
            "semi;colon&a=1#f?.bin",
        ):
            target = signing.v(f"slot/{name}", 10)
            self.assertEqual(curl("-T", file, daemon.url(target)).status, 201, name)
            for spelling in (signing.url_path(f"slot/{name}"), signing.url_path(f"slot/{name}").replace("%2B", "+")):
                self.assertEqual(curl(daemon.url(spelling)).body, file.read_bytes(), spelling)


class ExpectTests(CurlTestCase):
    """``Expect: 100-continue`` (RFC 9110 section 10.1.1)."""

    def test_wanted_body(self) -> None:
        """The go-ahead comes for a body that is wanted."""
        daemon, file = Daemon(self).started(), self.file(2 << 20)
        put = curl("--expect100-timeout", "60", "-H", "Expect: 100-continue", "-T", file, self.put_url(daemon, file))
        self.assertEqual(put.status, 201, put.text)
        self.assertIn("100 Continue", put.head)

    def test_unwanted_body(self) -> None:
        """A body that will be refused is never asked for, and not one byte of it travels."""
        daemon, file = Daemon(self).started(), self.file(2 << 20)
        unsigned = daemon.url(signing.url_path(PATH))
        put = curl("--expect100-timeout", "60", "-H", "Expect: 100-continue", "-T", file, unsigned)
        self.assertEqual((put.status, put.sent_bytes), (403, 0))
        self.assertNotIn("100 Continue", put.head)


class PartTests(CurlTestCase):
    """Ranges and conditions."""

    def setUp(self) -> None:
        self.daemon = Daemon(self).started()
        self.content = self.file()
        self.assertEqual(curl("-T", self.content, self.put_url(self.daemon, self.content)).status, 201)
        self.url = self.daemon.url(signing.url_path(PATH))

    def test_single_ranges(self) -> None:
        """First bytes, last bytes, and everything from a byte on."""
        whole = self.content.read_bytes()
        for wanted, start, end in (
            ("0-1", 0, 2),
            ("10-19", 10, 20),
            ("99990-", 99990, 100_000),
            ("-7", 99993, 100_000),
        ):
            get = curl("-r", wanted, self.url)
            self.assertEqual((get.status, get.body), (206, whole[start:end]), wanted)
            self.assertEqual(get.header("Content-Range"), f"bytes {start}-{end - 1}/100000")

    def test_range_behind_the_end(self) -> None:
        """416, with the size that would have helped."""
        get = curl("-r", "100000-", self.url)
        self.assertEqual((get.status, get.header("Content-Range")), (416, "bytes */100000"))

    def test_several_ranges(self) -> None:
        """Several ranges at once are answered with the whole file."""
        get = curl("-r", "0-1,5-6", self.url)
        self.assertEqual((get.status, get.body), (200, self.content.read_bytes()))

    def test_resumed_download(self) -> None:
        """``curl -C -`` completes a file."""
        copy = self.directory / "copy"
        copy.write_bytes(self.content.read_bytes()[:30_000])
        get = curl("-C", "-", "-o", copy, self.url)
        self.assertEqual((get.status, copy.read_bytes()), (206, self.content.read_bytes()))

    def test_unchanged(self) -> None:
        """A client that has the file already is told so, by tag and by time."""
        get = curl(self.url)
        for condition in (f"If-None-Match: {get.header('ETag')}", f"If-Modified-Since: {get.header('Last-Modified')}"):
            again = curl("-H", condition, self.url)
            self.assertEqual((again.status, again.body), (304, b""), condition)


class ReplayTests(CurlTestCase):
    """The same URL again."""

    def test_same_file_again(self) -> None:
        """A client that did not hear the 201 hears it the second time."""
        daemon, file = Daemon(self).started(), self.file()
        url = self.put_url(daemon, file)
        self.assertEqual([curl("-T", file, url).status for _ in range(2)], [201, 201])

    def test_other_file(self) -> None:
        """A stored file is never overwritten."""
        daemon, file, other = Daemon(self).started(), self.file(), self.file(name="other")
        url = self.put_url(daemon, file)
        self.assertEqual([curl("-T", name, url).status for name in (file, other)], [201, 409])
        self.assertEqual(curl(daemon.url(signing.url_path(PATH))).body, file.read_bytes())

    def test_broken_upload(self) -> None:
        """An upload cut at half leaves nothing visible; the URL takes the file afterwards, and then no other."""
        for reset in (False, True):
            daemon, file, other = Daemon(self).started(), self.file(1 << 20), self.file(1 << 20, "other")
            url = signing.v(PATH, 1 << 20)
            network = CuttingProxy(self, daemon.port, Fault(cut_after_bytes=1 << 19, reset=reset))
            through = f"http://127.0.0.1:{network.port}{url}"
            self.assertNotEqual(curl("-T", file, through).exit_status, 0)
            self.assertEqual(curl("-I", daemon.url(signing.url_path(PATH))).header("ETag"), None)
            self.assertEqual(curl(daemon.url(signing.url_path(PATH))).status, 404)
            self.assertEqual(daemon.files(), [])
            self.assertEqual([curl("-T", name, through).status for name in (file, file, other)], [201, 201, 409])
            self.assertEqual(curl(daemon.url(signing.url_path(PATH))).body, file.read_bytes())

    def test_slow_upload(self) -> None:
        """A body that trickles in arrives whole."""
        daemon, file = Daemon(self).started(), self.file(200_000)
        network = CuttingProxy(self, daemon.port, Fault(rate_bytes_s=400_000))
        put = curl("-T", file, f"http://127.0.0.1:{network.port}{signing.v(PATH, 200_000)}")
        self.assertEqual(put.status, 201, put.text)
        self.assertEqual(curl(daemon.url(signing.url_path(PATH))).body, file.read_bytes())


class EndpointTestCase(CurlTestCase):
    """Tests of one way to listen."""

    def check(self, daemon: Daemon, base_url: str, *options: str | Path) -> None:
        """Upload and download through one endpoint."""
        file = self.file(5 << 20)
        put = curl(*options, "-T", file, base_url + signing.v(PATH, 5 << 20))
        self.assertEqual((put.exit_status, put.status), (0, 201), put.error + put.text)
        get = curl(*options, base_url + signing.url_path(PATH))
        self.assertEqual((get.status, get.body), (200, file.read_bytes()))
        self.assertEqual(daemon.files(), [PATH])


class EndpointTests(EndpointTestCase):
    """Where hmacfs can listen."""

    def test_unix_socket(self) -> None:
        """``UnixSocket`` makes ``ListenPort`` a path, with that mode; what a killed server left is replaced."""
        path = self.directory / "http.sock"
        daemon = Daemon(self, ListenPort=str(path), UnixSocket=True, UnixSocketMode="600").started_on(path.is_socket)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        daemon.process.kill()
        self.assertTrue(path.is_socket())
        daemon.restart(lambda: curl("--unix-socket", path, "http://localhost/").status > 0)
        self.check(daemon, "http://localhost", "--unix-socket", path)

    def test_live_unix_socket(self) -> None:
        """A socket that somebody listens on is not taken from them."""
        path = self.directory / "http.sock"
        first = Daemon(self, ListenPort=f"unix:{path}").started_on(path.is_socket)
        second = Daemon(self, ListenPort=f"unix:{path}")
        self.assertEqual(second.process.wait(), 1)
        self.assertIn(str(path), second.process.output)
        self.check(first, "http://localhost", "--unix-socket", path)

    def test_several(self) -> None:
        """A list of endpoints: every one of them serves the same files."""
        path, port = self.directory / "http.sock", self.free_port()
        listen = [f"127.0.0.1:{port}", f"unix:{path}"]
        daemon = Daemon(self, ListenPort=listen).started_on(lambda: accepts(port) and path.is_socket())
        self.check(daemon, f"http://127.0.0.1:{port}")
        self.assertEqual(curl("--unix-socket", path, "http://localhost" + signing.url_path(PATH)).status, 200)

    def test_haproxy(self) -> None:
        """The PROXY protocol brings the client's address, which is the one in the log."""
        port = self.free_port()
        endpoint = f"haproxy:tcp:{port}:interface=127.0.0.1"
        daemon = Daemon(self, ListenPort=endpoint).started_on(lambda: accepts(port))
        self.check(daemon, f"http://127.0.0.1:{port}", "--haproxy-protocol")
        with Connection(port) as connection:
            connection.send(b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n")
            self.assertEqual(connection.request("GET", signing.url_path(PATH)).status, 200)
        daemon.process.wait_for_line(r"GET .*photo\.jpg 200 .*203\.0\.113\.9")


class IPv6Tests(EndpointTestCase):
    """Where the machine has it."""

    needs = ("curl", "IPv6")

    def test_ipv6(self) -> None:
        """An IPv6 address is written in brackets."""
        port = self.free_port("::1")
        daemon = Daemon(self, ListenPort=f"[::1]:{port}").started_on(lambda: accepts(port, "::1"))
        self.check(daemon, f"http://[::1]:{port}")


class TLSTests(EndpointTestCase):
    """hmacfs without a proxy in front."""

    needs = ("curl", "openssl")

    def test_tls(self) -> None:
        """Upload and download over TLS."""
        key, certificate = self.directory / "key.pem", self.directory / "certificate.pem"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
        made = run(
            [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", key, "-out", certificate]
        )
        self.assertEqual(made.status, 0, made.stderr)
        port = self.free_port()
        endpoint = f"ssl:{port}:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
        daemon = Daemon(self, ListenPort=endpoint).started_on(lambda: accepts(port))
        options: list[str | Path] = ["--cacert", certificate, "--resolve", f"localhost:{port}:127.0.0.1"]
        self.check(daemon, f"https://localhost:{port}", *options)


class AbandonedDownloadTests(CurlTestCase):
    """A reader that goes away."""

    def test_next_reader(self) -> None:
        """A download that the client resets costs nobody else anything."""
        daemon, file = Daemon(self).started(), self.file(20 << 20)
        self.assertEqual(curl("-T", file, self.put_url(daemon, file)).status, 201)
        connection = Connection(daemon.port)
        connection.send_head("GET", signing.url_path(PATH))
        connection.socket.recv(1)
        connection.reset()
        self.assertEqual(curl(daemon.url(signing.url_path(PATH))).body, file.read_bytes())
        wait_until(lambda: f" {PATH}" not in self.open_files(daemon), "the file is closed")

    def open_files(self, daemon: Daemon) -> str:
        """The files that the daemon has open, each after a space."""
        store = f"{daemon.store}/"
        links = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
        return "".join(" " + os.readlink(link).removeprefix(store) for link in links if link.is_symlink())
