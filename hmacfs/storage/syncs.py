"""Syncs for many uploads at once, so that of sixteen that end together none waits for sixteen flushes in a row.

On file systems of which it is known that one call for all means as much as one for each file, one call does it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Final

from hmacfs.storage.disk import CAN_SYNC_TOGETHER, Disk

#: From so many uploads on, the whole file system is synced, which costs about as much as syncing two of them.
TOGETHER_FROM: Final = 3

#: So much may be dirty on the machine at that time for each upload of the round: one call for all must not wait for
#: somebody else's gigabytes.
DIRTY_PER_UPLOAD_BYTES: Final = 4 * 1024 * 1024

#: File systems whose syncfs(2) ends in the same commit and the same flush of the device's cache as their fsync. On FUSE it
#: doesn't reach the server, and overlays have passed errors over.
_KNOWN: Final = frozenset({"ext4", "xfs"})

#: File systems that have no device, so that there is nothing to wait for.
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

#: Before, syncfs says nothing of bytes that could not be written.
_KERNEL_THAT_REPORTS: Final = (5, 8)


class Syncs:
    """How one store syncs. To be used in threads; several may at once.

    :param root_fd: a directory of the file system. Stays the caller's.
    :param dirty_bytes: how much waits to be written by the machine as a whole.
    :ivar waits: whether a sync waits for a device.
    :ivar gathers: whether it is faster to sync for many uploads in one thread than for each in its own.
    """

    def __init__(self, disk: Disk, root_fd: int, dirty_bytes: Callable[[], float] | None = None) -> None:
        self._disk = disk
        self._root_fd = root_fd
        self._dirty_bytes = dirty_bytes or _dirty_bytes
        self.waits = True
        self.gathers = False
        self.know_file_system()

    def know_file_system(self) -> None:
        """See what can be done on the file system that the directory is on, now that it may be another one."""
        kind = _file_system(self._root_fd)
        self.waits = self._disk.waits and kind not in _IN_MEMORY
        self.gathers = CAN_SYNC_TOGETHER and _reports_errors() and kind in _KNOWN

    def sync(self, fds: Collection[int], uploads: int) -> Mapping[int, OSError]:
        """Make files with their attributes, and entries of directories, survive a power loss. Blocks.

        :param fds: open, in the order in which they are synced if each is by itself.
        :param uploads: how many wait for it.
        :return: those of which it can't be said that they do, and why. As after any failed fsync, another try would
            say nothing about the bytes: see :meth:`hmacfs.storage.parts.Part.sync`.
        """
        if self._is_worth_one_call(uploads):
            return self._sync_together(fds)
        if uploads > 1 and self.gathers:
            # Then the first one's commit has them all.
            self._try_each(self._disk.begin_writing, fds)
        return self._try_each(self._disk.sync, fds)

    def _is_worth_one_call(self, uploads: int) -> bool:
        if not self.gathers or uploads < TOGETHER_FROM:
            return False
        return self._dirty_bytes() <= uploads * DIRTY_PER_UPLOAD_BYTES

    def _sync_together(self, fds: Collection[int]) -> Mapping[int, OSError]:
        try:
            self._disk.sync_file_system(self._root_fd)
        except OSError as error:
            return dict.fromkeys(fds, error)
        # That bytes were lost the kernel says once to each descriptor. Of one of these files, the call before may have
        # been told, or nobody when the kernel wrote it back by itself; the file's own descriptor knows.
        return self._try_each(self._disk.check_written, fds)

    def _try_each(self, call: Callable[[int], None], fds: Iterable[int]) -> Mapping[int, OSError]:
        failed = {}
        for fd in fds:
            try:
                call(fd)
            except OSError as error:
                failed[fd] = error
        return failed


def _reports_errors() -> bool:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return release is not None and (int(release[1]), int(release[2])) >= _KERNEL_THAT_REPORTS


def _file_system(fd: int) -> str | None:
    """The type of the file system that an open file is on; ``None`` where nobody says (proc_pid_mountinfo(5))."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split(" ")[2] == wanted:
            return kind.split(" ")[0]
    return None


def _dirty_bytes() -> float:
    """How much of the machine's page cache waits to be written (proc_meminfo(5))."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return inf
    found = re.search(r"^Dirty:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else inf
