"""Runs commands in this process."""

from __future__ import annotations

import sys
from io import BytesIO, TextIOWrapper

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli import main


class Terminal(TextIOWrapper):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class StreamsTestCase(SynchronousTestCase):
    """A test with standard streams of its own.

    :ivar out: what was written to standard output; :ivar err: to standard error.
    """

    def setUp(self) -> None:
        self.stream(stdin=b"")

    def stream(self, stdin: bytes = b"", terminal: bool = False, encoding: str = "utf-8") -> None:
        """Make the streams anew."""
        kind = Terminal if terminal else TextIOWrapper
        self.out, self.err = BytesIO(), BytesIO()
        for name, raw in (("stdin", BytesIO(stdin)), ("stdout", self.out), ("stderr", self.err)):
            self.patch(sys, name, kind(raw, encoding, write_through=True))

    def written(self) -> str:
        """What is on standard output."""
        return self.out.getvalue().decode()

    def said(self) -> str:
        """What is on standard error."""
        return self.err.getvalue().decode()

    def command(self, *argv: str) -> int:
        """Run a command, and return its status."""
        try:
            return main(argv)
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            return ended.code
