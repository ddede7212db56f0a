"""Requests one after the other, in a process of its own: on one connection, or on a new one each.

Reads lines ``METHOD TARGET SIZE STATUS`` from standard input before it begins. Prints the seconds that it took.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Sequence

from attrs import frozen


@frozen
class Ask:
    """One request.

    :ivar size: of the body to be sent.
    :ivar status: of the answer that has to come.
    """

    method: str
    target: str
    size: int
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.target} {self.size} {self.status}"

    @classmethod
    def parse(cls, line: str) -> Ask:
        method, target, size, status = line.split()
        return cls(method, target, int(size), int(status))


def run(asks: Sequence[Ask], port: int, source: str, client: str, *, fresh: bool) -> None:
    """Send them all.

    :param client: in ``X-Forwarded-For``; empty for no such header.
    :raises SystemExit: an answer isn't what it has to be.
    """
    connections = _fresh(port, source) if fresh else _one(port, source)
    for ask in asks:
        _exchange(next(connections), ask, client)


def _connect(port: int, source: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _fresh(port: int, source: str) -> Iterator[socket.socket]:
    while True:
        with _connect(port, source) as connection:
            yield connection


def _one(port: int, source: str) -> Iterator[socket.socket]:
    with _connect(port, source) as connection:
        while True:
            yield connection


def _exchange(connection: socket.socket, ask: Ask, client: str) -> None:
    lines = [f"{ask.method} {ask.target} HTTP/1.1", "Host: bench"]
    if client:
        lines.append(f"X-Forwarded-For: {client}")
    if ask.size:
        lines.append(f"Content-Length: {ask.size}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + bytes(ask.size))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 %d " % ask.status):
        raise SystemExit(head.decode("latin-1"))
    missing = _length(head) - len(body)
    while missing > 0:
        missing -= len(_receive(connection))


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise SystemExit("the server has closed the connection")
    return data


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def main(port: int, source: str, client: str, fresh: bool) -> None:
    asks = [Ask.parse(line) for line in sys.stdin]
    began = time.perf_counter()
    run(asks, port, source, client, fresh=fresh)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "fresh")
