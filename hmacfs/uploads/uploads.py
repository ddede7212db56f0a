"""Getting bytes in: from an authorized request to a stored file, over as many requests as it takes.

What a request may do to an upload, and what comes of it, is the contract in ``docs/protocol.md``. In short: the whole
body may always be sent again, the rest may be sent from the offset that HEAD tells, the newest request wins, and nothing
that is stored is ever overwritten.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.iweb import IBodyProducer

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.keeping.quotas import Quotas
from hmacfs.metrics import Metrics
from hmacfs.storage.names import SlotPath
from hmacfs.storage.space import Reservations
from hmacfs.storage.store import AlreadyStored, Store, StoredFile
from hmacfs.storage.tree import PathConflict
from hmacfs.uploads.comparing import Repeats, conflict
from hmacfs.uploads.completion import Completion
from hmacfs.uploads.exchange import Hooks, Incoming, Progress, Receipt
from hmacfs.uploads.filling import Filling
from hmacfs.uploads.handover import Handover
from hmacfs.uploads.identity import upload_id
from hmacfs.uploads.note import decode
from hmacfs.uploads.ongoing import Ongoing
from hmacfs.uploads.receiving import Receiving
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.retrying import unavailable
from hmacfs.uploads.state import IUploadState, NewUpload, StateUnavailable
from hmacfs.uploads.takeup import TakeUp, as_upload, slot_of
from hmacfs.uploads.turns import Turns
from hmacfs.uploads.upload import Means


class Uploads:
    """All uploads of this process, by the slots that they are to. To be used on the reactor's thread alone.

    :param key: :func:`hmacfs.uploads.identity.server_key`.
    :param now: the time in seconds since the epoch.
    :param hash_all: whether every file is hashed, or only those of which a request states a digest.
    :param max_attempts: how often an upload may be taken up in a row without one new durable byte.
    :param session_ttl_s: how long an unfinished upload can be resumed after its last byte.
    :param published: called with the path of each file that is stored, and the file.
    :ivar ongoing: those that have begun, by their names.
    :ivar completion: publishes their files.
    """

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
        self.session_ttl_s = session_ttl_s
        self._store = store
        self._state = state
        self._key = key
        self._retries = means.retries
        self._turns = Turns(means.clock)
        self._handover = Handover(store, state, means)
        self._take_up = TakeUp(state, means.threads, max_attempts, metrics, lambda: now() + session_ttl_s)
        self._repeats = Repeats(store, state, means, now)
        self.completion = Completion(store, means, quotas, now, published)
        self._receiving = Receiving(
            state,
            means,
            self._handover,
            self._take_up,
            Filling(means, self.completion, hash_all),
            reservations=reservations,
            quotas=quotas,
            now=now,
            session_ttl_s=session_ttl_s,
            metrics=metrics,
        )
        self.ongoing = Ongoing(
            store,
            state,
            key,
            self._turns,
            self._handover,
            self._take_up,
            self._receiving,
            self._repeats,
            now,
        )

    def __len__(self) -> int:
        """How many requests write now."""
        return len(self._turns)

    async def receive(self, slot: Slot, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks) -> Receipt:
        """Take what a request brings of the file of *slot*.

        :raises Refused: 400, 408, 409, 410, 411, 413, 423, 503 or 507; see ``docs/protocol.md``.
        :raises Superseded: a newer request has taken over, and the connection is to be cut.
        :raises ConnectionDone, ConnectionLost: the client is gone. What has arrived is kept.
        """
        total = slot.size if slot.size is not None else asked.total
        if total is None:
            raise Refused(411, "length-required", "Send a Content-Length.")
        with await self._turns.take(self._id(slot.path, slot.signature)) as turn:
            incoming = Incoming(turn, slot, total, asked, body, hooks)
            stored = await self._repeats.find(slot.path)
            if stored is not None:
                return await self._repeats.receive(incoming, stored)
            await self._check_free(slot.path)
            return await self._receiving.receive(incoming)

    async def begun(self, path: SlotPath, identity: bytes) -> Slot | None:
        """The slot of an unfinished upload, for a request that shows the credential that began it.

        That credential was right when the upload began, for the whole file. So it is good for the rest of the file,
        although the rest has another length, and although the credential's own time may be over.

        :param identity: :attr:`hmacfs.access.slot.Slot.signature`.
        :raises Refused: 503 where the state store is away, and nothing else knows.
        """
        uid = self._id(path, identity)
        if not self._store.has_part(uid):
            return None
        note = self._store.part_note(uid)
        upload = None if note is None else decode(note)
        if upload is None:
            upload = await self._recorded(uid)
        return None if upload is None else slot_of(upload)

    async def progress(self, path: SlotPath, identity: bytes) -> Progress | None:
        """How far the upload is that *identity* began; ``None`` where there is none.

        Who writes to it is stopped first: an offset that is told must be accepted next.

        :raises Refused: 410 where it can't go on, 423 where it can't be had, 503 where the state store is away.
        """
        with await self._turns.take(self._id(path, identity)) as turn:
            part = await self._handover.left(turn)
            if part is None:
                await self._take_up.refuse_vanished(turn.uid)
                return None
            return await self._take_up.look(part)

    async def cancel(self, path: SlotPath, identity: bytes) -> bool:
        """Forget an unfinished upload; false where there is none.

        :raises Refused: as :meth:`progress`.
        """
        with await self._turns.take(self._id(path, identity)) as turn:
            return await self._handover.forget(turn)

    async def shutdown(self) -> None:
        """Stop them all, and make durable what has arrived."""
        await self._turns.close(unavailable("The server is restarting.", retry_after_s=5))

    def _id(self, path: SlotPath, identity: bytes) -> str:
        return upload_id(self._key, path.encoded, identity)

    async def _recorded(self, uid: str) -> NewUpload | None:
        """What the state store knows of an upload whose part has no note: its file system has no attributes."""
        try:
            record = await self._state.get(uid)
        except StateUnavailable as away:
            raise away.refusal() from None
        return None if record is None else as_upload(record)

    async def _check_free(self, path: SlotPath) -> None:
        """Say before the body is here what publishing would say after it.

        :raises Refused: 409 where something is in the way that is no file, 400 for a name that can't be stored.
        """
        try:
            await self._retries.call("read", self._store.check_free, path)
        except PathConflict:
            raise conflict() from None
        except AlreadyStored:
            # By another process, a moment ago: publishing will compare the two.
            pass
