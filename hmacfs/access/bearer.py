"""The upload token of Prosody's mod_http_file_share: a JWT in the ``Authorization`` header.

See https://prosody.im/doc/external_upload. Signed with HS256 under the secret's bytes; the claims name one slot, one
file name, one size, one type, the uploader, and two ends: the token's (``exp``) and the file's (``expires``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen
from jwt import InvalidSignatureError, PyJWS, PyJWTError
from jwt.algorithms import HMACAlgorithm

from hmacfs.access.keys import Secret
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.storage.types import storable_type

# Three parts of base64url without padding (RFC 7515 section 7.1). The last is 32 bytes, so two bits of its last digit
# carry nothing and have to be 0: a token has one spelling only. Older versions of PyJWT skip what is no base64.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")

_SCHEME: Final = re.compile(rb"bearer(?:[ \t]+(.*))?", re.IGNORECASE | re.DOTALL)

# Of sizes in bytes and of seconds since the epoch: what a double holds exactly, which is what Lua counts with.
_MAX_NUMBER: Final = 2**53


class _RawKeyHS256(HMACAlgorithm):
    """HS256 under any bytes.

    PyJWT refuses keys that look like something else (PEM, ssh, JSON) and warns of short ones at each use. Which secret
    to use has been settled with the XMPP server, and whoever starts hmacfs is told once if it is weak.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        assert isinstance(key, bytes)
        return key

    def check_key_length(self, key: bytes) -> None:
        """Any length will do. Not known to PyJWT before 2.10, which doesn't ask."""


@frozen
class Grant:
    """The claims of a genuine token.

    :ivar slot: first segment of the path.
    :ivar filename: last segment of the path.
    :ivar size: of the file, in bytes.
    :ivar content_type: as signed, fit to be kept.
    :ivar owner: bare JID of the uploader.
    :ivar ends: when the token ends, in seconds since the epoch.
    :ivar expires: when the file must be gone, in seconds since the epoch; ``None`` if never.
    """

    slot: str
    filename: str
    size: int
    content_type: str
    owner: str | None
    ends: float
    expires: float | None

    def is_for(self, path: SlotPath) -> bool:
        """Whether *path* is the slot's. Prosody lets any file name pass; we know which one it signed."""
        return path.segments == tuple(name.encode("utf-8", "surrogatepass") for name in (self.slot, self.filename))


def bearer_token(authorization: bytes | None) -> bytes | None:
    """The token in an ``Authorization`` header; ``None`` if there is no such header, or it is of another scheme.

    The scheme's name is taken in any case (RFC 9110 section 11.1).

    :raises Refused: 401 ``bad-token`` if what follows ``Bearer`` isn't a JWT at all.
    """
    match = _SCHEME.fullmatch(authorization or b"")
    if match is None:
        return None
    token: bytes | None = match.group(1)
    if token is None or not _TOKEN.fullmatch(token):
        raise bad_token("The Authorization header has no JWT of the kind that Prosody issues.")
    return token


def bad_token(detail: str) -> Refused:
    """What is said of a token that nobody can have issued for us, whoever signed it."""
    return Refused(401, "bad-token", detail, {"WWW-Authenticate": "Bearer"})


class BearerTokens:
    """Reads tokens."""

    def __init__(self) -> None:
        self._jws = PyJWS(algorithms=[])
        self._jws.register_algorithm("HS256", _RawKeyHS256(HMACAlgorithm.SHA256))

    def read(self, token: bytes, secrets: Iterable[Secret]) -> Grant | None:
        """Check the signature of a token from :func:`bearer_token`, and only then read its claims.

        Neither the time nor the request is compared with the claims here.

        :returns: ``None`` if the token isn't signed with one of *secrets*.
        :raises Refused: 401 ``bad-token`` if it is no JWT, is signed in another way than HS256, or has claims that are
            missing or of a wrong type.
        """
        for secret in secrets:
            payload = self._payload(token, secret)
            if payload is not None:
                return _grant(payload)
        return None

    def issue(self, claims: Mapping[str, object], secret: Secret) -> str:
        """A token with *claims*, as Prosody would make it."""
        payload = json.dumps(claims, separators=(",", ":")).encode("utf-8")
        return self._jws.encode(payload, secret.value, algorithm="HS256")

    def _payload(self, token: bytes, secret: Secret) -> bytes | None:
        try:
            decoded = self._jws.decode_complete(token.decode("ascii"), secret.value, algorithms=["HS256"])
        except InvalidSignatureError:
            return None
        except (PyJWTError, RecursionError) as error:
            raise bad_token("The token's header isn't one that Prosody writes.") from error
        if decoded["header"].get("typ", "JWT") != "JWT":
            raise bad_token("The token's header isn't one that Prosody writes.")
        payload: bytes = decoded["payload"]
        return payload


def _grant(payload: bytes) -> Grant:
    claims = _object(payload)
    return Grant(
        slot=_text(claims, "slot"),
        filename=_text(claims, "filename"),
        size=_whole(claims, "filesize"),
        content_type=storable_type(_text(claims, "filetype", "").encode("utf-8", "surrogatepass")),
        owner=_text(claims, "sub", "") or None,
        ends=_number(claims, "exp"),
        expires=_number(claims, "expires") if "expires" in claims else None,
    )


def _object(payload: bytes) -> dict[str, Any]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise bad_token("The token's payload isn't JSON.") from error
    if not isinstance(claims, dict):
        raise bad_token("The token's payload isn't a JSON object.")
    return claims


def _text(claims: dict[str, Any], name: str, default: str | None = None) -> str:
    value = claims.get(name, default)
    if not isinstance(value, str):
        raise bad_token(f"The token's claim {name} is missing, or isn't a text.")
    return value


def _number(claims: dict[str, Any], name: str) -> float:
    # A bool is an int to Python, and NaN and Infinity pass its JSON parser; neither is a number in JSON's own eyes.
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_NUMBER:
        raise bad_token(f"The token's claim {name} is missing, or isn't a number that makes sense.")
    return value


def _whole(claims: dict[str, Any], name: str) -> int:
    value = _number(claims, name)
    if value != int(value):
        raise bad_token(f"The token's claim {name} isn't a whole number.")
    return int(value)
