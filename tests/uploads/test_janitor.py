"""What nobody goes on with, and what crashes leave behind, is removed; and nothing else is."""

from __future__ import annotations

import os

from attrs import evolve
from prometheus_client import CollectorRegistry

from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.parts import Part
from hmacfs.uploads.identity import server_key, upload_id
from hmacfs.uploads.janitor import Janitor
from hmacfs.uploads.note import write_note
from hmacfs.uploads.state import HARD_END, Lease, NewUpload, Status
from tests.uploads.support import TTL_S, UPLOAD, UploadTestCase, begun, holder

YOUNG_S = 600.0
"""So long a part needs nobody who knows it."""


class JanitorTestCase(UploadTestCase):
    """A janitor, and uploads in all stages."""

    def setUp(self) -> None:
        super().setUp()
        self.key = server_key(self.store.own_directory)
        self._registry = CollectorRegistry()
        self.janitor = Janitor(
            self.store,
            self.state,
            self.key,
            InlineThreads(),
            self.clock.seconds,
            TTL_S,
            Metrics(self._registry),
        )

    def count(self, name: str) -> float | None:
        """Sessions that were *expired* or *lost*, as a scrape would show them."""
        return self._registry.get_sample_value(f"hmac_file_server_sessions_{name}_total")

    def upload_to(self, path: bytes = b"a/photo.jpg") -> NewUpload:
        """What this store's upload to *path* begins with."""
        return evolve(UPLOAD, uid=upload_id(self.key, path, UPLOAD.signature), path=path)

    def interrupted(self, path: bytes = b"a/photo.jpg", offset: int = 40) -> NewUpload:
        """An upload that has lost its connection: record, part and note."""
        upload = self.upload_to(path)
        lease = self.created(upload, offset)
        part = self.part(b"x" * offset, upload.uid)
        write_note(part, evolve(upload, offset=offset))
        part.close()
        self.successResultOf(self.state.release(lease))
        self.touched(upload.uid)
        return upload

    def touched(self, name: str) -> None:
        """The part was written to just now."""
        os.utime(self.root / ".hmacfs" / "parts" / name, (self.clock.seconds(),) * 2)

    def expire(self) -> None:
        self.successResultOf(begun(self.janitor.expire()))

    def reconcile(self) -> None:
        self.successResultOf(begun(self.janitor.reconcile()))

    def parts(self) -> list[str]:
        return sorted(path.name for path in self.own_files("parts"))

    def assert_untouched(self, *uploads: NewUpload) -> None:
        """They can be resumed."""
        self.assertEqual(self.parts(), sorted(upload.uid for upload in uploads))
        for upload in uploads:
            record = self.record(upload.uid)
            assert record is not None
            self.assertEqual((record.status, record.offset), (Status.ACTIVE, 40))
        self.assertEqual((self.count("expired"), self.count("lost")), (0, 0))


