"""What a request brings of a file that isn't stored yet: from its place in the quota to what is durable at its end."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from hmacfs.keeping.quotas import Quotas
from hmacfs.metrics import Metrics
from hmacfs.storage.space import Reservations
from hmacfs.uploads.exchange import Incoming, Receipt
from hmacfs.uploads.filling import Filling
from hmacfs.uploads.handover import Handover
from hmacfs.uploads.identity import first_generation, new_token
from hmacfs.uploads.plan import plan
from hmacfs.uploads.session import Session
from hmacfs.uploads.state import Holder, IUploadState, NewUpload
from hmacfs.uploads.takeup import TakeUp, Vanished, begun_anew
from hmacfs.uploads.upload import Means


class Receiving:
    """See the module. To be used on the reactor's thread alone.

    :param now: the time in seconds since the epoch.
    :param session_ttl_s: how long an unfinished upload can be resumed after its last byte.
    """

    def __init__(
        self,
        state: IUploadState,
        means: Means,
        handover: Handover,
        take_up: TakeUp,
        filling: Filling,
        *,
        reservations: Reservations,
        quotas: Quotas,
        now: Callable[[], float],
        session_ttl_s: float,
        metrics: Metrics,
    ) -> None:
        self._state = state
        self._means = means
        self._handover = handover
        self._take_up = take_up
        self._filling = filling
        self._reservations = reservations
        self._quotas = quotas
        self._now = now
        self._session_ttl_s = session_ttl_s
        self._metrics = metrics

    async def receive(self, incoming: Incoming) -> Receipt:
        """Take what *incoming* brings.

        :raises Refused: see ``docs/protocol.md``.
        :raises Vanished: before the body has been asked for.
        :raises StateUnavailable: where nothing can be done without the state store.
        :raises Superseded, ConnectionDone, ConnectionLost: see :meth:`hmacfs.uploads.uploads.Uploads.receive`.
        """
        charge = await self._quotas.reserve(incoming.slot.path, incoming.slot.owner, incoming.total)
        try:
            receipt = await self._receive(incoming)
            if receipt.stored is not None:
                await self._quotas.settle(charge)
            return receipt
        finally:
            charge.release()

    async def _receive(self, incoming: Incoming) -> Receipt:
        asked, total = incoming.asked, incoming.total
        session, resumed_at = await self._open(incoming)
        reservation = stored = None
        try:
            if asked.creates:
                await session.record()
            elif incoming.name is not None and incoming.name != session.name:
                raise begun_anew()
            incoming.hooks.named(session.token, session.name)
            placed = plan(asked, total, session.durable)
            # Who asks about a file of which every byte is here gets it published: there is nothing left to be sent.
            if placed.size or placed.end == total:
                reservation = self._reservations.reserve(max(0, placed.end - session.durable))
                if resumed_at is not None:
                    self._metrics.uploads_resumed.inc()
                    self._metrics.resumed_bytes_saved.inc(placed.start)
                stored = await self._filling.fill(session, incoming, placed, reservation)
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

    async def _open(self, incoming: Incoming) -> tuple[Session, int | None]:
        """The session, and from which offset it goes on if it isn't new."""
        turn, asked, total = incoming.turn, incoming.asked, incoming.total
        holder = Holder(turn.let_go)
        fresh = self._fresh(incoming)
        relies = asked.relies_on_offset(total)
        if asked.creates:
            fresh = await self._next_generation(fresh)
        part, is_new = await self._handover.part(turn)
        try:
            if not asked.asks:
                # Not an attempt of the client's if there is no room for it; reserved for good when the offset is known.
                self._reservations.check(max(0, asked.end(total) - part.size))
            if is_new:
                if relies and asked.append is not None:
                    raise Vanished
                if relies:
                    await self._take_up.refuse_vanished(turn.uid)
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

    def _fresh(self, incoming: Incoming) -> NewUpload:
        """What the upload begins with if nothing is there."""
        slot, asked = incoming.slot, incoming.asked
        return NewUpload(
            uid=incoming.turn.uid,
            path=slot.path.encoded,
            signature=slot.signature,
            token=asked.token or new_token(),
            content_type=slot.content_type,
            total=incoming.total,
            owner=slot.owner,
            file_expires=slot.expires,
            metadata="" if asked.append is None else asked.append.metadata,
            generation=first_generation(self._now()),
        )

    async def _next_generation(self, fresh: NewUpload) -> NewUpload:
        """*fresh*, as what comes after all that the state store knows: a name that was told is never another's."""
        record = await self._state.get(fresh.uid)
        return fresh if record is None else evolve(fresh, generation=record.generation + 1)
