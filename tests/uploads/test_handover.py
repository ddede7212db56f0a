"""The part of an upload, and who has it among the processes of a host."""

from __future__ import annotations

from hmacfs.errors import Refused
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.parts import Part
from hmacfs.uploads.handover import Handover
from hmacfs.uploads.retrying import Retries
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.state import StateUnavailable
from hmacfs.uploads.turns import PATIENCE_S, Turn, Turns
from hmacfs.uploads.upload import CHECKPOINT_S, Means
from tests.uploads.asking import CONTENT, UploadsTestCase
from tests.uploads.support import UID, UploadTestCase, begun
from tests.web.support import PATH


class HandoverTests(UploadTestCase):
    """One process."""

    def setUp(self) -> None:
        super().setUp()
        retries = Retries(0, 1.0, self.clock, lambda _step: None)
        self.handover = Handover(self.store, self.state, Means(self.clock, InlineThreads(), retries))
        self.turn: Turn = self.successResultOf(begun(Turns(self.clock).take(UID)))

    def got(self) -> tuple[Part, bool]:
        part, is_new = self.successResultOf(begun(self.handover.part(self.turn)))
        self.addCleanup(part.close)
        return part, is_new

    def test_new(self) -> None:
        part, is_new = self.got()
        self.assertEqual((part.size, is_new), (0, True))

    def test_left(self) -> None:
        self.part(b"x" * 40).close()
        part, is_new = self.got()
        self.assertEqual((part.size, is_new), (40, False))

    def test_nothing_left(self) -> None:
        """Who only wants what is there begins nothing."""
        self.assertIsNone(self.successResultOf(begun(self.handover.left(self.turn))))
        self.assertEqual(self.own_files("parts"), [])

    def test_never_lets_go(self) -> None:
        """Who has it is waited for as long as within a process, and no longer."""
        self.part(b"x")
        asking = begun(self.handover.part(self.turn))
        self.clock.pump([0.1] * int(PATIENCE_S * 10 - 1))
        self.assertNoResult(asking)
        self.clock.pump([0.1] * 3)
        self.assertEqual(self.failureResultOf(asking, Refused).value.args[:2], (423, "busy"))

    def test_forget(self) -> None:
        """Part and record, whichever there is."""
        for has_part in (True, False):
            for has_record in (True, False):
                if has_part:
                    self.part(b"x").close()
                if has_record:
                    self.created()
                forgotten = self.successResultOf(begun(self.handover.forget(self.turn)))
                self.assertEqual(forgotten, has_part or has_record)
                self.assertEqual((self.own_files("parts"), self.record()), ([], None))

    def test_state_away(self) -> None:
        """What the state store still knows of is not removed."""
        self.part(b"x").close()
        self.created()
        self.switched.away = True
        self.failureResultOf(begun(self.handover.forget(self.turn)), StateUnavailable)
        self.assertEqual(self.on_disk(), b"x")


class AnotherProcessTests(UploadsTestCase):
    """Another one has the part: it is asked through the state store, and lets go."""

    def test_recorded(self) -> None:
        """As soon as it has the upload there, it can be asked."""
        body, older = self.begin()
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        other = self.another_process()
        newer_body, newer = self.begin(other)
        self.clock.pump([0.1] * 10)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT)
        newer_body.end()
        self.successResultOf(newer)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_before_its_first_checkpoint(self) -> None:
        """It is asked as soon as it can be."""
        body, older = self.begin()
        body.send(CONTENT[:40])
        newer_body, newer = self.begin(self.another_process())
        self.clock.pump([0.1] * 30)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT)
        newer_body.end()
        self.successResultOf(newer)
