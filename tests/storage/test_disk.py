from __future__ import annotations

import errno
import os
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.disk import Disk, move_new
from tests.storage.support import ScriptedDisk


class MoveNewTests(SynchronousTestCase):
    """A new name, with hard links and without."""

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.fd = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.disk = ScriptedDisk()
        self.write("part", "new")

    def write(self, name: str, content: str) -> None:
        with open(os.path.join(self.directory, name), "w") as file:
            file.write(content)

    def read(self, name: str) -> str:
        with open(os.path.join(self.directory, name)) as file:
            return file.read()

    def move(self) -> None:
        move_new(self.disk, b"part", self.fd, b"final", self.fd)

    def both_ways(self, check: Callable[[], None]) -> None:
        check()
        for code in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            self.write("part", "new")
            self.disk.fail("link", code)
            check()

    def test_moves(self) -> None:
        """The file has the new name, by whichever call."""

        def check() -> None:
            self.move()
            self.assertEqual(self.read("final"), "new")
            os.unlink(os.path.join(self.directory, "final"))

        self.both_ways(check)

    def test_never_overwrites(self) -> None:
        """Whoever has the name keeps it."""
        self.write("final", "old")

        def check() -> None:
            self.assertRaises(FileExistsError, self.move)
            self.assertEqual((self.read("final"), self.read("part")), ("old", "new"))

        self.both_ways(check)

    def test_other_errors(self) -> None:
        """A failing link is not tried as a rename: the disk is ill."""
        self.disk.fail("link", errno.EIO)
        self.assertRaises(OSError, self.move)
        self.assertEqual(os.listdir(self.directory), ["part"])

    def test_neither(self) -> None:
        """Where neither can be had, the error is the rename's."""

        class Poor(Disk):
            def link(self, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
                raise PermissionError(errno.EPERM, "no links")

            def rename_new(self, name: bytes, from_fd: int, new_name: bytes, to_fd: int) -> None:
                raise OSError(errno.EINVAL, "no flags")

        error = self.assertRaises(OSError, move_new, Poor(), b"part", self.fd, b"final", self.fd)
        self.assertEqual(error.errno, errno.EINVAL)
