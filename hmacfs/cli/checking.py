"""``hmacfs check-config``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hmacfs.access.keys import Secret
from hmacfs.config import load
from hmacfs.errors import StartError
from hmacfs.net.cores import processes
from hmacfs.units import counted


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    check = commands.add_parser("check-config", parents=[common], help="check the configuration, and start nothing")
    check.set_defaults(run=_check_config)


def _check_config(options: argparse.Namespace) -> int:
    try:
        config = load(options.config)
    except StartError as error:
        if not options.json:
            raise
        print(json.dumps({"valid": False, "faults": str(error).splitlines()[:-1]}))
        return 1
    number = processes(config.num_cores)
    if options.json:
        checked = {"warnings": [*config.warnings], "inactive": [*config.inactive], "processes": number}
        print(json.dumps({"valid": True, **checked}))
        return 0
    for line in (*config.warnings, *config.inactive):
        print(line)
    serve = counted(number, "process serves", "processes serve")
    print(f"{options.config}: fine, {serve} here. The secret's fingerprint is {Secret(config.secret).fingerprint}.")
    return 0
