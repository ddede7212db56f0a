"""What checksums and the state of uploads cost: hmacfs with and without, beside the least that a PUT can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from bench.ratios import Spread, ratios
from bench.servers import Redis, Server, hmacfs, plain
from bench.table import ratio, table
from bench.works import Work, run


@frozen
class Pair:
    """Two servers to be compared, and what their ratio should be at least."""

    one: str
    other: str
    meaning: str
    wanted: float | None = None


PAIRS = (
    Pair("checksums", "no checksums", "ChecksumVerification on, against off", 0.75),
    Pair("redis", "checksums", "with Redis, against the embedded store", 0.95),
    Pair("no checksums", "plain", "hmacfs without checksums, against a bare streaming PUT without fsync"),
    Pair("checksums", "plain", "hmacfs as it ships, against a bare streaming PUT without fsync"),
)

_BUFFER_BYTES = 512 * 1024


def measure(root: Path, works: Sequence[Work], rounds: int) -> str:
    """A Markdown section."""
    redis = Redis(root)
    servers: list[Server] = []
    try:
        servers.append(plain("plain", root, _BUFFER_BYTES))
        keys = {"BufferSize": _BUFFER_BYTES}
        servers.append(hmacfs("no checksums", root, {**keys, "ChecksumVerification": False}))
        servers.append(hmacfs("checksums", root, keys))
        servers.append(hmacfs("redis", root, {**keys, "RedisAddr": f"unix:{redis.socket}"}))
        return "\n".join(_compare(servers, work, rounds, root) for work in works)
    finally:
        for server in servers:
            server.stop()
        redis.stop()


def _compare(servers: Sequence[Server], work: Work, rounds: int, root: Path) -> str:
    source = work.make_source(root)
    walls: dict[str, list[float]] = {server.name: [] for server in servers}
    cpus: dict[str, list[float]] = {server.name: [] for server in servers}
    for turn in range(rounds + 1):
        for server in servers:
            wall, cpu = run(server, work, source)
            if turn:  # the first warms up
                walls[server.name].append(wall)
                cpus[server.name].append(cpu)
    medians = {name: (Spread.of(walls[name]).median, Spread.of(cpus[name]).median) for name in walls}
    rates = [(name, work.rate(wall), f"{cpu:.2f}") for name, (wall, cpu) in medians.items()]
    compared = []
    for pair in PAIRS:
        wanted = "" if pair.wanted is None else f"≥ {pair.wanted:.2f}"
        compared.append((pair.meaning, *ratio(ratios(walls[pair.other], walls[pair.one])), wanted))
    return "\n".join(
        [
            f"### {work.name}",
            "",
            table(("server", "rate (median)", "CPU s (median)"), rates),
            table(("ratio of throughput", "median", "min to max", "wanted"), compared),
        ]
    )
