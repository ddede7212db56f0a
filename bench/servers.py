"""The servers that are measured, each in a process of its own on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SECRET = "a-secret-of-the-benchmarks-0123456789"

_PATIENCE_S = 30.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """What a process has used until now, of the system's time as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """One running server.

    :ivar name: as the tables show it.
    :ivar files: the directory that its files go to; emptied by :meth:`clean`.
    """

    def __init__(self, name: str, port: int, argv: Sequence[str], directory: Path, files: Path) -> None:
        self.name = name
        self.port = port
        self.files = files
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(argv, cwd=directory, stdout=self._log, stderr=self._log)
        self._wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def clean(self) -> None:
        """Remove what was uploaded, so that no run pays for the files of the one before."""
        for entry in self.files.iterdir():
            if entry.name != ".hmacfs":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} doesn't start; see {self._log.name}") from None
                time.sleep(0.02)


def hmacfs(name: str, root: Path, keys: Mapping[str, object]) -> Server:
    """hmacfs with *keys* in its configuration."""
    directory = root / name.replace(" ", "-")
    directory.mkdir()
    port = free_port()
    settings = {
        "ListenPort": f"127.0.0.1:{port}",
        "MetricsEnabled": False,
        "Secret": SECRET,
        "StoreDir": str(directory / "store"),
        "MaxUploadSize": 0,
        "NumCores": 1,
        **keys,
    }
    config = directory / "config.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "-n", "--pidfile=", "hmacfs", "-c", str(config)]
    return Server(name, port, argv, directory, directory / "store")


def plain(name: str, root: Path, buffer_bytes: int) -> Server:
    """The bare streaming PUT of this build."""
    directory = root / name.replace(" ", "-")
    files = directory / "files"
    files.mkdir(parents=True)
    port = free_port()
    # "-m" would look for bench in the server's own directory.
    script = Path(__file__).with_name("plain.py")
    argv = [sys.executable, str(script), str(port), str(files), str(buffer_bytes)]
    return Server(name, port, argv, directory, files)


class Redis:
    """A Redis that keeps nothing on disk, at a UNIX socket."""

    def __init__(self, root: Path) -> None:
        self.socket = root / "redis.sock"
        program = shutil.which("redis-server") or "/usr/bin/redis-server"
        argv = [program, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(root)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _PATIENCE_S
        while not self.socket.exists():
            if time.monotonic() > deadline:
                raise SystemExit("redis-server doesn't start")
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
