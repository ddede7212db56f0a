"""Cross-origin requests: web clients (Converse.js, Movim) live on another origin than their files.

Every answer carries ``Access-Control-Allow-Origin`` once, errors included: a browser hides the status of an answer
without it. The origin is ``*`` and no credentials are allowed, because nothing here is decided by a cookie: who has the
signed URL may PUT, who has the URL may GET (XEP-0363 sections 5 and 8).
"""

from __future__ import annotations

METHODS = "OPTIONS, HEAD, GET, PUT, POST, PATCH, DELETE"

#: What a page may send. ``*`` would not cover ``Authorization`` (Fetch standard, CORS protocol).
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Content-Range, Content-Digest, Repr-Digest, Want-Repr-Digest, Digest, Content-MD5, "
    "X-Checksum, X-Checksum-Sha256, X-Session-Token, X-Request-ID, X-HTTP-Method-Override, Range, If-Range, "
    "Tus-Resumable, Upload-Length, Upload-Offset, Upload-Complete, Upload-Incomplete, Upload-Metadata, "
    "Upload-Defer-Length, Upload-Concat, Upload-Checksum, Upload-Draft-Interop-Version"
)

#: What a page may read.
_RESPONSE_HEADERS = (
    "Content-Length, Content-Range, Accept-Ranges, ETag, Location, Repr-Digest, Retry-After, X-Session-Token, "
    "Upload-Offset, Upload-Length, Upload-Complete, Upload-Incomplete, Upload-Limit, Upload-Expires, Upload-Metadata, "
    "Upload-Defer-Length, Upload-Draft-Interop-Version, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, "
    "Tus-Checksum-Algorithm"
)

#: On every answer.
ALWAYS: tuple[tuple[str, str], ...] = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", _RESPONSE_HEADERS),
)

#: On the answer to a preflight, beside :data:`ALWAYS`. Two hours is what Chromium keeps it at most.
PREFLIGHT: tuple[tuple[str, str], ...] = (
    ("Access-Control-Allow-Methods", METHODS),
    ("Access-Control-Allow-Headers", _REQUEST_HEADERS),
    ("Access-Control-Max-Age", "7200"),
)
