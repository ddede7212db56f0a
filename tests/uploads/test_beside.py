"""Work that goes on beside a body's arrival: its order, its limits, its end."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.uploads.beside import HASH_JOB_BYTES, PREFIX_STEP_BYTES, STEPS_PER_JOB, Beside, RunningDigests
from tests.awaiting import AwaitedTestCase

T = TypeVar("T")


class HeldThreads(InlineThreads):
    """Threads whose jobs begin and end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        ended: Deferred[T] = Deferred()
        self.jobs.append((ended, lambda: function(*args, **kwargs)))
        return ended

    def finish(self) -> None:
        """Let the oldest job run, and its caller hear of it."""
        ended, job = self.jobs.pop(0)
        succeed(None).addCallback(lambda _: job()).addBoth(ended.callback)


class Sender:
    """A producer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


class BesideCase(SynchronousTestCase):
    """A :class:`Beside` with threads held by the test, that notes the chunks it has worked off."""

    def setUp(self) -> None:
        self.threads = HeldThreads()
        self.sender = Sender()
        self.done: list[bytes] = []

    def make(self, work: Callable[[bytes], object] | None = None, **limits: Any) -> Beside:
        return Beside(work or self.done.append, self.threads, self.sender.pause, self.sender.resume, **limits)

    def fail_at(self, bad: bytes) -> Callable[[bytes], None]:
        def work(chunk: bytes) -> None:
            if chunk == bad:
                raise ValueError("bad chunk")
            self.done.append(chunk)

        return work


class OrderTests(BesideCase):
    """One job at a time, and everything in its order."""

    def test_first_chunk_begins_a_job(self) -> None:
        """A chunk is worked off in a thread, not where it is added."""
        self.make().add(b"one")
        self.assertEqual(self.done, [])
        self.threads.finish()
        self.assertEqual(self.done, [b"one"])

    def test_one_job_at_a_time(self) -> None:
        """What comes while a job runs begins no second one: that could overtake it."""
        beside = self.make()
        for chunk in (b"one", b"two", b"three"):
            beside.add(chunk)
        self.assertEqual(len(self.threads.jobs), 1)

    def test_next_job_takes_all_that_waits(self) -> None:
        """After the first job there is one more for everything that came meanwhile, in its order."""
        beside = self.make()
        for chunk in (b"one", b"two", b"three"):
            beside.add(chunk)
        self.threads.finish()
        self.threads.finish()
        self.assertEqual((self.done, self.threads.jobs), ([b"one", b"two", b"three"], []))

    def test_first_steps_come_before_chunks(self) -> None:
        """The steps that were asked for are taken before the first chunk, and in a thread."""

        def steps() -> Iterator[None]:
            for _ in range(2):
                self.done.append(b"step")
                yield

        beside = self.make(first=steps())
        beside.add(b"chunk")
        self.assertEqual(self.done, [])
        self.threads.finish()
        self.threads.finish()
        self.assertEqual(self.done, [b"step", b"step", b"chunk"])

    def test_long_steps_give_the_thread_back(self) -> None:
        """Many steps are several jobs, so that others get their turn in the pool."""
        self.make(first=iter(range(STEPS_PER_JOB + 1)))
        self.threads.finish()
        self.assertEqual(len(self.threads.jobs), 1)


class DrainedTests(BesideCase):
    """When all is done."""

    def test_at_once_when_nothing_waits(self) -> None:
        """An empty stream is done."""
        self.assertIsNone(self.successResultOf(self.make().drained()))

    def test_after_the_last_job(self) -> None:
        """It fires when the job with the last chunk has ended, not when it has begun."""
        beside = self.make()
        beside.add(b"one")
        beside.add(b"two")
        drained = beside.drained()
        self.threads.finish()
        self.assertNoResult(drained)
        self.threads.finish()
        self.successResultOf(drained)

    def test_after_the_first_steps(self) -> None:
        """Steps without a chunk have to be over as well."""
        drained = self.make(first=iter([None])).drained()
        self.assertNoResult(drained)
        self.threads.finish()
        self.successResultOf(drained)

    def test_may_be_asked_twice(self) -> None:
        """Everybody who waits hears of it, and the stream may go on afterwards."""
        beside = self.make()
        beside.add(b"one")
        both = [beside.drained(), beside.drained()]
        self.threads.finish()
        for drained in both:
            self.successResultOf(drained)
        beside.add(b"two")
        self.assertNoResult(beside.drained())


class BackpressureTests(BesideCase):
    """The sender waits when the work doesn't keep up."""

    def test_paused_at_the_high_water_mark(self) -> None:
        """Bytes in work count as well: they are in memory."""
        beside = self.make(high_water_bytes=8)
        beside.add(b"four")
        self.assertEqual(self.sender.told, [])
        beside.add(b"four")
        self.assertEqual(self.sender.told, ["pause"])

    def test_paused_once(self) -> None:
        """What still comes after the pause doesn't repeat it."""
        beside = self.make(high_water_bytes=4)
        for _ in range(3):
            beside.add(b"four")
        self.assertEqual(self.sender.told, ["pause"])

    def test_goes_on_at_half(self) -> None:
        """The sender goes on when half of the mark is left, not before."""
        beside = self.make(high_water_bytes=8)
        beside.add(b"1")
        beside.add(b"2345")
        beside.add(b"678")
        self.threads.finish()
        self.assertEqual(self.sender.told, ["pause"])
        self.threads.finish()
        self.assertEqual(self.sender.told, ["pause", "resume"])

    def test_sender_that_goes_on_at_once(self) -> None:
        """Chunks that arrive within the call to resume stay in order."""

        def resume() -> None:
            self.sender.told.append("resume")
            beside.add(b"late")

        self.sender.resume = resume  # type: ignore[method-assign]
        beside = self.make(high_water_bytes=4)
        beside.add(b"early")
        while self.threads.jobs and len(self.done) < 3:
            self.threads.finish()
        self.assertEqual(self.done, [b"early", b"late", b"late"])

    def test_paused_sender_is_not_waited_for(self) -> None:
        """A sender that is paused sends nothing: what waits is worked off although it is little."""
        beside = self.make(high_water_bytes=8, job_bytes=8)
        for chunk in (b"eight...", b"5 eig", b"3.."):
            beside.add(chunk)
        beside.add(b"seven..")
        while self.threads.jobs:
            self.threads.finish()
        self.assertEqual(self.sender.told, ["pause", "resume"])
        self.assertEqual(self.done[-1], b"seven..")

    def test_not_resumed_after_stop(self) -> None:
        """A sender whose upload was given up is left alone."""
        beside = self.make(high_water_bytes=4)
        beside.add(b"four")
        beside.stop()
        self.threads.finish()
        self.assertEqual(self.sender.told, ["pause"])


