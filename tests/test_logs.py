"""What is logged: its form, what must not be in it, and where it goes when there is no room."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.python.log import LogPublisher as OldLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import StartError
from hmacfs.logs import FileSink, Logs, RequestEntry, Sink, json_fields, masked, text_line

NOON = 1_795_694_400.25
NOON_WRITTEN = "2026-11-26T12:00:00.250Z"
MAC = "b9f2c5a0e6d14b7c8f3a2e1d0c9b8a7f6e5d4c3b2a190817263544536271809f"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqdWxpZXQifQ.c2lnbmF0dXJl"

UPLOAD = RequestEntry(
    client="203.0.113.9",
    method="PUT",
    path="/upload/6f95dd3c/photo.jpg",
    status=201,
    received_bytes=3_100_000,
    sent_bytes=21,
    seconds=1.24,
)
DOWNLOAD = RequestEntry(
    client="2001:db8::1",
    method="GET",
    path="/upload/6f95dd3c/photo.jpg",
    status=200,
    received_bytes=0,
    sent_bytes=3_100_000,
    seconds=0.2,
)
REFUSED = RequestEntry(
    client="203.0.113.9",
    method="PUT",
    path="/upload/1a44/cat.png",
    status=403,
    received_bytes=0,
    sent_bytes=80,
    seconds=0.001,
    reason="bad-signature",
    remark="right if the size were 12",
)


class Unprintable:
    """What a faulty object does to who logs it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class FileCase(SynchronousTestCase):
    """Writes to a log file and reads it."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "hmacfs.log"

    def lines(self, path: Path | None = None) -> list[str]:
        return (path or self.path).read_text("utf-8").splitlines()

    def open(self, level: str = "info", form: str = "text") -> tuple[Logs, Logger]:
        """The logs, and a logger whose events go there."""
        logs = Logs(level, self.path, form, now=lambda: NOON)
        return logs, Logger("hmacfs.test", observer=LogPublisher(logs.observer))

    def emit(self, logs: Logs, text: str, level: Any = LogLevel.info, **values: object) -> None:
        """An event at :data:`NOON`."""
        logs.observer({"log_format": text, "log_level": level, "log_namespace": "test", "log_time": NOON, **values})


class TextLineTests(SynchronousTestCase):
    """One request in a line for people."""

    def test_upload(self) -> None:
        """What came, how long it took, from whom."""
        self.assertEqual(text_line(UPLOAD), "PUT /upload/6f95dd3c/photo.jpg 201 3.1 MB in 1.24 s from 203.0.113.9")

    def test_download(self) -> None:
        """Of a download, the bytes that were sent."""
        self.assertEqual(text_line(DOWNLOAD), "GET /upload/6f95dd3c/photo.jpg 200 3.1 MB in 0.2 s from 2001:db8::1")

    def test_refusal(self) -> None:
        """The reason and its explanation; the size of an answer that only says no is of no interest."""
        self.assertEqual(
            text_line(REFUSED),
            "PUT /upload/1a44/cat.png 403 bad-signature from 203.0.113.9 (right if the size were 12)",
        )

    def test_refusal_of_a_body(self) -> None:
        """What was sent in vain."""
        late = RequestEntry("::1", "PUT", "/upload/a/b", 400, 3_100_000, 80, 2.0, reason="digest-mismatch")
        self.assertEqual(text_line(late), "PUT /upload/a/b 400 digest-mismatch 3.1 MB in 2 s from ::1")

    def test_resumed(self) -> None:
        """Where an upload went on, and of which session it is."""
        resumed = RequestEntry(
            "::1", "PUT", "/upload/a/b", 201, 0, 0, 1.0, session="tok-5c1e99990000", resumed_at=2_000_000
        )
        self.assertEqual(
            text_line(resumed), "PUT /upload/a/b 201 0 B in 1 s from ::1 session=tok-5c1e… resumed-at=2.0 MB"
        )

    def test_resumed_at_the_start(self) -> None:
        """Offset 0 is one."""
        self.assertIn(" resumed-at=0 B", text_line(RequestEntry("::1", "PUT", "/a", 201, 0, 0, 1.0, resumed_at=0)))

    def test_long_request(self) -> None:
        """No power of ten where minutes are meant."""
        self.assertIn(" in 20 min ", text_line(RequestEntry("::1", "PUT", "/a", 201, 1, 0, 1200.0)))

    def test_session_is_never_shown_whole(self) -> None:
        """The shortest token that is allowed is no exception."""
        for length in range(1, 40):
            token = "t" * length
            entry = RequestEntry("::1", "PUT", "/a", 201, 0, 0, 1.0, session=token)
            self.assertLessEqual(entry.shown_session.count("t"), min(8, length // 2))
            self.assertEqual(json_fields(entry)["session"], entry.shown_session)


class TextTests(FileCase):
    """A log for people."""

    def test_request(self) -> None:
        """The time, and the line."""
        logs, _ = self.open()
        logs.request(UPLOAD)
        self.assertEqual(self.lines(), [f"{NOON_WRITTEN} {text_line(UPLOAD)}"])

    def test_times_go_on(self) -> None:
        """The second after a line's is not the same second."""
        times = iter([NOON, NOON + 0.5, NOON + 60])
        logs = Logs("info", self.path, "text", now=lambda: next(times))
        for _ in range(3):
            logs.request(UPLOAD)
        self.assertEqual(
            [line.partition(" ")[0] for line in self.lines()],
            [NOON_WRITTEN, "2026-11-26T12:00:00.750Z", "2026-11-26T12:01:00.250Z"],
        )

    def test_event(self) -> None:
        """The event's own time and its text; what is more than information says so."""
        logs, _ = self.open()
        self.emit(logs, "{count} files", count=3)
        self.emit(logs, "hm", LogLevel.warn)
        self.assertEqual(self.lines(), [f"{NOON_WRITTEN} 3 files", f"{NOON_WRITTEN} warn: hm"])

    def test_failure(self) -> None:
        """The traceback follows, set in, so that each line at the margin is an event."""
        _, log = self.open()
        log.failure("it broke", Failure(ValueError("boom")))
        first, *others = self.lines()
        self.assertIn(" critical: it broke", first)
        self.assertIn("ValueError: boom", others[-1])
        self.assertEqual([line for line in others if not line.startswith("    ")], [])

    def test_failure_of_old_code(self) -> None:
        """Twisted's old log has the traceback for its text: it comes once."""
        logs, _ = self.open()
        old = OldLogPublisher(
            observerPublisher=LogPublisher(logs.observer), publishPublisher=LogPublisher(logs.observer)
        )
        old.msg(failure=Failure(ValueError("boom")), why="it broke", isError=1)
        text = self.path.read_text()
        self.assertEqual((text.count("ValueError: boom"), text.count("critical: it broke")), (1, 1))

    def test_forged_line(self) -> None:
        """What somebody else has chosen can't begin a line."""
        logs, log = self.open()
        self.emit(logs, "name {name}", name=f"x\r\n{NOON_WRITTEN} forged\u2028again\x1b[2K")
        log.failure("broke", Failure(ValueError("x\nforged")))
        self.assertEqual(self.lines()[0], f"{NOON_WRITTEN} name x\\r\\n{NOON_WRITTEN} forged\\u2028again\\x1b[2K")
        self.assertEqual([line for line in self.lines() if line.startswith("forged")], [])

    def test_text_that_is_no_unicode(self) -> None:
        """The name of a file may be any bytes."""
        logs, _ = self.open()
        self.emit(logs, "name {name}", name=b"\xff\xe9".decode("utf-8", "surrogateescape"))
        self.assertEqual(self.lines(), [f"{NOON_WRITTEN} name \\udcff\\udce9"])

    def test_long_text(self) -> None:
        """A line has a bound; of what is longer one sees both ends."""
        _, log = self.open()
        log.info("begin {text} end", text="x" * 1_000_000)
        (line,) = self.lines()
        self.assertLess(len(line), 17_000)
        self.assertIn("begin", line)
        self.assertTrue(line.endswith(" end"))

    def test_event_that_cannot_be_logged(self) -> None:
        """It is said that there was one, and nobody is troubled with an exception."""
        logs, _ = self.open()
        self.emit(logs, "{odd}", odd=Unprintable())
        self.emit(logs, "x", log_time="yesterday")
        unformattable, without_time = self.lines()
        self.assertIn("RuntimeError", unformattable)
        self.assertEqual(without_time, "an event could not be logged: ValueError")


