"""Which core the load runs on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence


def pinned(argv: Sequence[str], *, alone: bool) -> list[str]:
    """The command, kept to the last core where a single connection makes load and server take turns.

    Both would otherwise be moved about between the cores, and no two runs would be alike. With many connections load
    and workers want all the cores there are.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not alone or len(cores) < 2 or shutil.which("taskset") is None:
        return [*argv]
    return ["taskset", "-c", str(cores[-1]), *argv]
