"""How long a server takes from its command to its first answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.cells import SHIPPED
from bench.ratios import Spread
from bench.servers import CannotMeasure, Server
from bench.table import number, table
from bench.targets import Verdict

Start = Callable[[Path], Server]


def measure(starts: Mapping[str, Start], root: Path, rounds: int) -> dict[str, Spread]:
    """Start and stop each of them, in turns; those that aren't installed are left out.

    :param starts: what starts a server in an empty directory, by its name.
    """
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        for name, start in starts.items():
            directory = root / f"start-{turn}-{len(found)}-{name.replace(' ', '-')}"
            directory.mkdir()
            try:
                server = start(directory)
            except CannotMeasure:
                continue
            found.setdefault(name, []).append(server.started_s)
            server.stop()
    return {name: Spread.of(times) for name, times in found.items()}


def report(found: Mapping[str, Spread]) -> str:
    """As a table."""
    rows = [(name, number(one.median), f"{number(one.low)} to {number(one.high)}") for name, one in found.items()]
    return table(("server", "s to the first answer", "min to max"), rows)


def verdict(found: Mapping[str, Spread]) -> list[Verdict]:
    """Of the target that speaks of the start."""
    spread = found.get(SHIPPED)
    if spread is None:
        return []
    ends = f"{number(spread.low)} to {number(spread.high)}"
    return [Verdict("start, to the first answer", "< 1 s", f"**{number(spread.median)} s**", ends, spread.median < 1)]
