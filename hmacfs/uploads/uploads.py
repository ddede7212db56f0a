"""Getting bytes in: from an authorized request to a stored file, over as many requests as it takes.

What a request may do to an upload, and what comes of it, is the contract in ``docs/protocol.md``. In short: the whole
body may always be sent again, the rest may be sent from the offset that HEAD tells, the newest request wins, and nothing
that is stored is ever overwritten.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.iweb import IBodyProducer

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.keeping.quotas import Quotas
from hmacfs.metrics import Metrics
from hmacfs.storage.facts import Facts
from hmacfs.storage.failures import is_no_room, storage_refusal
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part, PartBusy
from hmacfs.storage.publisher import Publisher
from hmacfs.storage.space import Reservation, Reservations
from hmacfs.storage.store import AlreadyStored, OpenFile, Store, StoredFile
from hmacfs.storage.tree import PathConflict
from hmacfs.uploads.body import ContentMismatch
from hmacfs.uploads.comparing import Comparison, same_content
from hmacfs.uploads.digests import StatedDigests, algorithms, check
from hmacfs.uploads.identity import UploadName, first_generation, new_token, upload_id
from hmacfs.uploads.note import decode, read_note
from hmacfs.uploads.plan import Plan, plan
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.retrying import unavailable
from hmacfs.uploads.session import Session, Superseded
from hmacfs.uploads.state import Busy, Holder, IUploadState, NewUpload, StateUnavailable, Status, UnknownUpload
from hmacfs.uploads.takeup import TakeUp, as_upload, gone, gone_as, newest, why_over
from hmacfs.uploads.turns import PATIENCE_S, Turn, Turns, busy
from hmacfs.uploads.upload import Means, Upload

#: Between two tries to get the part of another process, in seconds.
_POLL_S = 0.1


@frozen
class Receipt:
    """How a request went that was not refused.

    :ivar offset: up to which the file is here, durably.
    :ivar total: of the whole file, in bytes.
    :ivar stored: the published file; ``None`` while it isn't whole.
    :ivar resumed_at: from which offset an earlier request's upload went on; ``None`` if there was none.
    :ivar name: of the upload; ``None`` where it isn't one that has a name (a plain PUT of what is stored already).
    :ivar expires: until when it can be resumed, in seconds since the epoch; ``None`` if it is whole.
    """

    offset: int
    total: int
    stored: StoredFile | None
    resumed_at: int | None = None
    name: UploadName | None = None
    expires: float | None = None


@frozen
class Progress:
    """How far an upload is.

    :ivar offset: as in :class:`Receipt`.
    :ivar total: as in :class:`Receipt`.
    :ivar name: of the upload.
    :ivar token: the session token.
    :ivar metadata: see :class:`~hmacfs.uploads.state.NewUpload`.
    :ivar expires: until when it can be resumed, in seconds since the epoch; ``None`` if its file is stored.
    """

    offset: int
    total: int
    name: UploadName
    token: str
    metadata: str
    expires: float | None


def _unheard(*_: object) -> None:
    """Of no interest to the request."""


@frozen
class Hooks:
    """What a request wants to hear while its body arrives, on the reactor's thread.

    :ivar named: called with the session token and the upload's name as soon as they are known, before the body is asked
        for.
    :ivar durable: called with the offset up to which the file is durable, each time that there is more.
    """

    named: Callable[[str, UploadName], None] = _unheard
    durable: Callable[[int], None] = _unheard


class Uploads:
    """All uploads of this process. To be used on the reactor's thread alone.

    :param key: :func:`hmacfs.uploads.identity.server_key`.
    :param now: the time in seconds since the epoch.
    :param hash_all: whether every file is hashed, or only those of which a request states a digest.
    :param max_attempts: how often an upload may be taken up in a row without one new durable byte.
    :param session_ttl_s: how long an unfinished upload can be resumed after its last byte.
    :param published: called with the path of each file that is stored, and the file.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        state: IUploadState,
        key: bytes,
        means: Means,
        *,
        reservations: Reservations,
        quotas: Quotas,
        now: Callable[[], float],
        hash_all: bool,
        max_attempts: int,
        session_ttl_s: float,
        metrics: Metrics,
        published: Callable[[SlotPath, StoredFile], None],
    ) -> None:
        self._store = store
        self._state = state
        self._key = key
        self._means = means
        self._reservations = reservations
        self._quotas = quotas
        self._now = now
        self._hash_all = hash_all
        self._max_attempts = max_attempts
        self._session_ttl_s = session_ttl_s
        self._metrics = metrics
        self._published = published
        self._take_up = TakeUp(state, means.threads, max_attempts, metrics)
        self._turns = Turns(means.clock)
        self._publisher = Publisher(store, means.threads)
        self._publishing: dict[bytes, list[Deferred[None]]] = {}

    def __len__(self) -> int:
        """How many requests write now."""
        return len(self._turns)

    @property
    def session_ttl_s(self) -> float:
        """How long an unfinished upload can be resumed after its last byte."""
        return self._session_ttl_s

    async def receive(self, slot: Slot, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks) -> Receipt:
        """Take what a request brings of the file of *slot*.

        :raises Refused: 400, 408, 409, 410, 411, 413, 423, 503 or 507; see ``docs/protocol.md``.
        :raises Superseded: a newer request has taken over, and the connection is to be cut.
        :raises ConnectionDone, ConnectionLost: the client is gone. What has arrived is kept.
        """
        total = slot.size if slot.size is not None else asked.total
        if total is None:
            raise Refused(411, "length-required", "Send a Content-Length.")
        turn = await self._turns.take(self._id(slot.path, slot.signature))
        try:
            stored = await self._stored(slot.path)
            if stored is not None:
                return await self._again(stored, slot, total, asked, body, turn)
            await self._check_free(slot.path)
            return await self._receive(turn, slot, total, asked, body, hooks)
        except StateUnavailable as away:
            raise _away(away) from None
        finally:
            turn.end()

    async def append(self, name: UploadName, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks) -> Receipt:
        """Take more of the upload that is called *name*, which is all the authority that it takes.

        :param asked: with an :attr:`~hmacfs.uploads.request.UploadRequest.append` that creates nothing.
        :raises Refused: 404 ``not-found``, 410 ``upload-gone`` where *name* is, or was, of no upload; and as
            :meth:`receive`.
        :raises Superseded, ConnectionDone, ConnectionLost: as :meth:`receive`.
        """
        turn = await self._turns.take(name.uid)
        try:
            try:
                return await self._append(turn, name, asked, body, hooks)
            except _Vanished:
                return await self._append(turn, name, asked, body, hooks)
        except StateUnavailable as away:
            raise _away(away) from None
        except _Vanished:
            raise _lost() from None
        finally:
            turn.end()

    async def _append(
        self, turn: Turn, name: UploadName, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks
    ) -> Receipt:
        """
        :raises _Vanished: before *body* has been asked for.
        """
        upload, is_complete = await self._called(name)
        slot = _slot_of(upload)
        stored = await self._stored(slot.path)
        if is_complete:
            return await self._add_nothing(stored, upload, asked, body, turn)
        if stored is not None:
            stored.close()
            # Another file, unless another process is just publishing this one.
            (await self._there(turn)).close()
            raise _conflict()
        assert upload.total is not None
        return await self._receive(turn, slot, upload.total, asked, body, hooks, name)

    async def _there(self, turn: Turn) -> Part:
        """The part of an upload that has one, open and locked.

        :raises _Vanished: it had one until a moment ago.
        """
        part = await self._reopened(turn.uid, turn)
        if part is None:
            raise _Vanished
        return part

    async def begun(self, path: SlotPath, identity: bytes) -> Slot | None:
        """The slot of an unfinished upload, for a request that shows the credential that began it.

        That credential was right when the upload began, for the whole file. So it is good for the rest of the file,
        although the rest has another length, and although the credential's own time may be over.

        :param identity: :attr:`hmacfs.access.slot.Slot.signature`.
        """
        uid = self._id(path, identity)
        if not self._store.has_part(uid):
            return None
        note = self._store.part_note(uid)
        upload = None if note is None else decode(note)
        if upload is None:
            upload = await self._recorded(uid)
        if upload is None:
            return None
        return _slot_of(upload)

    async def progress(self, path: SlotPath, identity: bytes) -> Progress | None:
        """How far the upload is that *identity* began; ``None`` where there is none.

        Who writes to it is stopped first: an offset that is told must be accepted next.

        :raises Refused: 410 where it can't go on, 423 where it can't be had, 503 where the state store is away.
        """
        uid = self._id(path, identity)
        turn = await self._turns.take(uid)
        try:
            part = await self._reopened(uid, turn)
            if part is None:
                await self._refuse_vanished(uid)
                return None
            return await self._look(part)
        except StateUnavailable as away:
            raise _away(away) from None
        finally:
            turn.end()

    async def look(self, name: UploadName) -> Progress:
        """How far the upload is that is called *name*, or was until its file was stored.

        Who writes to it is stopped first, as by :meth:`progress`.

        :raises Refused: 404 ``not-found``; and as :meth:`progress`.
        """
        turn = await self._turns.take(name.uid)
        try:
            try:
                return await self._look_at(turn, name)
            except _Vanished:
                return await self._look_at(turn, name)
        except StateUnavailable as away:
            raise _away(away) from None
        except _Vanished:
            raise _lost() from None
        finally:
            turn.end()

    async def _look_at(self, turn: Turn, name: UploadName) -> Progress:
        """
        :raises _Vanished: another process has just published the file, or given it up.
        """
        upload, is_complete = await self._called(name)
        if is_complete:
            assert upload.total is not None
            return Progress(upload.total, upload.total, name, upload.token, upload.metadata, None)
        progress = await self._look(await self._there(turn))
        if progress is None or progress.name != name:
            raise _begun_anew()
        return progress

    async def cancel(self, path: SlotPath, identity: bytes) -> bool:
        """Forget an unfinished upload; false where there is none.

        :raises Refused: as :meth:`progress`.
        """
        turn = await self._turns.take(self._id(path, identity))
        try:
            return await self._cancel(turn)
        except StateUnavailable as away:
            raise _away(away) from None
        finally:
            turn.end()

    async def give_up(self, name: UploadName) -> None:
        """Forget the unfinished upload that is called *name*.

        :raises Refused: 409 ``conflict`` if its file is stored; 404 ``not-found``; and as :meth:`progress`.
        """
        turn = await self._turns.take(name.uid)
        try:
            _, is_complete = await self._called(name)
            if is_complete:
                raise Refused(409, "conflict", "The file is complete, and stays.")
            await self._cancel(turn)
        except StateUnavailable as away:
            raise _away(away) from None
        finally:
            turn.end()

    async def publishing(self, path: SlotPath) -> bool:
        """Wait until an upload that is just being published under *path* is; false where there is none."""
        waiting = self._publishing.get(path.encoded)
        if waiting is None:
            return False
        done: Deferred[None] = Deferred()
        waiting.append(done)
        await done
        return True

    async def shutdown(self) -> None:
        """Stop them all, and make durable what has arrived."""
        await self._turns.close(unavailable("The server is restarting.", retry_after_s=5))

    def _id(self, path: SlotPath, identity: bytes) -> str:
        return upload_id(self._key, path.encoded, identity)

    async def _called(self, name: UploadName) -> tuple[NewUpload, bool]:
        """What is known of the upload that is called *name*, and whether its file is stored.

        :raises Refused: 404 where nothing is, 410 where there is no such upload any more.
        """
        note = self._store.part_note(name.uid)
        record = await self._state.get(name.uid)
        upload = newest(None if note is None else decode(note), record)
        if upload is None or upload.total is None or not self._is_ours(upload):
            raise Refused(404, "not-found", "There is no upload at this URL.")
        if upload.generation != name.generation:
            raise _begun_anew()
        if record is not None and record.generation == upload.generation:
            if record.status is Status.COMPLETE:
                return upload, True
            if record.expires <= self._now():
                raise gone("The time to go on with this upload is over.")
        if self._store.has_part(name.uid):
            return upload, False
        if await self._is_stored(upload):
            return upload, True
        await self._refuse_vanished(name.uid)
        raise _lost()

    def _is_ours(self, upload: NewUpload) -> bool:
        """Whether it is one of this store's: several may share a Redis."""
        return upload_id(self._key, upload.path, upload.signature) == upload.uid

    async def _is_stored(self, upload: NewUpload) -> bool:
        """Whether the file has got its name: of an upload without a part, and before anybody could record that."""
        stored = await self._stored(SlotPath.from_encoded(upload.path))
        if stored is None:
            return False
        stored.close()
        return stored.size == upload.total

    async def _cancel(self, turn: Turn) -> bool:
        """Forget the upload of *turn*; false where there is none."""
        part = await self._reopened(turn.uid, turn)
        lease = None
        try:
            lease = await self._state.acquire(turn.uid, Holder(turn.let_go), True, False)
            await self._state.discard(lease)
        except UnknownUpload:
            pass
        if part is not None:
            await self._means.threads.run(part.discard)
        return part is not None or lease is not None

    async def _recorded(self, uid: str) -> NewUpload | None:
        """What the state store knows of an upload whose part has no note: its file system has no attributes."""
        try:
            record = await self._state.get(uid)
        except StateUnavailable as away:
            raise _away(away) from None
        return None if record is None else as_upload(record)

    async def _stored(self, path: SlotPath) -> OpenFile | None:
        return await self._means.retries.call("read", self._store.open_file, path)

    async def _check_free(self, path: SlotPath) -> None:
        """Say before the body is here what publishing would say after it.

        :raises Refused: 409 where something is in the way that is no file, 400 for a name that can't be stored.
        """
        try:
            await self._means.retries.call("read", self._store.check_free, path)
        except PathConflict:
            raise _conflict() from None
        except AlreadyStored:
            # By another process, a moment ago: publishing will compare the two.
            pass

    # A file that isn't stored yet

    async def _receive(
        self,
        turn: Turn,
        slot: Slot,
        total: int,
        asked: UploadRequest,
        body: IBodyProducer | None,
        hooks: Hooks,
        name: UploadName | None = None,
    ) -> Receipt:
        charge = await self._quotas.reserve(slot.path, slot.owner, total)
        try:
            receipt = await self._receive_within_quota(turn, slot, total, asked, body, hooks, name)
            if receipt.stored is not None:
                await self._quotas.settle(charge)
            return receipt
        finally:
            charge.release()

    async def _receive_within_quota(
        self,
        turn: Turn,
        slot: Slot,
        total: int,
        asked: UploadRequest,
        body: IBodyProducer | None,
        hooks: Hooks,
        name: UploadName | None = None,
    ) -> Receipt:
        session, resumed_at = await self._open(turn, slot, total, asked)
        reservation = stored = None
        try:
            if asked.creates:
                await session.record()
            elif name not in (None, session.name):
                raise _begun_anew()
            hooks.named(session.token, session.name)
            placed = plan(asked, total, session.durable)
            # Who asks about a file of which every byte is here gets it published: there is nothing left to be sent.
            if placed.size or placed.end == total:
                reservation = self._reservations.reserve(max(0, placed.end - session.durable))
                self._count_resumed(placed, resumed_at)
                stored = await self._fill(turn, session, slot, total, asked, body, placed, reservation, hooks)
            elif not asked.creates:
                await session.record()
            expires = session.expires(self._now(), self._session_ttl_s)
        finally:
            if reservation is not None:
                reservation.release()
            if session.part.fd >= 0 and not session.part.size and not session.recorded:
                await session.discarded()
            await session.left()
        if stored is None:
            return Receipt(session.durable, total, None, resumed_at, session.name, expires)
        return Receipt(total, total, stored, resumed_at, session.name)

    async def _open(self, turn: Turn, slot: Slot, total: int, asked: UploadRequest) -> tuple[Session, int | None]:
        """The session, and from which offset it goes on if it isn't new."""
        holder = Holder(turn.let_go)
        fresh = NewUpload(
            uid=turn.uid,
            path=slot.path.encoded,
            signature=slot.signature,
            token=asked.token or new_token(),
            content_type=slot.content_type,
            total=total,
            owner=slot.owner,
            file_expires=slot.expires,
            metadata="" if asked.append is None else asked.append.metadata,
            generation=first_generation(self._now()),
        )
        relies = asked.relies_on_offset(total)
        if asked.creates:
            fresh = await self._next_generation(fresh)
        part, is_new = await self._part(turn)
        try:
            if not asked.asks:
                # Not an attempt of the client's if there is no room for it; reserved for good when the offset is known.
                self._reservations.check(max(0, asked.end(total) - part.size))
            if is_new:
                if relies and asked.append is not None:
                    raise _Vanished
                if relies:
                    await self._refuse_vanished(turn.uid)
                return Session(part, fresh, self._state, self._means.threads, holder), None
            session = await self._take_up.session(
                part,
                fresh,
                holder,
                resumes=relies,
                attempt=relies and not asked.asks,
                # The token is new, and with another token everything begins anew.
                token=fresh.token if asked.creates else asked.token,
            )
        except BaseException:
            if is_new:
                await self._means.threads.run(part.discard)
            part.close()
            raise
        return session, session.durable or None

    async def _next_generation(self, fresh: NewUpload) -> NewUpload:
        """*fresh*, as what comes after all that the state store knows: a name that was told is never another's."""
        record = await self._state.get(fresh.uid)
        return fresh if record is None else evolve(fresh, generation=record.generation + 1)

    async def _refuse_vanished(self, uid: str) -> None:
        """There is no part. If there was one, the client is told that it has to begin anew.

        :raises Refused: 410.
        """
        record = await self._state.get(uid)
        if record is None or record.status is Status.COMPLETE:
            return
        if record.status is Status.ACTIVE and record.offset:
            self._metrics.sessions_lost.inc()
        if record.status is Status.FAILED or record.offset:
            raise gone_as(record.reason)

    async def _part(self, turn: Turn) -> tuple[Part, bool]:
        """The upload's part, open and locked, and whether it is new.

        :raises Refused: 423 when another process doesn't let go of it.
        """
        while True:
            try:
                return await self._means.retries.call("begin", self._store.begin, turn.uid), True
            except FileExistsError:
                pass
            part = await self._reopened(turn.uid, turn)
            if part is not None:
                return part, False

    async def _reopened(self, uid: str, turn: Turn) -> Part | None:
        """The part that was left, open and locked; ``None`` where there is none.

        :raises Refused: as :meth:`_part`.
        """
        patience_s = PATIENCE_S
        while True:
            try:
                return self._store.reopen(uid)
            except FileNotFoundError:
                return None
            except PartBusy:
                # Again and again: the other one may not have told the state store yet that it has the upload.
                await self._ask_to_let_go(uid, turn)
            if patience_s <= 0:
                raise busy()
            await deferLater(self._means.clock, _POLL_S, lambda: None)
            patience_s -= _POLL_S

    async def _ask_to_let_go(self, uid: str, turn: Turn) -> None:
        """Another process has the part. It hears of us through the state store, once it has the upload there."""
        try:
            await self._state.release(await self._state.acquire(uid, Holder(turn.let_go), False, False))
        except (Busy, UnknownUpload, StateUnavailable):
            pass

    def _count_resumed(self, placed: Plan, resumed_at: int | None) -> None:
        if resumed_at is not None:
            self._metrics.uploads_resumed.inc()
            self._metrics.resumed_bytes_saved.inc(placed.start)

    async def _fill(
        self,
        turn: Turn,
        session: Session,
        slot: Slot,
        total: int,
        asked: UploadRequest,
        body: IBodyProducer | None,
        placed: Plan,
        reservation: Reservation,
        hooks: Hooks,
    ) -> StoredFile | None:
        """Receive the body; the stored file if the upload is whole then."""
        # A body that is appended counts or doesn't, by itself, even if it is the whole file.
        is_whole = placed.size == total and asked.append is None
        stated = asked.digests.of_whole_file() if is_whole else asked.digests

        async def checkpoint() -> None:
            await session.advance(self._means.clock.seconds())
            hooks.durable(session.durable)

        atomic = bool(stated.content)
        upload = Upload(
            session.part,
            placed.start,
            placed.end,
            self._means,
            arrived=reservation.wrote,
            file_algorithms=self._algorithms(stated) if placed.end == total else frozenset(),
            body_algorithms=algorithms(stated.content),
            restart=session.restart_at if placed.restarts else None,
            # Bytes that are not to be kept before they have been verified are not made durable.
            checkpoint=session.announce if atomic else checkpoint,
            is_open=placed.is_open,
        )
        turn.consume_with(upload)
        try:
            return await self._receive_body(session, slot, total, asked, body, upload, stated)
        except OSError as error:
            await upload.end()
            raise await self._storage_failed(session, error) from error
        except BaseException:
            await upload.end()
            await self._keep(session, session.durable if atomic else None)
            raise
        finally:
            await upload.end()

    async def _receive_body(
        self,
        session: Session,
        slot: Slot,
        total: int,
        asked: UploadRequest,
        body: IBodyProducer | None,
        upload: Upload,
        stated: StatedDigests,
    ) -> StoredFile | None:
        try:
            await upload.receive(body)
        except ContentMismatch as mismatch:
            raise Refused(
                409,
                "content-mismatch",
                f"Byte {mismatch.at} is not the one that is here already.",
                {"Upload-Offset": str(session.durable), "Upload-Complete": "?0"},
            ) from mismatch
        check(stated.content, await upload.body_digests())
        if upload.position < total or asked.continues:
            await session.checkpoint()
            return None
        digests = await upload.file_digests()
        try:
            check(stated.representation, digests)
        except Refused as refused:
            await session.failed(refused.reason)
            raise
        return await self._publish(session, slot, digests.get("sha256"))

    def _algorithms(self, stated: StatedDigests) -> frozenset[str]:
        return algorithms(stated.representation) | (
            {"sha256"} if self._hash_all or "sha256" in stated.wanted else frozenset()
        )

    async def _storage_failed(self, session: Session, error: OSError) -> Refused:
        """What the client is told when the disk doesn't do what it should. What is durable is kept, if there is room."""
        if is_no_room(error):
            await session.discarded()
        else:
            await self._keep(session)
        return storage_refusal(error, self._log)

    async def _keep(self, session: Session, cut_to: int | None = None) -> None:
        """The body broke off: what has arrived waits for the next request.

        :param cut_to: forget what lies beyond this offset.
        """
        if session.part.fd < 0:
            return
        try:
            if cut_to is not None:
                await self._means.threads.run(session.part.truncate, cut_to)
            if session.part.size:
                await session.checkpoint()
        except (OSError, Superseded) as error:
            self._log.warn(
                "an upload that broke off is kept up to byte {at}: {error}",
                at=session.durable,
                error=error,
                seldom="kept",
            )

    async def _publish(self, session: Session, slot: Slot, sha256: bytes | None) -> StoredFile:
        upload = session.upload
        facts = Facts(
            content_type=upload.content_type,
            sha256=sha256,
            owner=upload.owner,
            expires=upload.file_expires,
            uploaded=self._now(),
        )
        key = slot.path.encoded
        self._publishing.setdefault(key, [])
        try:
            stored = await self._publish_or_compare(session, slot.path, facts)
        finally:
            for waiting in self._publishing.pop(key, []):
                waiting.callback(None)
        await session.finished(sha256)
        return stored

    async def _publish_or_compare(self, session: Session, path: SlotPath, facts: Facts) -> StoredFile:
        """
        :raises Refused: 409 where there is another file.
        """
        try:
            stored = await self._place(session.part, path, facts)
        except (AlreadyStored, PathConflict):
            same = await self._means.threads.run(self._settle_same, session.part, path)
            if same is None:
                await session.discarded()
                raise _conflict() from None
            return same
        self._published(path, stored)
        self._quotas.published(path)
        return stored

    async def _place(self, part: Part, path: SlotPath, facts: Facts) -> StoredFile:
        async def attempt() -> StoredFile:
            try:
                return await self._publisher.publish(part, path, facts)
            except OSError as error:
                if part.lost:
                    # Not to be tried again: see Part.sync.
                    raise unavailable("The storage failed; send the file again.") from error
                raise

        return await self._means.retries.run("publish", attempt)

    def _settle_same(self, part: Part, path: SlotPath) -> StoredFile | None:
        """The file that somebody else has stored at *path* meanwhile, if it is the same. In a thread."""
        stored = self._store.open_file(path)
        if stored is None:
            return None
        try:
            same = stored.size == part.size and same_content(stored.fd, part.fd, part.size)
        finally:
            stored.close()
        if not same or not self._store.settle(path):
            return None
        part.discard()
        return stored

    # A file that is stored already

    async def _again(
        self,
        stored: OpenFile,
        slot: Slot,
        total: int,
        asked: UploadRequest,
        body: IBodyProducer | None,
        turn: Turn,
    ) -> Receipt:
        """The slot's file is here: the same one is as good as stored just now, any other is refused."""
        name = None
        try:
            stored.facts.check_served(self._now())
            if total != stored.size:
                raise _conflict()
            if asked.creates:
                # Without its bytes nothing tells whether it would be the same file.
                if asked.length not in (None, total):
                    raise _conflict()
                name = await self._last_name(turn.uid)
            if not _stated_to_be(stored, asked):
                await self._compare(stored, asked.as_whole() if asked.creates else asked, body, turn)
            await self._means.threads.run(self._store.settle, slot.path)
        finally:
            stored.close()
        return Receipt(total, total, stored, None, name)

    async def _last_name(self, uid: str) -> UploadName:
        record = await self._state.get(uid)
        return UploadName(uid, 1 if record is None else record.generation)

    async def _add_nothing(
        self, stored: OpenFile | None, upload: NewUpload, asked: UploadRequest, body: IBodyProducer | None, turn: Turn
    ) -> Receipt:
        """The upload is over: whoever didn't hear that it is hears it now, but there is nothing more to be sent.

        :raises Refused: 410 where the file has been deleted since.
        """
        if stored is None:
            raise gone("The file was stored, and has been deleted since.")
        name = UploadName(upload.uid, upload.generation)
        try:
            stored.facts.check_served(self._now())
            await self._compare(stored, asked, body, turn)
        finally:
            stored.close()
        return Receipt(stored.size, stored.size, stored, None, name)

    async def _compare(self, stored: OpenFile, asked: UploadRequest, body: IBodyProducer | None, turn: Turn) -> None:
        placed = plan(asked, stored.size, stored.size)
        comparison = Comparison(stored.fd, placed.start, placed.end, self._means.threads, _uncounted)
        turn.consume_with(comparison)
        try:
            await comparison.receive(body)
        except ContentMismatch:
            raise _conflict() from None

    # What an upload is at

    async def _look(self, part: Part) -> Progress | None:
        """What *part* is at, which is closed then; ``None`` if nothing is known of it."""
        try:
            record = await self._state.get(part.name)
            upload = newest(read_note(part), record)
            if upload is None or upload.total is None:
                return None
            over = why_over(upload, record, part.size, self._max_attempts)
            if over is not None:
                raise gone_as(over)
            expires = self._now() + self._session_ttl_s if record is None else record.expires
            name = UploadName(upload.uid, upload.generation)
            return Progress(upload.offset, upload.total, name, upload.token, upload.metadata, expires)
        finally:
            part.close()


