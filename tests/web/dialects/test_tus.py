"""Uploads in tus 1.0.0: what the protocol's text asks of a server, and what its reference server is tested for."""

from __future__ import annotations

import errno
import hashlib
from base64 import b64encode
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from hmacfs.net.limits import Limits
from hmacfs.uploads.turns import PATIENCE_S
from tests.net.wire import ABORTED, Answer, Wire
from tests.web.support import NOW, PATH, TTL_S, URL, Server, ServerTestCase, bearer, request, v, v2, v3

CONTENT = bytes(range(100))
SIZE = len(CONTENT)
U = v(PATH, SIZE)
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
METADATA = "filename cGhvdG8uanBn,filetype aW1hZ2UvanBlZw=="


def chunked(method: str, target: str, headers: Mapping[str, str], *chunks: bytes) -> bytes:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request(method, target, {**headers, "Transfer-Encoding": "chunked"}) + coded + b"0\r\n\r\n"


def checksum(content: bytes, algorithm: str = "sha1") -> dict[str, str]:
    return {"Upload-Checksum": f"{algorithm} {b64encode(hashlib.new(algorithm, content).digest()).decode()}"}


class TusTestCase(ServerTestCase):
    """A tus client, and a server."""

    def tearDown(self) -> None:
        super().tearDown()
        for line in self.logged():
            self.assertNotRegex(line, r"\.up/[A-Za-z0-9_-]{32}")

    def post(
        self,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        target: str = U,
        size: int | None = SIZE,
        server: Server | None = None,
    ) -> Answer:
        length = {} if size is None else {"Upload-Length": str(size)}
        answer = (server or self.server).ask(request("POST", target, {**TUS, **length, **(headers or {})}, body))
        self.assertEqual(answer.headers["tus-resumable"], "1.0.0")
        return answer

    def created(self, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> str:
        """The URL of a new upload."""
        answer = self.post(headers, body)
        self.assertEqual(answer.status, 201)
        return answer.headers["location"]

    def patching(
        self,
        target: str,
        offset: int,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> bytes:
        """The bytes of a PATCH."""
        stated = {**TUS, **BYTES, "Upload-Offset": str(offset), **(headers or {})}
        return request("PATCH", target, stated, content, length=length)

    def patch_(self, target: str, offset: int, content: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        answer = self.server.ask(self.patching(target, offset, content, headers))
        self.assertEqual(answer.headers["tus-resumable"], "1.0.0")
        return answer

    def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        answer = self.server.ask(request(method, target, {**TUS, **(headers or {})}, body))
        self.assertEqual(answer.headers["tus-resumable"], "1.0.0")
        return answer

    def offset(self, target: str) -> int | None:
        """What HEAD tells; ``None`` if there is no upload."""
        answer = self.ask("HEAD", target)
        return int(answer.headers["upload-offset"]) if answer.status == 200 else None

    def assert_stored(self, content: bytes = CONTENT) -> None:
        self.assertEqual((self.get(PATH), self.own_files("parts")), (content, []))

    def assert_kept(self, target: str, arrived: int) -> None:
        """So many bytes are here, on the disk and by the server's word, and nothing can be downloaded."""
        self.assertEqual(self.offset(target), arrived)
        (path,) = self.own_files("parts")
        self.assertEqual((path.stat().st_size, self.server.get().status), (arrived, 404))


class OptionsTests(TusTestCase):
    """What the server tells of itself."""

    def check(self, target: str) -> None:
        answer = self.server.ask(request("OPTIONS", target))
        self.assertEqual((answer.status, answer.body), (204, b""))
        told = {
            "tus-resumable": "1.0.0",
            "tus-version": "1.0.0",
            "tus-extension": "creation,creation-with-upload,expiration,checksum,termination",
            "tus-checksum-algorithm": "sha1,sha256,sha512,md5",
        }
        self.assertEqual({name: answer.headers[name] for name in told}, told)
        self.assertNotIn("tus-max-size", answer.headers)

    def test_of_a_slot(self) -> None:
        self.check(URL)

    def test_of_an_upload(self) -> None:
        self.check(self.created())

    def test_limit(self) -> None:
        answer = self.serve(max_upload_bytes=1000).ask(request("OPTIONS", URL))
        self.assertEqual(answer.headers["tus-max-size"], "1000")

    def test_whatever_the_version(self) -> None:
        """The client's version means nothing to OPTIONS."""
        self.assertEqual(self.server.ask(request("OPTIONS", URL, {"Tus-Resumable": "0.2.2"})).status, 204)


class VersionTests(TusTestCase):
    """Which version of the protocol a request is in."""

    def test_another_one(self) -> None:
        """412 with the versions that are spoken, and nothing is done."""
        location = self.created()
        for data in (
            request("POST", U, {"Tus-Resumable": "foo", "Upload-Length": "100"}),
            self.patching(location, 0, CONTENT, {"Tus-Resumable": "0.2.2"}),
            request("DELETE", location, {"Tus-Resumable": "2.0.0"}),
            request("HEAD", location, {"Tus-Resumable": "2.0.0"}),
        ):
            answer = self.server.ask(data)
            self.assertEqual((answer.status, answer.headers["tus-version"]), (412, "1.0.0"), data)
            self.assertEqual(answer.headers["tus-resumable"], "1.0.0")
        self.assert_kept(location, 0)

    def test_none(self) -> None:
        location = self.created()
        for data in (
            request("POST", U, {"Upload-Length": "100"}),
            request("PATCH", location, {**BYTES, "Upload-Offset": "0"}, CONTENT),
        ):
            answer = self.server.ask(data)
            self.assert_refused(answer, 412, "unsupported-protocol")
            self.assertEqual(answer.headers["tus-version"], "1.0.0")
        self.assert_kept(location, 0)


class CreationTests(TusTestCase):
    """POST to a slot."""

    def test_created(self) -> None:
        """201 with the URL of an upload of which nothing is here."""
        answer = self.post()
        self.assertEqual((answer.status, answer.body), (201, b""))
        self.assertRegex(answer.headers["location"], r"\A/upload/\.up/[A-Za-z0-9_-]{32}-[0-9]+\Z")
        self.assertNotIn("upload-offset", answer.headers)
        self.assert_kept(answer.headers["location"], 0)

    def test_without_a_prefix(self) -> None:
        server = self.serve(upload_sub_dir=())
        answer = self.post(target=U.removeprefix("/upload"), server=server)
        self.assertRegex(answer.headers["location"], r"\A/\.up/")
        patched = server.ask(self.patching(answer.headers["location"], 0, CONTENT))
        self.assertEqual((patched.status, self.get(PATH)), (204, CONTENT))

    def test_not_where_a_proxy_says(self) -> None:
        """The URL has no host, so that none has to be believed."""
        location = self.created({"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example;proto=https"})
        self.assertTrue(location.startswith("/upload/.up/"))

    def test_empty_file(self) -> None:
        """It is complete at once."""
        answer = self.post(target=v(PATH, 0), size=0)
        self.assertEqual((answer.status, self.get(PATH), len(self.server.published)), (201, b"", 1))
        self.assertIn("etag", answer.headers)
        self.assertEqual(self.offset(answer.headers["location"]), 0)

    def test_length(self) -> None:
        """A creation says how long the file is, and says it well."""
        for headers in (
            {},
            {"Upload-Length": "-5"},
            {"Upload-Length": "x"},
            {"Upload-Length": "1e2"},
            {"Upload-Length": "9" * 16},
            {"Upload-Length": "100, 100"},
            {"Upload-Defer-Length": "1"},
            {"Upload-Defer-Length": "bad"},
            {"Upload-Defer-Length": "1", "Upload-Length": "100"},
        ):
            self.assert_refused(self.post(headers, size=None), 400, "bad-upload-header")
        self.assertEqual(self.own_files("parts"), [])

    def test_too_large(self) -> None:
        server = self.serve(max_upload_bytes=99)
        self.assert_refused(self.post(server=server), 413, "too-large", server)

    def test_no_room(self) -> None:
        """It is said before the first byte is sent."""
        server = self.serve(free_bytes=lambda: 99)
        self.assert_refused(self.post(server=server), 507, "no-space", server)
        self.assertEqual(self.own_files("parts"), [])

    def test_concatenation(self) -> None:
        """Is never taken for something else."""
        for value in ("partial", "final;/upload/.up/a /upload/.up/b", "final;"):
            self.assert_refused(self.post({"Upload-Concat": value}), 400, "bad-upload-header")

    def test_form(self) -> None:
        answer = self.server.ask(request("POST", U, {"Content-Type": "multipart/form-data; boundary=x"}, b"x"))
        self.assert_refused(answer, 415, "bad-media-type")

    def test_again(self) -> None:
        """Another creation is another upload: the one before is over."""
        first = self.created({}, None)
        self.patch_(first, 0, CONTENT[:40])
        second = self.created()
        self.assertNotEqual(second, first)
        self.assert_kept(second, 0)
        self.assertEqual(self.ask("HEAD", first).status, 410)
        self.assert_refused(self.patch_(first, 40, CONTENT[40:]), 410, "upload-gone")
        self.assertEqual(self.ask("DELETE", first).status, 410)
        self.assertEqual(self.patch_(second, 0, CONTENT).status, 204)
        self.assert_stored()

    def test_of_what_is_stored(self) -> None:
        """Nothing is overwritten."""
        self.server.put(PATH, CONTENT)
        self.assert_refused(self.post(), 409, "conflict")
        self.assert_refused(self.post(BYTES, b"x" * SIZE), 409, "conflict")
        self.assert_stored()

    def test_of_the_same_file(self) -> None:
        """A client that didn't hear that its file is stored may send it again, and hears it then."""
        location = self.created(BYTES, CONTENT)
        answer = self.post(BYTES, CONTENT)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"))
        self.assertEqual(answer.headers["location"], location)
        self.assertEqual(self.offset(location), 100)

    def test_state_store_away(self) -> None:
        """An upload that could not be found again is not promised."""
        self.server.state.away = True
        answer = self.post()
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "3"))
        self.assertEqual(self.own_files("parts"), [])

    def test_patch(self) -> None:
        """There is no upload at a slot's URL."""
        self.assert_refused(self.patch_(U, 0, CONTENT), 404, "not-found")

    def test_survives_a_restart(self) -> None:
        location = self.created()
        self.patch_(location, 0, CONTENT[:40])
        self.server = self.serve(self.open_store())
        self.assert_kept(location, 40)
        self.assertEqual(self.patch_(location, 40, CONTENT[40:]).status, 204)
        self.assert_stored()


class SignatureTests(TusTestCase):
    """What the slot's signature says of a creation."""

    def test_none(self) -> None:
        self.assert_refused(self.post(target=URL), 403, "missing-signature")

    def test_another_size(self) -> None:
        self.assert_refused(self.post(size=99), 403, "bad-signature")

    def test_wrong_one_is_explained(self) -> None:
        """To the operator, as that of a PUT is."""
        self.post(target=v(f"upload/{PATH}", SIZE).replace("/upload/upload/", "/upload/"))
        self.assertRegex(self.server.entries[-1].remark, "upload/")

    def test_type_in_metadata(self) -> None:
        """The signed type is found where clients put it, and not in the request's own."""
        for number, key in enumerate(("filetype", "type", "content-type", "Content-Type")):
            path = f"a{number}/f.bin"
            metadata = {"Upload-Metadata": f"{key} {b64encode(b'image/x-odd').decode()}"}
            answer = self.post({**metadata, **BYTES}, CONTENT, target=v2(path, SIZE, "image/x-odd"))
            self.assertEqual(answer.status, 201)
            self.assertEqual(self.server.get(path).headers["content-type"], "image/x-odd")

    def test_type_by_the_name(self) -> None:
        answer = self.post(BYTES, CONTENT, target=v2(PATH, SIZE, "image/jpeg"))
        self.assertEqual((answer.status, self.server.get().headers["content-type"]), (201, "image/jpeg"))

    def test_wrong_type(self) -> None:
        self.assert_refused(self.post(target=v2(PATH, SIZE, "image/x-odd")), 403, "bad-signature")

    def test_type_is_kept(self) -> None:
        """Where it isn't signed."""
        self.created({"Upload-Metadata": "filetype aW1hZ2UvYXZpZg==", **BYTES}, CONTENT)
        self.assertEqual(self.server.get().headers["content-type"], "image/avif")

    def test_bearer_token(self) -> None:
        answer = self.post(bearer(PATH, SIZE), target=URL)
        self.assertEqual(answer.status, 201)
        self.assertEqual(self.patch_(answer.headers["location"], 0, CONTENT).status, 204)
        self.assert_stored()

    def test_bearer_token_for_another_size(self) -> None:
        self.assert_refused(self.post(bearer(PATH, 99), target=URL), 413, "size-mismatch")

    def test_bearer_token_that_is_over(self) -> None:
        """It allows nothing to begin; what has begun goes on without it."""
        location = self.post(bearer(PATH, SIZE, exp=NOW + 5), target=URL).headers["location"]
        self.clock.advance(10)
        self.assert_refused(self.post(bearer(PATH, SIZE, exp=NOW + 5), target=URL), 403, "expired")
        self.assertEqual(self.patch_(location, 0, CONTENT).status, 204)

    def test_v3(self) -> None:
        """What it signs of the method is that a file may be put here."""
        server = self.server = self.serve(accept_v3=True)
        answer = self.post(target=v3(PATH, int(NOW) + 60))
        self.assertEqual(answer.status, 201)
        self.assertEqual(self.patch_(answer.headers["location"], 0, CONTENT).status, 204)
        self.assertEqual(len(server.published), 1)


class WithUploadTests(TusTestCase):
    """A POST that brings bytes."""

    def test_first_bytes(self) -> None:
        answer = self.post(BYTES, CONTENT[:5])
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "5"))
        self.assertIn("upload-expires", answer.headers)
        self.assert_kept(answer.headers["location"], 5)

    def test_whole_file(self) -> None:
        answer = self.post(BYTES, CONTENT)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "100"))
        self.assertIn("repr-digest", answer.headers)
        self.assertNotIn("upload-expires", answer.headers)
        self.assert_stored()

    def test_chunked(self) -> None:
        data = chunked("POST", U, {**TUS, **BYTES, "Upload-Length": "100"}, CONTENT[:30], CONTENT[30:40])
        answer = self.server.ask(data)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (201, "40"))

    def test_too_long(self) -> None:
        """There is no upload then."""
        self.assert_refused(self.post(BYTES, CONTENT + b"x"), 413, "size-mismatch")
        answer = self.server.ask(chunked("POST", U, {**TUS, **BYTES, "Upload-Length": "100"}, CONTENT, b"x"))
        self.assert_refused(answer, 413, "size-mismatch")
        self.assertEqual((self.own_files("parts"), self.tree()), ([], []))

    def test_another_type(self) -> None:
        """The body is none of the file's, and is passed over; the connection goes on."""
        data = request("POST", U, {**TUS, "Upload-Length": "100", "Content-Type": "application/false"}, CONTENT[:5])
        wire = self.server.connect(data + request("GET", URL))
        self.assertEqual([answer.status for answer in wire.answers()], [201, 404])
        created = wire.answers()[0]
        self.assertNotIn("upload-offset", created.headers)
        self.assert_kept(created.headers["location"], 0)

    def test_broken(self) -> None:
        """What had arrived waits; but a client that doesn't know where begins another upload."""
        wire = self.server.connect(
            request("POST", U, {**TUS, **BYTES, "Upload-Length": "100"}, CONTENT[:40], length=100)
        )
        wire.vanish()
        self.assertEqual(self.server.head(U).headers["upload-offset"], "40")
        self.assert_kept(self.created(), 0)

    def test_checksum(self) -> None:
        self.assertEqual(self.post({**BYTES, **checksum(CONTENT)}, CONTENT).status, 201)
        self.assert_stored()

    def test_wrong_checksum(self) -> None:
        """There is no upload then."""
        answer = self.post({**BYTES, **checksum(b"x")}, CONTENT)
        self.assert_refused(answer, 460, "digest-mismatch")
        self.assertEqual((self.own_files("parts"), self.tree()), ([], []))


