"""What a connection may cost."""

from __future__ import annotations

from attrs import frozen


@frozen
class Limits:
    """What a connection may cost, in seconds and bytes.

    :ivar header_timeout_s: from a request's first byte, or from the connection's start, to the end of its headers.
    :ivar idle_timeout_s: between two requests.
    :ivar read_timeout_s: without a byte of a body that a resource is waiting for.
    :ivar write_timeout_s: without room for more of an answer, because the peer doesn't read.
    :ivar close_timeout_s: for the last bytes of an answer to leave, and a TLS peer to agree, once we close.
    :ivar min_body_rate: bytes per second that a body must bring on average over a minute; 0 means any. A minute without
        any byte is left to *read_timeout_s*.
    :ivar linger_s: how long we wait after an answer to an unwanted body before we close, for the peer to see the answer.
    :ivar linger_bytes: how much of that body is read and thrown away meanwhile. After that the peer is held back.
    :ivar farewell_s: how long a peer that was turned away has to take its answer and close.
    :ivar drain_bytes: an unwanted body of which no more than this is missing is skipped, and the connection goes on.
    :ivar body_buffer_bytes: what is read from the socket at a time while a body arrives.
    """

    header_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    read_timeout_s: float = 900.0
    write_timeout_s: float = 900.0
    close_timeout_s: float = 30.0
    min_body_rate: float = 256.0
    linger_s: float = 5.0
    linger_bytes: int = 8 * 1024 * 1024
    farewell_s: float = 2.0
    drain_bytes: int = 64 * 1024
    body_buffer_bytes: int = 64 * 1024
