"""One request's hold on an upload: what is made durable and known, and in which order."""

from __future__ import annotations

import errno
import threading

from attrs import evolve

from hmacfs.net.threads import InlineThreads
from hmacfs.storage.parts import Part
from hmacfs.uploads.note import read_note
from hmacfs.uploads.session import ANNOUNCE_EVERY_S, Session, Superseded
from hmacfs.uploads.state import Lease, NewUpload, StateUnavailable, Status
from tests.uploads.support import UID, UPLOAD, UploadTestCase, begun, holder


class SessionTestCase(UploadTestCase):
    """A session over a part, and the log of all that is done to either."""

    def session(self, part: Part, upload: NewUpload = UPLOAD, lease: Lease | None = None) -> Session:
        return Session(part, upload, self.state, InlineThreads(), holder(), lease)

    def fresh(self, content: bytes = b"x" * 40) -> Session:
        return self.session(self.part(content))

    def done(self, step: object) -> None:
        self.successResultOf(begun(step))  # type: ignore[arg-type]


class CheckpointTests(SessionTestCase):
    """Bytes first, then what is said of them."""

    def test_durable(self) -> None:
        """Before there is nothing that may be told."""
        session = self.fresh()
        self.assertEqual((session.durable, session.recorded), (0, False))
        self.done(session.checkpoint())
        self.assertEqual((session.durable, session.recorded), (40, True))

    def test_order(self) -> None:
        """Neither the note nor the record is ever ahead of the disk."""
        session = self.fresh()
        self.disk.calls.clear()
        self.switched.before = lambda method: self.disk.calls.append((method, ""))
        self.done(session.checkpoint())
        methods = [method for method, _ in self.disk.calls if method not in ("sync", "get_attribute")]
        self.assertEqual(methods, ["sync_data", "set_attribute", "create", "commit"])

    def test_recorded(self) -> None:
        """All of the upload, with its offset."""
        session = self.fresh()
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual((record.offset, record.status, record.token), (40, Status.ACTIVE, UPLOAD.token))
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=40))

    def test_again(self) -> None:
        session = self.fresh()
        self.done(session.checkpoint())
        session.part.write(b"y" * 10)
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual((session.durable, record.offset, record.epoch), (50, 50, 1))

    def test_sync_fails(self) -> None:
        """The bytes count as not arrived, everywhere."""
        session = self.fresh()
        self.done(session.checkpoint())
        session.part.write(b"y" * 10)
        self.disk.fail("sync_data", errno.EIO)
        self.failureResultOf(begun(session.checkpoint()), OSError)
        record = self.record()
        assert record is not None
        self.assertEqual((session.durable, record.offset), (40, 40))
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=40))

    def test_state_away(self) -> None:
        """An upload goes on without it, and is recorded as soon as it is back."""
        session = self.fresh()
        self.switched.away = True
        self.done(session.checkpoint())
        self.assertEqual((session.durable, session.recorded), (40, False))
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=40))
        self.switched.away = False
        self.done(session.checkpoint())
        self.assertTrue(session.recorded)

    def test_fenced(self) -> None:
        """Somebody on another host has it by now."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.successResultOf(self.state.acquire(UID, holder(), True))
        session.part.write(b"y")
        self.failureResultOf(begun(session.checkpoint()), Superseded)

    def test_state_emptied(self) -> None:
        """A store that has forgotten everything is told once more."""
        session = self.fresh()
        self.done(session.checkpoint())
        lease = self.successResultOf(self.state.acquire(UID, holder(), True))
        self.successResultOf(self.state.discard(lease))
        session.part.write(b"y")
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual(record.offset, 41)

    def test_record_of_somebody_dead(self) -> None:
        """The lock on the part is ours: so is the upload. It begins a new generation."""
        self.created(offset=90)
        session = self.fresh()
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual((record.offset, record.generation), (40, 2))

    def test_record_is_ahead(self) -> None:
        """The store still counts a generation that was replaced while it was away: the disk is right."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.switched.away = True
        session.restart_at(10)
        self.done(session.checkpoint())
        self.switched.away = False
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual((record.offset, record.generation), (10, 2))

    def test_announced(self) -> None:
        """What is written, and not to be kept yet, is not made durable; the upload is known all the same."""
        session = self.fresh()
        self.disk.calls.clear()
        self.done(session.announce())
        record = self.record()
        assert record is not None
        self.assertEqual((session.durable, record.offset), (0, 0))
        self.assertNotIn("sync_data", [method for method, _ in self.disk.calls])

    def test_asked_about(self) -> None:
        """An upload of no bytes can be made known, too; if the store can be had."""
        session = self.fresh(b"")
        self.switched.away = True
        self.failureResultOf(begun(session.record()), StateUnavailable)
        self.switched.away = False
        self.done(session.record())
        record = self.record()
        assert record is not None
        self.assertEqual(record.offset, 0)


