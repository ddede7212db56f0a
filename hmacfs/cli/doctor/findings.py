"""What a check has found, and what is to be changed where."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from attrs import frozen


class Verdict(enum.Enum):
    """How a check went."""

    FINE = "fine"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


@frozen
class Finding:
    """One thing that was looked at.

    :ivar check: its name, a few hyphenated words.
    :ivar sentence: what was seen.
    :ivar culprit: who is to be looked at; empty where nothing is wrong.
    :ivar cure: what to change there.
    """

    check: str
    verdict: Verdict
    sentence: str
    culprit: str = ""
    cure: str = ""


def fine(check: str, sentence: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Verdict.FINE, sentence)


def skipped(check: str, sentence: str) -> Finding:
    """It couldn't be looked at, or wasn't to be."""
    return Finding(check, Verdict.SKIPPED, sentence)


#: What is to be written in a proxy's configuration, by what is wrong and by the proxy; ``""`` is any other.
CURES: Final[Mapping[str, Mapping[str, str]]] = {
    "body-size": {
        "nginx": "client_max_body_size 0;",
        "Apache": "LimitRequestBody 0",
        "Caddy": "remove max_size from request_body",
        "": "no limit for request bodies; MaxUploadSize is the limit",
    },
    "request-buffering": {
        "nginx": "proxy_request_buffering off;",
        "HAProxy": "remove: option http-buffer-request",
        "Caddy": "remove: request_buffers",
        "": "pass request bodies on while they arrive",
    },
    "timeouts": {
        "nginx": "proxy_read_timeout 15m; proxy_send_timeout 15m; client_body_timeout 15m;",
        "Apache": "timeout=900 after ProxyPass ..., and RequestReadTimeout body=60,MinRate=256",
        "HAProxy": "timeout server 15m, timeout client 15m",
        "": "wait 15 minutes for an answer",
    },
    "methods": {
        "nginx": 'remove limit_except, dav_methods, and every "if ($request_method ..." from the location',
        "Apache": "remove <Limit>, <LimitExcept> and RewriteCond %{REQUEST_METHOD} from the location",
        "HAProxy": "remove the http-request deny that looks at the method",
        "Caddy": "remove the matcher that looks at the method",
        "": "pass every method on",
    },
    "url-encoding": {
        "nginx": "proxy_pass http://...; with nothing behind the name, not even a slash",
        "Apache": "nocanon after ProxyPass ..., and AllowEncodedSlashes NoDecode",
        "HAProxy": "remove: http-request normalize-uri, http-request set-path",
        "Caddy": "handle instead of handle_path; remove: uri, rewrite",
        "": "pass the path on as it came: it is signed",
    },
    "cors-twice": {
        "nginx": "remove add_header Access-Control-...",
        "Apache": "remove Header set Access-Control-...",
        "HAProxy": "remove http-response set-header Access-Control-...",
        "Caddy": "remove header Access-Control-...",
        "": "add no Access-Control headers: hmacfs does",
    },
    "cors-missing": {
        "nginx": 'remove proxy_hide_header Access-Control-..., and "if ($request_method = OPTIONS)"',
        "": "pass the Access-Control headers of hmacfs on, and OPTIONS to it",
    },
    "request-headers": {
        "nginx": "remove the proxy_set_header that empties it; proxy_pass_request_headers on;",
        "Apache": "remove: RequestHeader unset",
        "HAProxy": "remove: http-request del-header",
        "Caddy": "remove: header_up -...",
        "": "pass request headers on as they came",
    },
    "response-headers": {
        "nginx": "remove proxy_hide_header, and add_header of the same name",
        "Apache": "remove: Header unset, Header set",
        "HAProxy": "remove: http-response del-header",
        "Caddy": "remove: header_down -...",
        "": "pass response headers on as they came",
    },
    "compression": {
        "nginx": "gzip off;",
        "Apache": "SetEnv no-gzip 1",
        "HAProxy": "remove: compression",
        "Caddy": "remove: encode",
        "": "no compression",
    },
    "client-address": {
        "nginx": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "Apache": "ProxyAddHeaders On",
        "HAProxy": "option forwardfor",
        "": "append the client's address to X-Forwarded-For",
    },
    "client-address-forged": {
        "nginx": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "HAProxy": 'option forwardfor, without "if-none"',
        "": "append to X-Forwarded-For, or replace it; X-Real-IP alone is not enough",
    },
}


def cure(problem: str, proxy: str) -> str:
    """The line to change.

    :param proxy: as :data:`CURES` has it, or any other.
    """
    lines = CURES[problem]
    return lines.get(proxy, lines[""])
