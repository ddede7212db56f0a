"""Debian machines: the peers that apt brings, and Debian's own Twisted, the oldest that hmacfs runs on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.peers import PEERS, which

PYTHON = Path("/usr/bin/python3")
OLD_END = (
    "python3-aiodns",
    "python3-aiohttp",
    "python3-attr",
    "python3-h11",
    "python3-hypothesis",
    "python3-jwt",
    "python3-openssl",
    "python3-prometheus-client",
    "python3-pyasn1-modules",
    "python3-rich",
    "python3-service-identity",
    "python3-tuspy",
    "python3-twisted",
    "python3-venv",
)
NOT_IN_DEBIAN = ("http-sf", "slixmpp>=1.10", "typing-extensions>=4.6", "txredisapi")
"""What pip brings, without dependencies. Debian 12 has slixmpp, whose discovery fails on its Python, and too old a
typing-extensions for http-sf, beside which our own reader of such fields is tested."""
SERVICES = {
    "caddy": "caddy",
    "ejabberd": "ejabberd",
    "fail2ban": "fail2ban",
    "haproxy": "haproxy",
    "nginx-light": "nginx",
    "prometheus": "prometheus",
    "prosody": "prosody",
    "redis-server": "redis-server",
}
"""The package that brings a service, and the service."""

POLICY = Path("/usr/sbin/policy-rc.d")


def is_debian() -> bool:
    """Whether apt rules this machine."""
    return Path("/etc/debian_version").exists() and which("apt-get") is not None


def install_missing() -> None:
    """As root on Debian: install the peers, and Debian's Twisted with what the tests need beside it.

    No service is started, none is stopped, and none that is new here will start at boot.

    :raises subprocess.CalledProcessError: apt failed.
    """
    if not (is_debian() and os.geteuid() == 0):
        return
    absent = [package for peer in PEERS.values() if not peer.present() for package in peer.packages]
    absent += [package for package in OLD_END if not _is_installed(package)]
    if not absent:
        return
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_down():
        _apt(["update"], quietly)
        _apt(["install", "--yes", "--no-install-recommends", *absent], quietly)
    if which("systemctl") is not None:
        units = [unit for package, unit in SERVICES.items() if package in absent]
        if units:
            subprocess.run(["systemctl", "--quiet", "disable", *units], check=False)


def old_end(directory: Path, root: Path) -> Path | None:
    """An interpreter with Debian's packages, and from elsewhere only what Debian lacks.

    :param directory: of the virtual environment, made if missing.
    :param root: the checkout, installed into it as editable.
    :return: ``None`` where Debian's Twisted is not installed.
    :raises subprocess.CalledProcessError: the environment can't be made.
    """
    if not (is_debian() and all(_is_installed(package) for package in OLD_END)):
        return None
    python = directory / "bin" / "python"
    stamp = directory / "made-with"
    if not (stamp.exists() and stamp.read_text(encoding="ascii").split() == [*NOT_IN_DEBIAN]):
        subprocess.run([PYTHON, "-m", "venv", "--clear", "--system-site-packages", directory], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, *NOT_IN_DEBIAN, "--editable", str(root)], check=True)
        stamp.write_text(" ".join(NOT_IN_DEBIAN), encoding="ascii")
    return python


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, check=False).stdout == b"installed"


def _apt(arguments: Sequence[str], env: dict[str, str]) -> None:
    subprocess.run(["apt-get", "--quiet", "--quiet", *arguments], env=env, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def _services_stay_down() -> Iterator[None]:
    """Forbid packages to start their services, as long as it lasts (Debian Policy 9.3.3.1).

    A machine that has a policy keeps its own.
    """
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
