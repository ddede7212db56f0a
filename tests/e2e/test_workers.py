"""Several processes that serve: they share the work, and none of them is missed."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.e2e import signing
from tests.e2e.daemon import Daemon, TomlValue, command, toml
from tests.e2e.processes import GaveUp, PeerTestCase, Process, accepts, wait_until
from tests.e2e.resuming import Client
from tests.e2e.signing import SECRET
from tests.e2e.wire import Closed, Connection, ask

MIB = 1 << 20
NEW_SECRET = "another-secret-of-the-tests-9876543210"
PATH = "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/film.mp4"


def children(pid: int) -> list[int]:
    """The processes that *pid* has started, in the order in which it has."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def server_of(connection: Connection, pids: list[int]) -> int:
    """Which of *pids* has the other end of a TCP connection over IPv4.

    :raises GaveUp: none has.
    """
    host, port = connection.socket.getsockname()[:2]
    peer_port = connection.socket.getpeername()[1]
    del host
    ends = (f":{peer_port:04X}", f":{port:04X}")
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            for pid in pids:
                if f"socket:[{fields[9]}]" in _open_files(pid):
                    return pid
    raise GaveUp(f"nobody of {pids} has the connection from port {port}")


def _open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


class Load:
    """Clients that ask without a pause, each in a thread: half of them on a new connection each time.

    They GET, or PUT files of their own; each knows a keep-alive connection's rules: after ``Connection: close`` comes a
    new one.

    :param secret: what slots are signed with; may change.
    :ivar failures: what went wrong, a line each.
    """

    def __init__(self, case: PeerTestCase, port: int, stored: str) -> None:
        self.secret = SECRET
        self.failures: list[str] = []
        self._port = port
        self._stored = stored
        self._over = threading.Event()
        self._answers = [0] * 8
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(8)]
        for thread in self._threads:
            thread.start()
        case.addCleanup(self.end)

    def go_on(self, answers: int = 20) -> None:
        """Wait until each has had some more answers."""
        before = [*self._answers]
        wait_until(
            lambda: all(now - then >= answers for now, then in zip(self._answers, before, strict=True)), "more answers"
        )

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection: Connection | None = None
        for turn in count():
            if self._over.is_set():
                break
            try:
                if connection is None:
                    connection = Connection(self._port)
                keeps = self._ask(connection, number, turn)
            except (OSError, Closed) as error:
                self.failures.append(f"{number}: {type(error).__name__} {error}")
                connection, keeps = None, False
            if connection is not None and not (keeps and number % 2):
                connection.close()
                connection = None
            self._answers[number] += 1
        if connection is not None:
            connection.close()

    def _ask(self, connection: Connection, number: int, turn: int) -> bool:
        """
        :return: whether the connection goes on.
        """
        if number % 4 < 2:
            answer, good = connection.request("GET", signing.url_path(self._stored)), 200
        else:
            body = bytes(1000)
            target = signing.v(f"load/{number}-{turn}", len(body), self.secret)
            answer, good = connection.request("PUT", target, None, body), 201
        if answer.status != good:
            self.failures.append(f"{number}: {answer.status} {answer.text}")
        return answer.header("connection") != "close"


class WorkersTestCase(PeerTestCase):
    """Two workers, unless a test wants another number."""

    def serve(self, **keys: TomlValue) -> Daemon:
        usual: dict[str, TomlValue] = {"NumCores": 2, "ShutdownGrace": 60, "MinFreeSpace": 0, "BlockAfterFails": 0}
        self.daemon = Daemon(self, text=None, **{**usual, **keys}).started()
        return self.daemon

    def workers(self) -> list[int]:
        return children(self.daemon.process.pid)

    def connection_to(self, pid: int) -> Connection:
        """One to that worker."""
        pids = self.workers()
        for _ in range(200):
            connection = Connection(self.daemon.port)
            self.addCleanup(connection.close)
            connection.request("GET", signing.url_path("no/thing"))
            if server_of(connection, pids) == pid:
                return connection
        raise GaveUp(f"200 connections, and none to {pid}")

    def begin_upload(self, content: bytes, arrived: int) -> Connection:
        """One of which a part has arrived."""
        connection = Connection(self.daemon.port)
        self.addCleanup(connection.close)
        connection.send_head("PUT", signing.v(PATH, len(content)), length=len(content))
        connection.send(content[:arrived])
        wait_until(lambda: sum(part.stat().st_size for part in self.daemon.parts()) == arrived, "a part has arrived")
        return connection

    def configure(self, **keys: TomlValue) -> None:
        """Add keys to the configuration file, or change them."""
        lines = self.daemon.config.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.split(" = ")[0] not in keys]
        self.daemon.config.write_text("".join(kept) + toml(keys), "utf-8")

    def reload(self, times: int = 1) -> None:
        """SIGHUP, and wait until new workers serve, for the *times*-th time."""
        self.daemon.process.signal(signal.SIGHUP)
        self.daemon.process.wait_for_line("taken up by 2 new workers", count=times)


