"""What is checked of an installed package, in the order in which an operator meets it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.package.root import CommandFailed, Machine

#: What is signed, and how: ``v`` over the path and the size (see docs/protocol.md).
_UPLOAD = """
printf %s {content} > /tmp/in
signature=$(printf %s '{path} {size}' | openssl dgst -sha256 -hmac {secret} | sed 's/.*= *//')
curl -sS -o /dev/null -w '%{{http_code}}' -T /tmp/in "{base}/upload/{path}?v=$signature"
"""

_BASE = "http://127.0.0.1:8080"
_SECRET = "$(cat /etc/hmacfs/secret)"

#: Of systemd-analyze, times ten: the exposure that the unit may have.
_MOST_EXPOSED = 13


class Wrong(Exception):
    """A check failed."""


def expect(condition: object, what: str) -> None:
    """
    :raises Wrong: *condition* is false.
    """
    if not condition:
        raise Wrong(what)


def upload(machine: Machine, path: str, secret: str = _SECRET, base: str = _BASE, content: str = "hello") -> str:
    """Put a file, and return the status.

    :param secret: as a word of the shell.
    """
    command = _UPLOAD.format(path=path, size=len(content), content=content, secret=f'"{secret}"', base=base)
    return machine.run(command)


def ready(machine: Machine) -> None:
    machine.wait_for("curl -sf http://127.0.0.1:5051/readyz")


def main_pid(machine: Machine) -> str:
    return machine.run("systemctl show -P MainPID hmacfs").strip()


def installed(machine: Machine, debs: str) -> None:
    """Installing starts the service, which says when it is ready; it takes an upload, and nothing without a signature."""
    machine.run(f"dpkg -i {debs}")
    expect(machine.run("systemctl is-active hmacfs").strip() == "active", "the service is active when dpkg is done")
    ready(machine)
    expect("listens at" in machine.run("journalctl -u hmacfs --no-pager"), "it says where it listens")
    expect(machine.run("systemctl show -P StatusText hmacfs").strip(), "systemctl status has a word of its own")
    expect(upload(machine, "one/hello.txt") == "201", "an upload is taken")
    expect(machine.run(f"curl -sSf {_BASE}/upload/one/hello.txt") == "hello", "and is served")
    expect(upload(machine, "two/hello.txt", "another secret") == "403", "a wrong signature is refused")
    owner = machine.run("stat -c '%U %G' /var/lib/hmacfs/store/one/hello.txt").strip()
    expect(owner == "hmacfs hmacfs", f"the files are the service's, not {owner}'s")
    modes = machine.run("stat -c '%a %U:%G' /etc/hmacfs/secret /var/lib/hmacfs /etc/hmacfs/config.toml").split("\n")
    expect(modes[:3] == ["640 root:hmacfs", "750 hmacfs:hmacfs", "644 root:root"], f"modes and owners: {modes}")
    secret = machine.run("cat /etc/hmacfs/secret").strip()
    expect(re.fullmatch("[0-9a-f]{64}", secret), "the secret is random")
    expect(secret not in machine.run("journalctl --no-pager; ps axww"), "the secret is in no log and no process list")


def commands(machine: Machine) -> None:
    """The command works, with the configuration where it expects it."""
    expect(
        "hmacfs" in machine.run("cd /; twistd3 --help > /tmp/help; grep '^    hmacfs ' /tmp/help"), "twistd3 lists it"
    )
    machine.run("hmacfs check-config")
    # The index hears of a file within some seconds.
    machine.wait_for("hmacfs files list | grep -q one/hello.txt")
    machine.run("test -s /usr/share/bash-completion/completions/hmacfs")


def sandbox(machine: Machine) -> None:
    """The unit is as closed as promised, and TLS works in it."""
    unit = machine.run("systemctl show -P FragmentPath hmacfs").strip()
    machine.run(f"systemd-analyze security --offline=true --threshold={_MOST_EXPOSED} --no-pager {unit}")
    machine.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout /etc/hmacfs/key.pem"
        " -out /etc/hmacfs/cert.pem 2> /dev/null; chgrp hmacfs /etc/hmacfs/key.pem; chmod 640 /etc/hmacfs/key.pem"
    )
    endpoint = "ssl:5443:interface=127.0.0.1:privateKey=/etc/hmacfs/key.pem:certKey=/etc/hmacfs/cert.pem"
    with _edited(machine, f's#^ListenPort = .*#ListenPort = ["127.0.0.1:8080", "{endpoint}"]#'):
        machine.run("systemctl restart hmacfs")
        ready(machine)
        found = machine.run("curl -sSf --cacert /etc/hmacfs/cert.pem https://localhost:5443/upload/one/hello.txt")
        expect(found == "hello", "a file is served over TLS")
    machine.run("rm /etc/hmacfs/key.pem /etc/hmacfs/cert.pem")


def reloaded(machine: Machine) -> None:
    """A new secret is taken up as README.Debian says, by the same process, and the old one is good for a while."""
    pid = main_pid(machine)
    machine.run(
        "cp -p /etc/hmacfs/secret /tmp/old-secret; umask 027;"
        " od -An -vtx1 -N32 /dev/urandom | tr -d ' \\n' > /etc/hmacfs/secret.new;"
        " chgrp hmacfs /etc/hmacfs/secret.new; mv /etc/hmacfs/secret.new /etc/hmacfs/secret;"
        " systemctl reload hmacfs"
    )
    machine.wait_for("systemctl show -P SubState hmacfs | grep -qx running")
    taken = _UPLOAD.format(path="reload/new.txt", size=5, content="hello", secret=f'"{_SECRET}"', base=_BASE)
    machine.wait_for(f"test $({taken.strip().replace(chr(10), '; ')}) = 201")
    expect(upload(machine, "reload/old.txt", "$(cat /tmp/old-secret)") == "201", "the old secret is good for a while")
    expect(main_pid(machine) == pid, "the service is the same process")


def broken_configuration(machine: Machine) -> None:
    """A mistake ends the start with a sentence, not with success."""
    with _edited(machine, "s/^StoreDir = .*/StoreDir = 5/"):
        _fails(machine, "systemctl restart hmacfs")
        machine.wait_for("journalctl -u hmacfs --no-pager | grep -q 'StoreDir'")
        machine.run("systemctl stop hmacfs; systemctl reset-failed hmacfs")


def watchdog(machine: Machine) -> None:
    """A service that hangs is killed and started again."""
    machine.write("/run/systemd/system/hmacfs.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
    machine.run("systemctl daemon-reload; systemctl restart hmacfs")
    ready(machine)
    before = main_pid(machine)
    machine.run(f"kill -STOP {before}")
    machine.wait_for(f"test $(systemctl show -P MainPID hmacfs) != {before}; systemctl is-active hmacfs")
    ready(machine)
    machine.run("rm -r /run/systemd/system/hmacfs.service.d; systemctl daemon-reload; systemctl restart hmacfs")
    ready(machine)


def socket_activation(machine: Machine) -> None:
    """The example of a socket unit works as its comment says."""
    machine.run("cp /usr/share/doc/hmacfs/examples/hmacfs.socket /etc/systemd/system/; systemctl daemon-reload")
    with _edited(machine, 's#^ListenPort = .*#ListenPort = "systemd:domain=INET:index=0"#'):
        machine.run("systemctl stop hmacfs; systemctl start hmacfs.socket")
        # The first connection starts the service.
        expect(machine.run(f"curl -sSf {_BASE}/upload/one/hello.txt") == "hello", "the socket starts the service")
        ready(machine)
        expect(upload(machine, "socket/hello.txt") == "201", "and takes uploads")
        machine.run("systemctl stop hmacfs.socket hmacfs")
    machine.run("rm /etc/systemd/system/hmacfs.socket; systemctl daemon-reload; systemctl start hmacfs")
    ready(machine)


def upgraded(machine: Machine, newer: str) -> None:
    """An upgrade restarts the service and keeps secret, files, and what the operator has changed."""
    kept = "cat /etc/hmacfs/secret /var/lib/hmacfs/store/one/hello.txt; tail -n 1 /etc/hmacfs/config.toml"
    machine.run('echo "# the operator\'s" >> /etc/hmacfs/config.toml')
    before, pid = machine.run(kept), main_pid(machine)
    machine.run(f"dpkg -i {newer}")
    ready(machine)
    expect(machine.run(kept) == before, "what is the operator's is kept")
    expect(main_pid(machine) not in (pid, "0"), "the service is another process")
    expect("hmacfs" in machine.run("twistd3 --help > /tmp/help; grep '^    hmacfs ' /tmp/help"), "twistd3 lists it")


def removed(machine: Machine, debs: str) -> None:
    """Removal stops it and keeps what is the operator's; installed again, all is as it was."""
    secret = machine.run("cat /etc/hmacfs/secret")
    machine.run("apt-get remove -qq -y hmacfs")
    expect(machine.run("systemctl is-active hmacfs || true").strip() != "active", "it is stopped")
    expect(machine.run("cat /etc/hmacfs/secret") == secret, "the secret stays")
    machine.run("test -e /etc/hmacfs/config.toml; test -e /var/lib/hmacfs/store/one/hello.txt")
    machine.run(f"dpkg -i {debs}")
    ready(machine)
    expect(machine.run("cat /etc/hmacfs/secret") == secret, "the secret is the old one")
    expect(machine.run(f"curl -sSf {_BASE}/upload/one/hello.txt") == "hello", "the files are there")


