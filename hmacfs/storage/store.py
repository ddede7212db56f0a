"""The store: files at rest below ``StoreDir``, and how they get there.

::

    <StoreDir>/<path>               the files, as their URLs name them
    <StoreDir>/.hmacfs/parts/       what has arrived of unfinished uploads
    <StoreDir>/.hmacfs/meta/        facts, where the file system has no extended attributes
    <StoreDir>/.hmacfs/going/       files that are just being deleted

A file appears under its own name at once and whole, with its facts, and never in place of another one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from attrs import define, frozen

from hmacfs.errors import StartError
from hmacfs.storage.attributes import attach, attached, detach
from hmacfs.storage.disk import Disk, heir, move_new
from hmacfs.storage.facts import ATTRIBUTE as FACTS_ATTRIBUTE
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import OWN_DIRECTORY, SlotPath
from hmacfs.storage.parts import Part, Parts, Swept
from hmacfs.storage.place import DIRECTORY, GOING, PARTS, Place, StoreGone, open_own
from hmacfs.storage.sidecars import Sidecars
from hmacfs.storage.syncs import Syncs
from hmacfs.storage.tree import (
    BAD_NAME,
    DIRECTORY_MODE,
    IN_THE_WAY,
    Branch,
    Identity,
    PathConflict,
    Stamp,
    Tree,
    readable,
)

#: Of published files, whatever the umask: the group is for a web server that reads the tree.
FILE_MODE: Final = 0o640

#: How often directories may be pruned under a file that is just being published.
PUBLISH_TRIES: Final = 16

# O_NONBLOCK: a FIFO would be waited on for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: What open says where there is no file to be served: nothing, something else, a socket, a name that can't be.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENXIO}) | IN_THE_WAY | BAD_NAME


class AlreadyStored(Exception):
    """There is a file of this path already. It was left alone."""

    def __init__(self, path: SlotPath) -> None:
        super().__init__(path.url)
        self.path = path


@frozen
class StoredFile:
    """A published file, as it was when it was opened or published.

    :ivar size: in bytes.
    :ivar mtime_ns: of its last change, in nanoseconds since the epoch.
    :ivar inode: its number; with the size and the time it tells two files of one path apart.
    """

    size: int
    mtime_ns: int
    inode: int
    facts: Facts


@frozen
class Removed:
    """A file that was deleted.

    :ivar size: in bytes.
    :ivar freed: how many of them the disk has back, once nobody reads the file any more: none, where it has another
        name (a hard link).
    """

    size: int
    freed: int


@frozen
class OpenFile(StoredFile):
    """A published file, open for reading. Whoever has it closes it; it stays readable when its name is removed.

    :ivar handle: unbuffered. Reading it moves a position that all users of it share: use ``os.pread`` or sendfile on
        :attr:`fd`.
    """

    handle: FileIO

    @property
    def fd(self) -> int:
        """:raises ValueError: once closed."""
        return self.handle.fileno()

    def close(self) -> None:
        """May be called again."""
        self.handle.close()


@frozen
class Publication:
    """What :meth:`Store.publish` is asked for, with the same names."""

    part: Part
    path: SlotPath
    facts: Facts
    mode: int = FILE_MODE


@define
class _Work:
    """How far the publishing of one part has come.

    :ivar beside: encoded facts, where they can't be in the file.
    :ivar status: of the file, once nothing of it changes any more.
    :ivar branch: the directories above it, open, once it has its name there.
    :ivar failure: why it goes no further.
    """

    publication: Publication
    beside: bytes | None = None
    status: os.stat_result | None = None
    branch: Branch | None = None
    failure: Exception | None = None

    @property
    def part(self) -> Part:
        return self.publication.part

    @property
    def path(self) -> SlotPath:
        return self.publication.path

    @property
    def directories(self) -> list[int]:
        """From the one that the file is in up to the root, open."""
        return [] if self.branch is None else self.branch.fds[::-1]

    @property
    def outcome(self) -> StoredFile | Exception:
        if self.failure is not None:
            return self.failure
        assert self.status is not None
        status = self.status
        return StoredFile(status.st_size, status.st_mtime_ns, status.st_ino, self.publication.facts)

    def attempt(self, step: Callable[[_Work], None]) -> None:
        """Go one step on, unless an earlier one has failed."""
        if self.failure is None:
            try:
                step(self)
            except Exception as failure:
                self.failure = failure


class Store:
    """The files below one directory, which is held open.

    The methods say where they may be called: *on the reactor* if they take microseconds from the kernel's caches, *in a
    thread* if they wait for the device or walk directories. All may run in several threads at once, for different
    parts, and several processes may share one store. All raise :class:`OSError` when the disk does (EIO, ENOSPC,
    EACCES, ...).

    :ivar root: as it was given, for messages.
    :ivar has_attributes: whether facts are kept in the files themselves, or in sidecars, as it looked at start.
    """

    def __init__(self, root: Path, root_fd: int, own_fd: int, parts_fd: int, disk: Disk) -> None:
        self.root = root
        self.has_attributes = True
        self._disk = disk
        self._root_fd = root_fd
        self._own_fd = own_fd
        self._parts_fd = parts_fd
        self._place = Place(disk, root, root_fd, own_fd, parts_fd)
        self._tree = Tree(disk, root_fd, os.fstat(own_fd))
        self._parts = Parts(disk, parts_fd)
        self._sidecars = Sidecars(disk, own_fd)
        self._syncs = Syncs(disk, root_fd)

    @property
    def own_directory(self) -> Path:
        """``.hmacfs``, for the databases of others."""
        return self.root / os.fsdecode(OWN_DIRECTORY)

    @classmethod
    def open(cls, root: str | os.PathLike[str], disk: Disk | None = None) -> Store:
        """Open a store, and make it if there is none: before the reactor runs.

        Tries out all that storing a file needs. A full disk is no reason not to start: files can still be served.

        :param root: ``StoreDir``. May be a symbolic link.
        :raises StartError: when it can't be used.
        """
        disk = disk or Disk()
        path = Path(root)
        with contextlib.ExitStack() as opened, _start_errors(path):
            root_fd = _open_root(path, disk)
            opened.callback(os.close, root_fd)
            own_fd = open_own(disk, OWN_DIRECTORY, root_fd)
            opened.callback(os.close, own_fd)
            parts_fd = open_own(disk, PARTS, own_fd)
            opened.callback(os.close, parts_fd)
            os.close(open_own(disk, GOING, own_fd))
            store = cls(path, root_fd, own_fd, parts_fd, disk)
            store._probe_tolerantly()
            opened.pop_all()
        return store

    def close(self) -> None:
        """Let go of the directories. Parts and files that are open stay so, but can't be published any more."""
        for fd in (self._parts_fd, self._own_fd, self._root_fd):
            os.close(fd)

    def look(self, key: bytes) -> bool:
        """See whether files can be stored, and take the store up again if it is back in its place. In a thread.

        :param key: the store's (:func:`hmacfs.uploads.identity.server_key`), by which it is known again.
        :return: whether it was taken up again.
        :raises StoreGone: ``StoreDir`` isn't the store any more.
        :raises OSError: EROFS when the file system has become read-only.
        """
        anew = self._place.take_up(key)
        if anew:
            self._tree.know_own(os.fstat(self._own_fd))
            self._syncs.know_file_system()
        if os.fstatvfs(self._parts_fd).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return anew

    def begin(self, name: str) -> Part:
        """Begin a part file, mode 0600. On the reactor: a journal makes it take up to a millisecond, no fsync is in it.

        It isn't allocated in advance: then its size would say nothing of what has arrived, which resuming relies on,
        and on file systems without extents libc allocates by writing every block.
        :class:`~hmacfs.storage.space.Reservations` see to the room.

        :param name: new in the store: letters, digits, ``.``, ``_`` and ``-``.
        :raises FileExistsError: when there is such a part, or was a moment ago.
        :raises StoreGone: when ``StoreDir`` isn't the store any more.
        """
        self._place.check()
        return self._parts.begin(name)

    def reopen(self, name: str) -> Part:
        """Take up a part that was left. On the reactor.

        Its ``durable_size`` is 0 until it has been synced: who knows better cuts it back to that.

        :raises FileNotFoundError: when it is gone, or published.
        :raises PartBusy: when somebody, here or in another process, has it open.
        :raises StoreGone: as :meth:`begin`.
        """
        self._place.check()
        return self._parts.reopen(name)

    def part_note(self, name: str) -> bytes | None:
        """What is kept with a part (:meth:`Part.set_note`), whoever holds it. On the reactor.

        :return: ``None`` where there is no note, or no part.
        """
        return self._parts.note(name)

    def has_part(self, name: str) -> bool:
        """Whether there is such a part, whoever holds it. On the reactor."""
        return self._parts.has(name)

    def publish(self, part: Part, path: SlotPath, facts: Facts, mode: int = FILE_MODE) -> StoredFile:
        """Give a part its final name. In a thread.

        When it returns, the file, its facts and every directory above it survive a power loss, and the part is closed.
        When it raises, the part stays open: try again, or discard it. After an error of the last sync the file can be
        visible nevertheless, whole and with its facts; the next try finds that it is the same and goes on.

        :param mode: of the file, whatever the umask.
        :raises AlreadyStored: when there is another file of that path.
        :raises PathConflict: when there is something else.
        :raises StoreGone: when ``StoreDir`` isn't the store any more.
        :raises Refused: 400 when the file system can't have such a name.
        """
        (outcome,) = self.publish_all([Publication(part, path, facts, mode)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def publish_all(self, publications: Sequence[Publication]) -> list[StoredFile | Exception]:
        """Give many parts their final names: :meth:`publish` for each, with syncs that they share. In a thread.

        :return: what became of each, in their order.
        """
        works = [_Work(publication) for publication in publications]
        with contextlib.ExitStack() as held:
            for work in works:
                work.attempt(self._prepare)
            self._flush([work for work in works if work.failure is None])
            for work in works:
                work.attempt(lambda work: self._put(work, held))
            self._sync_branches([work for work in works if work.failure is None])
            for work in works:
                work.attempt(self._finish)
        return [work.outcome for work in works]

    @property
    def waits(self) -> bool:
        """Whether :meth:`publish` waits for a device. If not, it may be called on the reactor."""
        return self._syncs.waits

    @property
    def gathers(self) -> bool:
        """Whether it is faster to publish many parts in one thread than each in its own."""
        return self._syncs.gathers

    def _prepare(self, work: _Work) -> None:
        """All that is to be in the file, and durable with its bytes."""
        part = work.part
        self._check_held(part)
        encoded = work.publication.facts.encode()
        # It says how to go on with the upload, which is nobody's business who gets at the file.
        part.drop_note()
        self._disk.set_mode(part.fd, work.publication.mode)
        if not attach(self._disk, part.fd, FACTS_ATTRIBUTE, encoded):
            work.beside = encoded

    def _flush(self, works: Sequence[_Work]) -> None:
        """Make files durable, before anything has their names."""
        failed = self._syncs.sync([work.part.fd for work in works], len(works))
        for work in works:
            work.attempt(lambda work: work.part.sync_all(_told(failed)))

    def _put(self, work: _Work, held: contextlib.ExitStack) -> None:
        """Give a file its name.

        :param held: keeps the directories above it open.
        """
        part, path = work.part, work.path
        work.status = status = os.fstat(part.fd)
        if work.beside is not None:
            self._sidecars.write(path, status, work.beside)
        try:
            work.branch = self._link_below(part, path, status, held)
        except BaseException:
            if work.beside is not None and not self._may_be_visible(path, status):
                self._sidecars.remove(path, status)
            raise

    def _link_below(self, part: Part, path: SlotPath, status: os.stat_result, held: contextlib.ExitStack) -> Branch:
        for _ in range(PUBLISH_TRIES - 1):
            # A sweep prunes empty directories, maybe the very one that we are about to put the file in.
            with contextlib.suppress(FileNotFoundError):
                return self._link_once(part, path, status, held)
        return self._link_once(part, path, status, held)

    def _link_once(self, part: Part, path: SlotPath, status: os.stat_result, held: contextlib.ExitStack) -> Branch:
        with contextlib.ExitStack() as growing:
            branch = growing.enter_context(self._tree.grow(path))
            self._link(part, path, status, branch)
            held.push(growing.pop_all())
        return branch

    def _sync_branches(self, works: Sequence[_Work]) -> None:
        """Make the names durable. A directory that several files have in common is synced once."""
        # A leaf before what is above it, because file systems with a journal commit everything at once.
        fds = dict.fromkeys(fd for work in works for fd in work.directories)
        failed = self._syncs.sync(fds, len(works))
        for work in works:
            work.attempt(lambda work: _raise_first(failed, work.directories))

    def _finish(self, work: _Work) -> None:
        # Whether it is there for others, too.
        self._place.check()
        # What is stored is stored: the second name, if it stays, goes with the next sweep.
        with contextlib.suppress(OSError):
            work.part.discard()

    def _check_held(self, part: Part) -> None:
        """See that the part is the store's: in a copy that has taken the store's place there may be another of its name."""
        self._place.check()
        with contextlib.suppress(FileNotFoundError):
            named = os.stat(part.name, dir_fd=self._parts_fd, follow_symlinks=False)
            if not os.path.samestat(named, os.fstat(part.fd)):
                raise StoreGone(self.root, "it was replaced by a copy while a file was on its way")

    def _link(self, part: Part, path: SlotPath, status: os.stat_result, branch: Branch) -> None:
        try:
            with readable(path):
                move_new(self._disk, os.fsencode(part.name), self._parts_fd, path.name, branch.leaf_fd)
        except (FileExistsError, FileNotFoundError):
            # ENOENT: the directory is pruned, or an earlier try has renamed the part and failed after that.
            there = os.stat(path.name, dir_fd=branch.leaf_fd, follow_symlinks=False)
            if not stat.S_ISREG(there.st_mode):
                raise PathConflict(path) from None
            if not os.path.samestat(there, status):
                raise AlreadyStored(path) from None

    def link_in(self, name: bytes, directory_fd: int, path: SlotPath, facts: Facts) -> StoredFile:
        """Give a file that lies elsewhere on the same file system a name in the store, too. In a thread.

        As durable as the next sync of the file system makes it: whoever links many syncs once. The file gets the mode,
        and from root the owner, of all that is in the store.

        :param name: of the file, in the directory *directory_fd*.
        :raises AlreadyStored: when there is a file of that path.
        :raises PathConflict: when there is something else.
        :raises OSError: EXDEV from another file system, EPERM where there are no hard links.
        """
        fd = os.open(name, _FILE, dir_fd=directory_fd)
        try:
            if not attach(self._disk, fd, FACTS_ATTRIBUTE, facts.encode()):
                self._sidecars.write(path, os.fstat(fd), facts.encode())
            owner = heir(self._root_fd)
            if owner is not None:
                os.fchown(fd, *owner)
            self._disk.set_mode(fd, FILE_MODE)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        with self._tree.grow(path) as branch:
            try:
                self._disk.link(name, directory_fd, path.name, branch.leaf_fd)
            except FileExistsError:
                raise AlreadyStored(path) from None
        return StoredFile(status.st_size, status.st_mtime_ns, status.st_ino, facts)

    def _may_be_visible(self, path: SlotPath, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(self._tree.reach(path, _stat_last), status)
        except OSError as error:
            return error.errno not in _NO_FILE

    def open_file(self, path: SlotPath) -> OpenFile | None:
        """Open a stored file. On the reactor.

        :return: ``None`` where there is no regular file, or where a symbolic link is anywhere on the way.
        """
        try:
            fd = self._tree.reach(path, _open_last)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        found = None
        try:
            found = self._look_at(fd, path)
        finally:
            if found is None:
                os.close(fd)
        return found

    def _look_at(self, fd: int, path: SlotPath) -> OpenFile | None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        facts = self._facts(fd, path, status)
        return OpenFile(status.st_size, status.st_mtime_ns, status.st_ino, facts, FileIO(fd))

    def _facts(self, fd: int, path: SlotPath, status: os.stat_result) -> Facts:
        """A file's facts; guessed if there are none, or none that can be read."""
        encoded = attached(self._disk, fd, FACTS_ATTRIBUTE)
        if encoded is None:
            encoded = self._sidecars.read(path, status)
        facts = None if encoded is None else Facts.decode(encoded)
        return facts or Facts.guessed(path.name, status.st_mtime)

    def check_free(self, path: SlotPath) -> None:
        """Find out, before a body is asked for, whether it could be published under *path*. On the reactor.

        :raises AlreadyStored: when there is a file.
        :raises PathConflict: when something else is in the way.
        :raises Refused: 400 when the file system can't have such a name.
        """
        try:
            with readable(path):
                mode = self._tree.reach(path, _stat_last).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISREG(mode):
            raise AlreadyStored(path)
        raise PathConflict(path)

    def settle(self, path: SlotPath) -> bool:
        """Make sure of a file that is visible, but that another writer may still be syncing. In a thread.

        For the answer to a second, identical upload: its 201 must mean as much as the first one's.

        :return: whether there is such a file.
        """
        self._place.check()
        found = self.open_file(path)
        if found is None:
            return False
        try:
            self._disk.sync(found.fd)
            with self._tree.grow(path) as branch:
                branch.sync()
                # Nothing, unless the file was deleted just now.
                branch.prune()
        finally:
            found.close()
        return True

    def set_facts(self, path: SlotPath, facts: Facts) -> bool:
        """Change what is known of a stored file, durably and all at once. In a thread.

        :return: whether there is such a file.
        """
        found = self.open_file(path)
        if found is None:
            return False
        try:
            self._set_facts(found.fd, path, facts.encode())
        finally:
            found.close()
        return True

    def _set_facts(self, fd: int, path: SlotPath, encoded: bytes) -> None:
        status = os.fstat(fd)
        if attach(self._disk, fd, FACTS_ATTRIBUTE, encoded):
            self._disk.sync(fd)
            self._sidecars.remove(path, status)
        else:
            self._sidecars.write(path, status, encoded)
            # Those in the file, which have no room to grow, would be believed.
            detach(self._disk, fd, FACTS_ATTRIBUTE)

    def delete(self, path: SlotPath, expected: Identity | None = None) -> Removed | None:
        """Delete a file, and the directories above it that are empty then. In a thread.

        Whoever has it open goes on reading it. Killed half-way, it has either done nothing, or the file is gone and
        :meth:`sweep_going` finishes. A power loss within seconds may bring the file back: nothing is synced.

        :param expected: what the caller decided upon. A file that has taken the path since is left alone.
        :return: ``None`` where there is no such file.
        :raises StoreGone: as :meth:`begin`.
        :raises FileExistsError: another file had taken the path at the worst moment, and a third one took it before
            that could be put back.
        """
        self._place.check()
        with self._deleting() as going_fd:
            name = secrets.token_hex(16).encode("ascii")
            status = self._take_away(path, expected, name, going_fd)
            if status is None:
                return None
            self._disk.unlink(name, going_fd)
        self._sidecars.remove(path, status)
        self._tree.prune(path)
        return Removed(status.st_size, status.st_size if status.st_nlink == 1 else 0)

    def _take_away(
        self, path: SlotPath, expected: Identity | None, name: bytes, going_fd: int
    ) -> os.stat_result | None:
        """Move the file to where nobody looks for it, and see then what it was that was moved."""

        def is_meant(status: os.stat_result) -> bool:
            return stat.S_ISREG(status.st_mode) and expected in (None, Identity.of(status))

        def rename(there: bytes, directory_fd: int) -> bool:
            meant = is_meant(_stat_last(there, directory_fd))
            if meant:
                self._disk.rename(there, directory_fd, name, going_fd)
            return meant

        try:
            if not self._tree.reach(path, rename):
                return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        status = _stat_last(name, going_fd)
        if not is_meant(status):
            self._put_back(path, name, going_fd)
            return None
        return status

    def _put_back(self, path: SlotPath, name: bytes, going_fd: int) -> None:
        with self._tree.grow(path) as branch:
            move_new(self._disk, name, going_fd, path.name, branch.leaf_fd)
            branch.sync()
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(name, going_fd)

    @contextlib.contextmanager
    def _deleting(self, how: int = fcntl.LOCK_SH) -> Iterator[int]:
        """Where files are that are being deleted, locked: what is in it while nobody has the lock was left by a crash."""
        going_fd = os.open(GOING, DIRECTORY | os.O_NOFOLLOW, dir_fd=self._own_fd)
        try:
            fcntl.flock(going_fd, how)
            yield going_fd
        finally:
            os.close(going_fd)

    def sweep_going(self) -> int:
        """Finish the deletions that a crash has broken off, unless others are under way. In a thread, or at start.

        :return: how many.
        """
        try:
            with self._deleting(fcntl.LOCK_EX | fcntl.LOCK_NB) as going_fd, os.scandir(going_fd) as entries:
                names = [os.fsencode(entry.name) for entry in entries]
                for name in names:
                    self._disk.unlink(name, going_fd)
        except BlockingIOError:
            return 0
        return len(names)

    def stamp(self, path: SlotPath) -> Stamp | None:
        """What tells whether anything about a stored file has changed; ``None`` where there is none. On the reactor."""
        status = self._status(path)
        return None if status is None else Stamp.of(status)

    def _status(self, path: SlotPath) -> os.stat_result | None:
        try:
            status = self._tree.reach(path, _stat_last)
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        return status if stat.S_ISREG(status.st_mode) else None

    def walk(self) -> Iterator[tuple[bytes, Stamp]]:
        """The stored files, without parts and all that is ours: their paths and stamps, in no order. In a thread.

        Other servers' files may have paths that no URL can have. What is published or deleted meanwhile may be there
        or not.
        """
        return self._tree.walk()

    def sweep_sidecars(self, older_than_s: float, now: float) -> Iterator[bool]:
        """Remove the sidecars of files that were removed or changed behind our back. In a thread, a step at a time.

        :param older_than_s: spares those that were written since so many seconds.
        :param now: in seconds since the epoch.
        :return: for each sidecar whether it was removed.
        """
        return self._sidecars.sweep(self._status, older_than_s, now)

    def free_bytes(self) -> int:
        """What is free on the file system for those who aren't root. On the reactor, but not for every request."""
        status = os.fstatvfs(self._root_fd)
        return status.f_bavail * status.f_frsize

    def total_bytes(self) -> int:
        """The size of the file system. On the reactor, but not for every request."""
        status = os.fstatvfs(self._root_fd)
        return status.f_blocks * status.f_frsize

    def sweep_parts(self, older_than_s: float, now: float, keep: Callable[[str], bool] = lambda _name: False) -> Swept:
        """Remove parts that nobody holds. In a thread, or at start.

        :param older_than_s: spares those that were written to since so many seconds.
        :param now: in seconds since the epoch.
        :param keep: called in the same thread with a part's name; true spares it.
        """
        return self._parts.sweep(older_than_s, now, keep)

    def probe(self) -> None:
        """Store a few bytes, as an upload does, and see whether the file system goes along. In a thread, or at start."""
        part = self.begin(f"probe-{secrets.token_hex(8)}")
        try:
            self._probe_with(part)
        finally:
            part.discard()

    def _probe_tolerantly(self) -> None:
        try:
            self.probe()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def _probe_with(self, part: Part) -> None:
        self.has_attributes = attach(self._disk, part.fd, FACTS_ATTRIBUTE, b"{}")
        part.write(b"probe")
        part.sync()
        published = os.fsencode(part.name) + b"-published"
        move_new(self._disk, os.fsencode(part.name), self._parts_fd, published, self._parts_fd)
        self._disk.unlink(published, self._parts_fd)


def _told(failed: Mapping[int, OSError]) -> Callable[[int], None]:
    """A flush that has been done for many: raises how it has failed for one."""
    return lambda fd: _raise_first(failed, [fd])


def _raise_first(failed: Mapping[int, OSError], fds: Sequence[int]) -> None:
    for fd in fds:
        if fd in failed:
            # Not the same one for all: each has a traceback of its own.
            raise OSError(failed[fd].errno, failed[fd].strerror) from failed[fd]


def _open_last(name: bytes, directory_fd: int) -> int:
    return os.open(name, _FILE, dir_fd=directory_fd)


def _stat_last(name: bytes, directory_fd: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)


def _open_root(path: Path, disk: Disk) -> int:
    try:
        return os.open(path, DIRECTORY)
    except FileNotFoundError:
        parent_fd = _open_root(path.absolute().parent, disk)
    try:
        with contextlib.suppress(FileExistsError):
            disk.make_directory(os.fsencode(path.absolute().name), parent_fd, DIRECTORY_MODE)
        fd = os.open(path, DIRECTORY)
        disk.set_mode(fd, DIRECTORY_MODE)
        disk.sync(parent_fd)
        return fd
    finally:
        os.close(parent_fd)


@contextlib.contextmanager
def _start_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"StoreDir {path}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what}. It must belong to the user that hmacfs runs as, and be writable."
    if error.errno in IN_THE_WAY:
        return f"{what}. It, and .hmacfs in it, must be directories."
    if error.errno == errno.EROFS:
        return f"{what}. It is where uploads are written; mount it read-write."
    if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
        return f"{what}. Its file system lacks something that storing a file safely needs: use another one."
    return f"{what}."
