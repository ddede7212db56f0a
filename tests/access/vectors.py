"""The slots that real XMPP servers issued, and the signatures that their documentation gives."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hmacfs.access.attempt import Attempt
from hmacfs.storage.names import SlotPath

_VECTORS = Path(__file__).parent.parent / "vectors"

#: Within the life of every token in the vectors.
WHEN = 1795364600.0


def signatures(*schemes: str) -> list[dict[str, Any]]:
    """The entries of signatures.json that are of one of *schemes*."""
    found: list[dict[str, Any]] = json.loads((_VECTORS / "signatures.json").read_text("utf-8"))
    return [entry for entry in found if entry["scheme"] in schemes]


def slots() -> list[dict[str, Any]]:
    """The entries of slots.json that hold a slot, and not a server's refusal to make one."""
    found: list[dict[str, Any]] = json.loads((_VECTORS / "slots.json").read_text("utf-8"))
    return [entry for entry in found if "slot" in entry]


def put(
    url: str,
    size: int | None,
    *,
    authorization: str | None = None,
    content_type: str | None = None,
    method: str = "PUT",
) -> Attempt:
    """What a client's PUT to *url* shows."""
    parts = urlsplit(url)
    return Attempt(
        raw_path=parts.path.encode("utf-8"),
        query=parts.query.encode("ascii"),
        authorization=None if authorization is None else authorization.encode("ascii"),
        method=method.encode("ascii"),
        size=size,
        content_type=None if content_type is None else content_type.encode("utf-8"),
    )


def path_of(attempt: Attempt, upload_subdir: str = "upload") -> SlotPath:
    """The path of *attempt* below *upload_subdir*, as the web part makes it."""
    front = f"/{upload_subdir}/".encode() if upload_subdir else b"/"
    assert attempt.raw_path.startswith(front)
    return SlotPath.from_url(attempt.raw_path[len(front) :].split(b"/"))


def flipped(text: bytes, index: int, bit: int = 0) -> bytes:
    """*text* with one bit of the byte at *index* flipped; a negative one counts from the end."""
    index %= len(text)
    return text[:index] + bytes([text[index] ^ 1 << bit]) + text[index + 1 :]


def hex_mac(text: bytes, secret: str = "it-is-secret") -> str:
    """A signature as an XMPP server writes it."""
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def jwt(claims: object, secret: str = "it-is-secret", header: object = None, algorithm: str = "sha256") -> str:
    """A token, well-formed or not: *claims* and *header* are anything that JSON can say, or bytes that stand for it."""
    parts = [_part(header or {"alg": "HS256", "typ": "JWT"}), _part(claims)]
    signature = hmac.new(secret.encode(), ".".join(parts).encode(), algorithm).digest()
    return ".".join([*parts, _base64url(signature)])


def _part(value: object) -> str:
    return _base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
