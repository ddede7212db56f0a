"""The supervisor: it opens the places to listen at, and looks after the workers, which serve there."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import provider

from hmacfs import __version__
from hmacfs.access.keys import Keyring
from hmacfs.config import Config, Listen
from hmacfs.errors import StartError
from hmacfs.logs import Logs
from hmacfs.metrics import Sharing, SupervisorMetrics, mark_dead
from hmacfs.net.listening import CannotListen, Held
from hmacfs.net.orders import ORDERS_FD
from hmacfs.net.systemd import Notifier
from hmacfs.net.workers import Start, WorkerFailed, WorkerPool
from hmacfs.reloading import Reloads, open_logs, reopen_logs, warn_of
from hmacfs.seat import Seat, packed_keyring

_WORKER: Final = str(Path(__file__).with_name("worker.py"))


class SupervisorService(MultiService):
    """All of hmacfs in several processes, of which this one serves nobody.

    :param reactor: the real one.
    :param workers: how many there are to be.
    """

    _log = Logger()

    def __init__(self, config: Config, reactor: Any, workers: int) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._workers = workers
        self._logs = open_logs(config)
        self._reloads = Reloads(config, self, reactor, time.time)
        self._is_stopping = False
        self._directory: Path | None = None
        self._pool = WorkerPool(reactor, workers, self, config.shutdown_grace_s)
        self._held = [*self._hold(config.listen)]
        if config.metrics_enabled:
            self._held += self._hold(config.metrics_listen)

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Called by twistd with the application, before logging begins."""
        super().setServiceParent(parent)

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            self._logs.observer(event)

        parent.setComponent(ILogObserver, observe)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except CannotListen as error:
            raise SystemExit(f"hmacfs: {error}") from None

    def startService(self) -> None:
        self._replaced_handlers = {signal.SIGHUP: signal.signal(signal.SIGHUP, self._hung_up)}
        self._notifier = Notifier.from_environment(os.environ, os.getpid(), self._reactor)
        warn_of(self._config, self._log)
        try:
            super().startService()
        except CannotListen as error:
            raise SystemExit(f"hmacfs: {error}") from None
        # By now we are who we are going to be, and so will our children be.
        self._directory = Path(tempfile.mkdtemp(prefix="hmacfs-", dir=os.environ.get("RUNTIME_DIRECTORY")))
        self._metrics = SupervisorMetrics(self._sharing("supervisor"))
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        started = Deferred.fromCoroutine(
            self._pool.start(self._starter(self._config, self._reloads.keyring, self._logs))
        )
        started.addCallbacks(self._ready, self._cannot_start)

    def _ready(self, _: None) -> None:
        if self._is_stopping:
            return
        self._reloads.tell_fingerprint()
        self._log.info("hmacfs {version} {state}", version=__version__, state=self.describe())
        self._notifier.ready(self.describe())
        self._reloads.begin(self._notifier)

    def describe(self) -> str:
        """How the service is, for systemd."""
        return "listens at " + ", ".join(held.describe() for held in self._held)

    def _cannot_start(self, failure: Failure) -> None:
        if self._is_stopping:
            return
        error = failure.value
        sentence = (isinstance(error, WorkerFailed) and error.sentence) or f"hmacfs can't start: {error}"
        self._log.critical("{sentence}", sentence=sentence)
        if self._config.log_file is not None:
            sys.stderr.write(f"{sentence}\n")
        # twistd ends with status 0 whenever the reactor is stopped, and by then it runs.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        self._is_stopping = True
        self._reloads.stop()
        # The reactor's own handlers would complain that it is stopping already.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._replaced_handlers[number] = signal.signal(number, self._told_again)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._notifier.stopping("lets requests in progress end")
        await super().stopService()
        await self._pool.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._notifier.close()
        self._log.info("hmacfs has stopped")
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)

    def _told_again(self, _signal: int, _frame: object) -> None:
        """Of somebody who doesn't want to wait."""
        self._reactor.callFromThread(self._pool.hurry)

    # SIGHUP

    def _hung_up(self, _signal: int, _frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._logs.reopen()
        self._reloads.reload()

    async def take_up(self, config: Config, keyring: Keyring, changed: tuple[str, ...]) -> str:
        """Have workers with another configuration, whatever has changed: they are another program, too, by now.

        :raises StartError: they can't be had.
        """
        logs = reopen_logs(config, self._logs, self._config)
        try:
            await self._pool.replace(self._starter(config, keyring, logs))
        except WorkerFailed as error:
            logs.close()
            raise StartError(f"a new worker failed: {error}") from error
        self._config = config
        self._logs, old = logs, self._logs
        old.close()
        return f" by {self._workers} new workers"

    def renew(self, keyring: Keyring) -> None:
        """Tell the workers of other keys."""
        self._pool.inform(packed_keyring(keyring))

    # Watcher

    def workers_changed(self, serving: int) -> None:
        self._metrics.workers.set(serving)

    def worker_restarted(self) -> None:
        self._metrics.worker_restarts.inc()

    def worker_gone(self, name: str) -> None:
        assert self._directory is not None
        mark_dead(self._directory, name)

    # Starting a worker

    def _starter(self, config: Config, keyring: Keyring, logs: Logs) -> Start:
        def start(name: str, slot: int, protocol: ProcessProtocol) -> bytes:
            return self._start(config, keyring, logs, name, slot, protocol)

        return start

    def _start(
        self, config: Config, keyring: Keyring, logs: Logs, name: str, slot: int, protocol: ProcessProtocol
    ) -> bytes:
        descriptors = _Descriptors()
        passed = [held.passed(slot) for held in self._held]
        numbered = {each.number: each.fd for place in passed for each in place if each.number is not None}
        for number, fd in numbered.items():
            descriptors.add(fd, number)
        seat = Seat(
            config,
            keyring,
            self._sharing(name),
            self._workers,
            tuple(tuple(descriptors.add(each.fd, each.number) for each in place) for place in passed),
            None if logs.file_fd is None else descriptors.add(logs.file_fd),
            descriptors.add("r"),
        )
        self._reactor.spawnProcess(
            protocol,
            sys.executable,
            [sys.executable, _WORKER, name],
            env={**os.environ, **_told_by_systemd(numbered)},
            childFDs=descriptors.table,
        )
        return seat.packed()

    def _sharing(self, name: str) -> Sharing:
        assert self._directory is not None
        return Sharing(self._directory, name, os.getpid())

    def _hold(self, places: Iterable[Listen]) -> Iterator[Held]:
        for place in places:
            held = Held(self._reactor, place.endpoint, place.name, place.fallback, self._workers)
            held.setServiceParent(self)
            yield held


class _Descriptors:
    """Which descriptors a worker gets, by the numbers that they have there (:meth:`IReactorProcess.spawnProcess`)."""

    def __init__(self) -> None:
        self.table: dict[int, int | str] = {ORDERS_FD: "w", 1: 1, 2: 2}

    def add(self, ours: int | str, number: int | None = None) -> int:
        """
        :param ours: a descriptor of ours, or ``"r"`` for a pipe that we read.
        :param number: which it must have there.
        :return: which it has there.
        """
        if number is None:
            number = next(number for number in itertools.count(3) if number not in self.table)
        self.table[number] = ours
        return number


def _told_by_systemd(numbers: Iterable[int]) -> dict[str, str]:
    """What a worker's environment has to say of systemd's sockets (sd_listen_fds(3)). Twisted has removed it from ours.

    :param numbers: the descriptors that it gets of them.
    """
    names = os.environ.get("LISTEN_FDNAMES", "")
    last = max(numbers, default=0)
    if not last:
        return {}
    return {"LISTEN_FDS": str(len(names.split(":")) if names else last - 2)}
