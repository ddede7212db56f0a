"""GET and HEAD of a stored file: whole, in part, or not at all because the client has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.error import ConnectionLost
from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.net.sending import FileShrank, send_file
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import OpenFile, Store
from hmacfs.uploads.retrying import Retries
from hmacfs.web.answers import Answer
from hmacfs.web.fileheaders import HeadLines, file_headers, is_current, range_applies, validators
from hmacfs.web.offloading import Offloading
from hmacfs.web.ranges import ByteRange, Unsatisfiable, parse_range
from hmacfs.web.site import HmacfsRequest


class Downloads:
    """Serves stored files.

    :param now: the time in seconds since the epoch.
    :param stall_s: after so many seconds without progress a reader is cut off.
    :param retries: for files that can't be opened for a reason that may pass; with a limit of 0 where that is not wanted.
    :param publishing: waits for an upload that is just being published under a path, if there is one; ``None`` where
        that is not wanted.
    :param read: called with the path of each file that somebody asks for, to have it or to hear that it is as before.
    :param offloading: leaves the sending to a proxy; ``None`` where that is not wanted.
    """

    _log = Logger()

    def __init__(
        self,
        store: Store,
        now: Callable[[], float],
        *,
        stall_s: float,
        retries: Retries,
        publishing: Callable[[SlotPath], Awaitable[bool]] | None,
        read: Callable[[SlotPath], None],
        offloading: Offloading | None = None,
    ) -> None:
        self._store = store
        self._now = now
        self._stall_s = stall_s
        self._retries = retries
        self._publishing = publishing
        self._read = read
        self._offloading = offloading
        self._head_lines = HeadLines()

    async def find(self, path: SlotPath) -> OpenFile | None:
        """Open the file at *path*; the caller closes it. ``None`` where none is stored.

        :raises Refused: 410 where its time is over, 451 where the operator has taken it down, 503 where the storage
            doesn't answer.
        """
        stored = await self._retries.call("read", self._store.open_file, path)
        if stored is None and self._publishing is not None and await self._publishing(path):
            stored = await self._retries.call("read", self._store.open_file, path)
        if stored is not None:
            try:
                stored.facts.check_served(self._now())
            except Refused:
                stored.close()
                raise
        return stored

    async def serve(self, request: HmacfsRequest, stored: OpenFile, path: SlotPath) -> Answer | None:
        """Answer a GET or HEAD with *stored*, and close it.

        :raises ConnectionLost: the client was gone before the file could be opened.
        """
        try:
            if request.lost:
                raise ConnectionLost("The client was gone before the file was found.")
            if request.method == b"GET":
                self._read(path)
            return await self._serve(request, stored, path)
        finally:
            stored.close()

    async def _serve(self, request: HmacfsRequest, stored: OpenFile, path: SlotPath) -> Answer | None:
        now = self._now()
        if is_current(request.requestHeaders, stored):
            return Answer(304, dict(validators(stored, now)))
        part = self._part(request, stored)
        elsewhere = self._elsewhere(request, stored, path, now, part=part is not None)
        if elsewhere is not None:
            return elsewhere
        lines = self._head_lines(stored, path.name, now)
        if part is None:
            part = ByteRange(0, stored.size)
            status, phrase = 200, b"OK"
        else:
            lines += b"Content-Range: %b\r\n" % part.content_range(stored.size).encode("ascii")
            status, phrase = 206, b"Partial Content"
        has_body = request.method == b"GET" and part.size > 0
        request.beginWith(status, phrase, b"%bContent-Length: %d\r\n" % (lines, part.size), more=has_body)
        if has_body:
            await self._send(request, stored, part)
        else:
            request.finish()
        return None

    def _elsewhere(
        self, request: HmacfsRequest, stored: OpenFile, path: SlotPath, now: float, *, part: bool
    ) -> Answer | None:
        """The answer that has a proxy send the bytes, if there are any to be sent and it can."""
        if self._offloading is None or request.method != b"GET" or not stored.size:
            return None
        headers = file_headers(stored, path.name, now)
        found = self._offloading.headers(path, request.client, request.requestHeaders, headers, part=part)
        if found is None:
            return None
        request.notes.offloaded = True
        return Answer(200, found)

    async def _send(self, request: HmacfsRequest, stored: OpenFile, part: ByteRange) -> None:
        try:
            await send_file(request, stored.fd, part.start, part.size, self._stall_s)
        except (FileShrank, OSError) as error:
            # The connection has been cut: nothing else tells the client that it has not got all.
            request.notes.reason = "storage"
            self._log.error("a file could not be sent to its end: {error}", error=error, seldom="sending")

    def _part(self, request: HmacfsRequest, stored: OpenFile) -> ByteRange | None:
        """The part that a GET asks for. A Range on anything else means nothing (RFC 9110 section 14.2)."""
        asked = request.requestHeaders.getRawHeaders(b"range")
        if asked is None or len(asked) != 1 or request.method != b"GET":
            return None
        if not range_applies(request.requestHeaders, stored):
            return None
        try:
            return parse_range(asked[0], stored.size)
        except Unsatisfiable:
            raise Refused(
                416,
                "range-not-satisfiable",
                f"The file has {stored.size} bytes.",
                {"Content-Range": f"bytes */{stored.size}"},
            ) from None
