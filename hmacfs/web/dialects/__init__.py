"""How uploads are spoken about: each dialect turns requests into those of :mod:`hmacfs.uploads`, and what comes of them
into its own answers.

Uploads that may break off have two kinds of URL. A slot's takes what its signature allows; there an upload begins. The
upload's own, ``/<UploadSubDir>/.up/<name>``, is told to who began it, and to know it is to be allowed to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hmacfs.storage.names import SlotPath
from hmacfs.uploads.identity import UploadName
from hmacfs.web.answers import Answer
from hmacfs.web.site import HmacfsRequest


class Dialect(Protocol):
    """One of those that begin an upload at a slot's URL and go on with it at the upload's own."""

    @property
    def options(self) -> Mapping[str, str]:
        """What OPTIONS says of it at both."""

    def speaks(self, request: HmacfsRequest) -> bool:
        """Whether *request* is of this dialect by its own word."""

    async def on_slot(self, request: HmacfsRequest, path: SlotPath) -> Answer | None:
        """Answer a request to a slot.

        :return: ``None`` where the connection has been cut.
        :raises Refused: whatever speaks against it.
        """

    async def on_upload(self, request: HmacfsRequest, name: UploadName) -> Answer | None:
        """Answer a request to an upload; returns and raises as :meth:`on_slot`."""
