"""The headers of a file that is served, and whether the client has it already.

Everything that is uploaded is hostile until shown otherwise: a page that a browser renders on the upload host's origin is
a stored XSS. So the type is served as it was signed and never sniffed, nothing is allowed to run, and only types that
cannot carry a script are shown inline (no SVG, HTML, XML or PDF). Web clients on other origins embed media, therefore
``Cross-Origin-Resource-Policy: cross-origin``.
"""

from __future__ import annotations

import re
from datetime import timezone
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote

from twisted.web.http_headers import Headers

from hmacfs.storage.facts import Facts
from hmacfs.storage.store import StoredFile
from hmacfs.uploads.digests import etag, repr_digest
from hmacfs.web.answers import HARMLESS

#: A year, which is what "for ever" means to a cache.
_MAX_AGE_S = 31_536_000

_INLINE_TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "image/bmp",
        "text/plain",
    }
)
_INLINE_FAMILIES = ("audio/", "video/")

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 (RFC 9110 section 5.6.2, no password)
_MEDIA_TYPE = re.compile(
    rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|\"(?:[ !#-\[\]-~]|\\[ -~])*\"))*[ \t]*;?",
    re.ASCII,
)

#: Of how many files the lines of their headers are remembered, half a kilobyte each.
_REMEMBERED_FILES = 4096

#: The last second that an HTTP date can name. Some file systems know later ones.
_LAST_DATE_S = 253_402_300_799


def file_headers(stored: StoredFile, name: bytes, now: float) -> list[tuple[str, str]]:
    """The headers of a 200 or 206 for *stored*, without those that depend on the range.

    :param name: the last segment of the path, as the uploader called the file.
    :param now: seconds since the epoch.
    """
    return [*_lasting_headers(stored, name), ("Cache-Control", _cache_control(stored.facts.expires, now))]


def _lasting_headers(stored: StoredFile, name: bytes) -> list[tuple[str, str]]:
    """Those that don't change with the time."""
    content_type = served_type(stored.facts.content_type)
    headers = [
        ("Accept-Ranges", "bytes"),
        ("Content-Type", content_type),
        ("Content-Disposition", disposition(content_type, name)),
        *_lasting_validators(stored),
    ]
    if stored.facts.sha256 is not None:
        headers.append(("Repr-Digest", repr_digest(stored.facts.sha256)))
    return headers


class HeadLines:
    """:func:`file_headers` as they stand in an answer, remembered for the files that are asked for most.

    They follow from what the file is at the moment, all of which is looked at each time: nothing that has changed is
    answered with what was true before.
    """

    def __init__(self) -> None:
        self._lasting = lru_cache(_REMEMBERED_FILES)(_lasting_lines)

    def __call__(self, stored: StoredFile, name: bytes, now: float) -> bytes:
        """The lines, each with its CRLF."""
        lasting = self._lasting(stored.facts, name, stored.size, stored.mtime_ns, stored.inode)
        return b"%bCache-Control: %b\r\n" % (lasting, _cache_control(stored.facts.expires, now).encode("ascii"))


def _lasting_lines(facts: Facts, name: bytes, size: int, mtime_ns: int, inode: int) -> bytes:
    headers = _lasting_headers(StoredFile(size, mtime_ns, inode, facts), name)
    return "".join(f"{header}: {value}\r\n" for header, value in headers).encode("ascii")


def validators(stored: StoredFile, now: float) -> list[tuple[str, str]]:
    """The headers that a 304 repeats (RFC 9110 section 15.4.5), and those that keep a cached copy harmless."""
    return [*_lasting_validators(stored), ("Cache-Control", _cache_control(stored.facts.expires, now))]


def _lasting_validators(stored: StoredFile) -> list[tuple[str, str]]:
    return [
        *HARMLESS,
        ("ETag", entity_tag(stored)),
        ("Last-Modified", formatdate(_modified_s(stored), usegmt=True)),
    ]


def entity_tag(stored: StoredFile) -> str:
    """A strong ETag: of the bytes where their digest is known, otherwise of the file's time, size and inode."""
    if stored.facts.sha256 is not None:
        return etag(stored.facts.sha256)
    return f'"{stored.mtime_ns:x}-{stored.size:x}-{stored.inode:x}"'


def _modified_s(stored: StoredFile) -> int:
    return max(0, min(_LAST_DATE_S, stored.mtime_ns // 1_000_000_000))


def _cache_control(expires: float | None, now: float) -> str:
    max_age_s = _MAX_AGE_S if expires is None else max(0, min(_MAX_AGE_S, int(expires - now)))
    return f"private, max-age={max_age_s}, immutable"


def served_type(content_type: str) -> str:
    """*content_type* as it was signed, or ``application/octet-stream`` where it isn't a media type at all."""
    return content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"


def disposition(content_type: str, name: bytes) -> str:
    """``Content-Disposition`` (RFC 6266) with the name in both its forms.

    The plain form is for clients that don't know RFC 8187; whatever could end the quoted string or the header in it is
    replaced.
    """
    essence = content_type.partition(";")[0].strip().lower()
    # Whatever ends in +xml is XML to a browser, which runs the scripts in it (WHATWG MIME Sniffing section 4.6).
    family = essence.startswith(_INLINE_FAMILIES) and not essence.endswith("+xml")
    inline = essence in _INLINE_TYPES or family
    plain = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\%' else "_" for byte in name)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def is_current(headers: Headers, stored: StoredFile) -> bool:
    """Whether the client's copy is the stored file, so that 304 will do (RFC 9110 sections 13.1.2, 13.1.3, 13.2.2)."""
    tags = headers.getRawHeaders(b"if-none-match")
    if tags is not None:
        return _matches(b",".join(tags), entity_tag(stored).encode())
    since = headers.getRawHeaders(b"if-modified-since")
    when = _http_date(since[-1]) if since else None
    return when is not None and _modified_s(stored) <= when


def range_applies(headers: Headers, stored: StoredFile) -> bool:
    """Whether ``If-Range`` lets the range through (RFC 9110 section 13.1.5): the same ETag, or the very same date."""
    conditions = headers.getRawHeaders(b"if-range")
    if conditions is None:
        return True
    condition = conditions[-1].strip()
    if condition.startswith((b'"', b"W/")):
        return condition == entity_tag(stored).encode()
    return _http_date(condition) == _modified_s(stored)


def _matches(listed: bytes, tag: bytes) -> bool:
    """Weak comparison (RFC 9110 section 8.8.3.2). None of our tags has a comma in it."""
    candidates = {candidate.strip().removeprefix(b"W/") for candidate in listed.split(b",")}
    return tag in candidates or b"*" in candidates


def _http_date(value: bytes) -> int | None:
    try:
        when = parsedate_to_datetime(value.decode("ascii"))
        # The form of C's asctime names no zone, and means UTC like the others (RFC 9110 section 5.6.7).
        return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
