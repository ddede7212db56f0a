"""``make bench``: throughput and cost, side by side in one run, as ratios.

The servers take turns, so that what the machine does beside hits them alike; what is compared is the ratio of two
neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import twisted
from attrs import frozen

from bench import blocked, slow
from bench.servers import Redis, Server, hmacfs, plain
from bench.works import MIB, Work, run

BUFFER_BYTES = 256 * 1024


@frozen
class Pair:
    """Two servers to be compared, and what their ratio should be at least."""

    one: str
    other: str
    meaning: str
    target: float | None


PAIRS = (
    Pair("checksums", "no checksums", "ChecksumVerification on, against off", 0.75),
    Pair("redis", "checksums", "with Redis, against the embedded store", 0.95),
    Pair("no checksums", "plain", "hmacfs without checksums, against a bare streaming PUT without fsync", None),
    Pair("checksums", "plain", "hmacfs as it ships, against a bare streaming PUT without fsync", None),
)


def compare(servers: Sequence[Server], work: Work, rounds: int, root: Path) -> str:
    """Measure *work* on all servers in turn; a Markdown section."""
    source = work.make_source(root)
    times: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
    for turn in range(rounds + 1):
        for server in servers:
            measured = run(server, work, source)
            if turn:  # the first warms up
                times[server.name].append(measured)
    lines = [f"### {work.name}", "", "| server | rate (median) | CPU s (median) |", "| --- | --- | --- |"]
    for name, runs in times.items():
        seconds = statistics.median(wall for wall, _ in runs)
        cpu = statistics.median(used for _, used in runs)
        lines.append(f"| {name} | {work.rate(seconds)} | {cpu:.2f} |")
    lines += ["", "| ratio of throughput | median | min to max | wanted |", "| --- | --- | --- | --- |"]
    for pair in PAIRS:
        ratios = [other / one for (one, _), (other, _) in zip(times[pair.one], times[pair.other], strict=True)]
        wanted = "" if pair.target is None else f"≥ {pair.target:.2f}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {pair.meaning} | **{statistics.median(ratios):.2f}** | {spread} | {wanted} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="small and once: only to see that it runs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="put the result into this page, below its marker")
    parser.add_argument("--directory", type=Path, default=None, help="where the files go (a temporary directory)")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    works = (
        Work("One file of 1 GiB", (8 if options.quick else 1024) * MIB, 1, 1),
        Work("1,000 files of 100 KiB, 8 connections", 100 * 1024, 50 if options.quick else 1000, 8),
    )
    root = Path(tempfile.mkdtemp(prefix="hmacfs-bench-", dir=options.directory))
    redis = Redis(root)
    servers: list[Server] = []
    try:
        servers.append(plain("plain", root, BUFFER_BYTES))
        common = {"BufferSize": BUFFER_BYTES, "MinFreeSpace": 0, "LogLevel": "warn"}
        servers.append(hmacfs("no checksums", root, {**common, "ChecksumVerification": False}))
        servers.append(hmacfs("checksums", root, common))
        servers.append(hmacfs("redis", root, {**common, "RedisAddr": f"unix:{redis.socket}"}))
        sections = [compare(servers, work, rounds, root) for work in works]
        while servers:
            servers.pop().stop()
        sections.append(blocked.measure(root, common, 10 if options.quick else 100, rounds))
        beside = (works[0], Work("200 files of 100 KiB, 8 connections", 100 * 1024, 20 if options.quick else 200, 8))
        sections.append(slow.measure(root, common, beside, 40 if options.quick else 1000, rounds))
    finally:
        for server in servers:
            server.stop()
        redis.stop()
        shutil.rmtree(root)
    report = "\n".join(sections)
    print(report)
    if options.write is not None:
        _write(options.write, report, rounds)


def _write(page: Path, report: str, rounds: int) -> None:
    marker = "<!-- results -->"
    head = page.read_text(encoding="utf-8").partition(marker)[0]
    machine = (
        f"Measured on {date.today()}: {os.cpu_count()} cores shared with the load, Linux {platform.release()}, "
        f"Python {platform.python_version()}, Twisted {twisted.__version__}; {rounds} rounds after one to warm up."
    )
    page.write_text(f"{head}{marker}\n\n{machine}\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()
