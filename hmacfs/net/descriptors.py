"""How many file descriptors this process may have, and what that is enough for."""

from __future__ import annotations

import resource
from typing import Final

#: What a connection may need at once: its socket, and a file or two of the store.
PER_CONNECTION: Final = 3

#: What is not for connections: logs, databases, listening sockets, directories, Redis, peers that are turned away.
RESERVE: Final = 192


def raise_limit() -> int:
    """Have as many descriptors as the system allows us.

    :return: how many that are; unlimited is a very large number.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**31 - 1


def affordable_connections(descriptors: int) -> int:
    """How many connections *descriptors* are enough for; at least one."""
    return max(1, (descriptors - RESERVE) // PER_CONNECTION)
