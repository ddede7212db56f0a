"""Taking up an upload: what comes of what the disk and the state store say."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.parts import Part
from hmacfs.uploads.exchange import Progress
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.note import read_note, write_note
from hmacfs.uploads.session import Session
from hmacfs.uploads.state import NewUpload, StateUnavailable, Status, UploadRecord, beginning
from hmacfs.uploads.takeup import TakeUp, as_upload, gone_as, newest, why_over
from tests.uploads.support import TTL_S, UID, UPLOAD, UploadTestCase, begun, holder
from tests.web.support import NOW

RECORD = beginning(UPLOAD, 1, 0.0, 60.0)
FRESH = evolve(UPLOAD, token="tok-fresh", content_type="image/png")


class NewestTests(SynchronousTestCase):
    """Two who know of an upload."""

    def test_nobody(self) -> None:
        self.assertIsNone(newest(None, None))

    def test_one(self) -> None:
        self.assertEqual(newest(UPLOAD, None), UPLOAD)
        self.assertEqual(newest(None, RECORD), UPLOAD)

    def test_larger_offset(self) -> None:
        """Both have synced before they said so: the larger one is true."""
        ahead = evolve(UPLOAD, offset=50)
        self.assertEqual(newest(ahead, evolve(RECORD, offset=40)), ahead)
        self.assertEqual(newest(UPLOAD, evolve(RECORD, offset=40)), evolve(UPLOAD, offset=40))

    def test_later_generation(self) -> None:
        """Of a new body less may be there than there was of the old one."""
        restarted = evolve(UPLOAD, offset=10, generation=2)
        self.assertEqual(newest(restarted, evolve(RECORD, offset=40)), restarted)
        self.assertEqual(newest(evolve(UPLOAD, offset=40), evolve(RECORD, offset=10, generation=2)), restarted)

    def test_record_as_upload(self) -> None:
        """Nothing gets lost on the way."""
        upload = evolve(UPLOAD, owner="a@b", file_expires=5.0, offset=7, generation=3)
        self.assertEqual(as_upload(beginning(upload, 1, 0.0, 60.0)), upload)

    @given(*(st.tuples(st.integers(1, 3), st.integers(0, 3)) for _ in range(2)))
    def test_any(self, noted: tuple[int, int], recorded: tuple[int, int]) -> None:
        note = evolve(UPLOAD, generation=noted[0], offset=noted[1])
        record = evolve(RECORD, generation=recorded[0], offset=recorded[1])
        found = newest(note, record)
        assert found is not None
        self.assertEqual((found.generation, found.offset), max(noted, recorded))


class WhyOverTests(SynchronousTestCase):
    """Whether it can go on: a table."""

    def over(self, record: UploadRecord | None, part_size: int = 50, **upload: int) -> str | None:
        known = evolve(UPLOAD, offset=upload.get("offset", 50), generation=upload.get("generation", 1))
        return why_over(known, record, part_size, 5)

    def test_goes_on(self) -> None:
        self.assertIsNone(self.over(None))
        self.assertIsNone(self.over(RECORD))
        self.assertIsNone(self.over(evolve(RECORD, attempts_without_progress=5)))

    def test_more_than_was_promised(self) -> None:
        """Fine: it is cut."""
        self.assertIsNone(self.over(None, part_size=51))

    def test_lost(self) -> None:
        """Fewer bytes than somebody was told of."""
        self.assertEqual(self.over(None, part_size=49), "lost")
        self.assertEqual(self.over(RECORD, part_size=49), "lost")

    def test_failed(self) -> None:
        """For the reason that was noted then."""
        failed = evolve(RECORD, status=Status.FAILED, reason="digest-mismatch")
        self.assertEqual(self.over(failed), "digest-mismatch")

    def test_no_progress(self) -> None:
        self.assertEqual(self.over(evolve(RECORD, attempts_without_progress=6)), "no-progress")

    def test_earlier_generation(self) -> None:
        """What became of it is not this one's business."""
        failed = evolve(RECORD, status=Status.FAILED, reason="x", attempts_without_progress=9)
        self.assertIsNone(self.over(failed, generation=2))

    def test_complete(self) -> None:
        """A record of an upload that was finished once: its file is gone, and its part goes on."""
        self.assertIsNone(self.over(evolve(RECORD, status=Status.COMPLETE)))


class GoneTests(SynchronousTestCase):
    """What a client hears of it."""

    def test_says_what_to_do(self) -> None:
        for why in ("no-progress", "lost", "digest-mismatch"):
            error = gone_as(why)
            self.assertEqual(error.args[:2], (410, "upload-gone"))
            self.assertIn("send the whole file", str(error), why)

    def test_in_vain(self) -> None:
        """Who tried too often should see that from what gone bytes are."""
        self.assertNotEqual(str(gone_as("no-progress")), str(gone_as("lost")))


