"""Tests for :mod:`hmacfs.units`."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.units import (
    DAY_S,
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    UnitError,
    counted,
    human_duration,
    human_size,
    parse_duration,
    parse_size,
    write_duration,
    write_size,
)


class ParseDurationTests(SynchronousTestCase):
    """What an operator may write for a time span."""

    def test_every_unit(self) -> None:
        """Each unit has the length that the documentation says."""
        seconds = {
            "90s": 90,
            "90sec": 90,
            "15min": 900,
            "24h": 86400,
            "30d": 30 * DAY_S,
            "4w": 28 * DAY_S,
            "6mo": 180 * DAY_S,
            "1y": 365 * DAY_S,
        }
        self.assertEqual({text: parse_duration(text) for text in seconds}, seconds)

    def test_number_is_seconds(self) -> None:
        """A number has no unit to write."""
        self.assertEqual([parse_duration(900), parse_duration(0.5), parse_duration(0)], [900, 0.5, 0])

    def test_blank_and_upper_case(self) -> None:
        """``"1.5 H"`` is what a person may write."""
        self.assertEqual(parse_duration("1.5 H"), 5400)

    def test_months_and_minutes_are_not_confused(self) -> None:
        """``"6m"`` is refused, and both things that it could mean are offered."""
        for text in ("6m", "6M", "6 m"):
            error = self.assertRaises(UnitError, parse_duration, text)
            self.assertEqual(str(error), 'ambiguous. Write "6min" or "6mo".')

    def test_everything_else_is_refused(self) -> None:
        """No guess is made at what has no unit, an unknown one, or no number."""
        wrong = ["", "s", "90", "3 weeks", "1h30min", "-5s", "1e3s", ".5h", "٣s", "90s\n90s", True, None, [], {}]
        for value in wrong:
            error = self.assertRaises(UnitError, parse_duration, value)
            self.assertIn('"6mo"', str(error), value)

    def test_no_time_span(self) -> None:
        """Negative, endless and absurd numbers are refused, however they are written."""
        for value in (-1, -0.5, math.inf, -math.inf, math.nan, "101y", 10**400, -(10**400), 1e308, "9" * 19 + "y"):
            self.assertRaises(UnitError, parse_duration, value)

    @given(st.integers(0, MAX_DURATION_S))
    def test_written_and_parsed(self, seconds: int) -> None:
        """What is written for a number of seconds is read as the same number."""
        self.assertEqual(parse_duration(write_duration(seconds)), seconds)

    @given(st.floats(0.001, MAX_DURATION_S))
    def test_shown_and_parsed(self, seconds: float) -> None:
        """What a person reads is right within one percent (or half a millisecond), and is itself a duration."""
        shown = parse_duration(human_duration(seconds))
        self.assertTrue(math.isclose(shown, seconds, rel_tol=0.01, abs_tol=0.000501), (seconds, shown))

    @given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none()))
    def test_nothing_else_is_raised(self, value: object) -> None:
        """Whatever it is, it is a duration within the limits or a :class:`UnitError`."""
        try:
            self.assertTrue(0 <= parse_duration(value) <= MAX_DURATION_S)
        except UnitError as error:
            self.assertTrue(str(error))


class ParseSizeTests(SynchronousTestCase):
    """What an operator may write for a number of bytes."""

    def test_every_unit(self) -> None:
        """Powers of 1000 and of 1024 are told apart."""
        sizes = {"7B": 7, "10kB": 10_000, "512KiB": 524_288, "10GB": 10 * 1000**3, "10GiB": 10 * 1024**3}
        self.assertEqual({text: parse_size(text) for text in sizes}, sizes)
        self.assertEqual([parse_size("1TB"), parse_size("1TiB"), parse_size("1PiB")], [1000**4, 1024**4, 1024**5])

    def test_number_is_bytes(self) -> None:
        """A number has no unit to write."""
        self.assertEqual(parse_size(10737418240), 10 * 1024**3)

    def test_blank_fraction_and_case(self) -> None:
        """``"1.5 gib"`` is what a person may write."""
        self.assertEqual(parse_size("1.5 gib"), 3 * 512 * 1024**2)

    def test_letter_alone_is_ambiguous(self) -> None:
        """``"10G"`` is refused, and both things that it could mean are offered."""
        error = self.assertRaises(UnitError, parse_size, "10G")
        self.assertEqual(str(error), 'ambiguous. Write "10GB" (1000) or "10GiB" (1024).')

    def test_everything_else_is_refused(self) -> None:
        """No guess is made at what has no unit, an unknown one, or no number."""
        for value in ("", "GiB", "100", "1 bit", "-1B", "1e9B", 1.5, 1e9, True, None, [], {}):
            error = self.assertRaises(UnitError, parse_size, value)
            self.assertIn('"10GiB"', str(error), value)

    def test_no_size(self) -> None:
        """Negative and absurd numbers and parts of bytes are refused."""
        for value in (-1, 10**5000, -(10**5000), "0.5B", "1025PiB", "9" * 19 + "PiB", math.inf, math.nan):
            self.assertRaises(UnitError, parse_size, value)

    @given(st.integers(0, MAX_SIZE_BYTES))
    def test_written_and_parsed(self, size_bytes: int) -> None:
        """What is written for a number of bytes is read as the same number."""
        self.assertEqual(parse_size(write_size(size_bytes)), size_bytes)

    @given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none()))
    def test_nothing_else_is_raised(self, value: object) -> None:
        """Whatever it is, it is a size within the limits or a :class:`UnitError`."""
        try:
            self.assertTrue(0 <= parse_size(value) <= MAX_SIZE_BYTES)
        except UnitError as error:
            self.assertTrue(str(error))


class WritingTests(SynchronousTestCase):
    """What is written for the configuration, and what is shown to a person."""

    def test_shortest_exact_duration(self) -> None:
        """The largest unit that leaves nothing over; a day is 24 hours."""
        written = [write_duration(seconds) for seconds in (0, 0.5, 90, 900, 7200, DAY_S, 30 * DAY_S, DAY_S + 1)]
        self.assertEqual(written, ["0s", "0.5s", "90s", "15min", "2h", "24h", "30d", "86401s"])

    def test_shortest_exact_size(self) -> None:
        """The largest unit that leaves nothing over, of either kind."""
        written = [write_size(size) for size in (0, 1, 1500, 65536, 1024**3, 10 * 1000**3)]
        self.assertEqual(written, ["0B", "1B", "1500B", "64KiB", "1GiB", "10GB"])

    def test_duration_for_a_person(self) -> None:
        """About three digits, in the unit that a person would say."""
        shown = [human_duration(seconds) for seconds in (0, 0.004, 0.4, 1.2437, 90, 119.9, 900, DAY_S, 30 * DAY_S)]
        self.assertEqual(shown, ["0 s", "0.004 s", "0.4 s", "1.24 s", "90 s", "120 s", "15 min", "24 h", "30 d"])

    def test_size_for_a_person(self) -> None:
        """One digit behind the point, in powers of 1000, never ``1000.0``."""
        shown = [human_size(size) for size in (0, 999, 1000, 3_100_000, 999_949, 999_950, 9_800_000_000, 10**18)]
        expected = ["0 B", "999 B", "1.0 kB", "3.1 MB", "999.9 kB", "1.0 MB", "9.8 GB", "1000.0 PB"]
        self.assertEqual(shown, expected)

    def test_counted(self) -> None:
        """One is one, and all other numbers are several; of a word that has its own plural, that one."""
        self.assertEqual([counted(number, "file") for number in (0, 1, 2000)], ["0 files", "1 file", "2,000 files"])
        self.assertEqual([counted(number, "is", "are") for number in (0, 1, 2)], ["0 are", "1 is", "2 are"])

    @given(st.integers(0, 10**17))
    def test_size_for_a_person_is_right(self, size_bytes: int) -> None:
        """What is shown is right within five percent, and is itself a size."""
        shown = parse_size(human_size(size_bytes))
        self.assertTrue(math.isclose(shown, size_bytes, rel_tol=0.05, abs_tol=0), (size_bytes, shown))
