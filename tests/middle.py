"""The Twisted between the oldest and the newest that hmacfs runs on: that of Debian 13, from the package index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

PACKAGES = ("twisted==24.11.0", "http-sf>=1.5", "pyopenssl==25.0.0", "service-identity==24.2.0", "hypothesis>=6.67")
"""Beside our own dependencies. This Twisted's TLS doesn't go together with a later pyOpenSSL."""

TESTS = ("tests.net", "tests.web", "tests.fuzz")
"""What is about Twisted more than about us. All of the rest runs at both ends."""


def chosen(names: Iterable[str]) -> list[str]:
    """What of *names*, or of all tests if there are none, is to run here."""
    names = [*names] or [*TESTS]
    inside = [name for name in names if any(f"{name}.".startswith(f"{package}.") for package in TESTS)]
    below = [package for package in TESTS if any(package.startswith(f"{name}.") for name in names)]
    return [*dict.fromkeys([*inside, *below])]


def middle(directory: Path, root: Path) -> Path | None:
    """An interpreter with :data:`PACKAGES`.

    :param directory: of the virtual environment, made if missing, and brought up to date where our own dependencies have
        changed.
    :param root: the checkout, installed into it as editable.
    :return: ``None`` where the packages can't be had.
    """
    python = directory / "bin" / "python"
    stamp = directory / "made-with"
    wanted = " ".join([*PACKAGES, sha256((root / "setup.cfg").read_bytes()).hexdigest()])
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([*pip, *PACKAGES, "--editable", str(root)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    stamp.write_text(wanted, encoding="ascii")
    return python
