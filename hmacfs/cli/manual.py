"""The manual page, made from the parser: ``python -m hmacfs.cli.manual > hmacfs.1``.

So it has every command and every option that there is. The page for reading, with examples, is docs/command.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from hmacfs import __version__
from hmacfs.cli import parser
from hmacfs.cli.commands import Command, commands, help_of, value_of

_SECTIONS = (
    (
        "EXIT STATUS",
        (
            ("0", "It went well."),
            ("1", "It did not; standard error says why."),
            ("2", "The command line is wrong."),
            ("130", "Ctrl-C."),
            ("141", "Whoever read the output has gone."),
        ),
    ),
    (
        "ENVIRONMENT",
        (
            ("HMACFS_TOKEN", "The bearer token of put and get."),
            ("NO_COLOR", "If it is set to anything, no colours, lines and progress bars."),
        ),
    ),
    ("FILES", (("/etc/hmacfs/config.toml", "The configuration, where --config names no other."),)),
)


def manual(top: argparse.ArgumentParser, version: str) -> str:
    """The page, as man(7) has it. Without a date, so that the same sources make the same page."""
    lines = [
        f'.TH HMACFS 1 "" "hmacfs {_roff(version)}" "System Administration"',
        ".SH NAME",
        f"hmacfs \\- {_roff(top.description or '').rstrip('.')}",
        ".SH SYNOPSIS",
        r"\fBhmacfs\fR \fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]...",
        ".SH COMMANDS",
    ]
    for command in commands(top):
        lines += _command(command)
    for title, entries in _SECTIONS:
        lines.append(f".SH {title}")
        for term, text in entries:
            lines += _entry(rf"\fB{_roff(term)}\fR", text)
    lines += [".SH SEE ALSO", r"\fBtwistd\fR(1), \fBcurl\fR(1)"]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> Iterator[str]:
    positionals = [action for action in command.arguments if not action.option_strings]
    words = " ".join(map(_operand, positionals))
    yield rf'.SS "\fB{_roff(command.words)}\fR [\fIOPTION\fR]... {words}"'.replace(' "', '"').replace('SS"', 'SS "')
    yield _roff(command.parser.description or f"{command.brief[:1].upper()}{command.brief[1:]}.")
    for action in command.arguments:
        yield from _entry(_term(action), help_of(action, command.parser))


def _operand(action: argparse.Action) -> str:
    """An argument in the line that shows how a command is written."""
    name = rf"\fI{_roff(value_of(action))}\fR"
    return {"*": f"[{name}]...", "+": f"{name}...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _entry(term: str, text: str) -> list[str]:
    return [".TP", term, _roff(text)]


def _term(action: argparse.Action) -> str:
    value = value_of(action)
    if not action.option_strings:
        return rf"\fI{_roff(value)}\fR"
    operand = rf" \fI{_roff(value)}\fR" if value else ""
    return ", ".join(rf"\fB{_roff(option)}\fR{operand}" for option in action.option_strings)


def _roff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":
    sys.stdout.write(manual(parser(), __version__))
