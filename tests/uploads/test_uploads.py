"""From an authorized request to a stored file, where that takes more than one party: two uploads, a thread, a disk."""

from __future__ import annotations

import errno

from attrs import evolve
from twisted.internet.defer import Deferred

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.facts import Facts
from hmacfs.storage.store import Store
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.state import Status
from hmacfs.uploads.upload import CHECKPOINT_S
from hmacfs.uploads.uploads import Hooks, Receipt, Uploads
from tests.descriptors import none_left_open
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.uploads.test_plan import asked
from tests.web.support import NOW, PATH, Server, ServerTestCase, request, v

CONTENT = bytes(range(100))


class UploadsTestCase(ServerTestCase):
    """Uploads, asked without HTTP. Every path has one slot for each *credential*."""

    def setUp(self) -> None:
        super().setUp()
        self.tokens: list[str] = []

    def slot(self, credential: bytes = b"s" * 32) -> Slot:
        return Slot(self.path(PATH), 100, "image/jpeg", "alice@example.org", NOW + 900, "v", credential)

    def hooks(self) -> Hooks:
        return Hooks(named=lambda token, _name: self.tokens.append(token))

    def begin(
        self, server: Server | None = None, credential: bytes = b"s" * 32, length: int | None = 100, **headers: bytes
    ) -> tuple[Body, Deferred[Receipt]]:
        """An upload whose body the test sends."""
        body = Body()
        uploads = (server or self.server).uploads
        return body, begun(uploads.receive(self.slot(credential), asked(length, **headers), body, self.hooks()))

    def put(  # type: ignore[override]
        self, server: Server | None = None, content: bytes = CONTENT, credential: bytes = b"s" * 32
    ) -> Deferred[Receipt]:
        """A whole one."""
        body, receipt = self.begin(server, credential)
        body.send(content)
        body.end()
        return receipt

    def assert_refused_with(self, receipt: Deferred[Receipt], status: int, reason: str) -> Refused:
        refused = self.failureResultOf(receipt, Refused).value
        assert isinstance(refused, Refused)
        self.assertEqual((refused.status, refused.reason), (status, reason))
        return refused

    def finish(self, threads: HeldThreads) -> None:
        """Let all jobs run, and those that come of them."""
        while threads.jobs:
            threads.finish()


class ReceiveTests(UploadsTestCase):
    """One upload."""

    def test_receipt(self) -> None:
        """What it came to; and the file with all that the slot says."""
        receipt = self.successResultOf(self.put())
        self.assertEqual((receipt.offset, receipt.total, receipt.resumed_at), (100, 100, None))
        facts = self.facts(PATH)
        assert receipt.stored is not None
        self.assertEqual(receipt.stored.facts, facts)
        self.assertEqual(facts, Facts("image/jpeg", receipt.stored.facts.sha256, "alice@example.org", NOW + 900, NOW))

    def test_short_upload_needs_no_state(self) -> None:
        """One that is over within a second never troubles the state store: it asks it for nothing, and tells it nothing."""
        calls: list[str] = []
        self.server.state.before = calls.append
        self.successResultOf(self.put())
        self.assertEqual(calls, [])

    def test_longer_upload_is_recorded(self) -> None:
        """With what is durable of it."""
        body, receipt = self.begin()
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        (record,) = self.successResultOf(self.server.state.unfinished()).records
        self.assertEqual((record.offset, record.total, record.path), (40, 100, PATH.encode()))
        body.send(CONTENT[40:])
        body.end()
        self.successResultOf(receipt)
        counts = self.successResultOf(self.server.state.counts())
        self.assertEqual((counts[Status.ACTIVE], counts[Status.COMPLETE]), (0, 1))

    def test_no_size(self) -> None:
        """A signature that says none, on a request that says none."""
        uploads = self.server.uploads
        receipt = begun(uploads.receive(evolve(self.slot(), size=None), asked(None), Body(), self.hooks()))
        self.assert_refused_with(receipt, 411, "length-required")

    def test_counted(self) -> None:
        """As one that writes, until it is over however that is."""
        body, receipt = self.begin()
        self.assertEqual(len(self.server.uploads), 1)
        body.end()
        self.assert_refused_with(receipt, 400, "short-body")
        self.assertEqual(len(self.server.uploads), 0)