class MetadataTests(TusTestCase):
    """``Upload-Metadata``."""

    def told(self, sent: str) -> str | None:
        """What HEAD says of what was sent."""
        return self.ask("HEAD", self.created({"Upload-Metadata": sent})).headers.get("upload-metadata")

    def test_as_it_was_sent(self) -> None:
        self.assertEqual(self.told(METADATA), METADATA)

    def test_malformed_pairs(self) -> None:
        """Are passed over; an empty value is none of them."""
        self.assertEqual(self.told("foo aGVsbG8=, bar d29ybGQ=, hah INVALID, empty"), "foo aGVsbG8=,bar d29ybGQ=,empty")

    def test_none(self) -> None:
        self.assertIsNone(self.told(""))
        self.assertNotIn("upload-metadata", self.ask("HEAD", self.created()).headers)

    def test_too_much(self) -> None:
        answer = self.post({"Upload-Metadata": "a " + "A" * 2048})
        self.assert_refused(answer, 400, "bad-upload-header")

    def test_from_the_part(self) -> None:
        """It is known even if the state store has lost it."""
        location = self.created({"Upload-Metadata": METADATA})
        self.server.stop_state()
        (self.root / ".hmacfs" / "state.sqlite").unlink()
        self.server = self.serve(self.open_store())
        self.assertEqual(self.ask("HEAD", location).headers["upload-metadata"], METADATA)

    def test_of_a_stored_file(self) -> None:
        location = self.created({"Upload-Metadata": METADATA, **BYTES}, CONTENT)
        self.assertEqual(self.ask("HEAD", location).headers["upload-metadata"], METADATA)


