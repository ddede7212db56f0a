"""The supervisor, with processes that a test plays."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.application.service import Application
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from hmacfs import supervising
from hmacfs.access.keys import Keyring
from hmacfs.config import load
from hmacfs.net import listening
from hmacfs.net.orders import ORDERS_FD, Order, Supervisor
from hmacfs.net.workers import FIRST_PAUSE_S, WELL_AFTER_S
from hmacfs.seat import Seat, unpacked_keyring
from hmacfs.supervising import SupervisorService

OLD, NEW = "the-old-secret-of-the-tests", "the-new-secret-of-the-tests"


class Process:
    """One that was started, and its transport.

    :ivar arguments: its command line.
    :ivar descriptors: which of ours it has, by its numbers.
    """

    def __init__(
        self,
        protocol: ProcessProtocol,
        executable: str,
        arguments: list[str],
        env: Mapping[str, str],
        childFDs: Mapping[int, int | str],
    ) -> None:
        self.protocol = protocol
        self.arguments = [executable, *arguments[1:]]
        self.environment = dict(env)
        self.descriptors = dict(childFDs)
        self.told = b""
        self.has_ended = False
        protocol.makeConnection(self)

    def writeToChild(self, fd: int, data: bytes) -> None:
        assert fd == ORDERS_FD
        self.told += data

    @property
    def _brief_size(self) -> int:
        return int.from_bytes(self.told[:4], "big")

    @property
    def seat(self) -> Seat:
        return Seat.unpacked(self.told[4 : 4 + self._brief_size])

    @property
    def orders(self) -> list[bytes]:
        """What it was told after its brief."""
        return self.told[4 + self._brief_size :].splitlines()

    @property
    def name(self) -> str:
        return self.arguments[-1]

    def report(self, tell: Callable[[Supervisor], None]) -> None:
        """Have it say something, as a worker does."""
        reading, writing = os.pipe()
        tell(Supervisor(writing, lambda: None))
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            self.protocol.childDataReceived(self.seat.reports, pipe.read())

    def ready(self) -> None:
        self.report(Supervisor.ready)

    def end(self, status: int = 0) -> None:
        self.has_ended = True
        self.protocol.processEnded(Failure(ProcessTerminated(status) if status else ProcessDone(None)))

    def fail(self, sentence: str) -> None:
        self.report(lambda supervisor: supervisor.failed(sentence))
        self.end(1)


class Reactor(MemoryReactorClock):
    """Opens real sockets, and starts no real processes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []

    def spawnProcess(self, *args: Any, **kw: Any) -> Process:
        process = Process(*args, **kw)
        self.processes.append(process)
        return process

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> tcp.Port:
        opened = tcp.Port(port, factory, backlog, interface, self)
        opened.startListening()
        return opened

    def adoptStreamPort(self, fd: int, family: int, factory: Any) -> tcp.Port:
        adopted = tcp.Port._fromListeningDescriptor(self, fd, family, factory)
        adopted.startListening()
        return adopted

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        function(*args)


class Gauges:
    """Metrics that nobody sees: the real ones are for a process' whole life.

    :ivar serving: how many workers do.
    :ivar restarts: how many were.
    """

    def __init__(self, _sharing: object) -> None:
        self.workers = self.worker_restarts = self
        self.serving = self.restarts = 0

    def set(self, value: int) -> None:
        self.serving = value

    def inc(self) -> None:
        self.restarts += 1