class PublishTests(UploadsTestCase):
    """The last step, in which two uploads can meet, and the disk can fail."""

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
        progress = self.successResultOf(begun(server.uploads.progress(self.path(PATH), b"s" * 32)))
        assert progress is not None
        self.assertEqual(progress.offset, 100)
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
        progress = self.successResultOf(begun(server.uploads.progress(self.path(PATH), b"s" * 32)))
        self.assertEqual(progress, None)
        self.successResultOf(self.put(server))
        self.assertEqual(self.get(PATH), CONTENT)

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
        progress = self.successResultOf(begun(server.uploads.progress(self.path(PATH), b"s" * 32)))
        assert progress is not None
        self.assertEqual(progress.offset, 40)

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

    def test_told_when_stored(self) -> None:
        """Once for each file, when it is there."""
        sizes = self.server.published
        self.successResultOf(self.put())
        self.assertEqual([stored.size for stored in sizes], [100])


class SupersededTests(UploadsTestCase):
    """A newer request for the same upload."""

    def test_waits_for_the_older_one_to_settle(self) -> None:
        """While a thread still writes its bytes nobody else may touch the part."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        older_body, older = self.begin(server)
        older_body.send(CONTENT[:40])
        newer_body, newer = self.begin(server)
        self.assertNoResult(older)
        self.assertFalse(newer_body.wanted)
        self.finish(threads)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT)
        newer_body.end()
        self.finish(threads)
        self.successResultOf(newer)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_in_another_process(self) -> None:
        """A process that has the upload is asked through the state store, and lets go."""
        body, older = self.begin()
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        other = self.another_process()
        newer_body, newer = self.begin(other)
        self.clock.pump([0.1] * 10)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT)
        newer_body.end()
        self.successResultOf(newer)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_in_another_process_before_its_first_checkpoint(self) -> None:
        """It is asked as soon as it can be."""
        body, older = self.begin()
        body.send(CONTENT[:40])
        newer_body, newer = self.begin(self.another_process())
        self.clock.pump([0.1] * 30)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT)
        newer_body.end()
        self.successResultOf(newer)

    def another_process(self) -> Server:
        store: Store = self.open_store()
        return self.serve(store)


class BegunTests(UploadsTestCase):
    """Who shows a credential that began an upload."""

    def begun(self, uploads: Uploads, credential: bytes = b"s" * 32) -> Slot | None:
        return self.successResultOf(begun(uploads.begun(self.path(PATH), credential)))

    def broken(self, server: Server) -> None:
        body, receipt = self.begin(server)
        body.send(CONTENT[:40])
        body.end(KeyError())
        self.failureResultOf(receipt, KeyError)

    def test_begun(self) -> None:
        """All of its slot is known."""
        self.broken(self.server)
        self.assertEqual(self.begun(self.server.uploads), evolve(self.slot(), scheme="begun"))

    def test_not_begun(self) -> None:
        self.assertIsNone(self.begun(self.server.uploads))

    def test_other_credential(self) -> None:
        self.broken(self.server)
        self.assertIsNone(self.begun(self.server.uploads, b"t" * 32))

    def test_without_attributes(self) -> None:
        """Where the part can't have a note the state store is asked."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.broken(self.server)
        slot = self.begun(self.server.uploads)
        self.assertEqual(slot, evolve(self.slot(), scheme="begun"))

    def test_without_either(self) -> None:
        """503: it may well have begun."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.broken(self.server)
        self.server.state.away = True
        asking = begun(self.server.uploads.begun(self.path(PATH), b"s" * 32))
        self.assertEqual(self.failureResultOf(asking, Refused).value.args[:2], (503, "unavailable"))

    def test_stored(self) -> None:
        """What is over is no upload that could go on."""
        self.successResultOf(self.put())
        self.assertIsNone(self.begun(self.server.uploads))


class DescriptorTests(UploadsTestCase):
    """Whatever comes of an upload, nothing stays open or locked."""

    def test_parts(self) -> None:
        """Another process could have every part that is left."""
        body, short = self.begin(credential=b"2" * 32)
        body.send(CONTENT[:10])
        body.end()
        self.assert_refused_with(short, 400, "short-body")
        gap = begun(self.server.uploads.receive(self.slot(b"2" * 32), asked(5), Body(), self.hooks()))
        self.assert_refused_with(gap, 409, "offset-mismatch")
        self.put()
        self.put()
        self.assert_refused_with(self.put(content=bytes(100)), 409, "conflict")
        (left,) = self.own_files("parts")
        self.open_store().reopen(left.name).close()
        self.assertEqual(len(self.server.uploads), 0)

    def test_descriptors(self) -> None:
        self.successResultOf(self.server.state.counts())  # opens the database
        with none_left_open(self):
            for number in range(3):
                self.put(credential=b"%d" % number * 32)
            body, broken = self.begin(credential=b"3" * 32)
            body.end(KeyError())
            self.failureResultOf(broken, KeyError)
            self.successResultOf(begun(self.server.uploads.progress(self.path("a/b"), b"")))
