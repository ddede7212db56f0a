"""The sentence in the log that says what is different between what was signed and what was sent."""

from __future__ import annotations

import re
from unittest.mock import patch
from urllib.parse import quote

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access import diagnosis
from hmacfs.access.attempt import Attempt
from hmacfs.access.diagnosis import MAX_MACS, MAX_SHOWN, explain
from hmacfs.access.keys import Secret
from hmacfs.storage.types import KNOWN_TYPES
from tests.access.vectors import hex_mac, jwt, put

HOST = "https://up.example.org"

NFC, NFD = "tr\u00e8s.txt", "tre\u0300s.txt"

CLAIMS = {"slot": "s", "filename": "a", "filesize": 7, "exp": 1}


class DiagnosisTestCase(SynchronousTestCase):
    upload_subdir = b"upload"
    accepted: tuple[Secret, ...] = (Secret(b"it-is-secret"),)
    retired: tuple[Secret, ...] = ()
    accept_v3 = False

    def explain(self, attempt: Attempt) -> str | None:
        """What is said of *attempt*; never anything that is secret."""
        said = explain(attempt, self.accepted, self.retired, self.upload_subdir, self.accept_v3)
        hidden = [secret.value.decode().strip() for secret in (*self.accepted, *self.retired)]
        credentials = (attempt.query or attempt.authorization or b"").decode()
        for secret in (*hidden, *re.findall("[0-9a-f]{64}|[^. ]+", credentials)):
            self.assertNotIn(secret, said or "")
        return said

    def v(
        self, signed: str, path: str = "s/a.txt", size: int | None = 7, scheme: str = "v", raw: str | None = None
    ) -> str | None:
        """What is said of a PUT to *path* below the prefix, or to the URL path *raw*, if *signed* was signed."""
        raw = "/upload/" + quote(path) if raw is None else raw
        return self.explain(put(f"{HOST}{raw}?{scheme}={hex_mac(signed.encode())}", size))

    def v2(
        self, signed_type: str, sent_type: str | None, signed: str = "s/a.txt\x007", scheme: str = "v2"
    ) -> str | None:
        mac = hex_mac(f"{signed}\x00{signed_type}".encode())
        return self.explain(put(f"{HOST}/upload/s/a.txt?{scheme}={mac}", 7, content_type=sent_type))


class NothingToSayTests(DiagnosisTestCase):
    def test_right_signatures(self) -> None:
        """They are explained by nothing, whatever the size: 0 is one of the sizes that are tried."""
        for size in (0, 7, 16):
            self.assertIsNone(self.v(f"s/a.txt {size}", size=size))
        self.assertIsNone(self.v2("text/plain", "text/plain"))
        self.assertIsNone(self.explain(put(HOST + "/upload/s/a", 7, authorization="Bearer " + jwt(CLAIMS))))

    def test_other_secret(self) -> None:
        mac = hex_mac(b"s/a.txt 7", "quite another secret")
        self.assertIsNone(self.explain(put(f"{HOST}/upload/s/a.txt?v={mac}", 7)))
        token = jwt(CLAIMS, "quite another secret")
        self.assertIsNone(self.explain(put(HOST + "/upload/s/a", 7, authorization="Bearer " + token)))

    def test_two_differences(self) -> None:
        """Prefix and size, for example: no single one explains them."""
        self.assertIsNone(self.v("upload/s/a.txt 23"))

    def test_no_signature(self) -> None:
        for query in ("", "v=", "v=x", "v=" + "0" * 63, "x=1", "v=1&v=1"):
            self.assertIsNone(self.explain(put(f"{HOST}/upload/s/a?{query}", 7)))
        self.assertIsNone(self.explain(put(f"{HOST}/upload/s/a", 7, authorization="Bearer x")))

    def test_nul(self) -> None:
        """Nothing would be right about the path that makes v and v2 collide."""
        self.assertIsNone(self.v("upload/s/a\x0010\x00x 7", raw="/upload/s/a%0010%00x"))
        self.assertIsNone(self.v("upload/s/a\x00 7", raw="/upload/s/a%00"))

    def test_endless_path(self) -> None:
        path = "s/" + "a" * 10_000
        self.assertIsNone(self.v(f"upload/{path} 7", path))


