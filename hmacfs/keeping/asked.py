"""Deletions that the XMPP server asks for, because a user did, or because it counts the time itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hmacfs.errors import Refused
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import Entry
from hmacfs.keeping.scan import look_up
from hmacfs.metrics import Metrics
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store

#: Why a file went that its XMPP server wanted gone.
ASKED: Final = "asked"

#: How often a file is looked at again that changes while it is looked at.
_TRIES: Final = 4


class AskedDeletions:
    """Deletes single files. To be used on the reactor's thread alone.

    :param deleting: on behalf of the XMPP server.
    :param now: the time in seconds since the epoch.
    """

    def __init__(
        self, store: Store, deleting: Deleting, threads: Threads, now: Callable[[], float], metrics: Metrics
    ) -> None:
        self._store = store
        self._deleting = deleting
        self._threads = threads
        self._now = now
        self._metrics = metrics

    async def delete(self, path: SlotPath) -> None:
        """Delete the file at *path*, if there is one.

        :raises Refused: 451 for one in quarantine, which only the operator ends.
        :raises OSError: the disk failed.
        """
        entry = await self._threads.run(self._delete, path, self._now())
        if entry is not None:
            self._metrics.deleted_files.labels(ASKED).inc()
            self._metrics.deleted_bytes.labels(ASKED).inc(entry.size)

    def _delete(self, path: SlotPath, now: float) -> Entry | None:
        """In a thread."""
        for _ in range(_TRIES):
            entry = look_up(self._store, path.encoded, now)
            if entry is None:
                return None
            if entry.quarantined:
                raise Refused(451, "quarantined", "The operator of this server has taken this file down.")
            if self._deleting.delete(entry, ASKED, now) is not None:
                return entry
        raise Refused(503, "unavailable", "The file is just being changed.", {"Retry-After": "1"})
