"""Retention: files leave when their time is over, or when all of them together have become too many.

The index says which may have to go. Each is decided upon with what the index knows, and deleted only if that is still
true in the tree (:mod:`hmacfs.keeping.deleting`), so that several processes may sweep at once and none deletes what
another wouldn't.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import Factory, define, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from hmacfs.config import Config
from hmacfs.config_retention import RetentionRule
from hmacfs.keeping.index import Entry, Index, Query, Schedule, Usage
from hmacfs.keeping.lifetimes import AGED, EXPIRED, Lifetimes
from hmacfs.keeping.scan import SCANNED_KEY
from hmacfs.metrics import Metrics
from hmacfs.net.rests import Rests
from hmacfs.net.threads import Threads
from hmacfs.storage.database import DatabaseAway, WrongFormat
from hmacfs.units import DAY_S, HOUR_S, counted, human_duration, human_size

#: Why a file went that was among the oldest when there was too much of all.
OVERSIZE: Final = "size"

#: How many files one step looks at, and deletes at most: some ten milliseconds of a thread.
STEP: Final = 100

#: By how much the clock may be ahead of what it should be since the last sweep, in seconds. More is held against it.
JUMP_S: Final = float(DAY_S)

#: How long a clock that has jumped must go on in that way before it is believed, at most, in seconds.
CONFIRM_S: Final = HOUR_S / 2

#: How long the first sweep waits for a first scan of the tree, and how often it looks, in seconds.
SCAN_PATIENCE_S: Final = 600.0
_POLL_S: Final = 1.0

#: The reasons in a sentence.
_WHY: Final = {EXPIRED: "expired", AGED: "by age", OVERSIZE: "by size"}

_SINCE_KEY: Final = "retention since"
_SWEPT_KEY: Final = "retention swept"
_HELD_KEY: Final = "retention held"

#: Deletes one file for a reason; whether it is gone.
Delete = Callable[[Entry, str], bool]


@frozen
class Policy:
    """What the operator has set.

    :ivar rules: ``RetentionRules``.
    :ivar default_s: how long a file is kept that no rule fits, in seconds; ``None`` for ever.
    :ivar max_bytes: what all files together may take; ``None`` for any amount.
    :ivar grace_s: ``RetentionGrace``.
    """

    rules: Sequence[RetentionRule] = ()
    default_s: float | None = None
    max_bytes: int | None = None
    grace_s: float = float(DAY_S)

    @property
    def shortest_s(self) -> float | None:
        """The least age that ends a file, in seconds; ``None`` where no age does."""
        ages = [rule.keep_s for rule in self.rules] + [self.default_s]
        return min((age_s for age_s in ages if age_s is not None), default=None)

    @property
    def is_on(self) -> bool:
        """Whether anything is deleted of which no bearer token says when it ends."""
        return self.max_bytes is not None or self.shortest_s is not None

    def lifetimes(self, since: float) -> Lifetimes:
        return Lifetimes(self.rules, self.default_s, since=since, grace_s=self.grace_s)

    def without_grace(self) -> Lifetimes:
        return Lifetimes(self.rules, self.default_s, since=0.0, grace_s=0.0)


def policy_of(config: Config) -> Policy:
    """What a configuration says about it: of two ages that are on, the lesser counts."""
    ages = [config.delete_files_after_s] if config.delete_files else []
    ages += [config.max_retention_s] if config.retention_enabled else []
    max_bytes = config.max_retention_bytes if config.retention_enabled else None
    return Policy(config.retention_rules, min(ages, default=None), max_bytes, config.retention_grace_s)


@define
class Tally:
    """What went, or would go.

    :ivar oldest: the earliest upload among it, in seconds since the epoch; ``None`` where nothing went.
    :ivar files: by reason.
    :ivar bytes: by reason.
    :ivar failed: how many could not be deleted.
    :ivar error: what the disk said of the last of these.
    """

    oldest: float | None = None
    files: Counter[str] = Factory(Counter)
    bytes: Counter[str] = Factory(Counter)
    failed: int = 0
    error: OSError | None = None

    @property
    def all_files(self) -> int:
        return sum(self.files.values())

    @property
    def all_bytes(self) -> int:
        return sum(self.bytes.values())

    def add(self, entry: Entry, reason: str) -> None:
        self.oldest = entry.uploaded if self.oldest is None else min(self.oldest, entry.uploaded)
        self.files[reason] += 1
        self.bytes[reason] += entry.size


class Sweep:
    """One sweep, a step at a time: in a thread, each step maybe in another one.

    :param ended: the files whose time may be over, page by page.
    :param now: in seconds since the epoch, for all of it.
    :param delete: may also be something that only says so.
    :ivar tally: so far.
    """

    def __init__(
        self,
        index: Index,
        lifetimes: Lifetimes,
        max_bytes: int | None,
        ended: Iterator[Sequence[Entry]],
        now: float,
        delete: Delete,
    ) -> None:
        self.tally = Tally()
        self._index = index
        self._lifetimes = lifetimes
        self._max_bytes = max_bytes
        self._ended = ended
        self._now = now
        self._delete = delete
        self._steps = self._run()

    def step(self) -> bool:
        """Go on for a while.

        :return: false at the end.
        :raises DatabaseAway: the index can't be used; the sweep is over.
        """
        return next(self._steps, False)

    def to_the_end(self) -> Tally:
        while self.step():
            pass
        return self.tally

    def _run(self) -> Iterator[bool]:
        total_bytes = self._index.usage().size_bytes
        for page in self._ended:
            for entry in page:
                reason = self._lifetimes.reason(entry, self._now)
                if reason is not None:
                    self._take(entry, reason)
            yield True
        if self._max_bytes is not None:
            yield from self._shrink(total_bytes - self.tally.all_bytes - self._max_bytes)

    def _shrink(self, over_bytes: int) -> Iterator[bool]:
        """Have the oldest go until the rest is small enough."""
        if over_bytes <= 0:
            return
        for page in _pages(lambda after: self._index.oldest(STEP, after=after)):
            for entry in page:
                # What is over its time has gone, or has been counted, or could not be deleted just now.
                is_over = self._lifetimes.reason(entry, self._now) is not None
                if is_over or self._lifetimes.is_spared(entry, self._now):
                    continue
                if self._take(entry, OVERSIZE):
                    over_bytes -= entry.size
                    if over_bytes <= 0:
                        return
            yield True

    def _take(self, entry: Entry, reason: str) -> bool:
        try:
            gone = self._delete(entry, reason)
        except OSError as error:
            self.tally.failed += 1
            self.tally.error = error
            return False
        if gone:
            self.tally.add(entry, reason)
        return gone


def _pages(page: Callable[[Entry | None], Sequence[Entry]]) -> Iterator[Sequence[Entry]]:
    after = None
    while found := page(after):
        yield found
        after = found[-1]


@frozen
class Plan:
    """What a sweep would do now.

    :ivar going: what would go.
    :ivar spared: what would, if it had not been there before (``RetentionGrace``).
    :ivar spared_until: when the grace of the last of these ends, in seconds since the epoch.
    """

    going: Tally
    spared: Tally
    spared_until: float


class Retention:
    """The policy, applied to the index. Everything blocks: in a thread, or from an operator's command.

    All methods raise :class:`~hmacfs.storage.database.DatabaseAway` when the index can't be used.

    :param interval_s: between two sweeps.
    """

    def __init__(self, index: Index, policy: Policy, interval_s: float) -> None:
        self._index = index
        self._interval_s = interval_s
        self.policy = policy

    def sweep(self, now: float, delete: Delete, cancelled: Callable[[], bool] = lambda: False) -> Sweep:
        """Begin a sweep that does what is to be done now.

        :param now: in seconds since the epoch.
        :param cancelled: true breaks off what is done before the first step, which takes its time after a change of
            the policy.
        """
        lifetimes = self._schedule(self.notice(now), cancelled)
        return Sweep(self._index, lifetimes, self.policy.max_bytes, self._due(now), now, delete)

    def notice(self, now: float) -> float | None:
        """Note when retention was switched on, or that it is off; as early as may be, for the grace begins then.

        :param now: in seconds since the epoch.
        :return: since when it is on; ``None`` if it is off.
        """
        since = self._since(now)
        self._note(_SINCE_KEY, since)
        return since

    def plan(self, now: float) -> Plan:
        """Find out what a sweep would do, and what it would do without the grace.

        :param now: in seconds since the epoch.
        """
        lifetimes, max_bytes = self._schedule(self._since(now)), self.policy.max_bytes
        going = Sweep(self._index, lifetimes, max_bytes, self._due(now), now, lambda _entry, _reason: True).to_the_end()
        spared, until = Tally(), now

        def note(entry: Entry, reason: str) -> bool:
            nonlocal until
            if lifetimes.grace_ends(entry) > now and reason != EXPIRED:
                spared.add(entry, reason)
                until = max(until, lifetimes.grace_ends(entry))
            return True

        Sweep(self._index, self.policy.without_grace(), max_bytes, self._old(now), now, note).to_the_end()
        return Plan(going, spared, until)

    def clock_is_plausible(self, now: float) -> bool:
        """Whether the clock may be believed enough to delete by it. To be asked once before each sweep.

        One that is far ahead of the last sweep isn't, be it because the server was off or because somebody has set it
        wrong, before it has gone on in that way for an interval.

        :param now: in seconds since the epoch.
        """
        swept = self._time(_SWEPT_KEY)
        if swept is None or now - swept <= self._interval_s + JUMP_S:
            self._note(_HELD_KEY, None)
            return True
        held = self._time(_HELD_KEY)
        if held is None or not 0 <= now - held <= self._interval_s + JUMP_S:
            self._note(_HELD_KEY, now)
            return False
        is_confirmed = now - held >= min(self._interval_s / 2, CONFIRM_S)
        since = self._time(_SINCE_KEY)
        if is_confirmed and since is not None and swept < since + self.policy.grace_s:
            # Nobody had the time that the grace was to give.
            self._note(_SINCE_KEY, now)
        return is_confirmed

    def knows_the_tree(self) -> bool:
        """Whether the index was compared with the whole tree at least once."""
        return self._index.setting(SCANNED_KEY) is not None

    def usage(self) -> Usage:
        """What is in the store."""
        return self._index.usage()

    def has_swept(self, now: float) -> None:
        """A sweep that began at *now*, in seconds since the epoch, has come to its end."""
        self._note(_SWEPT_KEY, now)
        self._note(_HELD_KEY, None)

    def _schedule(self, since: float | None, cancelled: Callable[[], bool] = lambda: False) -> Lifetimes:
        """Have the index know when each file ends."""
        lifetimes = self.policy.lifetimes(0.0 if since is None else since)
        self._index.reschedule(Schedule(lifetimes.fingerprint, lifetimes.ends), cancelled)
        return lifetimes

    def _since(self, now: float) -> float | None:
        """When retention was switched on, which is now if it wasn't before; ``None`` if it is off."""
        if not self.policy.is_on:
            return None
        since = self._time(_SINCE_KEY)
        # One in the future was noted by a clock that was wrong, and would spare everything until then.
        return now if since is None or since > now else since

    def _time(self, key: str) -> float | None:
        written = self._index.setting(key)
        return float(written) if written else None

    def _note(self, key: str, seconds: float | None) -> None:
        written = "" if seconds is None else repr(seconds)
        if (self._index.setting(key) or "") != written:
            self._index.set_setting(key, written)

    def _due(self, now: float) -> Iterator[Sequence[Entry]]:
        return _pages(lambda after: self._index.due(now, STEP, after))

    def _old(self, now: float) -> Iterator[Sequence[Entry]]:
        """Everything that would be over its time if there were no grace."""
        yield from self._due(now)
        shortest_s = self.policy.shortest_s
        if shortest_s is not None:
            # A second more: uploaded at that very time is old enough.
            old = Query(quarantined=False, uploaded_before=now - shortest_s + 1)
            for page in _pages(lambda after: self._index.select(old, after, STEP)):
                yield [entry for entry in page if entry.ends is None or entry.ends > now]


