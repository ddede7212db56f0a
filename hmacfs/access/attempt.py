"""What a request shows at the gate."""

from __future__ import annotations

from attrs import field, frozen


@frozen
class Attempt:
    """What of a request has a say in whether it may write, all of it as sent and nothing of it believed yet.

    :ivar raw_path: the URL's whole path with the upload prefix, still percent-encoded.
    :ivar query: what follows the URL's first ``?``; empty without one.
    :ivar authorization: the ``Authorization`` header.
    :ivar method: of the request.
    :ivar size: of the *whole file* in bytes as far as the request says: ``Content-Length``, or the total in
        ``Content-Range``. For a request about an upload that was begun before, and that doesn't repeat its size, the
        total that was noted then. ``None`` where nothing tells (chunked).
    :ivar content_type: the ``Content-Type`` header; ``None`` if there is none, empty if it is.
    """

    raw_path: bytes
    query: bytes = field(repr=False)
    authorization: bytes | None = field(repr=False)
    method: bytes
    size: int | None
    content_type: bytes | None
