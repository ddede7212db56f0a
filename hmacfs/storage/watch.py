"""A look at the store every moment: whether files can be stored, and whether it is still there."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from hmacfs.net.threads import Threads
from hmacfs.storage.store import Store

#: Between two looks, in seconds: so long it takes at most until a store that is back is used again.
LOOK_EVERY_S: Final = 1.0


class Watch:
    """Looks at a store, logs what has become of it, once each time, and has it taken up again when it is back.

    To be used on the reactor's thread alone.

    :param key: the store's (:func:`hmacfs.uploads.identity.server_key`).
    :ivar well: whether files could be stored at the last look, as far as a look can tell.
    """

    _log = Logger()

    def __init__(self, store: Store, key: bytes, threads: Threads) -> None:
        self._store = store
        self._key = key
        self._threads = threads
        self._trouble = ""

    @property
    def well(self) -> bool:
        return not self._trouble

    async def look(self) -> None:
        """Once."""
        anew, trouble = False, ""
        try:
            anew = await self._threads.run(self._store.look, self._key)
        except OSError as error:
            trouble = error.strerror or str(error)
        before, self._trouble = self._trouble, trouble
        if trouble and trouble != before:
            self._log.error("uploads are refused. {trouble}", trouble=trouble)
        elif anew or (before and not trouble):
            self._log.warn("StoreDir {root} is in order, and used again", root=self._store.root)
