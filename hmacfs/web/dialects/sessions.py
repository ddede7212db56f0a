"""The dialect of plain PUT: the whole file, or parts of it by ``Content-Range``, with session tokens for those who know
them. Its contract is in ``docs/protocol.md``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.uploads.digests import repr_digest
from hmacfs.uploads.exchange import Hooks, Progress, Receipt
from hmacfs.uploads.identity import UploadName, check_token
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.answers import Answer
from hmacfs.web.entrance import Entrance, body_length, header
from hmacfs.web.fileheaders import entity_tag
from hmacfs.web.site import HmacfsRequest

#: Bodies that a browser's form makes. Nobody sends a file that way to a slot, and parsing one costs memory.
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")


class Sessions:
    """See the module.

    :param locate: the path of an upload's own URL.
    :param now: the time in seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self, entrance: Entrance, uploads: Uploads, locate: Callable[[UploadName], str], now: Callable[[], float]
    ) -> None:
        self._entrance = entrance
        self._uploads = uploads
        self._locate = locate
        self._now = now

    async def put(self, request: HmacfsRequest, path: SlotPath) -> Answer | None:
        """Take what a PUT brings; ``None`` where the connection has been cut."""
        refuse_forms(request)
        asked = UploadRequest.from_headers(request.requestHeaders, body_length(request))
        for name in asked.digests.ignored:
            self._log.warn("a client's {name} is malformed and was passed over", name=name)
        slot = await self._entrance.put(request, path, asked)
        hooks = Hooks(named=lambda token, _name: _name_session(request, token))
        try:
            receipt = await self._uploads.receive(slot, asked, request.body, hooks)
        except Superseded:
            cut_off(request)
            return None
        return self._received(request, receipt)

    async def progress(self, request: HmacfsRequest, path: SlotPath, identity: bytes) -> Answer | None:
        """How far the upload is that *identity* began; ``None`` where there is none."""
        progress = await self._uploads.progress(path, identity)
        return None if progress is None else self._told(request, progress)

    def _received(self, request: HmacfsRequest, receipt: Receipt) -> Answer:
        headers = stored_headers(request, receipt)
        headers["Upload-Offset"] = str(receipt.offset)
        if receipt.stored is not None:
            return Answer(201, {**headers, "Upload-Complete": "?1"})
        if receipt.name is not None:
            headers["Location"] = self._locate(receipt.name)
        return Answer(202, {**headers, "Upload-Complete": "?0"})

    def _told(self, request: HmacfsRequest, progress: Progress) -> Answer:
        _name_session(request, progress.token)
        expires = self._now() if progress.expires is None else progress.expires
        return Answer(
            204,
            {
                "Upload-Offset": str(progress.offset),
                "Upload-Length": str(progress.total),
                "Upload-Complete": "?0",
                "Upload-Limit": f"max-age={max(0.0, expires - self._now()):.0f}",
                "Cache-Control": "no-store",
            },
        )


def echo_session(request: HmacfsRequest) -> None:
    """Whatever becomes of the request, its session token stands in the answer.

    :raises Refused: 400 for one that can't be a token.
    """
    token = header(request, b"x-session-token")
    if token is not None:
        _name_session(request, check_token(token))


def _name_session(request: HmacfsRequest, token: str) -> None:
    request.notes.session = token
    request.setHeader(b"x-session-token", token.encode("ascii"))


def refuse_forms(request: HmacfsRequest) -> None:
    """
    :raises Refused: 415 for the body of a form.
    """
    content_type = header(request, b"content-type")
    if content_type is not None and content_type.strip().lower().startswith(_FORMS):
        raise Refused(415, "bad-media-type", "Send the bytes of the file as they are, not in a form.")


def cut_off(request: HmacfsRequest) -> None:
    """A newer request has taken over: the client of this one hears it from its connection."""
    request.notes.reason = "superseded"
    request.abort()


def stored_headers(request: HmacfsRequest, receipt: Receipt) -> dict[str, str]:
    """What an answer says of the file that the request has completed; nothing if it has not. Notes it for the log."""
    request.notes.resumed_at = receipt.resumed_at
    if receipt.stored is None:
        return {}
    request.notes.stored = True
    headers = {"ETag": entity_tag(receipt.stored)}
    if receipt.stored.facts.sha256 is not None:
        headers["Repr-Digest"] = repr_digest(receipt.stored.facts.sha256)
    return headers
