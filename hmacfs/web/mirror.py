"""The mirror: tells ``hmacfs doctor`` how its request looks here, behind whatever stands between the two.

It is at ``/<UploadSubDir>/.doctor/``, takes every method, and shows itself only to who has the shared secret. Of the
body it says when it came and how much of it; nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from hmacfs import __version__
from hmacfs.access.keys import Keyring
from hmacfs.access.mirrorpass import is_pass
from hmacfs.errors import Refused
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource
from hmacfs.web.site import HmacfsRequest, HmacfsSite

#: The longest that an answer is held back on request, in seconds.
MAX_WAIT_S: Final = 300.0

#: The largest body that is taken, in bytes.
MAX_BODY_BYTES: Final = 64 * 1024 * 1024

_METHODS: Final = (b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE")

#: Whose values are none of the mirror's business, though they are the asker's own: proxies add theirs.
_CONFIDENTIAL: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})

#: Answers carry these, to be found again, or not, at the other end.
TELLTALES: Final[Mapping[str, str]] = {
    "ETag": '"doctor"',
    "Repr-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    "Content-Disposition": "attachment",
    "X-Session-Token": "doctor-token",
    "Upload-Offset": "0",
    "Location": "doctor",
    "Tus-Resumable": "1.0.0",
}


class Mirror(AsyncResource):
    """See the module.

    :param clock: for how long things take.
    :param now: the time in seconds since the epoch.
    :param condition: what else there is to tell, of the server and not of the request.
    """

    isLeaf = True

    def __init__(
        self,
        keyring: Keyring,
        clock: IReactorTime,
        now: Callable[[], float],
        condition: Callable[[], Awaitable[Mapping[str, object]]],
    ) -> None:
        super().__init__([(method, self._reflect) for method in _METHODS])
        self._keyring = keyring
        self._clock = clock
        self._now = now
        self._condition = condition

    async def _reflect(self, request: HmacfsRequest) -> Answer:
        arrived_at = self._clock.seconds()
        asked = dict(parse_qsl(request.uri.partition(b"?")[2]))
        if not is_pass(asked.get(b"pass", b""), self._keyring.candidates(self._now()), self._now()):
            raise Refused(404, "not-found", "There is nothing at this URL.")
        body = await self._take(request, arrived_at)
        wait_s = _natural(asked.get(b"wait", b"0"))
        if wait_s:
            await deferLater(self._clock, min(wait_s, MAX_WAIT_S), lambda: None)
        seen = {**_head(request), "body": body, "now": self._now(), **await self._condition()}
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", **TELLTALES}
        return Answer(200, headers, json.dumps(seen).encode() + b"\n")

    async def _take(self, request: HmacfsRequest, arrived_at: float) -> dict[str, object]:
        if request.body is None:
            return {"size": 0, "received": 0, "first_s": None, "last_s": None}
        if request.body.size is not None and request.body.size > MAX_BODY_BYTES:
            raise Refused(413, "too-large", f"The mirror takes {MAX_BODY_BYTES} bytes.")
        watching = _Watching(self._clock, arrived_at)
        await request.body.startProducing(watching)
        return {
            "size": request.body.size,
            "received": watching.received,
            "first_s": watching.first_s,
            "last_s": watching.last_s,
        }


@implementer(IConsumer)
class _Watching:
    """Looks at when a body comes, and drops it.

    :ivar received: how much has come, in bytes.
    :ivar first_s: when its first byte came, in seconds since its head.
    :ivar last_s: the same of the last.
    """

    def __init__(self, clock: IReactorTime, arrived_at: float) -> None:
        self._clock = clock
        self._arrived_at = arrived_at
        self.received = 0
        self.first_s: float | None = None
        self.last_s: float | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        """
        :raises Refused: 413; the connection is closed then.
        """
        self.received += len(data)
        if self.received > MAX_BODY_BYTES:
            raise Refused(413, "too-large", f"The mirror takes {MAX_BODY_BYTES} bytes.")
        self.last_s = self._clock.seconds() - self._arrived_at
        if self.first_s is None:
            self.first_s = self.last_s


def _head(request: HmacfsRequest) -> dict[str, object]:
    site = request.channel.site
    assert isinstance(site, HmacfsSite)
    sender = site.sender_of(request)
    return {
        "hmacfs": __version__,
        "method": request.method.decode("ascii", "replace"),
        "path": request.path.decode("latin-1"),
        "protocol": request.clientproto.decode("ascii", "replace"),
        "address": sender.host,
        "is_proxy": sender.is_proxy,
        "headers_ignored": sender.headers_ignored,
        "headers": [
            [name.decode("latin-1"), "" if name.lower() in _CONFIDENTIAL else value.decode("latin-1")]
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        ],
    }


def _natural(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 6 else 0
