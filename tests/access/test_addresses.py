"""Whose address counts: that of the peer, or what a trusted one says of its own peer."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import MAX_HOPS, ClientAddress, ClientAddresses, Trusted

#: As TrustedProxies has it by default, and a network of proxies.
TRUSTED: tuple[Trusted, ...] = (ip_network("127.0.0.1"), ip_network("::1"), ip_network("10.0.0.0/8"), "unix")

PROXY = IPv4Address("TCP", "127.0.0.1", 40000)
STRANGER = IPv4Address("TCP", "198.51.100.66", 40000)

IPS = st.ip_addresses().map(str)


def resolve(
    peer: IAddress | None,
    headers: dict[str, str | list[str]] | None = None,
    trusted: tuple[Trusted, ...] = TRUSTED,
) -> ClientAddress:
    lines = {name: [value] if isinstance(value, str) else value for name, value in (headers or {}).items()}
    return ClientAddresses(trusted).resolve(peer, Headers(lines))


def canonical(host: str) -> str:
    parsed = ip_address(host)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


class PeerTests(SynchronousTestCase):
    """Without any header."""

    def test_stranger(self) -> None:
        self.assertEqual(resolve(STRANGER), ClientAddress("198.51.100.66", is_proxy=False, headers_ignored=False))

    def test_proxy(self) -> None:
        """It asks for itself, and must not be banned for what its clients do."""
        self.assertEqual(resolve(PROXY), ClientAddress("127.0.0.1", is_proxy=True, headers_ignored=False))

    def test_mapped_ipv4(self) -> None:
        """What a socket that listens on all addresses of both families reports."""
        peer = IPv6Address("TCP", "::ffff:198.51.100.66", 1)
        self.assertEqual(resolve(peer), ClientAddress("198.51.100.66", is_proxy=False, headers_ignored=False))
        self.assertTrue(resolve(IPv6Address("TCP", "::ffff:127.0.0.1", 1)).is_proxy)

    def test_shortest_form(self) -> None:
        self.assertEqual(resolve(IPv6Address("TCP", "2001:DB8:0:0:0:0:0:7", 1)).host, "2001:db8::7")

    def test_zone(self) -> None:
        self.assertEqual(resolve(IPv6Address("TCP", "fe80::1%eth0", 1)).host, "fe80::1")

    def test_unix(self) -> None:
        for peer in (UNIXAddress(None), UNIXAddress(b"/run/x.sock")):
            self.assertEqual(resolve(peer), ClientAddress("unix", is_proxy=True, headers_ignored=False))
            self.assertEqual(resolve(peer, trusted=()), ClientAddress("unix", is_proxy=False, headers_ignored=False))

    def test_no_address(self) -> None:
        for peer in (None, HostnameAddress(b"x", 1), IPv4Address("TCP", "nonsense", 1)):
            self.assertEqual(resolve(peer), ClientAddress("unknown", is_proxy=False, headers_ignored=False))

    def test_trusted_network_in_mapped_form(self) -> None:
        for network in ("::ffff:198.51.100.0/120", "::ffff:198.51.100.66"):
            self.assertTrue(resolve(STRANGER, trusted=(ip_network(network),)).is_proxy)
        self.assertFalse(resolve(STRANGER, trusted=(ip_network("2001:db8::/120"),)).is_proxy)


class PassedOnTests(SynchronousTestCase):
    """Whether a proxy speaks for somebody, whoever that is."""

    def test_proxy(self) -> None:
        """It says so in any of the headers, also where it says nonsense."""
        proxies = ClientAddresses([ip_network("127.0.0.1"), "unix"])
        for peer in (IPv4Address("TCP", "127.0.0.1", 1), UNIXAddress(b"")):
            for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
                self.assertTrue(proxies.is_forwarded(peer, Headers({name: ["?"]})))
            self.assertFalse(proxies.is_forwarded(peer, Headers()))

    def test_stranger(self) -> None:
        """Who isn't trusted speaks for nobody."""
        headers = Headers({"X-Forwarded-For": ["127.0.0.1"]})
        for peer in (IPv4Address("TCP", "192.0.2.1", 1), UNIXAddress(b""), None):
            self.assertFalse(ClientAddresses([ip_network("127.0.0.1")]).is_forwarded(peer, headers))


