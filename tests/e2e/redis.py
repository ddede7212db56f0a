"""A Redis of the test's own."""

from __future__ import annotations

from tests.e2e.processes import PeerTestCase, Process, program


class Redis:
    """An empty Redis that keeps nothing on disk, on a TCP port and a UNIX socket.

    :param case: the test; it ends Redis.

    :ivar port: of 127.0.0.1.
    :ivar socket: path of its UNIX socket.
    :ivar process: to stop, kill or suspend.
    """

    def __init__(self, case: PeerTestCase) -> None:
        self.port = case.free_port()
        self.socket = case.directory / f"redis-{self.port}.sock"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": str(case.directory),
            "save": "",
            "appendonly": "no",
        }
        argv = [program("redis-server"), *(word for key, value in options.items() for word in (f"--{key}", value))]
        self.process = case.started(Process("redis", argv))
        self.process.wait_for_line("Ready to accept connections")
