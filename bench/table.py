"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.ratios import Spread


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, and an empty line after it."""
    lines = [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float) -> str:
    """With two or three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(spread: Spread) -> tuple[str, str]:
    """Two cells: the median, and the ends."""
    return f"**{number(spread.median)}**", f"{number(spread.low)} to {number(spread.high)}"
