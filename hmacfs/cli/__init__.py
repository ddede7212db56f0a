"""``hmacfs``: the operator's command. Each module here is one of its words, or a family of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hmacfs import __version__
from hmacfs.cli import checking, signing
from hmacfs.errors import Refused, StartError

DEFAULT_CONFIG = "/etc/hmacfs/config.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status: 0, or 1 with a sentence on standard error."""
    options = parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (StartError, ValueError) as error:
        print(error, file=sys.stderr)
    except Refused as refused:
        print(f"{refused.reason}: {refused.detail}", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    """All commands with their options. Each sets ``run``, which takes what was parsed and returns the exit status."""
    top = argparse.ArgumentParser(prog="hmacfs", description="The file server for XMPP HTTP File Upload.")
    top.add_argument("--version", action="version", version=f"hmacfs {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", default=DEFAULT_CONFIG, help="the configuration file (%(default)s)")
    common.add_argument("--json", action="store_true", help="print JSON, for scripts")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for family in (checking, signing):
        family.add(commands, common)
    return top
