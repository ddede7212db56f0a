"""The dialect of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload), in every version that is in use.

An upload begins with a PUT, POST or PATCH to a slot's URL that has ``Upload-Complete``. The clients of Apple's systems
say so with every PUT of a file, whatever program it is of; so what is no more than a PUT must be answered as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from attrs import define, evolve, field
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.exchange import Hooks, Receipt
from hmacfs.uploads.identity import UploadName
from hmacfs.uploads.request import Append, UploadRequest
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.answers import Answer, refusal
from hmacfs.web.dialects.draftversions import Version, integer, names_any, upload_limit, version_of
from hmacfs.web.dialects.sessions import cut_off, refuse_forms, stored_headers
from hmacfs.web.dialects.tusfields import bad_header
from hmacfs.web.entrance import Entrance, header
from hmacfs.web.site import HmacfsRequest

_PROBLEMS: Final = "https://iana.org/assignments/http-problem-types#"
_PARTIAL: Final = b"application/partial-upload"
_FIELDS: Final = ("Upload-Offset", "Upload-Complete", "Upload-Incomplete", "Upload-Length")
_ON_UPLOADS: Final = "OPTIONS, HEAD, PATCH, DELETE"

#: What goes better the next time. A client comes back after a 5xx or without an answer, and gives up at a 4xx.
_TRANSIENT: Final = frozenset({"busy", "timeout", "unavailable", "storage"})

#: Of which lengths speak that don't fit together, or not to the file.
_INCONSISTENT: Final = frozenset({"size-mismatch", "short-body"})

#: After which part of the body the client is told how far it is. Go's client fails at the sixth interim response, and
#: Apache at the tenth; nobody needs so many.
_TELLING_AT: Final = (1 / 3, 2 / 3)

#: What proxies put on requests. What they do with interim responses, nobody knows.
_PROXIES: Final = (b"x-forwarded-", b"x-real-ip", b"forwarded", b"via")


@define
class _Exchange:
    """One request, and what its client hears before the answer.

    :ivar version: that it is in.
    :ivar informs: whether the client may hear anything.
    :ivar name: of the upload, once it is open.
    :ivar knows: whether the client knows the upload's URL.
    """

    request: HmacfsRequest
    version: Version
    informs: bool
    knows: bool = False
    name: UploadName | None = None
    _thresholds: list[float] = field(factory=list)

    @property
    def length(self) -> int | None:
        """Of the body in bytes; ``None`` where only its end will tell."""
        return 0 if self.request.body is None else self.request.body.size

    def hooks(
        self, offset: int, end: int | None, headers: Callable[[UploadName], Mapping[str, str]] | None = None
    ) -> Hooks:
        """What makes the client hear it.

        :param offset: where the body begins.
        :param end: where it ends, as far as that is known.
        :param headers: of the first interim response; ``None`` where there is nothing to be told yet.
        """
        if self.version.tells_progress and end is not None:
            self._thresholds = [offset + (end - offset) * part for part in _TELLING_AT]

        def named(token: str, name: UploadName) -> None:
            self.request.notes.session, self.name = token, name
            if headers is not None and self._inform(headers(name)):
                self.knows = True

        return Hooks(named, self._durable)

    def _durable(self, offset: int) -> None:
        if self._thresholds and offset >= self._thresholds[0]:
            self._thresholds = [later for later in self._thresholds if later > offset]
            self._inform({"Upload-Offset": str(offset)})

    def _inform(self, headers: Mapping[str, str]) -> bool:
        """104 (Upload Resumption Supported)."""
        if not self.informs:
            return False
        lines = [("Upload-Draft-Interop-Version", str(self.version.number)), *headers.items()]
        encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in lines]
        return self.request.interim(104, b"Upload Resumption Supported", encoded)


class Draft:
    """See the module, and :class:`~hmacfs.web.dialects.Dialect`.

    :param locate: the path of an upload's own URL.
    :param now: the time in seconds since the epoch.
    :param interim_responses: ``on``, ``off``, or ``auto`` for those to clients without a proxy in between.
    """

    _log = Logger()

    def __init__(
        self,
        entrance: Entrance,
        uploads: Uploads,
        locate: Callable[[UploadName], str],
        now: Callable[[], float],
        interim_responses: str,
    ) -> None:
        self._entrance = entrance
        self._uploads = uploads
        self._ongoing = uploads.ongoing
        self._locate = locate
        self._now = now
        self._interim_responses = interim_responses

    @property
    def options(self) -> Mapping[str, str]:
        return upload_limit(("max-size", self._entrance.max_upload_bytes))

    def speaks(self, request: HmacfsRequest) -> bool:
        headers = request.requestHeaders
        # Those are of a client that goes on by itself, and the field beside them of what it is made with.
        if names_any(headers, ("Content-Range", "X-Session-Token")):
            return False
        return version_of(headers).completes(headers) is not None

    async def on_slot(self, request: HmacfsRequest, path: SlotPath) -> Answer | None:
        return await self._exchange(request, lambda exchange: self._create(exchange, path))

    async def on_upload(self, request: HmacfsRequest, name: UploadName) -> Answer | None:
        async def answer(exchange: _Exchange) -> Answer:
            exchange.knows = True
            match request.method:
                case b"HEAD":
                    return await self._look(exchange, name)
                case b"PATCH":
                    return await self._append(exchange, name)
                case b"DELETE":
                    await self._ongoing.give_up(name)
                    return Answer(204)
            raise Refused(405, "method-not-allowed", "An upload takes HEAD, PATCH, DELETE.", {"Allow": _ON_UPLOADS})

        return await self._exchange(request, answer)

    async def _exchange(
        self, request: HmacfsRequest, answer: Callable[[_Exchange], Awaitable[Answer]]
    ) -> Answer | None:
        """What is the same for every request: how things are said in its version that went wrong."""
        version = version_of(request.requestHeaders)
        exchange = _Exchange(request, version, self._may_inform(request, version))
        try:
            return await answer(exchange)
        except Superseded:
            cut_off(request)
            return None
        except Refused as refused:
            request.notes.reason = refused.reason
            if refused.reason in _TRANSIENT and exchange.knows and exchange.name is not None:
                # Apple's clients go on after a connection that broke, and not after an answer, whatever its status.
                request.abort()
                return None
            # The draft has answers of this kind whether or not the client asks for them.
            return refusal(self._translated(refused, version), b"application/problem+json")

    def _may_inform(self, request: HmacfsRequest, version: Version) -> bool:
        headers = request.requestHeaders
        if self._interim_responses == "off" or version.number is None or request.body is None:
            return False
        if version.completes(headers) is None or request.clientproto != b"HTTP/1.1":
            return False
        return self._interim_responses == "on" or not any(
            name.lower().startswith(_PROXIES) for name, _ in headers.getAllRawHeaders()
        )

    async def _create(self, exchange: _Exchange, path: SlotPath) -> Answer:
        request, version = exchange.request, exchange.version
        headers = request.requestHeaders
        refuse_forms(request)
        completes = version.completes(headers) is True
        total = _total(headers, 0, exchange.length, completes)
        _check_begins_at_0(headers, version)
        digests = StatedDigests.from_headers(headers)
        self._warn_of(digests)
        asked = UploadRequest(
            length=exchange.length,
            part=None,
            token=None,
            digests=digests.of_whole_file() if completes else digests,
            append=Append(0, total, last=completes, creates=True),
        )
        if request.method == b"PUT":
            slot = await self._entrance.put(request, path, asked)
        else:
            slot = self._entrance.create(request, path, total, _file_type(request))
        receipt = await self._receive(exchange, slot, asked)
        return self._received(exchange, receipt, creates=True)

    async def _receive(self, exchange: _Exchange, slot: Slot, asked: UploadRequest) -> Receipt:
        body = exchange.request.body
        assert asked.append is not None
        total = slot.size if asked.append.total is None else asked.append.total
        hooks = exchange.hooks(0, total, self._beginning(exchange.version))
        # All of it is coming, and its size is known: then a plain PUT will do.
        is_whole = asked.append.last is True and (asked.length is not None or slot.size is not None)
        if exchange.informs or not is_whole:
            try:
                return await self._uploads.receive(slot, asked, body, hooks)
            except Refused as refused:
                if not is_whole or exchange.name is not None or refused.reason != "unavailable":
                    raise
        # There is nobody who could be told where to go on, or nowhere to note it.
        exchange.informs = False
        return await self._uploads.receive(slot, asked.as_whole(), body, hooks)

    async def _append(self, exchange: _Exchange, name: UploadName) -> Answer:
        request, version = exchange.request, exchange.version
        headers = request.requestHeaders
        if version.body_type is not None and _media_type(request) != version.body_type:
            raise Refused(415, "bad-media-type", f"Expected Content-Type: {version.body_type.decode()}.")
        offset = integer(headers, "Upload-Offset")
        if offset is None:
            raise bad_header("Upload-Offset", "one number of bytes")
        completes = version.completes(headers)
        if completes is None and not version.presumes_end:
            raise bad_header(version.completeness, "?0 or ?1")
        ends = completes is not False
        total = _total(headers, offset, exchange.length, ends)
        digests = _digests_of_patch(headers)
        self._warn_of(digests)
        last = None if version.counts_bytes and not ends else ends
        asked = UploadRequest(exchange.length, None, None, digests, Append(offset, total, last=last))
        hooks = exchange.hooks(offset, None if exchange.length is None else offset + exchange.length)
        try:
            receipt = await self._ongoing.append(name, asked, request.body, hooks)
        except Refused as refused:
            if exchange.name is None and refused.reason in _INCONSISTENT and not version.replays:
                raise _complete() from refused
            if refused.reason == "size-mismatch" and version.invalidates:
                await self._invalidate(name, offset, exchange.length)
            raise
        if exchange.name is None and not version.replays:
            raise _complete()
        return self._received(exchange, receipt, creates=False)

    async def _invalidate(self, name: UploadName, offset: int, length: int | None) -> None:
        """Give the upload up, if it is true that its client has sent more than there is room for."""
        with contextlib.suppress(Refused):
            progress = await self._ongoing.look(name)
            if length is None or offset + length > progress.total:
                await self._ongoing.give_up(name)

    async def _look(self, exchange: _Exchange, name: UploadName) -> Answer:
        version = exchange.version
        if version.lonely and names_any(exchange.request.requestHeaders, _FIELDS):
            raise Refused(400, "bad-upload-header", f"A HEAD has none of {', '.join(_FIELDS)}.")
        progress = await self._ongoing.look(name)
        exchange.request.notes.session = progress.token
        return Answer(
            204,
            {
                "Upload-Offset": str(progress.offset),
                "Upload-Length": str(progress.total),
                **version.saying(progress.expires is None),
                **self._limits(version, progress.expires),
                "Cache-Control": "no-store",
            },
        )

    def _beginning(self, version: Version) -> Callable[[UploadName], Mapping[str, str]]:
        """What the client of a creation hears first."""

        def headers(name: UploadName) -> Mapping[str, str]:
            expires = self._now() + self._uploads.session_ttl_s
            return {"Location": self._locate(name), **self._limits(version, expires)}

        return headers

    def _received(self, exchange: _Exchange, receipt: Receipt, *, creates: bool) -> Answer:
        version, is_stored = exchange.version, receipt.stored is not None
        headers = {
            **stored_headers(exchange.request, receipt),
            "Upload-Offset": str(receipt.offset),
            **version.saying(is_stored),
        }
        if creates and receipt.name is not None and (version.locates_stored or not is_stored):
            headers["Location"] = self._locate(receipt.name)
        if not is_stored:
            headers.update(self._limits(version, receipt.expires))
        return Answer(201 if creates or is_stored else version.append_status, headers)

    def _limits(self, version: Version, expires: float | None) -> dict[str, str]:
        if version.lifetime is None:
            return {}
        left_s = None if expires is None else max(0.0, expires - self._now())
        return upload_limit(("max-size", self._entrance.max_upload_bytes), (version.lifetime, left_s))

    def _translated(self, refused: Refused, version: Version) -> Refused:
        """*refused* as *version* has it."""
        status, detail = refused.status, refused.detail
        headers, members = dict(refused.headers), refused.members
        if refused.reason in _TRANSIENT:
            status = 503
            headers.setdefault("Retry-After", "1")
        elif refused.reason == "upload-gone":
            status = version.gone_status
        elif refused.reason in _INCONSISTENT:
            status, members = 400, {**members, "type": _PROBLEMS + "inconsistent-upload-length"}
        elif refused.reason == "too-large":
            headers.update(upload_limit(("max-size", self._entrance.max_upload_bytes)))
        elif refused.reason == "length-required":
            detail = "The signature is of the file's size: send Upload-Length."
        if headers.pop("Upload-Complete", None) is not None:
            headers.update(version.saying(False))
        return Refused(status, refused.reason, detail, headers, members)

    def _warn_of(self, digests: StatedDigests) -> None:
        for name in digests.ignored:
            self._log.warn("a client's {name} is malformed and was passed over", name=name)


def _total(headers: Headers, offset: int, length: int | None, ends: bool) -> int | None:
    """Size of the file, by all that the request says of it; ``None`` if that is nothing.

    :param offset: where the body begins.
    :param length: of the body.
    :param ends: whether the file ends with it.
    :raises Refused: 400 where one contradicts another.
    """
    stated = integer(headers, "Upload-Length")
    implied = offset + length if ends and length is not None else None
    if None not in (stated, implied) and stated != implied:
        raise Refused(400, "size-mismatch", f"Upload-Length is {stated}, and the body ends the file at byte {implied}.")
    return implied if stated is None else stated


def _check_begins_at_0(headers: Headers, version: Version) -> None:
    """
    :raises Refused: 400 for a creation that goes on with something.
    """
    if headers.hasHeader(b"upload-offset") and (version.lonely or integer(headers, "Upload-Offset") != 0):
        raise bad_header("Upload-Offset", "none: an upload begins here. It goes on at its own URL, with PATCH")


def _complete() -> Refused:
    """Nothing can be appended any more."""
    detail = "The upload is complete."
    return Refused(400, "upload-complete", detail, members={"type": _PROBLEMS + "completed-upload"})


def _digests_of_patch(headers: Headers) -> StatedDigests:
    """What a PATCH states. Its own ``Repr-Digest`` is of the patch, not of the file (RFC 9530 appendix B.8)."""
    rest = headers.copy()
    rest.removeHeader(b"repr-digest")
    stated = StatedDigests.from_headers(rest)
    of_patch = StatedDigests.from_headers(Headers({b"content-digest": headers.getRawHeaders(b"repr-digest", [])}))
    ignored = tuple("repr-digest" for _ in of_patch.ignored)
    return evolve(stated, content=(*stated.content, *of_patch.content), ignored=(*stated.ignored, *ignored))


def _file_type(request: HmacfsRequest) -> bytes | None:
    """The content type of the file, as far as the request tells it."""
    return None if _media_type(request) == _PARTIAL else header(request, b"content-type")


def _media_type(request: HmacfsRequest) -> bytes:
    return (header(request, b"content-type") or b"").partition(b";")[0].strip().lower()
