"""Signs slots as XMPP servers do, written from their documentation and not from hmacfs: a second opinion."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from urllib.parse import quote

SECRET = "a-secret-of-the-tests-0123456789"


def mac(text: bytes, secret: str = SECRET) -> str:
    """HMAC-SHA256 in lower-case hex, under the raw bytes of *secret*."""
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def url_path(path: str, upload_subdir: str = "upload") -> str:
    """The URL path of a slot, everything but the unreserved characters escaped, as Prosody does."""
    return f"/{upload_subdir}/{quote(path, safe='/')}"


def v(path: str, size_bytes: int, secret: str = SECRET) -> str:
    """The request target of a version 1 slot (mod_http_upload_external, ejabberd)."""
    return f"{url_path(path)}?v={mac(f'{path} {size_bytes}'.encode(), secret)}"


def v2(path: str, size_bytes: int, content_type: str, secret: str = SECRET, parameter: str = "v2") -> str:
    """The request target of a version 2 slot; *parameter* ``token`` makes it one of Metronome's."""
    signed = "\0".join([path, str(size_bytes), content_type])
    return f"{url_path(path)}?{parameter}={mac(signed.encode(), secret)}"


def bearer(
    path: str,
    size_bytes: int,
    content_type: str = "application/octet-stream",
    *,
    secret: str = SECRET,
    valid_s: float = 300,
    keep_s: float | None = None,
    sub: str = "alice@localhost",
) -> str:
    """The ``Authorization`` value of a slot of Prosody's mod_http_file_share.

    :param path: ``slot/filename``.
    :param valid_s: seconds from now until the token expires, negative for one that has.
    :param keep_s: seconds from now until the file expires.
    """
    slot, _, filename = path.partition("/")
    now = int(time.time())
    claims: dict[str, object] = {
        "sub": sub,
        "slot": slot,
        "filename": filename,
        "filesize": size_bytes,
        "filetype": content_type,
        "iat": now,
        "exp": now + int(valid_s),
    }
    if keep_s is not None:
        claims["expires"] = now + int(keep_s)
    parts = [_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return "Bearer " + ".".join([*parts, _base64url(signature)])


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
