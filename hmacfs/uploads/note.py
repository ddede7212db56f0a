"""What an unfinished upload's part file says of itself, so that it can go on when the state store has lost it.

The note is an extended attribute of the part, written at each checkpoint after the bytes have been synced: its offset is
never ahead of them. Where the file system has no attributes there are no notes, and an upload that the state store has
lost begins anew.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from hmacfs.storage.parts import Part
from hmacfs.uploads.state import NewUpload

_VERSION: Final = 1


def write_note(part: Part, upload: NewUpload) -> bool:
    """Keep *upload* with its part. Its offset must be durable. In a thread, as the bytes were synced in one.

    :return: whether the file system has a place for it.
    :raises OSError: other than that the file system has no place for it.
    """
    return part.set_note(encode(upload))


def read_note(part: Part) -> NewUpload | None:
    """What :func:`write_note` wrote; ``None`` where there is nothing, or nothing that we wrote."""
    encoded = part.note()
    return None if encoded is None else decode(encoded)


def encode(upload: NewUpload) -> bytes:
    """As compact JSON in ASCII. The state of a running hash is left out."""
    fields: dict[str, Any] = {
        "v": _VERSION,
        "uid": upload.uid,
        "path": upload.path.hex(),
        "signature": upload.signature.hex(),
        "token": upload.token,
        "type": upload.content_type,
        "total": upload.total,
        "owner": upload.owner,
        "expires": upload.file_expires,
        "offset": upload.offset,
        "generation": upload.generation,
        "metadata": upload.metadata,
    }
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def decode(encoded: bytes) -> NewUpload | None:
    """The reverse of :func:`encode`; ``None`` for whatever it didn't make."""
    try:
        fields = json.loads(encoded)
        if fields["v"] != _VERSION:
            return None
        return NewUpload(
            uid=str(fields["uid"]),
            path=bytes.fromhex(fields["path"]),
            signature=bytes.fromhex(fields["signature"]),
            token=str(fields["token"]),
            content_type=str(fields["type"]),
            total=None if fields["total"] is None else int(fields["total"]),
            owner=None if fields["owner"] is None else str(fields["owner"]),
            file_expires=None if fields["expires"] is None else _time(fields["expires"]),
            offset=int(fields["offset"]),
            generation=int(fields["generation"]),
            metadata=str(fields["metadata"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _time(value: Any) -> float:
    seconds = float(value)
    # NaN and Infinity pass Python's JSON parser, and would make the stored file's facts unreadable.
    if not math.isfinite(seconds):
        raise ValueError("no time")
    return seconds
