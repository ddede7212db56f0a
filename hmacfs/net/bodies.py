"""The body of a request while it arrives: a producer for whoever wants it."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from hmacfs.net.limits import Limits

#: Over how many seconds :attr:`~hmacfs.net.limits.Limits.min_body_rate` is averaged.
RATE_WINDOW_S = 60.0


class Bearer(Protocol):
    """The connection that a body arrives on."""

    def now(self) -> float:
        """The time that :class:`~hmacfs.net.limits.Limits` are about."""

    def bodyWanted(self, body: RequestBody) -> None:
        """Somebody is going to read *body*."""

    def bodyUnwanted(self) -> None:
        """Nobody is going to read more of it."""

    def bodyClockRestarted(self) -> None:
        """When :meth:`RequestBody.dueAt` is has changed, and may be sooner now."""

    def holdBody(self) -> None:
        """Keep the peer from sending more of the body."""

    def releaseBody(self) -> None:
        """Let the peer send the body."""


class BodyFailed(Exception):
    """The body won't come to its end, though the connection stands: the resource may answer, and that closes it."""


class BodyTimeout(BodyFailed):
    """The peer sends no more of the body, or sends it too slowly: 408."""


class MalformedBody(BodyFailed):
    """The body's chunked coding is broken (RFC 9112 section 7.1): 400."""


@implementer(IBodyProducer)
class RequestBody:
    """The body of a request that is still arriving.

    It can be had once: by one call of :meth:`startProducing`.

    :ivar length: in bytes, or :data:`~twisted.web.iweb.UNKNOWN_LENGTH` if it is chunked.
    :ivar size: the same, with ``None`` for unknown.
    :ivar received: how many bytes of it have arrived, whether or not anybody wanted them.
    :ivar complete: whether all of it has.
    """

    _log = Logger()

    def __init__(self, channel: Bearer, size: int | None) -> None:
        self.size = size
        self.length: int | str = UNKNOWN_LENGTH if size is None else size
        self.received = 0
        self.complete = False
        self._channel = channel
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] | None = None
        self._waiting: deque[bytes] = deque()
        self._failure: Failure | None = None
        self._started = False
        self._stopped = False
        self._paused = False
        self._delivering = False
        self._lastByteAt = 0.0
        self._windowStart = 0.0
        self._windowReceived = 0

    # IBodyProducer: the resource's side

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the body to *consumer*, from its first byte on. Sends ``100 Continue`` to a client that waits for it.

        :return: fires with ``None`` when all of it has been written. Fails with whatever ``consumer.write`` raised,
            with a :class:`BodyFailed`, or with the connection's reason if the peer is gone; what had arrived before has
            been written then. Cancelling stops the body.
        :raises RuntimeError: the second time, or after :meth:`stopProducing`.
        """
        if self._started or self._stopped:
            raise RuntimeError("The body of a request can be had once.")
        self._started = True
        self._consumer = consumer
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._done = done
        self.restartClock()
        if not self.complete and self._failure is None:
            self._channel.bodyWanted(self)
        self._flow()
        return done

    def pauseProducing(self) -> None:
        """Write nothing until :meth:`resumeProducing`. Soon the peer can't send any more either."""
        self._paused = True
        if not self.complete:
            self._channel.holdBody()

    def resumeProducing(self) -> None:
        self._paused = False
        self.restartClock()
        self._flow()

    def stopProducing(self) -> None:
        """Write nothing any more. The peer is held back until the request is answered; the Deferred never fires."""
        self.abandon()
        if not self.complete:
            self._channel.holdBody()

    # The request's and the channel's side

    @property
    def missing(self) -> int | None:
        """How many bytes have not arrived yet; ``None`` if nobody knows."""
        return None if self.size is None else self.size - self.received

    def dataReceived(self, data: bytes) -> None:
        """The next bytes have arrived."""
        self.received += len(data)
        self._lastByteAt = self._channel.now()
        if self._stopped:
            return
        self._waiting.append(data)
        self._flow()
        if self._waiting:
            self._channel.holdBody()

    def dataFinished(self) -> None:
        """All of it has arrived."""
        self.complete = True
        self._flow()

    def fail(self, reason: Failure) -> None:
        """No more of it will arrive."""
        if not self.complete and self._failure is None:
            self._failure = reason
            self._flow()

    def abandon(self) -> None:
        """Let go of the consumer, without a word to it. What still arrives is counted and thrown away."""
        self._stopped = True
        self._consumer = self._done = None
        self._waiting.clear()
        self._channel.bodyUnwanted()

    def restartClock(self) -> None:
        """Whatever held the body back, it was not the peer: its time counts from now."""
        self._lastByteAt = self._windowStart = self._channel.now()
        self._windowReceived = self.received
        self._channel.bodyClockRestarted()

    def dueAt(self, limits: Limits) -> float:
        """When the peer's time is over, unless more of the body arrives before."""
        if not self._isAwaited:
            return inf
        silent = self._lastByteAt + limits.read_timeout_s
        return min(silent, self._windowStart + RATE_WINDOW_S) if limits.min_body_rate else silent

    def overdue(self, now: float, limits: Limits) -> BodyTimeout | None:
        """What the peer has to hear if it keeps us waiting for too long."""
        if not self._isAwaited:
            return None
        if now - self._lastByteAt >= limits.read_timeout_s:
            return BodyTimeout(f"no byte of the body within {limits.read_timeout_s:g} s")
        window_s = now - self._windowStart
        if window_s < RATE_WINDOW_S:
            return None
        arrived = self.received - self._windowReceived
        self._windowStart, self._windowReceived = now, self.received
        if 0 < arrived < limits.min_body_rate * window_s:
            return BodyTimeout(f"fewer than {limits.min_body_rate:g} bytes of the body per second")
        return None

    @property
    def _isAwaited(self) -> bool:
        """Whether it is the peer that we wait for."""
        return self._consumer is not None and not (self._paused or self.complete or self._failure is not None)

    def _flow(self) -> None:
        """Write what waits; then end, or have more sent."""
        if self._delivering:  # consumer.write has called us
            return
        self._delivering = True
        try:
            while self._waiting and self._consumer is not None and not self._paused:
                self._deliver(self._consumer, self._waiting.popleft())
        finally:
            self._delivering = False
        if self._consumer is None or self._waiting:
            return
        if self.complete or self._failure is not None:
            self._end(self._failure)
        elif not self._paused:
            self._channel.releaseBody()

    def _deliver(self, consumer: IConsumer, data: bytes) -> None:
        try:
            consumer.write(data)
        except Exception:
            reason, done = Failure(), self._done
            self.stopProducing()
            if done is None:
                self._log.failure("A consumer stopped a body and failed then", failure=reason)
            else:
                done.errback(reason)

    def _end(self, reason: Failure | None) -> None:
        done = self._done
        self.abandon()
        if done is None:
            return
        if reason is None:
            done.callback(None)
        else:
            done.errback(reason)
