"""HTTP/1.x over a socket, byte by byte: what no well-behaved client would send, and what exactly comes back."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from attrs import evolve, frozen

from tests.e2e.processes import PATIENCE_S

READ_BYTES = 1 << 16


class Closed(Exception):
    """The peer has closed, or reset, the connection before the whole answer was there."""


@frozen
class Secure:
    """Where TLS is spoken.

    :ivar port: of 127.0.0.1.
    :ivar trusted: certificates, in PEM.
    """

    port: int
    trusted: Path


Address = int | tuple[str, int] | str | Secure
"""A TCP port of 127.0.0.1, a pair of host and port, the path of a UNIX socket, or where TLS is spoken."""


@frozen
class Answer:
    """One HTTP response.

    :ivar headers: in order, the names in lower case.
    :ivar before: the interim responses (1xx) that came before it.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    before: tuple[Answer, ...] = ()

    @property
    def interim(self) -> tuple[int, ...]:
        """The statuses of those that came before."""
        return tuple(answer.status for answer in self.before)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str | None:
        """The only value of a header, or ``None``."""
        values = self.all(name)
        assert len(values) < 2, f"{name} stands {len(values)} times in the answer: {values}"
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Connection:
    """One connection to a server.

    :param source: the address to come from, where it matters.
    """

    def __init__(self, address: Address, source: str = "") -> None:
        if isinstance(address, Secure):
            plain = socket.create_connection(("127.0.0.1", address.port), PATIENCE_S, (source, 0) if source else None)
            context = ssl.create_default_context(cafile=address.trusted)
            self.socket: socket.socket = context.wrap_socket(plain, server_hostname="localhost")
        elif isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(PATIENCE_S)
            self.socket.connect(address)
        else:
            target = ("127.0.0.1", address) if isinstance(address, int) else address
            self.socket = socket.create_connection(target, PATIENCE_S, (source, 0) if source else None)
        self._received = bytearray()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """FIN."""
        self.socket.close()

    def reset(self) -> None:
        """RST: what the peer sees of a client whose network has gone."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_while_wanted(self, pieces: Iterable[bytes]) -> bool:
        """Send *pieces* until they are all gone or the peer resets the connection.

        :return: whether everything was sent.
        """
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            return False
        return True

    def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send one request, its length stated if there is a body, and read the answer to it."""
        self.send_head(method, target, headers, None if body is None else len(body))
        if body:
            self.send_while_wanted([body])
        return self.answer(method)

    def send_head(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """Send a request line and headers, and nothing of the body."""
        fields = {"Host": "localhost", **({} if length is None else {"Content-Length": str(length)}), **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.send("\r\n".join(lines).encode())

    def answer(self, method: str = "GET") -> Answer:
        """Read one final response, and the interim ones before it.

        :param method: of the request; the answer to a HEAD has no body.
        :raises Closed: the connection ended before the response did.
        """
        before: list[Answer] = []
        while (head := self.head()).status < 200:
            before.append(head)
        return evolve(head, body=self._body(method, head), before=tuple(before))

    def interim(self) -> Answer:
        """Read one interim response (RFC 9110 section 15.2)."""
        head = self.head()
        assert head.status < 200, f"a final response, {head.status}"
        return head

    def head(self) -> Answer:
        """Read the head of the next response, interim or final."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        return Answer(int(lines[0].split(" ")[1]), headers)

    def _body(self, method: str, head: Answer) -> bytes:
        if method == "HEAD" or head.status in (204, 304):
            return b""
        if head.header("transfer-encoding") == "chunked":
            return self._chunks()
        length = head.header("content-length")
        return self.rest() if length is None else self._exactly(int(length))

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = int(self._until(b"\r\n").partition(b";")[0], 16)
            body += self._exactly(size)
            self._exactly(2)
            if size == 0:
                return bytes(body)

    def rest(self) -> bytes:
        """Everything up to the peer's FIN."""
        try:
            while self._more():
                pass
        finally:
            data, self._received = bytes(self._received), bytearray()
        return data

    def hears(self, patience_s: float) -> bool:
        """Whether anything has come, or comes within that time."""
        self.socket.settimeout(patience_s)
        try:
            return bool(self._received) or self._more()
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(PATIENCE_S)

    def closed_by_peer(self) -> bool:
        """Wait for the peer to close: with FIN or RST, but without one more byte."""
        try:
            return self.rest() == b""
        except ConnectionResetError:
            return True

    def _until(self, end: bytes) -> bytes:
        while (at := self._received.find(end)) < 0:
            if not self._more():
                raise Closed(bytes(self._received))
        data = bytes(self._received[:at])
        del self._received[: at + len(end)]
        return data

    def _exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            if not self._more():
                raise Closed(f"{len(self._received)} of {count} bytes")
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _more(self) -> bool:
        data = self.socket.recv(READ_BYTES)
        self._received += data
        return bool(data)


def ask(
    address: Address,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own."""
    with Connection(address) as connection:
        return connection.request(method, target, headers, body)
