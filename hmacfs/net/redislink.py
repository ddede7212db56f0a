"""A link to Redis that mends itself. Knows nothing of hmacfs.

txredisapi imports the global reactor at its top and takes timers from it. It is therefore imported when the link is
started and not before, so that whoever runs the process has chosen the reactor by then. Its connection pools aren't
used: a pool that loses a connection during AUTH or SELECT never connects again, and lets commands wait for a connection
without a limit (txredisapi issue 112). Its protocols are; connecting, logging in and giving up is done here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    ensureDeferred,
    fail,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

#: How long one call may take, in seconds; so may connecting, and so may logging in. A client that waits for it is to have
#: its answer within 2.
CALL_TIMEOUT_S: Final = 1.5

#: How often a connection is asked whether it is still good, in seconds.
PROBE_INTERVAL_S: Final = 3.0

#: How long to wait before connecting again, in seconds: the first time, and at most.
FIRST_DELAY_S: Final = 0.1
MAX_DELAY_S: Final = 4.0

_PROBE: Final = "return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])"


#: A command, to be given to a protocol of txredisapi's.
Command = Callable[[Any], Deferred[Any]]


class RedisAway(Exception):
    """Redis can't be asked, or does not do what it is asked.

    :param reason: one hyphenated word.
    :param detail: for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})"

    def again(self) -> RedisAway:
        """The same for another caller: an exception collects the traceback of everyone who raises it."""
        return RedisAway(self.reason, self.detail)


_REASONS: Final = {
    "READONLY": "read-only",
    "LOADING": "loading",
    "MASTERDOWN": "loading",
    "MISCONF": "cannot-persist",
    "OOM": "out-of-memory",
    "BUSY": "busy",
    "NOAUTH": "wrong-password",
    "WRONGPASS": "wrong-password",
    "invalid password": "wrong-password",
    "NOPERM": "no-permission",
    "max number of clients": "too-many-clients",
}


def _refusal(text: str) -> RedisAway:
    """What an error reply means. Before Redis 7 a script's error has the command's within."""
    return RedisAway(next((reason for word, reason in _REASONS.items() if word in text), "refused"), text)


class _One(Factory):
    """Builds the protocol that it was given."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Any:
        self._protocol.factory = self
        return self._protocol


class _Connection:
    """One connection, from the attempt to its end.

    :param clock: where the protocol's timers run.
    :param protocol: txredisapi's.
    :ivar away: why it ended; ``None`` while it hasn't.
    :ivar lost: fires with *away*.
    """

    def __init__(self, clock: IReactorTime, protocol: Any) -> None:
        self.protocol = protocol
        self.away: RedisAway | None = None
        self.lost: Deferred[RedisAway] = Deferred()
        self._clock = clock
        self._later: IDelayedCall | None = None
        self._inherited = protocol.connectionLost
        protocol.connectionLost = self._connection_lost
        # The parser's timers, which it would take from the global reactor.
        protocol.callLater = self._call_later

    def end(self, away: RedisAway) -> None:
        """Don't use it any more, because of *away*."""
        if self.away is None:
            self.away = away
            self.protocol.transport.abortConnection()

    def _connection_lost(self, reason: Failure) -> None:
        if self.away is None:
            self.away = RedisAway("connection-lost", reason.getErrorMessage())
        # Whatever was received and not yet parsed would be parsed, answer by answer, long after the end.
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._inherited(reason)
        self.lost.callback(self.away)

    def _call_later(self, delay_s: float, function: Callable[..., object], *args: object) -> IDelayedCall:
        self._later = self._clock.callLater(delay_s, function, *args)
        return self._later


