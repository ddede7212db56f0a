"""What a PUT, POST and OPTIONS on a slot URL come to. Interrupted uploads are in ``test_resuming``."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st

from hmacfs.net.limits import Limits
from tests.access.vectors import hex_mac, jwt, signatures
from tests.net.wire import CLOSED, OPEN, Answer
from tests.web.support import (
    NOW,
    PATH,
    SECRET,
    TOKEN,
    URL,
    Server,
    ServerTestCase,
    bearer,
    chunked,
    request,
    url,
    v,
    v2,
    v3,
)

CONTENT = b"a photo of a cat"
SHA256 = hashlib.sha256(CONTENT).digest()
STATED = f"sha-256=:{b64encode(SHA256).decode()}:"
STATED_OTHER = f"sha-256=:{b64encode(hashlib.sha256(b'a dog').digest()).decode()}:"
EXPECT = {"Expect": "100-continue"}


def plain(path: str, body: bytes) -> bytes:
    return request("PUT", v(path, len(body)), None, body)


class StoredTests(ServerTestCase):
    """A file that goes in."""

    def test_created(self) -> None:
        """201, which all clients take for success, and the file is there under its own name."""
        answer = self.server.put(PATH, CONTENT)
        self.assertEqual((answer.status, answer.body), (201, b""))
        self.assertEqual(self.tree(), ["6f95dd3c", PATH])
        self.assertEqual((self.root / PATH).read_bytes(), CONTENT)

    def test_headers(self) -> None:
        """Said of the file: its digest in two forms; of the upload: that it is whole."""
        answer = self.server.put(PATH, CONTENT, {"X-Session-Token": TOKEN})
        told = ("etag", "repr-digest", "upload-offset", "upload-complete", "x-session-token")
        self.assertEqual(
            [answer.headers[name] for name in told], [f'"{SHA256.hex()[:32]}"', STATED, str(len(CONTENT)), "?1", TOKEN]
        )

    def test_durable(self) -> None:
        """201 comes after the file and the directories on its way have been synced."""
        self.server.put(PATH, CONTENT)
        synced = [subject for method, subject in self.disk.calls if method == "sync"]
        self.assertEqual(os.path.basename(os.path.dirname(synced[0])), "parts")
        self.assertEqual(synced[1:], [str(self.root / "6f95dd3c"), str(self.root)])

    def test_invisible_until_whole(self) -> None:
        """While it arrives there is nothing to be had, or to be seen."""
        self.server.connect(request("PUT", v(PATH, 10), None, b"12345", length=10))
        self.assert_refused(self.server.get(), 404, "not-found")
        self.assertEqual(self.tree(), [])

    def test_empty(self) -> None:
        """Prosody issues slots for files of no bytes."""
        self.assertEqual(self.server.put(PATH, b"").status, 201)
        answer = self.server.get()
        self.assertEqual((answer.status, answer.headers["content-length"], answer.body), (200, "0", b""))

    def test_keep_alive(self) -> None:
        """Several requests on one connection, sent at once."""
        wire = self.server.connect(plain("a/1", b"one") + plain("a/2", b"two") + request("GET", url("a/1")))
        self.assertEqual([answer.status for answer in wire.answers()], [201, 201, 200])
        self.assertEqual((wire.answers()[2].body, wire.end), (b"one", OPEN))

    def test_http_1_0(self) -> None:
        """As libpurple speaks it: no ``100 Continue``, and the connection ends with the answer."""
        wire = self.server.connect(request("PUT", v(PATH, 16), EXPECT, CONTENT, version="1.0"))
        self.assertEqual((wire.answer().status, wire.answer().interim, wire.end), (201, (), CLOSED))
        self.assertEqual(self.get(PATH), CONTENT)

    def test_continue(self) -> None:
        """A client that asks is told to send the body, and then gets its answer."""
        wire = self.server.connect(request("PUT", v(PATH, 16), EXPECT, length=16), CONTENT)
        self.assertEqual((wire.answer().status, wire.answer().interim), (201, (100,)))

    def test_expiry_and_owner(self) -> None:
        """What a token says of uploader and retention is kept with the file."""
        slot = bearer(PATH, len(CONTENT), sub="alice@example.org", expires=NOW + 3600)
        self.server.ask(request("PUT", URL, slot, CONTENT))
        facts = self.facts(PATH)
        assert facts is not None
        self.assertEqual(
            (facts.owner, facts.expires, facts.uploaded, facts.sha256), ("alice@example.org", NOW + 3600, NOW, SHA256)
        )

    def test_unhashed(self) -> None:
        """With ``ChecksumVerification`` off nothing is hashed that nobody asks for."""
        server = self.serve(hash_all=False)
        self.assertNotIn("repr-digest", server.put("a/1", CONTENT).headers)
        wanted = server.put("a/2", CONTENT, {"Want-Repr-Digest": "sha-256=5"})
        self.assertEqual(wanted.headers["repr-digest"], STATED)

    @settings(max_examples=60)
    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """However the network cuts a request, the same file is stored."""
        content = data.draw(st.binary(max_size=300))
        path = f"split/{len(self.server.entries):06}"
        if data.draw(st.booleans(), label="chunked"):
            cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
            pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True) if a < b]
            sent = chunked(url(path), bearer(path, len(content)), *pieces)
        else:
            sent = request("PUT", v(path, len(content)), EXPECT, content)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
        answer = self.server.ask(*(sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)))
        self.assertEqual((answer.status, self.get(path)), (201, content))


class TypeTests(ServerTestCase):
    """Which content type a file has afterwards."""

    def stored(self, target: str, headers: dict[str, str] | None = None) -> str:
        self.assertEqual(self.server.ask(request("PUT", target, headers, b"1234567")).status, 201)
        facts = self.facts(target.partition("?")[0].removeprefix("/upload/"))
        assert facts is not None
        return facts.content_type

    def test_sent(self) -> None:
        """``v`` signs none: the client's counts."""
        self.assertEqual(self.stored(v("a/f.jpg", 7), {"Content-Type": "text/plain"}), "text/plain")

    def test_guessed(self) -> None:
        """No header, or the empty one that browsers send: the name tells."""
        self.assertEqual(self.stored(v("a/f.jpg", 7)), "image/jpeg")
        self.assertEqual(self.stored(v("a/f.png", 7), {"Content-Type": ""}), "image/png")

    def test_signed(self) -> None:
        """``v2`` and ``token`` sign it; what was signed is kept, whatever a client makes of it."""
        for number, (signed, sent) in enumerate(
            [
                ("image/jpeg", {"Content-Type": "image/jpeg"}),
                ("text/plain", {"Content-Type": "Text/Plain; charset=utf-8"}),
                ("text/plain; charset=utf-8", {"Content-Type": "text/plain; charset=utf-8"}),
                ("application/octet-stream", {}),
                ("image/jpeg", {}),
            ]
        ):
            for parameter in ("v2", "token"):
                target = v2(f"{number}-{parameter}/f.jpg", 7, signed, parameter)
                self.assertEqual(self.stored(target, sent), signed, (signed, sent))

    def test_signed_empty(self) -> None:
        """What an empty attribute of the slot request makes Prosody sign."""
        self.assertEqual(self.stored(v2("a/f.jpg", 7, "")), "application/octet-stream")

    def test_token(self) -> None:
        """A bearer token's type goes before the header."""
        self.assertEqual(self.stored(url("a/f"), {**bearer("a/f", 7), "Content-Type": "text/html"}), "image/jpeg")


