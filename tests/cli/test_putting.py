"""``put`` against servers that answer strangely. With a real one: :mod:`tests.e2e.test_client`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from pathlib import Path

from hmacfs.cli import exchange, patience
from tests.cli.commanding import StreamsTestCase
from tests.cli.scripted import Scripted, answer

CONTENT = b"0123456789" * 10
LARGE = bytes(20_000_000)
NOTHING = answer("404 Not Found")
STORED = answer("201 Created")


def refusal(status: str, reason: str, detail: str = "No.", **headers: str) -> bytes:
    """As hmacfs refuses."""
    body = json.dumps({"reason": reason, "detail": detail}).encode()
    return answer(status, body, Content_Type="application/problem+json", **headers)


class PutTestCase(StreamsTestCase):
    """A file to send, and no long waits."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(patience, "FIRST_WAIT_S", 0.001)
        self.file = Path(self.mktemp())
        self.file.write_bytes(CONTENT)

    def put(self, *answers: bytes, options: tuple[str, ...] = (), go: bytes | None = None, early: bool = False) -> int:
        """Put the file to a server with these answers, and keep what it was asked."""
        settings = {} if go is None else {"go": go}
        with Scripted(answers, early=early, **settings) as server:
            status = self.command("put", *options, str(self.file), server.url)
        self.requests = server.requests
        self.assertNotIn("cafe", self.written() + self.said())
        return status

    def refused(self, *answers: bytes, options: tuple[str, ...] = ()) -> str:
        """What is said in the end of an upload that fails, after as many requests as there are answers."""
        self.assertEqual(self.put(*answers, options=options), 1)
        self.assertEqual((self.written(), len(self.requests)), ("", len(answers)))
        return self.said().splitlines()[-1].partition("film.mp4: ")[2]

    def ranges(self) -> list[str | None]:
        """The ``Content-Range`` of every PUT."""
        puts = [request for request in self.requests if request.head.startswith("PUT")]
        return [request.header("Content-Range") for request in puts]


