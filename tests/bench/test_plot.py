"""The charts are pictures that a browser can show, with what was measured in them."""

from __future__ import annotations

from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench.plot import Bar, Group, bars
from bench.ratios import Spread

_SVG = "{http://www.w3.org/2000/svg}"

GROUPS = (
    Group("GET 1 KiB", [Bar("hmacfs", Spread(0.5, 0.4, 0.6)), Bar("A & B", Spread(2.0, 2.0, 2.0))]),
    Group("GET 1 GiB", [Bar("hmacfs", Spread(1.0, 0.9, 1.1))]),
)


class BarsTests(SynchronousTestCase):
    """Horizontal bars in groups."""

    def setUp(self) -> None:
        self.root = ElementTree.fromstring(
            bars("Downloads", GROUPS, {"hmacfs": "#000001", "A & B": "#000002", "absent": "#000003"}, "limit")
        )
        legend = [(one.get("width"), one.get("height")) for one in self.root.iter(f"{_SVG}rect")]
        self.bars = [
            one
            for one, size in zip(self.root.iter(f"{_SVG}rect"), legend, strict=True)
            if size not in (("12", "12"), ("100%", "100%"))
        ]

    def test_lengths(self) -> None:
        """A bar is as long as its value."""
        lengths = [float(bar.attrib["width"]) for bar in self.bars]
        self.assertAlmostEqual(lengths[1] / lengths[0], 4.0, places=2)
        self.assertAlmostEqual(lengths[2] / lengths[0], 2.0, places=2)

    def test_colours(self) -> None:
        """A server has its colour in all groups, and the legend leaves out those that aren't there."""
        self.assertEqual([bar.attrib["fill"] for bar in self.bars], ["#000001", "#000002", "#000001"])
        self.assertNotIn("absent", {text.text for text in self.root.iter(f"{_SVG}text")})

    def test_text(self) -> None:
        """Title, groups, legend and values are there to be read, whatever they are called."""
        texts = {text.text for text in self.root.iter(f"{_SVG}text")}
        self.assertLessEqual(
            {"Downloads", "GET 1 KiB", "GET 1 GiB", "hmacfs", "A & B", "limit", "0.50", "2.00", "1.00"}, texts
        )

    def test_inside(self) -> None:
        """Nothing that is drawn is beyond the edge."""
        width, height = float(self.root.attrib["width"]), float(self.root.attrib["height"])
        for bar in self.bars:
            self.assertLess(float(bar.attrib["x"]) + float(bar.attrib["width"]), width)
            self.assertLess(float(bar.attrib["y"]) + float(bar.attrib["height"]), height)
