"""What a client is told when a call of the system fails."""

from __future__ import annotations

import errno
import os

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.failures import storage_refusal


class RefusalTests(SynchronousTestCase):
    """From an error to an answer and a line."""

    def refused(self, code: int) -> tuple[int, str, str]:
        """Status, reason, and what is logged."""
        events: list[dict[str, object]] = []
        refused = storage_refusal(OSError(code, os.strerror(code), "a path"), Logger(observer=events.append))
        self.assertGreater(int(refused.headers["Retry-After"]), 0)
        [event] = events
        return refused.status, refused.reason, str(event["seldom"])

    def test_no_room(self) -> None:
        """No space, no inodes, no quota: 507."""
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.assertEqual(self.refused(code), (507, "no-space", errno.errorcode[code]))

    def test_no_descriptors(self) -> None:
        """Nothing that the operator's disk could do anything about."""
        for code in (errno.EMFILE, errno.ENFILE):
            self.assertEqual(self.refused(code), (503, "unavailable", errno.errorcode[code]))

    def test_may_pass(self) -> None:
        """What was tried again in vain."""
        for code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
            self.assertEqual(self.refused(code), (503, "unavailable", errno.errorcode[code]))

    def test_out_of_order(self) -> None:
        """What somebody must mend."""
        for code in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENOTCONN, errno.EUCLEAN):
            self.assertEqual(self.refused(code), (503, "storage", errno.errorcode[code]))

    def test_fault(self) -> None:
        """What no disk says to who asks it the right thing is raised again: there is to be a traceback."""
        for error in (OSError(errno.EBADF, "x"), OSError("without a number")):
            self.assertRaises(OSError, storage_refusal, error, Logger())
