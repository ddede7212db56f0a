"""A body on its way into a part file: written, compared, hashed, made durable, and tried again."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.parts import Part
from hmacfs.uploads.body import ContentMismatch
from hmacfs.uploads.retrying import Retries
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.upload import (
    CHECKPOINT_BYTES,
    CHECKPOINT_S,
    TIMELY_CHECKPOINTS,
    Means,
    Pace,
    Upload,
    common_prefix,
)
from tests.uploads.support import Body, UploadTestCase, begun
from tests.uploads.test_beside import HeldThreads

CONTENT = bytes(range(100))


class CommonPrefixTests(SynchronousTestCase):
    """Where two texts part."""

    @given(st.binary(), st.binary(), st.binary())
    def test_any(self, same: bytes, one: bytes, other: bytes) -> None:
        one, other = same + one, same + other
        found = common_prefix(one, other)
        self.assertEqual(one[:found], other[:found])
        self.assertTrue(found in (len(one), len(other)) or one[found] != other[found])


class ReadyBody(Body):
    """A body that has arrived, in pieces, before anybody asks for it."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self._pieces = pieces

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        done = super().startProducing(consumer)
        self.send(*self._pieces)
        self.end()
        return done


class WritingTestCase(UploadTestCase):
    """An upload of a body into a part.

    :ivar checkpoints: how much had been written at each.
    """

    def setUp(self) -> None:
        super().setUp()
        self.checkpoints: list[int] = []
        self.checkpoint_ends: Callable[[], Deferred[None] | None] = lambda: None
        self.retried: list[str] = []
        self.body = Body()
        self.pace = Pace()

    def upload(
        self,
        part: Part,
        start: int = 0,
        end: int = 100,
        *,
        threads: Threads | None = None,
        retries: int = 0,
        restarts: bool = True,
        **settings: Any,
    ) -> Upload:
        """An upload, not begun yet."""

        async def checkpoint() -> None:
            self.checkpoints.append(part.size)
            waiting = self.checkpoint_ends()
            if waiting is not None:
                await waiting

        usual = {"file_algorithms": frozenset(), "body_algorithms": frozenset(), "arrived": lambda _size: None}
        retrying = Retries(retries, 2.0, self.clock, self.retried.append)
        means = Means(self.clock, threads or InlineThreads(), retrying, self.pace)
        restart = part.truncate if restarts else None
        return Upload(part, start, end, means, restart=restart, checkpoint=checkpoint, **{**usual, **settings})

    def receive(self, part: Part, *args: int, **settings: Any) -> Deferred[None]:
        """Begin one."""
        return begun(self.upload(part, *args, **settings).receive(self.body))


class WriteTests(WritingTestCase):
    """Bytes that are new."""

    def test_whole(self) -> None:
        part = self.part()
        result = self.receive(part)
        self.body.send(CONTENT[:30], CONTENT[30:])
        self.body.end()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), CONTENT)

    def test_rest(self) -> None:
        """After what is there."""
        result = self.receive(self.part(CONTENT[:40]), 40)
        self.body.send(CONTENT[40:])
        self.body.end()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), CONTENT)

    def test_written_as_it_arrives(self) -> None:
        """What had arrived when the connection broke is there."""
        result = self.receive(self.part())
        self.body.send(CONTENT[:30])
        self.assertEqual(self.on_disk(), CONTENT[:30])
        self.body.end(ConnectionDone())
        self.failureResultOf(result, ConnectionDone)
        self.assertEqual(self.on_disk(), CONTENT[:30])

    def test_no_timer_left(self) -> None:
        for uid, error in (("whole", None), ("broken", ConnectionDone())):
            body = Body()
            result = begun(self.upload(self.part(uid=uid), end=10).receive(body))
            body.send(CONTENT[:10])
            body.end(error)
            result.addErrback(lambda _: None)
            self.assertEqual(self.clock.getDelayedCalls(), [])


