"""Deleting stored files: what was decided upon, and nothing else, with a line in the report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hmacfs.keeping.index import Entry, Index
from hmacfs.keeping.report import Deletion
from hmacfs.keeping.scan import refresh
from hmacfs.storage.database import DatabaseAway
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from hmacfs.storage.tree import Stamp


class Deleting:
    """Deletes files on behalf of one who decides about them. In a thread.

    :param report: :meth:`hmacfs.keeping.report.Report.add`.
    :param by: who decides, for the report: ``retention``, ``quota``, ``xmpp-server``, or the operator's command.
    """

    def __init__(self, store: Store, index: Index, report: Callable[[Deletion], None], by: str) -> None:
        self._store = store
        self._index = index
        self._report = report
        self._by = by

    def delete(self, entry: Entry, reason: str, now: float) -> int | None:
        """Delete a file, unless it or what is known of it isn't any more what was decided upon.

        Then the index is corrected, and who asks again decides on what is true now. Downloads go on.

        :param entry: from the index, or by :func:`hmacfs.keeping.scan.look_up`.
        :param reason: one hyphenated word.
        :param now: in seconds since the epoch.
        :return: bytes that were freed, or will be when nobody reads the file any more (0 where it has another name);
            ``None`` where nothing was deleted.
        :raises OSError: the disk failed; the file is still there, or will be gone after the next start.
        """
        path = SlotPath.from_encoded(entry.path)
        facts = self._facts_of(path, entry)
        removed = None if facts is None else self._store.delete(path, entry.identity)
        if facts is not None and removed is not None:
            self._report(
                Deletion(
                    time=now,
                    path=path,
                    size=removed.size,
                    uploaded=facts.uploaded,
                    content_type=facts.content_type,
                    owner=facts.owner,
                    reason=reason,
                    by=self._by,
                )
            )
        # What is deleted is deleted: an index that is away is put right by the next scan.
        with contextlib.suppress(DatabaseAway):
            refresh(self._store, self._index, [entry.path], now)
        return None if removed is None else removed.freed

    def _facts_of(self, path: SlotPath, entry: Entry) -> Facts | None:
        """The facts of the file at *path*; ``None`` if it isn't as *entry* says."""
        found = self._store.open_file(path)
        if found is None:
            return None
        found.close()
        stamp = Stamp(found.size, found.mtime_ns, found.inode, entry.ctime_ns)
        is_so = entry.agrees_with(Entry.of(entry.path, stamp, found.facts, entry.first_seen))
        return found.facts if is_so else None
