"""The store of bans, for commands that work beside a running daemon, or without one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from hmacfs.access.banstate import BansAway, IBanState
from hmacfs.access.embeddedbans import FILE_NAME, EmbeddedBanState
from hmacfs.cli.output import Fault
from hmacfs.config import Config, RedisAddress
from hmacfs.errors import StartError
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.names import OWN_DIRECTORY

T = TypeVar("T")

#: What a command does with the store.
Work = Callable[[IBanState], Awaitable[T]]


def with_bans(config: Config, work: Work[T]) -> T:
    """Open the store that *config* names, do *work* with it, and close it.

    :raises StartError: there is none: a command doesn't make one.
    :raises Fault: it can't be used now.
    """
    try:
        return _embedded(config, work) if config.redis is None else _on_redis(config, config.redis, work)
    except BansAway as away:
        raise Fault(f"The store of bans can't be used now: {away.reason}.") from away


def _embedded(config: Config, work: Work[T]) -> T:
    directory = config.store_dir / OWN_DIRECTORY.decode()
    if not directory.is_dir():
        raise StartError(f"{directory}: there is no such directory. Has hmacfs ever been started with this StoreDir?")
    state: IBanState = EmbeddedBanState(directory / FILE_NAME, InlineThreads(), time.time)
    outcome: list[T | Failure] = []
    Deferred.fromCoroutine(_done(state, work)).addBoth(outcome.append)
    return _result(outcome)


def _on_redis(config: Config, address: RedisAddress, work: Work[T]) -> T:
    """The link to Redis needs a reactor, which runs for as long as the work takes."""
    from twisted.internet import task

    from hmacfs.access.redisbans import RedisBanState
    from hmacfs.serving import redis_link, start_link

    async def linked(reactor: Any) -> T:
        link = redis_link(config, reactor, address)
        state: IBanState = RedisBanState(link, time.time, config.redis_prefix)
        await start_link(link)
        try:
            return await _done(state, work)
        finally:
            await link.stop()

    outcome: list[T | Failure] = []
    with suppress(SystemExit):
        task.react(lambda reactor: Deferred.fromCoroutine(linked(reactor)).addBoth(outcome.append))
    return _result(outcome)


async def _done(state: IBanState, work: Work[T]) -> T:
    await state.start()
    try:
        return await work(state)
    finally:
        await state.stop()


def _result(outcome: list[T | Failure]) -> T:
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result
