"""Leaving it to a proxy to send a stored file (``X-Accel-Redirect``, ``X-Sendfile``).

The proxy is told in a header where the file is, instead of being given its bytes, and sends it by itself, or the part
that the client asks for. It is only ever told of a file that we would have sent, and only where it will do with the
request what we would have done: everything else is answered as without a proxy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import ClientAddresses
from hmacfs.storage.names import SlotPath

#: The headers that there are, as ``SendfileHeader`` has them.
ACCEL_REDIRECT: Final = "X-Accel-Redirect"
SENDFILE: Final = "X-Sendfile"

#: Of the header's value. nginx takes 4 KiB of headers in all, unless told otherwise, and makes a 502 of more.
MAX_VALUE_BYTES: Final = 1024

#: Conditions that we pass over (RFC 9110 sections 13.1.1, 13.1.4), and that a server of files looks at.
_PASSED_OVER: Final = (b"if-match", b"if-unmodified-since")


class Offloading:
    """Tells a proxy where files are.

    :param header: its name.
    :param base: what stands in front of a file's path, percent-encoded and with a slash at its end.
    :param addresses: knows the proxies.
    """

    def __init__(self, header: str, base: str, addresses: ClientAddresses) -> None:
        self._header = header
        self._base = base
        self._addresses = addresses

    @classmethod
    def below_prefix(cls, prefix: str, addresses: ClientAddresses) -> Offloading:
        """For nginx: *prefix* is the URL path of a location that is internal."""
        return cls(ACCEL_REDIRECT, prefix, addresses)

    @classmethod
    def below_directory(cls, root: Path, addresses: ClientAddresses) -> Offloading:
        """For Apache and lighttpd, which open the file by its absolute path, once they have decoded that."""
        return cls(SENDFILE, quote_from_bytes(os.fsencode(root.absolute())).rstrip("/") + "/", addresses)

    def headers(self, path: SlotPath, peer: IAddress | None, headers: Headers, *, part: bool) -> dict[str, str] | None:
        """The header that leaves a file to the proxy; ``None`` where the bytes have to come from us.

        :param peer: of the connection.
        :param headers: of the GET.
        :param part: whether we would send a part of the file, and not the whole.
        """
        value = self._base + path.url
        # A range that we don't honour, such as several at once, would be honoured or refused there.
        understood_alike = headers.hasHeader(b"range") == part and not any(map(headers.hasHeader, _PASSED_OVER))
        if not understood_alike or len(value) > MAX_VALUE_BYTES or not self._addresses.is_forwarded(peer, headers):
            return None
        return {self._header: value}
