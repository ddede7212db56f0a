"""The IETF's resumable uploads against a running server: every interop version that clients in use speak."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from tests.e2e import signing
from tests.e2e.draft import PARTIAL, DraftClient
from tests.e2e.resuming import sha256
from tests.e2e.sharing import OnRedis, SharedTestCase
from tests.e2e.wire import Answer, Connection, ask

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

SIZE = 300_000
HALF = 150_000
CHECKPOINT = 4 << 20
"""At most so many bytes arrive before some of them are made durable."""

PROBLEMS = "https://iana.org/assignments/http-problem-types#"

if TYPE_CHECKING:
    _Case = SharedTestCase
else:
    _Case = object


class _DraftMixin(_Case):
    """A client of one version.

    :cvar version: which.
    """

    version: ClassVar[int | None] = 8

    def setUp(self) -> None:
        super().setUp()
        self.client = DraftClient(self.daemon.port, SIZE, self.version)

    def assert_stored(self, answer: Answer) -> None:
        """The answer says so, and it is."""
        self.assertEqual((answer.status, self.client.is_complete(answer)), (201, True), answer.text)
        get = self.client.get()
        self.assertEqual((get.status, get.header("Repr-Digest")), (200, sha256(self.client.content)))
        self.assertTrue(get.body == self.client.content)

    def assert_at(self, offset: int) -> None:
        """So far it is, and nothing can be seen of it."""
        self.assertEqual(self.client.offset(), offset)
        self.assertEqual(self.client.get().status, 404)

    def problem(self, answer: Answer) -> str:
        """The type of a problem, without what all of them have in common."""
        self.assertEqual(answer.header("Content-Type"), "application/problem+json")
        kind = json.loads(answer.body)["type"]
        self.assertTrue(kind.startswith(PROBLEMS), kind)
        return str(kind).removeprefix(PROBLEMS)


class VersionMixin(_DraftMixin):
    """What holds for every version, and where they differ."""

    def setUp(self) -> None:
        super().setUp()
        assert self.version is not None
        self.number = self.version

    # Creation

    def test_whole_file(self) -> None:
        """PUT, POST or PATCH to the slot, with everything: stored, and before that the upload's URL is told."""
        for method in ("PUT", "POST", "PATCH"):
            self.client = DraftClient(self.daemon.port, SIZE, self.version)
            answer = self.client.create(method=method)
            self.assert_stored(answer)
            first = answer.before[0]
            self.assertEqual((first.status, first.header("Upload-Draft-Interop-Version")), (104, str(self.version)))
            self.assertTrue((first.header("Location") or "").startswith("/upload/.up/"), first.headers)

    def test_told_before_the_body(self) -> None:
        """The 104 comes when the headers are here: a client whose connection breaks then knows where to go on."""
        with self.client.begin_creation(HALF) as connection:
            first = connection.interim()
            self.assertEqual((first.status, first.header("Upload-Offset")), (104, None))
            self.client.located(first)
            self.arrived(HALF)
        self.assert_at(HALF)
        self.assert_stored(self.client.patch(HALF))

    def test_expecting(self) -> None:
        """The 104 comes before the 100, and both before the body."""
        with self.client.begin_creation(0, {"Expect": "100-continue"}) as connection:
            self.assertEqual([connection.interim().status, connection.interim().status], [104, 100])
            connection.send(self.client.content)
            self.assert_stored(connection.answer("PUT"))

    def test_careful(self) -> None:
        """Nothing at first: 201 with the URL, and not complete."""
        answer = self.client.create(b"", ends=False)
        self.assertEqual((answer.status, self.client.is_complete(answer)), (201, False), answer.text)
        self.assert_at(0)
        self.assert_stored(self.client.patch(0))

    def test_beginning(self) -> None:
        """A part at first."""
        answer = self.client.create(self.client.content[:HALF], ends=False)
        self.assertEqual((answer.status, self.client.is_complete(answer)), (201, False), answer.text)
        self.assertEqual(answer.header("Upload-Offset"), str(HALF))
        self.assert_at(HALF)

    def test_empty_file(self) -> None:
        """Complete at once."""
        self.client = DraftClient(self.daemon.port, 0, self.version)
        self.assert_stored(self.client.create())

    def test_unsigned(self) -> None:
        """403, and no 104."""
        self.client.slot = signing.url_path(self.client.path)
        answer = self.client.create()
        self.assertEqual((answer.status, answer.interim), (403, ()))

    def test_another_size(self) -> None:
        """One that wasn't signed: refused."""
        self.assertIn(self.client.create(self.client.content[:-1]).status, (400, 403))
        self.assertEqual(self.client.get().status, 404)

    # HEAD

    def test_head(self) -> None:
        """How far, of how much, for how long; not for caches."""
        self.client.create(self.client.content[:HALF], ends=False)
        head = self.client.head()
        self.assertEqual((head.status, head.header("Upload-Offset")), (204, str(HALF)))
        self.assertEqual(self.client.is_complete(head), False)
        self.assertEqual(head.header("Cache-Control"), "no-store")
        if self.number >= 6:
            self.assertEqual(head.header("Upload-Length"), str(SIZE))
            self.assertRegex(head.header("Upload-Limit") or "", "expires=" if self.number == 6 else "max-age=")

    def test_head_of_a_stored_one(self) -> None:
        """Complete."""
        self.client.create()
        head = self.client.head()
        self.assertEqual((head.status, head.header("Upload-Offset")), (204, str(SIZE)))
        self.assertEqual(self.client.is_complete(head), True)

    def test_head_that_says_where(self) -> None:
        """Refused by the older versions."""
        self.client.created()
        status = self.client.head({"Upload-Offset": "0"}).status
        self.assertEqual(status, 400 if self.number <= 6 else 204)

    def test_unknown(self) -> None:
        """404 to everything."""
        self.client.upload = f"/upload/.up/{'A' * 32}-1"
        for answer in (self.client.head(), self.client.patch(0), self.client.delete()):
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (404, None))

    # PATCH

    def test_appends(self) -> None:
        """Pieces, the last of which ends the file."""
        self.client.created()
        for first, end in ((0, 5), (5, HALF), (HALF, SIZE - 1)):
            answer = self.client.patch(first, self.client.content[first:end], ends=False)
            self.assertEqual(answer.status, 201 if self.number <= 6 else 204)
            self.assertEqual((answer.header("Upload-Offset"), self.client.is_complete(answer)), (str(end), False))
            self.assertNotIn("location", [name for head in answer.before for name, _ in head.headers])
        self.assert_stored(self.client.patch(SIZE - 1))

    def test_every_byte_and_no_end(self) -> None:
        """Who says that more is to come hasn't ended the file; nothing, and the end of it, ends it.

        But tus-js-client says so at the end of a file, and believes that it's over.
        """
        self.client.created()
        answer = self.client.patch(0, ends=False)
        if self.number in (5, 6):
            self.assert_stored(answer)
        else:
            self.assertEqual(self.client.is_complete(answer), False)
            self.assert_at(SIZE)
            self.assert_stored(self.client.patch(SIZE))

    def test_other_offset(self) -> None:
        """409, with where it is, for programs, too."""
        self.client.created()
        self.client.patch(0, self.client.content[:HALF], ends=False)
        for offset in (0, HALF - 1, HALF + 1):
            answer = self.client.patch(offset)
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (409, str(HALF)))
            self.assertEqual(self.client.is_complete(answer), False)
            self.assertEqual(self.problem(answer), "mismatching-upload-offset")
            members = json.loads(answer.body)
            self.assertEqual((members["expected-offset"], members["provided-offset"]), (HALF, offset))
        self.assert_at(HALF)

    def test_content_type(self) -> None:
        """Looked at since version 6."""
        self.client.created()
        answer = self.client.patch(0, self.client.content[:5], {"Content-Type": "video/mp4"}, ends=False)
        self.assertEqual(answer.status, {3: 201, 4: 201, 5: 201}.get(self.number, 415))

    def test_unsaid_completeness(self) -> None:
        """It was the end of the file once; since version 7 it must be said."""
        self.client.created()
        header = next(iter(self.client.complete(ends=True)))
        answer = self.client.patch(0, headers={header: None})
        if self.number <= 6:
            self.assert_stored(answer)
        else:
            self.assertEqual(answer.status, 400)
            self.assert_at(0)

    def test_malformed(self) -> None:
        """No offset, or none that can be: 400."""
        self.client.created()
        for offset in (None, "-1", "five", "1.0"):
            self.assertEqual(self.client.patch(0, headers={"Upload-Offset": offset}).status, 400, offset)
        self.assert_at(0)

    def test_too_long(self) -> None:
        """More than the file has: 400, and nothing is stored."""
        self.client.created()
        answer = self.client.patch(0, self.client.content + b"!")
        self.assertEqual(answer.status, 400)
        if self.number >= 7:
            self.assertEqual(self.problem(answer), "inconsistent-upload-length")
        self.assertEqual(self.client.get().status, 404)

    def test_too_short(self) -> None:
        """The end, before the end: 400."""
        self.client.created()
        answer = self.client.patch(0, self.client.content[:HALF])
        self.assertEqual(answer.status, 400)
        self.assertEqual(self.client.get().status, 404)

    def test_digest_of_the_rest(self) -> None:
        """A wrong one: 400, and the offset stays."""
        self.client.created()
        wrong = self.client.patch(0, headers={"Content-Digest": sha256(b"something else")})
        self.assertEqual(wrong.status, 400)
        self.assert_at(0)
        self.assert_stored(self.client.patch(0, headers={"Content-Digest": sha256(self.client.content)}))

    # DELETE and OPTIONS

    def test_given_up(self) -> None:
        """Gone; a running request is ended."""
        connection = self.client.created().begin(0, HALF)
        self.arrived(HALF)
        self.assertEqual(self.client.delete().status, 204)
        self.assertTrue(connection.closed_by_peer())
        connection.close()
        for answer in (self.client.head(), self.client.patch(HALF)):
            self.assertIn(answer.status, (404, 410))

    def test_options(self) -> None:
        """What an upload may be."""
        self.client.created()
        for target in (self.client.slot, self.client.upload):
            self.assertRegex(self.daemon.ask("OPTIONS", target).header("Upload-Limit") or "", r"m(ax|in)-size=\d+")

    # Two at once

    def test_head_while_a_patch_runs(self) -> None:
        """The PATCH is ended, and the offset that is told is good."""
        connection = self.client.created().begin(0, HALF)
        self.arrived(HALF)
        self.assert_at(HALF)
        self.assertTrue(connection.closed_by_peer())
        connection.close()
        self.assert_stored(self.client.patch(HALF))

    # Interim responses

    def test_progress(self) -> None:
        """Since version 5, what is durable is told while more comes; three times at most, which proxies bear."""
        self.client = DraftClient(self.daemon.port, 2 * CHECKPOINT, self.version)
        with self.client.begin_creation(CHECKPOINT + HALF) as connection:
            self.client.located(connection.interim())
            if self.number >= 5:
                progress = connection.interim()
                self.assertEqual(progress.header("Upload-Draft-Interop-Version"), str(self.version))
                self.assertGreater(int(progress.header("Upload-Offset") or ""), 0)
            connection.send(self.client.content[CHECKPOINT + HALF :])
            answer = connection.answer("PUT")
        self.assertLessEqual(len(answer.before), 2 if self.number >= 5 else 0)
        self.assert_stored(answer)

    def test_not_to_old_http(self) -> None:
        """HTTP/1.0 has no interim responses: none is sent."""
        headers = {"Content-Length": str(SIZE), **self.client.complete(ends=True)}
        fields = {**headers, "Upload-Draft-Interop-Version": str(self.version)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        with Connection(self.daemon.port) as connection:
            connection.send(f"PUT {self.client.slot} HTTP/1.0\r\n{lines}\r\n".encode() + self.client.content)
            answer = connection.answer("PUT")
        self.assertEqual(answer.interim, ())
        self.assert_stored(answer)

    def test_not_behind_a_proxy(self) -> None:
        """Who knows what it makes of them: none is sent, and everything else is as always."""
        for name, value in (
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Real-IP", "192.0.2.1"),
            ("Forwarded", "for=192.0.2.1"),
            ("Via", "1.1 proxy"),
        ):
            self.client = DraftClient(self.daemon.port, SIZE, self.version)
            answer = self.client.create(headers={name: value})
            self.assertEqual(answer.interim, (), name)
            self.assert_stored(answer)


class Version3Tests(VersionMixin, SharedTestCase):
    """iOS 17."""

    version = 3


class Version4Tests(OnRedis, VersionMixin, SharedTestCase):
    """Draft 02."""

    version = 4


class Version5Tests(VersionMixin, SharedTestCase):
    """iOS 18.0, tus-js-client's ``ietf-draft-03``."""

    version = 5


class Version6Tests(OnRedis, VersionMixin, SharedTestCase):
    """iOS 18.1, tus-js-client's ``ietf-draft-05``."""

    version = 6


class Version7Tests(VersionMixin, SharedTestCase):
    """Drafts 06 to 08."""

    version = 7


class Version8Tests(VersionMixin, SharedTestCase):
    """Drafts 09 to 12, iOS 26."""


class RedisVersion8Tests(OnRedis, VersionMixin, SharedTestCase):
    """The same, with Redis."""


class WithoutVersionTests(_DraftMixin, SharedTestCase):
    """Clients that say no version, or one that we don't know: never a 104, and all the rest."""

    version = None

    def test_file(self) -> None:
        """Stored, as by a plain PUT."""
        for version in (None, 2, 9, 99):
            self.client = DraftClient(self.daemon.port, SIZE, version)
            answer = self.client.create(method="PUT")
            self.assertEqual(answer.interim, ())
            self.assert_stored(answer)

    def test_resumed(self) -> None:
        """The RFC will have no version; its clients can go on with their uploads."""
        self.client.create(self.client.content[:HALF], ends=False)
        self.assert_at(HALF)
        self.assert_stored(self.client.patch(HALF))

    def test_plain_put(self) -> None:
        """A client that knows nothing of all this sees nothing of it."""
        answer = ask(self.daemon.port, "PUT", self.client.slot, body=self.client.content)
        self.assertEqual((answer.status, answer.interim), (201, ()))

    def test_plain_put_with_version(self) -> None:
        """A version alone doesn't make it the draft's."""
        headers = {"Upload-Draft-Interop-Version": "8"}
        answer = ask(self.daemon.port, "PUT", self.client.slot, headers, self.client.content)
        self.assertEqual((answer.status, answer.interim), (201, ()))

    def test_forged_offset(self) -> None:
        """A PATCH to an upload is the draft's, also without any version."""
        self.client.created()
        answer = ask(self.daemon.port, "PATCH", self.client.upload, PARTIAL, b"x")
        self.assertEqual(answer.status, 400)
        self.assert_at(0)
