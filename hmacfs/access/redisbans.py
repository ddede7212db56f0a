"""Bans in a Redis, for the processes of several hosts.

A record is changed by comparing and swapping: the change is made here, and a script puts it in place unless somebody
else was first. Redis drops records by itself when they may be forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from hmacfs.access.banstate import (
    MAX_RECORDS,
    PAGE_RECORDS,
    BansAway,
    Change,
    Changes,
    IBanState,
    Mark,
    Record,
)
from hmacfs.net.redislink import RedisAway, RedisLink

#: How often a record that others change all the time is tried.
_TRIES: Final = 20

#: How many records one call of :meth:`RedisBanState.purge` drops.
_PURGED: Final = 1_000

#: The longest time that Redis is told to keep anything, in seconds: a hundred years, for what is never forgotten.
_FOR_EVER_S: Final = 100 * 365 * 86_400

_READ: Final = "return redis.call('HGET', KEYS[1], 'record') or ''"

# KEYS: the record, the scopes by version, the scopes by end, the life.
# ARGV: scope, old text, new text, end (seconds), time to keep (milliseconds), whether the sentence changed, a life.
_SWAP: Final = """
local there = redis.call('HGET', KEYS[1], 'record') or ''
if there ~= ARGV[2] then return 'no ' .. there end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
if ARGV[6] == '1' then
    if not redis.call('HGET', KEYS[4], 'name') then redis.call('HSET', KEYS[4], 'name', ARGV[7]) end
    redis.call('ZADD', KEYS[2], redis.call('HINCRBY', KEYS[4], 'version', 1), ARGV[1])
end
return 'ok'
"""

# KEYS: the scopes by version, the scopes by end, the life.
# ARGV: the mark's life and version, how many, what records' keys begin with, a life.
# Answers with the life, the last version, and a scope, its version and its text for each record.
_CHANGES: Final = """
local life = redis.call('HGET', KEYS[3], 'name')
if not life then
    life = ARGV[5]
    redis.call('HSET', KEYS[3], 'name', life)
end
local version = redis.call('HGET', KEYS[3], 'version') or '0'
local after = ARGV[2]
if life ~= ARGV[1] then after = '0' end
local answer = {life, version}
if after == version then return answer end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #found, 2 do
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = found[i + 1]
    answer[#answer + 1] = redis.call('HGET', ARGV[4] .. found[i], 'record') or ''
end
return answer
"""

# KEYS: the scopes by version, the scopes by end. ARGV: now, how many may stay, how many to drop, what keys begin with.
_PURGE: Final = """
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[3])
local excess = math.min(redis.call('ZCARD', KEYS[2]) - #ended - ARGV[2], ARGV[3] - #ended)
if excess > 0 then
    ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(+inf', 'LIMIT', 0, #ended + excess)
end
for _, scope in ipairs(ended) do
    redis.call('DEL', ARGV[4] .. scope)
    redis.call('ZREM', KEYS[1], scope)
    redis.call('ZREM', KEYS[2], scope)
end
return 'ok'
"""


@implementer(IBanState)
class RedisBanState:
    """See :class:`~hmacfs.access.banstate.IBanState`.

    :param link: started and stopped by whoever made it.
    :param now: the time in seconds since the epoch.
    :param prefix: ``RedisPrefix``, which all keys begin with.
    """

    def __init__(self, link: RedisLink, now: Callable[[], float], prefix: str) -> None:
        self._link = link
        self._now = now
        # The number is that of the format: another one doesn't see these keys.
        base = f"{prefix}{{bans1}}:"
        self._record_key = f"{base}record:"
        self._by_version, self._by_end, self._life = (f"{base}{name}" for name in ("versions", "ends", "life"))

    def start(self) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def update(self, scopes: Sequence[str], change: Change) -> Deferred[Sequence[Record]]:
        return Deferred.fromCoroutine(self._update(scopes, change))

    def changes(self, mark: Mark) -> Deferred[Changes]:
        return Deferred.fromCoroutine(self._changes(mark))

    def purge(self) -> Deferred[None]:
        keys = [self._by_version, self._by_end]
        args = [_number(self._now()), MAX_RECORDS, _PURGED, self._record_key]
        return self._eval(_PURGE, keys, args).addCallback(lambda _: None)

    async def _update(self, scopes: Sequence[str], change: Change) -> Sequence[Record]:
        # One after another: the link sends what others have to say in between.
        return [await self._update_one(scope, change) for scope in scopes]

    async def _update_one(self, scope: str, change: Change) -> Record:
        text: bytes = await self._eval(_READ, [self._record_key + scope], [])
        for _ in range(_TRIES):
            old = Record.from_text(scope, text) if text else Record(scope)
            new = change(old)
            if new == old:
                return old
            answer = await self._swap(old, text, new)
            if answer == b"ok":
                return new
            text = answer.removeprefix(b"no ")
        raise BansAway("busy")

    def _swap(self, old: Record, old_text: bytes, new: Record) -> Deferred[bytes]:
        left_s = min(max(new.forgotten - self._now(), 1.0), _FOR_EVER_S)
        keys = [self._record_key + new.scope, self._by_version, self._by_end, self._life]
        changed = int(new.sentence != old.sentence)
        end = _number(new.forgotten)
        return self._eval(
            _SWAP, keys, [new.scope, old_text, new.to_text(), end, int(1000 * left_s), changed, _new_life()]
        )

    async def _changes(self, mark: Mark) -> Changes:
        keys = [self._by_version, self._by_end, self._life]
        args = [mark.life, mark.version, PAGE_RECORDS, self._record_key, _new_life()]
        life, last, *found = await self._eval(_CHANGES, keys, args)
        triples = list(zip(found[::3], found[1::3], found[2::3], strict=True))
        more = len(triples) == PAGE_RECORDS
        version = int(float(triples[-1][1])) if more else int(last)
        # A record that is gone was forgotten, which is long after its end.
        records = [Record.from_text(scope.decode(), text) for scope, _, text in triples if text]
        return Changes(Mark(life.decode(), version), records, more)

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[object]) -> Deferred[Any]:
        encoded = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        return self._link.eval(script, keys, encoded).addErrback(_away)


def _number(seconds: float) -> str:
    return "+inf" if seconds == inf else repr(seconds)


def _new_life() -> str:
    return secrets.token_hex(8)


def _away(failure: Failure) -> NoReturn:
    if isinstance(failure.value, RedisAway):
        raise BansAway(failure.value.reason) from failure.value
    failure.raiseException()