class HeadTests(TusTestCase):
    """How far an upload is."""

    def test_unfinished(self) -> None:
        location = self.created()
        self.patch_(location, 0, CONTENT[:40])
        answer = self.ask("HEAD", location)
        self.assertEqual(answer.status, 200)
        told = ("upload-offset", "upload-length", "cache-control")
        self.assertEqual([answer.headers[name] for name in told], ["40", "100", "no-store"])
        self.assertNotIn("upload-defer-length", answer.headers)
        self.assertEqual(answer.headers.get("content-length", "0"), "0")

    def test_stored(self) -> None:
        """The offset is the length, for as long as the record is kept."""
        answer = self.ask("HEAD", self.created(BYTES, CONTENT))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (200, "100"))
        self.assertNotIn("upload-expires", answer.headers)

    def test_unknown(self) -> None:
        """404, and nothing that could be taken for an offset."""
        location = self.created()
        for target, status in (
            ("/upload/.up", 404),
            ("/upload/.up/", 404),
            ("/upload/.up/x", 404),
            (location + "/x", 404),
            (location.replace("/.up/", "/.up/%2e"), 404),
            (location[:-3] + ("A" if location[-3] != "A" else "B") + "-1", 404),
            (location + "0", 410),
        ):
            answer = self.ask("HEAD", target)
            self.assertEqual((answer.status, answer.body), (status, b""), target)
            self.assertNotIn("upload-offset", answer.headers)

    def test_every_byte_is_here(self) -> None:
        """The server died before it could publish the file. A client that hears so much takes it for stored; so it is."""
        location = self.created()
        self.patch_(location, 0, CONTENT[:99])
        self.disk.fail("link", errno.EIO)
        self.assertEqual(self.patch_(location, 99, CONTENT[99:]).status, 503)
        self.disk.before = lambda _method: None
        self.assertEqual(self.offset(location), 100)
        self.assert_stored()

    def test_died_when_it_was_stored(self) -> None:
        """And before that could be recorded."""
        location = self.created()
        self.server.state.before = self.dies_at_finish
        answer = self.patch_(location, 0, CONTENT)
        self.server.state.away = False
        self.server.state.before = lambda _method: None
        self.assertEqual((answer.status, self.offset(location)), (204, 100))

    def dies_at_finish(self, method: str) -> None:
        if method == "finish":
            self.server.state.away = True

    def test_without_the_header(self) -> None:
        """In disguise, which is a word for tus by itself."""
        location = self.created()
        answer = self.server.ask(request("POST", location, {"X-HTTP-Method-Override": "HEAD"}))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (200, "0"))

    def test_state_store_away(self) -> None:
        location = self.created()
        self.server.state.away = True
        answer = self.ask("HEAD", location)
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "3"))