class CheckpointTests(WritingTestCase):
    """What a crash may cost: some megabytes or a second, whichever comes first."""

    def test_by_size(self) -> None:
        size = 2 * CHECKPOINT_BYTES + 1
        self.receive(self.part(), 0, size)
        self.body.send(*[bytes(CHECKPOINT_BYTES // 2)] * 4)
        self.assertEqual(self.checkpoints, [CHECKPOINT_BYTES, 2 * CHECKPOINT_BYTES])

    def test_by_time(self) -> None:
        self.receive(self.part())
        self.body.send(CONTENT[:10])
        self.clock.advance(CHECKPOINT_S / 2)
        self.body.send(CONTENT[10:20])
        self.assertEqual(self.checkpoints, [])
        self.clock.advance(CHECKPOINT_S / 2)
        self.assertEqual(self.checkpoints, [20])

    def test_each_second(self) -> None:
        """As long as something comes."""
        self.receive(self.part())
        for at in range(0, 30, 10):
            self.body.send(CONTENT[at : at + 10])
            self.clock.advance(CHECKPOINT_S)
        self.assertEqual(self.checkpoints, [10, 20, 30])

    def test_silence(self) -> None:
        """One, so that others know of the upload; then there is nothing to be made durable."""
        self.receive(self.part())
        self.clock.pump([CHECKPOINT_S] * 5)
        self.assertEqual(self.checkpoints, [0])

    def test_crowd(self) -> None:
        """Where many uploads are slow at once, they wait longer for their checkpoints: the disk has others to serve."""
        self.pace.waiting = 10 * TIMELY_CHECKPOINTS
        self.receive(self.part())
        self.body.send(CONTENT[:10])
        self.clock.advance(9 * CHECKPOINT_S)
        self.assertEqual(self.checkpoints, [])
        self.clock.advance(CHECKPOINT_S)
        self.assertEqual(self.checkpoints, [10])

    def test_who_waits(self) -> None:
        """Who has had a checkpoint, or has left, isn't counted any more."""
        result = self.receive(self.part(), 0, CHECKPOINT_BYTES + 10)
        self.assertEqual(self.pace.waiting, 1)
        self.body.send(bytes(CHECKPOINT_BYTES))
        self.assertEqual(self.pace.waiting, 0)
        self.body.send(b"x")
        self.assertEqual(self.pace.waiting, 1)
        self.body.end(ConnectionDone())
        self.failureResultOf(result, ConnectionDone)
        self.assertEqual(self.pace.waiting, 0)

    def test_size_starts_the_second_anew(self) -> None:
        self.receive(self.part(), 0, CHECKPOINT_BYTES + 10)
        self.clock.advance(CHECKPOINT_S - 0.1)
        self.body.send(bytes(CHECKPOINT_BYTES))
        self.body.send(b"x")
        self.clock.advance(0.1)
        self.assertEqual(self.checkpoints, [CHECKPOINT_BYTES])
        self.clock.advance(CHECKPOINT_S - 0.1)
        self.assertEqual(self.checkpoints, [CHECKPOINT_BYTES, CHECKPOINT_BYTES + 1])

    def hold(self) -> Deferred[None]:
        """Let checkpoints take their time."""
        held: Deferred[None] = Deferred()
        self.checkpoint_ends = lambda: held
        return held

    def test_one_at_a_time(self) -> None:
        """A slow disk is not asked twice."""
        held = self.hold()
        self.receive(self.part(), 0, 4 * CHECKPOINT_BYTES)
        self.body.send(*[bytes(CHECKPOINT_BYTES)] * 3)
        self.clock.pump([CHECKPOINT_S] * 3)
        self.assertEqual(self.checkpoints, [CHECKPOINT_BYTES])
        self.checkpoint_ends = lambda: None
        held.callback(None)
        self.assertEqual(self.checkpoints, [CHECKPOINT_BYTES, 3 * CHECKPOINT_BYTES])

    def test_what_came_meanwhile(self) -> None:
        """Bytes that came during one have the next, though nothing more comes."""
        held = self.hold()
        self.receive(self.part())
        self.body.send(CONTENT[:10])
        self.clock.advance(CHECKPOINT_S)
        self.body.send(CONTENT[10:30])
        self.checkpoint_ends = lambda: None
        held.callback(None)
        self.clock.advance(CHECKPOINT_S)
        self.assertEqual(self.checkpoints, [10, 30])

    def test_end_waits_for_it(self) -> None:
        """Nothing is done to the part any more when the upload is over."""
        held = self.hold()
        result = self.receive(self.part(), 0, 10)
        self.body.send(CONTENT[:10])
        self.clock.advance(CHECKPOINT_S)
        self.body.end(ConnectionDone())
        self.assertNoResult(result)
        held.callback(None)
        self.failureResultOf(result, ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fails(self) -> None:
        """Whoever can't make durable what has arrived takes no more of it."""
        held = self.hold()
        result = self.receive(self.part())
        self.body.send(CONTENT[:10])
        self.clock.advance(CHECKPOINT_S)
        held.errback(Superseded())
        self.failureResultOf(result, Superseded)
        self.assertTrue(self.body.stopped)


class OverlapTests(WritingTestCase):
    """Bytes that may be here already."""

    def test_same(self) -> None:
        """Compared and passed over; the rest is written."""
        result = self.receive(self.part(CONTENT[:40]), 20)
        self.disk.calls.clear()
        self.body.send(CONTENT[20:30], CONTENT[30:50], CONTENT[50:])
        self.body.end()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), CONTENT)
        self.assertEqual([method for method, _ in self.disk.calls], ["write", "write"])

    def test_different_body(self) -> None:
        """The new bytes take the place of the old, from the first that differs."""
        other = CONTENT[:30] + bytes(70)
        result = self.receive(self.part(CONTENT[:40]))
        self.body.send(other[:35], other[35:])
        self.body.end()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), other)

    def test_different_body_breaks_off(self) -> None:
        """No old byte is left after the last new one."""
        result = self.receive(self.part(CONTENT[:40]))
        self.body.send(CONTENT[:30] + b"\xff")
        self.body.end(ConnectionDone())
        self.failureResultOf(result, ConnectionDone)
        self.assertEqual(self.on_disk(), CONTENT[:30] + b"\xff")

    def test_different_part(self) -> None:
        """An error, told with its place; what is here stays."""
        result = self.receive(self.part(CONTENT[:40]), 20, restarts=False)
        self.body.send(CONTENT[20:25] + b"\xff", CONTENT[26:])
        self.body.end()
        error = self.failureResultOf(result, ContentMismatch).value
        assert isinstance(error, ContentMismatch)
        self.assertEqual((error.at, self.on_disk()), (25, CONTENT[:40]))

    def test_waits_for_the_thread(self) -> None:
        """Neither the answer nor the close of the part comes before the last comparison."""
        threads = HeldThreads()
        result = self.receive(self.part(CONTENT[:40]), 0, threads=threads)
        self.body.send(CONTENT)
        self.body.end()
        self.assertNoResult(result)
        threads.finish()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), CONTENT)

    def test_connection_lost_while_the_thread_works(self) -> None:
        threads = HeldThreads()
        result = self.receive(self.part(CONTENT[:40]), 0, threads=threads)
        self.body.send(CONTENT[:60])
        self.body.end(ConnectionDone())
        self.assertNoResult(result)
        threads.finish()
        self.failureResultOf(result, ConnectionDone)
        self.assertEqual(self.on_disk(), CONTENT[:60])

    def test_storage_fails_in_the_thread(self) -> None:
        result = self.receive(self.part(CONTENT[:40]))
        self.disk.fail("write", errno.EIO)
        self.body.send(CONTENT)
        self.body.end()
        self.failureResultOf(result, OSError)

    @given(st.data())
    def test_any(self, data: st.DataObject) -> None:
        """Whatever is there, the part is the old prefix and the new body, or the body is refused and changes nothing."""
        alphabet = st.lists(st.integers(0, 1), max_size=40).map(bytes)
        there, sent = data.draw(alphabet, label="there"), data.draw(alphabet, label="sent")
        start = data.draw(st.integers(0, len(there)), label="start")
        restarts = data.draw(st.booleans(), label="restarts")
        uid = f"any-{os.urandom(8).hex()}"
        part = self.part(there, uid)
        body = Body()
        upload = self.upload(part, start, start + len(sent), restarts=restarts)
        result = begun(upload.receive(body))
        edges = sorted({0, len(sent), *data.draw(st.lists(st.integers(0, len(sent)), max_size=4), label="cuts")})
        body.send(*(sent[a:b] for a, b in pairwise(edges)))
        body.end()
        overlap = there[start : start + len(sent)]
        if sent.startswith(overlap) or restarts:
            self.successResultOf(result)
            kept = there[start + len(sent) :] if sent.startswith(overlap) else b""
            self.assertEqual(self.on_disk(uid), there[:start] + sent + kept)
        else:
            self.failureResultOf(result, ContentMismatch)
            self.assertEqual(self.on_disk(uid), there)
        part.discard()


