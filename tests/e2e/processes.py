"""Programs that a test starts on loopback, awaits and ends, and the test case that looks after them."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import TestResult

from twisted.python.components import proxyForInterface
from twisted.trial.itrial import IReporter
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import which

PATIENCE_S = 60.0
"""How long a test waits for anything before it gives up. Long, because nothing here measures time."""

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

T = TypeVar("T")
ProcessT = TypeVar("ProcessT", bound="Process")


class GaveUp(Exception):
    """Something that a test waited for did not happen."""


def program(name: str) -> str:
    """The path of an installed program.

    :raises GaveUp: it is not installed.
    """
    path = which(name)
    if path is None:
        raise GaveUp(f"{name} is not installed: `make test` as root on Debian installs it.")
    return path


def wait_until(probe: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Ask *probe* until its answer is true, and return that answer.

    For what has no event to await: a file that another process writes, a port that another process opens.

    :raises GaveUp: *what* did not happen.
    """
    deadline = time.monotonic() + patience_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise GaveUp(f"{what}: not within {patience_s:g} s")
        time.sleep(0.02)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens on a TCP port."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


class Process:
    """A running program whose output, both streams of it, is kept line by line.

    :param passed: descriptors that it gets, by the same numbers.
    :ivar name: what failures call it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        passed: Sequence[int] = (),
    ):
        self.name = name
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._popen = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=passed,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """All that it has written so far."""
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_line(self, pattern: str, *, count: int = 1) -> str:
        """Wait until *count* lines of the output match, and return the last of them.

        :param pattern: a regular expression, searched anywhere in a line.
        :raises GaveUp: the program ended, or stayed silent, before.
        """
        matcher = re.compile(pattern)

        def matching() -> list[str]:
            return [line for line in self._lines if matcher.search(line)]

        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(matching()) >= count, PATIENCE_S)
            found = matching()
        if len(found) < count:
            raise GaveUp(f"{self.name}: no line like {pattern!r} ({len(found)} of {count}); it wrote:\n{self.output}")
        return found[count - 1]

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and the end of its output.

        :return: its exit status, negative for a signal.
        """
        try:
            status = self._popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise GaveUp(f"{self.name} does not end; it wrote:\n{self.output}") from None
        self._reader.join(PATIENCE_S)
        return status

    def stop(self) -> int:
        """SIGTERM, and wait. Does nothing to a program that has ended."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL to the program and to what it has started, and wait."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def close(self) -> None:
        """End it, by force where it does not listen. For :meth:`~unittest.TestCase.addCleanup`."""
        try:
            self.stop()
        except GaveUp:
            self.kill()
        finally:
            if self._popen.stdout is not None and not self._reader.is_alive():
                self._popen.stdout.close()


class Finished:
    """A program that has run to its end.

    :ivar status: exit status, negative for a signal.
    :ivar stdout: what it wrote, as bytes.
    :ivar stderr: the same for the other stream, as text.
    """

    def __init__(self, completed: subprocess.CompletedProcess[bytes]) -> None:
        self.status = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


def run(
    argv: Sequence[str | Path], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Finished:
    """Run a program to its end.

    :raises GaveUp: it does not come to an end.
    """
    try:
        completed = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as gone:
        raise GaveUp(f"{argv[0]} does not end: {gone.stdout!r} {gone.stderr!r}") from None
    return Finished(completed)


class _Noticing(proxyForInterface(IReporter)):  # type: ignore[misc]
    """Passes a test's results on, and remembers whether it failed."""

    failed = False

    def addError(self, test: Any, error: Any) -> None:
        self.failed = True
        self.original.addError(test, error)

    def addFailure(self, test: Any, failure: Any) -> None:
        self.failed = True
        self.original.addFailure(test, failure)


class PeerTestCase(SynchronousTestCase):
    """A test that talks to programs on loopback.

    What it starts with :meth:`started` is ended with it, and shown if it failed. Blocking is fine here: the reactor
    that matters is in another process.

    :cvar needs: names of :data:`tests.peers.PEERS`; without one of them the runner leaves the test out, and says so.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, result: TestResult | None = None) -> None:
        self._processes: list[Process] = []
        self._directory: Path | None = None
        noticing = _Noticing(result)
        super().run(noticing)
        if noticing.failed:
            for process in self._processes:
                sys.stderr.write(f"\n--- {self.id()}: {process.name} wrote\n{process.output[-20000:]}\n---\n")
        self._forget_directory()

    def _forget_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def free_port(self, host: str = "127.0.0.1") -> int:
        """A TCP port of *host* that nobody uses, and no other test of this machine gets while this one runs.

        Below the ports that the kernel gives to clients, one of which could have it when the server comes.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        while True:
            port = random.randrange(10_000, 32_000)
            token = socket.socket(family, socket.SOCK_DGRAM)
            self.addCleanup(token.close)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                try:
                    token.bind((host, port))  # the UDP port of the same number is the sign that it is taken
                    probe.bind((host, port))
                except OSError:
                    continue
            return port

    @property
    def directory(self) -> Path:
        """A directory of this test's own, gone with it. Its path is short enough for UNIX sockets."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="hmacfs-"))
        return self._directory

    def started(self, process: ProcessT) -> ProcessT:
        """Look after a program from now on."""
        self._processes.append(process)
        self.addCleanup(process.close)
        return process
