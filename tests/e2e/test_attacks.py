"""A hostile client, a hostile user of the machine, a careless proxy: what docs/security.md promises, on a running daemon.

Each class is one attacker. What can be shown without sockets and without a process is shown below tests/net, tests/web,
tests/access and tests/storage; here stands what a mistake in the assembly would open.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from tests.e2e import signing
from tests.e2e.daemon import Daemon
from tests.e2e.nginx import Nginx
from tests.e2e.processes import ROOT, GaveUp, PeerTestCase, accepts, program, run, wait_until
from tests.e2e.redis import Redis
from tests.e2e.wire import Answer, Closed, Connection, ask

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

KIB = 1 << 10
MIB = 1 << 20
PATH = "6f95dd3c/photo.jpg"
CONTENT = b"what was stored"
CANARY = b"root:x:0:0: this is outside"

HOST = b"Host: h\r\n"
SMUGGLED = b"GET /upload/smuggled/request HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /upload/slot/file HTTP/1.1\r\n" + HOST
GET = b"GET /upload/slot/file HTTP/1.1\r\n"

HEADS = [
    (400, GET + HOST + b"X: a\rb\r\n\r\n"),
    (400, GET + HOST + b"X: a\nGET /upload/smuggled/header HTTP/1.1\r\n\r\n"),
    (400, GET + HOST + b"X: a\0b\r\n\r\n"),
    (400, GET + HOST + b"X\r: a\r\n\r\n"),
    (400, GET + HOST + b"X\n: a\r\n\r\n"),
    (400, GET + HOST + b"X\0: a\r\n\r\n"),
    (400, GET + HOST + b"X : a\r\n\r\n"),
    (400, GET + HOST + b"X: a\r\n b\r\n\r\n"),
    (400, GET + b" Host: h\r\n\r\n"),
    (400, GET + b"\r\n"),
    (400, GET + HOST + HOST + b"\r\n"),
    (400, GET + b"Host: h@evil/\r\n\r\n"),
    (400, PUT + b"Content-Length: +3\r\n\r\nabc"),
    (400, PUT + b"Content-Length: -3\r\n\r\nabc"),
    (400, PUT + b"Content-Length: 0x3\r\n\r\nabc"),
    (400, PUT + b"Content-Length: 3 3\r\n\r\nabc"),
    (400, PUT + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    (400, PUT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
    (400, PUT + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, b"PUT /upload/slot/file HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (501, PUT + b"Transfer-Encoding: gzip\r\n\r\n"),
    (501, PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (501, PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (431, GET + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n"),
    (431, GET + HOST + b"X: a\r\n" * 600 + b"\r\n"),
    (414, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    (400, b"GET /upload/slot/file\r\n\r\n"),
    (505, b"GET /upload/slot/file HTTP/1.2\r\n" + HOST + b"\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
]
"""Heads that two parsers could understand differently, and what is answered."""

CHUNKS = [
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"3\nabc\n0\n\n",
    b'3;a="\n"\r\nabc\r\n0\r\n\r\n',
    b"3;a=\r\r\nabc\r\n0\r\n\r\n",
    b"3;%b\r\nabc\r\n0\r\n\r\n" % (b"a" * 20_000),
    b"3\r\nabcX\r\n0\r\n\r\n",
    b"\r\n3\r\nabc\r\n0\r\n\r\n",
]
"""Bodies whose chunked coding (RFC 9112 section 7.1) is broken."""


def put(daemon: Daemon, path: str, body: bytes = CONTENT, content_type: str = "image/jpeg") -> Answer:
    """Store a file with a good signature."""
    return daemon.ask("PUT", signing.v(path, len(body)), {"Content-Type": content_type}, body)


def get(daemon: Daemon, path: str) -> Answer:
    return daemon.ask("GET", signing.url_path(path))


class WireTests(PeerTestCase):
    """A client that writes what it likes to the socket."""

    def setUp(self) -> None:
        self.daemon = Daemon(self, BlockAfterFails=0).started()
        self.assertEqual(put(self.daemon, PATH).status, 201)
        self.addCleanup(self.check_others)

    def check_others(self) -> None:
        """Whatever has been sent, others are served, and nothing on our side went wrong."""
        self.assertEqual(get(self.daemon, PATH).body, CONTENT)
        self.assertEqual(self.daemon.process.output.count("Traceback"), 0)

    def only_answer(self, data: bytes) -> Answer:
        """Send *data* and a good request behind it; the one answer that comes, after which the connection ends."""
        with Connection(self.daemon.port) as connection:
            connection.send(data + SMUGGLED)
            answer = connection.answer()
            connection.socket.shutdown(socket.SHUT_WR)
            self.assertEqual((answer.header("connection"), connection.rest()), ("close", b""), data[:200])
            return answer

    def test_heads(self) -> None:
        """An ambiguous head is refused and the connection closed: never two answers, never the request behind it."""
        for status, head in HEADS:
            self.assertEqual(self.only_answer(head).status, status, head[:200])
        self.assertEqual(self.daemon.process.output.count("smuggled"), 0)

    def test_chunks(self) -> None:
        """So is a body whose chunks could end in two places; nothing of it is stored."""
        for number, body in enumerate(CHUNKS):
            path = f"slot/{number}"
            head = f"PUT {signing.url_path(path)} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
            head += f"Authorization: {signing.bearer(path, 3)}\r\n\r\n"
            self.assertEqual(self.only_answer(head.encode() + body).status, 400, body[:99])
        self.assertEqual(self.daemon.files(), [PATH])

    def test_pipelined(self) -> None:
        """A thousand requests in one packet get a thousand answers, in their order."""
        with Connection(self.daemon.port) as connection:
            connection.send(b"".join(b"GET /upload/%d/x%%00 HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(999)))
            connection.send_head("GET", signing.url_path(PATH))
            statuses = [connection.answer().status for _ in range(999)]
            self.assertEqual((statuses, connection.answer().body), ([400] * 999, CONTENT))

    def test_request_in_a_refused_body(self) -> None:
        """The body of a refusal is skipped, or the connection ends; it is never read as the next request."""
        for size in (len(SMUGGLED), 60 * KIB, 200 * KIB):
            with Connection(self.daemon.port) as connection:
                body = SMUGGLED * (size // len(SMUGGLED))
                connection.send(PUT + b"Content-Length: %d\r\n\r\n" % len(body))
                connection.send_while_wanted([body])
                refused = connection.answer()
                self.assertEqual(refused.status, 403)
                if refused.header("connection") != "close":
                    self.assertEqual(connection.request("GET", signing.url_path(PATH)).body, CONTENT)
        self.assertEqual(self.daemon.process.output.count("smuggled"), 0)

    def test_odd_requests(self) -> None:
        """Well-formed, and nothing that is done here: methods, forms of target, expectations, upgrades."""
        for status, data in (
            (405, b"TRACE /upload/slot/file HTTP/1.1\r\nCookie: secret\r\n" + HOST),
            (405, b"get /upload/slot/file HTTP/1.1\r\n" + HOST),
            (404, b"CONNECT h:443 HTTP/1.1\r\n" + HOST),
            (404, b"GET ftp://h/upload/slot/file HTTP/1.1\r\n" + HOST),
            (200, b"GET http://other/upload/" + PATH.encode() + b" HTTP/1.1\r\n" + HOST),
            (404, GET + HOST + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n"),
            (404, GET.replace(b" HTTP", b"?" + b"&".join(b"a%d=1" % n for n in range(1500)) + b" HTTP") + HOST),
            (400, PUT.replace(b" HTTP", b"?v=1&v=2 HTTP")),
            (403, PUT + b"Expect: nonsense\r\n"),
            (
                200,
                b"GET /upload/%b HTTP/1.1\r\n" % PATH.encode() + HOST + b"Range: bytes=" + b"0-0," * 3000 + b"1-1\r\n",
            ),
        ):
            with Connection(self.daemon.port) as connection:
                connection.send(data + b"\r\n")
                answer = connection.answer()
                self.assertEqual(answer.status, status, data[:99])
                self.assertNotIn(b"secret", answer.body)

    def test_traversal(self) -> None:
        """No spelling of a path leads out of the store, or to what is hmacfs's own."""
        (self.daemon.directory / "canary").write_bytes(CANARY)
        for path in (
            *("..%2fcanary", "%2e%2e/canary", "../canary", "x/%2e%2e/%2e%2e/canary", "x/../../canary", "..%5ccanary"),
            *(
                "%252e%252e/canary",
                "%c0%ae%c0%ae/canary",
                "..;/canary",
                "%2e%2e%2fcanary",
                "/%2e%2e/canary",
                "..%00/canary",
            ),
            *(".hmacfs/server.key", "%2ehmacfs/server.key", ".HMACFS/server.key", ".%48mac%46s/server.key"),
            *(".hmacfs%2fserver.key", "./.hmacfs/server.key", "/.hmacfs/server.key", "x/../.hmacfs/server.key"),
            *(".hmacfs", ".hmacfs/", ".hmacfs./server.key", ".hmacfs%20/server.key", ".hmacfs;x/server.key"),
            *(
                "",
                "%00",
                "x%0d%0aSet-Cookie:%20a=b",
                "a/" * 2000 + "b",
                "a" * 300,
                f"{PATH}/",
                f"{PATH}/.",
                f"{PATH}%00",
            ),
        ):
            for method in ("GET", "HEAD"):
                answer = self.daemon.ask(method, f"/upload/{path}")
                self.assertIn(answer.status, (400, 404), path)
                self.assertIsNone(answer.header("set-cookie"))
                self.assertNotIn(CANARY, answer.body)

    def test_signed_traversal(self) -> None:
        """A signature is no passport: XMPP servers sign whatever file name a client asks for."""
        for path in (
            "slot/..",
            "slot/../../out",
            "../out",
            "./x",
            ".hmacfs/parts/x",
            ".HmacFS/server.key",
        ):
            answer = self.daemon.ask("PUT", signing.v(path, 3), None, b"abc")
            self.assertEqual(answer.status, 400, path)
        nul = signing.v("slot/x", 3).replace("slot/x", "slot/x%00y")
        self.assertEqual(self.daemon.ask("PUT", nul, None, b"abc").status, 400)
        self.assertEqual(self.daemon.files(), [PATH])

    def test_one_slot_is_one_part(self) -> None:
        """Who has one slot, and as many session tokens as it likes, fills one part file and no more."""
        connections = [Connection(self.daemon.port) for _ in range(20)]
        for number, connection in enumerate(connections):
            connection.send_head("PUT", signing.v("slot/a", MIB), {"X-Session-Token": f"token-{number:04}"}, MIB)
            connection.send(bytes(KIB))
        self.daemon.process.wait_for_line("superseded", count=19)
        self.assertEqual(len(self.daemon.parts()), 1)
        for connection in connections:
            connection.close()

    def test_session_token_alone(self) -> None:
        """Who knows the token of an upload and not its slot learns nothing, adds nothing, and ends nothing."""
        token = {"X-Session-Token": "token-of-the-victim"}
        with Connection(self.daemon.port) as connection:
            connection.send_head("PUT", signing.v("slot/a", 100), token, 100)
            connection.send(bytes(50))
            wait_until(lambda: any(part.stat().st_size == 50 for part in self.daemon.parts()), "the bytes arrive")
        url = signing.url_path("slot/a")
        rest = {**token, "Content-Range": "bytes 50-99/100"}
        self.assertEqual(self.daemon.ask("HEAD", url, token).status, 404)
        self.assertEqual(self.daemon.ask("PUT", url, rest, bytes(50)).status, 403)
        self.assertEqual(self.daemon.ask("DELETE", url, token).status, 403)
        head = self.daemon.ask("HEAD", signing.v("slot/a", 100))
        self.assertEqual((head.status, head.header("upload-offset")), (204, "50"))