class DigestTests(WritingTestCase):
    """Hashed while it arrives."""

    SHA256 = frozenset({"sha256"})

    def digests(self, part: Part, start: int, **settings: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
        upload = self.upload(part, start, file_algorithms=self.SHA256, body_algorithms=frozenset({"md5"}), **settings)
        result = begun(upload.receive(self.body))
        self.body.send(CONTENT[start : start + 7], CONTENT[start + 7 :])
        self.body.end()
        self.successResultOf(result)
        return self.successResultOf(begun(upload.file_digests())), self.successResultOf(begun(upload.body_digests()))

    def test_of_file_and_body(self) -> None:
        """What an earlier connection brought is read again for the one, and is not in the other."""
        file, body = self.digests(self.part(CONTENT[:40]), 40)
        self.assertEqual(file, {"sha256": hashlib.sha256(CONTENT).digest()})
        self.assertEqual(body, {"md5": hashlib.md5(CONTENT[40:]).digest()})

    def test_of_replaced_bytes(self) -> None:
        """The digest is of what is there in the end."""
        file, _ = self.digests(self.part(bytes(50)), 0)
        self.assertEqual(file, {"sha256": hashlib.sha256(CONTENT).digest()})

    def test_none_wanted(self) -> None:
        upload = self.upload(self.part())
        self.assertEqual(self.successResultOf(begun(upload.file_digests())), {})
        self.assertEqual(self.successResultOf(begun(upload.body_digests())), {})

    def test_end_waits_for_the_reader(self) -> None:
        """When it has ended no thread reads the part's descriptor any more."""
        threads = HeldThreads()
        upload = self.upload(self.part(CONTENT[:40]), 40, threads=threads, file_algorithms=self.SHA256)
        begun(upload.receive(self.body)).addErrback(lambda _: None)
        self.body.end(ConnectionDone())
        ended = begun(upload.end())
        self.assertNoResult(ended)
        threads.finish()
        self.successResultOf(ended)


class RetryTests(WritingTestCase):
    """A storage that fails, and may come back: the client waits."""

    def test_comes_back(self) -> None:
        """The sender is held, and all bytes are there in their order."""
        result = self.receive(self.part(), retries=3)
        self.body.send(CONTENT[:10])
        self.disk.fail("write", errno.EIO, times=3)
        self.body.send(CONTENT[10:20])
        self.assertTrue(self.body.paused)
        self.body.send(CONTENT[20:])
        self.body.end()
        self.assertNoResult(result)
        self.clock.pump([2.0] * 3)
        self.successResultOf(result)
        self.assertEqual((self.on_disk(), self.retried), (CONTENT, ["write"] * 3))

    def test_sender_goes_on(self) -> None:
        self.receive(self.part(), retries=3)
        self.disk.fail("write", errno.ESTALE, times=1)
        self.body.send(CONTENT[:10])
        self.clock.advance(1.9)
        self.assertTrue(self.body.paused)
        self.clock.advance(0.1)
        self.assertFalse(self.body.paused)

    def test_does_not_come_back(self) -> None:
        """503 after the last try; what was written before is kept."""
        result = self.receive(self.part(), retries=2)
        self.body.send(CONTENT[:10])
        self.disk.fail("write", errno.EIO)
        self.body.send(CONTENT[10:20])
        self.clock.pump([2.0] * 3)
        refused = self.failureResultOf(result, Refused).value
        self.assertEqual(refused.args[:2], (503, "unavailable"))
        self.assertEqual((self.on_disk(), self.body.stopped), (CONTENT[:10], True))

    def test_no_retries_wanted(self) -> None:
        result = self.receive(self.part())
        self.disk.fail("write", errno.EIO)
        self.body.send(CONTENT[:10], CONTENT[10:20])
        self.failureResultOf(result, Refused)
        self.assertEqual(self.on_disk(), b"")

    def test_body_that_is_here_already(self) -> None:
        """Nothing of it is written behind a gap: its later bytes would stand where the failed ones belong."""
        self.disk.fail("write", errno.EIO, times=1)
        upload = self.upload(self.part())
        result = begun(upload.receive(ReadyBody(CONTENT[:10], CONTENT[10:])))
        self.failureResultOf(result, Refused)
        self.assertEqual(self.on_disk(), b"")

    def test_part_of_a_piece(self) -> None:
        """Written as far as it went, and on from there."""
        taken = self.disk_takes(4)
        result = self.receive(self.part(), 0, 10, retries=1)
        self.body.send(b"0123456789")
        taken()
        self.clock.advance(2.0)
        self.body.end()
        self.successResultOf(result)
        self.assertEqual(self.on_disk(), b"0123456789")

    def disk_takes(self, size: int) -> Callable[[], None]:
        """Let the disk take so many bytes, and then fail until told otherwise."""
        writes = iter(range(1))

        def write(fd: int, data: memoryview, offset: int) -> int:
            if next(writes, None) is None:
                raise OSError(errno.EIO, "gone")
            return os.pwrite(fd, data[:size], offset)

        patched = self.patch(self.disk, "write", write)
        return lambda: patched.restore()

    def test_won_t_pass(self) -> None:
        """No room: at once."""
        result = self.receive(self.part(), retries=3)
        self.disk.fail("write", errno.ENOSPC)
        self.body.send(CONTENT[:10])
        error = self.failureResultOf(result, OSError).value
        assert isinstance(error, OSError)
        self.assertEqual((error.errno, self.retried), (errno.ENOSPC, []))

    def test_superseded_meanwhile(self) -> None:
        """A newer request need not wait for the disk; the older one writes nothing more."""
        upload = self.upload(self.part(), retries=3)
        result = begun(upload.receive(self.body))
        self.disk.fail("write", errno.EIO, times=1)
        self.body.send(CONTENT[:10])
        upload.stop(Superseded())
        self.failureResultOf(result, Superseded)
        self.clock.pump([2.0] * 4)
        self.assertEqual(self.on_disk(), b"")

    def test_superseded_at_the_end(self) -> None:
        """The same when the whole body is here, and only the disk is waited for."""
        upload = self.upload(self.part(), 0, 10, retries=3)
        result = begun(upload.receive(self.body))
        self.disk.fail("write", errno.EIO, times=1)
        self.body.send(CONTENT[:10])
        self.body.end()
        upload.stop(Superseded())
        self.failureResultOf(result, Superseded)

    def test_client_gone_meanwhile(self) -> None:
        """Its part may be somebody else's by the time of the next try."""
        result = self.receive(self.part(), retries=3)
        self.disk.fail("write", errno.EIO, times=1)
        self.body.send(CONTENT[:10])
        self.body.end(ConnectionDone())
        self.failureResultOf(result, ConnectionDone)
        self.clock.pump([2.0] * 4)
        self.assertEqual(self.on_disk(), b"")
