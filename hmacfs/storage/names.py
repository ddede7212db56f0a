"""The names of stored files: what of a URL may become a path below ``StoreDir``, and how it is written elsewhere.

A valid signature doesn't make a path safe: Prosody and ejabberd sign ``<uuid>/..`` when a client asks for it. So every
path goes through :class:`SlotPath`, whose values can't name anything outside the store, and does so before a MAC is
computed over it, because a NUL in a path makes signatures of two versions collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from attrs import field, frozen

from hmacfs.errors import Refused

#: Where hmacfs keeps what is its own, directly below ``StoreDir``.
OWN_DIRECTORY: Final = b".hmacfs"

#: Below it are uploads that have begun, not slots: directly below ``UploadSubDir``.
UPLOADS_SEGMENT: Final = b".up"

#: At the same place: where ``hmacfs doctor`` sees how its requests arrive.
MIRROR_SEGMENT: Final = b".doctor"

#: NAME_MAX of every file system in common use on Linux, in bytes.
MAX_SEGMENT_BYTES: Final = 255

#: Of a whole path. Leaves 1 KiB of Linux' PATH_MAX (4096) to ``StoreDir``, so that an operator's own tools reach a file
#: by its absolute path.
MAX_PATH_BYTES: Final = 3072

#: Each segment but the last is a directory that an upload may make. XMPP servers sign two or three.
MAX_SEGMENTS: Final = 32

_CONTROLS: Final = bytes(range(0x20)) + b"\x7f"


def _refused(detail: str) -> Refused:
    """Somebody tries to get out of the store, or into our own part of it."""
    return Refused(400, "bad-path", detail)


def bad_name(detail: str) -> Refused:
    """What may happen to anybody: there can be no file of such a name."""
    return Refused(400, "bad-name", detail)


def _check_hostile(segment: bytes) -> None:
    if segment in (b".", b".."):
        raise _refused("The path has a segment that is a dot or two dots.")
    if b"/" in segment:
        raise _refused("The path has an encoded slash (%2F) inside a segment.")
    if segment.translate(None, _CONTROLS) != segment:
        raise _refused("The path has a control character in it.")


def _check_possible(segment: bytes) -> None:
    if not segment:
        raise bad_name("The path has an empty segment.")
    if len(segment) > MAX_SEGMENT_BYTES:
        raise bad_name(f"A segment of the path is longer than {MAX_SEGMENT_BYTES} bytes.")


def _check_segments(_instance: SlotPath, _attribute: object, segments: tuple[bytes, ...]) -> None:
    # What is hostile first: nobody is to hide it behind what may happen to anybody.
    for segment in segments:
        _check_hostile(segment)
    # Some file systems take upper and lower case for the same.
    if segments and segments[0].lower() == OWN_DIRECTORY:
        raise _refused("The path is reserved.")
    if segments and segments[0] in (UPLOADS_SEGMENT, MIRROR_SEGMENT):
        raise bad_name("The path is not that of a file.")
    if not segments:
        raise bad_name("The URL names no file.")
    if len(segments) > MAX_SEGMENTS:
        raise bad_name(f"The path has more than {MAX_SEGMENTS} segments.")
    for segment in segments:
        _check_possible(segment)
    if sum(map(len, segments)) + len(segments) - 1 > MAX_PATH_BYTES:
        raise bad_name(f"The path is longer than {MAX_PATH_BYTES} bytes.")


@frozen
class SlotPath:
    """The path of one file below ``UploadSubDir`` in URLs, and below ``StoreDir`` on disk.

    It is bytes, as the client sent them and as the XMPP server signed them: no Unicode normalisation, no change of
    case, and not necessarily UTF-8. A backslash, a leading dot or a ``%`` are ordinary. No value can be made that is
    unsafe: the constructor checks as :meth:`from_url` does.

    :ivar segments: at least one; percent-decoded.
    :raises Refused: 400 ``bad-path`` for a segment that is ``.`` or ``..``, or holds a slash or a control character (C0
        or DEL), and for anything below ``.hmacfs``. 400 ``bad-name``, which isn't held against anybody, for anything
        below ``.up`` or ``.doctor``; for no segment at all or more than :data:`MAX_SEGMENTS`; for a segment that is
        empty, or longer than :data:`MAX_SEGMENT_BYTES`; for a path longer than :data:`MAX_PATH_BYTES`.
    """

    segments: tuple[bytes, ...] = field(validator=_check_segments)

    @classmethod
    def from_url(cls, raw_segments: Sequence[bytes]) -> SlotPath:
        """Take a path from a URL.

        Decodes exactly once; a ``%`` that two hexadecimal digits don't follow stays as it is, and so does a ``+``.

        :param raw_segments: of the URL's path below ``UploadSubDir``, still percent-encoded.
        :raises Refused: 400; see the class.
        """
        return cls(tuple(map(unquote_to_bytes, raw_segments)))

    @classmethod
    def from_encoded(cls, encoded: bytes) -> SlotPath:
        """Take a path from :attr:`encoded`, from a state store, an index or a tree that was there before us.

        :raises Refused: 400; see the class.
        """
        return cls(tuple(encoded.split(b"/")))

    @property
    def encoded(self) -> bytes:
        """The bytes that signatures cover: decoded segments joined by slashes, no slash in front."""
        return b"/".join(self.segments)

    @property
    def text(self) -> str:
        """As text for names of files and headers that carry Unicode.

        Bytes that aren't UTF-8 become lone surrogates (PEP 383), so that nothing is lost and two paths never have one
        text. Such a text can't be encoded as strict UTF-8: use :attr:`url` where a log or another program reads it.
        """
        return self.encoded.decode("utf-8", "surrogateescape")

    @property
    def url(self) -> str:
        """Percent-encoded, pure ASCII: for logs, headers and links."""
        return quote_from_bytes(self.encoded)

    @property
    def name(self) -> bytes:
        """The last segment: the file's own name."""
        return self.segments[-1]
