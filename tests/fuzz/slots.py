"""Slots that the fuzzer signs itself, knowing the secret: what may be stored is what it has signed."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode, urlsafe_b64encode
from hashlib import md5, sha256, sha512
from random import Random
from urllib.parse import quote_from_bytes

from attrs import field, frozen

SECRET = b"it-is-secret"
#: When all examples begin, in seconds since the epoch.
NOW = 1_795_364_600.0

_NAMES = (
    "photo.jpg",
    "a",
    "page.html",
    "drawing.SVG",
    "no-extension",
    ".hidden",
    "c:\\x",
    "ä€😀.png",
    "a b+c%2F.txt",
    "x" * 255,
    "...",
    "CON",
    "~",
)
_TYPES = (
    "image/jpeg",
    "text/html; charset=utf-8",
    "application/octet-stream",
    "",
    "x 999999999",
    "IMAGE/PNG",
    "a/b\r\nX-Injected: 1",
    "é",
    "t" * 300,
)
_SIZES = (0, 1, 2, 7, 10, 10, 100, 100, 1000, 5000)
_RARE_SIZES = (16385, 65536, 65537, 200_000)


@frozen
class Slot:
    """One slot, and the file for it.

    :ivar path: below the prefix, decoded.
    :ivar target: of the request.
    """

    path: bytes
    content: bytes = field(repr=False)
    content_type: str
    scheme: str
    target: bytes
    authorization: bytes | None

    @property
    def size(self) -> int:
        return len(self.content)


class Slots:
    """Signs slots.

    :param place: segments that no other example has.
    :ivar issued: which sizes were signed, by path; ``None`` where the signature leaves the size open.
    """

    def __init__(self, random: Random, prefix: tuple[str, ...], place: str) -> None:
        self._random = random
        self._prefix = prefix
        self._place = place
        self.issued: dict[bytes, set[int | None]] = {}

    def new(self, scheme: str | None = None) -> Slot:
        random = self._random
        scheme = scheme or random.choice(("v", "v", "v2", "token", "jwt", "jwt", "v3"))
        size = random.choice(_RARE_SIZES if random.random() < 0.03 else _SIZES)
        name = random.choice(_NAMES)
        middle = [] if scheme == "jwt" else random.choice(([], [], ["d"], ["d"] * 3))
        segments = [f"{self._place}{random.randrange(3)}", *middle, name]
        path, content, content_type = "/".join(segments).encode(), random.randbytes(size), random.choice(_TYPES)
        if random.random() < 0.05:
            return self._sign(path, content, content_type, scheme, b"somebody else's secret")
        self.issued.setdefault(path, set()).add(None if scheme == "v3" else size)
        return self._sign(path, content, content_type, scheme, SECRET)

    def _sign(self, path: bytes, content: bytes, content_type: str, scheme: str, secret: bytes) -> Slot:
        size = len(content)
        target = self.target(path)
        authorization = None
        if scheme == "v":
            target += b"?v=" + _mac(path + b" %d" % size, secret)
        elif scheme in ("v2", "token"):
            signed = b"\0".join([path, b"%d" % size, content_type.encode()])
            target += b"?%b=%b" % (scheme.encode(), _mac(signed, secret))
        elif scheme == "v3":
            expires = int(NOW) + self._random.choice((1, 300, 86400))
            url = "/".join(["", *self._prefix, ""]).encode() + path
            target += b"?v3=%b&expires=%d" % (_mac(b"PUT\n%d\n%b" % (expires, url), secret), expires)
        else:
            authorization = b"Bearer " + self._token(path, size, content_type, secret)
        return Slot(path, content, content_type, scheme, target, authorization)

    def target(self, path: bytes) -> bytes:
        """The path of the URL, escaped as one client or another does."""
        style = self._random.random()
        if style < 0.7:
            escaped = quote_from_bytes(path).encode()
        elif style < 0.8:
            escaped = b"".join(b"%%%02x" % byte if byte != 0x2F else b"/" for byte in path)
        elif style < 0.9:
            escaped = quote_from_bytes(path, safe="/:\\+~").encode()
        else:  # raw octets beyond ASCII, as some clients send them
            escaped = b"".join(
                bytes([byte]) if byte > 0x7F else quote_from_bytes(bytes([byte])).encode() for byte in path
            )
        return "/".join(["", *self._prefix, ""]).encode() + escaped

    def _token(self, path: bytes, size: int, content_type: str, secret: bytes) -> bytes:
        slot, _, name = path.decode().partition("/")
        claims: dict[str, object] = {
            "sub": "alice@example.org",
            "slot": slot,
            "filename": name,
            "filesize": size,
            "filetype": content_type,
            "exp": int(NOW) + self._random.choice((300, 300, 3)),
        }
        if self._random.random() < 0.3:
            claims["expires"] = int(NOW) + self._random.choice((10, 86400))
        return jwt(json.dumps(claims).encode(), secret=secret)


def _mac(text: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, text, sha256).hexdigest().encode()


def jwt(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', secret: bytes = SECRET) -> bytes:
    """A token over any payload."""
    signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    return signed + b"." + urlsafe_b64encode(hmac.new(secret, signed, sha256).digest()).rstrip(b"=")


def digest_headers(random: Random, whole: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    """What a client may state of its bytes: right, wrong or nonsense."""
    of = random.choice((whole, whole, body, b"other"))
    encoded = b64encode(sha256(of).digest())
    return [
        random.choice(
            (
                (b"Repr-Digest", b"sha-256=:" + encoded + b":"),
                (b"Repr-Digest", b"sha-512=:" + b64encode(sha512(of).digest()) + b":, sha-256=:" + encoded + b":"),
                (b"Content-Digest", b"sha-256=:" + b64encode(sha256(body).digest()) + b":"),
                (b"Content-Digest", b"sha-256=:" + encoded + b":"),
                (b"Digest", b"SHA-256=" + encoded),
                (b"Digest", b"md5=" + b64encode(md5(of).digest())),
                (b"Content-MD5", b64encode(md5(body).digest())),
                (b"X-Checksum", sha256(of).hexdigest().encode()),
                (b"X-Checksum-Sha256", sha256(of).hexdigest().upper().encode()),
                (b"X-SHA256", b"sha256:" + sha256(of).hexdigest().encode()),
                (b"Want-Repr-Digest", b"sha-256=10, sha-512=0"),
                (b"Repr-Digest", b"sha-256=" + encoded),
                (b"Repr-Digest", b"sha-256=:AAAA:"),
                (b"X-Checksum", b"0"),
            )
        )
    ]
