"""Where a file may be put, for each kind of server: the request target, and the header that it wants."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid

import jwt
from attrs import frozen

SECRET = "a-secret-of-the-benchmarks-0123456789"


@frozen
class Slot:
    """Room for one file.

    :ivar target: of the PUT.
    :ivar header: a line that goes with it, or nothing.
    """

    target: str
    header: str = ""

    @property
    def path(self) -> str:
        """Of the GET."""
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        return f"{self.target}\t{self.header}"

    @classmethod
    def parse(cls, line: str) -> Slot:
        target, _, header = line.rstrip("\n").partition("\t")
        return cls(target, header)


def signed(size: int) -> Slot:
    """A slot of hmacfs, signed as ``v``, which is what Prosody and ejabberd make."""
    path = f"{uuid.uuid4()}/file.bin"
    mac = hmac.new(SECRET.encode(), f"{path} {size}".encode(), hashlib.sha256).hexdigest()
    return Slot(f"/upload/{path}?v={mac}")


def unsigned(_size: int, prefix: str = "/") -> Slot:
    """A slot of a server that asks nobody."""
    return Slot(f"{prefix}{uuid.uuid4()}")


def bearer(size: int) -> Slot:
    """A slot of Prosody's mod_http_file_share, with the token that Prosody would have made under the same secret."""
    name, now = str(uuid.uuid4()), int(time.time())
    claims = {
        "sub": "alice@localhost",
        "iat": now,
        "exp": now + 3600,
        "slot": name,
        "filename": "file.bin",
        "filesize": size,
        "filetype": "application/octet-stream",
        "expires": now + 86400,
    }
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    return Slot(f"/file_share/{name}/file.bin", f"Authorization: Bearer {token}")
