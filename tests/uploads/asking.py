"""Uploads, asked without HTTP, by a slot or by their names."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.store import Store
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.exchange import Hooks, Progress, Receipt
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.request import Append, UploadRequest
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.uploads.test_plan import asked
from tests.web.support import NOW, PATH, Server, ServerTestCase

CONTENT = bytes(range(100))
SIZE = len(CONTENT)


def going_on(length: int | None, offset: int = 0, digests: StatedDigests | None = None, **append: Any) -> UploadRequest:
    """A request whose body goes on exactly at *offset*."""
    return UploadRequest(length, None, None, digests or StatedDigests(), Append(offset, **append))


class UploadsTestCase(ServerTestCase):
    """Uploads, asked without HTTP. There is one path, with one slot for each *credential*.

    :ivar tokens: the session tokens that requests have heard of.
    """

    def setUp(self) -> None:
        super().setUp()
        self.tokens: list[str] = []

    def slot(self, credential: bytes = b"s" * 32) -> Slot:
        return Slot(self.path(PATH), SIZE, "image/jpeg", "alice@example.org", NOW + 900, "v", credential)

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

    def broken(self, server: Server | None = None, arrived: int = 40, credential: bytes = b"s" * 32) -> None:
        """One whose connection is lost."""
        body, receipt = self.begin(server, credential)
        body.send(CONTENT[:arrived])
        body.end(KeyError())
        self.failureResultOf(receipt, KeyError)

    def offset(self, server: Server | None = None) -> int | None:
        """How far the upload is; ``None`` where there is none."""
        uploads = (server or self.server).uploads
        progress = self.successResultOf(begun(uploads.progress(self.path(PATH), b"s" * 32)))
        return None if progress is None else progress.offset

    def assert_refused_with(self, result: Deferred[Any], status: int, reason: str) -> Refused:
        refused = self.failureResultOf(result, Refused).value
        assert isinstance(refused, Refused)
        self.assertEqual((refused.status, refused.reason), (status, reason))
        return refused

    def finish(self, threads: HeldThreads) -> None:
        """Let all jobs run, and those that come of them."""
        while threads.jobs:
            threads.finish()

    def another_process(self, **settings: Any) -> Server:
        """A server of another process, with the same store."""
        store: Store = self.open_store()
        return self.serve(store, **settings)


class OngoingTestCase(UploadsTestCase):
    """Uploads that have names.

    :ivar heard: what hooks were called with.
    """

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[object] = []

    def hooks(self) -> Hooks:
        return Hooks(named=lambda _token, name: self.heard.append(name), durable=self.heard.append)

    def creating(
        self, length: int | None = 0, server: Server | None = None, **append: Any
    ) -> tuple[Body, Deferred[Receipt]]:
        body = Body()
        uploads = (server or self.server).uploads
        request = going_on(length, creates=True, **append)
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
        return body, begun((server or self.server).uploads.ongoing.append(name, request, body, self.hooks()))

    def append(self, name: UploadName, request: UploadRequest, *content: bytes) -> Deferred[Receipt]:
        """One whole body."""
        body, receipt = self.appending(name, request)
        if body.wanted:
            body.send(*content)
            body.end()
        return receipt

    def appended(self, name: UploadName, start: int, end: int) -> Receipt:
        return self.successResultOf(self.append(name, going_on(end - start, start), CONTENT[start:end]))

    def look(self, name: UploadName, server: Server | None = None) -> Progress:
        return self.successResultOf(begun((server or self.server).uploads.ongoing.look(name)))
