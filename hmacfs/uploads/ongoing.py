"""Uploads that have begun, by their names: to know a name is all the authority that it takes to go on with the upload."""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.iweb import IBodyProducer

from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part
from hmacfs.storage.store import Store
from hmacfs.uploads.comparing import Repeats, conflict
from hmacfs.uploads.exchange import Hooks, Incoming, Progress, Receipt
from hmacfs.uploads.handover import Handover
from hmacfs.uploads.identity import UploadName, upload_id
from hmacfs.uploads.note import decode
from hmacfs.uploads.receiving import Receiving
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.state import IUploadState, NewUpload, Status
from hmacfs.uploads.takeup import LOST, TakeUp, Vanished, begun_anew, gone, newest, slot_of
from hmacfs.uploads.turns import Turn, Turns


class Ongoing:
    """See the module. To be used on the reactor's thread alone.

    Another process may publish the file of an upload, or give it up, between a look at what is known of it and at its
    part. So whoever finds that the part has vanished looks once more.

    :param key: :func:`hmacfs.uploads.identity.server_key`.
    :param now: the time in seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        state: IUploadState,
        key: bytes,
        turns: Turns,
        handover: Handover,
        take_up: TakeUp,
        receiving: Receiving,
        repeats: Repeats,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._state = state
        self._key = key
        self._turns = turns
        self._handover = handover
        self._take_up = take_up
        self._receiving = receiving
        self._repeats = repeats
        self._now = now

    async def append(self, name: UploadName, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks) -> Receipt:
        """Take more of the upload that is called *name*.

        :param asked: with an :attr:`~hmacfs.uploads.request.UploadRequest.append` that creates nothing.
        :raises Refused: 404 ``not-found``, 410 ``upload-gone`` where *name* is, or was, of no upload; and as
            :meth:`hmacfs.uploads.uploads.Uploads.receive`.
        :raises Superseded, ConnectionDone, ConnectionLost: as that.
        """
        with await self._turns.take(name.uid) as turn:
            try:
                return await self._append(turn, name, asked, body, hooks)
            except Vanished:
                return await self._append(turn, name, asked, body, hooks)

    async def look(self, name: UploadName) -> Progress:
        """How far the upload is that is called *name*, or was until its file was stored.

        Who writes to it is stopped first: an offset that is told must be accepted next.

        :raises Refused: 404 ``not-found``, 410 ``upload-gone``, 423 where it can't be had, 503 where the state store is
            away.
        """
        with await self._turns.take(name.uid) as turn:
            try:
                return await self._look(turn, name)
            except Vanished:
                return await self._look(turn, name)

    async def give_up(self, name: UploadName) -> None:
        """Forget the unfinished upload that is called *name*.

        :raises Refused: 409 ``conflict`` if its file is stored; and as :meth:`look`.
        """
        with await self._turns.take(name.uid) as turn:
            _, is_complete = await self._called(name)
            if is_complete:
                raise Refused(409, "conflict", "The file is complete, and stays.")
            await self._handover.forget(turn)

    async def _append(
        self, turn: Turn, name: UploadName, asked: UploadRequest, body: IBodyProducer | None, hooks: Hooks
    ) -> Receipt:
        """
        :raises Vanished: before *body* has been asked for.
        """
        upload, is_complete = await self._called(name)
        assert upload.total is not None
        incoming = Incoming(turn, slot_of(upload), upload.total, asked, body, hooks, name)
        stored = await self._repeats.find(incoming.slot.path)
        if is_complete:
            if stored is None:
                raise gone("The file was stored, and has been deleted since.")
            return await self._repeats.add_nothing(incoming, stored)
        if stored is not None:
            stored.close()
            # Another file, unless another process is just publishing this one.
            (await self._there(turn)).close()
            raise conflict()
        return await self._receiving.receive(incoming)

    async def _look(self, turn: Turn, name: UploadName) -> Progress:
        """
        :raises Vanished: another process has just published the file, or given it up.
        """
        upload, is_complete = await self._called(name)
        if is_complete:
            assert upload.total is not None
            return Progress(upload.total, upload.total, name, upload.token, upload.metadata, None)
        progress = await self._take_up.look(await self._there(turn))
        if progress is None or progress.name != name:
            raise begun_anew()
        return progress

    async def _there(self, turn: Turn) -> Part:
        """The part of an upload that has one, open and locked.

        :raises Vanished: it had one until a moment ago.
        """
        part = await self._handover.left(turn)
        if part is None:
            raise Vanished
        return part

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
            raise begun_anew()
        if record is not None and record.generation == upload.generation:
            if record.status is Status.COMPLETE:
                return upload, True
            if record.expires <= self._now():
                raise gone("The time to go on with this upload is over.")
        if self._store.has_part(name.uid):
            return upload, False
        if await self._is_stored(upload):
            return upload, True
        await self._take_up.refuse_vanished(name.uid)
        raise gone(LOST)

    def _is_ours(self, upload: NewUpload) -> bool:
        """Whether it is one of this store's: several may share a Redis."""
        return upload_id(self._key, upload.path, upload.signature) == upload.uid

    async def _is_stored(self, upload: NewUpload) -> bool:
        """Whether the file has got its name: of an upload without a part, and before anybody could record that."""
        stored = await self._repeats.find(SlotPath.from_encoded(upload.path))
        if stored is None:
            return False
        stored.close()
        return stored.size == upload.total
