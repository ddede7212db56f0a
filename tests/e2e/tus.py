"""A tus client that does as it is told, right or wrong."""

from __future__ import annotations

import hashlib
from base64 import b64encode

from tests.e2e.uploader import Headers, Uploader, merged
from tests.e2e.wire import Answer, Connection

VERSION = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


def checksum(content: bytes, algorithm: str = "sha1") -> dict[str, str]:
    """The ``Upload-Checksum`` of a body."""
    digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
    return {"Upload-Checksum": f"{algorithm} {b64encode(digest).decode()}"}


class TusClient(Uploader):
    """Speaks tus 1.0.0, but for what a test has it say instead."""

    def create(self, headers: Headers | None = None, body: bytes | None = None) -> Answer:
        """Begin the upload. A body is bytes of the file."""
        own = {**VERSION, "Upload-Length": str(self.size), **({} if body is None else BYTES)}
        sent = b"" if body is None else body
        return self.located(self.ask("POST", self.slot, merged(own, headers or {}), sent))

    def created(self, headers: Headers | None = None) -> TusClient:
        answer = self.create(headers)
        assert answer.status == 201, f"POST: {answer.status} {answer.text}"
        return self

    def head(self, headers: Headers | None = None) -> Answer:
        return self.ask("HEAD", self.upload, merged(VERSION, headers or {}))

    def offset(self) -> int:
        head = self.head()
        assert head.status == 200, f"HEAD: {head.status}"
        return int(head.header("Upload-Offset") or "")

    def patch(self, offset: int, body: bytes | None = None, headers: Headers | None = None) -> Answer:
        """Send what comes from *offset* on, or something else."""
        sent = self.content[offset:] if body is None else body
        own = {**VERSION, **BYTES, "Upload-Offset": str(offset)}
        return self.ask("PATCH", self.upload, merged(own, headers or {}), sent)

    def rest(self, offset: int) -> Answer:
        return self.patch(offset)

    def chunked(self, offset: int, *chunks: bytes) -> Answer:
        """Send a body that doesn't say how long it is."""
        framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
        with Connection(self.port) as connection:
            headers = {**VERSION, **BYTES, "Upload-Offset": str(offset), "Transfer-Encoding": "chunked"}
            connection.send_head("PATCH", self.upload, headers)
            connection.send_while_wanted([framed])
            return connection.answer("PATCH")

    def begin(self, offset: int, arrived: int, headers: Headers | None = None) -> Connection:
        connection = Connection(self.port)
        own = {**VERSION, **BYTES, "Upload-Offset": str(offset)}
        connection.send_head("PATCH", self.upload, merged(own, headers or {}), self.size - offset)
        connection.send(self.content[offset:arrived])
        return connection

    def delete(self) -> Answer:
        return self.ask("DELETE", self.upload, VERSION)
