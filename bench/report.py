"""docs/benchmarks.md: a section for each thing that is measured, written by the command that measured it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import twisted

from tests.peers import which


def put_section(page: str, name: str, text: str) -> str:
    """The page with a section's text in place of the one before.

    :raises ValueError: the page has no such section.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"no section {name!r}")
    return f"{head}{begin}\n{text.strip()}\n\n{end}{tail}"


def write_section(page: Path, name: str, text: str) -> None:
    """The same, on disk."""
    page.write_text(put_section(page.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def provenance(command: Sequence[str], rounds: int, places: Sequence[Path]) -> str:
    """One line on when, how and on what something was measured; nothing about whose machine it is."""
    turns = "1 round" if rounds == 1 else f"{rounds} rounds"
    kinds = " and ".join(dict.fromkeys(file_system(place) for place in places))
    return (
        f"`{' '.join(command)}` on {date.today()}, {turns}: {len(os.sched_getaffinity(0))} cores"
        f" ({processor()}) shared with the load, files on {kinds}, Linux {platform.release().partition('-')[0]},"
        f" Python {platform.python_version()}, Twisted {twisted.__version__}{''.join(_versions())}."
    )


def processor() -> str:
    """What Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def file_system(place: Path) -> str:
    """The type of the file system that *place* is on, as ``/proc/mounts`` has it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    holding = [(Path(mount), kind) for mount, kind in mounts if place.resolve().is_relative_to(mount)]
    return max(holding, key=lambda one: len(one[0].parts))[1]


def _versions() -> list[str]:
    """Of the peers, as Debian's package manager knows them."""
    packages = {"nginx": "nginx-light", "prosody": "prosody", "erl": "ejabberd", "wrk": "wrk"}
    query = shutil.which("dpkg-query")
    found = []
    for program, package in packages.items():
        if query and which(program):
            argv = [query, "-W", "-f", "${Version}", package]
            version = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
            if version:
                found.append(f", {package} {version}")
    return found
