"""From a refusal to an answer."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from hmacfs.errors import Refused
from hmacfs.net.streaming import StreamingRequest
from hmacfs.web.answers import Answer, refusal, write_answer
from tests.net.wire import OPEN, connect, get, put

TOO_LARGE = Refused(
    413, "too-large", "Up to 10 MB.", {"Retry-After": "5"}, {"type": "https://example.org/large", "limit": 10_000_000}
)


class RefusalTests(SynchronousTestCase):
    """One reason, in the form that the client would like."""

    def test_text(self) -> None:
        """A line for a person: Converse.js shows it."""
        for accept in (None, b"*/*", b"text/html, */*;q=0.8", b""):
            answer = refusal(TOO_LARGE, accept)
            self.assertEqual((answer.status, answer.body), (413, b"too-large: Up to 10 MB.\n"))
            self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")

    def test_problem(self) -> None:
        """RFC 9457: the members that it names, ours, and those of this very refusal."""
        for accept in (b"application/problem+json", b"application/json", b"text/plain, Application/JSON;q=0.9"):
            answer = refusal(TOO_LARGE, accept)
            self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
            self.assertEqual(
                json.loads(answer.body),
                {
                    "type": "https://example.org/large",
                    "title": "Request Entity Too Large",
                    "status": 413,
                    "reason": "too-large",
                    "detail": "Up to 10 MB.",
                    "limit": 10_000_000,
                },
            )

    def test_unregistered_status(self) -> None:
        """That of tus for a wrong checksum has a name, too."""
        answer = refusal(Refused(460, "digest-mismatch", "No."), b"application/json")
        self.assertEqual(json.loads(answer.body)["title"], "Checksum Mismatch")

    def test_own_headers(self) -> None:
        """Those that the status calls for; and nobody is to keep a refusal."""
        for accept in (None, b"application/json"):
            headers = refusal(TOO_LARGE, accept).headers
            self.assertEqual((headers["Retry-After"], headers["Cache-Control"]), ("5", "no-store"))

    @given(st.text(), st.sampled_from([None, b"application/json"]))
    def test_any_detail(self, detail: str, accept: bytes | None) -> None:
        """A detail that quotes something of the request may be anything that can be written."""
        detail = detail.encode("utf-8", "replace").decode()
        body = refusal(Refused(400, "bad", detail), accept).body
        self.assertEqual(json.loads(body)["detail"] if accept else body.decode()[5:-1], detail)


class WriteAnswerTests(SynchronousTestCase):
    """From an answer to what is sent."""

    def ask(self, answer: Answer, *requests: bytes) -> tuple[Any, Any]:
        """The connection and the site, after *requests* that are answered like that."""

        def write(request: StreamingRequest) -> Any:
            request.setHeader(b"x-session-token", b"token")
            write_answer(request, answer)
            return NOT_DONE_YET

        wire, site, _ = connect(write)
        wire.send(*requests)
        return wire, site

    def test_whole(self) -> None:
        """Status, headers of the answer, of the request and of the site, length and body; and the connection goes on."""
        wire, site = self.ask(Answer(460, {"X-A": "b"}, b"body"), get(), put(b"abc"), get())
        for answer in wire.answers("GET", "PUT", "GET"):
            self.assertEqual((answer.status, answer.body), (460, b"body"))
            shown = {name: answer.headers[name] for name in ("x-a", "x-session-token", "content-length")}
            self.assertEqual(shown, {"x-a": "b", "x-session-token": "token", "content-length": "4"})
            self.assertIn("date", answer.headers)
        self.assertEqual((wire.end, [request.sentLength for request in site.finished]), (OPEN, [4] * 3))

    def test_logged_first(self) -> None:
        """Who has the answer finds it logged and counted."""
        written: list[bytes] = []

        def write(request: StreamingRequest) -> Any:
            write_answer(request, Answer(460, {}, b"body"))
            return NOT_DONE_YET

        wire, site, _ = connect(write)
        self.patch(site, "requestFinished", lambda _request: written.append(wire.transport.value()))
        wire.send(get())
        self.assertEqual((written, wire.answer().body), ([b""], b"body"))

    def test_to_head(self) -> None:
        """The length that the body would have."""
        wire, site = self.ask(Answer(404, {}, b"body"), get(method=b"HEAD"), get())
        self.assertEqual([answer.body for answer in wire.answers("HEAD", "GET")], [b"", b"body"])
        self.assertEqual([request.sentLength for request in site.finished], [0, 4])

    def test_without_body(self) -> None:
        """A 204 has no length (RFC 9110 section 8.6), a 201 says that it is 0."""
        wire, _ = self.ask(Answer(204), get())
        self.assertNotIn("content-length", wire.answer().headers)
        wire, _ = self.ask(Answer(201), get())
        self.assertEqual(wire.answer().headers["content-length"], "0")

    def test_line_break(self) -> None:
        """Whatever is in a value, it ends no header."""
        wire, _ = self.ask(Answer(200, {"X-A": "b\r\nX-C: d"}), get())
        self.assertEqual(wire.answer().headers["x-a"], "b  X-C: d")
        self.assertNotIn("x-c", wire.answer().headers)
