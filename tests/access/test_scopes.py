"""Whom things are counted for: hmacfs.access.scopes."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.scopes import Scopes


class ScopesTests(SynchronousTestCase):
    """Addresses and networks."""

    def setUp(self) -> None:
        self.scopes = Scopes(ClientAddresses([ip_network("192.0.2.0/28"), ip_network("2001:db8:f::/48"), "unix"]), 56)

    def test_ipv4(self) -> None:
        """Each address for itself."""
        self.assertEqual(self.scopes.of_host("198.51.100.7"), "198.51.100.7")

    def test_ipv6(self) -> None:
        """A network of the size that was said."""
        self.assertEqual(self.scopes.of_host("2001:db8:1:2ab::7"), "2001:db8:1:200::/56")

    def test_neither(self) -> None:
        """As it is."""
        self.assertEqual(self.scopes.of_host("unknown"), "unknown")

    def test_peers(self) -> None:
        """As clients are, with IPv4 addresses recognised that are mapped into IPv6."""
        for peer, scope in (
            (IPv4Address("TCP", "198.51.100.7", 1), "198.51.100.7"),
            (IPv6Address("TCP", "::ffff:198.51.100.7", 1), "198.51.100.7"),
            (IPv6Address("TCP", "2001:db8:1:2ab::7", 1), "2001:db8:1:200::/56"),
        ):
            self.assertEqual(self.scopes.of_peer(peer), scope)

    def test_peers_that_speak_for_many(self) -> None:
        """Trusted proxies and UNIX sockets, the latter whether trusted or not."""
        for peer in (
            IPv4Address("TCP", "192.0.2.1", 1),
            IPv6Address("TCP", "::ffff:192.0.2.1", 1),
            IPv6Address("TCP", "2001:db8:f::1", 1),
            UNIXAddress(b"/run/x"),
            None,
        ):
            self.assertIsNone(self.scopes.of_peer(peer))
        self.assertIsNone(Scopes(ClientAddresses([]), 64).of_peer(UNIXAddress(b"/run/x")))
