"""How long a transfer that breaks is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from attrs import define, field

from hmacfs.cli.exchange import Broken
from hmacfs.cli.output import Fault
from hmacfs.units import counted, human_duration

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0

#: Waits are shorter by up to so much of themselves, so that clients that broke together don't come back together.
JITTER: Final = 0.25


@define
class Patience:
    """Waits between attempts: a second, then twice as long each time, until something arrives again.

    :ivar retries: after so many failures in a row it gives up; ``None``: as many as the time allows.
    :ivar give_up_after_s: and after so long without progress.
    """

    retries: int | None
    give_up_after_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    _failures: int = field(default=0, init=False)
    _since: float = field(init=False)

    @_since.default
    def _now(self) -> float:
        return self.clock()

    def progressed(self) -> None:
        """More has arrived than ever before."""
        self._failures = 0
        self._since = self.clock()

    def wait(self, broken: Broken, note: Callable[[str], None]) -> None:
        """Wait before the next attempt, and say so.

        :raises Fault: it is enough.
        """
        self._failures += 1
        shortest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 16)) * (
            1 - JITTER * self.chance()
        )
        wait_s = max(shortest_s, broken.retry_after_s or 0.0)
        if self.retries is not None and self._failures > self.retries:
            raise Fault(f"{_sentence(broken)} Given up after {counted(self._failures, 'attempt')}.")
        if wait_s > self.give_up_after_s:
            raise Fault(f"{_sentence(broken)} Given up: it is to be tried again in {human_duration(wait_s)}.")
        waited_s = self.clock() - self._since
        if waited_s + wait_s > self.give_up_after_s:
            raise Fault(f"{_sentence(broken)} Given up: nothing has got through for {human_duration(waited_s)}.")
        note(f"{_sentence(broken)} Again in {human_duration(round(wait_s, 1))}.")
        self.sleep(wait_s)


def _sentence(broken: Broken) -> str:
    text = str(broken)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
