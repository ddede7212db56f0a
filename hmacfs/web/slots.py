"""Everything that happens at ``/<UploadSubDir>/<path>``."""

from __future__ import annotations

from hmacfs.access.attempt import Attempt
from hmacfs.access.gate import Gate
from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.units import human_size
from hmacfs.uploads.digests import repr_digest
from hmacfs.uploads.identity import check_token
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.uploads import Progress, Receipt, Uploads
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource
from hmacfs.web.downloads import Downloads
from hmacfs.web.fileheaders import entity_tag
from hmacfs.web.site import HmacfsRequest

#: Bodies that a browser's form makes. Nobody sends a file that way to a slot, and parsing one costs memory.
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")

#: Refusals after which it is worth to look whether the credential is that of an upload which has begun already.
_PERHAPS_BEGUN = frozenset({"bad-signature", "expired", "size-mismatch", "length-required"})

#: How many explanations of a wrong signature may be in the making. Each takes a thread for milliseconds.
_MAX_EXPLANATIONS = 4


class SlotResource(AsyncResource):
    """The slots: PUT stores a file, GET and HEAD fetch it, HEAD with the slot's signature tells how far an upload is,
    and DELETE with it gives an upload up. DELETE with another signature, of the XMPP server's own, deletes a stored file.

    :param max_upload_bytes: the largest file to take; ``None`` for any.
    """

    isLeaf = True

    def __init__(
        self,
        gate: Gate,
        uploads: Uploads,
        downloads: Downloads,
        deletions: AskedDeletions,
        threads: Threads,
        max_upload_bytes: int | None,
    ) -> None:
        super().__init__([(b"GET", self._get), (b"HEAD", self._head), (b"PUT", self._put), (b"DELETE", self._delete)])
        self._gate = gate
        self._uploads = uploads
        self._downloads = downloads
        self._deletions = deletions
        self._threads = threads
        self._max_upload_bytes = max_upload_bytes
        self._explaining = 0

    async def _get(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        stored = await self._downloads.find(path)
        if stored is None:
            raise _not_found()
        return await self._downloads.serve(request, stored, path)

    async def _head(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        _echo_session(request)
        stored = await self._downloads.find(path)
        identity = self._gate.identify(_attempt(request, None))
        if stored is not None:
            if identity is not None:
                request.setHeader(b"upload-complete", b"?1")
            return await self._downloads.serve(request, stored, path)
        progress = None if identity is None else await self._uploads.progress(path, identity)
        if progress is None:
            raise _not_found()
        return _progress(request, progress)

    async def _put(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        _echo_session(request)
        _refuse_forms(request)
        asked = UploadRequest.from_headers(request.requestHeaders, _length(request))
        for name in asked.digests.ignored:
            self._log.warn("a client's {name} is malformed and was passed over", name=name)
        slot = await self._authorize(request, path, asked)
        self._check_size(slot, asked)
        try:
            receipt = await self._uploads.receive(
                slot, asked, request.body, lambda token: _name_session(request, token)
            )
        except Superseded:
            request.notes.reason = "superseded"
            request.abort()
            return None
        return _received(request, receipt)

    async def _delete(self, request: HmacfsRequest) -> Answer:
        path = _path(request)
        _echo_session(request)
        attempt = _attempt(request, None)
        try:
            is_asked = self._gate.authorize_deletion(path, attempt)
        except Refused:
            # Of a slot's own signature, which is never that of a deletion.
            identity = self._gate.identify(attempt)
            if identity is not None and await self._uploads.cancel(path, identity):
                return Answer(204)
            raise
        if not is_asked:
            return await self._give_up(path, attempt)
        await self._deletions.delete(path)
        return Answer(204)

    async def _give_up(self, path: SlotPath, attempt: Attempt) -> Answer:
        identity = self._gate.identify(attempt)
        if identity is None:
            raise Refused(403, "missing-signature", "Giving an upload up takes the URL that it was begun with.")
        stored = await self._downloads.find(path)
        if stored is not None:
            stored.close()
            raise Refused(409, "conflict", "The file is complete, and stays.")
        if not await self._uploads.cancel(path, identity):
            raise _not_found()
        return Answer(204)

    async def _authorize(self, request: HmacfsRequest, path: SlotPath, asked: UploadRequest) -> Slot:
        attempt = _attempt(request, asked.total)
        try:
            return self._gate.authorize(path, attempt)
        except Refused as refused:
            identity = self._gate.identify(attempt) if refused.reason in _PERHAPS_BEGUN else None
            slot = None if identity is None else await self._uploads.begun(path, identity)
            if slot is not None:
                return slot
            if refused.reason == "bad-signature":
                self._explain(request, attempt)
            raise

    def _explain(self, request: HmacfsRequest, attempt: Attempt) -> None:
        """Find out why a signature is wrong, for the log, after the answer."""
        if self._explaining >= _MAX_EXPLANATIONS:
            return
        self._explaining += 1
        request.notes.remark = self._threads.run(self._gate.explain, attempt).addBoth(self._explained)

    def _explained(self, result: str | None) -> str | None:
        self._explaining -= 1
        return result

    def _check_size(self, slot: Slot, asked: UploadRequest) -> None:
        size = slot.size if slot.size is not None else asked.total
        if self._max_upload_bytes is not None and size is not None and size > self._max_upload_bytes:
            limit = human_size(self._max_upload_bytes)
            raise Refused(413, "too-large", f"This server takes files of up to {limit}.")


def _path(request: HmacfsRequest) -> SlotPath:
    """The path of the slot, from the URL as it was sent.

    twisted.web's own segments won't do: they were decoded after the path was split, so that an encoded slash is a slash.
    """
    segments = request.path[1:].split(b"/")
    return SlotPath.from_url(segments[len(request.prepath or ()) :])


def _attempt(request: HmacfsRequest, size: int | None) -> Attempt:
    return Attempt(
        raw_path=request.path,
        query=request.uri.partition(b"?")[2],
        authorization=_header(request, b"authorization"),
        method=request.method,
        size=size,
        content_type=_header(request, b"content-type"),
    )


def _header(request: HmacfsRequest, name: bytes) -> bytes | None:
    values = request.requestHeaders.getRawHeaders(name)
    return None if values is None else values[0]


def _length(request: HmacfsRequest) -> int | None:
    """Of the body, in bytes; ``None`` where nothing says."""
    if request.body is not None:
        return request.body.size
    return 0 if request.requestHeaders.hasHeader(b"content-length") else None


def _refuse_forms(request: HmacfsRequest) -> None:
    content_type = _header(request, b"content-type")
    if content_type is not None and content_type.strip().lower().startswith(_FORMS):
        raise Refused(415, "bad-media-type", "Send the bytes of the file as they are, not in a form.")


def _echo_session(request: HmacfsRequest) -> None:
    """Whatever becomes of the request, its session token stands in the answer.

    :raises Refused: 400 for one that can't be a token.
    """
    token = _header(request, b"x-session-token")
    if token is not None:
        _name_session(request, check_token(token))


def _name_session(request: HmacfsRequest, token: str) -> None:
    request.notes.session = token
    request.setHeader(b"x-session-token", token.encode("ascii"))


def _received(request: HmacfsRequest, receipt: Receipt) -> Answer:
    request.notes.resumed_at = receipt.resumed_at
    headers = {"Upload-Offset": str(receipt.offset)}
    if receipt.stored is None:
        return Answer(202, {**headers, "Upload-Complete": "?0"})
    request.notes.stored = True
    headers["Upload-Complete"] = "?1"
    headers["ETag"] = entity_tag(receipt.stored)
    if receipt.stored.facts.sha256 is not None:
        headers["Repr-Digest"] = repr_digest(receipt.stored.facts.sha256)
    return Answer(201, headers)


def _progress(request: HmacfsRequest, progress: Progress) -> Answer:
    _name_session(request, progress.token)
    return Answer(
        204,
        {
            "Upload-Offset": str(progress.offset),
            "Upload-Length": str(progress.total),
            "Upload-Complete": "?0",
            "Upload-Limit": f"max-age={progress.expires_in_s:.0f}",
            "Cache-Control": "no-store",
        },
    )


def _not_found() -> Refused:
    return Refused(404, "not-found", "There is no file at this URL.")
