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

from hmacfs.storage.disk import Disk
from hmacfs.storage.names import MAX_SEGMENTS, SlotPath, bad_name

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
class Identity:
    """What tells a file from another one that takes its path later.

    :ivar size: in bytes.
    :ivar mtime_ns: of its last change, in nanoseconds since the epoch.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@frozen
class Stamp:
    """What changes when anything about a file does.

    :ivar ctime_ns: of the last change of the file, its attributes or its links, in nanoseconds since the epoch.
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


class Tree:
    """The tree below one open directory.

    :param root_fd: ``StoreDir``. Stays the caller's.
    :param own: what fstat says of ``.hmacfs``. It is known by its identity and not by its name alone, because FAT finds
        it under others (``HMACFS~1``).
    """

    def __init__(self, disk: Disk, root_fd: int, own: os.stat_result) -> None:
        self._disk = disk
        self._root_fd = root_fd
        self.know_own(own)

    def know_own(self, own: os.stat_result) -> None:
        """From now on ``.hmacfs`` is that directory."""
        self._own = (own.st_dev, own.st_ino)

    def reach(self, path: SlotPath, last: Callable[[bytes, int], T]) -> T:
        """Call *last* with a path's last segment and the directory that it is in, which is open during the call.

        :raises OSError: what *last* raises; ENOENT or ENOTDIR when a directory isn't there or isn't one.
        """
        fd = self._root_fd
        try:
            for segment in path.segments[:-1]:
                above, fd = fd, os.open(segment, _PASS, dir_fd=fd)
                if above == self._root_fd:
                    self._refuse_own(fd)
                else:
                    os.close(above)
            return last(path.segments[-1], fd)
        finally:
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

    def prune(self, path: SlotPath) -> None:
        """Remove the directories above *path* that are empty, from the last one upwards. Never the root. Blocks.

        Who is just putting a file into one of them is told by ENOENT, and makes it anew.
        """
        above: list[tuple[bytes, int]] = []
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            fd = self._root_fd
            with contextlib.suppress(OSError):
                for name in path.segments[:-1]:
                    below = os.open(name, _PASS, dir_fd=fd)
                    opened.callback(os.close, below)
                    above.append((name, fd))
                    fd = below
            for name, parent_fd in reversed(above):
                self._disk.remove_directory(name, parent_fd)

    def walk(self) -> Iterator[tuple[bytes, Stamp]]:
        """The paths of all regular files, and what lstat says of each, in no order. Blocks at each step.

        What vanishes meanwhile, or can't be read, is left out; what is published meanwhile may be. As many directories
        are open as lie above the file, and no more names are in memory than the kernel hands out at once.
        """
        return self._files(self._root_fd, b".", b"")

    def _files(self, parent_fd: int, name: bytes, prefix: bytes) -> Iterator[tuple[bytes, Stamp]]:
        try:
            fd = os.open(name, _OPEN, dir_fd=parent_fd)
        except OSError:
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield from self._files_of(entry, fd, prefix)
        finally:
            os.close(fd)

    def _files_of(self, entry: os.DirEntry[str], fd: int, prefix: bytes) -> Iterator[tuple[bytes, Stamp]]:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return
        name = os.fsencode(entry.name)
        if stat.S_ISREG(status.st_mode):
            yield prefix + name, Stamp.of(status)
        elif self._is_walked(status, prefix):
            yield from self._files(fd, name, prefix + name + b"/")

    def _is_walked(self, status: os.stat_result, prefix: bytes) -> bool:
        # The limit of depth is the one of paths: nothing further down has a URL.
        is_ours = (status.st_dev, status.st_ino) == self._own
        return stat.S_ISDIR(status.st_mode) and not is_ours and prefix.count(b"/") < MAX_SEGMENTS - 1


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
    :raises Refused: 400 ``bad-name`` when the file system can't have such a name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in IN_THE_WAY:
            raise PathConflict(path) from error
        if error.errno in BAD_NAME:
            raise bad_name("The server's file system can't store a file of this name.") from error
        raise
