"""Uploads that did not end by themselves, in the plain dialect: the contract in ``docs/protocol.md``, row by row."""

from __future__ import annotations

import errno
import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from hmacfs.uploads.turns import PATIENCE_S
from tests.net.wire import ABORTED, Answer
from tests.web.support import NOW, PATH, TOKEN, TTL_S, URL, Server, ServerTestCase, bearer, chunked, request, v, v3

CONTENT = bytes(range(100))
SIZE = len(CONTENT)
U = v(PATH, SIZE)
SESSION = {"X-Session-Token": TOKEN}
OTHER_SESSION = {"X-Session-Token": "tok-other-0002"}
JSON = {"Accept": "application/problem+json"}


def part(
    first: int, last: int, headers: Mapping[str, str] | None = None, *, total: int = SIZE, content: bytes = CONTENT
) -> bytes:
    """A PUT of the bytes from *first* to *last*, as curl -C does it."""
    announced = {"Content-Range": f"bytes {first}-{last}/{total}", **(headers or {})}
    return request("PUT", U, announced, content[first : last + 1])


def whole(content: bytes = CONTENT, headers: Mapping[str, str] | None = None) -> bytes:
    return request("PUT", U, headers, content)


def query() -> bytes:
    return request("PUT", U, {"Content-Range": f"bytes */{SIZE}"}, b"")


class ResumingTestCase(ServerTestCase):
    """A client that has the slot URL, and a server."""

    def offset(self, server: Server | None = None) -> int | None:
        """What HEAD tells; ``None`` if there is no upload."""
        answer = (server or self.server).head(U)
        return int(answer.headers["upload-offset"]) if answer.status == 204 else None

    def interrupt(self, arrived: int, headers: Mapping[str, str] | None = None) -> None:
        """Leave an upload with so many bytes."""
        self.server.broken(PATH, CONTENT, arrived, headers)

    def assert_stored(self, answer: Answer, content: bytes = CONTENT) -> None:
        self.assertEqual((answer.status, self.get(PATH)), (201, content))
        digest = b64encode(hashlib.sha256(content).digest()).decode()
        self.assertEqual(answer.headers["repr-digest"], f"sha-256=:{digest}:")
        self.assertEqual(answer.headers["upload-offset"], str(len(content)))
        self.assertEqual(self.own_files("parts"), [])

    def assert_mismatch(self, answer: Answer, offset: int) -> None:
        """409, with the offset to go on from."""
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (409, str(offset)))
        self.assertEqual(answer.headers["upload-complete"], "?0")


class InterruptedTests(ResumingTestCase):
    """What is left of a broken connection."""

    def test_nothing_visible(self) -> None:
        """Neither for GET, nor in the directory."""
        self.interrupt(40)
        self.assertEqual((self.server.get().status, self.tree()), (404, []))

    def test_progress(self) -> None:
        """HEAD tells all that it takes to go on."""
        self.interrupt(40, SESSION)
        answer = self.server.head(U)
        self.assertEqual((answer.status, answer.body), (204, b""))
        told = ("upload-offset", "upload-length", "upload-complete", "x-session-token", "cache-control", "upload-limit")
        self.assertEqual(
            [answer.headers[name] for name in told], ["40", "100", "?0", TOKEN, "no-store", f"max-age={TTL_S:.0f}"]
        )

    def test_progress_is_durable(self) -> None:
        """The offset is of bytes that have been synced."""
        self.disk.calls.clear()
        self.interrupt(40)
        methods = [method for method, _ in self.disk.calls]
        self.assertIn("sync_data", methods[methods.index("write") :])

    def test_progress_ages(self) -> None:
        """How long it can be resumed counts from its last byte."""
        self.interrupt(40)
        self.clock.advance(600)
        self.assertEqual(self.server.head(U).headers["upload-limit"], f"max-age={TTL_S - 600:.0f}")

    def test_nobody_else_is_told(self) -> None:
        """Without the slot's signature there is nothing at the URL."""
        self.interrupt(40)
        for target in (URL, v(PATH, SIZE + 1), U[:-1] + ("0" if U[-1] != "0" else "1")):
            answer = self.server.head(target)
            self.assertEqual(answer.status, 404)
            self.assertNotIn("upload-offset", answer.headers)

    def test_never_begun(self) -> None:
        self.assertEqual(self.server.head(U).status, 404)

    def test_whole(self) -> None:
        """HEAD of a stored file is the download's; to who has the signature it says that the upload is complete."""
        self.server.ask(whole())
        answer = self.server.head(U)
        self.assertEqual((answer.status, answer.headers["upload-complete"]), (200, "?1"))
        self.assertEqual(answer.headers["content-length"], "100")
        self.assertNotIn("upload-complete", self.server.head(URL).headers)

    def test_after_a_restart(self) -> None:
        """Another process takes over where the first one was."""
        self.interrupt(40)
        later = self.serve(self.open_store())
        self.assertEqual(self.offset(later), 40)
        self.assert_stored(later.ask(part(40, 99)))

    def test_after_a_restart_without_state(self) -> None:
        """Nor does it take the state store: the part file says enough by itself."""
        self.interrupt(40)
        self.server.stop_state()
        (self.root / ".hmacfs" / "state.sqlite").unlink()
        later = self.serve(self.open_store())
        self.assertEqual(self.offset(later), 40)
        self.assert_stored(later.ask(part(40, 99)))

    def test_not_one_byte(self) -> None:
        """A connection that broke before the first byte has left nothing."""
        self.interrupt(0)
        self.assertEqual((self.server.head(U).status, self.own_files("parts")), (404, []))


