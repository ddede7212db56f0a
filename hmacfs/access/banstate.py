"""Blocks and bans: what is known of a client's failures, what becomes of it, and the store that processes share.

What a failure leads to is settled by :func:`judged`, a pure function of what was known before. Every process applies it
at once to what it knows itself, and the store applies it again, to what all of them know.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from math import inf
from typing import Any, Final

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

#: How long it is remembered what somebody did after it can't do any harm any more, in seconds: for ``hmacfs bans why``.
HISTORY_S: Final = 24 * 60 * 60.0

#: How many failures of one client are remembered at least; as many as lead to a block, if that is more.
KEPT_FAILURES: Final = 20

#: How far two clocks may differ, in seconds. A sentence that begins further in the future than this is from before the
#: clock was set back, and void: it would last longer than it was to.
CLOCK_SLACK_S: Final = 60.0

#: How many records a store keeps. Those that would be forgotten soonest go first.
MAX_RECORDS: Final = 200_000

#: How many records :meth:`IBanState.changes` brings at a time.
PAGE_RECORDS: Final = 200


class Kind(Enum):
    """What became of somebody."""

    BLOCKED = "blocked"
    BANNED = "banned"


@frozen
class Failure:
    """One failed attempt.

    :ivar at: when, in seconds since the epoch.
    :ivar reason: the word of its refusal.
    :ivar mark: different for each failure, so that one that is told twice is counted once.
    """

    at: float
    reason: str
    mark: str


@frozen
class Sentence:
    """A block or a ban.

    :ivar since: in seconds since the epoch; so is *until*, which is ``None`` where only the operator ends it.
    :ivar why: the reasons, or what the operator said.
    :ivar failures: how many led to it.
    :ivar manual: the operator imposed it.
    """

    kind: Kind
    since: float
    until: float | None
    why: str
    failures: int = 0
    manual: bool = False

    def left_s(self, now: float) -> float:
        """How much longer it lasts, never more than it lasts in all; 0 if it isn't in force."""
        if self.until is None:
            return inf
        if self.since > now + CLOCK_SLACK_S:
            return 0.0
        return max(0.0, min(self.until - now, self.until - self.since))


@frozen
class Record:
    """What is known of one scope: an address, or a network.

    :ivar scope: as :class:`~hmacfs.access.scopes.Scopes` and :func:`network_text` have it.
    :ivar failures: the latest, in the order in which they became known.
    :ivar sentence: the last one, whether or not it is over. What the operator has lifted is gone.
    :ivar pardoned: failures before this don't count, in seconds since the epoch.
    :ivar forgotten: when the record may go, in seconds since the epoch; infinite for never.
    """

    scope: str
    failures: tuple[Failure, ...] = ()
    sentence: Sentence | None = None
    pardoned: float = 0.0
    forgotten: float = 0.0

    def to_text(self) -> str:
        """As the stores keep it."""
        sentence = self.sentence
        return json.dumps(
            {
                "failures": [[failure.at, failure.reason, failure.mark] for failure in self.failures],
                "sentence": None
                if sentence is None
                else [
                    sentence.kind.value,
                    sentence.since,
                    sentence.until,
                    sentence.why,
                    sentence.failures,
                    sentence.manual,
                ],
                "pardoned": self.pardoned,
                "forgotten": None if self.forgotten == inf else self.forgotten,
            }
        )

    @classmethod
    def from_text(cls, scope: str, text: str | bytes) -> Record:
        read: dict[str, Any] = json.loads(text)
        sentence = read["sentence"]
        return cls(
            scope,
            tuple(Failure(*failure) for failure in read["failures"]),
            None if sentence is None else Sentence(Kind(sentence[0]), *sentence[1:]),
            read["pardoned"],
            inf if read["forgotten"] is None else read["forgotten"],
        )


@frozen
class Policy:
    """When somebody is blocked or banned, and for how long.

    :ivar after_fails: so many failures within *block_s* block; 0 for never.
    :ivar block_s: how long a block lasts, in seconds.
    :ivar again_s: who fails as often again within so many seconds after the end of a sentence is banned.
    :ivar ban_s: how long a ban lasts, in seconds; ``None`` for until the operator lifts it.
    """

    after_fails: int
    block_s: float
    again_s: float
    ban_s: float | None


def judged(record: Record, failure: Failure, policy: Policy) -> Record:
    """What is known, and what becomes of it, after one more failure.

    Who is blocked or banned already doesn't make it worse, and a failure that is known already is none.
    """
    if any(known.mark == failure.mark for known in record.failures):
        return record
    sentence = record.sentence
    if sentence is not None and sentence.left_s(failure.at) > 0:
        return record
    kept = max(KEPT_FAILURES, policy.after_fails)
    record = evolve(
        record,
        failures=(*record.failures, failure)[-kept:],
        forgotten=max(record.forgotten, failure.at + policy.block_s + HISTORY_S),
    )
    counted = _counted(record, failure.at, policy)
    if not policy.after_fails or len(counted) < policy.after_fails:
        return record
    return sentenced(record, _earned(sentence, counted, failure.at, policy), policy.again_s)


