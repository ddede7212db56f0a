"""What uploads in progress will still take, of all that serve together.

These *members* are processes (:class:`SharedPromises`), or are within one process: what serves by the configuration, and
what served before it was taken up and has uploads to finish (:class:`LocalPromises`). Each says what its own uploads will
take, and adds up what the others have said when it is to promise something itself.

A process says it in a file of its own, mapped into its memory. Nothing is written to a disk if the directory is on a
tmpfs. One that has ended has promised nothing: the kernel frees the lock that it had on its file.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import blake2b
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Final

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface, implementer

#: How many charges a process can tell the others of. Of more only it knows itself.
CHARGES: Final = 4096

# When the process began, which tells it from an earlier one of its name; what it has promised; what it has written since.
_HEAD: Final = Struct("<QQQ8x")

# What a charge is made for, its size in bytes, and when it was made.
_CHARGE: Final = Struct("<16sQQ")

# In a file of its own, which is also locked by who adds up or promises: how many processes have joined so far.
_COUNT: Final = Struct("<Q")
_BOOK: Final = "book"

#: How often is looked which of the other processes live, in seconds.
LOOK_EVERY_S: Final = 1.0

_NOTHING: Final = bytes(16)
_SIZE: Final = _HEAD.size + CHARGES * _CHARGE.size


@frozen
class Others:
    """What the other members have said of the room on the disk.

    :ivar promised_bytes: that they will still write.
    :ivar written_bytes: that they have written since they began.
    :ivar members: who these are. One that takes the place of another is not the same.
    """

    promised_bytes: int = 0
    written_bytes: int = 0
    members: frozenset[object] = frozenset()


class Claim:
    """What one upload has been charged for, as the other members see it.

    :param withdraw: ends that.
    :ivar made: orders the claims of all members.
    """

    def __init__(self, made: int = 0, withdraw: Callable[[], object] | None = None) -> None:
        self.made = made
        self._withdraw = withdraw

    def withdraw(self) -> None:
        """The upload is over, or its file is counted. May be called again."""
        withdraw, self._withdraw = self._withdraw, None
        if withdraw is not None:
            withdraw()


class IPromises(Interface):
    """Of one member. To be used on the reactor's thread alone; nothing waits for longer than microseconds."""

    def one_at_a_time() -> AbstractContextManager[None]:
        """While it is entered, no other member enters its own, so that two don't promise the same room."""

    def tell(promised_bytes: int, written_bytes: int) -> None:
        """Say what this member's uploads will still write, and what they have written since it began."""

    def others() -> Others:
        """What the other members have said by :meth:`tell`. To be called one at a time."""

    def charge(keys: Sequence[str], size_bytes: int) -> Claim:
        """Say that an upload will take so much of what is limited for each of *keys*. To be called one at a time."""

    def charged(key: str, before: Claim) -> int:
        """Bytes for which the other members have been charged before a claim of ours. To be called one at a time."""

    def close() -> None:
        """This member promises nothing any more."""


class Circle:
    """Where the members within one process find each other."""

    def __init__(self) -> None:
        self.members: set[LocalPromises] = set()
        self.claims = count(1)

    def join(self) -> IPromises:
        """Have one more."""
        joined: IPromises = LocalPromises(self)
        return joined


@implementer(IPromises)
class LocalPromises:
    """Of one member within a process. It joins by being made."""

    def __init__(self, circle: Circle) -> None:
        self._circle = circle
        self._promised_bytes = 0
        self._written_bytes = 0
        self._charges: dict[int, tuple[Collection[str], int]] = {}
        circle.members.add(self)

    def one_at_a_time(self) -> AbstractContextManager[None]:
        return nullcontext()

    def tell(self, promised_bytes: int, written_bytes: int) -> None:
        self._promised_bytes = promised_bytes
        self._written_bytes = written_bytes

    def others(self) -> Others:
        others = self._find_others()
        return Others(
            sum(other._promised_bytes for other in others),
            sum(other._written_bytes for other in others),
            frozenset(others),
        )

    def charge(self, keys: Sequence[str], size_bytes: int) -> Claim:
        made = next(self._circle.claims)
        self._charges[made] = keys, size_bytes
        return Claim(made, partial(self._charges.pop, made))

    def charged(self, key: str, before: Claim) -> int:
        return sum(
            size_bytes
            for other in self._find_others()
            for made, (keys, size_bytes) in other._charges.items()
            if made < before.made and key in keys
        )

    def close(self) -> None:
        self._circle.members.remove(self)

    def _find_others(self) -> Collection[LocalPromises]:
        return self._circle.members - {self}


