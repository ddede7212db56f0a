"""Files whose bytes a proxy sends, and those that it is better not told of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import ClientAddresses
from hmacfs.errors import Refused
from hmacfs.net import streaming
from hmacfs.storage.names import SlotPath
from hmacfs.web.offloading import MAX_VALUE_BYTES, Offloading
from tests.descriptors import none_left_open
from tests.net.wire import Answer, MemoryTransport
from tests.web.support import NOW, PATH, URL, ServerTestCase, bearer, request

CONTENT = bytes(range(100))
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}

PROXY = IPv4Address("TCP", "127.0.0.1", 50_000)
STRANGER = IPv4Address("TCP", "203.0.113.9", 50_000)

USUAL = [("Accept-Ranges", "bytes"), ("ETag", '"1"')]

ADDRESSES = ClientAddresses([ip_network("127.0.0.1"), "unix"])


def path_of(encoded: bytes) -> SlotPath:
    return SlotPath.from_encoded(encoded)


def value(offloading: Offloading, path: SlotPath, peer: IAddress = PROXY) -> str | None:
    """What the header says for a whole file, which a proxy has asked for."""
    headers = offloading.headers(path, peer, Headers({"X-Forwarded-For": ["203.0.113.9"]}), [], part=False)
    return None if headers is None else next(iter(headers.values()))


class ValueTests(SynchronousTestCase):
    """What the header says."""

    def test_prefix(self) -> None:
        """For nginx: the location, and the path as in a URL. It adds ``Accept-Ranges`` even where that is there."""
        offloading = Offloading.below_prefix("/protected/", ADDRESSES)
        headers = Headers({"X-Real-IP": ["203.0.113.9"]})
        self.assertEqual(
            offloading.headers(path_of(b"a b/100%?\xff\xc3\xbc.jpg"), PROXY, headers, USUAL, part=False),
            {"ETag": '"1"', "X-Accel-Redirect": "/protected/a%20b/100%25%3F%FF%C3%BC.jpg"},
        )

    def test_directory(self) -> None:
        """For Apache and lighttpd: the absolute path. They add nothing that is there."""
        offloading = Offloading.below_directory(Path("/srv/store"), ADDRESSES)
        headers = Headers({"Forwarded": ["for=203.0.113.9"]})
        self.assertEqual(
            offloading.headers(path_of(b"a-1/~b_c.jpg"), PROXY, headers, USUAL, part=False),
            {**dict(USUAL), "X-Sendfile": "/srv/store/a-1/~b_c.jpg"},
        )

    def test_read_in_two_ways(self) -> None:
        """Some of them decode it and some don't: they hear only of paths for which that makes no difference."""
        offloading = Offloading.below_directory(Path("/srv/store"), ADDRESSES)
        for name in (b"a b", b"100%", b"a%20b", b"\xc3\xbc", b"\xff", b"a+b", b"a?b", b"a:b"):
            self.assertIsNone(value(offloading, path_of(name)), name)
        self.assertIsNone(value(Offloading.below_directory(Path("/srv/my store"), ADDRESSES), path_of(b"a")))

    def test_relative_directory(self) -> None:
        """It is absolute all the same, and the root has no second slash."""
        self.assertEqual(value(Offloading.below_directory(Path("/"), ADDRESSES), path_of(b"a")), "/a")
        found = value(Offloading.below_directory(Path("store"), ADDRESSES), path_of(b"a"))
        self.assertEqual(unquote_to_bytes(found or ""), os.fsencode(Path.cwd() / "store" / "a"))

    @given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4))
    def test_any_path(self, segments: list[bytes]) -> None:
        """Decoded once it is the path that was asked for; on the way it is plain ASCII without anything special."""
        try:
            path = SlotPath(tuple(segments))
        except Refused:
            return
        found = value(Offloading.below_prefix("/p/", ADDRESSES), path)
        assert found is not None
        self.assertRegex(found, r"^/p/[A-Za-z0-9._~%/-]+$")
        self.assertEqual(unquote_to_bytes(found), b"/p/" + path.encoded)

    def test_long(self) -> None:
        """A proxy has little room for headers."""
        offloading = Offloading.below_prefix("/p/", ADDRESSES)
        at_most = path_of(b"/".join([b"x" * 200] * 5)[: MAX_VALUE_BYTES - 3] + b"y" * (MAX_VALUE_BYTES - 3 - 1004))
        self.assertEqual(len(value(offloading, at_most) or ""), MAX_VALUE_BYTES)
        self.assertIsNone(value(offloading, path_of(at_most.encoded + b"y")))


class ReceiverTests(SynchronousTestCase):
    """Who is told."""

    def is_told(self, peer: IAddress, headers: Mapping[str, str]) -> bool:
        asked = Headers({name: [value] for name, value in headers.items()})
        return Offloading.below_prefix("/p/", ADDRESSES).headers(path_of(b"a"), peer, asked, [], part=False) is not None

    def test_proxies(self) -> None:
        """Those that are trusted and say for whom they ask."""
        for peer in (PROXY, UNIXAddress(None)):
            for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
                self.assertTrue(self.is_told(peer, {name: "203.0.113.9"}), (peer, name))

    def test_their_machine(self) -> None:
        """Somebody on the proxy's machine, whose client sees what comes."""
        for peer in (PROXY, UNIXAddress(None)):
            self.assertFalse(self.is_told(peer, {}))

    def test_strangers(self) -> None:
        """Whatever they say."""
        self.assertFalse(self.is_told(STRANGER, {}))
        self.assertFalse(self.is_told(STRANGER, FORWARDED))
        self.assertFalse(self.is_told(STRANGER, {"X-Forwarded-For": "127.0.0.1"}))