class FailureTests(BesideCase):
    """The first error is the end."""

    def test_error_reaches_who_waits(self) -> None:
        """Who waits for the end gets the error of the work."""
        beside = self.make(self.fail_at(b"bad"))
        beside.add(b"bad")
        drained = beside.drained()
        self.threads.finish()
        self.failureResultOf(drained, ValueError)

    def test_error_is_kept(self) -> None:
        """Who asks after the error gets it, too; and can look before reading on."""
        beside = self.make(self.fail_at(b"bad"))
        self.assertIsNone(beside.failure)
        beside.add(b"bad")
        self.threads.finish()
        assert beside.failure is not None
        self.assertIsInstance(beside.failure.value, ValueError)
        self.failureResultOf(beside.drained(), ValueError)

    def test_later_chunks_are_dropped(self) -> None:
        """Neither what waited nor what is added later is worked off."""
        beside = self.make(self.fail_at(b"bad"))
        for chunk in (b"bad", b"waits"):
            beside.add(chunk)
        self.threads.finish()
        beside.add(b"later")
        self.assertEqual((self.done, self.threads.jobs), ([], []))

    def test_paused_sender_goes_on(self) -> None:
        """A sender isn't left waiting for work that has ended."""
        beside = self.make(self.fail_at(b"bad!"), high_water_bytes=4)
        beside.add(b"bad!")
        self.threads.finish()
        self.assertEqual(self.sender.told, ["pause", "resume"])

    def test_failed_first_step(self) -> None:
        """An error in the first steps is one of the work: no chunk is touched."""

        def steps() -> Iterator[None]:
            yield
            raise OSError(5, "I/O error")

        beside = self.make(first=steps())
        beside.add(b"chunk")
        self.threads.finish()
        self.failureResultOf(beside.drained(), OSError)
        self.assertEqual((self.done, self.threads.jobs), ([], []))

    def test_error_where_a_chunk_is_added(self) -> None:
        """Work that is done at once fails as if it had been done in a thread; adding doesn't raise."""
        beside = self.make(self.fail_at(b"bad"), job_bytes=100)
        beside.add(b"bad")
        beside.add(b"later")
        self.failureResultOf(beside.drained(), ValueError)
        self.assertEqual(self.done, [])


