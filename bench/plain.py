"""The least that a streaming PUT can cost in this build: the body goes to a file, and that is all.

No signature, no facts, no digest, no fsync, no state: what hmacfs does beside is measured against it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from hmacfs.net.limits import Limits
from hmacfs.net.streaming import StreamingRequest, StreamingSite


@implementer(IConsumer)
class _File:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing to hold it back for."""

    def unregisterProducer(self) -> None:
        """Nothing was registered."""

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)


class _Files(Resource):
    isLeaf = True

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def render_PUT(self, request: Request) -> int:
        assert isinstance(request, StreamingRequest)
        Deferred.fromCoroutine(self._put(request)).addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _put(self, request: StreamingRequest) -> None:
        file = _File(self._directory / request.path.rpartition(b"/")[2].decode("ascii"))
        try:
            if request.body is not None:
                await request.body.startProducing(file)
        finally:
            os.close(file.fd)
        request.setResponseCode(201)
        request.setHeader(b"content-length", b"0")
        request.finish()

    def _failed(self, failure: Failure, request: StreamingRequest) -> None:
        failure.printTraceback()
        request.abort()


def main(port: int, directory: Path, buffer_bytes: int) -> None:
    """Serve until the process is ended."""
    typed: Any = reactor
    site = StreamingSite(_Files(directory), reactor=typed, limits=Limits(body_buffer_bytes=buffer_bytes))
    typed.listenTCP(port, site, interface="127.0.0.1", backlog=1024)
    typed.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
