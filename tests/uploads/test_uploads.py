"""From an authorized request to a stored file: requests with a slot, and what becomes of them all."""

from __future__ import annotations

import errno

from attrs import evolve

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.facts import Facts
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.uploads import Uploads
from tests.descriptors import none_left_open
from tests.uploads.asking import CONTENT, UploadsTestCase
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.uploads.test_plan import asked
from tests.web.support import NOW, PATH


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


class BegunTests(UploadsTestCase):
    """Who shows a credential that began an upload."""

    def begun(self, uploads: Uploads, credential: bytes = b"s" * 32) -> Slot | None:
        return self.successResultOf(begun(uploads.begun(self.path(PATH), credential)))

    def test_begun(self) -> None:
        """All of its slot is known."""
        self.broken()
        self.assertEqual(self.begun(self.server.uploads), evolve(self.slot(), scheme="begun"))

    def test_not_begun(self) -> None:
        self.assertIsNone(self.begun(self.server.uploads))

    def test_other_credential(self) -> None:
        self.broken()
        self.assertIsNone(self.begun(self.server.uploads, b"t" * 32))

    def test_without_attributes(self) -> None:
        """Where the part can't have a note the state store is asked."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.broken()
        slot = self.begun(self.server.uploads)
        self.assertEqual(slot, evolve(self.slot(), scheme="begun"))

    def test_without_either(self) -> None:
        """503: it may well have begun."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.broken()
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