class _Keeper:
    """Keeps one connection to Redis, and makes another one for as long as it is wanted.

    A connection counts as up when Redis has answered the probe, and until the probe fails.

    :param make: makes a protocol of txredisapi's.
    :param log_in: the commands to begin with.
    :param probe: a command that succeeds if Redis will do what it is there for. Asked every :data:`PROBE_INTERVAL_S`.
    :param name: for the log.

    :ivar round_trip_s: how long the last answer took; ``None`` before the first.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        make: Callable[[], Any],
        log_in: Sequence[Command],
        probe: Command,
        name: str,
    ) -> None:
        self.round_trip_s: float | None = None
        self._clock = clock
        self._endpoint = endpoint
        self._make = make
        self._log_in = log_in
        self._probe = probe
        self._name = name
        self._wanted = True
        self._away: RedisAway | None = RedisAway("not-connected", "not tried yet")
        self._connection: _Connection | None = None
        self._awaited: Deferred[Any] | None = None
        self._first: Deferred[None] | None = Deferred()
        self._over: Deferred[None] = succeed(None)
        self._probing = LoopingCall(self._look)
        self._probing.clock = clock

    def start(self) -> Deferred[None]:
        """Fires when the first attempt is over, whether or not Redis is there."""
        first = self._first
        assert first is not None
        self._over = ensureDeferred(self._keep())
        self._probing.start(PROBE_INTERVAL_S, now=False)
        return first

    def stop(self) -> Deferred[None]:
        """Fires when the connection is closed."""
        self._wanted = False
        if self._probing.running:
            self._probing.stop()
        if self._connection is not None:
            self._connection.end(RedisAway("not-connected", "stopped"))
        elif self._awaited is not None:
            self._awaited.cancel()
        return self._over

    @property
    def away(self) -> RedisAway | None:
        """Why it is down; ``None`` while it is up."""
        if self._away is None and self._connection is not None:
            return self._connection.away
        return self._away

    def call(self, command: Command) -> Deferred[Any]:
        """Give *command* the connection.

        :raises RedisAway: within :data:`CALL_TIMEOUT_S`; at once while the connection is down.
        """
        connection, away = self._connection, self.away
        if away is not None or connection is None:
            return fail(RedisAway("not-connected", "closed") if away is None else away.again())
        return self._ask(connection, command).addErrback(self._doubt)

    async def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while self._wanted:
            try:
                away = await self._hold_one()
            except Exception as error:
                self._log.failure("{name}: a fault of our own", name=self._name)
                away = _as_away(error)
            self._connection = None
            if self._away is None:
                delay_s = FIRST_DELAY_S
            self._note_down(away)
            if self._wanted:
                await self._sleep(delay_s)
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    async def _hold_one(self) -> RedisAway:
        """Connect, be up, and tell how it ended."""
        connection = _Connection(self._clock, self._make())
        try:
            self._awaited = self._endpoint.connect(_One(connection.protocol)).addTimeout(CALL_TIMEOUT_S, self._clock)
            await self._awaited
        except Exception as error:
            return RedisAway("unreachable", str(error) or type(error).__name__)
        self._connection = connection
        try:
            for command in (*self._log_in, self._probe):
                await self._ask(connection, command)
        except Exception as error:
            connection.end(_as_away(error))
        else:
            self._note_up()
        return await connection.lost

    async def _sleep(self, delay_s: float) -> None:
        self._awaited = deferLater(self._clock, delay_s, lambda: None)
        try:
            await self._awaited
        except CancelledError:
            pass

    def _ask(self, connection: _Connection, command: Command) -> Deferred[Any]:
        began = time.perf_counter()

        def answered(result: Any) -> Any:
            self.round_trip_s = time.perf_counter() - began
            return result

        def unanswered(failure: Failure) -> NoReturn:
            self._explain(connection, failure)

        answer = maybeDeferred(command, connection.protocol).addTimeout(CALL_TIMEOUT_S, self._clock)
        return answer.addCallbacks(answered, unanswered)

    def _explain(self, connection: _Connection, failure: Failure) -> NoReturn:
        """Say what a failed command tells of Redis, and end the connection if it is the worse for it."""
        import txredisapi

        error = failure.value
        if connection.away is not None:
            raise connection.away.again()
        if isinstance(error, txredisapi.ResponseError):
            raise _refusal(str(error)) from error
        if isinstance(error, (TimeoutError, txredisapi.RedisError)):
            # Whatever comes on this connection now could be the answer to something else.
            away = RedisAway("timeout" if isinstance(error, TimeoutError) else "connection-lost", repr(error))
            connection.end(away)
            raise away from error
        failure.raiseException()

    def _doubt(self, failure: Failure) -> Failure:
        """A refusal may be of the command, or of all there will be: the probe tells."""
        if isinstance(failure.value, RedisAway):
            self._look()
        return failure

    def _look(self) -> Deferred[None]:
        connection = self._connection
        if self.away is not None or connection is None:
            return succeed(None)
        return self._ask(connection, self._probe).addCallbacks(
            lambda _: None, lambda failure: connection.end(_as_away(failure.value))
        )

    def _note_up(self) -> None:
        self._away = None
        self._log.info("{name} is there", name=self._name)
        self._tell_first()

    def _note_down(self, away: RedisAway) -> None:
        if self._wanted and (self._away is None or self._away.reason != away.reason):
            self._log.warn("{name} is away: {away}", name=self._name, away=away)
        self._away = away
        self._tell_first()

    def _tell_first(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.callback(None)


def _as_away(error: BaseException) -> RedisAway:
    return error if isinstance(error, RedisAway) else RedisAway("error", repr(error))


class RedisLink:
    """Redis, as long as it is there; and the news of when it is not.

    There is one connection for commands, whose commands are sent without waiting for each other's answers, and one more
    for messages if anybody wants them. Both come back by themselves: when Redis does, after some seconds at most.

    Knows nothing of uploads.

    :param clock: the reactor.
    :param endpoint: :func:`redis_endpoint`.
    :param name: of the address, for the log.
    :param username: of an ACL user; empty for the default user.
    :param password: empty for none.
    :param database: to be selected unless it is 0.
    :param probe_key: a key of our own, written again and again to see whether Redis takes writes.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        name: str,
        *,
        username: str = "",
        password: str = "",
        database: int = 0,
        probe_key: str,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._name = name
        self._credentials = [word for word in (username, password) if word]
        self._database = database
        self._probe_key = probe_key
        self._subscriptions: dict[str, Callable[[bytes], None]] = {}
        self._commands: _Keeper | None = None
        self._messages: _Keeper | None = None

    def subscribe(self, channel: str, received: Callable[[bytes], None]) -> None:
        """Have *received* called with each message on *channel* that comes while the link is up. Before :meth:`start`.

        It must not raise.
        """
        self._subscriptions[channel] = received

    def start(self) -> Deferred[None]:
        """Connect. Fires when that has succeeded or failed for the first time.

        :raises ImportError: txredisapi is missing.
        """
        import txredisapi

        log_in: list[Command] = []
        if self._credentials:
            log_in.append(lambda protocol: protocol.execute_command("AUTH", *self._credentials))
        select: Command = lambda protocol: protocol.execute_command("SELECT", self._database)  # noqa: E731
        self._commands = self._keeper(
            lambda: txredisapi.RedisProtocol(charset=None, convertNumbers=False),
            [*log_in, select] if self._database else log_in,
            lambda protocol: protocol.eval(_PROBE, [self._probe_key], [int(10_000 * PROBE_INTERVAL_S)]),
            "commands",
        )
        keepers = [self._commands]
        if self._subscriptions:
            self._messages = self._keeper(
                lambda: self._subscriber(txredisapi.SubscriberProtocol),
                [*log_in, lambda protocol: protocol.subscribe(list(self._subscriptions))],
                lambda protocol: protocol.ping(),
                "messages",
            )
            keepers.append(self._messages)
        return gatherResults([keeper.start() for keeper in keepers]).addCallback(lambda _: None)

    def stop(self) -> Deferred[None]:
        """Disconnect. Fires when that is done; waiting calls fail."""
        keepers = [keeper for keeper in (self._commands, self._messages) if keeper is not None]
        return gatherResults([keeper.stop() for keeper in keepers]).addCallback(lambda _: None)

    @property
    def available(self) -> bool:
        """Whether Redis answers and takes writes, by the last that was heard."""
        return self._commands is not None and self._commands.away is None

    @property
    def round_trip_s(self) -> float | None:
        """How long the last answer took, in seconds; ``None`` before the first."""
        return None if self._commands is None else self._commands.round_trip_s

    def eval(self, script: str, keys: Sequence[str], args: Sequence[bytes]) -> Deferred[Any]:
        """Run a script, by its digest where Redis has it already. Fires with its answer: bytes, or a list.

        :raises RedisAway: within :data:`CALL_TIMEOUT_S`, or at once while Redis is away. The script may have run.
        """
        if self._commands is None:
            return fail(RedisAway("not-connected", "not started"))
        return self._commands.call(lambda protocol: protocol.eval(script, list(keys), list(args)))

    def _keeper(self, make: Callable[[], Any], log_in: Sequence[Command], probe: Command, purpose: str) -> _Keeper:
        return _Keeper(self._clock, self._endpoint, make, log_in, probe, f"Redis at {self._name} ({purpose})")

    def _subscriber(self, make: Callable[..., Any]) -> Any:
        def received(_: object, channel: str, message: str | bytes) -> None:
            self._subscriptions[channel](message if isinstance(message, bytes) else message.encode())

        # Up to 1.4 it knows a message by its first word as text, and what can't be text comes as bytes.
        protocol = make(charset="utf-8", convertNumbers=False)
        protocol.messageReceived = received
        return protocol
