"""Web clients: their pages are on another origin than their files."""

from __future__ import annotations

from tests.access.vectors import flipped
from tests.web.support import PATH, URL, ServerTestCase, bearer, chunked, request, v

ORIGIN = {"Origin": "https://chat.example.org"}

#: What a page must be able to send and to read, for uploads that go on after an interruption among others.
SENT = (
    "Authorization",
    "Content-Type",
    "Content-Range",
    "Content-Digest",
    "Repr-Digest",
    "Want-Repr-Digest",
    "X-Session-Token",
    "X-Request-ID",
    "X-HTTP-Method-Override",
    "Range",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Complete",
    "Upload-Metadata",
    "Upload-Checksum",
    "Upload-Draft-Interop-Version",
)
READ = (
    "Content-Length",
    "Content-Range",
    "ETag",
    "Location",
    "Repr-Digest",
    "Retry-After",
    "X-Session-Token",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Complete",
    "Upload-Limit",
    "Upload-Expires",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
)


def listed(header: str) -> list[str]:
    return [name.strip() for name in header.split(",")]


class EveryAnswerTests(ServerTestCase):
    """A browser hides an answer without ``Access-Control-Allow-Origin``, and one with two. The wire knows no doubles."""

    def check(self, data: bytes, *statuses: int) -> None:
        wire = self.server.connect(data)
        answers = wire.answers(*(["HEAD"] if data.startswith(b"HEAD") else []))
        self.assertEqual([answer.status for answer in answers], [*statuses], data)
        for answer in answers:
            self.assertEqual(answer.headers["access-control-allow-origin"], "*", data)
            self.assertIn("access-control-expose-headers", answer.headers)
            self.assertNotIn("access-control-allow-credentials", answer.headers)

    def test_of_resources(self) -> None:
        """Success and refusal alike."""
        put = request("PUT", v(PATH, 4), ORIGIN, b"1234")
        self.check(put + request("PUT", v(PATH, 5), ORIGIN, b"12345"), 201, 409)
        for method, target, headers, status in (
            ("GET", URL, ORIGIN, 200),
            ("HEAD", URL, ORIGIN, 200),
            ("GET", URL, {"Range": "bytes=0-1"}, 206),
            ("GET", URL, {"If-None-Match": "*"}, 304),
            ("GET", URL, {"Range": "bytes=9-"}, 416),
            ("GET", URL + "x", ORIGIN, 404),
            ("HEAD", URL + "x", ORIGIN, 404),
            ("GET", "/", ORIGIN, 404),
            ("GET", "/upload/..", ORIGIN, 400),
            ("PUT", URL, ORIGIN, 403),
            ("PUT", URL, {"Authorization": "Bearer x"}, 401),
            ("PUT", v(PATH, 4), ORIGIN, 411),
            ("POST", URL, ORIGIN, 412),
            ("TRACE", URL, ORIGIN, 405),
            ("OPTIONS", URL, ORIGIN, 204),
            ("OPTIONS", "/", ORIGIN, 204),
            ("DELETE", URL, ORIGIN, 403),
        ):
            self.check(request(method, target, headers), status)

    def test_before_the_body(self) -> None:
        """Answers that come while the client still sends."""
        server, self.server = self.server, self.serve(max_upload_bytes=3)
        self.check(request("PUT", v("a/f", 4), ORIGIN, length=4), 413)
        self.server = self.serve(free_bytes=lambda: 0)
        self.check(request("PUT", v("a/f", 4), ORIGIN, length=4), 507)
        self.server = server

    def test_of_our_faults(self) -> None:
        self.patch(self.server.downloads, "_store", None)
        self.check(request("GET", URL, ORIGIN), 500)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_of_the_parser(self) -> None:
        """Requests that never come to a resource."""
        for data, status in (
            (b"GET\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\n\r\n", 505),
            (b"GET /" + b"x" * 20_000, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
            (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
            (chunked(URL, bearer(PATH, 4), b"12").replace(b"0\r\n\r\n", b"x\r\n"), 400),
        ):
            self.check(data, status)

    def test_of_a_slow_head(self) -> None:
        wire = self.server.connect(b"GET / HTTP/1.1\r\n")
        self.clock.pump([1] * 40)
        self.assertEqual((wire.answer().status, wire.answer().headers["access-control-allow-origin"]), (408, "*"))


class PreflightTests(ServerTestCase):
    """What a browser asks before a PUT to another origin, and before each request with a header of its own."""

    def setUp(self) -> None:
        super().setUp()
        asks = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}
        self.answer = self.server.ask(request("OPTIONS", v(PATH, 4), {**ORIGIN, **asks}))

    def test_allowed(self) -> None:
        self.assertEqual((self.answer.status, self.answer.body), (204, b""))
        self.assertEqual(self.answer.headers["access-control-allow-origin"], "*")
        self.assertEqual(self.answer.headers["access-control-max-age"], "7200")

    def test_methods(self) -> None:
        self.assertEqual(
            set(listed(self.answer.headers["access-control-allow-methods"])),
            {"OPTIONS", "HEAD", "GET", "PUT", "POST", "PATCH", "DELETE"},
        )

    def test_headers(self) -> None:
        """Each by its name: ``*`` would not do for ``Authorization``."""
        allowed = listed(self.answer.headers["access-control-allow-headers"])
        self.assertEqual([name for name in SENT if name not in allowed], [])

    def test_readable_headers(self) -> None:
        exposed = listed(self.answer.headers["access-control-expose-headers"])
        self.assertEqual([name for name in READ if name not in exposed], [])

    def test_grants_nothing(self) -> None:
        """It is asked without credentials, and must be answered before they are there."""
        wrong = flipped(v(PATH, 4).encode(), -1).decode()
        for target in (URL, wrong, "/upload/.."):
            self.assertEqual(self.server.ask(request("OPTIONS", target, ORIGIN)).status, 204)
        self.assertEqual(self.tree(), [])