class SupervisorTestCase(SynchronousTestCase):
    """A supervisor of two that a test configures.

    :ivar dead: the names of those processes that the metrics were told of.
    """

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="supervising-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.runtime = self.directory / "run"
        self.runtime.mkdir()
        self.patch(os, "environ", {**os.environ, "RUNTIME_DIRECTORY": str(self.runtime)})
        self.dead: list[str] = []
        self.patch(supervising, "SupervisorMetrics", Gauges)
        self.patch(supervising, "mark_dead", lambda _directory, name: self.dead.append(name))
        self.log = self.directory / "hmacfs.log"
        self.reactor = Reactor()

    def configure(self, **keys: object) -> None:
        """Write the configuration file, with *keys* beside what all have."""
        usual = {
            "Secret": OLD,
            "StoreDir": "store",
            "LogFile": "hmacfs.log",
            "ListenPort": "127.0.0.1:0",
            "MetricsPort": "127.0.0.1:0",
            "NumCores": 2,
            "ShutdownGrace": 5,
        }
        file = self.directory / "config.toml"
        file.touch(0o600)
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in {**usual, **keys}.items()), "utf-8")

    def begin(self, **keys: object) -> list[Process]:
        """Start one, as twistd does, and say what it has started."""
        self.configure(**keys)
        self.service = SupervisorService(load(self.directory / "config.toml"), self.reactor, 2)
        application: Any = Application("hmacfs")
        self.service.setServiceParent(application)
        observer = ILogObserver(application)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.service.privilegedStartService()
        self.service.startService()
        self.addCleanup(self.stop)
        hooks, self.reactor.whenRunningHooks = self.reactor.whenRunningHooks, []
        for function, args, kw in hooks:
            function(*args, **kw)
        return [*self.reactor.processes]

    def start(self, **keys: object) -> list[Process]:
        """Start one whose workers serve."""
        processes = self.begin(**keys)
        for process in processes:
            process.ready()
        return processes

    def reload(self, **keys: object) -> list[Process]:
        """Have another configuration be taken up; which workers are started by that."""
        before = len(self.reactor.processes)
        self.configure(**keys)
        os.kill(os.getpid(), signal.SIGHUP)
        return self.reactor.processes[before:]

    def stopping(self) -> Deferred[None]:
        stopped = self.service.stopService()
        self.reactor.advance(0)
        return stopped

    def stop(self) -> None:
        """Unless the test has."""
        if not self.service.running:
            return
        stopped = self.stopping()
        for process in self.reactor.processes:
            if not process.has_ended:
                process.end()
        self.successResultOf(stopped)

    def logged(self) -> str:
        return self.log.read_text("utf-8")

    @property
    def gauges(self) -> Gauges:
        gauges: Any = self.service._metrics
        return gauges


