"""Tests for :mod:`hmacfs.net.listening`."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import KeyPair
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from hmacfs.net import listening
from hmacfs.net.listening import CannotListen, Held, Listener

TIMEOUT_S = 20


class Greeter(Protocol):
    """Says hello, and whom it takes the peer for, as soon as a line has come; closes."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"hello " + repr(self.transport.getPeer()).encode())
        self.transport.loseConnection()


def greeting(make: Callable[[], socket.socket], line: bytes = b"hi\n") -> bytes:
    """What the server says to a client; for a thread."""
    with make() as client:
        client.settimeout(TIMEOUT_S)
        client.sendall(line)
        said = b""
        while piece := client.recv(4096):
            said += piece
        return said


def awaited(test: Callable[[Any], Coroutine[Deferred[Any], Any, None]]) -> Callable[[Any], Deferred[None]]:
    """Makes a test of a coroutine function, which trial of Twisted 22.4 would call, never await, and count as passed."""

    @wraps(test)
    def run(case: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(case))

    return run


def by_tcp(host: str, port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection((host, port), timeout=TIMEOUT_S)


def by_unix(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        return client

    return connect


def by_tls(port: int, pem: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        context = ssl.create_default_context(cafile=str(pem))
        return context.wrap_socket(by_tcp("127.0.0.1", port)(), server_hostname="localhost")

    return connect


def make_certificate(directory: Path) -> Path:
    """A file with a key and its certificate."""
    key = KeyPair.generate(size=2048)
    pem = directory / "key and cert.pem"
    pem.write_bytes(key.dump(1) + key.selfSignedCert(1, CN="localhost").dumpPEM())
    return pem


class ListeningTestCase(TestCase):
    """Starts listeners on the real reactor, and stops them after the test."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.factory = Factory.forProtocol(Greeter)
        self.factory.noisy = False
        # trial's own directory for a test can be too deep for a UNIX socket.
        directory = tempfile.TemporaryDirectory(prefix="listening-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.socket_path = self.directory / "http.sock"

    def listener(self, endpoint: str, reactor: Any = None, **kw: Any) -> Listener:
        return Listener(reactor or self.reactor, endpoint, self.factory, **kw)

    def started(self, endpoint: str, reactor: Any = None, **kw: Any) -> Listener:
        listener = self.listener(endpoint, reactor, **kw)
        self.addCleanup(lambda: listener.stopService() if listener.running else None)
        listener.privilegedStartService()
        listener.startService()
        return listener

    def refused(self, endpoint: str, reactor: Any = None, **kw: Any) -> CannotListen:
        """The error at the start, from the start with privileges and from the one without."""
        texts = set()
        for start in (Listener.privilegedStartService, Listener.startService):
            error = self.assertRaises(CannotListen, start, self.listener(endpoint, reactor, **kw))
            texts.add(str(error))
        self.assertEqual(len(texts), 1)
        return error

    def port(self, listener: Listener) -> int:
        address: Any = listener.addresses[0]
        return int(address.port)

    def said(self, connect: Callable[[], socket.socket], line: bytes = b"hi\n") -> Deferred[bytes]:
        return deferToThread(greeting, connect, line)


class TcpTests(ListeningTestCase):
    """Addresses and ports."""

    @awaited
    async def test_ipv4(self) -> None:
        """Clients are served at the address; which one it is, with the chosen port, is known at once."""
        listener = self.started("tcp:0:interface=127.0.0.1")
        port = self.port(listener)
        self.assertEqual(listener.describe(), f"127.0.0.1:{port}")
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", port)))

    @awaited
    async def test_ipv6(self) -> None:
        """An IPv6 address is served and written in brackets; where there is no IPv6, the error says so."""
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self.assertRegex(self.refused(r"tcp:0:interface=\:\:1").reason, "IPv6|no network interface")
        else:
            listener = self.started(r"tcp:0:interface=\:\:1")
            self.assertEqual(listener.describe(), f"[::1]:{self.port(listener)}")
            self.assertIn(b"hello", await self.said(by_tcp("::1", self.port(listener))))

    @awaited
    async def test_all_addresses(self) -> None:
        """The wildcard takes IPv4 clients too, with and without IPv6 on the machine."""
        listener = self.started(r"tcp:0:interface=\:\:", fallback="tcp:0:interface=0.0.0.0")
        address: Any = listener.addresses[-1]
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", address.port)))

    @awaited
    async def test_machine_without_ipv6(self) -> None:
        """The fallback stands in where the kernel knows no IPv6."""
        listener = self.started(
            r"tcp:0:interface=\:\:", NoIpv6(self.reactor), fallback="tcp:0:interface=127.0.0.1", name="[::]:0"
        )
        self.assertEqual(listener.describe(), f"127.0.0.1:{self.port(listener)}")
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", self.port(listener))))

    def test_machine_without_ipv6_and_no_fallback(self) -> None:
        """Who asks for an IPv6 address gets it, or an error."""
        error = self.refused(r"tcp:0:interface=\:\:", NoIpv6(self.reactor), name="[::]:0")
        self.assertEqual(str(error), "[::]:0: this machine does not speak IPv6")

    @awaited
    async def test_ipv6_sockets_for_ipv6_alone(self) -> None:
        """Where the system's IPv6 sockets take no IPv4, the fallback is opened beside."""
        reactor = OneFamilyEach(self.reactor)
        listener = self.started("tcp:0:interface=first", reactor, fallback="tcp:0:interface=127.0.0.1")
        self.assertEqual(len(listener.addresses), 2)
        self.assertEqual(listener.describe().count(" and "), 1)
        address: Any = listener.addresses[1]
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", address.port)))

    def test_port_in_use(self) -> None:
        """A port that somebody else has is an error at once, which names the place and a way to find out who."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            place = f"127.0.0.1:{other.getsockname()[1]}"
            error = self.refused(f"tcp:{other.getsockname()[1]}:interface=127.0.0.1", name=place)
        expected = f'{place}: address already in use (another process listens there: see "ss -ltnp")'
        self.assertEqual(str(error), expected)

    def test_port_in_use_is_no_reason_for_the_fallback(self) -> None:
        """Somebody else's socket on all addresses is not answered by another one on IPv4 alone."""
        failing = Failing(self.reactor, errno.EADDRINUSE)
        error = self.refused(r"tcp:80:interface=\:\:", failing, fallback="tcp:80:interface=0.0.0.0")
        self.assertIn("in use", error.reason)
        self.assertEqual(failing.interfaces, ["::", "::"])

    def test_foreign_address(self) -> None:
        """An address of another machine is an error that says so."""
        error = self.refused(
            "tcp:0:interface=192.0.2.1", Failing(self.reactor, errno.EADDRNOTAVAIL), name="192.0.2.1:0"
        )
        self.assertEqual(str(error), "192.0.2.1:0: no network interface of this machine has this address")

    def test_privileged_port(self) -> None:
        """A port that only root may open is an error that says what helps."""
        error = self.refused("tcp:80", Failing(self.reactor, errno.EACCES))
        self.assertIn("CAP_NET_BIND_SERVICE", error.reason)

    def test_other_errors_are_the_systems(self) -> None:
        """For what has no words of ours, the system's are taken."""
        error = self.refused("tcp:80", Failing(self.reactor, errno.EMFILE))
        self.assertEqual(error.reason, os.strerror(errno.EMFILE))

    def test_open_once(self) -> None:
        """The start after the start with privileges opens nothing more."""
        listener = self.started("tcp:0:interface=127.0.0.1")
        self.assertEqual(len(listener.addresses), 1)

    def test_nothing_open_before_the_start(self) -> None:
        """A listener that was made, and not started, listens nowhere."""
        self.assertEqual(self.listener("tcp:0:interface=127.0.0.1").addresses, [])

    @awaited
    async def test_start_without_privileges(self) -> None:
        """A daemon that knows one start alone (twist) is served as well, and the end closes what it opened."""
        listener = self.listener("tcp:0:interface=127.0.0.1")
        listener.startService()
        port = self.port(listener)
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", port)))
        await listener.stopService()
        self.assertEqual(listener.addresses, [])
        self.assertRaises(ConnectionRefusedError, by_tcp("127.0.0.1", port))

    @awaited
    async def test_started_again(self) -> None:
        """After the end it can be started anew."""
        listener = self.started("tcp:0:interface=127.0.0.1")
        await listener.stopService()
        listener.startService()
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", self.port(listener))))


class EndpointTests(ListeningTestCase):
    """What Twisted's endpoint strings can be beside addresses."""

    @awaited
    async def test_ssl(self) -> None:
        """TLS with a key and a certificate from files."""
        pem = make_certificate(self.directory)
        listener = self.started(f"ssl:0:interface=127.0.0.1:privateKey={pem}")
        port = self.port(listener)
        self.assertEqual(listener.describe(), f"127.0.0.1:{port} (ssl)")
        # Twisted closes without waiting for the other side's goodbye.
        self.assertIn(b"hello", await self.said(by_tls(port, pem)))

    def test_ssl_without_a_key(self) -> None:
        """A key that isn't there is an error that names the file."""
        key = self.directory / "none.pem"
        error = self.refused(f"ssl:0:privateKey={key}")
        self.assertEqual(error.reason, f"{key} can't be read: No such file or directory")

    def test_ssl_with_a_bad_key(self) -> None:
        """A file that has no key in it is an error, and no traceback."""
        key = self.directory / "bad.pem"
        key.write_text("no key\n")
        self.assertIn("not a usable endpoint", self.refused(f"ssl:0:privateKey={key}").reason)

    @awaited
    async def test_haproxy(self) -> None:
        """With the PROXY protocol, the peer is whom the proxy names."""
        listener = self.started("haproxy:tcp:0:interface=127.0.0.1")
        self.assertEqual(listener.describe(), f"127.0.0.1:{self.port(listener)} (haproxy)")
        said = await self.said(
            by_tcp("127.0.0.1", self.port(listener)), b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nhi\n"
        )
        self.assertIn(b"203.0.113.9", said)

    @awaited
    async def test_haproxy_on_unix_socket(self) -> None:
        """A UNIX socket behind ``haproxy:`` is one of ours: stale ones are replaced, its file goes at the end."""
        stale_socket(self.socket_path)
        listener = self.started(f"haproxy:unix:{self.socket_path}:mode=600")
        line = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nhi\n"
        self.assertIn(b"203.0.113.9", await self.said(by_unix(self.socket_path), line))
        await listener.stopService()
        self.assertEqual(os.listdir(self.directory), [])

    def test_unknown_kind(self) -> None:
        """What Twisted does not know is an error that names the place."""
        error = self.refused("pigeon:80")
        self.assertEqual(error.name, "pigeon:80")
        self.assertIn("pigeon", error.reason)

    def test_senseless_strings(self) -> None:
        """Whatever the string, nothing but :class:`CannotListen` comes out."""
        for endpoint in (
            "",
            ":",
            "tcp",
            "tcp:x",
            "tcp:1:2:3:4:5",
            "tcp:80:colour=red",
            "unix",
            "haproxy:",
            "ssl:",
            "\\",
        ):
            self.refused(endpoint)

    def test_not_at_once(self) -> None:
        """An endpoint that would be open at some other time is an error: the start has to know."""
        endpoint = Never()
        self.patch(listening, "serverFromString", lambda reactor, text: endpoint)
        self.assertIn("at once", self.refused("onion:80").reason)
        self.assertTrue(endpoint.cancelled)


class PauseTests(SynchronousTestCase):
    """No descriptor is left for the connections that come."""

    def setUp(self) -> None:
        self.port = _Port()
        self.clock = Clock()
        self.pauses = listening._Pauses(self.port, self.clock)
        self.patch(os, "dup", self.dup)
        self.left = False

    def dup(self, _fd: int) -> int:
        if not self.left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os.open(os.devnull, os.O_RDONLY)

    def test_once_a_second(self) -> None:
        """It is tried again after a second, and not before; when there are some, it is not waited for any more."""
        self.port.doRead()
        self.assertEqual((self.port.accepted, self.port.reading), (1, False))
        self.clock.advance(0.99)
        self.assertFalse(self.port.reading)
        self.clock.advance(0.01)
        self.assertTrue(self.port.reading)
        self.left = True
        self.port.doRead()
        self.assertEqual((self.port.accepted, self.port.reading, self.clock.getDelayedCalls()), (2, True, []))

    def test_stopped_meanwhile(self) -> None:
        """Nothing is left behind, and a port that is closed is not read from again."""
        self.port.doRead()
        self.pauses.stop()
        self.assertEqual((self.clock.getDelayedCalls(), self.port.reading), ([], False))


class _Port:
    """As much of a port as is used."""

    def __init__(self) -> None:
        self.accepted = 0
        self.reading = True

    def doRead(self) -> None:
        self.accepted += 1

    def fileno(self) -> int:
        return 0

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class HeldTests(ListeningTestCase):
    """Sockets that are opened for others, which a test plays in this process."""

    def held(self, endpoint: str = "tcp:0:interface=127.0.0.1", shares: int = 2, reactor: Any = None) -> Held:
        held = Held(reactor or self.reactor, endpoint, "the place", None, shares)
        self.addCleanup(lambda: held.stopService() if held.running else None)
        held.privilegedStartService()
        held.startService()
        return held

    def passed(self, held: Held, share: int) -> socket.socket:
        """The only socket of one of the others, as it has it: by a descriptor of its own."""
        (passed,) = held.passed(share)
        mine = socket.fromfd(passed.fd, socket.AF_INET, socket.SOCK_STREAM)
        self.addCleanup(mine.close)
        return mine

    def inheriting(self, theirs: socket.socket, endpoint: str = "tcp:0:interface=127.0.0.1") -> Listener:
        """What serves with a socket that another has opened, as *endpoint* says."""
        return self.started(endpoint, inherited=[os.dup(theirs.fileno())])

    def connect(self, port: int) -> socket.socket:
        client = by_tcp("127.0.0.1", port)()
        self.addCleanup(client.close)
        return client

    def waiting(self, *sockets: socket.socket) -> int:
        """For how many of these there are connections."""
        return len(select.select(sockets, [], [], 0)[0])

    def test_one_for_each(self) -> None:
        """All at the same port, at which each gets some of the connections."""
        held = self.held(shares=3)
        sockets = [self.passed(held, share) for share in range(3)]
        self.assertEqual(len({each.getsockname() for each in sockets}), 1)
        self.assertEqual([passed.number for share in range(3) for passed in held.passed(share)], [None] * 3)
        for _ in range(200):
            self.connect(self.port(held))
        # One that was missed by all of 200 would have been so by a chance of 1 to 10^35.
        self.assertEqual(self.waiting(*sockets), 3)

    def test_takes_none(self) -> None:
        """Who holds them for others doesn't accept."""
        held = self.held(shares=1)
        self.connect(self.port(held))
        self.assertEqual([port for port in held._ports if port in self.reactor.getReaders()], [])
        self.assertEqual(self.waiting(self.passed(held, 0)), 1)

    @awaited
    async def test_served(self) -> None:
        """By who inherits them. That there is another port in its endpoint is nothing to it."""
        held = self.held(shares=1)
        listener = self.inheriting(self.passed(held, 0), "tcp:1:interface=192.0.2.1")
        self.assertEqual(listener.describe(), held.describe())
        self.assertIn(b"hello", await self.said(by_tcp("127.0.0.1", self.port(held))))

    @awaited
    async def test_served_by_the_next_one(self) -> None:
        """Who connects while nobody serves waits, and is served."""
        held = self.held(shares=1)
        await self.inheriting(self.passed(held, 0)).stopService()
        client = self.connect(self.port(held))
        self.inheriting(self.passed(held, 0))
        self.assertIn(b"hello", await self.said(lambda: client))

    @awaited
    async def test_what_is_around_it(self) -> None:
        """The PROXY protocol is spoken by who inherits the socket."""
        held = self.held("haproxy:tcp:0:interface=127.0.0.1", shares=1)
        self.inheriting(self.passed(held, 0), "haproxy:tcp:0:interface=127.0.0.1")
        line = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\nhi\n"
        self.assertIn(b"203.0.113.9", await self.said(by_tcp("127.0.0.1", self.port(held)), line))

    @awaited
    async def test_tls(self) -> None:
        """As well as TLS."""
        pem = make_certificate(self.directory)
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={pem}"
        held = self.held(endpoint, shares=1)
        self.inheriting(self.passed(held, 0), endpoint)
        self.assertIn(b"hello", await self.said(by_tls(self.port(held), pem)))

    @awaited
    async def test_end(self) -> None:
        """Nobody listens any more when all have closed them; until then who still does is not disturbed."""
        held = self.held()
        port, theirs = self.port(held), self.passed(held, 0)
        await held.stopService()
        self.connect(port)
        self.assertEqual(self.waiting(theirs), 1)
        theirs.close()
        self.assertRaises(ConnectionRefusedError, self.connect, port)

    def test_port_in_use(self) -> None:
        """Also by somebody who would share it."""
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            error = self.assertRaises(CannotListen, self.held, f"tcp:{other.getsockname()[1]}:interface=127.0.0.1")
        self.assertIn("the place: address already in use", str(error))

    def test_unix(self) -> None:
        """One socket for all, with the mode of the endpoint; its file goes at the end."""
        held = self.held(f"unix:{self.socket_path}:mode=600")
        ((first,), (second,)) = held.passed(0), held.passed(1)
        self.assertEqual(first, second)
        self.assertEqual(stat.S_IMODE(self.socket_path.stat().st_mode), 0o600)

    @awaited
    async def test_unix_at_the_end(self) -> None:
        """Its file is there for as long as it is held, whoever else has closed the socket."""
        held = self.held(f"unix:{self.socket_path}:mode=600")
        listener = self.started(f"unix:{self.socket_path}:mode=600", inherited=[os.dup(held.passed(0)[0].fd)])
        self.assertIn(b"hello", await self.said(by_unix(self.socket_path)))
        await listener.stopService()
        self.assertTrue(self.socket_path.is_socket())
        await held.stopService()
        self.assertFalse(self.socket_path.exists())

    def test_systemd(self) -> None:
        """One for all, which has the number there that it had here, as that is in the endpoint."""
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            opened.listen()
            number = os.dup(opened.fileno())
            adopting = AdoptedStreamServerEndpoint
            self.patch(listening, "serverFromString", lambda reactor, _: adopting(reactor, number, socket.AF_INET))
            held = self.held("systemd:domain=INET:index=0")
            ((first,), (second,)) = held.passed(0), held.passed(1)
            self.assertEqual((first, first.number), (second, number))
            self.assertEqual(self.passed(held, 0).getsockname(), opened.getsockname())
            self.assertEqual(opened.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), 0)

    def test_can_not_be_shared(self) -> None:
        """What is no socket is for one process."""

        class Odd:
            def listen(self, factory: Factory) -> Deferred[object]:
                return succeed(object())

        self.patch(listening, "serverFromString", lambda reactor, text: Odd())
        error = self.assertRaises(CannotListen, self.held, "odd:")
        self.assertIn("set NumCores = 1", error.reason)

    def test_no_inherited_socket(self) -> None:
        """A descriptor that is none is an error, and no traceback."""
        self.assertIn("not a usable endpoint", self.refused("tcp:0", inherited=[1 << 24]).reason)


class UnixTests(ListeningTestCase):
    """UNIX sockets, and what is in their way."""

    def endpoint(self, mode: str = "660") -> str:
        return f"unix:{self.socket_path}:mode={mode}"

    @awaited
    async def test_served(self) -> None:
        """Clients are served, and the log can say where."""
        listener = self.started(self.endpoint())
        self.assertEqual(listener.describe(), f"unix:{self.socket_path}")
        self.assertIn(b"hello", await self.said(by_unix(self.socket_path)))

    def test_mode(self) -> None:
        """The file has the mode that is asked for, wider or narrower than the umask."""
        for umask in (0o000, 0o077):
            self.addCleanup(os.umask, os.umask(umask))
            for mode in ("600", "660", "666"):
                listener = self.started(self.endpoint(mode))
                self.assertEqual(f"{stat.S_IMODE(self.socket_path.stat().st_mode):o}", mode)
                listener.stopService()
                # Whether the first one has gone yet is another test's matter.
                self.socket_path.unlink(missing_ok=True)

    def test_mode_is_set_before_anybody_can_connect(self) -> None:
        """At the time of listen(2) the mode is the one that was asked for: there is no moment with a wider one."""
        modes: list[str] = []
        path = self.socket_path

        class Watched(socket.socket):
            def listen(self, backlog: int = 0) -> None:
                modes.append(f"{stat.S_IMODE(path.stat().st_mode):o}")
                super().listen(backlog)

        self.addCleanup(os.umask, os.umask(0))
        self.patch(listening._UnixPort, "createInternetSocket", lambda port: nonblocking(Watched(socket.AF_UNIX)))
        self.started(self.endpoint("600"))
        self.assertEqual(modes, ["600"])

    def test_no_other_file_is_left_beside(self) -> None:
        """No lock file: it would outlive a killed server."""
        self.started(self.endpoint())
        self.assertEqual(os.listdir(self.directory), ["http.sock"])

    @awaited
    async def test_stale_socket_is_replaced(self) -> None:
        """A socket that nobody listens on is no obstacle."""
        stale_socket(self.socket_path)
        self.started(self.endpoint())
        self.assertIn(b"hello", await self.said(by_unix(self.socket_path)))

    @awaited
    async def test_live_socket_is_left_alone(self) -> None:
        """A socket that somebody listens on is an error, and they stay reachable."""
        self.started(self.endpoint())
        error = self.refused(self.endpoint(), name="unix:here")
        self.assertEqual(
            str(error), 'unix:here: address already in use (another process listens there: see "ss -lxnp")'
        )
        self.assertIn(b"hello", await self.said(by_unix(self.socket_path)))

    def test_busy_socket_is_left_alone(self) -> None:
        """A live server whose queue is full is not taken for a dead one."""
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
            other.bind(str(self.socket_path))
            other.listen(0)
            waiting.connect(str(self.socket_path))
            self.assertIn("in use", self.refused(self.endpoint()).reason)

    def test_datagram_socket_is_left_alone(self) -> None:
        """A socket of another kind is somebody's too."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(self.socket_path))
            self.assertIn("in use", self.refused(self.endpoint()).reason)

    def test_other_file_is_left_alone(self) -> None:
        """A file that is not a socket is an error, and stays."""
        self.socket_path.write_text("dear")
        self.assertEqual(self.refused(self.endpoint()).reason, "there is a file, and it is not a socket")
        self.assertEqual(self.socket_path.read_text(), "dear")

    def test_symbolic_link_is_left_alone(self) -> None:
        """A link is a file that is not a socket, wherever it leads."""
        stale_socket(self.directory / "other.sock")
        self.socket_path.symlink_to("other.sock")
        self.assertIn("not a socket", self.refused(self.endpoint()).reason)

    def test_no_directory(self) -> None:
        """A directory that isn't there is named."""
        directory = self.directory / "none"
        error = self.refused(f"unix:{directory}/http.sock")
        self.assertEqual(error.reason, f"the directory {directory} does not exist")

    def test_no_permission(self) -> None:
        """A directory that isn't ours to write in is named."""
        self.patch(listening, "_UnixPort", refuse_by(errno.EACCES, self.socket_path))
        error = self.refused(self.endpoint())
        self.assertEqual(error.reason, f"permission denied (who runs this must be able to write to {self.directory})")

    def test_path_too_long(self) -> None:
        """A path longer than a socket can have is an error, and no traceback."""
        self.assertIn("too long", self.refused(f"unix:{self.directory}/{'x' * 108}").reason)

    @awaited
    async def test_file_goes_at_the_end(self) -> None:
        """The end removes the socket's file."""
        await self.started(self.endpoint()).stopService()
        self.assertEqual(os.listdir(self.directory), [])

    @awaited
    async def test_somebody_elses_file_stays(self) -> None:
        """A socket that has taken the path in the meantime is not removed at the end."""
        listener = self.started(self.endpoint())
        self.socket_path.unlink()
        stale_socket(self.socket_path)
        await listener.stopService()
        self.assertTrue(self.socket_path.is_socket())

    @awaited
    async def test_file_that_has_gone_is_not_missed(self) -> None:
        """The end comes through when somebody has removed the file, and the factory hears of it."""
        listener = self.started(self.endpoint())
        self.socket_path.unlink()
        await listener.stopService()
        self.assertEqual(self.factory.numPorts, 0)


class SystemdTests(SynchronousTestCase):
    """Sockets that were opened before the process was started."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="listening-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "http.sock"

    def child(self, *endpoints: str, sockets: tuple[socket.socket, ...] = (), **environment: str) -> Any:
        """A process with *sockets* as descriptors 3 and up, which listens at *endpoints*, until its input ends."""
        numbers = [str(each.fileno()) for each in sockets]
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, ",".join(numbers), *endpoints],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[each.fileno() for each in sockets],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            text=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def test_inherited_sockets(self) -> None:
        """TCP and UNIX sockets are served, and stay as they were: mode, file, and open for the next process."""
        with socket.socket() as by_port, socket.socket(socket.AF_UNIX) as by_path:
            by_port.bind(("127.0.0.1", 0))
            by_path.bind(str(self.path))
            self.path.chmod(0o600)
            by_port.listen()
            by_path.listen()
            port = by_port.getsockname()[1]
            process = self.child(
                "systemd:domain=INET:index=0",
                "systemd:domain=UNIX:index=1",
                sockets=(by_port, by_path),
                LISTEN_FDS="2",
                LISTEN_FDNAMES="http:local",
            )
            self.assertEqual(process.stdout.readline(), f"127.0.0.1:{port} (systemd)\n")
            self.assertEqual(process.stdout.readline(), f"unix:{self.path} (systemd)\n")
            self.assertIn(b"hello", greeting(by_tcp("127.0.0.1", port)))
            self.assertIn(b"hello", greeting(by_unix(self.path)))
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

            self.assertEqual(process.communicate("", timeout=TIMEOUT_S)[0], "")
            self.assertEqual(process.returncode, 0)
            for connect in (by_tcp("127.0.0.1", port), by_unix(self.path)):
                # Accepted by nobody now, and kept by the kernel for the next process.
                connect().close()

    def test_no_sockets(self) -> None:
        """Without a socket from systemd, the error says what is missing."""
        for environment in ({}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "one"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}):
            with self.subTest(environment=environment):
                process = self.child("systemd:domain=INET:index=0", **environment)
                output = process.communicate(timeout=TIMEOUT_S)[0]
                self.assertRegex(
                    output, r"^systemd:domain=INET:index=0: systemd has passed no such socket .*LISTEN_FDS"
                )
                self.assertEqual(process.returncode, 1)

    def test_too_few_sockets(self) -> None:
        """A number beyond what systemd has passed is the same error."""
        with socket.socket() as only:
            only.bind(("127.0.0.1", 0))
            only.listen()
            process = self.child("systemd:domain=INET:index=1", sockets=(only,), LISTEN_FDS="1", LISTEN_FDNAMES="http")
            self.assertIn("no such socket", process.communicate(timeout=TIMEOUT_S)[0])

    def test_descriptor_that_is_none(self) -> None:
        """A number that stands for no open descriptor is the same error."""
        process = self.child("systemd:domain=INET:index=0", LISTEN_FDS="1", LISTEN_FDNAMES="http")
        self.assertIn("no such socket", process.communicate(timeout=TIMEOUT_S)[0])


CHILD = """
import fcntl, os, sys
numbers = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 20) for number in sys.argv[1].split(",") if number]
os.closerange(3, 20)
for index, number in enumerate(numbers):
    os.dup2(number, 3 + index)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))

