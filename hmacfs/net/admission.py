"""How many connections there may be, in all and from one address; how many requests of one client at a time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from twisted.internet.interfaces import IAddress

#: How many peers that were turned away may have their time to take the answer. Whoever comes on top of them is cut off
#: as soon as it is written: the descriptors are for others.
MOST_FAREWELLS: Final = 64


class Closable(Protocol):
    """A connection that can be closed between two requests. It is known by its identity."""

    def makeRoom(self) -> None:
        """Close it, so that its descriptor is free soon."""


class Excess(Enum):
    """Why there is no room for a connection."""

    ADDRESS = "its address has as many as it may have"
    TOTAL = "there are as many as there may be, and all are busy"


class Connections:
    """Counts connections and finds room for new ones.

    :param most: in all; 0 for any number.
    :param most_per_address: of one address; 0 for any number.
    :param scope: whom a connection of a peer is counted for: its address, or the network that stands for it; ``None``
        for a peer that may have any number. Asked once for each connection.

    :ivar most: may be changed at any time.
    """

    def __init__(
        self,
        most: int = 0,
        most_per_address: int = 0,
        scope: Callable[[IAddress], str | None] = lambda _: None,
    ) -> None:
        self.most = most
        self._most_per_address = most_per_address
        self._scope = scope
        self._scopes: dict[Closable, str | None] = {}
        self._counts: Counter[str] = Counter()
        #: Those between two requests; who has been so for longest is first.
        self._idle: OrderedDict[Closable, None] = OrderedDict()
        self._farewells: set[Closable] = set()

    def __len__(self) -> int:
        """How many there are; who has been turned away isn't counted."""
        return len(self._scopes)

    def enter(self, connection: Closable, peer: IAddress | None) -> Excess | None:
        """A connection was accepted.

        For want of room in all, the one that has waited longest for its next request makes room.

        :param peer: ``None`` while it isn't known, until :meth:`identify`.
        :return: why it has to be turned away, if it has; then it isn't counted.
        """
        scope = self._scope_of(peer)
        if self._is_full(scope):
            return Excess.ADDRESS
        if self.most and len(self._scopes) >= self.most:
            if not self._idle:
                return Excess.TOTAL
            longest = next(iter(self._idle))
            self.leave(longest)
            longest.makeRoom()
        self._count(connection, scope)
        return None

    def identify(self, connection: Closable, peer: IAddress) -> Excess | None:
        """It has turned out who the peer of a connection is.

        :return: why it has to be turned away, if it has.
        """
        scope = self._scope_of(peer)
        if self._is_full(scope):
            return Excess.ADDRESS
        self._count(connection, scope)
        return None

    def waits(self, connection: Closable) -> None:
        """A connection is between two requests."""
        if connection in self._scopes:
            self._idle[connection] = None

    def works(self, connection: Closable) -> None:
        """A connection's next request has begun, or it is about to close."""
        self._idle.pop(connection, None)

    def farewell(self, connection: Closable) -> bool:
        """A connection is being turned away, and doesn't count any more.

        :return: whether its peer may have time to take the answer.
        """
        self.leave(connection)
        if len(self._farewells) >= MOST_FAREWELLS:
            return False
        self._farewells.add(connection)
        return True

    def leave(self, connection: Closable) -> None:
        """A connection is gone, if it was there."""
        self._idle.pop(connection, None)
        self._farewells.discard(connection)
        scope = self._scopes.pop(connection, None)
        if scope is not None:
            self._counts[scope] -= 1
            if not self._counts[scope]:
                del self._counts[scope]

    def _scope_of(self, peer: IAddress | None) -> str | None:
        return self._scope(peer) if peer is not None and self._most_per_address else None

    def _is_full(self, scope: str | None) -> bool:
        return scope is not None and self._counts[scope] >= self._most_per_address

    def _count(self, connection: Closable, scope: str | None) -> None:
        self._scopes[connection] = scope
        if scope is not None:
            self._counts[scope] += 1


class RequestsInProgress:
    """Counts the requests of each client that are being worked on.

    :param most: of one client; 0 for any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    def begin(self, client: str) -> bool:
        """A request has begun.

        :return: whether there was room for it; if not, it isn't counted.
        """
        if self._most and self._counts[client] >= self._most:
            return False
        self._counts[client] += 1
        return True

    def end(self, client: str) -> None:
        """A request for which there was room is over."""
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]