class RestTests(ResumingTestCase):
    """``Content-Range``: the body is a part of the file."""

    def test_rest(self) -> None:
        """The signature is of the whole file's size, and stays right for a part of it."""
        self.interrupt(40)
        self.assert_stored(self.server.ask(part(40, 99)))

    def test_rest_is_logged_and_counted(self) -> None:
        self.interrupt(40)
        self.server.ask(part(40, 99))
        self.assertEqual(self.server.entries[-1].resumed_at, 40)
        self.assertEqual(self.server.metric("uploads_resumed_total"), 1)
        self.assertEqual(self.server.metric("resumed_bytes_saved_total"), 40)

    def test_parts(self) -> None:
        """A file in pieces: 202 until the last one."""
        for first, last in ((0, 29), (30, 59)):
            answer = self.server.ask(part(first, last))
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (202, str(last + 1)))
            self.assertEqual(answer.headers["upload-complete"], "?0")
            self.assertEqual(self.tree(), [])
        self.assert_stored(self.server.ask(part(60, 99)))

    def test_gap(self) -> None:
        """Bytes that begin after the offset can't be placed; the client is told where to go on."""
        self.interrupt(40)
        answer = self.server.ask(part(50, 99, JSON))
        self.assert_mismatch(answer, 40)
        problem = json.loads(answer.body)
        self.assertEqual(problem["type"], "https://iana.org/assignments/http-problem-types#mismatching-upload-offset")
        self.assertEqual((problem["expected-offset"], problem["provided-offset"]), (40, 50))
        self.assertEqual(self.offset(), 40)

    def test_gap_is_not_waited_for(self) -> None:
        """Its body is not wanted."""
        headers = {"Content-Range": "bytes 50-99/100", "Expect": "100-continue"}
        self.assertEqual(self.server.ask(request("PUT", U, headers, length=50)).interim, ())

    def test_overlap(self) -> None:
        """Bytes that are here are compared, not written."""
        self.interrupt(40)
        self.disk.calls.clear()
        self.assert_stored(self.server.ask(part(20, 99)))
        self.assertEqual([method for method, _ in self.disk.calls].count("write"), 1)

    def test_part_within(self) -> None:
        """All of it is here already."""
        self.interrupt(40)
        answer = self.server.ask(part(10, 29))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (202, "40"))

    def test_overlap_differs(self) -> None:
        """A part that isn't of this file: 409, and what is here stays."""
        self.interrupt(40)
        wrong = CONTENT[:30] + b"!" + CONTENT[31:]
        answer = self.server.ask(part(20, 99, content=wrong))
        self.assert_refused(answer, 409, "content-mismatch")
        self.assert_mismatch(answer, 40)
        self.assert_stored(self.server.ask(part(40, 99)))

    def test_other_total(self) -> None:
        """A ``Content-Range`` that speaks of another size than was signed doesn't fit the signature."""
        self.interrupt(40)
        target = {"Content-Range": "bytes 40-100/101"}
        answer = self.server.ask(request("PUT", v(PATH, SIZE), target, CONTENT[40:] + b"x"))
        self.assert_refused(answer, 400, "bad-range")
        self.assertEqual(self.offset(), 40)

    def test_other_total_of_new_upload(self) -> None:
        """So it can't begin one either: a slot is for one size."""
        answer = self.server.ask(part(0, 99, total=1000))
        self.assert_refused(answer, 403, "bad-signature")

    def test_malformed(self) -> None:
        """What can't be understood is never ignored: the bytes would go to the wrong place."""
        for headers in (
            {"Content-Range": "bytes 40-99/*"},
            {"Content-Range": "bytes 0-39/100"},
            {"Content-Range": "40-99/100"},
            {"Range": "bytes=40-"},
        ):
            self.assert_refused(self.server.ask(request("PUT", U, headers, CONTENT[40:])), 400, "bad-range")

    def test_lftp(self) -> None:
        """``put -c`` writes it like this."""
        self.interrupt(40)
        self.assert_stored(self.server.ask(request("PUT", U, {"Range": "bytes=40-99/100"}, CONTENT[40:])))

    def test_rest_of_stored_file(self) -> None:
        """Compared as well: the client has not heard that it was the last part."""
        self.server.ask(whole())
        self.assertEqual(self.server.ask(part(40, 99)).status, 201)
        self.assert_refused(self.server.ask(part(40, 99, content=bytes(100))), 409, "conflict")

    def test_broken_again(self) -> None:
        """What arrived of the rest counts."""
        self.interrupt(40)
        wire = self.server.connect(part(40, 99)[:-30])
        wire.vanish()
        self.assertEqual(self.offset(), 70)

    def test_content_digest(self) -> None:
        """A digest of the part is verified before the part counts; a wrong one changes nothing."""
        self.interrupt(40)
        digest = b64encode(hashlib.sha256(CONTENT[40:]).digest()).decode()
        wrong = self.server.ask(part(40, 99, {"Content-Digest": f"sha-256=:{'A' * 43}=:"}))
        self.assert_refused(wrong, 400, "digest-mismatch")
        self.assertEqual(self.offset(), 40)
        self.assert_stored(self.server.ask(part(40, 99, {"Content-Digest": f"sha-256=:{digest}:"})))

    def test_content_digest_of_broken_part(self) -> None:
        """Bytes that could not be verified are not kept."""
        self.interrupt(40)
        self.server.connect(part(40, 99, {"Content-Digest": f"sha-256=:{'A' * 43}=:"})[:-30]).vanish()
        self.assertEqual(self.offset(), 40)

    def test_repr_digest(self) -> None:
        """One of the whole file is checked with the last part, over the bytes of both connections."""
        self.interrupt(40)
        digest = b64encode(hashlib.sha256(CONTENT).digest()).decode()
        self.assert_stored(self.server.ask(part(40, 99, {"Repr-Digest": f"sha-256=:{digest}:"})))

    def test_wrong_repr_digest(self) -> None:
        """The file is not what the client has: nothing of it is kept, and who comes back is told so."""
        self.interrupt(40)
        answer = self.server.ask(part(40, 99, {"Repr-Digest": f"sha-256=:{'A' * 43}=:"}))
        self.assert_refused(answer, 400, "digest-mismatch")
        self.assertEqual(self.own_files("parts"), [])
        self.assert_refused(self.server.ask(part(40, 99)), 410, "upload-gone")
        self.assert_stored(self.server.ask(whole()))