class PatchTests(TusTestCase):
    """Bytes for an upload."""

    def setUp(self) -> None:
        super().setUp()
        self.location = self.created()

    def test_part(self) -> None:
        answer = self.patch_(self.location, 0, CONTENT[:40])
        self.assertEqual((answer.status, answer.body, answer.headers["upload-offset"]), (204, b"", "40"))
        self.assert_kept(self.location, 40)

    def test_to_the_end(self) -> None:
        """The file is stored then, under the slot's URL, and the answer says which it is."""
        self.patch_(self.location, 0, CONTENT[:40])
        answer = self.patch_(self.location, 40, CONTENT[40:])
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "100"))
        self.assertEqual(answer.headers["etag"], self.server.get().headers["etag"])
        digest = b64encode(hashlib.sha256(CONTENT).digest()).decode()
        self.assertEqual(answer.headers["repr-digest"], f"sha-256=:{digest}:")
        self.assert_stored()
        self.assertEqual((len(self.server.published), self.server.metric("uploads_total")), (1, 1))

    def test_byte_by_byte(self) -> None:
        """No number of requests is too many, as long as each brings something."""
        for at in range(SIZE):
            self.assertEqual(self.patch_(self.location, at, CONTENT[at : at + 1]).status, 204)
        self.assert_stored()

    def test_nothing(self) -> None:
        for _ in range(20):
            answer = self.patch_(self.location, 0, b"")
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "0"))

    def test_override(self) -> None:
        """Where something on the way knows no PATCH, whatever the method is."""
        for offset, method in enumerate(("POST", "PUT")):
            headers = {**TUS, **BYTES, "Upload-Offset": str(offset), "X-HTTP-Method-Override": "PATCH"}
            if method == "POST":
                answer = self.server.ask(request(method, self.location, headers, CONTENT[offset : offset + 1]))
                self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, str(offset + 1)))

    def test_no_override(self) -> None:
        answer = self.ask("POST", self.location, BYTES, CONTENT)
        self.assert_refused(answer, 405, "method-not-allowed")

    def test_unknown(self) -> None:
        target = "/upload/.up/" + "A" * 32 + "-1"
        self.assert_refused(self.patch_(target, 0, CONTENT), 404, "not-found")
        self.assertEqual(self.server.metric("upload_errors_total", reason="not-found"), 1)

    def test_another_offset(self) -> None:
        """409, with the one to go on from, and nothing changes."""
        self.patch_(self.location, 0, CONTENT[:40])
        for offset in (0, 39, 41, 100, 101):
            answer = self.patch_(self.location, offset, CONTENT[offset:])
            self.assert_refused(answer, 409, "offset-mismatch")
            self.assertEqual(answer.headers["upload-offset"], "40")
        self.assert_kept(self.location, 40)

    def test_malformed_offset(self) -> None:
        for headers in ({"Upload-Offset": "-5"}, {"Upload-Offset": "x"}, {"Upload-Offset": ""}):
            self.assert_refused(self.patch_(self.location, 0, CONTENT, headers), 400, "bad-upload-header")
        self.assert_refused(self.ask("PATCH", self.location, BYTES, CONTENT), 400, "bad-upload-header")
        self.assert_kept(self.location, 0)

    def test_another_type(self) -> None:
        for content_type in ("application/octet-stream", "text/plain", ""):
            answer = self.patch_(self.location, 0, CONTENT, {"Content-Type": content_type})
            self.assert_refused(answer, 415, "bad-media-type")
        answer = self.ask("PATCH", self.location, {"Upload-Offset": "0"}, CONTENT)
        self.assert_refused(answer, 415, "bad-media-type")
        self.assert_kept(self.location, 0)

    def test_length_once_more(self) -> None:
        """It is known since the upload was created."""
        answer = self.patch_(self.location, 0, CONTENT, {"Upload-Length": "100"})
        self.assert_refused(answer, 400, "bad-upload-header")

    def test_too_long(self) -> None:
        """Refused before the body is read, as its length says it."""
        self.patch_(self.location, 0, CONTENT[:40])
        wire = self.server.connect(self.patching(self.location, 40, b"", length=61))
        self.assert_refused(wire.answer(), 413, "size-mismatch")
        self.assert_kept(self.location, 40)

    def test_too_long_and_chunked(self) -> None:
        """What fits is kept, what goes beyond it refused as soon as it comes; HEAD then has the file stored."""
        headers = {**TUS, **BYTES, "Upload-Offset": "0"}
        data = chunked("PATCH", self.location, headers, CONTENT[:50], CONTENT[50:] + b"too much", b"x" * 1000)
        wire = self.server.connect(data[: data.index(b"too much") + 10])
        self.assert_refused(wire.answer(), 413, "size-mismatch")
        self.assertEqual((self.server.get().status, self.offset(self.location)), (404, 100))
        self.assert_stored()

    def test_chunked(self) -> None:
        """A body that ends before the file does is as good as any."""
        headers = {**TUS, **BYTES, "Upload-Offset": "0"}
        answer = self.server.ask(chunked("PATCH", self.location, headers, CONTENT[:7], CONTENT[7:40]))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "40"))
        headers["Upload-Offset"] = "40"
        answer = self.server.ask(chunked("PATCH", self.location, headers, CONTENT[40:]))
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "100"))
        self.assert_stored()

    def test_stored_file(self) -> None:
        """Whoever didn't hear the last answer may ask for it again; there is nothing more to be had."""
        self.patch_(self.location, 0, CONTENT)
        answer = self.patch_(self.location, 100, b"")
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, "100"))
        self.assert_refused(self.patch_(self.location, 100, b"x"), 413, "size-mismatch")
        self.assert_refused(self.patch_(self.location, 0, CONTENT), 409, "offset-mismatch")
        self.assert_stored()

    def test_deleted_file(self) -> None:
        self.patch_(self.location, 0, CONTENT)
        self.server.store.delete(self.path(PATH))
        self.assert_refused(self.patch_(self.location, 100, b""), 410, "upload-gone")

    def test_stored_by_another(self) -> None:
        """With another credential for the same slot."""
        self.patch_(self.location, 0, CONTENT[:40])
        self.assertEqual(self.server.ask(request("PUT", URL, bearer(PATH, SIZE), bytes(SIZE))).status, 201)
        self.assert_refused(self.patch_(self.location, 40, CONTENT[40:]), 409, "conflict")
        self.assertEqual(self.get(PATH), bytes(SIZE))

    def test_after_a_put(self) -> None:
        """Both dialects are about one upload."""
        self.patch_(self.location, 0, CONTENT[:40])
        self.assertEqual(self.server.head(U).headers["upload-offset"], "40")
        rest = request("PUT", U, {"Content-Range": "bytes 40-79/100"}, CONTENT[40:80])
        answer = self.server.ask(rest)
        self.assertEqual((answer.status, answer.headers["location"]), (202, self.location))
        self.assertEqual(self.patch_(self.location, 80, CONTENT[80:]).status, 204)
        self.assert_stored()

    def test_after_another_put(self) -> None:
        """A whole file that is another one takes the upload's place."""
        self.patch_(self.location, 0, CONTENT[:40])
        other = bytes(SIZE)
        wire = self.server.connect(request("PUT", U, None, other)[:-10])
        self.assert_refused(self.patch_(self.location, 40, CONTENT[40:]), 410, "upload-gone")
        self.assertEqual(wire.end, ABORTED)

    def test_broken(self) -> None:
        """What has arrived is kept."""
        wire = self.server.connect(self.patching(self.location, 0, CONTENT[:40], length=100))
        wire.vanish()
        self.assert_kept(self.location, 40)

    def test_broken_and_chunked(self) -> None:
        headers = {**TUS, **BYTES, "Upload-Offset": "0"}
        wire = self.server.connect(chunked("PATCH", self.location, headers, CONTENT[:40])[:-5])
        wire.vanish()
        self.assert_kept(self.location, 40)

    def test_too_slow(self) -> None:
        """A 5xx: clients don't try again after a 408."""
        server = self.server = self.serve(limits=Limits(read_timeout_s=10))
        wire = server.connect(self.patching(self.location, 0, CONTENT[:40], length=100))
        self.clock.pump([1] * 12)
        self.assert_refused(wire.answer(), 503, "timeout")
        self.assertEqual(wire.answer().headers["retry-after"], "1")
        self.assert_kept(self.location, 40)

    def test_disk_full(self) -> None:
        self.disk.fail("write", errno.ENOSPC)
        self.assert_refused(self.patch_(self.location, 0, CONTENT), 507, "no-space")

    def test_state_store_away(self) -> None:
        self.server.state.away = True
        answer = self.patch_(self.location, 0, CONTENT)
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "3"))

    def test_part_lost(self) -> None:
        self.patch_(self.location, 0, CONTENT[:40])
        (path,) = self.own_files("parts")
        path.write_bytes(b"x")
        self.assert_refused(self.patch_(self.location, 40, CONTENT[40:]), 410, "upload-gone")

    def test_part_lost_before_its_first_byte(self) -> None:
        (path,) = self.own_files("parts")
        path.unlink()
        self.assert_refused(self.patch_(self.location, 0, CONTENT), 410, "upload-gone")
        self.assertEqual(self.own_files("parts"), [])

    def test_waits_for_100(self) -> None:
        """The body is asked for when it is known where it belongs."""
        head, _, body = self.patching(self.location, 0, CONTENT, {"Expect": "100-continue"}).partition(b"\r\n\r\n")
        wire = self.server.connect(head + b"\r\n\r\n")
        self.assertTrue(wire.transport.value().startswith(b"HTTP/1.1 100 "))
        wire.send(body)
        self.assertEqual(wire.answer().status, 204)
        wire = self.server.connect(head.replace(b"Upload-Offset: 0", b"Upload-Offset: 5") + b"\r\n\r\n")
        self.assertEqual((wire.answer().status, wire.answer().interim), (409, ()))