class ExpiryTests(JanitorTestCase):
    """``SessionTTL``."""

    def test_its_time_is_over(self) -> None:
        """The bytes go, and all that was known of them."""
        upload = self.interrupted()
        self.clock.advance(TTL_S + 1)
        self.expire()
        self.assertEqual((self.parts(), self.record(upload.uid), self.count("expired")), ([], None, 1))

    def test_not_a_second_early(self) -> None:
        upload = self.interrupted()
        self.clock.advance(TTL_S - 1)
        self.expire()
        self.assert_untouched(upload)

    def test_sliding(self) -> None:
        """Each new byte gives it its whole time again."""
        upload = self.interrupted()
        self.clock.advance(TTL_S - 1)
        lease = self.successResultOf(self.state.acquire(upload.uid, holder()))
        self.successResultOf(self.state.commit(lease, 41))
        self.successResultOf(self.state.release(lease))
        self.clock.advance(TTL_S - 1)
        self.expire()
        self.assertEqual((self.parts(), self.count("expired")), ([upload.uid], 0))

    def test_hard_end(self) -> None:
        """But not for ever."""
        upload = self.interrupted()
        lease = self.successResultOf(self.state.acquire(upload.uid, holder()))
        for offset in range(41, 41 + HARD_END):
            self.successResultOf(self.state.commit(lease, offset))
            self.clock.advance(TTL_S - 1)
        self.successResultOf(self.state.release(lease))
        self.expire()
        self.assertEqual(self.count("expired"), 0)
        self.clock.advance(HARD_END + 1)
        self.expire()
        self.assertEqual((self.parts(), self.count("expired")), ([], 1))

    def test_clock_set_back(self) -> None:
        """Nothing is removed early, and nothing is lost: it only stays for longer."""
        upload = self.interrupted()
        self.clock.rightNow -= 10 * TTL_S
        self.expire()
        self.reconcile()
        self.assert_untouched(upload)
        self.clock.advance(10 * TTL_S)
        self.expire()
        self.assert_untouched(upload)

    def test_somebody_writes_to_it(self) -> None:
        """Who has the part has a reason to: it stays until he has left."""
        upload = self.interrupted()
        part = self.reopened(upload.uid)
        self.clock.advance(TTL_S + 1)
        self.expire()
        self.assert_untouched(upload)
        part.close()
        self.expire()
        self.assertEqual((self.parts(), self.count("expired")), ([], 1))

    def test_gone_on_in_the_last_moment(self) -> None:
        """Between the look and the deed: it stays."""
        upload = self.interrupted()
        self.clock.advance(TTL_S + 1)

        def go_on(method: str) -> None:
            if method == "acquire":
                self.switched.before = lambda _method: None
                lease = self.successResultOf(self.state.acquire(upload.uid, holder()))
                self.successResultOf(self.state.commit(lease, 40))
                self.successResultOf(self.state.release(lease))

        self.switched.before = go_on
        self.expire()
        self.assert_untouched(upload)

    def test_bytes_are_gone_already(self) -> None:
        """Then the record goes."""
        upload = self.interrupted()
        (self.root / ".hmacfs" / "parts" / upload.uid).unlink()
        self.clock.advance(TTL_S + 1)
        self.expire()
        self.assertIsNone(self.record(upload.uid))

    def test_ended_uploads(self) -> None:
        """What is known of complete and failed ones goes as well, and is not counted; a stored file stays."""
        self.put("a/photo.jpg")
        for path, end in ((b"a/photo.jpg", "finish"), (b"b/photo.jpg", "fail")):
            lease = self.created(self.upload_to(path))
            self.successResultOf(
                self.state.finish(lease, 100, None) if end == "finish" else self.state.fail(lease, "x")
            )
        self.clock.advance(TTL_S + 1)
        self.expire()
        self.assertEqual(
            [self.record(self.upload_to(path).uid) for path in (b"a/photo.jpg", b"b/photo.jpg")], [None] * 2
        )
        self.assertEqual((self.tree(), self.count("expired")), (["a", "a/photo.jpg"], 0))

    def test_many(self) -> None:
        """More than are looked at in one go, and some that can't be removed among them."""
        uploads = [self.interrupted(b"%d/photo.jpg" % number) for number in range(250)]
        held = [self.reopened(upload.uid) for upload in uploads[:30]]
        self.clock.advance(TTL_S + 1)
        self.expire()
        self.assertEqual(self.parts(), sorted(part.name for part in held))
        self.assertEqual(self.count("expired"), 220)

    def test_state_away(self) -> None:
        """Nothing is known, so nothing is removed; the next time will do."""
        upload = self.interrupted()
        self.clock.advance(TTL_S + 1)
        self.switched.away = True
        self.expire()
        self.switched.away = False
        self.assert_untouched(upload)
        self.expire()
        self.assertEqual(self.parts(), [])


