"""What can be fuzzed, and what a finding is."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from attrs import frozen


class Broken(AssertionError):
    """Something that must hold doesn't."""


def must(holds: object, *what: object) -> None:
    """:raises Broken: unless *holds*."""
    if not holds:
        raise Broken(" ".join(str(part) for part in what))


class Target(Protocol):
    """One thing to be fuzzed.

    :ivar name: as the command line has it.
    """

    name: str

    def make(self, random: Random) -> Any:
        """An example. The same one for the same state of *random*."""

    def check(self, example: Any) -> None:
        """Try it. Whatever is raised is a finding."""

    def smaller(self, example: Any, fails: Callable[[Any], bool]) -> Any:
        """A smaller example that *fails* as well."""

    def show(self, example: Any) -> str:
        """It, in a form that can be pasted into a test."""


@frozen
class Finding:
    """An example for which something does not hold.

    :ivar kind: what it has in common with other findings of the same fault.
    """

    target: str
    seed: str
    number: int
    kind: str
    detail: str
    example: str

    def __str__(self) -> str:
        replay = f"python -m tests.fuzz --target {self.target} --replay {self.seed}:{self.number}"
        return f"FOUND {self.kind}\n{self.detail.rstrip()}\n{self.example}\n{replay}\n"


def random_of(target: str, seed: str, number: int) -> Random:
    """What example *number* is made from, on every Python."""
    return Random(f"{target}:{seed}:{number}")


def kind_of(error: BaseException) -> str:
    """The error's type and the line it came from; of a :class:`Broken` what it says, without its numbers."""
    if isinstance(error, Broken):
        return "".join("#" if char.isdigit() else char for char in str(error).partition("\n")[0])[:120]
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = "" if last is None else f" in {last.name}, {last.filename.rpartition('/')[2]}"
    return f"{type(error).__name__}{place}"


def failure_of(target: Target, example: Any) -> BaseException | None:
    """What comes of trying *example*."""
    try:
        target.check(example)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return error
    return None


def shrink(items: list[Any], fails: Callable[[list[Any]], bool], *, tries: int = 150) -> list[Any]:
    """Leave out of *items* what isn't needed for *fails* (delta debugging: halves, quarters, ... single items)."""
    size = max(1, len(items) // 2)
    while tries > 0 and items:
        at = 0
        removed = False
        while at < len(items) and tries > 0:
            fewer = items[:at] + items[at + size :]
            tries -= 1
            if fails(fewer):
                items, removed = fewer, True
            else:
                at += size
        if size == 1 and not removed:
            break
        if not removed:
            size = max(1, size // 2)
        size = min(size, max(1, len(items)))
    return items


def shrink_bytes(data: bytes, fails: Callable[[bytes], bool], *, tries: int = 150) -> bytes:
    """:func:`shrink` for bytes."""
    return bytes(shrink(list(data), lambda items: fails(bytes(items)), tries=tries))
