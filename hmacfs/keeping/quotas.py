"""Quotas: what the files of a user, of a domain, or of all may take together.

An upload counts with its whole size from its beginning on, and its file does when it is stored. What is stored is the
index's word, and what is under way is known here, or by what the others that serve with us promise
(:mod:`hmacfs.storage.promises`). Without the index nothing is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.keeping.account import Account, account_of
from hmacfs.keeping.index import Entry, Index, Query
from hmacfs.metrics import Metrics
from hmacfs.net.threads import Threads
from hmacfs.storage.database import DatabaseAway, WrongFormat
from hmacfs.storage.names import SlotPath
from hmacfs.storage.promises import Claim, IPromises
from hmacfs.units import counted, human_size

#: Why a file went that made room for a newer one.
QUOTA: Final = "quota"

#: How many files are looked at in one transaction.
_PAGE: Final = 100

#: How often it is counted anew because an upload ended while it was counted: it may have counted twice.
_COUNTS: Final = 4

#: How long is waited before that, in seconds, if the upload is another member's: that one tells the index of its file
#: first, and a moment later that it isn't under way any more.
AGAIN_AFTER_S: Final = 0.1


@frozen
class QuotaLimits:
    """What the operator has set.

    :ivar per_user_bytes: ``None`` for no limit.
    :ivar per_domain_bytes: likewise.
    :ivar total_bytes: likewise.
    :ivar oldest_go: whether the oldest files make room for a new one, which is refused otherwise.
    """

    per_user_bytes: int | None = None
    per_domain_bytes: int | None = None
    total_bytes: int | None = None
    oldest_go: bool = False

    @property
    def any(self) -> bool:
        return any(limit is not None for limit in (self.per_user_bytes, self.per_domain_bytes, self.total_bytes))

    def scopes(self, account: Account) -> Sequence[Scope]:
        """What limits the files of *account*. Whoever isn't known to be a user has no user's quota."""
        found = []
        if self.per_user_bytes is not None and account.user is not None:
            found.append(Scope(self.per_user_bytes, "Your files", user=_storable(account.user)))
        if self.per_domain_bytes is not None:
            found.append(Scope(self.per_domain_bytes, "The files of your domain", domain=_storable(account.domain)))
        if self.total_bytes is not None:
            found.append(Scope(self.total_bytes, "All files here"))
        return found


@frozen
class Scope:
    """Files that share one limit.

    :ivar limit_bytes: what they may take.
    :ivar files: what the uploader is told that they are.
    :ivar user: whose they are; ``None`` where it isn't a user's.
    :ivar domain: likewise of a domain; empty for the one without a name.
    """

    limit_bytes: int
    files: str
    user: str | None = None
    domain: str | None = None

    @property
    def query(self) -> Query:
        """The index has no list of the domain without a name: it is to be looked for among all."""
        return Query(user=self.user, domain=self.domain or None, quarantined=False)

    @property
    def key(self) -> str:
        """What all that serve together know it by."""
        if self.user is not None:
            return f"user {self.user}"
        return "total" if self.domain is None else f"domain {self.domain}"

    def has(self, entry: Entry) -> bool:
        return self.domain is None or entry.domain == self.domain

    def refusal(self) -> Refused:
        limit = human_size(self.limit_bytes)
        return Refused(413, "over-quota", f"{self.files} may take {limit} together, and this one doesn't fit in.")


@frozen(eq=False)
class Charge:
    """What one upload counts for, until it ends.

    :ivar path: where its file will be.
    :ivar size_bytes: of the whole file.
    :ivar claim: what the others that serve with us know of it.
    """

    path: SlotPath
    size_bytes: int
    scopes: Sequence[Scope]
    claim: Claim
    _release: Callable[[Charge], None] = field(repr=False)

    def release(self) -> None:
        """The upload has ended, one way or the other. May be called again."""
        self._release(self)


class Quotas:
    """The quotas, as one that serves sees to them. To be used on the reactor's thread alone.

    :param delete: blocks: :meth:`hmacfs.keeping.deleting.Deleting.delete` on behalf of quotas.
    :param is_kept: whether a file must not make room, though it may be the oldest.
    :param flush: has the index know what was stored until now.
    :param promises: what we and the others that serve with us tell each other.
    :param now: the time in seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        limits: QuotaLimits,
        index: Index,
        *,
        delete: Callable[[Entry, str, float], int | None],
        is_kept: Callable[[Entry, float], bool],
        flush: Callable[[], Awaitable[None]],
        promises: IPromises,
        clock: IReactorTime,
        threads: Threads,
        now: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._index = index
        self._delete = delete
        self._is_kept = is_kept
        self._flush = flush
        self._promises = promises
        self._clock = clock
        self._threads = threads
        self._now = now
        self._metrics = metrics
        # In the order in which the uploads began: each is checked against those before it.
        self._charges: dict[Charge, None] = {}
        self._ended = 0
        self._stored: list[Claim] = []
        self._is_withdrawing = False
        self._making_room = DeferredLock()
        self._is_away = False

    async def reserve(self, path: SlotPath, owner: str | None, size_bytes: int) -> Charge:
        """Count an upload that begins, or goes on. Where nothing is limited, nothing is asked.

        :param owner: bare JID, where the signature names one.
        :param size_bytes: of the whole file.
        :raises Refused: 413 ``over-quota``: it doesn't fit in, and nothing can make room.
        """
        scopes = self._limits.scopes(account_of(owner, path.encoded)) if self._limits.any else ()
        for scope in scopes:
            if size_bytes > scope.limit_bytes:
                raise scope.refusal()
        if not scopes:
            return Charge(path, size_bytes, scopes, Claim(), self._release)
        with self._promises.one_at_a_time():
            claim = self._promises.charge([scope.key for scope in scopes], size_bytes)
        charge = Charge(path, size_bytes, scopes, claim, self._release)
        self._charges[charge] = None
        try:
            await self._check(charge)
        except (DatabaseAway, WrongFormat) as away:
            self._went_away(away)
        except BaseException:
            charge.release()
            raise
        return charge

    def published(self, path: SlotPath) -> None:
        """A file was stored: from now on the index has it."""
        for charge in [charge for charge in self._charges if charge.path == path]:
            self._forget(charge)
            self._stored.append(charge.claim)
        if self._stored and not self._is_withdrawing:
            Deferred.fromCoroutine(self._withdraw_stored()).addErrback(
                lambda failure: self._log.failure("quotas: claims could not be withdrawn", failure)
            )

    async def settle(self, charge: Charge) -> None:
        """The file of *charge* is stored: if the oldest have to go for it, they go now. Never fails."""
        if not charge.scopes or not self._limits.oldest_go:
            return
        # One after another: two that saw the same excess would make twice the room.
        await self._making_room.acquire()
        gone: list[Entry] = []
        try:
            await self._flush()
            await self._threads.run(self._make_room, charge, gone)
        except (DatabaseAway, WrongFormat, OSError) as error:
            self._log.error("quotas: the oldest files could not make room: {error}", error=error)
        finally:
            self._making_room.release()
            self._tell(gone, charge.path)

    def _release(self, charge: Charge) -> None:
        if self._forget(charge):
            charge.claim.withdraw()

    def _forget(self, charge: Charge) -> bool:
        """Whether it still counted."""
        if charge not in self._charges:
            return False
        del self._charges[charge]
        self._ended += 1
        return True

    async def _withdraw_stored(self) -> None:
        """Others can only see in the index what we have told it: until then claims stand for the files."""
        self._is_withdrawing = True
        try:
            while self._stored:
                stored, self._stored = self._stored, []
                await self._flush()
                for claim in stored:
                    claim.withdraw()
        finally:
            self._is_withdrawing = False

    async def _check(self, charge: Charge) -> None:
        """
        :raises Refused: there is no room.
        """
        for counts_left in reversed(range(_COUNTS)):
            ended, promised_elsewhere = self._ended, self._promised_elsewhere(charge)
            needed = [
                (scope, self._promised(charge, scope) + elsewhere_bytes)
                for scope, elsewhere_bytes in zip(charge.scopes, promised_elsewhere, strict=True)
            ]
            await self._flush()
            too_small = await self._threads.run(self._find_too_small, needed)
            self._came_back()
            if too_small is None:
                return
            if not counts_left:
                raise too_small.refusal()
            if ended == self._ended:
                if not any(promised_elsewhere):
                    raise too_small.refusal()
                await deferLater(self._clock, AGAIN_AFTER_S, lambda: None)

    def _promised(self, last: Charge, scope: Scope) -> int:
        """What all uploads in a scope will take, up to the *last* one."""
        promised_bytes = 0
        for charge in self._charges:
            if scope in charge.scopes:
                promised_bytes += charge.size_bytes
            if charge is last:
                break
        return promised_bytes

    def _promised_elsewhere(self, charge: Charge) -> Sequence[int]:
        """What the uploads of others will take, in each scope, that began before."""
        with self._promises.one_at_a_time():
            return [self._promises.charged(scope.key, charge.claim) for scope in charge.scopes]

    # In a thread

    def _find_too_small(self, needed: Sequence[tuple[Scope, int]]) -> Scope | None:
        """The first of some scopes in which there is no room for so many bytes, and none can be made."""
        for scope, bytes_needed in needed:
            over_bytes = self._used(scope) + bytes_needed - scope.limit_bytes
            if over_bytes > 0 and not (self._limits.oldest_go and self._can_make_room(scope, over_bytes)):
                return scope
        return None

    def _used(self, scope: Scope) -> int:
        return self._index.usage(scope.user, scope.domain).size_bytes

    def _can_make_room(self, scope: Scope, over_bytes: int) -> bool:
        for entry in self._oldest(scope):
            over_bytes -= entry.size
            if over_bytes <= 0:
                return True
        return False

    def _make_room(self, charge: Charge, gone: list[Entry]) -> None:
        """Delete the oldest files until every scope is within its limit. Those that can't be deleted are passed over.

        :param gone: has what was deleted, also when that fails half-way.
        :raises OSError: of the last file that was passed over, when all is done.
        """
        failure: OSError | None = None
        for scope in charge.scopes:
            oldest = self._oldest(scope)
            # Asked each time: others may be at the same.
            while self._used(scope) > scope.limit_bytes:
                entry = next((entry for entry in oldest if entry.path != charge.path.encoded), None)
                if entry is None:
                    break
                try:
                    if self._delete(entry, QUOTA, self._now()) is not None:
                        gone.append(entry)
                except OSError as error:
                    failure = error
        if failure is not None:
            raise failure

    def _oldest(self, scope: Scope) -> Iterator[Entry]:
        """The files that may make room, oldest first."""
        now = self._now()
        after = None
        while page := self._index.select(scope.query, after, _PAGE):
            yield from (entry for entry in page if scope.has(entry) and not self._is_kept(entry, now))
            after = page[-1]

    # What is said of it

    def _tell(self, gone: Sequence[Entry], path: SlotPath) -> None:
        if not gone:
            return
        size_bytes = sum(entry.size for entry in gone)
        self._metrics.deleted_files.labels(QUOTA).inc(len(gone))
        self._metrics.deleted_bytes.labels(QUOTA).inc(size_bytes)
        self._log.info(
            "quotas: deleted {files}, {size}, to make room for {path}",
            files=counted(len(gone), "file"),
            size=human_size(size_bytes),
            path=path.url,
        )

    def _went_away(self, away: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            self._log.warn("quotas: none is enforced now, as the index can't be used ({away})", away=away)

    def _came_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._log.info("quotas: enforced again")


def _storable(text: str) -> str:
    """As the index has it, which knows no lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
