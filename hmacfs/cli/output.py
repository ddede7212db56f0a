"""How the commands speak: the one place for tables, JSON, progress, questions and faults.

What a command was asked for goes to standard output; everything else (progress, notes, questions, faults) goes to
standard error. Colours and bars are for terminals: a pipe, a file and ``NO_COLOR`` get plain text. Names of files come
from strangers, so whatever is written for people goes through :func:`shown` here.

A command begins with ``output = Output.of(options)`` and ends by returning 0, or by raising :class:`Fault`. The options
that many commands share (``--json``, ``--dry-run``, ``--yes``, sizes, durations) are in :mod:`hmacfs.cli.arguments`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TextIO

from attrs import define, field, frozen

from hmacfs.errors import Refused, StartError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

#: Exit statuses; argparse uses the same for what is wrong with the command line.
FINE: Final = 0
FAULT: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
#: As of a program that SIGPIPE ends, which is what a reader like ``head`` does to the others.
UNHEARD: Final = 141

#: A table is laid out in blocks of so many rows, so that a list of a million files takes no memory.
_BLOCK_ROWS: Final = 500

_JOINERS: Final = "\u200c\u200d"  # of Persian words and of emoji: invisible, and harmless


class Fault(Exception):
    """What ends a command with status 1. Its text is a sentence for the operator, or several lines of them."""

    status = FAULT


class Usage(Fault):
    """The same where the command line itself is wrong in a way that argparse doesn't see: status 2."""

    status = USAGE


