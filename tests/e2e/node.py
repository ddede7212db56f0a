"""JavaScript clients: packages of npm's, run by Node or by a browser."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.e2e.processes import ROOT, GaveUp, program, run

PACKAGES = ("@uppy/core@6.3.1", "@uppy/tus@6.0.0", "esbuild@0.28.2", "tus-js-client@4.3.1")
DIRECTORY = ROOT / ".node"
SCRIPTS = Path(__file__).parent / "js"


def installed() -> Path:
    """The directory of :data:`PACKAGES`, installed by the first test run that needs them.

    :raises GaveUp: npm can't bring them.
    """
    DIRECTORY.mkdir(exist_ok=True)
    stamp = DIRECTORY / "made-with"
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the runs with other interpreters want them, too
        if not (stamp.exists() and stamp.read_text("ascii").split() == [*PACKAGES]):
            options = ("--no-package-lock", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund")
            done = run([program("npm"), "install", *options, *PACKAGES], cwd=DIRECTORY)
            if done.status != 0:
                raise GaveUp(f"npm install: {done.stderr}")
            stamp.write_text(" ".join(PACKAGES), "ascii")
    return DIRECTORY / "node_modules"


def bundle(script: str, target: Path) -> None:
    """Make one file, for a browser, of a script and all that it imports.

    :raises GaveUp: it can't be done.
    """
    modules = installed()
    esbuild = str(modules / ".bin" / "esbuild")
    done = run([esbuild, str(SCRIPTS / script), "--bundle", f"--outfile={target}"], env={"NODE_PATH": str(modules)})
    if done.status != 0:
        raise GaveUp(f"esbuild: {done.stderr}")