class RetentionSweeps:
    """Retention beside everything else. To be used on the reactor's thread alone.

    :param delete: blocks: :meth:`hmacfs.keeping.deleting.Deleting.delete` on behalf of retention.
    :param now: the time in seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        retention: Retention,
        delete: Callable[[Entry, str, float], int | None],
        *,
        clock: IReactorTime,
        threads: Threads,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._retention = retention
        self._delete = delete
        self._clock = clock
        self._threads = threads
        self._now = now
        self._metrics = metrics
        self._is_first = True
        self._is_announced = not retention.policy.is_on
        self._stopped = False
        self._rests = Rests(clock)

    def halt(self) -> None:
        """Begin nothing more: a sweep that is under way ends after its step."""
        self._stopped = True
        self._rests.end()

    async def sweep(self) -> None:
        """Delete what is over its time, and the oldest files if there is too much of all. Never raises for the index."""
        try:
            if self._is_first:
                await self._threads.run(self._retention.notice, self._now())
                await self._wait_for_the_scan()
                self._is_first = False
            if not self._stopped:
                await self._sweep(self._now())
        except (DatabaseAway, WrongFormat) as away:
            self._log.warn("retention: nothing is deleted now, as the index can't be used ({away})", away=away)

    async def _wait_for_the_scan(self) -> None:
        """What is to be said of a tree that is new to us takes knowing it. After a while it is done without."""
        patience_s = SCAN_PATIENCE_S
        while not self._stopped and patience_s > 0 and not await self._threads.run(self._retention.knows_the_tree):
            await self._rests.take(_POLL_S)
            patience_s -= _POLL_S

    async def _sweep(self, now: float) -> None:
        run = self._threads.run
        if not await run(self._retention.clock_is_plausible, now):
            self._log.warn(
                "retention: nothing is deleted now: the clock is far ahead of the last sweep. If the server was off, or "
                "the clock was put right, the next sweeps go on."
            )
            return
        if not self._is_announced and await run(self._retention.knows_the_tree):
            self._is_announced = True
            self._announce(await run(self._retention.plan, now))
        sweep = await run(
            self._retention.sweep, now, lambda entry, reason: self._is_gone(entry, reason, now), self._is_stopped
        )
        began = self._clock.seconds()
        try:
            while not self._stopped and await run(sweep.step):
                pass
        finally:
            self._count(sweep.tally)
        if self._stopped:
            return
        await run(self._retention.has_swept, now)
        took_s = self._clock.seconds() - began
        self._metrics.retention_last_sweep.set(now)
        self._metrics.retention_sweep_seconds.set(took_s)
        if sweep.tally.all_files:
            self._log_sweep(sweep.tally, await run(self._retention.usage), took_s)

    def _is_stopped(self) -> bool:
        return self._stopped

    def _is_gone(self, entry: Entry, reason: str, now: float) -> bool:
        """In a thread."""
        return not self._stopped and self._delete(entry, reason, now) is not None

    def _announce(self, plan: Plan) -> None:
        parts = [f"{_amount(plan.going)}, go now"]
        if plan.spared.all_files:
            until = _date_and_time(plan.spared_until)
            parts.append(f"{_amount(plan.spared)}, that were there before are spared until {until} (RetentionGrace)")
        self._log.info("retention is on: {what}", what="; ".join(parts))

    def _count(self, tally: Tally) -> None:
        for reason, files in tally.files.items():
            self._metrics.deleted_files.labels(reason).inc(files)
            self._metrics.deleted_bytes.labels(reason).inc(tally.bytes[reason])
        if tally.failed:
            error = tally.error and (tally.error.strerror or str(tally.error))
            failed = counted(tally.failed, "file")
            self._log.error("retention: {failed} could not be deleted: {error}", failed=failed, error=error)

    def _log_sweep(self, tally: Tally, remaining: Usage, took_s: float) -> None:
        self._log.info(
            "retention: deleted {deleted} ({reasons}), oldest from {oldest}; {files}, {size} remain; took {took}",
            deleted=_amount(tally),
            reasons=", ".join(f"{files:,} {_WHY[reason]}" for reason, files in sorted(tally.files.items())),
            oldest=time.strftime("%Y-%m-%d", time.gmtime(tally.oldest)),
            files=counted(remaining.files, "file"),
            size=human_size(remaining.size_bytes),
            took=human_duration(took_s),
        )


def _amount(tally: Tally) -> str:
    return f"{counted(tally.all_files, 'file')}, {human_size(tally.all_bytes)}"


def _date_and_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
