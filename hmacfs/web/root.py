"""The tree of resources."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.web.resource import Resource

from hmacfs.web.base import Nothing
from hmacfs.web.slots import SlotResource


def build_root(slots: SlotResource, upload_sub_dir: Sequence[str]) -> Resource:
    """Hang *slots* below the segments of ``UploadSubDir``; with none, they are the root."""
    root: Resource = slots
    for segment in reversed(upload_sub_dir):
        above = Nothing()
        above.putChild(segment.encode(), root)
        root = above
    return root