class AdvanceTests(SessionTestCase):
    """Checkpoints of an upload that goes on."""

    def offsets(self, session: Session, *times: float) -> list[int]:
        """What the state store knows after a byte and a checkpoint at each of these times."""
        known = []
        for now in times:
            session.part.write(b"x")
            self.done(session.advance(now))
            self.assertEqual(session.durable, session.part.size)
            record = self.record()
            assert record is not None
            known.append(record.offset)
        return known

    def test_noted(self) -> None:
        """The state store hears of it at once, so that the upload can be asked for, and every now and then."""
        session = self.fresh()
        times = (5, 5 + ANNOUNCE_EVERY_S / 2, 5 + ANNOUNCE_EVERY_S, 5 + ANNOUNCE_EVERY_S * 1.9)
        self.assertEqual(self.offsets(session, *times), [41, 41, 43, 43])
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=44))

    def test_without_notes(self) -> None:
        """Where nothing else tells how far it is, it hears of all."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.assertEqual(self.offsets(self.fresh(), 5, 5, 5), [41, 42, 43])

    def test_the_end(self) -> None:
        """It hears of the last one."""
        session = self.fresh()
        self.assertEqual(self.offsets(session, 5, 5), [41, 41])
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual(record.offset, 42)

    def test_sync_fails(self) -> None:
        """Whether it hears of it or not."""
        session = self.fresh()
        self.done(session.advance(5))
        self.disk.fail("sync_data", errno.EIO)
        session.part.write(b"x")
        self.failureResultOf(begun(session.advance(5)), OSError)
        self.assertEqual(session.durable, 40)


class RestartTests(SessionTestCase):
    """Bytes that are replaced by others."""

    def test_restart(self) -> None:
        """What is kept of the old ones is a new generation."""
        session = self.fresh()
        self.done(session.checkpoint())
        session.restart_at(20)
        self.assertEqual((session.durable, session.part.size), (20, 20))
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=20, generation=2))

    def test_said_before_it_is_cut(self) -> None:
        """Of a part that is shorter than its note says, nothing could be used after a crash."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.disk.calls.clear()
        session.restart_at(20)
        self.assertEqual([method for method, _ in self.disk.calls], ["set_attribute", "truncate"])

    def test_while_bytes_are_synced(self) -> None:
        """Both happen in threads. The sync must not promise bytes that have been cut off meanwhile."""
        session = self.fresh()
        restart = threading.Thread(target=session.restart_at, args=(20,))

        def start(method: str) -> None:
            if method == "sync_data":
                restart.start()
                # Long enough for one that does not wait for its turn.
                restart.join(0.2)

        self.disk.before = start
        self.done(session.checkpoint())
        restart.join()
        self.assertEqual((session.durable, session.part.size, session.part.durable_size), (20, 20, 20))
        self.assertEqual(read_note(session.part), evolve(UPLOAD, offset=20, generation=2))

    def test_recorded(self) -> None:
        """At the next checkpoint: a new generation, whose offset may be less."""
        session = self.fresh()
        self.done(session.checkpoint())
        session.restart_at(20)
        session.part.write(b"y" * 5)
        self.done(session.checkpoint())
        record = self.record()
        assert record is not None
        self.assertEqual((record.offset, record.generation), (25, 2))


class EndTests(SessionTestCase):
    """How it ends. Each of these is the end: whatever comes after it changes nothing."""

    def ended(self, step: str, *args: object) -> tuple[Status | None, list[str]]:
        """End a recorded session; what the store and the disk have afterwards."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.done(getattr(session, step)(*args))
        before = self.seen()
        self.done(session.left())
        self.assertEqual((self.seen(), session.recorded), (before, False))
        return before

    def seen(self) -> tuple[Status | None, list[str]]:
        record = self.record()
        return None if record is None else record.status, [path.name for path in self.own_files("parts")]

    def test_finished(self) -> None:
        """The record stays for who asks again; the part is the file's now."""
        session = self.session(self.part(b"x" * 100))
        self.done(session.checkpoint())
        self.done(session.finished(b"d" * 32))
        record = self.record()
        assert record is not None
        self.assertEqual((record.status, record.offset, record.sha256), (Status.COMPLETE, 100, b"d" * 32))

    def test_finished_before_the_last_checkpoint(self) -> None:
        """The bytes since then were made durable by being published."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.done(session.finished(None))
        record = self.record()
        assert record is not None
        self.assertEqual((record.status, record.offset), (Status.COMPLETE, 100))

    def test_failed(self) -> None:
        self.assertEqual(self.ended("failed", "digest-mismatch"), (Status.FAILED, []))
        record = self.record()
        assert record is not None
        self.assertEqual(record.reason, "digest-mismatch")

    def test_discarded(self) -> None:
        self.assertEqual(self.ended("discarded"), (None, []))

    def test_left(self) -> None:
        """It waits for another request, which needs neither steal nor wait."""
        self.assertEqual(self.ended("left"), (Status.ACTIVE, [UID]))
        self.successResultOf(self.state.acquire(UID, holder()))
        self.reopened()

    def test_never_recorded(self) -> None:
        """A short upload never troubles the state store."""
        calls: list[str] = []
        self.switched.before = calls.append
        for step, args in (("finished", (None,)), ("failed", ("x",)), ("discarded", ()), ("left", ())):
            session = self.session(self.part(b"x", uid=step))
            self.done(getattr(session, step)(*args))
        self.assertEqual(calls, [])

    def test_state_away(self) -> None:
        """What has happened on disk has happened; the janitor will see to the rest."""
        for step, args in (("finished", (None,)), ("failed", ("x",)), ("discarded", ()), ("left", ())):
            session = self.session(self.part(b"x", uid=step), evolve(UPLOAD, uid=step))
            self.done(session.checkpoint())
            self.switched.away = True
            self.done(getattr(session, step)(*args))
            self.switched.away = False
        self.assertEqual({path.name for path in self.own_files("parts")}, {"left", "finished"})

    def test_fenced(self) -> None:
        """Who has lost the lease changes nothing of its new owner's."""
        session = self.fresh()
        self.done(session.checkpoint())
        self.successResultOf(self.state.acquire(UID, holder(), True))
        self.done(session.failed("x"))
        record = self.record()
        assert record is not None
        self.assertEqual(record.status, Status.ACTIVE)
