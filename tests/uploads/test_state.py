"""What every store of upload states promises: one set of tests, that the implementations' own modules run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from hmacfs.uploads.state import (
    HARD_END,
    Busy,
    Fenced,
    Holder,
    Holdings,
    IUploadState,
    Lease,
    NewUpload,
    OffsetMismatch,
    Status,
    UnknownUpload,
    UploadRecord,
    UploadStateError,
    beginning,
    expiry,
)

NOW = 1_700_000_000.25
TTL_S = 24 * 60 * 60.0
EVERY_BYTE = bytes(range(256))


def new_upload(uid: str = "upload-1", **facts: Any) -> NewUpload:
    """An upload of a thousand bytes, if *facts* don't say otherwise."""
    wanted: dict[str, Any] = {
        "uid": uid,
        "path": b"a/photo.jpg",
        "signature": b"s" * 32,
        "token": "token-0001",
        "content_type": "image/jpeg",
        "total": 1000,
    }
    return NewUpload(**{**wanted, **facts})


def holder() -> Holder:
    """A request that doesn't mind being told to let go."""
    return Holder(lambda: None)


if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class UploadStateMixin(_Base):
    """The tests. A class that runs them says how to make a store."""

    clock: Clock
    state: IUploadState
    other: IUploadState
    """Another process's view of the same store."""

    def lapse(self, uid: str) -> None:
        """Let the lease of an upload run out."""
        raise NotImplementedError

    def deliver(self) -> None:
        """Let messages to let go arrive, where that takes time that doesn't pass by itself."""

    async def begin(self, **facts: Any) -> Lease:
        """A new upload, leased."""
        lease = await self.state.create(new_upload(**facts), holder())
        assert isinstance(lease, Lease)
        return lease

    async def record(self, uid: str = "upload-1") -> UploadRecord:
        """What another process sees of an upload."""
        record = await self.other.get(uid)
        assert record is not None
        return record

    # Beginning

    async def test_new_upload_is_leased(self) -> None:
        """A new upload has no byte, is active, expires in a while, and is held by the one who began it."""
        lease = await self.begin()
        self.assertEqual(lease.record, beginning(new_upload(), 1, NOW, TTL_S))
        self.assertEqual((lease.epoch, lease.record.offset, lease.record.status), (1, 0, Status.ACTIVE))
        self.assertEqual(lease.record.expires, NOW + TTL_S)
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)

    async def test_every_field_is_kept(self) -> None:
        """Whatever the names and states are made of, another process reads what was written."""
        facts: dict[str, Any] = {
            "path": b"caf\xe9/" + EVERY_BYTE.replace(b"/", b"").replace(b"\0", b""),
            "signature": EVERY_BYTE[-32:],
            "token": "~to-ken._~",
            "content_type": 'text/plain; charset="utf-8"',
            "total": 2**53 - 1,
            "owner": "ромео@пример.example",
            "file_expires": 1_800_000_000.125,
            "offset": 4_294_967_296,
            "hash_state": EVERY_BYTE,
            "metadata": "filename cGhvdG8uanBn,empty",
            "generation": 7,
        }
        lease = await self.begin(**facts)
        record = await self.record()
        self.assertEqual({name: getattr(record, name) for name in facts}, facts)
        self.assertEqual(record, lease.record)

    async def test_unknown_facts_stay_unknown(self) -> None:
        """An upload without size, owner or end has none afterwards."""
        await self.begin(total=None, owner=None, file_expires=None)
        record = await self.record()
        self.assertEqual((record.total, record.owner, record.file_expires, record.sha256), (None, None, None, None))

    async def test_second_beginning_finds_the_first(self) -> None:
        """Who comes second reads what is there, and holds nothing."""
        lease = await self.begin()
        found = await self.other.create(new_upload(token="token-0002"), holder())
        self.assertEqual(found, lease.record)
        await self.state.commit(lease, 10)

    async def test_one_of_many_beginnings_wins(self) -> None:
        """However many requests begin one upload at once, one of them has the lease."""
        outcomes = await gatherResults(
            [state.create(new_upload(), holder()) for state in (self.state, self.other) for _ in range(8)]
        )
        self.assertEqual([type(outcome) for outcome in outcomes].count(Lease), 1)

    async def test_repeated_beginning(self) -> None:
        """A request that did not hear the answer asks again, and gets the same lease."""
        asking = holder()
        first = await self.state.create(new_upload(), asking)
        self.assertEqual(await self.state.create(new_upload(), asking), first)

    async def test_unknown_upload(self) -> None:
        """What was never begun is not there."""
        self.assertIsNone(await self.state.get("upload-2"))
        error = await self.assertFailure(self.state.acquire("upload-2", holder()), UnknownUpload)
        self.assertEqual(error.uid, "upload-2")

    # Leases

    async def test_held_upload_is_busy(self) -> None:
        """Who asks for what somebody else holds hears who that is."""
        lease = await self.begin()
        error = await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        self.assertEqual((error.uid, error.holder), ("upload-1", lease.holder))

    async def test_holder_in_another_process_is_told(self) -> None:
        """Somebody wants the upload: its holder is asked to let go, wherever it is."""
        told: Deferred[None] = Deferred()
        await self.state.create(new_upload(), Holder(lambda: told.callback(None)))
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        self.deliver()
        await told

    async def test_holder_in_the_same_process_is_told(self) -> None:
        """So is one in the process of the one who asks."""
        told: Deferred[None] = Deferred()
        await self.state.create(new_upload(), Holder(lambda: told.callback(None)))
        await self.assertFailure(self.state.acquire("upload-1", holder()), Busy)
        await told

    async def test_later_holder_is_told(self) -> None:
        """So is one that isn't the first to hold the upload."""
        told: Deferred[None] = Deferred()
        await self.state.release(await self.begin())
        await self.state.acquire("upload-1", Holder(lambda: told.callback(None)))
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        self.deliver()
        await told

    async def test_holder_is_told_once(self) -> None:
        """The one who wants the upload asks every now and then; the holder hears of it once."""
        told: list[str] = []
        await self.state.create(new_upload(), Holder(lambda: told.append("first")))
        for state in (self.state, self.other, self.state):
            await self.assertFailure(state.acquire("upload-1", holder()), Busy)
            self.deliver()
        await self.hear_of_another_upload()
        self.assertEqual(told, ["first"])

    async def test_message_does_not_hit_the_next_holder(self) -> None:
        """The one for whom the holder let go is not told to let go by its own question."""
        told: list[str] = []
        lease = await self.begin()
        asking = Holder(lambda: told.append("next"))
        await self.assertFailure(self.other.acquire("upload-1", asking), Busy)
        await self.state.release(lease)
        await self.other.acquire("upload-1", asking)
        self.deliver()
        await self.hear_of_another_upload()
        self.assertEqual(told, [])

    async def test_wish_survives_commits(self) -> None:
        """A holder that is busy committing is told nevertheless."""
        told: Deferred[None] = Deferred()
        lease = await self.state.create(new_upload(), Holder(lambda: told.callback(None)))
        assert isinstance(lease, Lease)
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        for offset in range(5):
            await self.state.commit(lease, offset)
        self.deliver()
        await told

    async def test_told_of_a_thief_who_has_gone(self) -> None:
        """A holder whose lease was stolen is told even if the thief has done its work and let go since."""
        told: Deferred[None] = Deferred()
        await self.state.create(new_upload(), Holder(lambda: told.callback(None)))
        stolen = await self.other.acquire("upload-1", holder(), steal=True)
        await self.other.commit(stolen, 10)
        await self.other.release(stolen)
        self.deliver()
        await told

    async def hear_of_another_upload(self) -> None:
        """Wait until both processes have heard all messages that were sent before now."""
        for number, state in enumerate((self.state, self.other)):
            told: Deferred[None] = Deferred()
            uid = f"messenger-{number}"
            await state.create(new_upload(uid), Holder(lambda told=told: told.callback(None)))
            await self.assertFailure(self.other.acquire(uid, holder()), Busy)
            self.deliver()
            await told

    async def test_released_upload_can_be_had(self) -> None:
        """After a release the next one has the upload, with what is durable, under a new epoch."""
        lease = await self.begin()
        await self.state.commit(lease, 400, b"hash at 400")
        await self.state.release(lease)
        following = await self.other.acquire("upload-1", holder())
        self.assertEqual((following.epoch, following.record.offset), (2, 400))
        self.assertEqual(following.record.hash_state, b"hash at 400")
        self.assertEqual(following.record.epoch, 2)

    async def test_release_is_final(self) -> None:
        """Who has let go can't change anything any more, even if nobody else came."""
        lease = await self.begin()
        await self.state.release(lease)
        await self.assertFailure(self.state.commit(lease, 10), Fenced)
        await self.state.release(lease)

    async def test_stolen_lease(self) -> None:
        """One who knows that the holder is gone takes the lease; the old one can change nothing, and is told."""
        told: Deferred[None] = Deferred()
        lease = await self.state.create(new_upload(), Holder(lambda: told.callback(None)))
        assert isinstance(lease, Lease)
        stolen = await self.other.acquire("upload-1", holder(), steal=True)
        self.deliver()
        await told
        self.assertEqual(stolen.epoch, lease.epoch + 1)
        for late in (
            self.state.commit(lease, 10),
            self.state.renew(lease),
            self.state.finish(lease, 1000, None),
            self.state.fail(lease, "gone"),
            self.state.restart(lease, new_upload()),
            self.state.discard(lease),
        ):
            await self.assertFailure(late, Fenced)
        await self.other.commit(stolen, 20)

    async def test_old_holder_does_not_release_the_new_ones_lease(self) -> None:
        """A release that comes late changes nothing."""
        lease = await self.begin()
        await self.other.acquire("upload-1", holder(), steal=True)
        await self.state.release(lease)
        await self.assertFailure(self.state.acquire("upload-1", holder()), Busy)

    async def test_lapsed_lease_can_be_had(self) -> None:
        """A holder that isn't heard of for a while loses the upload to the next who asks."""
        lease = await self.begin()
        self.lapse("upload-1")
        await self.other.acquire("upload-1", holder())
        await self.assertFailure(self.state.commit(lease, 10), Fenced)

    async def test_lapsed_lease_that_nobody_took(self) -> None:
        """A holder that wakes up late goes on if nobody came meanwhile, and is protected again."""
        lease = await self.begin()
        self.lapse("upload-1")
        await self.state.renew(lease)
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        self.lapse("upload-1")
        await self.state.commit(lease, 10)
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)

    async def test_one_of_many_takers_wins(self) -> None:
        """However many ask at once for an upload that is free, one gets it."""
        await self.state.release(await self.begin())
        outcomes: list[object] = []
        await gatherResults(
            [
                state.acquire("upload-1", holder()).addBoth(outcomes.append)
                for state in (self.state, self.other)
                for _ in range(8)
            ]
        )
        self.assertEqual([type(outcome) for outcome in outcomes].count(Lease), 1)
        self.assertEqual(sum(isinstance(getattr(outcome, "value", None), Busy) for outcome in outcomes), 15)

    async def test_repeated_taking(self) -> None:
        """A request that did not hear the answer asks again; it gets the same lease and counts once."""
        await self.state.release(await self.begin())
        asking = holder()
        first = await self.state.acquire("upload-1", asking)
        self.assertEqual(await self.state.acquire("upload-1", asking), first)
        self.assertEqual(first.record.attempts_without_progress, 1)

    # Offsets

    async def test_commit(self) -> None:
        """Another process sees the durable bytes, the digest's state there, and a later expiry."""
        lease = await self.begin()
        self.clock.advance(60)
        await self.state.commit(lease, 500, EVERY_BYTE)
        record = await self.record()
        self.assertEqual((record.offset, record.hash_state), (500, EVERY_BYTE))
        self.assertEqual((record.created, record.modified, record.expires), (NOW, NOW + 60, NOW + 60 + TTL_S))

    async def test_offset_never_goes_back(self) -> None:
        """Durable bytes stay durable: less than the store has is refused, and told what it has."""
        lease = await self.begin()
        await self.state.commit(lease, 500)
        error = await self.assertFailure(self.state.commit(lease, 499), OffsetMismatch)
        self.assertEqual(error.current, 500)
        self.assertEqual((await self.record()).offset, 500)

    async def test_offset_never_passes_the_end(self) -> None:
        """There are no durable bytes behind the end of the file."""
        lease = await self.begin()
        await self.state.commit(lease, 1000)
        error = await self.assertFailure(self.state.commit(lease, 1001), OffsetMismatch)
        self.assertEqual(error.current, 1000)

    async def test_offset_of_a_file_without_known_end(self) -> None:
        """Where the total isn't known, any offset will do."""
        lease = await self.begin(total=None)
        await self.state.commit(lease, 2**40)
        self.assertEqual((await self.record()).offset, 2**40)

    async def test_repeated_commit(self) -> None:
        """A commit whose answer was lost is made again, or left out: the next one is accepted."""
        lease = await self.begin()
        await self.state.commit(lease, 500)
        await self.state.commit(lease, 500)
        await self.state.commit(lease, 900)
        self.assertEqual((await self.record()).offset, 900)

    async def test_hard_end(self) -> None:
        """An upload that never ends is over after seven times its time to live."""
        lease = await self.begin()
        for offset in range(20):
            self.clock.advance(TTL_S / 2)
            await self.state.commit(lease, offset)
        self.assertEqual((await self.record()).expires, NOW + HARD_END * TTL_S)

    async def test_forgotten_upload(self) -> None:
        """Who commits to an upload that the store has forgotten hears so, and can begin it again where it was."""
        lease = await self.begin()
        await self.state.discard(lease)
        await self.assertFailure(self.state.commit(lease, 500), UnknownUpload)
        again = await self.begin(offset=500, generation=3)
        self.assertEqual((again.record.offset, again.record.generation), (500, 3))
        await self.assertFailure(self.state.commit(lease, 600), Fenced)

    # Attempts

    async def test_attempts_without_progress(self) -> None:
        """Each time that the upload is taken up counts, until a new byte is durable."""
        await self.state.release(await self.begin())
        for attempt in (1, 2, 3):
            lease = await self.other.acquire("upload-1", holder())
            self.assertEqual(lease.record.attempts_without_progress, attempt)
            await self.other.commit(lease, 0)
            await self.other.release(lease)
        await self.other.commit(await self.other.acquire("upload-1", holder()), 1)
        self.assertEqual((await self.record()).attempts_without_progress, 0)

    async def test_not_every_lease_is_an_attempt(self) -> None:
        """A HEAD that cuts the writer off, or a janitor, does not bring the upload nearer to its end."""
        await self.state.release(await self.begin())
        lease = await self.state.acquire("upload-1", holder(), attempt=False)
        self.assertEqual(lease.record.attempts_without_progress, 0)

    # Ends

    async def test_finish(self) -> None:
        """A complete upload has all its bytes and its digest, and is free."""
        lease = await self.begin(hash_state=b"state")
        self.clock.advance(5)
        await self.state.finish(lease, 1000, b"d" * 32)
        record = await self.record()
        self.assertEqual((record.status, record.offset, record.sha256), (Status.COMPLETE, 1000, b"d" * 32))
        self.assertEqual((record.hash_state, record.modified, record.expires), (b"", NOW + 5, NOW + 5 + TTL_S))
        looking = await self.other.acquire("upload-1", holder())
        self.assertEqual(looking.record.attempts_without_progress, 0)

    async def test_finish_of_another_size(self) -> None:
        """A file that has not the size that was announced is not complete."""
        lease = await self.begin()
        await self.state.commit(lease, 100)
        for size in (999, 1001):
            error = await self.assertFailure(self.state.finish(lease, size, None), OffsetMismatch)
            self.assertEqual(error.current, 100)
        self.assertEqual((await self.record()).status, Status.ACTIVE)

    async def test_finish_tells_the_size(self) -> None:
        """Where the total wasn't known, it is in the end; and it is no less than what was durable already."""
        lease = await self.begin(total=None)
        await self.state.commit(lease, 100)
        await self.assertFailure(self.state.finish(lease, 99, None), OffsetMismatch)
        await self.state.finish(lease, 123, None)
        record = await self.record()
        self.assertEqual((record.total, record.offset, record.sha256), (123, 123, None))

    async def test_fail(self) -> None:
        """A failed upload tells why, and is free."""
        lease = await self.begin()
        await self.state.fail(lease, "checksum-mismatch")
        record = await self.record()
        self.assertEqual((record.status, record.reason), (Status.FAILED, "checksum-mismatch"))
        await self.other.acquire("upload-1", holder())

    async def test_repeated_end(self) -> None:
        """A request that did not hear that the upload ended says it again."""
        lease = await self.begin()
        await self.state.finish(lease, 1000, b"d" * 32)
        await self.state.finish(lease, 1000, b"d" * 32)
        failing = await self.begin(uid="upload-2")
        await self.state.fail(failing, "no-progress")
        await self.state.fail(failing, "no-progress")
        await self.state.discard(failing)
        await self.state.discard(failing)

    async def test_ended_upload_does_not_change(self) -> None:
        """A complete upload neither goes on nor fails, and a failed one neither goes on nor gets complete."""
        complete = await self.begin()
        await self.state.finish(complete, 1000, None)
        await self.assertFailure(self.state.commit(complete, 1000), Fenced)
        await self.assertFailure(self.state.fail(complete, "late"), Fenced)
        failed = await self.begin(uid="upload-2")
        await self.state.fail(failed, "no-progress")
        await self.assertFailure(self.state.commit(failed, 10), Fenced)
        await self.assertFailure(self.state.finish(failed, 1000, None), Fenced)

    async def test_restart(self) -> None:
        """The next generation begins anew, keeping what the caller says, and the lease goes on."""
        lease = await self.begin()
        await self.state.commit(lease, 500)
        self.clock.advance(100)
        wanted = new_upload(token="token-0002", offset=300, hash_state=b"at 300", total=2000)
        again = await self.state.restart(lease, wanted)
        record = await self.record()
        self.assertEqual(again, evolve(lease, record=record))
        self.assertEqual((record.generation, record.offset, record.total), (2, 300, 2000))
        self.assertEqual((record.token, record.hash_state), ("token-0002", b"at 300"))
        self.assertEqual((record.created, record.expires), (NOW + 100, NOW + 100 + TTL_S))
        await self.assertFailure(self.other.acquire("upload-1", holder()), Busy)
        await self.state.commit(again, 301)

    async def test_repeated_restart(self) -> None:
        """A restart whose answer was lost is made again, and is one restart."""
        lease = await self.begin()
        await self.state.restart(lease, new_upload())
        again = await self.state.restart(lease, new_upload())
        self.assertEqual(again.record.generation, 2)

    async def test_restart_skips_generations(self) -> None:
        """Where a part file of a later generation is left, the caller can go beyond it."""
        again = await self.state.restart(await self.begin(), new_upload(generation=9))
        self.assertEqual(again.record.generation, 9)

    async def test_restart_after_the_end(self) -> None:
        """A complete or failed upload can begin anew: nothing of its end is left."""
        complete = await self.begin()
        await self.state.finish(complete, 1000, b"d" * 32)
        failed = await self.begin(uid="upload-2")
        await self.state.fail(failed, "no-progress")
        for uid in ("upload-1", "upload-2"):
            lease = await self.other.acquire(uid, holder())
            again = await self.other.restart(lease, new_upload(uid))
            self.assertEqual(again.record, beginning(new_upload(uid, generation=2), 2, NOW, TTL_S))
            await self.other.commit(again, 10)
        self.assertEqual(await self.state.counts(), {Status.ACTIVE: 2, Status.COMPLETE: 0, Status.FAILED: 0})

    # For the janitor and the metrics

    async def test_expired_oldest_first(self) -> None:
        """What has expired is found oldest first, whatever its status, and not more at a time than asked for."""
        await self.begin(uid="upload-1")
        self.clock.advance(10)
        await self.state.finish(await self.begin(uid="upload-2"), 1000, None)
        self.clock.advance(10)
        await self.state.fail(await self.begin(uid="upload-3"), "no-progress")
        self.clock.advance(10)
        await self.begin(uid="upload-4")
        now = NOW + TTL_S + 20.5
        found = await self.other.expired(now, 10)
        self.assertEqual([record.uid for record in found], ["upload-1", "upload-2", "upload-3"])
        found = await self.other.expired(now, 2)
        self.assertEqual([record.uid for record in found], ["upload-1", "upload-2"])
        self.assertEqual(await self.other.expired(NOW, 10), [])

    async def test_expired_upload_can_be_removed(self) -> None:
        """The janitor takes the lease, sees that nothing has changed, and discards."""
        await self.begin()
        self.clock.advance(TTL_S + 1)
        self.lapse("upload-1")
        (found,) = await self.other.expired(self.clock.seconds(), 10)
        lease = await self.other.acquire(found.uid, holder(), attempt=False)
        self.assertLess(lease.record.expires, self.clock.seconds())
        await self.other.discard(lease)
        self.assertIsNone(await self.state.get("upload-1"))
        self.assertEqual(await self.other.expired(self.clock.seconds(), 10), [])

    async def test_commit_defers_the_expiry(self) -> None:
        """An upload that goes on is not found as expired."""
        lease = await self.begin()
        self.clock.advance(TTL_S - 1)
        await self.state.commit(lease, 1)
        self.assertEqual(await self.other.expired(NOW + TTL_S + 1, 10), [])

    async def test_unfinished_uploads(self) -> None:
        """Every active upload is on one of the pages; those that have ended are on none."""
        for number in range(230):
            await self.begin(uid=f"upload-{number}")
        await self.state.finish(await self.begin(uid="complete"), 1000, None)
        found: set[str] = set()
        cursor, pages = "", 0
        while cursor or not pages:
            page = await self.other.unfinished(cursor)
            found.update(record.uid for record in page.records)
            cursor, pages = page.cursor, pages + 1
        self.assertEqual(found, {f"upload-{number}" for number in range(230)})
        self.assertGreater(pages, 1)

    async def test_no_unfinished_uploads(self) -> None:
        """An empty store has one page, and it is empty."""
        page = await self.state.unfinished()
        self.assertEqual((list(page.records), page.cursor), ([], ""))

    async def test_known_uploads(self) -> None:
        """Of the uids that were found as part files, the store tells which it has, and which generation."""
        await self.begin(uid="upload-1")
        await self.state.restart(await self.begin(uid="upload-2"), new_upload("upload-2"))
        known = await self.other.known(["upload-0", "upload-1", "upload-2", "upload-3"])
        self.assertEqual(known, {"upload-1": 1, "upload-2": 2})
        self.assertEqual(await self.other.known([]), {})

    async def test_counts(self) -> None:
        """The metrics' figures: how many uploads there are of every status."""
        self.assertEqual(await self.other.counts(), {Status.ACTIVE: 0, Status.COMPLETE: 0, Status.FAILED: 0})
        await self.begin(uid="upload-1")
        await self.begin(uid="upload-2")
        await self.state.finish(await self.begin(uid="upload-3"), 1000, None)
        await self.state.fail(await self.begin(uid="upload-4"), "no-progress")
        await self.state.discard(await self.begin(uid="upload-5"))
        self.assertEqual(await self.other.counts(), {Status.ACTIVE: 2, Status.COMPLETE: 1, Status.FAILED: 1})

    async def test_metrics_facts(self) -> None:
        """A store that answers is available, and tells how long an answer takes."""
        await self.begin()
        self.assertEqual(self.state.available, True)
        assert self.state.round_trip_s is not None
        self.assertGreater(self.state.round_trip_s, 0)

    async def follow(self, steps: Iterable[Step]) -> None:
        """Do *steps* in the store and in the model: the same must come of each, and remain."""
        model = Model()
        leases: list[Lease] = []
        holders = {number: holder() for number in range(3)}
        for step in steps:
            actual = await self._do(step, leases, holders)
            self.assertEqual(actual, model.do(step), step)
            for uid in UIDS:
                self.assertEqual(_essence(await self.other.get(uid)), model.essence(uid), step)

    async def _do(self, step: Step, leases: list[Lease], holders: dict[int, Holder]) -> str:
        uid = UIDS[step.upload]
        state = (self.state, self.other)[step.process]
        if step.what == "lapse":
            for each in UIDS:
                self.lapse(each)
            return "done"
        try:
            if step.what == "create":
                outcome: object = await state.create(new_upload(uid), holders[step.holder])
            elif step.what in ("acquire", "steal"):
                outcome = await state.acquire(uid, holders[step.holder], steal=step.what == "steal")
            elif not leases:
                return "done"
            else:
                outcome = await self._change(state, step, leases[step.lease % len(leases)])
        except UploadStateError as error:
            return type(error).__name__
        if isinstance(outcome, Lease):
            leases.append(outcome)
            return f"epoch {outcome.epoch}"
        return "done"

    def _change(self, state: IUploadState, step: Step, lease: Lease) -> Deferred[Any]:
        match step.what:
            case "commit":
                return state.commit(lease, step.offset)
            case "finish":
                return state.finish(lease, step.offset, None)
            case "fail":
                return state.fail(lease, "reason")
            case "restart":
                return state.restart(lease, new_upload(lease.uid, offset=step.offset))
            case _:
                return getattr(state, step.what)(lease)


