"""What is known of an upload that may go on, and who may write to it: the model, and the interface of the stores.

The truth is split. The bytes are in the part file; how many of them are durable, who holds the upload and how long it
may still be resumed is here. Where the two differ the disk wins: a store that has forgotten an upload, or remembers an
older offset, costs the client some bytes and nothing else.

There are two stores, :class:`hmacfs.uploads.embedded.EmbeddedUploadState` (SQLite, for the processes of one host) and
:class:`hmacfs.uploads.redisstate.RedisUploadState` (for several hosts, too). One set of tests runs against both.

Who may write is settled by a *lease* with an *epoch*. The lease is a promise for some seconds, so that two requests
don't write at once. The epoch is the fence: it grows each time that the lease changes hands, and every change names the
epoch it was allowed under, so that a process which slept through the loss of its lease can't do harm when it wakes.
"""

from __future__ import annotations

import enum
import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Attribute, Interface

from hmacfs.errors import Refused
from hmacfs.uploads.retrying import unavailable

#: How long a lease lasts without being renewed, in seconds. A process that died without a word blocks other *hosts* for
#: so long; on its own host the lock on the part file tells, and the lease is taken away at once.
LEASE_S = 15.0

#: The hard end of an upload: it expires this many times its time to live after it began, whatever happens.
HARD_END = 7


class Status(enum.Enum):
    """Where an upload stands."""

    ACTIVE = "active"
    COMPLETE = "complete"
    FAILED = "failed"


@frozen
class NewUpload:
    """What an upload begins with, and what a restart begins anew with.

    :ivar uid: :func:`hmacfs.uploads.identity.upload_id`.
    :ivar path: below the upload prefix, encoded.
    :ivar signature: SHA-256 of the credential that the slot came with.
    :ivar token: the client's session token. Not a secret by itself, as it is worthless without the signature; yet never
        logged.
    :ivar content_type: as signed, or as sent.
    :ivar total: bytes of the whole file; ``None`` if not known yet.
    :ivar owner: bare JID, where the signature names one.
    :ivar file_expires: when the finished *file* must be gone, in seconds since the epoch.
    :ivar offset: durable bytes to begin with: 0, or what a restart keeps, or what the part file has when the store has
        forgotten the upload.
    :ivar hash_state: of the digest at *offset*; empty where the prefix must be read again.
    :ivar generation: tells this attempt at the file from those before, which have lower ones; part of the upload's name
        in URLs.
    :ivar metadata: what a tus client said of the file (``Upload-Metadata``), in ASCII; empty if nothing.
    """

    uid: str
    path: bytes
    signature: bytes = field(repr=False)
    token: str = field(repr=False)
    content_type: str
    total: int | None = None
    owner: str | None = None
    file_expires: float | None = None
    offset: int = 0
    hash_state: bytes = field(default=b"", repr=False)
    generation: int = 1
    metadata: str = ""


@frozen
class UploadRecord:
    """An upload as the store knows it. The fields of :class:`NewUpload`, and:

    :ivar offset: durable bytes; never more than was synced to the disk.
    :ivar status: see :class:`Status`.
    :ivar reason: why it failed, one hyphenated word; empty otherwise.
    :ivar epoch: how often the lease has changed hands.
    :ivar created: when this generation began, in seconds since the epoch.
    :ivar modified: when the offset or the status last changed.
    :ivar expires: when it can no longer be resumed. Moves on with every commit, up to :data:`HARD_END`.
    :ivar attempts_without_progress: how often it was taken up since the last new durable byte, this time included.
    :ivar sha256: of the whole file, once complete and where it was computed.
    """

    uid: str
    path: bytes
    signature: bytes = field(repr=False)
    token: str = field(repr=False)
    content_type: str
    total: int | None
    owner: str | None
    file_expires: float | None
    offset: int
    hash_state: bytes = field(repr=False)
    generation: int
    status: Status
    reason: str
    epoch: int
    created: float
    modified: float
    expires: float
    attempts_without_progress: int
    sha256: bytes | None
    metadata: str


