"""Requests of the doctor: to the mirror, and to slots, through whatever stands in front of hmacfs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any, Final

from attrs import field, frozen

from hmacfs.access.issuing import IssuedSlot, issue
from hmacfs.access.keys import Secret
from hmacfs.access.mirrorpass import make_pass
from hmacfs.cli.exchange import Broken, Server, Url, network
from hmacfs.cli.output import Usage
from hmacfs.storage.names import SlotPath

_MAX_ANSWER_BYTES: Final = 1 << 20

#: How a proxy gives itself away in ``Server`` or ``Via``.
_NAMES: Final = (
    ("nginx", "nginx"),
    ("openresty", "nginx"),
    ("apache", "Apache"),
    ("haproxy", "HAProxy"),
    ("caddy", "Caddy"),
)


@frozen
class Heard:
    """An answer.

    :ivar fields: all of its header fields, with every value of each, by lower-case name.
    """

    status: int
    fields: Mapping[str, list[str]]
    body: bytes = field(repr=False)

    def first(self, name: str) -> str:
        """The first value of a field; empty without one."""
        return next(iter(self.fields.get(name.lower(), [])), "")

    @property
    def seen(self) -> Mapping[str, Any] | None:
        """What the mirror says; ``None`` where it isn't the mirror that answers."""
        try:
            said = json.loads(self.body)
        except ValueError:
            return None
        return said if self.status == 200 and isinstance(said, dict) and "hmacfs" in said else None


class Prober:
    """Asks.

    :param base: the URL that the XMPP server has: with ``UploadSubDir``.
    :param proxy: what stands in front, if the operator has said so; otherwise it is found out as answers come.
    """

    def __init__(self, base: str, secret: Secret, cacert: str | None, timeout_s: float, proxy: str) -> None:
        self.base = Url.parse(base.rstrip("/") + "/")
        if "?" in self.base.target:
            raise Usage("--url: expected one without a question mark.")
        self.secret = secret
        self.proxy = proxy
        self.cacert = cacert
        self._timeout_s = timeout_s

    def url(self, rest: str) -> Url:
        """Of what is below the base, written exactly so.

        :param rest: path and query, percent-encoded.
        """
        return Url(self.base.scheme, self.base.host, self.base.port, self.base.target + rest, self.base.public + rest)

    def slot(self, path: SlotPath, size: int, content_type: str, scheme: str) -> IssuedSlot:
        """A slot, signed as an XMPP server does."""
        return issue(self.secret, self.base.public, path, size, content_type, scheme, time.time())

    def mirror(
        self,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] = (),
        *,
        rest: str = "",
        query: str = "",
        pause_s: float = 0.0,
    ) -> Heard:
        """Ask the mirror.

        :param rest: of its path.
        :param query: beside the pass.
        :param pause_s: between two pieces of the body.
        """
        target = f".doctor/{rest}?pass={make_pass(self.secret, time.time())}{query}"
        return self.ask(method, self.url(target), headers, body, pause_s=pause_s)

    def ask(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] = (),
        *,
        pause_s: float = 0.0,
    ) -> Heard:
        """Make a request.

        :param body: in pieces; its length is told beforehand, unless *headers* says something of it.
        :raises Broken: no answer came.
        :raises hmacfs.cli.output.Fault: the name or the certificate is wrong.
        """
        pieces = [*body]
        fields = dict(headers or {})
        if pieces and "Content-Length" not in fields:
            fields["Content-Length"] = str(sum(map(len, pieces)))
        elif not pieces and method in ("PUT", "POST", "PATCH"):
            fields.setdefault("Content-Length", "0")
        server = Server(url, self.cacert, self._timeout_s)
        with server.request(method, fields) as exchange:
            for number, piece in enumerate(pieces):
                if number and pause_s:
                    time.sleep(pause_s)
                if exchange.answered() or not exchange.send(piece):
                    break
            response = exchange.response()
            with network():
                content = response.read(_MAX_ANSWER_BYTES)
        heard = Heard(response.status, _fields(response.headers.items()), content)
        self._recognize(heard)
        return heard

    def breaks_off(self, url: Url, headers: Mapping[str, str], size: int, beginning: bytes, patience_s: float) -> None:
        """Begin a PUT of *size* bytes, send its beginning, and hang up a while after that."""
        server = Server(url, self.cacert, self._timeout_s)
        with server.request("PUT", {**headers, "Content-Length": str(size)}) as exchange:
            exchange.send(beginning)
            time.sleep(patience_s)

    def limit(self, url: Url, size: int) -> Heard | None:
        """Announce a body of *size* bytes, and don't send it.

        :return: the answer; ``None`` where the body is wanted.
        """
        server = Server(url, self.cacert, self._timeout_s)
        with server.request("PUT", {"Content-Length": str(size), "Expect": "100-continue"}) as exchange:
            exchange.await_go()
            if not exchange.answered():
                return None
            response = exchange.response()
            try:
                content = response.read(_MAX_ANSWER_BYTES)
            except (OSError, HTTPException):
                content = b""
        return Heard(response.status, _fields(response.headers.items()), content)

    def _recognize(self, heard: Heard) -> None:
        if self.proxy:
            return
        signs = " ".join((*heard.fields.get("server", []), *heard.fields.get("via", []))).lower()
        page = heard.body[:2000].lower() if heard.seen is None else b""
        for word, name in _NAMES:
            if word in signs or (word.encode() in page and heard.status >= 400):
                self.proxy = name
                return


def _fields(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in items:
        fields.setdefault(name.lower(), []).append(value)
    return fields


__all__ = ["Broken", "Heard", "Prober"]
