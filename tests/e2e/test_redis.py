"""What becomes of uploads while Redis is not well, and after it is well again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import ClassVar

from tests.e2e.curl import Fetched, curl
from tests.e2e.processes import wait_until
from tests.e2e.resuming import Client, OnRedis, ResumeTestCase

HALF = 5_000_000
"""More than what is written between two checkpoints."""

RECOVERY_S = 30.0
"""After so long a server that has not found its Redis again is given up; it should take half of it."""


class RedisTestCase(OnRedis, ResumeTestCase):
    """A server whose Redis can be made ill."""

    size_bytes = 9_000_000

    def resumes_again(self, client: Client, offset: int) -> None:
        """Wait until the upload can be resumed, and resume it."""
        wait_until(lambda: client.head().status == 204, "hmacfs finds its Redis again", RECOVERY_S)
        self.assertEqual(client.offset(), offset)
        self.assertEqual(client.part(offset).status, 201)
        self.assertTrue(client.get().body == client.content)

    def redis_is_up(self) -> bool:
        """What the metrics say."""
        return self.daemon.metrics()["hmac_file_server_redis_up"] == 1


class OutageTests(RedisTestCase):
    """Redis does not do what it is there for: what needs no Redis goes on, what needs it is told to come back."""

    needs: ClassVar[tuple[str, ...]] = ("curl", "redis")

    def setUp(self) -> None:
        super().setUp()
        self.admin = self.redis.admin()

    def check(self, fail: Callable[[], None], mend: Callable[[], None]) -> None:
        """Let it fail while an upload is broken off and another one is under way, and mend it afterwards."""
        stored, under_way, plain = (self.make_client(path=f"slot/{name}") for name in ("stored", "under-way", "plain"))
        self.assertEqual(stored.put().status, 201)
        self.interrupt(HALF)
        self.assertEqual(self.client.offset(), HALF)
        with under_way.begin(HALF) as connection:
            wait_until(lambda: len(self.daemon.parts()) == 2, "the other upload has begun")
            fail()
            self.assertEqual(plain.put().status, 201)
            connection.send(under_way.content[HALF:])
            self.assertEqual(connection.answer("PUT").status, 201)
        for client in (stored, under_way, plain):
            self.assertTrue(client.get().body == client.content)
        self.check_told_to_come_back()
        self.assertFalse(self.redis_is_up())
        self.daemon.process.wait_for_line("warn: Redis at .* is away")
        there = self.daemon.process.output.count("(commands) is there")
        mend()
        self.resumes_again(self.client, HALF)
        self.daemon.process.wait_for_line(r"Redis at .* \(commands\) is there", count=there + 1)
        self.assertNotIn("Traceback", self.daemon.process.output)
        wait_until(self.redis_is_up, "the metrics know it")
        self.assertTrue(self.daemon.process.running)

    def check_told_to_come_back(self) -> None:
        """503 and when to come back, and not after half a minute."""
        file = self.directory / "film.mp4"
        file.write_bytes(self.client.content)
        for arguments in (["-C", str(HALF), "-T", str(file)], ["-I"]):
            answer = self.hasty(*arguments)
            self.assertEqual((answer.exit_status, answer.status), (0, 503), answer.error)
            self.assertGreater(int(answer.header("Retry-After") or ""), 0)
        errors = self.daemon.metrics()['hmac_file_server_upload_errors_total{reason="unavailable"}']
        self.assertGreaterEqual(errors, 1)

    def hasty(self, *arguments: str) -> Fetched:
        """curl, for those who have 4 seconds. What is promised is 2, but machines have bad days, too."""
        return curl("--max-time", "4", *arguments, self.daemon.url(self.client.target))

    def test_away(self) -> None:
        """It is gone, and comes back empty."""
        self.check(self.redis.process.kill, self.redis.start)

    def test_hung(self) -> None:
        """It takes connections and commands, and answers nothing."""
        self.check(lambda: self.redis.process.signal(signal.SIGSTOP), lambda: self.redis.process.signal(signal.SIGCONT))

    def test_too_many_clients(self) -> None:
        """It hangs up on us, and has no place for us any more."""
        self.check(lambda: self.configure("maxclients 1"), lambda: self.admin.order("CONFIG SET maxclients 100"))

    def test_wrong_password(self) -> None:
        """Somebody has given it a password, or another one."""
        self.check(lambda: self.configure("requirepass another"), lambda: self.admin.order('CONFIG SET requirepass ""'))

    def configure(self, setting: str) -> None:
        """Change a setting, and have it count for everybody."""
        self.admin.order(f"CONFIG SET {setting}")
        for kind in ("normal", "pubsub"):
            self.admin.order(f"CLIENT KILL TYPE {kind} SKIPME yes")

    def test_read_only(self) -> None:
        """It has become a replica."""
        self.check(lambda: self.admin.order("REPLICAOF 127.0.0.1 1"), lambda: self.admin.order("REPLICAOF NO ONE"))

    def test_out_of_memory(self) -> None:
        """It has no room for one more key."""
        self.check(
            lambda: self.admin.order("CONFIG SET maxmemory 1"), lambda: self.admin.order("CONFIG SET maxmemory 0")
        )

    def test_loading(self) -> None:
        """It was restarted, and reads its memory from a slow disk."""
        self.redis.options["enable-debug-command"] = "local"
        self.redis.process.stop()
        self.redis.start()
        self.admin = self.redis.admin()
        self.admin.order("DEBUG POPULATE 20000")
        wait_until(self.redis_is_up, "hmacfs finds its Redis again", RECOVERY_S)
        self.check(self.load_slowly, lambda: self.admin.order("CONFIG SET key-load-delay 0"))

    def load_slowly(self) -> None:
        self.admin.order("SAVE")
        self.redis.process.kill()
        self.redis.options["key-load-delay"] = "1000"
        self.redis.options["loading-process-events-interval-bytes"] = "1024"
        self.redis.start("Server initialized")
        wait_until(self.redis.socket.exists, "it listens")
        self.admin = self.redis.admin()


class ForgettingTests(RedisTestCase):
    """Redis is there, and has forgotten everything."""

    def setUp(self) -> None:
        super().setUp()
        self.admin = self.redis.admin()

    def test_broken_upload(self) -> None:
        """Between break and resume: the part file says enough by itself."""
        self.interrupt(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.admin.order("FLUSHALL")
        self.resumes_again(self.client, HALF)

    def test_broken_upload_of_killed_server(self) -> None:
        """The server has forgotten as well."""
        self.interrupt(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.daemon.process.kill()
        self.admin.order("FLUSHALL")
        self.daemon.restart()
        self.resumes_again(self.client, HALF)

    def test_running_upload(self) -> None:
        """In the middle of an upload: it is known again from its next checkpoint on, and ends well."""
        with self.client.begin(HALF) as connection:
            self.arrived(HALF)
            self.admin.order("FLUSHALL")
            connection.send(self.client.content[HALF:])
            self.assert_stored(connection.answer("PUT"))

    def test_running_upload_that_breaks(self) -> None:
        """If it breaks then, every byte counts: those before, and those after."""
        with self.client.begin(HALF) as connection:
            self.arrived(HALF)
            self.admin.order("FLUSHALL")
            connection.send(self.client.content[HALF:7_000_000])
            self.arrived(7_000_000)
        self.resumes_again(self.client, 7_000_000)

    def test_lost_bytes_are_not_found_again(self) -> None:
        """That the bytes of an upload are lost is known without Redis, too."""
        self.interrupt(HALF)
        self.assertEqual(self.client.offset(), HALF)
        [part] = self.daemon.parts()
        with part.open("r+b") as file:
            file.truncate(1000)
        self.admin.order("FLUSHALL")
        self.assertEqual([self.client.head().status, self.client.part(HALF).status], [410, 410])
        self.assert_stored(self.client.put())


class RestartTests(RedisTestCase):
    """Redis and the server come and go."""

    def test_away_at_the_start(self) -> None:
        """The server starts without Redis, takes plain uploads, and resumes those that break when Redis comes."""
        self.redis.process.kill()
        self.daemon.process.kill()
        self.daemon.restart()
        self.assert_stored(self.client.put())
        other = self.make_client(path="slot/other")
        self.interrupt(HALF, client=other)
        self.assertEqual(other.head().status, 503)
        self.redis.start()
        self.resumes_again(other, HALF)

    def test_restarted_while_idle(self) -> None:
        """A Redis that was restarted while nobody uploaded is used again by who comes next."""
        self.interrupt(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.redis.process.stop()
        self.redis.start()
        self.resumes_again(self.client, HALF)

    def test_stop_while_hung(self) -> None:
        """A server can be stopped although its Redis doesn't answer; what has arrived is kept."""
        with self.client.begin(HALF) as connection:
            self.arrived(HALF)
            self.redis.process.signal(signal.SIGSTOP)
            self.daemon.process.signal(signal.SIGTERM)
            self.assertEqual(connection.answer("PUT").status, 503)
        self.daemon.process.wait()
        self.redis.process.signal(signal.SIGCONT)
        self.daemon.restart()
        self.resumes_again(self.client, HALF)
