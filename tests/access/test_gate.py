"""From a request's credentials to a slot, or to the right refusal."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from urllib.parse import quote, unquote

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.attempt import Attempt
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from tests.access.vectors import WHEN, flipped, hex_mac, jwt, path_of, put, signatures, slots

URL = "https://up.example.org/upload/"
NUL = b"\0"


class GateTestCase(SynchronousTestCase):
    """A gate whose clock stands at :data:`WHEN`."""

    upload_subdir = "upload"
    accept_v3 = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(WHEN)
        self.keyring = Keyring(Secret(b"it-is-secret"))

    def gate(self, secret: str | None = None) -> Gate:
        keyring = self.keyring if secret is None else Keyring(Secret(secret.encode()))
        return Gate(keyring, self.upload_subdir, self.accept_v3, self.clock.seconds)

    def authorize(self, attempt: Attempt, secret: str | None = None) -> Slot:
        return self.gate(secret).authorize(path_of(attempt, self.upload_subdir), attempt)

    def refused(self, status: int, reason: str, attempt: Attempt, secret: str | None = None) -> Refused:
        refused = self.assertRaises(Refused, self.authorize, attempt, secret)
        self.assertEqual((refused.status, refused.reason), (status, reason))
        return refused


class VectorTests(GateTestCase):
    """Everything that real servers signed, and the same with one bit changed."""

    def attempts(self, scheme: str) -> list[tuple[Attempt, dict[str, Any]]]:
        """PUTs for all vectors of *scheme*, but for the path that must not get here."""
        found = []
        for vector in signatures(scheme):
            if not vector["path"].endswith("/.."):
                url = URL + vector["path"].replace("%", "%25").replace(";", "%3B")
                attempt = put(url, vector.get("size"), content_type=vector.get("content_type"))
                found.append((evolve(attempt, query=f"{scheme}={vector['mac']}".encode()), vector))
        return found

    def check_flipped(self, attempt: Attempt, secret: str) -> None:
        """Neither another signature, nor another path, nor another size will do."""
        start = attempt.query.index(b"=") + 1
        for index in (start, start + 31, len(attempt.query) - 1):
            # Bit 5 is the case of a letter; bit 1 makes another hexadecimal digit, or none.
            changed = evolve(attempt, query=flipped(attempt.query, index, 1))
            self.refused(403, "bad-signature", changed, secret)
        self.refused(403, "bad-signature", evolve(attempt, raw_path=flipped(attempt.raw_path, -3)), secret)
        assert attempt.size is not None
        self.refused(403, "bad-signature", evolve(attempt, size=attempt.size ^ 1), secret)

    def test_v(self) -> None:
        for attempt, vector in self.attempts("v"):
            slot = self.authorize(attempt, vector["secret"])
            self.assertEqual((slot.path.text, slot.size, slot.scheme), (vector["path"], vector["size"], "v"))
            self.check_flipped(attempt, vector["secret"])

    def test_v2_and_token(self) -> None:
        for attempt, vector in self.attempts("v2"):
            for scheme in ("v2", "token"):
                named = evolve(attempt, query=f"{scheme}={vector['mac']}".encode())
                slot = self.authorize(named, vector["secret"])
                self.assertEqual((slot.path.text, slot.size, slot.scheme), (vector["path"], vector["size"], scheme))
                self.assertEqual(slot.content_type, vector["content_type"] or "application/octet-stream")
                self.check_flipped(named, vector["secret"])

    def test_slots_of_live_servers(self) -> None:
        """Slots as XMPP clients got them, used as XMPP clients do."""
        self.assertTrue(slots())
        for entry in slots():
            asked, made = entry["request"], entry["slot"]
            self.clock.rightNow = 1795365950.0
            attempt = put(
                made["put"],
                asked["size"],
                authorization=made["headers"].get("Authorization"),
                content_type=asked["content_type"],
            )
            slot = self.authorize(attempt, entry["secret"])
            self.assertEqual(slot.path.text, unquote(made["get"].removeprefix(entry["base_url"])))
            self.assertEqual(slot.size, asked["size"])
            if slot.scheme != "v" or asked["content_type"]:
                self.assertEqual(slot.content_type, asked["content_type"] or "application/octet-stream")
            if slot.scheme == "jwt":
                self.check_flipped_token(attempt, entry["secret"])
            else:
                self.check_flipped(attempt, entry["secret"])

    def test_tokens(self) -> None:
        for vector in signatures("prosody-jwt"):
            attempt = put(vector["put_url"], None, authorization=f"Bearer {vector['token']}")
            claims = vector["claims"]
            if claims["filename"] == "..":
                self.assertEqual(self.assertRaises(Refused, path_of, attempt).reason, "bad-path")
                continue
            slot = self.authorize(evolve(attempt, size=claims["filesize"]), vector["secret"])
            self.assertEqual(slot.path.text, f"{claims['slot']}/{claims['filename']}")
            self.assertEqual((slot.size, slot.owner, slot.scheme), (claims["filesize"], "alice@localhost", "jwt"))
            self.assertEqual(slot.expires, claims["expires"])
            self.check_flipped_token(evolve(attempt, size=claims["filesize"]), vector["secret"])

    def check_flipped_token(self, attempt: Attempt, secret: str) -> None:
        assert attempt.authorization is not None and attempt.size is not None
        for index in (-43, -20, -1):
            changed = evolve(attempt, authorization=flipped(attempt.authorization, index, 1))
            refused = self.assertRaises(Refused, self.authorize, changed, secret)
            self.assertIn(refused.reason, ("bad-signature", "bad-token"))
        self.refused(403, "wrong-slot", evolve(attempt, raw_path=flipped(attempt.raw_path, -3)), secret)
        self.refused(413, "size-mismatch", evolve(attempt, size=attempt.size ^ 1), secret)

    def test_signed_but_dangerous_path(self) -> None:
        """Prosody signs ``<uuid>/..`` when it is asked to. Such a path doesn't get as far as the gate."""
        (vector,) = (entry for entry in signatures("v") if entry["path"].endswith("/.."))
        refused = self.assertRaises(Refused, SlotPath.from_url, vector["path"].encode().split(b"/"))
        self.assertEqual((refused.status, refused.reason), (400, "bad-path"))

    def test_collision_of_v_and_v2(self) -> None:
        """A slot for 10 bytes can't be made one for 999999999: the path that would do it is refused unseen."""
        (vector,) = signatures("collision")
        v2 = vector["v2"]
        attempt = put(URL + f"{v2['path']}?v2={vector['mac']}", v2["size"], content_type=v2["content_type"])
        self.assertEqual(self.authorize(attempt).size, 10)
        attempt = put(URL + f"u/f.bin%0010%00x?v={vector['mac']}", vector["v"]["size"])
        refused = self.assertRaises(Refused, path_of, attempt)
        self.assertEqual((refused.status, refused.reason), (400, "bad-path"))


