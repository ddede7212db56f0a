"""From a refusal to an answer."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.web.answers import refusal

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
