"""The dialect of tus 1.0.0 (https://tus.io/protocols/resumable-upload), with the extensions creation,
creation-with-upload, expiration, checksum and termination.

An upload begins with a POST to a slot's URL, which the slot's signature allows; ``Upload-Length`` is the size that was
signed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from twisted.web.http import datetimeToString

from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.exchange import Hooks, Receipt
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.request import Append, UploadRequest
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.answers import Answer
from hmacfs.web.dialects.sessions import cut_off, stored_headers
from hmacfs.web.dialects.tusfields import ALGORITHMS, bad_header, parse_checksum, parse_metadata
from hmacfs.web.entrance import Entrance, header
from hmacfs.web.site import HmacfsRequest

VERSION: Final = "1.0.0"

_EXTENSIONS: Final = "creation,creation-with-upload,expiration,checksum,termination"
_BODY_TYPE: Final = b"application/offset+octet-stream"
_NUMBER: Final = re.compile(rb"[0-9]{1,15}")

#: Where the protocol has another status, by reason. A client gives up at a 4xx that it doesn't know; so what may go
#: better the next time is a 5xx.
_STATUSES: Final[Mapping[str, int]] = {"digest-mismatch": 460, "timeout": 503}

#: Refusals of the body of a creation. Its client is not told of an upload that it could go on with.
_NOT_CREATED: Final = frozenset({"digest-mismatch", "size-mismatch"})


class Tus:
    """See the module, and :class:`~hmacfs.web.dialects.Dialect`.

    :param locate: the path of an upload's own URL.
    """

    def __init__(self, entrance: Entrance, uploads: Uploads, locate: Callable[[UploadName], str]) -> None:
        self._entrance = entrance
        self._uploads = uploads
        self._ongoing = uploads.ongoing
        self._locate = locate

    @property
    def options(self) -> Mapping[str, str]:
        options = {
            "Tus-Resumable": VERSION,
            "Tus-Version": VERSION,
            "Tus-Extension": _EXTENSIONS,
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }
        if self._entrance.max_upload_bytes is not None:
            options["Tus-Max-Size"] = str(self._entrance.max_upload_bytes)
        return options

    def speaks(self, request: HmacfsRequest) -> bool:
        headers = request.requestHeaders
        said = headers.hasHeader(b"tus-resumable") or headers.hasHeader(b"x-http-method-override")
        return said or _carries_bytes(request)

    async def on_slot(self, request: HmacfsRequest, path: SlotPath) -> Answer | None:
        async def answer() -> Answer | None:
            if _method(request) == b"POST":
                return await self._create(request, path)
            raise Refused(404, "not-found", "There is no upload at this URL. One begins with POST.")

        return await _in_tus(request, answer)

    async def on_upload(self, request: HmacfsRequest, name: UploadName | None) -> Answer | None:
        async def answer() -> Answer | None:
            method = _method(request)
            if name is None or method == b"GET":
                raise Refused(404, "not-found", "There is no upload at this URL.")
            match method:
                case b"HEAD":
                    return await self._look(request, name)
                case b"PATCH":
                    return await self._append(request, name)
                case b"DELETE":
                    await self._ongoing.give_up(name)
                    return Answer(204)
            raise Refused(405, "method-not-allowed", "An upload takes HEAD, PATCH, DELETE.", {"Allow": _ON_UPLOADS})

        return await _in_tus(request, answer)

    async def _create(self, request: HmacfsRequest, path: SlotPath) -> Answer:
        total = _total(request)
        metadata = parse_metadata(request.requestHeaders.getRawHeaders(b"upload-metadata", []))
        slot = self._entrance.create(request, path, total, metadata.content_type)
        carries = _carries_bytes(request)
        body = request.body if carries else None
        asked = UploadRequest(
            length=0 if body is None else body.size,
            part=None,
            token=None,
            digests=_checksum(request) if carries else StatedDigests(),
            append=Append(0, total, creates=True, metadata=metadata.text),
        )
        if asked.length is not None and asked.length > total:
            raise Refused(413, "size-mismatch", f"The body is longer than the file, which has {total} bytes.")
        names: list[UploadName] = []

        def named(token: str, name: UploadName) -> None:
            request.notes.session = token
            names.append(name)

        try:
            receipt = await self._uploads.receive(slot, asked, body, Hooks(named))
        except Refused as refused:
            if names and refused.reason in _NOT_CREATED:
                with contextlib.suppress(Refused):
                    await self._ongoing.give_up(names[0])
            raise
        headers = _receipt_headers(request, receipt)
        if not carries:
            del headers["Upload-Offset"]
        assert receipt.name is not None
        return Answer(201, {**headers, "Location": self._locate(receipt.name)})

    async def _append(self, request: HmacfsRequest, name: UploadName) -> Answer:
        if not _carries_bytes(request):
            raise Refused(415, "bad-media-type", f"Expected Content-Type: {_BODY_TYPE.decode()}.")
        if request.requestHeaders.hasHeader(b"upload-length"):
            raise bad_header("Upload-Length", "none: the size of the file is known since the upload was created")
        asked = UploadRequest(
            length=0 if request.body is None else request.body.size,
            part=None,
            token=None,
            digests=_checksum(request),
            append=Append(_number(request, "Upload-Offset")),
        )
        hooks = Hooks(named=lambda token, _name: setattr(request.notes, "session", token))
        receipt = await self._ongoing.append(name, asked, request.body, hooks)
        return Answer(204, _receipt_headers(request, receipt))

    async def _look(self, request: HmacfsRequest, name: UploadName) -> Answer:
        progress = await self._ongoing.look(name)
        request.notes.session = progress.token
        headers = {
            "Upload-Offset": str(progress.offset),
            "Upload-Length": str(progress.total),
            "Cache-Control": "no-store",
        }
        if progress.metadata:
            headers["Upload-Metadata"] = progress.metadata
        if progress.expires is not None and progress.offset == progress.total:
            # The last request broke when every byte was here. A client that hears so takes its file for stored.
            nothing = UploadRequest(0, None, None, StatedDigests(), Append(progress.offset))
            receipt = await self._ongoing.append(name, nothing, None, Hooks())
            headers.update(stored_headers(request, receipt))
        elif progress.expires is not None:
            headers["Upload-Expires"] = _date(progress.expires)
        return Answer(200, headers)


_ON_UPLOADS: Final = "OPTIONS, HEAD, PATCH, DELETE"


async def _in_tus(request: HmacfsRequest, answer: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
    """What is the same for every request: the version of the protocol, and the statuses that it has of its own."""
    request.setHeader(b"tus-resumable", VERSION.encode())
    said = header(request, b"tus-resumable")
    if said != VERSION.encode() and not (said is None and _method(request) == b"HEAD"):
        detail = f"This server speaks tus {VERSION}: send Tus-Resumable: {VERSION}."
        raise Refused(412, "unsupported-protocol", detail, {"Tus-Version": VERSION})
    try:
        return await answer()
    except Superseded:
        cut_off(request)
        return None
    except Refused as refused:
        status = _STATUSES.get(refused.reason)
        if status is None:
            raise
        retry = {"Retry-After": "1"} if status == 503 else {}
        raise Refused(
            status, refused.reason, refused.detail, {**refused.headers, **retry}, refused.members
        ) from refused


def _method(request: HmacfsRequest) -> bytes:
    """What is meant by the request, where something on its way lets some methods through only."""
    return header(request, b"x-http-method-override") or request.method


def _carries_bytes(request: HmacfsRequest) -> bool:
    """Whether the body is bytes of the file."""
    content_type = header(request, b"content-type") or b""
    return content_type.partition(b";")[0].strip().lower() == _BODY_TYPE


def _total(request: HmacfsRequest) -> int:
    """
    :raises Refused: 400 for a creation that leaves the size open, or of an extension that isn't spoken.
    """
    headers = request.requestHeaders
    if headers.hasHeader(b"upload-concat"):
        raise bad_header("Upload-Concat", "none: uploads aren't concatenated here")
    if headers.hasHeader(b"upload-defer-length"):
        raise bad_header("Upload-Defer-Length", "none but Upload-Length: a slot is for a file whose size is known")
    return _number(request, "Upload-Length")


def _number(request: HmacfsRequest, name: str) -> int:
    values = request.requestHeaders.getRawHeaders(name.encode("ascii"), [])
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]):
        raise bad_header(name, "one number of bytes")
    return int(values[0])


def _checksum(request: HmacfsRequest) -> StatedDigests:
    values = request.requestHeaders.getRawHeaders(b"upload-checksum", [])
    return StatedDigests(content=tuple(map(parse_checksum, values)))


def _receipt_headers(request: HmacfsRequest, receipt: Receipt) -> dict[str, str]:
    headers = {"Upload-Offset": str(receipt.offset), **stored_headers(request, receipt)}
    if receipt.expires is not None:
        headers["Upload-Expires"] = _date(receipt.expires)
    return headers


def _date(at: float) -> str:
    date: bytes = datetimeToString(at)
    return date.decode("ascii")
