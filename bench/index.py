"""What the index costs with a million files.

They are empty but for what an upload says of them, and take an inode each.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hmacfs.keeping.index import FILE_NAME, Entry, Index, Schedule
from hmacfs.keeping.indexing import REST
from hmacfs.keeping.scan import Scan
from hmacfs.storage.facts import ATTRIBUTE, Facts
from hmacfs.storage.store import Store

_MIB = 1024 * 1024
_NOW = 1_796_000_000.0
_DAY_S = 86_400.0
_SPAN_S = 30 * _DAY_S


def make_tree(root: Path, files: int, per_directory: int) -> None:
    """Files of 5,000 users that were uploaded over the last 30 days."""
    for first in range(0, files, per_directory):
        directory = root / f"{first // per_directory:08x}-d84d-4ec3-9bfc-efc2794c9163"
        directory.mkdir()
        for number in range(first, min(files, first + per_directory)):
            owner, uploaded = f"user{number % 5000}@example.org", _NOW - _SPAN_S * number / files
            fd = os.open(directory / f"photo-{number}.jpg", os.O_WRONLY | os.O_CREAT)
            os.setxattr(fd, ATTRIBUTE, Facts("image/jpeg", bytes(32), owner, None, uploaded).encode())
            os.close(fd)


class Table:
    """Rows of Markdown: what was done, how long it took, its CPU, and by how much the process has grown then."""

    def __init__(self, title: str) -> None:
        self.lines = [f"### {title}", "", "| what | time | CPU | memory | |", "| --- | --- | --- | --- | --- |"]

    def row(self, name: str, work: Callable[[], str]) -> None:
        before, cpu, begun = _resident_bytes(), time.process_time(), time.perf_counter()
        said = work()
        elapsed, used = time.perf_counter() - begun, time.process_time() - cpu
        grown = (_resident_bytes() - before) / _MIB
        self.lines.append(f"| {name} | {elapsed:,.2f} s | {used:,.2f} s | {grown:+.1f} MiB | {said} |")
        print(self.lines[-1], flush=True)


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def scan(store: Store, index: Index) -> str:
    """Compare the whole tree with the index, without a rest."""
    work, steps = Scan(store, index, time.time), []
    while True:
        begun = time.process_time()
        if work.step() is None:
            break
        steps.append(time.process_time() - begun)
    return f"CPU of a step: {1000 * sum(steps) / len(steps):.1f} ms"


def rules(days: float) -> Schedule:
    def ending(entry: Entry) -> float | None:
        return entry.uploaded + days * _DAY_S

    return Schedule(f"{days} days", ending)


def decide(index: Index, schedule: Schedule) -> str:
    """What a sweep does before it deletes: see that the rows go by the rules, and page through all that is due."""
    index.reschedule(schedule)
    count, last = 0, None
    while page := index.due(_NOW, 1000, last):
        count, last = count + len(page), page[-1]
    return f"{count:,} due"


def run(root: Path, files: int, per_directory: int) -> list[str]:
    make_tree(root, files, per_directory)
    store = Store.open(root)
    index = Index(store.own_directory / FILE_NAME)
    all_kept, some_due = rules(31), rules(30 * 0.99)
    table = Table(f"{files:,} files, {per_directory:,} in a directory")
    table.row("first index", lambda: scan(store, index))
    table.row("scan, nothing has changed", lambda: scan(store, index))
    table.row("rows by new rules", lambda: f"{index.reschedule(all_kept):,} rows")
    table.row("sweep decides, none due", lambda: decide(index, all_kept))
    index.reschedule(some_due)
    table.row("sweep decides, 1 % due", lambda: decide(index, some_due))
    table.row("usage of one user", lambda: f"{index.usage('user17@example.org').files:,} files")
    index.close()
    size = (store.own_directory / FILE_NAME).stat().st_size
    store.close()
    return [*table.lines, "", f"The index has {size / _MIB:,.0f} MiB.", ""]


def measure(root: Path, files: int) -> str:
    """A Markdown section. A million files take ten minutes."""
    lines = [f"The service rests {REST} times as long as it scans.", ""]
    for count, per_directory in ((files, 1000), (files // 10, 1)):
        with tempfile.TemporaryDirectory(dir=root) as directory:
            lines += run(Path(directory), count, per_directory)
    return "\n".join(lines)
