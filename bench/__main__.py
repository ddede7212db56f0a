"""``make bench``: hmacfs beside its peers, in one run, as ratios.

The servers take turns, so that what the machine does beside hits them alike; what is compared is the ratio of two
neighbouring runs.
"""

from __future__ import annotations

import argparse
import compileall
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from attrs import field, frozen

from bench import blocked, cells, index, latency, memory, peers, report, slow, startup, stores, targets, throughput
from bench.cells import BARE, DISK, EJABBERD, MEMORY, MIB, NGINX, PROSODY, SHIPPED, SINGLE, UNHASHED, UNSYNCED, Cell
from bench.servers import CannotMeasure, Server, hmacfs
from bench.targets import Verdict
from bench.works import Work

_NONE = {"Durability": "none"}
_OFF = {"ChecksumVerification": False}

#: How each server is started in a directory.
STARTS: dict[str, startup.Start] = {
    NGINX: peers.nginx,
    SHIPPED: lambda root: hmacfs(SHIPPED, root, {"NumCores": 2}),
    UNHASHED: lambda root: hmacfs(UNHASHED, root, {"NumCores": 2, **_OFF}),
    SINGLE: lambda root: hmacfs(SINGLE, root, {"NumCores": 1}),
    UNSYNCED: lambda root: hmacfs(UNSYNCED, root, {"NumCores": 2, **_NONE}),
    BARE: lambda root: hmacfs(BARE, root, {"NumCores": 2, **_OFF, **_NONE}),
    PROSODY: peers.prosody,
    EJABBERD: peers.ejabberd,
}

_DIFFERENT = (NGINX, SHIPPED, SINGLE, PROSODY, EJABBERD)

_OURS = (SHIPPED, UNHASHED, SINGLE, UNSYNCED, BARE)


@frozen
class Scale:
    """How much is done.

    :ivar rounds: how many turns every server has in what a target speaks of.
    :ivar idle: how many connections wait.
    :ivar different: those that differ in memory, in latency and in how they start.
    """

    rounds: int
    different: tuple[str, ...]
    cells: Callable[[tuple[Cell, ...]], tuple[Cell, ...]]
    idle: int
    uploads: int
    mixed_s: int
    large: int
    files: int
    slow: int
    indexed: int


def _full(rounds: int) -> Scale:
    return Scale(rounds, _DIFFERENT, lambda all_: all_, 10_000, 200, 3, 1024 * MIB, 1000, 1000, 1_000_000)


_QUICK = Scale(1, (NGINX, SHIPPED), cells.quick, 50, 4, 1, 8 * MIB, 50, 40, 500)