class ServingTests(WorkersTestCase):
    """Several processes at one place."""

    def test_two(self) -> None:
        """Both get connections; what one has stored the other one has."""
        self.serve()
        first, second = self.workers()
        at_first, at_second = self.connection_to(first), self.connection_to(second)
        self.assertEqual(at_first.request("PUT", signing.v(PATH, 3), None, b"abc").status, 201)
        self.assertEqual(at_second.request("GET", signing.url_path(PATH)).body, b"abc")
        self.assertEqual(self.daemon.metrics()["hmac_file_server_workers"], 2)
        self.assertEqual(ask(self.daemon.metrics_port, "GET", "/readyz").status, 200)

    def test_nothing_secret_in_the_list_of_processes(self) -> None:
        """Neither among the arguments nor in the environment; the name is there."""
        self.serve()
        for number, pid in enumerate(self.workers()):
            shown = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
            self.assertNotIn(SECRET.encode(), shown)
            self.assertIn(f"worker.py\0w{number}\0".encode(), shown)

    def test_port_in_use(self) -> None:
        """Somebody else's, or that of another hmacfs with workers."""
        first = self.serve()
        second = Daemon(self, NumCores=2, ListenPort=f"127.0.0.1:{first.port}")
        self.assertEqual(second.process.wait(), 1)
        self.assertIn(f"127.0.0.1:{first.port}: address already in use", second.process.output)

    def test_store_not_writable(self) -> None:
        """What a worker finds when it starts ends all, with its sentence."""
        file = self.directory / "file"
        file.write_bytes(b"")
        daemon = Daemon(self, NumCores=2, StoreDir=str(file / "store"))
        self.assertEqual(daemon.process.wait(), 1)
        self.assertIn("hmacfs: StoreDir", daemon.process.output)
        self.assertNotIn("Traceback", daemon.process.output)

    def test_unix_socket(self) -> None:
        """One for all, with its mode; at the end it is gone."""
        path = self.directory / "http.sock"
        daemon = Daemon(self, ListenPort=str(path), UnixSocket=True, UnixSocketMode="620", NumCores=2).started()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o620)
        target = signing.v(PATH, 3)
        self.assertEqual(ask(str(path), "PUT", target, None, b"abc").status, 201)
        daemon.process.signal(signal.SIGHUP)
        daemon.process.wait_for_line("taken up by 2 new workers")
        wait_until(lambda: len(children(daemon.process.pid)) == 2, "the old workers are gone")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o620)
        self.assertEqual(ask(str(path), "GET", signing.url_path(PATH)).body, b"abc")
        daemon.process.stop()
        self.assertFalse(path.exists())

    def test_proxy_protocol(self) -> None:
        """What an endpoint makes of a connection, every worker makes of it."""
        port = self.free_port()
        endpoint = f"haproxy:tcp:{port}:interface=127.0.0.1"
        daemon = Daemon(self, ListenPort=endpoint, NumCores=2).started()
        for number in range(10):
            with Connection(port) as connection:
                connection.send(f"PROXY TCP4 192.0.2.{number} 127.0.0.1 1000 {port}\r\n".encode())
                self.assertEqual(connection.request("GET", signing.url_path("no/thing")).status, 404)
            daemon.process.wait_for_line(f"from 192.0.2.{number}$")

    def test_sockets_of_systemd(self) -> None:
        """They are everybody's, by whatever way they come, and stay open afterwards."""
        with socket.socket() as by_port, socket.socket(socket.AF_UNIX) as by_path:
            path = self.directory / "http.sock"
            by_port.bind(("127.0.0.1", 0))
            by_path.bind(str(path))
            path.chmod(0o600)
            for each in (by_port, by_path):
                each.listen()
            listen = ["systemd:domain=UNIX:index=1", "haproxy:systemd:domain=INET:index=0"]
            config = self.directory / "config.toml"
            keys: dict[str, TomlValue] = {"Secret": SECRET, "StoreDir": str(self.directory / "store"), "NumCores": 2}
            config.touch(0o600)
            config.write_text(toml({**keys, "ListenPort": listen, "MetricsEnabled": False, "ShutdownGrace": 0}))
            script = (
                "import os, sys\n"
                "for place, number in enumerate(map(int, sys.argv[1].split(','))):\n"
                "    os.dup2(number, 3 + place, inheritable=True)\n"
                "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='http:local')\n"
                "os.execv(sys.argv[2], sys.argv[2:])\n"
            )
            numbers = [os.dup(each.fileno()) for each in (by_port, by_path)]
            high = [socket.socket(fileno=number) for number in numbers]
            argv = [*command("twistd"), "-n", "--pidfile=", "hmacfs", "-c", str(config)]
            process = self.started(
                Process(
                    "hmacfs",
                    [sys.executable, "-c", script, ",".join(map(str, numbers)), *argv],
                    cwd=self.directory,
                    passed=numbers,
                )
            )
            for each in high:
                each.close()
            process.wait_for_line("listens at")
            port = by_port.getsockname()[1]
            for _ in range(5):
                self.assertEqual(ask(str(path), "GET", signing.url_path("no/thing")).status, 404)
                with Connection(port) as connection:
                    connection.send(f"PROXY TCP4 192.0.2.1 127.0.0.1 1000 {port}\r\n".encode())
                    self.assertEqual(connection.request("GET", signing.url_path("no/thing")).status, 404)
            process.stop()
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            for connect in (lambda: Connection(port), lambda: Connection(str(path))):
                connect().close()

    def test_daemon(self) -> None:
        """twistd in the background: the process in its pid file is the one to be told."""
        log, pid_file = self.directory / "hmacfs.log", self.directory / "hmacfs.pid"
        port = self.free_port()
        config = self.directory / "config.toml"
        config.touch(0o600)
        keys: dict[str, TomlValue] = {"Secret": SECRET, "StoreDir": "store", "NumCores": 2, "LogFile": str(log)}
        config.write_text(toml({**keys, "ListenPort": f"127.0.0.1:{port}", "MetricsEnabled": False}))
        rundir = self.directory / "run"
        rundir.mkdir()
        argv = [*command("twistd"), f"--pidfile={pid_file}", f"--rundir={rundir}", "--umask=027", "hmacfs"]
        starting = self.started(Process("hmacfs", [*argv, "-c", str(config)], cwd=self.directory))
        self.assertEqual(starting.wait(), 0)
        wait_until(lambda: log.exists() and "listens at" in log.read_text("utf-8"), "it listens")
        pid = int(pid_file.read_text("ascii"))
        self.addCleanup(self._end, pid)
        for worker in children(pid):
            self.assertIn("Umask:\t0027", Path(f"/proc/{worker}/status").read_text("ascii"))
            self.assertEqual(os.readlink(f"/proc/{worker}/cwd"), str(rundir))
        self.assertEqual(ask(port, "PUT", signing.v(PATH, 3), None, b"abc").status, 201)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_there(pid), "it has ended")
        self.assertIn("hmacfs has stopped", log.read_text("utf-8"))
        self.assertFalse(pid_file.exists())

    def _end(self, pid: int) -> None:
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)


