"""The store of upload states that needs no other program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import StartError
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.database import DatabaseAway
from hmacfs.uploads.embedded import LET_GO_POLL_S, EmbeddedUploadState
from hmacfs.uploads.state import LEASE_S, Busy, Fenced, Holder, Lease, StateUnavailable
from tests.awaiting import AwaitedTestCase
from tests.uploads.test_state import (
    NOW,
    OFFSETS,
    STEPS,
    TTL_S,
    Step,
    UploadStateMixin,
    holder,
    new_upload,
    random_steps,
)


class EmbeddedMixin(UploadStateMixin):
    def make_store(self, threads: Threads) -> None:
        """Two processes' views of one file."""
        self.clock = Clock()
        self.clock.advance(NOW)
        self.path = Path(self.mktemp()) / ".hmacfs" / "state.sqlite"
        self.path.parent.mkdir(parents=True)
        self.state = self.make_state(threads)
        self.other = self.make_state(threads)
        self.addCleanup(self.state.stop)
        self.addCleanup(self.other.stop)

    def make_state(self, threads: Threads) -> EmbeddedUploadState:
        return EmbeddedUploadState(self.path, threads, self.clock, TTL_S, self.clock.seconds)

    def lapse(self, uid: str) -> None:
        # To the letter: time passes for everybody.
        self.clock.advance(LEASE_S)

    def deliver(self) -> None:
        self.clock.advance(LET_GO_POLL_S)


class InlineTests(EmbeddedMixin, AwaitedTestCase):
    """In the order in which it is written."""

    def setUp(self) -> None:
        self.make_store(InlineThreads())


class ThreadsTests(EmbeddedMixin, AwaitedTestCase):
    """As it is run: the calls of two processes in threads."""

    def setUp(self) -> None:
        pool = ThreadPool(0, 4)
        pool.start()
        self.addCleanup(pool.stop)
        # Cleanups run backwards: the stores end before their threads.
        self.make_store(Threads(reactor, pool))


class EmbeddedCase(SynchronousTestCase):
    """Two processes' views of one file, whose calls are done when they return."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.directory = Path(self.mktemp())
        self.path = self.directory / ".hmacfs" / "state.sqlite"
        self.path.parent.mkdir(parents=True)
        self.state = self.make_state()
        self.other = self.make_state()
        self.told: list[str] = []

    def make_state(self) -> EmbeddedUploadState:
        state = EmbeddedUploadState(self.path, InlineThreads(), self.clock, TTL_S, self.clock.seconds)
        self.addCleanup(state.stop)
        return state

    def begin(self, uid: str = "upload-1") -> Lease:
        """An upload that tells when it is to let go."""
        lease = self.successResultOf(self.state.create(new_upload(uid), Holder(lambda: self.told.append(uid))))
        assert isinstance(lease, Lease)
        return lease


class ModelTests(SynchronousTestCase):
    """Whatever two processes do, the store does what the model does."""

    @given(
        st.lists(
            st.builds(
                Step,
                st.sampled_from(STEPS),
                st.integers(0, 1),
                st.integers(0, 1),
                st.integers(0, 2),
                st.integers(0, 7),
                st.sampled_from(OFFSETS),
            ),
            max_size=40,
        )
    )
    @settings(max_examples=60)
    def test_follows_the_model(self, steps: list[Step]) -> None:
        self.follow(steps)

    def test_follows_the_model_for_long(self) -> None:
        """So it does in the long run."""
        for seed in range(10):
            self.follow(random_steps(seed, 200))

    def follow(self, steps: Iterable[Step]) -> None:
        case = InlineTests("follow")
        case.setUp()
        self.successResultOf(Deferred.fromCoroutine(case.follow(steps)))
        self.successResultOf(case.state.stop())
        self.successResultOf(case.other.stop())


class LetGoTests(EmbeddedCase):
    def test_other_process_is_told_soon(self) -> None:
        """A holder in another process hears that it is to let go within a quarter of a second."""
        self.begin()
        self.failureResultOf(self.other.acquire("upload-1", holder()), Busy)
        self.assertEqual(self.told, [])
        self.clock.advance(LET_GO_POLL_S)
        self.assertEqual(self.told, ["upload-1"])

    def test_nobody_looks_without_need(self) -> None:
        """A process that holds nothing leaves the file alone."""
        lease = self.begin()
        self.assertNotEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.state.release(lease))
        self.clock.advance(LET_GO_POLL_S)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_looks_again(self) -> None:
        """It looks again when it holds something again, and after a time when the file could not be read."""
        self.successResultOf(self.state.release(self.begin()))
        self.clock.advance(LET_GO_POLL_S)
        self.begin("upload-2")
        aside = self.path.parent.rename(self.directory / "aside")
        self.directory.chmod(0o700)
        (self.directory / ".hmacfs").touch()
        self.clock.advance(LET_GO_POLL_S)
        self.assertEqual(self.state.available, False)
        (self.directory / ".hmacfs").unlink()
        aside.rename(self.path.parent)
        self.failureResultOf(self.other.acquire("upload-2", holder()), Busy)
        self.clock.advance(LET_GO_POLL_S)
        self.assertEqual(self.told, ["upload-2"])
        self.assertEqual(self.state.available, True)


class CountedThreads(InlineThreads):
    """Threads that begin a call at once and end it when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Deferred[None]] = []

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        end: Deferred[None] = Deferred()
        self.begun.append(end)
        return end.addCallback(lambda _: function(*args, **kwargs))


