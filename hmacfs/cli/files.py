"""``hmacfs files``: look at stored files, take them down, delete them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attrs import evolve

from hmacfs.cli.arguments import add_changing, count
from hmacfs.cli.audit import audit, operator
from hmacfs.cli.output import FAULT, FINE, Column, Output, moment, timestamp
from hmacfs.cli.selecting import Selection, add_selectors
from hmacfs.cli.storing import Stored, opened
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import BATCH, Entry
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.units import counted, human_size

_DAY_S: Final = 86_400

_COLUMNS: Final = (
    Column("uploaded"),
    Column("size", right=True),
    Column("type"),
    Column("user"),
    Column("path"),
)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the family to argparse's *commands*."""
    files = commands.add_parser("files", help="list, show, delete and quarantine stored files")
    verbs = files.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", parents=[common], help="list files, oldest first")
    add_selectors(listing)
    listing.add_argument("--limit", type=count, metavar="N", help="no more than so many")
    listing.set_defaults(run=_list)

    showing = verbs.add_parser("show", parents=[common], help="show all that is known of files")
    add_selectors(showing)
    showing.set_defaults(run=_show)

    deleting = verbs.add_parser("delete", parents=[common], help="delete files; downloads under way come to their end")
    add_selectors(deleting)
    add_changing(deleting)
    deleting.set_defaults(run=_delete)

    quarantine = verbs.add_parser(
        "quarantine", parents=[common], help="keep files, and answer 451 to whoever asks for them"
    )
    add_selectors(quarantine)
    add_changing(quarantine)
    quarantine.add_argument("--reason", default="", metavar="TEXT", help="for yourself; no client sees it")
    quarantine.set_defaults(run=_quarantine)

    release = verbs.add_parser("release", parents=[common], help="take files out of quarantine")
    add_selectors(release)
    add_changing(release)
    release.set_defaults(run=_release)


# -- Looking


