"""What failures lead to, and what every store of bans promises: one set of tests, that each store's module runs."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from hmacfs.access.banstate import (
    CLOCK_SLACK_S,
    KEPT_FAILURES,
    PAGE_RECORDS,
    Failure,
    IBanState,
    Kind,
    Mark,
    Policy,
    Record,
    Sentence,
    judged,
    network_of,
    network_text,
    pardoned,
    sentenced,
    unchanged,
)

NOW = 1_700_000_000.25
SCOPE = "203.0.113.9"
POLICY = Policy(after_fails=3, block_s=300.0, again_s=600.0, ban_s=900.0)
BAN = Sentence(Kind.BANNED, NOW, NOW + 60, "scans", manual=True)


class Life:
    """One client's record, as time passes."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.now = NOW
        self.record = Record(SCOPE)
        self._marks = 0

    def fail(self, times: int = 1, reason: str = "bad-signature") -> Sentence | None:
        """What is in force after so many failures."""
        for _ in range(times):
            self._marks += 1
            self.record = judged(self.record, Failure(self.now, reason, str(self._marks)), self.policy)
        return self.in_force

    @property
    def in_force(self) -> Sentence | None:
        sentence = self.record.sentence
        return sentence if sentence is not None and sentence.left_s(self.now) > 0 else None

    def blocked(self) -> Sentence:
        """Fail until it is enough."""
        sentence = self.fail(self.policy.after_fails)
        assert sentence is not None
        return sentence


