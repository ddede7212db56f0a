"""A file system of a few megabytes, which a test can fill without harm to anybody else."""

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

    :ivar path: a directory on it.
    :raises OSError: neither is to be had.
    """

    def __init__(self) -> None:
        self._mounted: Path | None = Path(tempfile.mkdtemp(prefix="hmacfs-disk-"))
        options = ["-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "hmacfs-test", str(self._mounted)]
        if os.geteuid() == 0 and subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0:
            self.path = self._mounted
            return
        self._mounted.rmdir()
        self._mounted = None
        if not _is_small(_SHARED_MEMORY):
            raise OSError("a small file system takes root, and the right to mount one")
        self.path = Path(tempfile.mkdtemp(prefix="hmacfs-disk-", dir=_SHARED_MEMORY))

    def close(self) -> None:
        """Everything on it is gone."""
        if self._mounted is None:
            shutil.rmtree(self.path)
        else:
            # Lazily: what a test has left running may still have a file open.
            subprocess.run(["umount", "--lazy", str(self._mounted)], check=True)
            self._mounted.rmdir()

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave_bytes: int = 0) -> Path:
        """Write a file that leaves so much room, give or take a page; remove it to make room again."""
        filler = self.path / "filler"
        with filler.open("wb") as file:
            file.write(bytes(max(0, self.free_bytes - leave_bytes)))
        return filler


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
