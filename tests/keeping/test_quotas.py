"""Quotas: what fits in, what is told to whom it doesn't, and what goes for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.keeping.account import account_of
from hmacfs.keeping.index import Entry, Index
from hmacfs.keeping.quotas import AGAIN_AFTER_S, Charge, QuotaLimits, Quotas
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from hmacfs.storage.database import DatabaseAway
from hmacfs.storage.names import SlotPath
from hmacfs.storage.promises import Circle, IPromises, SharedPromises
from tests.keeping.test_lifetimes import ENTRY

ALICE = "alice@example.org"
BOB = "bob@example.org"
CAROL = "carol@example.net"

NOW = 1_790_000_000.0


class QuotaTestCase(SynchronousTestCase):
    """Quotas over an index without a store: what is deleted is struck out.

    :ivar deleted: the paths that had to go.
    :ivar stored: what has been published, and what the index has not heard of yet.
    """

    limits = QuotaLimits(per_user_bytes=100)

    def setUp(self) -> None:
        self.index_path = Path(self.mktemp()) / "index.sqlite"
        self.index_path.parent.mkdir()
        self.index = Index(self.index_path)
        self.addCleanup(self.index.close)
        self.deleted: list[str] = []
        self.unheard: list[Entry] = []
        self.registry = CollectorRegistry()
        self.flushing: Deferred[None] | None = None
        self.flushes = 0
        self.uploaded = NOW
        self.lines: list[str] = []
        self.kept: set[bytes] = set()
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.clock = Clock()
        self.promises: IPromises = Circle().join()
        self.quotas = self.make(self.limits)

    def observe(self, event: LogEvent) -> None:
        self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

    def make(self, limits: QuotaLimits) -> Quotas:
        return Quotas(
            limits,
            self.index,
            delete=self.delete,
            is_kept=lambda entry, _now: entry.path in self.kept or entry.quarantined,
            flush=self.flush,
            promises=self.promises,
            clock=self.clock,
            threads=InlineThreads(),
            now=lambda: NOW,
            metrics=Metrics(self.registry),
        )

    async def flush(self) -> None:
        self.flushes += 1
        if self.flushing is not None:
            await self.flushing
        # The real one never fails.
        with contextlib.suppress(DatabaseAway):
            self.index.put(self.unheard)
        self.unheard.clear()

    def delete(self, entry: Entry, reason: str, now: float) -> int | None:
        self.assertEqual((reason, now), ("quota", NOW))
        self.deleted.append(entry.path.decode())
        self.index.drop([entry.path])
        return entry.size

    def entry(self, path: str, size: int, owner: str | None, *, quarantined: bool = False) -> Entry:
        """A file that is uploaded later than all before it."""
        self.uploaded += 1
        account = account_of(owner, path.encode())
        return evolve(
            ENTRY,
            path=path.encode(),
            size=size,
            user=account.user,
            domain=account.domain,
            uploaded=self.uploaded,
            quarantined=quarantined,
        )

    def have(self, path: str, size: int, owner: str | None = ALICE, *, quarantined: bool = False) -> None:
        """A file that is stored, and that the index knows."""
        self.index.put([self.entry(path, size, owner, quarantined=quarantined)])

    def begun(self, path: str, size: int, owner: str | None = ALICE) -> Deferred[Charge]:
        return Deferred.fromCoroutine(self.quotas.reserve(SlotPath.from_encoded(path.encode()), owner, size))

    def begin(self, path: str, size: int, owner: str | None = ALICE) -> Charge:
        """Begin an upload, for which there is room."""
        return self.successResultOf(self.begun(path, size, owner))

    def refused(self, path: str, size: int, owner: str | None = ALICE) -> str:
        """Begin an upload, for which there is none; what is said."""
        begun = self.begun(path, size, owner)
        self.clock.pump([AGAIN_AFTER_S] * 3)
        refused = self.failureResultOf(begun, Refused).value
        self.assertEqual((refused.status, refused.reason), (413, "over-quota"))
        return str(refused.detail)

    def publish(self, charge: Charge, owner: str | None = ALICE) -> None:
        """The upload is whole; nobody else hears of it for now."""
        self.unheard.append(self.entry(charge.path.text, charge.size_bytes, owner))
        self.quotas.published(charge.path)

    def end(self, charge: Charge, owner: str | None = ALICE) -> None:
        """As an upload ends that all is well with."""
        self.publish(charge, owner)
        self.successResultOf(Deferred.fromCoroutine(self.quotas.settle(charge)))
        charge.release()


class RefuseTests(QuotaTestCase):
    """``QuotaPolicy = "refuse"``."""

    def test_fits_exactly(self) -> None:
        self.have("a/1", 60)
        self.begin("a/2", 40)

    def test_over(self) -> None:
        self.have("a/1", 60)
        self.assertEqual(self.refused("a/2", 41), "Your files may take 100 B together, and this one doesn't fit in.")
        self.assertEqual(self.deleted, [])

    def test_larger_than_the_quota(self) -> None:
        """Nobody needs to be asked about that."""
        self.refused("a/1", 101)
        self.assertEqual(self.flushes, 0)

    def test_under_way(self) -> None:
        """Uploads count from their beginning on, with their whole size, until they end."""
        charge = self.begin("a/1", 60)
        self.refused("a/2", 41)
        self.begin("a/3", 40)
        charge.release()
        charge.release()
        self.begin("a/2", 60)
        self.refused("a/4", 1)

    def test_refused_is_not_under_way(self) -> None:
        charge = self.begin("a/1", 60)
        self.refused("a/2", 41)
        charge.release()
        self.begin("a/3", 100)

    def test_stored_a_moment_ago(self) -> None:
        """What the index has not heard of yet counts, and counts once."""
        charge = self.begin("a/1", 60)
        self.flushing = Deferred()
        self.publish(charge)
        charge.release()
        self.flushing = None
        self.refused("a/2", 41)
        self.begin("a/2", 40)

    def test_broken_and_resumed(self) -> None:
        """An upload that goes on counts once."""
        self.begin("a/1", 60).release()
        self.begin("a/1", 60).release()
        self.end(self.begin("a/1", 60))
        self.begin("a/2", 40)

    def test_users(self) -> None:
        """Everyone has an own quota."""
        self.have("a/1", 100)
        self.refused("a/2", 1)
        self.begin("b/1", 100, BOB)

    def test_user_of_ejabberd(self) -> None:
        """The first segment of three."""
        self.have("f00/1/x", 100, None)
        self.refused("f00/2/y", 1, None)
        self.begin("ba5/2/y", 100, None)

    def test_nobody(self) -> None:
        """Whose file it is nobody knows, so that it is nobody's quota."""
        self.have("a/1", 100, None)
        self.begin("a/2", 100, None)

    def test_quarantined_counts(self) -> None:
        """It takes room all the same."""
        self.have("a/1", 60, quarantined=True)
        self.refused("a/2", 41)

    def test_owner_that_is_no_text(self) -> None:
        """A JSON text can have half a character in it."""
        self.end(self.begin("a/1", 60, "\ud800@example.org"), "\\ud800@example.org")
        self.refused("a/2", 41, "\ud800@example.org")

    def test_counted_while_another_ends(self) -> None:
        """Who is just being stored isn't counted twice: it is looked at again."""
        first = self.begin("a/1", 60)
        self.flushing = Deferred()
        second = self.begun("a/2", 40)
        self.publish(first)
        flushing, self.flushing = self.flushing, None
        flushing.callback(None)
        self.successResultOf(second)

    def test_counted_again_with_one_behind(self) -> None:
        """Who began later is no reason to refuse, when it is looked at again either."""
        stored = self.begin("a/1", 60)
        self.flushing = Deferred()
        first, second = self.begun("a/2", 40), self.begun("a/3", 40)
        self.publish(stored)
        flushing, self.flushing = self.flushing, None
        flushing.callback(None)
        self.successResultOf(first)
        self.failureResultOf(second, Refused)

    def test_both_at_once(self) -> None:
        """The first one fits in, the second doesn't."""
        self.flushing = Deferred()
        first, second = self.begun("a/1", 60), self.begun("a/2", 60)
        self.flushing.callback(None)
        self.successResultOf(first)
        self.failureResultOf(second, Refused)