class QueryTests(ResumingTestCase):
    """``bytes */N``: begins an upload without a byte, or asks how far it is."""

    def test_begins(self) -> None:
        """The client learns its token before anything can break."""
        answer = self.server.ask(query())
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (202, "0"))
        self.assertEqual(answer.headers["upload-complete"], "?0")
        token = answer.headers["x-session-token"]
        self.assertEqual(self.server.head(U).headers["x-session-token"], token)
        self.assert_stored(self.server.ask(whole(headers={"X-Session-Token": token})))

    def test_tells_where_the_upload_is(self) -> None:
        """Its own URL, for the dialects that go on with it there."""
        location = self.server.ask(query()).headers["location"]
        self.assertRegex(location, r"\A/upload/\.up/[A-Za-z0-9_-]{32}-[0-9]+\Z")
        self.assertEqual(self.server.ask(part(0, 39)).headers["location"], location)
        self.assertNotIn("location", self.server.ask(part(40, 99)).headers)

    def test_asks(self) -> None:
        self.interrupt(40)
        self.assertEqual(self.server.ask(query()).headers["upload-offset"], "40")
        self.assert_stored(self.server.ask(part(40, 99)))

    def test_complete(self) -> None:
        self.server.ask(whole())
        answer = self.server.ask(query())
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"))

    def test_empty_file(self) -> None:
        """Of no bytes, all are here."""
        answer = self.server.ask(request("PUT", v("a/empty", 0), {"Content-Range": "bytes */0"}, b""))
        self.assertEqual((answer.status, self.get("a/empty")), (201, b""))

    def test_needs_the_signature(self) -> None:
        answer = self.server.ask(request("PUT", URL, {"Content-Range": "bytes */100"}, b""))
        self.assert_refused(answer, 403, "missing-signature")

    def test_with_a_body(self) -> None:
        answer = self.server.ask(request("PUT", U, {"Content-Range": "bytes */100"}, b"x"))
        self.assert_refused(answer, 400, "bad-range")


