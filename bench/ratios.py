"""What a number of runs come to: a median, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from attrs import frozen


@frozen
class Spread:
    """The middle of several measurements, and their ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """
        :param values: one at least.
        """
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


def ratios(ones: Sequence[float], others: Sequence[float]) -> Spread:
    """How *ones* compare with *others*, each with its neighbour in time: what slows a machine down slows both.

    Where there are more of the one than of the other, those without a neighbour don't count.
    """
    return Spread.of(one / other for one, other in zip(ones, others, strict=False))
