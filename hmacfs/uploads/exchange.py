"""What passes between a request and its upload: what it brings, what it hears meanwhile, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.web.iweb import IBodyProducer

from hmacfs.access.slot import Slot
from hmacfs.storage.store import StoredFile
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.turns import Turn


def _unheard(*_: object) -> None:
    """Of no interest to the request."""


@frozen
class Hooks:
    """What a request wants to hear while its body arrives, on the reactor's thread.

    :ivar named: called with the session token and the upload's name as soon as they are known, before the body is asked
        for.
    :ivar durable: called with the offset up to which the file is durable, each time that there is more.
    """

    named: Callable[[str, UploadName], None] = _unheard
    durable: Callable[[int], None] = _unheard


@frozen
class Incoming:
    """A request whose turn it is, with what it brings of a file.

    :ivar total: of the whole file, in bytes.
    :ivar body: ``None`` where there is none.
    :ivar name: of the upload that it goes on with; ``None`` where it didn't name one.
    """

    turn: Turn
    slot: Slot
    total: int
    asked: UploadRequest
    body: IBodyProducer | None
    hooks: Hooks
    name: UploadName | None = None


@frozen
class Receipt:
    """How a request went that was not refused.

    :ivar offset: up to which the file is here, durably.
    :ivar total: of the whole file, in bytes.
    :ivar stored: the published file; ``None`` while it isn't whole.
    :ivar resumed_at: from which offset an earlier request's upload went on; ``None`` if there was none.
    :ivar name: of the upload; ``None`` where it isn't one that has a name (a plain PUT of what is stored already).
    :ivar expires: until when it can be resumed, in seconds since the epoch; ``None`` if it is whole.
    """

    offset: int
    total: int
    stored: StoredFile | None
    resumed_at: int | None = None
    name: UploadName | None = None
    expires: float | None = None


@frozen
class Progress:
    """How far an upload is.

    :ivar offset: as in :class:`Receipt`.
    :ivar total: as in :class:`Receipt`.
    :ivar name: of the upload.
    :ivar token: the session token.
    :ivar metadata: see :class:`~hmacfs.uploads.state.NewUpload`.
    :ivar expires: until when it can be resumed, in seconds since the epoch; ``None`` if its file is stored.
    """

    offset: int
    total: int
    name: UploadName
    token: str
    metadata: str
    expires: float | None