class PathTests(DiagnosisTestCase):
    def test_prefix_kept(self) -> None:
        """The sentence that the operator's guide quotes."""
        self.assertEqual(
            self.v("upload/s/a.txt 7"),
            'right if the path were "upload/s/a.txt": the XMPP server\'s base URL and UploadSubDir differ',
        )

    def test_prefix_kept_with_its_slash(self) -> None:
        """As hmac-file-server signs."""
        self.assertIn('"/upload/s/a.txt": the XMPP server\'s base URL', self.v("/upload/s/a.txt 7") or "")

    def test_prefix_kept_in_part(self) -> None:
        self.upload_subdir = b"files/upload"
        url = "/files/upload/s/a.txt"
        for signed in ("files/upload/s/a.txt", "upload/s/a.txt"):
            self.assertIn(f'"{signed}": the XMPP server\'s base URL', self.v(signed + " 7", raw=url) or "")

    def test_prefix_longer_than_ours(self) -> None:
        """The base URL has more segments than UploadSubDir, or the same one twice."""
        for path in ("files/s/a.txt", "upload/s/a.txt", "x/y/s/a.txt"):
            self.assertIn('"s/a.txt": the XMPP server\'s base URL', self.v("s/a.txt 7", path) or "", path)

    def test_no_prefix_configured(self) -> None:
        self.upload_subdir = b""
        self.assertIn('"s/a.txt": the XMPP server\'s base URL', self.v("s/a.txt 7", raw="/upload/s/a.txt") or "")
        self.assertIsNone(self.v("s/a.txt 7", raw="/s/a.txt"))

    def test_leading_slash(self) -> None:
        self.assertIn('"/s/a.txt": it was signed with a leading slash', self.v("/s/a.txt 7") or "")

    def test_double_slash_in_the_url(self) -> None:
        """A base URL that ends in two slashes. Such a path is refused for itself; the log says that it needn't be."""
        for raw in ("/upload//s/a.txt", "/upload/s//a.txt", "//upload/s/a.txt"):
            said = self.v("s/a.txt 7", raw=raw) or ""
            self.assertIn('"s/a.txt"', said, raw)
        self.assertIn("there is a double slash in the URL", self.v("s/a.txt 7", raw="/upload//s/a.txt") or "")

    def test_double_slash_signed(self) -> None:
        self.assertIn('"upload//s/a.txt"', self.v("upload//s/a.txt 7") or "")

    def test_raw_path_signed(self) -> None:
        """Percent-encoded as it was sent, or in the signer's own way."""
        path = "s/a b+è.txt"
        for signed, raw in (
            ("s/a%20b+%C3%A8.txt", "/upload/s/a%20b+%C3%A8.txt"),
            ("s/a%20b%2B%C3%A8.txt", "/upload/s/a%20b+%c3%a8.txt"),
            ("s/a%20b%2b%c3%a8.txt", "/upload/s/a%20b+%C3%A8.txt"),
        ):
            self.assertEqual(
                self.v(signed + " 7", path, raw=raw),
                f'right if the path were "{signed}": it was signed percent-encoded',
            )

    def test_encoded_twice(self) -> None:
        """By a proxy that escapes what is escaped already."""
        self.assertIn(
            "it was percent-encoded twice on its way", self.v("s/a b.txt 7", raw="/upload/s/a%2520b.txt") or ""
        )

    def test_plus_and_space(self) -> None:
        self.assertIn("a space became a plus", self.v("s/a b.txt 7", "s/a+b.txt") or "")
        self.assertIn("a plus became a space", self.v("s/a+b.txt 7", "s/a b.txt") or "")

    def test_normalized(self) -> None:
        self.assertIn("it became Unicode NFD on its way", self.v(f"s/{NFC} 7", f"s/{NFD}") or "")
        self.assertIn("it became Unicode NFC on its way", self.v(f"s/{NFD} 7", f"s/{NFC}") or "")

    def test_shown_path_is_safe_in_a_log(self) -> None:
        """No control character, no quotation mark that ends it early, and not without end."""
        name = 'a"\n\x1b[31m' + "x" * 500 + ".txt"
        said = self.v(f"upload/s/{name} 7", f"s/{name}") or ""
        self.assertIn("base URL", said)
        self.assertTrue(said.isprintable())
        self.assertEqual(said.count('"'), 2)
        self.assertLess(len(said), MAX_SHOWN + 100)

    def test_all_schemes(self) -> None:
        """v2 and token, whichever content type is the right one."""
        for scheme in ("v2", "token"):
            for content_type in ("image/png", "application/octet-stream", "text/plain", ""):
                said = self.v2(content_type, "image/png", "upload/s/a.txt\x007", scheme)
                self.assertIn('"upload/s/a.txt"', said or "", content_type)


