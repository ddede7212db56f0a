"""The door of the site: whom it lets in, before anything of a request is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import ClientAddress, ClientAddresses
from hmacfs.access.bans import Bans, Verdict
from hmacfs.access.banstate import Kind
from hmacfs.access.scopes import Scopes
from hmacfs.errors import Refused
from hmacfs.net.admission import RequestsInProgress
from hmacfs.net.canned import canned_answer
from hmacfs.net.streaming import RETRY_AFTER_S
from hmacfs.web.answers import refusal

#: How many answers to blocked clients are kept, and for how many peers who they are.
_CANNED: Final = 1024
_REMEMBERED_PEERS: Final = 4096

#: What blocked clients may still do where ``BlockScope`` is ``uploads``.
_READING: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_IP: Final = (IPv4Address, IPv6Address)


class Door:
    """See the module. Who is blocked or banned costs next to nothing here.

    :param scopes: says whom requests are counted for.
    :param in_progress: counts the requests of clients behind trusted proxies. Who comes directly has one request for
        each connection, and these are counted elsewhere.
    :param headers: of every answer.
    :param now: the time in seconds, of any beginning.
    :ivar bans: who is blocked or banned; ``None`` for nobody.
    """

    def __init__(
        self,
        addresses: ClientAddresses,
        scopes: Scopes,
        in_progress: RequestsInProgress,
        headers: Sequence[tuple[bytes, bytes]],
        now: Callable[[], float],
    ) -> None:
        self.bans: Bans | None = None
        self._addresses = addresses
        self._scopes = scopes
        self._in_progress = in_progress
        self._headers = headers
        self._now = now
        self._canned = lru_cache(_CANNED)(self._can)
        self._resolve_host = lru_cache(_REMEMBERED_PEERS)(
            lambda host: addresses.resolve(IPv6Address("TCP", host, 0), Headers())
        )

    @property
    def is_guarded(self) -> bool:
        """Whether anybody at all is blocked or banned."""
        return self.bans is not None and self.bans.has_any

    def verdict_on_peer(self, peer: IAddress) -> Verdict | None:
        """Whether a peer that speaks for itself is blocked from everything."""
        if not self.is_guarded:
            return None
        client = self._resolve_host(peer.host) if isinstance(peer, _IP) else self._addresses.resolve(peer, Headers())
        return self._verdict(client, reading=True)

    def verdict_on(self, client: ClientAddress, method: bytes) -> Verdict | None:
        """Whether a client is blocked or banned from a request. It is counted then."""
        return self._verdict(client, reading=method in _READING)

    def failed(self, client: ClientAddress, reason: str) -> None:
        """A request of a client was refused, for a reason that may count."""
        if self.bans is not None:
            self.bans.refused(client, reason)

    def speaks_for_many(self, peer: IAddress) -> bool:
        """Whether a connection isn't its peer's alone."""
        return self._scopes.of_peer(peer) is None

    def refusal(self, verdict: Verdict, *, closes: bool, bodiless: bool) -> bytes:
        """The whole answer to somebody who is blocked or banned.

        Within a second all are the same that are told the same.
        """
        return self._canned(verdict.kind, verdict.retry_after_s, closes, bodiless, int(self._now()))

    def enter(self, peer: IAddress, client: ClientAddress) -> str | None:
        """Decide whether a request is to be worked on.

        :return: what to tell :meth:`leave` when it is over; ``None`` where it isn't counted.
        :raises Refused: its client has too many others in progress.
        """
        if client.is_proxy or not self.speaks_for_many(peer):
            return None
        scope = self._scopes.of_host(client.host)
        if not self._in_progress.begin(scope):
            detail = "There are too many requests of yours at the same time."
            raise Refused(429, "too-many-connections", detail, {"Retry-After": str(RETRY_AFTER_S)})
        return scope

    def leave(self, scope: str) -> None:
        """A request that was counted is over."""
        self._in_progress.end(scope)

    def _verdict(self, client: ClientAddress, reading: bool) -> Verdict | None:
        return None if self.bans is None else self.bans.verdict(client, reading)

    def _can(self, kind: Kind, retry_after_s: int | None, closes: bool, bodiless: bool, _second: int) -> bytes:
        refused = told(kind, retry_after_s)
        headers = {name: value for name, value in refusal(refused, None).headers.items() if name != "Content-Type"}
        return canned_answer(
            refused.status,
            refused.reason,
            refused.detail,
            [*self._headers, *((name.encode(), value.encode()) for name, value in headers.items())],
            closes=closes,
            bodiless=bodiless,
        )


def told(kind: Kind, retry_after_s: int | None) -> Refused:
    """What somebody is told who is blocked or banned."""
    if kind is Kind.BANNED:
        return Refused(403, "banned", "This server takes no requests from your address.")
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Refused(429, "blocked", "Too many requests from your address have failed.", headers)
