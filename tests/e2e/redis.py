"""A Redis of the test's own."""

from __future__ import annotations

import socket

from tests.e2e.processes import PATIENCE_S, PeerTestCase, Process, program


class Redis:
    """An empty Redis that keeps nothing on disk, on a TCP port and a UNIX socket.

    :param case: the test; it ends Redis.
    :param options: as in redis.conf, with underscores.

    :ivar port: of 127.0.0.1.
    :ivar socket: path of its UNIX socket.
    :ivar process: to stop, kill or suspend.
    """

    def __init__(self, case: PeerTestCase, **options: str) -> None:
        self._case = case
        self.port = case.free_port()
        self.socket = case.directory / f"redis-{self.port}.sock"
        self.options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": str(case.directory),
            "save": "",
            "appendonly": "no",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.start()

    def start(self, ready: str = "Ready to accept connections") -> None:
        """Start it, again if it has ended, and wait for a line of its log."""
        words = (word for key, value in self.options.items() for word in (f"--{key}", value))
        self.process = self._case.started(Process("redis", [program("redis-server"), *words]))
        self.process.wait_for_line(ready)

    def admin(self) -> Admin:
        """A connection that is there before anything happens to Redis."""
        admin = Admin(str(self.socket))
        self._case.addCleanup(admin.close)
        return admin


class Admin:
    """Somebody who is connected to Redis and gives it commands."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def order(self, command: str) -> None:
        """Give a command whose answer is one line, as one would type it.

        :raises AssertionError: it was refused.
        """
        self._socket.sendall(f"{command}\r\n".encode())
        answer = self._answers.readline()
        assert answer[:1] in (b"+", b":"), f"{command}: {answer!r}"