class TakeUpCase(UploadTestCase):
    """A part that was left."""

    def setUp(self) -> None:
        super().setUp()
        self.registry = CollectorRegistry()
        self.takeup = TakeUp(
            self.state, InlineThreads(), 2, Metrics(self.registry), lambda: self.clock.seconds() + TTL_S
        )

    def left(self, content: bytes, note: NewUpload | None = None) -> Part:
        """A part as an earlier request has left it."""
        part = self.part(content)
        if note is not None:
            write_note(part, note)
        return part


class TakeUpTests(TakeUpCase):
    """From a part that was left to a session."""

    def ask(
        self, part: Part, *, resumes: bool = True, attempt: bool = True, token: str | None = None
    ) -> Deferred[Session]:
        return begun(self.takeup.session(part, FRESH, holder(), resumes=resumes, attempt=attempt, token=token))

    def taken(self, part: Part, *, resumes: bool = True, attempt: bool = True, token: str | None = None) -> Session:
        return self.successResultOf(self.ask(part, resumes=resumes, attempt=attempt, token=token))

    def assert_gone(self, part: Part) -> None:
        error = self.failureResultOf(self.ask(part), Refused).value
        self.assertEqual(error.args[:2], (410, "upload-gone"))

    def assert_goes_on(self, session: Session, offset: int) -> None:
        """With the facts of the beginning, and not one byte beyond the offset."""
        self.assertEqual((session.durable, session.part.size), (offset, offset))
        self.assertEqual((session.upload.token, session.upload.content_type), (UPLOAD.token, UPLOAD.content_type))

    def assert_anew(self, session: Session, generation: int) -> None:
        """With the facts of this request, no byte, and a note that says so."""
        expected = evolve(FRESH, generation=generation)
        self.assertEqual((session.upload, session.part.size), (expected, 0))
        self.assertEqual((read_note(session.part), self.on_disk()), (expected, b""))

    def test_nothing_known(self) -> None:
        """Bytes of which nobody knows what they are."""
        self.assert_anew(self.taken(self.left(b"x" * 50)), 1)

    def test_from_the_note(self) -> None:
        """The state store has lost it, or never had it."""
        session = self.taken(self.left(b"x" * 50, evolve(UPLOAD, offset=40)))
        self.assert_goes_on(session, 40)
        self.assertFalse(session.recorded)

    def test_from_the_record(self) -> None:
        """The file system has no attributes."""
        self.created(offset=40)
        session = self.taken(self.left(b"x" * 50))
        self.assert_goes_on(session, 40)
        self.assertTrue(session.recorded)

    def test_later_of_the_two(self) -> None:
        self.created(offset=40)
        self.assert_goes_on(self.taken(self.left(b"x" * 50, evolve(UPLOAD, offset=45))), 45)

    def test_same_token(self) -> None:
        session = self.taken(self.left(b"x" * 50, evolve(UPLOAD, offset=40)), token=UPLOAD.token)
        self.assert_goes_on(session, 40)

    def test_another_token(self) -> None:
        """A new session; the old one's bytes are no longer anybody's."""
        part = self.left(b"x" * 50, evolve(UPLOAD, offset=40))
        self.assert_anew(self.taken(part, resumes=False, attempt=False, token="tok-0002"), 2)

    def test_rest_with_another_token(self) -> None:
        """It is the rest of something else. What is here stays, for who has the right token."""
        self.created(offset=40)
        part = self.left(b"x" * 50, evolve(UPLOAD, offset=40))
        error = self.failureResultOf(self.ask(part, token="tok-0002"), Refused).value
        self.assertEqual((error.status, error.reason, error.headers["Upload-Offset"]), (409, "offset-mismatch", "0"))
        self.assert_goes_on(self.taken(part, token=UPLOAD.token), 40)

    def test_said_before_it_is_cut(self) -> None:
        """A crash in between must not leave an offset that is of other bytes."""
        part = self.left(b"x" * 50, evolve(UPLOAD, offset=40))
        self.disk.calls.clear()
        self.taken(part, resumes=False, attempt=False, token="tok-0002")
        methods = [method for method, _ in self.disk.calls]
        self.assertLess(methods.index("set_attribute"), methods.index("truncate"))

    def test_lost(self) -> None:
        """Who relies on it is told, and so is whoever comes later; it is counted."""
        self.created(offset=40)
        part = self.left(b"x" * 30)
        self.assert_gone(part)
        record = self.record()
        assert record is not None
        self.assertEqual((record.status, record.reason), (Status.FAILED, "lost"))
        self.assertEqual(self.registry.get_sample_value("hmac_file_server_sessions_lost_total"), 1)

    def test_lost_and_sent_again(self) -> None:
        """Who sends the whole body need not hear of it."""
        self.created(offset=40)
        self.assert_anew(self.taken(self.left(b"x" * 30), resumes=False), 2)

    def test_failed(self) -> None:
        """It stays so, and nobody holds it afterwards."""
        self.successResultOf(self.state.fail(self.created(), "digest-mismatch"))
        self.assert_gone(self.left(b""))
        self.successResultOf(self.state.acquire(UID, holder()))

    def test_failed_and_sent_again(self) -> None:
        self.successResultOf(self.state.fail(self.created(), "digest-mismatch"))
        session = self.taken(self.left(b"x"), resumes=False)
        self.assert_anew(session, 2)
        self.successResultOf(begun(session.checkpoint()))
        record = self.record()
        assert record is not None
        self.assertEqual((record.status, record.generation), (Status.ACTIVE, 2))

    def test_no_progress(self) -> None:
        """Taken up twice without a new byte: that will do."""
        self.created(offset=40)
        part = self.left(b"x" * 40)
        for _ in range(2):
            self.assert_goes_on(self.taken(part), 40)
        self.assert_gone(part)

    def test_no_attempts(self) -> None:
        """Who only asks, or sends the whole body, has not tried to go on in vain."""
        self.created(offset=40)
        part = self.left(b"x" * 40)
        for _ in range(5):
            self.assert_goes_on(self.taken(part, attempt=False), 40)

    def test_lease_of_the_dead(self) -> None:
        """The lock on the part is ours, so its holder is dead, however long its lease would last."""
        self.created(offset=40)
        session = self.taken(self.left(b"x" * 40))
        session.part.write(b"y")
        self.successResultOf(begun(session.checkpoint()))
        self.assertEqual(session.durable, 41)

    def test_state_away(self) -> None:
        """Who relies on an offset must not be given one that may be old."""
        part = self.left(b"x" * 50, evolve(UPLOAD, offset=40))
        self.switched.away = True
        self.failureResultOf(self.ask(part), StateUnavailable)

    def test_state_away_and_sent_again(self) -> None:
        """What is here is compared with the whole body anyway."""
        part = self.left(b"x" * 50, evolve(UPLOAD, offset=40))
        self.switched.away = True
        self.assert_goes_on(self.taken(part, resumes=False), 40)