from twisted.internet import reactor, stdio
from twisted.internet.protocol import Factory, Protocol
from hmacfs.net.listening import CannotListen, Listener
from tests.net.test_listening import Greeter

class Parent(Protocol):
    def connectionLost(self, reason):
        if reactor.running:
            reactor.stop()

listeners = [Listener(reactor, endpoint, Factory.forProtocol(Greeter)) for endpoint in sys.argv[2:]]
for listener in listeners:
    try:
        listener.privilegedStartService()
        listener.startService()
    except CannotListen as error:
        print(error)
        sys.exit(1)
    print(listener.describe(), flush=True)
    reactor.addSystemEventTrigger("before", "shutdown", listener.stopService)
stdio.StandardIO(Parent())
reactor.run()
"""


def stale_socket(path: Path) -> None:
    """What a killed server leaves behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def nonblocking(made: socket.socket) -> socket.socket:
    made.setblocking(False)
    return made


def refuse_by(number: int, path: Path) -> Callable[..., object]:
    """A maker of ports that can't be opened."""

    class Refusing:
        def __init__(self, *args: object) -> None:
            pass

        def startListening(self) -> None:
            raise CannotListenError(None, os.fsencode(path), OSError(number, os.strerror(number)))

    return Refusing


class Delegating:
    """A reactor that is another one, but for what a subclass defines."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reactor, name)


class Failing(Delegating):
    """Can't open TCP ports."""

    def __init__(self, reactor: Any, number: int) -> None:
        super().__init__(reactor)
        self.number = number
        self.interfaces: list[str] = []

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:
        self.interfaces.append(interface)
        raise CannotListenError(interface, port, OSError(self.number, os.strerror(self.number)))