class WholeBodyTests(ResumingTestCase):
    """The whole body, sent once more: what every client does that knows nothing of all this."""

    def test_same(self) -> None:
        """What is here is compared, the rest is written."""
        self.interrupt(40)
        self.disk.calls.clear()
        self.assert_stored(self.server.ask(whole()))
        self.assertEqual([method for method, _ in self.disk.calls].count("write"), 1)

    def test_chunked(self) -> None:
        slot = bearer(PATH, SIZE)
        self.server.connect(request("PUT", URL, slot, CONTENT[:40], length=SIZE)).vanish()
        self.assert_stored(self.server.ask(chunked(URL, slot, CONTENT[:60], CONTENT[60:])))

    def test_different(self) -> None:
        """OMEMO clients encrypt anew for each try: the new body takes the place of the old from the first difference."""
        self.interrupt(40)
        other = CONTENT[:20] + bytes(80)
        self.assert_stored(self.server.ask(whole(other)), other)

    def test_different_and_broken(self) -> None:
        """Of the new body there may be less than there was of the old: the old bytes must not come back."""
        self.interrupt(40)
        other = CONTENT[:20] + bytes(80)
        self.server.connect(whole(other)[:-70]).vanish()
        self.assertEqual(self.offset(), 30)
        self.assert_stored(self.server.ask(part(30, 99, content=other)), other)

    @settings(max_examples=60)
    @given(st.data())
    def test_never_a_mix(self, data: st.DataObject) -> None:
        """Whatever was here and whatever comes, the file is the last whole body, or the part is refused."""
        number = len(self.server.entries)
        path = f"mix/{number}"
        size = data.draw(st.integers(1, 60), label="size")
        first = bytes(data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size), label="first"))
        second = bytes(data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size), label="second"))
        arrived = data.draw(st.integers(0, size - 1), label="arrived")
        start = data.draw(st.integers(0, size - 1), label="start")
        self.server.broken(path, first, arrived)
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        cut = data.draw(st.integers(0, size - start), label="cut")
        sent = request("PUT", v(path, size), headers, second[start:])
        middle = len(sent) - (size - start) + cut
        answer = self.server.ask(sent[:middle], sent[middle:])
        if start == 0:
            self.assertEqual((answer.status, self.get(path)), (201, second))
        elif start <= arrived and first[start:arrived] == second[start:arrived]:
            self.assertEqual((answer.status, self.get(path)), (201, first[:start] + second[start:]))
        else:
            self.assertEqual((answer.status, self.get(path)), (409, None))
            self.assertEqual(answer.headers["upload-offset"], str(arrived))