class JudgementTests(SynchronousTestCase):
    """Failures, blocks and bans."""

    def setUp(self) -> None:
        self.life = Life()

    def test_enough(self) -> None:
        """The third failure blocks for the time of a block, and is told why."""
        self.assertIsNone(self.life.fail(2))
        self.life.now += 10
        self.assertEqual(
            self.life.fail(1, "bad-path"),
            Sentence(Kind.BLOCKED, NOW + 10, NOW + 310, "2 bad-signature, 1 bad-path", 3),
        )

    def test_too_slow(self) -> None:
        """Failures further apart than a block lasts don't add up."""
        for _ in range(10):
            self.assertIsNone(self.life.fail(2))
            self.life.now += 301

    def test_never(self) -> None:
        """0 blocks nobody."""
        self.assertIsNone(Life(Policy(0, 300.0, 600.0, 900.0)).fail(50))

    def test_blocked_is_not_extended(self) -> None:
        """Who is blocked doesn't make it worse, and isn't held to it afterwards."""
        block = self.life.blocked()
        self.life.now += 299
        self.assertEqual(self.life.fail(10), block)
        self.life.now += 2
        self.assertIsNone(self.life.in_force)
        self.assertIsNone(self.life.fail(2))

    def test_second_block_is_a_ban(self) -> None:
        """Within AutoBanTime of the first one's end."""
        self.life.blocked()
        self.life.now += 300 + 600
        ban = self.life.blocked()
        self.assertEqual((ban.kind, ban.until), (Kind.BANNED, self.life.now + 900))

    def test_much_later(self) -> None:
        """A block that comes later is one more first."""
        self.life.blocked()
        self.life.now += 300 + 601
        self.assertIs(self.life.blocked().kind, Kind.BLOCKED)

    def test_ban_without_end(self) -> None:
        """Where bans don't end by themselves, this one doesn't, and neither is it forgotten."""
        self.life = Life(Policy(3, 300.0, 600.0, None))
        self.life.blocked()
        self.life.now += 301
        self.assertEqual(self.life.blocked().left_s(NOW + 1e9), inf)
        self.assertEqual(self.life.record.forgotten, inf)

    def test_pardoned(self) -> None:
        """Whom the operator lets in again begins at nothing; what there was can still be looked at."""
        self.life.blocked()
        self.life.now += 5
        self.life.record = pardoned(self.life.record, self.life.now)
        self.life.now += 1
        self.assertIsNone(self.life.fail(2))
        self.assertIs(self.life.blocked().kind, Kind.BLOCKED)
        self.assertEqual(len(self.life.record.failures), 6)

    def test_told_twice(self) -> None:
        """A failure that is told again is the same one."""
        failure = Failure(NOW, "bad-signature", "1")
        record = Record(SCOPE)
        for _ in range(9):
            record = judged(record, failure, POLICY)
        self.assertEqual((record.failures, record.sentence), ((failure,), None))

    def test_bounded(self) -> None:
        """However much somebody fails, a record stays small."""
        life = Life(Policy(0, 300.0, 600.0, None))
        life.fail(500)
        self.assertEqual(len(life.record.failures), KEPT_FAILURES)

    def test_many_allowed(self) -> None:
        """As many are kept as have to be counted."""
        life = Life(Policy(100, 300.0, 600.0, None))
        self.assertIsNone(life.fail(99))
        self.assertIsNotNone(life.fail())

    def test_clock_set_back(self) -> None:
        """A sentence from a future that was taken back is void, and does not keep others from being imposed."""
        self.life.blocked()
        self.life.now -= 10_000
        self.assertIsNone(self.life.in_force)
        self.assertEqual(self.life.blocked().until, self.life.now + 300)

    def test_clocks_differ(self) -> None:
        """That another host is some seconds ahead changes nothing, and makes no sentence longer."""
        block = self.life.blocked()
        self.life.now -= CLOCK_SLACK_S / 2
        self.assertEqual(self.life.in_force, block)
        self.assertEqual(block.left_s(self.life.now), 300)

    @given(
        st.integers(1, 5),
        st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=60),
        st.sampled_from((None, 500.0)),
    )
    def test_life(self, after_fails: int, steps: list[tuple[int, bool]], ban_s: float | None) -> None:
        """Whatever somebody does and when: a sentence has the length that it is to have, is never changed while it
        lasts, takes enough failures since the last one's end, and is a ban if and only if it comes soon after one."""
        life = Life(Policy(after_fails, 300.0, 600.0, ban_s))
        last: Sentence | None = None
        fails: list[float] = []
        for wait_s, fails_now in steps:
            life.now += wait_s
            before = life.in_force
            if not fails_now:
                continue
            now = life.fail()
            if before is not None:
                self.assertEqual(now, before)
                continue
            fails.append(life.now)
            since = life.now - 300
            if last is not None and last.until is not None:
                since = max(since, last.until)
            enough = len([at for at in fails if at >= since]) >= after_fails
            self.assertEqual(now is not None, enough)
            if now is not None:
                soon = last is not None and last.until is not None and life.now - last.until <= 600
                self.assertIs(now.kind, Kind.BANNED if soon else Kind.BLOCKED)
                length_s = ban_s if soon else 300.0
                self.assertEqual(now.until, None if length_s is None else life.now + length_s)
                last = now


class ScopeTests(SynchronousTestCase):
    def test_written(self) -> None:
        """What an operator writes, and what it is known as."""
        for text, scope in (
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("2001:DB8:0::1", "2001:db8::1/128"),
            ("2001:db8::/56", "2001:db8::/56"),
        ):
            self.assertEqual(network_text(network_of(text)), scope)

    def test_nonsense(self) -> None:
        for text in ("", "host.example", "203.0.113.9/24", "203.0.113", "::1%eth0/64"):
            self.assertRaises(ValueError, network_of, text)


