"""Days on which somebody sets the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from tests.e2e.daemon import Daemon, TomlValue, command
from tests.e2e.processes import PeerTestCase, Process, program, run, wait_until
from tests.e2e.resuming import Client, OnRedis, ResumeTestCase
from tests.e2e.wire import Answer, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object

MONTH_S = 30 * 86_400

_LATER = (423, 503)
"""What a client is told that had better come back."""


class ClockedDaemon(Daemon):
    """A server that sees another time than everybody else."""

    def __init__(self, case: PeerTestCase, **keys: TomlValue) -> None:
        self._shift = case.directory / "shift"
        self.see("+0s")
        super().__init__(case, text=None, **keys)

    def see(self, shift: str) -> None:
        """From now on it is that much later, or earlier, as libfaketime writes it."""
        temporary = self._shift.with_suffix(".new")
        temporary.write_text(f"{shift}\n", encoding="ascii")
        temporary.replace(self._shift)

    def spawn(self) -> None:
        argv = [*command("twistd"), "-n", "--pidfile=", "hmacfs", "-c", str(self.config)]
        env = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._shift),
            "FAKETIME_NO_CACHE": "1",
            # As when somebody sets a clock: only that one, and not the times that files have already.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.process = self._case.started(Process("hmacfs", argv, cwd=self.directory, env=env))


def library() -> str:
    """The library that the program faketime would have loaded, which knows no file to be steered by."""
    return run([program("faketime"), "-m", "now", "sh", "-c", "echo $LD_PRELOAD"]).text.strip()


class ClockMixin(_Case):
    """The clock is set by more than ``SessionTTL``, and by more than any timeout."""

    daemon: ClockedDaemon

    def serve(self, **keys: TomlValue) -> Daemon:
        return ClockedDaemon(self, **{**self.keys(), **keys}).started()

    def seen(self) -> float:
        """The time of the server's last line in its log, in seconds since the epoch."""
        self.daemon.ask("GET", "/upload/what/time")
        stamp = self.daemon.process.wait_for_line("what/time").split(".")[0]
        return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S")) - time.timezone

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer to a client that comes back when it is told to.

        libfaketime reads a file at each look at the clock: on a busy machine the state store doesn't answer in time.
        """

        def asked() -> Answer | None:
            answer = ask()
            return None if answer.status in _LATER else answer

        answer = wait_until(asked, "the server can ask its state store")
        assert answer is not None
        return answer

    def offset(self, client: Client) -> int:
        """The durable offset, which that client is told."""
        head = self.patiently(client.head)
        self.assertEqual(head.status, 204)
        return int(head.header("Upload-Offset") or "")

    def test_set_back(self) -> None:
        """Uploads under way go on, broken ones can be resumed, before and after a restart; nothing is removed."""
        broken, restarted = self.make_client(path="slot/broken"), self.make_client(path="slot/restarted")
        for client, arrived in ((broken, 1_000_000), (restarted, 1_100_000)):
            self.interrupt(arrived, client=client)
            self.assertEqual(self.offset(client), arrived)
        with self.client.begin(2_000_000) as connection:
            self.arrived(2_000_000)
            self.daemon.see("-2d")
            connection.send(self.client.content[2_000_000:])
            self.assertEqual(connection.answer("PUT").status, 201)
        self.assertLess(self.seen(), time.time() - 86_400)
        self.assertEqual(self.offset(broken), 1_000_000)
        self.assertEqual(self.patiently(lambda: broken.part(1_000_000)).status, 201)
        self.daemon.process.stop()
        # The janitor comes with the start.
        self.daemon.restart()
        self.assertEqual(self.offset(restarted), 1_100_000)
        self.assertEqual(self.patiently(lambda: restarted.part(1_100_000)).status, 201)
        for client in (self.client, broken, restarted):
            self.assertTrue(client.get().body == client.content)

    def test_right_again(self) -> None:
        """It was an hour behind, and is put right: what broke before that can be resumed."""
        self.daemon.see("-1h")
        self.assertLess(self.seen(), time.time() - 3000)
        self.interrupt(1_000_000)
        self.assertEqual(self.offset(self.client), 1_000_000)
        self.daemon.see("+0s")
        self.daemon.process.stop()
        self.daemon.restart()
        self.assert_stored(self.patiently(lambda: self.client.part(1_000_000)))


class EmbeddedClockTests(ClockMixin, ResumeTestCase):
    """Leases and expiries by the clock of the server."""

    needs: ClassVar[tuple[str, ...]] = ("faketime",)

    def test_set_forward(self) -> None:
        """A month is over at once: who is connected doesn't notice, timers go on, and what is broken off has expired."""
        broken, stored = self.make_client(path="slot/broken"), self.make_client(path="slot/stored")
        self.assertEqual(stored.put().status, 201)
        self.interrupt(1_000_000, client=broken)
        self.assertEqual(self.offset(broken), 1_000_000)
        with self.client.begin(2_000_000) as connection, Connection(self.daemon.port) as idle:
            self.arrived(2_000_000)
            self.assertEqual(idle.request("OPTIONS", "/upload/x").status, 204)
            self.daemon.see("+30d")
            # Timers have their chance to be due all at once.
            self.assertGreater(self.seen(), time.time() + MONTH_S - 86_400)
            connection.send(self.client.content[2_000_000:2_500_000])
            self.arrived(2_500_000)
            self.assertEqual(idle.request("OPTIONS", "/upload/x").status, 204)
            connection.send(self.client.content[2_500_000:])
            self.assertEqual(connection.answer("PUT").status, 201)
        self.assertTrue(stored.get().body == stored.content)
        # The janitor comes with the start, and has nothing against the young.
        young = self.make_client(path="slot/young")
        self.interrupt(1_100_000, client=young)
        self.assertEqual(self.offset(young), 1_100_000)
        self.daemon.process.stop()
        self.daemon.restart()
        self.daemon.process.wait_for_line("janitor: removed [0-9]+ uploads that were not finished in time")
        self.assertEqual(broken.head().status, 404)
        self.assertEqual(self.patiently(lambda: young.part(1_100_000)).status, 201)
        for client in (self.client, stored, young):
            self.assertTrue(client.get().body == client.content)
        self.assertNotIn("Traceback", self.daemon.process.output)

    def test_timers(self) -> None:
        """Set back by days, a timeout comes as it would have: a body that never ends is cut."""
        self.daemon.process.stop()
        self.daemon.config.write_text(self.daemon.config.read_text() + "ReadTimeout = 5\n")
        self.daemon.restart()
        with self.client.begin(10_000) as connection:
            self.arrived(10_000)
            self.daemon.see("-2d")
            self.assertEqual(connection.answer("PUT").status, 408)


class RedisClockTests(OnRedis, ClockMixin, ResumeTestCase):
    """Expiries by the clock of the server, leases by that of Redis."""

    needs: ClassVar[tuple[str, ...]] = ("faketime", "redis")
