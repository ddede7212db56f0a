"""Answers: what a resource returns, and the one place where a refusal becomes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from attrs import field, frozen
from twisted.web.http import NO_BODY_CODES

from hmacfs.errors import Refused
from hmacfs.net.streaming import StreamingRequest
from hmacfs.web import cors

#: The headers of every answer at any site, those that no resource gives among them.
EVERYWHERE: tuple[tuple[str, str], ...] = (("Server", "hmacfs"), ("X-Content-Type-Options", "nosniff"))

#: The same where files are.
ALWAYS: tuple[tuple[str, str], ...] = (*cors.ALWAYS, *EVERYWHERE)


#: On whatever a browser might show: nothing in it runs, is framed or tells where its reader came from.
HARMLESS: tuple[tuple[str, str], ...] = (
    ("Content-Security-Policy", "sandbox; default-src 'none'; media-src 'self'; frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
)


def phrase(status: int) -> str:
    """The words that go with a status."""
    # 460 is not registered: it is from the extension "checksum" of tus 1.0.
    return "Checksum Mismatch" if status == 460 else HTTPStatus(status).phrase


@frozen
class Answer:
    """A whole response with a short body, or with none.

    :ivar headers: beside those that every answer of the site gets, and the length.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""


def write_answer(request: StreamingRequest, answer: Answer) -> None:
    """Send *answer* and finish *request*."""
    lines = [_line(name, value) for name, value in answer.headers.items()]
    if answer.status not in NO_BODY_CODES:
        lines.append(f"Content-Length: {len(answer.body)}\r\n")
    body = b"" if request.method == b"HEAD" else answer.body
    request.beginWith(answer.status, phrase(answer.status).encode(), "".join(lines).encode(), body)
    request.finish()


def _line(name: str, value: str) -> str:
    """A header, which stays one whatever is in its value."""
    clean = value.replace("\r", " ").replace("\n", " ")
    return f"{name}: {clean}\r\n"


def refusal(refused: Refused, accept: bytes | None) -> Answer:
    """The answer that says why: a line of text, or ``application/problem+json`` (RFC 9457) where *accept* names it."""
    headers = {**dict(HARMLESS), "Cache-Control": "no-store", **refused.headers}
    if accept is not None and b"json" in accept.lower():
        headers["Content-Type"] = "application/problem+json"
        problem = {
            "title": phrase(refused.status),
            "status": refused.status,
            "reason": refused.reason,
            "detail": refused.detail,
            **refused.members,
        }
        body = json.dumps(problem).encode() + b"\n"
    else:
        headers["Content-Type"] = "text/plain; charset=utf-8"
        body = f"{refused.reason}: {refused.detail}\n".encode()
    return Answer(refused.status, headers, body)
