"""The versions of the IETF's resumable uploads that are spoken, and what tells one from another.

draft-ietf-httpbis-resumable-upload has had incompatible versions, which its clients name in
``Upload-Draft-Interop-Version``: 3 is draft -01, 4 is -02, 5 is -03, 6 is -04 and -05, 7 is -06 to -08, 8 is -09 and
later. The RFC will have no such field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import evolve, frozen
from twisted.web.http_headers import Headers

from hmacfs.net.fields import FieldError, parse_item


@frozen
class Version:
    """One of them.

    :ivar number: as the field has it; ``None`` where a request names none that we know.
    :ivar completeness: name of the field that tells whether the upload ends with this message.
    :ivar says_incomplete: whether that field is true where there is more to come, instead of where there isn't.
    :ivar lonely: whether creations and HEAD may not have fields that are not theirs.
    :ivar presumes_end: whether a PATCH that says nothing of it is the last.
    :ivar body_type: of a PATCH; ``None`` for any.
    :ivar append_status: of a PATCH after which there is more to come.
    :ivar gone_status: where an upload was, and can't go on.
    :ivar locates_stored: whether the answer to a creation that brings the whole file has the upload's URL.
    :ivar tells_progress: whether interim responses tell how far the upload is.
    :ivar lifetime: what ``Upload-Limit`` calls the seconds that the upload has left; ``None`` where there is no such
        field.
    :ivar replays: whether the last answer is given again where nothing is appended to a complete upload.
    :ivar counts_bytes: whether a file is complete with its last byte, even if the client says that there is more to come:
        tus-js-client says so of every body that it reads from a file, and takes the upload for done.
    :ivar invalidates: whether an upload is over when more is sent than it has room for.
    """

    number: int | None
    completeness: str = "Upload-Complete"
    says_incomplete: bool = False
    lonely: bool = False
    presumes_end: bool = False
    body_type: bytes | None = b"application/partial-upload"
    append_status: int = 204
    gone_status: int = 410
    locates_stored: bool = False
    tells_progress: bool = True
    lifetime: str | None = "max-age"
    replays: bool = True
    counts_bytes: bool = False
    invalidates: bool = False

    def completes(self, headers: Headers) -> bool | None:
        """Whether the upload ends with the message that has *headers*; ``None`` where they don't say."""
        value = _item(headers, self.completeness)
        return value is not self.says_incomplete if isinstance(value, bool) else None

    def saying(self, completes: bool) -> dict[str, str]:
        """The field that says whether the upload ends with this message."""
        return {self.completeness: "?1" if completes is not self.says_incomplete else "?0"}


_V8: Final = Version(8, invalidates=True)
_V7: Final = Version(7, replays=False)
_V6: Final = evolve(
    _V7,
    number=6,
    lonely=True,
    presumes_end=True,
    append_status=201,
    gone_status=404,
    locates_stored=True,
    lifetime="expires",
    counts_bytes=True,
)
_V5: Final = evolve(_V6, number=5, body_type=None, lifetime=None, replays=True)
_V4: Final = evolve(_V5, number=4, tells_progress=False, counts_bytes=False)
_V3: Final = evolve(_V4, number=3, completeness="Upload-Incomplete", says_incomplete=True)

#: By their number.
VERSIONS: Final[Mapping[int, Version]] = {
    version.number: version for version in (_V3, _V4, _V5, _V6, _V7, _V8) if version.number is not None
}


# Of requests that name none of these.
_NEWEST: Final = evolve(_V8, number=None)
_OLDEST: Final = evolve(_V3, number=None)


def version_of(headers: Headers) -> Version:
    """The version that a request is in; one that isn't known is taken for the newest, without its number."""
    named = VERSIONS.get(integer(headers, "Upload-Draft-Interop-Version") or 0)
    if named is not None:
        return named
    oldest = headers.hasHeader(_V3.completeness) and not headers.hasHeader(_V8.completeness)
    return _OLDEST if oldest else _NEWEST


def integer(headers: Headers, name: str) -> int | None:
    """The value of a field that is a number of bytes; ``None`` where there is none, or something else.

    The draft has fields of other values ignored.
    """
    value = _item(headers, name)
    return value if type(value) is int and value >= 0 else None


def upload_limit(*limits: tuple[str | None, float | None]) -> dict[str, str]:
    """``Upload-Limit``, of those limits that there are; without any, it says that there is none."""
    found = [f"{name}={value:.0f}" for name, value in limits if name is not None and value is not None]
    return {"Upload-Limit": ", ".join(found or ["min-size=0"])}


def names_any(headers: Headers, names: Iterable[str]) -> bool:
    """Whether one of the fields *names* is there."""
    return any(headers.hasHeader(name) for name in names)


def _item(headers: Headers, name: str) -> object:
    lines = headers.getRawHeaders(name.encode("ascii"))
    if lines is None:
        return None
    try:
        return parse_item(b", ".join(lines))[0]
    except FieldError:
        return None