class ProxyTests(PeerTestCase):
    """nginx lets through what it doesn't mind."""

    needs = ("nginx",)

    def test_no_desync(self) -> None:
        """Whatever nginx makes of an ambiguous request, the answers on the connections that clients share stay theirs."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        paths = [f"victim/{number}" for number in range(4)]
        for path in paths:
            self.assertEqual(put(daemon, path, path.encode()).status, 201)
        for front in Nginx(self, daemon.port):
            for _, head in HEADS:
                with Connection(front.port) as attacker:
                    attacker.send_while_wanted([head + b"\r\n"])
                    attacker.socket.shutdown(socket.SHUT_WR)
                    attacker.closed_by_peer()
                if head[:3] != b"PUT":
                    continue
                for path in paths:
                    self.assertEqual(ask(front.port, "GET", signing.url_path(path)).body, path.encode(), str(front))
        self.assertEqual(daemon.process.output.count("Traceback"), 0)

    def test_spoofed_chain(self) -> None:
        """What a client writes of itself stands left of what nginx writes, or in headers that nginx lets through."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        front = next(iter(Nginx(self, daemon.port)))
        for number, headers in enumerate(SPOOFED):
            with Connection(front.port, source="127.0.0.2") as connection:
                connection.request("GET", f"/upload/spoofed/{number}", headers)
            daemon.process.wait_for_line(rf"GET /upload/spoofed/{number} 404 .*from 127\.0\.0\.2$")
        self.assertNotIn("TrustedProxies", daemon.process.output)


