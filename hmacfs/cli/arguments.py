"""Options that several commands have, and the kinds of values that options take."""

from __future__ import annotations

import argparse

from hmacfs.units import UnitError, parse_duration, parse_size


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``: for commands that need no configuration; the others have it from *common*."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def add_changing(parser: argparse.ArgumentParser) -> None:
    """``--dry-run`` and ``--yes``, for commands that change what can't be changed back.

    A dry run asks nothing, and says "would delete" where the real one says "deleted".
    """
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--yes", action="store_true", help="do it without asking")


def size(text: str) -> int:
    """Bytes, as ``type`` of an option: a number of them, or ``10MB``, ``1GiB``."""
    try:
        return parse_size(int(text) if text.isdecimal() else text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration(text: str) -> float:
    """Seconds, as ``type`` of an option: a number of them, or ``90s``, ``30d``."""
    try:
        return parse_duration(int(text) if text.isdecimal() else text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A natural number, as ``type`` of an option."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError("expected a whole number")
    return int(text)


def of_file(action: argparse.Action) -> None:
    """Note that *action* takes the name of a file, which shells can complete."""
    vars(action)["is_file"] = True


def is_of_file(action: argparse.Action) -> bool:
    """Whether that was noted."""
    return bool(vars(action).get("is_file"))
