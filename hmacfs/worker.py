"""A worker: one of several processes that serve, started by a supervisor (:mod:`hmacfs.supervising`).

Run as a script, so that nothing in the current directory can be taken for a module.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until the supervisor says that it is enough, or is gone."""
    # The supervisor says when to stop. A terminal tells all processes, and that doesn't mean twice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "LISTEN_FDS" in os.environ:
        # systemd's sockets have come to us by our parent (sd_listen_fds(3)).
        os.environ["LISTEN_PID"] = str(os.getpid())
    from hmacfs.net.heap import loading

    with loading():
        from hmacfs.net.orders import read_brief
    brief = read_brief()
    if brief is not None:
        _serve(brief)


def _serve(brief: bytes) -> None:
    from hmacfs.net.heap import loading

    with loading():
        from twisted.internet import reactor
        from twisted.logger import globalLogBeginner

        from hmacfs.errors import StartError
        from hmacfs.net.orders import Order, Supervisor
        from hmacfs.seat import Seat, unpacked_keyring
        from hmacfs.service import HmacfsService
    seat = Seat.unpacked(brief)
    running: Any = reactor
    # As in hmacfs.tap.
    running.seconds = time.monotonic
    supervisor = Supervisor(seat.reports, lambda: _stop(running))
    try:
        service = HmacfsService(seat.config, running, seat, supervisor)
        globalLogBeginner.beginLoggingTo([service.observer], redirectStandardIO=False)
        service.privilegedStartService()
        service.startService()
    except (StartError, SystemExit) as error:
        supervisor.failed(str(error) if isinstance(error, SystemExit) else f"hmacfs: {error}")
        sys.exit(1)
    orders = {
        Order.RETIRE: lambda _: service.retire(),
        Order.STOP: lambda _: _stop(running),
        Order.HURRY: lambda _: service.hurry(),
        Order.NEWS: lambda packed: service.renew(unpacked_keyring(packed)),
    }
    running.callWhenRunning(supervisor.listen, running, orders)
    running.addSystemEventTrigger("before", "shutdown", service.stopService)
    running.run()
    if os.getppid() != seat.sharing.supervisor:
        # It has been killed, and can't tidy up.
        shutil.rmtree(seat.sharing.directory, ignore_errors=True)


def _stop(reactor: Any) -> None:
    """Stop the reactor, unless it is stopping."""
    from twisted.internet.error import ReactorNotRunning

    try:
        reactor.stop()
    except ReactorNotRunning:
        pass


if __name__ == "__main__":
    _OWN = Path(__file__).resolve().parent
    # Instead of this script's own directory, whose modules have names that others may have, too.
    if Path(sys.path[0]).resolve() == _OWN:
        del sys.path[0]
    if str(_OWN.parent) not in sys.path:
        sys.path.insert(0, str(_OWN.parent))
    main()
