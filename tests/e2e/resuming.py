"""A client whose uploads break, and where its server keeps what it knows of them."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from typing import TYPE_CHECKING, ClassVar

from tests.e2e import signing
from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.redis import Redis
from tests.e2e.wire import Address, Answer, Connection, ask

MIB = 1 << 20
PATH = "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/film.mp4"
TOKEN = "tok-5c1e-0001"


def sha256(content: bytes) -> str:
    """Of the whole file, as RFC 9530 writes it."""
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"


class Client:
    """A client with one file, the slot for it, and a connection for each request.

    :param port: of the server, or of whatever is in front of it; any address will do.
    :param token: its session token, sent with every request; ``None``: it has none.
    """

    def __init__(self, port: Address, content: bytes, token: str | None = None, path: str = PATH) -> None:
        self.port = port
        self.content = content
        self.target = signing.v(path, len(content))
        self._public = signing.url_path(path)
        self._session = {} if token is None else {"X-Session-Token": token}

    def put(self, content: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Send the whole body, or another one."""
        return self._ask("PUT", headers, self.content if content is None else content)

    def part(
        self, first: int, end: int | None = None, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send the bytes from *first* up to, and without, *end*, with a ``Content-Range``."""
        body = (self.content if content is None else content)[first:end]
        return self._ask("PUT", {**self.content_range(first, len(body)), **(headers or {})}, body)

    def content_range(self, first: int, size_bytes: int) -> dict[str, str]:
        """The header of a part."""
        return {"Content-Range": f"bytes {first}-{first + size_bytes - 1}/{len(self.content)}"}

    def rest(self, offset: int) -> Answer:
        """Go on from *offset*, as a client should that was told that it is the upload's."""
        if offset == 0:
            return self.put()
        return self.query() if offset == len(self.content) else self.part(offset)

    def query(self) -> Answer:
        """Begin the upload without a byte, or ask how far it is."""
        return self._ask("PUT", {"Content-Range": f"bytes */{len(self.content)}"}, b"")

    def head(self) -> Answer:
        """Ask how far the upload is."""
        return self._ask("HEAD")

    def delete(self) -> Answer:
        """Give the upload up."""
        return self._ask("DELETE")

    def get(self) -> Answer:
        """Fetch the file, as everybody else would."""
        return ask(self.port, "GET", self._public)

    def offset(self) -> int:
        """How far the upload is."""
        head = self.head()
        assert head.status == 204, f"HEAD: {head.status}"
        return int(head.header("Upload-Offset") or "")

    def beginning(self, arrived: int, first: int = 0) -> bytes:
        """The bytes of a request for everything from *first* on, up to offset *arrived* of the file."""
        left = len(self.content) - first
        fields = {"Host": "localhost", "Content-Length": str(left), **self._session}
        if first:
            fields.update(self.content_range(first, left))
        lines = [f"PUT {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        return "\r\n".join(lines).encode() + self.content[first:arrived]

    def begin(self, arrived: int, first: int = 0) -> Connection:
        """Send that, and leave the connection open."""
        connection = Connection(self.port)
        connection.send(self.beginning(arrived, first))
        return connection

    def _ask(self, method: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
        return ask(self.port, method, self.target, {**self._session, **(headers or {})}, body)


class ResumeTestCase(PeerTestCase):
    """A test with a server and a client.

    :ivar daemon: the server.
    :ivar client: with a file of :attr:`size_bytes` bytes.
    """

    size_bytes = 3_000_000

    def setUp(self) -> None:
        self.daemon = self.serve()
        self.client = self.make_client()

    def serve(self, **keys: TomlValue) -> Daemon:
        """Start a server."""
        return Daemon(self, text=None, **{**self.keys(), **keys}).started()

    def keys(self) -> dict[str, TomlValue]:
        """What the config file says of the state store."""
        return {}

    def make_client(self, size_bytes: int | None = None, token: str | None = None, path: str = PATH) -> Client:
        """A client with a file that nobody else has."""
        return Client(self.daemon.port, os.urandom(size_bytes or self.size_bytes), token, path)

    def interrupt(self, arrived: int, first: int = 0, client: Client | None = None) -> None:
        """Break an upload, with FIN, when the server has that much of it."""
        with (client or self.client).begin(arrived, first):
            self.arrived(arrived)

    def arrived(self, size_bytes: int) -> None:
        """Wait until that much of one upload is in its part file."""
        wait_until(lambda: size_bytes in [path.stat().st_size for path in self.daemon.parts()], "the bytes arrive")

    def assert_stored(self, answer: Answer, content: bytes | None = None, client: Client | None = None) -> None:
        """201, with everything that belongs to it; the file is served as it was sent; nothing is left over."""
        client = client or self.client
        content = client.content if content is None else content
        self.assertEqual(answer.status, 201, answer.text)
        self.assertEqual(answer.header("Upload-Offset"), str(len(content)))
        self.assertEqual(answer.header("Upload-Complete"), "?1")
        self.assertEqual(answer.header("Repr-Digest"), sha256(content))
        get = client.get()
        self.assertEqual((get.status, get.header("Repr-Digest")), (200, sha256(content)))
        self.assertEqual(get.header("ETag"), answer.header("ETag"))
        # Not assertEqual: nobody wants to read the difference.
        self.assertTrue(get.body == content)
        self.assertEqual(self.daemon.parts(), [])

    def assert_unfinished(self, offset: int, client: Client | None = None) -> None:
        """So much is here and can be resumed; nothing is to be seen."""
        client = client or self.client
        self.assertEqual(client.offset(), offset)
        self.assertEqual(client.get().status, 404)
        self.assertEqual(self.daemon.files(), [])


if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object


class OnRedis(_Case):
    """For a test case: the server keeps what it knows of uploads in a Redis of the test's own.

    :ivar redis: that Redis.
    """

    needs: ClassVar[tuple[str, ...]] = ("redis",)

    def setUp(self) -> None:
        self.redis = self.make_redis()
        super().setUp()

    def make_redis(self) -> Redis:
        """Start a Redis."""
        return Redis(self)

    def keys(self) -> dict[str, TomlValue]:
        return {**super().keys(), "RedisAddr": f"unix:{self.redis.socket}"}
