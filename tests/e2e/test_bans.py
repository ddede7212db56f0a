"""Clients that fail again and again, each from an address of its own; and those beside them, who notice nothing."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

from tests.e2e import signing
from tests.e2e.daemon import Daemon
from tests.e2e.processes import PeerTestCase, run, wait_until
from tests.e2e.redis import Redis
from tests.e2e.wire import Answer, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

CONTENT = b"a photo of a cat"
PROXY, ATTACKER, OTHER, THIRD = "127.0.0.16", "127.0.0.7", "127.0.0.8", "127.0.0.10"

#: 127.0.0.0/8 is one machine with many addresses.
KEYS: dict[str, Any] = {"TrustedProxies": [PROXY], "BlockDuration": 120}


class BansTestCase(PeerTestCase):
    """A server, and clients with addresses of their own."""

    daemon: Daemon

    def ask(
        self, source: str, method: str = "PUT", target: str = "", body: bytes | None = CONTENT, **headers: str
    ) -> Answer:
        """One request from an address; a PUT with a wrong signature if nothing else is said."""
        target = target or "/upload/slot/x?v=" + "0" * 64
        with Connection(self.daemon.port, source) as connection:
            return connection.request(
                method, target, {name.replace("_", "-"): value for name, value in headers.items()}, body
            )

    def put(self, source: str, path: str, **headers: str) -> int:
        """The status of a good upload."""
        return self.ask(source, "PUT", signing.v(path, len(CONTENT)), CONTENT, **headers).status

    def misbehave(self, source: str, times: int = 3, **headers: str) -> None:
        for _ in range(times):
            self.assertEqual(self.ask(source, "PUT", "", CONTENT, **headers).status, 403)

    def assert_blocked(self, answer: Answer) -> None:
        self.assertEqual((answer.status, answer.text.partition(":")[0]), (429, "blocked"))
        self.assertIn(int(answer.header("Retry-After") or ""), range(1, 121))
        self.assertEqual(answer.header("Access-Control-Allow-Origin"), "*")

    def bans(self, *words: str) -> list[Any]:
        """What a command says, line by line."""
        argv = [sys.executable, "-m", "hmacfs.cli", "bans", *words[:1], "--json", "-c", str(self.daemon.config)]
        ended = run([*argv, *words[1:]])
        self.assertEqual((ended.status, ended.stderr), (0, ""))
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def freed(self, source: str) -> None:
        wait_until(lambda: self.ask(source, "GET", "/upload/none/x", None).status == 404, f"{source} is let in again")


class BlockTests(BansTestCase):
    """One server with its own store of bans."""

    def setUp(self) -> None:
        self.daemon = Daemon(self, **KEYS).started()

    def test_life_of_a_block(self) -> None:
        """Three failures block one address and nobody else, for whatever it asks, also after a restart; until the
        operator lifts it."""
        self.assertEqual(self.put(OTHER, "slot/first"), 201)
        self.misbehave(ATTACKER)
        self.assert_blocked(self.ask(ATTACKER))
        self.assert_blocked(self.ask(ATTACKER, "GET", "/upload/slot/first", None))
        self.assertEqual(self.put(OTHER, "slot/second"), 201)
        self.daemon.process.signal(signal.SIGTERM)
        self.daemon.process.wait()
        self.daemon.restart()
        self.assert_blocked(self.ask(ATTACKER))
        (entry,) = self.bans("list")
        self.assertEqual((entry["address"], entry["kind"], entry["why"]), (ATTACKER, "blocked", "3 bad-signature"))
        self.assertEqual(self.bans("lift", ATTACKER), [{"lifted": [ATTACKER]}])
        self.freed(ATTACKER)
        self.assertEqual(self.put(ATTACKER, "slot/third"), 201)
        self.assertEqual(self.bans("list"), [])

    def test_log_and_metrics(self) -> None:
        """A block is two lines in the log, however many requests it refuses; metrics know no address."""
        self.misbehave(ATTACKER)
        for _ in range(5):
            self.ask(ATTACKER)
        metrics = self.daemon.metrics()
        self.assertEqual(metrics['hmac_file_server_blocked_requests_total{kind="blocked"}'], 5)
        self.assertEqual(metrics["hmac_file_server_blocked_addresses"], 1)
        self.assertEqual(metrics['hmac_file_server_failures_total{reason="bad-signature"}'], 3)
        self.assertFalse([name for name in metrics if ATTACKER in name])
        self.bans("lift", "--all")
        line = self.daemon.process.wait_for_line("no longer blocked")
        self.assertIn("5 requests were refused", line)

    def test_banned_by_hand(self) -> None:
        """The operator bans a network, and the server obeys."""
        self.assertEqual(self.put(OTHER, "slot/x"), 201)
        self.bans("add", "127.0.0.8/30", "--for", "1d", "--reason", "scans")
        answer = wait_until(lambda: self.refused(OTHER), "the ban is in force")
        assert answer is not None
        self.assertEqual((answer.status, answer.text.partition(":")[0]), (403, "banned"))
        # A trusted proxy speaks for others.
        self.assertEqual(self.put(PROXY, "slot/y", X_Forwarded_For="198.51.100.7"), 201)
        (told,) = self.bans("why", OTHER)
        self.assertEqual([entry["why"] for entry in told["in_force"]], ["scans"])

    def refused(self, source: str) -> Answer | None:
        answer = self.ask(source, "GET", "/upload/slot/x", None)
        return None if answer.status == 200 else answer

    def test_behind_a_proxy(self) -> None:
        """The client is blocked and not the proxy, whose connection goes on."""
        self.misbehave(PROXY, X_Forwarded_For="198.51.100.7")
        with Connection(self.daemon.port, PROXY) as connection:
            blocked = {"X-Forwarded-For": "198.51.100.7"}
            self.assert_blocked(connection.request("GET", "/upload/x/y", blocked))
            self.assertEqual(connection.request("GET", "/upload/x/y", {"X-Forwarded-For": "198.51.100.8"}).status, 404)
        self.misbehave(PROXY, times=5)

    def test_spoofed_header(self) -> None:
        """Who isn't trusted neither gets away by naming others, nor has them blocked."""
        for number in range(3):
            self.misbehave(ATTACKER, 1, X_Forwarded_For=f"198.51.100.{number}" if number else OTHER)
        self.assert_blocked(self.ask(ATTACKER, X_Forwarded_For=THIRD))
        self.assertEqual(self.put(OTHER, "slot/x"), 201)
        # And what it puts in front of a real chain counts for nothing.
        self.misbehave(PROXY, X_Forwarded_For=f"{THIRD}, 198.51.100.9")
        self.assertEqual(self.put(THIRD, "slot/y"), 201)

    def test_innocent(self) -> None:
        """What may happen to any client blocks nobody."""
        for _ in range(4):
            self.assertEqual(self.ask(OTHER, "GET", "/upload/none/x", None).status, 404)
            self.assertEqual(self.ask(OTHER, "GET", "/upload/" + "x" * 300, None).status, 400)
        expired = signing.bearer("slot/x", len(CONTENT), valid_s=-60)
        for _ in range(4):
            self.assertEqual(self.ask(OTHER, "PUT", "/upload/slot/x", CONTENT, Authorization=expired).status, 403)
        self.assertEqual(self.put(OTHER, "slot/x"), 201)

    def test_hostile(self) -> None:
        """Traversal, and what is no HTTP, are failures as wrong signatures are."""
        self.assertEqual(self.ask(ATTACKER, "GET", "/upload/x/..%2f..%2fetc", None).status, 400)
        with Connection(self.daemon.port, ATTACKER) as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n")
            self.assertEqual(connection.answer().status, 400)
        self.misbehave(ATTACKER, 1)
        self.assert_blocked(self.ask(ATTACKER))


