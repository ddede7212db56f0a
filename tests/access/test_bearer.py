"""Reading the tokens of Prosody's mod_http_file_share."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.bearer import BearerTokens, Grant, bearer_token
from hmacfs.access.keys import Secret
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from tests.access.vectors import flipped, jwt, signatures

SECRET = Secret(b"it-is-secret")

CLAIMS: dict[str, object] = {
    "sub": "alice@localhost",
    "exp": 1795364864,
    "expires": 1795969364,
    "slot": "mpvBGXFiAq1py1GXX--W8R7I",
    "filesize": 1048576,
    "filetype": "image/jpeg",
    "filename": "photo.jpg",
    "iat": 1795364564,
}


class BearerTestCase(SynchronousTestCase):
    def read(self, token: str | bytes, *secrets: Secret) -> Grant | None:
        found = bearer_token(b"Bearer " + (token.encode() if isinstance(token, str) else token))
        assert found is not None
        return BearerTokens().read(found, secrets or [SECRET])

    def grant(self, **changes: Any) -> Grant:
        found = self.read(jwt({**CLAIMS, **changes}))
        assert found is not None
        return found

    def refused(self, token: str | bytes) -> None:
        """*token* is taken for no token of ours, whoever signed it."""
        refused = self.assertRaises(Refused, self.read, token)
        self.assertEqual((refused.status, refused.reason), (401, "bad-token"))
        self.assertEqual(refused.headers, {"WWW-Authenticate": "Bearer"})


class VectorTests(BearerTestCase):
    def test_claims(self) -> None:
        """Everything that live servers wrote is read as it was meant."""
        vectors = signatures("prosody-jwt")
        self.assertTrue(vectors)
        for vector in vectors:
            claims = vector["claims"]
            self.assertEqual(
                self.read(vector["token"], Secret(vector["secret"].encode())),
                Grant(
                    slot=claims["slot"],
                    filename=claims["filename"],
                    size=claims["filesize"],
                    content_type=claims["filetype"] or "application/octet-stream",
                    owner=claims["sub"],
                    ends=claims["exp"],
                    expires=claims.get("expires"),
                ),
            )

    def test_one_bit_flipped(self) -> None:
        """In any digit of any part: no token, or not one of ours. That includes the bits of the last digit that carry
        nothing, which some decoders don't look at."""
        token = signatures("prosody-jwt")[0]["token"].encode()
        for index in range(len(token)):
            for bit in (0, 1):
                try:
                    self.assertIsNone(self.read(flipped(token, index, bit)), index)
                except Refused as refused:
                    self.assertEqual(refused.reason, "bad-token")

    def test_signatures_of_the_documentation(self) -> None:
        """An example with its own order of claims, under two secrets."""
        claims = (
            b'{"exp":1612113460,"expires":1612717960,"filename":"picture.png","filesize":7168,"filetype":"image/png",'
            b'"iat":1612113160,"slot":"RVbKAgWPcrUYAodj","sub":"user@example.com"}'
        )
        for secret, signature in (
            ("it-is-secret", "0oRxYROn2bJYonlE-HHeqevJ2BuXz1vYoT0iVkEqpzA"),
            ("U2VjcmV0VG9rZW4wMzYz", "4GiEI4ed8M6rouL4pvN1yGl23ns5dxlokCjwnWR6xCo"),
        ):
            token = jwt(claims, header=b'{"alg":"HS256","typ":"JWT"}').rpartition(".")[0] + "." + signature
            grant = self.read(token, Secret(secret.encode()))
            self.assertEqual(grant and grant.slot, "RVbKAgWPcrUYAodj")