class NameTests(ServerTestCase):
    """What of a URL may become a path."""

    def test_refused(self) -> None:
        """Refused though the signature is right: Prosody signs ``<uuid>/..`` when a client asks for it."""
        for raw, decoded in (
            (b"u/..", b"u/.."),
            (b"u/%2e%2E", b"u/.."),
            (b"u/.", b"u/."),
            (b"../u", b"../u"),
            (b"u/a%2Fb", b"u/a/b"),
            (b"u/..%2f..%2fetc", b"u/../../etc"),
            (b"u/f%00.jpg", b"u/f\0.jpg"),
            (b"u/f%0a.jpg", b"u/f\n.jpg"),
            (b"u/f%7F", b"u/f\x7f"),
            (b".hmacfs/server.key", b".hmacfs/server.key"),
            (b"%2Ehmacfs/state.sqlite", b".hmacfs/state.sqlite"),
            (b".HMACFS/parts", b".HMACFS/parts"),
        ):
            target = b"/upload/%b?v=%b" % (raw, hex_mac(decoded + b" 3", SECRET).encode())
            self.assert_refused(self.server.ask(request("PUT", target, None, b"abc")), 400, "bad-path")
            self.assert_refused(self.server.ask(request("GET", b"/upload/" + raw)), 400, "bad-path")
        self.assertEqual(self.tree(), [])

    def test_impossible(self) -> None:
        """Names that no file can have, and that nobody means any harm by."""
        for raw in (b"u/" + b"x" * 256, b"u/" + b"%C3%A9" * 128, b"u//x", b"u/", b"/x", b""):
            target = b"/upload/%b?v=%b" % (raw, b"0" * 64)
            self.assert_refused(self.server.ask(request("PUT", target, None, b"abc")), 400, "bad-name")
            self.assert_refused(self.server.ask(request("GET", b"/upload/" + raw)), 400, "bad-name")
        self.assertEqual(self.tree(), [])

    def test_no_name(self) -> None:
        """The prefix alone, without a slash behind it."""
        self.assert_refused(self.server.ask(request("GET", "/upload")), 400, "bad-name")

    def test_accepted(self) -> None:
        """Names as clients send them: stored byte for byte, and found again."""
        for name in (
            b"x" * 255,
            "é".encode() * 127,
            "🐈‍⬛ très cool.jpg".encode(),
            "e\u0301.txt".encode(),
            "\u00e9.txt".encode(),
            "خید.xlsx".encode(),
            b".hidden",
            b".hmacfs",
            b"...",
            b"100%",
            b"a%2fb",
            b"a+b c & d=e;f%20g.txt",
            b'a"b\\c',
            b"caf\xe9.txt",
            b"?x#y",
        ):
            path = b"u/" + name
            self.assertEqual(self.server.put(path, name).status, 201, name)
            self.assertEqual(self.server.get(path).body, name)
            self.assertTrue(os.path.exists(os.path.join(os.fsencode(self.root), path)), name)

    def test_raw_octets(self) -> None:
        """ejabberd since 25.10 gives URLs with UTF-8 in them as it is, and some clients send it so."""
        target = "/upload/u/très.jpg?v=".encode() + hex_mac("u/très.jpg 3".encode(), SECRET).encode()
        self.assertEqual(self.server.ask(request("PUT", target, None, b"abc")).status, 201)
        self.assertEqual(self.get("u/très.jpg".encode()), b"abc")

    def test_written_another_way(self) -> None:
        """Clients escape a URL again as they like: what was signed is the decoded path."""
        target = v("u/a&b.jpg", 3).replace("%26", "&").replace("u/", "%75/")
        self.assertEqual(self.server.ask(request("PUT", target, None, b"abc")).status, 201)
        self.assertEqual(self.get("u/a&b.jpg"), b"abc")

    def test_collision(self) -> None:
        """With a NUL in the path one MAC is good for two slots, of which one lifts the size limit."""
        (vector,) = signatures("collision")
        raw = vector["v"]["path"].replace("\0", "%00")
        target = f"/upload/{raw}?v={vector['mac']}"
        answer = self.server.ask(request("PUT", target, EXPECT, length=vector["v"]["size"]))
        self.assert_refused(answer, 400, "bad-path")
        self.assertEqual(answer.interim, ())


