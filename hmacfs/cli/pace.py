"""How fast a command moves bytes, so that it leaves the line or the disk to others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from attrs import Factory, define, field

from hmacfs.cli.exchange import CHUNK_BYTES

#: By how much what was slower for a moment may be faster afterwards.
_MADE_UP_FOR_S: Final = 1.0


@define
class Pace:
    """Holds what is sent, received or read to a rate.

    :ivar rate_bytes_s: ``None`` for as fast as it goes.
    """

    rate_bytes_s: int | None
    _clock: Callable[[], float] = time.monotonic
    _sleep: Callable[[float], None] = time.sleep
    #: When what was moved so far would have got through at that rate.
    _through_at: float = field(default=Factory(lambda pace: pace._clock(), takes_self=True), init=False)

    @property
    def chunk_bytes(self) -> int:
        """What is moved at once: an eighth of a second's worth, so that it goes evenly."""
        return CHUNK_BYTES if self.rate_bytes_s is None else max(1, min(CHUNK_BYTES, self.rate_bytes_s // 8))

    def passed(self, size_bytes: int) -> None:
        """So much was moved; sleep until it was not too early."""
        if self.rate_bytes_s is not None:
            now = self._clock()
            # A break is no credit: what is made up for is that a chunk is late now and then.
            self._through_at = max(self._through_at, now - _MADE_UP_FOR_S) + size_bytes / max(1, self.rate_bytes_s)
            self._sleep(max(0.0, self._through_at - now))