class DeathTests(WorkersTestCase):
    """Processes that are killed."""

    def test_worker(self) -> None:
        """Only its own connections break. None is lost that was waiting for it, and another one takes its place."""
        self.serve()
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 201)
        first, second = self.workers()
        at_first, at_second = self.connection_to(first), self.connection_to(second)
        load = Load(self, self.daemon.port, PATH)
        load.go_on()
        os.kill(first, signal.SIGKILL)
        self.assertTrue(at_first.closed_by_peer())
        self.daemon.process.wait_for_line("w0 was ended by SIGKILL; another one is started")
        wait_until(lambda: len(self.workers()) == 2, "there are two again")
        load.go_on()
        load.end()
        # A client has one connection at a time.
        self.assertLessEqual(len(load.failures), 8, load.failures)
        self.assertEqual(at_second.request("GET", signing.url_path(PATH)).body, b"abc")
        self.assertNotIn(first, self.workers())
        self.assertEqual(self.daemon.metrics()["hmac_file_server_worker_restarts_total"], 1)

    def test_supervisor(self) -> None:
        """Its workers end, too, and somebody else can have the port."""
        self.serve()
        workers = self.workers()
        os.kill(self.daemon.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_there, workers)), "the workers are gone")
        self.daemon.process.wait()
        self.daemon.restart()
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 201)

    def test_supervisor_while_it_starts(self) -> None:
        """So do workers that have only begun."""
        daemon = Daemon(self, NumCores=2)
        pids = wait_until(lambda: daemon.process.running and children(daemon.process.pid), "a worker has been started")
        assert pids
        os.kill(daemon.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_there, pids)), "the workers are gone")


