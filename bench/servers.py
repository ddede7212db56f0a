"""The servers that are measured, each in a process of its own on loopback."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import slots
from bench.slots import SECRET, Slot

_PATIENCE_S = 60.0


class CannotMeasure(Exception):
    """A server doesn't start, or isn't installed. What it was to be compared with is measured all the same."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, below those that the kernel gives to clients."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Server:
    """One running server.

    :param argv: the command that runs it in the foreground.
    :param directory: its own; it writes its log there.
    :param files: where its uploads go; emptied by :meth:`clean`.
    :param make_slot: room for a file of so many bytes.
    :ivar name: as the tables show it.
    :ivar started_s: how long it took from the command until it answered.
    """

    def __init__(
        self,
        name: str,
        port: int,
        argv: Sequence[str],
        directory: Path,
        files: Path,
        make_slot: Callable[[int], Slot] = slots.signed,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.files = files
        self._make_slot = make_slot
        self._log = (directory / "log").open("wb")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            argv,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        self.started_s = time.perf_counter() - began

    @property
    def pid(self) -> int:
        return self._process.pid

    def slots(self, count: int, size: int) -> list[Slot]:
        """Room for as many files of *size* bytes; perhaps for fewer, where it has to be asked for."""
        return [self._make_slot(size) for _ in range(count)]

    def clean(self) -> None:
        """Remove what was uploaded, so that no run pays for the files of the one before."""
        for entry in self.files.iterdir() if self.files.is_dir() else ():
            if entry.name != ".hmacfs":
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

    def stop(self) -> None:
        """End it; by force if it doesn't listen."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
                raise CannotMeasure(f"{self.name} doesn't start: {said[-1000:]}") from None
            time.sleep(0.01)


def answers(port: int) -> bool:
    """Whether somebody answers a request at a port: who only listens may not be ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(4096).startswith(b"HTTP/1.1")
    except OSError:
        return False


def own_directory(root: Path, name: str) -> Path:
    """A new one for a server."""
    directory = root / "".join(letter if letter.isalnum() else "-" for letter in name)
    directory.mkdir()
    return directory


def hmacfs(name: str, root: Path, keys: Mapping[str, object] | None = None) -> Server:
    """hmacfs with *keys* in its configuration.

    Its two limits for one address are out of the way, as all load comes from one, and the log is as quiet as the others'.
    """
    directory = own_directory(root, name)
    port = free_port()
    settings = {
        "ListenPort": f"127.0.0.1:{port}",
        "LogLevel": "warn",
        "MaxConnections": 16_000,
        "MaxConnectionsPerIP": 16_000,
        "MaxUploadSize": 0,
        "MetricsEnabled": False,
        "MinFreeSpace": 0,
        "NumCores": 1,
        "Secret": SECRET,
        "StoreDir": str(directory / "store"),
        **(keys or {}),
    }
    config = directory / "config.toml"
    config.touch(0o600)
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "-n", "--pidfile=", "hmacfs", "-c", str(config)]
    return Server(name, port, argv, directory, directory / "store")


def plain(name: str, root: Path, buffer_bytes: int) -> Server:
    """The bare streaming PUT of this build."""
    directory = own_directory(root, name)
    files = directory / "files"
    files.mkdir(parents=True)
    port = free_port()
    # "-m" would look for bench in the server's own directory.
    script = Path(__file__).with_name("plain.py")
    argv = [sys.executable, str(script), str(port), str(files), str(buffer_bytes)]
    return Server(name, port, argv, directory, files, slots.unsigned)


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
