"""PUTs or GETs over kept connections, in a process of its own: files of a few MiB, which wrk isn't made for.

Reads slots from standard input before it begins, a line each. Prints the seconds that they took.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.pinning import pinned
from bench.slots import Slot
from bench.wrk import LoadFailed

_READ = 1024 * 1024


def put(connection: socket.socket, slot: Slot, file: int, size: int) -> None:
    """One PUT, and its answer.

    :raises SystemExit: when that is no 201.
    """
    extra = f"{slot.header}\r\n" if slot.header else ""
    head = f"PUT {slot.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}Content-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    sent = 0
    while sent < size:
        sent += os.sendfile(connection.fileno(), file, sent, size - sent)
    answer, _ = _head(connection)
    if not answer.startswith(b"HTTP/1.1 201"):
        raise SystemExit(answer.decode("latin-1", "replace"))


def get(connection: socket.socket, slot: Slot, buffer: bytearray) -> None:
    """One GET, and all of its answer.

    :raises SystemExit: when that is no 200.
    """
    connection.sendall(f"GET {slot.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer, body = _head(connection)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(answer.decode("latin-1", "replace"))
    missing = _length(answer) - len(body)
    while missing > 0:
        # Whole buffers: the interpreter has nothing to do meanwhile.
        received = connection.recv_into(buffer, min(missing, len(buffer)), socket.MSG_WAITALL)
        if not received:
            raise SystemExit("the server has closed the connection")
        missing -= received


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(65536)
        if not data:
            raise SystemExit("the server has closed the connection")
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def _length(head: bytes) -> int:
    (line,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


def work(port: int, method: str, slots: Sequence[Slot], path: Path, every_s: float) -> None:
    """One request to each slot, one after the other, *every_s* or more from the beginning of the one before."""
    file, buffer = os.open(path, os.O_RDONLY), bytearray(_READ)
    size = os.fstat(file).st_size
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        for slot in slots:
            time.sleep(max(0.0, due - time.perf_counter()))
            due = time.perf_counter() + every_s
            if method == "PUT":
                put(connection, slot, file, size)
            else:
                get(connection, slot, buffer)
    os.close(file)


def main(port: int, method: str, path: Path, connections: int, every_s: float) -> None:
    slots = [Slot.parse(line) for line in sys.stdin]
    with ThreadPoolExecutor(connections) as pool:
        began = time.perf_counter()
        shares = [slots[first::connections] for first in range(connections)]
        working = [pool.submit(work, port, method, share, path, every_s) for share in shares]
        for done in working:
            done.result()
    print(time.perf_counter() - began)


def run(port: int, method: str, slots: Sequence[Slot], source: Path, connections: int) -> float:
    """The seconds that it took."""
    process = start(port, method, slots, source, connections)
    text, _ = process.communicate()
    if process.returncode:
        raise LoadFailed(f"{method}: {text}")
    return float(text)


def start(
    port: int, method: str, slots: Sequence[Slot], source: Path, connections: int, every_s: float = 0.0
) -> subprocess.Popen[str]:
    """The same without waiting for it.

    :param every_s: how often a connection begins with a file, at most.
    """
    argv = [sys.executable, "-m", "bench.load", str(port), method, str(source), str(connections), str(every_s)]
    process = subprocess.Popen(
        pinned(argv, alone=connections == 1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"{slot}\n" for slot in slots))
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
    return process


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
