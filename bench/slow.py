"""What very many slow clients cost those who aren't: throughput beside them, against throughput without them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.asking import Ask
from bench.asking import __file__ as ASKING
from bench.cells import MIB
from bench.processes import cpu_seconds
from bench.ratios import Spread, ratios
from bench.servers import Server, hmacfs
from bench.slots import signed
from bench.table import ratio, table
from bench.works import Work, run

_LARGE = 16 * MIB
#: How many descriptors a server has when nobody is there, at most.
_FEW_DESCRIPTORS = 64
_PATIENCE_S = 60.0
#: What they do when they come isn't what they cost.
_SETTLE_S = 5.0


def measure(root: Path, works: Sequence[Work], count: int, rounds: int) -> str:
    """A Markdown section.

    :param count: how many slow clients.
    """
    server = hmacfs("slow", root)
    times: dict[tuple[str, bool], list[float]] = {(work.name, beside): [] for work in works for beside in (False, True)}
    idle_cpu: list[float] = []
    try:
        for turn in range(rounds + 1):
            for beside in (False, True):
                measured, used = _round(server, works, root, count if beside else 0)
                if turn:  # the first warms up
                    for work, seconds in zip(works, measured, strict=True):
                        times[work.name, beside].append(seconds)
                    if beside:
                        idle_cpu.append(used)
    finally:
        server.stop()
    return _report(works, times, count, idle_cpu)


def _round(server: Server, works: Sequence[Work], root: Path, slow: int) -> tuple[list[float], float]:
    """Wall seconds of each work, and CPU seconds of the server in a second that brings nothing else."""
    path = _store_large_file(server)
    with _slow_clients(server, slow, path):
        if slow:
            time.sleep(_SETTLE_S)
        before = cpu_seconds(server.pid)
        time.sleep(1)
        used = cpu_seconds(server.pid) - before
        return [run(server, work, work.make_source(root))[0] for work in works], used


def _store_large_file(server: Server) -> str:
    slot = signed(_LARGE)
    argv = [sys.executable, ASKING, str(server.port), "127.0.0.1", "", "fresh"]
    subprocess.run(
        argv, check=True, input=str(Ask("PUT", slot.target, _LARGE, 201)), text=True, stdout=subprocess.DEVNULL
    )
    return slot.path


@contextmanager
def _slow_clients(server: Server, count: int, path: str) -> Iterator[None]:
    """Have them there; afterwards, wait until the server is rid of them."""
    if not count:
        yield
        return
    argv = [sys.executable, "-m", "bench.slowly", str(server.port), str(count), path]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the slow clients don't come")
            yield
        finally:
            process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    while len(os.listdir(f"/proc/{server.pid}/fd")) > _FEW_DESCRIPTORS:
        if time.monotonic() > deadline:
            raise SystemExit("the server keeps connections that are gone")
        time.sleep(0.05)


def _report(
    works: Sequence[Work], times: Mapping[tuple[str, bool], Sequence[float]], count: int, idle_cpu: Sequence[float]
) -> str:
    rows = []
    for work in works:
        alone, beside = times[work.name, False], times[work.name, True]
        rates = (work.rate(Spread.of(alone).median), work.rate(Spread.of(beside).median))
        rows.append((work.name, *rates, *ratio(ratios(alone, beside)), "≥ 0.90"))
    return "\n".join(
        [
            f"{count:,} slow clients. Five seconds after they have come they alone take"
            f" {100 * Spread.of(idle_cpu).median:.0f} % of a core.",
            "",
            table(("upload", "alone (median)", "beside them", "ratio of throughput", "min to max", "wanted"), rows),
        ]
    )
