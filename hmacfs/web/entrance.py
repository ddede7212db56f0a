"""Who may write to a slot: from a request to what its signature grants, whatever dialect the request speaks."""

from __future__ import annotations

from hmacfs.access.attempt import Attempt
from hmacfs.access.gate import Gate
from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.net.threads import Threads
from hmacfs.storage.names import SlotPath
from hmacfs.units import human_size
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.site import HmacfsRequest

#: Refusals after which it is worth to look whether the credential is that of an upload which has begun already.
_PERHAPS_BEGUN = frozenset({"bad-signature", "expired", "size-mismatch", "length-required"})

#: How many explanations of a wrong signature may be in the making. Each takes a thread for milliseconds.
_MAX_EXPLANATIONS = 4


class Entrance:
    """See the module. To be used on the reactor's thread alone.

    :param max_upload_bytes: the largest file to take; ``None`` for any.
    """

    def __init__(self, gate: Gate, uploads: Uploads, threads: Threads, max_upload_bytes: int | None) -> None:
        self.max_upload_bytes = max_upload_bytes
        self._gate = gate
        self._uploads = uploads
        self._threads = threads
        self._explaining = 0

    def identify(self, request: HmacfsRequest) -> bytes | None:
        """See :meth:`hmacfs.access.gate.Gate.identify`."""
        return self._gate.identify(attempt_of(request, None, None))

    def is_deletion(self, request: HmacfsRequest, path: SlotPath) -> bool:
        """See :meth:`hmacfs.access.gate.Gate.authorize_deletion`."""
        return self._gate.authorize_deletion(path, attempt_of(request, None, None))

    async def put(self, request: HmacfsRequest, path: SlotPath, asked: UploadRequest) -> Slot:
        """The slot of a PUT, which may go on with an upload that was begun with the same credential.

        :raises Refused: as the gate does, 413 for too large a file, 503 where the state store is away.
        """
        attempt = attempt_of(request, asked.total, header(request, b"content-type"))
        try:
            slot = self._gate.authorize(path, attempt)
        except Refused as refused:
            begun = await self._begun(request, path) if refused.reason in _PERHAPS_BEGUN else None
            if begun is None:
                self._explain(request, attempt, refused)
                raise
            slot = begun
        self._check_size(slot.size if slot.size is not None else asked.total)
        return slot

    def create(self, request: HmacfsRequest, path: SlotPath, total: int | None, content_type: bytes | None) -> Slot:
        """The slot of a request that begins an upload, whatever its method.

        What a signature covers of the method is that it is for PUT, which stores a file; so does what begins here.

        :param total: size of the whole file in bytes, as far as the request tells it.
        :param content_type: of the file, as far as the request tells it.
        :raises Refused: as the gate does; 413 for too large a file.
        """
        attempt = attempt_of(request, total, content_type, method=b"PUT")
        try:
            slot = self._gate.authorize(path, attempt)
        except Refused as refused:
            self._explain(request, attempt, refused)
            raise
        self._check_size(slot.size if slot.size is not None else total)
        return slot

    async def _begun(self, request: HmacfsRequest, path: SlotPath) -> Slot | None:
        identity = self.identify(request)
        return None if identity is None else await self._uploads.begun(path, identity)

    def _explain(self, request: HmacfsRequest, attempt: Attempt, refused: Refused) -> None:
        """Find out why a signature is wrong, for the log, after the answer."""
        if refused.reason != "bad-signature" or self._explaining >= _MAX_EXPLANATIONS:
            return
        self._explaining += 1
        request.notes.remark = self._threads.run(self._gate.explain, attempt).addBoth(self._explained)

    def _explained(self, result: str | None) -> str | None:
        self._explaining -= 1
        return result

    def _check_size(self, size: int | None) -> None:
        if self.max_upload_bytes is not None and size is not None and size > self.max_upload_bytes:
            limit = human_size(self.max_upload_bytes)
            raise Refused(413, "too-large", f"This server takes files of up to {limit}.")


def attempt_of(
    request: HmacfsRequest, size: int | None, content_type: bytes | None, *, method: bytes | None = None
) -> Attempt:
    """What *request* shows at the gate.

    :param size: of the whole file in bytes.
    :param content_type: of the file.
    :param method: that it stands for, if not its own.
    """
    return Attempt(
        raw_path=request.path,
        query=request.uri.partition(b"?")[2],
        authorization=header(request, b"authorization"),
        method=method or request.method,
        size=size,
        content_type=content_type,
    )


def header(request: HmacfsRequest, name: bytes) -> bytes | None:
    """The first value of a header; ``None`` if there is none."""
    values = request.requestHeaders.getRawHeaders(name)
    return None if values is None else values[0]


def body_length(request: HmacfsRequest) -> int | None:
    """Of the body, in bytes; ``None`` where nothing says."""
    if request.body is not None:
        return request.body.size
    return 0 if request.requestHeaders.hasHeader(b"content-length") else None
