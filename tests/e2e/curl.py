"""curl, the client that every operator has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from attrs import frozen

from tests.e2e.processes import program, run


@frozen
class Fetched:
    """What curl has done.

    :ivar exit_status: 0, or one of curl's error numbers.
    :ivar status: HTTP status of the last response, 0 if there was none.
    :ivar headers: of the last response, the names in lower case.
    :ivar head: everything that stood before the body, interim responses included.
    :ivar sent_bytes: how much of a body it has sent.
    """

    exit_status: int
    status: int
    headers: dict[str, list[str]]
    body: bytes
    head: str
    error: str
    sent_bytes: int

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def header(self, name: str) -> str | None:
        """The only value of a header, or ``None``."""
        values = self.headers.get(name.lower(), [])
        assert len(values) < 2, f"{name} stands {len(values)} times in the answer: {values}"
        return values[0] if values else None


def curl(*arguments: str | Path) -> Fetched:
    """Run curl, and wait for it.

    :param arguments: as on its command line. The body goes to memory unless ``-o`` says otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="hmacfs-curl-") as name:
        body, head = Path(name, "body"), Path(name, "head")
        described = '{"code": "%{http_code}", "sent": %{size_upload}, "headers": %{header_json}}'
        argv: list[str | Path] = [program("curl"), "-q", "-sS", "-g", "--noproxy", "*", "-D", head]
        argv += ["-w", described]
        if "-o" not in arguments:
            argv += ["-o", body]
        argv += arguments
        done = run(argv)
        facts = json.loads(done.stdout)
        return Fetched(
            exit_status=done.status,
            status=int(facts["code"]),
            headers=facts["headers"],
            body=body.read_bytes() if body.exists() else b"",
            head=head.read_text("latin-1") if head.exists() else "",
            error=done.stderr,
            sent_bytes=facts["sent"],
        )