class TokenTests(ResumingTestCase):
    """``X-Session-Token``."""

    def test_made(self) -> None:
        """Who brings none is given one, that would do."""
        token = self.server.ask(part(0, 39)).headers["x-session-token"]
        self.assertRegex(token, "^[A-Za-z0-9._~-]{8,128}$")
        answer = self.server.ask(part(40, 99, {"X-Session-Token": token}))
        self.assertEqual((answer.status, answer.headers["x-session-token"]), (201, token))

    def test_echoed(self) -> None:
        """Whatever is answered, the token stands in it."""
        for data, status in (
            (request("PUT", URL, SESSION, CONTENT), 403),
            (request("PUT", U, {**SESSION, "Content-Range": "x"}, CONTENT), 400),
            (request("PUT", U, {**SESSION, "Content-Type": "multipart/form-data"}, CONTENT), 415),
            (request("HEAD", U, SESSION), 404),
            (request("DELETE", U, SESSION), 404),
            (part(50, 99, SESSION), 409),
            (whole(headers=SESSION), 201),
            (whole(bytes(100), SESSION), 409),
            (request("HEAD", U, SESSION), 200),
        ):
            answer = self.server.ask(data)
            self.assertEqual((answer.status, answer.headers["x-session-token"]), (status, TOKEN))

    def test_unusable(self) -> None:
        """One that could not be echoed or logged safely is refused, and not repeated."""
        for token in ("short", "x" * 129, "a b c d e f", "tok;drop-table"):
            answer = self.server.ask(request("PUT", U, {"X-Session-Token": token}, CONTENT))
            self.assert_refused(answer, 400, "bad-session-token")
            self.assertNotIn(token.encode(), answer.body)
            self.assertNotIn("x-session-token", answer.headers)

    def test_another_begins_anew(self) -> None:
        """A new session knows nothing of the old one's bytes."""
        self.interrupt(40, SESSION)
        answer = self.server.ask(part(50, 99, OTHER_SESSION))
        self.assert_mismatch(answer, 0)
        self.assert_stored(self.server.ask(whole(headers=OTHER_SESSION)))

    def test_unannounced_rest(self) -> None:
        """As the first servers with session tokens took it: a body that is as long as what is missing."""
        self.interrupt(40, SESSION)
        self.assert_stored(self.server.ask(request("PUT", U, SESSION, CONTENT[40:])))

    def test_unannounced_rest_without_token(self) -> None:
        """Without a token it could be anything."""
        self.interrupt(40)
        self.assert_mismatch(self.server.ask(request("PUT", U, None, CONTENT[40:])), 40)

    def test_neither_whole_nor_rest(self) -> None:
        self.interrupt(40, SESSION)
        self.assert_mismatch(self.server.ask(request("PUT", U, SESSION, CONTENT[41:])), 40)

    def test_is_logged_in_part(self) -> None:
        """Two sessions can be told apart in the log."""
        self.server.ask(whole(headers=SESSION))
        self.assertEqual(self.server.entries[-1].session, TOKEN)


class SlotTests(ResumingTestCase):
    """The slot's credential, and its time."""

    def test_after_the_token_expired(self) -> None:
        """It was good when the upload began: the rest may come later."""
        slot = bearer(PATH, SIZE)
        self.server.connect(request("PUT", URL, slot, CONTENT[:40], length=SIZE)).vanish()
        self.clock.advance(3600)
        self.assertEqual(self.server.head(URL, slot).headers["upload-offset"], "40")
        rest = request("PUT", URL, {**slot, "Content-Range": "bytes 40-99/100"}, CONTENT[40:])
        self.assert_stored(self.server.ask(rest))

    def test_facts_of_the_beginning(self) -> None:
        """They are the file's, though a request for the rest says nothing of them."""
        slot = bearer(PATH, SIZE, sub="bob@example.org", filetype="audio/ogg", expires=NOW + 9000)
        self.server.connect(request("PUT", URL, slot, CONTENT[:40], length=SIZE)).vanish()
        self.clock.advance(3600)
        self.server.ask(request("PUT", URL, {**slot, "Content-Range": "bytes 40-99/100"}, CONTENT[40:]))
        facts = self.facts(PATH)
        assert facts is not None
        self.assertEqual((facts.content_type, facts.owner, facts.expires), ("audio/ogg", "bob@example.org", NOW + 9000))

    def test_another_slot(self) -> None:
        """Two slots of one path are two uploads; whichever is whole first is the file."""
        self.interrupt(40)
        slot = bearer(PATH, SIZE)
        self.assertEqual(self.server.head(URL, slot).status, 404)
        self.assertEqual(self.server.ask(request("PUT", URL, slot, CONTENT)).status, 201)
        self.assertEqual(self.server.ask(part(40, 99)).status, 201)


