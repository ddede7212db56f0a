"""GET and HEAD of stored files, as they arrive at a client."""

from __future__ import annotations

import errno
import hashlib
import os
from base64 import b64encode
from collections.abc import Mapping

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import OpenFile
from hmacfs.web.answers import ALWAYS, HARMLESS
from tests.net.wire import ABORTED, CLOSED, Answer
from tests.uploads.test_beside import HeldThreads
from tests.web.support import NOW, PATH, URL, Server, ServerTestCase, bearer, request, url, v

CONTENT = bytes(range(100))
SHA256 = hashlib.sha256(CONTENT).digest()
ETAG = f'"{SHA256.hex()[:32]}"'
MTIME = 1_790_000_000
MODIFIED = "Mon, 21 Sep 2026 14:13:20 GMT"
LATER = "Mon, 21 Sep 2026 14:13:21 GMT"
EARLIER = "Mon, 21 Sep 2026 14:13:19 GMT"


class DownloadTestCase(ServerTestCase):
    """A file is stored."""

    def setUp(self) -> None:
        super().setUp()
        self.server.put(PATH, CONTENT, {"Content-Type": "image/jpeg"})
        os.utime(self.root / PATH, (MTIME, MTIME))
        self.server.entries.clear()

    def ask(self, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        return self.server.get(PATH, headers, method)


class WholeTests(DownloadTestCase):
    """A file that goes out."""

    def test_headers(self) -> None:
        """Exactly these, beside those that every answer has."""
        answer = self.ask()
        expected = {
            **{name.lower(): value for name, value in ALWAYS},
            "date": answer.headers["date"],
            "content-length": "100",
            "content-type": "image/jpeg",
            "content-disposition": "inline; filename=\"photo.jpg\"; filename*=UTF-8''photo.jpg",
            "etag": ETAG,
            "last-modified": MODIFIED,
            "accept-ranges": "bytes",
            "cache-control": "private, max-age=31536000, immutable",
            "repr-digest": f"sha-256=:{b64encode(SHA256).decode()}:",
            "content-security-policy": "sandbox; default-src 'none'; media-src 'self'; frame-ancestors 'none'",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "cross-origin",
        }
        self.assertEqual((answer.status, answer.headers, answer.body), (200, expected, CONTENT))

    def test_head(self) -> None:
        """HEAD tells what GET would: clients decide by it whether to download."""
        get, head = self.ask(), self.ask(method="HEAD")
        for answer in (get, head):
            del answer.headers["date"]
        self.assertEqual((head.status, head.headers, head.body), (200, get.headers, b""))

    def test_head_leaves_the_connection(self) -> None:
        """Nothing is sent that the next answer could be mistaken for."""
        wire = self.server.connect(request("HEAD", URL) + request("GET", URL))
        self.assertEqual([answer.body for answer in wire.answers("HEAD", "GET")], [b"", CONTENT])

    def test_no_credential_needed(self) -> None:
        """Who knows the URL may read; a signature that is there, right or wrong, changes nothing."""
        for target in (URL, v(PATH, 100), URL + "?v=0", URL + "?x"):
            self.assertEqual(self.server.ask(request("GET", target)).body, CONTENT)

    def test_http_1_0(self) -> None:
        wire = self.server.connect(request("GET", URL, version="1.0"))
        self.assertEqual((wire.answer().body, wire.answer().headers["content-length"]), (CONTENT, "100"))
        self.assertEqual(wire.end, CLOSED)

    def test_several_slices(self) -> None:
        """A file that doesn't fit into one read, to a client that takes a while."""
        content = os.urandom(300_000)
        self.server.put("a/large", content)
        wire = self.server.connect(request("GET", url("a/large")) + request("GET", URL))
        self.assertEqual([answer.body for answer in wire.answers()], [content, CONTENT])

    def test_attachment(self) -> None:
        """What a browser might run is not shown by it."""
        for name, content_type in (
            ("x.svg", "image/svg+xml"),
            ("x.html", "text/html"),
            ("x.xml", "application/xml"),
            ("x.pdf", "application/pdf"),
            ("x", ""),
            ("X.HTML", "TEXT/HTML"),
            ("x", "text/html;x"),
        ):
            self.server.put(f"{name}-{len(content_type)}/{name}", b"<svg/>", {"Content-Type": content_type})
            answer = self.server.get(f"{name}-{len(content_type)}/{name}")
            self.assertRegex(answer.headers["content-disposition"], "^attachment;", content_type)
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertRegex(answer.headers["content-security-policy"], "^sandbox; default-src 'none';")

    def test_harmless_in_every_answer(self) -> None:
        """Also in one that shows no file: it takes the place of one in a frame, or refreshes one in a cache."""
        answers = [
            (self.ask(), 200),
            (self.ask(method="HEAD"), 200),
            (self.ask({"Range": "bytes=0-1"}), 206),
            (self.ask({"If-None-Match": ETAG}), 304),
            (self.ask({"If-None-Match": ETAG}, "HEAD"), 304),
            (self.ask({"Range": "bytes=100-"}), 416),
            (self.server.get("no/file"), 404),
            (self.server.get("no/file", {"Accept": "application/json"}), 404),
            (self.server.get("no/file/"), 400),
            (self.server.ask(request("GET", "/")), 404),
            (self.server.ask(request("BREW", URL)), 405),
            (self.server.ask(request("PUT", URL, None, b"x")), 403),
        ]
        for answer, status in answers:
            self.assertEqual(answer.status, status)
            for name, value in (
                ("x-content-type-options", "nosniff"),
                ("content-security-policy", "sandbox; default-src 'none'; media-src 'self'; frame-ancestors 'none'"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
            ):
                self.assertEqual(answer.headers.get(name), value, f"{status} {name}")

    def test_nothing_is_echoed(self) -> None:
        """No part of the URL or of a header stands in the body of a refusal, which is plain text or JSON."""
        for target in ("/<b>x</b>", "/upload/<b>x</b>", "/upload/<b>x</b>/..", URL + "<b>x</b>", URL + "/?v=<b>x</b>"):
            for accept in ("text/html", "application/json"):
                for method in ("GET", "PUT", "BREW"):
                    answer = self.server.ask(request(method, target, {"Accept": accept, "Referer": "<b>"}))
                    self.assertGreaterEqual(answer.status, 400)
                    self.assertNotIn(b"<", answer.body)
                    self.assertRegex(answer.headers["content-type"], r"^(text/plain|application/problem\+json)\b")

    def test_hostile_name(self) -> None:
        """A name can't end the header, nor the quotes in it."""
        name = 'a"; filename=b.exe;\\ é🐈.png'
        self.server.put(f"u/{name}", b"x")
        self.assertEqual(
            self.server.get(f"u/{name}").headers["content-disposition"],
            'inline; filename="a_; filename=b.exe;_ ______.png"; '
            "filename*=UTF-8''a%22%3B%20filename%3Db.exe%3B%5C%20%C3%A9%F0%9F%90%88.png",
        )

    def test_adopted(self) -> None:
        """A file that another server has stored: type by its name, time of its last change, no digest."""
        (self.root / "old").mkdir()
        (self.root / "old" / "song.mp3").write_bytes(b"la")
        os.utime(self.root / "old" / "song.mp3", (MTIME, MTIME))
        answer = self.server.get("old/song.mp3")
        self.assertEqual((answer.headers["content-type"], answer.body), ("audio/mpeg", b"la"))
        self.assertEqual(answer.headers["last-modified"], MODIFIED)
        self.assertRegex(answer.headers["etag"], '^"[0-9a-f-]+"$')
        self.assertNotIn("repr-digest", answer.headers)

    def test_counted(self) -> None:
        """By kind; with the bytes that went out."""
        self.ask()
        self.ask({"Range": "bytes=0-9"})
        self.ask({"If-None-Match": ETAG})
        kinds = [self.server.metric("downloads_total", kind=kind) for kind in ("whole", "part", "unchanged")]
        self.assertEqual((kinds, self.server.metric("sent_bytes_total")), ([1, 1, 1], 110))
        self.assertEqual([entry.sent_bytes for entry in self.server.entries], [100, 10, 0])


class NothingTests(DownloadTestCase):
    """URLs without a file."""

    def refused(self, path: str, status: int = 404, reason: str = "not-found") -> None:
        self.assert_refused(self.server.get(path), status, reason)
        self.assertEqual(self.server.get(path, method="HEAD").status, status)

    def test_unknown(self) -> None:
        self.refused("6f95dd3c/other.jpg")
        self.refused("other/photo.jpg")

    def test_directory(self) -> None:
        """Nothing is listed."""
        self.refused("6f95dd3c")
        self.refused("6f95dd3c/", 400, "bad-name")

    def test_below_a_file(self) -> None:
        self.refused(PATH + "/x")

    def test_unfinished(self) -> None:
        """The part of a file is no file."""
        self.server.broken("a/f", CONTENT, 99)
        self.refused("a/f")

    def test_links(self) -> None:
        """Whoever can write into the store can put links there; they lead nowhere."""
        (self.root / "file").symlink_to(self.root / PATH)
        (self.root / "dir").symlink_to(self.root / "6f95dd3c")
        self.refused("file")
        self.refused("dir/photo.jpg")

    def test_no_regular_file(self) -> None:
        """A pipe would be waited on for ever."""
        os.mkfifo(self.root / "pipe")
        self.refused("pipe")

    def test_not_to_be_cached(self) -> None:
        """It may be there in a moment."""
        self.assertEqual(self.server.get("a/f").headers["cache-control"], "no-store")

    def test_outside(self) -> None:
        """Above ``UploadSubDir`` there is nothing at all."""
        for target in ("/", "/uploads/x", "/6f95dd3c/photo.jpg", "//upload/" + PATH, "/upload%2F" + PATH):
            self.assert_refused(self.server.ask(request("GET", target)), 404, "not-found")


class RangeTests(DownloadTestCase):
    """Parts of a file."""

    def part(self, asked: str, **headers: str) -> Answer:
        return self.ask({"Range": asked, **{name.replace("_", "-"): value for name, value in headers.items()}})

    def test_part(self) -> None:
        """What a player, or a broken download, asks for."""
        for asked, first, last in (
            ("bytes=0-1", 0, 1),
            ("bytes=10-19", 10, 19),
            ("bytes=90-", 90, 99),
            ("bytes=-10", 90, 99),
            ("bytes=95-1000", 95, 99),
        ):
            answer = self.part(asked)
            self.assertEqual((answer.status, answer.body), (206, CONTENT[first : last + 1]))
            self.assertEqual(answer.headers["content-range"], f"bytes {first}-{last}/100")
            self.assertEqual(answer.headers["content-length"], str(last - first + 1))

    def test_headers(self) -> None:
        """Those of the whole file: a part of a page is as hostile as the page."""
        whole, part = self.ask().headers, self.part("bytes=0-9").headers
        for headers in (whole, part):
            del headers["date"], headers["content-length"]
        self.assertEqual(part.pop("content-range"), "bytes 0-9/100")
        self.assertEqual(part, whole)

    def test_nothing_there(self) -> None:
        """416, with the length that the file has."""
        for asked in ("bytes=100-", "bytes=-0", "bytes=200-300"):
            answer = self.part(asked)
            self.assert_refused(answer, 416, "range-not-satisfiable")
            self.assertEqual(answer.headers["content-range"], "bytes */100")

    def test_several(self) -> None:
        """Answered with the whole file, as RFC 9110 allows."""
        for headers in ({"Range": "bytes=0-1,5-6"}, {"Range": "bytes=0-1\r\nRange: bytes=5-6"}):
            answer = self.ask(headers)
            self.assertEqual((answer.status, answer.body), (200, CONTENT))

    def test_not_understood(self) -> None:
        self.assertEqual(self.part("lines=0-1").status, 200)

    def test_of_head(self) -> None:
        """Means nothing (RFC 9110 section 14.2)."""
        answer = self.ask({"Range": "bytes=0-1"}, "HEAD")
        self.assertEqual((answer.status, answer.headers["content-length"]), (200, "100"))

    def test_if_range_etag(self) -> None:
        """Of the same file the rest, of another one the whole."""
        self.assertEqual(self.part("bytes=90-", If_Range=ETAG).status, 206)
        self.assertEqual(self.part("bytes=90-", If_Range='"another"').body, CONTENT)
        self.assertEqual(self.part("bytes=90-", If_Range="W/" + ETAG).body, CONTENT)

    def test_if_range_date(self) -> None:
        self.assertEqual(self.part("bytes=90-", If_Range=MODIFIED).status, 206)
        for date in (EARLIER, LATER, "yesterday"):
            self.assertEqual(self.part("bytes=90-", If_Range=date).body, CONTENT)

    @given(st.integers(0, 99), st.integers(0, 120))
    def test_any(self, first: int, last: int) -> None:
        """A range is what a slice of the file is."""
        answer = self.part(f"bytes={first}-{last}")
        if last < first:
            self.assertEqual(answer.body, CONTENT)
        else:
            self.assertEqual((answer.status, answer.body), (206, CONTENT[first : last + 1]))


class ConditionTests(DownloadTestCase):
    """A client that has the file already."""

    def assert_unchanged(self, headers: Mapping[str, str], method: str = "GET") -> None:
        """304, with what a cache wants to know, and nothing else."""
        answer = self.ask(headers, method)
        always = {name.lower(): value for name, value in ALWAYS}
        told = {"etag": ETAG, "last-modified": MODIFIED, "cache-control": "private, max-age=31536000, immutable"}
        told |= {name.lower(): value for name, value in HARMLESS}
        self.assertEqual(
            (answer.status, answer.headers, answer.body),
            (304, {**always, **told, "date": answer.headers["date"]}, b""),
        )

    def test_etag(self) -> None:
        for tags in (ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"):
            self.assert_unchanged({"If-None-Match": tags})
            self.assert_unchanged({"If-None-Match": tags}, "HEAD")

    def test_other_etag(self) -> None:
        for tags in ('"other"', ETAG.strip('"'), ""):
            self.assertEqual(self.ask({"If-None-Match": tags}).body, CONTENT)

    def test_date(self) -> None:
        """Of the file, or later."""
        self.assert_unchanged({"If-Modified-Since": MODIFIED})
        self.assert_unchanged({"If-Modified-Since": LATER})

    def test_earlier_date(self) -> None:
        for date in (EARLIER, "", "x", "Mon, 99 Foo 2026 99:99:99 GMT"):
            self.assertEqual(self.ask({"If-Modified-Since": date}).body, CONTENT)

    def test_etag_goes_before_date(self) -> None:
        """RFC 9110 section 13.2.2."""
        self.assertEqual(self.ask({"If-None-Match": '"other"', "If-Modified-Since": LATER}).body, CONTENT)

    def test_condition_goes_before_range(self) -> None:
        self.assert_unchanged({"If-None-Match": ETAG, "Range": "bytes=0-1"})


class ExpiryTests(ServerTestCase):
    """A file that was uploaded for a limited time."""

    def setUp(self) -> None:
        super().setUp()
        self.server.ask(request("PUT", URL, bearer(PATH, 100, expires=NOW + 60), CONTENT))

    def test_cached_until_then(self) -> None:
        """Nobody keeps it for longer than that."""
        self.clock.advance(10.5)
        self.assertEqual(self.server.get().headers["cache-control"], "private, max-age=49, immutable")

    def test_not_before(self) -> None:
        self.clock.advance(59.9)
        self.assertEqual(self.server.get().status, 200)

    def test_over(self) -> None:
        """410 from the second on that was signed, whether or not a sweep has come by."""
        self.clock.advance(60)
        for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
            self.assert_refused(self.server.get(PATH, headers), 410, "expired")
        self.assertEqual(self.server.get(method="HEAD").status, 410)


class QuarantinedTests(DownloadTestCase):
    """A file that the operator has taken down."""

    def test_not_served(self) -> None:
        """451 for GET, HEAD and whoever uploads it once more; the reason that he gave stays with him."""
        path = SlotPath.from_encoded(PATH.encode())
        stored = self.store.open_file(path)
        assert stored is not None
        stored.close()
        self.store.set_facts(path, evolve(stored.facts, quarantined="complaint of a secret person"))
        for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
            answer = self.server.get(PATH, headers)
            self.assert_refused(answer, 451, "quarantined")
            self.assertNotIn(b"complaint", answer.body)
        self.assertEqual(self.server.get(method="HEAD").status, 451)
        wire = self.server.connect(request("GET", URL))
        self.assertTrue(wire.transport.value().startswith(b"HTTP/1.1 451 Unavailable For Legal Reasons\r\n"))
        self.assertEqual(self.server.put(PATH, CONTENT).status, 451)
        self.assertEqual((self.root / PATH).read_bytes(), CONTENT)


class ReadTests(DownloadTestCase):
    """It is known that somebody wants a file."""

    def test_told(self) -> None:
        """Who has it, a part of it, or hears that it is as before; not who only asks, nor about what isn't there."""
        path = SlotPath.from_encoded(PATH.encode())
        etag = self.server.get().headers["etag"]
        for headers in ({"Range": "bytes=0-1"}, {"If-None-Match": etag}):
            self.server.get(PATH, headers)
        self.assertEqual(self.server.read, [path] * 3)
        self.server.get(method="HEAD")
        self.server.get("nothing/there")
        self.assertEqual(self.server.read, [path] * 3)


class TroubleTests(DownloadTestCase):
    """What can go wrong on the way out."""

    def test_client_gone(self) -> None:
        """Somebody doesn't want the rest: 499 in the log, as nginx has it."""
        wire = self.server.stalled(request("GET", URL))
        wire.vanish()
        entry = self.server.entries[-1]
        self.assertEqual((entry.status, entry.reason), (499, "client-gone"))
        self.assertEqual(self.server.metric("download_errors_total", reason="client-gone"), 1)

    def test_file_shrinks(self) -> None:
        """Nothing but a cut connection tells the client that it has not got all."""
        wire = self.server.stalled(request("GET", URL))
        os.truncate(self.root / PATH, 70)
        wire.channel.resumeProducing()
        self.assertEqual((wire.end, self.server.entries[-1].reason), (ABORTED, "storage"))
        self.assertTrue(any("could not be sent to its end" in line for line in self.logged()))

    def test_storage_silent(self) -> None:
        """A network file system that has lost its server: 503, and when to come back."""
        self.disk.fail("get_attribute", errno.EIO)
        answer = self.ask()
        self.assert_refused(answer, 503, "unavailable")
        self.assertIn("retry-after", answer.headers)

    def test_storage_silent_for_a_moment(self) -> None:
        """With ``EnableGetRetries`` it is asked again."""
        server = self.serve(retries=2, get_retries=True)
        self.disk.fail("get_attribute", errno.ESTALE, times=2)
        wire = server.connect(request("GET", URL))
        self.clock.pump([1.0, 1.0])
        self.assertEqual((wire.answer().body, server.retried), (CONTENT, ["read", "read"]))

    def test_storage_refuses(self) -> None:
        """What won't pass is for the operator: 503 at once, without details and without a traceback."""
        os.chmod(self.root / PATH, 0)
        self.patch(os, "open", _denied(os.open))
        answer = self.ask()
        self.assert_refused(answer, 503, "storage")
        self.assertIn("retry-after", answer.headers)
        self.assertNotIn(b"denied", answer.body)

    def test_closed(self) -> None:
        """Whatever comes of a request, its file is closed."""
        opened: list[OpenFile] = []
        real = self.store.open_file

        def open_file(path: SlotPath) -> OpenFile | None:
            found = real(path)
            if found is not None:
                opened.append(found)
            return found

        self.patch(self.store, "open_file", open_file)
        for headers in ({}, {"Range": "bytes=1-2"}, {"Range": "bytes=200-"}, {"If-None-Match": "*"}):
            self.ask(headers)
            self.ask(headers, "HEAD")
        self.server.stalled(request("GET", URL)).vanish()
        self.assertEqual(len(opened), 9)
        self.assertTrue(all(found.handle.closed for found in opened))


class PublishingTests(ServerTestCase):
    """``EnableGetRetries``: a GET that comes while its file is being published.

    The XMPP message with the link can be faster than the disk.
    """

    def begin(self, get_retries: bool) -> Server:
        """An upload whose last sync takes its time."""
        self.threads = HeldThreads()
        server = self.serve(threads=self.threads, get_retries=get_retries)
        server.connect(request("PUT", v(PATH, 100), None, CONTENT))
        while not self.publishing(server):
            self.threads.finish()
        return server

    def publishing(self, server: Server) -> bool:
        """Whether the file is on its way to its name."""
        return not Deferred.fromCoroutine(server.uploads.completion.publishing(self.path(PATH))).called

    def finish(self) -> None:
        while self.threads.jobs:
            self.threads.finish()

    def test_waits(self) -> None:
        server = self.begin(get_retries=True)
        wire = server.connect(request("GET", URL))
        self.assertEqual(wire.answers(), [])
        self.finish()
        self.assertEqual((wire.answer().status, wire.answer().body), (200, CONTENT))

    def test_does_not_wait(self) -> None:
        """Where that is off."""
        server = self.begin(get_retries=False)
        self.assert_refused(server.get(), 404, "not-found", server)
        self.finish()

    def test_gone_meanwhile(self) -> None:
        """Who doesn't wait for it is no fault of ours."""
        for method in ("GET", "HEAD"):
            server = self.begin(get_retries=True)
            server.connect(request(method, URL)).vanish()
            self.finish()
            self.assertEqual([(entry.method, entry.status) for entry in server.entries], [(method, 499), ("PUT", 201)])
            self.assertEqual(server.entries[0].reason, "client-gone")
            (self.root / PATH).unlink()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_waits_in_vain(self) -> None:
        """The file can't be published: 404, as if there had been none."""
        server = self.begin(get_retries=True)
        wire = server.connect(request("GET", URL))
        self.disk.fail("sync", errno.EIO)
        self.finish()
        self.assertEqual(wire.answer().status, 404)
        self.assertEqual([(entry.method, entry.status) for entry in server.entries], [("GET", 404), ("PUT", 503)])


def _denied(real: object) -> object:
    """open(2) for a user to whom nothing belongs; the tests may be root's."""

    def denied(name: bytes, *args: object, **kw: object) -> int:
        if name == b"photo.jpg":
            raise PermissionError(errno.EACCES, "denied")
        return real(name, *args, **kw)  # type: ignore[operator, no-any-return]

    return denied