class WhichCredentialTests(GateTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.good_v = hex_mac(b"s/a.txt 7")
        self.good_v2 = hex_mac(b"s/a.txt\x007\x00text/plain")
        self.bad = "0" * 64

    def attempt(self, query: str = "", authorization: str | None = None) -> Attempt:
        return put(f"{URL}s/a.txt?{query}", 7, authorization=authorization, content_type="text/plain")

    def bearer(self, **changes: object) -> str:
        claims = {"slot": "s", "filename": "a.txt", "filesize": 7, "filetype": "text/html", "exp": WHEN + 300}
        return "Bearer " + jwt({**claims, **changes})

    def test_none(self) -> None:
        """Another scheme of Authorization is none, and neither is a v3 that isn't spoken here."""
        for attempt in (
            self.attempt(),
            self.attempt("x=1&xv=" + self.good_v),
            self.attempt(authorization="Basic YWxpY2U6cHc="),
            self.attempt(f"v3={self.bad}&expires=9999999999"),
        ):
            self.refused(403, "missing-signature", attempt)

    def test_highest_version_wins(self) -> None:
        self.assertEqual(self.authorize(self.attempt(f"v={self.good_v}&v2={self.good_v2}")).scheme, "v2")
        self.assertEqual(self.authorize(self.attempt(f"v={self.good_v}&token={self.good_v2}")).scheme, "token")

    def test_no_fallback_to_a_lower_version(self) -> None:
        for query in (
            f"v={self.good_v}&v2={self.bad}",
            f"v={self.good_v}&v2=",
            f"v={self.good_v}&v2",
            f"v={self.good_v}&token=x",
            f"token={self.good_v2}&v2={self.bad}",
        ):
            self.refused(403, "bad-signature", self.attempt(query))

    def test_bearer_goes_before_the_query(self) -> None:
        query = f"v={self.good_v}"
        self.assertEqual(self.authorize(self.attempt(query, self.bearer())).scheme, "jwt")
        self.refused(403, "expired", self.attempt(query, self.bearer(exp=WHEN - 1)))
        self.refused(401, "bad-token", self.attempt(query, "Bearer x"))

    def test_other_authorization_is_ignored(self) -> None:
        """A proxy's password prompt, for example."""
        self.assertEqual(self.authorize(self.attempt(f"v={self.good_v}", "Basic YWxpY2U6cHc=")).scheme, "v")

    def test_twice(self) -> None:
        self.refused(400, "bad-query", self.attempt(f"v={self.good_v}&v={self.bad}"))

    def test_upper_case_digits(self) -> None:
        self.assertEqual(self.authorize(self.attempt(f"v={self.good_v.upper()}")).scheme, "v")

    def test_malformed_signatures(self) -> None:
        for text in ("", "x", self.good_v[:-1], self.good_v + "0", self.good_v + "%0A", "+" + self.good_v):
            self.refused(403, "bad-signature", self.attempt(f"v={text}"))

    def test_v3_that_is_not_spoken_does_not_hide_v2(self) -> None:
        """The highest version *that we support* counts."""
        self.assertEqual(self.authorize(self.attempt(f"v3={self.bad}&expires=1&v2={self.good_v2}")).scheme, "v2")

    def test_refusals_do_not_say_why(self) -> None:
        """A wrong size, a wrong path and a wrong secret look the same to whoever tries."""
        details = {
            self.refused(403, "bad-signature", attempt).detail
            for attempt in (
                evolve(self.attempt(f"v={self.good_v}"), size=8),
                put(f"{URL}s/b.txt?v={self.good_v}", 7),
                self.attempt(f"v={self.bad}"),
                self.attempt("v=x"),
                self.attempt("", "Bearer " + jwt({}, "another secret")),
            )
        }
        self.assertEqual(len(details), 1)

    def test_nothing_secret_is_shown(self) -> None:
        """Neither by what is passed on nor by what is raised."""
        attempt = self.attempt(f"v={self.good_v}", "Basic YWxpY2U6cHc=")
        slot = self.authorize(attempt)
        refused = self.refused(403, "bad-signature", self.attempt(f"v={self.bad}"))
        shown = f"{attempt!r} {slot!r} {refused!r} {refused}"
        for hidden in (self.good_v, self.bad, "YWxpY2U6cHc", slot.signature.hex(), repr(slot.signature)):
            self.assertNotIn(hidden, shown)

    @given(st.binary(max_size=80), st.none() | st.binary(max_size=80), st.none() | st.binary(max_size=20))
    def test_any_request_is_refused(
        self, query: bytes, authorization: bytes | None, content_type: bytes | None
    ) -> None:
        """Whatever comes without a secret is refused, and is no error of ours."""
        for scheme in (b"", b"v=", b"v2=", b"Bearer "):
            attempt = Attempt(b"/upload/s/a.txt", scheme + query, authorization, b"PUT", 7, content_type)
            self.assertIn(self.assertRaises(Refused, self.authorize, attempt).status, (400, 401, 403))


class SizeTests(GateTestCase):
    def test_unknown_size(self) -> None:
        """A chunked body: the size is signed and can't be compared. Said before the signature is looked at."""
        for query in ("v=" + hex_mac(b"s/a 7"), "v=" + "0" * 64, "v2=" + "0" * 64, "token=" + "0" * 64):
            self.refused(411, "length-required", put(f"{URL}s/a?{query}", None))

    def test_sizes_that_a_careless_signer_means_by_unknown(self) -> None:
        """prosody-filer takes a signature for -1 bytes for a chunked body."""
        for size in (b"-1", b"0", b""):
            self.refused(411, "length-required", put(f"{URL}s/a?v={hex_mac(b's/a ' + size)}", None))

    def test_empty_file(self) -> None:
        self.assertEqual(self.authorize(put(f"{URL}s/a?v={hex_mac(b's/a 0')}", 0)).size, 0)

    def test_path_alone(self) -> None:
        """hmac-file-server takes signatures that leave out the size, or the type; nobody else does."""
        self.refused(403, "bad-signature", put(f"{URL}s/a?v={hex_mac(b's/a')}", 7))
        self.refused(403, "bad-signature", put(f"{URL}s/a?v2={hex_mac(b's/a' + bytes(1) + b'7')}", 7))

    def test_token(self) -> None:
        """Its size counts, whether or not the request tells one; another is refused before the body."""
        claims = {"slot": "s", "filename": "a", "filesize": 7, "exp": WHEN}
        for size in (7, None):
            self.assertEqual(self.authorize(put(URL + "s/a", size, authorization="Bearer " + jwt(claims))).size, 7)
        for size in (0, 6, 8):
            self.refused(413, "size-mismatch", put(URL + "s/a", size, authorization="Bearer " + jwt(claims)))


class ContentTypeTests(GateTestCase):
    def v2(self, signed: bytes, sent: str | None, name: str = "photo.jpg") -> Attempt:
        text = f"s/{name}\x007\x00".encode() + signed
        return put(f"{URL}s/{name}?v2={hex_mac(text)}", 7, content_type=sent)

    def test_the_signed_type_is_kept(self) -> None:
        """Whatever the client sent: nothing (QXmpp), the same with more to it, or something else."""
        for signed, sent, kept in (
            (b"image/jpeg", "image/jpeg", "image/jpeg"),
            (b"text/plain", "Text/Plain; charset=utf-8", "text/plain"),
            (b"Text/Plain; x=Y", "Text/Plain; x=Y", "Text/Plain; x=Y"),
            (b"application/octet-stream", "image/jpeg", "application/octet-stream"),
            (b"application/octet-stream", None, "application/octet-stream"),
            (b"image/jpeg", None, "image/jpeg"),
            (b"image/jpeg", "application/octet-stream", "image/jpeg"),
            (b"", "image/jpeg", "application/octet-stream"),
            (b"", "", "application/octet-stream"),
        ):
            self.assertEqual(self.authorize(self.v2(signed, sent)).content_type, kept, (signed, sent))

    def test_a_type_that_was_not_signed(self) -> None:
        for signed, sent in ((b"image/png", "image/jpeg"), (b"TEXT/PLAIN", "text/plain"), (b"text/html", None)):
            self.refused(403, "bad-signature", self.v2(signed, sent))

    def test_v_does_not_sign_a_type(self) -> None:
        """So the one that was sent counts; without one, the name tells."""
        for sent, kept in (
            ("video/mp4", "video/mp4"),
            (None, "image/jpeg"),
            ("", "image/jpeg"),
            ("a" * 300, "application/octet-stream"),
        ):
            attempt = put(f"{URL}s/photo.jpg?v={hex_mac(b's/photo.jpg 7')}", 7, content_type=sent)
            self.assertEqual(self.authorize(attempt).content_type, kept)

    def test_a_token_decides(self) -> None:
        """Prosody ignores the Content-Type of the PUT, too."""
        claims = {"slot": "s", "filename": "a.jpg", "filesize": 7, "exp": WHEN, "filetype": "text/plain; charset=utf-8"}
        attempt = put(URL + "s/a.jpg", 7, authorization="Bearer " + jwt(claims), content_type="text/html")
        self.assertEqual(self.authorize(attempt).content_type, "text/plain; charset=utf-8")


class TokenTests(GateTestCase):
    def attempt(self, url: str = URL + "s/a.txt", **changes: object) -> Attempt:
        claims = {"slot": "s", "filename": "a.txt", "filesize": 7, "sub": "alice@localhost", "exp": WHEN + 300}
        return put(url, 7, authorization="Bearer " + jwt({**claims, **changes}))

    def test_expiry(self) -> None:
        """It may be used in its last second, and not after that. There is no grace."""
        attempt = self.attempt(exp=WHEN)
        self.assertEqual(self.authorize(attempt).scheme, "jwt")
        self.clock.advance(0.5)
        self.refused(403, "expired", attempt)

    def test_expiry_of_the_file(self) -> None:
        """Passed on as it is: it is the storage's to heed, and absent where files are kept for ever."""
        self.assertEqual(self.authorize(self.attempt(expires=WHEN + 86400)).expires, WHEN + 86400)
        self.assertIsNone(self.authorize(self.attempt()).expires)

    def test_other_slot(self) -> None:
        for path in ("t/a.txt", "s/b.txt", "s/A.TXT", "s/a.txt/a.txt", "x/s/a.txt", "s", "a.txt"):
            self.refused(403, "wrong-slot", self.attempt(URL + path))

    def test_path_is_compared_decoded(self) -> None:
        """Clients write the URL in their own way."""
        for name in ("a+b%20c", "%61+b%20%63", "a%2bb%20c"):
            self.assertEqual(self.authorize(self.attempt(URL + "s/" + name, filename="a+b c")).path.text, "s/a+b c")

    def test_forged(self) -> None:
        attempt = self.attempt()
        self.refused(403, "bad-signature", attempt, secret="another secret")

    def test_forged_and_expired(self) -> None:
        """Time is not looked at in a token that isn't ours: "expired" is no failed attempt."""
        self.refused(403, "bad-signature", self.attempt(exp=1), secret="another secret")


class SecretTests(GateTestCase):
    """While the secret changes."""

    def attempts(self) -> list[Attempt]:
        """One of each scheme, all of them made with the old secret."""
        claims = {"slot": "s", "filename": "a", "filesize": 7, "exp": WHEN + 9999}
        v2 = hex_mac(b"s/a\x007\x00")
        return [
            put(f"{URL}s/a?v={hex_mac(b's/a 7')}", 7),
            put(f"{URL}s/a?v2={v2}", 7),
            put(f"{URL}s/a?token={v2}", 7),
            put(URL + "s/a", 7, authorization="Bearer " + jwt(claims)),
        ]

    def test_previous_secret_during_its_grace(self) -> None:
        self.keyring.replace(Secret(b"the new secret"), WHEN, 3600)
        self.clock.advance(3599)
        for attempt in self.attempts():
            self.assertEqual(self.authorize(attempt).path.text, "s/a")
        self.clock.advance(1)
        for attempt in self.attempts():
            self.refused(403, "bad-signature", attempt)

    def test_new_secret(self) -> None:
        self.keyring.replace(Secret(b"the new secret"), WHEN, 3600)
        attempt = put(f"{URL}s/a?v={hex_mac(b's/a 7', 'the new secret')}", 7)
        self.assertEqual(self.authorize(attempt).scheme, "v")


class UnfinishedUploadTests(GateTestCase):
    """HEAD, the rest, and DELETE of an upload that was begun before."""

    def test_size_that_was_noted(self) -> None:
        """HEAD has no length: with the noted total it is as good as the PUT, and shows the same slot."""
        attempt = put(f"{URL}s/a?v={hex_mac(b's/a 7')}", 7)
        for method in (b"HEAD", b"DELETE", b"PATCH"):
            self.assertEqual(self.authorize(evolve(attempt, method=method)), self.authorize(attempt))

    def test_identity_outlives_the_credential(self) -> None:
        """A phone without a network for an hour goes on, though its token was good for five minutes, the secret has
        changed since, and its HEAD has no length."""
        claims = {"slot": "s", "filename": "a", "filesize": 7, "exp": WHEN + 300}
        attempts = [
            put(f"{URL}s/a?v={hex_mac(b's/a 7')}", 7),
            put(URL + "s/a", 7, authorization="Bearer " + jwt(claims)),
        ]
        begun = [self.authorize(attempt).signature for attempt in attempts]
        self.keyring.replace(Secret(b"the new secret"), WHEN, 60)
        self.clock.advance(3600)
        for attempt, identity in zip(attempts, begun, strict=True):
            self.refused(403, "bad-signature", attempt)
            self.assertEqual(self.gate().identify(evolve(attempt, method=b"HEAD", size=None)), identity)

    def test_identity_of_v3(self) -> None:
        """Only where it is spoken."""
        attempt = put(f"{URL}s/a?v3={'0' * 64}&expires=1", 7)
        self.assertIsNone(self.gate().identify(attempt))
        self.accept_v3 = True
        self.assertEqual(self.gate().identify(attempt), sha256(b"v3:" + bytes(32)).digest())

    def test_no_identity_without_a_credential(self) -> None:
        """Neither without any, nor for what can't be one."""
        for query in ("", "x=1", "v=", "v=x", "v=" + "0" * 63, f"v={'0' * 64}&v={'0' * 64}"):
            self.assertIsNone(self.gate().identify(put(f"{URL}s/a?{query}", 7)), query)
        for authorization in ("Basic YWxpY2U6cHc=", "Bearer", "Bearer x"):
            self.assertIsNone(self.gate().identify(put(URL + "s/a", 7, authorization=authorization)), authorization)

    def test_signature_identifies_the_credential(self) -> None:
        """The same for every way to write it, another for every other credential, and not the credential itself."""
        v, v2 = hex_mac(b"s/a 7"), hex_mac(b"s/a\x007\x00")
        claims = {"slot": "s", "filename": "a", "filesize": 7, "exp": WHEN}
        attempts = [
            put(f"{URL}s/a?v={v}", 7),
            put(f"{URL}s/a?v={hex_mac(b's/a 8')}", 8),
            put(f"{URL}s/a?v2={v2}", 7),
            put(f"{URL}s/a?token={v2}", 7),
            put(URL + "s/a", 7, authorization="Bearer " + jwt(claims)),
            put(URL + "s/a", 7, authorization="Bearer " + jwt({**claims, "exp": WHEN + 1})),
        ]
        identities = [self.authorize(attempt).signature for attempt in attempts]
        self.assertEqual(len(set(identities)), len(attempts))
        self.assertEqual([self.gate().identify(attempt) for attempt in attempts], identities)
        upper = put(f"{URL}%73/a?x=1&v={v.upper()}", 7)
        self.assertEqual(self.authorize(upper).signature, self.authorize(attempts[0]).signature)
        self.assertEqual(self.authorize(upper).signature, sha256(b"v:" + bytes.fromhex(v)).digest())


class PrefixTests(GateTestCase):
    """What is signed is the path below UploadSubDir, whatever that is."""

    def check(self, url: str) -> None:
        self.assertEqual(self.authorize(put(f"{url}s/a?v={hex_mac(b's/a 7')}", 7)).path.text, "s/a")

    def test_none(self) -> None:
        self.upload_subdir = ""
        self.check("https://up.example.org/")

    def test_several_segments(self) -> None:
        self.upload_subdir = "files/upload"
        self.check("https://up.example.org/files/upload/")


class V3Tests(GateTestCase):
    accept_v3 = True

    def attempt(self, path: str = "/upload/s/a.txt", expires: object = int(WHEN), **kwargs: Any) -> Attempt:
        signed = hex_mac(f"PUT\n{expires}\n{path}".encode())
        return put(f"https://up.example.org{path}?v3={signed}&expires={expires}", 7, **kwargs)

    def test_vectors(self) -> None:
        """With the prefix and without one, and each with one bit changed."""
        for vector in signatures("v3"):
            path = vector["path"]
            self.upload_subdir = "upload" if path.startswith("/upload/") else ""
            self.clock.rightNow = float(vector["expires"])
            query = f"v3={vector['mac']}&expires={vector['expires']}"
            attempt = put(f"https://up.example.org{path}?{query}", 7)
            slot = self.authorize(attempt)
            self.assertEqual((slot.scheme, slot.path.text), ("v3", path.removeprefix("/upload").lstrip("/")))
            self.refused(403, "bad-signature", evolve(attempt, query=flipped(attempt.query, 3, 1)))
            self.refused(403, "bad-signature", evolve(attempt, query=flipped(attempt.query, -1)))
            self.refused(403, "bad-signature", evolve(attempt, raw_path=flipped(attempt.raw_path, -3)))

    def test_size_is_left_open(self) -> None:
        """Any size, or none told: the server's own limit is all that holds."""
        for size in (0, 7, None):
            self.assertIsNone(self.authorize(evolve(self.attempt(), size=size)).size)

    def test_type_as_sent(self) -> None:
        self.assertEqual(self.authorize(self.attempt(content_type="image/png")).content_type, "image/png")
        self.assertEqual(self.authorize(self.attempt()).content_type, "text/plain")

    def test_expiry(self) -> None:
        """In its last second, and not after: hmac-file-server's hours of grace are not ours."""
        attempt = self.attempt()
        self.assertIsNone(self.authorize(attempt).expires)
        self.clock.advance(1)
        self.refused(403, "expired", attempt)

    def test_forged_and_expired(self) -> None:
        self.refused(403, "bad-signature", self.attempt(expires=1), secret="another secret")

    def test_expiry_must_be_told(self) -> None:
        """hmac-file-server takes a signature that never ends. Neither do other ways to write a number go."""
        endless = hex_mac(b"PUT\n/upload/s/a.txt")
        self.refused(403, "bad-signature", put(f"{URL}s/a.txt?v3={endless}", 7))
        for expires in ("", "+1895364600", "01895364600", "1895364600.0", "9" * 16, "-1", "٣", "1_0", "%201"):
            self.refused(
                403, "bad-signature", put(f"{URL}s/a.txt?v3={endless}&expires={expires}".replace("٣", "%D9"), 7)
            )

    def test_put_only(self) -> None:
        """Neither is a signature for PUT good for anything else, nor one for anything else good for PUT."""
        attempt = self.attempt()
        for method in (b"GET", b"HEAD", b"DELETE", b"PATCH", b"put"):
            self.refused(403, "bad-signature", evolve(attempt, method=method))
        signed = hex_mac(f"DELETE\n{int(WHEN)}\n/upload/s/a.txt".encode())
        attempt = evolve(attempt, query=f"v3={signed}&expires={int(WHEN)}".encode())
        for method in (b"PUT", b"DELETE"):
            self.refused(403, "bad-signature", evolve(attempt, method=method))

    def test_goes_before_v2(self) -> None:
        v2 = hex_mac(b"s/a.txt\x007\x00")
        attempt = self.attempt()
        self.assertEqual(self.authorize(evolve(attempt, query=attempt.query + f"&v2={v2}".encode())).scheme, "v3")
        self.refused(403, "bad-signature", put(f"{URL}s/a.txt?v2={v2}&v3={'0' * 64}&expires={int(WHEN)}", 7))

    def test_previous_secret(self) -> None:
        self.keyring.replace(Secret(b"the new secret"), WHEN, 60)
        self.assertEqual(self.authorize(self.attempt()).scheme, "v3")


class DeletionTests(GateTestCase):
    """Metronome's request that a stored file is deleted."""

    delete_secret = b"delete-me"

    def gate(self, secret: str | None = None) -> Gate:
        keyring = self.keyring if secret is None else Keyring(Secret(secret.encode()))
        return Gate(keyring, self.upload_subdir, self.accept_v3, self.clock.seconds, self.delete_secret)

    def attempt(self, path: str, query: str) -> Attempt:
        return put(f"{URL}{quote(path)}?{query}", None, method="DELETE")

    def allowed(self, attempt: Attempt, secret: str | None = None) -> bool:
        return self.gate(secret).authorize_deletion(path_of(attempt), attempt)

    def check_refused(self, attempt: Attempt, secret: str | None = None) -> None:
        refused = self.assertRaises(Refused, self.allowed, attempt, secret)
        self.assertEqual((refused.status, refused.reason), (403, "bad-signature"))

    def test_vectors(self) -> None:
        """As Metronome signs, whose query need not be escaped; and each with one bit changed."""
        vectors = signatures("token-delete")
        self.assertEqual(len(vectors), 3)
        for vector in vectors:
            self.delete_secret = vector["delete_secret"].encode()
            attempt = self.attempt(vector["path"], f"token={vector['mac']}")
            self.assertTrue(self.allowed(attempt, vector["secret"]))
            self.check_refused(evolve(attempt, query=flipped(attempt.query, -1, 1)), vector["secret"])
            self.check_refused(evolve(attempt, raw_path=flipped(attempt.raw_path, -1)), vector["secret"])
            self.check_refused(attempt, "another-secret")
            self.delete_secret += b"x"
            self.check_refused(attempt, vector["secret"])

    def test_token_of_an_upload(self) -> None:
        """Who may upload a file may not delete it."""
        self.check_refused(self.attempt("s/a.txt", f"token={hex_mac(b's/a.txt' + NUL + b'7' + NUL)}"))

    def test_other_parameters(self) -> None:
        """Only ``token`` is spoken here, and only if nothing goes before it."""
        signed = hex_mac(b"s/a.txt" + NUL + b"delete-me")
        for query in ("", f"v={signed}", f"v2={signed}", f"v2={'0' * 64}&token={signed}", "v3=x"):
            self.assertFalse(self.allowed(self.attempt("s/a.txt", query)), query)
        self.assertTrue(self.allowed(self.attempt("s/a.txt", f"v={'0' * 64}&token={signed}")))

    def test_malformed(self) -> None:
        for token in ("", "abc", "g" * 64):
            self.check_refused(self.attempt("s/a.txt", f"token={token}"))

    def test_off(self) -> None:
        """Without a delete secret nothing can be deleted, least of all with the MAC of an empty one."""
        self.delete_secret = b""
        self.assertFalse(self.allowed(self.attempt("s/a.txt", f"token={hex_mac(b's/a.txt' + NUL)}")))

    def test_previous_secret(self) -> None:
        """It is good for deletions as long as it is good for uploads."""
        attempt = self.attempt("s/a.txt", f"token={hex_mac(b's/a.txt' + NUL + b'delete-me')}")
        self.keyring.replace(Secret(b"the new secret"), WHEN, 60)
        self.assertTrue(self.allowed(attempt))
        self.clock.advance(60)
        self.check_refused(attempt)


class ExplainTests(GateTestCase):
    """The gate's own part in explaining; what it can explain is tested with the diagnosis."""

    def test_with_the_secrets_of_the_time(self) -> None:
        """The previous secret explains nothing while it is accepted, and everything after that."""
        attempt = put(f"{URL}s/a?v={hex_mac(b's/a 7')}", 7)
        self.keyring.replace(Secret(b"the new secret"), WHEN, 60)
        self.assertIsNone(self.gate().explain(attempt))
        self.clock.advance(60)
        self.assertIn("previous secret", self.gate().explain(attempt) or "")

    def test_prefix(self) -> None:
        attempt = put(f"{URL}s/a?v={hex_mac(b'upload/s/a 7')}", 7)
        self.assertIn('"upload/s/a"', self.gate().explain(attempt) or "")
