"""What the servers are asked for, one cell of the table after the other."""

from __future__ import annotations

from attrs import evolve, field, frozen

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

NGINX, PROSODY, EJABBERD = "nginx", "Prosody", "ejabberd"
SHIPPED, UNHASHED, SINGLE = "hmacfs", "hmacfs, no checksums", "hmacfs, one process"
UNSYNCED, BARE = 'hmacfs, Durability "none"', 'hmacfs, no checksums, Durability "none"'

#: Where the files are.
MEMORY, DISK = "memory", "disk"

#: Up to this size wrk is the load, by the second; above it so many files are moved.
WRK_UP_TO = 100 * KIB

#: What is asked of those that would take minutes for 1 GiB.
_LESS = {PROSODY: 64 * MIB}


@frozen
class Cell:
    """Files of one size, moved one way over so many connections.

    :ivar place: where they are: :data:`MEMORY` (tmpfs) or :data:`DISK`.
    :ivar servers: whose turn it is, one after the other.
    :ivar count: how many files in a run, where wrk isn't the load.
    :ivar important: whether a target speaks of it: it gets all the rounds, others half of them.
    :ivar smaller: who is given a smaller file, for which time is too short.
    """

    method: str
    size: int
    connections: int
    place: str
    servers: tuple[str, ...]
    count: int = 1
    important: bool = False
    smaller: dict[str, int] = field(factory=dict, hash=False)

    @property
    def name(self) -> str:
        connections = "1 connection" if self.connections == 1 else f"{self.connections} connections"
        return f"{self.method} {size_name(self.size)}, {connections}"

    def size_for(self, server: str) -> int:
        return self.smaller.get(server, self.size)


def size_name(size: int) -> str:
    """As in "100 KiB"."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"


_HASHED_OR_NOT = (NGINX, SHIPPED, UNHASHED)
_ALL = (*_HASHED_OR_NOT, SINGLE, PROSODY, EJABBERD)
_SYNCED_OR_NOT = (*_HASHED_OR_NOT, UNSYNCED, BARE)

GETS = (
    Cell("GET", KIB, 1, MEMORY, (NGINX, SHIPPED)),
    Cell("GET", KIB, 16, MEMORY, (NGINX, SHIPPED, PROSODY, EJABBERD)),
    Cell("GET", KIB, 256, MEMORY, (NGINX, SHIPPED)),
    Cell("GET", 100 * KIB, 1, MEMORY, (NGINX, SHIPPED)),
    Cell("GET", 100 * KIB, 16, MEMORY, _ALL, important=True),
    Cell("GET", 100 * KIB, 256, MEMORY, (NGINX, SHIPPED)),
    Cell("GET", 10 * MIB, 1, MEMORY, (NGINX, SHIPPED), count=64),
    Cell("GET", 10 * MIB, 16, MEMORY, (NGINX, SHIPPED), count=128),
    Cell("GET", GIB, 1, MEMORY, _ALL, count=2, important=True, smaller=_LESS),
)

PUTS = (
    Cell("PUT", KIB, 1, MEMORY, _HASHED_OR_NOT),
    Cell("PUT", KIB, 16, MEMORY, (*_HASHED_OR_NOT, PROSODY, EJABBERD)),
    Cell("PUT", KIB, 256, MEMORY, _HASHED_OR_NOT),
    Cell("PUT", 100 * KIB, 1, MEMORY, _HASHED_OR_NOT),
    Cell("PUT", 100 * KIB, 16, MEMORY, _ALL, important=True),
    Cell("PUT", 100 * KIB, 256, MEMORY, _HASHED_OR_NOT),
    Cell("PUT", 10 * MIB, 1, MEMORY, _HASHED_OR_NOT, count=32),
    Cell("PUT", 10 * MIB, 16, MEMORY, _HASHED_OR_NOT, count=64),
    Cell("PUT", GIB, 1, MEMORY, _ALL, important=True, smaller=_LESS),
)

DISK_PUTS = (
    Cell("PUT", KIB, 16, DISK, _SYNCED_OR_NOT),
    Cell("PUT", 100 * KIB, 1, DISK, _SYNCED_OR_NOT),
    Cell("PUT", 100 * KIB, 16, DISK, _SYNCED_OR_NOT, important=True),
    Cell("PUT", GIB, 1, DISK, _SYNCED_OR_NOT),
)


#: Every way to start a server is gone once, and every server asked something, when it has to be quick.
_QUICK = {("GET", MEMORY): (NGINX, SHIPPED, PROSODY, EJABBERD), ("PUT", MEMORY): (SHIPPED, SINGLE, UNHASHED)}


def quick(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Smaller ones that go the same ways: one by wrk, one by curl, one by our own client."""
    one = next(cell for cell in cells if cell.connections == 16 and cell.important)
    one = evolve(one, servers=_QUICK.get((one.method, one.place), (NGINX, UNSYNCED, BARE)))
    large = (evolve(one, size=MIB, connections=connections, count=connections) for connections in (1, 4))
    return (one, *large)