class SpoofingTests(SynchronousTestCase):
    def test_untrusted_peer(self) -> None:
        """Its headers change nothing, and it is told that they came."""
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
            for value in ("192.0.2.1", "for=192.0.2.1", "127.0.0.1", "garbage", ""):
                expected = ClientAddress("198.51.100.66", is_proxy=False, headers_ignored=True)
                self.assertEqual(resolve(STRANGER, {name: value}), expected)

    def test_unix_peer_that_is_not_trusted(self) -> None:
        expected = ClientAddress("unix", is_proxy=False, headers_ignored=True)
        self.assertEqual(resolve(UNIXAddress(None), {"X-Forwarded-For": "192.0.2.1"}, ()), expected)

    def test_client_of_the_proxy_protocol(self) -> None:
        """Its address comes as the peer's, even if HAProxy itself is trusted: a client is not believed."""
        self.assertEqual(resolve(STRANGER, {"X-Forwarded-For": "192.0.2.1"}).host, "198.51.100.66")

    def test_what_the_client_wrote_stands_left(self) -> None:
        """Through a proxy that appends, in one line or in another."""
        for lines in (
            ["6.6.6.6, 203.0.113.9"],
            ["6.6.6.6", "203.0.113.9"],
            ["127.0.0.1, 10.0.0.1, 203.0.113.9"],
            ["nonsense, , 203.0.113.9"],
            ['"6.6.6.6, 203.0.113.9'],
        ):
            self.assertEqual(resolve(PROXY, {"X-Forwarded-For": lines}).host, "203.0.113.9", lines)

    def test_open_quotation_mark_in_forwarded(self) -> None:
        """It doesn't swallow what the proxy appends."""
        for lines in (
            ['for="6.6.6.6, for=203.0.113.9'],
            ['for="6.6.6.6', "for=203.0.113.9"],
            ["for=(, for=203.0.113.9"],
        ):
            self.assertEqual(resolve(PROXY, {"Forwarded": lines}).host, "203.0.113.9", lines)

    def test_headers_that_the_proxy_lets_through(self) -> None:
        """X-Forwarded-For is the one that all proxies write."""
        headers: dict[str, str | list[str]] = {
            "X-Forwarded-For": "203.0.113.9",
            "X-Real-IP": "6.6.6.6",
            "Forwarded": "for=6.6.6.6",
        }
        self.assertEqual(resolve(PROXY, headers).host, "203.0.113.9")
        del headers["X-Forwarded-For"]
        headers["X-Real-IP"] = "203.0.113.9"
        self.assertEqual(resolve(PROXY, headers).host, "203.0.113.9")

    @given(st.text("0123456789abcdef.:, \"'[]=;for\t_-\\", max_size=40))
    def test_nothing_on_the_left_matters(self, left: str) -> None:
        """Whatever a client sends, its proxy's word counts."""
        for headers in ({"X-Forwarded-For": f"{left}, 203.0.113.9"}, {"Forwarded": f"{left},for=203.0.113.9"}):
            expected = ClientAddress("203.0.113.9", is_proxy=False, headers_ignored=False)
            self.assertEqual(resolve(PROXY, dict(headers)), expected)


