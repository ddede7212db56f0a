"""A Redis of a test's own, and what can happen to it."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

_READY = "eady to accept connections"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RedisServer:
    """A Redis that keeps nothing on disk and listens on a UNIX socket; on TCP where *options* say so.

    The directory is short-lived and has a short path: a UNIX socket's can't be long.

    :param options: as in redis.conf.

    :ivar socket: path of the UNIX socket; the same after a restart.
    """

    def __init__(self, **options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.directory / "redis.sock"
        self._options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "save": '""',
            "appendonly": "no",
            "dir": str(self.directory),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        config = self.directory / "redis.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in self._options.items()))
        program = shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/usr/sbin")
        assert program is not None, "redis-server is not installed"
        process = subprocess.Popen([program, str(config)], stdout=subprocess.PIPE, text=True)
        self._process = process
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if _READY in line:
                return
        raise AssertionError("Redis did not start: " + "".join(lines))

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait for that. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def remove(self) -> None:
        """End it and remove its directory."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory)

    def command(self, *words: str, user: str = "default", password: str = "") -> str:
        """Have redis-cli send a command; its answer, one line for each element."""
        credentials = ["--user", user, "--pass", password, "--no-auth-warning"] if password else []
        done = subprocess.run(
            ["redis-cli", "-s", str(self.socket), *credentials, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


class Certificates:
    """A certificate authority, and a server certificate for 127.0.0.1 that it has signed, as PEM files.

    :param directory: where to put them.
    """

    def __init__(self, directory: Path) -> None:
        self.ca_file = directory / "ca.pem"
        self.cert_file = directory / "server.pem"
        self.key_file = directory / "server.key"
        ca_key = ec.generate_private_key(ec.SECP256R1())
        self.ca_file.write_bytes(_certificate("Test CA", ca_key, "Test CA", ca_key, is_ca=True))
        key = ec.generate_private_key(ec.SECP256R1())
        self.cert_file.write_bytes(_certificate("Test Redis", key, "Test CA", ca_key, is_ca=False))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, is_ca: bool
) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Stub(Protocol):
    """Answers whatever it hears with a fixed line, or hangs up for want of one.

    :param line: the answer.
    :param heard: fires with what was heard first.
    """

    def __init__(self, line: bytes | None, heard: Deferred[bytes]) -> None:
        self._line = line
        self._heard = heard

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if not self._heard.called:
            self._heard.callback(data)
        if self._line is None:
            self.transport.abortConnection()
        else:
            self.transport.write(self._line)


class StubFactory(Factory):
    """Makes :class:`Stub`."""

    noisy = False

    def __init__(self, line: bytes | None) -> None:
        self.line = line
        self.heard: Deferred[bytes] = Deferred()

    def buildProtocol(self, addr: IAddress | None) -> Stub:
        return Stub(self.line, self.heard)
