"""``hmacfs stats`` and ``hmacfs verify``: what is in the store, and whether it still is what was uploaded."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, define, frozen

from hmacfs.cli.arguments import size
from hmacfs.cli.output import FAULT, FINE, Bar, Column, Output
from hmacfs.cli.pace import Pace
from hmacfs.cli.selecting import Selection, add_selectors
from hmacfs.cli.storing import Stored, opened
from hmacfs.keeping.index import Entry
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import OpenFile
from hmacfs.units import counted, human_size

_DAY_S: Final = 86_400
_READ_BYTES: Final = 1 << 20
_BAR_WIDTH: Final = 30
_MOST_TYPES: Final = 12

_AGES: Final = ("under a day", "under a week", "under a month", "under 3 months", "under a year", "older")
_AGE_ENDS_S: Final = (_DAY_S, 7 * _DAY_S, 30 * _DAY_S, 90 * _DAY_S, 365 * _DAY_S)
_SIZES: Final = ("under 10 kB", "under 100 kB", "under 1 MB", "under 10 MB", "under 100 MB", "under 1 GB", "larger")
_SIZE_ENDS: Final = tuple(10**power for power in range(4, 10))


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to argparse's *commands*."""
    stats = commands.add_parser("stats", parents=[common], help="how many files, of which age, type and size")
    add_selectors(stats)
    stats.set_defaults(run=_stats)

    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="read stored files again, and compare them with their SHA-256",
        description="Read stored files again, slowly, and say which are not what was uploaded. Status 1 if there are any.",
    )
    add_selectors(verify)
    verify.add_argument("--rate", metavar="SIZE", type=size, default=50_000_000, help="bytes a second at most (50MB)")
    verify.set_defaults(run=_verify)


# -- stats


@define
class Group:
    """Files that have something in common."""

    files: Counter[str] = Factory(Counter)
    size_bytes: Counter[str] = Factory(Counter)

    def add(self, name: str, entry: Entry) -> None:
        self.files[name] += 1
        self.size_bytes[name] += entry.size

    def as_json(self) -> Mapping[str, object]:
        return {name: {"files": self.files[name], "bytes": self.size_bytes[name]} for name in self.files}


@frozen
class Statistics:
    """Files by their age, size and type."""

    ages: Group = Factory(Group)
    sizes: Group = Factory(Group)
    types: Group = Factory(Group)

    @classmethod
    def of(cls, entries: Iterable[Entry], now: float) -> Statistics:
        made = cls()
        for entry in entries:
            made.ages.add(_AGES[bisect_right(_AGE_ENDS_S, now - entry.uploaded)], entry)
            made.sizes.add(_SIZES[bisect_right(_SIZE_ENDS, entry.size)], entry)
            made.types.add(entry.content_type.partition(";")[0].strip().lower(), entry)
        return made


def _stats(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        entries = Selection.of(stored, options, output, all_of_them=True).entries()
        statistics = Statistics.of(entries, time.time())
        free = stored.store.free_bytes()
    files, bytes_ = sum(statistics.ages.files.values()), sum(statistics.ages.size_bytes.values())
    output.document(
        {
            "files": files,
            "bytes": bytes_,
            "free_bytes": free,
            "by_age": statistics.ages.as_json(),
            "by_size": statistics.sizes.as_json(),
            "by_type": statistics.types.as_json(),
        }
    )
    output.say(f"{counted(files, 'file')}, {human_size(bytes_)}; {human_size(free)} are free.\n")
    _histogram(output, "age", statistics.ages, _AGES)
    _histogram(output, "size of file", statistics.sizes, _SIZES)
    _histogram(output, "type", *_most(statistics.types))
    return FINE


def _most(types: Group) -> tuple[Group, Sequence[str]]:
    """The types that take most room, and all others as one."""
    order = [name for name, _ in types.size_bytes.most_common()]
    shown = Group()
    for place, name in enumerate(order):
        label = name if place < _MOST_TYPES else "others"
        shown.files[label] += types.files[name]
        shown.size_bytes[label] += types.size_bytes[name]
    return shown, [*order[:_MOST_TYPES], *(["others"] if len(order) > _MOST_TYPES else [])]


def _histogram(output: Output, title: str, group: Group, names: Sequence[str]) -> None:
    most = max(group.size_bytes.values(), default=0) or 1
    rows = [
        [name, f"{group.files[name]:,}", human_size(group.size_bytes[name]), _bar(group.size_bytes[name] / most)]
        for name in names
    ]
    output.table([Column(title), Column("files", right=True), Column("size", right=True), Column("")], rows)
    output.say("")


def _bar(share: float) -> str:
    return "#" * round(share * _BAR_WIDTH)


# -- verify


@define
class Findings:
    """What came of reading files again."""

    good: int = 0
    without_digest: int = 0
    bad: int = 0
    unreadable: int = 0

    def as_json(self) -> Mapping[str, object]:
        return {
            "good": self.good,
            "without_digest": self.without_digest,
            "bad": self.bad,
            "unreadable": self.unreadable,
        }


def _verify(options: argparse.Namespace) -> int:
    output = Output.of(options)
    # The daemon goes first.
    os.nice(10)
    with opened(options) as stored:
        selection = Selection.of(stored, options, output, all_of_them=True)
        total = sum(entry.size for entry in selection.entries())
        findings, pace = Findings(), Pace(options.rate or None)
        with output.progress("reading", total) as bar:
            for entry in selection.entries():
                _verify_one(stored, entry, findings, pace, output, bar)
    output.records([{"result": findings.as_json()}])
    output.say(
        f"{counted(findings.good, 'file is as it was', 'files are as they were')} uploaded;"
        f" {counted(findings.bad, 'is', 'are')} not, {findings.unreadable:,} can't be"
        f" read; of {findings.without_digest:,} the SHA-256 isn't known."
    )
    return FAULT if findings.bad or findings.unreadable else FINE


def _verify_one(stored: Stored, entry: Entry, findings: Findings, pace: Pace, output: Output, bar: Bar) -> None:
    try:
        found = stored.store.open_file(SlotPath.from_encoded(entry.path))
        if found is None:
            return
        with found.handle:
            if found.facts.sha256 is None:
                findings.without_digest += 1
                bar.advance(entry.size)
            elif _digest(found, pace, bar) == found.facts.sha256:
                findings.good += 1
            else:
                findings.bad += 1
                _tell(entry, "bad", "isn't what was uploaded", output)
    except OSError as error:
        findings.unreadable += 1
        _tell(entry, "unreadable", error.strerror or str(error), output)


def _digest(found: OpenFile, pace: Pace, bar: Bar) -> bytes:
    digest, offset = hashlib.sha256(), 0
    # What comes from memory says nothing of the disk.
    os.posix_fadvise(found.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    while data := os.pread(found.fd, _READ_BYTES, offset):
        digest.update(data)
        # What is read once in a while must not push out of memory what is read all the time.
        os.posix_fadvise(found.fd, offset, len(data), os.POSIX_FADV_DONTNEED)
        offset += len(data)
        bar.advance(len(data))
        pace.passed(len(data))
    return digest.digest()


def _tell(entry: Entry, result: str, what: str, output: Output) -> None:
    output.records([{"path": SlotPath.from_encoded(entry.path).url, "is": result}])
    output.say(f"{entry.path.decode('utf-8', 'backslashreplace')}: {what}")
