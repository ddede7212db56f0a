"""Issuing slots, as an XMPP server does: for trying hmacfs out without one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from attrs import field, frozen

from hmacfs.access.bearer import BearerTokens
from hmacfs.access.keys import Secret
from hmacfs.access.signatures import mac, text_v, text_v2
from hmacfs.storage.names import SlotPath

#: What :func:`issue` can sign as.
SCHEMES = ("v", "v2", "token", "jwt")

#: How long a token is good for, in seconds: as long as Prosody's.
TOKEN_S = 600


@frozen
class IssuedSlot:
    """A slot (XEP-0363 section 4).

    :ivar put: where to PUT the file.
    :ivar get: where to GET it afterwards.
    :ivar headers: to be sent with the PUT.
    """

    put: str = field(repr=False)
    get: str
    headers: Mapping[str, str] = field(repr=False)


def random_directory() -> str:
    """The part of a path that nobody guesses."""
    return secrets.token_urlsafe(18)


def issue(
    secret: Secret, base_url: str, path: SlotPath, size: int, content_type: str, scheme: str, now: float
) -> IssuedSlot:
    """Sign a slot.

    :param base_url: what the XMPP server would have as its base URL: with ``UploadSubDir``, slash or not at the end.
    :param size: of the file, in bytes.
    :param scheme: one of :data:`SCHEMES`.
    :param now: in seconds since the epoch.
    :raises ValueError: for a path that a token can't be issued for: it has exactly two segments of UTF-8.
    """
    url = f"{base_url.rstrip('/')}/{path.url}"
    if scheme == "jwt":
        return IssuedSlot(url, url, {"Authorization": f"Bearer {_token(secret, path, size, content_type, now)}"})
    text = text_v(path.encoded, size) if scheme == "v" else text_v2(path.encoded, size, content_type.encode())
    return IssuedSlot(f"{url}?{scheme}={mac(secret, text).hex()}", url, {})


def _token(secret: Secret, path: SlotPath, size: int, content_type: str, now: float) -> str:
    if len(path.segments) != 2:
        raise ValueError("A token is for DIRECTORY/NAME.")
    slot, name = (segment.decode("utf-8") for segment in path.segments)
    claims = {
        "sub": "hmacfs@localhost",
        "slot": slot,
        "filename": name,
        "filesize": size,
        "filetype": content_type,
        "iat": int(now),
        "exp": int(now) + TOKEN_S,
    }
    return BearerTokens().issue(claims, secret)
