"""What hmacfs is meant to reach beside its peers, and whether it does."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from attrs import frozen

from bench.cells import (
    BARE,
    DISK,
    EJABBERD,
    GIB,
    KIB,
    MEMORY,
    NGINX,
    PROSODY,
    SHIPPED,
    UNHASHED,
    UNSYNCED,
    Cell,
)
from bench.ratios import Spread, ratios
from bench.table import ratio, table
from bench.throughput import Results, Run


@frozen
class Target:
    """One server against another in one cell.

    :ivar wanted: the least ratio; the largest one where *most*.
    """

    method: str
    size: int
    place: str
    one: str
    other: str
    wanted: float
    measure: Callable[[Run], float] = attrgetter("rate")
    most: bool = False

    def holds(self, spread: Spread) -> bool:
        return spread.median <= self.wanted if self.most else spread.median >= self.wanted


@frozen
class Verdict:
    """A line of the table of targets."""

    what: str
    wanted: str
    measured: str
    spread: str
    met: bool


_CPU: Callable[[Run], float] = attrgetter("cpu_per_byte")
_MIDDLE = 100 * KIB

TARGETS = (
    *(Target("GET", GIB, MEMORY, one, NGINX, 1.0) for one in (SHIPPED, UNHASHED)),
    *(Target("GET", GIB, MEMORY, one, NGINX, 1.3, _CPU, True) for one in (SHIPPED, UNHASHED)),
    *(Target("GET", _MIDDLE, MEMORY, one, NGINX, 0.5) for one in (SHIPPED, UNHASHED)),
    Target("PUT", GIB, MEMORY, UNHASHED, NGINX, 1.4),
    Target("PUT", GIB, MEMORY, SHIPPED, NGINX, 1.0),
    *(Target("PUT", _MIDDLE, DISK, one, NGINX, 0.8) for one in (UNSYNCED, BARE)),
    *(Target("PUT", _MIDDLE, DISK, one, NGINX, 0.4) for one in (SHIPPED, UNHASHED)),
    *(
        Target(method, size, MEMORY, SHIPPED, other, wanted)
        for other, wanted in ((PROSODY, 10.0), (EJABBERD, 1.5))
        for method, size in (("GET", GIB), ("GET", _MIDDLE), ("PUT", GIB), ("PUT", _MIDDLE))
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    """What was measured of each target; those of servers that weren't there are left out."""
    found = []
    for target in TARGETS:
        cell = _cell(target, results)
        ones, others = (results[cell].get(name, ()) if cell else () for name in (target.one, target.other))
        if cell is None or not ones or not others:
            continue
        spread = ratios([target.measure(run) for run in ones], [target.measure(run) for run in others])
        measured, ends = ratio(spread)
        sign = "≤" if target.most else "≥"
        kind = "CPU a GiB" if target.most else "rate"
        what = f"{cell.name}, {cell.place}: {kind} of {target.one}, against {target.other}"
        found.append(Verdict(what, f"{sign} {target.wanted}", measured, ends, target.holds(spread)))
    return found


def _cell(target: Target, results: Results) -> Cell | None:
    wanted = (target.method, target.size, target.place)
    return next((cell for cell in results if cell.important and (cell.method, cell.size, cell.place) == wanted), None)


def report(found: list[Verdict]) -> str:
    """As a table."""
    rows = [(one.what, one.wanted, one.measured, one.spread, "met" if one.met else "**missed**") for one in found]
    return table(("target", "wanted", "measured", "min to max", ""), rows)