def _list(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        selection = Selection.of(stored, options, output, all_of_them=True)
        entries = _at_most(selection.entries(), options.limit)
        if options.json:
            output.records(as_record(entry) for entry in entries)
        else:
            output.table(_COLUMNS, map(_row, entries))
    return FINE


def _at_most(entries: Iterator[Entry], limit: int | None) -> Iterator[Entry]:
    for number, entry in enumerate(entries):
        if number == limit:
            return
        yield entry


def _row(entry: Entry) -> list[str | bytes]:
    path = entry.path + b" (quarantined)" if entry.quarantined else entry.path
    return [moment(entry.uploaded), human_size(entry.size), entry.content_type, entry.user or "", path]


def as_record(entry: Entry) -> Mapping[str, object]:
    """What is known of a file, for JSON."""
    record = {
        "path": SlotPath.from_encoded(entry.path).url,
        "size": entry.size,
        "type": entry.content_type,
        "sha256": None if entry.sha256 is None else entry.sha256.hex(),
        "user": entry.user,
        "domain": entry.domain or None,
        "uploaded": timestamp(entry.uploaded),
        "expires": None if entry.expires is None else timestamp(entry.expires),
        "ends": None if entry.ends is None else timestamp(entry.ends),
        "last_download": None if entry.read_day is None else timestamp(entry.read_day * _DAY_S)[:10],
        "source": entry.source,
        "quarantined": entry.quarantined or None,
    }
    return {name: value for name, value in record.items() if value is not None}


def _show(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        for entry in Selection.of(stored, options, output, all_of_them=False).entries():
            known = {**as_record(entry), **_known_by_the_file(stored, entry)}
            output.records([known])
            output.say("\n".join(f"{name.replace('_', ' '):14} {value}" for name, value in known.items()) + "\n")
    return FINE


def _known_by_the_file(stored: Stored, entry: Entry) -> Mapping[str, object]:
    """What stands in the file's facts alone."""
    found = stored.store.open_file(SlotPath.from_encoded(entry.path))
    if found is None:
        return {}
    found.close()
    return {} if found.facts.quarantined is None else {"quarantined": found.facts.quarantined or "for no stated reason"}


# -- Changing


def _delete(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        selection = Selection.of(stored, options, output, all_of_them=False)
        return delete(stored, selection, output, dry_run=options.dry_run, yes=options.yes, what="files delete")


def delete(
    stored: Stored, selection: Selection, output: Output, *, dry_run: bool, yes: bool, what: str, reason: str = "asked"
) -> int:
    """Delete the files of a selection: ask first, show how it goes, and leave a trace of it.

    :param what: the command, for the system's log.
    :param reason: for the report.
    """
    chosen = _chosen(selection, output, dry_run=dry_run, yes=yes, verb="delete")
    if not chosen:
        return FINE
    with stored.report() as report:
        deleting = Deleting(stored.store, stored.index, report.add, f"operator {operator()}")

        def one(entry: Entry) -> bool:
            return deleting.delete(entry, reason, time.time()) is not None

        return _change(selection, chosen, one, output, verb="delete", done="deleted", what=what)


def _quarantine(options: argparse.Namespace) -> int:
    return _mark(options, options.reason, "quarantine", "quarantined")


def _release(options: argparse.Namespace) -> int:
    return _mark(options, None, "release", "released")


def _mark(options: argparse.Namespace, quarantined: str | None, verb: str, done: str) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        selection = Selection.of(stored, options, output, all_of_them=False)
        chosen = _chosen(selection, output, dry_run=options.dry_run, yes=options.yes, verb=verb)
        if not chosen:
            return FINE
        marked: list[bytes] = []

        def one(entry: Entry) -> bool:
            if not _set_quarantined(stored, entry, quarantined):
                return False
            marked.append(entry.path)
            return True

        try:
            return _change(selection, chosen, one, output, verb=verb, done=done, what=f"files {verb}")
        finally:
            for start in range(0, len(marked), BATCH):
                stored.note(marked[start : start + BATCH], output)


def _set_quarantined(stored: Stored, entry: Entry, quarantined: str | None) -> bool:
    path = SlotPath.from_encoded(entry.path)
    found = stored.store.open_file(path)
    if found is None:
        return False
    found.close()
    facts: Facts = evolve(found.facts, quarantined=quarantined)
    return facts != found.facts and stored.store.set_facts(path, facts)


def _chosen(selection: Selection, output: Output, *, dry_run: bool, yes: bool, verb: str) -> int:
    """Say what would be done, or ask whether it is to be done.

    :return: to how many files it is to be done; 0 if that was all.
    :raises Fault: the answer is no.
    """
    chosen = size = 0
    for entry in selection.entries():
        chosen, size = chosen + 1, size + entry.size
        if dry_run:
            output.records([{"would": verb, **as_record(entry)}])
            output.say(f"would {verb} {entry.path.decode('utf-8', 'backslashreplace')}, {human_size(entry.size)}")
    if dry_run or not chosen:
        output.say(f"{counted(chosen, 'file')}, {human_size(size)}.")
        return 0
    output.confirm(f"{verb.capitalize()} {counted(chosen, 'file')}, {human_size(size)}?", yes)
    return chosen


def _change(
    selection: Selection,
    chosen: int,
    one: Callable[[Entry], bool],
    output: Output,
    *,
    verb: str,
    done: str,
    what: str,
) -> int:
    """Do something with each file.

    :param chosen: how many there are.
    :param one: does it; false where there was nothing to be done.
    """
    changed = failed = changed_size = 0
    try:
        with output.progress(verb, chosen, of_bytes=False) as bar:
            for entry in selection.entries():
                bar.advance()
                try:
                    if one(entry):
                        changed, changed_size = changed + 1, changed_size + entry.size
                        output.records([{"done": done, **as_record(entry)}])
                except OSError as error:
                    failed += 1
                    output.note(f"{entry.path.decode('utf-8', 'backslashreplace')}: {error.strerror}")
    finally:
        audit(f"{what}: {done} {counted(changed, 'file')}, {changed_size} bytes")
    output.say(f"{done} {counted(changed, 'file')}, {human_size(changed_size)}.")
    return FAULT if failed else FINE
