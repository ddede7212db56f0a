"""What servers are asked to do: files to take, as many at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from attrs import frozen

from bench.load import __file__ as LOAD
from bench.servers import SECRET, Server, cpu_seconds

MIB = 1024 * 1024


@frozen
class Work:
    """What each server is asked to do."""

    name: str
    size: int
    count: int
    connections: int

    def rate(self, seconds: float) -> str:
        if self.count == 1:
            return f"{self.size / MIB / seconds:,.0f} MiB/s"
        return f"{self.count / seconds:,.0f} files/s"

    def make_source(self, root: Path) -> Path:
        """The file that is sent."""
        source = root / "source"
        block = os.urandom(min(self.size, MIB))
        source.write_bytes(block * max(1, self.size // MIB))
        return source


def run(server: Server, work: Work, source: Path) -> tuple[float, float]:
    """Wall seconds of the load, and CPU seconds of the server."""
    server.clean()
    secret = "" if server.name == "plain" else SECRET
    before = cpu_seconds(server.pid)
    argv = [sys.executable, LOAD, str(server.port), str(source), str(work.count), str(work.connections), secret]
    seconds = float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return seconds, cpu_seconds(server.pid) - before