class ExpirationTests(TusTestCase):
    """``Upload-Expires``, and what comes after."""

    def expires_in_s(self, answer: Answer) -> float:
        return parsedate_to_datetime(answer.headers["upload-expires"]).timestamp() - self.clock.seconds()

    def test_told(self) -> None:
        """On every answer about an upload that isn't finished, and it moves on with each byte."""
        answer = self.post()
        location = answer.headers["location"]
        self.assertRegex(
            answer.headers["upload-expires"], r"\A[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\Z"
        )
        self.assertEqual(self.expires_in_s(answer), TTL_S)
        self.clock.advance(600)
        self.assertEqual(self.expires_in_s(self.ask("HEAD", location)), TTL_S - 600)
        self.assertEqual(self.expires_in_s(self.patch_(location, 0, CONTENT[:40])), TTL_S)
        self.assertEqual(self.expires_in_s(self.ask("HEAD", location)), TTL_S)

    def test_over(self) -> None:
        """410, whether or not somebody has cleaned up."""
        location = self.created()
        self.patch_(location, 0, CONTENT[:40])
        self.clock.advance(TTL_S + 1)
        self.assertEqual(self.ask("HEAD", location).status, 410)
        self.assert_refused(self.patch_(location, 40, CONTENT[40:]), 410, "upload-gone")
        self.assertEqual(self.ask("DELETE", location).status, 410)


