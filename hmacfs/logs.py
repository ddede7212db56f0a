"""What is logged, where, and in which form.

Nothing secret gets here: signatures and tokens are kept out by those who log. As a last resort every line is looked
through for what looks like one, so that not even a traceback gives one away.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Protocol

from attrs import evolve, frozen
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
)
from zope.interface import implementer

from hmacfs.errors import StartError
from hmacfs.units import human_duration, human_size

LEVELS: Final = ("debug", "info", "warn", "error")

#: How often it is looked whether the log file has been rotated away, in seconds.
_LOOK_EVERY_S: Final = 1.0

#: How often it is said on standard error that the log can't be written, in seconds.
_COMPLAIN_EVERY_S: Final = 60.0

#: Of a session token, so many characters tell two sessions apart in a log and open nothing.
_SESSION_CHARACTERS: Final = 8

_SECRETS: Final = re.compile(
    r"(?<![A-Za-z0-9_])((?:v|v2|v3|token)=)[0-9A-Fa-f]{16,}|(Bearer\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@frozen
class RequestEntry:
    """One request, as it is logged when it is over.

    :ivar client: the address, through trusted proxies.
    :ivar path: as sent, percent-encoded, without the query.
    :ivar status: of the answer.
    :ivar received_bytes: of the request's body.
    :ivar sent_bytes: of the response's body.
    :ivar seconds: from its first line to the end.
    :ivar reason: why it was refused; empty if it wasn't.
    :ivar session: its session token; shown in part only.
    :ivar resumed_at: the offset at which an upload went on.
    :ivar remark: what else the operator may want to know.
    """

    client: str
    method: str
    path: str
    status: int
    received_bytes: int
    sent_bytes: int
    seconds: float
    reason: str = ""
    session: str = ""
    resumed_at: int | None = None
    remark: str = ""

    def with_remark(self, remark: str) -> RequestEntry:
        return evolve(self, remark=remark)

    @property
    def shown_session(self) -> str:
        """What a log may show of the session token."""
        shown = self.session[:_SESSION_CHARACTERS]
        return f"{shown}…" if len(self.session) > len(shown) else shown


def text_line(entry: RequestEntry) -> str:
    """``PUT /upload/6f95/photo.jpg 201 3.1 MB in 1.24 s from 203.0.113.9 session=tok-5c1e… resumed-at=2.0 MB``."""
    words = [f"{entry.method} {entry.path} {entry.status}"]
    if entry.reason:
        words.append(entry.reason)
    carried = max(entry.received_bytes, entry.sent_bytes) if entry.status < 400 else entry.received_bytes
    if carried or entry.status < 300:
        words.append(f"{human_size(carried)} in {human_duration(entry.seconds)}")
    words.append(f"from {entry.client}")
    if entry.session:
        words.append(f"session={entry.shown_session}")
    if entry.resumed_at is not None:
        words.append(f"resumed-at={human_size(entry.resumed_at)}")
    if entry.remark:
        words.append(f"({entry.remark})")
    return " ".join(words)


def json_fields(entry: RequestEntry) -> dict[str, object]:
    """The same for a program: all numbers in bytes and seconds."""
    fields: dict[str, object] = {
        "client": entry.client,
        "method": entry.method,
        "path": entry.path,
        "status": entry.status,
        "received_bytes": entry.received_bytes,
        "sent_bytes": entry.sent_bytes,
        "seconds": round(entry.seconds, 6),
    }
    optional = {
        "reason": entry.reason,
        "session": entry.shown_session,
        "resumed_at": entry.resumed_at,
        "remark": entry.remark,
    }
    return {**fields, **{key: value for key, value in optional.items() if value not in ("", None)}}


def masked(text: str) -> str:
    """*text* in one line, and without what looks like a signature or a token."""
    text = _SECRETS.sub(lambda match: f"{match[1] or match[2]}[hidden]", text)
    return _CONTROLS.sub(lambda control: f"\\x{ord(control[0]):02x}", text)


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: str) -> None:
        """Write one line, without its end. Never raises."""


class StreamSink:
    """Lines on an open stream: standard output."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads any more. There is nowhere to say so.
            pass


