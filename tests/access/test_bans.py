"""What one process knows of blocks and bans, with a store that it shares, and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access import bans as bans_module
from hmacfs.access.addresses import ClientAddress, ClientAddresses
from hmacfs.access.bans import Bans, Verdict
from hmacfs.access.banstate import BansAway, IBanState, Kind, Policy, Record, Sentence, pardoned, sentenced, unchanged
from hmacfs.access.embeddedbans import EmbeddedBanState
from hmacfs.access.scopes import Scopes
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from tests.access.test_banstate import NOW

POLICY = Policy(after_fails=3, block_s=300.0, again_s=600.0, ban_s=900.0)
ATTACKER, OTHER = "203.0.113.9", "203.0.113.10"


class SwitchedState:
    """A store that can be taken away.

    :ivar away: whether nothing is heard of it.
    :ivar slow: answers that wait to be delivered; ``None`` where they come at once.
    """

    def __init__(self, state: Any) -> None:
        self._state = state
        self.away = False
        self.slow: list[Deferred[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Deferred[Any]:
            if self.away:
                return fail(BansAway("timeout"))
            called: Deferred[Any] = getattr(self._state, name)(*args)
            if self.slow is None:
                return called
            delivered: Deferred[None] = Deferred()
            self.slow.append(delivered)
            return delivered.addCallback(lambda _: called)

        return call


class BansTestCase(SynchronousTestCase):
    """Processes that share a file."""

    def setUp(self) -> None:
        self.clock, self.monotonic = Clock(), Clock()
        self.clock.advance(NOW)
        self.path = Path(self.mktemp()) / ".hmacfs" / "bans.sqlite"
        self.path.parent.mkdir(parents=True)
        self.states: dict[Bans, SwitchedState] = {}
        self.registry = CollectorRegistry()
        self.bans = self.make(metrics=Metrics(self.registry))

    def make(self, policy: Policy = POLICY, spares_readers: bool = False, metrics: Metrics | None = None) -> Bans:
        """One more process, started."""
        store = EmbeddedBanState(self.path, InlineThreads(), self.clock.seconds)
        self.addCleanup(store.stop)
        state = SwitchedState(store)
        bans = Bans(
            cast(IBanState, state),
            policy,
            scopes=Scopes(ClientAddresses([]), 64),
            spares_readers=spares_readers,
            now=self.clock.seconds,
            monotonic=self.monotonic.seconds,
            metrics=metrics or Metrics(CollectorRegistry()),
        )
        self.states[bans] = state
        self.successResultOf(Deferred.fromCoroutine(bans.start()))
        return bans

    def client(self, host: str = ATTACKER, is_proxy: bool = False) -> ClientAddress:
        return ClientAddress(host, is_proxy, headers_ignored=False)

    def misbehave(self, times: int = 3, host: str = ATTACKER, bans: Bans | None = None, is_proxy: bool = False) -> None:
        for _ in range(times):
            (bans or self.bans).refused(self.client(host, is_proxy), "bad-signature")

    def verdict(self, host: str = ATTACKER, bans: Bans | None = None, reading: bool = False) -> Verdict | None:
        return (bans or self.bans).verdict(self.client(host), reading)

    def advance(self, seconds: float, *processes: Bans) -> None:
        """Time passes, and every process has its turn."""
        self.clock.advance(seconds)
        self.monotonic.advance(seconds)
        for bans in processes or self.states:
            self.turn(bans)

    def turn(self, bans: Bans) -> None:
        self.successResultOf(Deferred.fromCoroutine(bans.turn()))

    def change(self, scope: str, change: Callable[[Record], Record]) -> Record:
        """What a command does to the store."""
        store = EmbeddedBanState(self.path, InlineThreads(), self.clock.seconds)
        (record,) = self.successResultOf(store.update([scope], change))
        self.successResultOf(store.stop())
        return cast(Record, record)

    def ban(self, scope: str, length_s: float | None = None) -> None:
        until = None if length_s is None else self.clock.seconds() + length_s
        sentence = Sentence(Kind.BANNED, self.clock.seconds(), until, "scans", manual=True)
        self.change(scope, lambda record: sentenced(record, sentence, 600.0))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"hmac_file_server_{name}", labels)


class CountingTests(BansTestCase):
    """Who is counted, and for what."""

    def test_at_once(self) -> None:
        """The request after the third failure is refused, without any time passing."""
        self.misbehave(2)
        self.assertIsNone(self.verdict())
        self.misbehave(1)
        self.assertEqual(self.verdict(), Verdict(Kind.BLOCKED, 300.0))
        self.assertIsNone(self.verdict(OTHER))

    def test_reasons(self) -> None:
        """What may happen to any client is no failure."""
        for reason in ("", "not-found", "conflict", "too-large", "upload-gone", "expired", "bad-name", "no-space"):
            for _ in range(5):
                self.bans.refused(self.client(), reason)
        for reason in ("uri-too-long", "head-too-large", "head-timeout", "internal", "client-gone", "blocked"):
            for _ in range(5):
                self.bans.refused(self.client(), reason)
        self.assertIsNone(self.verdict())
        for reason in ("bad-path", "malformed-head", "missing-signature"):
            self.bans.refused(self.client(), reason)
        self.assertIsNotNone(self.verdict())

    def test_nobody_in_particular(self) -> None:
        """A proxy that speaks for many, and peers without an address, are never counted."""
        self.misbehave(9, is_proxy=True)
        for host in ("unix", "unknown"):
            self.misbehave(9, host)
            self.assertIsNone(self.verdict(host))
        self.assertIsNone(self.verdict())
        self.assertFalse(self.bans.has_any)

    def test_proxy_is_never_refused(self) -> None:
        """Not even one that the operator has banned: it speaks for all of its clients."""
        self.ban(ATTACKER)
        self.turn(self.bans)
        self.assertIsNotNone(self.verdict())
        self.assertIsNone(self.bans.verdict(self.client(is_proxy=True), False))

    def test_ipv6(self) -> None:
        """A network is counted as one, and blocked as one."""
        for number in range(3):
            self.misbehave(1, f"2001:db8::{number}:1")
        self.assertIsNotNone(self.verdict("2001:db8::ffff"))
        self.assertIsNone(self.verdict("2001:db8:0:1::1"))

    def test_readers_are_spared(self) -> None:
        """Where only uploads are blocked, reading goes on."""
        bans = self.make(spares_readers=True)
        self.misbehave(bans=bans)
        self.assertIsNone(self.verdict(bans=bans, reading=True))
        self.assertIsNotNone(self.verdict(bans=bans))

    def test_switched_off(self) -> None:
        """With 0 nobody is blocked, but whom the operator bans is banned."""
        bans = self.make(Policy(0, 300.0, 600.0, 900.0))
        self.misbehave(50, bans=bans)
        self.assertIsNone(self.verdict(bans=bans))
        self.ban(ATTACKER)
        self.turn(bans)
        self.assertIsNotNone(self.verdict(bans=bans))


class EndTests(BansTestCase):
    """How blocks and bans end."""

    def test_block_ends(self) -> None:
        """At its time, and not before; refused requests don't change that."""
        self.misbehave()
        for _ in range(299):
            self.advance(1)
            self.assertIsNotNone(self.verdict())
        self.advance(1)
        self.assertIsNone(self.verdict())
        self.assertFalse(self.bans.has_any)

    def test_ban_ends(self) -> None:
        """The second block is a ban, which the sweep lifts."""
        self.misbehave()
        self.advance(301)
        self.misbehave()
        self.assertEqual(self.verdict(), Verdict(Kind.BANNED, 900.0))
        self.advance(901)
        self.assertIsNone(self.verdict())

    def test_ban_without_end(self) -> None:
        bans = self.make(Policy(3, 300.0, 600.0, None))
        self.misbehave(bans=bans)
        self.advance(301)
        self.misbehave(bans=bans)
        self.advance(1e8)
        self.assertIsNotNone(self.verdict(bans=bans))
        self.change(ATTACKER, lambda record: pardoned(record, self.clock.seconds()))
        self.turn(bans)
        self.assertIsNone(self.verdict(bans=bans))

    def test_clock_set(self) -> None:
        """Wherever the clock is set to, a block lasts as long as it was to."""
        self.misbehave()
        self.clock.rightNow -= 86_400
        self.turn(self.bans)
        self.monotonic.advance(299)
        self.turn(self.bans)
        self.assertIsNotNone(self.verdict())
        self.clock.rightNow += 10 * 86_400
        self.turn(self.bans)
        self.assertIsNotNone(self.verdict())
        self.monotonic.advance(1)
        self.assertIsNone(self.verdict())

    def test_clock_set_back_and_restarted(self) -> None:
        """A process that starts later doesn't take up what comes from the future."""
        self.misbehave()
        self.clock.rightNow -= 86_400
        self.assertIsNone(self.verdict(bans=self.make()))

    def test_retry_after(self) -> None:
        """In whole seconds, never 0, and for blocks only."""
        self.assertEqual(Verdict(Kind.BLOCKED, 0.2).retry_after_s, 1)
        self.assertEqual(Verdict(Kind.BLOCKED, 17.1).retry_after_s, 18)
        self.assertIsNone(Verdict(Kind.BANNED, 17.1).retry_after_s)