class GateTests(ServerTestCase):
    """Whoever has no right to write is refused before the body, and under a reason that he can be helped by."""

    def refused(
        self, target: str, headers: dict[str, str] | None, status: int, reason: str, length: int = 16
    ) -> Answer:
        answer = self.server.ask(request("PUT", target, {**EXPECT, **(headers or {})}, length=length))
        self.assert_refused(answer, status, reason)
        self.assertEqual(answer.interim, ())
        self.assertEqual(self.own_files("parts"), [])
        return answer

    def test_no_signature(self) -> None:
        self.refused(URL, None, 403, "missing-signature")
        self.refused(URL + "?w=1", None, 403, "missing-signature")

    def test_wrong_signature(self) -> None:
        """Of another path, another size, or none at all."""
        right = v(PATH, 16)
        self.refused(v("other/photo.jpg", 16).replace("other", "6f95dd3c"), None, 403, "bad-signature")
        self.refused(v(PATH, 17), None, 403, "bad-signature")
        self.refused(right[:-1], None, 403, "bad-signature")
        self.refused(right.replace("?v=", "?v2="), None, 403, "bad-signature")

    def test_no_fallback(self) -> None:
        """The highest version counts, even if a lower one would be right."""
        self.refused(v(PATH, 16) + "&v2=" + "0" * 64, None, 403, "bad-signature")

    def test_signature_twice(self) -> None:
        self.refused(v(PATH, 16) + "&v=" + "0" * 64, None, 400, "bad-query")

    def test_v3(self) -> None:
        """It binds neither size nor type: only where the operator wants it."""
        target = v3(PATH, int(NOW) + 60)
        self.refused(target, None, 403, "missing-signature")
        server = self.serve(accept_v3=True)
        self.assertEqual(server.ask(request("PUT", target, None, CONTENT)).status, 201)

    def test_v3_expired(self) -> None:
        server = self.serve(accept_v3=True)
        answer = server.ask(request("PUT", v3(PATH, int(NOW) - 1), None, CONTENT))
        self.assert_refused(answer, 403, "expired", server)

    def test_bad_token(self) -> None:
        """What is no upload token at all: 401, with the challenge that the status calls for."""
        for token in ("x", "a.b.c", jwt({}, SECRET), bearer(PATH, 16, filesize="16")["Authorization"][7:]):
            answer = self.refused(URL, {"Authorization": f"Bearer {token}"}, 401, "bad-token")
            self.assertEqual(answer.headers["www-authenticate"], "Bearer")

    def test_foreign_token(self) -> None:
        claims = {"slot": "6f95dd3c", "filename": "photo.jpg", "filesize": 16, "exp": NOW + 9}
        self.refused(URL, {"Authorization": "Bearer " + jwt(claims, "another")}, 403, "bad-signature")

    def test_expired_token(self) -> None:
        self.refused(URL, bearer(PATH, 16, exp=NOW - 1), 403, "expired")

    def test_token_of_another_slot(self) -> None:
        self.refused(URL, bearer("6f95dd3d/photo.jpg", 16), 403, "wrong-slot")
        self.refused(URL, bearer("6f95dd3c/other.jpg", 16), 403, "wrong-slot")

    def test_token_of_another_size(self) -> None:
        """413, as Prosody itself answers."""
        self.refused(URL, bearer(PATH, 17), 413, "size-mismatch")

    def test_token_goes_first(self) -> None:
        """A good signature beside a bad token is no way in."""
        self.refused(v(PATH, 16), bearer(PATH, 16, exp=NOW - 1), 403, "expired")

    def test_never_says_why(self) -> None:
        """A wrong signature looks the same whatever is wrong with it."""
        bodies = {
            self.refused(target, None, 403, "bad-signature").body
            for target in (v(PATH, 17), v("x/y", 16).replace("x/y", PATH), v2(PATH, 16, "image/gif"))
        }
        self.assertEqual(len(bodies), 1)


