"""hmacfs as an operator runs it: twistd, a config file, a directory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, run, wait_until
from tests.e2e.signing import SECRET
from tests.e2e.wire import Answer, ask

TomlValue = str | int | bool | Sequence[str]


def command(name: str) -> list[str]:
    """How the running interpreter starts a command of an installed package: ``twistd``, ``hmacfs``.

    In a virtual environment that borrows Debian's packages, Debian's script stands for the missing one, run by the
    environment's own interpreter.

    :raises GaveUp: the command is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return [str(beside)]
    debian = shutil.which(f"{name}3", path="/usr/bin")
    if debian is None:
        raise GaveUp(f"{name} is not installed beside {sys.executable}")
    return [sys.executable, debian]


def toml(keys: Mapping[str, TomlValue]) -> str:
    """The text of a flat TOML file. JSON's strings, numbers, booleans and lists are TOML's as well."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())


class Daemon:
    """One hmacfs with a directory and two ports of its own.

    :param case: the test; it ends the daemon.
    :param text: the whole config file, instead of *keys*.
    :param keys: what the config file sets beyond, or instead of, the ports, the secret and the directory.

    :ivar store: its ``StoreDir``.
    :ivar port: of its HTTP server, where ``ListenPort`` is left alone.
    :ivar metrics_port: of its metrics.
    """

    def __init__(self, case: PeerTestCase, *, text: str | None = None, **keys: TomlValue) -> None:
        self._case = case
        self.port = case.free_port()
        self.metrics_port = case.free_port()
        self.directory = case.directory / f"hmacfs-{self.port}"
        self.directory.mkdir()
        self.store = self.directory / "store"
        self.config = self.directory / "config.toml"
        settings: dict[str, TomlValue] = {
            "ListenPort": f"127.0.0.1:{self.port}",
            "MetricsPort": f"127.0.0.1:{self.metrics_port}",
            "Secret": SECRET,
            "StoreDir": str(self.store),
            "NumCores": 1,
            "ShutdownGrace": 0,
        }
        if "SecretFile" in keys:
            del settings["Secret"]
        self._quiet = text is not None or "LogFile" in keys
        self.config.touch(0o600)
        self.config.write_text(toml({**settings, **keys}) if text is None else text, encoding="utf-8")
        self.spawn()

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        argv = [*command("twistd"), "-n", "--pidfile=", "hmacfs", "-c", str(self.config)]
        self.process = self._case.started(Process("hmacfs", argv, cwd=self.directory))

    def started(self) -> Daemon:
        """Wait until it says that it listens, or answers on its port if it says so in a file.

        :raises GaveUp: it has ended instead.
        """
        if self._quiet:
            return self.started_on(lambda: accepts(self.port))
        self.process.wait_for_line("listens at")
        return self

    def started_on(self, ready: Callable[[], bool]) -> Daemon:
        """Wait until *ready*."""

        def probe() -> bool:
            if not self.process.running:
                raise GaveUp(f"hmacfs ended with status {self.process.wait()}")
            return ready()

        wait_until(probe, "hmacfs is listening")
        return self

    def restart(self, ready: Callable[[], bool] | None = None) -> Daemon:
        """Start it again, after it has ended, and wait as :meth:`started_on` does."""
        assert not self.process.running
        self.spawn()
        return self.started() if ready is None else self.started_on(ready)

    def command(self, *words: str) -> str:
        """What ``hmacfs`` says of the store while the server runs, or not.

        :param words: one or two that name the command, and its options.
        :raises GaveUp: it says that something is wrong.
        """
        finished = run([*command("hmacfs"), *words, "-c", str(self.config)])
        if finished.status != 0:
            raise GaveUp(f"hmacfs {' '.join(words)} ended with {finished.status}: {finished.text} {finished.stderr}")
        return finished.text

    def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        return ask(self.port, method, target, headers, body)

    def url(self, target: str) -> str:
        """The URL of a request target."""
        return f"http://127.0.0.1:{self.port}{target}"

    def files(self) -> list[str]:
        """What is in the store, as paths below it, without hmacfs's own directory."""
        found = (path.relative_to(self.store) for path in self.store.rglob("*") if not path.is_dir())
        return sorted(str(path) for path in found if path.parts[0] != ".hmacfs")

    def parts(self) -> list[Path]:
        """The part files of uploads under way, or left over."""
        return sorted((self.store / ".hmacfs" / "parts").iterdir())

    def metrics(self) -> dict[str, float]:
        """The values that ``/metrics`` shows, by name and labels."""
        text = ask(self.metrics_port, "GET", "/metrics").text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def rss_bytes(self) -> int:
        """What it has in memory now."""
        return self._memory("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most that it has ever had in memory."""
        return self._memory("VmHWM")

    def _memory(self, key: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024
