"""``hmacfs doctor``: looks at the whole way of an upload, from outside, and names the line to change."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hmacfs.access.keys import Secret
from hmacfs.cli import arguments
from hmacfs.cli.doctor.checks import CHECKS, Case, Hopeless
from hmacfs.cli.doctor.findings import Finding, Verdict
from hmacfs.cli.doctor.probing import Broken, Prober
from hmacfs.cli.doctor.tidying import tidy
from hmacfs.cli.output import FAULT, FINE, Fault, Output
from hmacfs.config import Config, load
from hmacfs.config_values import read_secret_file
from hmacfs.units import counted

#: How long an answer may take, in seconds.
_TIMEOUT_S: Final = 30.0
_SLOW_TIMEOUT_S: Final = 300.0

_MARKS: Final = {Verdict.FINE: "ok", Verdict.WARNING: "WARNING", Verdict.FAULT: "FAULT", Verdict.SKIPPED: "-"}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="look at the whole way of an upload, from outside, and name the line to change",
        description="Ask the public URL what clients ask it, and say what is wrong on the way, whose fault it is and"
        " which line to change. Uploads a few small files, and deletes them again if StoreDir is on this machine.",
    )
    doctor.add_argument("--url", required=True, metavar="URL", help="as the XMPP server has it: with UploadSubDir")
    arguments.of_file(
        doctor.add_argument(
            "--secret-file", type=Path, metavar="FILE", help="on another machine: the secret, instead of --config"
        )
    )
    doctor.add_argument("--proxy", default="", metavar="NAME", help="what stands in front, if that isn't found out")
    arguments.of_file(
        doctor.add_argument("--cacert", metavar="FILE", help="trust these certificates, not the system's")
    )
    doctor.add_argument("--slow", action="store_true", help="also what takes more than a minute: timeouts")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    output = Output.of(options)
    config = None if options.secret_file is not None else load(options.config)
    secret = Secret(read_secret_file(options.secret_file) if config is None else config.secret)
    timeout_s = _SLOW_TIMEOUT_S if options.slow else _TIMEOUT_S
    prober = Prober(options.url, secret, options.cacert, timeout_s, options.proxy)
    case = Case(
        prober,
        max_upload_bytes=None if config is None else config.max_upload_bytes,
        speaks_v3=config is not None and config.accept_v3,
        slow=options.slow,
    )
    try:
        findings = _examine(case, output)
    finally:
        _tidy(case, config, output)
    faults = sum(finding.verdict is Verdict.FAULT for finding in findings)
    warnings = sum(finding.verdict is Verdict.WARNING for finding in findings)
    output.document({"url": prober.base.public, "proxy": prober.proxy, "findings": [_plain(each) for each in findings]})
    output.say(f"\n{counted(faults, 'fault')}, {counted(warnings, 'warning')}.")
    return FAULT if faults else FINE


def _examine(case: Case, output: Output) -> list[Finding]:
    findings = []
    with output.progress("Examining", len(CHECKS), of_bytes=False) as bar:
        for finding in _findings(case, bar.advance):
            findings.append(finding)
            output.say(_line(finding))
    return findings


def _findings(case: Case, done: Any) -> Iterator[Finding]:
    for check in CHECKS:
        name = check.__name__.replace("_", "-")
        try:
            yield from check(case)
        except Hopeless:
            return
        except Broken as broken:
            yield Finding(
                name, Verdict.FAULT, f"{broken}.".capitalize(), case.prober.proxy or "the proxy, or hmacfs", ""
            )
        except Fault as fault:
            yield Finding(name, Verdict.FAULT, str(fault), "", "")
            return
        done()


def _tidy(case: Case, config: Config | None, output: Output) -> None:
    left: Sequence[str] = [path.url for path in case.stored] if config is None else tidy(config, case.stored)
    if left:
        output.note(f"Files of this examination that may be left, to be deleted where StoreDir is: {', '.join(left)}")


def _line(finding: Finding) -> str:
    lines = [f"{_MARKS[finding.verdict]:>7}  {finding.check}: {finding.sentence}"]
    if finding.culprit and finding.verdict in (Verdict.WARNING, Verdict.FAULT):
        lines.append(
            f"{'':>7}  -> {finding.culprit}: {finding.cure}" if finding.cure else f"{'':>7}  -> {finding.culprit}"
        )
    return "\n".join(lines)


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
        "culprit": finding.culprit,
        "cure": finding.cure,
    }
