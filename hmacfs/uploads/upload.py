"""The bytes of one request on their way into a part file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from hmacfs.errors import Refused
from hmacfs.net.threads import Threads
from hmacfs.storage.failures import may_pass
from hmacfs.storage.parts import Part
from hmacfs.uploads.beside import Beside, RunningDigests
from hmacfs.uploads.body import BodyConsumer, ContentMismatch, raise_failure
from hmacfs.uploads.retrying import Retries

#: What a crash may cost at most: whichever of the two comes first.
CHECKPOINT_BYTES = 4 * 1024 * 1024
CHECKPOINT_S = 1.0

#: So many uploads may have their checkpoint every :data:`CHECKPOINT_S`, and so many checkpoints a second come for their
#: time alone. Each waits for the disk: a crowd of slow uploads must not keep it from all others.
TIMELY_CHECKPOINTS = 10


class Overlap:
    """Takes a body whose first bytes may be in the part already: compares those, and appends the others.

    Works in a thread, chunk by chunk and in order (:class:`~hmacfs.uploads.beside.Beside`).

    :param start: offset of the body's first byte.
    :param restart: called in the thread when a byte differs from the one that is there: makes that offset the durable
        one of a new generation, and cuts the part at it. ``None`` where a difference is the client's error.
    """

    def __init__(self, part: Part, start: int, restart: Callable[[int], None] | None) -> None:
        self._part = part
        self._position = start
        self._known = part.size
        self._restart = restart

    def take(self, chunk: bytes) -> None:
        """Compare or write *chunk*, or some of it each.

        :raises ContentMismatch: when it differs from what is there and that is an error.
        """
        overlapping = chunk[: max(0, self._known - self._position)]
        if overlapping:
            present = self._part.read_at(self._position, len(overlapping))
            same = common_prefix(overlapping, present)
            if same < len(overlapping):
                self._differs(self._position + same)
            self._position += same
            chunk = chunk[same:]
        if chunk:
            self._part.write(chunk)
            self._position += len(chunk)

    def _differs(self, at: int) -> None:
        if self._restart is None:
            raise ContentMismatch(at)
        self._restart(at)
        self._known = at


def common_prefix(one: bytes, other: bytes) -> int:
    """How many first bytes are the same. Halves its way to the first difference: no loop over bytes."""
    if one == other:
        return len(one)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@define
class Pace:
    """How soon each upload has its checkpoint, where many wait for theirs.

    :ivar waiting: how many do.
    """

    waiting: int = 0

    @property
    def delay_s(self) -> float:
        """From now to the checkpoint of one more."""
        return CHECKPOINT_S * max(1.0, self.waiting / TIMELY_CHECKPOINTS)


@frozen
class Means:
    """What every upload works with.

    :ivar clock: for checkpoints and second tries.
    :ivar threads: for what blocks.
    :ivar retries: for writes that fail for a reason that may pass.
    :ivar pace: of the checkpoints of all uploads together.
    """

    clock: IReactorTime
    threads: Threads
    retries: Retries
    pace: Pace = field(factory=Pace)


class Upload(BodyConsumer):
    """Writes a body to a part file while it arrives.

    The caller owns the part. What had arrived when the body broke off has been written when :meth:`receive` raises.

    :param part: what to write to. Bytes that it has beyond *start* are compared with the body's first ones.
    :param start: at most the part's size.
    :param file_algorithms: of the digests of the file up to *end*, as :mod:`hashlib` names them; what is there before
        *start* is read again for them.
    :param body_algorithms: of the digests of the body alone.
    :param restart: see :class:`Overlap`.
    :param checkpoint: makes what has been written durable and known; called every :data:`CHECKPOINT_BYTES` or
        :data:`CHECKPOINT_S`, or later (:class:`Pace`), one call at a time. When it raises, the body is stopped with that.
    """

    def __init__(
        self,
        part: Part,
        start: int,
        end: int,
        means: Means,
        *,
        arrived: Callable[[int], None],
        file_algorithms: frozenset[str],
        body_algorithms: frozenset[str],
        restart: Callable[[int], None] | None,
        checkpoint: Callable[[], Awaitable[None]],
        is_open: bool = False,
    ) -> None:
        super().__init__(start, end, arrived, is_open=is_open)
        self._part = part
        self._means = means
        self._checkpoint = checkpoint
        self._file_digests = self._begin_digests("file", file_algorithms, (part.fd, start) if start else None)
        self._body_digests = self._begin_digests("body", body_algorithms, None)
        self._digests = [running for running in (self._file_digests, self._body_digests) if running is not None]
        self._overlap = self._begin_overlap(start, restart)
        self._held: list[bytes] = []
        self._until_written: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._checkpointed = part.size
        self._checkpointing: Deferred[None] | None = None

    async def file_digests(self) -> dict[str, bytes]:
        """The digests of the file up to :attr:`position`, by :mod:`hashlib`'s names."""
        return {} if self._file_digests is None else await self._file_digests.digests()

    async def body_digests(self) -> dict[str, bytes]:
        """The digests of the body."""
        return {} if self._body_digests is None else await self._body_digests.digests()

    async def end(self) -> None:
        """Let go of the part: no thread reads it any more afterwards."""
        for running in self._digests:
            await running.stop()

    def stop(self, reason: BaseException) -> None:
        super().stop(reason)
        self._now_written(Failure(reason))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        # Even if nothing comes: before its first checkpoint an upload can't be asked to let go by another process.
        self._arrange_checkpoint()

    def _begin_digests(
        self, of: str, algorithms: frozenset[str], prefix: tuple[int, int] | None
    ) -> RunningDigests | None:
        if not algorithms:
            return None
        return RunningDigests(algorithms, self._means.threads, *self._brake.pedals(of), prefix=prefix)

    def _begin_overlap(self, start: int, restart: Callable[[int], None] | None) -> Beside | None:
        if start == self._part.size:
            return None
        take = Overlap(self._part, start, restart).take
        return Beside(take, self._means.threads, *self._brake.pedals("overlap"))

    def _take(self, data: bytes) -> None:
        if self._overlap is not None:
            raise_failure(self._overlap.failure)
            self._overlap.add(data)
        elif self._held:
            self._held.append(data)
        else:
            self._append(data)
        for running in self._digests:
            running.add(data)
        self._arrange_checkpoint()

    async def _finish(self) -> None:
        if self._overlap is not None:
            await self._overlap.drained()
        if self._held:
            self._until_written = Deferred()
            await self._until_written

    async def _settle(self) -> None:
        # What could not be written yet will not be: the part is somebody else's from now on.
        self._held.clear()
        self._stop_timer()
        if self._overlap is not None and self._overlap.failure is None:
            try:
                await self._overlap.drained()
            except Exception:  # noqa: S110 (receive() has its reason already)
                pass
        if self._checkpointing is not None:
            await self._checkpointing

    def _append(self, data: bytes) -> None:
        before = self._part.size
        try:
            self._part.write(data)
        except OSError as error:
            if not may_pass(error):
                raise
            self._held = [data[self._part.size - before :]]
            self._brake.hold("write")
            Deferred.fromCoroutine(self._try_again(error))

    async def _try_again(self, failed: OSError) -> None:
        """The storage failed for a reason that may pass: the sender waits while it is asked again."""
        try:
            await self._means.retries.run("write", self._write_held, failed)
        except (OSError, Refused) as error:
            self._held.clear()
            self.stop(error)
            return
        self._brake.release("write")
        self._now_written(None)

    async def _write_held(self) -> None:
        while self._held and self._stopped is None:
            before = self._part.size
            try:
                self._part.write(self._held[0])
            finally:
                self._held[0] = self._held[0][self._part.size - before :]
            self._held.pop(0)

    def _now_written(self, result: Failure | None) -> None:
        waiting, self._until_written = self._until_written, None
        if waiting is not None:
            waiting.callback(result)

    def _arrange_checkpoint(self) -> None:
        if self._checkpointing is not None:
            return
        if self._part.size - self._checkpointed >= CHECKPOINT_BYTES:
            self._begin_checkpoint()
        elif self._timer is None:
            self._timer = self._means.clock.callLater(self._means.pace.delay_s, self._checkpoint_due)
            self._means.pace.waiting += 1

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._means.pace.waiting -= 1

    def _checkpoint_due(self) -> None:
        self._timer = None
        self._means.pace.waiting -= 1
        if self._checkpointing is None:
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        self._stop_timer()
        self._checkpointed = self._part.size
        running: Deferred[None] = Deferred.fromCoroutine(self._run_checkpoint())
        if not running.called:
            self._checkpointing = running

    async def _run_checkpoint(self) -> None:
        try:
            await self._checkpoint()
        except Exception as error:
            self.stop(error)
        finally:
            self._checkpointing = None
        if self._arriving is not None and self._part.size > self._checkpointed:
            # What came meanwhile must not wait for what comes next, which may be nothing.
            self._arrange_checkpoint()
