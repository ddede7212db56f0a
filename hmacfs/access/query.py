"""The credentials in a query string."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from attrs import field, frozen

from hmacfs.errors import Refused

#: Signature parameters, the highest version first.
SCHEMES: Final = ("v3", "v2", "token", "v")

_KNOWN: Final = frozenset({b"v", b"v2", b"v3", b"token", b"expires"})


@frozen
class Signatures:
    """The signature parameters of one query string.

    :ivar given: value by parameter, both percent-decoded, not looked at in any other way; only the parameters that are
        there. One without a value has the empty one.
    """

    given: dict[str, bytes] = field(repr=False)

    def highest(self, accept_v3: bool) -> tuple[str, bytes] | None:
        """The parameter that counts, and its value: the highest version that is there and that we speak.

        Whatever its value is worth: a lower version is never fallen back to (mod_http_upload_external: "upload services
        MUST only use the token from the highest parameter version that they support").
        """
        for scheme in SCHEMES:
            if scheme in self.given and (accept_v3 or scheme != "v3"):
                return scheme, self.given[scheme]
        return None


def parse_query(query: bytes) -> Signatures:
    """Find the signature parameters in a raw query string, the part of the URL after the first ``?``.

    Names are compared whole and in lower case, as every signer writes them. ``+`` is a plus, ``;`` separates nothing.

    :raises Refused: 400 ``bad-query`` if a signature parameter is there twice: a proxy in front of us might have looked
        at the other one.
    """
    given: dict[str, bytes] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        name = unquote_to_bytes(name)
        if name not in _KNOWN:
            continue
        if name.decode("ascii") in given:
            raise Refused(400, "bad-query", "The URL has a signature parameter twice.")
        given[name.decode("ascii")] = unquote_to_bytes(value)
    return Signatures(given)
