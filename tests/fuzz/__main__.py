"""``python -m tests.fuzz``: a campaign, or one example again."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import twisted
from twisted.logger import globalLogBeginner

from tests.fuzz.connections import ConnectionTarget, scratch_directory
from tests.fuzz.parsers import PARSERS
from tests.fuzz.target import Finding, Target, failure_of, kind_of, random_of

#: Different faults after which a campaign has found enough.
_ENOUGH = 20
_REPORT_EVERY_S = 60.0


@contextmanager
def target_of(name: str) -> Iterator[Any]:
    """:raises KeyError: there is no such target."""
    if name != ConnectionTarget.name:
        yield PARSERS[name]
        return
    connections = ConnectionTarget(scratch_directory())
    try:
        yield connections
    finally:
        connections.close()


def find(target: Target, seed: str, number: int, known: Collection[str] = ()) -> Finding | None:
    """Try one example; what it finds, as small as it gets, unless it is of a *known* kind."""
    example = target.make(random_of(target.name, seed, number))
    error = failure_of(target, example)
    if error is None:
        return None
    kind = kind_of(error)
    if kind in known:
        return None

    def fails(smaller: Any) -> bool:
        found = failure_of(target, smaller)
        return found is not None and kind_of(found) == kind

    if fails(example):
        example = target.smaller(example, fails)
    else:
        kind = f"(not again) {kind}"
    return Finding(target.name, seed, number, kind, f"{type(error).__name__}: {error}", target.show(example))


def campaign(name: str, seed: str, numbers: range, results: Any) -> None:
    """Try examples, and put into *results* each fault once, and at the end what came of them all."""
    found: set[str] = set()
    began = told = time.monotonic()
    done = 0
    with target_of(name) as target:
        for number in numbers:
            finding = find(target, seed, number, found)
            done += 1
            if finding is not None and finding.kind not in found:
                found.add(finding.kind)
                results.put(finding)
                if len(found) >= _ENOUGH:
                    break
            if time.monotonic() - told >= _REPORT_EVERY_S:
                told = time.monotonic()
                results.put(f"{name}: {done} examples, {done / (told - began):.0f}/s, {len(found)} found")
        results.put((done, Counter(getattr(target, "outcomes", {}))))


def run(name: str, seed: str, examples: int, jobs: int) -> int:
    """A campaign against one target in *jobs* processes; how many faults were found."""
    results: Any = multiprocessing.Queue()
    began = time.monotonic()
    workers = [
        multiprocessing.Process(target=campaign, args=(name, seed, range(job, examples, jobs), results))
        for job in range(jobs)
    ]
    for worker in workers:
        worker.start()
    done, ended, found = 0, 0, set()
    outcomes: Counter[str] = Counter()
    while ended < jobs:
        result = results.get()
        if isinstance(result, tuple):
            ended += 1
            done += result[0]
            outcomes += result[1]
        else:
            if isinstance(result, Finding):
                found.add(result.kind)
            say(str(result))
    for worker in workers:
        worker.join()
    say(f"{name}: {done} examples of seed {seed} in {time.monotonic() - began:.0f} s, {len(found)} faults found")
    if outcomes:
        say("  " + ", ".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items())))
    return len(found)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    names = [ConnectionTarget.name, *PARSERS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=names, help="what to fuzz (default: everything)")
    parser.add_argument("--examples", type=int, default=10_000, help="how many of each target (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="any word; the same one makes the same examples")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes (default: %(default)s)")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="try this one example again")
    options = parser.parse_args()
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    targets = options.target or names
    if options.replay is not None:
        seed, _, number = options.replay.rpartition(":")
        return replay(targets[0], seed, int(number))
    say(f"Twisted {twisted.__version__}, Python {sys.version.partition(' ')[0]}")
    return int(sum(run(name, options.seed, options.examples, options.jobs) for name in targets) > 0)


def replay(name: str, seed: str, number: int) -> int:
    with target_of(name) as target:
        example = target.make(random_of(name, seed, number))
        say(target.show(example))
        finding = find(target, seed, number)
    say(str(finding or "nothing is wrong with it"))
    return int(finding is not None)


if __name__ == "__main__":
    sys.exit(main())