class LengthTests(ServerTestCase):
    """The size of the file, which the signature is of."""

    def test_none(self) -> None:
        """A PUT that says nothing of a body."""
        self.assert_refused(self.server.ask(request("PUT", v(PATH, 16))), 411, "length-required")

    def test_chunked(self) -> None:
        """``v``, ``v2`` and ``token`` sign the length: a body that doesn't tell it is not read."""
        for target in (v(PATH, 16), v2(PATH, 16, "image/jpeg"), v2(PATH, 16, "image/jpeg", "token")):
            answer = self.server.ask(chunked(target, EXPECT, CONTENT))
            self.assert_refused(answer, 411, "length-required")
            self.assertEqual(answer.interim, ())

    def test_chunked_v3(self) -> None:
        """It signs no size, but room has to be found for one."""
        server = self.serve(accept_v3=True)
        answer = server.ask(chunked(v3(PATH, int(NOW) + 60), {}, CONTENT))
        self.assert_refused(answer, 411, "length-required", server)

    def test_chunked_token(self) -> None:
        """A token says the size by itself."""
        answer = self.server.ask(chunked(URL, bearer(PATH, 16), CONTENT[:10], CONTENT[10:]))
        self.assertEqual((answer.status, self.get(PATH)), (201, CONTENT))

    def test_chunked_short(self) -> None:
        """An end that comes too early is no end: nothing is published."""
        self.assert_refused(self.server.ask(chunked(URL, bearer(PATH, 17), CONTENT)), 400, "short-body")
        self.assertEqual(self.tree(), [])

    def test_chunked_long(self) -> None:
        """More than was signed."""
        answer = self.server.ask(chunked(URL, bearer(PATH, 15), CONTENT[:10], CONTENT[10:]))
        self.assert_refused(answer, 413, "size-mismatch")
        self.assertEqual(self.tree(), [])

    def test_chunked_broken(self) -> None:
        """A coding that can't be read: 400, one line in the log, and the end of the connection."""
        broken = chunked(URL, bearer(PATH, 16), CONTENT[:10]).replace(b"0\r\n\r\n", b"no size\r\n")
        wire = self.server.connect(broken)
        self.assert_refused(wire.answer(), 400, "malformed-body")
        self.assertEqual((len(self.server.entries), wire.reading, self.tree()), (1, True, []))
        self.assertEqual(wire.answer().headers["connection"], "close")
        self.assertEqual(self.server.metric("malformed_requests_total", reason="malformed-body"), 1)

    def test_too_large(self) -> None:
        """Refused before the body, and the limit is said; one byte less is taken."""
        server = self.serve(max_upload_bytes=15)
        for headers in (EXPECT, {}):
            answer = server.ask(request("PUT", v(PATH, 16), headers, length=16))
            self.assert_refused(answer, 413, "too-large", server)
            self.assertEqual(answer.interim, ())
            self.assertIn(b"15", answer.body)
        self.assertEqual(server.put(PATH, CONTENT[:15]).status, 201)

    def test_too_large_by_token(self) -> None:
        """A chunked body's size is known from the token."""
        server = self.serve(max_upload_bytes=15)
        self.assert_refused(server.ask(chunked(URL, bearer(PATH, 16), CONTENT)), 413, "too-large", server)

    def test_too_slow(self) -> None:
        """A sender that falls silent is answered, and what it has sent is kept."""
        server = self.serve(limits=Limits(read_timeout_s=60))
        wire = server.connect(request("PUT", v(PATH, 16), {}, CONTENT[:5], length=16))
        self.clock.pump([1] * 60)
        self.assert_refused(wire.answer(), 408, "timeout", server)
        self.assertEqual(server.head(v(PATH, 16)).headers["upload-offset"], "5")

    def test_too_slow_again(self) -> None:
        """So is one that sends a stored file once more."""
        server = self.serve(limits=Limits(read_timeout_s=60))
        server.put(PATH, CONTENT)
        wire = server.connect(request("PUT", v(PATH, 16), {}, CONTENT[:5], length=16))
        self.clock.pump([1] * 60)
        self.assert_refused(wire.answer(), 408, "timeout", server)