SPOOFED = [
    {"X-Forwarded-For": "203.0.113.66"},
    {"X-Forwarded-For": "203.0.113.66, 127.0.0.1"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Real-IP": "203.0.113.66"},
    {"Forwarded": "for=203.0.113.66"},
    {"X-Forwarded-For": "unix:", "X-Real-IP": "127.0.0.1", "Forwarded": 'for="[::1]"'},
    {"Forwarded": 'for="203.0.113.66'},
]
"""What a client says of itself, or of those through whom it says that it came."""

PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n"


def proxy_v2(command: int, family: int, *addresses: bytes) -> bytes:
    """A header of version 2 of the PROXY protocol."""
    body = b"".join(addresses)
    return PROXY_V2 + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


V2_IPV4 = proxy_v2(1, 0x11, socket.inet_aton("203.0.113.9"), socket.inet_aton("127.0.0.1"), struct.pack("!HH", 5, 80))
V2_IPV6 = proxy_v2(1, 0x21, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x09", bytes(15) + b"\1", struct.pack("!HH", 5, 80))


class AddressTests(PeerTestCase):
    """A client that would like to be somebody else."""

    def client(self, daemon: Daemon, address: int | str, headers: dict[str, str], preamble: bytes = b"") -> str:
        """Whom the log names as the client of a request."""
        self.count = getattr(self, "count", 0) + 1
        with Connection(address) as connection:
            connection.send(preamble)
            connection.request("GET", f"/upload/request/{self.count}", headers)
        return daemon.process.wait_for_line(rf"GET /upload/request/{self.count} ").rpartition("from ")[2]

    def test_untrusted(self) -> None:
        """Without a trusted proxy the peer is the client, whatever it writes; the operator hears of it once."""
        daemon = Daemon(self, TrustedProxies=["192.0.2.1"], BlockAfterFails=0).started()
        for headers in SPOOFED:
            self.assertEqual(self.client(daemon, daemon.port, headers), "127.0.0.1")
        self.assertEqual(daemon.process.output.count("is not believed"), 1)

    def test_contradictory(self) -> None:
        """Of a trusted proxy one header counts, whatever the others say."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        headers = {"X-Real-IP": "198.51.100.2", "Forwarded": "for=198.51.100.3"}
        self.assertEqual(
            self.client(daemon, daemon.port, {**headers, "X-Forwarded-For": "198.51.100.1"}), "198.51.100.1"
        )
        self.assertEqual(self.client(daemon, daemon.port, headers), "198.51.100.2")
        self.assertEqual(self.client(daemon, daemon.port, {"Forwarded": headers["Forwarded"]}), "198.51.100.3")
        self.assertEqual(self.client(daemon, daemon.port, {"X-Forwarded-For": "nonsense, 127.0.0.1"}), "127.0.0.1")

    def test_proxy_protocol(self) -> None:
        """Both versions name the client, who can't add anything to that with headers."""
        port = self.free_port()
        daemon = Daemon(self, ListenPort=f"haproxy:tcp:{port}:interface=127.0.0.1", BlockAfterFails=0)
        daemon.started_on(lambda: accepts(port))
        for preamble, client in (
            (b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n", "203.0.113.9"),
            (b"PROXY TCP6 2001:db8::9 ::1 5000 80\r\n", "2001:db8::9"),
            (V2_IPV4, "203.0.113.9"),
            (V2_IPV6, "2001:db8::9"),
        ):
            for headers in ({}, *SPOOFED):
                self.assertEqual(self.client(daemon, port, headers, preamble), client)
        self.assertEqual(daemon.process.output.count("is not believed"), 1)
        # A proxy that speaks for itself, as it does in its health checks.
        self.assertEqual(self.client(daemon, port, {}, proxy_v2(0, 0)), "127.0.0.1")

    def test_broken_proxy_protocol(self) -> None:
        """Without a header that can be read there is no answer, and nobody else is disturbed."""
        port = self.free_port()
        daemon = Daemon(self, ListenPort=f"haproxy:tcp:{port}:interface=127.0.0.1", BlockAfterFails=0)
        daemon.started_on(lambda: accepts(port))
        for preamble in (
            b"",
            b"PROXY TCP4 203.0.113.9 127.0.0.1 port 80\r\n",
            b"PROXY TCP4 \xff\xff 127.0.0.1 5000 80\r\n",
            b"PROXY UDP4 203.0.113.9 127.0.0.1 5000 80\r\n",
            b"PROXY TCP4 " + b"1" * 200,
            b"proxy TCP4 203.0.113.9 127.0.0.1 5000 80\r\n",
            proxy_v2(1, 0x11, b"short"),
            proxy_v2(1, 0x41, bytes(12)),
            proxy_v2(15, 0x11, bytes(12)),
        ):
            with Connection(port) as connection:
                connection.send(preamble + SMUGGLED)
                self.assertTrue(connection.closed_by_peer(), preamble)
        self.assertNotIn("smuggled", daemon.process.output)
        self.assertEqual(self.client(daemon, port, {}, b"PROXY TCP4 203.0.113.9 127.0.0.1 5 80\r\n"), "203.0.113.9")

    def test_unix_socket(self) -> None:
        """Who comes by the socket is the proxy, if that is trusted, and has no address otherwise."""
        for trusted, client in ((["unix"], "203.0.113.66"), (["127.0.0.1"], "unix")):
            path = self.directory / f"{client}.sock"
            daemon = Daemon(self, ListenPort=f"unix:{path}", TrustedProxies=trusted).started_on(path.is_socket)
            self.assertEqual(self.client(daemon, str(path), {"X-Forwarded-For": "203.0.113.66"}), client)


def exchange(one: Path, other: Path) -> None:
    """Give each the name of the other, in one step (renameat2(2)); the standard library can't."""
    at_cwd, rename_exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange):
        raise OSError(ctypes.get_errno(), "renameat2")


class LocalUserTests(PeerTestCase):
    """Somebody who can write into the store."""

    def setUp(self) -> None:
        self.daemon = Daemon(self, BlockAfterFails=0).started()
        self.outside = self.daemon.directory / "outside"
        self.outside.mkdir()
        (self.outside / "canary").write_bytes(CANARY)
        self.planted = self.daemon.store / "planted"
        self.planted.mkdir()

    def test_planted(self) -> None:
        """Links, pipes, sockets, directories: nothing is served, nothing waited for, nothing written through them."""
        (self.planted / "file").symlink_to(self.outside / "canary")
        (self.planted / "dir").symlink_to(self.outside)
        (self.planted / "own").symlink_to("../.hmacfs")
        (self.planted / "endless").symlink_to("/dev/zero")
        (self.planted / "loop").symlink_to("loop")
        (self.planted / "directory").mkdir()
        os.mkfifo(self.planted / "pipe")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.planted / "sock"))
            for name in ("file", "own", "endless", "loop", "directory", "pipe", "sock", "dir/canary", "own/server.key"):
                for method in ("GET", "HEAD"):
                    answer = self.daemon.ask(method, f"/upload/planted/{name}")
                    self.assertEqual((answer.status, answer.body.count(CANARY)), (404, 0), name)
                self.assertEqual(put(self.daemon, f"planted/{name}").status, 409, name)
        for name in ("dir/new", "own/parts/new", "pipe/new", "loop/new"):
            self.assertEqual(put(self.daemon, f"planted/{name}").status, 409, name)
        self.assertEqual([path.name for path in self.outside.iterdir()], ["canary"])

    def test_swapped(self) -> None:
        """A directory that turns into a link and back, all the time, doesn't let a byte out or in."""
        (self.planted / "canary").write_bytes(CONTENT)
        link, ended = self.daemon.store / "link", threading.Event()
        link.symlink_to(self.outside)

        def swap() -> None:
            while not ended.is_set():
                exchange(link, self.planted)

        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            answers = [get(self.daemon, "planted/canary") for _ in range(200)]
            statuses = {put(self.daemon, f"planted/{number}").status for number in range(100)}
        finally:
            ended.set()
            swapping.join()
        self.assertEqual({(answer.status, answer.body == CONTENT) for answer in answers}, {(200, True), (404, False)})
        self.assertEqual(statuses, {201, 409})
        self.assertEqual([path.name for path in self.outside.iterdir()], ["canary"])

    def test_replaced_while_served(self) -> None:
        """A reader gets the file that was there when it began, to its end."""
        content = os.urandom(20 * MIB)
        (self.planted / "film").write_bytes(content)
        (self.outside / "other").write_bytes(bytes(20 * MIB))
        with Connection(self.daemon.port) as connection:
            connection.send_head("GET", "/upload/planted/film")
            connection.socket.recv(1, socket.MSG_PEEK)
            (self.outside / "other").replace(self.planted / "film")
            self.assertTrue(connection.answer().body == content)

    def test_truncated_while_served(self) -> None:
        """The connection is cut: a client can't take the piece for the whole."""
        (self.planted / "film").write_bytes(bytes(50 * MIB))
        with Connection(self.daemon.port) as connection:
            connection.send_head("GET", "/upload/planted/film")
            connection.socket.recv(1, socket.MSG_PEEK)
            os.truncate(self.planted / "film", MIB)
            self.assertRaises((Closed, ConnectionResetError), connection.answer)
        self.daemon.process.wait_for_line(r"GET /upload/planted/film \d+ storage")

    def test_forged_facts(self) -> None:
        """What somebody writes into a file's facts makes no header, no fault, and no page."""
        for number, content_type in enumerate(
            (r"text/html\r\nX-Evil: 1", r"text/plain; a=\"\ud800\"", r"text/plain\u0000")
        ):
            file = self.planted / str(number)
            file.write_bytes(b"<script>")
            facts = f'{{"v":1,"type":"{content_type}","uploaded":1}}'.encode()
            os.setxattr(file, "user.hmacfs.facts", facts)
            answer = get(self.daemon, f"planted/{number}")
            self.assertEqual((answer.status, answer.header("content-type")), (200, "application/octet-stream"))
            self.assertEqual((answer.header("x-evil"), answer.body), (None, b"<script>"))

    def test_pages(self) -> None:
        """What was there before, under names that other servers take for pages: nothing is shown, nothing runs."""
        for name in (
            "x.html",
            "X.HTML",
            "x.svg",
            "X.SVGZ",
            "x.xhtml",
            "x.xml",
            "x.mml",
            "x.pdf",
            "x.js",
            "noextension",
        ):
            (self.planted / name).write_bytes(b"<html><script>alert(1)</script>")
            answer = get(self.daemon, f"planted/{name}")
            self.assertRegex(answer.header("content-disposition") or "", "^attachment;", name)
            self.assertEqual(answer.header("x-content-type-options"), "nosniff")
            self.assertRegex(answer.header("content-security-policy") or "", "^sandbox; default-src 'none';")


