"""A server that answers what a test has written down, whatever it is asked."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence

from attrs import define, field

PATIENCE_S = 30.0


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP response; an underscore in the name of a header is a hyphen."""
    fields = {"Content_Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@define
class Request:
    """What has arrived on one connection."""

    head: str
    body: bytes = b""

    def header(self, name: str) -> str | None:
        match = re.search(rf"^{name}: (.*)$", self.head.replace("\r", ""), re.MULTILINE | re.IGNORECASE)
        return None if match is None else match[1]


@define
class Scripted:
    """Listens on a port of 127.0.0.1. Each connection gets the next answer; then nobody answers any more.

    An answer is sent when the head of the request is here, and the connection is closed when the client has closed it,
    or, where *early* isn't set, when the body is here as well.

    :ivar requests: what was asked, in order.
    """

    answers: Sequence[bytes]
    go: bytes = b"HTTP/1.1 100 Continue\r\n\r\n"
    early: bool = False
    requests: list[Request] = field(factory=list)
    _listener: socket.socket = field(factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __enter__(self) -> Scripted:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/upload/a/film.mp4?v=cafe"

    def _serve(self) -> None:
        for scripted in self.answers:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(PATIENCE_S)
                try:
                    self._connection(sock, scripted)
                except OSError:  # the client has gone
                    pass
        self._listener.close()

    def _connection(self, sock: socket.socket, scripted: bytes) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(1 << 16)
            if not data:
                return
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        request = Request(head.decode("latin-1"), body)
        self.requests.append(request)
        if self.early:
            sock.sendall(scripted)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(1 << 16):
                request.body += data
            return
        if request.header("Expect"):
            sock.sendall(self.go)
        while len(request.body) < int(request.header("Content-Length") or 0):
            data = sock.recv(1 << 16)
            if not data:
                return
            request.body += data
        sock.sendall(scripted)
