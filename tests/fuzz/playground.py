"""A whole server in memory, over a store that has things in it, and somebody who looks after it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar, cast

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from hmacfs.logs import masked, text_line
from hmacfs.net.limits import Limits
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.storage.disk import Disk
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from tests.fuzz.grammar import EXPIRED, STOCK
from tests.fuzz.slots import NOW
from tests.fuzz.target import must
from tests.web.support import Server

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]

#: Stands in every file that nobody may ever get.
HIDDEN = b"NOBODY-MAY-READ-THIS"

#: What a connection may cost: seconds are short here, so that an example can wait for all of them.
LIMITS = Limits(
    header_timeout_s=5.0,
    idle_timeout_s=7.0,
    read_timeout_s=9.0,
    write_timeout_s=9.0,
    close_timeout_s=3.0,
    linger_s=2.0,
    linger_bytes=100_000,
    drain_bytes=1000,
)
#: After that no connection is open that isn't read from or written to, and nothing waits.
LONGEST_S = 40

#: How much of an answer a peer that doesn't read takes.
_SOCKET_BYTES = 65536


class QuietDisk(Disk):
    """Waits for no device."""

    def sync(self, fd: int) -> None:
        os.fstat(fd)

    def sync_data(self, fd: int) -> None:
        os.fstat(fd)


class ClockThreads(Threads):
    """Runs every call a moment later: whatever can happen meanwhile does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        done: Deferred[T] = Deferred()

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception:
                outcome: Deferred[T] = fail(Failure())
            else:
                outcome = succeed(result)
            outcome.chainDeferred(done)

        self._clock.callLater(0.05, call)
        return done

    @property
    def busy(self) -> int:
        return 0


@frozen
class Profile:
    """A configuration of the server.

    :ivar slow: whether what blocks takes a moment.
    """

    prefix: tuple[str, ...]
    slow: bool
    settings: dict[str, Any]


_ROOT: dict[str, Any] = {
    "accept_v3": True,
    "hash_all": False,
    "max_upload_bytes": 50_000,
    "trusted": [ip_network("192.0.2.0/24")],
}
PROFILES: dict[str, Profile] = {
    "usual": Profile(("upload",), False, {"limits": LIMITS, "delete_secret": b"the-fuzzer-does-not-know-it"}),
    "root": Profile((), False, {**_ROOT, "limits": LIMITS}),
    "slow": Profile(("files", "up"), True, {"limits": LIMITS, "retries": 2, "get_retries": True}),
}


class PeerTransport(StringTransport):
    """A socket, and what its peer does: reads, or doesn't. The connection ends as a real one does, not at once.

    :ivar ended: how we ended it; empty while we haven't.
    """

    bufferSize = 65536

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 50000))
        self.ended = ""
        self.stalled = False
        self.gone = False
        self._unsent = 0
        self._producer_paused = False

    def write(self, data: bytes) -> None:
        if self.gone or self.ended == "aborted":
            return
        super().write(data)
        if self.stalled:
            self._unsent += len(data)
            producer = cast(Any, self.producer)
            if self._unsent > _SOCKET_BYTES and producer is not None and not self._producer_paused:
                self._producer_paused = True
                producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.ended = self.ended or "closed"

    def abortConnection(self) -> None:
        self.ended = "aborted"

    def read_again(self) -> None:
        """The peer takes what was sent, and goes on so."""
        self.stalled = False
        self._unsent = 0
        producer = cast(Any, self.producer)
        if self._producer_paused and producer is not None and not self.gone:
            self._producer_paused = False
            producer.resumeProducing()

    @property
    def over(self) -> bool:
        """Whether the connection's end is to be told now."""
        return self.ended == "aborted" or (self.ended == "closed" and not (self.stalled and self._unsent))


