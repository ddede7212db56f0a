"""Who is blocked or banned, as one process knows it: what is asked for each request, and told of each refusal.

All that is known is in memory, so that asking costs next to nothing and never waits for the store. What fails is judged
at once, by what this process knows, and then told to the store, which knows of the other processes, too; what they
impose and lift is fetched every second. While the store is away the last that was known stays in force, and what fails
meanwhile is told when it is back.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache, partial
from heapq import heapify, heappop, heappush
from ipaddress import ip_address
from itertools import count, islice
from math import ceil, inf
from typing import Final

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from hmacfs.access.addresses import ClientAddress
from hmacfs.access.banstate import (
    KEPT_FAILURES,
    BansAway,
    Failure,
    IBanState,
    Kind,
    Mark,
    Policy,
    Record,
    Sentence,
    covering,
    judged,
    sentenced,
)
from hmacfs.access.scopes import Scopes
from hmacfs.metrics import Metrics

#: The reasons of refusals that count as failures: somebody tries. What may happen to any client, and what goes wrong on
#: our side, is none.
FAILURES: Final = frozenset(
    {
        "bad-signature",
        "missing-signature",
        "bad-token",
        "wrong-slot",
        "bad-query",
        "bad-path",
        "malformed-head",
        "malformed-body",
        "unknown-coding",
        "unknown-version",
    }
)

#: Peers without an address, as :class:`~hmacfs.access.addresses.ClientAddress` has them.
_NOBODY: Final = frozenset({"unix", "unknown"})

#: How many blocks and bans a process knows. Those that end soonest go first.
MAX_KNOWN: Final = 100_000

#: Of how many clients a process remembers failures by itself. Who failed least recently goes first.
MAX_REMEMBERED: Final = 10_000

#: Of how many clients failures wait for a store that is away. More than these are known to this process only.
MAX_WAITING: Final = 10_000

#: How many records are told to the store at a time.
_BATCH: Final = 200

#: Of how many addresses it is kept under which names they may be banned.
_CACHED_ADDRESSES: Final = 10_000


@frozen
class Verdict:
    """What becomes of a request.

    :ivar left_s: for how many seconds more; infinite where only the operator ends it.
    """

    kind: Kind
    left_s: float

    @property
    def retry_after_s(self) -> int | None:
        """When to come back, in whole seconds; ``None`` for whoever needn't."""
        return max(1, ceil(self.left_s)) if self.kind is Kind.BLOCKED and self.left_s < inf else None


@define
class _Known:
    """A sentence in force.

    :ivar deadline: when it ends, in seconds of a clock that nobody sets.
    :ivar refused: how many requests this process has refused for it.
    """

    sentence: Sentence
    deadline: float
    refused: int = 0