@frozen
class Suite:
    """What measures, and what has been measured so far.

    :ivar places: directories of the run's own, by the names of :mod:`bench.cells`.
    """

    scale: Scale
    places: dict[str, Path]
    results: throughput.Results = field(factory=dict)
    verdicts: list[Verdict] = field(factory=list)
    charts: dict[str, str] = field(factory=dict)
    _began: float = field(factory=time.monotonic)

    def progress(self, what: str) -> None:
        """Tell whoever waits."""
        sys.stderr.write(f"{time.monotonic() - self._began:6.0f} s  {what}\n")

    @contextmanager
    def servers(self, names: Sequence[str], place: str, purpose: str) -> Iterator[dict[str, Server]]:
        """Those that can be had, running."""
        root = self.places[place] / purpose
        root.mkdir()
        running: dict[str, Server] = {}
        with ExitStack() as ending:
            for name in names:
                try:
                    running[name] = STARTS[name](root)
                except CannotMeasure as absent:
                    sys.stderr.write(f"{purpose}: {name} is left out: {absent}\n")
                    continue
                ending.callback(running[name].stop)
            yield running
        shutil.rmtree(root)

    def throughput(self) -> str:
        families = (
            ("get", "Downloads, against nginx", cells.GETS),
            ("put", "Uploads to memory, against nginx", cells.PUTS),
            ("disk", "Uploads to a disk, against nginx", cells.DISK_PUTS),
        )
        parts = []
        for family, title, all_cells in families:
            chosen = self.scale.cells(all_cells)
            found: throughput.Results = {}
            names = list(dict.fromkeys(name for cell in chosen for name in cell.servers))
            with self.servers(names, chosen[0].place, family) as running:
                for cell in chosen:
                    found[cell] = throughput.measure(cell, running, self.places[cell.place], self.scale.rounds)
                    self.progress(cell.name)
            self.results.update(found)
            self.charts[f"benchmarks-{family}.svg"] = throughput.chart(title, found)
            parts += [f"### {title}", "", f"![{title}](benchmarks-{family}.svg)", "", throughput.report(found)]
        self.verdicts.extend(targets.verdicts(self.results))
        return "\n".join(parts)

    def memory(self) -> str:
        with self.servers(self.scale.different, MEMORY, "memory") as running:
            found = memory.measure(running, self.places[MEMORY], self.scale.idle, self.scale.uploads)
        self.verdicts.extend(memory.verdict(found))
        return memory.report(found)

    def latency(self) -> str:
        with self.servers(self.scale.different, MEMORY, "latency") as running:
            rounds = (self.scale.rounds + 1) // 2
            return latency.report(latency.measure(running, self.places[MEMORY], self.scale.mixed_s, rounds))

    def startup(self) -> str:
        starts = {name: STARTS[name] for name in self.scale.different}
        found = startup.measure(starts, self.places[DISK], self.scale.rounds)
        self.verdicts.extend(startup.verdict(found))
        return startup.report(found)

    def stores(self) -> str:
        return stores.measure(self.places[DISK], self._works(self.scale.files), self.scale.rounds)

    def blocked(self) -> str:
        return blocked.measure(self.places[DISK], self.scale.files // 10, self.scale.rounds)

    def slow(self) -> str:
        works = self._works(self.scale.files // 5)
        return slow.measure(self.places[DISK], works, self.scale.slow, self.scale.rounds)

    def index(self) -> str:
        return index.measure(self.places[DISK], self.scale.indexed)

    def _works(self, files: int) -> tuple[Work, Work]:
        large = self.scale.large
        return (
            Work(f"One file of {cells.size_name(large)}", large, 1, 1),
            Work(f"{files:,} files of 100 KiB, 8 connections", 100 * cells.KIB, files, 8),
        )


#: What stands in docs/benchmarks.md; the first four take less than ten minutes together.
SECTIONS: dict[str, Callable[[Suite], str]] = {
    "throughput": Suite.throughput,
    "memory": Suite.memory,
    "latency": Suite.latency,
    "startup": Suite.startup,
    "stores": Suite.stores,
    "blocked": Suite.blocked,
    "slow": Suite.slow,
    "index": Suite.index,
}
_BESIDE_PEERS = ("throughput", "memory", "latency", "startup")

_DESCRIPTORS = 65_536

#: Containers often have one that is good for nothing.
_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH_MEMORY = 8 << 30


def _roomy() -> Path | None:
    """Where there is memory enough for the files; else they go where temporary files go, and the results say so."""
    there = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free >= _ENOUGH_MEMORY
    return _SHARED_MEMORY if there else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="all of it, small and once: only to see that it runs")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the results into this page, charts beside it")
    parser.add_argument("--disk", type=Path, help="a directory on a disk (default: where temporary files go)")
    parser.add_argument("--memory", type=Path, help=f"a directory on tmpfs (default: {_SHARED_MEMORY}, if it has room)")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> list[str]:
    """What to type for the same, without what is only of this machine."""
    only = ["--only", *options.only] if options.only else []
    return ["python -m bench", *only, *(["--quick"] if options.quick else ["--rounds", str(options.rounds)])]


def _raise_descriptors() -> None:
    """For ten thousand connections and what hmacfs reserves for each; only root may go beyond the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, _DESCRIPTORS), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):
            continue
        return


def _write_bytecode() -> None:
    """Compile hmacfs, as pip and dpkg do when they install it. Where ``PYTHONDONTWRITEBYTECODE`` is set, as it is in many
    containers, a checkout's would be compiled by every process that is started."""
    compileall.compile_dir(Path(__file__).resolve().parents[1] / "hmacfs", quiet=1)


def main() -> None:
    options = _options()
    for program in ("wrk", "curl"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed (in Debian: apt install {program})")
    chosen = options.only or (SECTIONS if options.quick else _BESIDE_PEERS)
    _raise_descriptors()
    _write_bytecode()
    # The servers end with us, however we do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    page = options.write.read_text(encoding="utf-8") if options.write is not None else ""
    for name in (*chosen, *(["targets"] if set(chosen) & {*_BESIDE_PEERS} else [])) if page else ():
        report.put_section(page, name, "")  # better now than after ten minutes
    made = partial(tempfile.mkdtemp, prefix="hmacfs-bench-")
    places = {DISK: Path(made(dir=options.disk)), MEMORY: Path(made(dir=options.memory or _roomy()))}
    suite = Suite(_QUICK if options.quick else _full(options.rounds), places)
    heading = report.provenance(_command(options), suite.scale.rounds, [*places.values()])
    try:
        for name in chosen:
            _publish(name, f"{heading}\n\n{SECTIONS[name](suite)}", options.write)
            suite.progress(name)
    finally:
        for place in places.values():
            shutil.rmtree(place, ignore_errors=True)
    if suite.verdicts:
        _publish("targets", f"{heading}\n\n{targets.report(suite.verdicts)}", options.write)
    if options.write is not None:
        for name, chart in suite.charts.items():
            options.write.with_name(name).write_text(chart, encoding="utf-8")
    failed = [cell.name for cell, runs in suite.results.items() if {*cell.servers} & {*_OURS} - {*runs}]
    if failed:
        raise SystemExit(f"hmacfs failed at: {', '.join(failed)}")


def _publish(name: str, text: str, page: Path | None) -> None:
    """Now, and not when all is done: the next section may not come to its end."""
    print(text, flush=True)
    if page is not None:
        report.write_section(page, name, text)


if __name__ == "__main__":
    main()
