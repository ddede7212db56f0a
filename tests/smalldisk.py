"""A file system of a few megabytes, which a test can fill, make read-only or unmount without harm to anybody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SIZE_BYTES = 48 << 20

_SHARED_MEMORY = Path("/dev/shm")
_SMALL_BYTES = 256 << 20


class SmallDisk:
    """A tmpfs of :data:`SIZE_BYTES`, which takes root to mount; or the memory that a container shares, which is small.

    :param inodes: how many files and directories it takes.
    :param mounted: whether nothing but a tmpfs will do, as for all methods but :meth:`fill`.
    :ivar path: a directory on it.
    :raises OSError: neither is to be had.
    """

    def __init__(self, inodes: int | None = None, *, mounted: bool = False) -> None:
        self._mounted: Path | None = Path(tempfile.mkdtemp(prefix="hmacfs-disk-"))
        self._aside: Path | None = None
        self._limits = f"size={SIZE_BYTES}" + ("" if inodes is None else f",nr_inodes={inodes}")
        if os.geteuid() == 0 and self._mount_new():
            self.path = self._mounted
            return
        self._mounted.rmdir()
        self._mounted = None
        if mounted or inodes is not None or not _is_small(_SHARED_MEMORY):
            raise OSError("a small file system takes root, and the right to mount one")
        self.path = Path(tempfile.mkdtemp(prefix="hmacfs-disk-", dir=_SHARED_MEMORY))

    def close(self) -> None:
        """Everything on it is gone."""
        if self._mounted is None:
            shutil.rmtree(self.path)
            return
        for place in (self._mounted, self._aside):
            if place is not None:
                # Lazily: what a test has left running may still have a file open.
                while os.path.ismount(place):
                    subprocess.run(["umount", "--lazy", str(place)], check=True)
                place.rmdir()

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    @property
    def free_inodes(self) -> int:
        return os.statvfs(self.path).f_favail

    def fill(self, leave_bytes: int = 0) -> Path:
        """Write a file that leaves so much room, give or take a page; remove it to make room again."""
        filler = self.path / "filler"
        with filler.open("wb") as file:
            file.write(bytes(max(0, self.free_bytes - leave_bytes)))
        return filler

    def use_up_inodes(self) -> Path:
        """Make a directory with so many files that not one more can be made; remove it to make room again."""
        directory = self.path / "many"
        directory.mkdir()
        for number in range(self.free_inodes):
            (directory / str(number)).touch()
        return directory

    def read_only(self, yes: bool = True) -> None:
        """Let nothing be written any more, or again. Nobody may have a file open for writing."""
        _run("mount", "-o", "remount,ro" if yes else "remount,rw", str(self.path))

    def cover(self, place: Path, by: Path) -> None:
        """Have a file of another disk in the place of one of this disk."""
        _run("mount", "--bind", str(by), str(place))

    def unmount(self) -> None:
        """Take it away, lazily: who has something of it open doesn't notice. Its files are in :attr:`aside` now."""
        self._aside = self._aside or Path(tempfile.mkdtemp(prefix="hmacfs-disk-"))
        _run("mount", "--bind", str(self.path), str(self._aside))
        _run("umount", "--lazy", str(self.path))

    def mount(self) -> None:
        """Mount it where it was."""
        _run("mount", "--bind", str(self.aside), str(self.path))
        _run("umount", str(self.aside))

    def mount_copy(self) -> None:
        """Mount another one where it was, with copies of its files, as from a backup."""
        if not self._mount_new():
            raise OSError("a second small file system is not to be had")
        # What vanishes meanwhile, as journals of databases do, is in no backup.
        subprocess.run(["cp", "-a", f"{self.aside}/.", str(self.path)], capture_output=True, check=False)

    @property
    def aside(self) -> Path:
        """Where its files are while it is unmounted."""
        assert self._aside is not None
        return self._aside

    def _mount_new(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", self._limits, "hmacfs-test", str(self._mounted)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)


def _is_small(path: Path) -> bool:
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return SIZE_BYTES <= status.f_blocks * status.f_frsize <= _SMALL_BYTES and os.access(path, os.W_OK)


def is_to_be_had() -> bool:
    """Whether a :class:`SmallDisk` can be made here."""
    try:
        SmallDisk().close()
    except OSError:
        return False
    return True


def can_be_mounted() -> bool:
    """Whether it can be one that is mounted."""
    try:
        SmallDisk(mounted=True).close()
    except OSError:
        return False
    return True