class NumberTests(FileCase):
    """What looks like a secret and is a number in JSON, which must stay one."""

    def test_numbers(self) -> None:
        """Under a key that a signature could have."""
        logs, _ = self.open(form="json")
        values = {"v": 12345678, "v2": [-123456789, 1.5e300], "token": {"v3": 1234567.25}}
        self.emit(logs, "numbers", **values)
        found = json.loads(self.lines()[0])
        self.assertEqual({key: found[key] for key in values}, values)


class SparingTests(FileCase):
    """What is said for each of a thousand requests."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.logs = Logs("info", self.path, "text", now=lambda: NOON, clock=self.clock.seconds)

    def test_once_a_minute(self) -> None:
        """The first at once, and after a minute the next one, with how many there were meanwhile."""
        for _ in range(1000):
            self.emit(self.logs, "no room: {error}", error="full", seldom="ENOSPC")
        self.clock.advance(60)
        for _ in range(2):
            self.emit(self.logs, "no room: {error}", error="full", seldom="ENOSPC")
        self.assertEqual(
            self.lines(), [f"{NOON_WRITTEN} no room: full", f"{NOON_WRITTEN} no room: full (999 more since then)"]
        )

    def test_kinds(self) -> None:
        """One kind doesn't hide another, nor what has none."""
        for kind in ("a", "b", "a"):
            self.emit(self.logs, "of a kind", seldom=kind)
            self.emit(self.logs, "of none")
        self.assertEqual(len(self.lines()), 2 + 3)

    def test_no_descriptors_for_connections(self) -> None:
        """Twisted's lines and tracebacks about each connection that it turns away are one line."""
        accepting = {"log_namespace": "twisted.internet.tcp.Port"}
        self.emit(self.logs, "EMFILE encountered; releasing reserved file descriptor.", **accepting)
        self.emit(self.logs, "Could not accept new connection ({acceptError})", acceptError="EMFILE", **accepting)
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            self.emit(
                self.logs,
                "Could not reserve EMFILE recovery file descriptor.",
                LogLevel.critical,
                log_failure=Failure(),
                log_namespace="twisted.internet.tcp._FileDescriptorReservation",
            )
        self.emit(self.logs, "Starting factory", log_namespace="twisted.internet.tcp.Port")
        first, second = self.lines()
        self.assertIn("warn: too many open files: connections are turned away. Let the process have more", first)
        self.assertIn("Starting factory", second)