class StopTests(WorkersTestCase):
    """SIGTERM, with an upload under way."""

    def test_upload_that_ends(self) -> None:
        """It gets its 201; nobody else gets anything any more."""
        for processes in (1, 2):
            with self.subTest(processes=processes):
                self.serve(NumCores=processes)
                content = os.urandom(2 * MIB)
                upload = self.begin_upload(content, MIB)
                idle = Connection(self.daemon.port)
                self.addCleanup(idle.close)
                self.assertEqual(idle.request("GET", signing.url_path("no/thing")).status, 404)
                self.daemon.process.signal(signal.SIGTERM)
                self.assertTrue(idle.closed_by_peer())
                wait_until(lambda: not accepts(self.daemon.port), "nobody listens")
                upload.send(content[MIB:])
                answer = upload.answer("PUT")
                self.assertEqual((answer.status, answer.header("connection")), (201, "close"))
                self.assertIn(self.daemon.process.wait(), (0, -signal.SIGTERM))
                self.assertEqual(self.daemon.files(), [PATH])
                self.assertNotIn("Traceback", self.daemon.process.output)

    def test_upload_that_does_not_end(self) -> None:
        """After ShutdownGrace it gets a 503, and goes on with the next hmacfs where it was."""
        self.serve(ShutdownGrace=1)
        self.cut_off(lambda: None)

    def test_second_signal(self) -> None:
        """It ends the grace."""
        self.serve(ShutdownGrace=1000)
        self.cut_off(lambda: self.daemon.process.signal(signal.SIGTERM))

    def test_second_signal_for_one_process(self) -> None:
        """Likewise."""
        self.serve(ShutdownGrace=1000, NumCores=1)
        self.cut_off(lambda: self.daemon.process.signal(signal.SIGTERM))

    def cut_off(self, then: Callable[[], None]) -> None:
        """
        :param then: is called when nobody listens any more.
        """
        content = os.urandom(2 * MIB)
        upload = self.begin_upload(content, MIB)
        self.daemon.process.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(self.daemon.port), "nobody listens")
        then()
        self.assertEqual(upload.answer("PUT").status, 503)
        self.daemon.process.wait()
        self.assertNotIn("Traceback", self.daemon.process.output)
        self.daemon.restart()
        client = Client(self.daemon.port, content, path=PATH)
        self.assertEqual(client.offset(), MIB)
        self.assertEqual(client.rest(MIB).status, 201)
        self.assertEqual(client.get().body, content)


