"""Uploads that have begun, at ``/<UploadSubDir>/.up/<name>``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hmacfs.errors import Refused
from hmacfs.storage.names import UPLOADS_SEGMENT
from hmacfs.uploads.identity import UploadName
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource
from hmacfs.web.dialects import Dialect
from hmacfs.web.dialects.tus import Tus
from hmacfs.web.site import HmacfsRequest


class UploadResource(AsyncResource):
    """The uploads: HEAD tells how far one is, PATCH goes on with it, DELETE gives it up. To know the URL is to be allowed
    to. The file that comes of it is at its slot's URL, and not here.

    :param draft: takes every request that isn't *tus*'s.
    """

    isLeaf = True

    def __init__(self, *, tus: Tus, draft: Dialect) -> None:
        methods = (b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE")
        super().__init__([(method, self._answer) for method in methods], {**tus.options, **draft.options})
        self._tus = tus
        self._draft = draft

    async def _answer(self, request: HmacfsRequest) -> Answer | None:
        name = UploadName.parse(request.path.rpartition(b"/")[2]) if len(request.postpath or ()) == 1 else None
        if self._tus.speaks(request):
            return await self._tus.on_upload(request, name)
        if name is None or request.method == b"GET":
            raise Refused(404, "not-found", "There is no upload at this URL.")
        return await self._draft.on_upload(request, name)


def locator(upload_sub_dir: Sequence[str]) -> Callable[[UploadName], str]:
    """How to make the path of an upload's URL. It has no host: a proxy may have another one than we know of."""
    prefix = "/".join(["", *upload_sub_dir, UPLOADS_SEGMENT.decode("ascii")])
    return lambda name: f"{prefix}/{name}"