class ChecksumTests(TusTestCase):
    """``Upload-Checksum``."""

    def setUp(self) -> None:
        super().setUp()
        self.location = self.created()
        self.patch_(self.location, 0, CONTENT[:40])

    def test_right(self) -> None:
        for at, algorithm in enumerate(("sha1", "sha256", "sha512", "md5"), 40):
            piece = CONTENT[at : at + 1]
            answer = self.patch_(self.location, at, piece, checksum(piece, algorithm))
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, str(at + 1)))

    def test_wrong(self) -> None:
        """460, and the bytes are forgotten, though each of them has arrived."""
        for algorithm in ("sha1", "sha256", "sha512", "md5"):
            answer = self.patch_(self.location, 40, CONTENT[40:60], checksum(b"x", algorithm))
            self.assert_refused(answer, 460, "digest-mismatch")
            self.assert_kept(self.location, 40)

    def test_wrong_at_the_end(self) -> None:
        """Nothing is published, and the upload goes on."""
        answer = self.patch_(self.location, 40, CONTENT[40:], checksum(b"x"))
        self.assert_refused(answer, 460, "digest-mismatch")
        self.assert_kept(self.location, 40)
        self.assertEqual(self.patch_(self.location, 40, CONTENT[40:], checksum(CONTENT[40:])).status, 204)
        self.assert_stored()

    def test_wrong_for_the_whole_file(self) -> None:
        location = self.created()
        self.assert_refused(self.patch_(location, 0, CONTENT, checksum(b"x")), 460, "digest-mismatch")
        self.assert_kept(location, 0)

    def test_broken(self) -> None:
        """Bytes that nobody could verify are not kept."""
        wire = self.server.connect(self.patching(self.location, 40, CONTENT[40:60], checksum(CONTENT[40:]), length=60))
        wire.vanish()
        self.assert_kept(self.location, 40)

    def test_too_long(self) -> None:
        """Nor are those of a body that goes on beyond the file."""
        headers = {**TUS, **BYTES, "Upload-Offset": "40", **checksum(CONTENT[40:])}
        answer = self.server.ask(chunked("PATCH", self.location, headers, CONTENT[40:], b"x"))
        self.assert_refused(answer, 413, "size-mismatch")
        self.assert_kept(self.location, 40)

    def test_unknown(self) -> None:
        for value in ("crc32 AAAAAA==", "SHA1 " + "A" * 27 + "=", "sha1", "sha1 x", "sha1 AAAA", ""):
            answer = self.patch_(self.location, 40, CONTENT[40:], {"Upload-Checksum": value})
            self.assert_refused(answer, 400, "bad-digest")
        self.assert_kept(self.location, 40)