class OffloadedTestCase(ServerTestCase):
    """A server behind a proxy, and one without that has the same file."""

    def setUp(self) -> None:
        super().setUp()
        self.behind = self.serve(offloading=Offloading.below_prefix("/protected/", ADDRESSES))
        self.server.put(PATH, CONTENT, {"Content-Type": "image/jpeg"})

    def ask(self, headers: Mapping[str, str] | None = None, method: str = "GET", target: str = URL) -> Answer:
        """As the proxy does."""
        sent = request(method, target, {**FORWARDED, **(headers or {})})
        wire = self.behind.connect(sent, transport=MemoryTransport(PROXY.host))
        (answer,) = wire.answers(method)
        return answer

    def assert_ours(self, headers: Mapping[str, str], method: str = "GET") -> Answer:
        """The proxy is sent what any client is."""
        answer = self.ask(headers, method)
        self.assertEqual(answer, self.server.get(PATH, headers, method))
        return answer


class DownloadTests(OffloadedTestCase):
    """What the proxy is answered."""

    def test_whole(self) -> None:
        """All headers but one, with the path in place of the bytes, and a length that is true."""
        answer, usual = self.ask(), self.server.get()
        expected = {**usual.headers, "content-length": "0", "x-accel-redirect": f"/protected/{PATH}"}
        del expected["accept-ranges"]
        self.assertEqual((answer.status, answer.headers, answer.body), (200, expected, b""))

    def test_part(self) -> None:
        """The proxy cuts out the range by itself, of a whole answer."""
        self.patch(streaming, "time", lambda: NOW)
        whole = self.ask()
        for headers in ({"Range": "bytes=0-9"}, {"Range": "bytes=-5", "If-Range": whole.headers["etag"]}):
            self.assertEqual(self.ask(headers), whole)

    def test_conditions(self) -> None:
        """Those that mean something to us are decided by us."""
        etag = self.server.get().headers["etag"]
        self.assertEqual(self.assert_ours({"If-None-Match": etag}).status, 304)
        self.assertIn("x-accel-redirect", self.ask({"If-None-Match": '"other"'}).headers)

    def test_not_understood_alike(self) -> None:
        """Nothing is left to the proxy that it would answer in another way than we do."""
        for headers in (
            {"Range": "bytes=0-1,5-6"},
            {"Range": "bytes=5-1"},
            {"Range": "lines=0-1"},
            {"Range": "bytes=0-1", "If-Range": '"other"'},
            {"If-Match": '"other"'},
            {"If-Unmodified-Since": "Mon, 21 Sep 2015 14:13:20 GMT"},
        ):
            self.assertEqual(self.assert_ours(headers).body, CONTENT, headers)
        self.assertEqual(self.assert_ours({"Range": "bytes=100-"}).status, 416)

    def test_head(self) -> None:
        """Has no bytes to be left to anybody."""
        self.assert_ours({}, "HEAD")

    def test_empty_file(self) -> None:
        self.patch(streaming, "time", lambda: NOW)
        self.server.put("slot/empty", b"")
        self.assertEqual(self.ask(target="/upload/slot/empty"), self.server.get("slot/empty"))

    def test_over(self) -> None:
        """410 where the file's time is over, 404 where there is none: the proxy hears of no path."""
        self.server.ask(request("PUT", "/upload/b/f", bearer("b/f", 100, expires=NOW + 60), CONTENT))
        self.clock.advance(60)
        for target, status in (("/upload/b/f", 410), ("/upload/b/none", 404), ("/upload/.hmacfs/server.key", 400)):
            answer = self.ask(target=target)
            self.assertEqual((answer.status, "x-accel-redirect" in answer.headers), (status, False))

    def test_direct(self) -> None:
        """A client that comes without the proxy gets the bytes, from the same server."""
        for headers in ({}, FORWARDED):
            wire = self.behind.connect(request("GET", URL, headers), transport=MemoryTransport(STRANGER.host))
            self.assertEqual(wire.answer(), self.server.get())

    def test_connection_stays(self) -> None:
        """One answer after the other."""
        sent = request("GET", URL, FORWARDED) + request("GET", URL, {**FORWARDED, "If-Match": "*"})
        wire = self.behind.connect(sent, transport=MemoryTransport(PROXY.host))
        self.assertEqual([answer.body for answer in wire.answers()], [b"", CONTENT])


class NotedTests(OffloadedTestCase):
    """What is known of it afterwards."""

    def test_counted(self) -> None:
        """It is a download of a kind of its own, by which operators see that the proxy does its part."""
        self.ask()
        self.ask({"If-Match": "*"})
        counts = [self.behind.metric("downloads_total", kind=kind) for kind in ("offloaded", "whole")]
        self.assertEqual(counts, [1, 1])

    def test_logged(self) -> None:
        """Under the client's address, as every other request."""
        self.ask()
        entry = self.behind.entries[-1]
        self.assertEqual((entry.method, entry.path, entry.status, entry.sent_bytes), ("GET", URL, 200, 0))

    def test_read(self) -> None:
        """Somebody has wanted the file."""
        self.ask()
        self.assertEqual(self.behind.read, [path_of(PATH.encode())])

    def test_closed(self) -> None:
        """The file is not left open."""
        with none_left_open(self):
            self.ask()