UIDS = ("upload-1", "upload-2")
STEPS = (
    "create",
    "acquire",
    "steal",
    "lapse",
    "commit",
    "commit",
    "renew",
    "release",
    "finish",
    "fail",
    "restart",
    "discard",
)
OFFSETS = (0, 1, 500, 999, 1000, 1001)


@frozen
class Step:
    """Something that one of two processes does to one of two uploads for one of three requests.

    :ivar lease: which of all leases that there were to act under.
    """

    what: str
    process: int
    upload: int
    holder: int
    lease: int
    offset: int


def random_steps(seed: int, count: int) -> Iterator[Step]:
    """The same steps for the same *seed*."""
    choose = random.Random(seed)
    for _ in range(count):
        yield Step(
            choose.choice(STEPS),
            choose.randrange(2),
            choose.randrange(2),
            choose.randrange(3),
            choose.randrange(8),
            choose.choice(OFFSETS),
        )


def _essence(record: UploadRecord | None) -> tuple[object, ...] | None:
    if record is None:
        return None
    return (
        record.status,
        record.generation,
        record.epoch,
        record.offset,
        record.attempts_without_progress,
    )


@define
class ModelUpload:
    """What a store must know of an upload, at least."""

    holder: int | None
    held: bool = True
    status: Status = Status.ACTIVE
    generation: int = 1
    epoch: int = 1
    offset: int = 0
    attempts: int = 0