class ModeTests(PeerTestCase):
    """Who may read what hmacfs writes, whatever the umask is that it was started with."""

    def modes(self, umask: int) -> dict[str, int]:
        """The modes of all that there is after an upload and in the middle of another."""
        directory = self.directory / f"{umask:o}"
        directory.mkdir()
        sock, port = directory / "http.sock", self.free_port()
        before = os.umask(umask)
        try:
            daemon = Daemon(
                self,
                ListenPort=[f"unix:{sock}", f"127.0.0.1:{port}"],
                LogFile=str(directory / "hmacfs.log"),
                StoreDir=str(directory / "above" / "store"),
            )
        finally:
            os.umask(before)
        daemon.started_on(lambda: accepts(port) and sock.is_socket())
        ask(port, "PUT", signing.v("a/b/file", 3), None, b"abc")
        with Connection(port) as connection:
            connection.send_head("PUT", signing.v("a/c/file", 100), None, 100)
            connection.send(b"abc")
            parts = directory / "above" / "store" / ".hmacfs" / "parts"
            wait_until(lambda: list(parts.iterdir()), "a part file is there")
            found = {path.relative_to(directory).as_posix(): path.lstat().st_mode for path in directory.rglob("*")}
        daemon.process.stop()
        return found

    def test_modes(self) -> None:
        """As docs/security.md has them: what is hmacfs's own is for its user alone, files are for its group."""
        for umask in (0o000, 0o077):
            found = self.modes(umask)
            for name in ("hmacfs.log", "http.sock", "above/store/a/b/file", "above/store/.hmacfs/server.key"):
                self.assertIn(name, found)
            self.assertTrue(any("/.hmacfs/parts/" in name for name in found))
            for name, mode in found.items():
                self.assertEqual(f"{stat.S_IMODE(mode):o}", self.documented(name, mode), f"{name}, umask {umask:03o}")

    def documented(self, name: str, mode: int) -> str:
        if ".hmacfs" in name:
            return "700" if stat.S_ISDIR(mode) else "600"
        if stat.S_ISSOCK(mode):
            return "660"
        return "750" if stat.S_ISDIR(mode) else "640"


