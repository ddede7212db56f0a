"""wrk as the load: many requests for small files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from bench.pinning import pinned
from bench.slots import Slot

_SCRIPT = Path(__file__).with_name("wrk.lua")


class LoadFailed(Exception):
    """The server didn't do what was asked: the figures would be those of its errors."""


@frozen
class Outcome:
    """What a run of wrk came to.

    :ivar requests: that were answered.
    :ivar p50_s: the median of the time to the end of the answer, and *p99_s* what 99 of 100 take at most.
    """

    requests: int
    seconds: float
    p50_s: float
    p99_s: float


def parse(text: str) -> Outcome:
    """Read what ``wrk.lua`` has written below wrk's own report.

    :raises LoadFailed: requests failed, or there is no result.
    """
    lines = [line for line in text.splitlines() if line.startswith("result ")]
    if not lines:
        raise LoadFailed(f"wrk said nothing of a result: {text}")
    result = json.loads(lines[-1].removeprefix("result "))
    failures = {name: result[name] for name in ("failed_connections", "failed_requests", "timeouts") if result[name]}
    if failures or not result["requests"]:
        raise LoadFailed(f"{result['requests']} requests answered, {failures}")
    return Outcome(result["requests"], result["seconds"], result["p50_s"], result["p99_s"])


@frozen
class Asking:
    """What wrk is to do.

    :ivar pause_ms: how long a connection waits before a request, on average; 0 lets the server set the pace.
    """

    port: int
    method: str
    path: str
    size: int
    connections: int
    seconds: int
    pause_ms: int = 0

    def start(self, root: Path, slots: Sequence[Slot] = ()) -> subprocess.Popen[str]:
        """Start a run; its output is for :func:`finish`.

        :param root: where the list of slots goes.
        :param slots: for a PUT, as many as could be wanted.
        """
        threads = 1 if self.connections == 1 else 2
        listed = root / f"slots-{self.port}-{self.method}"
        listed.write_text("".join(f"{slot}\n" for slot in slots), encoding="ascii")
        counts = ["-t", str(threads), "-c", str(self.connections), "-d", f"{self.seconds}s", "--timeout", "30s"]
        url = f"http://127.0.0.1:{self.port}{self.path}"
        words = [self.method, str(self.size), str(self.pause_ms), str(listed), str(threads)]
        argv = pinned(["wrk", *counts, "-s", str(_SCRIPT), url, "--", *words], alone=threads == 1)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(running: subprocess.Popen[str]) -> Outcome:
    """Wait for a run.

    :raises LoadFailed: as :func:`parse`.
    """
    text, _ = running.communicate()
    return parse(text)
