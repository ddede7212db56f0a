"""Taking over the files of another server, so that every old URL still leads to them.

Can be stopped at any time and run again: what has been taken over is recognised and left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from attrs import frozen

from hmacfs.errors import Refused, StartError
from hmacfs.keeping.layouts import Found, Passed
from hmacfs.storage.facts import ADOPTED
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part
from hmacfs.storage.store import AlreadyStored, Store, StoredFile
from hmacfs.storage.tree import PathConflict

_COPY_BYTES: Final = 1 << 20

#: Unlike errors of one file, these are of everything that follows.
_HOPELESS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE})


class How(Enum):
    """What becomes of a file that is taken over.

    With LINK and MOVE it is the very same file under a second, or another, name: no byte is copied, and no room is
    needed. Its mode and its attributes are changed, under both names. They take one file system.
    """

    LINK = "link"
    MOVE = "move"
    COPY = "copy"


@frozen
class Taken:
    """A file that is in the store now.

    :ivar path: under which it can be fetched.
    :ivar stored: ``None`` if it was there before.
    """

    path: SlotPath
    stored: StoredFile | None


class Importer:
    """Puts files into a store. Blocks."""

    def __init__(self, store: Store, how: How) -> None:
        self._store = store
        self._how = how

    def run(self, found: Iterable[Found | Passed]) -> Iterator[Taken | Passed]:
        """Take over one file after another, and tell what became of each.

        :raises StartError: nothing more can be taken over.
        """
        for each in found:
            yield each if isinstance(each, Passed) else self._one(each)

    def _one(self, found: Found) -> Taken | Passed:
        try:
            taken = Taken(found.path, self._take(found))
        except AlreadyStored:
            return self._had(found)
        except (PathConflict, Refused):
            return Passed(found.source, "conflict")
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise StartError(
                    f"{found.source} and the store are on two file systems, so that only a copy can be had: say --copy."
                ) from error
            if error.errno == errno.EPERM and self._how is not How.COPY:
                raise StartError(
                    f"{found.source}: can't be linked ({error.strerror}). Run this as root; if the file system has no"
                    " hard links, say --copy."
                ) from error
            if error.errno in _HOPELESS:
                raise StartError(f"{found.source}: {error.strerror}. What was taken over so far is there.") from error
            return Passed(found.source, "unreadable")
        if self._how is How.MOVE:
            self._leave(found.source)
        return taken

    def _take(self, found: Found) -> StoredFile:
        """
        :raises AlreadyStored: nothing was linked or copied.
        """
        self._store.check_free(found.path)
        if self._how is How.COPY:
            return self._copy(found)
        with _directory_of(found.source) as directory_fd:
            name = os.fsencode(found.source.name)
            return self._store.link_in(name, directory_fd, found.path, found.facts)

    def _copy(self, found: Found) -> StoredFile:
        with _opened(found.source) as source_fd:
            part = self._store.begin(f"import-{secrets.token_hex(8)}")
            try:
                _fill(part, source_fd)
                return self._store.publish(part, found.path, found.facts)
            finally:
                part.discard()

    def _had(self, found: Found) -> Taken | Passed:
        """There is a file of that path. Only if it is another one the operator has to know."""
        there = self._store.open_file(found.path)
        if there is None:
            return Passed(found.source, "conflict")
        with contextlib.closing(there):
            source = os.stat(found.source, follow_symlinks=False)
            same = source.st_ino == there.inode and source.st_dev == os.fstat(there.fd).st_dev
            copied = there.size == source.st_size and there.facts.source == found.facts.source
        if not (same or copied):
            return Passed(found.source, "conflict")
        if there.facts.source == ADOPTED:
            # It lies at its place already, and nobody has said what is known of it.
            self._store.set_facts(found.path, found.facts)
        if same and self._how is How.MOVE and not self._is_at_its_place(found):
            self._leave(found.source)
        return Taken(found.path, None)

    def _is_at_its_place(self, found: Found) -> bool:
        place = self._store.root / os.fsdecode(found.path.encoded)
        return place.name == found.source.name and os.path.samefile(place.parent, found.source.parent)

    def _leave(self, source: Path) -> None:
        """Remove the old name: the new one is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(source)


@contextlib.contextmanager
def _directory_of(path: Path) -> Iterator[int]:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _fill(part: Part, source_fd: int) -> None:
    while data := os.read(source_fd, _COPY_BYTES):
        part.write(data)
