"""Listening at an endpoint string, or saying in one sentence why not.

Beside what Twisted does with such a string:

- A UNIX socket that nobody listens on any more is replaced; one that is alive, and any other file, is left alone.
  Twisted guards the path by a lock file, which outlives a killed server.
- At the end, a UNIX socket's file is removed if it is still our own.
- A UNIX socket that somebody else opened for us (systemd) stays as it is, at the start and at the end. Twisted makes it
  writable for everybody, and unlinks it and shuts it down, for other processes too (twisted #10261).
- Sockets can be opened for other processes (:class:`Held`), and be had from another process.
- While the process may not open one file more, it looks for connections once a second. Twisted's reactor is told of those
  that can't be taken again and again, and has no time for anything else.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

#: How long to leave connections waiting that can't be taken, in seconds.
_PAUSE_S = 1.0

#: How many connections may wait at a socket that is held for others, while those are busy or being replaced. The kernel
#: has a limit of its own (net.core.somaxconn).
_HELD_QUEUE = 1024

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class CannotListen(Exception):
    """A place can't be listened at.

    :param name: the place.
    :param reason: one phrase for the operator.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Listener(Service):
    """Listens at one endpoint while it runs.

    Opens it when it is started, with privileges if there is a start with privileges, and not before: nothing is open
    when a daemon has not yet become one.

    :param reactor: what the endpoint is opened on.
    :param endpoint: see :func:`twisted.internet.endpoints.serverFromString`.
    :param factory: makes the protocols.
    :param name: of the place, for messages; the endpoint if there is none.
    :param fallback: an endpoint for IPv4: taken instead if there is no IPv6 here, and as well if the socket of
        *endpoint* is for IPv6 alone.
    :param inherited: descriptors of sockets that another process has opened for this place. They are listened on then,
        with what *endpoint* makes of a connection, and nothing is opened.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: str,
        factory: IProtocolFactory,
        name: str = "",
        fallback: str | None = None,
        inherited: Sequence[int] | None = None,
    ) -> None:
        self._clock: IReactorTime = reactor
        self._reactor = _Reactor(reactor)
        self._inherited = inherited
        self._endpoint = endpoint
        self._factory = factory
        self._place = name or endpoint
        self._fallback = fallback
        self._ports: list[IListeningPort] = []
        self._pauses: list[_Pauses] = []

    @property
    def addresses(self) -> list[IAddress]:
        """Where it listens, with the port that was chosen for port 0; nothing while it does not."""
        return [port.getHost() for port in self._ports]

    def describe(self) -> str:
        """Where it listens, for a log line."""
        kind = self._endpoint.partition(":")[0]
        note = "" if kind in ("tcp", "tcp6", "unix") else f" ({kind})"
        return " and ".join(_written(address) for address in self.addresses) + note

    def privilegedStartService(self) -> None:
        """
        :raises CannotListen: as said.
        """
        super().privilegedStartService()
        self._open()

    def startService(self) -> None:
        """
        :raises CannotListen: as said, if there was no start with privileges.
        """
        super().startService()
        if not self._ports:
            self._open()

    def stopService(self) -> Deferred[Any]:
        """Close it. Connections stay open, and are their factory's business."""
        super().stopService()
        for pauses in self._pauses:
            pauses.stop()
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports], fireOnOneErrback=True)

    def _open(self) -> None:
        self._listen_at_all()
        self._pauses = [_Pauses(port, self._clock) for port in self._ports if hasattr(port, "doRead")]

    def _listen_at_all(self) -> None:
        if self._inherited is not None:
            for descriptor in self._inherited:
                self._ports.append(self._listen(self._endpoint, _Heir(self._clock, descriptor)))
            return
        try:
            self._ports = [self._listen(self._endpoint)]
        except CannotListenError as error:
            if self._fallback is None or _errno(error) not in _NO_IPV6:
                raise CannotListen(self._place, _reason(error)) from error
            self._ports = [self._listen_at_fallback(self._fallback)]
        else:
            if self._fallback is not None and _is_for_ipv6_alone(self._ports[0]):
                self._ports.append(self._listen_at_fallback(self._fallback))

    def _listen_at_fallback(self, endpoint: str) -> IListeningPort:
        try:
            return self._listen(endpoint)
        except CannotListenError as error:
            raise CannotListen(self._place, _reason(error)) from error

    def _listen(self, endpoint: str, reactor: _Reactor | None = None) -> IListeningPort:
        """
        :param reactor: what it is opened on, if not on ours.
        :raises CannotListenError: the system does not let us.
        :raises CannotListen: the endpoint makes no sense here.
        """
        try:
            opening = serverFromString(reactor or self._reactor, endpoint).listen(self._factory)
        except Exception as stumble:
            # Parsers raise whatever their input makes them stumble over.
            raise CannotListen(self._place, _parsers_reason(endpoint, stumble)) from stumble
        results: list[Any] = []
        opening.addBoth(results.append)
        if not results:
            opening.cancel()
            raise CannotListen(self._place, "this kind of endpoint can't be opened at once, as is needed here")
        if not isinstance(results[0], Failure):
            port: IListeningPort = results[0]
            return port
        error = results[0].value
        assert error is not None
        if isinstance(error, CannotListenError):
            raise error
        raise CannotListen(self._place, _parsers_reason(endpoint, error)) from error


