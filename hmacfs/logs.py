"""What is logged, where, and in which form.

Nothing secret gets here: signatures and tokens are kept out by those who log. As a last resort every line is looked
through for what looks like one, so that not even a traceback gives one away.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen
from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
)
from zope.interface import implementer, provider

from hmacfs.errors import StartError
from hmacfs.units import human_duration, human_size

LEVELS: Final = ("debug", "info", "warn", "error")

_STDOUT: Final = 1
_STDERR: Final = 2

#: How often it is looked whether the log file has been rotated away, in seconds.
_LOOK_EVERY_S: Final = 1.0

#: How often it is said on standard error that the log can't be written, in seconds.
_COMPLAIN_EVERY_S: Final = 60.0

#: How often one kind of trouble is told that comes again and again, in seconds.
_TELL_EVERY_S: Final = 60.0

#: Of a session token, so many characters at most tell two sessions apart in a log and open nothing.
_SESSION_CHARACTERS: Final = 8

#: Of one text in an event, a traceback for instance, so many characters are logged: its beginning and its end.
_TEXT_CHARACTERS: Final = 16_384

#: What is in containers deeper than that is logged as Python shows it.
_CONTAINER_DEPTH: Final = 4

#: What Twisted's old log adds to the events of the new one.
_OLD_KEYS: Final = frozenset({"failure", "format", "isError", "message", "system", "time", "why"})

#: The journal's names of our levels (sd-daemon(3)).
_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warn": "<4>", "error": "<3>", "critical": "<2>"}

#: What Twisted says of each socket that begins to listen, or ends. Which addresses those are, we say in one line.
_ABOUT_PORTS: Final = re.compile(r"\S+(?: \(TLS\))? starting on .+|\(.+ Port .+ Closed\)")

#: Of these, one is in every text with a secret. To look for them takes a fraction of what the next takes.
_HINTS: Final = ("v=", "v2", "v3", "v%3d", "v'", 'v"', "v\\", "token", "bearer", "eyj", "://")

#: The first group stays, what follows it goes: signatures in a query or in a dict of one, bearer tokens, tokens in JWT
#: form wherever they are, passwords in URLs.
_SECRETS: Final = re.compile(
    r"((?:(?<![a-z0-9_])|(?<=%3f)|(?<=%26))(?:v[23]?|token)(?:%3d|[^a-z0-9]{1,8}(?:b\\?['\"])?))"
    # A number in JSON is none.
    r"(?!(?<=[\[ -])[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?[,}\]])[0-9a-f]{8,}"
    r"|(bearer[\s:]+)[a-z0-9._~+/=-]+"
    r"|()(?<![a-z0-9_-])eyj[a-z0-9_-]{8,}\.[a-z0-9_.-]+"
    r"|(://[^/\s:@]*:)[^/\s@]+(?=@)",
    re.IGNORECASE,
)

#: What could end a line, move a terminal's cursor, turn the direction of writing, or isn't a character.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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
        """What a log may show of the session token: never more than half of it."""
        shown = self.session[: min(_SESSION_CHARACTERS, len(self.session) // 2)]
        return f"{shown}…" if self.session else ""


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
    """*text* in one line, and without what looks like a signature, a token or a password."""
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            text = _SECRETS.sub(lambda match: f"{match[match.lastindex or 0]}[hidden]", text)
            break
    if text.isprintable():
        return text
    return _CONTROLS.sub(_escaped, text)


class Sink:
    """Lines on an open descriptor.

    A line that can't be written is lost, which standard error is told from time to time; never does a request fail for
    it. May be used from any thread, and from within a signal's handler: each line is one write, and there is no lock.

    :param name: what standard error is told about.
    :param clock: seconds, monotonic.
    :ivar lost: how many lines were lost.
    """

    def __init__(self, fd: int, name: str, clock: Callable[[], float] = time.monotonic, stderr: int = _STDERR) -> None:
        self.lost = 0
        self._fd = fd
        self._name = name
        self._clock = clock
        self._stderr = stderr
        self._cut = False
        self._complained_at: float | None = None

    def write(self, line: str) -> None:
        """Write one line, without its end. Never raises."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if self._cut:
            # What a full disk has left of a line must not become the beginning of this one.
            data = b"\n" + data
        try:
            self._cut = os.write(self._fd, data) < len(data)
        except OSError as error:
            self._lose(error.strerror or str(error))
        else:
            if self._cut:
                self._lose("no room for a whole line")

    def reopen(self) -> None:
        """Begin anew with what has the name now, if it is a file that has one. Never raises."""

    def _lose(self, why: str) -> None:
        self.lost += 1
        self._complain(why)

    def _complain(self, why: str) -> None:
        now = self._clock()
        if self._complained_at is not None and now - self._complained_at < _COMPLAIN_EVERY_S:
            return
        self._complained_at = now
        # Not sys.stderr: under twistd that leads back into the log.
        try:
            os.write(self._stderr, f"hmacfs: {self._name}: {why}; {self.lost} lines lost so far\n".encode())
        except OSError:
            pass