class OpenSizeTests(ResumingTestCase):
    """A ``v3`` signature leaves the size open: the requests of one slot may disagree about it."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.serve(accept_v3=True)
        self.target = v3(PATH, int(NOW) + 300)

    def put(self, content: bytes, headers: Mapping[str, str]) -> Answer:  # type: ignore[override]
        return self.server.ask(request("PUT", self.target, headers, content))

    def begin(self) -> None:
        """Ten bytes of a hundred, with a session token."""
        answer = self.put(CONTENT[:10], {"Content-Range": f"bytes 0-9/{SIZE}", **SESSION})
        self.assertEqual(answer.status, 202)

    def test_whole_file_of_another_size(self) -> None:
        """It begins anew, with its own session token or without one, and whether it is shorter than what is here."""
        for content in (CONTENT[:5], CONTENT[:50], CONTENT * 2):
            for headers in ({}, SESSION, OTHER_SESSION):
                self.begin()
                self.assert_stored(self.put(content, headers), content)
                (self.root / PATH).unlink()

    def test_part_of_another_size(self) -> None:
        """It can't be a part of the upload that is here, which stays."""
        self.begin()
        answer = self.put(CONTENT[10:20], {"Content-Range": "bytes 10-19/20"})
        self.assert_refused(answer, 400, "bad-range")
        self.assert_stored(self.put(CONTENT[10:], {"Content-Range": f"bytes 10-99/{SIZE}"}))


class NewestTests(ResumingTestCase):
    """Two requests for one upload: the client knows first that a connection is dead."""

    def test_newest_wins(self) -> None:
        """The older one is cut, what it brought is kept."""
        older = self.server.connect(whole()[:-60])
        self.assert_stored(self.server.ask(part(40, 99)))
        self.assertEqual((older.end, older.answers()), (ABORTED, []))
        self.assertEqual((self.server.entries[0].status, self.server.entries[0].reason), (499, "superseded"))

    def test_asking_stops_it(self) -> None:
        """An offset that is told must be good for the next request, so nobody writes any more."""
        older = self.server.connect(whole()[:-60])
        self.assertEqual((self.offset(), older.end), (40, ABORTED))
        older.send(CONTENT[40:])
        self.assertEqual(self.offset(), 40)

    def test_giving_up_stops_it(self) -> None:
        older = self.server.connect(whole()[:-60])
        self.assertEqual(self.server.ask(request("DELETE", U)).status, 204)
        self.assertEqual((older.end, self.own_files("parts")), (ABORTED, []))

    def test_other_process(self) -> None:
        """A process that doesn't let go of the part, because it doesn't hear: 423 after a while, not a hang."""
        self.interrupt(40)
        (name,) = (path.name for path in self.own_files("parts"))
        held = self.open_store().reopen(name)
        self.addCleanup(held.close)
        wire = self.server.connect(part(40, 99))
        self.assertEqual(wire.answers(), [])
        self.clock.pump([0.1] * (round(PATIENCE_S / 0.1) + 2))
        self.assert_refused(wire.answer(), 423, "busy")
        self.assertEqual(wire.answer().headers["retry-after"], "1")

    def test_other_process_lets_go(self) -> None:
        self.interrupt(40)
        (name,) = (path.name for path in self.own_files("parts"))
        held = self.open_store().reopen(name)
        wire = self.server.connect(part(40, 99))
        self.clock.advance(0.1)
        held.close()
        self.clock.advance(0.1)
        self.assert_stored(wire.answer())


class GiveUpTests(ResumingTestCase):
    """DELETE."""

    def delete(self, target: str = U) -> int:
        return self.server.ask(request("DELETE", target)).status

    def test_unfinished(self) -> None:
        """It is as if it had never begun."""
        self.interrupt(40)
        self.assertEqual(self.delete(), 204)
        self.assertEqual((self.offset(), self.own_files("parts"), self.delete()), (None, [], 404))
        self.assert_stored(self.server.ask(whole()))

    def test_stored(self) -> None:
        """What is stored stays: its URL is known to everybody who has the link."""
        self.server.ask(whole())
        self.assertEqual((self.delete(), self.get(PATH)), (409, CONTENT))

    def test_without_signature(self) -> None:
        self.interrupt(40)
        self.assertEqual((self.delete(URL), self.offset()), (403, 40))

    def test_with_another_signature(self) -> None:
        self.interrupt(40)
        self.assertEqual((self.delete(v(PATH, 99)), self.offset()), (404, 40))


