"""Media types: the guess by a file's name, and what of a stated type is fit to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from mimetypes import MimeTypes
from types import MappingProxyType
from typing import Final

#: The type of bytes of which nothing is known (RFC 2046 section 4.5.1).
OCTET_STREAM: Final = "application/octet-stream"

#: share.php and Metronome refuse longer ones, so no XMPP server can rely on them.
MAX_TYPE_BYTES: Final = 255

# What Python's table lacks in one of the versions from 3.10 on, or gives a name that has changed since. Registered
# names where there is one (IANA); where browsers play a file under one name only, that name.
_MODERN: Final = {
    ".3gp": "video/3gpp",
    ".3g2": "video/3gpp2",
    ".3gpp": "video/3gpp",
    ".3gpp2": "video/3gpp2",
    ".7z": "application/x-7z-compressed",
    ".aac": "audio/aac",
    ".amr": "audio/amr",
    ".apk": "application/vnd.android.package-archive",
    ".apng": "image/apng",
    ".avif": "image/avif",
    ".bz2": "application/x-bzip2",
    ".caf": "audio/x-caf",
    ".csv": "text/csv",
    ".deb": "application/vnd.debian.binary-package",
    ".doc": "application/msword",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".gpx": "application/gpx+xml",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".ics": "text/calendar",
    ".iso": "application/x-iso9660-image",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".jxl": "image/jxl",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".m4v": "video/mp4",
    ".md": "text/markdown",
    ".mid": "audio/midi",
    ".midi": "audio/midi",
    ".mjs": "text/javascript",
    ".mka": "audio/x-matroska",
    ".mkv": "video/x-matroska",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".opus": "audio/ogg",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rar": "application/vnd.rar",
    ".rtf": "application/rtf",
    ".tgs": "application/x-tgsticker",
    ".tgz": "application/gzip",
    ".vcf": "text/vcard",
    ".wav": "audio/x-wav",
    ".weba": "audio/webm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".wma": "audio/x-ms-wma",
    ".wmv": "video/x-ms-wmv",
    ".xls": "application/vnd.ms-excel",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}

# MimeTypes() without files carries Python's own table only: what a name is taken for must not depend on the machine's
# /etc/mime.types, or a signature would hold on one server and not on another.
_BY_EXTENSION: Final[Mapping[str, str]] = MappingProxyType({**MimeTypes().types_map[True], **_MODERN})

#: Every type that a name can be taken for.
KNOWN_TYPES: Final = frozenset(_BY_EXTENSION.values())


def guess_type(name: bytes) -> str:
    """The media type that *name* suggests by its last extension, in whatever case; :data:`OCTET_STREAM` if none does.

    For files that came without a type, and for signatures made by servers that guess as well. Parameters
    (``charset``) are never guessed.
    """
    stem, dot, extension = name.rpartition(b".")
    if not (stem and dot):
        return OCTET_STREAM
    return _BY_EXTENSION.get("." + extension.decode("latin-1").lower(), OCTET_STREAM)


def storable_type(stated: bytes) -> str:
    """*stated* as text that may be kept, logged and sent in a header; :data:`OCTET_STREAM` if it is no such thing.

    Refuses what is empty, longer than :data:`MAX_TYPE_BYTES` or not printable ASCII: a type that an XMPP client chose
    and its server signed may hold a line break. Whether it is a media type at all (RFC 9110 section 8.3.1) is looked at
    where it is served.
    """
    text = stated.decode("latin-1").strip()
    if text and len(text) <= MAX_TYPE_BYTES and text.isascii() and text.isprintable():
        return text
    return OCTET_STREAM
