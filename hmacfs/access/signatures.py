"""The signatures of upload URLs: what is signed, and how it is compared.

All of them are HMAC-SHA256 under the shared secret, over the path as it is after percent-decoding, and travel as 64
hexadecimal digits in the query:

========= ============================================================ =====================================
parameter signed text                                                  made by
========= ============================================================ =====================================
``v``     path, space, size                                            Prosody's mod_http_upload_external,
                                                                       ejabberd's ``external_secret``
``v2``    path, NUL, size, NUL, content type                           the same Prosody module, protocol "v2"
``token`` as ``v2``                                                    Metronome
``v3``    ``PUT``, LF, expiry, LF, URL path with its leading slash     hmac-file-server
========= ============================================================ =====================================

Metronome asks for the deletion of a file by a ``token`` of another text: path, NUL, the delete secret (``DELETE`` of
http_upload_external with ``http_file_external_delete_url``).

The path is the one below ``UploadSubDir`` without a leading slash; v3 alone signs the path of the URL. A NUL in a path
would let one text be read as both ``v`` and ``v2``, so only paths that :class:`~hmacfs.storage.names.SlotPath` lets
through may come here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from hmacfs.access.keys import Secret
from hmacfs.storage.types import OCTET_STREAM, guess_type

_MAC = re.compile(rb"[0-9a-fA-F]{64}")


def parse_mac(text: bytes) -> bytes | None:
    """The 32 bytes of a MAC written as exactly 64 hexadecimal digits of either case; ``None`` for anything else."""
    return bytes.fromhex(text.decode("ascii")) if _MAC.fullmatch(text) else None


def text_v(path: bytes, size: int) -> bytes:
    """What ``v`` signs. *size* is the whole file's, in bytes (mod_http_upload_external, "v1")."""
    return b"%b %d" % (path, size)


def text_v2(path: bytes, size: int, content_type: bytes) -> bytes:
    """What ``v2`` and ``token`` sign. *content_type* as in the slot request, verbatim and possibly empty."""
    return b"%b\0%d\0%b" % (path, size, content_type)


def text_v3(method: bytes, expires: int, url_path: bytes) -> bytes:
    """What ``v3`` signs. *expires* is when the URL ends, in seconds since the epoch; *url_path* is percent-decoded."""
    return b"%b\n%d\n%b" % (method, expires, url_path)


def text_deletion(path: bytes, delete_secret: bytes) -> bytes:
    """What the ``token`` of a DELETE signs. A second NUL, which ``v2`` has, is in neither of the two."""
    return b"%b\0%b" % (path, delete_secret)


def mac(secret: Secret, text: bytes) -> bytes:
    """HMAC-SHA256 of *text*: 32 bytes."""
    return hmac.digest(secret.value, text, "sha256")


def is_signed(text: bytes, given: bytes, secrets: Iterable[Secret]) -> bool:
    """Whether *given* is the MAC of *text* under one of *secrets*. Takes the same time for every wrong MAC."""
    return any(hmac.compare_digest(mac(secret, text), given) for secret in secrets)


def content_types(header: bytes | None, name: bytes) -> tuple[bytes, ...]:
    """The content types that a ``v2`` signature may have been made for, the likeliest first, each once.

    The signer used the type of the *slot request*; what the PUT says may differ: nothing at all (QXmpp), the type that
    the HTTP library found, the same with a charset. The secret's holder signed exactly one, so trying a few is safe.

    :param header: the request's ``Content-Type``, ``None`` if it has none.
    :param name: the file's name, the last segment of the path.
    """
    sent = [] if header is None else [header, header.partition(b";")[0].strip().lower()]
    return tuple(dict.fromkeys([*sent, OCTET_STREAM.encode(), guess_type(name).encode(), b""]))
