"""``hmacfs retention`` and ``hmacfs index``: what the daemon does by itself, looked at and done by hand."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hmacfs.cli.arguments import add_changing
from hmacfs.cli.audit import audit, operator
from hmacfs.cli.output import FAULT, FINE, Column, Fault, Output, moment, timestamp
from hmacfs.cli.storing import Stored, opened
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.retention import Plan, Retention, Tally, policy_of
from hmacfs.keeping.scan import Scan
from hmacfs.storage.names import SlotPath
from hmacfs.units import counted, human_size


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add both families to argparse's *commands*."""
    retention = commands.add_parser("retention", help="what retention would delete now, and have it do so")
    verbs = retention.add_subparsers(required=True, metavar="VERB")
    planning = verbs.add_parser("plan", parents=[common], help="say what would be deleted now, and what is spared yet")
    planning.set_defaults(run=_plan)
    running = verbs.add_parser("run", parents=[common], help="delete it now, as the daemon would do by itself")
    add_changing(running)
    running.set_defaults(run=_run)

    index = commands.add_parser("index", help="bring the index of stored files in step with the files")
    verbs = index.add_subparsers(required=True, metavar="VERB")
    rebuilding = verbs.add_parser(
        "rebuild",
        parents=[common],
        help="compare the index with all files, and correct it",
        description="Compare the index with all files, and correct it. May run beside the daemon, which does so daily.",
    )
    rebuilding.add_argument(
        "--from-scratch",
        action="store_true",
        help="throw the old one away: the days of downloads are forgotten, and RetentionGrace begins anew",
    )
    rebuilding.set_defaults(run=_rebuild)
    verifying = verbs.add_parser("verify", parents=[common], help="say where the index is wrong, and change nothing")
    verifying.set_defaults(run=_verify)


# -- Retention


def _plan(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        _tell_plan(_retention(stored).plan(time.time()), stored, output)
    return FINE


def _retention(stored: Stored) -> Retention:
    """:raises Fault: the index knows a part of the files, and would make a plan for these."""
    retention = Retention(stored.index, policy_of(stored.config), stored.config.retention_interval_s)
    if not retention.knows_the_tree():
        raise Fault("The index has not seen the whole store yet. Say hmacfs index rebuild first.")
    return retention


def _tell_plan(plan: Plan, stored: Stored, output: Output) -> None:
    output.document({"would_delete": _as_json(plan.going), "spared": _as_json(plan.spared)})
    if not policy_of(stored.config).is_on:
        output.say("Retention is off: only files whose bearer token said when they end are deleted.")
    columns = [Column("what"), Column("files", right=True), Column("size", right=True), Column("oldest")]
    rows = [
        [f"would be deleted ({reason})", f"{files:,}", human_size(plan.going.bytes[reason]), _day(plan.going)]
        for reason, files in sorted(plan.going.files.items())
    ]
    if plan.spared.all_files:
        until = f"spared until {moment(plan.spared_until)}"
        spared = plan.spared
        rows.append([until, f"{spared.all_files:,}", human_size(spared.all_bytes), _day(spared)])
    output.table(columns, rows or [["nothing would be deleted", "0", "0 B", ""]])


def _day(tally: Tally) -> str:
    return "" if tally.oldest is None else moment(tally.oldest)[:10]


def _as_json(tally: Tally) -> Mapping[str, object]:
    return {
        "files": tally.all_files,
        "bytes": tally.all_bytes,
        "by_reason": dict(tally.files),
        "oldest": None if tally.oldest is None else timestamp(tally.oldest),
    }


def _run(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        retention = _retention(stored)
        plan = retention.plan(time.time())
        if options.dry_run or not plan.going.all_files:
            _tell_plan(plan, stored, output)
            return FINE
        going = f"{counted(plan.going.all_files, 'file')}, {human_size(plan.going.all_bytes)}"
        output.confirm(f"Delete {going}?", options.yes)
        tally = _sweep(stored, retention, plan.going.all_files, output)
    audit(f"retention run: deleted {counted(tally.all_files, 'file')}, {tally.all_bytes} bytes")
    output.say(f"deleted {counted(tally.all_files, 'file')}, {human_size(tally.all_bytes)}.")
    output.document({"deleted": _as_json(tally), "failed": tally.failed})
    if tally.error is not None:
        output.note(f"{counted(tally.failed, 'file')} could not be deleted: {tally.error.strerror}")
    return FAULT if tally.failed else FINE


def _sweep(stored: Stored, retention: Retention, expected: int, output: Output) -> Tally:
    now = time.time()
    with stored.report() as report, output.progress("deleting", expected, of_bytes=False) as bar:
        deleting = Deleting(stored.store, stored.index, report.add, f"operator {operator()}")
        sweep = retention.sweep(now, lambda entry, reason: deleting.delete(entry, reason, now) is not None)
        seen = 0
        while sweep.step():
            bar.advance(sweep.tally.all_files - seen)
            seen = sweep.tally.all_files
    retention.has_swept(now)
    return sweep.tally


# -- The index


def _rebuild(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        if options.from_scratch:
            stored.index.renew()
        differences, files, skipped = _scan(stored, output, mend=True)
    output.say(
        f"The index has {counted(files - skipped, 'file')}. {counted(differences['missing'], 'was', 'were')} added, "
        f"{differences['changed']:,} corrected, {differences['vanished']:,} forgotten."
    )
    if skipped:
        output.say(_left_out(skipped))
    output.document({"files": files, "left_out": skipped, **differences})
    return FINE


def _verify(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        differences, files, skipped = _scan(stored, output, mend=False)
    wrong = sum(differences.values())
    output.say(f"{counted(files, 'file was', 'files were')} compared; the index is wrong about {wrong:,}.")
    if not options.json and skipped:
        output.say(_left_out(skipped))
    return FAULT if wrong else FINE


def _left_out(skipped: int) -> str:
    return f"{counted(skipped, 'file is', 'files are')} left out: not to be named by a URL, or not to be read."


def _scan(stored: Stored, output: Output, *, mend: bool) -> tuple[Counter[str], int, int]:
    """Compare all files; say what differs if it isn't mended.

    :return: how many of each kind differ, how many files there are, and how many of them are left out.
    """
    scan = Scan(stored.store, stored.index, time.time, mend)
    kinds: Counter[str] = Counter(missing=0, changed=0, vanished=0)
    try:
        with output.progress("files", stored.index.usage().files or None, of_bytes=False) as bar:
            seen = 0
            while (differences := scan.step()) is not None:
                bar.advance(scan.files - seen)
                seen = scan.files
                for each in differences:
                    kinds[each.kind.value] += 1
                    if not mend:
                        output.records([{"path": SlotPath.from_encoded(each.path).url, "is": each.kind.value}])
                        output.say(f"{each.kind.value}: {each.path.decode('utf-8', 'backslashreplace')}")
    finally:
        scan.close()
    return kinds, scan.files, scan.skipped
