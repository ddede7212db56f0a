"""Runs all tests: what ``make test`` calls.

They run twice where that is possible: with the interpreter that runs this, and with Debian's Python and Twisted, so
that both ends of what hmacfs supports are tested; those that are about Twisted also with one in between. Each run is a
process of its own, and they run side by side. All tests with the newest Twisted are two runs: they mostly wait.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

from tests import middle

ROOT = Path(__file__).resolve().parents[1]
SHARES = 2
"""Into how many runs all tests with the newest Twisted are divided."""
SLOWEST = 12
"""How many modules are named for the time they take."""
MACHINE = ("IPv6",)
"""Needs that no package can meet: a test left out for one of these is no failure."""


@frozen
class Outcome:
    """What came of one run.

    :ivar title: which run it was.
    :ivar passed: how many tests passed.
    :ivar failed: the names of those that did not.
    :ivar skipped: the names of those that skipped themselves, with their reasons.
    :ivar left_out: what each missing peer has cost.
    :ivar slowest: the modules that took longest, and how many seconds each.
    """

    title: str
    passed: int = 0
    failed: list[str] = field(factory=list)
    skipped: list[str] = field(factory=list)
    left_out: dict[str, list[str]] = field(factory=dict)
    slowest: list[tuple[str, float]] = field(factory=list)


def cases(suite: Any) -> Iterator[Any]:
    """The test cases of a suite, however deep they lie."""
    if isinstance(suite, unittest.TestSuite):
        for member in suite:
            yield from cases(member)
    else:
        yield suite


def module_of(test: Any) -> str:
    """The module of a test, which trial may have wrapped."""
    name: str = test.id()
    return name.rsplit(".", 2)[0]


def _is_of_the_newest_alone(case: Any) -> bool:
    """Whether a test is about other programs, and not about the Twisted that runs it: once is enough then."""
    return bool(getattr(sys.modules[type(case).__module__], "NEWEST_ALONE", False))


def _never_awaited(case: Any) -> bool:
    """Whether trial of Twisted 22.4 would call a test, not await it, and count it as passed (see ``tests.awaiting``)."""
    return inspect.iscoroutinefunction(getattr(case, getattr(case, "_testMethodName", ""), None))


@frozen
class Share:
    """Some of the modules, so that several runs together have all of them."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """The reverse of ``str``."""
        number, of = text.split("/")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def take(self, found: list[Any]) -> list[Any]:
        """The test cases of those modules."""
        modules = {name: position for position, name in enumerate(dict.fromkeys(module_of(case) for case in found))}
        return [case for case in found if modules[module_of(case)] % self.of == self.number]


def run_here(directory: str, names: list[str], *, newest: bool, share: Share) -> Outcome:
    """Run the tests in this process.

    :param directory: where trial works.
    :param names: of packages, modules, classes or methods; none of them means all tests.
    :param newest: whether this is the newest Twisted that they are run with.
    :param share: which of them.
    """
    import twisted
    from twisted.trial.reporter import TreeReporter
    from twisted.trial.runner import TestLoader, TestSuite, TrialRunner

    from tests.peers import PEERS

    # Whoever has us run in the background may ignore it, and every process that a test interrupts would have that from us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    took_s: defaultdict[str, float] = defaultdict(float)

    class TimedReporter(TreeReporter):
        """Also notes how long the tests of each module take."""

        def startTest(self, test: Any) -> None:
            took_s[module_of(test)] -= time.monotonic()
            super().startTest(test)

        def stopTest(self, test: Any) -> None:
            super().stopTest(test)
            took_s[module_of(test)] += time.monotonic()

    chosen = TestSuite()
    unrun: list[str] = []
    left_out: dict[str, list[str]] = {}
    for case in share.take([*cases(TestLoader().loadByNames(names or ["tests"], recurse=True))]):
        absent = [name for name in getattr(case, "needs", ()) if not PEERS[name].present()]
        if not newest and _is_of_the_newest_alone(case):
            continue
        if _never_awaited(case):
            unrun.append(case.id())
        elif absent:
            left_out.setdefault(absent[0], []).append(case.id())
        else:
            chosen.addTest(case)
    result: Any = TrialRunner(TimedReporter, workingDirectory=directory).run(chosen)
    wrong = [*result.failures, *result.errors, *result.unexpectedSuccesses]
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Outcome(
        title=f"Twisted {twisted.__version__}, Python {version}" + (f", share {share}" if share.of > 1 else ""),
        passed=result.successes,
        failed=sorted({*unrun, *(entry[0].id() for entry in wrong)}),
        skipped=[f"{case.id()}: {reason}" for case, reason in result.skips],
        left_out=left_out,
        slowest=sorted(took_s.items(), key=lambda took: -took[1])[:SLOWEST],
    )


@frozen
class Part:
    """What one run is to do.

    :ivar python: the interpreter.
    :ivar directory: where trial works.
    :ivar names: as for :func:`run_here`.
    :ivar newest: as for :func:`run_here`.
    :ivar share: as for :func:`run_here`.
    """

    python: Path
    directory: str
    names: list[str]
    newest: bool = False
    share: Share = Share()

    @property
    def argv(self) -> list[str]:
        options = ["--here", self.directory, "--share", str(self.share), *(() if self.newest else ("--older",))]
        return [str(self.python), "-m", "tests.run", *options, *self.names]


class Run:
    """The tests in a process of another interpreter.

    :param scratch: an empty directory.
    :param aside: what it writes is kept until its end.
    """

    def __init__(self, part: Part, scratch: Path, *, aside: bool) -> None:
        self._python = part.python
        self._report, self._output = scratch / "outcome.json", scratch / "output"
        argv = [*part.argv, "--report", str(self._report)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self._output.open("wb") as output:
            kept = output if aside else None
            self._process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=kept, stderr=kept)

    def outcome(self) -> Outcome:
        """Wait for its end, and show what was kept. A run that dies counts as one failure."""
        status = self._process.wait()
        say(self._output.read_text(encoding="utf-8", errors="replace"))
        if not self._report.exists():
            return Outcome(title=str(self._python), failed=[f"the run ended with status {status}"])
        return Outcome(**json.loads(self._report.read_text(encoding="utf-8")))


def run_everywhere(names: list[str]) -> list[Outcome]:
    """Run the tests with every interpreter there is, at the same time."""
    with tempfile.TemporaryDirectory(prefix="hmacfs-run-") as scratch:
        runs = []
        found = parts(names)
        for python in {part.python for part in found}:
            write_bytecode(python)
        for position, part in enumerate(found):
            own = Path(scratch, str(position))
            own.mkdir()
            runs.append(Run(part, own, aside=position > 0))
        return [run.outcome() for run in runs]


def write_bytecode(python: Path) -> None:
    """Have our modules compiled once. The tests start some hundred processes, and where ``PYTHONDONTWRITEBYTECODE`` is
    set, as it is in many containers, each of them would do it anew, for 0.3 s of CPU."""
    # What can't be compiled is the tests' business.
    subprocess.run([str(python), "-m", "compileall", "-q", "hmacfs", "tests"], cwd=ROOT, check=False)


def parts(names: list[str]) -> list[Part]:
    """What is run with which Python."""
    from tests import debian

    debian.install_missing()
    # Tests that somebody has named are few.
    shares = [Share(number, SHARES) for number in range(SHARES)] if not names else [Share()]
    found = [Part(Path(sys.executable), f"_trial_temp_{each.number}", names, True, each) for each in shares]
    old = debian.old_end(ROOT / ".venv-debian", ROOT)
    if old is None:
        say("Left out: the run on Debian's Twisted (needs Debian and root, or python3-twisted and its friends).")
    else:
        found.append(Part(old, "_trial_temp_debian", names))
    between = middle.chosen(names)
    if between:
        python = middle.middle(ROOT / ".venv-24.11", ROOT)
        if python is None:
            say(f"Left out: the run on {middle.PACKAGES[0]} (pip can't bring it).")
        else:
            found.append(Part(python, "_trial_temp_24.11", between))
    return found


def say(text: str) -> None:
    """A line for whoever reads along, in order with what the runs write."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def explain(outcome: Outcome) -> None:
    """Say what a run has left out, skipped and failed."""
    from tests.peers import PEERS

    say(f"\n{outcome.title}: {outcome.passed} passed, {len(outcome.failed)} failed")
    if outcome.slowest:
        say(
            "  longest: "
            + ", ".join(f"{name.removeprefix('tests.')} {took_s:.0f} s" for name, took_s in outcome.slowest)
        )
    for name, tests in outcome.left_out.items():
        cure = f"; in Debian: {' '.join(PEERS[name].packages)}" if PEERS[name].packages else ""
        say(f"  left out, because this machine has no {name}{cure}:")
        for test in tests:
            say(f"    {test}")
    for label, entries in (("skipped", outcome.skipped), ("failed", outcome.failed)):
        for entry in entries:
            say(f"  {label}: {entry}")