class TerminationTests(TusTestCase):
    """DELETE."""

    def test_unfinished(self) -> None:
        """It is as if there had never been any."""
        location = self.created()
        self.patch_(location, 0, CONTENT[:40])
        answer = self.ask("DELETE", location)
        self.assertEqual((answer.status, self.own_files("parts")), (204, []))
        self.assertEqual(self.ask("HEAD", location).status, 404)
        self.assert_refused(self.patch_(location, 40, CONTENT[40:]), 404, "not-found")
        self.assert_refused(self.ask("DELETE", location), 404, "not-found")

    def test_begun_again(self) -> None:
        """The next upload to the slot has another URL."""
        location = self.created()
        self.ask("DELETE", location)
        self.clock.advance(1)
        newer = self.created()
        self.assert_refused(self.patch_(location, 0, CONTENT[:40]), 410, "upload-gone")
        self.assert_kept(newer, 0)

    def test_override(self) -> None:
        location = self.created()
        self.assertEqual(self.ask("POST", location, {"X-HTTP-Method-Override": "DELETE"}).status, 204)
        self.assertEqual(self.own_files("parts"), [])

    def test_stored(self) -> None:
        """What is stored stays."""
        location = self.created(BYTES, CONTENT)
        self.assert_refused(self.ask("DELETE", location), 409, "conflict")
        self.assert_stored()

    def test_stops_a_request(self) -> None:
        location = self.created()
        wire = self.server.connect(self.patching(location, 0, CONTENT[:40], length=100))
        self.assertEqual((self.ask("DELETE", location).status, wire.end), (204, ABORTED))


class DownloadTests(TusTestCase):
    """GET."""

    def test_unfinished(self) -> None:
        """No URL delivers a part of a file as if it were one."""
        location = self.created()
        self.patch_(location, 0, CONTENT[:40])
        for target in (location, URL):
            self.assertEqual(self.server.ask(request("GET", target)).status, 404)

    def test_stored(self) -> None:
        """The file is at the slot's URL."""
        location = self.created(BYTES, CONTENT)
        self.assertEqual(self.server.ask(request("GET", location)).status, 404)
        self.assertEqual(self.server.get().body, CONTENT)