def sentenced(record: Record, sentence: Sentence, again_s: float) -> Record:
    """The record with a sentence, which is remembered for *again_s* and a while after its end."""
    until = inf if sentence.until is None else sentence.until
    # A failure that was counted is not counted again: what comes after the end counts.
    pardoned = record.pardoned if sentence.until is None else sentence.until
    return evolve(record, sentence=sentence, pardoned=pardoned, forgotten=until + again_s + HISTORY_S)


def pardoned(record: Record, now: float) -> Record:
    """The record after the operator has lifted whatever there was. What led to it counts no more."""
    return evolve(record, sentence=None, pardoned=now, forgotten=now + HISTORY_S)


def _counted(record: Record, at: float, policy: Policy) -> list[Failure]:
    # A pardon in the future, further than any sentence could end, is from before the clock was set back.
    longest_s = max(policy.block_s, policy.ban_s or 0.0)
    pardoned_at = record.pardoned if record.pardoned <= at + longest_s + CLOCK_SLACK_S else 0.0
    since = max(pardoned_at, at - policy.block_s)
    return [failure for failure in record.failures if since <= failure.at <= at + CLOCK_SLACK_S]


def _earned(earlier: Sentence | None, counted: Sequence[Failure], at: float, policy: Policy) -> Sentence:
    again = earlier is not None and earlier.until is not None and 0 <= at - earlier.until <= policy.again_s
    kind, length_s = (Kind.BANNED, policy.ban_s) if again else (Kind.BLOCKED, policy.block_s)
    until = None if length_s is None else at + length_s
    return Sentence(kind, at, until, _reasons(counted), len(counted))


def _reasons(failures: Iterable[Failure]) -> str:
    counted = Counter(failure.reason for failure in failures)
    return ", ".join(f"{count} {reason}" for reason, count in counted.most_common())


def covering(address: IPv4Address | IPv6Address, prefix_length: int) -> str:
    """The scope of the network of so many bits that an address is in."""
    if prefix_length == address.max_prefixlen:
        return str(address) if address.version == 4 else f"{address}/{prefix_length}"
    return network_text(ip_network(f"{address}/{prefix_length}", strict=False))


def network_of(text: str) -> IPv4Network | IPv6Network:
    """The network, or the single address, that an operator writes. IPv4 that is mapped into IPv6 is IPv4.

    :raises ValueError: it is none, or has bits behind its prefix.
    """
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def network_text(network: IPv4Network | IPv6Network) -> str:
    """The scope of a network, as :class:`~hmacfs.access.scopes.Scopes` has it."""
    return str(network.network_address) if network.version == 4 and network.prefixlen == 32 else str(network)


class BansAway(Exception):
    """The store can't be asked.

    :param reason: one hyphenated word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@frozen
class Mark:
    """How far a process has followed the changes of a store.

    :ivar life: of the store; another one if it was emptied.
    :ivar version: of the last change that is known.
    """

    life: str = ""
    version: int = 0


@frozen
class Changes:
    """What is new in a store.

    :ivar mark: where to go on.
    :ivar records: those whose sentence has changed, each as it is now.
    :ivar more: there may be more behind them.
    """

    mark: Mark
    records: Sequence[Record]
    more: bool


#: Makes the new record from the old one. Pure, and thread-safe: it may be called several times, and in a thread.
Change = Callable[[Record], Record]


class IBanState(Interface):
    """Records that several processes share, and that outlive them. Each call may fail with :exc:`BansAway`."""

    def start() -> Deferred[None]:
        """Open the store. What can pass is no failure.

        :raises StartError: what the operator has to mend.
        """

    def stop() -> Deferred[None]:
        """Close it."""

    def update(scopes: Sequence[str], change: Change) -> Deferred[Sequence[Record]]:
        """Change records, each by itself and whatever others do to it meanwhile. One that isn't there is an empty one.

        An answer that is lost doesn't mean that nothing was done.

        :return: fires with the records as they are now, in the order of *scopes*.
        """

    def changes(mark: Mark) -> Deferred[Changes]:
        """What sentences have changed since *mark*; ``Mark()`` is before the first. At most some
        :data:`PAGE_RECORDS` of them, the earliest first.

        If the life of the mark that is returned is another one, the store was emptied, and all that there is is new.
        """

    def purge() -> Deferred[None]:
        """Drop what may be forgotten, and what is more than :data:`MAX_RECORDS`."""


def unchanged(record: Record) -> Record:
    """The :data:`Change` that only reads."""
    return record
