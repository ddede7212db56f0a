"""What a process and all that it has started take: CPU time and memory, as Linux tells in ``/proc``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

_PROC = Path("/proc")


@frozen
class Memory:
    """Of a whole service, in bytes.

    :ivar resident: the sum over its processes, pages that they share counted for each of them.
    :ivar proportional: the same with a shared page counted once.
    :ivar processes: how many there are.
    """

    resident: int
    proportional: int
    processes: int


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    return [*_below(pid, children)]


def _below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _below(child, children)


def cpu_seconds(pid: int) -> float:
    """What a process tree has used until now, the system's time and that of its dead among it."""
    ticks = 0
    for member in tree(pid):
        fields = _stat(member)
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_since(pid: int, before: float) -> float:
    """What it has used since :func:`cpu_seconds` was *before*; a tick of the kernel's clock at least, for want of a finer
    one: nothing is free, and a ratio needs something to divide by."""
    return max(1 / os.sysconf("SC_CLK_TCK"), cpu_seconds(pid) - before)


def memory(pid: int) -> Memory:
    """What a process tree has in memory now."""
    members = [sizes for sizes in (_sizes(member) for member in tree(pid)) if sizes]
    resident = sum(sizes["Rss"] for sizes in members)
    return Memory(resident, sum(sizes["Pss"] for sizes in members), len(members))


def _sizes(pid: int) -> dict[str, int]:
    """``smaps_rollup`` in bytes; empty for a process that is gone."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    return {name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _stat(pid: int) -> list[str]:
    """The fields of ``stat`` from the state on; none for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
