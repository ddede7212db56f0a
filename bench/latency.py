"""How long clients wait while others are busy: small downloads and uploads at a steady pace, beside large ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from bench import load, wrk
from bench.cells import KIB, MIB
from bench.ratios import Spread
from bench.servers import Server
from bench.slots import Slot
from bench.table import number, table
from bench.wrk import Asking, LoadFailed, Outcome

_SMALL, _LARGE = 100 * KIB, 10 * MIB
#: So many connections, each of which waits so long before a request on average: 400 downloads and 80 uploads a second
#: of a server that answers at once.
_GETS, _GET_PAUSE_MS = 16, 40
_PUTS, _PUT_PAUSE_MS = 4, 50
#: Meanwhile a large file goes each way so often.
_LARGE_EVERY_S = 0.25


@frozen
class Mixed:
    """What small requests took beside the large ones."""

    get: Outcome
    put: Outcome


def measure(servers: Mapping[str, Server], root: Path, seconds: int, rounds: int) -> dict[str, list[Mixed]]:
    """Let the servers take turns."""
    small, large = root / "small", root / "large"
    small.write_bytes(bytes(_SMALL))
    large.write_bytes(bytes(_LARGE))
    found: dict[str, list[Mixed]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name in [*found]:
            try:
                found[name].append(_turn(servers[name], root, small, large, seconds))
            except LoadFailed as failed:
                sys.stderr.write(f"latency: {name} is left out: {failed.args[0].partition(chr(10))[0]}\n")
                del found[name]
            servers[name].clean()
    return found


def _turn(server: Server, root: Path, small: Path, large: Path, seconds: int) -> Mixed:
    stored = server.slots(1, _SMALL) + server.slots(1, _LARGE)
    for slot, source in zip(stored, (small, large), strict=True):
        load.run(server.port, "PUT", [slot], source, 1)
    gets = Asking(server.port, "GET", stored[0].path, _SMALL, _GETS, seconds, _GET_PAUSE_MS)
    puts = Asking(server.port, "PUT", "/", _SMALL, _PUTS, seconds, _PUT_PAUSE_MS)
    slots = server.slots(200 * seconds, _SMALL)
    count = int(seconds / _LARGE_EVERY_S)
    uploads, downloads = server.slots(count, _LARGE), [Slot(stored[1].path)] * count
    beside = [
        load.start(server.port, method, large_ones, large, 1, _LARGE_EVERY_S)
        for method, large_ones in (("PUT", uploads), ("GET", downloads))
    ]
    running = gets.start(root), puts.start(root, slots)
    try:
        get, put = (wrk.finish(one) for one in running)
    finally:
        for process in beside:
            process.communicate()
    return Mixed(get, put)


def report(found: Mapping[str, list[Mixed]]) -> str:
    """A table in milliseconds."""
    rows = []
    for name, turns in found.items():
        gets, puts = [turn.get for turn in turns], [turn.put for turn in turns]
        cells = [_ms(outcomes, at) for outcomes in (gets, puts) for at in ("p50_s", "p99_s")]
        rates = [number(Spread.of(one.requests / one.seconds for one in outcomes).median) for outcomes in (gets, puts)]
        rows.append((name, rates[0], *cells[:2], rates[1], *cells[2:]))
    return table(("server", "GETs a second", "p50, ms", "p99, ms", "PUTs a second", "p50, ms", "p99, ms"), rows)


def _ms(outcomes: list[Outcome], which: str) -> str:
    spread = Spread.of(1000 * getattr(outcome, which) for outcome in outcomes)
    return f"{number(spread.median)} ({number(spread.low)} to {number(spread.high)})"
