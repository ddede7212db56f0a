"""Taking up an upload that an earlier request left: what the disk and the state store know of it, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.metrics import Metrics
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part
from hmacfs.uploads.exchange import Progress
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.note import read_note, write_note
from hmacfs.uploads.plan import offset_mismatch
from hmacfs.uploads.session import Session
from hmacfs.uploads.state import (
    Holder,
    IUploadState,
    Lease,
    NewUpload,
    StateUnavailable,
    Status,
    UnknownUpload,
    UploadRecord,
)

#: Why there is no upload of which something is known.
LOST: Final = "What had arrived of this upload is gone."


def gone(detail: str) -> Refused:
    """What was there of the upload is there no longer. The whole body may always be sent again."""
    return Refused(410, "upload-gone", detail)


def gone_as(why: str) -> Refused:
    """What a client is told of an upload that is over, for one of the reasons of :func:`why_over`."""
    if why == "no-progress":
        return gone("Attempt after attempt at this upload has brought nothing new; send the whole file.")
    return gone("What had arrived of this upload is gone; send the whole file.")


def begun_anew() -> Refused:
    """The upload of that name is gone, though there is one of the same slot."""
    return gone("This upload has been given up for another one of the same file.")


class Vanished(Refused):
    """A part that was there a moment ago isn't: another process has published it, or given it up. What is known of the
    upload by now says which; if it doesn't, what had arrived is gone."""

    def __init__(self) -> None:
        super().__init__(410, "upload-gone", LOST)


def newest(note: NewUpload | None, record: UploadRecord | None) -> NewUpload | None:
    """What is known of an upload: the later generation counts, and of one generation the larger offset.

    Both offsets are only ever written after the bytes before them have been synced.
    """
    noted_by_state = None if record is None else as_upload(record)
    known = [upload for upload in (note, noted_by_state) if upload is not None]
    return max(known, key=lambda upload: (upload.generation, upload.offset), default=None)


def as_upload(record: UploadRecord) -> NewUpload:
    """The record, as an upload would begin with it."""
    return NewUpload(
        uid=record.uid,
        path=record.path,
        signature=record.signature,
        token=record.token,
        content_type=record.content_type,
        total=record.total,
        owner=record.owner,
        file_expires=record.file_expires,
        offset=record.offset,
        generation=record.generation,
        metadata=record.metadata,
    )


def slot_of(upload: NewUpload) -> Slot:
    """What granted an upload that has begun, as far as that is still of interest."""
    path = SlotPath.from_encoded(upload.path)
    return Slot(path, upload.total, upload.content_type, upload.owner, upload.file_expires, "begun", upload.signature)


def why_over(upload: NewUpload, record: UploadRecord | None, part_size: int, max_attempts: int) -> str | None:
    """Why an upload can't go on, one hyphenated word; ``None`` if it can.

    :param max_attempts: how often it may be taken up in a row without one new durable byte.
    """
    if record is not None and record.generation >= upload.generation:
        if record.status is Status.FAILED:
            return record.reason
        if record.attempts_without_progress > max_attempts:
            return "no-progress"
    return "lost" if part_size < upload.offset else None