def main() -> int:
    """Run, explain, and end with the line that counts.

    With ``CI`` in the environment a skipped test, and one left out for want of a program, is a failed one.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", metavar="DIRECTORY", help="run in this process; trial works in DIRECTORY")
    parser.add_argument("--older", action="store_true", help="with --here: not with the newest Twisted")
    parser.add_argument("--share", type=Share.parse, default=Share(), help="with --here: as NUMBER/OF")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the outcome to FILE")
    parser.add_argument("names", nargs="*", help="packages, modules, classes or methods (default: all tests)")
    options = parser.parse_args()
    if options.here is not None:
        outcome = run_here(options.here, options.names, newest=not options.older, share=options.share)
        options.report.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        return 0
    outcomes = run_everywhere(options.names)
    for outcome in outcomes:
        explain(outcome)
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(len(outcome.failed) for outcome in outcomes)
    if os.environ.get("CI"):
        missed = [tests for outcome in outcomes for name, tests in outcome.left_out.items() if name not in MACHINE]
        failed += sum(len(outcome.skipped) for outcome in outcomes) + sum(len(tests) for tests in missed)
        pythons = {outcome.title.partition(", share")[0] for outcome in outcomes}
        failed += len(pythons) < (3 if middle.chosen(options.names) else 2)
    line = f"{passed} passed, {failed} failed"
    if options.report is not None:
        options.report.write_text(line + "\n", encoding="utf-8")
    say(f"\n{line}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