class RequestTests(PutTestCase):
    """What is sent."""

    def test_put(self) -> None:
        """The whole file with its digest, after a question."""
        self.assertEqual(self.put(NOTHING, STORED), 0)
        head, put = self.requests
        self.assertTrue(head.head.startswith("HEAD /upload/a/film.mp4?v=cafe HTTP/1.1"))
        digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
        self.assertEqual(put.header("Repr-Digest"), f"sha-256=:{digest}:")
        self.assertEqual((put.header("Expect"), put.header("Content-Range")), ("100-continue", None))
        self.assertEqual((put.header("Content-Type"), put.header("X-Session-Token")), (None, None))
        self.assertEqual(put.body, CONTENT)

    def test_options(self) -> None:
        self.patch(os, "environ", {"HMACFS_TOKEN": "Bearer a.b.c"})
        self.assertEqual(self.put(NOTHING, STORED, options=("--type", "a/b", "--no-digest")), 0)
        head, put = self.requests
        self.assertEqual((head.header("Authorization"), put.header("Authorization")), ("Bearer a.b.c", "Bearer a.b.c"))
        self.assertEqual((put.header("Content-Type"), put.header("Repr-Digest")), ("a/b", None))

    def test_rest(self) -> None:
        """From where the server is."""
        self.assertEqual(self.put(answer("204 No Content", Upload_Offset="30"), STORED), 0)
        self.assertEqual(self.requests[1].header("Content-Range"), "bytes 30-99/100")
        self.assertEqual(self.requests[1].body, CONTENT[30:])

    def test_nothing_missing(self) -> None:
        """All bytes are there: it only asks for the end."""
        self.assertEqual(self.put(answer("204 No Content", Upload_Offset="100"), STORED), 0)
        self.assertEqual((self.requests[1].header("Content-Range"), self.requests[1].body), ("bytes */100", b""))

    def test_absurd_offset(self) -> None:
        """Is none."""
        for offset in ("101", "-1", "x", "9" * 30):
            self.assertEqual(self.put(answer("204 No Content", Upload_Offset=offset), STORED), 0)
            self.assertEqual(self.ranges(), [None])

    def test_other_servers(self) -> None:
        """Know nothing of HEAD on a slot, nor of 100 Continue, and may answer 200."""
        self.patch(exchange, "GO_S", 0.01)
        for status in ("403 Forbidden", "405 Method Not Allowed", "501 Not Implemented", "200 OK"):
            self.assertEqual(self.put(answer(status), answer("200 OK"), go=b""), 0)
            self.assertEqual(self.requests[1].body, CONTENT)

    def test_early_refusal(self) -> None:
        """It stops sending when there is an answer, whether it was asked to go on or not."""
        self.file.write_bytes(LARGE)
        for interim in (b"", b"HTTP/1.1 100 Continue\r\n\r\n"):
            self.assertEqual(self.put(NOTHING, interim + refusal("413 Too Large", "too-large"), early=True), 1)
            self.assertIn("413 too-large: No.", self.said())
            self.assertLess(len(self.requests[1].body), len(LARGE) // 2)


class AgainTests(PutTestCase):
    """What is tried again, and from where."""

    def test_may_pass(self) -> None:
        """Faults of the moment, with what the server says about waiting."""
        for busy in (
            refusal("423 Locked", "busy", Retry_After="0"),
            refusal("503 Service Unavailable", "unavailable", Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"),
            refusal("408 Request Timeout", "timeout"),
            refusal("400 Bad Request", "short-body"),
            answer("502 Bad Gateway", b"<html>", Content_Type="text/html"),
            b"HTTP/1.1 201 Crea",
            b"HTTP/1.1 201 Created\r\nUpload-Off",
            b"no HTTP at all\r\n\r\n",
            b"",
        ):
            told = answer("204 No Content", Upload_Offset="40")
            self.assertEqual(self.put(NOTHING, busy, told, STORED), 0, busy)
            self.assertEqual(self.ranges(), [None, "bytes 40-99/100"])
            self.assertIn("Again in", self.said())

    def test_question_fails(self) -> None:
        """It is asked again."""
        self.assertEqual(self.put(answer("503 Service Unavailable"), b"", NOTHING, STORED), 0)

    def test_part_taken(self) -> None:
        """202, or another offset than ours: goes on there without a question."""
        for told in (
            answer("202 Accepted", Upload_Offset="60"),
            refusal("409 Conflict", "offset-mismatch", Upload_Offset="60"),
        ):
            self.assertEqual(self.put(answer("204 No Content", Upload_Offset="50"), told, STORED), 0)
            self.assertEqual(self.ranges(), ["bytes 50-99/100", "bytes 60-99/100"])

    def test_whole_file_again(self) -> None:
        """What was there is of no use."""
        for status, reason in (
            ("409 Conflict", "content-mismatch"),
            ("410 Gone", "upload-gone"),
            ("400 Bad Request", "digest-mismatch"),
        ):
            told = answer("204 No Content", Upload_Offset="50")
            self.assertEqual(self.put(told, refusal(status, reason), STORED), 0)
            self.assertEqual(self.ranges(), ["bytes 50-99/100", None])

    def test_no_progress(self) -> None:
        """Not for ever."""
        busy = refusal("423 Locked", "busy", "Another one writes.")
        said = self.refused(NOTHING, busy, NOTHING, busy, NOTHING, busy, options=("--retries", "2"))
        self.assertEqual(said, "")
        self.assertIn("423 busy: Another one writes. Given up after 3 attempts.", self.said())

    def test_long_wait(self) -> None:
        """A server that asks for more patience than there is."""
        self.refused(NOTHING, refusal("503 Service Unavailable", "", "Not today.", Retry_After="172800"))
        self.assertEqual(self.said(), "The server answers 503 Not today. Given up: it is to be tried again in 2 d.\n")


class RefusalTests(PutTestCase):
    """What is final."""

    def test_sentences(self) -> None:
        """In the server's words, where they are meant for people, and safe to show."""
        page = b"<html>" + b"x" * 1000
        for refused, sentence in (
            (refusal("403 Forbidden", "bad-signature", "Not right."), "403 bad-signature: Not right."),
            (refusal("400 Bad Request", "digest-mismatch", "Other bytes."), "400 digest-mismatch: Other bytes."),
            (refusal("507 Insufficient Storage", "no-space", "Full."), "507 no-space: Full."),
            (refusal("403 Forbidden", "evil", "\x1b[31m\nred"), r"403 evil: \x1b[31m"),
            (answer("403 Forbidden", page, Content_Type="text/html"), "403 Forbidden"),
            (answer("403 Forbidden", b"Not you.\n", Content_Type="text/plain"), "403 Not you."),
            (answer("404 Not Found", b"No /a?v=cafe", Content_Type="text/plain"), "404 No /a?..."),
            (answer("404 cafe"), "404 ..."),
            (answer("403 Forbidden", b"{", Content_Type="application/json"), "403 Forbidden"),
            (answer("500 Internal Server Error"), "500 Internal Server Error"),
        ):
            self.stream()
            self.refused(NOTHING, refused)
            self.assertIn(f"film.mp4: The server answers {sentence}", self.said())

    def test_redirect(self) -> None:
        """Is not followed: a slot is signed for one place."""
        said = self.refused(NOTHING, answer("308 Permanent Redirect", Location="https://y.example/?v=cafe"))
        self.assertEqual(said, "The server answers 308 it leads to https://y.example/; redirects are not followed.")

    def test_other_bytes(self) -> None:
        """The server has stored something, but not this."""
        digest = base64.b64encode(bytes(32)).decode()
        said = self.refused(NOTHING, answer("201 Created", Repr_Digest=f"sha-256=:{digest}:"))
        self.assertIn("the server has other bytes", said)

    def test_wrong_command_line(self) -> None:
        """Status 2, before anything is asked."""
        for url in ("x", "ftp://x/y", "http:///y", "http://u:p@x/y", "http://x:99999/y"):
            self.assertEqual(self.command("put", str(self.file), url), 2, url)
        for option in ("--limit-rate=5m", "--timeout=x", "--retries=-1", "--give-up-after=1m"):
            self.assertEqual(self.command("put", option, str(self.file), "http://x/y"), 2, option)
        self.assertEqual(self.command("put", "--cacert=missing", str(self.file), "https://x/y"), 2)
        self.assertEqual(self.written(), "")

    def test_no_file(self) -> None:
        self.assertEqual(self.command("put", "missing", "http://127.0.0.1:1/x"), 1)
        self.assertEqual(self.said(), "missing: No such file or directory\n")

    def test_bad_token(self) -> None:
        """The token itself isn't shown."""
        for token in ("a b", "a\nb", "é"):
            self.patch(os, "environ", {"HMACFS_TOKEN": token})
            self.assertEqual(self.command("put", str(self.file), "http://127.0.0.1:1/x"), 2)
        self.assertEqual({*self.said().splitlines()}, {"$HMACFS_TOKEN: expected a bearer token."})

    def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.assertEqual(self.command("put", "--retries", "1", str(self.file), f"http://127.0.0.1:{port}/x"), 1)
        self.assertRegex(self.said(), r"Connection refused\. Again in [^\n]+\n.*Given up after 2 attempts\.\n$")

    def test_silent_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
            self.assertEqual(self.command("put", "--timeout", "0.05s", "--retries", "0", str(self.file), url), 1)
        self.assertEqual(self.said(), "The server is silent. Given up after 1 attempt.\n")

    def test_shrinking_file(self) -> None:
        """Nothing is made up for what is missing."""
        self.file.write_bytes(LARGE)
        cut = self.file.open("r+b")
        self.addCleanup(cut.close)
        hashing = exchange.Exchange.await_go

        def await_go(self: exchange.Exchange) -> None:
            cut.truncate(5)
            hashing(self)

        self.patch(exchange.Exchange, "await_go", await_go)
        self.assertEqual(self.put(NOTHING, STORED), 1)
        self.assertIn("has become shorter while it was read", self.said())


class JsonTests(PutTestCase):
    def test_json(self) -> None:
        told = answer("204 No Content", Upload_Offset="30")
        self.assertEqual(self.put(told, STORED, options=("--json",)), 0)
        printed = json.loads(self.written())
        self.assertEqual((printed["size"], printed["resumed"]), (100, 1))
        self.assertEqual(printed["sha256"], hashlib.sha256(CONTENT).hexdigest())
        self.assertIsInstance(printed["seconds"], float)
