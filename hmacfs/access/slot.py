"""What a signature grants."""

from __future__ import annotations

from attrs import field, frozen

from hmacfs.storage.names import SlotPath


@frozen
class Slot:
    """What one signed URL allows: one file, once.

    :ivar path: below the upload prefix, percent-decoded, as the XMPP server signed it.
    :ivar size: of the whole file in bytes; ``None`` if the signature leaves it open.
    :ivar content_type: as signed, or as sent (and without that, by the file's name) where the signature does not cover
        it. Printable ASCII, never empty.
    :ivar owner: bare JID of the uploader, where the signature names one.
    :ivar expires: when the *file* must be gone, in seconds since the epoch.
    :ivar scheme: ``v``, ``v2``, ``token``, ``jwt`` or ``v3``.
    :ivar signature: SHA-256 of the credential: the same for every request that shows it, different for every other. An
        unfinished upload may only be gone on with, asked about or cancelled by who shows the credential that began it.
    """

    path: SlotPath
    size: int | None
    content_type: str
    owner: str | None
    expires: float | None
    scheme: str
    signature: bytes = field(repr=False)