class OrphanTests(JanitorTestCase):
    """Parts that no upload knows."""

    def orphan(self, name: str = "orphan", note: bool = False) -> Part:
        """A part of which the state store knows nothing."""
        part = self.part(b"x" * 40, name)
        if note:
            write_note(part, evolve(UPLOAD, uid=name, offset=40))
        part.close()
        self.touched(name)
        return part

    def test_removed(self) -> None:
        """After a while: whoever has begun it may not have come to record it."""
        self.orphan()
        self.clock.advance(YOUNG_S - 1)
        self.reconcile()
        self.assertEqual(self.parts(), ["orphan"])
        self.clock.advance(2)
        self.reconcile()
        self.assertEqual(self.parts(), [])

    def test_with_a_note(self) -> None:
        """A part that says itself what it is can be gone on with, as if the store had not been emptied: as long."""
        self.orphan(note=True)
        self.clock.advance(TTL_S)
        self.reconcile()
        self.assertEqual(self.parts(), ["orphan"])
        self.clock.advance(YOUNG_S + 1)
        self.reconcile()
        self.assertEqual(self.parts(), [])

    def test_somebody_writes_to_it(self) -> None:
        """However long nothing has come."""
        self.orphan()
        self.reopened("orphan")
        self.clock.advance(10 * TTL_S)
        self.reconcile()
        self.assertEqual(self.parts(), ["orphan"])

    def test_known(self) -> None:
        """What is known is not an orphan, however old it is; that is for the expiry."""
        upload = self.interrupted()
        self.clock.advance(10 * TTL_S)
        self.reconcile()
        self.assert_untouched(upload)

    def test_published(self) -> None:
        """The second name of a stored file, left by a process that died: it goes at once, and the file stays."""
        self.put("a/photo.jpg", b"content")
        os.link(self.root / "a" / "photo.jpg", self.root / ".hmacfs" / "parts" / "left-over")
        self.reconcile()
        self.assertEqual((self.parts(), self.get("a/photo.jpg")), ([], b"content"))

    def test_state_away(self) -> None:
        """Nothing is known, so nothing is an orphan."""
        self.orphan()
        self.clock.advance(10 * TTL_S)
        self.switched.away = True
        self.reconcile()
        self.assertEqual(self.parts(), ["orphan"])

    def test_several_pages(self) -> None:
        """However many uploads are known."""
        uploads = [self.interrupted(b"%d/photo.jpg" % number) for number in range(230)]
        self.orphan()
        self.clock.advance(YOUNG_S + 1)
        self.reconcile()
        self.assert_untouched(*uploads)


class VanishedTests(JanitorTestCase):
    """Uploads whose part is not there."""

    def vanished(self, *, held: bool = False) -> tuple[NewUpload, Lease]:
        """An upload that nobody holds, or that a process holds which has died."""
        upload = self.upload_to()
        lease = self.created(upload, 40)
        if not held:
            self.successResultOf(self.state.release(lease))
        return upload, lease

    def test_lost(self) -> None:
        """Who comes back for it is told so, and it is counted once."""
        upload, _ = self.vanished()
        for _ in range(2):
            self.reconcile()
        record = self.record(upload.uid)
        assert record is not None
        self.assertEqual((record.status, record.reason, self.count("lost")), (Status.FAILED, "lost", 1))

    def test_not_one_byte(self) -> None:
        """An upload that has been begun, and no more, has nothing to lose."""
        upload = self.upload_to()
        self.successResultOf(self.state.release(self.created(upload)))
        self.reconcile()
        record = self.record(upload.uid)
        assert record is not None
        self.assertEqual((record.status, self.count("lost")), (Status.ACTIVE, 0))

    def test_held(self) -> None:
        """Somebody is at it: he knows better."""
        _, lease = self.vanished(held=True)
        self.reconcile()
        self.successResultOf(self.state.commit(lease, 41))
        self.assertEqual(self.count("lost"), 0)

    def test_stored(self) -> None:
        """The process died when the file had its name, and before it could say so: that is no loss, and is put right."""
        for held in (False, True):
            upload, _ = self.vanished(held=held)
            self.put("a/photo.jpg")
            self.reconcile()
            self.assertEqual((self.record(upload.uid), self.count("lost")), (None, 0))
            self.assertEqual(self.tree(), ["a", "a/photo.jpg"])
            (self.root / "a" / "photo.jpg").unlink()

    def test_of_another_store(self) -> None:
        """Servers with stores of their own may share a Redis: their uploads are none of ours."""
        upload = evolve(UPLOAD, uid=upload_id(b"another key".ljust(32), UPLOAD.path, UPLOAD.signature))
        self.successResultOf(self.state.release(self.created(upload, 40)))
        self.reconcile()
        record = self.record(upload.uid)
        assert record is not None
        self.assertEqual((record.status, self.count("lost")), (Status.ACTIVE, 0))