def beginning(new: NewUpload, epoch: int, now: float, ttl_s: float) -> UploadRecord:
    """The record that an upload, or a new generation of it, begins with."""
    return UploadRecord(
        uid=new.uid,
        path=new.path,
        signature=new.signature,
        token=new.token,
        content_type=new.content_type,
        total=new.total,
        owner=new.owner,
        file_expires=new.file_expires,
        offset=new.offset,
        hash_state=new.hash_state,
        generation=new.generation,
        status=Status.ACTIVE,
        reason="",
        epoch=epoch,
        created=now,
        modified=now,
        expires=now + ttl_s,
        attempts_without_progress=0,
        sha256=None,
        metadata=new.metadata,
    )


def expiry(record: UploadRecord, now: float, ttl_s: float) -> float:
    """When an upload that something happens to *now* expires, in seconds since the epoch."""
    return min(now + ttl_s, record.created + HARD_END * ttl_s)


def _unique_name() -> str:
    return f"{platform.node()}/{os.getpid()}/{secrets.token_hex(8)}"


@frozen
class Holder:
    """One request that wants to write to an upload.

    :ivar let_go: called on the reactor's thread, at most once for each lease, when somebody else wants the upload or
        has it already: commit, release and end the connection.
    :ivar name: unlike any other. A request that repeats a call uses the same Holder and gets the same lease.
    """

    let_go: Callable[[], None] = field(repr=False)
    name: str = field(factory=_unique_name)


@frozen
class Lease:
    """The right to change one upload.

    :ivar holder: the name of the one who has it.
    :ivar epoch: the fence that every change is checked against.
    :ivar record: the upload as it was when the lease was given.
    """

    uid: str
    holder: str
    epoch: int
    record: UploadRecord


@frozen
class Page:
    """Some of many records.

    :ivar cursor: where the next page begins; empty on the last.
    """

    records: Sequence[UploadRecord]
    cursor: str


class UploadStateError(Exception):
    """A change that was not made."""


class StateUnavailable(UploadStateError):
    """The store can't be asked just now. Nothing is known of the change: it may have been made.

    Every call may be repeated as it was; it then does what is left to do.

    :param reason: one hyphenated word for log line and metric (``timeout``, ``read-only``, ``no-space``, ...).
    :param retry_after_s: when it is worth to ask again.
    """

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"The store of upload states is away: {reason}")
        self.reason = reason
        self.retry_after_s = retry_after_s

    def refusal(self) -> Refused:
        """What the client is told whose request can't be answered without the store."""
        return unavailable("Uploads can't be resumed for the moment.", max(1, round(self.retry_after_s)))


class UnknownUpload(UploadStateError):
    """The store has no such upload: it never had, it was discarded, or the store has lost it."""

    def __init__(self, uid: str) -> None:
        super().__init__(f"No upload {uid}")
        self.uid = uid


class Busy(UploadStateError):
    """Somebody else holds the upload, and has been told to let go. Worth asking again in a moment."""

    def __init__(self, uid: str, holder: str) -> None:
        super().__init__(f"Upload {uid} is held by {holder}")
        self.uid = uid
        self.holder = holder


class Fenced(UploadStateError):
    """The lease is over: somebody newer has the upload, or it has ended. Don't write another byte."""

    def __init__(self, uid: str) -> None:
        super().__init__(f"The lease of upload {uid} is over")
        self.uid = uid


class OffsetMismatch(UploadStateError):
    """The offset would go back, or beyond the file's end.

    :param current: what the store has, in bytes.
    """

    def __init__(self, uid: str, current: int) -> None:
        super().__init__(f"Upload {uid} is at byte {current}")
        self.uid = uid
        self.current = current


