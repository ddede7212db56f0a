"""Who may write to an upload in this process: one request at a time, and the newest wins.

A client that lost its connection knows it before we do. Its next request must not wait for a timeout of the one before.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from hmacfs.errors import Refused
from hmacfs.uploads.body import BodyConsumer
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.state import StateUnavailable

#: How long a newcomer waits for the one before to let go, in seconds.
PATIENCE_S = 5.0


def busy() -> Refused:
    """The one before does not let go."""
    return Refused(423, "busy", "Another request still writes to this upload.", {"Retry-After": "1"})


class Turn:
    """One request's turn at an upload, for the time of a ``with``."""

    def __init__(self, turns: Turns, uid: str) -> None:
        self._turns = turns
        self.uid = uid
        self._consumer: BodyConsumer | None = None
        self._reason: BaseException | None = None

    def consume_with(self, consumer: BodyConsumer) -> BodyConsumer:
        """From now on :meth:`stop` stops *consumer*."""
        self._consumer = consumer
        if self._reason is not None:
            consumer.stop(self._reason)
        return consumer

    def stop(self, reason: BaseException) -> None:
        """End the turn as soon as may be, for *reason*. What is being published is not stopped."""
        if self._reason is None:
            self._reason = reason
        if self._consumer is not None:
            self._consumer.stop(reason)

    def let_go(self) -> None:
        """Somebody newer wants the upload."""
        self.stop(Superseded())

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """The turn is over.

        :raises Refused: 503 in place of :exc:`~hmacfs.uploads.state.StateUnavailable`.
        """
        self._turns.ended(self)
        if isinstance(error, StateUnavailable):
            raise error.refusal() from None


class Turns:
    """The turns of one process. To be used on the reactor's thread alone."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._current: dict[str, Turn] = {}
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._closed: BaseException | None = None

    def __len__(self) -> int:
        return len(self._current)

    async def take(self, uid: str) -> Turn:
        """Take the next turn at *uid*; who has it is told to let go.

        :raises Refused: 423 ``busy`` when that takes too long.
        """
        patience_s = PATIENCE_S
        while (current := self._current.get(uid)) is not None:
            began = self._clock.seconds()
            current.let_go()
            await self._over(uid, patience_s)
            patience_s -= self._clock.seconds() - began
        if self._closed is not None:
            raise self._closed
        turn = self._current[uid] = Turn(self, uid)
        return turn

    async def close(self, reason: BaseException) -> None:
        """Stop them all for *reason*, give no more, and wait until the last one is over."""
        self._closed = reason
        for turn in list(self._current.values()):
            turn.stop(reason)
        while self._current:
            uid = next(iter(self._current))
            done: Deferred[None] = Deferred()
            self._waiting.setdefault(uid, []).append(done)
            await done

    def ended(self, turn: Turn) -> None:
        """*turn* is over; whoever waits for it goes on."""
        self._current.pop(turn.uid, None)
        for waiting in self._waiting.pop(turn.uid, []):
            waiting.callback(None)

    async def _over(self, uid: str, patience_s: float) -> None:
        if uid not in self._current:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(uid, []).append(waiting)
        timer = self._clock.callLater(max(0.0, patience_s), waiting.cancel)
        try:
            await waiting
        except CancelledError:
            self._waiting[uid].remove(waiting)
            raise busy() from None
        finally:
            if timer.active():
                timer.cancel()