@frozen
class Passed:
    """A listening socket for another process.

    :ivar fd: here.
    :ivar number: the descriptor that it must have there, as its endpoint says so (systemd); ``None`` for any.
    """

    fd: int
    number: int | None


class Held(Listener):
    """Opens one endpoint for a number of other processes, and takes no connection itself.

    Each has a TCP socket of its own, all at the same port, among which the kernel shares out the connections (socket(7),
    ``SO_REUSEPORT``). Connections that wait at a socket are not lost when its process ends, as it is open here as well.
    UNIX sockets, and those that systemd has opened, are one for all.

    :param shares: how many processes there are.
    """

    def __init__(self, reactor: Any, endpoint: str, name: str, fallback: str | None, shares: int) -> None:
        unused = Factory()
        unused.noisy = False
        super().__init__(reactor, endpoint, unused, name, fallback)
        self._number = shares
        self._shares: list[list[Passed]] = []
        self._others: list[socket.socket] = []

    def passed(self, share: int) -> Sequence[Passed]:
        """What one of the processes gets.

        :param share: which of them, counted from 0.
        """
        return self._shares[share]

    def stopService(self) -> Deferred[Any]:
        others, self._others, self._shares = self._others, [], []
        for other in others:
            other.close()
        return super().stopService()

    def _open(self) -> None:
        self._listen_at_all()
        self._shares = [[] for _ in range(self._number)]
        for port in self._ports:
            try:
                self._share(port)
            except OSError as error:
                raise CannotListen(self._place, error.strerror or str(error)) from error

    def _share(self, port: Any) -> None:
        """
        :raises CannotListen: nobody knows how.
        :raises OSError: the system does not let us.
        """
        if not isinstance(port, tcp.Port):  # that of UNIX sockets is one
            raise CannotListen(self._place, "this kind of endpoint can't be shared by processes: set NumCores = 1")
        port.stopReading()
        # The others are still to take what is in the queue when we close it.
        port._shouldShutdown = False
        first: socket.socket = port.socket
        number = self._reactor.adopted.get(port)
        sockets = [first] * self._number
        if number is None:
            first.listen(_HELD_QUEUE)
            if first.family != socket.AF_UNIX:
                # Only now: whoever else listens at this port, with this option or without it, has been found.
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sockets[1:] = [self._another(first) for _ in sockets[1:]]
        for share, each in zip(self._shares, sockets, strict=True):
            share.append(Passed(each.fileno(), number))

    def _another(self, first: socket.socket) -> socket.socket:
        """A socket at the same port."""
        another = socket.socket(first.family, socket.SOCK_STREAM)
        self._others.append(another)
        another.setblocking(False)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if first.family == socket.AF_INET6:
            alone = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            another.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        another.bind(first.getsockname())
        another.listen(_HELD_QUEUE)
        return another


