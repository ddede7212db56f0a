"""Taking a request's body: the consumer's side of it, without what is done with the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from hmacfs.errors import Refused
from hmacfs.net.bodies import BodyTimeout, MalformedBody


class ContentMismatch(Exception):
    """The bytes that arrive are not those that are there already.

    :ivar at: offset of the first one that differs.
    """

    def __init__(self, at: int) -> None:
        super().__init__(f"byte {at} differs")
        self.at = at


class Brake:
    """Holds a producer back for as long as anybody wants it held."""

    def __init__(self) -> None:
        self._producer: Any = None
        self._reasons: set[str] = set()

    def attach(self, producer: Any) -> None:
        """From now on it is *producer* that is held."""
        self._producer = producer
        if self._reasons:
            producer.pauseProducing()

    def detach(self) -> None:
        """The producer is gone."""
        self._producer = None

    def hold(self, reason: str) -> None:
        """Let nothing more come, for *reason*."""
        if not self._reasons and self._producer is not None:
            self._producer.pauseProducing()
        self._reasons.add(reason)

    def release(self, reason: str) -> None:
        """*reason* is over; with the last one the producer goes on."""
        if reason in self._reasons:
            self._reasons.discard(reason)
            if not self._reasons and self._producer is not None:
                self._producer.resumeProducing()

    def pedals(self, reason: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """A pair of calls, to hold and to release, for somebody who knows no reasons."""
        return (lambda: self.hold(reason)), (lambda: self.release(reason))


@implementer(IConsumer)
class BodyConsumer:
    """Takes one body from start to end; subclasses say what becomes of its bytes.

    To be used on the reactor's thread alone.

    :param start: offset in the file of the body's first byte.
    :param end: offset after its last byte.
    :param arrived: called with the number of bytes of each chunk, for those who count.
    :param is_open: whether it may end before *end*; of one that goes on, what comes before *end* is taken.
    """

    def __init__(self, start: int, end: int, arrived: Callable[[int], None], *, is_open: bool = False) -> None:
        self._position = start
        self._end = end
        self._is_open = is_open
        self._arrived = arrived
        self._brake = Brake()
        self._arriving: Deferred[None] | None = None
        self._stopped: BaseException | None = None

    @property
    def position(self) -> int:
        """The offset up to which the body has arrived."""
        return self._position

    async def receive(self, body: IBodyProducer | None) -> None:
        """Take *body*. When this returns or raises, nothing is done to its bytes any more.

        :param body: ``None`` where there is none.
        :raises Refused: 400 where it was shorter or its chunked coding is broken, 408 where it came too slowly, 413
            where it was longer than announced.
        :raises Exception: the reason of a lost connection; whatever :meth:`stop` was given; what the subclass raises.
        """
        try:
            if body is not None and self._stopped is None:
                await self._arrive(body)
            if self._stopped is not None:
                raise self._stopped
            await self._finish()
        finally:
            await self._settle()
        if self._position < self._end and not self._is_open:
            raise Refused(400, "short-body", f"The body ended at byte {self._position} of {self._end}.")

    def stop(self, reason: BaseException) -> None:
        """Take no more; :meth:`receive` raises *reason*. No effect once it has returned."""
        if self._stopped is None:
            self._stopped = reason
        if self._arriving is not None:
            self._arriving.cancel()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if not streaming:
            raise ValueError("a body pushes")
        self._brake.attach(producer)

    def unregisterProducer(self) -> None:
        self._brake.detach()

    def write(self, data: bytes) -> None:
        """The body's next bytes. Raising stops the body, and :meth:`receive` raises the same."""
        if self._stopped is not None:
            # By what one of its first bytes led to, of those that were waiting when it began.
            raise self._stopped
        excess = max(0, self._position + len(data) - self._end)
        if not excess:
            self._accept(data)
            return
        if self._is_open and excess < len(data):
            self._accept(data[:-excess])
        raise Refused(413, "size-mismatch", f"The body goes beyond the {self._end} bytes that were announced.")

    def _accept(self, data: bytes) -> None:
        self._position += len(data)
        self._arrived(len(data))
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Do with *data* what is to be done."""
        raise NotImplementedError

    async def _finish(self) -> None:
        """The whole body is here: wait until what waits is done."""

    async def _settle(self) -> None:
        """However the body ended: wait until nothing uses its bytes any more. Must not raise."""

    async def _arrive(self, body: IBodyProducer) -> None:
        self.registerProducer(body, True)
        try:
            self._arriving = body.startProducing(self)
            await self._arriving
        except CancelledError:
            raise self._stopped or CancelledError() from None
        except BodyTimeout as late:
            raise Refused(408, "timeout", f"The body came too slowly: {late}.") from late
        except MalformedBody as malformed:
            raise Refused(400, "malformed-body", "The body's chunked coding is broken.") from malformed
        finally:
            self._arriving = None
            self.unregisterProducer()


def raise_failure(failure: Failure | None) -> None:
    """Raise what ended work that goes on beside, if anything has."""
    if failure is not None:
        failure.raiseException()