class SizeTests(DiagnosisTestCase):
    def test_unknown_to_the_signer(self) -> None:
        self.assertIn("right for 0 bytes", self.v("s/a.txt 0") or "")
        self.assertIn("right for -1 bytes", self.v("s/a.txt -1") or "")

    def test_unknown_to_us(self) -> None:
        """A chunked body; other servers take it for 0 or -1 bytes."""
        self.assertIn("right for 0 bytes", self.v("s/a.txt 0", size=None) or "")

    def test_encrypted(self) -> None:
        """OMEMO adds 16 bytes: the slot may have been asked for too early, or the wrong file was sent."""
        self.assertIn("right for 100 bytes: the client encrypted the file after", self.v("s/a.txt 100", size=116) or "")
        self.assertIn("right for 116 bytes: the slot was asked for an encr", self.v("s/a.txt 116", size=100) or "")

    def test_left_out(self) -> None:
        self.assertIn("right for the path alone", self.v("s/a.txt") or "")

    def test_any_other(self) -> None:
        self.assertIsNone(self.v("s/a.txt 8"))


class TypeTests(DiagnosisTestCase):
    def test_every_known_type(self) -> None:
        """The slot was asked for with one type, and the PUT says another."""
        for signed in ("image/webp", "application/pdf", "audio/mp4"):
            said = self.v2(signed, "text/plain")
            self.assertEqual(said, f'right if the content type were "{signed}": the slot was asked for with that one')

    def test_parameters(self) -> None:
        self.assertIn('"text/plain; charset=utf-8"', self.v2("text/plain; charset=utf-8", "text/plain") or "")
        self.assertIn('"text/plain;charset=utf-8"', self.v2("text/plain;charset=utf-8", None) or "")

    def test_v_has_none(self) -> None:
        self.assertIsNone(self.v("s/a.txt 7 image/webp"))


class SchemeTests(DiagnosisTestCase):
    def test_v2_under_the_name_of_v(self) -> None:
        said = self.v2("text/plain", "text/plain", scheme="v")
        self.assertEqual(said, "right as v2 (or token): the parameter is named v")

    def test_v_under_the_name_of_v2(self) -> None:
        for scheme in ("v2", "token"):
            said = self.v("s/a.txt 7", scheme=scheme)
            self.assertEqual(said, f"right as v: the parameter is named {scheme}")

    def test_v3_is_off(self) -> None:
        attempt = put(f"{HOST}/upload/s/a?v3={'0' * 64}&expires=1", 7)
        self.assertEqual(self.explain(attempt), "a v3 signature came, and AcceptV3 is off")
        self.accept_v3 = True
        self.assertIsNone(self.explain(attempt))


class SecretTests(DiagnosisTestCase):
    retired = (Secret(b"the old secret"),)

    def with_secret(self, secret: str) -> list[str]:
        """What is said of each scheme, signed with *secret*."""
        v, v2 = hex_mac(b"s/a 7", secret), hex_mac(b"s/a\x007\x00", secret)
        attempts = [
            put(f"{HOST}/upload/s/a?v={v}", 7),
            put(f"{HOST}/upload/s/a?v2={v2}", 7),
            put(HOST + "/upload/s/a", 7, authorization="Bearer " + jwt(CLAIMS, secret)),
        ]
        return [self.explain(attempt) or "" for attempt in attempts]

    def test_previous_secret(self) -> None:
        fingerprint = self.retired[0].fingerprint
        for said in self.with_secret("the old secret"):
            self.assertEqual(said, f"right with the previous secret ({fingerprint}), whose grace period is over")

    def test_secret_read_in_another_way(self) -> None:
        """With its line end, or with the quotation marks of a configuration file."""
        for secret, part in (
            ("it-is-secret\n", "ended with a line end"),
            ('"it-is-secret"', "were in quotation marks"),
        ):
            for said in self.with_secret(secret):
                self.assertIn(part, said)
        self.accepted = (Secret(b' "it-is-secret"\n'),)
        for said in self.with_secret('"it-is-secret"'):
            self.assertIn("had no white space around it", said)
        self.accepted = (Secret(b'"it-is-secret"'),)
        for said in self.with_secret("it-is-secret"):
            self.assertIn("were without its quotation marks", said)

    def test_second_accepted_secret(self) -> None:
        """Signatures under the previous secret are explained like all others while it is accepted."""
        self.accepted = (Secret(b"the new secret"), Secret(b"it-is-secret"))
        self.assertIn("right for -1 bytes", self.v("s/a.txt -1") or "")

    def test_secret_of_quotation_marks_only(self) -> None:
        """Nothing is left of it without them; nobody signs with nothing."""
        self.accepted = (Secret(b'""'),)
        self.assertEqual(self.with_secret("something else"), ["", "", ""])


