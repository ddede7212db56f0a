from __future__ import annotations

import signal

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.web.ranges import ByteRange, Unsatisfiable, parse_range

SIZES = st.integers(0, 10_000)


class ParseRangeTests(SynchronousTestCase):
    """The ``Range`` header of a GET (RFC 9110 section 14)."""

    def test_first_bytes(self) -> None:
        """What iOS probes a video with."""
        self.assertEqual(parse_range(b"bytes=0-1", 100), ByteRange(0, 2))

    def test_rest(self) -> None:
        """What a broken download goes on with."""
        self.assertEqual(parse_range(b"bytes=90-", 100), ByteRange(90, 10))

    def test_suffix(self) -> None:
        self.assertEqual(parse_range(b"bytes=-10", 100), ByteRange(90, 10))

    def test_suffix_longer_than_file(self) -> None:
        """The whole file is sent, as a part."""
        self.assertEqual(parse_range(b"bytes=-1000", 100), ByteRange(0, 100))

    def test_last_beyond_end(self) -> None:
        """The end is cut to the file's."""
        self.assertEqual(parse_range(b"bytes=50-1000", 100), ByteRange(50, 50))

    def test_last_is_the_largest_number_there_is(self) -> None:
        """What programs write that go on with a download and mean "to the end": of 63 bits, and of 64."""
        for last in (b"9223372036854775807", b"18446744073709551615"):
            self.assertEqual(parse_range(b"bytes=50-" + last, 100), ByteRange(50, 50))

    def test_unit_in_any_case(self) -> None:
        self.assertEqual(parse_range(b"Bytes=0-0", 100), ByteRange(0, 1))

    def test_ignored(self) -> None:
        """Another unit, bad syntax, several ranges: the whole file is sent."""
        for header in (
            b"lines=0-1",
            b"bytes",
            b"bytes=",
            b"bytes=-",
            b"bytes=5-4",
            b"bytes=a-b",
            b"bytes=0-1,5-6",
            b"bytes=0-1,",
            b"bytes=--1",
            b"bytes=1-2-3",
            b"bytes=+1-2",
            b"bytes=0x1-2",
            b"bytes=" + b"9" * 40 + b"-",
            "bytes=٣-٤".encode(),
        ):
            self.assertIsNone(parse_range(header, 100), header)

    def test_beyond_end(self) -> None:
        """416 is for a range that could be had of another file."""
        for header, size in ((b"bytes=100-", 100), (b"bytes=100-200", 100), (b"bytes=-0", 100), (b"bytes=0-", 0)):
            with self.assertRaises(Unsatisfiable):
                parse_range(header, size)

    def test_content_range(self) -> None:
        """Prosody 0.12 said ``bytes 1-7/7`` here."""
        self.assertEqual(ByteRange(0, 7).content_range(7), "bytes 0-6/7")

    def test_work_is_bounded(self) -> None:
        """A hostile header is read once. Read over and over, these would take a quarter of an hour each."""

        def give_up(_signal: int, _frame: object) -> None:
            self.fail("still at work")

        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, give_up))
        self.addCleanup(signal.alarm, 0)
        signal.alarm(60)
        blanks = b" \t" * 500_000
        for ranges in (b"%bx", b"x%bx", b"0%bx", b"0-%bx", b"0-0%bx", b"-%bx", b"0%b-%bx"):
            self.assertIsNone(parse_range(b"bytes=" + ranges.replace(b"%b", blanks), 100))

    @given(st.binary(max_size=40), SIZES)
    def test_any_bytes(self, header: bytes, total: int) -> None:
        """Nothing that a client can write raises anything else, or reaches outside the file."""
        for text in (header, b"bytes=" + header):
            try:
                part = parse_range(text, total)
            except Unsatisfiable:
                continue
            if part is not None:
                self.assertTrue(0 <= part.start < part.start + part.size <= total)

    @given(st.integers(0, 20_000), st.integers(0, 20_000), SIZES)
    def test_same_as_slice(self, first: int, last: int, total: int) -> None:
        """A range is what a slice of the file is."""
        data = bytes(total)
        try:
            part = parse_range(b"bytes=%d-%d" % (first, last), total)
        except Unsatisfiable:
            self.assertEqual(data[first : last + 1], b"")
            return
        if part is None:
            self.assertLess(last, first)
        else:
            self.assertEqual((part.start, part.size), (first, len(data[first : last + 1])))