class SharingTests(BansTestCase):
    """Several processes, one after another or at once."""

    def test_told(self) -> None:
        """What one imposes the others know after their next turn."""
        other = self.make()
        self.misbehave()
        self.assertIsNone(self.verdict(bans=other))
        self.turn(other)
        self.assertEqual(self.verdict(bans=other), Verdict(Kind.BLOCKED, 300.0))

    def test_added_up(self) -> None:
        """Failures at several processes are failures of one client."""
        other = self.make()
        self.misbehave(2)
        self.misbehave(1, bans=other)
        self.assertIsNotNone(self.verdict(bans=other))

    def test_restart(self) -> None:
        """What is in force stays so, for the rest of its time."""
        self.misbehave()
        self.advance(100)
        self.assertEqual(self.verdict(bans=self.make()), Verdict(Kind.BLOCKED, 200.0))

    def test_second_block_after_a_restart(self) -> None:
        """The first one isn't forgotten with the process."""
        self.misbehave()
        self.advance(301)
        bans = self.make()
        self.misbehave(bans=bans)
        verdict = self.verdict(bans=bans)
        assert verdict is not None
        self.assertIs(verdict.kind, Kind.BANNED)

    def test_lifted(self) -> None:
        """Whom the operator lets in again comes in at all processes, and begins at nothing."""
        other = self.make()
        self.misbehave()
        self.turn(other)
        self.advance(1)
        self.change(ATTACKER, lambda record: pardoned(record, self.clock.seconds()))
        self.advance(1)
        for bans in (self.bans, other):
            self.assertIsNone(self.verdict(bans=bans))
        self.misbehave(2)
        self.assertIsNone(self.verdict())

    def test_networks(self) -> None:
        """Of any size, and one within another."""
        for scope, inside, outside in (
            ("198.51.100.0/24", "198.51.100.77", "198.51.101.1"),
            ("2001:db8:1::/48", "2001:db8:1:ffff::1", "2001:db8:2::1"),
            ("2001:db8:9::1/128", "2001:db8:9::1", "2001:db8:9::2"),
        ):
            self.assertIsNone(self.verdict(inside))
            self.ban(scope, 60)
            self.turn(self.bans)
            self.assertEqual(self.verdict(inside), Verdict(Kind.BANNED, 60.0))
            self.assertIsNone(self.verdict(outside))
        self.advance(61)
        self.assertIsNone(self.verdict("198.51.100.77"))

    def test_bounded(self) -> None:
        """Those that end soonest make room."""
        self.patch(bans_module, "MAX_KNOWN", 2)
        self.ban("192.0.2.1")
        self.ban("192.0.2.2", 10)
        self.ban("192.0.2.3", 20)
        self.turn(self.bans)
        refused = [self.verdict(f"192.0.2.{number}") is not None for number in (1, 2, 3)]
        self.assertEqual(refused, [True, False, True])


