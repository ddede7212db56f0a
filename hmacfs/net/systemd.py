"""Telling systemd how the service is, as sd_notify(3) and sd_watchdog_enabled(3) say.

Without systemd, or in a unit that is not of ``Type=notify``, nobody is told.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, MutableMapping

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

#: How many signs of life the watchdog gets in the time after which it acts, as sd_watchdog_enabled(3) recommends.
_SIGNS = 2

_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells systemd. No call raises, none blocks: the service must not fail for what is said of it.

    :param address: of systemd's socket, a path or ``@`` and an abstract name; empty where nobody is to be told.
    :param watchdog_s: after so many seconds without a sign of life the service is killed; ``None`` without a watchdog.
    :param clock: for the signs of life.
    :param monotonic: CLOCK_MONOTONIC in seconds.
    """

    def __init__(
        self,
        address: str,
        watchdog_s: float | None,
        clock: IReactorTime,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._monotonic = monotonic
        self._alive: LoopingCall | None = None
        if address and watchdog_s is not None:
            self._alive = LoopingCall(self._tell, "WATCHDOG=1")
            self._alive.clock = clock
            self._interval_s = watchdog_s / _SIGNS

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int, clock: IReactorTime) -> Notifier:
        """As the environment says, which is rid of it: a child process is somebody else.

        :param pid: of this process; the watchdog may be another one's.
        """
        address, usec, watched = (environ.pop(name, "") for name in _OURS)
        is_watched = usec.isdecimal() and int(usec) > 0 and watched in ("", str(pid))
        return cls(address, int(usec) / 1e6 if is_watched else None, clock)

    def ready(self, status: str) -> None:
        """The service does what it is for, from now on, or again after :meth:`reloading`."""
        self._tell(f"READY=1\nSTATUS={status}")
        if self._alive is not None and not self._alive.running:
            self._alive.start(self._interval_s)

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1e6)}\nSTATUS=Reloading")

    def stopping(self, status: str) -> None:
        """The service is about to end. Its watchdog goes on."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def close(self) -> None:
        """Nothing is told any more."""
        if self._alive is not None and self._alive.running:
            self._alive.stop()

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
                telling.setblocking(False)
                telling.sendto(message.encode("utf-8"), self._address)
        except OSError:
            # Its queue is full, or it is not there: nobody could be told of that either.
            pass
