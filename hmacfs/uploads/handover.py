"""Who may write to an upload among the processes of a host: its part file goes from one request to the next.

The lock on the part settles it. Who finds it locked asks the other process through the state store to let go, and waits.
"""

from __future__ import annotations

from twisted.internet.task import deferLater

from hmacfs.storage.parts import Part, PartBusy
from hmacfs.storage.store import Store
from hmacfs.uploads.state import Busy, Holder, IUploadState, StateUnavailable, UnknownUpload
from hmacfs.uploads.turns import PATIENCE_S, Turn, busy
from hmacfs.uploads.upload import Means

#: Between two tries to get the part of another process, in seconds.
_POLL_S = 0.1


class Handover:
    """Gets the part of the upload whose turn it is, and gets rid of it. To be used on the reactor's thread alone."""

    def __init__(self, store: Store, state: IUploadState, means: Means) -> None:
        self._store = store
        self._state = state
        self._means = means

    async def part(self, turn: Turn) -> tuple[Part, bool]:
        """The upload's part, open and locked, and whether it is new.

        :raises Refused: 423 ``busy`` when another process doesn't let go of it.
        """
        while True:
            try:
                return await self._means.retries.call("begin", self._store.begin, turn.uid), True
            except FileExistsError:
                pass
            part = await self.left(turn)
            if part is not None:
                return part, False

    async def left(self, turn: Turn) -> Part | None:
        """The part that was left, open and locked; ``None`` where there is none.

        :raises Refused: as :meth:`part`.
        """
        patience_s = PATIENCE_S
        while True:
            try:
                return self._store.reopen(turn.uid)
            except FileNotFoundError:
                return None
            except PartBusy:
                # Again and again: the other one may not have told the state store yet that it has the upload.
                await self._ask_to_let_go(turn)
            if patience_s <= 0:
                raise busy()
            await deferLater(self._means.clock, _POLL_S, lambda: None)
            patience_s -= _POLL_S

    async def forget(self, turn: Turn) -> bool:
        """Forget the upload: part and record. False where there is neither.

        :raises Refused: as :meth:`part`.
        :raises StateUnavailable: and it is not forgotten.
        """
        part = await self.left(turn)
        lease = None
        try:
            lease = await self._state.acquire(turn.uid, Holder(turn.let_go), True, False)
            await self._state.discard(lease)
        except UnknownUpload:
            pass
        if part is not None:
            await self._means.threads.run(part.discard)
        return part is not None or lease is not None

    async def _ask_to_let_go(self, turn: Turn) -> None:
        """Another process has the part. It hears of us through the state store, once it has the upload there."""
        try:
            await self._state.release(await self._state.acquire(turn.uid, Holder(turn.let_go), False, False))
        except (Busy, UnknownUpload, StateUnavailable):
            pass
