"""Who is listened to at all, and how many: the doors of hmacfs.net.streaming."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET

from hmacfs.net.admission import MOST_FAREWELLS, Connections, Excess
from hmacfs.net.canned import canned_answer
from hmacfs.net.streaming import RETRY_AFTER_S, StreamingRequest
from tests.net.sockets import LiveSite, LiveTestCase, ask, dial, in_thread, read_all
from tests.net.wire import (
    ABORTED,
    CLOSED,
    OPEN,
    Echo,
    Later,
    MemoryTransport,
    RecordingSite,
    Wire,
    get,
    parse_answers,
    put,
    respond,
)

BANNED = canned_answer(403, "banned", "Not you.")


def scope(peer: IAddress) -> str | None:
    return peer.host if isinstance(peer, IPv4Address) else None


def limited(most: int = 0, most_per_address: int = 0) -> Connections:
    return Connections(most, most_per_address, scope)


class AdmitTests(SynchronousTestCase):
    """A peer that isn't listened to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = RecordingSite(Echo(), self.clock, farewell_s=2.0)

    def test_asked_once(self) -> None:
        """With the first bytes, and not again."""
        wire = Wire(self.site)
        self.assertEqual(self.site.asked, [])
        wire.send(b"G", get()[1:], get())
        self.assertEqual((self.site.asked, wire.statuses()), (["192.0.2.1"], [200, 200]))

    def test_turned_away(self) -> None:
        """It gets its answer and the end of it; what it sends is nobody's business."""
        self.site.banned["192.0.2.1"] = BANNED
        wire = Wire(self.site)
        wire.send(b"\0\1 nonsense", get(), put(b"abc"))
        answer = wire.answer()
        self.assertEqual((answer.status, answer.body), (403, b"banned: Not you.\n"))
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual((wire.end, wire.transport.half_closed), (OPEN, True))
        self.assertEqual((self.site.finished, self.site.malformed, self.site.asked), ([], [], ["192.0.2.1"]))

    def test_peer_closes(self) -> None:
        """And that is all."""
        self.site.banned["192.0.2.1"] = BANNED
        wire = Wire(self.site)
        wire.send(get())
        wire.vanish()
        self.assertEqual((self.clock.getDelayedCalls(), self.site.channels), ([], set()))

    def test_peer_stays(self) -> None:
        """It is cut off soon."""
        self.site.banned["192.0.2.1"] = BANNED
        wire = Wire(self.site)
        wire.send(get())
        self.clock.advance(1)
        self.assertEqual(wire.end, OPEN)
        self.clock.advance(1)
        self.assertEqual(wire.end, ABORTED)

    def test_peer_sends_and_sends(self) -> None:
        """It is cut off when it is clear that it doesn't look up."""
        self.site.banned["192.0.2.1"] = BANNED
        wire = Wire(self.site)
        wire.send(*[b"x" * 65536] * 16)
        self.assertEqual(wire.end, OPEN)
        wire.send(b"x")
        self.assertEqual(wire.end, ABORTED)

    def test_closed_before_it_has_said_anything(self) -> None:
        """A service that stops closes those, too."""
        wire = Wire(self.site)
        wire.channel.loseConnection()
        self.assertEqual((wire.end, self.site.asked), (CLOSED, []))


