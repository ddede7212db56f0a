"""Who is blocked, as the site deals with it: what is counted, what is refused, and what that costs."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.bans import Bans
from hmacfs.access.banstate import Policy
from hmacfs.access.embeddedbans import FILE_NAME, EmbeddedBanState
from hmacfs.access.scopes import Scopes
from hmacfs.net.threads import InlineThreads
from tests.net.wire import CLOSED, OPEN, Answer
from tests.web.support import PATH, URL, Server, ServerTestCase, bearer, request, url, v

CONTENT = b"a photo of a cat"
WRONG = request("PUT", f"{URL}?v={'0' * 64}", None, CONTENT)
POLICY = Policy(3, 300.0, 600.0, 900.0)
#: Whom a proxy speaks for.
CLIENT, NEIGHBOUR = ({"X-Forwarded-For": f"203.0.113.{number}"} for number in (9, 10))


class BansTestCase(ServerTestCase):
    """Servers that block after three failures. All direct clients are 192.0.2.1."""

    def guarded(self, policy: Policy = POLICY, **settings: Any) -> Server:
        server = self.serve(**{name: value for name, value in settings.items() if name != "spares_readers"})
        state = EmbeddedBanState(self.store.own_directory / FILE_NAME, InlineThreads(), self.clock.seconds)
        self.addCleanup(state.stop)
        server.site.door.bans = Bans(
            state,
            policy,
            scopes=Scopes(ClientAddresses(settings.get("trusted", ())), 64),
            spares_readers=settings.get("spares_readers", False),
            now=self.clock.seconds,
            monotonic=self.clock.seconds,
            metrics=server.metrics,
        )
        return server

    def behind_proxy(self, **settings: Any) -> Server:
        return self.guarded(trusted=[ip_network("192.0.2.1")], **settings)

    def fails(self, server: Server, data: bytes, times: int = 3) -> None:
        for _ in range(times):
            self.assertNotEqual(server.ask(data).status, 429)

    def assert_blocked(self, answer: Answer) -> None:
        self.assertEqual((answer.status, answer.body.partition(b":")[0]), (429, b"blocked"))
        self.assertEqual(answer.headers["retry-after"], "300")
        for name, value in (("access-control-allow-origin", "*"), ("cache-control", "no-store"), ("server", "hmacfs")):
            self.assertEqual(answer.headers[name], value)
        self.assertIn("date", answer.headers)


class FailureTests(BansTestCase):
    """What counts."""

    def blocks(self, data: bytes, **settings: Any) -> bool:
        """Whether three requests of a kind lead to a block."""
        server = self.guarded(**settings)
        for _ in range(3):
            server.connect(data)
        assert server.site.door.bans is not None
        blocked = server.site.door.bans.has_any
        (self.store.own_directory / FILE_NAME).unlink(missing_ok=True)
        return blocked

    def test_failures(self) -> None:
        """Somebody tries."""
        for data in (
            WRONG,
            request("PUT", URL, None, CONTENT),
            request("PUT", URL, {"Authorization": "Bearer nonsense"}, CONTENT),
            request("PUT", url("other/photo.jpg"), bearer(PATH, 16), CONTENT),
            request("PUT", f"{URL}?v={'0' * 64}&v={'1' * 64}", None, CONTENT),
            request("GET", "/upload/a/..%2fb"),
            request("GET", "/upload/.hmacfs/x"),
            b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
            b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
            request("PUT", URL, {"Transfer-Encoding": "gzip"}),
            request("PUT", URL, {**bearer(PATH, 16), "Transfer-Encoding": "chunked"}) + b"nonsense\r\n",
        ):
            self.assertTrue(self.blocks(data), data)

    def test_no_failures(self) -> None:
        """What may happen to any client, or goes wrong on our side."""
        self.server.put(PATH, CONTENT)
        for data in (
            request("GET", url("no/such")),
            request("HEAD", URL),
            request("PUT", v(PATH, 15), None, b"another content"),
            request("PUT", url("a/b"), bearer("a/b", 16, exp=1), CONTENT),
            request("GET", "/upload/" + "x" * 300),
            request("GET", "/upload/" + "x" * 70_000),
            request("GET", "/upload"),
            request("POST", URL, None, CONTENT),
            request("OPTIONS", URL),
            b"\r\n",
        ):
            self.assertFalse(self.blocks(data), data)

    def test_once(self) -> None:
        """A request that is wrong in two ways is one failure."""
        server = self.guarded(Policy(2, 300.0, 600.0, 900.0))
        wire = server.connect(request("PUT", URL, {"Transfer-Encoding": "chunked"}) + b"nonsense\r\n")
        self.assertEqual(len(wire.answers("PUT")), 1)
        assert server.site.door.bans is not None
        self.assertFalse(server.site.door.bans.has_any)

    def test_malformed_behind_a_proxy(self) -> None:
        """Nobody knows whose it was."""
        server = self.behind_proxy()
        for _ in range(9):
            server.connect(b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        self.assertNotEqual(server.ask(request("GET", URL, CLIENT)).status, 429)


class DirectTests(BansTestCase):
    """Who comes directly."""

    def test_new_connection(self) -> None:
        """It is answered at its first byte, whatever that is, and closed."""
        server = self.guarded()
        self.fails(server, WRONG)
        wire = server.connect(b"x")
        (answer,) = wire.answers()
        self.assert_blocked(answer)
        self.assertTrue(wire.transport.half_closed)

    def test_connection_that_is_there(self) -> None:
        """A request on it is refused, and it ends with that."""
        server = self.guarded()
        wire = server.connect(WRONG, WRONG, WRONG)
        wire.send(request("GET", URL))
        self.assert_blocked(wire.answers()[-1])
        self.assertEqual(wire.answers()[-1].headers["connection"], "close")
        self.assertEqual(wire.end, CLOSED)

    def test_ban(self) -> None:
        """403, and nothing to wait for."""
        server = self.guarded()
        self.fails(server, WRONG)
        self.clock.advance(301)
        self.fails(server, WRONG)
        answer = server.ask(request("GET", URL))
        self.assertEqual((answer.status, answer.body.partition(b":")[0]), (403, b"banned"))
        self.assertNotIn("retry-after", answer.headers)

    def test_silent(self) -> None:
        """No line for a refused request; they are counted."""
        server = self.guarded()
        self.fails(server, WRONG)
        lines = len(server.entries)
        for _ in range(4):
            self.assert_blocked(server.ask(request("GET", URL)))
        self.assertEqual(len(server.entries), lines)
        self.assertEqual(server.metric("blocked_requests_total", kind="blocked"), 4)

    def test_uploads_only(self) -> None:
        """Reading goes on where only uploads are blocked."""
        server = self.guarded(spares_readers=True)
        server.put(PATH, CONTENT)
        self.fails(server, WRONG)
        self.assertEqual(server.get().body, CONTENT)
        self.assertEqual(server.ask(request("HEAD", URL)).status, 200)
        self.assertEqual(server.ask(request("OPTIONS", URL)).status, 204)
        self.assert_blocked(server.ask(WRONG))
        self.assertEqual(server.ask(request("DELETE", URL)).status, 429)


class ProxyTests(BansTestCase):
    """Who comes through a trusted proxy."""

    def test_client_and_not_the_proxy(self) -> None:
        """The client is blocked; the connection is everybody's, and goes on."""
        server = self.behind_proxy()
        self.fails(server, request("PUT", f"{URL}?v={'0' * 64}", CLIENT, CONTENT))
        wire = server.connect(request("GET", URL, CLIENT))
        wire.send(request("GET", URL, NEIGHBOUR))
        blocked, other = wire.answers()
        self.assert_blocked(blocked)
        self.assertEqual((other.status, wire.end), (404, OPEN))

    def test_body_is_not_asked_for(self) -> None:
        """Who waits for 100 Continue waits in vain, and nothing is in flight afterwards."""
        server = self.behind_proxy()
        self.fails(server, request("PUT", f"{URL}?v={'0' * 64}", CLIENT, CONTENT))
        expecting = {**CLIENT, "Expect": "100-continue"}
        answer = server.ask(request("PUT", v(PATH, 16), expecting, length=16))
        self.assert_blocked(answer)
        self.assertEqual((answer.interim, server.site.in_flight), ((), 0))

    def test_proxy_itself(self) -> None:
        """What it does without saying for whom is nobody's."""
        server = self.behind_proxy()
        self.fails(server, WRONG, 9)
        self.assertEqual(server.ask(request("GET", URL, CLIENT)).status, 404)

    def test_spoofed(self) -> None:
        """Who isn't trusted speaks for itself, whatever it says."""
        server = self.guarded()
        self.fails(server, request("PUT", f"{URL}?v={'0' * 64}", CLIENT, CONTENT))
        self.assert_blocked(server.ask(request("GET", URL, NEIGHBOUR)))