class SecretTests(PeerTestCase):
    """Somebody who reads logs, metrics and the list of processes."""

    def test_nowhere(self) -> None:
        """Signatures, tokens, queries and the secret are in none of them, at the level that says most, in either form."""
        for form in ("text", "json"):
            daemon = Daemon(self, LogLevel="debug", LogFormat=form, BlockAfterFails=0, AcceptV3=True).started()
            secrets = self.attempts(daemon)
            shown = {"metrics": ask(daemon.metrics_port, "GET", "/metrics").text}
            shown["arguments"] = Path(f"/proc/{daemon.process.pid}/cmdline").read_text("utf-8")
            daemon.process.stop()
            shown["log"] = daemon.process.output
            self.assertIn("slot/last", shown["log"])
            for place, text in shown.items():
                for secret in secrets:
                    self.assertNotIn(secret, text, f"{place}, {form}")

    def attempts(self, daemon: Daemon) -> list[str]:
        """Requests of every kind, with the secrets in every place where one may stand; what must not be seen."""
        query = "not-to-be-logged"
        token = "session-token-0123456789"
        macs = [signing.v("slot/a", 3), signing.v("slot/b", 4), signing.v2("slot/c", 3, "image/png")]
        bearers = [
            signing.bearer("slot/d", 3),
            signing.bearer("slot/e", 3, secret="x" * 20),
            "Bearer not.a.token-0123456789",
        ]
        for target in macs:
            daemon.ask("PUT", f"{target}&{query}", {"X-Session-Token": token}, b"abc")
            daemon.ask("HEAD", target, {"X-Session-Token": token})
            daemon.ask("GET", target.replace("?", "%3F"))
            daemon.ask("BREW", target)
        for credential in bearers:
            daemon.ask("PUT", "/upload/slot/d", {"Authorization": credential}, b"abc")
            daemon.ask("GET", "/upload/slot/nothing", {"Authorization": credential})
            daemon.ask("PUT", "/upload/slot/d", {"Authorization": credential, "Content-Range": "x"}, b"abc")
        for head in (f"PUT {macs[0]} HTTP/1.1\r\nbroken", f"PUT {macs[0]} HTTP/3.1", f"{macs[0]} PUT HTTP/1.1"):
            with Connection(daemon.port) as connection:
                connection.send(head.encode() + b"\r\n\r\n")
                self.assertGreaterEqual(connection.answer().status, 400)
        daemon.ask("GET", "/upload/slot/last")
        daemon.process.wait_for_line("slot/last")
        signatures = [target.rpartition("=")[2] for target in macs]
        return [signing.SECRET, query, token, *signatures, *(text.partition(" ")[2] for text in bearers)]