class RoomTests(ServerTestCase):
    """Room on the disk."""

    def test_none_left(self) -> None:
        """507 before the body, and when to come back."""
        server = self.serve(free_bytes=lambda: 15)
        for headers in (EXPECT, {}):
            answer = server.ask(request("PUT", v(PATH, 16), headers, length=16))
            self.assert_refused(answer, 507, "no-space", server)
            self.assertEqual(answer.interim, ())
            self.assertIn("retry-after", answer.headers)
        self.assertEqual(self.own_files("parts"), [])

    def test_floor(self) -> None:
        """``MinFreeSpace`` stays free."""
        server = self.serve(free_bytes=lambda: 26, min_free_bytes=10)
        self.assert_refused(server.put("a/f", b"x" * 17), 507, "no-space", server)
        self.assertEqual(server.put("a/f", b"x" * 16).status, 201)

    def test_in_flight(self) -> None:
        """What others have begun is counted before it is there."""
        server = self.serve(free_bytes=lambda: 30)
        server.connect(request("PUT", v("a/1", 16), {}, b"x", length=16))
        self.assert_refused(server.put("a/2", b"x" * 16), 507, "no-space", server)

    def test_written_is_not_counted_twice(self) -> None:
        """What has arrived is missing on the disk; only what is still to come is a promise."""
        free = [30]
        server = self.serve(free_bytes=lambda: free[0])
        server.connect(request("PUT", v("a/1", 16), {}, CONTENT[:10], length=16))
        free[0] -= 10
        self.clock.advance(1)
        self.assert_refused(server.put("a/2", b"x" * 15), 507, "no-space", server)
        self.assertEqual(server.put("a/2", b"x" * 14).status, 201)

    def test_rest(self) -> None:
        """An upload that goes on needs room for what is missing."""
        server = self.serve(free_bytes=lambda: 10)
        self.server.broken(PATH, CONTENT, 6)
        self.assertEqual(server.put(PATH, CONTENT).status, 201)

    def test_given_back(self) -> None:
        """A client that left no longer has a claim on the rest."""
        server = self.serve(free_bytes=lambda: 30)
        server.broken("a/1", CONTENT, 1)
        self.clock.advance(1)
        self.assertEqual(server.put("a/2", b"x" * 16).status, 201)

    def test_runs_out(self) -> None:
        """In the middle of a body: 507, and nothing is left behind."""
        self.disk.fail("write", errno.ENOSPC)
        self.assert_refused(self.server.put(PATH, CONTENT), 507, "no-space")
        self.assertEqual((self.tree(), self.own_files("parts")), ([], []))

    def test_no_inode(self) -> None:
        """Not even room for a name: 507 as well, before the body."""
        self.disk.fail("create", errno.ENOSPC)
        answer = self.server.ask(request("PUT", v(PATH, 16), EXPECT, length=16))
        self.assert_refused(answer, 507, "no-space")
        self.assertEqual(answer.interim, ())

    def test_no_room_for_a_directory(self) -> None:
        """At the very end, when the file is to get its name."""
        self.disk.fail("make_directory", errno.ENOSPC)
        self.assert_refused(self.server.put(PATH, CONTENT), 507, "no-space")
        self.assertEqual((self.tree(), self.own_files("parts")), ([], []))

    def test_no_room_for_facts(self) -> None:
        """They go elsewhere, or the upload ends as any other on a full disk."""
        self.disk.fail("set_attribute", errno.ENOSPC)
        self.assertEqual(self.server.put(PATH, CONTENT).status, 201)
        self.assertEqual(self.server.get().headers["etag"], f'"{SHA256.hex()[:32]}"')

    def test_files_are_served(self) -> None:
        """A full disk is no reason not to."""
        self.server.put(PATH, CONTENT)
        full = self.serve(free_bytes=lambda: 0)
        self.assertEqual(full.get().body, CONTENT)
        self.assertEqual(full.put(PATH, CONTENT).status, 201)


