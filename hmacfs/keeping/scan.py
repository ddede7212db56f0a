"""Bringing the index in step with the tree: of single files that have changed, and of all of them.

All of it works in one way, whoever has changed the tree and whatever changes meanwhile: look at the file, then write
down what was seen if it still holds while nobody else can write (:meth:`hmacfs.keeping.index.Index.settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Final

from attrs import frozen

from hmacfs.errors import Refused
from hmacfs.keeping.index import BATCH, BIRTHMARK_KEY, Entry, Index, batches
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from hmacfs.storage.tree import Stamp

#: How often a file is looked at again that changes while it is looked at. Then its changes are for the next scan.
_TRIES: Final = 4

#: A sidecar is its upload's for so many seconds before it is taken for an orphan.
_YOUNG_S: Final = 600.0

_UNKNOWN: Final = Stamp(-1, -1, -1, -1)

#: Where :class:`Scan` leaves in the index when it began, once it has come to its end; in seconds since the epoch. An
#: index that is begun anew while a scan is under way needs another one, and doesn't get it.
SCANNED_KEY: Final = "scanned"


class Kind(Enum):
    """In what index and tree differ."""

    MISSING = "missing"
    """A file that the index doesn't know."""
    CHANGED = "changed"
    """A file that isn't what the index says."""
    VANISHED = "vanished"
    """The index knows a file that isn't there."""


@frozen
class Difference:
    """One path of which index and tree don't say the same.

    :ivar path: as :attr:`SlotPath.encoded`.
    """

    path: bytes
    kind: Kind


def look_up(store: Store, path: bytes, now: float) -> Entry | None:
    """What the index is to know of the file at a path; ``None`` where there is none. In a thread.

    :param path: as :attr:`SlotPath.encoded`.
    :param now: in seconds since the epoch.
    """
    try:
        slot_path = SlotPath.from_encoded(path)
    except Refused:
        return None
    # Before the facts are read: who changes them now changes the stamp, and is found out.
    stamp = store.stamp(slot_path)
    found = None if stamp is None else store.open_file(slot_path)
    if found is None or stamp is None:
        return None
    found.close()
    return Entry.of(path, stamp, found.facts, now)


def refresh(store: Store, index: Index, paths: Sequence[bytes], now: float) -> Sequence[bytes]:
    """Bring the index in step with the tree as far as these paths go: after a publish, a delete, a change of facts.

    In a thread. The others wait for the index for some milliseconds at a time.

    :param paths: as :attr:`SlotPath.encoded`.
    :param now: in seconds since the epoch.
    :return: the paths of files that can't be read: the index is as before about them.
    :raises DatabaseAway: the index can't be used; the next scan finds it all.
    """
    unreadable: list[bytes] = []
    for batch in batches(paths, BATCH):
        left = batch
        for _ in range(_TRIES):
            found = dict(_look_up_all(store, left, now, unreadable))
            left = index.settle(found, lambda path: _stamp(store, path))
            if not left:
                break
    return unreadable


def _look_up_all(
    store: Store, paths: Sequence[bytes], now: float, unreadable: list[bytes]
) -> Iterator[tuple[bytes, Entry | None]]:
    for path in paths:
        try:
            yield path, look_up(store, path, now)
        except OSError:
            unreadable.append(path)


def _stamp(store: Store, path: bytes) -> Stamp | None:
    """As it is now; one that nothing has where that can't be found out."""
    try:
        return store.stamp(SlotPath.from_encoded(path))
    except Refused:
        return None
    except OSError:
        return _UNKNOWN


