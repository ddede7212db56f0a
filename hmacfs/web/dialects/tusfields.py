"""The headers of tus that have a grammar of their own: pure parsing."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from hmacfs.errors import Refused
from hmacfs.uploads.digests import Digest

#: Digest sizes in bytes, by the names in ``Upload-Checksum``, which are those of :mod:`hashlib`.
ALGORITHMS: Final[Mapping[str, int]] = {"sha1": 20, "sha256": 32, "sha512": 64, "md5": 16}

#: Of ``Upload-Metadata``. It is kept with the upload's part, in a place that some file systems have 4 KiB for.
MAX_METADATA_BYTES: Final = 2048

# Printable ASCII without space and comma.
_KEY: Final = re.compile(rb"[!-+\--~]+")

#: What clients call the file's media type: tus-js-client's and tuspy's users, and Uppy.
_TYPE_KEYS: Final = ("filetype", "content-type", "type")


@frozen
class Metadata:
    """What a client says of its file.

    :ivar text: the pairs as they were sent, without those that are malformed, in printable ASCII.
    :ivar values: decoded.
    """

    text: str
    values: Mapping[str, bytes]

    @property
    def content_type(self) -> bytes | None:
        """The file's media type, if one is among them."""
        found = {key.lower(): value for key, value in self.values.items()}
        return next((found[key] for key in _TYPE_KEYS if found.get(key)), None)


def parse_metadata(lines: Sequence[bytes]) -> Metadata:
    """Read ``Upload-Metadata``: ``key base64`` pairs with commas between them, where a value may be left out.

    A pair that is malformed is passed over, and of a key that is there twice the last one counts.

    :raises Refused: 400 for more than :data:`MAX_METADATA_BYTES`.
    """
    whole = b",".join(lines)
    if len(whole) > MAX_METADATA_BYTES:
        raise bad_header("Upload-Metadata", f"at most {MAX_METADATA_BYTES} bytes")
    pairs: dict[str, tuple[str, bytes]] = {}
    for pair in whole.split(b","):
        key, _, encoded = pair.strip().partition(b" ")
        value = _decoded(encoded)
        if _KEY.fullmatch(key) and value is not None:
            pairs[key.decode("ascii")] = pair.strip().decode("ascii"), value
    return Metadata(",".join(text for text, _ in pairs.values()), {key: value for key, (_, value) in pairs.items()})


def parse_checksum(text: bytes) -> Digest:
    """Read ``Upload-Checksum``: an algorithm, a space, and the digest of the body in base64.

    :raises Refused: 400 for an algorithm that we don't know, or what can't be its digest.
    """
    name, _, encoded = text.strip().partition(b" ")
    algorithm = name.decode("ascii", "replace")
    if algorithm not in ALGORITHMS:
        raise Refused(400, "bad-digest", f"Upload-Checksum: expected one of {', '.join(ALGORITHMS)}.")
    value = _decoded(encoded)
    if value is None or len(value) != ALGORITHMS[algorithm]:
        detail = f"Upload-Checksum: expected {ALGORITHMS[algorithm]} bytes in base64 for {algorithm}."
        raise Refused(400, "bad-digest", detail)
    return Digest(algorithm, value)


def bad_header(name: str, expected: str) -> Refused:
    """400: a header that says what can't be had. Quotes nothing of it."""
    return Refused(400, "bad-upload-header", f"{name}: expected {expected}.")


def _decoded(text: bytes) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return None