class SettingsTests(BansTestCase):
    """As the operator wants it."""

    def test_uploads_only(self) -> None:
        """Who is blocked may still download."""
        self.daemon = Daemon(self, **KEYS, BlockScope="uploads").started()
        self.assertEqual(self.put(OTHER, "slot/x"), 201)
        self.misbehave(ATTACKER)
        self.assert_blocked(self.ask(ATTACKER))
        for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 204)):
            self.assertEqual(self.ask(ATTACKER, method, "/upload/slot/x", None).status, status)

    def test_banned_and_swept(self) -> None:
        """The second block is a ban, and both end by themselves."""
        self.daemon = Daemon(self, TrustedProxies=[PROXY], BlockAfterFails=1, BlockDuration=1, AutoBanTime=2).started()
        self.misbehave(ATTACKER, 1)
        self.assertEqual(self.ask(ATTACKER).status, 429)
        self.freed(ATTACKER)
        self.misbehave(ATTACKER, 1)
        self.assertEqual(self.ask(ATTACKER).text.partition(":")[0], "banned")
        self.freed(ATTACKER)

    def test_unix_socket(self) -> None:
        """All who come by a UNIX socket have one name: none of them is blocked for what another does."""
        path = Path(f"/tmp/hmacfs-{self.free_port()}.sock")
        self.addCleanup(path.unlink, missing_ok=True)
        self.daemon = Daemon(self, ListenPort=f"unix:{path}", TrustedProxies=[], BlockAfterFails=1)
        self.daemon.started_on(path.is_socket)
        for _ in range(3):
            with Connection(str(path)) as connection:
                self.assertEqual(connection.request("PUT", "/upload/a/b?v=" + "0" * 64, None, CONTENT).status, 403)

    def test_proxy_protocol(self) -> None:
        """Whom the PROXY protocol announces is blocked, and not the one who announces."""
        port = self.free_port()
        endpoint = f"haproxy:tcp:{port}:interface=127.0.0.1"
        self.daemon = Daemon(self, ListenPort=endpoint, TrustedProxies=[], BlockAfterFails=1).started()
        self.assertEqual(self.announced(port, "203.0.113.9"), 403)
        self.assertEqual(self.announced(port, "203.0.113.9"), 429)
        self.assertEqual(self.announced(port, "203.0.113.10"), 403)

    def announced(self, port: int, client: str) -> int:
        with Connection(port) as connection:
            connection.send(f"PROXY TCP4 {client} 127.0.0.1 4711 {port}\r\n".encode())
            return connection.request("PUT", "/upload/a/b?v=" + "0" * 64, None, CONTENT).status


