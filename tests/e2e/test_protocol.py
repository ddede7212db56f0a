"""The transcripts of ``docs/protocol.md``, run against a real daemon by a real shell."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterator

from attrs import field, frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.e2e.daemon import Daemon, command
from tests.e2e.processes import ROOT, PeerTestCase, run
from tests.e2e.signing import SECRET

PAGE = ROOT / "docs" / "protocol.md"
PREPARATION = "Trying it out"
"""The section whose commands go before those of every other one."""


@frozen
class Step:
    """One command of a transcript.

    :ivar line: of the page, where it stands.
    :ivar command: for the shell; may have several lines.
    :ivar expected: the lines of its output. ``...`` is any text within a line, and alone any number of lines.
    """

    line: int
    command: str
    expected: list[str] = field(factory=list)

    def shows(self, output: str) -> bool:
        """Whether *output* is as the page has it."""
        lines = ("(?:.*\n)*" if line == "..." else f"{_pattern(line)}\n" for line in self.expected)
        return re.fullmatch("".join(lines), output) is not None


def _pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.split("...")))


def sections(text: str) -> dict[str, list[Step]]:
    """The commands of each section that has any, by its heading."""
    found: dict[str, list[Step]] = {}
    heading, inside = "", False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("```"):
            inside = line == "```console"
        elif inside:
            _extend(found.setdefault(heading, []), number, line)
    return found


def _extend(steps: list[Step], number: int, line: str) -> None:
    if line.startswith("$ "):
        steps.append(Step(number, line[2:]))
    elif line.startswith("> ") and not steps[-1].expected:
        last = steps.pop()
        steps.append(Step(last.line, f"{last.command}\n{line[2:]}"))
    else:
        steps[-1].expected.append(line)


class TranscriptTests(PeerTestCase):
    """Every command does what the page says. One test for each section, made below."""

    needs = ("curl", "openssl")

    def check(self, heading: str) -> None:
        """Run a section, and compare."""
        page = sections(PAGE.read_text(encoding="utf-8"))
        steps = page[heading] if heading == PREPARATION else [*page[PREPARATION], *page[heading]]
        for step, output in zip(steps, self.outputs(steps), strict=True):
            self.assertTrue(step.shows(output), f"{PAGE.name}:{step.line}: $ {step.command}\n{output}")

    def outputs(self, steps: list[Step]) -> Iterator[str]:
        """What each command writes, when they all run in one shell."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        programs = daemon.directory / "bin"
        programs.mkdir()
        (programs / "hmacfs").write_text(f'#!/bin/sh\nexec {shlex.join(command("hmacfs"))} "$@"\n', encoding="utf-8")
        (programs / "hmacfs").chmod(0o755)
        environment = {
            "HOME": str(daemon.directory),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SECRET": SECRET,
            "SERVER": daemon.url(""),
            "no_proxy": "*",
        }
        end = f"end of {secrets.token_hex(8)}"
        script = "exec 2>&1\n" + "".join(f"{step.command}\nprintf '\\n%s\\n' '{end}'\n" for step in steps)
        done = run(["bash", "-c", script], env=environment, cwd=daemon.directory)
        outputs = done.text.replace("\r", "").split(f"\n{end}\n")
        self.assertEqual((len(outputs), outputs[-1]), (len(steps) + 1, ""), done.text)
        return (output if output.endswith("\n") or not output else f"{output}\n" for output in outputs[:-1])


def _test_of(heading: str) -> Callable[[TranscriptTests], None]:
    def test(self: TranscriptTests) -> None:
        self.check(heading)

    test.__doc__ = f"{PAGE.name}, section “{heading}”."
    return test


for _heading in sections(PAGE.read_text(encoding="utf-8")):
    setattr(TranscriptTests, "test_" + re.sub(r"\W+", "_", _heading.lower()), _test_of(_heading))


class StepTests(SynchronousTestCase):
    """A transcript that differs is found to differ."""

    def test_dots(self) -> None:
        """``...`` stands for a part of a line, or for lines."""
        step = Step(1, "x", ["HTTP/1.1 201 ...", "...", "ETag: ..."])
        self.assertTrue(step.shows('HTTP/1.1 201 Created\nServer: hmacfs\nETag: "1"\n'))
        self.assertTrue(step.shows('HTTP/1.1 201 Created\nETag: "1"\n'))

    def test_difference(self) -> None:
        """Another line, one too many, one too few, and nothing at all."""
        step = Step(1, "x", ["201", "..."])
        for output in ("200\n", "\n201\n", ""):
            self.assertFalse(step.shows(output), output)
        self.assertFalse(Step(1, "x").shows("curl: (7) Failed to connect\n"))

    def test_sections(self) -> None:
        """Commands go by their headings; the ones that are not in a console block are no commands."""
        text = "## A\n```console\n$ one \\\n>   two\nout\n$ three\n```\n## B\n```toml\n$ four\n```\n"
        self.assertEqual(sections(text), {"A": [Step(3, "one \\\n  two", ["out"]), Step(6, "three")]})
