"""Assembly: from a configuration to the services of one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from hmacfs import __version__
from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.scopes import Scopes
from hmacfs.config import Config, Listen
from hmacfs.errors import StartError
from hmacfs.logs import Logs, RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, RequestsInProgress
from hmacfs.net.descriptors import PER_CONNECTION, affordable_connections, raise_limit
from hmacfs.net.limits import Limits
from hmacfs.net.listening import CannotListen, Listener
from hmacfs.net.orders import Supervisor
from hmacfs.net.sweeps import Sweeps
from hmacfs.net.systemd import Notifier
from hmacfs.net.threads import Threads
from hmacfs.net.wheel import Wheel
from hmacfs.seat import Seat
from hmacfs.serving import Serving
from hmacfs.web.answers import ALWAYS, EVERYWHERE
from hmacfs.web.base import Nothing
from hmacfs.web.site import HmacfsSite
from hmacfs.web.status import build_status

#: How many calls may block at a time (fsync, hashing, SQLite); the others wait in line.
_THREADS = 16

#: Between two requests, in seconds. More than the 60 after which nginx drops a connection to us that it has kept: who
#: closes second never closes on a request that is under way.
_IDLE_TIMEOUT_S = 75.0

#: How often it is looked whether the requests in progress have ended, when we are to leave, in seconds.
_LOOK_EVERY_S = 0.1

#: How often, and after how many seconds each, connections are looked after when we stop.
_FAREWELL_TURNS = 50
_FAREWELL_TURN_S = 0.02

#: How long, and how much of, a refused body is thrown away. Apache, and clients that send everything before they read,
#: see a broken connection instead of the refusal if we stop reading before they have sent what they have.
_LINGER_S = 30.0
_LINGER_BYTES = 1024 * 1024 * 1024


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
        self._keyring = Keyring(Secret(config.secret)) if seat is None else seat.keyring
        self._logs = Logs(
            config.log_level, config.log_file, config.log_format, opened=None if seat is None else seat.log
        )
        self._metrics = Metrics(sharing=None if seat is None else seat.sharing)
        self._pool = ThreadPool(minthreads=1, maxthreads=_THREADS, name="hmacfs")
        self._threads = Threads(reactor, self._pool)
        self._sweeps = Sweeps(reactor)
        self._serving: Serving | None = None
        self._addresses = ClientAddresses(config.trusted_proxies)
        self._scopes = Scopes(self._addresses, config.ban_prefix_v6)
        self._wheel = Wheel(reactor)
        processes = 1 if seat is None else seat.workers
        self._connections = Connections(
            ceil(config.max_connections / processes), config.max_connections_per_ip, self._scopes.of_peer
        )
        # Scrapes and probes are not what the metrics, the log and the limits are about.
        self._site = self._make_site(
            self._metrics,
            self._logs.request,
            ALWAYS,
            connections=self._connections,
            in_progress=RequestsInProgress(config.max_connections_per_ip),
        )
        # Nor are they for the pages of other origins, in the browser of somebody who can reach that port.
        self._status_site = self._make_site(None, lambda _entry: None, EVERYWHERE)
        sockets = None if seat is None else iter(seat.sockets)
        self._listen(config.listen, self._site, sockets)
        if config.metrics_enabled:
            self._listen(config.metrics_listen, self._status_site, sockets)
        self._is_leaving = False
        self._is_stopping = False
        self._is_in_a_hurry = False
        self._metrics.watch(self._metrics.goroutines, self._units_of_work)
        self._metrics.watch(self._metrics.connections, lambda: len(self._connections))
        self._metrics.watch(self._metrics.log_lines_lost, lambda: self._logs.lost)

    @property
    def observer(self) -> ILogObserver:
        """What events are logged by."""
        return self._logs.observer

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Called by twistd with the application, before logging begins."""
        super().setServiceParent(parent)
        parent.setComponent(ILogObserver, self._logs.observer)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        with _ends_with_a_sentence():
            super().privilegedStartService()

    def startService(self) -> None:
        self._replaced_handlers = {signal.SIGHUP: signal.signal(signal.SIGHUP, self._hung_up)}
        # The environment of a worker is rid of what it would have to say: its supervisor does.
        self._notifier = Notifier.from_environment(os.environ, os.getpid(), self._reactor)
        if self._supervisor is None:
            for line in (*self._config.warnings, *self._config.inactive):
                self._log.warn("{line}", line=line)
        self._fit_connections(raise_limit())
        with _ends_with_a_sentence():
            self._serving = Serving(
                self._config,
                self._reactor,
                self._threads,
                self._metrics,
                self._addresses,
                self._scopes,
                self._keyring,
                None if self._seat is None else self._seat.sharing,
            )
            self._site.resource = self._serving.root
            self._site.door.bans = self._serving.bans
            self._status_site.resource = build_status(self._metrics, self._serving.failing)
            super().startService()
        self._pool.start()
        self._reactor.callWhenRunning(self._begin, self._serving)

    def _fit_connections(self, descriptors: int) -> None:
        """Don't take more connections than *descriptors* are enough for."""
        wanted, affordable = self._connections.most, affordable_connections(descriptors)
        if wanted > affordable:
            self._connections.most = affordable
            self._log.warn(
                "MaxConnections is {affordable}, not {wanted}: there are {descriptors} file descriptors, and a connection"
                " may need {each}. For more, raise LimitNOFILE in the systemd unit, or ulimit -Hn.",
                affordable=affordable,
                wanted=wanted,
                descriptors=descriptors,
                each=PER_CONNECTION,
            )

    def _begin(self, serving: Serving) -> None:
        Deferred.fromCoroutine(serving.start(self._sweeps)).addCallbacks(self._ready, self._cannot_start)

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
        places = ", ".join(service.describe() for service in self if isinstance(service, Listener))
        self._log.info("hmacfs {version} listens at {places}", version=__version__, places=places)
        self._notifier.ready(f"listens at {places}")

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

    def _hung_up(self, _signal: int, _frame: object) -> None:
        """SIGHUP, which ends a process that doesn't know it: whoever sends it has rotated the log."""
        self._reactor.callFromThread(self._reopen)

    def _reopen(self) -> None:
        self._logs.reopen()
        if self._serving is not None:
            self._serving.reopen()

    async def _retire(self) -> None:
        await self._begin_to_leave()
        while self._site.channels or self._status_site.channels:
            if self._is_stopping:
                return
            await deferLater(self._reactor, _LOOK_EVERY_S, lambda: None)
        self._reactor.stop()

    async def _begin_to_leave(self) -> None:
        """Take no connections any more, nor requests after those in progress."""
        if self._is_leaving:
            return
        self._is_leaving = True
        for site in (self._site, self._status_site):
            site.isLeaving = True
        await super().stopService()
        if self._serving is not None:
            await self._serving.hand_over()

    async def _let_requests_end(self) -> None:
        """Wait for those in progress, for a while."""
        until = self._reactor.seconds() + self._config.shutdown_grace_s
        for site in (self._site, self._status_site):
            site.closeIdle()
        while self._reactor.seconds() < until and not self._is_in_a_hurry:
            if not self._site.owing and not self._status_site.owing:
                return
            await deferLater(self._reactor, _LOOK_EVERY_S, lambda: None)

    async def _stop(self) -> None:
        self._is_stopping = True
        self._notifier.stopping("lets requests in progress end")
        await self._begin_to_leave()
        await self._let_requests_end()
        await self._sweeps.stop()
        if self._serving is not None:
            await self._serving.stop()
        await self._close_connections()
        self._pool.stop()
        self._notifier.close()
        if self._supervisor is None:
            self._log.info("hmacfs has stopped")
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)

    async def _close_connections(self) -> None:
        """Close them all; what uploads that were stopped are told gets the time to go out."""
        for _ in range(_FAREWELL_TURNS):
            # First of all: who was stopped just now has not been answered yet.
            await deferLater(self._reactor, _FAREWELL_TURN_S, lambda: None)
            channels = [*self._site.channels, *self._status_site.channels]
            if not channels:
                break
            for channel in channels:
                channel.loseConnection()

    def _make_site(
        self,
        metrics: Metrics | None,
        access_log: Callable[[RequestEntry], None],
        always: Iterable[tuple[str, str]],
        *,
        connections: Connections | None = None,
        in_progress: RequestsInProgress | None = None,
    ) -> HmacfsSite:
        config = self._config
        return HmacfsSite(
            Nothing(),
            reactor=self._reactor,
            limits=Limits(
                read_timeout_s=config.read_timeout_s,
                write_timeout_s=config.write_timeout_s,
                min_body_rate=config.min_body_rate,
                body_buffer_bytes=config.buffer_bytes,
                idle_timeout_s=_IDLE_TIMEOUT_S,
                linger_s=_LINGER_S,
                linger_bytes=_LINGER_BYTES,
            ),
            addresses=self._addresses,
            access_log=access_log,
            metrics=metrics,
            always=always,
            connections=connections,
            wheel=self._wheel,
            in_progress=in_progress,
            scopes=self._scopes,
        )

    def _listen(self, places: tuple[Listen, ...], site: HmacfsSite, sockets: Iterator[tuple[int, ...]] | None) -> None:
        """
        :param sockets: descriptors, for one place after the other, where a supervisor has opened them.
        """
        for place in places:
            inherited = None if sockets is None else next(sockets)
            listener = Listener(self._reactor, place.endpoint, site, place.name, place.fallback, inherited)
            listener.setServiceParent(self)

    def _units_of_work(self) -> int:
        swept_for_all = 0 if self._serving is None else self._serving.sweeping
        return self._site.in_flight + self._threads.busy + self._sweeps.running + swept_for_all


@contextmanager
def _ends_with_a_sentence() -> Iterator[None]:
    """A start that fails for a reason that the operator can mend is no traceback, and status 1."""
    try:
        yield
    except (StartError, CannotListen) as error:
        raise SystemExit(f"hmacfs: {error}") from None
