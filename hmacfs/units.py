"""Durations and sizes, as an operator writes them and as a log line shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeGuard

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S

_DURATIONS: Mapping[str, int] = {
    "s": 1,
    "sec": 1,
    "min": MINUTE_S,
    "h": HOUR_S,
    "d": DAY_S,
    "w": 7 * DAY_S,
    "mo": 30 * DAY_S,
    "y": 365 * DAY_S,
}
_SIZES: Mapping[str, int] = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
}
_QUANTITY = re.compile(r"(?P<number>[0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z]*)", re.ASCII)

#: Nothing is longer or larger: below it the sums of a few such values are exact in a float, and fit SQLite's integers.
MAX_DURATION_S = 100 * 365 * DAY_S
MAX_SIZE_BYTES = 1 << 60


class UnitError(ValueError):
    """What was written is no duration, or no size. Its text says what to write instead."""


def parse_duration(written: object) -> float:
    """Seconds, from a number of them or from a duration such as ``"90s"``, ``"15min"``, ``"24h"``, ``"6mo"``.

    A month has 30 days, a year 365.

    :raises UnitError: it is none of these, or longer than a hundred years.
    """
    expected = 'expected a number of seconds, or a duration such as "90s", "15min", "24h", "30d", "4w", "6mo", "1y"'
    seconds: float | Decimal
    if _is_number(written):
        seconds = written
    else:
        number, unit = _split(written, expected)
        if unit == "m":
            raise UnitError(f'ambiguous. Write "{number}min" or "{number}mo".')
        if unit not in _DURATIONS:
            raise UnitError(expected)
        seconds = Decimal(number) * _DURATIONS[unit]
    if not 0 <= seconds <= MAX_DURATION_S:
        raise UnitError("expected a duration between 0 and 100 years")
    return float(seconds)


def parse_size(written: object) -> int:
    """Bytes, from a number of them or from ``"512KiB"``, ``"10GiB"``, ``"10GB"``.

    :raises UnitError: it is none of these, no whole number of bytes, or larger than an exbibyte.
    """
    expected = 'expected a number of bytes, or a size such as "512KiB", "10GiB", "10GB"'
    size_bytes: int | Decimal
    if _is_number(written):
        if isinstance(written, float):
            raise UnitError(expected)
        size_bytes = written
    else:
        number, unit = _split(written, expected)
        if unit and unit in "kmgtp":
            letter = unit.upper()
            raise UnitError(f'ambiguous. Write "{number}{letter}B" (1000) or "{number}{letter}iB" (1024).')
        if unit not in _SIZES:
            raise UnitError(expected)
        size_bytes = Decimal(number) * _SIZES[unit]
    if not 0 <= size_bytes <= MAX_SIZE_BYTES or size_bytes != int(size_bytes):
        raise UnitError("expected a whole number of bytes, at most 1024PiB")
    return int(size_bytes)


def write_duration(seconds: float) -> str:
    """The shortest exact spelling that :func:`parse_duration` takes: ``"24h"``, ``"30d"``, ``"90s"``."""
    for unit in ("d", "h", "min"):
        count, rest = divmod(seconds, _DURATIONS[unit])
        # One day reads better as "24h".
        if count > (unit == "d") and not rest:
            return f"{count:.0f}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def write_size(size_bytes: int) -> str:
    """The shortest exact spelling that :func:`parse_size` takes: ``"1GiB"``, ``"10GB"``, ``"1500B"``."""
    for power in range(5, 0, -1):
        for base, unit in ((1024, "iB"), (1000, "B")):
            count, rest = divmod(size_bytes, base**power)
            if count and not rest:
                return f"{count}{'KMGTP'[power - 1]}{unit}"
    return f"{size_bytes}B"


def human_duration(seconds: float) -> str:
    """About three digits for a person to read: ``"1.24 s"``, ``"0.004 s"``, ``"15 min"``, ``"24 h"``, ``"30 d"``."""
    for limit_s, unit in ((2 * MINUTE_S, "s"), (2 * HOUR_S, "min"), (2 * DAY_S, "h")):
        if seconds < limit_s:
            return _count(seconds / _DURATIONS[unit], unit)
    return _count(seconds / DAY_S, "d")


def human_size(size_bytes: int) -> str:
    """About two digits for a person to read, in powers of 1000: ``"999 B"``, ``"3.1 MB"``, ``"9.8 GB"``."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    count = size_bytes / 1000
    for unit in ("kB", "MB", "GB", "TB"):
        # 999.95 would read "1000.0".
        if count < 999.95:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"


def counted(number: int, one: str, several: str | None = None) -> str:
    """So many of something: ``"1 file"``, ``"2,000 files"``.

    :param one: what it is called if it is one thing.
    :param several: what it is called otherwise; *one* with an ``s`` unless it is said.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _count(number: float, unit: str) -> str:
    return f"{number:.0f} {unit}" if number >= 100 else f"{round(number, 3):.3g} {unit}"


def _is_number(written: object) -> TypeGuard[int | float]:
    # True is an int to Python, and not to TOML.
    if isinstance(written, float) and not math.isfinite(written):
        raise UnitError("expected a finite number")
    return isinstance(written, (int, float)) and not isinstance(written, bool)


def _split(written: object, expected: str) -> tuple[str, str]:
    match = _QUANTITY.fullmatch(written.strip()) if isinstance(written, str) else None
    if match is None:
        raise UnitError(expected)
    return match["number"], match["unit"].lower()
