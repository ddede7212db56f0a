"""The tree of resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.web.resource import Resource
from twisted.web.server import Request

from hmacfs.keeping.asked import AskedDeletions
from hmacfs.storage.names import MIRROR_SEGMENT, UPLOADS_SEGMENT
from hmacfs.uploads.uploads import Uploads
from hmacfs.web.base import Nothing
from hmacfs.web.dialects.draft import Draft
from hmacfs.web.dialects.sessions import Sessions
from hmacfs.web.dialects.tus import Tus
from hmacfs.web.downloads import Downloads
from hmacfs.web.entrance import Entrance
from hmacfs.web.mirror import Mirror
from hmacfs.web.ongoing import UploadResource, locator
from hmacfs.web.slots import SlotResource


class _Prefix(Resource):
    """What is below ``UploadSubDir``: slots, and what has a name that no slot has.

    :param others: the latter, by name.
    """

    def __init__(self, slots: SlotResource, others: Mapping[bytes, Resource]) -> None:
        super().__init__()
        self._slots = slots
        self._others = others

    def getChildWithDefault(self, path: bytes, request: Request) -> Resource:
        other = self._others.get(path)
        if other is not None:
            return other
        # The slots want the whole rest of the path.
        assert request.prepath is not None and request.postpath is not None
        request.postpath.insert(0, request.prepath.pop())
        return self._slots

    def render(self, request: Request) -> int:
        return self._slots.render(request)


def build_root(
    entrance: Entrance,
    uploads: Uploads,
    downloads: Downloads,
    deletions: AskedDeletions,
    mirror: Mirror,
    *,
    upload_sub_dir: Sequence[str],
    now: Callable[[], float],
    interim_responses: str,
) -> Resource:
    """Hang slots and uploads below the segments of ``UploadSubDir``; with none, they are the root.

    :param now: the time in seconds since the epoch.
    :param interim_responses: see :class:`~hmacfs.web.dialects.draft.Draft`.
    """
    locate = locator(upload_sub_dir)
    tus = Tus(entrance, uploads, locate)
    draft = Draft(entrance, uploads, locate, now, interim_responses)
    sessions = Sessions(entrance, uploads, locate, now)
    slots = SlotResource(entrance, uploads, downloads, deletions, sessions=sessions, tus=tus, draft=draft)
    others = {UPLOADS_SEGMENT: UploadResource(tus=tus, draft=draft), MIRROR_SEGMENT: mirror}
    root: Resource = _Prefix(slots, others)
    for segment in reversed(upload_sub_dir):
        above = Nothing()
        above.putChild(segment.encode(), root)
        root = above
    return root
