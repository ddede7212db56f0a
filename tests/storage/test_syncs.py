"""Tests for :mod:`hmacfs.storage.syncs`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage import syncs
from hmacfs.storage.syncs import DIRTY_PER_UPLOAD_BYTES, TOGETHER_FROM, Syncs
from tests.storage.support import ScriptedDisk, StoreTestCase


class SyncsTestCase(StoreTestCase):
    """A store on a file system of a kind that the test picks, and files that wait for a sync."""

    file_system = "ext4"
    release = "6.1.0-18-amd64"

    def setUp(self) -> None:
        super().setUp()
        self.dirty_bytes = 0
        self.patch(syncs, "_file_system", lambda _fd: self.file_system)
        self.patch(os, "uname", lambda: os.uname_result(("Linux", "host", self.release, "", "x86_64")))
        self.disk = ScriptedDisk()
        self.fds = [self.open(f"file{number}") for number in range(TOGETHER_FROM)]

    def open(self, name: str) -> int:
        fd = os.open(self.root / name, os.O_CREAT | os.O_RDWR)
        self.addCleanup(os.close, fd)
        return fd

    def sync(self, uploads: int = TOGETHER_FROM) -> dict[int, int | None]:
        """Sync the files; which of them failed, with their error numbers."""
        shared = Syncs(self.disk, self.fds[0], lambda: self.dirty_bytes)
        failed = shared.sync(self.fds, uploads)
        return {fd: error.errno for fd, error in failed.items()}

    def methods(self) -> list[str]:
        return [method for method, _path in self.disk.calls]


class SyncsTests(SyncsTestCase):
    """One call for many, or one for each."""

    def test_many(self) -> None:
        """One call makes all durable; each file is only asked whether it had lost bytes."""
        self.assertEqual(self.sync(), {})
        self.assertEqual(self.methods(), ["sync_file_system"] + ["check_written"] * len(self.fds))

    def test_few(self) -> None:
        """The whole file system is more than two files."""
        self.assertEqual(self.sync(TOGETHER_FROM - 1), {})
        self.assertEqual([method for method in self.methods() if method.startswith("sync")], ["sync"] * len(self.fds))

    def test_others_write_much(self) -> None:
        """Nobody waits for gigabytes that aren't his."""
        self.dirty_bytes = TOGETHER_FROM * DIRTY_PER_UPLOAD_BYTES + 1
        self.sync()
        self.assertNotIn("sync_file_system", self.methods())
        self.assertEqual(self.methods().count("sync"), len(self.fds))

    def test_all_are_on_their_way_before_the_first_is_waited_for(self) -> None:
        """So that the first commit has them all."""
        self.sync(TOGETHER_FROM - 1)
        self.assertEqual(self.methods(), ["begin_writing"] * len(self.fds) + ["sync"] * len(self.fds))

    def test_unknown_file_system(self) -> None:
        """Of FUSE, overlays and whatever else syncfs promises nothing."""
        self.file_system = "fuse.sshfs"
        self.sync()
        self.assertEqual(self.methods(), ["sync"] * len(self.fds))

    def test_old_kernel(self) -> None:
        """Before Linux 5.8 it says nothing of lost bytes."""
        self.release = "5.7.19"
        self.sync()
        self.assertEqual(self.methods(), ["sync"] * len(self.fds))

    def test_error_of_the_one_call(self) -> None:
        """It is everybody's."""
        self.disk.fail("sync_file_system", errno.EIO)
        self.assertEqual(self.sync(), dict.fromkeys(self.fds, errno.EIO))

    def test_error_that_somebody_else_was_told(self) -> None:
        """A file whose bytes were lost before the call, which has succeeded, is not taken for durable."""
        self.disk.fail("check_written", errno.EIO, times=1)
        self.assertEqual(self.sync(), {self.fds[0]: errno.EIO})

    def test_error_of_one(self) -> None:
        """Where each is synced by itself, the others are durable."""
        self.disk.fail("sync", errno.EIO, times=1)
        self.assertEqual(self.sync(1), {self.fds[0]: errno.EIO})
        self.assertEqual(self.methods().count("sync"), len(self.fds))


class MachineTests(SynchronousTestCase):
    """What the machine says of itself."""

    def test_dirty_bytes(self) -> None:
        """The kernel's own count."""
        self.patch(Path, "read_text", lambda _path: "MemFree: 1 kB\nDirty:    4096 kB\nWriteback: 7 kB\n")
        self.assertEqual(syncs._dirty_bytes(), 4 * 1024 * 1024)

    def test_dirty_bytes_unknown(self) -> None:
        """Where nobody counts, too much is."""
        self.patch(Path, "read_text", lambda _path: "")
        self.assertGreater(syncs._dirty_bytes(), 1e18)

    def test_file_system(self) -> None:
        """Its type is that of the mount that has the file's device number, whatever stands before it in the line."""
        device = os.stat("/").st_dev
        lines = (
            "21 1 0:20 / /proc rw,relatime shared:5 - proc proc rw\n"
            f"29 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 master:2 - xfs /dev/sda1 rw\n"
        )
        self.patch(Path, "read_text", lambda _path, **_how: lines)
        fd = os.open("/", os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.assertEqual(syncs._file_system(fd), "xfs")

    def test_file_system_that_nobody_knows(self) -> None:
        """As in a container that hides its mounts."""
        self.patch(Path, "read_text", lambda _path, **_how: "")
        fd = os.open("/", os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.assertIsNone(syncs._file_system(fd))