class ElsewhereTests(QuotaTestCase):
    """Two on one store in one process, each with uploads of its own. Its index is the same; it is told of at a flush.

    :ivar ours: the quotas of the one.
    :ivar theirs: those of the other.
    """

    limits = QuotaLimits(per_user_bytes=100, total_bytes=150)

    def setUp(self) -> None:
        super().setUp()
        self.ours, self.theirs = (self.member(promises) for promises in self.join())

    def join(self) -> tuple[IPromises, IPromises]:
        circle = Circle()
        return circle.join(), circle.join()

    def member(self, promises: IPromises) -> Quotas:
        self.promises, self.registry = promises, CollectorRegistry()
        return self.make(self.limits)

    def use(self, quotas: Quotas) -> None:
        """Whose uploads begin and end from now on."""
        self.quotas = quotas

    def test_under_way(self) -> None:
        self.use(self.theirs)
        charge = self.begin("a/1", 60)
        self.use(self.ours)
        self.refused("a/2", 41)
        self.begin("b/1", 90, BOB).release()
        self.refused("b/1", 91, BOB)
        charge.release()
        self.begin("a/2", 100)

    def test_both_at_once(self) -> None:
        """Of two that don't fit in together the one that began first does."""
        self.flushing = Deferred()
        self.use(self.theirs)
        first = self.begun("a/1", 60)
        self.use(self.ours)
        second = self.begun("a/2", 60)
        flushing, self.flushing = self.flushing, None
        flushing.callback(None)
        self.successResultOf(first)
        self.clock.pump([AGAIN_AFTER_S] * 3)
        self.failureResultOf(second, Refused)

    def test_stored_and_not_told(self) -> None:
        """A file counts when it is stored, though only its process knows of it, and once when the index knows."""
        self.use(self.theirs)
        charge = self.begin("a/1", 60)
        self.flushing = Deferred()
        self.publish(charge)
        charge.release()
        flushing, self.flushing = self.flushing, None
        unheard, self.unheard = self.unheard, []
        self.use(self.ours)
        self.refused("a/2", 41)
        self.unheard = unheard
        flushing.callback(None)
        self.begin("a/2", 40).release()
        self.refused("a/2", 41)

    def test_told_while_it_is_counted(self) -> None:
        """What is counted as under way and as stored is counted again."""
        self.use(self.theirs)
        charge = self.begin("a/1", 60)
        self.use(self.ours)
        self.flushing = Deferred()
        second = self.begun("a/2", 40)
        self.use(self.theirs)
        self.publish(charge)
        charge.release()
        flushing, self.flushing = self.flushing, None
        flushing.callback(None)
        self.clock.advance(AGAIN_AFTER_S)
        self.successResultOf(second)

    def test_many_stored(self) -> None:
        """The index is told of all that were stored meanwhile in one go."""
        self.use(self.theirs)
        charges = [self.begin(f"a/{number}", 10) for number in range(5)]
        self.flushing = Deferred()
        before = self.flushes
        for charge in charges:
            self.publish(charge)
            charge.release()
        flushing, self.flushing = self.flushing, None
        flushing.callback(None)
        self.assertEqual(self.flushes - before, 2)
        self.use(self.ours)
        self.begin("a/5", 50)


