"""Uploads in the IETF's draft: every version of it that is in use, and requests that name none."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from fcntl import LOCK_EX, flock
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from hmacfs.net.limits import Limits
from hmacfs.uploads.turns import PATIENCE_S
from hmacfs.uploads.upload import CHECKPOINT_BYTES
from tests.net.wire import ABORTED, Answer, Wire
from tests.web.support import NOW, PATH, TTL_S, URL, Server, ServerTestCase, bearer, request, v, v2, v3

CONTENT = bytes(range(100))
SIZE = len(CONTENT)
U = v(PATH, SIZE)
PROBLEM = "https://iana.org/assignments/http-problem-types#"
OTHER = bytes(reversed(CONTENT))


def chunked(method: str, target: str, headers: Mapping[str, str], *chunks: bytes) -> bytes:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request(method, target, {**headers, "Transfer-Encoding": "chunked"}) + coded + b"0\r\n\r\n"


def sha256(content: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"


def interim(wire: Wire) -> list[tuple[int, dict[str, str]]]:
    """The interim responses on a connection, each with its headers by lower-case name."""
    found = []
    for head in wire.transport.value().split(b"\r\n\r\n"):
        first, *lines = head.decode("latin-1").split("\r\n")
        if first.startswith("HTTP/1.1 1"):
            headers = dict(line.split(": ", 1) for line in lines)
            found.append((int(first.split(" ")[1]), {name.lower(): value for name, value in headers.items()}))
    return found


class DraftTestCase(ServerTestCase):
    """A client of one version, and a server.

    :cvar number: of the version; ``None`` for a client that names none.
    """

    number: int | None = 8

    def tearDown(self) -> None:
        super().tearDown()
        for line in self.logged():
            self.assertNotRegex(line, r"\.up/[A-Za-z0-9_-]{32}")

    def of_version(self, **by_least: object) -> object:
        """What is so since some version: that of the highest one up to ours. ``v3=...`` is the first."""
        ours = self.number or 8
        return by_least[f"v{max(int(name[1:]) for name in by_least if int(name[1:]) <= ours)}"]

    def fields(self, completes: bool | None = None, **more: object) -> dict[str, str]:
        """The headers of a request; underscores in names stand for hyphens."""
        headers = {} if self.number is None else {"Upload-Draft-Interop-Version": str(self.number)}
        if completes is not None:
            headers |= self.saying(completes)
        return headers | {name.replace("_", "-"): str(value) for name, value in more.items()}

    def saying(self, completes: bool) -> dict[str, str]:
        if self.number == 3:
            return {"Upload-Incomplete": "?0" if completes else "?1"}
        return {"Upload-Complete": "?1" if completes else "?0"}

    def assert_says(self, answer: Answer, completes: bool) -> None:
        ((name, value),) = self.saying(completes).items()
        self.assertEqual(answer.headers.get(name.lower()), value)
        other = "upload-complete" if self.number == 3 else "upload-incomplete"
        self.assertNotIn(other, answer.headers)

    def assert_problem(self, answer: Answer, status: int, reason: str, problem: str = "", **members: object) -> None:
        """The answer is a problem, the log has its reason, and the metric counts it."""
        self.assertEqual((answer.status, answer.headers["content-type"]), (status, "application/problem+json"))
        told = json.loads(answer.body)
        self.assertEqual((told["status"], told["reason"], told.get("type", "")), (status, reason, problem))
        self.assertEqual({name: told[name.replace("_", "-")] for name in members}, members)
        entry = self.server.entries[-1]
        self.assertEqual((entry.status, entry.reason), (status, reason))

    def create(
        self,
        completes: bool = False,
        body: bytes | None = b"",
        *,
        method: str = "POST",
        target: str = U,
        server: Server | None = None,
        **more: object,
    ) -> Answer:
        """Begin an upload; without anything else, of no bytes."""
        if not completes:
            more = {"Upload_Length": SIZE, **more}
        return (server or self.server).ask(request(method, target, self.fields(completes, **more), body))

    def created(self, body: bytes = b"", **more: object) -> str:
        """The URL of a new upload."""
        answer = self.create(body=body, **more)
        self.assertEqual(answer.status, 201, answer)
        return answer.headers["location"]

    def patching(
        self, target: str, offset: int, body: bytes, completes: bool, *, length: int | None = None, **more: object
    ) -> bytes:
        fields = {"Upload_Offset": offset, "Content_Type": "application/partial-upload", **more}
        return request("PATCH", target, self.fields(completes, **fields), body, length=length)

    def append(self, target: str, offset: int, body: bytes, completes: bool, **more: object) -> Answer:
        return self.server.ask(self.patching(target, offset, body, completes, **more))

    def look(self, target: str, **more: object) -> Answer:
        return self.server.head(target, self.fields(**more))

    def offset(self, target: str) -> int:
        answer = self.look(target)
        self.assertEqual(answer.status, 204, answer)
        return int(answer.headers["upload-offset"])

    def assert_stored(self, content: bytes = CONTENT) -> None:
        self.assertEqual((self.get(PATH), self.own_files("parts")), (content, []))


if TYPE_CHECKING:
    _Base = DraftTestCase
else:
    _Base = object


class EveryVersion(_Base):
    """What holds in every version, and the differences. Each class below runs it for one."""

    # Creation

    def test_careful_creation(self) -> None:
        """201 with the URL of an upload of which nothing is here."""
        answer = self.create()
        self.assertEqual((answer.status, answer.headers["upload-offset"], answer.interim), (201, "0", ()))
        self.assertRegex(answer.headers["location"], r"\A/upload/\.up/[A-Za-z0-9_-]{32}-[0-9]+\Z")
        self.assert_says(answer, False)
        ttl = f"{TTL_S:.0f}"
        limit = self.of_version(v3=None, v6=f"expires={ttl}", v7=f"max-age={ttl}")
        self.assertEqual(answer.headers.get("upload-limit"), limit)
        self.assertEqual(self.offset(answer.headers["location"]), 0)

    def test_creation_with_first_bytes(self) -> None:
        for method in ("PUT", "POST", "PATCH"):
            answer = self.create(body=CONTENT[:30], method=method)
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "30"), method)
            self.assert_says(answer, False)
            self.assertEqual(self.offset(answer.headers["location"]), 30)
        self.assertEqual(self.server.get().status, 404)

    def test_whole_file(self) -> None:
        """A PUT with all of the file is answered as every other PUT."""
        for method in ("PUT", "POST", "PATCH"):
            path = f"{method}/f"
            answer = self.create(True, CONTENT, method=method, target=v(path, SIZE))
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"), method)
            self.assert_says(answer, True)
            self.assertEqual(answer.headers["repr-digest"], sha256(CONTENT))
            self.assertEqual(self.get(path), CONTENT)
            self.assertEqual("location" in answer.headers, self.of_version(v3=True, v7=False))

    def test_empty_file(self) -> None:
        answer = self.create(True, b"", target=v(PATH, 0), method="PUT")
        self.assertEqual((answer.status, self.get(PATH)), (201, b""))

    def test_chunked_file(self) -> None:
        """Its length is told by Upload-Length."""
        headers = self.fields(True, Upload_Length=SIZE)
        answer = self.server.ask(chunked("PUT", U, headers, CONTENT[:30], CONTENT[30:]))
        self.assertEqual(answer.status, 201)
        self.assert_stored()

    def test_creation_of_a_stored_file(self) -> None:
        """The same is as good as stored, another is refused, and of one that is yet to come nobody knows."""
        self.create(True, CONTENT, method="PUT")
        self.assertEqual(self.create(True, CONTENT, method="PUT").status, 201)
        self.assert_problem(self.create(True, OTHER, method="PUT"), 409, "conflict")
        self.assert_problem(self.create(), 409, "conflict")
        self.assert_stored()

    def test_creation_has_no_offset(self) -> None:
        answer = self.create(True, CONTENT, Upload_Offset=10)
        self.assert_problem(answer, 400, "bad-upload-header")
        expected = self.of_version(v3=400, v7=201)
        self.assertEqual(self.create(Upload_Offset=0).status, expected)

    def test_lengths_that_differ(self) -> None:
        answer = self.create(True, CONTENT, Upload_Length=SIZE + 1)
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        answer = self.create(body=CONTENT + b"x")
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        self.assertEqual(self.server.get().status, 404)

    def test_length_that_was_not_signed(self) -> None:
        for target in (U, v2(PATH, SIZE, "image/jpeg")):
            answer = self.create(Upload_Length=SIZE + 1, Content_Type="image/jpeg", target=target)
            self.assert_problem(answer, 403, "bad-signature")

    def test_length_left_open(self) -> None:
        """Only a token knows it then."""
        answer = self.server.ask(request("POST", U, self.fields(False), b""))
        self.assert_problem(answer, 411, "length-required")
        answer = self.server.ask(request("POST", URL, self.fields(False) | bearer(PATH, SIZE), b""))
        self.assertEqual((answer.status, self.offset(answer.headers["location"])), (201, 0))

    def test_too_large(self) -> None:
        server = self.server = self.serve(max_upload_bytes=99)
        for completes, body in ((False, b""), (True, CONTENT)):
            answer = self.create(completes, body, server=server)
            self.assert_problem(answer, 413, "too-large")
            self.assertEqual(answer.headers["upload-limit"], "max-size=99")

    def test_creation_again(self) -> None:
        """It is another upload, and the one before is over."""
        first = self.created(CONTENT[:30])
        second = self.created()
        self.assertNotEqual(first, second)
        self.assertEqual(self.look(first).status, self.of_version(v3=404, v7=410))
        self.assertEqual(self.offset(second), 0)

    # HEAD

    def test_look(self) -> None:
        location = self.created(CONTENT[:30])
        answer = self.look(location)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "30"))
        self.assertEqual((answer.headers["upload-length"], answer.headers["cache-control"]), ("100", "no-store"))
        self.assert_says(answer, False)
        limit = self.of_version(v3=None, v6="expires=", v7="max-age=")
        self.assertEqual(limit is not None, "upload-limit" in answer.headers)
        self.assertIn(limit or "", answer.headers.get("upload-limit", ""))

    def test_look_at_a_stored_file(self) -> None:
        location = self.created()
        self.append(location, 0, CONTENT, True)
        answer = self.look(location)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "100"))
        self.assert_says(answer, True)

    def test_look_with_fields(self) -> None:
        location = self.created()
        for name, value in (("Upload_Offset", "0"), ("Upload_Complete", "?0"), ("Upload_Incomplete", "?1")):
            self.assertEqual(self.look(location, **{name: value}).status, self.of_version(v3=400, v7=204), name)

    def test_unknown(self) -> None:
        location = self.created()
        another = location[:-3] + ("y-1" if location.endswith("x-1") else "x-1")
        for target in (another, "/upload/.up/nothing"):
            self.assertEqual(self.look(target).status, 404)
            self.assertEqual(self.append(target, 0, CONTENT, True).status, 404)
            self.assertEqual(self.server.ask(request("DELETE", target, self.fields())).status, 404)

    # PATCH

    def test_parts(self) -> None:
        location = self.created(CONTENT[:10])
        answer = self.append(location, 10, CONTENT[10:40], False)
        self.assertEqual(answer.status, self.of_version(v3=201, v7=204))
        self.assertEqual(answer.headers["upload-offset"], "40")
        self.assertNotIn("location", answer.headers)
        self.assert_says(answer, False)
        answer = self.append(location, 40, CONTENT[40:], True)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"))
        self.assertEqual(answer.headers["repr-digest"], sha256(CONTENT))
        self.assertIn("etag", answer.headers)
        self.assert_says(answer, True)
        self.assert_stored()

    def test_not_the_last(self) -> None:
        """Every byte is here, but the client has not said that it is all; it does so without a byte more."""
        location = self.created(CONTENT)
        self.assertEqual(self.server.get().status, 404)
        self.assert_says(self.look(location), False)
        self.assertEqual(self.append(location, 100, b"", True).status, 201)
        self.assert_stored()

    def test_last_byte_of_more_to_come(self) -> None:
        """It is the end where clients say of every body that there is more to come, and nowhere else."""
        location = self.created(CONTENT[:40])
        answer = self.append(location, 40, CONTENT[40:], False)
        ends = self.of_version(v3=False, v5=True, v7=False)
        self.assert_says(answer, ends is True)
        self.assertEqual(self.server.get().status, 200 if ends else 404)
        # What ends it, or the last answer again, or too much.
        again = self.append(location, 100, b"", True)
        self.assertEqual(again.status, self.of_version(v3=201, v6=400, v7=201))
        self.assert_stored()

    def test_other_offset(self) -> None:
        location = self.created(CONTENT[:30])
        for offset in (0, 20, 31):
            answer = self.append(location, offset, CONTENT[offset:], True)
            self.assert_problem(
                answer,
                409,
                "offset-mismatch",
                PROBLEM + "mismatching-upload-offset",
                expected_offset=30,
                provided_offset=offset,
            )
            self.assertEqual(answer.headers["upload-offset"], "30")
            self.assert_says(answer, False)
        self.assertEqual(self.offset(location), 30)

    def test_without_offset(self) -> None:
        location = self.created()
        for offset in ("-1", "x", "1.0", "?1", "1, 1", "1234567890123456", ""):
            self.assert_problem(self.append(location, 0, CONTENT, True, Upload_Offset=offset), 400, "bad-upload-header")
        self.assertEqual(self.offset(location), 0)

    def test_body_type(self) -> None:
        location = self.created()
        answer = self.append(location, 0, CONTENT, True, Content_Type="application/octet-stream")
        self.assertEqual(answer.status, self.of_version(v3=201, v6=415))

    def test_silent_on_completeness(self) -> None:
        location = self.created()
        fields = self.fields(None, Upload_Offset=0, Content_Type="application/partial-upload")
        answer = self.server.ask(request("PATCH", location, fields, CONTENT))
        self.assertEqual(answer.status, self.of_version(v3=201, v7=400))

    def test_end_that_is_none(self) -> None:
        """The file would be shorter than it was said to be."""
        location = self.created()
        answer = self.append(location, 0, CONTENT[:50], True)
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        self.assertEqual(self.offset(location), 0)

    def test_other_length(self) -> None:
        location = self.created()
        answer = self.append(location, 0, CONTENT[:50], False, Upload_Length=SIZE + 1)
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        self.assertEqual(self.offset(location), 0)

    def test_beyond_the_end(self) -> None:
        """Refused; the newest version has the upload end with it."""
        location = self.created(CONTENT[:30])
        answer = self.append(location, 30, CONTENT, False)
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        gone = self.of_version(v3=False, v8=True)
        self.assertEqual(self.look(location).status in (404, 410), gone)

    def test_chunks_beyond_the_end(self) -> None:
        location = self.created()
        fields = self.fields(False, Upload_Offset=0, Content_Type="application/partial-upload")
        answer = self.server.ask(chunked("PATCH", location, fields, CONTENT, b"x"))
        self.assert_problem(answer, 400, "size-mismatch", PROBLEM + "inconsistent-upload-length")
        gone = self.of_version(v3=False, v8=True)
        self.assertEqual(self.look(location).status in (404, 410), gone)
        self.assertEqual(self.server.get().status, 404)

    def test_append_to_a_stored_file(self) -> None:
        """Who hasn't heard that it is stored may ask again, in most versions; nothing can be added."""
        location = self.created()
        self.append(location, 0, CONTENT, True)
        answer = self.append(location, 100, b"", True)
        if self.number in (6, 7):
            self.assert_problem(answer, 400, "upload-complete", PROBLEM + "completed-upload")
        else:
            self.assertEqual((answer.status, answer.headers["repr-digest"]), (201, sha256(CONTENT)))
            self.assert_says(answer, True)
        self.assertEqual(self.append(location, 100, b"x", True).status, 400)
        self.assert_stored()

    # DELETE, and what is over

    def test_delete(self) -> None:
        location = self.created(CONTENT[:30])
        answer = self.server.ask(request("DELETE", location, self.fields()))
        self.assertEqual((answer.status, self.own_files("parts")), (204, []))
        self.assertEqual(self.look(location).status, 404)
        self.clock.advance(1)
        newer = self.created()
        self.assertEqual(self.look(location).status, self.of_version(v3=404, v7=410))
        self.assertEqual(self.offset(newer), 0)

    def test_delete_a_stored_file(self) -> None:
        location = self.created()
        self.append(location, 0, CONTENT, True)
        self.assert_problem(self.server.ask(request("DELETE", location, self.fields())), 409, "conflict")
        self.assert_stored()

    def test_lost(self) -> None:
        location = self.created(CONTENT[:30])
        for path in self.own_files("parts"):
            path.unlink()
        status = self.of_version(v3=404, v7=410)
        self.assertEqual(self.look(location).status, status)
        self.assert_problem(self.append(location, 30, CONTENT[30:], True), status, "upload-gone")  # type: ignore[arg-type]

    def test_expired(self) -> None:
        location = self.created(CONTENT[:30])
        self.clock.advance(TTL_S + 1)
        self.assertIn(self.look(location).status, (404, self.of_version(v3=404, v7=410)))

    def test_other_methods(self) -> None:
        location = self.created()
        self.assert_problem(
            self.server.ask(request("POST", location, self.fields(True), b"x")), 405, "method-not-allowed"
        )

    # Digests

    def test_digests(self) -> None:
        """Of the file with a creation of all of it; of the body with a PATCH, under either name."""
        answer = self.create(True, CONTENT, Repr_Digest=sha256(OTHER))
        self.assert_problem(answer, 400, "digest-mismatch")
        location = self.created(CONTENT[:30], Content_Digest=sha256(CONTENT[:30]))
        for name in ("Content_Digest", "Repr_Digest"):
            answer = self.append(location, 30, CONTENT[30:], True, **{name: sha256(CONTENT)})
            self.assert_problem(answer, 400, "digest-mismatch")
            self.assertEqual(self.offset(location), 30)
        stated = dict.fromkeys(("Content_Digest", "Repr_Digest"), sha256(CONTENT[30:]))
        self.assertEqual(self.append(location, 30, CONTENT[30:], True, **stated).status, 201)
        self.assert_stored()

    # What passes

    def test_store_of_states_away(self) -> None:
        """A whole file needs none; all else comes back."""
        location = self.created()
        self.server.state.away = True
        for answer in (self.create(), self.append(location, 0, CONTENT, True), self.look(location)):
            self.assertEqual(answer.status, 503)
            self.assertIn("retry-after", answer.headers)
        answer = self.create(True, CONTENT, method="PUT", target=v("another", SIZE))
        self.assertEqual((answer.status, self.get("another")), (201, CONTENT))

    def test_newest_wins(self) -> None:
        """The connection before is cut, and the offset that is told is accepted next."""
        location = self.created()
        wire = self.server.connect(self.patching(location, 0, CONTENT[:40], True, length=SIZE))
        self.assertEqual(self.offset(location), 40)
        self.assertEqual((wire.end, wire.answers()), (ABORTED, []))
        self.assertEqual(self.append(location, 40, CONTENT[40:], True).status, 201)

    def test_shutdown(self) -> None:
        """Who knows where to go on is cut off, which makes it do so; who comes then is sent away for a while."""
        location = self.created()
        wire = self.server.connect(self.patching(location, 0, CONTENT[:40], True, length=SIZE))
        self.successResultOf(Deferred.fromCoroutine(self.server.uploads.shutdown()))
        self.assertEqual((wire.answers(), wire.end), ([], ABORTED))
        self.assertEqual(self.server.entries[-1].reason, "unavailable")
        self.assert_problem(self.append(location, 40, CONTENT[40:], True), 503, "unavailable")

    def test_slow_body(self) -> None:
        """Whoever is too slow is cut off without an answer, which makes it go on; progress may have been told."""
        server = self.server = self.serve(limits=Limits(read_timeout_s=10))
        wire = server.connect(self.patching(self.created(), 0, CONTENT[:40], True, length=SIZE))
        for _ in range(12):
            self.clock.advance(1)
        self.assertEqual(wire.end, ABORTED)
        self.assertEqual(
            set(re.findall(rb"^HTTP/1.1 ([0-9]+)", wire.transport.value(), re.MULTILINE)) - {b"104"}, set()
        )

    def test_busy(self) -> None:
        """Another process doesn't let go of it."""
        location = self.created(CONTENT[:30])
        (part,) = self.own_files("parts")
        with part.open("rb") as file:
            flock(file, LOCK_EX)
            wire = self.server.connect(self.patching(location, 30, CONTENT[30:], True))
            for _ in range(round(PATIENCE_S * 10) + 20):
                self.clock.advance(0.1)
        answer = wire.answer()
        self.assert_problem(answer, 503, "busy")
        self.assertIn("retry-after", answer.headers)

    # Together with the others

    def test_finished_by_a_put_of_the_rest(self) -> None:
        self.created(CONTENT[:30])
        answer = self.server.ask(request("PUT", U, {"Content-Range": "bytes 30-99/100"}, CONTENT[30:]))
        self.assertEqual(answer.status, 201)
        self.assert_stored()

    def test_begun_by_a_put_of_a_part(self) -> None:
        """The 202 tells the URL."""
        answer = self.server.ask(request("PUT", U, {"Content-Range": "bytes 0-29/100"}, CONTENT[:30]))
        self.assertEqual(answer.status, 202)
        self.assertEqual(self.append(answer.headers["location"], 30, CONTENT[30:], True).status, 201)
        self.assert_stored()

    # 104

    def inform(self, server: Server | None = None, **more: object) -> list[tuple[int, dict[str, str]]]:
        """What the client of a PUT of the whole file hears before the answer."""
        data = request("PUT", U, self.fields(True, **more), CONTENT)
        wire = (server or self.server).connect(data)
        self.assertEqual(wire.answer().status, 201)
        return interim(wire)

    def test_informed(self) -> None:
        """Of a URL where the client can go on if the connection breaks."""
        data = request("PUT", U, self.fields(True), CONTENT[:40], length=SIZE)
        wire = self.server.connect(data)
        ((status, headers),) = interim(wire)
        self.assertEqual(status, 104)
        self.assertEqual(headers["upload-draft-interop-version"], str(self.number))
        limit = self.of_version(v3=None, v6=f"expires={TTL_S:.0f}", v7=f"max-age={TTL_S:.0f}")
        self.assertEqual(headers.get("upload-limit"), limit)
        wire.vanish()
        location = headers["location"]
        self.assertEqual(self.offset(location), 40)
        self.assertEqual(self.append(location, 40, CONTENT[40:], True).status, 201)
        self.assert_stored()

    def test_informed_and_gone_at_once(self) -> None:
        """What was told is there, even if nothing has arrived."""
        wire = self.server.connect(request("PUT", U, self.fields(True), b"", length=SIZE))
        ((_, headers),) = interim(wire)
        wire.vanish()
        self.assertEqual(self.offset(headers["location"]), 0)

    def test_informed_before_100(self) -> None:
        wire = self.server.connect(request("PUT", U, self.fields(True, Expect="100-continue"), length=SIZE))
        self.assertEqual([status for status, _ in interim(wire)], [104, 100])
        wire.send(CONTENT)
        self.assertEqual((wire.answer().status, wire.answer().interim), (201, (104, 100)))

    def test_not_informed(self) -> None:
        """Behind proxies, by order, in HTTP/1.0."""
        for name in ("X_Forwarded_For", "X_Forwarded_Proto", "X_Real_IP", "Forwarded", "Via"):
            self.assertEqual(self.inform(**{name: "x"}), [], name)
        self.assertEqual(self.inform(self.serve(interim_responses="off")), [])
        wire = self.server.connect(request("PUT", v("x", SIZE), self.fields(True), CONTENT, version="1.0"))
        self.assertEqual((interim(wire), wire.answer().status), ([], 201))

    def test_informed_by_order(self) -> None:
        informed = self.inform(self.serve(interim_responses="on"), Via="1.1 proxy")
        self.assertEqual([status for status, _ in informed], [104])

    def test_refused_without(self) -> None:
        wire = self.server.connect(request("PUT", v(PATH, 99), self.fields(True), CONTENT))
        self.assertEqual((interim(wire), wire.answer().status), ([], 403))

    def test_not_informed_is_a_put(self) -> None:
        """Whoever isn't told where to go on sends all of it again, of which what is here is not lost."""
        self.server.broken(PATH, CONTENT, 40)
        wire = self.server.connect(request("PUT", U, self.fields(True, Via="x"), CONTENT[:20], length=SIZE))
        wire.vanish()
        self.assertEqual(self.server.head(U).headers["upload-offset"], "40")

    def test_progress(self) -> None:
        """At most twice, and only what is durable."""
        size = 8 * CHECKPOINT_BYTES
        target = v("film", size)
        wire = self.server.connect(request("PUT", target, self.fields(True), length=size))
        for _ in range(8):
            wire.send(bytes(CHECKPOINT_BYTES))
        told = [headers["upload-offset"] for status, headers in interim(wire)[1:]]
        expected = [str(3 * CHECKPOINT_BYTES), str(6 * CHECKPOINT_BYTES)]
        self.assertEqual(told, self.of_version(v3=[], v5=expected))
        self.assertEqual(wire.answer().status, 201)


