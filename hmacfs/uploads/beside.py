"""Work on a body's bytes that goes on beside their arrival: hashing them, comparing them with a stored file.

The reactor hands chunks over and goes on reading; a thread works them off, strictly in order and one job of an upload at a
time, so that an upload never holds more than one thread. :mod:`hashlib` lets go of the GIL for all but tiny chunks: where
there is a second core, the digest of a stream takes little from its throughput.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from hmacfs.net.threads import Threads

HIGH_WATER_BYTES = 2 * 1024 * 1024
"""How much may wait or be in work before the sender is paused. It goes on at half of it."""

HASH_JOB_BYTES = 256 * 1024
"""What can be hashed in the time that it takes to wake a thread and to hear from it again (0.1 ms to 0.15 ms)."""

PREFIX_STEP_BYTES = 1024 * 1024
"""How much of a prefix is read and hashed before the thread looks whether to stop."""

STEPS_PER_JOB = 32
"""After so many steps the pool has its thread back, so that long prefixes don't keep everybody else's fsync waiting."""


class Beside:
    """Calls a function for each chunk of one stream, in order, in a thread.

    A job takes all that waits when it begins, so that a fast stream needs few hops between threads. To be used on the
    reactor's thread alone.

    :param work: called with each chunk; may block, and may raise. Its first error is the end: :meth:`drained` fails with
        it, later chunks are dropped.
    :param pause: called when *high_water_bytes* or more wait or are in work (a producer's ``pauseProducing``).
    :param resume: called when half of that is left.
    :param first: taken step by step before the first chunk, in the thread too; begun at once.
    :param job_bytes: less than that isn't worth a thread. So many of the stream's first bytes are worked off where they
        are added; later ones are gathered until there are so many, or worked off by :meth:`drained`; and a chunk of an
        eighth of it, one of a slow sender, is worked off where it is added if nothing waits. Leave it 0 where *work* waits
        for something other than the processor.
    """

    def __init__(
        self,
        work: Callable[[bytes], object],
        threads: Threads,
        pause: Callable[[], object],
        resume: Callable[[], object],
        *,
        first: Iterator[object] | None = None,
        high_water_bytes: int = HIGH_WATER_BYTES,
        job_bytes: int = 0,
    ) -> None:
        self._work = work
        self._threads = threads
        self._pause = pause
        self._resume = resume
        self._first = first
        self._high_water_bytes = high_water_bytes
        self._job_bytes = job_bytes
        self._early_bytes = job_bytes
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._running_bytes = 0
        self._running = False
        self._paused = False
        self._stopped = False
        self._failure: Failure | None = None
        self._until_drained: list[Deferred[None]] = []
        self._until_idle: list[Deferred[None]] = []
        self._go_on()

    @property
    def failure(self) -> Failure | None:
        """What ended the work, if anything has: for who would rather not read the rest of the body."""
        return self._failure

    def add(self, chunk: bytes) -> None:
        """Hand over the next bytes. Never raises, and blocks no longer than work on *job_bytes* takes."""
        if self._ended:
            return
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._too_little_to_wait(len(chunk)):
            self._early_bytes -= len(chunk)
            self._work_off_here()
        elif not self._paused and self._backlog_bytes >= self._high_water_bytes:
            self._paused = True
            self._pause()
        self._go_on()

    def drained(self) -> Deferred[None]:
        """Fires when nothing waits and nothing runs.

        Fails with the work's first error, or with :class:`~twisted.internet.defer.CancelledError` after :meth:`stop`.
        """
        if not self._running and self._waiting_bytes <= self._job_bytes:
            self._work_off_here()
        if self._failure is not None:
            return fail(self._failure)
        if self._stopped:
            return fail(CancelledError())
        if self._idle:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._until_drained.append(done)
        self._go_on()
        return done

    def stop(self) -> Deferred[None]:
        """Drop what waits. Fires when no thread uses *work*, *first* or what they hold (a descriptor, a hash) any more."""
        self._stopped = True
        self._drop(Failure(CancelledError()))
        if not self._running:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._until_idle.append(done)
        return done

    @property
    def _ended(self) -> bool:
        return self._stopped or self._failure is not None

    @property
    def _idle(self) -> bool:
        # As long as there are first steps, a job runs.
        return not self._running and not self._waiting

    @property
    def _backlog_bytes(self) -> int:
        return self._waiting_bytes + self._running_bytes

    @property
    def _worth_a_job(self) -> bool:
        if self._first is not None:
            return True
        wanted = self._paused or bool(self._until_drained) or self._waiting_bytes >= self._job_bytes
        return wanted and bool(self._waiting)

    def _too_little_to_wait(self, size: int) -> bool:
        alone = not self._running and len(self._waiting) == 1
        return alone and (size <= self._early_bytes or size * 8 <= self._job_bytes)

    def _go_on(self) -> None:
        """Begin the next job if none runs, and tell everybody whose time has come."""
        if not self._running and self._worth_a_job:
            self._begin()
        if self._paused and not self._stopped and self._backlog_bytes * 2 <= self._high_water_bytes:
            self._paused = False
            self._resume()
        if self._idle:
            _fire(self._until_drained)
        if not self._running:
            _fire(self._until_idle)

    def _begin(self) -> None:
        self._running = True
        if self._first is not None:
            self._threads.run(self._take_steps, self._first).addBoth(self._steps_taken)
        else:
            self._running_bytes = self._waiting_bytes
            self._threads.run(self._work_off, self._take_waiting()).addBoth(self._worked_off)

    def _take_waiting(self) -> list[bytes]:
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return batch

    def _work_off_here(self) -> None:
        try:
            self._work_off(self._take_waiting())
        except Exception:
            self._fail(Failure())

    def _work_off(self, batch: Iterable[bytes]) -> None:
        """One job; mostly in a thread."""
        for chunk in batch:
            if self._stopped:
                return
            self._work(chunk)

    def _worked_off(self, result: Failure | None) -> None:
        self._running = False
        self._running_bytes = 0
        if result is not None:
            self._fail(result)
        self._go_on()

    def _take_steps(self, first: Iterator[object]) -> bool:
        """In a thread: some steps of *first*. True if those were the last."""
        for _ in range(STEPS_PER_JOB):
            if self._stopped:
                break
            try:
                next(first)
            except StopIteration:
                return True
        return False

    def _steps_taken(self, result: bool | Failure) -> None:
        self._running = False
        if isinstance(result, Failure):
            self._fail(result)
        elif result:
            self._first = None
        self._go_on()

    def _fail(self, failure: Failure) -> None:
        if not self._stopped:
            self._failure = failure
            self._drop(failure)

    def _drop(self, failure: Failure) -> None:
        self._take_waiting()
        self._first = None
        waiting, self._until_drained = self._until_drained, []
        for done in waiting:
            done.errback(failure)


def _fire(waiting: list[Deferred[None]]) -> None:
    # One by one: who is told may call stop(), which tells those that still wait something else.
    while waiting:
        waiting.pop(0).callback(None)


class RunningDigests:
    """The digests of a stream, computed while it arrives.

    To be used on the reactor's thread alone.

    :param algorithms: as :mod:`hashlib` names them.
    :param pause: as *resume*, of the stream's producer; see :class:`Beside`.
    :param prefix: an open file and a size: what the stream goes on from. So many of the file's first bytes are read and
        hashed before the stream's own; :mod:`hashlib` can't save its state, so the bytes of an earlier connection are read
        again. The descriptor stays the caller's: it must be open until :meth:`digests` or :meth:`stop` has fired, and its
        offset is left alone.
    """

    def __init__(
        self,
        algorithms: Iterable[str],
        threads: Threads,
        pause: Callable[[], object],
        resume: Callable[[], object],
        prefix: tuple[int, int] | None = None,
    ) -> None:
        # Without usedforsecurity, a host in FIPS mode would refuse to check an MD5 that a client has stated.
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        first = None if prefix is None else self._read(*prefix)
        self._beside = Beside(self._update, threads, pause, resume, first=first, job_bytes=HASH_JOB_BYTES)

    @property
    def failure(self) -> Failure | None:
        """Why there will be no digests, if that is known already; see :attr:`Beside.failure`."""
        return self._beside.failure

    def add(self, chunk: bytes) -> None:
        """The stream's next bytes."""
        self._beside.add(chunk)

    def digests(self) -> Deferred[dict[str, bytes]]:
        """The digests, by algorithm, of the prefix and all that was added.

        Fails with :class:`OSError` or :class:`EOFError` if the prefix could not be read or was shorter than stated.
        """
        return self._beside.drained().addCallback(self._collect)

    def stop(self) -> Deferred[None]:
        """Give up. Fires when the prefix's descriptor is not in use any more."""
        return self._beside.stop()

    def _collect(self, _: None) -> dict[str, bytes]:
        return {name: running.digest() for name, running in self._hashes.items()}

    def _update(self, chunk: bytes) -> None:
        for running in self._hashes.values():
            running.update(chunk)

    def _read(self, fd: int, size: int) -> Iterator[None]:
        offset = 0
        while offset < size:
            chunk = os.pread(fd, min(PREFIX_STEP_BYTES, size - offset), offset)
            if not chunk:
                raise EOFError(f"The file ends at byte {offset}, {size} were expected.")
            self._update(chunk)
            offset += len(chunk)
            yield