class LookTests(TakeUpCase):
    """What a part is at, without taking it up."""

    def look(self, part: Part) -> Deferred[Progress | None]:
        return begun(self.takeup.look(part))

    def test_noted(self) -> None:
        """As long as it is not recorded it can be resumed for the whole time from now on."""
        progress = self.successResultOf(self.look(self.left(b"x" * 50, evolve(UPLOAD, offset=40))))
        self.assertEqual(progress, Progress(40, 100, UploadName(UID, 1), UPLOAD.token, "", NOW + TTL_S))

    def test_recorded(self) -> None:
        """The record says until when."""
        self.created(offset=40)
        record = self.record()
        assert record is not None
        self.clock.advance(10)
        progress = self.successResultOf(self.look(self.left(b"x" * 50)))
        assert progress is not None
        self.assertEqual((progress.offset, progress.expires), (40, record.expires))

    def test_unknown(self) -> None:
        self.assertIsNone(self.successResultOf(self.look(self.left(b"x" * 50))))

    def test_lost(self) -> None:
        """An offset that can't be gone on from is told to nobody."""
        refused = self.failureResultOf(self.look(self.left(b"x" * 30, evolve(UPLOAD, offset=40))), Refused).value
        self.assertEqual(refused.args[:2], (410, "upload-gone"))

    def test_closed(self) -> None:
        """The part can be had by another process, whatever has come of it."""
        for note in (None, evolve(UPLOAD, offset=5), UPLOAD):
            part = self.left(b"", note)
            self.look(part).addErrback(lambda _: None)
            self.assertLess(part.fd, 0)
            self.reopened().discard()


class VanishedTests(TakeUpCase):
    """There is no part."""

    def refused(self) -> bool:
        """Whether the client is told that there was one."""
        refusals: list[Failure] = []
        self.successResultOf(begun(self.takeup.refuse_vanished(UID)).addErrback(refusals.append))
        return [failure.type for failure in refusals] == [Refused]

    def lost(self) -> float | None:
        return self.registry.get_sample_value("hmac_file_server_sessions_lost_total")

    def test_never_there(self) -> None:
        """Neither of an upload of which nothing is known, nor of one without a durable byte."""
        self.assertFalse(self.refused())
        self.created()
        self.assertEqual((self.refused(), self.lost()), (False, 0))

    def test_lost(self) -> None:
        """Bytes that a client was promised are counted."""
        self.created(offset=40)
        self.assertEqual((self.refused(), self.lost()), (True, 1))

    def test_failed(self) -> None:
        """It went because it had to."""
        self.successResultOf(self.state.fail(self.created(offset=40), "digest-mismatch"))
        self.assertEqual((self.refused(), self.lost()), (True, 0))

    def test_complete(self) -> None:
        """Its file was stored."""
        self.successResultOf(self.state.finish(self.created(offset=40), 100, None))
        self.assertEqual((self.refused(), self.lost()), (False, 0))
