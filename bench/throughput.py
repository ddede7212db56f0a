"""How much the servers move, and the CPU time that it takes them: cell by cell, in turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench import curl, load, plot, wrk
from bench.cells import (
    BARE,
    EJABBERD,
    GIB,
    MIB,
    NGINX,
    PROSODY,
    SHIPPED,
    SINGLE,
    UNHASHED,
    UNSYNCED,
    WRK_UP_TO,
    Cell,
    size_name,
)
from bench.processes import cpu_seconds, cpu_since
from bench.ratios import Spread, ratios
from bench.servers import Server
from bench.slots import Slot
from bench.table import number, ratio, table
from bench.works import write_source
from bench.wrk import Asking, LoadFailed

#: What wrk can't ask for in the time, for none of the servers.
_MOST_A_SECOND = 16_000

_COLOURS = {
    SHIPPED: "#1f6feb",
    UNHASHED: "#79b8ff",
    SINGLE: "#8250df",
    UNSYNCED: "#2da44e",
    BARE: "#7ccf8f",
    PROSODY: "#bf8700",
    EJABBERD: "#9aa5b1",
}


@frozen
class Run:
    """One server's turn.

    :ivar files: that were moved, of *size* bytes each.
    :ivar cpu_s: of the whole process tree.
    """

    size: int
    files: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.files * self.size / self.seconds

    @property
    def cpu_per_file(self) -> float:
        return self.cpu_s / self.files

    @property
    def cpu_per_byte(self) -> float:
        return self.cpu_s / (self.files * self.size)


Runs = Mapping[str, Sequence[Run]]
Results = dict[Cell, Runs]


@contextmanager
def _sources(cell: Cell, root: Path) -> Iterator[dict[int, Path]]:
    """The files that are sent, by their sizes."""
    sizes = {cell.size_for(name) for name in cell.servers}
    paths = {size: root / f"source-{size}" for size in sizes}
    try:
        for size, path in paths.items():
            write_source(path, size)
        yield paths
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def measure(cell: Cell, servers: Mapping[str, Server], root: Path, rounds: int) -> Runs:
    """Let the servers of *cell* take their turns; those who can't do it are left out, with a line about why.

    :param servers: those that run, by name.
    :param rounds: for a cell that a target speaks of.
    """
    turns = rounds if cell.important else (rounds + 1) // 2
    runs: dict[str, list[Run]] = {name: [] for name in cell.servers if name in servers}
    paths: dict[str, str] = {}
    with _sources(cell, root) as sources:
        for turn in range(turns):
            for name in _rotated([*runs], turn):
                server, source = servers[name], sources[cell.size_for(name)]
                try:
                    if cell.method == "GET" and name not in paths:
                        paths[name] = _store(server, source)
                    runs[name].append(_run(cell, server, source, root, paths.get(name, "/")))
                except LoadFailed as failed:
                    sys.stderr.write(f"{cell.name}: {name} is left out: {failed.args[0].partition(chr(10))[0]}\n")
                    del runs[name]
                if cell.method == "PUT":
                    server.clean()
    for name in paths:
        servers[name].clean()
    return runs


def _rotated(names: Sequence[str], by: int) -> list[str]:
    """So that nobody always comes after the same one, or first."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]


def _store(server: Server, source: Path) -> str:
    slots = server.slots(1, source.stat().st_size)
    load.run(server.port, "PUT", slots, source, 1)
    return slots[0].path


def _run(cell: Cell, server: Server, source: Path, root: Path, path: str) -> Run:
    size = source.stat().st_size
    if size <= WRK_UP_TO:
        slots = server.slots(_MOST_A_SECOND, size) if cell.method == "PUT" else []
        before = cpu_seconds(server.pid)
        asking = Asking(server.port, cell.method, path, size, cell.connections, 1)
        outcome = wrk.finish(asking.start(root, slots))
        return Run(size, outcome.requests, outcome.seconds, cpu_since(server.pid, before))
    slots = server.slots(cell.count, size) if cell.method == "PUT" else [Slot(path)] * cell.count
    before = cpu_seconds(server.pid)
    if cell.connections > 1 or cell.count > 2:
        seconds = load.run(server.port, cell.method, slots, source, cell.connections)
    elif cell.method == "PUT":
        seconds = curl.put(server.port, slots, source)
    else:
        seconds = curl.get(server.port, path, cell.count)
    return Run(size, len(slots), seconds, cpu_since(server.pid, before))


def report(results: Results) -> str:
    """A table of all cells."""
    rows: list[Sequence[str]] = []
    for cell, runs in results.items():
        name = cell.name
        for server, turns in runs.items():
            rates = [run.rate for run in turns]
            beside = runs.get(NGINX, ())
            compared = ratio(ratios(rates, [run.rate for run in beside])) if beside else ("", "")
            per_gib = Spread.of(GIB * run.cpu_per_byte for run in turns).median
            per_thousand = Spread.of(1000 * run.cpu_per_file for run in turns).median
            size = cell.size_for(server)
            label = server if size == cell.size else f"{server} ({size_name(size)})"
            small = cell.size <= WRK_UP_TO
            costs = ("" if cell.size < WRK_UP_TO else number(per_gib), number(per_thousand) if small else "")
            rows.append((name, label, _rate(turns), *compared, *costs))
            name = ""
    head = ("asked for", "server", "rate", "of nginx's", "min to max", "CPU s a GiB", "CPU s a 1,000 requests")
    return table(head, rows)


def _rate(turns: Sequence[Run]) -> str:
    if turns[0].size <= WRK_UP_TO:
        return f"{number(Spread.of(run.files / run.seconds for run in turns).median)}/s"
    return f"{number(Spread.of(run.rate / MIB for run in turns).median)} MiB/s"


def chart(title: str, results: Results) -> str:
    """The ratios to nginx as bars."""
    groups = []
    for cell, runs in results.items():
        if runs.get(NGINX):
            limit = [run.rate for run in runs[NGINX]]
            shown = [
                plot.Bar(server, ratios([run.rate for run in turns], limit))
                for server, turns in runs.items()
                if server != NGINX
            ]
            groups.append(plot.Group(cell.name, shown))
    return plot.bars(title, [group for group in groups if group.bars], _COLOURS, NGINX)
