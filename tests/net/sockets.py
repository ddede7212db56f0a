"""A site on true sockets of this machine, and clients of it in threads."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from hmacfs.net.streaming import StreamingChannel, StreamingRequest
from tests.net.wire import RecordingSite

T = TypeVar("T")

reactor: Any = global_reactor
#: What a client waits for at most, in seconds: only a failing test does.
PATIENCE_S = 30.0


class LiveSite(RecordingSite):
    """Tells when its last connection is gone."""

    def __init__(self, handler: Callable[[StreamingRequest], Any], clock: Any = reactor, **limits: Any) -> None:
        super().__init__(handler, clock, **limits)
        self._waiting: list[Deferred[None]] = []
        self._first: Deferred[None] = Deferred()

    def when_first(self) -> Deferred[None]:
        """Fires when the first connection is there."""
        return self._first

    def channelMade(self, channel: StreamingChannel) -> None:
        super().channelMade(channel)
        if not self._first.called:
            self._first.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Fires when there is no connection."""
        if not self.channels:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def channelLost(self, channel: StreamingChannel) -> None:
        super().channelLost(channel)
        if not self.channels:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)


class LiveTestCase(TestCase):
    """Leaves no port and no connection behind."""

    timeout = 2 * PATIENCE_S

    def tcp(self, site: LiveSite) -> tuple[str, int]:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        return self._address(port, site)

    def tls(self, site: LiveSite) -> tuple[str, int]:
        port = reactor.listenSSL(0, site, certificate().options(), interface="127.0.0.1")
        return self._address(port, site)

    def unix(self, site: LiveSite) -> str:
        directory = tempfile.mkdtemp()  # trial's own are too long for a socket's name
        self.addCleanup(shutil.rmtree, directory)
        path = f"{directory}/s"
        port = reactor.listenUNIX(path, site)
        self._tidy(port, site)
        return path

    def proxied(self, site: LiveSite) -> tuple[str, int]:
        """Behind the PROXY protocol."""
        listening = serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(site)
        # Listening is synchronous below its Deferred.
        ports: list[Any] = []
        listening.addCallback(ports.append)
        return self._address(ports[0], site)

    def file(self, data: bytes) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(data)
        return path

    def _address(self, port: Any, site: LiveSite) -> tuple[str, int]:
        self._tidy(port, site)
        address = port.getHost()
        return address.host, address.port

    def _tidy(self, port: Any, site: LiveSite) -> None:
        def close() -> Deferred[None]:
            for channel in list(site.channels):
                channel.abortConnection()
            return site.when_empty()

        self.addCleanup(close)
        self.addCleanup(port.stopListening)


def in_thread(function: Callable[..., T], *args: Any) -> Deferred[T]:
    """Blocking sockets don't block the reactor there."""
    return deferToThread(function, *args)


def dial(address: Any, *, tls: bool = False, receive_buffer: int | None = None) -> socket.socket:
    """Connect to what :class:`LiveTestCase` returned."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(PATIENCE_S)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(address)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # A cut connection must not look like the end.
        client = context.wrap_socket(client, suppress_ragged_eofs=False)
    return client


def read_all(client: socket.socket) -> bytes:
    """Until the peer closes. A reset is an error."""
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def ask(address: Any, data: bytes, *, tls: bool = False) -> bytes:
    """Send, and read until the peer closes."""
    with dial(address, tls=tls) as client:
        client.sendall(data)
        return read_all(client)


def certificate() -> PrivateCertificate:
    """A key and a certificate for it, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return PrivateCertificate.loadPEM(pem)