class LevelTests(FileCase):
    """``LogLevel``."""

    def written(self, level: str) -> str:
        logs, log = self.open(level)
        logs.request(DOWNLOAD)
        for emit in (log.debug, log.info, log.warn, log.error, log.critical):
            emit(f"a {emit.__name__} event")
        return self.path.read_text()

    def test_debug(self) -> None:
        """Everything."""
        text = self.written("debug")
        self.assertIn("a debug event", text)
        self.assertIn("GET", text)

    def test_info(self) -> None:
        """Requests, too, are information."""
        text = self.written("info")
        self.assertNotIn("a debug event", text)
        self.assertIn("a info event", text)
        self.assertIn("GET", text)

    def test_warn(self) -> None:
        """Requests are not."""
        text = self.written("warn")
        self.assertNotIn("a info event", text)
        self.assertNotIn("GET", text)
        self.assertIn("a warn event", text)

    def test_error(self) -> None:
        """And what is worse."""
        text = self.written("error")
        self.assertNotIn("a warn event", text)
        self.assertIn("a error event", text)
        self.assertIn("a critical event", text)

    def test_ports(self) -> None:
        """What Twisted says of each socket that listens is for those who look for a fault in it."""
        for level, times in (("info", 0), ("debug", 1)):
            logs, _ = self.open(level)
            events = LogPublisher(logs.observer)
            old = OldLogPublisher(events, events)
            for text in (
                "HmacfsSite (TLS) starting on 8080",
                "(TCP Port 8080 Closed)",
                "Factory starting on '/run/x y'",
            ):
                old.msg(text)
                self.assertEqual(self.path.read_text().count(text), times)
            old.msg("Everything is starting on the wrong foot")
            self.assertIn("foot", self.path.read_text())


