"""What serves by one configuration.

When another configuration is taken up in a process, another front is made beside the first one, on the same store, as if
it were another process's. The first one then takes no connections any more and leaves, when the last of its own has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil
from typing import Any, Final

from twisted.internet.task import deferLater
from twisted.logger import Logger

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.keys import Keyring
from hmacfs.access.scopes import Scopes
from hmacfs.config import Config
from hmacfs.logs import RequestEntry
from hmacfs.metrics import Metrics
from hmacfs.net.admission import Connections, RequestsInProgress
from hmacfs.net.descriptors import PER_CONNECTION, affordable_connections
from hmacfs.net.limits import Limits
from hmacfs.net.sweeps import Sweeps
from hmacfs.net.threads import Threads
from hmacfs.net.wheel import Wheel
from hmacfs.serving import Serving
from hmacfs.storage.promises import IPromises
from hmacfs.web.answers import ALWAYS, EVERYWHERE
from hmacfs.web.base import Nothing
from hmacfs.web.site import HmacfsSite
from hmacfs.web.status import build_status

#: Between two requests, in seconds. More than the 60 after which nginx drops a connection to us that it has kept: who
#: closes second never closes on a request that is under way.
_IDLE_TIMEOUT_S: Final = 75.0

#: How often it is looked whether the requests in progress have ended, when we are to leave, in seconds.
_LOOK_EVERY_S: Final = 0.1

#: How often, and after how many seconds each, connections are looked after when we stop.
_FAREWELL_TURNS: Final = 50
_FAREWELL_TURN_S: Final = 0.02

#: How long, and how much of, a refused body is thrown away. Apache, and clients that send everything before they read,
#: see a broken connection instead of the refusal if we stop reading before they have sent what they have.
_LINGER_S: Final = 30.0
_LINGER_BYTES: Final = 1024 * 1024 * 1024


class Front:
    """See the module.

    :param access_log: takes one entry for each request for a file; ``None`` where nobody reads them.
    :param join: has this one tell the others that serve with it of its uploads. May raise :exc:`StartError`.
    :param processes: how many share ``MaxConnections``.
    :ivar site: serves files.
    :ivar status_site: serves metrics and health.
    :ivar connections: those to *site*.
    :ivar serving: what is behind them, from :meth:`open` on.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        threads: Threads,
        metrics: Metrics,
        keyring: Keyring,
        wheel: Wheel,
        access_log: Callable[[RequestEntry], None] | None,
        join: Callable[[], IPromises],
        processes: int = 1,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._threads = threads
        self._metrics = metrics
        self._keyring = keyring
        self._wheel = wheel
        self._join = join
        self._sweeps = Sweeps(reactor)
        self._is_leaving = False
        self.serving: Serving | None = None
        self._addresses = ClientAddresses(config.trusted_proxies)
        self._scopes = Scopes(self._addresses, config.ban_prefix_v6)
        self.connections = Connections(
            ceil(config.max_connections / processes), config.max_connections_per_ip, self._scopes.of_peer
        )
        # Scrapes and probes are not what the metrics, the log and the limits are about.
        self.site = self._make_site(
            metrics,
            access_log,
            ALWAYS,
            connections=self.connections,
            in_progress=RequestsInProgress(config.max_connections_per_ip),
        )
        # Nor are they for the pages of other origins, in the browser of somebody who can reach that port.
        self.status_site = self._make_site(None, None, EVERYWHERE)

    @property
    def busy(self) -> int:
        """How many requests and sweeps are being worked on."""
        swept_for_all = 0 if self.serving is None else self.serving.sweeping
        return self.site.in_flight + self._sweeps.running + swept_for_all

    @property
    def uploading(self) -> int:
        """How many uploads are being received."""
        return 0 if self.serving is None else self.serving.uploading

    def fit_connections(self, descriptors: int) -> None:
        """Don't take more connections than *descriptors* are enough for."""
        wanted, affordable = self.connections.most, affordable_connections(descriptors)
        if wanted > affordable:
            self.connections.most = affordable
            self._log.warn(
                "MaxConnections is {affordable}, not {wanted}: there are {descriptors} file descriptors, and a connection"
                " may need {each}. For more, raise LimitNOFILE in the systemd unit, or ulimit -Hn.",
                affordable=affordable,
                wanted=wanted,
                descriptors=descriptors,
                each=PER_CONNECTION,
            )

    def open(self) -> None:
        """Have what the sites show.

        :raises StartError: what the operator has to mend.
        """
        serving = self.serving = Serving(
            self._config,
            self._reactor,
            self._threads,
            self._metrics,
            self._addresses,
            self._scopes,
            self._keyring,
            self._join,
        )
        self.site.resource = serving.root
        self.site.door.bans = serving.bans
        self.status_site.resource = build_status(self._metrics, serving.failing)

    async def start(self) -> None:
        """Do what is done beside requests, from now on.

        :raises StartError: what the operator has to mend. :meth:`stop` is to be called all the same.
        """
        assert self.serving is not None
        await self.serving.start(self._sweeps)

    def show(self) -> None:
        """Have the metrics show how the store of this one is."""
        if self.serving is not None:
            self.serving.show()

    def reopen(self) -> None:
        """Take files that were rotated away anew."""
        if self.serving is not None:
            self.serving.reopen()

    async def leave(self) -> None:
        """Answer no requests after those in progress, and let others do what one does for all."""
        if self._is_leaving:
            return
        self._is_leaving = True
        for site in (self.site, self.status_site):
            site.isLeaving = True
        if self.serving is not None:
            await self.serving.hand_over()

    async def emptied(self, is_enough: Callable[[], bool]) -> None:
        """Wait until all connections are gone.

        :param is_enough: says whether to wait no longer.
        """
        while (self.site.channels or self.status_site.channels) and not is_enough():
            await deferLater(self._reactor, _LOOK_EVERY_S, lambda: None)

    async def answered(self, is_enough: Callable[[], bool]) -> None:
        """Wait until requests in progress have ended. Connections on which there are none are closed.

        :param is_enough: says whether to wait no longer.
        """
        for site in (self.site, self.status_site):
            site.closeIdle()
        while (self.site.owing or self.status_site.owing) and not is_enough():
            await deferLater(self._reactor, _LOOK_EVERY_S, lambda: None)

    async def stop(self) -> None:
        """Make durable what has arrived of uploads, close the stores, and then all connections."""
        await self._sweeps.stop()
        serving, self.serving = self.serving, None
        if serving is not None:
            await serving.stop()
        await self._close_connections()

    async def _close_connections(self) -> None:
        """Close them all; what uploads that were stopped are told gets the time to go out."""
        for _ in range(_FAREWELL_TURNS):
            # First of all: who was stopped just now has not been answered yet.
            await deferLater(self._reactor, _FAREWELL_TURN_S, lambda: None)
            channels = [*self.site.channels, *self.status_site.channels]
            if not channels:
                break
            for channel in channels:
                channel.loseConnection()

    def _make_site(
        self,
        metrics: Metrics | None,
        access_log: Callable[[RequestEntry], None] | None,
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
