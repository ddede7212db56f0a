"""What a supervisor and its workers say to each other, each by a pipe of its own, and the worker's end of it.

The supervisor begins with the worker's *brief*: its length in four bytes, and so many bytes. Orders follow, a line each.
The worker's reports are lines, too. That the supervisor's pipe ends means that the supervisor has.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from twisted.internet import stdio
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

#: Where a worker finds the supervisor's pipe.
ORDERS_FD: Final = 0

_LENGTH_BYTES: Final = 4

#: More than any order takes.
_LONGEST_LINE: Final = 1 << 20


class Order(Enum):
    """What a worker is told."""

    RETIRE = b"retire"
    """Another one has its place: take no connection any more, and leave when the last is gone."""
    STOP = b"stop"
    """Leave, and soon."""
    HURRY = b"hurry"
    """Leave now."""
    NEWS = b"news"
    """Something is to be known. What, follows in base64, and is the users' business."""


class Report(Enum):
    """What a worker tells."""

    READY = b"ready"
    """It serves."""
    FAILED = b"failed"
    """It can't serve. A sentence follows, as JSON."""


def framed(brief: bytes) -> bytes:
    """*brief* as it goes to the worker."""
    return len(brief).to_bytes(_LENGTH_BYTES, "big") + brief


def news(content: bytes) -> bytes:
    """*content* as it goes to a worker, as :attr:`Order.NEWS`."""
    return b"%b %b\n" % (Order.NEWS.value, b64encode(content))


def read_brief(fd: int = ORDERS_FD) -> bytes | None:
    """Wait for one.

    :return: ``None`` if the supervisor has ended before it was sent.
    """
    length = _read(fd, _LENGTH_BYTES)
    return None if length is None else _read(fd, int.from_bytes(length, "big"))


def _read(fd: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            return None
        data += more
    return data


class Supervisor(LineOnlyReceiver):
    """The supervisor, as a worker sees it.

    :param reports_fd: where to report to.
    :param gone: called when the supervisor has ended.
    """

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST_LINE

    def __init__(self, reports_fd: int, gone: Callable[[], None]) -> None:
        self._reports_fd = reports_fd
        self._gone = gone
        self._obey: Mapping[Order, Callable[[bytes], None]] = {}

    def listen(self, reactor: Any, obey: Mapping[Order, Callable[[bytes], None]]) -> None:
        """Take orders from now on.

        :param obey: what to do at each, given what comes with it, which is nothing but for :attr:`Order.NEWS`.
        """
        self._obey = obey
        typed: Any = stdio
        typed.StandardIO(self, stdin=ORDERS_FD, stdout=os.dup(self._reports_fd), reactor=reactor)

    def ready(self) -> None:
        """Tell that we serve."""
        self._report(Report.READY.value)

    def failed(self, sentence: str) -> None:
        """Tell why we can't. Works before the reactor runs, and after."""
        self._report(Report.FAILED.value + b" " + json.dumps(sentence).encode())

    def _report(self, line: bytes) -> None:
        try:
            os.write(self._reports_fd, line + b"\n")
        except OSError:
            # It has ended; whoever reads the orders finds that out, too.
            pass

    def lineReceived(self, line: bytes) -> None:
        word, _, content = line.partition(b" ")
        self._obey[Order(word)](b64decode(content, validate=True))

    def connectionLost(self, reason: Failure | None = None) -> None:
        del reason
        self._gone()