class NoIpv6(Delegating):
    """Has a kernel without IPv6."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:
        if ":" in interface:
            raise CannotListenError(interface, port, OSError(errno.EAFNOSUPPORT, "not supported"))
        opened: IListeningPort = self.reactor.listenTCP(port, factory, backlog, interface)
        return opened


class OneFamilyEach(Delegating):
    """Has a kernel with net.ipv6.bindv6only=1. Its IPv6 socket is played by an IPv4 one, for machines without."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:
        opened: tcp.Port = self.reactor.listenTCP(port, factory, backlog, "127.0.0.1")
        if interface == "first":
            opened.socket = ForIpv6Alone(fileno=opened.socket.detach())
        return opened


class ForIpv6Alone(socket.socket):
    """Says that it is for IPv6 alone."""

    @property
    def family(self) -> Any:
        return socket.AF_INET6

    def getsockopt(self, level: int, option: int, *args: Any) -> Any:
        if (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            return 1
        return super().getsockopt(level, option, *args)


class Never:
    """An endpoint that is never open."""

    cancelled = False

    def listen(self, factory: Factory) -> Deferred[IAddress]:
        def cancel(deferred: Deferred[IAddress]) -> None:
            self.cancelled = True

        waiting: Deferred[IAddress] = Deferred(cancel)
        waiting.addErrback(lambda failure: None)
        return waiting
