"""The store of bans in Redis: the promises of every store, and those for when Redis is not well.

txredisapi takes its timers from the global reactor, so these tests run on it, against a Redis that they start.
"""

from __future__ import annotations

import signal

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access import redisbans
from hmacfs.access.banstate import BansAway, Mark, Record, sentenced, unchanged
from hmacfs.access.redisbans import RedisBanState
from hmacfs.config_addresses import RedisAddress
from hmacfs.net.redislink import RedisLink
from hmacfs.uploads.redisstate import redis_endpoint
from tests.access.test_banstate import BAN, NOW, SCOPE, BanStateMixin
from tests.awaiting import AwaitedTestCase
from tests.uploads.redisserver import RedisServer

PREFIX = "test:"


def make_link(server: RedisServer) -> RedisLink:
    address = RedisAddress(unix_path=server.socket)
    return RedisLink(reactor, redis_endpoint(reactor, address, None), str(address), probe_key=f"{PREFIX}probe")


class RedisTests(BanStateMixin, AwaitedTestCase):
    """Two processes' views of one Redis."""

    timeout = 60.0

    def setUp(self) -> Deferred[None]:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.server = RedisServer()
        self.addCleanup(self.server.remove)
        self.server.start()
        return Deferred.fromCoroutine(self.make_states())

    async def make_states(self) -> None:
        self.state, self.other = [await self.make_state() for _ in range(2)]

    async def make_state(self) -> RedisBanState:
        link = make_link(self.server)
        state = RedisBanState(link, self.clock.seconds, PREFIX)
        self.addCleanup(link.stop)
        await link.start()
        return state

    async def test_keys(self) -> None:
        """All keys have the prefix, live in one slot of a cluster, and records go by themselves some day."""
        await self.ban()
        await self.state.changes(Mark())
        base = f"{PREFIX}{{bans1}}:"
        expected = {f"{PREFIX}probe"} | {base + key for key in (f"record:{SCOPE}", "versions", "ends", "life")}
        self.assertEqual(set(self.server.command("KEYS", "*").split()), expected)
        left_ms = int(self.server.command("PTTL", f"{base}record:{SCOPE}"))
        self.assertIn(left_ms, range(1000 * (24 * 3600 + 600), 1000 * (24 * 3600 + 661)))

    async def test_emptied(self) -> None:
        """A Redis that has lost everything has another life."""
        await self.ban()
        mark = (await self.other.changes(Mark())).mark
        self.server.command("FLUSHALL")
        changes = await self.other.changes(mark)
        self.assertNotEqual(changes.mark.life, mark.life)
        self.assertEqual(list(changes.records), [])
        await self.ban()
        self.assertEqual([record.scope for record in (await self.other.changes(changes.mark)).records], [SCOPE])

    async def test_record_that_is_gone(self) -> None:
        """What Redis has dropped by itself is passed over."""
        await self.ban("192.0.2.1")
        await self.ban("192.0.2.2")
        self.server.command("DEL", f"{PREFIX}{{bans1}}:record:192.0.2.1")
        changes = await self.other.changes(Mark())
        self.assertEqual([record.scope for record in changes.records], ["192.0.2.2"])

    async def test_bounded(self) -> None:
        """What would be forgotten soonest makes room."""
        self.patch(redisbans, "MAX_RECORDS", 2)
        for number in range(4):
            change = lambda record: sentenced(record, BAN, float(100 - number))  # noqa: B023, E731
            await self.state.update([f"192.0.2.{number}"], change)
        await self.state.purge()
        changes = await self.state.changes(Mark())
        self.assertEqual([record.scope for record in changes.records], ["192.0.2.0", "192.0.2.1"])

    async def test_busy_record(self) -> None:
        """A record that others never leave alone is given up for now."""

        def interfered(record: Record) -> Record:
            self.clock.advance(1)
            text = Record(SCOPE, pardoned=self.clock.seconds()).to_text()
            self.server.command("HSET", f"{PREFIX}{{bans1}}:record:{SCOPE}", "record", text)
            return sentenced(record, BAN, 600.0)

        error = await self.assertFailure(self.state.update([SCOPE], interfered), BansAway)
        self.assertEqual(error.reason, "busy")

    async def test_silent(self) -> None:
        """A Redis that says nothing is away after a moment, and what it has is there afterwards."""
        await self.ban()
        self.server.send(signal.SIGSTOP)
        error = await self.assertFailure(self.state.changes(Mark()), BansAway)
        self.assertEqual(error.reason, "timeout")
        for call in (self.state.update([SCOPE], unchanged), self.state.purge()):
            await self.assertFailure(call, BansAway)
        self.server.send(signal.SIGCONT)
        while True:
            try:
                changes = await self.state.changes(Mark())
                break
            except BansAway:
                await deferLater(reactor, 0.05, lambda: None)
        self.assertEqual([record.sentence for record in changes.records], [BAN])


class AwayTests(SynchronousTestCase):
    """A Redis that was never there."""

    def test_away(self) -> None:
        """Starting is no failure, and everything else says what it is."""
        state = RedisBanState(make_link(self.server()), lambda: NOW, PREFIX)
        self.successResultOf(state.start())
        for call in (state.update([SCOPE], unchanged), state.changes(Mark()), state.purge()):
            self.assertEqual(self.failureResultOf(call, BansAway).value.reason, "not-connected")
        self.successResultOf(state.stop())

    def server(self) -> RedisServer:
        server = RedisServer()
        self.addCleanup(server.remove)
        return server