@define
class Model:
    """A store of upload states, as short as it can be said."""

    uploads: dict[str, ModelUpload] = field(factory=dict)
    leases: list[tuple[str, int, int, int]] = field(factory=list)
    """Upload, holder, epoch and generation of every lease that there was."""

    def essence(self, uid: str) -> tuple[object, ...] | None:
        upload = self.uploads.get(uid)
        if upload is None:
            return None
        return upload.status, upload.generation, upload.epoch, upload.offset, upload.attempts

    def do(self, step: Step) -> str:
        uid = UIDS[step.upload]
        upload = self.uploads.get(uid)
        match step.what:
            case "lapse":
                for each in self.uploads.values():
                    each.held = False
                return "done"
            case "create":
                if upload is None:
                    upload = self.uploads[uid] = ModelUpload(step.holder)
                return self._lease(uid, upload) if upload.holder == step.holder else "done"
            case "acquire" | "steal":
                return "UnknownUpload" if upload is None else self._acquire(step, uid, upload)
        if not self.leases:
            return "done"
        uid, holder, epoch, generation = self.leases[step.lease % len(self.leases)]
        upload = self.uploads.get(uid)
        if upload is None:
            return "done" if step.what in ("release", "discard") else "UnknownUpload"
        if (upload.holder, upload.epoch) != (holder, epoch):
            return "done" if step.what == "release" else "Fenced"
        return self._change(step, uid, upload, generation)

    def _lease(self, uid: str, upload: ModelUpload) -> str:
        assert upload.holder is not None
        self.leases.append((uid, upload.holder, upload.epoch, upload.generation))
        return f"epoch {upload.epoch}"

    def _acquire(self, step: Step, uid: str, upload: ModelUpload) -> str:
        if upload.holder != step.holder:
            if upload.held and step.what != "steal":
                return "Busy"
            upload.epoch += 1
            upload.attempts += upload.status is Status.ACTIVE
        upload.holder, upload.held = step.holder, True
        return self._lease(uid, upload)

    def _change(self, step: Step, uid: str, upload: ModelUpload, generation: int) -> str:
        active, complete = upload.status is Status.ACTIVE, upload.status is Status.COMPLETE
        match step.what:
            case "commit" if not active:
                return "Fenced"
            case "commit" if not upload.offset <= step.offset <= 1000:
                return "OffsetMismatch"
            case "commit":
                upload.attempts = 0 if step.offset > upload.offset else upload.attempts
                upload.offset, upload.held = step.offset, True
            case "renew":
                upload.held = True
            case "release":
                upload.holder, upload.held = None, False
            case "finish" if not active and not complete:
                return "Fenced"
            case "finish" if step.offset != 1000:
                return "OffsetMismatch"
            case "finish":
                upload.status, upload.offset, upload.held = Status.COMPLETE, 1000, False
            case "fail" if complete:
                return "Fenced"
            case "fail":
                upload.status, upload.held = Status.FAILED, False
            case "restart":
                self.uploads[uid] = upload = ModelUpload(
                    upload.holder, epoch=upload.epoch, offset=step.offset, generation=generation + 1
                )
                return self._lease(uid, upload)
            case "discard":
                del self.uploads[uid]
        return "done"


