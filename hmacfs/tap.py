"""``twistd hmacfs``: the options, and the way from them to the service. The only module that takes the global reactor."""

from __future__ import annotations

import time
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from hmacfs.config import Config, load
from hmacfs.errors import StartError
from hmacfs.net.cores import processes
from hmacfs.net.heap import loading


class Options(usage.Options):
    """Of ``twistd hmacfs``."""

    synopsis = "[options]"
    longdesc = "The file server for XMPP HTTP File Upload (XEP-0363)."
    optParameters = [["config", "c", "/etc/hmacfs/config.toml", "The configuration file."]]  # noqa: RUF012

    config: Config

    def postOptions(self) -> None:
        """Read the configuration.

        :raises SystemExit: with what is wrong in it, a line each. Not UsageError: Twisted before 25 ends with status 0
            then, which systemd takes for success.
        """
        try:
            self.config = load(self["config"])
        except StartError as error:
            raise SystemExit(f"{error}") from None


def makeService(options: Options) -> IService:
    """What twistd calls."""
    with loading():
        from twisted.internet import reactor
    typed: Any = reactor
    # Its timers would go by the clock on the wall. When somebody sets that, all of them would be due at once, or for days
    # none.
    typed.seconds = time.monotonic
    try:
        return _service(options.config, typed)
    except StartError as error:
        raise SystemExit(f"hmacfs: {error}") from None


def _service(config: Config, reactor: Any) -> IService:
    """For one process, or for several."""
    number = processes(config.num_cores)
    if number == 1:
        with loading():
            from hmacfs.service import HmacfsService
        return HmacfsService(config, reactor)
    # It does without all that serves.
    with loading():
        from hmacfs.supervising import SupervisorService
    return SupervisorService(config, reactor, number)