class RedisTests(BansTestCase):
    """Bans that are kept in Redis."""

    needs: ClassVar[tuple[str, ...]] = ("redis",)

    def setUp(self) -> None:
        self.redis = Redis(self)
        self.daemon = Daemon(self, **KEYS, RedisAddr=f"unix:{self.redis.socket}").started()

    def test_commands(self) -> None:
        """They are found there by commands, and by a server that starts anew."""
        self.misbehave(ATTACKER)
        self.assert_blocked(self.ask(ATTACKER))
        wait_until(lambda: [entry["address"] for entry in self.bans("list")] == [ATTACKER], "Redis knows it")
        self.daemon.process.signal(signal.SIGTERM)
        self.daemon.process.wait()
        self.daemon.restart()
        self.assert_blocked(self.ask(ATTACKER))
        self.bans("lift", ATTACKER)
        self.freed(ATTACKER)

    def test_away(self) -> None:
        """While Redis is silent, who is blocked stays blocked, and who fails is blocked all the same; afterwards it is
        told, even if it has lost everything."""
        self.misbehave(ATTACKER)
        self.redis.process.signal(signal.SIGSTOP)
        self.daemon.process.wait_for_line("The store of bans can't be reached")
        self.assert_blocked(self.ask(ATTACKER))
        self.misbehave(OTHER)
        self.assert_blocked(self.ask(OTHER))
        self.assertEqual(self.put(THIRD, "slot/x"), 201)
        self.redis.process.kill()
        self.redis.process.wait()
        self.redis.start()
        self.daemon.process.wait_for_line("The store of bans is back")
        wait_until(lambda: len(self.bans("list")) == 2, "Redis knows both")
        self.assert_blocked(self.ask(ATTACKER))