class ExpiryTests(SynchronousTestCase):
    def test_sliding(self) -> None:
        """Whatever happens to an upload gives it its whole time to live again."""
        record = beginning(new_upload(), 1, NOW, 100)
        self.assertEqual(expiry(record, NOW + 50, 100), NOW + 150)

    def test_hard_end(self) -> None:
        """But not beyond seven times as much."""
        record = beginning(new_upload(), 1, NOW, 100)
        self.assertEqual(expiry(record, NOW + 650, 100), NOW + 700)

    def test_clock_set_back(self) -> None:
        """A clock that was set back defers the end by no more than it was set back."""
        record = beginning(new_upload(), 1, NOW, 100)
        self.assertEqual(expiry(record, NOW - 3600, 100), NOW - 3500)


class SecrecyTests(SynchronousTestCase):
    def test_not_shown(self) -> None:
        """Neither the credential's digest nor the session token nor the digest's state gets into a log by accident."""
        new = new_upload(signature=b"SECRET" * 5 + b"xx", token="SECRET-token", hash_state=b"SECRET state")
        record = beginning(new, 1, NOW, TTL_S)
        for value in (new, record, Lease("upload-1", "holder", 1, record)):
            self.assertNotIn("SECRET", repr(value))


class HolderTests(SynchronousTestCase):
    def test_names_differ(self) -> None:
        """No two requests have one name."""
        self.assertEqual(len({holder().name for _ in range(100)}), 100)


class HoldingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[str] = []
        self.holdings = Holdings()
        self.lease = Lease("upload-1", "one", 5, beginning(new_upload(), 5, NOW, TTL_S))
        self.holdings.add(self.lease, Holder(lambda: self.told.append("one")))

    def test_told_once(self) -> None:
        """A holder is told, and then has no more to be told."""
        self.holdings.tell("upload-1", 5)
        self.holdings.tell("upload-1", 5)
        self.assertEqual(self.told, ["one"])
        self.assertFalse(self.holdings)

    def test_other_epochs_and_uploads(self) -> None:
        """What was meant for another lease is not for this one."""
        for uid, epoch in (("upload-1", 4), ("upload-1", 6), ("upload-2", 5)):
            self.holdings.tell(uid, epoch)
        self.assertEqual(self.told, [])
        self.assertIn(self.lease, self.holdings)

    def test_dropped(self) -> None:
        """Who has let go is not told."""
        self.holdings.drop(self.lease)
        self.holdings.tell("upload-1", 5)
        self.assertEqual(self.told, [])

    def test_late_drop(self) -> None:
        """The old holder's end does not make the store forget the new one."""
        later = evolve(self.lease, epoch=6)
        self.holdings.add(later, Holder(lambda: self.told.append("two")))
        self.holdings.drop(self.lease)
        self.holdings.tell("upload-1", 6)
        self.assertEqual(self.told, ["two"])

    def test_holder_that_fails(self) -> None:
        """An error in one request is logged, and nobody else's."""

        def fails() -> None:
            raise ZeroDivisionError

        self.holdings.add(self.lease, Holder(fails))
        self.holdings.tell("upload-1", 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
