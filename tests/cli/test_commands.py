"""All commands: their help, the manual page, completion for bash, and docs/command.md."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from hmacfs import __version__
from hmacfs.cli import parser
from hmacfs.cli.arguments import of_file
from hmacfs.cli.commands import Command, commands, every_command, help_of
from hmacfs.cli.completing import completion
from hmacfs.cli.manual import manual
from tests.e2e.processes import ROOT, PeerTestCase, program, run


def small() -> argparse.ArgumentParser:
    """A parser with everything that a parser may have."""
    top = argparse.ArgumentParser(prog="hmacfs", description="For trying.")
    top.add_argument("--version", action="version", version="1")
    families = top.add_subparsers(metavar="COMMAND")
    plain = families.add_parser("plain", help="does little")
    plain.add_argument("--level", type=int, default=5, help="how little (%(default)s, of 100%%)")
    of_file(plain.add_argument("file", metavar="FILE", help=".hidden\\names"))
    family = families.add_parser("family", help="of two").add_subparsers()
    family.add_parser("one", help="the first").add_argument("--kind", choices=("red", "green"), help="of colour")
    two = family.add_parser("two", help="the second")
    two.add_argument("--dry-run", action="store_true", help="does nothing")
    two.add_argument("names", metavar="NAME", nargs="*", help="of anything")
    return top


class HelpTests(SynchronousTestCase):
    """What ``--help`` says."""

    def test_everything(self) -> None:
        """There is a word on every command, option and argument, which argparse can show."""
        for command in [*every_command(parser())][1:]:
            self.assertNotEqual(command.brief, "", command.words)
            self.assertIn("usage:", command.parser.format_help())
            for action in command.arguments:
                self.assertNotEqual(help_of(action, command.parser), "", f"{command.words}: {action.dest}")


class WalkTests(SynchronousTestCase):
    """The commands as data."""

    def test_commands(self) -> None:
        """In the order of the help, without the families that can't be run by themselves."""
        words = [command.words for command in commands(small())]
        self.assertEqual(words, ["hmacfs plain", "hmacfs family one", "hmacfs family two"])
        self.assertEqual([command.brief for command in commands(small())], ["does little", "the first", "the second"])


class ManualTests(SynchronousTestCase):
    """The manual page."""

    def test_page(self) -> None:
        """Names, values, defaults; nothing that roff would take for its own."""
        page = manual(small(), "1.2")
        for line in (
            r"hmacfs \- For trying",
            r'.SS "\fBhmacfs plain\fR [\fIOPTION\fR]... \fIFILE\fR"',
            r"\fB\-\-level\fR \fILEVEL\fR",
            r"how little (5, of 100%)",
            r"\&.hidden\enames",
            r"\fB\-\-kind\fR \fIred|green\fR",
            r"\fB\-\-dry\-run\fR",
            r'.SS "\fBhmacfs family two\fR [\fIOPTION\fR]... [\fINAME\fR]..."',
            ".SH EXIT STATUS",
        ):
            self.assertIn(f"\n{line}\n", page)

    def test_every_option(self) -> None:
        page = manual(parser(), "1.2")
        for command in commands(parser()):
            self.assertIn(command.words.replace("-", r"\-"), page)
            for action in command.arguments:
                for option in action.option_strings:
                    self.assertIn(option.replace("-", r"\-"), page)

    def test_same_every_time(self) -> None:
        """No date, so that a package can be built again."""
        self.assertEqual(manual(parser(), "1"), manual(parser(), "1"))
        self.assertNotRegex(manual(parser(), "1"), r"20[0-9]{2}")


class CompletionTests(SynchronousTestCase):
    """Completion, by a bash."""

    def completed(self, *words: str, top: argparse.ArgumentParser | None = None, cwd: Path = ROOT) -> list[str]:
        """What bash offers for the last of *words*."""
        script = (
            completion(top or small())
            + 'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _hmacfs; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        bash = shutil.which("bash")
        assert bash is not None
        argv = [bash, "-c", script, "bash", "hmacfs", *words]
        ended = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=True)
        self.assertEqual(ended.stderr, "")
        return ended.stdout.split("\n")[:-1]

    def test_commands(self) -> None:
        self.assertEqual(self.completed(""), ["plain", "family", "--help"])
        self.assertEqual(self.completed("fam"), ["family"])
        self.assertEqual(self.completed("family", ""), ["one", "two", "--help"])

    def test_options(self) -> None:
        """Of this command, and of no other."""
        self.assertEqual(self.completed("family", "two", "--"), ["--dry-run", "--help"])
        self.assertEqual(self.completed("plain", "x", "--l"), ["--level"])

    def test_values(self) -> None:
        """Where they are known."""
        self.assertEqual(self.completed("family", "one", "--kind", ""), ["red", "green"])
        self.assertEqual(self.completed("plain", "--level", ""), [""])

    def test_files(self) -> None:
        """Where an argument is one, whatever it is called."""
        here = Path(self.mktemp())
        here.mkdir()
        (here / "a film.mp4").touch()
        self.assertEqual(self.completed("plain", "a", cwd=here), ["a film.mp4"])
        self.assertEqual(self.completed("family", "two", "a", cwd=here), [""])

    def test_ours(self) -> None:
        self.assertEqual(self.completed("pu", top=parser()), ["put"])
        self.assertIn("README.md", self.completed("put", "READ", top=parser()))


class MakeTests(PeerTestCase):
    """``make man``."""

    needs = ("make",)

    def test_man(self) -> None:
        """With an interpreter that is there already, as for a package."""
        shutil.copy2(ROOT / "Makefile", self.directory)
        argv = [program("make"), "man", f"TOOLS={sys.executable}"]
        made = run(argv, cwd=self.directory, env={"PYTHONPATH": str(ROOT), "MAKEFLAGS": ""})
        self.assertEqual(made.status, 0, made.stderr)
        written = {
            path: (self.directory / "build" / path).read_text() for path in ("man/hmacfs.1", "completion/hmacfs.bash")
        }
        self.assertEqual([*written.values()], [manual(parser(), __version__), completion(parser())])


class PageTests(SynchronousTestCase):
    """docs/command.md."""

    def sections(self) -> dict[str, str]:
        """The text of each section by its heading."""
        page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
        parts = re.split(r"^#{2,4} +(.+)$", page, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def test_every_command(self) -> None:
        """Each has a section that names all of its options; those that many share are described once."""
        sections = self.sections()
        missing = [command.words for command in commands(parser()) if command.words not in sections]
        self.assertEqual(missing, [])
        shared = {
            option
            for heading, text in sections.items()
            if not heading.startswith("hmacfs ")
            for option in self.named(text)
        }
        for command in commands(parser()):
            named = self.named(sections[command.words])
            self.assertEqual(self.options(command) - named - shared, set(), command.words)
            self.assertEqual(named - self.options(command) - shared - {"--help"}, set(), command.words)

    def test_no_other(self) -> None:
        """And there is no section of a command that there isn't."""
        real = {command.words for command in every_command(parser())}
        named = {heading for heading in self.sections() if heading.startswith("hmacfs ")}
        self.assertEqual(named - real, set())

    def named(self, text: str) -> set[str]:
        """The options that a section names."""
        return set(re.findall(r"--[a-z][a-z0-9-]*", text))

    def options(self, command: Command) -> set[str]:
        """The long ones."""
        strings = [option for action in command.arguments for option in action.option_strings]
        return {option for option in strings if option.startswith("--")}