class Scan:
    """One comparison of the whole tree with the index, a step at a time.

    In a thread, but each step may be in another one. A step takes some milliseconds, longer if the disk does. What is
    in memory doesn't grow with the number of files, but for one bit of each.

    :param now: the time in seconds since the epoch.
    :param mend: whether the index is corrected, and orphaned sidecars are removed; otherwise nothing is changed, and
        every file's facts are compared, too.
    :ivar files: how many have been seen.
    :ivar skipped: how many of them no URL can name, or can't be read: they are left alone.
    :ivar sidecars: how many have been removed.
    """

    def __init__(self, store: Store, index: Index, now: Callable[[], float], mend: bool = True) -> None:
        self._store = store
        self._index = index
        self._now = now
        self._mend = mend
        self._seen = bytearray()
        self._steps = self._run()
        self.files = 0
        self.skipped = 0
        self.sidecars = 0

    def step(self) -> Sequence[Difference] | None:
        """Go on for some milliseconds.

        :return: what was found to differ, and is corrected unless it is only to be looked for; ``None`` at the end.
        :raises DatabaseAway: the index can't be used; the scan is over.
        :raises OSError: the tree can't be read; likewise.
        """
        return next(self._steps, None)

    def close(self) -> None:
        """Break off."""
        self._steps.close()

    def _run(self) -> Generator[Sequence[Difference], None, None]:
        birthmark = self._index.setting(BIRTHMARK_KEY)
        # Rows that come after this one are of files that were published meanwhile.
        last = self._index.last_number()
        started = self._now()
        yield from self._compare_tree()
        yield from self._compare_rows(last)
        if self._mend:
            yield from self._sweep_sidecars()
            if self._index.setting(BIRTHMARK_KEY) == birthmark:
                self._index.set_setting(SCANNED_KEY, repr(started))

    def _compare_tree(self) -> Iterator[Sequence[Difference]]:
        walk = self._store.walk()
        while batch := dict(islice(walk, BATCH)):
            usable = {path: stamp for path, stamp in batch.items() if _is_usable(path)}
            self.files += len(batch)
            self.skipped += len(batch) - len(usable)
            yield self._settle(self._compare(usable))

    def _compare(self, batch: Mapping[bytes, Stamp]) -> Iterator[Difference]:
        known = self._index.stamps(tuple(batch))
        for path, stamp in batch.items():
            number, known_stamp = known.get(path, (0, None))
            if known_stamp is None:
                yield Difference(path, Kind.MISSING)
                continue
            self._mark(number)
            if known_stamp != stamp or not (self._mend or self._is_right(path)):
                yield Difference(path, Kind.CHANGED)

    def _is_right(self, path: bytes) -> bool:
        known = self._index.get(path)
        try:
            found = look_up(self._store, path, self._now())
        except OSError:
            self.skipped += 1
            return True
        return known is not None and found is not None and known.agrees_with(found)

    def _compare_rows(self, last: int) -> Iterator[Sequence[Difference]]:
        after = 0
        while rows := self._index.numbered(after, last, BATCH):
            after = rows[-1][0]
            unseen = [path for number, path in rows if not self._is_marked(number)]
            # The walk may have passed by a file that was published at that moment.
            gone = [path for path in unseen if _stamp(self._store, path) is None]
            yield self._settle(Difference(path, Kind.VANISHED) for path in gone)

    def _settle(self, differences: Iterable[Difference]) -> Sequence[Difference]:
        found = tuple(differences)
        if not self._mend or not found:
            return found
        unreadable = set(refresh(self._store, self._index, [each.path for each in found], self._now()))
        self.skipped += len(unreadable)
        return tuple(each for each in found if each.path not in unreadable)

    def _sweep_sidecars(self) -> Iterator[Sequence[Difference]]:
        sweep = self._store.sweep_sidecars(_YOUNG_S, self._now())
        while batch := tuple(islice(sweep, BATCH)):
            self.sidecars += sum(batch)
            yield ()

    def _mark(self, number: int) -> None:
        place = number >> 3
        if place >= len(self._seen):
            self._seen.extend(bytes(place + 1 - len(self._seen)))
        self._seen[place] |= 1 << (number & 7)

    def _is_marked(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._seen) and bool(self._seen[place] >> (number & 7) & 1)


def _is_usable(path: bytes) -> bool:
    try:
        SlotPath.from_encoded(path)
    except Refused:
        return False
    return True