class JsonTests(FileCase):
    """A log for programs."""

    def objects(self) -> list[dict[str, Any]]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return [json.loads(line, parse_constant=refuse) for line in self.lines()]

    def test_request(self) -> None:
        """Numbers are numbers, in bytes and seconds; what isn't known isn't there."""
        logs, _ = self.open(form="json")
        logs.request(DOWNLOAD)
        self.assertEqual(
            self.objects(),
            [
                {
                    "time": NOON_WRITTEN,
                    "level": "info",
                    "namespace": "request",
                    "client": "2001:db8::1",
                    "method": "GET",
                    "path": "/upload/6f95dd3c/photo.jpg",
                    "status": 200,
                    "received_bytes": 0,
                    "sent_bytes": 3_100_000,
                    "seconds": 0.2,
                }
            ],
        )

    def test_whole_request(self) -> None:
        """Everything that may be said of one."""
        logs, _ = self.open(form="json")
        logs.request(RequestEntry("::1", "PUT", "/a", 409, 1, 2, 3.0, "conflict", "tok-5c1e99990000", 0, "why"))
        (entry,) = self.objects()
        self.assertEqual(
            (entry["reason"], entry["session"], entry["resumed_at"], entry["remark"]),
            ("conflict", "tok-5c1e…", 0, "why"),
        )

    def test_event(self) -> None:
        """Its text, where it comes from, and its values each by name."""
        logs, _ = self.open(form="json")
        self.emit(logs, "{count} files in {place}", LogLevel.warn, count=3, place="store")
        self.assertEqual(
            self.objects(),
            [
                {
                    "time": NOON_WRITTEN,
                    "level": "warn",
                    "namespace": "test",
                    "message": "3 files in store",
                    "count": 3,
                    "place": "store",
                }
            ],
        )

    def test_failure(self) -> None:
        """The traceback is one text."""
        _, log = self.open(form="json")
        log.failure("it broke", Failure(ValueError("boom")))
        (event,) = self.objects()
        self.assertEqual(event["message"], "it broke")
        self.assertIn("ValueError: boom", event["traceback"])

    def test_own_values_do_not_replace_ours(self) -> None:
        """A value that an event calls ``level`` is not its level."""
        logs, _ = self.open(form="json")
        logs.observer({"log_level": LogLevel.info, "log_namespace": "test", "level": "fatal", "namespace": "other"})
        self.assertEqual([(event["level"], event["namespace"]) for event in self.objects()], [("info", "test")])

    def test_odd_values(self) -> None:
        """Whatever an event carries, the line is JSON and tells what can be told."""
        endless: list[Any] = []
        endless.append(endless)
        logs, _ = self.open(form="json")
        self.emit(
            logs,
            "odd",
            nan=float("nan"),
            raw=b"caf\xe9",
            path=Path("/srv"),
            keys={(1, 2): {3}},
            endless=endless,
            unprintable=Unprintable(),
            surrogate="\udcff",
        )
        (event,) = self.objects()
        self.assertEqual(
            (event["nan"], event["raw"], event["path"], event["keys"]), ("nan", "caf\\xe9", "/srv", {"(1, 2)": [3]})
        )
        self.assertIn("RuntimeError", event["unprintable"])

    @given(
        st.dictionaries(
            st.text(max_size=5).filter(lambda key: not key.startswith("log_")),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(max_size=5), inner),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_any_values(self, values: dict[str, object]) -> None:
        """One event, one line, one object."""
        self.setUp()
        logs, _ = self.open(form="json")
        logs.observer({"log_format": "x", "log_namespace": "n", "log_level": LogLevel.info, "log_time": NOON, **values})
        (event,) = self.objects()
        self.assertEqual((event["message"], event["level"]), ("x", "info"))


class MaskedTests(FileCase):
    """The last resort against secrets."""

    SECRETS = (
        f"PUT /upload/a?v={MAC} HTTP/1.1",
        f"PUT /upload/a?x=1&v2={MAC}",
        f"?v3={MAC}&expires=1",
        f"?token={MAC}",
        f"?V={MAC.upper()}",
        f"/login?next=%2Fupload%2Fa%3Fv%3D{MAC}",
        f"args {{b'v': [b'{MAC}']}}",
        f"args {{'token': ['{MAC}']}}",
        f"Authorization: Bearer {JWT}",
        "authorization: bearer xxx",
        f"InvalidToken({JWT!r})",
    )

    def test_hidden(self) -> None:
        """Signatures and tokens, as they stand in a URL, a header, a dict of either, or alone."""
        for text in self.SECRETS:
            shown = masked(text)
            self.assertIn("[hidden]", shown)
            for secret in (MAC, MAC.upper(), JWT, "xxx"):
                self.assertNotIn(secret[-20:], shown, text)

    def test_hidden_in_json(self) -> None:
        """As well where quotation marks are escaped."""
        for text in self.SECRETS:
            shown = masked(json.dumps({"message": text.replace("'", '"')}))
            for secret in (MAC, MAC.upper(), JWT, "xxx"):
                self.assertNotIn(secret[-20:], shown, text)
            json.loads(shown)

    def test_password_in_a_url(self) -> None:
        """Of a Redis address, everything but the password is shown."""
        self.assertEqual(masked("redis://:pa55@localhost:6379/0 refused"), "redis://:[hidden]@localhost:6379/0 refused")

    def test_what_is_around_stays(self) -> None:
        """Only the secret goes."""
        self.assertEqual(masked(f"PUT /a?v={MAC}&x=1 failed"), "PUT /a?v=[hidden]&x=1 failed")

    def test_nothing_else_is_hidden(self) -> None:
        """Digests, hashed directories and ordinary words stay readable."""
        for text in (
            f"sha256 {MAC} of /upload/{MAC}/photo.jpg",
            "session=tok-5c1e… resumed-at=2.0 MB",
            "the token is too old",
            "archiv=abcdef0123456789",
            "http://[::1]:8080/upload/a@b:c",
            "v=1",
        ):
            self.assertEqual(masked(text), text)

    def test_in_a_traceback(self) -> None:
        """An exception of somebody else's may quote the whole request."""
        for form in ("text", "json"):
            _, log = self.open(form=form)
            log.failure("broke", Failure(ValueError(f"can't parse /upload/a?v={MAC} of {JWT}")))
        text = self.path.read_text()
        self.assertIn("[hidden]", text)
        self.assertNotIn(MAC, text)
        self.assertNotIn(JWT, text)

    def test_in_a_request(self) -> None:
        """A query where there should be none."""
        for form in ("text", "json"):
            logs, _ = self.open(form=form)
            logs.request(RequestEntry("::1", "PUT", f"/upload/a?v={MAC}", 400, 0, 0, 0.0))
        self.assertNotIn(MAC, self.path.read_text())

    @given(st.text())
    def test_any_text_is_one_line(self, text: str) -> None:
        """Nothing that ends a line, for any reader, is left; and what is left can be encoded."""
        shown = masked(text)
        self.assertEqual(shown.splitlines(), [shown] if shown else [])
        shown.encode()


class SinkTests(SynchronousTestCase):
    """A descriptor that takes no more."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.out, self.into = self.pipe()
        self.complaints, stderr = self.pipe()
        self.sink = Sink(self.into, "standard output", self.clock.seconds, stderr)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_NONBLOCK)
        for end in ends:
            self.addCleanup(os.close, end)
        return ends

    def read(self, fd: int) -> str:
        try:
            return os.read(fd, 1_000_000).decode()
        except BlockingIOError:
            return ""

    def test_line(self) -> None:
        """A line, and its end."""
        self.sink.write("one")
        self.sink.write("zwölf …")
        self.assertEqual(self.read(self.out), "one\nzwölf …\n")

    def test_lost_line(self) -> None:
        """It is counted and complained of, and nothing is raised."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        sink = Sink(full, "standard output", self.clock.seconds, self.sink._stderr)
        sink.write("one")
        self.assertEqual(sink.lost, 1)
        self.assertEqual(
            self.read(self.complaints), "hmacfs: standard output: No space left on device; 1 lines lost so far\n"
        )

    def test_complaints_are_rare(self) -> None:
        """One a minute, with the count of all."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        sink = Sink(full, "standard output", self.clock.seconds, self.sink._stderr)
        sink.write("one")
        self.read(self.complaints)
        self.clock.advance(59)
        sink.write("two")
        self.assertEqual(self.read(self.complaints), "")
        self.clock.advance(1)
        sink.write("three")
        self.assertIn("; 3 lines lost so far", self.read(self.complaints))

    def test_nobody_hears_the_complaint(self) -> None:
        """Where standard error takes nothing either, that is the end of it."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        Sink(full, "standard output", self.clock.seconds, full).write("one")

    def test_cut_line(self) -> None:
        """A line that went out in part is lost; the next one doesn't continue it."""
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, 4096)
        self.sink.write("x" * 5000)
        self.assertEqual((self.sink.lost, self.read(self.out)), (1, "x" * 4096))
        self.sink.write("next")
        self.sink.write("and on")
        self.assertEqual(self.read(self.out), "\nnext\nand on\n")


