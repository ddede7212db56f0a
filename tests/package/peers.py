"""The tests against XMPP servers and Redis, with those of another release of Debian: ``python -m tests.package.peers``.

The programs run in a root of that release, the tests and hmacfs outside of it. It takes root on Debian, mmdebstrap, and
what ``make test`` has installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.package.root import Root
from tests.run import ROOT, Outcome, explain, say

PACKAGES = ("ejabberd", "prosody", "prosody-modules", "redis-server")

PROGRAMS = ("/usr/bin/erl", "/usr/bin/prosody", "/usr/bin/prosodyctl", "/usr/bin/redis-server")
"""What the tests start of them."""

TESTS = ("prosody", "sendxmpp", "ejabberd", "redis", "import")

#: Run in a mount namespace of its own: the tests' directory ($2) is there in the root ($1), too.
_SHARE = """
set -e
mount --bind "$2" "$1$2"
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
shift 2
exec "$@"
"""


def make_root(release: str, scratch: Path) -> Root:
    """A root with :data:`PACKAGES`."""
    root = Root.make(release, scratch / "root", PACKAGES)
    say(root.run(f"dpkg-query --show {shlex.join(PACKAGES)}"))
    return root


def make_programs(root: Root, directory: Path) -> None:
    """Programs of the same names that call those in *root*."""
    directory.mkdir()
    for program in PROGRAMS:
        caller = directory / Path(program).name
        # by its whole path: this directory is first in PATH there, too
        caller.write_text(f'#!/bin/sh\nexec chroot {shlex.quote(str(root.path))} {program} "$@"\n', encoding="utf-8")
        caller.chmod(0o755)


def run(root: Root, names: Sequence[str], scratch: Path) -> Outcome:
    """The tests, in a process of their own."""
    programs, shared, report = scratch / "programs", scratch / "shared", scratch / "report"
    make_programs(root, programs)
    shared.mkdir()
    Path(f"{root.path}{shared}").mkdir(parents=True)
    here = [sys.executable, "-m", "tests.run", "--here", str(shared / "trial"), "--report", str(report), *names]
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SHARE, "sh", str(root.path), str(shared), *here],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "TMPDIR": str(shared)},
        check=True,
    )
    return Outcome(**json.loads(report.read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", default="trixie", help="of Debian (default: trixie)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the line that counts to FILE")
    parser.add_argument("names", nargs="*", help="of tests; those about these programs unless they are named")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hmacfs-peers-") as directory:
        scratch = Path(directory)
        root = make_root(options.release, scratch)
        outcome = run(root, options.names or [f"tests.e2e.test_{name}" for name in TESTS], scratch)
    explain(outcome)
    failed = len(outcome.failed) + len(outcome.skipped) + sum(map(len, outcome.left_out.values()))
    line = f"{outcome.passed} passed, {failed} failed"
    if options.report is not None:
        options.report.write_text(line + "\n", encoding="ascii")
    say(line)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