class StopTests(BesideCase):
    """Giving up."""

    def test_at_once_when_nothing_runs(self) -> None:
        """There is nothing to wait for."""
        self.successResultOf(self.make().stop())

    def test_waits_for_the_running_job(self) -> None:
        """The thread may be using a descriptor: only after its end can that be closed."""
        beside = self.make()
        beside.add(b"one")
        stopped = beside.stop()
        self.assertNoResult(stopped)
        self.threads.finish()
        self.successResultOf(stopped)

    def test_running_job_ends_early(self) -> None:
        """A job that has begun leaves the rest of its chunks alone."""

        def work(chunk: bytes) -> None:
            self.done.append(chunk)
            beside.stop()

        beside = self.make(work, first=iter([None]))
        beside.add(b"zero")
        beside.add(b"one")
        self.threads.finish()
        self.threads.finish()
        self.assertEqual((self.done, self.threads.jobs), ([b"zero"], []))

    def test_first_steps_end_early(self) -> None:
        """A prefix of gigabytes isn't read to its end for nobody."""
        taken: list[int] = []

        def steps() -> Iterator[None]:
            for step in range(5):
                taken.append(step)
                if step == 1:
                    beside.stop()
                yield

        beside = self.make(first=steps())
        self.threads.finish()
        self.assertEqual((taken, self.threads.jobs), ([0, 1], []))

    def test_who_waits_is_told(self) -> None:
        """Nobody waits for ever for an end that doesn't come."""
        beside = self.make()
        beside.add(b"one")
        drained = beside.drained()
        beside.stop()
        self.failureResultOf(drained, CancelledError)
        self.failureResultOf(beside.drained(), CancelledError)

    def test_nothing_is_added_any_more(self) -> None:
        """A chunk that comes after the stop is dropped."""
        beside = self.make()
        beside.stop()
        beside.add(b"late")
        self.assertEqual(self.threads.jobs, [])

    def test_twice(self) -> None:
        """Both who stop it hear of the end."""
        beside = self.make()
        beside.add(b"one")
        both = [beside.stop(), beside.stop()]
        self.threads.finish()
        for stopped in both:
            self.successResultOf(stopped)

    def test_error_of_the_last_job_is_of_no_interest(self) -> None:
        """What the abandoned job still raises is no failure of the upload."""
        stopped: list[Deferred[None]] = []

        def work(_: bytes) -> None:
            stopped.append(beside.stop())
            raise ValueError("too late")

        beside = self.make(work)
        beside.add(b"one")
        self.threads.finish()
        self.successResultOf(stopped[0])
        self.assertIsNone(beside.failure)


