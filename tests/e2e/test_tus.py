"""tus 1.0.0 against a running server: what the specification asks, and what it costs a server to die in between."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from tests.e2e import signing
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.daemon import TomlValue
from tests.e2e.processes import PeerTestCase
from tests.e2e.resuming import sha256
from tests.e2e.sharing import OnRedis, SharedTestCase
from tests.e2e.tus import BYTES, VERSION, TusClient, checksum
from tests.e2e.wire import Answer, Closed, ask

SIZE = 300_000
HALF = 150_000
MAX_BYTES = 1_000_000
EXTENSIONS = {"creation", "creation-with-upload", "expiration", "checksum", "termination"}
MANY = 3_000_000

if TYPE_CHECKING:
    _Case = SharedTestCase
else:
    _Case = object


class ConformanceMixin(_Case):
    """Requests one by one, right and wrong."""

    def setUp(self) -> None:
        super().setUp()
        self.client = TusClient(self.daemon.port, SIZE)

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        return {**super().keys(house), "MaxUploadSize": f"{MAX_BYTES}B"}

    def assert_stored(self, client: TusClient | None = None) -> None:
        """The file is served as it was sent."""
        client = client or self.client
        get = client.get()
        self.assertEqual((get.status, get.header("Repr-Digest")), (200, sha256(client.content)))
        self.assertTrue(get.body == client.content)

    def assert_refused(self, answer: Answer, status: int, at: int | None = None) -> None:
        """That status, in tus; and the upload, if it is one, is where it was."""
        self.assertEqual((answer.status, answer.header("Tus-Resumable")), (status, "1.0.0"), answer.text)
        if at is not None:
            self.assertEqual(self.client.offset(), at)
            self.assertEqual(self.client.get().status, 404)

    # OPTIONS and the version

    def test_options(self) -> None:
        """What the server can, at the slot's URL and at the upload's; the request needs no version."""
        self.client.created()
        for target in (self.client.slot, self.client.upload):
            answer = self.daemon.ask("OPTIONS", target)
            self.assertEqual(answer.status, 204)
            self.assertEqual(answer.header("Tus-Version"), "1.0.0")
            self.assertEqual(set((answer.header("Tus-Extension") or "").split(",")), EXTENSIONS)
            self.assertEqual(answer.header("Tus-Max-Size"), str(MAX_BYTES))
            self.assertIn("sha1", (answer.header("Tus-Checksum-Algorithm") or "").split(","))

    def test_other_version(self) -> None:
        """412 with the versions that would do, and nothing happens."""
        for version in ("foo", "0.2.2", "1.0.1"):
            answer = self.client.create({"Tus-Resumable": version})
            self.assertEqual((answer.status, answer.header("Tus-Version")), (412, "1.0.0"))
        self.client.created()
        for method in ("PATCH", "DELETE"):
            answer = ask(self.daemon.port, method, self.client.upload, {**BYTES, "Tus-Resumable": "2.0.0"}, b"x")
            self.assertEqual((answer.status, answer.header("Tus-Version")), (412, "1.0.0"))
        self.assertEqual(self.client.offset(), 0)

    def test_no_version(self) -> None:
        """A PATCH that is tus by its content type alone: 412, too."""
        self.client.created()
        answer = self.client.patch(0, headers={"Tus-Resumable": None})
        self.assertEqual((answer.status, answer.header("Tus-Version")), (412, "1.0.0"))
        self.assertEqual(self.client.offset(), 0)

    # Creation

    def test_creation(self) -> None:
        """201 with the upload's URL; the metadata come back with HEAD, without what was malformed."""
        answer = self.client.create({"Upload-Metadata": "foo aGVsbG8=, bar d29ybGQ=, hah INVALID, empty"})
        self.assertEqual((answer.status, answer.header("Tus-Resumable")), (201, "1.0.0"))
        self.assertEqual(answer.header("Upload-Offset"), None)
        metadata = self.client.head().header("Upload-Metadata") or ""
        pairs = {key: value for key, _, value in (pair.strip().partition(" ") for pair in metadata.split(","))}
        self.assertEqual(pairs, {"foo": "aGVsbG8=", "bar": "d29ybGQ=", "empty": ""})

    def test_empty_file(self) -> None:
        """Complete at once."""
        client = TusClient(self.daemon.port, 0).created()
        self.assertEqual(client.offset(), 0)
        self.assert_stored(client)

    def test_sizes(self) -> None:
        """One size, of digits, and the signed one: anything else is refused, and no upload begins."""
        for status, headers in (
            (400, {"Upload-Length": "-5"}),
            (400, {"Upload-Length": "many"}),
            (400, {"Upload-Length": ""}),
            (400, {"Upload-Length": None}),
            (400, {"Upload-Defer-Length": "1"}),
            (400, {"Upload-Length": None, "Upload-Defer-Length": "1"}),
            (400, {"Upload-Length": None, "Upload-Defer-Length": "bad"}),
            (400, {"Upload-Concat": "partial"}),
            (400, {"Upload-Concat": "final;/a /b"}),
        ):
            self.assert_refused(self.client.create(headers), status)
        self.assertEqual(self.client.create({"Upload-Length": str(SIZE - 1)}).status, 403)
        large = TusClient(self.daemon.port, b"")
        large.slot = signing.v(large.path, MAX_BYTES + 1)
        self.assert_refused(large.create({"Upload-Length": str(MAX_BYTES + 1)}), 413)

    def test_unsigned(self) -> None:
        """403: a slot is needed."""
        self.client.slot = signing.url_path(self.client.path)
        self.assert_refused(self.client.create(), 403)

    def test_location(self) -> None:
        """An absolute path, which is right behind every proxy and whatever somebody forges."""
        forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "Forwarded": "host=evil.example"}
        location = self.client.create(forged).header("Location") or ""
        self.assertTrue(location.startswith("/upload/.up/"), location)

    def test_creation_again(self) -> None:
        """The newest upload of a slot counts; the one before is gone."""
        first = self.client.created().upload
        self.client.patch(0, self.client.content[:HALF])
        self.client.created()
        self.assertNotEqual(self.client.upload, first)
        self.assertEqual(self.client.offset(), 0)
        second, self.client.upload = self.client.upload, first
        self.assertIn(self.client.head().status, (404, 410))
        self.client.upload = second
        self.assertEqual(self.client.patch(0).status, 204)
        self.assert_stored()

    # Creation with upload

    def test_creation_with_a_beginning(self) -> None:
        """As much as it brings is taken."""
        answer = self.client.create(body=self.client.content[:HALF])
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (201, str(HALF)))
        self.assertEqual(self.client.offset(), HALF)
        self.assertEqual(self.client.patch(HALF).status, 204)
        self.assert_stored()

    def test_creation_with_everything(self) -> None:
        """And then it is stored."""
        answer = self.client.create(body=self.client.content)
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (201, str(SIZE)))
        self.assert_stored()

    def test_creation_with_too_much(self) -> None:
        """413, and no upload."""
        self.assert_refused(self.client.create(body=self.client.content + b"!"), 413)
        self.assertEqual(self.client.get().status, 404)

    def test_creation_with_something_else(self) -> None:
        """A body of another type is no part of the file."""
        answer = self.client.create({"Content-Type": "text/plain"}, b"hello")
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (201, None))
        self.assertEqual(self.client.offset(), 0)

    # HEAD

    def test_head(self) -> None:
        """How far it is, of how much, for how long; not for caches."""
        self.client.created({"Upload-Metadata": "filename ZmlsbS5tcDQ=,is_confidential"})
        self.client.patch(0, self.client.content[:11])
        head = self.client.head()
        self.assertEqual((head.status, head.header("Tus-Resumable")), (200, "1.0.0"))
        self.assertEqual((head.header("Upload-Offset"), head.header("Upload-Length")), ("11", str(SIZE)))
        self.assertEqual(head.header("Cache-Control"), "no-store")
        self.assertEqual(head.header("Upload-Metadata"), "filename ZmlsbS5tcDQ=,is_confidential")
        self.assertEqual(head.header("Upload-Defer-Length"), None)

    def test_unknown(self) -> None:
        """404 to everything, and HEAD says no offset."""
        self.client.created()
        for name in (f"{'A' * 32}-1", "x", "", "..", "A-0"):
            self.client.upload = f"/upload/.up/{name}"
            head = self.client.head()
            self.assertEqual((head.status, head.header("Upload-Offset"), head.body), (404, None, b""))
            self.assertEqual([self.client.patch(0, b"x").status, self.client.delete().status], [404, 404])

    # PATCH

    def test_patches(self) -> None:
        """204 with the offset that it is at, until the end."""
        self.client.created()
        for first, end in ((0, 5), (5, 10), (10, SIZE)):
            self.assertEqual(self.client.get().status, 404)
            answer = self.client.patch(first, self.client.content[first:end])
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (204, str(end)))
            self.assertEqual(answer.header("Tus-Resumable"), "1.0.0")
        self.assert_stored()

    def test_expiry_is_told(self) -> None:
        """With the creation and with every PATCH that leaves the upload unfinished, as a date of HTTP to come."""
        answers = [self.client.create(), self.client.patch(0, self.client.content[:5]), self.client.head()]
        for answer in answers:
            expires = parsedate_to_datetime(answer.header("Upload-Expires") or "")
            self.assertGreater(expires, parsedate_to_datetime(answer.header("Date") or ""))

    def test_method_override(self) -> None:
        """POST for where PATCH and DELETE don't get through."""
        self.client.created()
        headers = {**VERSION, **BYTES, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
        answer = ask(self.daemon.port, "POST", self.client.upload, headers, self.client.content[:HALF])
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (204, str(HALF)))
        headers = {**VERSION, "X-HTTP-Method-Override": "DELETE"}
        self.assertEqual(ask(self.daemon.port, "POST", self.client.upload, headers, b"").status, 204)
        self.assertIn(self.client.head().status, (404, 410))

    def test_finished(self) -> None:
        """Nothing, at the end of what is stored: confirmed. The replay of the answer that a client has missed."""
        self.client.created()
        for body in (None, b""):
            answer = self.client.patch(0 if body is None else SIZE, body)
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (204, str(SIZE)))
        self.assertEqual(self.client.offset(), SIZE)

    def test_finished_and_more(self) -> None:
        """Nothing that is stored changes."""
        self.client.create(body=self.client.content)
        self.assertEqual(self.client.patch(SIZE, b"x").status, 413)
        self.assertEqual(self.client.patch(0, self.client.content).status, 409)
        self.assert_stored()

    def test_other_offset(self) -> None:
        """409, and the upload stays where it is."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF])
        for offset in (0, HALF - 1, HALF + 1):
            self.assert_refused(self.client.patch(offset), 409, HALF)

    def test_too_long(self) -> None:
        """413 to a length that doesn't fit, and nothing of it is kept."""
        self.client.created()
        self.assert_refused(self.client.patch(0, self.client.content + b"!"), 413, 0)

    def test_too_long_without_length(self) -> None:
        """What fits is kept and the end is the end, however much more would come."""
        self.client.created()
        answer = self.client.chunked(0, self.client.content[:HALF], self.client.content[HALF:] + b"more", b"!" * SIZE)
        self.assertEqual(answer.status, 413)
        self.assertEqual(self.client.offset(), SIZE)
        self.assert_stored()

    def test_chunked(self) -> None:
        """A body of unknown length is as good as any."""
        self.client.created()
        answer = self.client.chunked(0, self.client.content[:7], self.client.content[7:HALF])
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (204, str(HALF)))

    def test_malformed(self) -> None:
        """Another content type, or an offset that is none."""
        self.client.created()
        for status, headers in (
            (415, {"Content-Type": "application/octet-stream"}),
            (415, {"Content-Type": None}),
            (400, {"Upload-Offset": None}),
            (400, {"Upload-Offset": "-5"}),
            (400, {"Upload-Offset": "five"}),
            (400, {"Upload-Length": str(SIZE)}),
        ):
            self.assert_refused(self.client.patch(0, headers=headers), status, 0)

    def test_checksums(self) -> None:
        """Of every algorithm that is offered."""
        self.client.created()
        for count, algorithm in enumerate(("sha1", "sha256", "sha512", "md5")):
            chunk = self.client.content[count * 1000 : count * 1000 + 1000]
            answer = self.client.patch(count * 1000, chunk, checksum(chunk, algorithm))
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (204, str(count * 1000 + 1000)))

    def test_wrong_checksum(self) -> None:
        """460, and neither the offset nor the part moves."""
        self.client.created()
        self.client.patch(0, self.client.content[:1000])
        self.assert_refused(self.client.patch(1000, headers=checksum(b"something else")), 460, 1000)
        self.assertEqual(self.part().stat().st_size, 1000)
        self.assertEqual(self.client.patch(1000, headers=checksum(self.client.content[1000:])).status, 204)
        self.assert_stored()

    def test_odd_checksum(self) -> None:
        """An algorithm that isn't offered, and what can't be a digest: 400, and nothing moves."""
        self.client.created()
        for stated in ("crc32 AAAAAA==", "sha1", "sha1 AAAA", "SHA1 ###"):
            self.assert_refused(self.client.patch(0, headers={"Upload-Checksum": stated}), 400, 0)
        self.assertEqual(self.part().stat().st_size, 0)

    # DELETE

    def test_termination(self) -> None:
        """204; then it is gone, with its bytes."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF])
        part = self.part()
        self.assertEqual(self.client.delete().status, 204)
        self.assertIn(self.client.head().status, (404, 410))
        self.assertIn(self.client.patch(HALF).status, (404, 410))
        self.assertFalse(part.exists())

    def test_termination_of_a_running_upload(self) -> None:
        """The other connection is cut."""
        connection = self.client.created().begin(0, HALF)
        self.arrived(HALF)
        self.assertEqual(self.client.delete().status, 204)
        self.assertTrue(connection.closed_by_peer())
        connection.close()

    def test_stored_is_not_terminated(self) -> None:
        """What is stored stays."""
        self.client.create(body=self.client.content)
        self.assertEqual(self.client.delete().status, 409)
        self.assert_stored()

    # CORS and GET

    def test_cross_origin(self) -> None:
        """A page may send and read all of it, and the preflight alone says what it may send."""
        self.client.created()
        preflight = self.daemon.ask(
            "OPTIONS",
            self.client.upload,
            {
                "Origin": "https://web.example",
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "tus-resumable,upload-offset,upload-checksum,content-type",
            },
        )
        self.assertIn("PATCH", preflight.header("Access-Control-Allow-Methods") or "")
        allowed = (preflight.header("Access-Control-Allow-Headers") or "").lower()
        for name in ("tus-resumable", "upload-offset", "upload-checksum", "content-type", "x-http-method-override"):
            self.assertIn(name, allowed)
        for answer in (self.client.head({"Origin": "https://web.example"}), self.client.patch(1, b"")):
            self.assertEqual(answer.header("Access-Control-Allow-Origin"), "*")
            self.assertEqual(answer.header("Access-Control-Allow-Methods"), None)
            exposed = answer.header("Access-Control-Expose-Headers") or ""
            for name in ("Location", "Upload-Offset", "Upload-Length", "Upload-Expires", "Tus-Resumable"):
                self.assertIn(name, exposed)

    def test_get(self) -> None:
        """Nothing of an unfinished file is to be had, by any URL."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF])
        for target in (self.client.slot, signing.url_path(self.client.path), self.client.upload):
            self.assertEqual(self.daemon.ask("GET", target).status, 404)

    # Broken connections

    def test_ended_connection(self) -> None:
        """FIN in the middle: what has arrived counts."""
        self.client.created()
        with self.client.begin(0, HALF):
            self.arrived(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.assertEqual(self.client.patch(HALF).status, 204)
        self.assert_stored()

    def test_reset_connection(self) -> None:
        """RST in the middle: what the server had read counts."""
        self.client.created()
        connection = self.client.begin(0, HALF)
        self.arrived(1)
        connection.reset()
        offset = self.client.offset()
        self.assertTrue(0 < offset <= HALF)
        self.assertEqual(self.client.patch(offset).status, 204)
        self.assert_stored()

    def test_creation_breaks(self) -> None:
        """A client that never heard where its upload is begins anew."""
        headers = {**VERSION, **BYTES, "Upload-Length": str(SIZE)}
        network = CuttingProxy(self, self.daemon.port, Fault(cut_after_bytes=HALF))
        with self.assertRaises((Closed, OSError)):
            ask(network.port, "POST", self.client.slot, headers, self.client.content)
        self.assertEqual(self.client.created().offset(), 0)
        self.assertEqual(self.client.patch(0).status, 204)
        self.assert_stored()

    def test_head_while_a_patch_runs(self) -> None:
        """The PATCH is ended, and the offset that is told is good."""
        connection = self.client.created().begin(0, HALF)
        self.arrived(HALF)
        self.assertEqual(self.client.offset(), HALF)
        self.assertTrue(connection.closed_by_peer())
        connection.close()
        self.assertEqual(self.client.patch(HALF).status, 204)
        self.assert_stored()

    def test_patch_while_a_patch_runs(self) -> None:
        """The newer one wins, from where the older one was."""
        connection = self.client.created().begin(0, HALF)
        self.arrived(HALF)
        self.assertEqual(self.client.patch(HALF).status, 204)
        self.assertTrue(connection.closed_by_peer())
        connection.close()
        self.assert_stored()

    def test_put_beside(self) -> None:
        """The slot's URL takes a plain PUT all the same, and its file is the one that counts."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF])
        self.assertEqual(self.daemon.ask("PUT", self.client.slot, body=self.client.content).status, 201)
        self.assert_stored()

    def test_truncated_part(self) -> None:
        """Bytes that were durable have vanished: 410, and a new creation begins anew."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF])
        with self.part().open("r+b") as part:
            part.truncate(HALF - 1)
        self.assertEqual(self.client.patch(HALF).status, 410)
        self.assertEqual(self.client.head().status, 410)
        self.assertEqual(self.client.created().patch(0).status, 204)
        self.assert_stored()


class EmbeddedConformanceTests(ConformanceMixin, SharedTestCase):
    """With what every server has."""


class RedisConformanceTests(OnRedis, ConformanceMixin, SharedTestCase):
    """With a Redis."""
