"""The body of a request on its way into a part: what is durable of it, what is verified, and what is kept."""

from __future__ import annotations

import errno
import hashlib

from hmacfs.uploads.digests import Digest, StatedDigests
from hmacfs.uploads.upload import CHECKPOINT_S
from tests.uploads.asking import CONTENT, OngoingTestCase, UploadsTestCase, going_on
from tests.uploads.support import begun


def sha256(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).digest())


class BrokenTests(UploadsTestCase):
    """The body doesn't come to its end."""

    def test_kept(self) -> None:
        """What has arrived, for the next request."""
        self.broken(arrived=40)
        self.assertEqual(self.offset(), 40)

    def test_nothing_arrived(self) -> None:
        """Then nothing is left."""
        self.broken(arrived=0)
        self.assertEqual((self.offset(), self.own_files("parts")), (None, []))

    def test_checkpoint_fails(self) -> None:
        """The sync of a checkpoint is one as well: what is durable stays, the rest has to be sent again."""
        server = self.serve(retries=3)
        body, receipt = self.begin(server)
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        self.disk.fail("sync_data", errno.EIO, times=1)
        body.send(CONTENT[40:70])
        self.clock.advance(CHECKPOINT_S)
        self.assert_refused_with(receipt, 503, "unavailable")
        self.assertEqual(self.offset(server), 40)

    def test_no_room(self) -> None:
        """A part that fills the disk is not kept for anybody."""
        body, receipt = self.begin()
        body.send(CONTENT[:40])
        self.disk.fail("write", errno.ENOSPC)
        body.send(CONTENT[40:])
        self.assert_refused_with(receipt, 507, "no-space")
        self.assertEqual(self.own_files("parts"), [])


class VerifiedTests(OngoingTestCase):
    """What the request states of its bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.created()

    def test_durable(self) -> None:
        """Who wants to hear how far the file is durable hears it while the body arrives."""
        body, receipt = self.appending(self.name, going_on(100))
        self.heard.clear()
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        self.assertEqual(self.heard, [40])
        body.send(CONTENT[40:])
        body.end()
        self.successResultOf(receipt)

    def test_digest_of_the_body(self) -> None:
        """Is one of the body, even if that is the whole file: it costs the body and not the upload."""
        wrong = StatedDigests(content=(sha256(b"x"),))
        self.assert_refused_with(self.append(self.name, going_on(100, 0, wrong), CONTENT), 400, "digest-mismatch")
        self.assertEqual(self.look(self.name).offset, 0)
        self.assertIsNotNone(self.appended(self.name, 0, 100).stored)

    def test_digest_of_the_file(self) -> None:
        """Costs the upload."""
        wrong = StatedDigests(representation=(sha256(b"x"),))
        self.assert_refused_with(self.append(self.name, going_on(100, 0, wrong), CONTENT), 400, "digest-mismatch")
        self.assert_refused_with(begun(self.server.uploads.ongoing.look(self.name)), 410, "upload-gone")
