"""How many processor cores this process may use, and so how many processes are to serve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path
from typing import Literal


def usable_cores(
    affinity: int | None = None,
    *,
    own_groups: Path = Path("/proc/self/cgroup"),
    mounted: Path = Path("/sys/fs/cgroup"),
) -> int:
    """How many cores there are for this process: by its affinity, and by the quotas of its control groups, rounded up.

    :param affinity: how many cores it may run on; the system is asked if it isn't said.
    :param own_groups: see cgroups(7), ``/proc/[pid]/cgroup``.
    :param mounted: where the control groups are, of the first version or the second.
    :return: at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if affinity is None else affinity
    try:
        groups = own_groups.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        groups = []
    quota = min((quota for group in groups for quota in _quotas(group, mounted)), default=inf)
    return max(1, min(cores, ceil(min(quota, cores))))


def processes(wanted: int | Literal["auto"]) -> int:
    """How many processes are to serve: so many, or one for each core."""
    return usable_cores() if wanted == "auto" else wanted


def _quotas(group: str, mounted: Path) -> Iterator[float]:
    """The quotas, in cores, that are set for a line of ``/proc/self/cgroup``: the group's, and those of all above it."""
    number, controllers, path = group.split(":", 2)
    if number == "0":
        root, read = mounted, _second_version
    elif "cpu" in controllers.split(","):
        root, read = mounted / controllers, _first_version
    else:
        return
    # In a container the path is that of the host, and only the root is to be seen.
    below = Path(path.lstrip("/"))
    for directory in (below, *below.parents):
        try:
            yield read(root / directory)
        except (OSError, ValueError):
            continue


def _second_version(group: Path) -> float:
    """Of ``cpu.max``: quota and period in microseconds, or ``max``."""
    quota, period = (group / "cpu.max").read_text("ascii").split()
    return inf if quota == "max" else int(quota) / int(period)


def _first_version(group: Path) -> float:
    """Of ``cpu.cfs_quota_us``, -1 for none, and ``cpu.cfs_period_us``."""
    quota = int((group / "cpu.cfs_quota_us").read_text("ascii"))
    return inf if quota < 0 else quota / int((group / "cpu.cfs_period_us").read_text("ascii"))
