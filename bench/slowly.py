"""Clients that take their time, very many of them, in a process of its own, until it is ended.

A quarter of them each: heads that never end, bodies and readers that are just fast enough to be borne with, and
connections that wait between two requests. Who is cut off comes again. Prints ``ready`` when all are there.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable
from itertools import count as count_from

from bench.slots import signed

#: Everybody does something once in so many seconds.
_EVERY_S = 5
#: Of a body is sent at a time: twice MinBodyRate. Of its size room can be promised a thousand times.
_BODY = bytes(512 * _EVERY_S)
_BODY_SIZE = 1 << 22
#: Of an answer is read at a time.
_READ = 2048 * _EVERY_S


class Slow:
    """One of them.

    :param hello: what it sends first.
    :param act: what it does from time to time.
    """

    def __init__(self, port: int, hello: Callable[[], bytes], act: Callable[[socket.socket], object]) -> None:
        self._port = port
        self._hello = hello
        self._act = act
        self.connect()

    def connect(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", self._port))
        self._socket.sendall(self._hello())
        self._socket.setblocking(False)

    def turn(self) -> None:
        """Do what it does; if it has been cut off, come again."""
        try:
            self._act(self._socket)
        except BlockingIOError:
            return
        except OSError:
            self._socket.close()
            self.connect()


def _send_body(connection: socket.socket) -> None:
    if _is_readable(connection):
        raise ConnectionError("an answer, which can only be a refusal")
    connection.send(_BODY)


def _send_head(connection: socket.socket) -> None:
    if _is_readable(connection):
        raise ConnectionError("408")
    connection.send(b"X-Slow: 1\r\n")


def _read(connection: socket.socket) -> None:
    if not connection.recv(_READ):
        raise ConnectionError("the end")


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def main(port: int, count: int, path: str) -> None:
    """
    :param path: of a large file.
    """
    get = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()

    def put() -> bytes:
        return (
            f"PUT {signed(_BODY_SIZE).target} HTTP/1.1\r\nHost: bench\r\nContent-Length: {_BODY_SIZE}\r\n\r\n".encode()
        )

    kinds: tuple[tuple[Callable[[], bytes], Callable[[socket.socket], object]], ...] = (
        (lambda: b"GET / HTTP/1.1\r\n", _send_head),
        (put, _send_body),
        (lambda: get, _read),
        (lambda: b"OPTIONS / HTTP/1.1\r\nHost: bench\r\n\r\n", _read),
    )
    slow = [Slow(port, *kinds[number % len(kinds)]) for number in range(count)]
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for turn in count_from(0):
            began = time.monotonic()
            for one in slow[turn % _EVERY_S :: _EVERY_S]:
                one.turn()
            time.sleep(max(0.0, began + 1 - time.monotonic()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