class NewestTests(TusTestCase):
    """Two requests for one upload."""

    def setUp(self) -> None:
        super().setUp()
        self.location = self.created()

    def writing(self) -> Wire:
        return self.server.connect(self.patching(self.location, 0, CONTENT[:40], length=100))

    def test_newest_wins(self) -> None:
        older = self.writing()
        self.assertEqual(self.patch_(self.location, 40, CONTENT[40:]).status, 204)
        self.assertEqual((older.end, older.answers()), (ABORTED, []))
        self.assertEqual(self.server.entries[-2].reason, "superseded")
        self.assert_stored()

    def test_asking_stops_it(self) -> None:
        older = self.writing()
        self.assertEqual((self.offset(self.location), older.end), (40, ABORTED))

    def test_other_process(self) -> None:
        """One that doesn't let go: 423, at which clients come back."""
        (name,) = (path.name for path in self.own_files("parts"))
        held = self.open_store().reopen(name)
        self.addCleanup(held.close)
        wire = self.server.connect(self.patching(self.location, 0, CONTENT))
        self.clock.pump([0.1] * (round(PATIENCE_S / 0.1) + 2))
        self.assert_refused(wire.answer(), 423, "busy")
        self.assertEqual(wire.answer().headers["retry-after"], "1")

    def test_shutdown(self) -> None:
        wire = self.writing()
        self.successResultOf(Deferred.fromCoroutine(self.server.uploads.shutdown()))
        self.assert_refused(wire.answer(), 503, "unavailable")
        self.assertEqual(wire.answer().headers["tus-resumable"], "1.0.0")
        self.server = self.serve(self.open_store())
        self.assert_kept(self.location, 40)


class LogTests(TusTestCase):
    """What is said of it."""

    def test_line(self) -> None:
        """An upload's URL opens it, and is in no log; see also :meth:`tearDown`."""
        self.patch_(self.created(), 0, CONTENT[:40])
        entry = self.server.entries[-1]
        self.assertEqual((entry.method, entry.path, entry.status), ("PATCH", "/upload/.up/...", 204))
        self.assertTrue(entry.session)

    def test_reserved_name(self) -> None:
        """No slot can be where uploads are."""
        target = "/upload/.up/photo.jpg"
        self.assertEqual(self.server.ask(request("PUT", target, None, b"x")).status, 405)
        self.assertEqual(self.server.get("a/.up/b").status, 404)


#: What a client may do to an upload: bytes from an offset (how far it is off, how many, how they come), a request that
#: breaks, a question, another process.
_STEPS = st.one_of(
    st.tuples(
        st.just("patch"),
        st.sampled_from([0, 0, 0, -1, 1, 50]),
        st.integers(0, 45),
        st.sampled_from(["plain", "chunked", "right", "wrong"]),
    ),
    st.tuples(st.just("cut"), st.just(0), st.integers(0, 45), st.sampled_from(["plain", "right"])),
    st.tuples(st.sampled_from(["ask", "restart"]), st.just(0), st.just(0), st.just("")),
)


class SequenceTests(TusTestCase):
    """Whatever a client does, and in whatever order."""

    @given(st.lists(_STEPS, max_size=12))
    @settings(max_examples=40)
    def test_any(self, steps: list[tuple[str, int, int, str]]) -> None:
        """The offset that is told is that of the bytes which are here, and the file is what was sent."""
        # Requests without one new byte would be too many sooner or later.
        self.server = self.serve(max_attempts=1000)
        location = self.created()
        at = 0
        for what, off, size, how in steps:
            if what == "restart":
                self.server = self.serve(self.open_store(), max_attempts=1000)
            elif what == "ask":
                self.assertEqual(self.offset(location), at)
            elif what == "cut":
                at = self.cut(location, at, min(size, SIZE - at), how)
            else:
                at = self.step(location, at, off, min(size, SIZE - at), how)
        if at < SIZE:
            self.assertEqual(self.server.get().status, 404)
        self.assertEqual(self.patch_(location, at, CONTENT[at:]).status, 204)
        self.assertEqual((self.offset(location), self.get(PATH)), (SIZE, CONTENT))
        self.server.store.delete(self.path(PATH))

    def cut(self, location: str, at: int, size: int, how: str) -> int:
        """A connection breaks; what could be verified by nobody is forgotten."""
        headers = checksum(CONTENT[at:]) if how == "right" else {}
        if at < SIZE:
            piece = CONTENT[at : at + size]
            wire = self.server.connect(self.patching(location, at, piece, headers, length=SIZE - at))
            if not wire.answers():
                wire.vanish()
        if size == SIZE - at:
            return SIZE
        return at if how == "right" else at + size

    def step(self, location: str, at: int, off: int, size: int, how: str) -> int:
        piece = CONTENT[at : at + size]
        headers = {**TUS, **BYTES, "Upload-Offset": str(max(0, at + off))}
        if how in ("right", "wrong"):
            headers.update(checksum(piece if how == "right" else piece + b"x"))
        if how == "chunked":
            answer = self.server.ask(chunked("PATCH", location, headers, *([piece] if piece else [])))
        else:
            answer = self.server.ask(request("PATCH", location, headers, piece))
        if headers["Upload-Offset"] != str(at):
            self.assertEqual((answer.status, answer.headers["upload-offset"]), (409, str(at)))
            return at
        if how == "wrong" and size:
            self.assertEqual(answer.status, 460)
            return at
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (204, str(at + size)))
        return at + size
