"""Everything that happens at ``/<UploadSubDir>/<path>``."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hmacfs.errors import Refused
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.storage.names import SlotPath
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource
from hmacfs.web.dialects import Dialect
from hmacfs.web.dialects.sessions import Sessions, echo_session, refuse_forms
from hmacfs.web.downloads import Downloads
from hmacfs.web.entrance import Entrance
from hmacfs.web.site import HmacfsRequest

#: How many paths are remembered with the segments of their URLs, which are decoded and checked at every request else.
_REMEMBERED_PATHS: Final = 1024


class SlotResource(AsyncResource):
    """The slots: PUT stores a file, GET and HEAD fetch it, HEAD with the slot's signature tells how far an upload is,
    and DELETE with it gives an upload up. DELETE with another signature, of the XMPP server's own, deletes a stored file.
    POST and PATCH begin uploads in the dialects that have them.

    :param sessions: takes every PUT that *draft* doesn't.
    :param tus: takes every POST and PATCH that *draft* doesn't.
    """

    isLeaf = True

    def __init__(
        self,
        entrance: Entrance,
        uploads: Uploads,
        downloads: Downloads,
        deletions: AskedDeletions,
        *,
        sessions: Sessions,
        tus: Dialect,
        draft: Dialect,
    ) -> None:
        super().__init__(
            [
                (b"GET", self._get),
                (b"HEAD", self._head),
                (b"PUT", self._put),
                (b"POST", self._begin),
                (b"PATCH", self._begin),
                (b"DELETE", self._delete),
            ],
            {**tus.options, **draft.options},
        )
        self._entrance = entrance
        self._uploads = uploads
        self._downloads = downloads
        self._deletions = deletions
        self._sessions = sessions
        self._tus = tus
        self._draft = draft

    async def _get(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        stored = await self._downloads.find(path)
        if stored is None:
            raise _not_found()
        return await self._downloads.serve(request, stored, path)

    async def _head(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        echo_session(request)
        stored = await self._downloads.find(path)
        identity = self._entrance.identify(request)
        if stored is not None:
            if identity is not None:
                request.setHeader(b"upload-complete", b"?1")
            return await self._downloads.serve(request, stored, path)
        answer = None if identity is None else await self._sessions.progress(request, path, identity)
        if answer is None:
            raise _not_found()
        return answer

    async def _put(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        echo_session(request)
        if self._draft.speaks(request):
            return await self._draft.on_slot(request, path)
        return await self._sessions.put(request, path)

    async def _begin(self, request: HmacfsRequest) -> Answer | None:
        path = _path(request)
        refuse_forms(request)
        dialect = self._draft if self._draft.speaks(request) and not self._tus.speaks(request) else self._tus
        return await dialect.on_slot(request, path)

    async def _delete(self, request: HmacfsRequest) -> Answer:
        path = _path(request)
        echo_session(request)
        try:
            is_asked = self._entrance.is_deletion(request, path)
        except Refused:
            # Of a slot's own signature, which is never that of a deletion.
            identity = self._entrance.identify(request)
            if identity is not None and await self._uploads.cancel(path, identity):
                return Answer(204)
            raise
        if not is_asked:
            return await self._give_up(path, self._entrance.identify(request))
        await self._deletions.delete(path)
        return Answer(204)

    async def _give_up(self, path: SlotPath, identity: bytes | None) -> Answer:
        if identity is None:
            raise Refused(403, "missing-signature", "Giving an upload up takes the URL that it was begun with.")
        stored = await self._downloads.find(path)
        if stored is not None:
            stored.close()
            raise Refused(409, "conflict", "The file is complete, and stays.")
        if not await self._uploads.cancel(path, identity):
            raise _not_found()
        return Answer(204)


def _path(request: HmacfsRequest) -> SlotPath:
    """The path of the slot, from the URL as it was sent.

    twisted.web's own segments won't do: they were decoded after the path was split, so that an encoded slash is a slash.
    """
    segments = request.path[1:].split(b"/")
    return _remembered(tuple(segments[len(request.prepath or ()) :]))


_remembered = lru_cache(_REMEMBERED_PATHS)(SlotPath.from_url)


def _not_found() -> Refused:
    return Refused(404, "not-found", "There is no file at this URL.")