class TakeUp:
    """Makes a session of a part that was left, or tells what it is at.

    :param max_attempts: see :func:`why_over`.
    :param expires: until when an upload can be resumed whose last byte comes now, in seconds since the epoch.
    """

    def __init__(
        self,
        state: IUploadState,
        threads: Threads,
        max_attempts: int,
        metrics: Metrics,
        expires: Callable[[], float],
    ) -> None:
        self._state = state
        self._threads = threads
        self._max_attempts = max_attempts
        self._metrics = metrics
        self._expires = expires

    async def session(
        self, part: Part, fresh: NewUpload, holder: Holder, *, resumes: bool, attempt: bool, token: str | None
    ) -> Session:
        """Take the upload up, or begin it anew.

        :param fresh: what it would begin with if nothing were there.
        :param resumes: whether the request relies on what is there; one with the whole body doesn't.
        :param attempt: whether it counts as one more attempt; who only asks how far it is has not tried in vain.
        :param token: the request's session token; another one than the upload's begins a new session.
        :raises Refused: 410 where the request relies on what can't go on, 409 where it brings the rest of another
            token's upload, 400 where it brings a part of a file of another size.
        :raises StateUnavailable: where the request relies on what the store can't be asked.
        """
        lease = await self._lease(fresh.uid, holder, resumes, attempt)
        record = None if lease is None else lease.record
        upload = newest(read_note(part), record)
        if upload is None:
            upload, restart = fresh, True
        else:
            over = why_over(upload, record, part.size, self._max_attempts)
            if over == "lost":
                self._metrics.sessions_lost.inc()
            if over is not None and resumes:
                await self._give_up(lease, over)
                raise gone_as(over)
            another = token is not None and token != upload.token
            if another and attempt:
                # The rest of an upload that this token has nothing to do with. What is here may still be wanted.
                if lease is not None:
                    await self._state.release(lease)
                raise offset_mismatch(0, "The session token isn't that of the upload whose rest this would be.")
            # Only where the signature leaves the size open. The offset of another file means nothing to this one.
            resized = upload.total != fresh.total
            if resized and resumes:
                if lease is not None:
                    await self._state.release(lease)
                detail = f"The upload is of a file of {upload.total} bytes, not of {fresh.total}."
                raise Refused(400, "bad-range", detail)
            restart = over is not None or another or resized
            if restart:
                upload = evolve(fresh, generation=upload.generation + 1)
        await self._threads.run(_cut, part, upload, restart)
        return Session(part, upload, self._state, self._threads, holder, lease)

    async def look(self, part: Part) -> Progress | None:
        """What *part* is at, which is closed then; ``None`` if nothing is known of it.

        :raises Refused: 410 where it can't go on.
        :raises StateUnavailable: see :class:`~hmacfs.uploads.state.IUploadState`.
        """
        try:
            record = await self._state.get(part.name)
            upload = newest(read_note(part), record)
            if upload is None or upload.total is None:
                return None
            over = why_over(upload, record, part.size, self._max_attempts)
            if over is not None:
                raise gone_as(over)
            expires = self._expires() if record is None else record.expires
            name = UploadName(upload.uid, upload.generation)
            return Progress(upload.offset, upload.total, name, upload.token, upload.metadata, expires)
        finally:
            part.close()

    async def refuse_vanished(self, uid: str) -> None:
        """There is no part. If there was one, the client is told that it has to begin anew.

        :raises Refused: 410.
        :raises StateUnavailable: see :class:`~hmacfs.uploads.state.IUploadState`.
        """
        record = await self._state.get(uid)
        if record is None or record.status is Status.COMPLETE:
            return
        if record.status is Status.ACTIVE and record.offset:
            self._metrics.sessions_lost.inc()
        if record.status is Status.FAILED or record.offset:
            raise gone_as(record.reason)

    async def _lease(self, uid: str, holder: Holder, resumes: bool, attempt: bool) -> Lease | None:
        try:
            # The lock on the part is ours: whoever has the lease is dead.
            return await self._state.acquire(uid, holder, True, attempt)
        except UnknownUpload:
            return None
        except StateUnavailable:
            if resumes:
                raise
            return None

    async def _give_up(self, lease: Lease | None, reason: str) -> None:
        if lease is None:
            return
        if lease.record.status is Status.FAILED:
            await self._state.release(lease)
        else:
            await self._state.fail(lease, reason)


def _cut(part: Part, upload: NewUpload, restart: bool) -> None:
    """In a thread: forget what isn't durable; and, where everything begins anew, say so first."""
    if restart:
        write_note(part, upload)
    if part.size != upload.offset:
        part.truncate(upload.offset)