class MethodTests(ServerTestCase):
    """What is no PUT of a file."""

    def refused(self, data: bytes, status: int, reason: str) -> Answer:
        wire = self.server.connect(data)
        answer = wire.answers(data.partition(b" ")[0].decode())[0]
        self.assertEqual((answer.status, self.server.entries[-1].reason), (status, reason))
        self.assertEqual(answer.interim, ())
        self.assertEqual(self.own_files("parts"), [])
        return answer

    def test_post(self) -> None:
        """Refused when its headers are in: 2 GB of a form are not even read."""
        form = {"Content-Type": "multipart/form-data; boundary=x", **EXPECT}
        answer = self.refused(request("POST", URL, form, length=2 << 30), 415, "bad-media-type")
        self.assertEqual(answer.headers["connection"], "close")

    def test_post_of_no_protocol(self) -> None:
        """What POST and PATCH do here is up to a protocol that the request names."""
        for method in ("POST", "PATCH"):
            answer = self.refused(request(method, v(PATH, 16), length=2 << 30), 412, "unsupported-protocol")
            self.assertEqual(answer.headers["tus-version"], "1.0.0")

    def test_other_methods(self) -> None:
        for method in ("TRACE", "PROPFIND", "put"):
            self.refused(request(method, URL), 405, "method-not-allowed")

    def test_form(self) -> None:
        """A form in a PUT, however the type is spelt."""
        for content_type in (
            "multipart/form-data; boundary=x",
            "MULTIPART/Form-Data",
            "application/x-www-form-urlencoded",
            "application/X-WWW-Form-Urlencoded; charset=utf-8",
        ):
            headers = {"Content-Type": content_type, **EXPECT}
            self.refused(request("PUT", v(PATH, 16), headers, length=16), 415, "bad-media-type")

    def test_options(self) -> None:
        """What Prosody's and ejabberd's proxies ask, and every browser: 204, and which methods there are."""
        answer = self.server.ask(request("OPTIONS", URL))
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["allow"], "OPTIONS, GET, HEAD, PUT, POST, PATCH, DELETE")


