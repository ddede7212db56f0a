"""The load: PUTs over kept connections, in a process of its own. Prints the seconds that they took."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def target(secret: str, size: int) -> str:
    """The request target of a fresh slot, signed as ``v``."""
    path = f"{uuid.uuid4()}/file.bin"
    mac = hmac.new(secret.encode(), f"{path} {size}".encode(), hashlib.sha256).hexdigest()
    return f"/upload/{path}?v={mac}"


def plain_target() -> str:
    return f"/{uuid.uuid4()}"


def put(connection: socket.socket, to: str, file: int, size: int) -> None:
    """One PUT, and its answer.

    :raises SystemExit: when that is no 201.
    """
    head = f"PUT {to} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    sent = 0
    while sent < size:
        sent += os.sendfile(connection.fileno(), file, sent, size - sent)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(65536)
        if not data:
            break
        answer += data
    if not answer.startswith(b"HTTP/1.1 201"):
        raise SystemExit(answer.decode("latin-1", "replace"))


def work(port: int, targets: list[str], path: Path) -> None:
    """PUT the file to each target, one after the other."""
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for to in targets:
            put(connection, to, file, size)
    os.close(file)


def main(port: int, path: Path, count: int, connections: int, secret: str) -> None:
    """Signs before the clock starts."""
    size = path.stat().st_size
    targets = [target(secret, size) if secret else plain_target() for _ in range(count)]
    with ThreadPoolExecutor(connections) as pool:
        began = time.perf_counter()
        working = [pool.submit(work, port, targets[first::connections], path) for first in range(connections)]
        for done in working:
            done.result()
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
