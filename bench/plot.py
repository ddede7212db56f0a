"""Bars, as SVG: what a table says, at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from attrs import frozen

from bench.ratios import Spread
from bench.table import number

_WIDTH, _LEFT, _RIGHT = 900, 240, 70
_BAR, _GAP, _HEAD, _ROW_OF_LEGEND = 15, 14, 40, 20
_FONT = 'font-family="system-ui, sans-serif"'


@frozen
class Bar:
    """One measured thing.

    :ivar series: whose; every series has its colour.
    """

    series: str
    value: Spread


@frozen
class Group:
    """Bars that belong together, as the servers in one cell."""

    name: str
    bars: Sequence[Bar]


def bars(title: str, groups: Sequence[Group], colours: Mapping[str, str], mark: str) -> str:
    """A chart of horizontal bars with whiskers from the lowest to the highest.

    :param colours: of the series.
    :param mark: what the dashed line at 1 says.
    """
    shown = {bar.series for group in groups for bar in group.bars}
    most = max([1.0, *(bar.value.high for group in groups for bar in group.bars)])
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    legend, top = _legend({name: colour for name, colour in colours.items() if name in shown})
    drawn, y = [], top
    for group in groups:
        drawn += _group(group, colours, scale, y)
        y += len(group.bars) * _BAR + _GAP
    at = _LEFT + scale
    drawn.append(f'<path d="M{at:.1f} {top - 6}V{y - _GAP + 6}" stroke="#57606a" stroke-dasharray="4 3"/>')
    drawn.append(_text(at, top - 9, mark, size=11, anchor="middle"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}"'
            f' role="img" aria-label="{escape(title)}">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            _text(16, 26, title, size=16, weight="bold"),
            *legend,
            *drawn,
            "</svg>",
            "",
        ]
    )


def _legend(colours: Mapping[str, str]) -> tuple[list[str], int]:
    """What colour is whose, and where the bars begin below."""
    drawn, x, y = [], 16, _HEAD
    for name, colour in colours.items():
        width = 30 + 7 * len(name)
        if x + width > _WIDTH:
            x, y = 16, y + _ROW_OF_LEGEND
        drawn.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(x + 17, y + 11, name))
        x += width
    return drawn, y + _ROW_OF_LEGEND + _GAP


def _group(group: Group, colours: Mapping[str, str], scale: float, top: int) -> list[str]:
    drawn = [_text(_LEFT - 10, top + len(group.bars) * _BAR // 2 + 4, group.name, anchor="end")]
    for place, bar in enumerate(group.bars):
        y, middle = top + place * _BAR, top + place * _BAR + _BAR / 2
        length, low, high = (scale * value for value in (bar.value.median, bar.value.low, bar.value.high))
        drawn.append(
            f'<rect x="{_LEFT}" y="{y + 1}" width="{max(length, 1):.1f}" height="{_BAR - 2}"'
            f' fill="{colours[bar.series]}"/>'
        )
        if high - low > 1:
            whisker = f"M{_LEFT + low:.1f} {middle}H{_LEFT + high:.1f}"
            drawn.append(f'<path d="{whisker}" stroke="#24292f" stroke-width="1.2"/>')
        drawn.append(_text(_LEFT + max(length, high) + 6, y + 12, number(bar.value.median), size=11))
    return drawn


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="#24292f">{escape(text)}</text>'
    )