class AwayTests(BansTestCase):
    """The store can't be reached."""

    def away(self, away: bool = True) -> None:
        self.states[self.bans].away = away

    def test_last_known(self) -> None:
        """What is known stays in force, and ends at its time."""
        self.misbehave()
        self.away()
        self.advance(299)
        self.assertIsNotNone(self.verdict())
        self.advance(1)
        self.assertIsNone(self.verdict())

    def test_counted_alone(self) -> None:
        """Who fails is blocked all the same, and the store hears of it when it is back."""
        other = self.make()
        self.away()
        self.misbehave()
        self.assertIsNotNone(self.verdict())
        self.advance(5)
        self.assertIsNone(self.verdict(bans=other))
        self.away(False)
        self.advance(5)
        self.advance(1)
        self.assertEqual(self.verdict(bans=other), Verdict(Kind.BLOCKED, 289.0))

    def test_added_up_afterwards(self) -> None:
        """Failures that waited count from when they happened."""
        other = self.make()
        self.misbehave(1, bans=other)
        self.away()
        self.misbehave(2)
        self.assertIsNone(self.verdict())
        self.advance(10)
        self.away(False)
        self.turn(self.bans)
        self.turn(other)
        verdict = self.verdict(bans=other)
        assert verdict is not None
        self.assertEqual(verdict.left_s, 290.0)

    def test_said_once(self) -> None:
        """One line when it goes, one when it is back."""
        with capturedLogs() as events:
            self.away()
            for _ in range(5):
                self.misbehave(1)
                self.advance(1)
                self.successResultOf(Deferred.fromCoroutine(self.bans.purge()))
            self.away(False)
            self.advance(1)
            self.advance(1)
        lines = [line for line in map(formatEvent, events) if line and "store of bans" in line]
        self.assertEqual(["can't be reached" in line for line in lines], [True, False])

    def test_emptied(self) -> None:
        """A store that has lost everything gets back what is in force, also what it hadn't been told yet."""
        other = self.make()
        self.misbehave()
        self.ban("198.51.100.0/24")
        self.advance(1)
        self.away()
        self.misbehave(3, OTHER)
        for file in self.path.parent.iterdir():
            file.unlink()
        self.away(False)
        self.advance(1)
        self.advance(1)
        for bans in (self.bans, other, self.make()):
            for host in (ATTACKER, OTHER, "198.51.100.1"):
                self.assertIsNotNone(self.verdict(host, bans), host)

    def test_emptied_before_all_was_told(self) -> None:
        """That an emptied store knows of one failure only doesn't lift a block that had three."""
        self.misbehave(2)
        self.away()
        self.misbehave(1)
        for file in self.path.parent.iterdir():
            file.unlink()
        self.away(False)
        self.advance(1)
        self.assertIsNotNone(self.verdict())
        self.assertIsNotNone(self.change(ATTACKER, unchanged).sentence)

    def test_bounded(self) -> None:
        """However many fail meanwhile: no more than so many wait, and all are counted here."""
        self.patch(bans_module, "MAX_WAITING", 2)
        self.away()
        for number in range(4):
            self.misbehave(3, f"192.0.2.{number}")
        self.assertIsNotNone(self.verdict("192.0.2.3"))
        self.away(False)
        self.advance(1)
        other = self.make()
        refused = [self.verdict(f"192.0.2.{number}", other) is not None for number in range(4)]
        self.assertEqual(refused, [True, True, False, False])

    def test_slow(self) -> None:
        """What fails while the store is being told isn't lost from view when it answers."""
        waiting = self.states[self.bans].slow = []
        self.misbehave(2)
        waiting.pop(0).callback(None)
        self.misbehave(1)
        self.assertIsNotNone(self.verdict())
        while waiting:
            waiting.pop(0).callback(None)
        self.assertEqual(len(self.change(ATTACKER, unchanged).failures), 3)

    def test_stopped(self) -> None:
        """What waits is told before the end."""
        self.away()
        self.misbehave()
        self.away(False)
        self.successResultOf(Deferred.fromCoroutine(self.bans.stop()))
        self.assertIsNotNone(self.verdict(bans=self.make()))


