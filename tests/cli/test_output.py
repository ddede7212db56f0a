"""How the commands speak."""

from __future__ import annotations

import argparse
import json
import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli import output
from hmacfs.cli.output import Column, Fault, Output, Usage, shown
from hmacfs.errors import Refused, StartError
from tests.cli.commanding import StreamsTestCase

COLUMNS = (Column("path"), Column("size", right=True))


class ShownTests(SynchronousTestCase):
    """Names that strangers gave."""

    def test_harmless(self) -> None:
        for name in ("film.mp4", "très cool.jpg", "日本語", "👩\u200d👩", "a\\b"):
            self.assertEqual(shown(name), name)

    def test_escapes(self) -> None:
        """A terminal would obey the first, and show the second the wrong way round."""
        self.assertEqual(shown("\x1b]0;owned\x07"), r"\x1b]0;owned\x07")
        self.assertEqual(shown("\u202egpj.exe"), r"\u202egpj.exe")
        self.assertEqual(shown("a\nb\rc\x9bd"), r"a\nb\rc\x9bd")

    def test_bytes(self) -> None:
        """Which need not be UTF-8."""
        self.assertEqual(shown(b"tr\xc3\xa8s\xff"), r"très\xff")

    @given(st.text() | st.binary())
    def test_never_controls(self, name: str | bytes) -> None:
        self.assertTrue(all(character.isprintable() or character in "\u200c\u200d" for character in shown(name)))


class TextTests(StreamsTestCase):
    """What goes where, as what."""

    def output(self, *, as_json: bool = False) -> Output:
        return Output.of(argparse.Namespace(json=as_json))

    def test_for_people(self) -> None:
        """Answers to standard output, the rest to standard error; JSON nowhere."""
        to = self.output()
        to.say("one\ntwo\x1b")
        to.note("by the way\x1b")
        to.document({"a": 1})
        to.records([{"a": 1}])
        self.assertEqual((self.written(), self.said()), ("one\ntwo\\x1b\n", "by the way\\x1b\n"))

    def test_for_scripts(self) -> None:
        """JSON alone is on standard output: a document, or a line for each record."""
        to = self.output(as_json=True)
        to.say("one")
        to.table(COLUMNS, [("a", "1")])
        to.document({"name": "\x1b\u202e"})
        to.records({"n": n} for n in range(2))
        first, *lines = self.written().splitlines()
        self.assertEqual(json.loads(first), {"name": "\x1b\u202e"})
        self.assertTrue(first.isprintable())
        self.assertEqual(lines, ['{"n": 0}', '{"n": 1}'])

    def test_table(self) -> None:
        """Aligned by what a terminal shows, and not wrapped."""
        self.output().table(COLUMNS, [("a" * 100, "7"), ("日本\n", "10 kB"), (b"\xff", "")])
        lines = self.written().splitlines()
        self.assertEqual(lines[0], "path" + " " * 96 + "   size")
        self.assertEqual(lines[1], "a" * 100 + "      7")
        self.assertEqual(lines[2], r"日本\n" + " " * 94 + "  10 kB")
        self.assertEqual(lines[3], r"\xff")

    def test_empty_table(self) -> None:
        self.output().table(COLUMNS, [])
        self.assertEqual(self.written(), "path  size\n")

    def test_long_table(self) -> None:
        """It is written while the rows come, with one heading."""
        to, seen = self.output(), []

        def rows() -> object:
            for number in range(2000):
                seen.append(len(self.out.getvalue()))
                yield (str(number), "")

        to.table(COLUMNS, rows())
        lines = self.written().splitlines()
        self.assertEqual((len(lines), lines.count("path  size"), lines[-1]), (2001, 1, "1999"))
        self.assertGreater(seen[-1], 0)

    def test_styled_table(self) -> None:
        """A terminal gets colours, and still nothing from a stranger: neither escapes nor markup."""
        self.patch(os, "environ", {"TERM": "xterm", "COLUMNS": "80"})
        self.stream(terminal=True)
        self.output().table(COLUMNS, [("[red]a\x1b[31m", "1")])
        self.assertIn("\x1b[1m", self.written())
        self.assertIn(r"[red]a\x1b[31m", self.written())

    def test_no_colour(self) -> None:
        """If the user, or the terminal, doesn't want any."""
        for environ in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
            self.patch(os, "environ", environ)
            self.stream(terminal=True)
            to = self.output()
            to.table(COLUMNS, [("a", "1")])
            with to.progress("going", 10) as bar:
                bar.advance(10)
            self.assertEqual((self.written(), self.said()), ("path  size\na        1\n", ""))

    def test_poor_encoding(self) -> None:
        """What can't be written is escaped, too."""
        self.stream(encoding="ascii")
        self.output().say("très")
        self.assertEqual(self.written(), "tr\\xe8s\n")