class Bans:
    """See the module.

    :param policy: what leads to what.
    :param scopes: says whom failures are counted for.
    :param spares_readers: whether those who are blocked may still read.
    :param now: the time in seconds since the epoch.
    :param monotonic: a clock that nobody sets, in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        state: IBanState,
        policy: Policy,
        *,
        scopes: Scopes,
        spares_readers: bool,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._state = state
        self._policy = policy
        self._scopes = scopes
        self._spares_readers = spares_readers
        self._now = now
        self._monotonic = monotonic
        self._metrics = metrics
        self._known: dict[str, _Known] = {}
        self._ends: list[tuple[float, str]] = []
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._waiting: dict[str, list[Failure]] = {}
        self._kinds: Counter[Kind] = Counter()
        self._refusals = {kind: metrics.blocked_requests.labels(kind.value) for kind in Kind}
        #: IP version and prefix length of all that is known.
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._names = lru_cache(_CACHED_ADDRESSES)(self._names_of)
        self._mark = Mark()
        self._away: str | None = None
        self._telling = False
        self._name = secrets.token_hex(4)
        self._counter = count()
        metrics.watch(metrics.blocked_addresses, lambda: self._kinds[Kind.BLOCKED])
        metrics.watch(metrics.banned_addresses, lambda: self._kinds[Kind.BANNED])

    # For each request

    @property
    def has_any(self) -> bool:
        """Whether anybody is blocked or banned at all."""
        return bool(self._known)

    def verdict(self, client: ClientAddress, reading: bool) -> Verdict | None:
        """Whether to refuse a request, which is counted then.

        :param reading: it is a GET, HEAD or OPTIONS.
        """
        if not self._known or client.is_proxy or (reading and self._spares_readers):
            return None
        known = self._find(client.host)
        if known is None:
            return None
        known.refused += 1
        kind = known.sentence.kind
        self._refusals[kind].inc()
        return Verdict(kind, known.deadline - self._monotonic())

    def refused(self, client: ClientAddress, reason: str) -> None:
        """A request was refused; whether that is a failure is settled here."""
        if reason not in FAILURES or client.is_proxy or client.host in _NOBODY:
            return
        self._metrics.failures.labels(reason).inc()
        if self._policy.after_fails and self._find(client.host) is None:
            failure = Failure(self._now(), reason, f"{self._name}-{next(self._counter)}")
            self._judge(self._scopes.of_host(client.host), failure)

    # Again and again

    async def start(self) -> None:
        """Open the store, and put in force what it has.

        :raises StartError: what the operator has to mend.
        """
        await self._state.start()
        await self._follow(quiet=True)
        if self._known:
            self._log.info("{count} addresses or networks are blocked or banned from before", count=len(self._known))

    async def stop(self) -> None:
        """Tell the store what it doesn't know yet, and close it."""
        await self._tell()
        await self._state.stop()

    async def turn(self) -> None:
        """End what is over, and exchange news with the store. Once a second."""
        self._end()
        await self._tell()
        await self._follow()

    async def purge(self) -> None:
        """Have the store forget what nobody needs to know any more. Once a minute."""
        try:
            await self._state.purge()
        except BansAway as error:
            self._note_away(error)

    # What is known

    def _find(self, host: str) -> _Known | None:
        for scope in self._names(host):
            known = self._known.get(scope)
            # Those that are over are swept within a second.
            if known is not None and known.deadline > self._monotonic():
                return known
        return None

    def _names_of(self, host: str) -> tuple[str, ...]:
        """Everything as which an address may be known."""
        try:
            address = ip_address(host)
        except ValueError:
            return ()
        return tuple(covering(address, length) for version, length in self._lengths if version == address.version)

    def _learn(self, record: Record, ours: bool = False, quiet: bool = False) -> None:
        """Put a record's sentence in force, or out of it.

        :param ours: what happened here has led to it.
        """
        scope, sentence, known = record.scope, record.sentence, self._known.get(record.scope)
        if sentence is None:
            # A store that was emptied doesn't know what it doesn't have.
            if known is not None and record.pardoned >= known.sentence.since:
                self._drop(scope, "lifted by the operator")
            return
        left_s = sentence.left_s(self._now())
        # What is known and over by the clock alone ends in its own time: clocks are set.
        if left_s <= 0 or (known is not None and known.sentence == sentence):
            return
        if known is not None:
            self._forget(scope)
        self._put(scope, _Known(sentence, self._monotonic() + left_s, 0 if known is None else known.refused))
        if ours:
            self._metrics.bans_imposed.labels(sentence.kind.value).inc()
        # Of what another process has imposed, that process speaks.
        is_news = (ours or sentence.manual) and not (known is not None and known.sentence.kind is sentence.kind)
        if is_news and not quiet:
            self._log.warn(
                "{scope} is {kind} {until}: {why}",
                scope=scope,
                kind=sentence.kind.value,
                until=_until(sentence.until),
                why=sentence.why,
            )

    def _put(self, scope: str, known: _Known) -> None:
        while len(self._known) >= MAX_KNOWN:
            self._forget(self._soonest())
        self._known[scope] = known
        self._kinds[known.sentence.kind] += 1
        self._count_length(scope, 1)
        heappush(self._ends, (known.deadline, scope))

    def _drop(self, scope: str, how: str) -> None:
        known = self._forget(scope)
        self._log.info(
            "{scope} is no longer {kind}: {how}; {refused} requests were refused here meanwhile",
            scope=scope,
            kind=known.sentence.kind.value,
            how=how,
            refused=known.refused,
        )

    def _forget(self, scope: str) -> _Known:
        known = self._known.pop(scope)
        self._kinds[known.sentence.kind] -= 1
        self._count_length(scope, -1)
        return known

    def _count_length(self, scope: str, change: int) -> None:
        network, _, prefix = scope.partition("/")
        length = 6 if ":" in network else 4, int(prefix or 32)
        before = len(self._lengths)
        self._lengths[length] += change
        if not self._lengths[length]:
            del self._lengths[length]
        if len(self._lengths) != before:
            self._names.cache_clear()

    def _soonest(self) -> str:
        while True:
            deadline, scope = heappop(self._ends)
            known = self._known.get(scope)
            if known is not None and known.deadline == deadline:
                return scope

    def _end(self) -> None:
        now = self._monotonic()
        while self._ends and self._ends[0][0] <= now:
            deadline, scope = heappop(self._ends)
            known = self._known.get(scope)
            if known is not None and known.deadline == deadline:
                self._drop(scope, "its time is over")
        if len(self._ends) > 2 * len(self._known) + _BATCH:
            self._ends = [(known.deadline, scope) for scope, known in self._known.items()]
            heapify(self._ends)

    # What fails

    def _judge(self, scope: str, failure: Failure) -> None:
        before = self._records.get(scope, Record(scope))
        record = judged(before, failure, self._policy)
        self._remember(record)
        waiting = self._waiting.get(scope)
        if waiting is None and len(self._waiting) < MAX_WAITING:
            self._waiting[scope] = [failure]
        elif waiting is not None and len(waiting) < max(KEPT_FAILURES, self._policy.after_fails):
            waiting.append(failure)
        if record.sentence != before.sentence:
            self._learn(record, ours=True)
        Deferred.fromCoroutine(self._tell()).addErrback(
            lambda fault: self._log.failure("failures could not be told", failure=fault)
        )

    def _remember(self, record: Record) -> None:
        self._records[record.scope] = record
        self._records.move_to_end(record.scope)
        if len(self._records) > MAX_REMEMBERED:
            self._records.popitem(last=False)

    async def _tell(self) -> None:
        """Tell the store what has failed."""
        if self._telling:
            return
        self._telling = True
        try:
            while self._waiting:
                await self._tell_some({scope: tuple(found) for scope, found in islice(self._waiting.items(), _BATCH)})
        except BansAway as error:
            self._note_away(error)
        finally:
            self._telling = False

    async def _tell_some(self, told: Mapping[str, Sequence[Failure]]) -> None:
        records = await self._state.update([*told], partial(_all_judged, told, self._policy))
        self._note_there()
        for record in records:
            heard = told[record.scope]
            waiting = self._waiting.pop(record.scope)[len(heard) :]
            if waiting:
                self._waiting[record.scope] = waiting
            sentence = record.sentence
            ours = sentence is not None and any(failure.at == sentence.since for failure in heard)
            self._take_over(record, ours=ours and record.scope not in self._known)

    def _take_over(self, record: Record, ours: bool = False, quiet: bool = False) -> None:
        """The store knows better than we, but for what it has not been told."""
        record = _all_judged(self._waiting, self._policy, record)
        self._remember(record)
        self._learn(record, ours, quiet)

    # What others do

    async def _follow(self, quiet: bool = False) -> None:
        """Learn what has changed in the store."""
        try:
            before, seen = self._mark, set()
            more = True
            while more:
                changes = await self._state.changes(self._mark)
                self._note_there()
                for record in changes.records:
                    seen.add(record.scope)
                    self._take_over(record, quiet=quiet)
                self._mark, more = changes.mark, changes.more
            if before.life not in ("", self._mark.life):
                await self._restore(scope for scope in self._known if scope not in seen)
        except BansAway as error:
            self._note_away(error)

    async def _restore(self, scopes: Iterable[str]) -> None:
        """The store was emptied: bring back what is in force."""
        missing = {scope: self._known[scope].sentence for scope in scopes}
        self._log.warn("The store of bans was emptied; {count} are brought back to it", count=len(missing))
        change = partial(_restored, missing, self._policy.again_s)
        names = [*missing]
        for start in range(0, len(names), _BATCH):
            await self._state.update(names[start : start + _BATCH], change)

    def _note_away(self, error: BansAway) -> None:
        if self._away is None:
            self._log.warn(
                "The store of bans can't be reached ({reason}): those that are known stay in force, and failures are"
                " counted by each process alone until it is back",
                reason=error.reason,
            )
        self._away = error.reason

    def _note_there(self) -> None:
        if self._away is not None:
            self._away = None
            self._log.info("The store of bans is back")


def _all_judged(failures: Mapping[str, Sequence[Failure]], policy: Policy, record: Record) -> Record:
    for failure in failures.get(record.scope, ()):
        record = judged(record, failure, policy)
    return record


def _restored(sentences: Mapping[str, Sentence], again_s: float, record: Record) -> Record:
    return sentenced(record, sentences[record.scope], again_s) if record.sentence is None else record


def _until(until: float | None) -> str:
    if until is None:
        return "until the operator lifts it"
    return "until " + datetime.fromtimestamp(int(until), timezone.utc).isoformat().replace("+00:00", "Z")