class OtherProcessTests(ElsewhereTests):
    """The same for two processes."""

    def join(self) -> tuple[IPromises, IPromises]:
        directory = Path(self.mktemp())
        joined = SharedPromises(directory, "w0", self.clock), SharedPromises(directory, "w1", self.clock)
        for promises in joined:
            self.addCleanup(promises.close)
        return joined


class ScopeTests(QuotaTestCase):
    """The three quotas."""

    limits = QuotaLimits(per_user_bytes=100, per_domain_bytes=150, total_bytes=200)

    def test_domain(self) -> None:
        """Nobody hears of other people's files."""
        self.have("a/1", 100)
        self.begin("b/1", 50, BOB).release()
        detail = self.refused("b/1", 51, BOB)
        self.assertEqual(detail, "The files of your domain may take 150 B together, and this one doesn't fit in.")

    def test_total(self) -> None:
        self.have("a/1", 100)
        self.have("b/1", 40, BOB)
        self.begin("c/1", 60, CAROL).release()
        detail = self.refused("c/1", 61, CAROL)
        self.assertEqual(detail, "All files here may take 200 B together, and this one doesn't fit in.")

    def test_no_domain(self) -> None:
        """Files that name no domain are those of one."""
        self.have("a/1", 100, None)
        self.have("f00/1/x", 40, None)
        self.begin("b/1", 10, None).release()
        self.assertIn("of your domain", self.refused("b/1", 11, None))
        self.begin("c/1", 60, CAROL)

    def test_the_narrowest_first(self) -> None:
        self.have("a/1", 100)
        self.assertIn("Your files", self.refused("a/2", 100))


class NoQuotaTests(QuotaTestCase):
    """Where nothing is limited."""

    limits = QuotaLimits(oldest_go=True)

    def test_nothing_is_asked(self) -> None:
        """Not even whether there is an index."""
        charge = self.begin("a/1", 1 << 60)
        self.end(charge)
        self.assertEqual((self.flushes, self.index_path.exists()), (0, False))


