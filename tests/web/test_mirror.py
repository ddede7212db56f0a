"""The mirror, which tells the doctor what of its request arrives."""

from __future__ import annotations

import json
from typing import Any

from hmacfs.access.keys import Secret
from hmacfs.access.mirrorpass import TOLERANCE_S, make_pass
from hmacfs.web.mirror import MAX_BODY_BYTES, MAX_WAIT_S
from tests.web.support import NOW, SECRET, ServerTestCase, request


class MirrorTests(ServerTestCase):
    """Requests with a pass, and without."""

    def target(self, rest: str = "", query: str = "", secret: str = SECRET, at: float = NOW) -> str:
        return f"/upload/.doctor/{rest}?pass={make_pass(Secret(secret.encode()), at)}{query}"

    def seen(self, *data: bytes) -> dict[str, Any]:
        """What the mirror shows of one request."""
        answer = self.server.ask(*data)
        self.assertEqual(answer.status, 200, answer.body)
        shown: dict[str, Any] = json.loads(answer.body)
        return shown

    def test_head_of_request(self) -> None:
        """Method, path as it came, header fields in their order, who asks, and how the server is."""
        seen = self.seen(request("GET", self.target("a%2Fb/%C3%A4"), {"X-One": "1", "X-Two": "2"}))
        self.assertEqual((seen["method"], seen["path"]), ("GET", "/upload/.doctor/a%2Fb/%C3%A4"))
        self.assertEqual(
            [pair for pair in seen["headers"] if pair[0].startswith("X-")], [["X-One", "1"], ["X-Two", "2"]]
        )
        self.assertEqual((seen["now"], seen["failing"], seen["redis"]), (NOW, {}, None))
        self.assertEqual((seen["is_proxy"], seen["headers_ignored"]), (False, False))

    def test_methods(self) -> None:
        """Every method of uploads and downloads is shown."""
        for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
            self.assertEqual(self.seen(request(method, self.target(), body=b""))["method"], method)
        self.assertEqual(self.server.ask(request("HEAD", self.target())).status, 200)

    def test_confidential(self) -> None:
        """That there are credentials is shown, and not what they are."""
        seen = self.seen(request("GET", self.target(), {"Authorization": "Bearer abcdefgh", "Cookie": "a=b"}))
        self.assertEqual([value for name, value in seen["headers"] if name in ("Authorization", "Cookie")], ["", ""])

    def test_body(self) -> None:
        """How much of it came, and when: nothing is stored."""
        wire = self.server.connect(request("PUT", self.target(), length=6))
        self.clock.advance(1)
        wire.send(b"abc")
        self.clock.advance(2)
        wire.send(b"def")
        seen = json.loads(wire.answers()[0].body)
        self.assertEqual(seen["body"], {"size": 6, "received": 6, "first_s": 1.0, "last_s": 3.0})
        self.assertEqual(self.server.published, [])

    def test_large_body(self) -> None:
        """More than there can be a question about isn't taken."""
        answer = self.server.ask(request("PUT", self.target(), length=MAX_BODY_BYTES + 1))
        self.assert_refused(answer, 413, "too-large")

    def test_wait(self) -> None:
        """An answer is held back as long as is wished, within limits."""
        for wished, waited in ((5, 5), (99999, MAX_WAIT_S)):
            wire = self.server.connect(request("GET", self.target(query=f"&wait={wished}")))
            self.clock.advance(waited - 1)
            self.assertEqual(wire.answers(), [])
            self.clock.advance(1)
            self.assertEqual([answer.status for answer in wire.answers()], [200])

    def test_without_pass(self) -> None:
        """Who has no pass, a foreign one or an old one sees nothing, and doesn't know that there is anything."""
        nothing = self.server.ask(request("GET", "/upload/nothing/here"))
        for target in (
            "/upload/.doctor/",
            "/upload/.doctor/?pass=1-2",
            self.target(secret="another secret"),
            self.target(at=NOW - TOLERANCE_S - 2),
            self.target(at=NOW + TOLERANCE_S + 2),
            self.target().replace(f"pass={NOW:.0f}", f"pass={NOW + 1:.0f}"),
        ):
            answer = self.server.ask(request("GET", target))
            self.assert_refused(answer, 404, "not-found")
            self.assertNotIn(b"doctor", answer.body)
        self.assertEqual(nothing.status, 404)

    def test_clock_may_be_wrong(self) -> None:
        """By hours: that is one of the questions."""
        self.seen(request("GET", self.target(at=NOW - TOLERANCE_S + 2)))

    def test_no_slot(self) -> None:
        """A slot below the name is none."""
        answer = self.server.ask(request("PUT", "/upload/.doctor/x?v=" + "0" * 64, body=b"x"))
        self.assertEqual(answer.status, 404)