class TellingTests(BansTestCase):
    """What the operator sees."""

    def lines(self, do: Callable[[], None]) -> list[str]:
        with capturedLogs() as events:
            do()
        return [formatEvent(event) for event in events]

    def test_log(self) -> None:
        """One line at the beginning and one at the end, with what happened between."""

        def live() -> None:
            self.misbehave()
            for _ in range(7):
                self.verdict()
            self.advance(300)

        begin, end = self.lines(live)
        self.assertEqual(begin, f"{ATTACKER} is blocked until 2023-11-14T22:18:20Z: 3 bad-signature")
        self.assertIn(f"{ATTACKER} is no longer blocked: its time is over; 7 requests", end)

    def test_log_of_the_operator(self) -> None:
        """What he adds and lifts is in the log of the process that obeys."""
        self.ban("198.51.100.0/24")
        self.assertEqual(
            self.lines(lambda: self.turn(self.bans)), ["198.51.100.0/24 is banned until the operator lifts it: scans"]
        )
        self.advance(1)
        self.change("198.51.100.0/24", lambda record: pardoned(record, self.clock.seconds()))
        (line,) = self.lines(lambda: self.turn(self.bans))
        self.assertIn("no longer banned: lifted by the operator", line)

    def test_metrics(self) -> None:
        self.misbehave()
        for _ in range(4):
            self.verdict()
        self.assertEqual(self.metric("failures_total", reason="bad-signature"), 3)
        self.assertEqual(self.metric("bans_imposed_total", kind="blocked"), 1)
        self.assertEqual(self.metric("blocked_requests_total", kind="blocked"), 4)
