"""``get`` from servers that answer strangely. With a real one: :mod:`tests.e2e.test_client`."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from pathlib import Path

from hmacfs.cli import patience
from tests.cli.commanding import StreamsTestCase
from tests.cli.scripted import Scripted, answer

CONTENT = b"0123456789" * 10
DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"
TAG = '"one"'


def whole(content: bytes = CONTENT, **headers: str) -> bytes:
    return answer("200 OK", content, **{"ETag": TAG, **headers})


def cut(size: int, **headers: str) -> bytes:
    """The first bytes of the file, where all of it was announced."""
    return whole(CONTENT[:size], Content_Length="100", **headers)


def rest(first: int, **headers: str) -> bytes:
    content_range = f"bytes {first}-99/100"
    return answer("206 Partial Content", CONTENT[first:], **{"ETag": TAG, "Content_Range": content_range, **headers})


class GetTestCase(StreamsTestCase):
    """A directory of its own, and no long waits."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(patience, "FIRST_WAIT_S", 0.001)
        self.here = Path(self.mktemp())
        self.here.mkdir()

    def get(self, *answers: bytes, options: tuple[str, ...] = ()) -> int:
        """Get the file from a server with these answers, and keep what it was asked."""
        with Scripted(answers) as server:
            status = self.command("get", "-o", str(self.here), *options, server.url)
        self.requests = server.requests
        self.assertNotIn("cafe", self.written() + self.said())
        return status

    def ranges(self) -> list[tuple[str | None, str | None]]:
        """What every request asks for, and on which condition."""
        return [(request.header("Range"), request.header("If-Range")) for request in self.requests]

    def assert_received(self, name: str = "film.mp4", content: bytes = CONTENT) -> None:
        self.assertEqual(os.listdir(self.here), [name])
        self.assertEqual((self.here / name).read_bytes(), content)


class AnswerTests(GetTestCase):
    """Of other servers than ours."""

    def test_bare(self) -> None:
        """No digest, no ETag, no name, no length: there is nothing to verify, and that is said."""
        bare = b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT
        self.assertEqual(self.get(bare, options=("--json",)), 0)
        self.assertIs(json.loads(self.written())["verified"], False)
        self.assert_received()

    def test_chunked(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = b"32\r\n" + CONTENT[:50] + b"\r\n32\r\n" + CONTENT[50:] + b"\r\n0\r\n\r\n"
        self.assertEqual(self.get(head + body[:70], head + body), 0)
        self.assert_received()

    def test_stated_name(self) -> None:
        """Is no path."""
        self.assertEqual(self.get(whole(Content_Disposition='attachment; filename="../../x.txt"')), 0)
        self.assert_received("x.txt")

    def test_empty_file(self) -> None:
        self.assertEqual(self.get(whole(b"")), 0)
        self.assert_received(content=b"")

    def test_wrong_bytes(self) -> None:
        """Are not kept."""
        self.assertEqual(self.get(whole(bytes(100), Repr_Digest=DIGEST)), 1)
        self.assertIn("not those that the server speaks of", self.said())
        self.assertEqual(os.listdir(self.here), [])

    def test_absurd_digest(self) -> None:
        self.assertEqual(self.get(whole(Repr_Digest="sha-256=:AAAA:")), 1)
        self.assertIn("Repr-Digest", self.said())

    def test_redirect(self) -> None:
        """Isn't followed here, either."""
        self.assertEqual(self.get(answer("302 Found", Location="http://127.0.0.1:1/?v=cafe")), 1)
        self.assertIn("it leads to http://127.0.0.1:1/; redirects are not followed.", self.said())


class AgainTests(GetTestCase):
    """After a break."""

    def test_rest(self) -> None:
        """On the condition that the file is the same, and from the last byte on that is here."""
        self.assertEqual(self.get(cut(40), rest(39, Repr_Digest=DIGEST)), 0)
        self.assertEqual(self.ranges(), [(None, None), ("bytes=39-", TAG)])
        self.assert_received()

    def test_more_than_asked(self) -> None:
        """A part that begins before is as good."""
        self.assertEqual(self.get(cut(40), rest(10, Repr_Digest=DIGEST)), 0)
        self.assert_received()

    def test_another_part(self) -> None:
        """One that leaves a gap is of no use."""
        for content_range in ("bytes 41-99/100", "bytes 39-99/*", "bytes 39-99/20", ""):
            self.assertEqual(self.get(cut(40), rest(41, Content_Range=content_range)), 1)
            self.assertIn("a part that was not asked for", self.said())
            (self.here / "film.mp4.part").unlink(missing_ok=True)

    def test_other_file(self) -> None:
        """It has changed meanwhile."""
        other = bytes(100)
        self.assertEqual(self.get(cut(40), whole(other, ETag='"two"')), 0)
        self.assert_received(content=other)

    def test_no_etag(self) -> None:
        """Or one that a range can't rely on: it begins anew each time, and not for ever."""
        for tag in ("", 'W/"one"'):
            self.assertEqual(self.get(cut(40, ETag=tag), cut(40, ETag=tag), whole()), 0)
            self.assertEqual(self.ranges(), [(None, None)] * 3)
            (self.here / "film.mp4").unlink()
        self.assertEqual(self.get(*[cut(40, ETag="")] * 4, options=("--retries", "2")), 1)
        self.assertIn("Given up after 3 attempts", self.said())

    def test_next_run(self) -> None:
        """The part, and what it is a part of, stay for it."""
        self.assertEqual(self.get(cut(40), options=("--retries", "0")), 1)
        self.assertEqual(sorted(os.listdir(self.here)), ["film.mp4.part", "film.mp4.part.etag"])
        self.assertEqual(self.get(rest(39)), 0)
        self.assertEqual(self.ranges(), [("bytes=39-", TAG)])
        self.assert_received()

    def test_busy(self) -> None:
        self.assertEqual(self.get(answer("503 Service Unavailable", Retry_After="0"), whole()), 0)
        self.assert_received()


class NameTests(GetTestCase):
    """What is there already."""

    def test_link(self) -> None:
        """The part isn't written through a link that somebody has put there."""
        target = Path(self.mktemp())
        (self.here / "film.mp4.part").symlink_to(target.absolute())
        self.assertEqual(self.get(whole()), 1)
        self.assertFalse(target.exists())

    def test_two_at_once(self) -> None:
        with open(self.here / "film.mp4.part", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assertEqual(self.get(whole()), 1)
        self.assertIn("another hmacfs get is writing to it", self.said())

    def test_no_directory(self) -> None:
        """Nothing is asked."""
        with Scripted([whole()]) as server:
            self.assertEqual(self.command("get", "-o", str(self.here / "a" / "b"), server.url), 1)
        self.assertEqual(server.requests, [])
        self.assertIn("No such file or directory", self.said())

    def test_standard_output(self) -> None:
        """What has been written can't be taken back, so another file is a fault."""
        with Scripted([cut(40), whole(bytes(100), ETag='"two"')]) as server:
            self.assertEqual(self.command("get", "-o", "-", server.url), 1)
        self.assertEqual(self.out.getvalue(), CONTENT[:40])
        self.assertIn("can't be taken back", self.said())

    def test_two_kinds_of_output(self) -> None:
        self.assertEqual(self.command("get", "--json", "-o", "-", "http://127.0.0.1:1/x"), 2)