class TurnTests(EmbeddedCase):
    def test_one_thread_at_a_time(self) -> None:
        """However many calls there are at once, a store takes no more than one thread, and answers in order."""
        threads = CountedThreads()
        state = EmbeddedUploadState(self.path, threads, self.clock, TTL_S, self.clock.seconds)
        answered: list[int] = []
        for number in range(3):
            state.get("upload-1").addCallback(lambda _, number=number: answered.append(number))
        for number in range(3):
            self.assertEqual(len(threads.begun), number + 1)
            threads.begun[number].callback(None)
        self.assertEqual(answered, [0, 1, 2])


class ClockTests(EmbeddedCase):
    def test_lease_lasts(self) -> None:
        """A lease holds until its time is over, and each commit and renewal gives it its whole time again."""
        lease = self.begin()
        for change in (self.state.renew(lease), self.state.commit(lease, 1)):
            self.successResultOf(change)
            self.clock.advance(LEASE_S - 0.001)
            self.failureResultOf(self.other.acquire("upload-1", holder()), Busy)
            self.successResultOf(self.state.renew(lease))
        self.clock.advance(LEASE_S)
        self.successResultOf(self.other.acquire("upload-1", holder()))

    def test_clock_set_back(self) -> None:
        """A lease of before the clock was set back does not block the upload until the old time is reached again."""
        self.begin()
        self.clock.rightNow -= 3600
        self.successResultOf(self.other.acquire("upload-1", holder()))

    def test_call_that_had_to_wait(self) -> None:
        """A call that was made before the lease was given, and had to wait, does not take it for a lease of old."""
        self.clock.advance(5)
        self.begin()
        self.clock.rightNow -= 5
        self.failureResultOf(self.other.acquire("upload-1", holder()), Busy)

    def test_clock_set_back_under_a_living_holder(self) -> None:
        """A holder that renews its lease after the clock was set back keeps it."""
        lease = self.begin()
        self.clock.rightNow -= 3600
        self.successResultOf(self.state.renew(lease))
        self.failureResultOf(self.other.acquire("upload-1", holder()), Busy)


class FileTests(EmbeddedCase):
    def test_survives_a_restart(self) -> None:
        """What is known of an upload is known after hmacfs was started again."""
        lease = self.begin()
        self.successResultOf(self.state.commit(lease, 500, b"hash"))
        self.successResultOf(self.state.stop())
        self.successResultOf(self.other.stop())
        record = self.successResultOf(self.make_state().get("upload-1"))
        assert record is not None
        self.assertEqual((record.offset, record.hash_state), (500, b"hash"))

    def test_lost_file(self) -> None:
        """After the file was lost the upload is begun again, and who held it before can't interfere."""
        lease = self.begin()
        self.path.unlink()
        again = self.successResultOf(self.other.create(new_upload(offset=500), holder()))
        assert isinstance(again, Lease)
        self.assertEqual(again.epoch, lease.epoch)
        self.failureResultOf(self.state.commit(lease, 600), Fenced)

    def test_store_away(self) -> None:
        """While the file can't be had calls fail, say why and when to come back; when it can, they don't."""
        self.directory.rename(self.directory.with_name("away"))
        with capturedLogs() as events:
            self.assertIsNone(self.successResultOf(self.state.start()))
        self.assertIn("store-error. Trying again with each upload", formatEvent(events[0]))
        error = self.failureResultOf(self.state.get("upload-1"), StateUnavailable).value
        self.assertEqual(error.reason, "store-error")
        self.assertGreater(error.retry_after_s, 0)
        self.assertIsInstance(error.__cause__, DatabaseAway)
        self.assertEqual(self.state.available, False)
        self.directory.with_name("away").rename(self.directory)
        self.begin()
        self.assertEqual(self.state.available, True)

    def test_another_format(self) -> None:
        """hmacfs does not start on a file that another version has made, and says what to do."""
        self.begin()
        self.state._database.write(lambda connection: connection.execute("PRAGMA user_version = 99"))
        self.successResultOf(self.state.stop())
        error = self.failureResultOf(self.make_state().start(), StartError).value
        self.assertIn("state.sqlite: has format 99, expected 1. Start the hmacfs that made it, or remove", str(error))


class ProcessesTests(SynchronousTestCase):
    def test_no_update_is_lost(self) -> None:
        """Processes that begin and write one upload at once, as fast as they can, lose nothing and see no error."""
        path = Path(self.mktemp()).resolve() / ".hmacfs" / "state.sqlite"
        path.parent.mkdir(parents=True)
        rounds = 100
        arguments = [sys.executable, "-m", "tests.uploads.hammer", str(path), "upload-1", str(rounds)]
        processes = [
            subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
            for _ in range(3)
        ]
        said = [process.communicate()[0].strip() for process in processes]
        self.assertEqual([word for word in said if not word.isdigit()], [])
        clock = Clock()
        clock.advance(NOW)
        state = EmbeddedUploadState(path, InlineThreads(), clock, TTL_S, clock.seconds)
        record = self.successResultOf(state.get("upload-1"))
        self.successResultOf(state.stop())
        assert record is not None
        self.assertEqual(record.offset, 3 * rounds)
