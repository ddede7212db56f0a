from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

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


class HeirTests(SynchronousTestCase):
    """Root, in a directory of somebody else."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.given: list[tuple[int, int]] = []
        self.patch(os, "geteuid", lambda: 0)
        self.patch(os, "fchown", lambda _fd, user, group: self.given.append((user, group)))
        self.patch(os, "chown", lambda _name, user, group, **_: self.given.append((user, group)))
        self.patch(os, "stat", self.owned_by(1234, 5678))

    def owned_by(self, user: int, group: int) -> Callable[..., os.stat_result]:
        real = os.stat(self.directory)
        status = os.stat_result((*real[:4], user, group, *real[6:10]))
        return lambda *_args, **_named: status

    def make(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        os.close(Disk().create(b"file", fd, os.O_WRONLY))
        Disk().make_directory(b"below", fd, 0o700)

    def test_given_away(self) -> None:
        """Files and directories belong to whoever has the directory."""
        self.make()
        self.assertEqual(self.given, [(1234, 5678)] * 2)

    def test_root_s_own(self) -> None:
        self.patch(os, "stat", self.owned_by(0, 0))
        self.make()
        self.assertEqual(self.given, [])

    def test_everybody_else(self) -> None:
        """Who isn't root can't give anything away, and doesn't try."""
        self.patch(os, "geteuid", lambda: 1000)
        self.make()
        self.assertEqual(self.given, [])