class ForwardedForTests(SynchronousTestCase):
    def check(self, expected: str, *lines: str, is_proxy: bool = False) -> None:
        found = resolve(PROXY, {"X-Forwarded-For": list(lines)})
        self.assertEqual(found, ClientAddress(expected, is_proxy=is_proxy, headers_ignored=False))

    def test_one_proxy(self) -> None:
        self.check("203.0.113.9", "203.0.113.9")
        self.check("2001:db8::7", "2001:db8::7")

    def test_rightmost_untrusted(self) -> None:
        """Past every proxy that is trusted, and no further."""
        self.check("203.0.113.9", "6.6.6.6, 203.0.113.9, 10.1.2.3, 10.4.5.6")
        self.check("203.0.113.9", "6.6.6.6, 203.0.113.9", "10.1.2.3")

    def test_all_trusted(self) -> None:
        """Somebody on the proxies' own network: the furthest of them, who isn't to be banned."""
        self.check("10.0.0.1", "10.0.0.1, 10.0.0.2", is_proxy=True)

    def test_ports(self) -> None:
        for node in ("203.0.113.9:1234", "203.0.113.9"):
            self.check("203.0.113.9", node)
        for node in ("[2001:db8::7]:1234", "[2001:db8::7]", "2001:db8::7"):
            self.check("2001:db8::7", node)

    def test_mapped_ipv4(self) -> None:
        self.check("203.0.113.9", "::ffff:203.0.113.9")
        self.check("203.0.113.9", "203.0.113.9, ::ffff:10.0.0.1")

    def test_nobody_who_can_be_identified(self) -> None:
        """The proxy didn't know, or wrote what is no address: nobody left of that is believed."""
        for node in ("unknown", "_hidden", "nonsense", "1.2.3", "1.2.3.4.5", "203.0.113.9:x", "a" * 2000, "300.1.1.1"):
            self.check("127.0.0.1", f"6.6.6.6, {node}", is_proxy=True)
            self.check("10.0.0.1", f"6.6.6.6, {node}, 10.0.0.1", is_proxy=True)

    def test_empty(self) -> None:
        for value in ("", ",", " , "):
            self.check("127.0.0.1", value, is_proxy=True)

    def test_unix_socket_between_proxies(self) -> None:
        """nginx calls a client on a UNIX socket ``unix:``."""
        self.check("203.0.113.9", "203.0.113.9, unix:")
        found = resolve(PROXY, {"X-Forwarded-For": "203.0.113.9, unix:"}, (ip_network("127.0.0.1"),))
        self.assertEqual(found, ClientAddress("unix", is_proxy=False, headers_ignored=False))

    def test_unix_peer(self) -> None:
        self.assertEqual(resolve(UNIXAddress(None), {"X-Forwarded-For": "203.0.113.9"}).host, "203.0.113.9")

    def test_long_chains_end(self) -> None:
        chain = ["203.0.113.9"] + ["10.0.0.1"] * MAX_HOPS
        self.check("10.0.0.1", ", ".join(chain), is_proxy=True)
        self.check("203.0.113.9", ", ".join(chain[:-1]))

    @given(st.lists(IPS, min_size=1, max_size=5), st.sampled_from([", ", ",", " ,\t"]))
    def test_any_chain(self, ips: list[str], separator: str) -> None:
        """With everybody else trusted, the first is the client; with nobody, the last."""
        trusted: tuple[Trusted, ...] = (ip_network("127.0.0.1"), *(ip_network(ip) for ip in ips[1:] if ip != ips[0]))
        if ips[0] not in ips[1:] and canonical(ips[0]) != "127.0.0.1":
            found = resolve(PROXY, {"X-Forwarded-For": separator.join(ips)}, trusted)
            self.assertEqual(found.host, canonical(ips[0]))
        found = resolve(PROXY, {"X-Forwarded-For": separator.join(ips)}, (ip_network("127.0.0.1/32"),))
        if canonical(ips[-1]) != "127.0.0.1":
            self.assertEqual(found.host, canonical(ips[-1]))


class RealIpTests(SynchronousTestCase):
    def test_one_address(self) -> None:
        self.assertEqual(resolve(PROXY, {"X-Real-IP": "203.0.113.9"}).host, "203.0.113.9")

    def test_last_one(self) -> None:
        self.assertEqual(resolve(PROXY, {"X-Real-IP": ["6.6.6.6", "203.0.113.9"]}).host, "203.0.113.9")

    def test_no_chain(self) -> None:
        """What stands before a trusted address is somebody's invention."""
        found = resolve(PROXY, {"X-Real-IP": "6.6.6.6, 10.0.0.1"})
        self.assertEqual(found, ClientAddress("10.0.0.1", is_proxy=True, headers_ignored=False))


