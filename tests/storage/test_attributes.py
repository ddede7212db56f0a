from __future__ import annotations

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.attributes import attach, attached, detach
from tests.storage.support import ScriptedDisk

NAME = "user.hmacfs.test"


class AttachTests(SynchronousTestCase):
    """Attributes of an open file."""

    def setUp(self) -> None:
        self.disk = ScriptedDisk()
        self.fd = os.open(self.mktemp(), os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, self.fd)

    def test_nothing_attached(self) -> None:
        """No attribute is no error."""
        self.assertIsNone(attached(self.disk, self.fd, NAME))
        detach(self.disk, self.fd, NAME)

    def test_comes_and_goes(self) -> None:
        """Set, set anew, taken away."""
        for value in (b"one", b"another"):
            self.assertTrue(attach(self.disk, self.fd, NAME, value))
            self.assertEqual(attached(self.disk, self.fd, NAME), value)
        detach(self.disk, self.fd, NAME)
        self.assertIsNone(attached(self.disk, self.fd, NAME))

    def test_no_attributes_here(self) -> None:
        """A file system without attributes, or without room for this one, says so in one of several ways."""
        for code in (errno.ENOTSUP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE, errno.ENOSYS):
            self.disk.fail("set_attribute", code)
            self.assertFalse(attach(self.disk, self.fd, NAME, b"{}"))
        for code in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS):
            self.disk.fail("get_attribute", code)
            self.assertIsNone(attached(self.disk, self.fd, NAME))
            self.disk.fail("remove_attribute", code)
            detach(self.disk, self.fd, NAME)

    def test_sick_disk(self) -> None:
        """That a file can't be read doesn't mean that it has no facts: its expiry might be among them."""
        self.disk.fail("get_attribute", errno.EIO)
        self.assertRaises(OSError, attached, self.disk, self.fd, NAME)
        self.disk.fail("set_attribute", errno.EIO)
        self.assertRaises(OSError, attach, self.disk, self.fd, NAME, b"{}")
        self.disk.fail("remove_attribute", errno.EIO)
        self.assertRaises(OSError, detach, self.disk, self.fd, NAME)
