"""A clean Debian in a directory: without a service manager, and with systemd as its first process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: What a root has beside Debian's essential packages: what the checks call in it.
USING = ("ca-certificates", "curl", "dbus", "iproute2", "openssl", "procps", "systemd")

#: The same where packages are built.
BUILDING = ("build-essential", "devscripts", "equivs", "git")

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))
_PATIENCE_S = 120.0

#: Run in new namespaces, with the root as $1: makes it the root of them, and systemd the first process. It has to be
#: pivot_root: in a mere chroot, PrivateUsers= fails.
_BOOT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 none "$1/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for device in null zero full random urandom tty; do
    touch "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
mkdir "$1/dev/pts" "$1/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
mount -t tmpfs tmpfs "$1/dev/shm"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
cd "$1"
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
exec env -i container=other PATH="$2" /lib/systemd/systemd --log-target=null
"""


class CommandFailed(Exception):
    """A command ended with another status than 0.

    :param output: what it wrote.
    """

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(f"{command}: status {status}\n{output}")
        self.status = status
        self.output = output


def _run(argv: Sequence[str | Path], shown: str, stdin: str = "") -> str:
    ended = subprocess.run(
        argv, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False
    )
    output = ended.stdout.decode("utf-8", "replace")
    if ended.returncode != 0:
        raise CommandFailed(shown, ended.returncode, output)
    return output


class Root:
    """A clean root.

    :param path: its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, release: str, path: Path, packages: Sequence[str]) -> Root:
        """Install Debian's essential packages and some more, from where this machine gets its own.

        :param release: ``bookworm``, ``trixie``.
        :raises CommandFailed: mmdebstrap's.
        """
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", release, str(path)]
        sources = _sources(release)
        _run([*argv, "-"], f"mmdebstrap {release}", sources)
        (path / "etc/apt/sources.list").write_text(sources, encoding="ascii")
        if Path("/etc/resolv.conf").exists():
            shutil.copyfile("/etc/resolv.conf", path / "etc/resolv.conf")
        return cls(path)

    def run(self, command: str) -> str:
        """Run a shell command in it, without systemd, with this machine's network.

        :return: what it wrote.
        :raises CommandFailed: as said.
        """
        env = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
        inside = ["unshare", "-m", "-p", "--fork", f"--mount-proc={self.path}/proc", "chroot", str(self.path)]
        return _run([*inside, *env, "sh", "-ec", command], command)

    def files(self) -> set[str]:
        """Every path in it, but for what any package's installation changes."""
        volatile = ("var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "debs", "proc", "sys", "dev", "tmp", "run")
        found: set[str] = set()
        for directory, names, files in os.walk(self.path):
            below = os.path.relpath(directory, self.path)
            names[:] = [name for name in names if os.path.normpath(os.path.join(below, name)) not in volatile]
            found.update(os.path.normpath(os.path.join(below, name)) for name in (*names, *files))
        return {path for path in found if "__pycache__" not in path}

    @contextmanager
    def booted(self) -> Iterator[Machine]:
        """systemd as its first process, in a network of its own, as long as it lasts."""
        group = _new_cgroup()
        argv = ["unshare", "-m", "-u", "-i", "-p", "-n", "-C", "--fork", "--kill-child", "sh", "-c", _BOOT, "sh"]
        inside = f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))} && exec " + shlex.join(
            [*argv, str(self.path), _PATH]
        )
        outer = subprocess.Popen(["sh", "-c", inside], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield Machine(_only_child(outer.pid))
        finally:
            os.killpg(outer.pid, signal.SIGKILL)
            outer.wait()
            _remove_cgroup(group)


class Machine:
    """A root that runs.

    :param pid: of its first process, as this machine counts.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # Its manager is there when it answers.
        self.wait_for("systemctl is-system-running | grep -Eq 'running|degraded'")
        self.run("ip link set lo up")

    def run(self, command: str) -> str:
        """As :meth:`Root.run`."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-p", "-n", "-C", "-r", "-w"]
        env = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
        return _run([*enter, *env, "sh", "-ec", command], command)

    def wait_for(self, command: str) -> str:
        """Run it again and again until it succeeds.

        :raises CommandFailed: it does not.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.run(command)
            except CommandFailed:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        self.run(f"mkdir -p $(dirname {shlex.quote(path)}); printf %s {shlex.quote(text)} > {shlex.quote(path)}")


def build(root: Root, sdist: Path) -> list[Path]:
    """Build the packages in a root, and return them.

    :param sdist: the released source of txredisapi.
    """
    top = Path(__file__).resolve().parents[2]
    _run([top / "contrib/sources", root.path / "source"], "contrib/sources")
    shutil.copyfile(sdist, root.path / sdist.name)
    root.run(
        "cd /source; apt-get update -qq; mk-build-deps -i -r -t 'apt-get -qq -y --no-install-recommends' debian/control"
    )
    root.run(f"/source/contrib/debian/build /built /{sdist.name}")
    return sorted((root.path / "built").glob("*.deb"))


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """For roots: allows device files and executables, and is in memory, where nobody waits for what dpkg syncs."""
    directory = Path(tempfile.mkdtemp(prefix="hmacfs-root-", dir="/var/tmp"))
    try:
        _run(["mount", "-t", "tmpfs", "-o", "mode=755,size=4G", "tmpfs", directory], "mount -t tmpfs")
        try:
            yield directory
        finally:
            _run(["umount", "--lazy", directory], "umount")
    finally:
        directory.rmdir()


def _sources(release: str) -> str:
    """The apt sources of *release*, from the mirror that this machine uses."""
    for path in _SOURCES:
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] == ["URIs:"]:
                return f"deb {words[1]} {release} main\n"
            if words[:1] == ["deb"]:
                return f"deb {next(word for word in words[1:] if '://' in word)} {release} main\n"
    raise LookupError("This machine has no apt sources.")


def _new_cgroup() -> Path:
    """A control group of version 2 that a systemd may rule."""
    unified = Path("/sys/fs/cgroup/unified")
    base = unified if unified.is_dir() else Path("/sys/fs/cgroup")
    group = base / f"hmacfs-test-{os.getpid()}"
    group.mkdir()
    return group


def _remove_cgroup(group: Path) -> None:
    # The processes in it end a moment after the first one was killed.
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
            return
        except OSError:
            time.sleep(0.05)


def _only_child(pid: int) -> int:
    """The process that unshare has made."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        found = children.read_text(encoding="ascii").split()
        if found and "systemd" in Path(f"/proc/{found[0]}/cmdline").read_text(encoding="utf-8"):
            return int(found[0])
        time.sleep(0.05)
    raise TimeoutError("systemd does not start")