class AuthorizationTests(BearerTestCase):
    def test_scheme_in_any_case(self) -> None:
        token = jwt(CLAIMS).encode()
        for scheme in (b"Bearer", b"bearer", b"BEARER"):
            self.assertEqual(bearer_token(scheme + b" " + token), token)

    def test_other_schemes_are_not_ours(self) -> None:
        for header in (None, b"", b"Basic YWxpY2U6cHc=", b"Digest a=b", b"Bearerish abc", b"xBearer abc"):
            self.assertIsNone(bearer_token(header), header)

    def test_bearer_of_nothing_like_a_token(self) -> None:
        """Padding, other alphabets, other numbers of parts, other lengths of the signature."""
        token = jwt(CLAIMS)
        header, claims, signature = token.split(".")
        for bad in (
            "",
            "abc",
            f"{header}.{claims}",
            f"{header}.{claims}.",
            f"{token}.{signature}",
            f"{token}=",
            f"{token} ",
            f"{token}, {token}",
            f"{header}=.{claims}.{signature}",
            f"{header}.{claims}+/.{signature}",
            f"{header}..{signature}",
            f"{header}.{claims}.{signature[:-1]}",
            f"{header}.{claims}.{signature}AA",
            f"{header}.{claims}\n.{signature}",
        ):
            self.refused(bad)
        self.assertEqual(self.assertRaises(Refused, bearer_token, b"Bearer").status, 401)

    @given(st.binary(max_size=100))
    def test_any_header(self, header: bytes) -> None:
        for authorization in (header, b"Bearer " + header):
            try:
                token = bearer_token(authorization)
            except Refused as refused:
                self.assertEqual(refused.reason, "bad-token")
            else:
                self.assertIsNone(token)


class SignatureTests(BearerTestCase):
    def test_any_of_the_secrets(self) -> None:
        other = Secret(b"another secret")
        self.assertIsNone(self.read(jwt(CLAIMS), other))
        self.assertIsNotNone(self.read(jwt(CLAIMS), other, SECRET))

    def test_algorithm(self) -> None:
        """HS256 and nothing else, above all not "none", whatever the signature is worth."""
        algorithms: list[object] = ["none", "None", "", None, "HS512", "RS256", "hs256", 1, ["HS256"], {"HS256": 1}]
        for algorithm in algorithms:
            self.refused(jwt(CLAIMS, header={"alg": algorithm, "typ": "JWT"}))
        self.refused(jwt(CLAIMS, header={"typ": "JWT"}))
        self.refused(jwt(CLAIMS, header={"alg": "HS512", "typ": "JWT"}, algorithm="sha512"))

    def test_type(self) -> None:
        """A header may leave it out, but not say another."""
        self.assertIsNotNone(self.read(jwt(CLAIMS, header={"alg": "HS256"})))
        self.refused(jwt(CLAIMS, header={"alg": "HS256", "typ": "at+jwt"}))

    def test_extensions(self) -> None:
        """What a header calls critical must be understood (RFC 7515 section 4.1.11), and nothing of that kind is."""
        self.refused(jwt(CLAIMS, header={"alg": "HS256", "crit": ["exp"], "exp": 1}))
        self.refused(jwt(CLAIMS, header={"alg": "HS256", "crit": ["b64"], "b64": False}))

    def test_header_that_is_no_object(self) -> None:
        for header in (b"null", b"[]", b'"HS256"', b"{", b"\xff\xfe", b"[" * 12000, b'{"a":' * 5000):
            self.refused(jwt(CLAIMS, header=header))

    def test_claims_are_not_looked_at_before_the_signature(self) -> None:
        self.assertIsNone(self.read(jwt(b"[" * 12000, secret="not ours")))

    def test_secrets_of_any_kind(self) -> None:
        """Short ones, and those that look like another kind of key: without a word from the JWT library."""
        secrets = ["x", "ssh-rsa AAAA", "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----", '{"kty":"oct"}']
        for secret in secrets:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.assertIsNotNone(self.read(jwt(CLAIMS, secret), Secret(secret.encode())), secret)

    @given(st.binary(max_size=60), st.binary(max_size=60))
    def test_any_genuine_token_is_read_or_refused(self, header: bytes, claims: bytes) -> None:
        """Bytes that the holder of the secret signed, and that are no JSON: refused, and not an error of ours."""
        for token in (jwt(claims), jwt(CLAIMS, header=header)):
            try:
                self.read(token)
            except Refused as refused:
                self.assertEqual(refused.reason, "bad-token")


