"""Leaving it to a proxy to send a stored file (``X-Accel-Redirect``, ``X-Sendfile``).

The proxy is told in a header where the file is, instead of being given its bytes, and sends it by itself, or the part
that the client asks for. It is only ever told of a file that we would have sent, and only where it will do with the
request what we would have done: everything else is answered as without a proxy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
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
    :param decodes: whether the proxy is known to decode what it is told.
    :param adds: the headers that it adds to its answers, though they have them already.
    """

    def __init__(
        self, header: str, base: str, addresses: ClientAddresses, *, decodes: bool, adds: frozenset[str]
    ) -> None:
        self._header = header
        self._base = base
        self._addresses = addresses
        self._decodes = decodes
        self._adds = adds

    @classmethod
    def below_prefix(cls, prefix: str, addresses: ClientAddresses) -> Offloading:
        """For nginx: *prefix* is the URL path of a location that is internal."""
        return cls(ACCEL_REDIRECT, prefix, addresses, decodes=True, adds=frozenset({"Accept-Ranges"}))

    @classmethod
    def below_directory(cls, root: Path, addresses: ClientAddresses) -> Offloading:
        """For Apache and lighttpd, which open the file by its absolute path.

        lighttpd decodes it before, mod_xsendfile 0.12 does not: neither hears of a path for which that matters.
        """
        base = quote_from_bytes(os.fsencode(root.absolute())).rstrip("/") + "/"
        return cls(SENDFILE, base, addresses, decodes=False, adds=frozenset())

    def headers(
        self,
        path: SlotPath,
        peer: IAddress | None,
        asked: Headers,
        usual: Iterable[tuple[str, str]],
        *,
        part: bool,
    ) -> dict[str, str] | None:
        """The headers of a 200 that leaves a file to the proxy; ``None`` where the bytes have to come from us.

        :param peer: of the connection.
        :param asked: the headers of the GET.
        :param usual: those of a 200 with the bytes.
        :param part: whether we would send a part of the file, and not the whole.
        """
        value = self._base + path.url
        can_be_told = len(value) <= MAX_VALUE_BYTES and (self._decodes or "%" not in value)
        # A range that we don't honour, such as several at once, would be honoured or refused there.
        understood_alike = asked.hasHeader(b"range") == part and not any(map(asked.hasHeader, _PASSED_OVER))
        if can_be_told and understood_alike and self._addresses.is_forwarded(peer, asked):
            return {name: text for name, text in usual if name not in self._adds} | {self._header: value}
        return None