class FileSinkTests(FileCase):
    """A log file, and what becomes of it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.complaints = self.directory / "stderr"
        self.stderr = os.open(self.complaints, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.addCleanup(os.close, self.stderr)

    def make(self, path: Path | None = None) -> FileSink:
        sink = FileSink(path or self.path, self.clock.seconds, self.stderr)
        self.addCleanup(sink.close)
        return sink

    def test_appends(self) -> None:
        """What was there stays."""
        self.path.write_text("before\n")
        self.make().write("after")
        self.assertEqual(self.lines(), ["before", "after"])

    def test_mode(self) -> None:
        """Made for the owner and a group that reads logs, whatever the umask; an existing file's mode is its owner's."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.make()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)
        self.path.chmod(0o600)
        self.make()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def rotated(self, how: Callable[[], object]) -> list[str]:
        """What is in the new file if the old one goes *how*."""
        sink = self.make()
        sink.write("one")
        how()
        self.clock.advance(1)
        sink.write("two")
        return self.lines()

    def test_renamed(self) -> None:
        """The next line begins a new file."""
        aside = self.directory / "hmacfs.log.1"
        self.assertEqual(self.rotated(lambda: self.path.rename(aside)), ["two"])
        self.assertEqual(self.lines(aside), ["one"])

    def test_removed(self) -> None:
        """As well after a removal."""
        self.assertEqual(self.rotated(self.path.unlink), ["two"])

    def test_replaced(self) -> None:
        """The file that logrotate has made (``create``) is the one to use."""

        def replace() -> None:
            self.path.rename(self.directory / "hmacfs.log.1")
            self.path.write_text("made by logrotate\n")

        self.assertEqual(self.rotated(replace), ["made by logrotate", "two"])

    def test_looks_once_a_second(self) -> None:
        """A request isn't charged with a look at the directory each."""
        sink = self.make()
        self.path.unlink()
        self.clock.advance(0.9)
        sink.write("lost with the old file")
        self.assertFalse(self.path.exists())

    def test_reopen(self) -> None:
        """Who sends a signal needn't wait for the next line."""
        sink = self.make()
        self.path.unlink()
        sink.reopen()
        self.assertTrue(self.path.exists())
        sink.write("one")
        self.assertEqual(self.lines(), ["one"])

    def test_no_new_file_to_be_had(self) -> None:
        """The old one goes on being used, and standard error hears why."""
        sink = self.make()
        old = self.directory / "old"
        self.path.rename(old)
        self.path.mkdir()
        self.clock.advance(1)
        sink.write("one")
        self.assertEqual((self.lines(old), sink.lost), (["one"], 0))
        self.assertIn("Is a directory", self.complaints.read_text())

    def test_no_directory(self) -> None:
        """The start ends with what is missing."""
        path = self.directory / "missing" / "hmacfs.log"
        error = self.assertRaises(StartError, FileSink, path)
        self.assertIn(f"LogFile {path}: there is no directory {path.parent}.", str(error))

    def test_no_file(self) -> None:
        """As well where the name is a directory's."""
        error = self.assertRaises(StartError, FileSink, self.directory)
        self.assertIn(f"LogFile {self.directory}: Is a directory.", str(error))

    def test_pipe_without_a_reader(self) -> None:
        """The start doesn't wait for one."""
        os.mkfifo(self.path)
        self.assertRaises(StartError, FileSink, self.path)

    def test_full_disk(self) -> None:
        """A line is lost, nothing is raised."""
        sink = self.make(Path("/dev/full"))
        sink.write("one")
        self.assertEqual(sink.lost, 1)
        self.assertIn("LogFile /dev/full: No space left on device", self.complaints.read_text())

    def test_seen_by_the_logs(self) -> None:
        """Who has the logs can ask how many lines were lost, and have the file reopened."""
        logs, log = self.open()
        self.path.unlink()
        logs.reopen()
        log.info("one")
        self.assertEqual((len(self.lines()), logs.lost), (1, 0))


