"""Where in the file a body belongs: the rows of the contract in ``docs/protocol.md``, as a pure function."""

from __future__ import annotations

from attrs import frozen

from hmacfs.errors import Refused
from hmacfs.uploads.request import Append, UploadRequest

MISMATCHING_OFFSET = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"


@frozen
class Plan:
    """What is to be done with a body.

    :ivar start: offset of its first byte.
    :ivar end: offset after its last byte.
    :ivar restarts: whether bytes that differ from those that are there take their place (the whole body, sent again), or
        are the client's error (a part of it).
    :ivar is_open: whether the body may end before *end*, and if it doesn't end there, is kept up to there.
    """

    start: int
    end: int
    restarts: bool
    is_open: bool = False

    @property
    def size(self) -> int:
        """Of the body, in bytes."""
        return self.end - self.start


def plan(asked: UploadRequest, total: int, offset: int) -> Plan:
    """Place a body.

    :param total: of the whole file, in bytes.
    :param offset: how many bytes of it are here.
    :raises Refused: 400 or 413 where the request contradicts the slot; 409, with the offset, where it leaves a gap or
        can't be placed.
    """
    if asked.append is not None:
        return _append(asked.append, asked.length, total, offset)
    if asked.part is not None:
        return _part(asked, total, offset)
    if asked.length is None or asked.length == total:
        return Plan(0, total, restarts=True)
    # What the first servers with session tokens took: the rest, without a word about where it belongs.
    if asked.token is not None and offset and asked.length == total - offset:
        return Plan(offset, total, restarts=False)
    raise offset_mismatch(offset, f"A body of {asked.length} bytes is neither the whole file nor the rest of it.")


def _append(append: Append, length: int | None, total: int, offset: int) -> Plan:
    if append.total not in (None, total):
        raise Refused(413, "size-mismatch", f"The upload is of a file of {total} bytes, not of {append.total}.")
    if append.offset != offset:
        detail = f"The upload is at byte {offset}, the body begins at byte {append.offset}."
        raise offset_mismatch(offset, detail, append.offset)
    if length is None:
        return Plan(offset, total, restarts=False, is_open=not append.last)
    end = offset + length
    if end > total or (append.last and end < total):
        raise Refused(413, "size-mismatch", f"The body would end at byte {end} of a file of {total} bytes.")
    return Plan(offset, end, restarts=False)


def _part(asked: UploadRequest, total: int, offset: int) -> Plan:
    part = asked.part
    assert part is not None
    if part.total != total:
        raise Refused(400, "bad-range", f"The slot is for a file of {total} bytes, not of {part.total}.")
    if part.is_query:
        return Plan(offset, offset, restarts=False)
    if part.start > offset:
        raise offset_mismatch(
            offset, f"The upload is at byte {offset}, the body begins at byte {part.start}.", part.start
        )
    return Plan(part.start, part.end, restarts=False)


def offset_mismatch(offset: int, detail: str, provided: int | None = None) -> Refused:
    """409, with the offset from which the client may go on.

    :param provided: the offset that it went on from.
    """
    members: dict[str, object] = {"type": MISMATCHING_OFFSET, "expected-offset": offset}
    if provided is not None:
        members["provided-offset"] = provided
    return Refused(409, "offset-mismatch", detail, {"Upload-Offset": str(offset), "Upload-Complete": "?0"}, members)
