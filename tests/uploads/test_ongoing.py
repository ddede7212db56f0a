"""Uploads that are gone on with by their names, strictly where they are: what the dialects beside PUT stand on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from hmacfs.uploads.exchange import Hooks, Receipt
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.upload import CHECKPOINT_S
from hmacfs.uploads.uploads import Uploads
from tests.uploads.asking import CONTENT, SIZE, OngoingTestCase, going_on
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.uploads.test_redisstate import RedisCase
from tests.web.support import PATH, Server


class AppendTests(OngoingTestCase):
    """Bytes come."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.created()

    def test_last_and_short(self) -> None:
        """A body that claims to end the file has to."""
        self.assert_refused_with(self.append(self.name, going_on(50, 0, last=True)), 413, "size-mismatch")
        short = self.append(self.name, going_on(None, 0, last=True), CONTENT[:50])
        self.assert_refused_with(short, 400, "short-body")
        self.assertEqual(self.look(self.name).offset, 50)

    def test_another_total(self) -> None:
        self.assert_refused_with(self.append(self.name, going_on(50, 0, total=101)), 413, "size-mismatch")

    def test_no_progress(self) -> None:
        """Requests that bring nothing, though they would, are not taken for ever."""
        server = self.serve(max_attempts=2)
        for _ in range(2):
            body, receipt = self.appending(self.name, going_on(100), server)
            body.end(KeyError())
            self.failureResultOf(receipt, KeyError)
        self.assert_refused_with(self.appending(self.name, going_on(100), server)[1], 410, "upload-gone")

    def test_of_another_store(self) -> None:
        """Several may share a Redis: what isn't ours is unknown."""
        self.patch(self.server.uploads.ongoing, "_key", b"k" * 32)
        self.assert_refused_with(self.append(self.name, going_on(100), CONTENT), 404, "not-found")
        self.assert_refused_with(begun(self.server.uploads.ongoing.look(self.name)), 404, "not-found")


class TwoProcessesTests(OngoingTestCase):
    """Another process of the host is at work on the same upload."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.created()

    def test_gone_on_with(self) -> None:
        """The newest request wins, wherever it comes to."""
        body, older = self.appending(self.name, going_on(100))
        body.send(CONTENT[:40])
        self.clock.advance(CHECKPOINT_S)
        other = self.another_process()
        newer_body, newer = self.appending(self.name, going_on(60, 40), other)
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
        body, publishing = self.appending(self.name, going_on(100), busy)
        self.finish(threads)
        body.send(CONTENT)
        body.end()
        answer = ask(self.server)
        self.assertNoResult(answer)
        self.finish(threads)
        self.successResultOf(publishing)
        self.clock.pump([0.1] * 10)
        return self.successResultOf(answer)

    def test_looked_at(self) -> None:
        """It is complete then, and nothing is taken for lost that is only just stored."""
        progress = self.published_elsewhere(lambda server: begun(server.uploads.ongoing.look(self.name)))
        self.assertEqual((progress.offset, progress.expires), (100, None))
        self.assertEqual(self.server.metric("sessions_lost_total"), 0)

    def test_appended_to(self) -> None:
        """And no new part is begun."""
        ask = going_on(0, 100)
        receipt = self.published_elsewhere(
            lambda server: begun(server.uploads.ongoing.append(self.name, ask, None, Hooks()))
        )
        self.assertIsNotNone(receipt.stored)
        self.assertEqual((self.own_files("parts"), self.get(PATH)), ([], CONTENT))
        self.assertEqual(self.server.metric("sessions_lost_total"), 0)


class GiveUpTests(OngoingTestCase):
    """An upload is forgotten."""

    def test_unfinished(self) -> None:
        name = self.created()
        self.successResultOf(begun(self.server.uploads.ongoing.give_up(name)))
        self.assertEqual(self.own_files("parts"), [])
        self.assert_refused_with(begun(self.server.uploads.ongoing.give_up(name)), 404, "not-found")

    def test_name_is_not_given_again(self) -> None:
        """Who has it from before would write into an upload of which it knows nothing."""
        name = self.created()
        self.successResultOf(begun(self.server.uploads.ongoing.give_up(name)))
        self.clock.advance(0.001)
        newer = self.created()
        self.assertEqual(newer.uid, name.uid)
        self.assertGreater(newer.generation, name.generation)
        self.assert_refused_with(begun(self.server.uploads.ongoing.look(name)), 410, "upload-gone")
        self.assertEqual(self.look(newer).offset, 0)

    def test_another_generation(self) -> None:
        """Not that which took its place."""
        name = self.created()
        newer = self.created()
        self.assert_refused_with(begun(self.server.uploads.ongoing.give_up(name)), 410, "upload-gone")
        unborn = evolve(newer, generation=9)
        self.assert_refused_with(begun(self.server.uploads.ongoing.give_up(unborn)), 410, "upload-gone")
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
        request = going_on(0, creates=True, metadata="filename YQ==")
        receipt = await self.one.receive(slot, request, None, Hooks())
        assert receipt.name is not None
        return receipt.name

    async def appended(self, uploads: Uploads, name: UploadName, start: int, end: int) -> Receipt:
        body = Body()
        wanted: Deferred[None] = Deferred()
        hooks = Hooks(named=lambda *_: reactor.callLater(0, wanted.callback, None))
        receipt = begun(uploads.ongoing.append(name, going_on(end - start, start), body, hooks))
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
        progress = await self.one.ongoing.look(name)
        self.assertEqual((progress.offset, progress.total, progress.metadata), (40, SIZE, "filename YQ=="))
        self.assertIsNotNone((await self.appended(self.one, name, 40, 100)).stored)
        self.assertIsNone((await self.other.ongoing.look(name)).expires)
        self.assertEqual(await self.refusal(self.other.ongoing.give_up(name)), "409 conflict")

    async def test_next_generation(self) -> None:
        name = await self.created()
        await self.appended(self.one, name, 0, 40)
        newer = await self.created()
        self.assertEqual((newer.uid, newer.generation), (name.uid, name.generation + 1))
        self.assertEqual(await self.refusal(self.other.ongoing.look(name)), "410 upload-gone")
        self.assertEqual((await self.other.ongoing.look(newer)).offset, 0)

    async def test_given_up(self) -> None:
        name = await self.created()
        await self.other.ongoing.give_up(name)
        self.assertEqual(await self.refusal(self.one.ongoing.look(name)), "404 not-found")

    async def test_over(self) -> None:
        """Redis keeps a record for a while after its time: whoever comes then is told that it is gone."""
        name = await self.created()
        self.clock.advance(86_400.0 + 1)
        self.assertEqual(await self.refusal(self.one.ongoing.look(name)), "410 upload-gone")
