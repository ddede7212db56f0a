"""curl as the load: one large file after the other, on one connection."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.pinning import pinned
from bench.slots import Slot
from bench.wrk import LoadFailed

_SAY = "%{http_code} %{time_total}\\n"


def seconds(text: str, wanted: int) -> float:
    """The time of all transfers together, by what curl says of each.

    :param wanted: the status that all have to have.
    :raises LoadFailed: one has another.
    """
    lines = [line.split() for line in text.splitlines()]
    others = [line[0] for line in lines if line[0] != str(wanted)]
    if others or not lines:
        raise LoadFailed(f"curl was answered with {', '.join(others) or 'nothing'}")
    return sum(float(line[1]) for line in lines)


def put(port: int, slots: Sequence[Slot], source: Path) -> float:
    """Upload *source* to each slot; the seconds that it took."""
    argv: list[str] = []
    for slot in slots:
        # Nobody is to wait for "100 Continue", which some servers forget.
        headers = [word for line in ("Expect:", slot.header) if line for word in ("-H", line)]
        argv += ["--next"] if argv else []
        argv += _each(f"http://127.0.0.1:{port}{slot.target}", ["-T", str(source), *headers])
    return seconds(_run(argv), 201)


def get(port: int, path: str, count: int) -> float:
    """Download the same file *count* times; the seconds that it took."""
    argv: list[str] = []
    for _ in range(count):
        argv += ["--next"] if argv else []
        argv += _each(f"http://127.0.0.1:{port}{path}", [])
    return seconds(_run(argv), 200)


def _each(url: str, options: Sequence[str]) -> list[str]:
    return ["-sS", "-o", "/dev/null", "-w", _SAY, *options, url]


def _run(argv: Sequence[str]) -> str:
    command = pinned(["curl", *argv], alone=True)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
