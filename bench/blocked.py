"""What a blocked client costs the server, against one that is served: CPU time for each request."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from bench.asking import Ask
from bench.asking import __file__ as ASKING
from bench.processes import cpu_seconds, cpu_since
from bench.ratios import Spread, ratios
from bench.servers import Server, hmacfs
from bench.slots import signed
from bench.table import ratio, table

SIZE = 100 * 1024

#: Who comes directly and is blocked; who comes by a proxy (127.0.0.1) and is, or isn't.
_BLOCKED = "127.0.0.2"
_BLOCKED_CLIENT = "203.0.113.9"
_CLIENT = "203.0.113.10"


@frozen
class Case:
    """A kind of request.

    :ivar asks: how many of them are sent at a time, in relation to the others.
    """

    name: str
    method: str
    status: int
    source: str
    client: str
    fresh: bool
    share: int


_PUT = Case("PUT of 100 KiB, new connections", "PUT", 201, "127.0.0.3", "", True, 1)
_GET = Case("GET of 100 KiB, new connections", "GET", 200, "127.0.0.3", "", True, 4)
_BLOCKED_GET = Case("blocked, new connections", "GET", 429, _BLOCKED, "", True, 10)
_PUT_BY_PROXY = Case("PUT of 100 KiB, by a proxy", "PUT", 201, "127.0.0.1", _CLIENT, False, 1)
_GET_BY_PROXY = Case("GET of 100 KiB, by a proxy", "GET", 200, "127.0.0.1", _CLIENT, False, 4)
_BLOCKED_BY_PROXY = Case("blocked, by a proxy", "GET", 429, "127.0.0.1", _BLOCKED_CLIENT, False, 10)

CASES = (_PUT, _GET, _BLOCKED_GET, _PUT_BY_PROXY, _GET_BY_PROXY, _BLOCKED_BY_PROXY)

#: What costs how much of what, and what it should be at most.
_RATIOS: Sequence[tuple[Case, Case, str]] = (
    (_BLOCKED_GET, _PUT, "< 0.10"),
    (_BLOCKED_BY_PROXY, _PUT_BY_PROXY, "< 0.10"),
    (_BLOCKED_GET, _GET, ""),
    (_BLOCKED_BY_PROXY, _GET_BY_PROXY, ""),
)


def measure(root: Path, count: int, rounds: int) -> str:
    """A Markdown section.

    :param count: how many files are sent at a time.
    """
    server = hmacfs("blocked", root, {"BlockAfterFails": 1, "BlockDuration": "1h"})
    try:
        stored = signed(SIZE)
        _send(server, Case("", "PUT", 201, "127.0.0.1", "", True, 1), [Ask("PUT", stored.target, SIZE, 201)])
        for source, client in ((_BLOCKED, ""), ("127.0.0.1", _BLOCKED_CLIENT)):
            wrong = Ask("PUT", "/upload/x/y?v=" + "0" * 64, 1, 403)
            _send(server, Case("", "PUT", 403, source, client, True, 1), [wrong])
        costs: dict[Case, list[float]] = {case: [] for case in CASES}
        for turn in range(rounds + 1):
            for case in CASES:
                cost = _cost(server, case, count * case.share, stored.path)
                if turn:  # the first warms up
                    costs[case].append(cost)
    finally:
        server.stop()
    return _report(costs)


def _cost(server: Server, case: Case, count: int, path: str) -> float:
    """CPU seconds of one request."""
    targets = [signed(SIZE).target if case.method == "PUT" else path for _ in range(count)]
    asks = [Ask(case.method, to, SIZE if case.method == "PUT" else 0, case.status) for to in targets]
    before = cpu_seconds(server.pid)
    _send(server, case, asks)
    return cpu_since(server.pid, before) / count


def _send(server: Server, case: Case, asks: Sequence[Ask]) -> None:
    fresh = "fresh" if case.fresh else "kept"
    argv = [sys.executable, ASKING, str(server.port), case.source, case.client, fresh]
    subprocess.run(argv, check=True, input="\n".join(map(str, asks)), text=True, stdout=subprocess.DEVNULL)


def _report(costs: Mapping[Case, Sequence[float]]) -> str:
    micros = [(case.name, Spread.of(1e6 * cost for cost in measured)) for case, measured in costs.items()]
    each = [(name, f"{one.median:,.0f}", f"{one.low:,.0f} to {one.high:,.0f}") for name, one in micros]
    compared = [
        (f"{one.name}, against {other.name}", *ratio(ratios(costs[one], costs[other])), wanted)
        for one, other, wanted in _RATIOS
    ]
    return "\n".join(
        [
            table(("request", "CPU µs (median)", "min to max"), each),
            table(("ratio of CPU time", "median", "min to max", "wanted"), compared),
        ]
    )
