"""What a single server is asked to take: files, as many at a time."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

from bench import load
from bench.cells import MIB
from bench.processes import cpu_seconds
from bench.servers import Server


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
        write_source(source, self.size)
        return source


def write_source(path: Path, size: int) -> None:
    """A file to be sent, of a mebibyte that nobody can compress, again and again."""
    block = os.urandom(min(size, MIB))
    with path.open("wb") as source:
        for _ in range(max(1, size // MIB)):
            source.write(block)


def run(server: Server, work: Work, source: Path) -> tuple[float, float]:
    """Wall seconds of the load, and CPU seconds of the server."""
    server.clean()
    slots = server.slots(work.count, work.size)
    before = cpu_seconds(server.pid)
    seconds = load.run(server.port, "PUT", slots, source, work.connections)
    return seconds, cpu_seconds(server.pid) - before