class FileSink(Sink):
    """Lines in a file, which is made anew when it has been renamed or removed (logrotate).

    If a new one can't be made, the old one goes on being used, whatever its name is by now.

    :param key: of the configuration, by which messages name the file.
    :param owner: user and group of a file that is made here; ``None`` for our own.
    :param opened: a descriptor of the file, where it is open already: who may write to it need not be able to open it.
    :raises StartError: when the file can't be had.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        stderr: int = _STDERR,
        *,
        key: str = "LogFile",
        owner: tuple[int, int] | None = None,
        opened: int | None = None,
    ) -> None:
        try:
            fd = _open_log(path, owner) if opened is None else opened
        except OSError as error:
            raise StartError(f"{key} {path}: {_advice(path, error)}") from error
        super().__init__(fd, f"{key} {path}", clock, stderr)
        self._path = path
        self._owner = owner
        self._looked_at = clock()

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._fd

    def write(self, line: str) -> None:
        now = self._clock()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            if not self._is_there():
                self.reopen()
        super().write(line)

    def reopen(self) -> None:
        try:
            fd = _open_log(self._path, self._owner)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return
        # Under the same number, in one step: another thread may be about to write to it.
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def close(self) -> None:
        """The end of it: nothing may be written afterwards."""
        os.close(self._fd)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False


def _open_log(path: Path, owner: tuple[int, int] | None) -> int:
    # O_NONBLOCK is for a pipe that nobody reads: to wait for a reader, or for it to read, would be to wait for ever.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        return os.open(path, flags)
    # A daemon's umask may be 077; the group is for those who read logs.
    os.fchmod(fd, 0o640)
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def _advice(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no directory {path.parent}. Make it, or leave the key empty to do without the file."
    return f"{error.strerror}. It must be a file that the user of hmacfs may write to."


@implementer(ILogObserver)
class Observer:
    """Writes the events of :mod:`twisted.logger`, ours and Twisted's own.

    :param render: makes lines of an event.
    """

    def __init__(self, sink: Sink, render: Callable[[LogEvent], list[str]]) -> None:
        self._sink = sink
        self._render = render

    def __call__(self, event: LogEvent) -> None:
        try:
            lines = self._render(event)
        except Exception as error:
            # An observer that raises is a new event for all the others.
            lines = [f"an event could not be logged: {type(error).__name__}"]
        for line in lines:
            self._sink.write(line)


@implementer(ILogObserver)
class Sparing:
    """Passes events on, but of those that come again and again only one in :data:`_TELL_EVERY_S` seconds.

    Who logs something that may be said for each of a thousand requests names its kind in the event: ``seldom="no-space"``.
    The next line of a kind says how many there were meanwhile. There are few kinds, so that what is kept is small.

    :param clock: seconds, monotonic.
    """

    def __init__(self, observer: ILogObserver, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def __call__(self, event: LogEvent) -> None:
        event = _about_descriptors(event)
        kind = event.get("seldom")
        if kind is not None:
            now = self._clock()
            told_at = self._told_at.get(kind)
            if told_at is not None and now - told_at < _TELL_EVERY_S:
                self._untold[kind] = self._untold.get(kind, 0) + 1
                return
            self._told_at[kind] = now
            untold = self._untold.pop(kind, 0)
            if untold:
                event = {**event, "log_format": event["log_format"] + " ({untold} more since then)", "untold": untold}
        self._observer(event)


def _about_descriptors(event: LogEvent) -> LogEvent:
    """What Twisted says in several lines, and with tracebacks, whenever accept(2) fails for want of a descriptor."""
    if not str(event.get("log_namespace", "")).startswith("twisted.internet.tcp"):
        return event
    if "EMFILE" not in str(event.get("log_format")) and event.get("acceptError") not in ("EMFILE", "ENFILE"):
        return event
    return {
        "log_time": event["log_time"],
        "log_namespace": event["log_namespace"],
        "log_level": LogLevel.warn,
        "log_format": "too many open files: connections are turned away. Let the process have more (LimitNOFILE=)",
        "seldom": "accept",
    }


@provider(ILogFilterPredicate)
def _unless_about_ports(event: LogEvent) -> Any:
    """For a filter: not what matches :data:`_ABOUT_PORTS`."""
    if event.get("log_namespace") == "log_legacy" and _ABOUT_PORTS.fullmatch(str(event.get("log_text"))):
        return PredicateResult.no
    return PredicateResult.maybe


def logs_requests(level: str) -> bool:
    """Whether requests are logged at a level, one of :data:`LEVELS`: they are ``info``."""
    return LEVELS.index(level) <= LEVELS.index("info")


class Logs:
    """The log of one process, as it is configured.

    :param level: one of :data:`LEVELS`.
    :param file: ``None`` for standard output.
    :param form: ``text`` or ``json``.
    :param opened: a descriptor of *file*, if another process has opened it for this one.
    :param stdout: the descriptor of standard output.
    :param now: seconds since the epoch.
    :param clock: seconds, monotonic.
    :raises StartError: when the file can't be had.
    """

    def __init__(
        self,
        level: str,
        file: Path | None,
        form: str,
        *,
        opened: int | None = None,
        stdout: int = _STDOUT,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = None if file is None else FileSink(file, opened=opened)
        self._sink = self._file or Sink(stdout, "standard output")
        self._form = _Json(now) if form == "json" else _Text(now, in_journal=file is None and _is_journal(stdout))
        self._requests = logs_requests(level)
        lowest = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
        filters = [lowest] if level == "debug" else [lowest, _unless_about_ports]
        #: For twistd: what every event goes through.
        self.observer: ILogObserver = FilteringLogObserver(
            Sparing(Observer(self._sink, self._form.event), clock), filters
        )

    @property
    def lost(self) -> int:
        """How many lines could not be written."""
        return self._sink.lost

    @property
    def file_fd(self) -> int | None:
        """The descriptor of the log file, if there is one."""
        return None if self._file is None else self._file.fd

    def close(self) -> None:
        """The end of it: nothing may be written afterwards."""
        if self._file is not None:
            self._file.close()

    def request(self, entry: RequestEntry) -> None:
        """Log one request, at level ``info``. Not by way of events: that takes as long as answering a small GET does."""
        if self._requests:
            self._sink.write(self._form.request(entry))

    def reopen(self) -> None:
        """Take the log file that has the name now, without waiting for the next line: for a signal that means it."""
        self._sink.reopen()


class _Text:
    """Lines for people.

    An event has one line, and one for each line of its traceback, set in: so that nothing in either can pass for an
    event of its own.
    """

    def __init__(self, now: Callable[[], float], *, in_journal: bool) -> None:
        self._now = now
        self._stamp = _Stamp()
        self._in_journal = in_journal

    def request(self, entry: RequestEntry) -> str:
        return self._front("info", self._now()) + masked(text_line(entry))

    def event(self, event: LogEvent) -> list[str]:
        level, message = _level(event), _message(event)
        if level != "info":
            message = f"{level}: {message}"
        front = self._front(level, event.get("log_time") or self._now())
        aside = _PRIORITIES[level] if self._in_journal else ""
        return [front + masked(message), *(f"{aside}    {masked(line)}" for line in _traceback(event).splitlines())]

    def _front(self, level: str, seconds: float) -> str:
        """The journal has its own time, and a place for the level."""
        return _PRIORITIES[level] if self._in_journal else f"{self._stamp(seconds)} "


class _Json:
    """Lines for programs: one object each."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._stamp = _Stamp()
        self._encode = json.JSONEncoder(allow_nan=False).encode

    def request(self, entry: RequestEntry) -> str:
        fields: dict[str, object] = {"time": self._stamp(self._now()), "level": "info", "namespace": "request"}
        return masked(self._encode({**fields, **json_fields(entry)}))

    def event(self, event: LogEvent) -> list[str]:
        fields = {
            "time": self._stamp(event.get("log_time") or self._now()),
            "level": _level(event),
            "namespace": str(event.get("log_namespace", "")),
            "message": _message(event),
        }
        traceback = _traceback(event)
        if traceback:
            fields["traceback"] = traceback
        own = {key: value for key, value in event.items() if not key.startswith("log_") and key not in _OLD_KEYS}
        return [masked(self._encode({**_plain_members(own, _CONTAINER_DEPTH), **fields}))]


