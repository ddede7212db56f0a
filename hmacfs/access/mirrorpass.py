"""The pass that opens the mirror to ``hmacfs doctor``: made with the shared secret, good for a while.

It grants nothing but to see one's own request as it arrives here. The text that is signed begins with a word and a NUL,
which no path may have, so that no signature of a slot is a pass and no pass is a signature.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Final

from hmacfs.access.keys import Secret
from hmacfs.access.signatures import mac, parse_mac

#: For how long before and after the time it was made for a pass is good, in seconds: clocks may be wrong, and by how
#: much is one of the questions.
TOLERANCE_S: Final = 86_400.0

_PASS: Final = re.compile(rb"([0-9]{1,12})-([0-9a-f]{64})")


def make_pass(secret: Secret, now: float) -> str:
    """A pass.

    :param now: in seconds since the epoch.
    """
    at = int(now)
    return f"{at}-{mac(secret, _text(at)).hex()}"


def is_pass(given: bytes, secrets: Iterable[Secret], now: float) -> bool:
    """Whether *given* was made with one of *secrets*, not too long before or after *now*."""
    match = _PASS.fullmatch(given)
    if match is None:
        return False
    at, shown = int(match[1]), parse_mac(match[2])
    assert shown is not None
    right = [hmac.compare_digest(mac(secret, _text(at)), shown) for secret in secrets]
    return any(right) and abs(now - at) <= TOLERANCE_S


def _text(at: int) -> bytes:
    return b"doctor\0%d" % at