if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class BanStateMixin(_Base):
    """The tests. A class that runs them says how to make a store."""

    clock: Clock
    state: IBanState
    other: IBanState
    """Another process's view of the same store."""

    async def ban(self, scope: str = SCOPE, state: IBanState | None = None) -> Record:
        (record,) = await (state or self.state).update([scope], lambda record: sentenced(record, BAN, 600.0))
        return record

    async def test_every_field_is_kept(self) -> None:
        """Another process reads what was written."""
        failure = Failure(NOW - 0.125, "bad-signature", "mark-1")

        def change(record: Record) -> Record:
            return sentenced(judged(record, failure, POLICY), BAN, 600.0)

        (written,) = await self.state.update([SCOPE], change)
        self.assertEqual(written.sentence, BAN)
        self.assertEqual(list(await self.other.update([SCOPE], unchanged)), [written])
        changes = await self.other.changes(Mark())
        self.assertEqual((list(changes.records), changes.more), ([written], False))

    async def test_for_ever(self) -> None:
        """What never ends is kept as such."""
        sentence = Sentence(Kind.BANNED, NOW, None, "пример \x1b[31m \N{CAT FACE}", 0, manual=True)
        await self.state.update(["2001:db8::/64"], lambda record: sentenced(record, sentence, 600.0))
        self.clock.advance(1e9)
        await self.state.purge()
        (record,) = (await self.other.changes(Mark())).records
        self.assertEqual((record.scope, record.sentence, record.forgotten), ("2001:db8::/64", sentence, inf))

    async def test_nothing_there(self) -> None:
        """Who was never heard of has an empty record, and looking makes none."""
        self.assertEqual(list(await self.state.update([SCOPE], unchanged)), [Record(SCOPE)])
        changes = await self.state.changes(Mark())
        self.assertEqual((list(changes.records), changes.more), ([], False))

    async def test_changes_are_followed(self) -> None:
        """Each is told once to who goes on from the mark; the latest state of each, not its history."""
        first = await self.ban("192.0.2.1")
        changes = await self.other.changes(Mark())
        self.assertEqual(list(changes.records), [first])
        self.assertEqual(list((await self.other.changes(changes.mark)).records), [])
        second = await self.ban("192.0.2.2")
        (lifted,) = await self.state.update(["192.0.2.1"], lambda record: pardoned(record, NOW))
        changes = await self.other.changes(changes.mark)
        self.assertEqual(list(changes.records), [second, lifted])

    async def test_failures_are_no_news(self) -> None:
        """Nobody needs to know of them before something comes of it."""
        await self.ban()
        mark = (await self.other.changes(Mark())).mark
        await self.state.update(
            ["192.0.2.1", SCOPE], lambda record: judged(record, Failure(NOW, "bad-path", "1"), POLICY)
        )
        changes = await self.other.changes(mark)
        self.assertEqual((changes.mark, list(changes.records)), (mark, []))

    async def test_processes_add_up(self) -> None:
        """However many processes tell of failures at once, none is lost."""

        def change(number: int) -> object:
            failure = Failure(NOW, "bad-signature", str(number))
            state = (self.state, self.other)[number % 2]
            return state.update([SCOPE], lambda record: judged(record, failure, Policy(12, 300.0, 600.0, None)))

        await gatherResults([change(number) for number in range(12)])
        (record,) = await self.state.update([SCOPE], unchanged)
        self.assertEqual({failure.mark for failure in record.failures}, {str(number) for number in range(12)})
        assert record.sentence is not None
        self.assertEqual(record.sentence.failures, 12)

    async def test_forgotten(self) -> None:
        """What nobody needs to know any more is dropped."""
        await self.ban()
        self.clock.advance(60 + 600 + 24 * 3600 - 1)
        await self.state.purge()
        self.assertNotEqual(list(await self.state.update([SCOPE], unchanged)), [Record(SCOPE)])
        self.clock.advance(2)
        await self.state.purge()
        self.assertEqual(list(await self.state.update([SCOPE], unchanged)), [Record(SCOPE)])
        self.assertEqual(list((await self.other.changes(Mark())).records), [])

    async def test_many(self) -> None:
        """Changes come in pages, whole and in order."""
        scopes = [f"192.0.2.{number}" for number in range(PAGE_RECORDS + 50)]
        await self.state.update(scopes, lambda record: sentenced(record, BAN, 600.0))
        first = await self.other.changes(Mark())
        second = await self.other.changes(first.mark)
        self.assertEqual((first.more, second.more), (True, False))
        self.assertEqual([record.scope for record in (*first.records, *second.records)], scopes)