@implementer(IPromises)
class SharedPromises:
    """Of one process among several, each of which is a member.

    :param directory: where the processes of the service find each other; made if need be, with nothing else in it.
    :param name: of this process. No two that run at the same time may have the same one.
    :raises OSError: there is no room, or no right, for a file there, or another process has that name.
    """

    def __init__(self, directory: Path, name: str, clock: IReactorTime) -> None:
        self._directory = directory
        self._name = name
        self._clock = clock
        self._peers: dict[str, _Peer] = {}
        self._living: Sequence[_Peer] = ()
        self._looked_at: tuple[int, float] | None = None
        directory.mkdir(mode=0o700, exist_ok=True)
        self._book = _Mapped(directory / _BOOK, _COUNT.size)
        try:
            with self.one_at_a_time():
                self._own = _Peer(directory / name)
                self._began = time.monotonic_ns()
                self._own.take(self._began)
                self._book.put(0, _COUNT.pack(self._joined() + 1))
        except BaseException:
            self._book.close()
            raise
        self._free = list(range(_SIZE - _CHARGE.size, _HEAD.size - 1, -_CHARGE.size))

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        fcntl.flock(self._book.fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._book.fd, fcntl.LOCK_UN)

    def tell(self, promised_bytes: int, written_bytes: int) -> None:
        self._own.put(0, _HEAD.pack(self._began, promised_bytes, written_bytes))

    def others(self) -> Others:
        promised_bytes = written_bytes = 0
        members = []
        for peer in self._find_living():
            began, promised, written = _HEAD.unpack_from(peer.map)
            promised_bytes += promised
            written_bytes += written
            members.append((peer.name, began))
        return Others(promised_bytes, written_bytes, frozenset(members))

    def charge(self, keys: Sequence[str], size_bytes: int) -> Claim:
        made = time.monotonic_ns()
        places = [self._free.pop() for _ in keys[: len(self._free)]]
        for place, key in zip(places, keys, strict=False):
            self._own.put(place, _CHARGE.pack(_digest(key), size_bytes, made))
        return Claim(made, partial(self._withdraw, places))

    def charged(self, key: str, before: Claim) -> int:
        digest = _digest(key)
        return sum(peer.charged(digest, before.made) for peer in self._find_living())

    def close(self) -> None:
        for mapped in (self._own, *self._peers.values(), self._book):
            mapped.close()

    def _withdraw(self, places: Sequence[int]) -> None:
        for place in places:
            self._own.put(place, _NOTHING)
        self._free.extend(places)

    def _joined(self) -> int:
        """How many processes have joined so far."""
        (joined,) = _COUNT.unpack_from(self._book.map)
        return int(joined)

    def _find_living(self) -> Sequence[_Peer]:
        """The others. One counts as soon as it joins, and is believed to live for a moment after its end."""
        now, joined = self._clock.seconds(), self._joined()
        if self._looked_at is None or joined != self._looked_at[0] or not 0 <= now - self._looked_at[1] < LOOK_EVERY_S:
            self._looked_at = joined, now
            # Nobody's upload fails because somebody has tidied up: then there are those that are known.
            with suppress(OSError):
                self._find_peers()
            self._living = [peer for peer in self._peers.values() if peer.lives]
        return self._living

    def _find_peers(self) -> None:
        """Files are never removed or replaced by us: one that is known is good for ever."""
        for name in {*os.listdir(self._directory)} - {_BOOK, self._name} - self._peers.keys():
            self._peers[name] = _Peer(self._directory / name)


class _Mapped:
    """A file that is mapped into memory, made if need be."""

    def __init__(self, path: Path, size: int) -> None:
        self.name = path.name
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Who wrote to a page that the file system has no room for would be killed.
            os.posix_fallocate(self.fd, 0, size)
            self.map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise

    def put(self, place: int, data: bytes) -> None:
        """Copy it there. struct's pack_into writes zeros first, which another process may see."""
        self.map[place : place + len(data)] = data

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class _Peer(_Mapped):
    """The file of a process."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SIZE)

    def take(self, began: int) -> None:
        """Make it that of this process, which began then.

        :raises BlockingIOError: it is that of another one.
        """
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.put(0, _HEAD.pack(began, 0, 0) + bytes(_SIZE - _HEAD.size))

    @property
    def lives(self) -> bool:
        """Whether its process does."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def charged(self, digest: bytes, before: int) -> int:
        size_bytes, place = 0, self.map.find(digest, _HEAD.size)
        while place >= 0:
            _, size, made = _CHARGE.unpack_from(self.map, place)
            if (place - _HEAD.size) % _CHARGE.size == 0 and made < before:
                size_bytes += size
            place = self.map.find(digest, place + 1)
        return size_bytes


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=len(_NOTHING)).digest()
