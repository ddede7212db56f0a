"""What a request brings of a file that isn't stored yet: when an upload is recorded, and how it begins."""

from __future__ import annotations

from hmacfs.uploads.state import Status
from hmacfs.uploads.upload import CHECKPOINT_S
from tests.uploads.asking import CONTENT, OngoingTestCase, UploadsTestCase, going_on
from tests.uploads.support import begun
from tests.web.support import PATH, TTL_S


class RecordTests(UploadsTestCase):
    """Whether the state store hears of an upload."""

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


class CreationTests(OngoingTestCase):
    """An upload begins."""

    def test_recorded(self) -> None:
        """At once, so that it can be asked about after whatever may happen."""
        name = self.created()
        record = self.successResultOf(self.server.state.get(name.uid))
        self.assertEqual((record.status, record.offset, record.generation), (Status.ACTIVE, 0, name.generation))
        self.assertEqual(self.look(name, self.another_process()).offset, 0)

    def test_named_before_its_body(self) -> None:
        """The client can be told where its upload is while it still sends."""
        body, receipt = self.creating(100)
        (name,) = self.heard
        self.assertTrue(body.wanted)
        body.send(CONTENT)
        body.end()
        self.assertEqual(self.successResultOf(receipt).name, name)

    def test_next_generation(self) -> None:
        """A new one has a new name, whatever became of the one before."""
        names = [self.created()]
        self.appended(names[-1], 0, 40)
        names.append(self.created())
        self.appended(names[-1], 0, 100)
        self.server.store.delete(self.path(PATH))
        names.append(self.created())
        (part,) = self.own_files("parts")
        part.unlink()
        names.append(self.created())
        first = names[0].generation
        self.assertEqual([name.generation - first for name in names], [0, 1, 2, 3])
        for name in names[:-1]:
            self.assert_refused_with(begun(self.server.uploads.ongoing.look(name)), 410, "upload-gone")
        self.assertEqual(self.look(names[-1]).offset, 0)

    def test_not_the_last(self) -> None:
        """A body that isn't the last is never published, even if it is all of the file; an empty one that is does it."""
        body, receipt = self.creating(100, last=False)
        body.send(CONTENT)
        body.end()
        result = self.successResultOf(receipt)
        self.assertEqual((result.offset, result.stored, self.tree()), (100, None, []))
        assert result.name is not None
        self.assertIsNotNone(self.look(result.name).expires)
        last = self.successResultOf(self.append(result.name, going_on(0, 100, last=True)))
        self.assertIsNotNone(last.stored)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_expiry_is_told(self) -> None:
        receipt = self.successResultOf(self.creating()[1])
        self.assertEqual(receipt.expires, self.clock.seconds() + TTL_S)

    def test_without_attributes(self) -> None:
        """The state store knows all that a part's note would."""
        self.disk.fail("set_attribute", 95)
        name = self.created()
        self.appended(name, 0, 40)
        self.assertEqual(self.look(name).offset, 40)
        self.assertIsNotNone(self.appended(name, 40, 100).stored)