class SmallJobTests(BesideCase):
    """No thread is woken for what is done sooner without one."""

    def test_first_bytes_at_once(self) -> None:
        """The first *job_bytes* of a stream are worked off where they are added."""
        beside = self.make(job_bytes=8)
        beside.add(b"four")
        beside.add(b"more")
        self.assertEqual((self.done, self.threads.jobs), ([b"four", b"more"], []))

    def test_later_bytes_are_gathered(self) -> None:
        """After that a thread gets no less than *job_bytes*."""
        beside = self.make(job_bytes=8)
        beside.add(b"eight...")
        beside.add(b"four")
        self.assertEqual((self.done, self.threads.jobs), ([b"eight..."], []))
        beside.add(b"more")
        self.threads.finish()
        self.assertEqual(self.done, [b"eight...", b"four", b"more"])

    def test_rest_is_worked_off_in_the_end(self) -> None:
        """What was gathered and is too little for a thread is done by who wants to see the end."""
        beside = self.make(job_bytes=8)
        beside.add(b"eight...")
        beside.add(b"four")
        self.successResultOf(beside.drained())
        self.assertEqual((self.done, self.threads.jobs), ([b"eight...", b"four"], []))

    def test_rest_after_a_running_job(self) -> None:
        """What was gathered while the last job ran is done although it is little."""
        beside = self.make(job_bytes=8)
        for chunk in (b"eight...", b"eight...", b"four"):
            beside.add(chunk)
        drained = beside.drained()
        self.threads.finish()
        self.threads.finish()
        self.successResultOf(drained)
        self.assertEqual(self.done, [b"eight...", b"eight...", b"four"])

    def test_packets_of_a_slow_sender(self) -> None:
        """A small chunk is worked off at once if nothing waits: it stays in memory for nobody."""
        beside = self.make(job_bytes=16)
        beside.add(b"sixteen bytes...")
        beside.add(b"12")
        self.assertEqual((self.done, self.threads.jobs), ([b"sixteen bytes...", b"12"], []))

    def test_packet_behind_others_waits(self) -> None:
        """A small chunk never overtakes a larger one that waits."""
        beside = self.make(job_bytes=16)
        for chunk in (b"sixteen bytes...", b"eight...", b"12"):
            beside.add(chunk)
        self.assertEqual(self.done, [b"sixteen bytes..."])
        self.successResultOf(beside.drained())
        self.assertEqual(self.done, [b"sixteen bytes...", b"eight...", b"12"])

    def test_packet_behind_a_job_waits(self) -> None:
        """A small chunk isn't worked off beside a job that runs."""
        beside = self.make(job_bytes=16)
        for chunk in (b"sixteen bytes...", b"sixteen more....", b"12"):
            beside.add(chunk)
        self.assertEqual(self.done, [b"sixteen bytes..."])

    def test_first_steps_come_before_small_chunks(self) -> None:
        """Whatever its size, no chunk is worked off before the first steps."""
        beside = self.make(first=iter([None]), job_bytes=16)
        beside.add(b"12")
        self.assertEqual(self.done, [])
        drained = beside.drained()
        self.threads.finish()
        self.threads.finish()
        self.successResultOf(drained)
        self.assertEqual(self.done, [b"12"])

    @given(
        sizes=st.lists(st.integers(0, 40), max_size=20),
        finish_after=st.lists(st.booleans(), min_size=20, max_size=20),
        job_bytes=st.integers(0, 32),
    )
    def test_every_chunk_once_and_in_order(self, sizes: list[int], finish_after: list[bool], job_bytes: int) -> None:
        """However chunks and the ends of jobs fall, all are worked off, once, in order; and the sender goes on."""
        self.setUp()
        beside = self.make(job_bytes=job_bytes, high_water_bytes=24)
        chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
        for chunk, finish in zip(chunks, finish_after, strict=False):
            beside.add(chunk)
            if finish and self.threads.jobs:
                self.threads.finish()
        drained = beside.drained()
        while self.threads.jobs:
            self.threads.finish()
        self.successResultOf(drained)
        self.assertEqual(self.done, chunks)
        self.assertEqual(self.sender.told.count("pause"), self.sender.told.count("resume"))