class _Pauses:
    """Lets a port rest while no descriptor is left for the connections that come.

    :param port: a :class:`twisted.internet.tcp.Port`, which is listening.
    """

    def __init__(self, port: Any, clock: IReactorTime) -> None:
        self._port = port
        self._clock = clock
        self._accept: Callable[[], None] = port.doRead
        self._later: IDelayedCall | None = None
        port.doRead = self._do_read

    def stop(self) -> None:
        """The port is about to be closed."""
        later, self._later = self._later, None
        if later is not None:
            later.cancel()

    def _do_read(self) -> None:
        self._accept()
        if self._later is None and _no_descriptor_left(self._port.fileno()):
            self._port.stopReading()
            self._later = self._clock.callLater(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._port.startReading()


def _no_descriptor_left(fd: int) -> bool:
    try:
        os.close(os.dup(fd))
    except OSError as error:
        return error.errno in _NO_DESCRIPTORS
    return False


class _Reactor:
    """A reactor whose UNIX sockets are ours. All else is the real one's.

    :ivar adopted: the ports of sockets that somebody else has opened for us, with the descriptors that they had.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.adopted: dict[IListeningPort, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorUNIX`. No lock file is made, whatever *wantPID* says."""
        del wantPID
        path = os.fsencode(address)
        try:
            _remove_stale(path)
        except OSError as error:
            raise CannotListenError(None, address, error) from error
        port = _UnixPort(path, factory, backlog, mode, self._reactor)
        port.startListening()
        return port

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorSocket`."""
        adopted = self._adopt(fileDescriptor, addressFamily, factory)
        self.adopted[adopted] = fileDescriptor
        return adopted

    def _adopt(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        if addressFamily != socket.AF_UNIX:
            adopted: IListeningPort = self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
            return adopted
        # A name in the abstract namespace is nothing that could be given a mode, or be unlinked.
        port: Any = unix.Port(b"\0inherited", factory, socket.SOMAXCONN, reactor=self._reactor)
        port._preexistingSocket = socket.fromfd(fileDescriptor, socket.AF_UNIX, socket.SOCK_STREAM)
        port._shouldShutdown = False
        port.startListening()
        listening: IListeningPort = port
        return listening


class _Heir(_Reactor):
    """A reactor that listens on a socket it has been given, whatever it is asked to open.

    It takes systemd's sockets by the descriptors that they have here as well.

    :param descriptor: of the socket. It is closed when another one has taken its place.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorTCP`."""
        del port, backlog, interface
        return self._take(factory)

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorSSL`."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        del port, backlog, interface
        return self._take(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        """See :class:`twisted.internet.interfaces.IReactorUNIX`."""
        del address, backlog, mode, wantPID
        return self._take(factory)

    def _take(self, factory: IProtocolFactory) -> IListeningPort:
        with socket.socket(fileno=self._descriptor) as given:
            return self._adopt(self._descriptor, given.family, factory)


class _UnixPort(unix.Port):
    """Removes its file at the end if it is its own. Twisted's stumbles if there is none, and leaves the socket open."""

    _log = Logger()
    _identity: tuple[int, int] | None = None

    def startListening(self) -> None:
        # The mode is set between bind(2) and listen(2): until then nobody can connect, whatever the mode.
        super().startListening()
        self._identity = _identity(self._path)

    def connectionLost(self, reason: Failure) -> None:
        try:
            if self._identity is not None and _identity(self._path) == self._identity:
                os.unlink(self._path)
        except OSError as error:
            self._log.warn("{path} can't be removed: {reason}", path=os.fsdecode(self._path), reason=error.strerror)
        tcp.Port.connectionLost(self, reason)

    @property
    def _path(self) -> bytes:
        address: UNIXAddress = self.getHost()
        assert address.name is not None
        return address.name


def _identity(path: bytes) -> tuple[int, int] | None:
    """Which file it is, of all that ever had the path."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: bytes) -> None:
    """Remove the socket at *path* that nobody listens on, if there is one.

    :raises OSError: there is something else.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file, and it is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        # A full queue says EAGAIN at once, instead of waiting for an answer.
        probe.setblocking(False)
        answer = probe.connect_ex(path)
    if answer == errno.ECONNREFUSED:
        os.unlink(path)
    elif answer in (0, errno.EAGAIN, errno.EPROTOTYPE):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    else:
        raise OSError(answer, os.strerror(answer))


def _is_for_ipv6_alone(port: IListeningPort) -> bool:
    listening = getattr(port, "socket", None)
    if listening is None or listening.family != socket.AF_INET6:
        return False
    return bool(listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _errno(error: CannotListenError) -> int | None:
    cause: object = error.socketError
    return cause.errno if isinstance(cause, OSError) else None


def _reason(error: CannotListenError) -> str:
    number = _errno(error)
    is_unix = error.interface is None
    path = os.fsdecode(error.port) if is_unix else ""
    if number == errno.EADDRINUSE:
        return f'address already in use (another process listens there: see "ss -l{"x" if is_unix else "t"}np")'
    if number == errno.EADDRNOTAVAIL:
        return "no network interface of this machine has this address"
    if number == errno.EAFNOSUPPORT:
        return "this machine does not speak IPv6"
    if number == errno.ENOENT:
        return f"the directory {os.path.dirname(path)} does not exist"
    if number == errno.EACCES and is_unix:
        return f"permission denied (who runs this must be able to write to {os.path.dirname(path)})"
    if number == errno.EACCES:
        return "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE, or a systemd socket)"
    cause: object = error.socketError
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause)


def _parsers_reason(endpoint: str, error: BaseException) -> str:
    if "systemd:" in endpoint and isinstance(error, (LookupError, OSError)):
        return (
            "systemd has passed no such socket (it says so by LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES: "
            "is the .socket unit enabled, and has it started this very process?)"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)} can't be read: {error.strerror}"
    return f"not a usable endpoint ({type(error).__name__}: {error})"


def _written(address: IAddress) -> str:
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    assert isinstance(address, (IPv4Address, IPv6Address))
    return f"[{address.host}]:{address.port}" if isinstance(address, IPv6Address) else f"{address.host}:{address.port}"