class LostTests(ResumingTestCase):
    """The bytes, or what is known of them, are not there."""

    def test_part_shrank(self) -> None:
        """Fewer bytes than were promised: gone; a new beginning is possible."""
        self.interrupt(40)
        (path,) = self.own_files("parts")
        path.write_bytes(b"x")
        self.assertEqual(self.server.head(U).status, 410)
        self.assert_refused(self.server.ask(part(40, 99)), 410, "upload-gone")
        self.assertEqual(self.server.metric("sessions_lost_total"), 1)
        self.assert_stored(self.server.ask(whole()))

    def test_part_vanished(self) -> None:
        self.interrupt(40)
        (path,) = self.own_files("parts")
        path.unlink()
        self.assertEqual(self.server.head(U).status, 410)
        self.assert_refused(self.server.ask(part(40, 99)), 410, "upload-gone")
        self.assert_stored(self.server.ask(whole()))

    def test_more_than_was_promised(self) -> None:
        """Bytes beyond the last sync may be anything after a crash: they are cut off."""
        self.interrupt(40)
        (path,) = self.own_files("parts")
        with path.open("ab") as file:
            file.write(bytes(20))
        self.assertEqual(self.offset(), 40)
        self.assert_stored(self.server.ask(part(40, 99)))

    def test_no_progress(self) -> None:
        """An upload that is taken up again and again without one new byte is given up."""
        server = self.serve(max_attempts=2)
        server.broken(PATH, CONTENT, 40)
        statuses = []
        for _ in range(3):
            wire = server.connect(part(40, 99)[:-60])
            if wire.answers():
                statuses.append(wire.answer().status)
            else:
                wire.vanish()
        self.assertEqual(statuses, [410])
        self.assertEqual(server.put(PATH, CONTENT).status, 201)


class AwayTests(ResumingTestCase):
    """Nothing is heard of the state store."""

    def setUp(self) -> None:
        super().setUp()
        self.interrupt(40)
        self.server.state.away = True

    def test_plain_upload(self) -> None:
        """Goes on."""
        answer = self.server.put("another/file", CONTENT)
        self.assertEqual((answer.status, self.get("another/file")), (201, CONTENT))

    def test_whole_body_again(self) -> None:
        """So does one that relies on nothing."""
        self.assert_stored(self.server.ask(whole()))

    def test_resuming(self) -> None:
        """What relies on it is told when to come back."""
        for data in (part(40, 99), query(), request("HEAD", U), request("DELETE", U)):
            answer = self.server.ask(data)
            self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "3"))

    def test_afterwards(self) -> None:
        """Everything is as it was."""
        self.server.ask(part(40, 99))
        self.server.state.away = False
        self.assert_stored(self.server.ask(part(40, 99)))

    def test_begun_meanwhile(self) -> None:
        """An upload that broke in that time is known from its part."""
        self.server.broken("another/file", CONTENT, 30)
        self.server.state.away = False
        self.assertEqual(self.server.head(v("another/file", SIZE)).headers["upload-offset"], "30")


class ShutdownTests(ResumingTestCase):
    """The server stops."""

    def test_running_upload(self) -> None:
        """What has arrived is made durable; the client is told to come back."""
        wire = self.server.connect(whole()[:-60])
        self.successResultOf(self.shutdown())
        self.assert_refused(wire.answer(), 503, "unavailable")
        self.assertEqual(wire.answer().headers["retry-after"], "5")
        self.assertEqual(self.offset(self.serve(self.open_store())), 40)

    def test_new_upload(self) -> None:
        self.successResultOf(self.shutdown())
        self.assert_refused(self.server.ask(whole()), 503, "unavailable")

    def shutdown(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.server.uploads.shutdown())


class StorageTests(ResumingTestCase):
    """The disk fails while an upload is at work."""

    def test_no_room(self) -> None:
        """In the middle of the rest: what there was is not worth keeping on a full disk."""
        self.interrupt(40)
        self.disk.fail("write", errno.ENOSPC)
        self.assert_refused(self.server.ask(part(40, 99)), 507, "no-space")
        self.assertEqual(self.own_files("parts"), [])

    def test_input_output_error(self) -> None:
        """What is durable of the upload is kept."""
        self.interrupt(40)
        self.disk.fail("write", errno.EIO)
        self.assert_refused(self.server.ask(part(40, 99)), 503, "unavailable")
        self.disk.before = lambda _method: None
        self.assertEqual(self.offset(), 40)
        self.assert_stored(self.server.ask(part(40, 99)))