def _slot_of(upload: NewUpload) -> Slot:
    """What granted an upload that has begun, as far as that is still of interest."""
    path = SlotPath.from_encoded(upload.path)
    return Slot(path, upload.total, upload.content_type, upload.owner, upload.file_expires, "begun", upload.signature)


class _Vanished(Exception):
    """A part that was there a moment ago isn't: another process has published it, or given it up. What is known of the
    upload says which."""


def _lost() -> Refused:
    return gone("What had arrived of this upload is gone.")


def _begun_anew() -> Refused:
    return gone("This upload has been given up for another one of the same file.")


def _uncounted(_size: int) -> None:
    """Bytes that are compared take no room."""


def _stated_to_be(stored: StoredFile, asked: UploadRequest) -> bool:
    """Whether the request states the digest of *stored*, so that its body needn't be read.

    :raises Refused: 409 where it states another one.
    """
    if asked.asks:
        return True
    whole = asked.part is None and asked.length in (None, stored.size)
    stated = asked.digests.of_whole_file() if whole else asked.digests
    if stored.facts.sha256 is None or algorithms(stated.representation) != {"sha256"}:
        return False
    if any(digest.value != stored.facts.sha256 for digest in stated.representation):
        raise _conflict()
    return True


def _conflict() -> Refused:
    return Refused(409, "conflict", "There is another file at this URL, and nothing that is stored is overwritten.")


def _away(away: StateUnavailable) -> Refused:
    return unavailable("Uploads can't be resumed for the moment.", retry_after_s=max(1, round(away.retry_after_s)))
