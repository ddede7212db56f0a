"""nginx sends the files, as ``docs/proxies.md`` has it, and clients notice nothing of it."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from tests.e2e import signing
from tests.e2e.daemon import Daemon
from tests.e2e.nginx import HTTP, MAIN
from tests.e2e.processes import ROOT, PeerTestCase, Process, accepts, program, wait_until
from tests.e2e.wire import Answer, Connection, ask

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

CONTENT = os.urandom(300_000)
PATH = "slot/holiday video.mp4"

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location ~ \\.php$ {{ return 500; }}
        location ^~ /upload/ {{
            proxy_pass http://keepalive;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
{sendfile}
    }}
"""

#: What a proxy has of its own.
OF_ITS_OWN = frozenset({"server", "date", "connection"})

ODD_NAMES = [
    b"a b", b"100%", b"100%25.txt", b"what?.txt", b"what?a=b&c#d", b"plus+plus", b"semi;colon", b'quo"te', b"$upstream",
    b"back\\slash", b"..hidden", b"dots...", b"{brace}", b"~tilde", b" blanks ", b"a.php", b"x" * 255, b"@named", b"c:",
    b"%2e%2e", b"%00", "très café.txt".encode(), "\u202e".encode(), b"\xff\xfe latin \xe9",
]  # fmt: skip


def snippet() -> str:
    """The location on the page about proxies."""
    page = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    found = re.search(r"^```nginx\n( {4}location \^~ .*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


class Leading:
    """Answers one request, as hmacfs would if what it has seen is another thing a moment later.

    :ivar port: where.
    """

    def __init__(self, case: PeerTestCase, location: str) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\nX-Accel-Redirect: {location}\r\nContent-Length: 0\r\n\r\n"
        self._socket = socket.create_server(("127.0.0.1", 0))
        case.addCleanup(self._socket.close)
        self.port = int(self._socket.getsockname()[1])
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        case.addCleanup(thread.join)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._answer.encode())