class LimitTests(SynchronousTestCase):
    """As many connections as there may be."""

    def site(self, connections: Connections, handler: Any = None) -> RecordingSite:
        self.clock = Clock()
        headers = [(b"X-Always", b"y")]
        return RecordingSite(handler or Echo(), self.clock, headers=headers, connections=connections, idle_timeout_s=60)

    def test_address(self) -> None:
        """The one too many of an address hears 429 before it says anything; others of it, and others, are served."""
        site = self.site(limited(most_per_address=1))
        first, second = Wire(site), Wire(site)
        other = Wire(site, MemoryTransport("192.0.2.2"))
        answer = second.answer()
        self.assertEqual((answer.status, answer.headers["x-always"]), (429, "y"))
        self.assertEqual(answer.headers["retry-after"], str(RETRY_AFTER_S))
        self.assertTrue(answer.body.startswith(b"too-many-connections: "))
        second.send(get())
        first.send(get())
        other.send(get())
        self.assertEqual((first.statuses(), other.statuses(), second.statuses()), ([200], [200], [429]))
        self.assertEqual((site.excess, site.asked), ([("192.0.2.1", Excess.ADDRESS)], ["192.0.2.1", "192.0.2.2"]))

    def test_room_again(self) -> None:
        """A connection that ends, however it ends, makes room."""
        site = self.site(limited(most_per_address=1))
        for end in ("vanish", "close", "abort", "turned away"):
            wire = Wire(site)
            if end == "vanish":
                wire.vanish()
            elif end == "close":
                wire.send(put(b"abc", b"Connection: close"))
            elif end == "abort":
                wire.channel.abortConnection()
            else:
                site.banned["192.0.2.1"] = BANNED
                wire.send(get())
                site.banned.clear()
            last = Wire(site)
            last.send(get())
            self.assertEqual(last.statuses(), [200], end)
            last.vanish()

    def test_all_are_busy(self) -> None:
        """With as many as there may be, and none of them waiting, a new one hears 503."""
        later = Later()
        site = self.site(limited(2), later)
        busy, new = Wire(site), Wire(site)
        busy.send(get())
        last = Wire(site)
        self.assertEqual((last.answer().status, last.answer().headers["retry-after"]), (503, str(RETRY_AFTER_S)))
        self.assertEqual((busy.end, new.end, site.excess), (OPEN, OPEN, [("192.0.2.1", Excess.TOTAL)]))
        respond(later.request, 200)
        self.assertEqual(busy.statuses(), [200])

    def test_longest_idle_goes(self) -> None:
        """It is closed between two requests, and the new one is served."""
        site = self.site(limited(2))
        first, second = Wire(site), Wire(site)
        for wire in (first, second, first):
            wire.send(get())
        third = Wire(site)
        third.send(get())
        self.assertEqual((first.end, second.end, third.statuses()), (OPEN, CLOSED, [200]))
        self.assertEqual((site.excess, len(site.connections)), ([], 2))

    def test_next_request_has_begun(self) -> None:
        """One byte of it, and the connection stays."""
        site = self.site(limited(1))
        wire = Wire(site)
        wire.send(get(), b"G")
        self.assertEqual(Wire(site).answer().status, 503)
        wire.send(get()[1:])
        self.assertEqual((wire.end, wire.statuses()), (OPEN, [200, 200]))

    def test_many_farewells(self) -> None:
        """When very many are turned away at once, the descriptors are for others: closed as soon as it is said."""
        site = self.site(limited(1))
        Wire(site)
        turned_away = [Wire(site) for _ in range(MOST_FAREWELLS + 1)]
        self.assertEqual([wire.end for wire in turned_away], [OPEN] * MOST_FAREWELLS + [CLOSED])
        self.assertEqual({wire.answer().status for wire in turned_away}, {503})

    def test_hook_that_fails(self) -> None:
        """Changes nothing on the wire."""

        class Broken(RecordingSite):
            def turnedAway(self, peer: IAddress, excess: Excess) -> None:
                raise ValueError("on purpose")

        site = Broken(Echo(), Clock(), connections=limited(1))
        Wire(site)
        self.assertEqual(Wire(site).answer().status, 503)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class LiveAdmissionTests(LiveTestCase):
    """The same on true sockets: the peer sees its answer, whole, whatever it sends."""

    def site(self, **settings: Any) -> LiveSite:
        site = LiveSite(Echo(), farewell_s=5.0, **settings)
        site.banned = {"127.0.0.1": BANNED, "unix": BANNED, "192.0.2.77": BANNED}
        return site

    @inlineCallbacks
    def turned_away(self, address: Any, data: bytes, *, tls: bool = False) -> Iterator[Any]:
        """The connection ends without an error, and long before it would be cut."""
        answer = yield in_thread(lambda: ask(address, data, tls=tls))
        self.assertEqual([a.status for a in parse_answers(answer)], [403])

    def test_tcp(self) -> Any:
        """A body that is on its way doesn't cost the answer."""
        return self.turned_away(self.tcp(self.site()), put(b"x" * 300_000))

    def test_tls(self) -> Any:
        """The same below TLS."""
        return self.turned_away(self.tls(self.site()), put(b"x" * 300_000), tls=True)

    def test_unix(self) -> Any:
        """The same on a UNIX socket."""
        return self.turned_away(self.unix(self.site()), put(b"x" * 300_000))

    def test_announced_peer(self) -> Any:
        """Behind the PROXY protocol it is the announced one that counts."""
        line = b"PROXY TCP4 192.0.2.77 192.0.2.2 50000 80\r\n"
        return self.turned_away(self.proxied(self.site()), line + get())

    @inlineCallbacks
    def test_other_announced_peer(self) -> Iterator[Any]:
        """And its proxy doesn't."""
        site = self.site()
        line = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 80\r\n"
        answer = yield in_thread(ask, self.proxied(site), line + put(b"abc", b"Connection: close"))
        self.assertEqual(([a.status for a in parse_answers(answer)], site.asked), ([201], ["192.0.2.1"]))

    @inlineCallbacks
    def too_many(self, address: Any, site: LiveSite, *, tls: bool) -> Iterator[Any]:
        """The second connection is told, without a byte from it."""
        client = yield in_thread(lambda: dial(address, tls=tls))
        self.addCleanup(client.close)
        yield site.when_first()

        def second() -> bytes:
            with dial(address, tls=tls) as other:
                return read_all(other)

        answer = yield in_thread(second)
        self.assertEqual([a.status for a in parse_answers(answer)], [429])

    def test_too_many(self) -> Any:
        """Over TCP."""
        site = LiveSite(Echo(), connections=limited(most_per_address=1))
        return self.too_many(self.tcp(site), site, tls=False)

    def test_too_many_below_tls(self) -> Any:
        """Over TLS, where the handshake comes first."""
        site = LiveSite(Echo(), connections=limited(most_per_address=1))
        return self.too_many(self.tls(site), site, tls=True)

    @inlineCallbacks
    def test_too_many_announced(self) -> Iterator[Any]:
        """Behind the PROXY protocol each announced address has its own number."""
        asked: Deferred[StreamingRequest] = Deferred()

        def handler(request: StreamingRequest) -> Any:
            if request.uri == b"/wait":
                asked.callback(request)
                return NOT_DONE_YET
            return b"here"

        address = self.proxied(LiveSite(handler, connections=limited(most_per_address=1)))
        one, other = (b"PROXY TCP4 192.0.2.%d 192.0.2.2 50000 80\r\n" % number for number in (1, 7))
        client = dial(address)
        self.addCleanup(client.close)
        client.sendall(one + get(b"/wait"))
        yield asked
        statuses = []
        for line in (one, other):
            answer = yield in_thread(ask, address, line + put(b"", b"Connection: close"))
            statuses += [a.status for a in parse_answers(answer)]
        self.assertEqual(statuses, [429, 200])

    @inlineCallbacks
    def idle_goes(self, address: Any, *, tls: bool) -> Iterator[Any]:
        """An idle connection is closed for a new one, at once."""

        def idle() -> Any:
            client = dial(address, tls=tls)
            client.sendall(get())
            client.recv(1000)
            return client

        client = yield in_thread(idle)
        self.addCleanup(client.close)
        answer = yield in_thread(lambda: ask(address, put(b"abc", b"Connection: close"), tls=tls))
        self.assertEqual([a.status for a in parse_answers(answer)], [201])

    def test_idle_goes(self) -> Any:
        """Over TCP."""
        return self.idle_goes(self.tcp(LiveSite(Echo(), connections=limited(1))), tls=False)

    def test_idle_goes_below_tls(self) -> Any:
        """Over TLS, whose farewell would take the peer's consent."""
        return self.idle_goes(self.tls(LiveSite(Echo(), connections=limited(1))), tls=True)
