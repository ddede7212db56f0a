"""Uploads that are gone on with by their names, strictly where they are: what the dialects beside PUT stand on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from hmacfs.uploads.digests import Digest, StatedDigests
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.request import Append, UploadRequest
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.state import Status
from hmacfs.uploads.upload import CHECKPOINT_S
from hmacfs.uploads.uploads import Hooks, Progress, Receipt, Uploads
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.uploads.test_redisstate import RedisCase
from tests.web.support import NOW, PATH, TTL_S, Server, ServerTestCase

CONTENT = bytes(range(100))
SIZE = len(CONTENT)


def asked(length: int | None, offset: int = 0, digests: StatedDigests | None = None, **append: Any) -> UploadRequest:
    return UploadRequest(length, None, None, digests or StatedDigests(), Append(offset, **append))


def sha256(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).digest())


class OngoingTestCase(ServerTestCase):
    """One slot, and uploads to it.

    :ivar heard: what hooks were called with.
    """

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[object] = []

    def slot(self) -> Slot:
        return Slot(self.path(PATH), SIZE, "image/jpeg", "alice@example.org", NOW + 900, "v", b"s" * 32)

    def hooks(self) -> Hooks:
        return Hooks(named=lambda _token, name: self.heard.append(name), durable=self.heard.append)

    def creating(
        self, length: int | None = 0, server: Server | None = None, **append: Any
    ) -> tuple[Body, Deferred[Receipt]]:
        body = Body()
        uploads = (server or self.server).uploads
        request = asked(length, creates=True, **append)
        return body, begun(uploads.receive(self.slot(), request, body if length != 0 else None, self.hooks()))

    def created(self, server: Server | None = None) -> UploadName:
        """The name of a new upload without a byte."""
        name = self.successResultOf(self.creating(server=server)[1]).name
        assert name is not None
        return name

    def appending(
        self, name: UploadName, request: UploadRequest, server: Server | None = None
    ) -> tuple[Body, Deferred[Receipt]]:
        body = Body()
        return body, begun((server or self.server).uploads.append(name, request, body, self.hooks()))

    def append(self, name: UploadName, request: UploadRequest, *content: bytes) -> Deferred[Receipt]:
        """One whole body."""
        body, receipt = self.appending(name, request)
        if body.wanted:
            body.send(*content)
            body.end()
        return receipt

    def appended(self, name: UploadName, start: int, end: int) -> Receipt:
        return self.successResultOf(self.append(name, asked(end - start, start), CONTENT[start:end]))

    def look(self, name: UploadName, server: Server | None = None) -> Progress:
        return self.successResultOf(begun((server or self.server).uploads.look(name)))

    def assert_refused_with(self, result: Deferred[Any], status: int, reason: str) -> None:
        refused = self.failureResultOf(result, Refused).value
        assert isinstance(refused, Refused)
        self.assertEqual((refused.status, refused.reason), (status, reason))

    def another_process(self, **settings: Any) -> Server:
        store: Store = self.open_store()
        return self.serve(store, **settings)


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
            self.assert_refused_with(begun(self.server.uploads.look(name)), 410, "upload-gone")
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
        last = self.successResultOf(self.append(result.name, asked(0, 100, last=True)))
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


class AppendTests(OngoingTestCase):
    """Bytes come."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.created()

    def test_last_and_short(self) -> None:
        """A body that claims to end the file has to."""
        self.assert_refused_with(self.append(self.name, asked(50, 0, last=True)), 413, "size-mismatch")
        short = self.append(self.name, asked(None, 0, last=True), CONTENT[:50])
        self.assert_refused_with(short, 400, "short-body")
        self.assertEqual(self.look(self.name).offset, 50)

    def test_another_total(self) -> None:
        self.assert_refused_with(self.append(self.name, asked(50, 0, total=101)), 413, "size-mismatch")

    def test_durable(self) -> None:
        """Who wants to hear how far the file is durable hears it while the body arrives."""
        body, receipt = self.appending(self.name, asked(100))
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
        self.assert_refused_with(self.append(self.name, asked(100, 0, wrong), CONTENT), 400, "digest-mismatch")
        self.assertEqual(self.look(self.name).offset, 0)
        self.assertIsNotNone(self.appended(self.name, 0, 100).stored)

    def test_digest_of_the_file(self) -> None:
        """Costs the upload."""
        wrong = StatedDigests(representation=(sha256(b"x"),))
        self.assert_refused_with(self.append(self.name, asked(100, 0, wrong), CONTENT), 400, "digest-mismatch")
        self.assert_refused_with(begun(self.server.uploads.look(self.name)), 410, "upload-gone")

    def test_no_progress(self) -> None:
        """Requests that bring nothing, though they would, are not taken for ever."""
        server = self.serve(max_attempts=2)
        for _ in range(2):
            body, receipt = self.appending(self.name, asked(100), server)
            body.end(KeyError())
            self.failureResultOf(receipt, KeyError)
        self.assert_refused_with(self.appending(self.name, asked(100), server)[1], 410, "upload-gone")

    def test_of_another_store(self) -> None:
        """Several may share a Redis: what isn't ours is unknown."""
        self.patch(self.server.uploads, "_key", b"k" * 32)
        self.assert_refused_with(self.append(self.name, asked(100), CONTENT), 404, "not-found")
        self.assert_refused_with(begun(self.server.uploads.look(self.name)), 404, "not-found")


