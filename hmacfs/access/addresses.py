"""The client's address, behind proxies or not.

A peer is believed what it says of its own peer only if it is trusted. So the chain of addresses is walked from the
right, where the last proxy wrote, for as long as they are trusted; the first that isn't is the client, and what stands
left of it may be anybody's invention.

Of several headers ``X-Forwarded-For`` counts first, then ``X-Real-IP``, then ``Forwarded`` (RFC 7239), and only the
first of them that is there: every proxy in common use can write the first, and most let the others through as the
client sent them.

The PROXY protocol needs nothing here: Twisted's ``haproxy:`` endpoint makes the address that it announces the peer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import islice
from typing import Final, Literal

from attrs import frozen
from twisted.internet import address
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

#: A trusted network (of one address or more), or ``"unix"`` for whoever connects to a UNIX socket.
Trusted = IPv4Network | IPv6Network | Literal["unix"]

#: How many proxies may stand in a row: a longer chain isn't walked to its end.
MAX_HOPS: Final = 32

#: Of how many addresses it is remembered what they are: most requests come from those that have sent others before.
_REMEMBERED: Final = 4096

#: Somebody in the chain; ``None`` is somebody whom the header mentions but doesn't identify.
_Hop = IPv4Address | IPv6Address | Literal["unix"] | None

_HEADERS: Final = (b"x-forwarded-for", b"x-real-ip", b"forwarded")

_IP: Final = (address.IPv4Address, address.IPv6Address)

# An address with the port that some proxies add, or an obfuscated one: 192.0.2.1:80, [2001:db8::1]:_x (RFC 7239
# section 6). Longer than any address with brackets, zone and port: 96.
_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?")
_MAX_NODE: Final = 96

# RFC 7239 section 4. Brackets and colons belong in quotation marks, but come without as well.
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 (RFC 9110 section 5.6.2, no password)
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PAIR: Final = rf"[ \t]*({_TOKEN})=([\[\]:!#$%&'*+.^_`|~0-9A-Za-z-]+|{_QUOTED})[ \t]*"
_PAIRS: Final = re.compile(_PAIR)
_ELEMENT: Final = re.compile(rf"(?:{_PAIR})?(?:;(?:{_PAIR})?)*")

# How many commas inside quotation marks one element of Forwarded may have.
_MAX_COMMAS: Final = 8


@frozen
class ClientAddress:
    """Who sent a request, as far as that can be known.

    :ivar host: an IP address in its shortest form, IPv4 where it is one mapped into IPv6; ``unix`` for a peer on a UNIX
        socket; ``unknown`` for a peer without an address.
    :ivar is_proxy: it is the address of a trusted proxy, which didn't say for whom it speaks (or speaks for itself):
        not to be banned, as all its clients would be.
    :ivar headers_ignored: the peer isn't trusted and sent forwarding headers all the same. Somebody tries to look like
        somebody else, or a proxy is missing in ``TrustedProxies``.
    """

    host: str
    is_proxy: bool
    headers_ignored: bool


class ClientAddresses:
    """Finds clients' addresses.

    :param trusted: the proxies that are believed. An IPv4 network may be written as mapped into IPv6.
    """

    def __init__(self, trusted: Iterable[Trusted]) -> None:
        self._trusted = tuple(map(_unmapped_network, trusted))
        self._is_trusted = lru_cache(_REMEMBERED)(self._find_trusted)
        self._at = lru_cache(_REMEMBERED)(lambda host: self._speaking_for_itself(_ip(host)))

    def resolve(self, peer: IAddress | None, headers: Headers) -> ClientAddress:
        """Tell who sent a request.

        :param peer: of the connection, as the transport says.
        :param headers: of the request. Whatever they contain, nothing is raised.
        """
        if not _are_forwarding(headers):
            return self._at(peer.host) if isinstance(peer, _IP) else self._speaking_for_itself(_peer(peer))
        last = _peer(peer)
        if not self._is_trusted(last):
            return ClientAddress(_host(last), is_proxy=False, headers_ignored=True)
        for hop in islice(_chain(headers), MAX_HOPS):
            if hop is None:
                break
            if not self._is_trusted(hop):
                return ClientAddress(_host(hop), is_proxy=False, headers_ignored=False)
            last = hop
        return ClientAddress(_host(last), is_proxy=True, headers_ignored=False)

    def is_forwarded(self, peer: IAddress | None, headers: Headers) -> bool:
        """Whether a trusted proxy has passed a request on, and not sent one of its own.

        What has no forwarding header may be from anybody on the proxy's machine.
        """
        return self._is_trusted(_peer(peer)) and _are_forwarding(headers)

    def _speaking_for_itself(self, peer: _Hop) -> ClientAddress:
        return ClientAddress(_host(peer), is_proxy=self._is_trusted(peer), headers_ignored=False)

    def _find_trusted(self, hop: _Hop) -> bool:
        if hop is None or hop == "unix":
            return hop in self._trusted
        return any(hop in network for network in self._trusted if network != "unix")


@lru_cache(_REMEMBERED)
def _host(hop: _Hop) -> str:
    return "unknown" if hop is None else str(hop)


def _peer(peer: object) -> _Hop:
    if isinstance(peer, address.UNIXAddress):
        return "unix"
    if isinstance(peer, _IP):
        return _ip(peer.host)
    return None


def _are_forwarding(headers: Headers) -> bool:
    return any(map(headers.hasHeader, _HEADERS))


def _chain(headers: Headers) -> Iterator[_Hop]:
    """The addresses in the header that counts, from the right: the last proxy's own peer first."""
    for name, read in zip(_HEADERS, (_forwarded_for, _real_ip, _forwarded), strict=True):
        lines = headers.getRawHeaders(name)
        if lines:
            # Several lines are one list (RFC 9110 section 5.3).
            return read(b",".join(lines).decode("latin-1"))
    return iter(())