class OldestTests(QuotaTestCase):
    """``QuotaPolicy = "oldest"``."""

    limits = QuotaLimits(per_user_bytes=100, oldest_go=True)

    def test_when_stored(self) -> None:
        """An upload that breaks off costs nobody a file."""
        self.have("a/1", 60)
        self.have("a/2", 40)
        charge = self.begin("a/3", 10)
        self.assertEqual(self.deleted, [])
        charge.release()
        self.end(self.begin("a/3", 10))
        self.assertEqual(self.deleted, ["a/1"])

    def test_no_more_than_needed(self) -> None:
        for number in range(10):
            self.have(f"a/{number}", 10)
        self.end(self.begin("a/x", 25))
        self.assertEqual(self.deleted, ["a/0", "a/1", "a/2"])
        self.end(self.begin("a/y", 5))
        self.assertEqual(self.deleted, ["a/0", "a/1", "a/2"])

    def test_others_stay(self) -> None:
        self.have("b/1", 100, BOB)
        self.have("a/1", 100)
        self.end(self.begin("a/2", 100))
        self.assertEqual(self.deleted, ["a/1"])

    def test_larger_than_the_quota(self) -> None:
        """All files together could not make room for it."""
        self.have("a/1", 60)
        self.refused("a/2", 101)
        self.assertEqual(self.deleted, [])

    def test_what_stays(self) -> None:
        """Neither what is put aside, nor what the operator keeps for ever; without them there is no room."""
        self.have("a/1", 50, quarantined=True)
        self.have("a/2", 20)
        self.kept.add(b"a/2")
        self.have("a/3", 30)
        self.refused("a/4", 31)
        self.end(self.begin("a/5", 30))
        self.assertEqual(self.deleted, ["a/3"])

    def test_under_way(self) -> None:
        """What is just being uploaded can't make room."""
        self.have("a/1", 60)
        charge = self.begin("a/2", 60)
        self.refused("a/3", 41)
        self.end(charge)
        self.assertEqual(self.deleted, ["a/1"])

    def test_new_file_stays(self) -> None:
        """Though a clock that was set back makes it the oldest."""
        self.have("a/1", 60)
        self.uploaded = 0
        self.end(self.begin("a/2", 60))
        self.assertEqual(self.deleted, ["a/1"])

    def test_two_at_once(self) -> None:
        """Each makes the room that is needed then."""
        for number in range(10):
            self.have(f"a/{number}", 10)
        first, second = self.begin("a/x", 15), self.begin("a/y", 5)
        self.publish(first)
        self.publish(second)
        for charge in (first, second):
            self.successResultOf(Deferred.fromCoroutine(self.quotas.settle(charge)))
        self.assertEqual(self.deleted, ["a/0", "a/1"])

    def test_total(self) -> None:
        """The oldest of all, whoever's."""
        self.quotas = self.make_anew(QuotaLimits(total_bytes=100, oldest_go=True))
        self.have("b/1", 50, BOB)
        self.have("a/1", 50)
        self.end(self.begin("a/2", 10))
        self.assertEqual(self.deleted, ["b/1"])

    def test_domain(self) -> None:
        """The oldest of that domain; also of the one without a name."""
        self.quotas = self.make_anew(QuotaLimits(per_domain_bytes=100, oldest_go=True))
        self.have("c/1", 100, CAROL)
        self.have("x/1", 100, None)
        self.have("a/1", 50)
        self.have("b/1", 50, BOB)
        self.end(self.begin("b/2", 10, BOB), BOB)
        self.end(self.begin("x/2", 10, None), None)
        self.assertEqual(self.deleted, ["a/1", "x/1"])

    def test_metrics(self) -> None:
        self.have("a/1", 60)
        self.end(self.begin("a/2", 60))
        for name, value in {"files": 1, "bytes": 60}.items():
            sample = self.registry.get_sample_value(f"hmac_file_server_deleted_{name}_total", {"reason": "quota"})
            self.assertEqual(sample, value)

    def test_line(self) -> None:
        """Without a report, nothing else says where a file has gone."""
        self.have("a/1", 60)
        self.have("a/2", 30)
        self.end(self.begin("a/3 é", 80))
        self.assertEqual(self.lines, ["info: quotas: deleted 2 files, 90 B, to make room for a/3%20%C3%A9"])
        self.end(self.begin("b/1", 20))
        self.assertEqual(len(self.lines), 1)

    def test_disk_in_the_way(self) -> None:
        """The upload has its 201; the operator hears of it, and of what went until then."""
        self.have("a/1", 20)
        self.have("a/2", 60)
        charge = self.begin("a/3", 90)

        def delete(entry: Entry, reason: str, now: float) -> int | None:
            if entry.path == b"a/2":
                raise PermissionError(13, "Permission denied")
            return self.delete(entry, reason, now)

        self.patch(self.quotas, "_delete", delete)
        self.end(charge)
        error, gone = self.lines
        self.assertIn("error: quotas: the oldest files could not make room", error)
        self.assertIn("info: quotas: deleted 1 file, 20 B", gone)
        self.assertEqual(
            self.registry.get_sample_value("hmac_file_server_deleted_bytes_total", {"reason": "quota"}), 20
        )

    def test_file_that_stays(self) -> None:
        """One that can't be deleted is passed over: the next one makes room in its place."""
        self.have("a/1", 20)
        self.have("a/2", 60)
        charge = self.begin("a/3", 40)

        def delete(entry: Entry, reason: str, now: float) -> int | None:
            if entry.path == b"a/1":
                raise PermissionError(13, "Permission denied")
            return self.delete(entry, reason, now)

        self.patch(self.quotas, "_delete", delete)
        self.end(charge)
        self.assertEqual(self.deleted, ["a/2"])

    def make_anew(self, limits: QuotaLimits) -> Quotas:
        self.registry = CollectorRegistry()
        return self.make(limits)


