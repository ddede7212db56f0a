"""What is served at ``MetricsPort``: metrics, and whether we are alive and ready."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from twisted.web.resource import Resource

from hmacfs.metrics import CONTENT_TYPE, Metrics
from hmacfs.web.answers import Answer
from hmacfs.web.base import AsyncResource, Nothing
from hmacfs.web.site import HmacfsRequest


class _Page(AsyncResource):
    """One page that is made afresh at each GET."""

    isLeaf = True

    def __init__(self, make: Callable[[], Awaitable[Answer]]) -> None:
        async def get(_request: HmacfsRequest) -> Answer:
            return await make()

        super().__init__([(b"GET", get), (b"HEAD", get)])


def build_status(metrics: Metrics, checks: Callable[[], Awaitable[Mapping[str, str]]]) -> Resource:
    """The resources ``/metrics``, ``/healthz`` and ``/readyz``.

    :param checks: what keeps us from taking an upload, by what it is about; nothing if we are ready.
    """

    async def scrape() -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}, metrics.expose())

    async def alive() -> Answer:
        return Answer(200, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}, b"ok\n")

    async def ready() -> Answer:
        failing = await checks()
        body = json.dumps({"ready": not failing, "failing": dict(failing)}).encode() + b"\n"
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return Answer(503 if failing else 200, headers, body)

    root = Nothing()
    root.putChild(b"metrics", _Page(scrape))
    root.putChild(b"healthz", _Page(alive))
    root.putChild(b"readyz", _Page(ready))
    return root
