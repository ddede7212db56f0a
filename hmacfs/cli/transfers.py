"""What ``put`` and ``get`` have in common: their options, and digests as servers state them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twisted.web.http_headers import Headers

from hmacfs.cli import arguments
from hmacfs.cli.exchange import Server, Url
from hmacfs.cli.output import Fault, Usage
from hmacfs.cli.patience import Patience
from hmacfs.errors import Refused
from hmacfs.uploads.digests import StatedDigests

#: Where a bearer token is looked for, so that it is neither in the list of processes nor in a shell's history.
TOKEN_VARIABLE: Final = "HMACFS_TOKEN"  # noqa: S105 (its name, not its value)


def add_transfer(parser: argparse.ArgumentParser) -> None:
    """The options of both commands."""
    for option, text in (
        ("--token-file", f"has the bearer token (otherwise: ${TOKEN_VARIABLE})"),
        ("--cacert", "certificates to trust, instead of the system's"),
    ):
        arguments.of_file(parser.add_argument(option, metavar="FILE", help=text))
    parser.add_argument(
        "--limit-rate", metavar="SIZE", type=arguments.size, help="bytes a second at most, such as 500kB"
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=arguments.duration,
        default=60.0,
        help="how long the server may be silent (60s)",
    )
    parser.add_argument(
        "--retries", metavar="N", type=arguments.count, help="failures in a row before it gives up (any)"
    )
    parser.add_argument(
        "--give-up-after",
        metavar="TIME",
        type=arguments.duration,
        default=900.0,
        help="how long nothing may get through before it gives up (15min)",
    )
    arguments.add_json(parser)


def server(options: argparse.Namespace) -> Server:
    """The server of the URL that was given.

    :raises Usage: that is none, or a file of an option is of no use.
    """
    if options.cacert is not None and not os.access(options.cacert, os.R_OK):
        raise Usage(f"--cacert {options.cacert}: can't be read.")
    return Server(Url.parse(options.url), options.cacert, max(options.timeout, 0.001), _authorization(options))


def patience(options: argparse.Namespace) -> Patience:
    """As the options have it."""
    return Patience(options.retries, options.give_up_after)


def _authorization(options: argparse.Namespace) -> dict[str, str]:
    if options.token_file is not None:
        where, token = (
            options.token_file,
            Path(options.token_file).read_text(encoding="utf-8", errors="replace").strip(),
        )
    else:
        where, token = f"${TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return {}
    token = token.removeprefix("Authorization:").strip().removeprefix("Bearer ").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Usage(f"{where}: expected a bearer token.")
    return {"Authorization": f"Bearer {token}"}


def stated_sha256(headers: Mapping[str, str]) -> bytes | None:
    """The SHA-256 of the whole file that an answer states (RFC 9530 section 3), if it does.

    :raises Fault: it states one that can't be.
    """
    stated = headers.get("Repr-Digest")
    if stated is None:
        return None
    try:
        digests = StatedDigests.from_headers(Headers({b"repr-digest": [stated.encode("latin-1", "replace")]}))
    except Refused as refused:
        raise Fault(f"The server's Repr-Digest is none: {refused.detail}") from None
    return next((digest.value for digest in digests.representation if digest.algorithm == "sha256"), None)
