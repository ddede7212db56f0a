"""``hmacfs``: the operator's command. Each module here is one of its words, or a family of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hmacfs import __version__
from hmacfs.cli import (
    arguments,
    bans,
    checking,
    doctor,
    files,
    getting,
    importing,
    keeping,
    looking,
    output,
    putting,
    signing,
    users,
)

DEFAULT_CONFIG = "/etc/hmacfs/config.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status, as :func:`hmacfs.cli.output.run` has them."""
    options = parser().parse_args(argv)
    return output.run(lambda: int(options.run(options)))


def parser() -> argparse.ArgumentParser:
    """All commands with their options. Each sets ``run``, which takes what was parsed and returns the exit status."""
    top = argparse.ArgumentParser(prog="hmacfs", description="The file server for XMPP HTTP File Upload.")
    top.add_argument("--version", action="version", version=f"hmacfs {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    config = common.add_argument("-c", "--config", default=DEFAULT_CONFIG, help="the configuration file (%(default)s)")
    arguments.of_file(config)
    arguments.add_json(common)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for family in (checking, doctor, signing, putting, getting, files, users, bans, keeping, looking, importing):
        family.add(commands, common)
    return top