class SendfileTestCase(PeerTestCase):
    """hmacfs behind an nginx that has the store, with one file in it.

    :ivar port: of nginx.
    """

    needs = ("nginx",)

    def setUp(self) -> None:
        self.daemon = Daemon(self, SendfileHeader="X-Accel-Redirect").started()
        self.port = self.start_nginx(self.daemon.port)
        self.put(PATH, CONTENT, {"Content-Type": "video/mp4"})

    def start_nginx(self, upstream_port: int) -> int:
        """
        :param upstream_port: who is asked where the files are.
        :return: its port.
        """
        port = self.free_port()
        directory = self.directory / f"nginx-{port}"
        directory.mkdir()
        location = snippet()
        self.assertEqual(location.count("/var/lib/hmacfs/store"), 2)
        server = SERVER.format(port=port, sendfile=location.replace("/var/lib/hmacfs/store", str(self.daemon.store)))
        config = directory / "nginx.conf"
        http = HTTP.format(upstream_port=upstream_port, servers=server)
        text = MAIN.format(directory=directory, level="warn", http=http)
        config.write_text(text, encoding="utf-8")
        argv = [program("nginx"), "-c", str(config), "-p", str(directory), "-e", "stderr"]
        self.started(Process("nginx", argv))
        wait_until(lambda: accepts(port), "nginx is listening")
        return port

    def put(self, path: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        answer = self.daemon.ask("PUT", signing.v(path, len(content)), headers, content)
        self.assertEqual(answer.status, 201, answer)

    def get(self, headers: Mapping[str, str] | None = None, method: str = "GET", path: str = PATH) -> Answer:
        """Through nginx."""
        return ask(self.port, method, signing.url_path(path), headers)

    def directly(self, headers: Mapping[str, str] | None = None, method: str = "GET", path: str = PATH) -> Answer:
        """Without it."""
        return self.daemon.ask(method, signing.url_path(path), headers)

    def offloaded(self) -> float:
        """How many files hmacfs has left to nginx."""
        return self.daemon.metrics().get('hmac_file_server_downloads_total{kind="offloaded"}', 0)

    def assert_same(self, headers: Mapping[str, str] | None = None, method: str = "GET", *, offloaded: bool) -> Answer:
        """With nginx the answer is what it is without, header by header, each once."""
        before = self.offloaded()
        through, directly = self.get(headers, method), self.directly(headers, method)
        self.assertEqual(self.shown(through), self.shown(directly))
        self.assertEqual(self.offloaded() - before, offloaded)
        return through

    def shown(self, answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
        # A 206 shows by itself that there are ranges, and nginx adds Accept-Ranges to a 200 only.
        own = OF_ITS_OWN | {"accept-ranges"} if answer.status == 206 else OF_ITS_OWN
        return answer.status, sorted(each for each in answer.headers if each[0] not in own), answer.body


class SameTests(SendfileTestCase):
    """What clients can ask for."""

    def test_whole(self) -> None:
        """All of the file, under all of hmacfs's headers. HEAD, which brings nothing, says the same."""
        answer = self.assert_same(offloaded=True)
        self.assertEqual((answer.status, answer.body), (200, CONTENT))
        self.assertIsNone(answer.header("X-Accel-Redirect"))
        head = self.assert_same(method="HEAD", offloaded=False)
        self.assertEqual(self.shown(head)[:2], self.shown(answer)[:2])

    def test_part(self) -> None:
        """A range is cut out by nginx, also where it counts from the end, or has none."""
        for asked, part in (
            ("bytes=1000-1999", CONTENT[1000:2000]),
            ("bytes=-500", CONTENT[-500:]),
            ("bytes=299000-", CONTENT[299_000:]),
            ("bytes=299999-999999", CONTENT[299_999:]),
            ("bytes= 0 - 0 ", CONTENT[:1]),
        ):
            answer = self.assert_same({"Range": asked}, offloaded=True)
            self.assertEqual((answer.status, answer.body), (206, part), asked)
        known = self.directly(method="HEAD")
        for name in ("ETag", "Last-Modified"):
            answer = self.assert_same({"Range": "bytes=9-", "If-Range": known.header(name) or ""}, offloaded=True)
            self.assertEqual((answer.status, answer.body), (206, CONTENT[9:]), name)

    def test_no_part(self) -> None:
        """What nginx would take for something else is answered by hmacfs: several ranges, for example."""
        etag = self.directly(method="HEAD").header("ETag")
        for asked in ("bytes=0-1,5-6", "bytes=7-3", "bytes=x", "lines=0-1"):
            answer = self.assert_same({"Range": asked}, offloaded=False)
            self.assertEqual((answer.status, answer.body), (200, CONTENT), asked)
        for other in ('"other"', f"W/{etag}", "Mon, 21 Sep 2015 14:13:20 GMT"):
            answer = self.assert_same({"Range": "bytes=9-", "If-Range": other}, offloaded=False)
            self.assertEqual((answer.status, answer.body), (200, CONTENT), other)
        answer = self.assert_same({"Range": "bytes=300000-"}, offloaded=False)
        self.assertEqual((answer.status, answer.header("Content-Range")), (416, "bytes */300000"))
        self.assertEqual(self.assert_same({"Range": "bytes=0-1"}, "HEAD", offloaded=False).status, 200)

    def test_conditions(self) -> None:
        """Who has the file already hears so from hmacfs; who has another one gets this one from nginx.

        nginx knows more conditions than hmacfs, which passes over them.
        """
        known = self.directly(method="HEAD")
        etag, modified, earlier = known.header("ETag"), known.header("Last-Modified"), "Mon, 21 Sep 2015 14:13:20 GMT"
        assert etag is not None and modified is not None
        for headers in ({"If-None-Match": etag}, {"If-None-Match": "*"}, {"If-Modified-Since": modified}):
            self.assertEqual(self.assert_same(headers, offloaded=False).status, 304)
        for headers in (
            {"If-None-Match": '"other"'},
            {"If-None-Match": '"other"', "If-Modified-Since": modified},
            {"If-Modified-Since": earlier},
        ):
            self.assertEqual(self.assert_same(headers, offloaded=True).status, 200)
        for headers in ({"If-Match": '"other"'}, {"If-Unmodified-Since": earlier}):
            self.assertEqual(self.assert_same(headers, offloaded=False).status, 200)

    def test_kept_connection(self) -> None:
        """One answer after the other, on one connection of the client."""
        target = signing.url_path(PATH)
        with Connection(self.port) as connection:
            for _ in range(3):
                self.assertEqual(connection.request("GET", target).body, CONTENT)
                self.assertEqual(connection.request("HEAD", target).body, b"")
                self.assertEqual(connection.request("GET", target, {"Range": "bytes=5-6"}).body, CONTENT[5:7])


class NameTests(SendfileTestCase):
    """Where files are."""

    def test_odd_names(self) -> None:
        """Whatever a path is made of, nginx finds the file, and takes none for a script."""
        for number, name in enumerate(ODD_NAMES):
            with self.subTest(name=name):
                path, content = b"odd/%d/%b" % (number, name), os.urandom(20_000)
                file = Path(os.fsdecode(os.fsencode(self.daemon.store) + b"/" + path))
                file.parent.mkdir(parents=True)
                file.write_bytes(content)
                answer = ask(self.port, "GET", f"/upload/{quote(path)}")
                self.assertEqual((answer.status, answer.body == content), (200, True), answer.headers)
        self.assertEqual(self.offloaded(), len(ODD_NAMES))

    def test_not_left_to_nginx(self) -> None:
        """A path that is too long for nginx' room for headers, and an empty file."""
        for path, content in (("/".join(["ü" * 100] * 10), CONTENT), ("slot/empty", b"")):
            self.put(path, content)
            answer = self.get(path=path)
            self.assertEqual((answer.status, answer.body), (200, content))
        self.assertEqual(self.offloaded(), 0)


class RefusalTests(SendfileTestCase):
    """What nobody gets."""

    def test_time_is_over(self) -> None:
        """410, though the file is still there for nginx; 451 for what the operator has taken down."""
        path = "slot/short-lived"
        token = {"Authorization": signing.bearer(path, len(CONTENT), keep_s=2)}
        self.assertEqual(self.daemon.ask("PUT", signing.url_path(path), token, CONTENT).status, 201)
        self.daemon.command("files", "quarantine", "--yes", PATH)
        self.assertEqual(self.get().status, 451)
        wait_until(lambda: self.get(path=path).status == 410, "the file's time is over")
        self.assertTrue((self.daemon.store / path).exists())

    def test_location(self) -> None:
        """The location is there for hmacfs alone, which never leads into its own directory."""
        for target in (
            "/protected/slot/holiday%20video.mp4",
            "/protected/.hmacfs/server.key",
            "/upload/../protected/slot/holiday%20video.mp4",
        ):
            answer = ask(self.port, "GET", target)
            self.assertEqual((answer.status, CONTENT in answer.body), (404, False), target)
        answer = self.get({"X-Accel-Redirect": "/protected/.hmacfs/server.key"})
        self.assertEqual(answer.body, CONTENT)
        for path in (".hmacfs/server.key", ".HMACFS/server.key", "slot/../.hmacfs/server.key", "slot/other"):
            self.assertIn(self.get(path=path).status, (400, 404), path)
        self.assertEqual(self.offloaded(), 1)

    def test_symbolic_link(self) -> None:
        """Nobody follows one: not hmacfs, and not nginx where it takes the file's place after hmacfs has looked."""
        outside = self.directory / "outside"
        outside.write_text("a secret")
        (self.daemon.store / "slot" / "link").symlink_to(outside)
        self.assertEqual(self.get(path="slot/link").status, 404)
        leading = Leading(self, "/protected/slot/link")
        answer = ask(self.start_nginx(leading.port), "GET", "/upload/slot/link")
        self.assertEqual((answer.status, "a secret" in answer.text), (403, False))


class DirectTests(SendfileTestCase):
    """Clients that come to hmacfs by themselves get bytes, and hear nothing of where the file is."""

    def get_from(self, source: str, headers: Mapping[str, str]) -> Answer:
        with Connection(self.daemon.port, source=source) as connection:
            return connection.request("GET", signing.url_path(PATH), headers)

    def test_direct(self) -> None:
        """Also one that looks like a proxy; and what comes from the proxy's machine, and isn't passed on."""
        for source, headers in (
            ("127.0.0.2", {}),
            ("127.0.0.2", {"X-Forwarded-For": "203.0.113.9"}),
            ("127.0.0.1", {}),
        ):
            answer = self.get_from(source, headers)
            self.assertEqual((answer.body, answer.header("X-Accel-Redirect")), (CONTENT, None))

    def test_absolute(self) -> None:
        """Apache and lighttpd are told the path on the disk, with the other header."""
        daemon = Daemon(self, SendfileHeader="X-Sendfile").started()
        self.assertEqual(daemon.ask("PUT", signing.v("slot/a.jpg", 3), None, b"abc").status, 201)
        answer = daemon.ask("GET", "/upload/slot/a.jpg", {"X-Forwarded-For": "203.0.113.9"})
        self.assertEqual((answer.header("X-Sendfile"), answer.body), (f"{daemon.store}/slot/a.jpg", b""))

    def test_passed_on(self) -> None:
        """What the proxy sees: a whole answer without a body, after which the connection stays. The log has it."""
        with Connection(self.daemon.port) as connection:
            for _ in range(2):
                answer = connection.request("GET", signing.url_path(PATH), {"X-Forwarded-For": "203.0.113.9"})
                self.assertEqual((answer.status, answer.header("Content-Length"), answer.body), (200, "0", b""))
                self.assertEqual(answer.header("X-Accel-Redirect"), "/protected/slot/holiday%20video.mp4")
        self.daemon.process.wait_for_line(r"GET /upload/slot/holiday%20video\.mp4 200 .*from 203\.0\.113\.9")
