"""nginx in front: every status arrives as hmacfs gave it, however nginx passes bodies on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from tests.e2e import signing
from tests.e2e.daemon import Daemon
from tests.e2e.nginx import Front, Nginx
from tests.e2e.processes import PeerTestCase
from tests.e2e.wire import Answer, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

SIZE_BYTES = 20 << 20
REPETITIONS = 20
PIECE = os.urandom(1 << 18)


def body() -> Iterator[bytes]:
    """The bytes of every upload here."""
    return (PIECE for _ in range(SIZE_BYTES // len(PIECE)))


def chunked() -> Iterator[bytes]:
    """The same as a chunked body."""
    yield from (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body())
    yield b"0\r\n\r\n"


def put(front: Front, target: str, authorization: str | None = None) -> Answer:
    """PUT :func:`body`, and read no answer before it is sent, which is when an early answer is easiest to lose."""
    with Connection(front.port) as connection:
        connection.send_head("PUT", target, {"Authorization": authorization} if authorization else {}, SIZE_BYTES)
        connection.send_while_wanted(body())
        return connection.answer("PUT")


def put_chunked(front: Front, target: str) -> Answer:
    """The same without saying how long the body is."""
    with Connection(front.port) as connection:
        connection.send_head("PUT", target, {"Transfer-Encoding": "chunked"})
        connection.send_while_wanted(chunked())
        return connection.answer("PUT")


class NginxTestCase(PeerTestCase):
    """Tests behind every :class:`~tests.e2e.nginx.Front` there is."""

    needs = ("nginx",)

    def everywhere(
        self,
        daemon: Daemon,
        send: Callable[[Front, str], Answer],
        deserved: int,
        reason: str,
        fronts: Callable[[Front], bool] = lambda _: True,
    ) -> None:
        """Behind every front, *send* gets the status and the reason that it deserves, every time.

        :param send: given a front and a path.
        :param fronts: which of them.
        """
        for front in filter(fronts, Nginx(self, daemon.port)):
            for number in range(REPETITIONS):
                answer = send(front, f"{front.port}/{number}.bin")
                self.assertEqual((answer.status, reason in answer.text), (deserved, True), f"{front}: {answer}")


class UploadTests(NginxTestCase):
    """Bodies that hmacfs wants."""

    def test_whole(self) -> None:
        """Uploads arrive whole, are served whole, and again is no conflict."""
        daemon = Daemon(self).started()
        for front in Nginx(self, daemon.port):
            path = f"{front.port}/video.mp4"
            statuses = [put(front, signing.v(path, SIZE_BYTES)).status for _ in range(2)]
            self.assertEqual(statuses, [201, 201], str(front))
            with Connection(front.port) as connection:
                get = connection.request("GET", signing.url_path(path))
            self.assertEqual((get.status, get.body == b"".join(body())), (200, True), str(front))

    def test_measured_by_nginx(self) -> None:
        """An nginx that takes in the body first, or speaks HTTP/1.0 to hmacfs, states the length of a chunked one."""
        daemon = Daemon(self).started()
        for front in Nginx(self, daemon.port):
            if front.buffered or not front.keepalive:
                answer = put_chunked(front, signing.v(f"{front.port}/video.mp4", SIZE_BYTES))
                self.assertEqual(answer.status, 201, str(front))

    def test_client_address(self) -> None:
        """The log names the client, as nginx reports it in X-Forwarded-For."""
        daemon = Daemon(self).started()
        for front in Nginx(self, daemon.port):
            with Connection(front.port, source="127.0.0.2") as connection:
                connection.request("GET", f"/upload/{front.port}/nothing")
            daemon.process.wait_for_line(rf"GET /upload/{front.port}/nothing 404 .*from 127\.0\.0\.2\b")


class RefusalTests(NginxTestCase):
    """Bodies that hmacfs does not want, and says so while they are still being sent."""

    def test_unsigned(self) -> None:
        """403 for an upload without a signature."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        self.everywhere(daemon, lambda front, path: put(front, signing.url_path(path)), 403, "missing-signature")

    def test_bad_signature(self) -> None:
        """403 for a signature over something else."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        self.everywhere(daemon, lambda front, path: put(front, signing.v(path, 1)), 403, "bad-signature")

    def test_bad_token(self) -> None:
        """401 for what is no token at all."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        self.everywhere(
            daemon, lambda front, path: put(front, signing.url_path(path), "Bearer no.good.token"), 401, "bad-token"
        )

    def test_forged_token(self) -> None:
        """403 for a token under another secret."""
        daemon = Daemon(self, BlockAfterFails=0).started()

        def send(front: Front, path: str) -> Answer:
            return put(front, signing.url_path(path), signing.bearer(path, SIZE_BYTES, secret="another"))

        self.everywhere(daemon, send, 403, "bad-signature")

    def test_other_file(self) -> None:
        """409 where another file is stored already."""
        daemon = Daemon(self).started()
        other = bytes(SIZE_BYTES)

        def send(front: Front, path: str) -> Answer:
            target = signing.v(f"{front.port}/0.bin", SIZE_BYTES)
            if path == f"{front.port}/0.bin":
                self.assertEqual(daemon.ask("PUT", target, body=other).status, 201)
            return put(front, target)

        self.everywhere(daemon, send, 409, "conflict")

    def test_no_length(self) -> None:
        """411 for a signed upload without a length, where nginx passes that on."""
        daemon = Daemon(self, BlockAfterFails=0).started()

        def send(front: Front, path: str) -> Answer:
            return put_chunked(front, signing.v(path, SIZE_BYTES))

        self.everywhere(daemon, send, 411, "length-required", lambda front: front.keepalive and not front.buffered)

    def test_too_large(self) -> None:
        """413 above MaxUploadSize, from hmacfs and not from nginx."""
        daemon = Daemon(self, MaxUploadSize="10MiB").started()
        self.everywhere(daemon, lambda front, path: put(front, signing.v(path, SIZE_BYTES)), 413, "too-large")

    def test_other_size(self) -> None:
        """413 for a body of another size than the token's."""
        daemon = Daemon(self).started()

        def send(front: Front, path: str) -> Answer:
            return put(front, signing.url_path(path), signing.bearer(path, SIZE_BYTES - 1))

        self.everywhere(daemon, send, 413, "size-mismatch")

    def test_no_space(self) -> None:
        """507 where the disk would be too full."""
        daemon = Daemon(self, MinFreeSpace="1000000GiB").started()
        self.everywhere(daemon, lambda front, path: put(front, signing.v(path, SIZE_BYTES)), 507, "no-space")
