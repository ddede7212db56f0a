"""A client of the IETF's resumable uploads that does as it is told, right or wrong."""

from __future__ import annotations

from tests.e2e.uploader import Headers, Uploader, merged
from tests.e2e.wire import Address, Answer, Connection

PARTIAL = {"Content-Type": "application/partial-upload"}


class DraftClient(Uploader):
    """Speaks one of the draft's interop versions, but for what a test has it say instead.

    :param version: of the draft; ``None``: it says nothing of it, as clients of the RFC to come will.
    """

    def __init__(self, port: Address, content: bytes | int, version: int | None = 8, path: str | None = None) -> None:
        super().__init__(port, content, path)
        self.version = version

    def complete(self, ends: bool) -> dict[str, str]:
        """The header that says whether a body ends the file."""
        if self.version == 3:
            return {"Upload-Incomplete": "?0" if ends else "?1"}
        return {"Upload-Complete": "?1" if ends else "?0"}

    def is_complete(self, answer: Answer) -> bool | None:
        """What an answer says of it."""
        if self.version == 3:
            return {"?0": True, "?1": False}.get(answer.header("Upload-Incomplete") or "")
        return {"?1": True, "?0": False}.get(answer.header("Upload-Complete") or "")

    def _own(self) -> dict[str, str]:
        return {} if self.version is None else {"Upload-Draft-Interop-Version": str(self.version)}

    def _creation(self, ends: bool, headers: Headers | None) -> dict[str, str]:
        length = {} if ends else {"Upload-Length": str(self.size)}
        return merged(self._own(), self.complete(ends), length, headers or {})

    def create(
        self, body: bytes | None = None, headers: Headers | None = None, *, ends: bool = True, method: str = "POST"
    ) -> Answer:
        """Begin the upload, with all of the file, or another body."""
        sent = self.content if body is None else body
        answer = self.ask(method, self.slot, self._creation(ends, headers), sent)
        for head in (*answer.before, answer):
            self.located(head)
        return answer

    def created(self, headers: Headers | None = None) -> DraftClient:
        answer = self.create(b"", headers, ends=False)
        assert answer.status == 201, f"POST: {answer.status} {answer.text}"
        return self

    def head(self, headers: Headers | None = None) -> Answer:
        return self.ask("HEAD", self.upload, merged(self._own(), headers or {}))

    def offset(self) -> int:
        head = self.head()
        assert head.status == 204, f"HEAD: {head.status}"
        return int(head.header("Upload-Offset") or "")

    def patch(
        self, offset: int, body: bytes | None = None, headers: Headers | None = None, *, ends: bool = True
    ) -> Answer:
        """Send what comes from *offset* on, or something else."""
        sent = self.content[offset:] if body is None else body
        return self.ask("PATCH", self.upload, self._append(offset, ends, headers), sent)

    def rest(self, offset: int) -> Answer:
        return self.patch(offset)

    def begin(self, offset: int, arrived: int, headers: Headers | None = None) -> Connection:
        connection = Connection(self.port)
        connection.send_head("PATCH", self.upload, self._append(offset, True, headers), self.size - offset)
        connection.send(self.content[offset:arrived])
        return connection

    def begin_creation(self, arrived: int, headers: Headers | None = None, method: str = "PUT") -> Connection:
        """Send the beginning of the whole file to the slot, and leave it at that."""
        connection = Connection(self.port)
        connection.send_head(method, self.slot, self._creation(True, headers), self.size)
        connection.send(self.content[:arrived])
        return connection

    def delete(self) -> Answer:
        return self.ask("DELETE", self.upload, self._own())

    def _append(self, offset: int, ends: bool, headers: Headers | None) -> dict[str, str]:
        return merged(self._own(), PARTIAL, {"Upload-Offset": str(offset)}, self.complete(ends), headers or {})
