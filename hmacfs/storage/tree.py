"""The tree of stored files, entered directory by directory from an open one.

No path is ever given to the kernel as a whole, and no symbolic link is followed: whoever can write into the store may
put links there, but what is read and written through us stays inside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from attrs import frozen

from hmacfs.errors import Refused
from hmacfs.storage.disk import Disk
from hmacfs.storage.names import SlotPath

T = TypeVar("T")

#: Of directories that are made, whatever the umask: the group is for a web server that reads the tree.
DIRECTORY_MODE: Final = 0o750

#: To pass through a directory, and to make something in it last: fsync needs it open for reading.
_PASS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: A symbolic link in the place of a directory is ENOTDIR, in the place of a file ELOOP.
IN_THE_WAY: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

#: Names that this file system can't have: eCryptfs takes 143 bytes, others nothing but UTF-8.
BAD_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})


class PathConflict(Exception):
    """Something is in a path's way: a file in place of a directory, or anything but a file at its end."""

    def __init__(self, path: SlotPath) -> None:
        super().__init__(path.url)
        self.path = path


@frozen
class Usage:
    """What the stored files amount to.

    :ivar size_bytes: their sizes added up, not the blocks that they take.
    """

    files: int
    size_bytes: int


class Tree:
    """The tree below one open directory.

    :param root_fd: ``StoreDir``. Stays the caller's.
    :param own: what fstat says of ``.hmacfs``. It is known by its identity and not by its name alone, because FAT finds
        it under others (``HMACFS~1``).
    """

    def __init__(self, disk: Disk, root_fd: int, own: os.stat_result) -> None:
        self._disk = disk
        self._root_fd = root_fd
        self._own = (own.st_dev, own.st_ino)

    def reach(self, path: SlotPath, last: Callable[[bytes, int], T]) -> T:
        """Call *last* with a path's last segment and the directory that it is in, which is open during the call.

        :raises OSError: what *last* raises; ENOENT or ENOTDIR when a directory isn't there or isn't one.
        """
        fd = self._root_fd
        try:
            for segment in path.segments[:-1]:
                below = os.open(segment, _PASS, dir_fd=fd)
                above, fd = fd, below
                self._leave(above)
                if above == self._root_fd:
                    self._refuse_own(fd)
            return last(path.name, fd)
        finally:
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        if fd != self._root_fd:
            os.close(fd)

    def _refuse_own(self, fd: int) -> None:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == self._own:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    @contextlib.contextmanager
    def grow(self, path: SlotPath) -> Iterator[Branch]:
        """Make the directories above *path* that are missing, and hold them all open meanwhile. Blocks.

        Those that were made go again when the body raises, unless somebody has put something there.

        :raises FileNotFoundError: when one was pruned while we passed through it. Worth another try.
        :raises PathConflict: when a file or a symbolic link has the name of a directory.
        :raises Refused: 400 when the file system can't have such a name.
        """
        branch = Branch(self._disk, [self._root_fd])
        try:
            with readable(path):
                self._extend(branch, path.segments[:-1])
            yield branch
        except BaseException:
            branch.prune()
            raise
        finally:
            branch.close()

    def _extend(self, branch: Branch, directories: Sequence[bytes]) -> None:
        for name in directories:
            fd = branch.extend(name)
            if len(branch.fds) == 2:
                self._refuse_own(fd)

    def usage(self) -> Usage:
        """Count the stored files. Blocks, for seconds where there are millions."""
        files = size_bytes = 0
        for status in self._files(self._root_fd, b"."):
            files += 1
            size_bytes += status.st_size
        return Usage(files, size_bytes)

    def _files(self, parent_fd: int, name: bytes) -> Iterator[os.stat_result]:
        """What lstat says of each regular file in a directory and below it.

        What vanishes meanwhile, or can't be read, isn't counted.
        """
        try:
            fd = os.open(name, _OPEN, dir_fd=parent_fd)
        except OSError:
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield from self._files_of(entry, fd)
        finally:
            os.close(fd)

    def _files_of(self, entry: os.DirEntry[str], fd: int) -> Iterator[os.stat_result]:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return
        if stat.S_ISREG(status.st_mode):
            yield status
        elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) != self._own:
            yield from self._files(fd, os.fsencode(entry.name))


class Branch:
    """The directories from the store's root to where one file goes, held open.

    :ivar fds: the first is the root's and stays the caller's.
    """

    def __init__(self, disk: Disk, fds: list[int]) -> None:
        self._disk = disk
        self.fds = fds
        self._made: list[tuple[bytes, int]] = []

    @property
    def leaf_fd(self) -> int:
        return self.fds[-1]

    def extend(self, name: bytes) -> int:
        """Open the next directory below, and make it if it isn't there."""
        parent_fd = self.leaf_fd
        try:
            fd = os.open(name, _OPEN, dir_fd=parent_fd)
        except FileNotFoundError:
            made = self._make(name, parent_fd)
            fd = os.open(name, _OPEN, dir_fd=parent_fd)
            self.fds.append(fd)
            if made:
                # What a directory inherits from a set-group-ID parent is the operator's will.
                self._disk.set_mode(fd, DIRECTORY_MODE | os.fstat(fd).st_mode & stat.S_ISGID)
        else:
            self.fds.append(fd)
        return fd

    def _make(self, name: bytes, parent_fd: int) -> bool:
        try:
            self._disk.make_directory(name, parent_fd, DIRECTORY_MODE)
        except FileExistsError:
            return False
        self._made.append((name, parent_fd))
        return True

    def sync(self) -> None:
        """Make every entry on the way durable. Blocks.

        Also of the directories that were there: whoever made them a moment ago may not have come so far. The leaf is
        first, because file systems with a journal commit everything at once.
        """
        for fd in reversed(self.fds):
            self._disk.sync(fd)

    def prune(self) -> None:
        """Remove the directories that were made here and are empty."""
        with contextlib.suppress(OSError):
            for name, parent_fd in reversed(self._made):
                self._disk.remove_directory(name, parent_fd)

    def close(self) -> None:
        for fd in self.fds[1:]:
            os.close(fd)


@contextlib.contextmanager
def readable(path: SlotPath) -> Iterator[None]:
    """Turn what the kernel says of *path* itself into what a client can be told.

    :raises PathConflict: when something else is in its way.
    :raises Refused: 400 ``bad-path`` when the file system can't have such a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in IN_THE_WAY:
            raise PathConflict(path) from error
        if error.errno in BAD_NAME:
            raise Refused(400, "bad-path", "The server's file system can't store a file of this name.") from error
        raise