class ClaimTests(BearerTestCase):
    def test_whole_numbers_may_be_floats(self) -> None:
        """Lua has one kind of number."""
        grant = self.grant(filesize=7.0, exp=1.795364864e9, expires=1795969364.0)
        self.assertEqual((grant.size, grant.ends, grant.expires), (7, 1795364864, 1795969364))
        self.assertIs(type(grant.size), int)

    def test_size(self) -> None:
        """Any whole number from 0 on that a double holds, and nothing else that Python takes for a number."""
        for good in (0, 1, 2**53):
            self.assertEqual(self.grant(filesize=good).size, good)
        for bad in (True, False, None, "7", 7.5, -1, 2**53 + 2, 1e300, float("inf"), float("nan"), [7], {}):
            self.refused(jwt({**CLAIMS, "filesize": bad}))
        self.refused(jwt(b'{"filesize":1%s}' % (b"0" * 5000)))

    def test_ends(self) -> None:
        for bad in (True, None, "1795364864", -1, float("inf"), float("nan"), 10**400, []):
            self.refused(jwt({**CLAIMS, "exp": bad}))
            self.refused(jwt({**CLAIMS, "expires": bad}))

    def test_missing_claims(self) -> None:
        """A token without one of these is somebody else's, made with the same secret."""
        for name in ("slot", "filename", "filesize", "exp"):
            self.refused(jwt({key: value for key, value in CLAIMS.items() if key != name}))

    def test_optional_claims(self) -> None:
        """``expires`` is absent where Prosody keeps files for ever."""
        grant = self.read(jwt({key: CLAIMS[key] for key in ("slot", "filename", "filesize", "exp")}))
        assert grant is not None
        self.assertEqual((grant.expires, grant.owner, grant.content_type), (None, None, "application/octet-stream"))
        self.assertEqual(self.grant(sub="").owner, None)

    def test_texts(self) -> None:
        for name in ("slot", "filename", "filetype", "sub"):
            for bad in (None, 1, True, ["a"], {}):
                self.refused(jwt({**CLAIMS, name: bad}))

    def test_type_that_cannot_stand_in_a_header(self) -> None:
        """XMPP lets clients put a line break into the type that they ask a slot for."""
        for filetype in ("", "text/html\r\nSet-Cookie: a", "téxt/plain", "a" * 300, "\ud800"):
            self.assertEqual(self.grant(filetype=filetype).content_type, "application/octet-stream")

    def test_payload_that_is_no_object(self) -> None:
        for payload in (b"null", b"[]", b"1", b'"a"', b"", b"{", b"\xff", b"[" * 12000):
            self.refused(jwt(payload) if payload else jwt(CLAIMS).replace(jwt(CLAIMS).split(".")[1], ""))

    def test_is_for(self) -> None:
        """Exactly the signed slot and the signed name, as bytes: no normalisation, no case folding, nothing below."""
        grant = self.grant(slot="s", filename="é.txt")
        self.assertTrue(grant.is_for(SlotPath((b"s", "é.txt".encode()))))
        for other in (
            (b"s", "e\u0301.txt".encode()),
            (b"s", "É.txt".encode()),
            (b"S", "é.txt".encode()),
            (b"s", b"\xe9.txt"),
            (b"s", b"a", "é.txt".encode()),
            (b"s",),
        ):
            self.assertFalse(grant.is_for(SlotPath(other)), other)

    def test_is_for_lone_surrogates(self) -> None:
        """JSON can name a character that no URL can: then no path is the slot's."""
        self.assertFalse(self.grant(slot="s", filename="\udcff").is_for(SlotPath((b"s", b"\xff"))))
