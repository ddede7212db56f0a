"""Runs commands in this process."""

from __future__ import annotations

import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

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


class CommandTestCase(SynchronousTestCase):
    """A test of commands about one configuration.

    :ivar config: the file.
    """

    config: Path

    def configure(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    def run_it(self, *argv: str, words: int = 1) -> tuple[int, str, str]:
        """Exit status, standard output and standard error.

        :param words: how many of *argv* name the command.
        """
        out, err = StringIO(), StringIO()
        streams = self.patch(sys, "stdout", out), self.patch(sys, "stderr", err)
        try:
            status = main([*argv[:words], "-c", str(self.config), *argv[words:]])
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            status = ended.code
        finally:
            for stream in streams:
                stream.restore()
        return status, out.getvalue(), err.getvalue()

    def printed(self, *argv: str, words: int = 1) -> str:
        """What a command prints that goes well."""
        status, out, err = self.run_it(*argv, words=words)
        self.assertEqual((status, err), (0, ""))
        return out

    def refused(self, *argv: str, status: int = 1, words: int = 1) -> str:
        """What one says that doesn't."""
        ended, out, err = self.run_it(*argv, words=words)
        self.assertEqual((ended, out), (status, ""))
        self.assertNotIn("Traceback", err)
        return err
