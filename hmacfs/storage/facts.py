"""What is known of a stored file beside its bytes, and the form in which it travels with them.

The facts are one extended attribute, so that a download needs a single call for all of them, and so that they become
durable with the bytes, by one fsync. An operator reads them with::

    $ getfattr --only-values -n user.hmacfs.facts data/6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/photo.jpg
    {"v":1,"type":"image/jpeg","sha256":"2c26b46b…","owner":"alice@example.org","uploaded":1796310000.5}

Copying the tree with ``cp -a``, ``rsync -aX`` or ``tar --xattrs`` keeps them. Where the file system has no such
attributes the same text stands in a sidecar, see :mod:`hmacfs.storage.sidecars`.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any, Final

from attrs import frozen

from hmacfs.errors import Refused
from hmacfs.storage.types import guess_type

ATTRIBUTE: Final = "user.hmacfs.facts"

#: The source of a file that was in the store before us, or was put there behind our back.
ADOPTED: Final = "adopted"

_VERSION: Final = 1

_TO_JSON: Final = json.JSONEncoder(separators=(",", ":"))

#: Of how many files the facts are remembered as they were read, so that the same bytes aren't parsed at every download,
#: and how long those may be: a content type can take kilobytes.
_REMEMBERED: Final = 4096
_REMEMBERED_BYTES: Final = 512


@frozen(cache_hash=True)
class Facts:
    """What is known of a stored file beside its bytes.

    :ivar content_type: as signed, or as sent where the signature doesn't cover it.
    :ivar sha256: of the bytes; ``None`` if they were not hashed.
    :ivar owner: bare JID of the uploader, where the signature names one.
    :ivar expires: when the file must be gone, in seconds since the epoch.
    :ivar uploaded: when it was published, in seconds since the epoch.
    :ivar quarantined: why the file is kept and not served, for the operator's eyes alone; ``None`` if it is served.
    :ivar source: how the file came here, if not by an upload: :data:`ADOPTED`, ``import ejabberd``, ...
    """

    content_type: str
    sha256: bytes | None
    owner: str | None
    expires: float | None
    uploaded: float
    quarantined: str | None = None
    source: str | None = None

    @classmethod
    def guessed(cls, name: bytes, mtime: float) -> Facts:
        """The facts of a file that has none, because another server stored it.

        :param name: the last segment of its path.
        :param mtime: in seconds since the epoch.
        """
        return cls(guess_type(name), sha256=None, owner=None, expires=None, uploaded=mtime, source=ADOPTED)

    def check_served(self, now: float) -> None:
        """See that the file may be served: nobody has taken it down, and its time isn't over, removed or not.

        :param now: in seconds since the epoch.
        :raises Refused: 451 ``quarantined``, 410 ``expired``.
        """
        if self.quarantined is not None:
            raise Refused(451, "quarantined", "The operator of this server has taken this file down.")
        if self.expires is not None and self.expires <= now:
            raise Refused(410, "expired", "This file was uploaded for a limited time, which is over.")

    def encode(self) -> bytes:
        """As compact JSON in ASCII, which getfattr shows as it is. What is ``None`` is left out."""
        fields = {
            "v": _VERSION,
            "type": self.content_type,
            "sha256": None if self.sha256 is None else self.sha256.hex(),
            "owner": self.owner,
            "expires": self.expires,
            "uploaded": self.uploaded,
            "quarantined": self.quarantined,
            "source": self.source,
        }
        present = {key: value for key, value in fields.items() if value is not None}
        return _TO_JSON.encode(present).encode("ascii")

    @classmethod
    def decode(cls, encoded: bytes) -> Facts | None:
        """The reverse of :meth:`encode`; ``None`` for whatever it didn't make."""
        return _remembered(encoded) if len(encoded) <= _REMEMBERED_BYTES else _decoded(encoded)

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> Facts:
        if fields["v"] != _VERSION:
            raise ValueError(f"version {fields['v']}")
        sha256, owner, expires = fields.get("sha256"), fields.get("owner"), fields.get("expires")
        quarantined, source = fields.get("quarantined"), fields.get("source")
        return cls(
            content_type=_text(fields["type"]),
            sha256=None if sha256 is None else _digest(sha256),
            owner=None if owner is None else _text(owner),
            expires=None if expires is None else _time(expires),
            uploaded=_time(fields["uploaded"]),
            quarantined=None if quarantined is None else _text(quarantined),
            source=None if source is None else _text(source),
        )


def _decoded(encoded: bytes) -> Facts | None:
    try:
        return Facts._from_fields(json.loads(encoded))
    # A deep nest of brackets ends in RecursionError, a number with 400 digits in OverflowError.
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


_remembered = lru_cache(_REMEMBERED)(_decoded)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _digest(value: Any) -> bytes:
    digest = bytes.fromhex(value)
    if len(digest) != 32:
        raise ValueError("no SHA-256")
    return digest


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("no time")
    return float(value)
