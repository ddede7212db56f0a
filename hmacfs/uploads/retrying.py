"""Steps that are worth a second try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from hmacfs.errors import Refused
from hmacfs.storage.failures import may_pass

T = TypeVar("T")

#: What the client is told after the last try, in seconds.
RETRY_AFTER_S = 30


def unavailable(detail: str, retry_after_s: int = RETRY_AFTER_S) -> Refused:
    """Something on our side fails for now: 503, and when to come back."""
    return Refused(503, "unavailable", detail, {"Retry-After": str(retry_after_s)})


@frozen
class Retries:
    """How often, and how far apart, a step that fails on our side is tried again while the client waits.

    :ivar limit: tries after the first one (``MaxRetries``).
    :ivar delay_s: between two tries, in seconds (``RetryDelay``).
    :ivar clock: for the delays.
    :ivar retried: called with the step's name at each new try, for the metric.
    """

    limit: int
    delay_s: float
    clock: IReactorTime
    retried: Callable[[str], None]

    _log = Logger()

    async def call(self, step: str, function: Callable[..., T], *args: Any) -> T:
        """As :meth:`run`, with a function that waits for nothing."""
        try:
            return function(*args)
        except OSError as failed:

            async def again() -> T:
                return function(*args)

            return await self.run(step, again, failed)

    async def run(self, step: str, function: Callable[[], Awaitable[T]], failed: OSError | None = None) -> T:
        """Await ``function()``, again and again while it fails for a reason that may pass.

        Not for fsync: after a failed one the kernel has forgotten which pages are dirty, so a second one succeeds
        without having written them (https://lwn.net/Articles/752063/).

        :param failed: how the first try has failed, where the caller has made that.
        :raises Refused: 503 when the last try failed.
        :raises OSError: at once, when the reason won't pass.
        """
        for attempt in range(self.limit + 1):
            try:
                if failed is not None and attempt == 0:
                    raise failed
                return await function()
            except OSError as error:
                if not may_pass(error):
                    raise
                self._log.warn(
                    "{step} failed, try {attempt} of {tries}: {error}",
                    step=step,
                    attempt=attempt + 1,
                    tries=self.limit + 1,
                    error=error,
                    seldom=f"{step} {error.errno}",
                )
            if attempt < self.limit:
                self.retried(step)
                await deferLater(self.clock, self.delay_s, lambda: None)
        raise unavailable("The storage doesn't answer.")