class IUploadState(Interface):
    """A store of upload states. Every call is atomic, and safe to repeat after :exc:`StateUnavailable`.

    All Deferreds fail with :exc:`StateUnavailable` when the store can't be asked. Those of a call that takes a lease
    fail with :exc:`Fenced` when it is over and with :exc:`UnknownUpload` when the upload has vanished.
    """

    available: bool = Attribute("Whether the last that was heard of the store was good. For metrics and /readyz.")
    round_trip_s: float | None = Attribute("How long the last answer took, in seconds; None before the first.")

    def start() -> Deferred[None]:
        """Connect or open. Fires when the first attempt is over, and does not fail when the store is away.

        :raises hmacfs.errors.StartError: what the operator has to mend.
        """

    def stop() -> Deferred[None]:
        """Disconnect or close. Leases are left to lapse: release them first."""

    def create(new: NewUpload, holder: Holder) -> Deferred[Lease | UploadRecord]:
        """Begin an upload, at once leased to *holder*; or, if the store has it already, fire with its record."""

    def get(uid: str) -> Deferred[UploadRecord | None]:
        """Look, and change nothing. An expired record is there until it is discarded."""

    def acquire(uid: str, holder: Holder, steal: bool = False, attempt: bool = True) -> Deferred[Lease]:
        """Take the lease of an upload, whatever its status.

        Somebody who holds it is told to let go. One who lost it unawares is told, too.

        :param steal: take it even if somebody holds it. Right for one who has the lock on the part file: then the
            holder is dead, or about to find out that it is fenced.
        :param attempt: whether this counts as one more attempt in
            :attr:`UploadRecord.attempts_without_progress`. Not for the janitor, and not for a HEAD.
        :raises Busy: somebody else holds it and *steal* is not set.
        :raises UnknownUpload: there is none.
        """

    def commit(lease: Lease, offset: int, hash_state: bytes = b"") -> Deferred[None]:
        """Note that the bytes before *offset* are durable, which the caller has seen to; renew the lease.

        It does not matter which offset the store had, as long as it was not more: under one epoch nobody else can
        have moved it, and a Redis that lost its last second is put right.

        :param hash_state: of the digest at *offset*.
        :raises OffsetMismatch: *offset* is less than what the store has, or more than the total.
        """

    def renew(lease: Lease) -> Deferred[None]:
        """Hold on for another :data:`LEASE_S` seconds while nothing new is durable. A lease that lapsed is had again
        if nobody else took it."""

    def release(lease: Lease) -> Deferred[None]:
        """Let go. Does nothing if the lease is over; does not fail for it."""

    def finish(lease: Lease, size: int, sha256: bytes | None) -> Deferred[None]:
        """All *size* bytes are durable and published: complete, and released.

        :raises OffsetMismatch: *size* is not the total.
        """

    def fail(lease: Lease, reason: str) -> Deferred[None]:
        """The upload can't go on (a digest that does not match, attempts without progress): failed, and released."""

    def restart(lease: Lease, new: NewUpload) -> Deferred[Lease]:
        """Begin the upload anew, under the same lease, as the next generation; whatever its status was.

        Fires with a lease for the new generation. :attr:`NewUpload.generation` counts only if it is more than the next.
        """

    def discard(lease: Lease) -> Deferred[None]:
        """Forget the upload. Succeeds if it is forgotten already."""

    def expired(now: float, limit: int) -> Deferred[Sequence[UploadRecord]]:
        """At most *limit* uploads of any status that expired before *now* (seconds since the epoch), oldest first.

        Look again under the lease before you remove one: it may have gone on since.
        """

    def unfinished(cursor: str = "") -> Deferred[Page]:
        """The active uploads, a page at a time, in no order. One that is active all the while is on a page."""

    def known(uids: Sequence[str]) -> Deferred[Mapping[str, int]]:
        """Which of *uids* the store has (at most 1000 at a time), and their generations: a part file of another
        generation, or of an upload that is not known, is an orphan."""

    def counts() -> Deferred[Mapping[Status, int]]:
        """How many uploads there are of every status."""


class Holdings:
    """The leases that one process holds, and whom to tell when somebody else wants one. Reactor thread only."""

    _log = Logger()

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, Callable[[], None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, lease: Lease) -> bool:
        epoch, _ = self._held.get(lease.uid, (None, None))
        return epoch == lease.epoch

    def epochs(self) -> dict[str, int]:
        """The uids of what is held, and the epochs that it is held under."""
        return {uid: epoch for uid, (epoch, _) in self._held.items()}

    def add(self, lease: Lease, holder: Holder) -> None:
        """Remember that *holder* has *lease*."""
        self._held[lease.uid] = lease.epoch, holder.let_go

    def drop(self, lease: Lease) -> None:
        """Forget *lease*; nothing happens if the upload is held under another epoch by now."""
        if lease in self:
            del self._held[lease.uid]

    def tell(self, uid: str, epoch: int) -> None:
        """Somebody wants what is held under *epoch*. A message that comes late does not hit the next holder."""
        held_epoch, let_go = self._held.get(uid, (0, None))
        if let_go is None or held_epoch != epoch:
            return
        del self._held[uid]
        try:
            let_go()
        except Exception:
            self._log.failure("The holder of upload {uid} failed to let go", uid=uid)