class V3Tests(DiagnosisTestCase):
    accept_v3 = True

    def v3(self, path: str, method: str = "PUT", raw: str = "/upload/s/a%20b.txt", secret: str = "it-is-secret") -> str:
        mac = hex_mac(f"{method}\n1717804800\n{path}".encode(), secret)
        return self.explain(put(f"{HOST}{raw}?v3={mac}&expires=1717804800", 7)) or ""

    def test_right(self) -> None:
        self.assertEqual(self.v3("/upload/s/a b.txt"), "")
        self.upload_subdir = b""
        self.assertEqual(self.v3("/s/a b.txt", raw="/s/a%20b.txt"), "")

    def test_paths(self) -> None:
        for signed, why in (
            ("upload/s/a b.txt", "v3 signs it with its leading slash"),
            ("/s/a b.txt", "v3 signs it with UploadSubDir"),
            ("s/a b.txt", "v3 signs it with its leading slash and UploadSubDir"),
            ("/upload/s/a%20b.txt", "it was signed percent-encoded"),
        ):
            self.assertEqual(self.v3(signed), f'right if the path were "{signed}": {why}')

    def test_other_method(self) -> None:
        self.assertIn("right for POST", self.v3("/upload/s/a b.txt", "POST"))

    def test_other_secret(self) -> None:
        self.retired = (Secret(b"the old secret"),)
        self.assertIn("previous secret", self.v3("/upload/s/a b.txt", secret="the old secret"))


class BoundTests(DiagnosisTestCase):
    def test_work_is_bounded(self) -> None:
        """However odd the request is: nobody can make the server busy by being refused."""
        self.accepted = (Secret(b'"new"'), Secret(b'"old"'))
        self.retired = (Secret(b"retired"),)
        self.upload_subdir = b"a/b/c/d/e"
        attempt = put(f"{HOST}/a/b/c/d/e/f/g/h/i/j%2520+ /%C3%A8.txt?v2={'0' * 64}", 116, content_type="A/B; c=d")
        with patch.object(diagnosis, "mac", side_effect=diagnosis.mac) as mac:
            self.assertIsNone(self.explain(attempt))
        self.assertLessEqual(mac.call_count, MAX_MACS)

    def test_bound_leaves_nothing_out(self) -> None:
        """Even then the last guess, the last of the known types, is still made."""
        self.accepted = (Secret(b'"new"'), Secret(b'"old"'))
        self.retired = (Secret(b"retired"),)
        self.upload_subdir = b"a/b/c/d/e"
        path = "f/g/h/i/j%20+ /è.txt"
        last = sorted(KNOWN_TYPES)[-1]
        attempt = put(f"{HOST}/a/b/c/d/e/{quote(path)}?v2=", 116, content_type="A/B; c=d")
        signed = hex_mac(f"{path}\x00116\x00{last}".encode(), '"old"')
        self.assertIn(f'"{last}"', self.explain(evolve(attempt, query=f"v2={signed}".encode())) or "")

    @given(st.binary(max_size=60), st.binary(max_size=60), st.none() | st.integers(0, 2**60))
    def test_any_request(self, raw_path: bytes, content_type: bytes, size: int | None) -> None:
        """Nothing is raised, whatever was refused."""
        for scheme in ("v", "v2", "token", "v3"):
            query = f"{scheme}={'0' * 64}&expires=1".encode()
            for accept_v3 in (True, False):
                attempt = Attempt(raw_path, query, None, b"PUT", size, content_type)
                said = explain(attempt, self.accepted, self.retired, b"upload", accept_v3)
                self.assertEqual(said is not None, scheme == "v3" and not accept_v3)