class RunningDigestsTests(SynchronousTestCase):
    """Digests of a stream."""

    def make(self, *algorithms: str, prefix: tuple[int, int] | None = None) -> RunningDigests:
        return RunningDigests(algorithms, InlineThreads(), lambda: None, lambda: None, prefix)

    def file(self, content: bytes) -> int:
        """An open file with *content*, closed after the test."""
        path = self.mktemp()
        with open(path, "wb") as made:
            made.write(content)
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return fd

    def test_all_algorithms(self) -> None:
        """Each algorithm that was asked for, and no other."""
        running = self.make("sha256", "sha512", "md5", "sha1")
        running.add(b"hello ")
        running.add(b"world")
        expected = {
            name: hashlib.new(name, b"hello world", usedforsecurity=False).digest()
            for name in ("sha256", "sha512", "md5", "sha1")
        }
        self.assertEqual(self.successResultOf(running.digests()), expected)

    def test_empty_stream(self) -> None:
        """An empty file has a digest, too."""
        self.assertEqual(self.successResultOf(self.make("sha256").digests()), {"sha256": hashlib.sha256().digest()})

    def test_large_stream(self) -> None:
        """Beyond what is hashed at once."""
        chunks = [bytes([number]) * (HASH_JOB_BYTES // 3) for number in range(10)]
        running = self.make("sha256")
        for chunk in chunks:
            running.add(chunk)
        self.assertEqual(self.successResultOf(running.digests()), {"sha256": hashlib.sha256(b"".join(chunks)).digest()})

    def test_small_stream_needs_no_thread(self) -> None:
        """A picture is hashed where it arrives."""
        threads = HeldThreads()
        running = RunningDigests(["sha256"], threads, lambda: None, lambda: None)
        running.add(bytes(HASH_JOB_BYTES))
        self.assertEqual(threads.jobs, [])
        self.successResultOf(running.digests())

    def test_goes_on_from_a_prefix(self) -> None:
        """A resumed stream has the digest of the whole file, whatever the file has beyond the prefix."""
        prefix = bytes(range(256)) * (PREFIX_STEP_BYTES // 256) + b"and a bit"
        running = self.make("sha256", prefix=(self.file(prefix + b"not durable"), len(prefix)))
        running.add(b"rest")
        self.assertEqual(self.successResultOf(running.digests()), {"sha256": hashlib.sha256(prefix + b"rest").digest()})

    def test_leaves_the_offset_alone(self) -> None:
        """The part file is written to while its prefix is read."""
        fd = self.file(b"prefix")
        self.successResultOf(self.make("sha256", prefix=(fd, 6)).digests())
        self.assertEqual(os.lseek(fd, 0, os.SEEK_CUR), 0)

    def test_prefix_shorter_than_stated(self) -> None:
        """Bytes that were said to be there are gone: no digest is better than one of something else."""
        running = self.make("sha256", prefix=(self.file(b"short"), 6))
        self.failureResultOf(running.digests(), EOFError)
        self.assertIsNotNone(running.failure)

    def test_stopped(self) -> None:
        """Who has given up gets no digest."""
        running = self.make("sha256")
        self.successResultOf(running.stop())
        self.failureResultOf(running.digests(), CancelledError)


class RealThreadsTests(AwaitedTestCase):
    """The same with threads that run at their own pace."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.pool = ThreadPool(minthreads=2, maxthreads=2)
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.threads = Threads(reactor, self.pool)  # type: ignore[arg-type]

    async def test_digest_of_a_resumed_stream(self) -> None:
        """Prefix, bytes for the threads and a rest come out as one digest."""
        path = self.mktemp()
        prefix = os.urandom(3 * PREFIX_STEP_BYTES + 1)
        with open(path, "wb") as made:
            made.write(prefix)
        chunks = [os.urandom(HASH_JOB_BYTES) for _ in range(8)] + [b"rest"]
        with open(path, "rb") as opened:
            running = RunningDigests(
                ["sha256"], self.threads, lambda: None, lambda: None, (opened.fileno(), len(prefix))
            )
            for chunk in chunks:
                running.add(chunk)
            digests = await running.digests()
        self.assertEqual(digests, {"sha256": hashlib.sha256(prefix + b"".join(chunks)).digest()})

    async def test_stop_waits_for_the_thread(self) -> None:
        """When the stop has fired the thread is out of the work."""
        entered, leave, left = threading.Event(), threading.Event(), threading.Event()

        def work(_: bytes) -> None:
            entered.set()
            leave.wait(10)
            left.set()

        beside = Beside(work, self.threads, lambda: None, lambda: None)
        beside.add(b"chunk")
        entered.wait(10)
        stopped = beside.stop()
        self.assertFalse(stopped.called)
        leave.set()
        await stopped
        self.assertTrue(left.is_set())