def run(command: Callable[[], int]) -> int:
    """Run a command, and return its exit status; whatever goes wrong is a sentence on standard error.

    Ctrl-C ends it with 130 and without a word; a reader of standard output that has gone, with 141.
    """
    try:
        status = command()
        sys.stdout.flush()
    except Fault as fault:
        return _fault(str(fault), fault.status)
    except (StartError, ValueError) as error:
        return _fault(str(error))
    except Refused as refused:
        return _fault(f"{refused.reason}: {refused.detail}")
    except BrokenPipeError:
        _forget_stdout()
        return UNHEARD
    except OSError as error:
        return _fault(os_sentence(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def os_sentence(error: OSError) -> str:
    """What the system says, and of which file."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{shown(os.fsdecode(error.filename))}: {what}" if isinstance(error.filename, (str, bytes)) else what


def _fault(text: str, status: int = FAULT) -> int:
    Output.of().note(text)
    return status


def _forget_stdout() -> None:
    # Python flushes it once more at exit, and would say what it thinks of that.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(text: str | bytes) -> str:
    r"""*text* as it can be written to a terminal: control characters, escape sequences, marks that turn the direction
    of writing, and bytes that are no UTF-8 are written as ``\x1b``, ``\u202e``, ``\xff``."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in _JOINERS
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def moment(seconds: float) -> str:
    """A time since the epoch for people, in the local time zone: ``2026-11-22 20:14``."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def timestamp(seconds: float) -> str:
    """A time since the epoch for JSON, in UTC: ``2026-11-22T20:14:03Z``."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


@frozen
class Column:
    """Of a table.

    :ivar right: aligned to the right, as numbers are.
    """

    title: str
    right: bool = False


@define
class Output:
    """Where one command speaks to.

    :ivar json: JSON is wanted; :meth:`say` and :meth:`table` are silent then.
    :ivar styled: colours and lines on standard output.
    :ivar lively: progress bars on standard error.
    """

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    json: bool
    styled: bool
    lively: bool
    _live: Console | None = field(default=None, init=False)

    @classmethod
    def of(cls, options: argparse.Namespace | None = None) -> Output:
        """The standard streams of this process; JSON if *options* has ``json`` set."""
        styled, lively = (
            stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            for stream in (sys.stdout, sys.stderr)
        )
        return cls(sys.stdin, sys.stdout, sys.stderr, bool(getattr(options, "json", False)), styled, lively)

    def say(self, text: str) -> None:
        """Write one or more lines for people, if JSON isn't wanted."""
        if not self.json:
            self._write(self.stdout, _shown_lines(text))

    def note(self, text: str) -> None:
        """Write one or more lines to standard error, above the progress bar if there is one."""
        if self._live is None:
            self._write(self.stderr, _shown_lines(text))
        else:
            self._live.print(_shown_lines(text), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def document(self, value: object) -> None:
        """Write one JSON document, if JSON is wanted."""
        if self.json:
            self._write(self.stdout, json.dumps(value))

    def records(self, records: Iterable[Mapping[str, object]]) -> None:
        """Write a list of any length as JSON lines, one object each, if JSON is wanted."""
        if self.json:
            for record in records:
                self._write(self.stdout, json.dumps(record))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | bytes]]) -> None:
        """Write a table for people, if JSON isn't wanted: while the rows come, and without wrapping them in a pipe."""
        if self.json:
            return
        safe = ([shown(cell) for cell in row] for row in rows)
        widths = [_width(column.title) for column in columns]
        first = True
        while (block := [*islice(safe, _BLOCK_ROWS)]) or first:
            widths = [max(width, *(_width(row[at]) for row in block), 0) for at, width in enumerate(widths)]
            (self._styled_block if self.styled else self._plain_block)(columns, widths, block, first)
            first = False

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before something that can't be undone.

        :param question: ends in a question mark.
        :param yes: ``--yes`` was given; nothing is asked.
        :raises Fault: the answer is no, or there is nobody to ask.
        """
        if yes:
            return
        if not (self.stdin.isatty() and self.stderr.isatty()):
            raise Fault(f"{question} Nothing was done: there is no terminal to ask on. Say --yes if you mean it.")
        self.stderr.write(f"{_shown_lines(question)} [y/N] ")
        self.stderr.flush()
        if self.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Fault("Nothing was done.")

    @contextmanager
    def progress(self, title: str, total: int | None, *, of_bytes: bool = True) -> Iterator[Bar]:
        """A progress bar on standard error for as long as the context lasts; without a terminal there is none.

        :param total: bytes, or things; ``None`` if that isn't known.
        """
        if not self.lively:
            yield Bar()
            return
        with _progress(self.stderr, of_bytes) as progress:
            self._live = progress.console
            try:
                yield Bar(progress, progress.add_task(shown(title), total=total))
            finally:
                self._live = None

    def _styled_block(
        self, columns: Sequence[Column], widths: Sequence[int], block: Sequence[Sequence[str]], first: bool
    ) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=first, header_style="bold")
        for column, width in zip(columns, widths, strict=True):
            justify: Any = "right" if column.right else "left"
            table.add_column(Text(column.title), justify=justify, overflow="fold", min_width=min(width, 16))
        for row in block:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self.stdout, force_terminal=True).print(table)

    def _plain_block(
        self, columns: Sequence[Column], widths: Sequence[int], block: Sequence[Sequence[str]], first: bool
    ) -> None:
        for row in ([[column.title for column in columns]] if first else []) + [*block]:
            cells = (
                " " * (width - _width(cell)) + cell if column.right else cell + " " * (width - _width(cell))
                for column, width, cell in zip(columns, widths, row, strict=True)
            )
            self._write(self.stdout, "  ".join(cells).rstrip())

    def _write(self, stream: TextIO, line: str) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


@define
class Bar:
    """A progress bar, or nothing where nobody would see it."""

    _progress: Progress | None = None
    _task: TaskID | None = None

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount)

    def restart(self, done: int, total: int | None = None) -> None:
        """So much is done by now, and the rate is measured anew from here.

        :param total: a new one, where it has become known.
        """
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, completed=done)
            if total is not None:
                self._progress.update(self._task, total=total)


def _progress(stream: TextIO, of_bytes: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    columns += [DownloadColumn(), TransferSpeedColumn()] if of_bytes else [MofNCompleteColumn()]
    return Progress(*columns, TimeRemainingColumn(), console=Console(file=stream, force_terminal=True), transient=True)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _shown_lines(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))
