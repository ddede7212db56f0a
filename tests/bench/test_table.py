"""Tables, and the figures in them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.ratios import Spread
from bench.table import number, ratio, table


class TableTests(SynchronousTestCase):
    """What a reader of docs/benchmarks.md sees."""

    def test_table(self) -> None:
        """A head, a rule, a line for each row, and an empty line so that text may follow."""
        wanted = "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n"
        self.assertEqual(table(("a", "b"), [("1", "2"), ("3", "4")]), wanted)

    def test_numbers(self) -> None:
        """As many digits as mean something."""
        self.assertEqual([number(value) for value in (0.125, 2.5, 31.25, 27693.4)], ["0.12", "2.50", "31.2", "27,693"])

    def test_ratio(self) -> None:
        """The median stands out; the ends are in the next cell."""
        self.assertEqual(ratio(Spread(1.0, 0.5, 20.0)), ("**1.00**", "0.50 to 20.0"))
