"""Very many clients that wait, in a process of its own, until it is ended: after an answer, or with half of a file sent.

Reads slots from standard input before it begins, one for each client. Prints ``ready`` when all are there.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Sequence

from bench.load import get
from bench.slots import Slot

_READ = 64 * 1024


def idle(port: int, slot: Slot) -> socket.socket:
    """A connection that has had an answer, and is kept."""
    connection = _connect(port)
    get(connection, slot, bytearray(_READ))
    return connection


def uploading(port: int, slot: Slot, size: int) -> socket.socket:
    """A connection over which half of a file has come."""
    connection = _connect(port)
    extra = f"{slot.header}\r\n" if slot.header else ""
    head = f"PUT {slot.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}Content-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + bytes(size // 2))
    return connection


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _readable(connections: Sequence[socket.socket]) -> int:
    """How many of them have something to say, if only that they are closed."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def main(port: int, size: int) -> None:
    """
    :param size: of the files that are uploaded; 0 for clients that get theirs.
    """
    slots = [Slot.parse(line) for line in sys.stdin]
    kept = [uploading(port, slot, size) if size else idle(port, slot) for slot in slots]
    closed = _readable(kept)
    if closed:
        raise SystemExit(f"the server has answered or closed {closed} of {len(kept)} connections meanwhile")
    print("ready", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