class ResourceTests(PeerTestCase):
    """A client that would like to have more than its share."""

    def growth(self, work: Callable[[Daemon], None]) -> int:
        """By how many bytes the daemon is larger after *work*, which it has done once before."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        work(daemon)
        before = daemon.peak_rss_bytes()
        work(daemon)
        return daemon.peak_rss_bytes() - before

    def test_answers_that_nobody_reads(self) -> None:
        """10,000 requests whose answers are not read wait where they are, in the sockets."""

        def work(daemon: Daemon) -> None:
            with Connection(daemon.port) as connection:
                connection.socket.setblocking(False)
                try:
                    for _ in range(100):
                        connection.socket.send(b"GET /upload/no/file HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
                except BlockingIOError:
                    pass
                self.assertEqual(get(daemon, "no/file").status, 404)

        self.assertLess(self.growth(work), 5 * MIB)

    def test_trailers(self) -> None:
        """Trailers of a chunked body have a bound."""

        def work(daemon: Daemon) -> None:
            headers = {"Authorization": signing.bearer("slot/a", 3), "Transfer-Encoding": "chunked"}
            with Connection(daemon.port) as connection:
                connection.send_head("PUT", "/upload/slot/a", headers)
                connection.send(b"3\r\nabc\r\n0\r\n")
                if connection.send_while_wanted(b"X: %b\r\n" % (b"a" * 1000) for _ in range(20_000)):
                    connection.send_while_wanted([b"\r\n"])
                try:
                    self.assertEqual(connection.answer().status, 400)
                except (Closed, ConnectionResetError, GaveUp) as error:
                    self.fail(f"no answer: {error}")

        self.assertLess(self.growth(work), 5 * MIB)


class RedisTests(PeerTestCase):
    """Somebody who has got hold of the password of hmacfs' Redis."""

    needs = ("redis",)

    def test_user(self) -> None:
        """The user of docs/security.md may do all that hmacfs does there, and nothing else."""
        redis = Redis(self)
        page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
        [user] = re.findall("^user (hmacfs .*)$", page, re.MULTILINE)
        redis.admin().order("ACL SETUSER " + user.replace("PASSWORD", "the-password"))
        account = {"RedisUsername": "hmacfs", "RedisPassword": "the-password"}
        daemon = Daemon(self, RedisAddr=f"unix:{redis.socket}", **account, BlockAfterFails=3, RedisDB=1).started()
        wait_until(lambda: daemon.metrics().get("hmac_file_server_redis_up") == 1, "Redis answers hmacfs")
        slot = signing.v("slot/a", 100)
        for offset in (0, 50):
            self.assertEqual(daemon.ask("HEAD", slot).header("upload-offset"), "50" if offset else None)
            with Connection(daemon.port) as connection:
                headers = {"Content-Range": f"bytes {offset}-99/100"} if offset else {}
                connection.send_head("PUT", slot, headers, 100 - offset)
                connection.send(bytes(50))
                if offset:
                    self.assertEqual(connection.answer().status, 201)
                else:
                    wait_until(lambda: any(part.stat().st_size == 50 for part in daemon.parts()), "the bytes arrive")
            daemon.process.wait_for_line("PUT /upload/slot/a")
        for number in range(5):
            self.assertEqual(daemon.ask("PUT", f"/upload/slot/{number}?v={'0' * 64}", None, b"x").status // 100, 4)
        daemon.process.stop()
        refused = run([program("redis-cli"), "-s", str(redis.socket), "ACL", "LOG"])
        self.assertEqual((refused.status, refused.text.strip()), (0, ""))


class ForeignPageTests(PeerTestCase):
    """A script on another web site."""

    def test_metrics(self) -> None:
        """It may fetch files, which are for whoever has the URL; of the operator's pages it reads nothing."""
        daemon = Daemon(self).started()
        origin = {"Origin": "https://evil.example"}
        self.assertEqual(daemon.ask("GET", "/upload/no/file", origin).header("access-control-allow-origin"), "*")
        for page in ("/metrics", "/readyz", "/healthz"):
            answer = ask(daemon.metrics_port, "GET", page, origin)
            self.assertEqual((answer.status, answer.header("access-control-allow-origin")), (200, None))
            self.assertEqual(daemon.ask("GET", page).status, 404)
        self.assertEqual(re.findall("(?i)allow-credentials", str(daemon.ask("OPTIONS", "/upload/x").headers)), [])
