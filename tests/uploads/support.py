"""What the tests of this room share: a body that a test sends, and an upload's part file and record."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.parts import Part
from hmacfs.uploads.embedded import EmbeddedUploadState
from hmacfs.uploads.state import Holder, IUploadState, Lease, NewUpload, UploadRecord
from tests.storage.support import StoreTestCase
from tests.web.support import NOW, SwitchedState

T = TypeVar("T")

TTL_S = 86_400.0

UID = "upload-1"

UPLOAD = NewUpload(
    uid=UID, path=b"a/photo.jpg", signature=b"s" * 32, token="tok-0001", content_type="image/jpeg", total=100
)


def begun(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Let a coroutine run until it waits for something."""
    return Deferred.fromCoroutine(coroutine)


def holder() -> Holder:
    """A request that doesn't mind being told to let go."""
    return Holder(lambda: None)


@implementer(IBodyProducer)
class Body:
    """A request's body, of which a test sends piece by piece.

    :ivar paused: whether its consumer wants no more for now.
    :ivar stopped: whether it wants no more at all.
    """

    length: int | str = UNKNOWN_LENGTH

    def __init__(self) -> None:
        self.paused = False
        self.stopped = False
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred(lambda _: self.stopProducing())

    @property
    def wanted(self) -> bool:
        """Whether anybody has asked for it."""
        return self._consumer is not None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        return self._done

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True

    def send(self, *pieces: bytes) -> None:
        """Let *pieces* arrive, as far as the consumer takes them: an error of its own is the end of the body."""
        for piece in pieces:
            if not self.stopped:
                assert self._consumer is not None
                try:
                    self._consumer.write(piece)
                except Exception:
                    self.stopped = True
                    self._done.errback(Failure())

    def end(self, error: Exception | None = None) -> None:
        """There is no more; *error* says why, where that is not as it should be."""
        if not self.stopped:
            self._done.callback(None) if error is None else self._done.errback(error)


class UploadTestCase(StoreTestCase):
    """A test with a store, a state store that can be taken away, and a clock."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW)
        database = EmbeddedUploadState(
            self.store.own_directory / "state.sqlite", self.threads(), self.clock, TTL_S, self.clock.seconds
        )
        self.addCleanup(database.stop)
        self.switched = SwitchedState(database)
        self.state = cast(IUploadState, self.switched)

    def threads(self) -> Threads:
        return InlineThreads()

    def part(self, content: bytes = b"", uid: str = UID) -> Part:
        """A new part, open."""
        part = self.store.begin(uid)
        self.addCleanup(part.close)
        part.write(content)
        return part

    def reopened(self, uid: str = UID) -> Part:
        part = self.store.reopen(uid)
        self.addCleanup(part.close)
        return part

    def record(self, uid: str = UID) -> UploadRecord | None:
        """What the state store knows."""
        return self.successResultOf(self.state.get(uid))

    def created(self, upload: NewUpload = UPLOAD, offset: int = 0) -> Lease:
        """Have the state store know of an upload."""
        lease = self.successResultOf(self.state.create(upload, holder()))
        assert isinstance(lease, Lease)
        if offset:
            self.successResultOf(self.state.commit(lease, offset))
        return lease

    def on_disk(self, uid: str = UID) -> bytes:
        """The part file as the file system has it."""
        return (self.root / ".hmacfs" / "parts" / uid).read_bytes()
