"""Whom connections, requests and failures are counted for: an IPv4 address, or a network of IPv6.

Who has one address of IPv6 has as many as there are: a whole network is counted as one.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from twisted.internet import address
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import ClientAddresses

#: How many addresses are remembered, so that they needn't be read again.
_REMEMBERED: Final = 4096


class Scopes:
    """See the module.

    :param addresses: knows the trusted proxies.
    :param prefix_v6: the length of the IPv6 prefix that is counted as one.
    """

    def __init__(self, addresses: ClientAddresses, prefix_v6: int) -> None:
        self._addresses = addresses
        self._prefix_v6 = prefix_v6
        self._of_host = lru_cache(_REMEMBERED)(self._find_host)
        self._of_peer = lru_cache(_REMEMBERED)(self._find_peer)

    def of_host(self, host: str) -> str:
        """Whom a client is counted for.

        :param host: as :class:`~hmacfs.access.addresses.ClientAddress` has it.
        :return: an IPv4 address, a network of IPv6 in CIDR notation, or *host* itself where it is neither.
        """
        return self._of_host(host)

    def of_peer(self, peer: IAddress | None) -> str | None:
        """Whom a connection's peer is counted for.

        :return: ``None`` for a trusted proxy and a peer without an address: it speaks for many.
        """
        return self._of_peer(peer.host) if isinstance(peer, (address.IPv4Address, address.IPv6Address)) else None

    def _find_host(self, host: str) -> str:
        try:
            parsed = ip_address(host)
        except ValueError:
            return host
        return str(IPv6Network((parsed, self._prefix_v6), strict=False)) if isinstance(parsed, IPv6Address) else host

    def _find_peer(self, host: str) -> str | None:
        # The port says nothing, and IPv4 addresses come mapped into IPv6 as well.
        client = self._addresses.resolve(address.IPv6Address("TCP", host, 0), Headers())
        return None if client.is_proxy else self.of_host(client.host)
