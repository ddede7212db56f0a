"""Assembly: from a configuration to the services of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import provider

from hmacfs import __version__
from hmacfs.access.keys import Keyring, Secret
from hmacfs.config import Config, Listen
from hmacfs.errors import StartError
from hmacfs.front import Front
from hmacfs.logs import Logs, RequestEntry, logs_requests
from hmacfs.metrics import Metrics
from hmacfs.net.descriptors import raise_limit
from hmacfs.net.heap import keep_on_heap
from hmacfs.net.listening import CannotListen, Listener
from hmacfs.net.orders import Supervisor
from hmacfs.net.switching import Switch
from hmacfs.net.systemd import Notifier
from hmacfs.net.threads import Threads
from hmacfs.net.wheel import Wheel
from hmacfs.reloading import Reloads, open_logs, reopen_logs, warn_of
from hmacfs.seat import Seat
from hmacfs.serving import join_workers
from hmacfs.storage.promises import Circle
from hmacfs.uploads.beside import HIGH_WATER_BYTES

#: How many calls may block at a time (fsync, hashing, SQLite); the others wait in line.
_THREADS: Final = 16

#: How long what was begun before a reload may take to end, in seconds.
_RETIRE_WITHIN_S: Final = 3600.0


class HmacfsService(MultiService):
    """All that serves in one process: all of hmacfs, or one of several workers.

    What may go wrong when it starts ends the process with status 1 and a sentence.

    :param reactor: the real one.
    :param seat: what a worker has from its supervisor; ``None`` if there is none.
    :param supervisor: whom a worker reports to.
    """

    _log = Logger()

    def __init__(
        self, config: Config, reactor: Any, seat: Seat | None = None, supervisor: Supervisor | None = None
    ) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._seat = seat
        self._supervisor = supervisor
        # A worker leaves the reading to its supervisor.
        self._reloads = Reloads(config, self, reactor, time.time) if seat is None else None
        self._logs = open_logs(config, None if seat is None else seat.log)
        self._lines_lost = 0
        self._metrics = Metrics(sharing=None if seat is None else seat.sharing)
        self._keyring = Keyring(Secret(config.secret)) if seat is None else seat.keyring
        self._metrics.show_secret(self._keyring.current.fingerprint)
        self._pool = ThreadPool(minthreads=1, maxthreads=_THREADS, name="hmacfs")
        self._threads = Threads(reactor, self._pool)
        self._wheel = Wheel(reactor)
        # Of the fronts of one process, or of the processes, which have one front each.
        self._join = Circle().join if seat is None else partial(join_workers, seat.sharing, reactor)
        self._front = self._make_front(config)
        #: Those that were there before, and have requests to finish.
        self._leaving: dict[Front, Deferred[None]] = {}
        self._files, self._status = Switch(self._front.site), Switch(self._front.status_site)
        sockets = None if seat is None else iter(seat.sockets)
        self._listen(config.listen, self._files, sockets)
        if config.metrics_enabled:
            self._listen(config.metrics_listen, self._status, sockets)
        self._is_leaving = False
        self._is_stopping = False
        self._is_in_a_hurry = False
        watch, metrics = self._metrics.watch, self._metrics
        watch(metrics.goroutines, lambda: self._threads.busy + sum(front.busy for front in self._fronts))
        watch(metrics.connections, lambda: sum(len(front.connections) for front in self._fronts))
        watch(metrics.uploads_in_progress, lambda: sum(front.uploading for front in self._fronts))
        watch(metrics.log_lines_lost, lambda: self._lines_lost + self._logs.lost)

    @property
    def _fronts(self) -> list[Front]:
        return [self._front, *self._leaving]

    @property
    def observer(self) -> ILogObserver:
        """What events are logged by."""

        @provider(ILogObserver)
        def observe(event: LogEvent) -> None:
            self._logs.observer(event)

        observer: Any = observe
        return ILogObserver(observer)

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Called by twistd with the application, before logging begins."""
        super().setServiceParent(parent)
        parent.setComponent(ILogObserver, self.observer)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        with _ends_with_a_sentence():
            super().privilegedStartService()

    def startService(self) -> None:
        self._replaced_handlers = {signal.SIGHUP: signal.signal(signal.SIGHUP, self._hung_up)}
        # The environment of a worker is rid of what it would have to say: its supervisor does.
        self._notifier = Notifier.from_environment(os.environ, os.getpid(), self._reactor)
        if self._supervisor is None:
            warn_of(self._config, self._log)
        self._front.fit_connections(raise_limit())
        with _ends_with_a_sentence():
            self._front.open()
            super().startService()
        self._pool.start()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._front.show()
        Deferred.fromCoroutine(self._front.start()).addCallbacks(self._ready, self._cannot_start)

    def _cannot_start(self, failure: Failure) -> None:
        if self._supervisor is None:
            self._log.critical("hmacfs can't start: {error}", error=failure.value)
        else:
            self._supervisor.failed(f"hmacfs can't start: {failure.value}")
        # twistd ends with status 0 whenever the reactor is stopped, and by then it runs.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.stop()

    def _ready(self, _: None) -> None:
        if self._supervisor is not None:
            self._supervisor.ready()
            return
        if self._is_leaving:
            return
        assert self._reloads is not None
        self._reloads.tell_fingerprint()
        self._log.info("hmacfs {version} {state}", version=__version__, state=self.describe())
        self._notifier.ready(self.describe())
        self._reloads.begin(self._notifier)

    def describe(self) -> str:
        """How the service is, for systemd."""
        return "listens at " + ", ".join(service.describe() for service in self if isinstance(service, Listener))

    def stopService(self) -> Deferred[None]:
        # The reactor's own handlers would complain that it is stopping already.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._replaced_handlers[number] = signal.signal(number, self._told_again)
        return Deferred.fromCoroutine(self._stop())

    def retire(self) -> None:
        """Stop, when the last connection is gone. No new ones are taken, and none gets a second answer from now on."""
        Deferred.fromCoroutine(self._retire()).addErrback(lambda failure: self._log.failure("retire failed", failure))

    def hurry(self) -> None:
        """Stop without waiting any longer, if we are stopping."""
        self._is_in_a_hurry = True

    def _told_again(self, _signal: int, _frame: object) -> None:
        """Of somebody who doesn't want to wait."""
        self.hurry()

    # SIGHUP

    def _hung_up(self, _signal: int, _frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._logs.reopen()
        for front in self._fronts:
            front.reopen()
        if self._reloads is not None:
            self._reloads.reload()

    async def take_up(self, config: Config, keyring: Keyring, changed: tuple[str, ...]) -> str:
        """Have a new front for connections from now on.

        :raises StartError: it can't be had.
        """
        if not changed:
            return ""
        logs = reopen_logs(config, self._logs, self._config)
        front = self._make_front(config)
        try:
            front.fit_connections(raise_limit())
            front.open()
            await front.start()
            if self._is_leaving:
                raise StartError("hmacfs is about to stop")
        except BaseException:
            logs.close()
            await front.stop()
            raise
        front.show()
        self._lines_lost += self._logs.lost
        self._logs, old_logs = logs, self._logs
        self._front, old = front, self._front
        self._files.current, self._status.current = front.site, front.status_site
        self._config = config
        self._leaving[old] = Deferred.fromCoroutine(self._dismiss(old, old_logs))
        return ""

    async def _dismiss(self, front: Front, logs: Logs) -> None:
        """Let a front finish what it has begun.

        :param logs: of that time. By the end of this, no thread is about to write to them any more.
        """
        until = self._reactor.seconds() + _RETIRE_WITHIN_S
        try:
            await front.leave()
            await front.emptied(lambda: self._is_leaving or self._reactor.seconds() >= until)
            if not self._is_leaving:
                await front.stop()
        except Exception:
            self._log.failure("what served before could not leave")
        logs.close()
        if not self._is_leaving:
            del self._leaving[front]

    def renew(self, keyring: Keyring) -> None:
        """Have other keys from now on."""
        self._keyring.become(keyring)
        self._metrics.show_secret(keyring.current.fingerprint)

    # The end

    async def _retire(self) -> None:
        await self._begin_to_leave()
        await self._front.emptied(lambda: self._is_stopping)
        if not self._is_stopping:
            self._reactor.stop()

    async def _begin_to_leave(self) -> None:
        """Take no connections any more, nor requests after those in progress."""
        if self._is_leaving:
            return
        self._is_leaving = True
        await super().stopService()
        if self._reloads is not None:
            await self._reloads.stop()
        await self._front.leave()

    async def _let_requests_end(self) -> None:
        """Wait for those in progress, for a while."""
        until = self._reactor.seconds() + self._config.shutdown_grace_s

        def is_enough() -> bool:
            return self._is_in_a_hurry or bool(self._reactor.seconds() >= until)

        await gatherResults([Deferred.fromCoroutine(front.answered(is_enough)) for front in self._fronts])

    async def _stop(self) -> None:
        self._is_stopping = True
        self._notifier.stopping("lets requests in progress end")
        await self._begin_to_leave()
        # They see that we are leaving.
        await gatherResults([*self._leaving.values()])
        await self._let_requests_end()
        await gatherResults([Deferred.fromCoroutine(front.stop()) for front in self._fronts])
        self._pool.stop()
        self._notifier.close()
        if self._supervisor is None:
            self._log.info("hmacfs has stopped")
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)

    def _make_front(self, config: Config) -> Front:
        # What arrives, and what of it waits to be hashed.
        keep_on_heap(max(4 * config.buffer_bytes, HIGH_WATER_BYTES))
        seat = self._seat
        return Front(
            config,
            self._reactor,
            self._threads,
            self._metrics,
            self._keyring,
            self._wheel,
            self._log_request if logs_requests(config.log_level) else None,
            self._join,
            1 if seat is None else seat.workers,
        )

    def _log_request(self, entry: RequestEntry) -> None:
        self._logs.request(entry)

    def _listen(self, places: tuple[Listen, ...], switch: Switch, sockets: Iterator[tuple[int, ...]] | None) -> None:
        """
        :param sockets: descriptors, for one place after the other, where a supervisor has opened them.
        """
        for place in places:
            inherited = None if sockets is None else next(sockets)
            listener = Listener(self._reactor, place.endpoint, switch, place.name, place.fallback, inherited)
            listener.setServiceParent(self)


@contextmanager
def _ends_with_a_sentence() -> Iterator[None]:
    """A start that fails for a reason that the operator can mend is no traceback, and status 1."""
    try:
        yield
    except (StartError, CannotListen) as error:
        raise SystemExit(f"hmacfs: {error}") from None
