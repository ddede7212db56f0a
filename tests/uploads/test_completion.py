"""The last step of an upload, in which two can meet, and the disk can fail."""

from __future__ import annotations

import errno

from twisted.internet.defer import Deferred

from hmacfs.uploads.exchange import Receipt
from tests.uploads.asking import CONTENT, UploadsTestCase
from tests.uploads.support import begun
from tests.uploads.test_beside import HeldThreads
from tests.web.support import PATH, request, v


class PublishTests(UploadsTestCase):
    """From a part that is whole to a stored file."""

    def raced(self, content: bytes) -> Deferred[Receipt]:
        """An upload that finds, when it is whole, that another slot's upload has had its path since."""
        body, receipt = self.begin(credential=b"1" * 32)
        self.successResultOf(self.put(credential=b"2" * 32, content=content))
        body.send(CONTENT)
        body.end()
        return receipt

    def test_same_file(self) -> None:
        """Nobody need know."""
        receipt = self.successResultOf(self.raced(CONTENT))
        assert receipt.stored is not None
        self.assertEqual((receipt.stored.size, self.own_files("parts")), (100, []))
        self.assertEqual(len(self.server.published), 1)

    def test_other_file(self) -> None:
        """The first one stays."""
        self.assert_refused_with(self.raced(bytes(100)), 409, "conflict")
        self.assertEqual((self.get(PATH), self.own_files("parts")), (bytes(100), []))

    def test_directory(self) -> None:
        """One that appeared in the meantime."""
        body, receipt = self.begin()
        (self.root / PATH).mkdir(parents=True)
        body.send(CONTENT)
        body.end()
        self.assert_refused_with(receipt, 409, "conflict")
        self.assertEqual(self.own_files("parts"), [])

    def test_tried_again(self) -> None:
        """A link that fails for a reason that may pass, while the client waits."""
        for code in (errno.EIO, errno.ESTALE):
            server = self.serve(retries=3)
            body, receipt = self.begin(server, credential=b"%d" % code)
            body.send(CONTENT)
            self.disk.fail("link", code, times=2)
            body.end()
            self.assertNoResult(receipt)
            self.clock.pump([1.0, 1.0])
            self.successResultOf(receipt)
            self.assertEqual((server.retried, self.get(PATH)), (["publish", "publish"], CONTENT))
            (self.root / PATH).unlink()

    def test_last_try(self) -> None:
        """503, and the upload can be gone on with: all of it is here."""
        server = self.serve(retries=2)
        self.disk.fail("link", errno.EIO)
        receipt = self.put(server)
        self.clock.pump([1.0, 1.0])
        refused = self.assert_refused_with(receipt, 503, "unavailable")
        self.assertIn("Retry-After", refused.headers)
        self.assertEqual(self.tree(), [])
        self.disk.before = lambda _method: None
        self.assertEqual(self.offset(server), 100)
        self.successResultOf(self.put(server))

    def test_sync_is_not_tried_again(self) -> None:
        """After a failed fsync the next one says nothing about the bytes: 503, and nothing is published."""
        server = self.serve(retries=3)
        self.disk.fail("sync", errno.EIO, times=1)
        self.assert_refused_with(self.put(server), 503, "unavailable")
        self.assertEqual((server.retried, self.tree()), ([], []))

    def test_after_a_failed_sync(self) -> None:
        """Nothing of what was lost counts as durable; the file can be sent again."""
        server = self.serve(retries=3)
        self.disk.fail("sync", errno.EIO, times=1)
        self.assert_refused_with(self.put(server), 503, "unavailable")
        self.assertIsNone(self.offset(server))
        self.successResultOf(self.put(server))
        self.assertEqual(self.get(PATH), CONTENT)

    def test_newer_request_does_not_stop_it(self) -> None:
        """What is whole is stored; the newer one finds that it is."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        older = self.put(server)
        self.assertTrue(threads.jobs)
        newer_body, newer = self.begin(server)
        self.finish(threads)
        self.successResultOf(older)
        newer_body.send(CONTENT)
        newer_body.end()
        self.finish(threads)
        self.successResultOf(newer)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_client_gone_while_publishing(self) -> None:
        """It is stored nevertheless: the client will ask again."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        wire = server.connect(request("PUT", v(PATH, 100), None, CONTENT))
        wire.vanish()
        self.finish(threads)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_waited_for(self) -> None:
        """Who wants the file of a path waits while it is being published, and no longer."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        completion = server.uploads.completion
        waiting = [begun(completion.publishing(self.path(PATH)))]
        self.put(server)
        waiting.append(begun(completion.publishing(self.path(PATH))))
        self.assertNoResult(waiting[1])
        self.finish(threads)
        waiting.append(begun(completion.publishing(self.path(PATH))))
        self.assertEqual([self.successResultOf(result) for result in waiting], [False, True, False])

    def test_told_when_stored(self) -> None:
        """Once for each file, when it is there."""
        sizes = self.server.published
        self.successResultOf(self.put())
        self.assertEqual([stored.size for stored in sizes], [100])