class ProgressTests(StreamsTestCase):
    """Bars."""

    def test_terminal(self) -> None:
        """On standard error, with notes above."""
        self.patch(os, "environ", {"TERM": "xterm", "COLUMNS": "80"})
        self.stream(terminal=True)
        to = Output.of()
        with to.progress("sending\x1b", 1000) as bar:
            bar.advance(500)
            to.note("lost\x1b[31m")
            bar.restart(250, 2000)
        self.assertEqual(self.written(), "")
        self.assertIn(r"sending\x1b", self.said())
        self.assertIn(r"lost\x1b[31m", self.said())
        self.assertIn("0.2/2.0 kB", self.said())

    def test_pipe(self) -> None:
        """Nothing; notes stay."""
        to = Output.of()
        with to.progress("sending", None) as bar:
            bar.advance(500)
            bar.restart(0, 100)
            to.note("lost")
        self.assertEqual((self.written(), self.said()), ("", "lost\n"))


class ConfirmTests(StreamsTestCase):
    """Questions."""

    def asked(self, stdin: bytes) -> str:
        """The question was asked, and answered."""
        self.stream(stdin, terminal=True)
        Output.of().confirm("Delete 3 files?", yes=False)
        return self.said()

    def test_yes(self) -> None:
        for answer in (b"y\n", b"YES\n", b" y \n"):
            self.assertEqual(self.asked(answer), "Delete 3 files? [y/N] ")

    def test_no(self) -> None:
        """Anything else, the end of the input included."""
        for answer in (b"n\n", b"\n", b"", b"yesterday\n"):
            self.assertRaises(Fault, self.asked, answer)

    def test_nobody_there(self) -> None:
        """A script has to say what it means."""
        fault = self.assertRaises(Fault, Output.of().confirm, "Delete?", False)
        self.assertIn("--yes", str(fault))
        Output.of().confirm("Delete?", True)
        self.assertEqual(self.said(), "")


class RunTests(StreamsTestCase):
    """How a command ends."""

    def ended(self, error: BaseException) -> tuple[int, str]:
        def command() -> int:
            raise error

        self.stream()
        return output.run(command), self.said()

    def test_fine(self) -> None:
        self.assertEqual(output.run(lambda: 0), 0)

    def test_faults(self) -> None:
        """A sentence, and nothing that a terminal would obey."""
        for error, status, sentence in (
            (Fault("It\x1b failed."), 1, "It\\x1b failed."),
            (Usage("Not so."), 2, "Not so."),
            (StartError("a:1: no\nb:2: no"), 1, "a:1: no\nb:2: no"),
            (Refused(400, "bad-path", "No."), 1, "bad-path: No."),
            (ValueError("not a number"), 1, "not a number"),
            (FileNotFoundError(2, "No such file or directory", "x\n"), 1, r"x\n: No such file or directory"),
            (OSError(28, "No space left on device"), 1, "No space left on device"),
        ):
            self.assertEqual(self.ended(error), (status, f"{sentence}\n"))

    def test_interrupted(self) -> None:
        """Ctrl-C, without a word."""
        self.assertEqual(self.ended(KeyboardInterrupt()), (130, ""))

    def test_bugs(self) -> None:
        """Are not hidden."""
        self.assertRaises(KeyError, self.ended, KeyError("x"))


class TimeTests(SynchronousTestCase):
    def test_timestamp(self) -> None:
        self.assertEqual(output.timestamp(1_800_000_000.9), "2027-01-15T08:00:00Z")

    def test_moment(self) -> None:
        self.assertRegex(output.moment(1_800_000_000), r"^2027-01-1[456] \d\d:\d\d$")