def purged(machine: Machine) -> None:
    """Purge keeps uploads and says so; without uploads nothing is left but the user."""
    said = machine.run("apt-get purge -qq -y hmacfs 2>&1")
    expect("are kept" in said, f"it says that uploads are kept: {said}")
    machine.run("test -e /var/lib/hmacfs/store/one/hello.txt; ! test -e /etc/hmacfs; ! test -e /var/log/hmacfs")
    machine.run("rm -r /var/lib/hmacfs")


def left_over(before: set[str], after: set[str]) -> None:
    """Of an installation and a purge, with what they depend on there all the time, nothing is left."""
    expect(after - before <= set(), f"left over: {sorted(after - before)}")
    expect(before - after <= set(), f"taken along: {sorted(before - after)}")


def newer_version(deb: Path, directory: Path, run: Callable[[str], str]) -> str:
    """The same package with a later version.

    :param run: a shell where *directory* is ``/debs``.
    """
    run(
        f"cd /debs; rm -rf unpacked; dpkg-deb -R {deb.name} unpacked;"
        " sed -i 's/^Version: .*/&+later/' unpacked/DEBIAN/control;"
        " dpkg-deb -b unpacked newer.deb; rm -r unpacked"
    )
    expect((directory / "newer.deb").exists(), "a later version is made")
    return "/debs/newer.deb"


class _edited:
    """The configuration with a change by sed, as long as it lasts."""

    def __init__(self, machine: Machine, script: str) -> None:
        self._machine = machine
        self._script = script

    def __enter__(self) -> None:
        self._machine.run(
            f"cp -p /etc/hmacfs/config.toml /tmp/config.toml; sed -i '{self._script}' /etc/hmacfs/config.toml"
        )

    def __exit__(self, *_: object) -> None:
        self._machine.run("cp -p /tmp/config.toml /etc/hmacfs/config.toml; systemctl restart hmacfs")
        ready(self._machine)


def _fails(machine: Machine, command: str) -> None:
    try:
        machine.run(command)
    except CommandFailed:
        return
    raise Wrong(f"{command}: succeeds")