class TwoProcessesTests(OngoingTestCase):
    """Another process of the host is at work on the same upload."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.created()

    def test_gone_on_with(self) -> None:
        """The newest request wins, wherever it comes to."""
        body, older = self.appending(self.name, asked(100))
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        other = self.another_process()
        newer_body, newer = self.appending(self.name, asked(60, 40), other)
        self.clock.pump([0.1] * 10)
        self.failureResultOf(older, Superseded)
        newer_body.send(CONTENT[40:])
        newer_body.end()
        self.successResultOf(newer)
        self.assertEqual(self.get(PATH), CONTENT)

    def published_elsewhere(self, ask: Callable[[Server], Deferred[Any]]) -> Any:
        """Ask a process while another one publishes: the part is there at first, and isn't any more then."""
        threads = HeldThreads()
        busy = self.another_process(threads=threads)
        body, publishing = self.appending(self.name, asked(100), busy)
        while threads.jobs:
            threads.finish()
        body.send(CONTENT)
        body.end()
        answer = ask(self.server)
        self.assertNoResult(answer)
        while threads.jobs:
            threads.finish()
        self.successResultOf(publishing)
        self.clock.pump([0.1] * 10)
        return self.successResultOf(answer)

    def test_looked_at(self) -> None:
        """It is complete then, and nothing is taken for lost that is only just stored."""
        progress = self.published_elsewhere(lambda server: begun(server.uploads.look(self.name)))
        self.assertEqual((progress.offset, progress.expires), (100, None))
        self.assertEqual(self.server.metric("sessions_lost_total"), 0)

    def test_appended_to(self) -> None:
        """And no new part is begun."""
        ask = asked(0, 100)
        receipt = self.published_elsewhere(lambda server: begun(server.uploads.append(self.name, ask, None, Hooks())))
        self.assertIsNotNone(receipt.stored)
        self.assertEqual((self.own_files("parts"), self.get(PATH)), ([], CONTENT))
        self.assertEqual(self.server.metric("sessions_lost_total"), 0)