def _forwarded_for(value: str) -> Iterator[_Hop]:
    # Empty elements of a list mean nothing (RFC 9110 section 5.6.1.2).
    return (_node(node) for node in reversed(value.split(",")) if node.strip())


def _real_ip(value: str) -> Iterator[_Hop]:
    return islice(_forwarded_for(value), 1)


def _forwarded(value: str) -> Iterator[_Hop]:
    """Each element's ``for``, read from the right.

    From the right because what a client has sent stands on the left: a quotation mark that it leaves open must not
    swallow what a proxy has added.
    """
    chunks = [chunk for chunk in value.split(",") if chunk.strip()]
    while chunks:
        for count in range(1, min(len(chunks), _MAX_COMMAS + 1) + 1):
            element = ",".join(chunks[-count:])
            if _ELEMENT.fullmatch(element):
                break
        else:
            yield None
            return
        del chunks[-count:]
        yield _element(element)


def _element(element: str) -> _Hop:
    nodes = [value for name, value in _PAIRS.findall(element) if name.lower() == "for"]
    if len(nodes) != 1:
        return None
    node: str = nodes[0]
    return _node(re.sub(r"\\(.)", r"\1", node[1:-1]) if node.startswith('"') else node)


def _node(text: str) -> _Hop:
    """Somebody in a chain: an address with or without a port, or nginx' word for a UNIX socket."""
    text = text.strip()
    if len(text) > _MAX_NODE:
        return None
    if text == "unix:":
        return "unix"
    match = _WITH_PORT.fullmatch(text)
    return _ip(match.group(1) or match.group(2)) if match else _ip(text)


@lru_cache(_REMEMBERED)
def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _unmapped_network(trusted: Trusted) -> Trusted:
    if isinstance(trusted, IPv6Network) and trusted.prefixlen >= 96:
        mapped = trusted.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, trusted.prefixlen - 96))
    return trusted