class StandardOutputTests(FileCase):
    """No ``LogFile``."""

    def setUp(self) -> None:
        super().setUp()
        self.stdout = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.addCleanup(os.close, self.stdout)
        status = os.fstat(self.stdout)
        self.identity = f"{status.st_dev}:{status.st_ino}"

    def log(self, journal: str | None) -> list[str]:
        """What a request and an error look like where ``JOURNAL_STREAM`` is *journal*."""
        before = os.environ.pop("JOURNAL_STREAM", None)
        if before is not None:
            self.addCleanup(os.environ.__setitem__, "JOURNAL_STREAM", before)
        if journal is not None:
            os.environ["JOURNAL_STREAM"] = journal
            self.addCleanup(os.environ.pop, "JOURNAL_STREAM", None)
        logs = Logs("info", None, "text", stdout=self.stdout, now=lambda: NOON)
        logs.request(REFUSED)
        Logger("hmacfs.test", observer=LogPublisher(logs.observer)).failure("broke", Failure(ValueError("boom")))
        return self.lines()

    def test_terminal(self) -> None:
        """With times, as in a file."""
        self.assertEqual(self.log(None)[0], f"{NOON_WRITTEN} {text_line(REFUSED)}")

    def test_journal(self) -> None:
        """The journal has its own times; it is told the level, of each line."""
        first, error, *traceback = self.log(self.identity)
        self.assertEqual((first, error), (f"<6>{text_line(REFUSED)}", "<2>critical: broke"))
        self.assertEqual([line for line in traceback if not line.startswith("<2>    ")], [])

    def test_journal_of_somebody_else(self) -> None:
        """A service that has sent our output elsewhere has left the variable to us."""
        self.assertEqual(self.log("8:12345")[0], f"{NOON_WRITTEN} {text_line(REFUSED)}")