class GiveUpTests(OngoingTestCase):
    """An upload is forgotten."""

    def test_unfinished(self) -> None:
        name = self.created()
        self.successResultOf(begun(self.server.uploads.give_up(name)))
        self.assertEqual(self.own_files("parts"), [])
        self.assert_refused_with(begun(self.server.uploads.give_up(name)), 404, "not-found")

    def test_name_is_not_given_again(self) -> None:
        """Who has it from before would write into an upload of which it knows nothing."""
        name = self.created()
        self.successResultOf(begun(self.server.uploads.give_up(name)))
        self.clock.advance(0.001)
        newer = self.created()
        self.assertEqual(newer.uid, name.uid)
        self.assertGreater(newer.generation, name.generation)
        self.assert_refused_with(begun(self.server.uploads.look(name)), 410, "upload-gone")
        self.assertEqual(self.look(newer).offset, 0)

    def test_another_generation(self) -> None:
        """Not that which took its place."""
        name = self.created()
        newer = self.created()
        self.assert_refused_with(begun(self.server.uploads.give_up(name)), 410, "upload-gone")
        unborn = evolve(newer, generation=9)
        self.assert_refused_with(begun(self.server.uploads.give_up(unborn)), 410, "upload-gone")
        self.assertEqual(self.look(newer).offset, 0)


class RedisTests(RedisCase):
    """The same where the state is in a Redis, and in two processes."""

    def setUp(self) -> Deferred[None]:
        super().setUp()
        self.server.start()
        self.store = Store.open(self.mktemp())
        self.addCleanup(self.store.close)
        return Deferred.fromCoroutine(self.start_processes())

    async def start_processes(self) -> None:
        self.one = Server(self.store, self.clock, state=await self.start_state()).uploads
        self.other = Server(self.store, self.clock, state=await self.start_state()).uploads

    async def created(self) -> UploadName:
        slot = Slot(SlotPath.from_encoded(PATH.encode()), SIZE, "image/jpeg", None, None, "v", b"s" * 32)
        request = asked(0, creates=True, metadata="filename YQ==")
        receipt = await self.one.receive(slot, request, None, Hooks())
        assert receipt.name is not None
        return receipt.name

    async def appended(self, uploads: Uploads, name: UploadName, start: int, end: int) -> Receipt:
        body = Body()
        wanted: Deferred[None] = Deferred()
        hooks = Hooks(named=lambda *_: reactor.callLater(0, wanted.callback, None))
        receipt = begun(uploads.append(name, asked(end - start, start), body, hooks))
        await wanted
        body.send(CONTENT[start:end])
        body.end()
        return await receipt

    async def refusal(self, asking: Coroutine[Any, Any, Any]) -> str:
        refused = await self.assertFailure(begun(asking), Refused)
        return f"{refused.status} {refused.reason}"

    async def test_from_begin_to_end(self) -> None:
        name = await self.created()
        self.assertEqual((await self.appended(self.other, name, 0, 40)).offset, 40)
        progress = await self.one.look(name)
        self.assertEqual((progress.offset, progress.total, progress.metadata), (40, SIZE, "filename YQ=="))
        self.assertIsNotNone((await self.appended(self.one, name, 40, 100)).stored)
        self.assertIsNone((await self.other.look(name)).expires)
        self.assertEqual(await self.refusal(self.other.give_up(name)), "409 conflict")

    async def test_next_generation(self) -> None:
        name = await self.created()
        await self.appended(self.one, name, 0, 40)
        newer = await self.created()
        self.assertEqual((newer.uid, newer.generation), (name.uid, name.generation + 1))
        self.assertEqual(await self.refusal(self.other.look(name)), "410 upload-gone")
        self.assertEqual((await self.other.look(newer)).offset, 0)

    async def test_given_up(self) -> None:
        name = await self.created()
        await self.other.give_up(name)
        self.assertEqual(await self.refusal(self.one.look(name)), "404 not-found")

    async def test_over(self) -> None:
        """Redis keeps a record for a while after its time: whoever comes then is told that it is gone."""
        name = await self.created()
        self.clock.advance(86_400.0 + 1)
        self.assertEqual(await self.refusal(self.one.look(name)), "410 upload-gone")