class ReloadTests(WorkersTestCase):
    """SIGHUP."""

    def test_under_load(self) -> None:
        """No request fails: not on new connections, not on those that are kept, no upload that was under way, and no slot
        that was signed before. The new secret is in force, too.
        """
        self.serve()
        self.assertEqual(self.daemon.ask("PUT", signing.v("old/file", 3), body=b"abc").status, 201)
        before = self.workers()
        content = os.urandom(2 * MIB)
        upload = self.begin_upload(content, MIB)
        load = Load(self, self.daemon.port, "old/file")
        load.go_on()
        self.reload(1)
        load.go_on()
        self.configure(Secret=NEW_SECRET)
        self.reload(2)
        load.go_on()
        load.secret = NEW_SECRET
        load.go_on()
        self.reload(3)
        load.go_on()
        load.end()
        self.assertEqual(load.failures, [])
        upload.send(content[MIB:])
        self.assertEqual(upload.answer("PUT").status, 201)
        wait_until(lambda: len(self.workers()) == 2, "the old workers are gone")
        self.assertFalse({*before} & {*self.workers()})
        late = signing.v("late/slot", 3)
        self.assertEqual(self.daemon.ask("PUT", late, body=b"abc").status, 201)

    def test_secret_without_grace(self) -> None:
        """What was signed with the old one isn't accepted any more."""
        self.serve(SecretGracePeriod=0)
        self.configure(Secret=NEW_SECRET)
        self.reload()
        wait_until(lambda: len(self.workers()) == 2, "the old workers are gone")
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 403)
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3, NEW_SECRET), body=b"abc").status, 201)

    def test_faulty_configuration(self) -> None:
        """It changes nothing, and is told with all its faults; the next one is taken up."""
        self.serve()
        before = self.workers()
        good = self.daemon.config.read_text("utf-8")
        self.daemon.config.write_text(good + "LogLevle = 5\nReadTimeout = true\n", "utf-8")
        self.daemon.process.signal(signal.SIGHUP)
        line = self.daemon.process.wait_for_line("the old one stays in force")
        self.assertIn("LogLevle", line)
        self.assertEqual(self.workers(), before)
        self.assertEqual(self.daemon.ask("GET", signing.url_path(PATH)).status, 404)
        self.daemon.config.write_text(good, "utf-8")
        self.reload()

    def test_worker_that_can_not_serve(self) -> None:
        """The old ones go on."""
        self.serve()
        before = self.workers()
        self.configure(ReportFile=str(self.directory / "none" / "report"))
        self.daemon.process.signal(signal.SIGHUP)
        self.daemon.process.wait_for_line("the old one stays in force: a new worker failed: hmacfs: ReportFile")
        wait_until(lambda: self.workers() == before, "only the old ones are left")
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 201)

    def test_keys_that_take_a_restart(self) -> None:
        """They are named, and the others are taken up."""
        self.serve()
        self.configure(ListenPort=f"127.0.0.1:{self.free_port()}", MaxUploadSize=2)
        self.reload()
        self.daemon.process.wait_for_line("ListenPort has changed, which takes a restart")
        wait_until(lambda: len(self.workers()) == 2, "the old workers are gone")
        self.assertEqual(self.daemon.ask("PUT", signing.v(PATH, 3), body=b"abc").status, 413)

    def test_log_file(self) -> None:
        """It is made anew, and all write to it, each line whole."""
        log = self.directory / "hmacfs.log"
        self.serve(LogFile=str(log))
        wait_until(lambda: "listens at" in log.read_text("utf-8"), "it has started")
        log.rename(log.with_suffix(".1"))
        self.daemon.process.signal(signal.SIGHUP)
        wait_until(lambda: log.exists() and "taken up by" in log.read_text("utf-8"), "there are new workers")
        for _ in range(20):
            self.daemon.ask("GET", signing.url_path(PATH))
        wait_until(lambda: log.read_text("utf-8").count(" GET ") == 20, "all is logged")
        for line in log.read_text("utf-8").splitlines():
            self.assertTrue(re.match(r"[0-9T:.-]{23}Z ", line), line)

    def test_idle_connection(self) -> None:
        """One that is kept gets another answer from its old worker, the last one."""
        self.serve()
        kept = Connection(self.daemon.port)
        self.addCleanup(kept.close)
        self.assertIsNone(kept.request("GET", signing.url_path(PATH)).header("connection"))
        self.reload()

        def is_last() -> bool:
            answer = kept.request("GET", signing.url_path(PATH))
            self.assertEqual(answer.status, 404)
            return answer.header("connection") == "close"

        wait_until(is_last, "the old worker has been told")
        self.assertTrue(kept.closed_by_peer())
        wait_until(lambda: len(self.workers()) == 2, "the old workers are gone")
