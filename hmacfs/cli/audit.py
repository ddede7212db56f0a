"""What an operator has done, for the system's log: who, what and how much, and nothing of what was in the files."""

from __future__ import annotations

import os
import pwd
import syslog


def audit(what: str) -> None:
    """Write one line to the system's log. Without one nothing happens."""
    syslog.openlog("hmacfs", syslog.LOG_PID, syslog.LOG_USER)
    syslog.syslog(syslog.LOG_NOTICE, f"{operator()}: {what}")


def operator() -> str:
    """Who runs the command: the name behind sudo, if that was used."""
    name = os.environ.get("SUDO_USER")
    if name is None:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return name