class Version3Tests(EveryVersion, DraftTestCase):
    """iOS 17."""

    number = 3


class Version4Tests(EveryVersion, DraftTestCase):
    """Nobody's, as far as is known."""

    number = 4


class Version5Tests(EveryVersion, DraftTestCase):
    """iOS 18.0."""

    number = 5


class Version6Tests(EveryVersion, DraftTestCase):
    """iOS 18.1."""

    number = 6


class Version7Tests(EveryVersion, DraftTestCase):
    """Nobody's, as far as is known."""

    number = 7


class Version8Tests(EveryVersion, DraftTestCase):
    """iOS 26."""

    number = 8


class OtherTests(DraftTestCase):
    """What isn't about a version."""

    def test_no_version(self) -> None:
        """A client of the RFC to be: all as in the newest version, but for interim responses."""
        self.number = None
        wire = self.server.connect(request("PUT", U, self.fields(True), CONTENT))
        self.assertEqual(interim(wire), [])
        answer = wire.answer()
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"))
        self.assert_says(answer, True)

    def test_unknown_version(self) -> None:
        """The same; never refused."""
        for number, path in (("9", "a"), ("2", "b"), ("x", "c")):
            fields = {"Upload-Draft-Interop-Version": number, "Upload-Complete": "?1"}
            wire = self.server.connect(request("PUT", v(path, SIZE), fields, CONTENT))
            answer = wire.answer()
            self.assertEqual((answer.status, answer.headers["upload-complete"], interim(wire)), (201, "?1", []))

    def test_parts_without_a_version(self) -> None:
        self.number = None
        location = self.created(CONTENT[:30])
        self.assertEqual(self.append(location, 30, CONTENT[30:], True).status, 201)
        self.assert_stored()

    def test_field_that_is_none(self) -> None:
        """A malformed field is passed over: the PUT is one like any other."""
        for value in ("1", "true", "?2", "?1, ?1", ""):
            fields = {"Upload-Draft-Interop-Version": "8", "Upload-Complete": value}
            wire = self.server.connect(request("PUT", v("f" + str(len(value)), SIZE), fields, CONTENT))
            self.assertEqual((wire.answer().status, interim(wire)), (201, []), value)

    def test_client_that_resumes_by_itself(self) -> None:
        """Apple's systems put their fields beside those of a program that knows of parts."""
        self.server.broken(PATH, CONTENT, 30)
        fields = self.fields(True, Content_Range="bytes 30-99/100")
        wire = self.server.connect(request("PUT", U, fields, CONTENT[30:]))
        self.assertEqual((wire.answer().status, interim(wire)), (201, []))
        self.assert_stored()

    def test_options(self) -> None:
        location = self.created()
        for target in (U, location):
            self.assertEqual(self.server.ask(request("OPTIONS", target)).headers["upload-limit"], "min-size=0")
        limited = self.serve(max_upload_bytes=1000)
        self.assertEqual(limited.ask(request("OPTIONS", U)).headers["upload-limit"], "max-size=1000")

    def test_limit(self) -> None:
        """It stands beside the time that is left."""
        self.server = self.serve(max_upload_bytes=1000)
        self.assertEqual(self.create().headers["upload-limit"], f"max-size=1000, max-age={TTL_S:.0f}")

    def test_v3_signature(self) -> None:
        """It covers PUT, and allows what would store the same file."""
        server = self.server = self.serve(accept_v3=True)
        for method in ("PUT", "POST", "PATCH"):
            target = v3(f"{method}/f", int(NOW) + 100)
            self.assertEqual(self.create(True, CONTENT, method=method, target=target).status, 201)
            self.assertEqual(self.get(f"{method}/f"), CONTENT)
        answer = server.ask(request("POST", v3(PATH, int(NOW) + 100), self.fields(False), b""))
        self.assert_problem(answer, 411, "length-required")

    def test_type_of_a_patch(self) -> None:
        """That of a creation by PATCH is not the file's."""
        target = v2(PATH, SIZE, "image/jpeg")
        answer = self.create(method="PATCH", target=target, Content_Type="application/partial-upload")
        self.assertEqual(answer.status, 201)

    def test_forms(self) -> None:
        self.assertEqual(self.create(True, CONTENT, method="PUT", Content_Type="multipart/form-data").status, 415)

    def test_no_interim_responses_to_an_empty_creation(self) -> None:
        """Its answer says as much."""
        self.assertEqual(self.create().interim, ())

    def test_digests_that_are_malformed(self) -> None:
        """They are passed over, which is logged."""
        self.assertEqual(self.create(True, CONTENT, Repr_Digest="sha-256=x").status, 201)
        self.assertIn("repr-digest is malformed", "\n".join(self.logged()))