class AgainTests(ServerTestCase):
    """A PUT to a path where there is a file already: its client never heard of the first 201, or means another file."""

    def setUp(self) -> None:
        super().setUp()
        self.server.put(PATH, CONTENT)
        self.disk.calls.clear()

    def test_same(self) -> None:
        """The same bytes: 201 as before, with the same digest."""
        answer = self.server.put(PATH, CONTENT)
        self.assertEqual((answer.status, answer.headers["repr-digest"]), (201, STATED))

    def test_same_is_synced(self) -> None:
        """Its 201 means as much as the first one, whose sync may not have been over."""
        self.server.put(PATH, CONTENT)
        synced = [subject for method, subject in self.disk.calls if method == "sync"]
        self.assertEqual(synced, [str(path) for path in (self.root / PATH, self.root / "6f95dd3c", self.root)])

    def test_same_chunked(self) -> None:
        self.assertEqual(self.server.ask(chunked(URL, bearer(PATH, 16), CONTENT[:5], CONTENT[5:])).status, 201)

    def test_same_after_its_time(self) -> None:
        """What a GET is told, a PUT of the same is told as well: 410, though no sweep has removed the file yet."""
        slot = bearer("a/f", 16, expires=NOW + 60, exp=NOW + 600)
        self.assertEqual(self.server.ask(request("PUT", url("a/f"), slot, CONTENT)).status, 201)
        self.clock.advance(61)
        self.assert_refused(self.server.ask(request("PUT", url("a/f"), slot, CONTENT)), 410, "expired")

    def test_other_bytes(self) -> None:
        """409, and nothing has changed."""
        self.assert_refused(self.server.put(PATH, b"a photo of a dog"), 409, "conflict")
        self.assertEqual(self.get(PATH), CONTENT)

    def test_other_size(self) -> None:
        """Known before the body."""
        answer = self.server.ask(request("PUT", v(PATH, 17), EXPECT, length=17))
        self.assert_refused(answer, 409, "conflict")
        self.assertEqual(answer.interim, ())

    def test_same_by_digest(self) -> None:
        """A digest of the whole file says that it is the same: the body isn't waited for."""
        for name, value in (
            ("Repr-Digest", STATED),
            ("Content-Digest", STATED),
            ("Digest", STATED.replace("=:", "=").rstrip(":")),
            ("X-Checksum", SHA256.hex()),
        ):
            answer = self.server.ask(request("PUT", v(PATH, 16), {**EXPECT, name: value}, length=16))
            self.assertEqual((answer.status, answer.interim), (201, ()), name)

    def test_other_by_digest(self) -> None:
        """Or that it is another one."""
        answer = self.server.ask(request("PUT", v(PATH, 16), {**EXPECT, "Repr-Digest": STATED_OTHER}, length=16))
        self.assert_refused(answer, 409, "conflict")
        self.assertEqual(answer.interim, ())

    def test_digest_of_unhashed_file(self) -> None:
        """With nothing to compare it with, the bytes are compared."""
        unhashed = self.serve(hash_all=False)
        unhashed.put("a/f", CONTENT)
        answer = unhashed.ask(request("PUT", v("a/f", 16), {**EXPECT, "Repr-Digest": STATED}, length=16), CONTENT)
        self.assertEqual((answer.status, answer.interim), (201, (100,)))

    def test_client_gone(self) -> None:
        """In the middle of the comparison: nothing is different afterwards."""
        self.server.broken(PATH, CONTENT, 5)
        self.assertEqual((self.get(PATH), self.own_files("parts")), (CONTENT, []))

    def test_directory_in_the_way(self) -> None:
        """Known before the body, too."""
        answer = self.server.ask(request("PUT", v("6f95dd3c", 16), EXPECT, length=16))
        self.assert_refused(answer, 409, "conflict")
        self.assertEqual(answer.interim, ())

    def test_file_in_the_way(self) -> None:
        """A file where the path wants a directory."""
        answer = self.server.ask(request("PUT", v(PATH + "/x", 16), EXPECT, length=16))
        self.assert_refused(answer, 409, "conflict")
        self.assertEqual(answer.interim, ())

    def test_link_in_the_way(self) -> None:
        """A symbolic link is neither followed nor replaced."""
        (self.root / "link").symlink_to("/etc/passwd")
        self.assert_refused(self.server.put("link", CONTENT), 409, "conflict")
        self.assertTrue((self.root / "link").is_symlink())