class FileSink:
    """Lines in a file, which is made anew when it has been renamed or removed (logrotate).

    A line that can't be written is lost, which standard error is told from time to time; never does a request fail for
    it.

    :param clock: seconds, monotonic.
    :raises StartError: when the file can't be had.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._fd = -1
        self._looked_at = clock()
        self._complained_at: float | None = None
        try:
            self._open()
        except OSError as error:
            raise StartError(f"LogFile {path}: {error.strerror}") from error

    def write(self, line: str) -> None:
        try:
            self._follow()
            os.write(self._fd, line.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        now = self._clock()
        if self._fd >= 0 and now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if self._fd >= 0 and self._is_there():
            return
        self.close()
        self._open()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _complain(self, error: OSError) -> None:
        now = self._clock()
        if self._complained_at is None or now - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = now
            print(f"hmacfs: LogFile {self._path}: {error.strerror}", file=sys.stderr)  # noqa: T201


@implementer(ILogObserver)
class Observer:
    """Writes the events of :mod:`twisted.logger`, ours and Twisted's own.

    :param timestamps: whether a line of text begins with the time; the journal has its own.
    """

    def __init__(self, sink: Sink, *, as_json: bool, timestamps: bool) -> None:
        self._sink = sink
        self._render = _event_as_json if as_json else _event_as_text(timestamps)

    def __call__(self, event: LogEvent) -> None:
        try:
            for line in self._render(event):
                self._sink.write(line)
        except Exception as error:
            # An observer that raises is thrown out by Twisted.
            self._sink.write(f"an event could not be logged: {type(error).__name__}")


class Logs:
    """The log of one process, as it is configured.

    :param level: one of :data:`LEVELS`.
    :param file: ``None`` for standard output.
    :param form: ``text`` or ``json``.
    :raises StartError: when the file can't be had.
    """

    def __init__(self, level: str, file: Path | None, form: str) -> None:
        self._sink: Sink = StreamSink(sys.stdout) if file is None else FileSink(file)
        self._as_json = form == "json"
        self._timestamps = file is not None or "JOURNAL_STREAM" not in os.environ
        self._requests = LEVELS.index(level) <= LEVELS.index("info")
        lowest = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
        observer = Observer(self._sink, as_json=self._as_json, timestamps=self._timestamps)
        #: For twistd: what every event goes through.
        self.observer: ILogObserver = FilteringLogObserver(observer, [lowest])

    def request(self, entry: RequestEntry) -> None:
        """Log one request, at level ``info``. Not by way of events: that takes as long as answering a small GET does."""
        if not self._requests:
            return
        now = time.time()
        if self._as_json:
            fields = {"time": _timestamp(now), "level": "info", "namespace": "request", **json_fields(entry)}
            self._sink.write(masked(json.dumps(fields)))
        else:
            line = masked(text_line(entry))
            self._sink.write(f"{_timestamp(now)} {line}" if self._timestamps else line)


def _timestamp(seconds: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event_as_text(timestamps: bool) -> Callable[[LogEvent], list[str]]:
    def render(event: LogEvent) -> list[str]:
        level = event["log_level"].name if "log_level" in event else "info"
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        front = f"{_timestamp(event.get('log_time', time.time()))} " if timestamps else ""
        first, *others = text.splitlines() or [""]
        named = first if level == "info" else f"{level}: {first}"
        return [masked(front + named), *(masked(f"    {line}") for line in others)]

    return render


def _event_as_json(event: LogEvent) -> list[str]:
    fields: dict[str, object] = {
        "time": _timestamp(event.get("log_time", time.time())),
        "level": event["log_level"].name if "log_level" in event else "info",
        "namespace": event.get("log_namespace", ""),
        "message": formatEvent(event),
    }
    if "log_failure" in event:
        fields["traceback"] = event["log_failure"].getTraceback()
    own = {key: value for key, value in event.items() if not key.startswith("log_") and key not in fields}
    return [masked(json.dumps({**fields, **own}, default=_shown))]


def _shown(value: Any) -> str:
    return str(value)
