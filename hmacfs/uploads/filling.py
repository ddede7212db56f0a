"""The body of one request on its way into the part of its upload, and what is kept of it when it breaks off."""

from __future__ import annotations

from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.storage.failures import is_no_room, storage_refusal
from hmacfs.storage.space import Reservation
from hmacfs.storage.store import StoredFile
from hmacfs.uploads.body import ContentMismatch
from hmacfs.uploads.completion import Completion
from hmacfs.uploads.digests import StatedDigests, algorithms, check
from hmacfs.uploads.exchange import Incoming
from hmacfs.uploads.plan import Plan
from hmacfs.uploads.session import Session, Superseded
from hmacfs.uploads.upload import Means, Upload


class Filling:
    """See the module. To be used on the reactor's thread alone.

    :param completion: for what is whole then.
    :param hash_all: whether every file is hashed, or only those of which a request states a digest.
    """

    _log = Logger()

    def __init__(self, means: Means, completion: Completion, hash_all: bool) -> None:
        self._means = means
        self._completion = completion
        self._hash_all = hash_all

    async def fill(
        self, session: Session, incoming: Incoming, placed: Plan, reservation: Reservation
    ) -> StoredFile | None:
        """Receive the body; the stored file if the upload is whole then.

        :raises Refused: 400, 408, 409, 413, 503 or 507; see ``docs/protocol.md``.
        :raises Superseded, ConnectionDone, ConnectionLost: see :meth:`hmacfs.uploads.uploads.Uploads.receive`.
        """
        asked = incoming.asked
        # A body that is appended counts or doesn't, by itself, even if it is the whole file.
        is_whole = placed.size == incoming.total and asked.append is None
        stated = asked.digests.of_whole_file() if is_whole else asked.digests
        atomic = bool(stated.content)

        async def checkpoint() -> None:
            await session.advance(self._means.clock.seconds())
            incoming.hooks.durable(session.durable)

        upload = Upload(
            session.part,
            placed.start,
            placed.end,
            self._means,
            arrived=reservation.wrote,
            file_algorithms=self._algorithms(stated) if placed.end == incoming.total else frozenset(),
            body_algorithms=algorithms(stated.content),
            restart=session.restart_at if placed.restarts else None,
            # Bytes that are not to be kept before they have been verified are not made durable.
            checkpoint=session.announce if atomic else checkpoint,
            is_open=placed.is_open,
        )
        incoming.turn.consume_with(upload)
        try:
            return await self._receive(session, incoming, upload, stated)
        except OSError as error:
            await upload.end()
            raise await self._storage_failed(session, error) from error
        except BaseException:
            await upload.end()
            await self._keep(session, session.durable if atomic else None)
            raise
        finally:
            await upload.end()

    async def _receive(
        self, session: Session, incoming: Incoming, upload: Upload, stated: StatedDigests
    ) -> StoredFile | None:
        try:
            await upload.receive(incoming.body)
        except ContentMismatch as mismatch:
            raise Refused(
                409,
                "content-mismatch",
                f"Byte {mismatch.at} is not the one that is here already.",
                {"Upload-Offset": str(session.durable), "Upload-Complete": "?0"},
            ) from mismatch
        check(stated.content, await upload.body_digests())
        if upload.position < incoming.total or incoming.asked.continues:
            await session.checkpoint()
            return None
        digests = await upload.file_digests()
        try:
            check(stated.representation, digests)
        except Refused as refused:
            await session.failed(refused.reason)
            raise
        return await self._completion.publish(session, incoming.slot.path, digests.get("sha256"))

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