class Peer:
    """One client's connection.

    :ivar sent: what the server was given of what was sent.
    """

    def __init__(self, site: Any) -> None:
        self.sent = bytearray()
        self.transport = PeerTransport()
        self.channel = site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 50000))
        self._unread: deque[bytes] = deque()
        if self.channel is not None:
            self.channel.makeConnection(self.transport)

    @property
    def gone(self) -> bool:
        return self.transport.gone

    @property
    def cut(self) -> bool:
        """Whether what the server has sent may have been cut off."""
        return self.transport.ended == "aborted" or self._vanished

    _vanished = False

    def send(self, data: bytes) -> None:
        self._unread.append(data)

    def pump(self) -> bool:
        """Let happen what can; whether anything did."""
        transport = self.transport
        if transport.gone:
            return False
        if transport.over:
            self._lose(ConnectionAborted() if transport.ended == "aborted" else ConnectionDone())
            return True
        if self._unread and not transport.ended and transport.producerState == "producing":
            data = self._unread.popleft()
            self.sent += data
            self.channel.dataReceived(data)
            return True
        return False

    def vanish(self) -> None:
        if not self.transport.gone:
            self._vanished = True
            self._lose(ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        self.transport.gone = True
        self.transport.connected = False
        producer = cast(Any, self.transport.producer)
        if producer is not None:
            self.transport.producer = None
            producer.stopProducing()
        self.channel.connectionLost(Failure(reason))

    @property
    def waiting(self) -> bool:
        """Whether something that was sent wasn't read."""
        return bool(self._unread)


class Playground:
    """A server with one of :data:`PROFILES`, its store, and what lies around it.

    :param scratch: where its directory is made.
    """

    def __init__(self, profile: str, scratch: str | None = None) -> None:
        self.profile = PROFILES[profile]
        self._directory = Path(tempfile.mkdtemp(prefix="hmacfs-fuzz-", dir=scratch))
        self.root = self._directory / "store"
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.store = Store.open(self.root, QuietDisk())
        self._lay_out()
        threads = ClockThreads(self.clock) if self.profile.slow else InlineThreads()
        self.server = Server(
            self.store, self.clock, threads=threads, upload_sub_dir=self.profile.prefix, **self.profile.settings
        )
        self.server.state.start()
        self.clock.advance(1)
        self.events: list[LogEvent] = []
        self._observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(self._observer)
        self._outside = self._list_outside()
        self._own = {*self._list_own(), "meta"}
        self._files = 0

    def close(self) -> None:
        globalLogPublisher.removeObserver(self._observer)
        self.server.stop_state()
        self.clock.advance(10)
        self.store.close()
        shutil.rmtree(self._directory)

    def _lay_out(self) -> None:
        for path, content in STOCK.items():
            self._store(path, content, None)
        self._store(EXPIRED, HIDDEN, NOW - 1)
        outside = self._directory / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_bytes(HIDDEN)
        (self.root / ".hmacfs" / "secret.txt").write_bytes(HIDDEN)
        (self.root / "link").symlink_to(outside)
        (self.root / "loop").symlink_to("loop")
        (self.root / "secret-link.txt").symlink_to(outside / "secret.txt")
        os.mkfifo(self.root / "fifo")
        self._ours = set(os.listdir(self.root))

    def _store(self, path: bytes, content: bytes, expires: float | None) -> None:
        part = self.store.begin(f"stock-{os.urandom(4).hex()}")
        part.write(content)
        facts = Facts(content_type="image/svg+xml", sha256=None, owner=None, expires=expires, uploaded=NOW)
        self.store.publish(part, SlotPath.from_encoded(path), facts)

    def begin(self) -> None:
        """Before an example."""
        self.clock.rightNow = NOW
        self._files = count_open_files()
        self.events.clear()
        self.server.entries.clear()
        self.server.published.clear()

    def settle(self, peers: list[Peer]) -> None:
        """Let everything happen that can without time going by."""
        for _ in range(100_000):
            moved = [peer.pump() for peer in peers]
            if not any(moved):
                return
        must(False, "it never comes to rest")

    def wait(self, seconds: float, peers: list[Peer]) -> None:
        """Let time go by, as a reactor does: bit by bit."""
        while seconds > 0 and self.clock.getDelayedCalls():
            step = min(seconds, 0.5)
            self.clock.advance(step)
            self.settle(peers)
            seconds -= step

    def stored(self) -> dict[bytes, bytes]:
        """What an example has left in the store, by path. It is removed."""
        found: dict[bytes, bytes] = {}
        with os.scandir(os.fsencode(self.root)) as entries:
            for entry in entries:
                if os.fsdecode(entry.name) in self._ours:
                    continue
                found.update(_files(entry.path, entry.name))
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
        return found

    def parts(self) -> dict[str, int]:
        """The sizes of unfinished uploads. They are removed."""
        found = {}
        with os.scandir(self.root / ".hmacfs" / "parts") as entries:
            for entry in entries:
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
                os.unlink(entry.path)
        return found

    def check_rest(self) -> None:
        """Nothing is left of any example: not in memory, not among the open files, not beside the store."""
        server = self.server
        must(not server.site.channels, "connections are left")
        must(server.site.in_flight == 0, "requests are left:", server.site.in_flight)
        must(len(server.uploads) == 0, "uploads are left:", len(server.uploads))
        promised = server.reservations.promised_bytes
        must(promised == 0, "room is still promised:", promised)
        must(cast(Any, server.entrance)._explaining == 0, "explanations are left")
        must(not cast(Any, server.uploads.completion)._waiting, "somebody still publishes")
        calls = [call for call in self.clock.getDelayedCalls() if call.active()]
        must(not calls, "timers are left:", calls)
        if count_open_files() != self._files:
            must(False, "files are open:", list(open_files()))
        must(self._list_outside() == self._outside, "something was made outside of the store")
        must(len(os.listdir(self.root / "stock")) == len(STOCK) + 1, "a file has gone that was there before")
        must(self._list_own() <= self._own, "something was made in .hmacfs:", self._list_own() - self._own)

    def check_log(self, credentials: list[bytes]) -> None:
        """No exception and no error was logged, and no secret."""
        if not credentials and not self.events:
            return
        lines = [masked(text_line(entry)) for entry in self.server.entries]
        for event in self.events:
            failure = event.get("log_failure")
            text = formatEvent(event)
            bad = failure is not None or event.get("isError") or event["log_level"] >= LogLevel.error
            must(not bad, "logged:", text, "" if failure is None else "\n" + failure.getTraceback())
            lines.append(masked(text))
        for line in lines:
            shown = [credential for credential in credentials if credential.decode("latin-1") in line]
            must(not shown, "a credential is logged:", shown, line)

    def _list_own(self) -> set[str]:
        names = os.listdir(self.root / ".hmacfs")
        # SQLite's journals come and go.
        return {re.sub(r"\.sqlite-\w+$", ".sqlite", name) for name in names}

    def _list_outside(self) -> list[str]:
        return [*sorted(os.listdir(self._directory)), *sorted(os.listdir(self._directory / "outside"))]


def _files(path: bytes, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    if os.path.islink(path):
        must(False, "a link was made:", name)
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            yield name, file.read()
        return
    for below in os.listdir(path):
        yield from _files(path + b"/" + below, name + b"/" + below)


def open_files() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass


def count_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def documented_reasons() -> dict[int, set[str]]:
    """The reason words of each status, as ``docs/operators-guide.md`` has them."""
    page = (ROOT / "docs" / "operators-guide.md").read_text(encoding="utf-8")
    reasons: dict[int, set[str]] = {}
    for words, statuses in re.findall(r"^\| (`[^|]*) \| ([0-9, ]+) \|", page, re.MULTILINE):
        for status in statuses.split(","):
            reasons.setdefault(int(status), set()).update(re.findall(r"`([a-z0-9-]+)`", words))
    return reasons