class _Stamp:
    """Times as RFC 3339 writes them, in UTC, to the millisecond."""

    def __init__(self) -> None:
        self._second = 0
        self._written = ""

    def __call__(self, seconds: float) -> str:
        whole = int(seconds)
        if whole != self._second or not self._written:
            # Most lines come in the same second as the one before.
            self._written = datetime.fromtimestamp(whole, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = whole
        return f"{self._written}.{int((seconds - whole) * 1000):03d}Z"


def _is_journal(fd: int) -> bool:
    """Whether *fd* is what systemd has connected to the journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def _message(event: LogEvent) -> str:
    if "log_failure" in event and "log_text" in event:
        # Of the old log, whose text is the traceback.
        return str(event.get("why") or "Unhandled error")
    return _shortened(formatEvent(event))


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    try:
        return _shortened(failure.getTraceback())
    except Exception as error:
        return f"a traceback could not be had: {type(error).__name__}"


def _plain(value: Any, depth: int) -> object:
    """*value* as JSON knows it."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, bytes):
        return _shortened(value.decode("utf-8", "backslashreplace"))
    if depth and isinstance(value, Mapping):
        return _plain_members(value, depth)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth - 1) for item in value]
    try:
        return _shortened(str(value))
    except Exception as error:
        return f"a {type(value).__name__} that raises {type(error).__name__}"


def _plain_members(members: Mapping[Any, object], depth: int) -> dict[str, object]:
    return {str(key): _plain(value, depth - 1) for key, value in members.items()}


def _shortened(text: str) -> str:
    if len(text) <= _TEXT_CHARACTERS:
        return text
    half = _TEXT_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode("ascii")
