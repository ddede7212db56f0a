"""Build, install, use, upgrade, remove and purge: ``python -m tests.package DEBS [--release bookworm]``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.package import checks
from tests.package.root import BUILDING, USING, Machine, Root, build, temporary_directory
from tests.run import say

P = ParamSpec("P")
R = TypeVar("R")


class Tally:
    """Which checks passed and which did not."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, what: Callable[..., None], *arguments: object) -> None:
        """Run one, and say how it went."""
        began = time.monotonic()
        try:
            what(*arguments)
        except Exception:
            self.failed += 1
            say(f"package: {what.__name__} ... [FAIL]\n{traceback.format_exc()}")
        else:
            self.passed += 1
            say(f"package: {what.__name__} ... [OK] in {time.monotonic() - began:.1f} s")


def timed(what: str, made: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
    """Call, and say how long it took."""
    began = time.monotonic()
    result = made(*arguments, **keywords)
    say(f"package: {what}, in {time.monotonic() - began:.1f} s")
    return result


def run(root: Root, debs: list[Path], tally: Tally) -> None:
    """All checks, in a root that has none of the packages."""
    inside = root.path / "debs"
    inside.mkdir()
    for deb in debs:
        shutil.copyfile(deb, inside / deb.name)
    hmacfs = next(deb for deb in debs if deb.name.startswith("hmacfs_"))
    names = " ".join(f"/debs/{deb.name}" for deb in debs)
    timed(
        "the packages and what they depend on",
        root.run,
        f"apt-get update -qq; apt-get install -qq -y --no-install-recommends {names}",
    )
    root.run("apt-get purge -qq -y hmacfs python3-txredisapi")
    before = root.files()
    root.run(f"dpkg -i {names}; apt-get purge -qq -y hmacfs python3-txredisapi")
    tally.check(checks.left_over, before, root.files())
    newer = checks.newer_version(hmacfs, inside, root.run)
    with root.booted() as machine:
        _in_machine(machine, names, newer, tally)


def _in_machine(machine: Machine, names: str, newer: str, tally: Tally) -> None:
    tally.check(checks.installed, machine, names)
    if tally.failed:
        say(machine.run("journalctl --no-pager -u hmacfs | tail -n 50; systemctl status --no-pager hmacfs || true"))
        return
    tally.check(checks.commands, machine)
    tally.check(checks.sandbox, machine)
    tally.check(checks.reloaded, machine)
    tally.check(checks.broken_configuration, machine)
    tally.check(checks.watchdog, machine)
    tally.check(checks.socket_activation, machine)
    tally.check(checks.upgraded, machine, newer)
    tally.check(checks.removed, machine, names)
    tally.check(checks.purged, machine)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("debs", nargs="*", type=Path, help="the packages")
    parser.add_argument("--release", default="bookworm", help="of Debian (default: bookworm)")
    parser.add_argument("--build", type=Path, metavar="SDIST", help="build them there, with this source of txredisapi")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the line that counts to FILE")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        parser.error("this takes root, and mmdebstrap")
    tally = Tally()
    with temporary_directory() as directory:
        debs = options.debs
        if options.build is not None:
            building = timed("a root to build in", Root.make, options.release, directory / "build", BUILDING)
            debs = timed("the packages, built in it", build, building, options.build)
        run(timed("a clean root", Root.make, options.release, directory / "root", USING), debs, tally)
    line = f"{tally.passed} passed, {tally.failed} failed"
    if options.report is not None:
        options.report.write_text(line + "\n", encoding="ascii")
    say(line)
    return int(tally.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
