"""What a service takes of the machine's memory: when nobody is there, with very many who wait, with uploads under way."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench import load
from bench.cells import KIB, MIB, SHIPPED
from bench.processes import Memory, memory
from bench.servers import Server
from bench.slots import Slot
from bench.table import number, table
from bench.targets import Verdict
from bench.wrk import LoadFailed

#: All of them together, in bytes.
_MOST_WITH_IDLE = 250_000_000
_UPLOAD = 2 * MIB
#: Until what has been received has been written, too.
_SETTLE_S = 1.0


@frozen
class Footprint:
    """What one service takes, in three states; ``None`` for one that couldn't be brought about."""

    alone: Memory
    idle: Memory | None
    uploading: Memory | None
    idle_count: int
    upload_count: int


def measure(servers: Mapping[str, Server], root: Path, idle: int, uploads: int) -> dict[str, Footprint]:
    """
    :param idle: how many connections wait.
    :param uploads: how many are under way.
    """
    return {name: _footprint(server, root, idle, uploads) for name, server in servers.items()}


def _footprint(server: Server, root: Path, idle: int, uploads: int) -> Footprint:
    source = root / "source"
    source.write_bytes(bytes(KIB))
    slots = server.slots(1, KIB)
    load.run(server.port, "PUT", slots, source, 1)
    alone = memory(server.pid)
    waiting = _with(server, [Slot(slots[0].path)] * idle, 0)
    halves = server.slots(uploads, _UPLOAD)
    # The memory that they had is kept for those who come next: what an upload takes beyond doesn't show it.
    before = memory(server.pid)
    under_way = _with(server, halves, _UPLOAD)
    server.clean()
    grown = None if under_way is None else _grown(alone, before, under_way)
    return Footprint(alone, waiting, grown, idle, len(halves))


def _grown(alone: Memory, before: Memory, then: Memory) -> Memory:
    """*alone*, grown as *before* has."""
    resident, proportional = then.resident - before.resident, then.proportional - before.proportional
    return Memory(alone.resident + resident, alone.proportional + proportional, then.processes)


def _with(server: Server, slots: Sequence[Slot], size: int) -> Memory | None:
    try:
        with _clients(server.port, slots, size):
            time.sleep(_SETTLE_S)
            return memory(server.pid)
    except LoadFailed as failed:
        sys.stderr.write(f"memory: {server.name} is left out: {failed.args[0].partition(chr(10))[0]}\n")
        return None


@contextmanager
def _clients(port: int, slots: Sequence[Slot], size: int) -> Iterator[None]:
    argv = [sys.executable, "-m", "bench.waiting", str(port), str(size)]
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.write("".join(f"{slot}\n" for slot in slots))
            process.stdin.close()
            if process.stdout.readline() != "ready\n":
                raise LoadFailed(process.stderr.read()[-500:])
            yield
        finally:
            process.terminate()


def report(footprints: Mapping[str, Footprint]) -> str:
    """As a table, in MB as the target is; the proportional set size, which counts a page that is shared once."""
    rows = []
    for name, print_ in footprints.items():
        alone, idle, uploading = print_.alone, print_.idle, print_.uploading
        rows.append(
            (
                name,
                str(alone.processes),
                f"{_mb(alone.proportional)} ({_mb(alone.resident)})",
                f"{_mb(idle.proportional)} ({_mb(idle.resident)})" if idle else "",
                _each(alone, idle, print_.idle_count),
                _each(alone, uploading, print_.upload_count),
            )
        )
    (one, *_) = footprints.values()
    head = (
        "service",
        "processes",
        "alone: PSS (RSS), MB",
        f"with {one.idle_count:,} idle connections, MB",
        "KiB for each",
        "KiB for each upload under way",
    )
    return table(head, rows)


def verdict(footprints: Mapping[str, Footprint]) -> list[Verdict]:
    """Of the target that speaks of memory: the sum of all resident pages, the larger of the two figures."""
    shipped = footprints.get(SHIPPED)
    if shipped is None or shipped.idle is None:
        return []
    used = shipped.idle.resident
    what = f"memory of all processes with {shipped.idle_count:,} idle connections (RSS)"
    return [Verdict(what, "< 250 MB", f"**{_mb(used)} MB**", "", used < _MOST_WITH_IDLE)]


def _mb(size: int) -> str:
    return number(size / 1e6)


def _each(alone: Memory, then: Memory | None, count: int) -> str:
    return "" if then is None or not count else number(max(0, then.proportional - alone.proportional) / count / KIB)