class StartTests(SupervisorTestCase):
    """What a worker is started with."""

    def test_command(self) -> None:
        """It is the same Python, with the name that the worker has; nothing secret is in it."""
        first, second = self.begin()
        self.assertEqual((first.name, second.name), ("w0", "w1"))
        for process in (first, second):
            self.assertEqual(process.arguments[0], sys.executable)
            self.assertEqual(Path(process.arguments[1]).name, "worker.py")
            self.assertNotIn(OLD, repr((process.arguments, process.environment)))

    def test_seat(self) -> None:
        """The configuration as it was read, the keys, and a place among the others."""
        first, second = self.begin(MaxUploadSize=7)
        self.assertEqual((first.seat.config.max_upload_bytes, first.seat.workers), (7, 2))
        self.assertEqual(first.seat.keyring.current.value, OLD.encode())
        self.assertEqual([each.seat.sharing.name for each in (first, second)], ["w0", "w1"])
        self.assertEqual(first.seat.sharing.directory.parent, self.runtime)
        self.assertEqual(first.seat.sharing.supervisor, os.getpid())

    def test_pipes(self) -> None:
        """One from us at the place of standard input, one to us; standard output and error are ours."""
        for process in self.begin():
            self.assertEqual((process.descriptors[ORDERS_FD], process.descriptors[process.seat.reports]), ("w", "r"))
            self.assertEqual((process.descriptors[1], process.descriptors[2]), (1, 2))
            self.assertEqual([*process.descriptors.values()].count("r"), 1)

    def test_sockets(self) -> None:
        """Each worker has its own at every place, of those for files first."""
        processes = self.begin(ListenPort=["127.0.0.1:0", "127.0.0.2:0"])
        ports = []
        for process in processes:
            self.assertEqual([len(place) for place in process.seat.sockets], [1, 1, 1])
            ports.append([self.port(process, number) for (number,) in process.seat.sockets])
        self.assertEqual(ports[0], ports[1])
        self.assertEqual(len({*ports[0]}), 3)
        ours = [{process.descriptors[number] for (number,) in process.seat.sockets} for process in processes]
        self.assertEqual(len(ours[0] | ours[1]), 6)

    def port(self, process: Process, number: int) -> int:
        """Of one of a worker's sockets."""
        fd = process.descriptors[number]
        assert isinstance(fd, int)
        with socket.socket(fileno=os.dup(fd)) as opened:
            port: int = opened.getsockname()[1]
        return port

    def test_no_metrics(self) -> None:
        process, _ = self.begin(MetricsEnabled=False)
        self.assertEqual(len(process.seat.sockets), 1)

    def test_log(self) -> None:
        """Its file is passed on, so that a worker needn't be allowed to open it."""
        process, _ = self.begin()
        assert process.seat.log is not None
        ours = process.descriptors[process.seat.log]
        self.assertEqual(os.readlink(f"/proc/self/fd/{ours}"), str(self.log.resolve()))

    def test_all_are_different(self) -> None:
        """No number there stands for two things."""
        process, _ = self.begin()
        seat = process.seat
        numbers = [ORDERS_FD, 1, 2, seat.reports, seat.log, *(number for place in seat.sockets for number in place)]
        self.assertEqual(sorted(process.descriptors), sorted(numbers))

    def test_not_of_systemd(self) -> None:
        """Who has none of its sockets is told of none."""
        process, _ = self.begin()
        self.assertEqual([name for name in process.environment if name.startswith("LISTEN_")], [])

    def systemd_socket(self) -> int:
        """The number of a descriptor that is as if systemd had passed it."""
        opened = socket.socket()
        self.addCleanup(opened.close)
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        number = os.dup(opened.fileno())
        real = listening.serverFromString

        def server_from_string(reactor: Any, text: str) -> Any:
            if text.startswith("systemd:"):
                return AdoptedStreamServerEndpoint(reactor, number, socket.AF_INET)
            return real(reactor, text)

        self.patch(listening, "serverFromString", server_from_string)
        return number

    def test_systemd(self) -> None:
        """Its socket has the number there that its endpoint means, and the environment says how many there are."""
        number = self.systemd_socket()
        for process in self.begin(ListenPort="systemd:domain=INET:index=0"):
            self.assertEqual(process.seat.sockets[0], (number,))
            # They are counted from 3 on.
            self.assertEqual(process.environment["LISTEN_FDS"], str(number - 2))
            self.assertEqual(len({*process.descriptors}), len(process.descriptors))
            with socket.socket(fileno=os.dup(int(process.descriptors[number]))) as passed:
                self.assertTrue(passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def test_systemd_with_names(self) -> None:
        """Then there are as many as there are names, also of those that are not listened at."""
        self.systemd_socket()
        os.environ["LISTEN_FDNAMES"] = "http:local:other"
        process, _ = self.begin(ListenPort="systemd:domain=INET:index=0")
        self.assertEqual(
            (process.environment["LISTEN_FDS"], process.environment["LISTEN_FDNAMES"]), ("3", "http:local:other")
        )

    def test_ready(self) -> None:
        """It is said when all serve."""
        first, second = self.begin()
        first.ready()
        self.assertNotIn("listens at", self.logged())
        second.ready()
        self.assertIn("listens at 127.0.0.1:", self.logged())
        self.assertEqual(self.gauges.serving, 2)


class FailureTests(SupervisorTestCase):
    """Workers that end by themselves."""

    def test_at_the_start(self) -> None:
        """Then there is no service: its sentence is in the log and on standard error, and the status is 1."""
        said = StringIO()
        self.patch(sys, "stderr", said)
        first, second = self.begin()
        first.fail("hmacfs: StoreDir: Permission denied")
        second.ready()
        self.assertTrue(self.reactor.hasStopped)
        self.assertIn("critical: hmacfs: StoreDir: Permission denied", self.logged())
        self.assertEqual(said.getvalue(), "hmacfs: StoreDir: Permission denied\n")
        self.assertEqual(self.reactor.triggers["after"]["shutdown"], [(os._exit, (1,), {})])

    def test_at_the_start_without_a_word(self) -> None:
        self.patch(sys, "stderr", StringIO())
        first, second = self.begin()
        first.end(3)
        second.ready()
        self.assertIn("hmacfs can't start: w0 has ended with status 3", self.logged())

    def test_later(self) -> None:
        """Another one has its place and its name, and is counted."""
        first, _ = self.start()
        self.reactor.advance(WELL_AFTER_S)
        first.end(1)
        self.reactor.advance(0)
        (another,) = self.reactor.processes[2:]
        self.assertEqual((self.dead, another.name), (["w0"], "w0"))
        self.assertEqual(another.seat.sockets, first.seat.sockets)
        self.assertEqual(another.descriptors, first.descriptors)
        self.assertEqual((self.gauges.serving, self.gauges.restarts), (1, 1))
        another.ready()
        self.assertEqual(self.gauges.serving, 2)

    def test_port_in_use(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            ended = self.assertRaises(SystemExit, self.begin, ListenPort=f"127.0.0.1:{port}")
        self.assertIn(f"hmacfs: 127.0.0.1:{port}: address already in use", str(ended))
        self.assertEqual(self.reactor.processes, [])


class ReloadTests(SupervisorTestCase):
    """SIGHUP."""

    def test_taken_up(self) -> None:
        """New workers have it, at the same sockets; the old ones retire when all of those serve."""
        old = self.start()
        new = self.reload(MaxUploadSize=7)
        self.assertEqual([process.seat.config.max_upload_bytes for process in new], [7, 7])
        self.assertEqual([process.name for process in new], ["w2", "w3"])
        self.assertEqual([*map(self.sockets, new)], [*map(self.sockets, old)])
        new[0].ready()
        self.assertEqual([process.orders for process in old], [[], []])
        new[1].ready()
        self.assertEqual([process.orders for process in old], [[b"retire"], [b"retire"]])
        self.assertIn("taken up by 2 new workers; changed: MaxUploadSize", self.logged())

    def sockets(self, process: Process) -> list[object]:
        """Ours, of which it has copies."""
        return [process.descriptors[number] for place in process.seat.sockets for number in place]

    def test_failed(self) -> None:
        """A new worker can't serve: all new ones are sent away, the old ones stay, and so does what they go by."""
        old = self.start()
        failing, well = self.reload(MaxUploadSize=7)
        well.ready()
        failing.fail("hmacfs: there is no Redis library")
        self.assertEqual(well.orders, [b"stop"])
        self.assertEqual([process.orders for process in old], [[], []])
        self.assertIn(
            "not taken up, and the old one stays in force: a new worker failed: hmacfs: there is", self.logged()
        )
        well.end()
        old[0].end(1)
        self.reactor.advance(FIRST_PAUSE_S)
        self.assertEqual(self.reactor.processes[-1].seat.config, old[0].seat.config)

    def test_after_a_failed_one(self) -> None:
        """The next one can do better, and says what is different from what is in force."""
        old = self.start()
        for process in self.reload(MaxUploadSize=7):
            process.fail("hmacfs: no")
        for process in self.reload(MaxUploadSize=8):
            process.ready()
        self.assertEqual([process.orders for process in old], [[b"retire"], [b"retire"]])
        self.assertEqual(self.logged().count("changed: MaxUploadSize"), 1)

    def test_faulty(self) -> None:
        """Nobody is started for a configuration that is none."""
        self.start()
        self.assertEqual(self.reload(MaxUploadSize="much"), [])
        self.assertIn("the old one stays in force", self.logged())

    def test_log_that_can_not_be_had(self) -> None:
        """Nor for one whose log can't be written; the old log goes on."""
        self.start()
        self.assertEqual(self.reload(LogFile="none/hmacfs.log"), [])
        self.assertIn("the old one stays in force: LogFile", self.logged())

    def test_other_log(self) -> None:
        """New workers have its descriptor."""
        self.start()
        process, _ = self.reload(LogFile="new.log")
        assert process.seat.log is not None
        ours = process.descriptors[process.seat.log]
        self.assertEqual(os.readlink(f"/proc/self/fd/{ours}"), str((self.directory / "new.log").resolve()))

    def test_fixed_keys(self) -> None:
        """Workers have their old values."""
        old, _ = self.start()
        new, _ = self.reload(ListenPort=["127.0.0.1:0", "127.0.0.2:0"], NumCores=5)
        self.assertEqual(len(new.seat.sockets), len(old.seat.sockets))
        self.assertEqual((new.seat.config.listen, new.seat.workers), (old.seat.config.listen, 2))

    def test_secret(self) -> None:
        """Those that leave have it, too, by a line of their pipe."""
        old = self.start()
        new = self.reload(Secret=NEW)
        for process in new:
            process.ready()
        for process in old:
            retire, told = process.orders
            self.assertEqual(retire, b"retire")
            self.assertEqual(self.heard(told).current.value, NEW.encode())
        self.assertEqual({process.seat.keyring.current.value for process in new}, {NEW.encode()})

    def heard(self, line: bytes) -> Keyring:
        """The keys that a worker is told of."""
        heard: list[bytes] = []
        worker = Supervisor(-1, lambda: None)
        worker._obey = {Order.NEWS: heard.append}
        worker.lineReceived(line)
        return unpacked_keyring(heard[0])


class StopTests(SupervisorTestCase):
    """The end."""

    def test_stop(self) -> None:
        """It has come when the last worker has ended; nothing is left then."""
        first, second = self.start()
        stopped = self.stopping()
        self.assertEqual((first.orders, second.orders), ([b"stop"], [b"stop"]))
        first.end()
        self.assertNoResult(stopped)
        second.end()
        self.successResultOf(stopped)
        self.assertEqual([*self.runtime.iterdir()], [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertIn("hmacfs has stopped", self.logged())

    def test_told_again(self) -> None:
        """Whoever says it twice doesn't want to wait."""
        first, _ = self.start()
        self.stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(first.orders, [b"stop", b"hurry"])

    def test_handlers(self) -> None:
        """Signals are what they were before."""
        numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
        before = [signal.getsignal(number) for number in numbers]
        self.start()
        self.stop()
        self.assertEqual([signal.getsignal(number) for number in numbers], before)