class ForwardedTests(SynchronousTestCase):
    """RFC 7239."""

    def check(self, expected: str, *lines: str, is_proxy: bool = False) -> None:
        found = resolve(PROXY, {"Forwarded": list(lines)})
        self.assertEqual(found, ClientAddress(expected, is_proxy=is_proxy, headers_ignored=False), lines)

    def test_examples_of_the_rfc(self) -> None:
        """Sections 4 and 7.1."""
        self.check("127.0.0.1", 'for="_gazonk"', is_proxy=True)
        self.check("2001:db8:cafe::17", 'For="[2001:db8:cafe::17]:4711"')
        self.check("192.0.2.60", "for=192.0.2.60;proto=http;by=203.0.113.43")
        self.check("198.51.100.17", "for=192.0.2.43, for=198.51.100.17")
        self.check("2001:db8:cafe::17", 'for=192.0.2.43, for="[2001:db8:cafe::17]"')
        self.check("127.0.0.1", "for=192.0.2.43, for=unknown", is_proxy=True)

    def test_rightmost_untrusted(self) -> None:
        self.check("203.0.113.9", "for=6.6.6.6, for=203.0.113.9;proto=https", "for=10.0.0.1", 'for="10.0.0.2:80"')

    def test_quoted(self) -> None:
        self.check("203.0.113.9", 'for="203.0.113.9:1234"')
        self.check("203.0.113.9", 'for="203\\.0.113\\.9"')

    def test_quotation_marks_left_out(self) -> None:
        """Not allowed, and common."""
        self.check("203.0.113.9", "for=203.0.113.9:1234")
        self.check("2001:db8::7", "for=[2001:db8::7]:1234")
        self.check("2001:db8::7", "for=2001:db8::7")

    def test_white_space_and_empty_elements(self) -> None:
        self.check("203.0.113.9", " ,, \tfor=203.0.113.9 ; proto=http;;, ,")

    def test_comma_in_a_quoted_string(self) -> None:
        self.check("203.0.113.9", 'for=203.0.113.9;x="a, for=6.6.6.6", for=10.0.0.1;y="a,b\\",c"')

    def test_obfuscated_ports(self) -> None:
        self.check("203.0.113.9", 'for="203.0.113.9:_port"')

    def test_elements_that_identify_nobody(self) -> None:
        """Without a for, with two of them, or malformed: nobody left of them is believed."""
        for element in (
            "proto=http",
            "for=1.1.1.1;for=203.0.113.9",
            "for",
            "for=",
            'for="',
            "for=a b",
            "=",
            ";",
            "for =1.1.1.1",
        ):
            self.check("127.0.0.1", f"for=6.6.6.6, {element}", is_proxy=True)

    @given(
        st.lists(st.tuples(IPS, st.booleans(), st.sampled_from(["", ":80", ":_p"])), min_size=1, max_size=4),
        st.sampled_from(["", ";proto=https", ';x="a,b"', ';x="\\",\\\\";by=_z']),
        st.booleans(),
    )
    def test_round_trip(self, hops: list[tuple[str, bool, str]], more: str, one_line: bool) -> None:
        """However an address is written down, it is read as that address: the last one that isn't trusted."""
        elements = []
        for ip, upper, port in hops:
            node = f"[{ip.upper() if upper else ip}]{port}" if ":" in ip else ip + port
            elements.append(f'{"FOR" if upper else "for"}="{node}"{more}')
        header = [", ".join(elements)] if one_line else elements
        trusted: tuple[Trusted, ...] = (ip_network("127.0.0.1"),)
        for hop in map(canonical, [ip for ip, _, _ in reversed(hops)]):
            if ip_network(hop) not in trusted:
                self.assertEqual(resolve(PROXY, {"Forwarded": header}, trusted).host, hop)
                trusted = (*trusted, ip_network(hop))

    @given(st.binary(max_size=200), st.sampled_from([b"X-Forwarded-For", b"X-Real-IP", b"Forwarded"]))
    def test_any_bytes(self, value: bytes, name: bytes) -> None:
        """An address comes of everything: one that is there, or the proxy's."""
        host = ClientAddresses(TRUSTED).resolve(PROXY, Headers({name: [value]})).host
        self.assertTrue(host == "unix" or canonical(host) == host, host)

    @given(st.text('for=,;"\\ \t[]:1.', max_size=60))
    def test_almost_forwarded(self, value: str) -> None:
        found = resolve(PROXY, {"Forwarded": value})
        self.assertEqual(found.host, canonical(found.host))

    def test_work_is_bounded(self) -> None:
        """The longest header that HTTP lets through is read without going over it again and again."""
        for value in (
            'for="' * 3000,
            "," * 16000,
            'a="b,' * 3000,
            "for=1.1.1.1;" * 1300,
            "\t" * 16000,
            'for="\\"' * 2000,
        ):
            self.assertEqual(resolve(PROXY, {"Forwarded": value}).is_proxy, True)