class AwayTests(QuotaTestCase):
    """The index can't be used."""

    def setUp(self) -> None:
        super().setUp()
        self.have("a/1", 100)
        self.index.close()
        self.moved = self.index_path.rename(self.index_path.with_suffix(".moved"))
        self.index_path.mkdir()

    def test_uploads_go_on(self) -> None:
        """Nobody is refused for it, which is said once."""
        for number in range(3):
            self.begin(f"a/{number}", 100)
        self.assertEqual(len(self.lines), 1)
        self.assertIn("warn: quotas: none is enforced now", self.lines[0])

    def test_back(self) -> None:
        self.begin("a/2", 100).release()
        self.index_path.rmdir()
        self.moved.rename(self.index_path)
        self.refused("a/2", 1)
        self.assertIn("info: quotas: enforced again", self.lines)

    def test_making_room(self) -> None:
        self.quotas = self.make_oldest()
        self.end(self.begin("a/2", 100))
        self.assertEqual(self.deleted, [])

    def make_oldest(self) -> Quotas:
        self.registry = CollectorRegistry()
        self.unheard.clear()
        return self.make(QuotaLimits(per_user_bytes=100, oldest_go=True))


STEPS = st.lists(
    st.tuples(
        st.sampled_from([ALICE, BOB, CAROL, None]),
        st.integers(0, 60),
        st.sampled_from(["store", "break", "begin", "end the first"]),
    ),
    max_size=30,
)


class PropertyTests(QuotaTestCase):
    """Whoever uploads whatever."""

    @given(st.booleans(), STEPS)
    @settings(max_examples=40)
    def test_never_over(self, oldest_go: bool, steps: list[tuple[str | None, int, str]]) -> None:
        """No limit is ever exceeded, and what goes is the oldest of those it is about."""
        self.tearDown()
        self.setUp()
        self.registry = CollectorRegistry()
        limits = QuotaLimits(per_user_bytes=70, per_domain_bytes=90, total_bytes=150, oldest_go=oldest_go)
        self.quotas = self.make(limits)
        open_: list[tuple[Charge, str | None]] = []
        for number, (owner, size, what) in enumerate(steps):
            if what == "end the first":
                if open_:
                    self.end(*open_.pop(0))
            else:
                self.step(f"{number}/x", owner, size, what, open_)
            self.check_limits(limits)
        if not oldest_go:
            self.assertEqual(self.deleted, [])

    def step(self, path: str, owner: str | None, size: int, what: str, open_: list[tuple[Charge, str | None]]) -> None:
        begun = self.begun(path, size, owner)
        begun.addErrback(lambda failure: failure.trap(Refused) and None)
        charge = self.successResultOf(begun)
        if charge is None:
            return
        if what == "store":
            self.end(charge, owner)
        elif what == "break":
            charge.release()
        else:
            open_.append((charge, owner))

    def check_limits(self, limits: QuotaLimits) -> None:
        self.index.put(self.unheard)
        self.unheard.clear()
        for owner in (ALICE, BOB, CAROL, None):
            for scope in limits.scopes(account_of(owner, b"0/x")):
                used = self.index.usage(scope.user, scope.domain).size_bytes
                self.assertLessEqual(used, scope.limit_bytes, scope)