class DigestTests(ServerTestCase):
    """What a client states of its bytes is verified before anybody can have them."""

    def test_right(self) -> None:
        for number, (name, value) in enumerate(
            [
                ("Repr-Digest", STATED),
                ("Content-Digest", STATED),
                ("Content-MD5", b64encode(hashlib.md5(CONTENT).digest()).decode()),
                ("X-Checksum-Sha256", SHA256.hex()),
                ("Digest", "SHA=" + b64encode(hashlib.sha1(CONTENT).digest()).decode()),
            ]
        ):
            self.assertEqual(self.server.put(f"{number}/f", CONTENT, {name: value}).status, 201, name)

    def test_wrong(self) -> None:
        """400, nothing is published, and what arrived is worth nothing."""
        for name, value in (
            ("Repr-Digest", STATED_OTHER),
            ("Content-Digest", STATED_OTHER),
            ("X-Checksum", "0" * 64),
            ("Content-MD5", b64encode(b"0" * 16).decode()),
        ):
            answer = self.server.put(PATH, CONTENT, {name: value})
            self.assertEqual((answer.status, answer.body.partition(b":")[0]), (400, b"digest-mismatch"), name)
            self.assertEqual((self.tree(), self.own_files("parts")), ([], []), name)

    def test_wrong_then_right(self) -> None:
        """The same URL can be used again."""
        self.server.put(PATH, b"a photo of a dog", {"Repr-Digest": STATED})
        self.assertEqual(self.server.put(PATH, CONTENT, {"Repr-Digest": STATED}).status, 201)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_wrong_while_hashing_is_off(self) -> None:
        """What is stated is verified, whatever ``ChecksumVerification`` says."""
        server = self.serve(hash_all=False)
        self.assert_refused(server.put(PATH, CONTENT, {"Repr-Digest": STATED_OTHER}), 400, "digest-mismatch", server)

    def test_no_digest(self) -> None:
        """What can't be meant is refused before the body."""
        answer = self.server.ask(request("PUT", v(PATH, 16), {**EXPECT, "X-Checksum": "abc"}, length=16))
        self.assert_refused(answer, 400, "bad-digest")
        self.assertEqual(answer.interim, ())

    def test_malformed_field(self) -> None:
        """RFC 9530 has it passed over; the operator is told, whose users believe that something is verified."""
        self.assertEqual(self.server.put(PATH, CONTENT, {"Repr-Digest": "sha-256=?"}).status, 201)
        self.assertTrue(any("repr-digest is malformed" in line for line in self.logged()))


class ProblemTests(ServerTestCase):
    """Refusals for programs."""

    def test_json(self) -> None:
        """Asked for, a refusal is problem details (RFC 9457)."""
        answer = self.server.ask(request("PUT", URL, {"Accept": "application/problem+json"}, CONTENT))
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        problem = json.loads(answer.body)
        self.assertEqual(
            (problem["title"], problem["status"], problem["reason"]), ("Forbidden", 403, "missing-signature")
        )

    def test_text(self) -> None:
        """Otherwise one line."""
        answer = self.server.ask(request("PUT", URL, {"Accept": "*/*"}, CONTENT))
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertRegex(answer.body, rb"^missing-signature: [^\n]+\n$")


class RestartTests(ServerTestCase):
    """What outlives the process."""

    def test_facts(self) -> None:
        """Type, digest, owner and expiry of a file are known to the next process."""
        self.server.ask(request("PUT", URL, bearer(PATH, 16, expires=NOW + 60, filetype="audio/ogg"), CONTENT))
        before = self.facts(PATH)
        later: Server = self.serve(self.open_store())
        answer = later.get()
        self.assertEqual((answer.headers["content-type"], answer.headers["repr-digest"]), ("audio/ogg", STATED))
        self.assertEqual(answer.headers["cache-control"], "private, max-age=60, immutable")
        self.assertEqual(self.facts(PATH, self.open_store()), before)

    def test_facts_without_attributes(self) -> None:
        """The same where the file system has no extended attributes."""
        self.disk.fail("set_attribute", errno.ENOTSUP)
        self.server.ask(request("PUT", URL, bearer(PATH, 16, filetype="audio/ogg"), CONTENT))
        answer = self.serve(self.open_store()).get()
        self.assertEqual((answer.headers["content-type"], answer.headers["repr-digest"]), ("audio/ogg", STATED))
