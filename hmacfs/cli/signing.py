"""``hmacfs sign``."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from typing import Any

from hmacfs.access.issuing import SCHEMES, IssuedSlot, issue, random_directory
from hmacfs.access.keys import Secret
from hmacfs.cli import arguments
from hmacfs.config import Config, load
from hmacfs.storage.names import SlotPath
from hmacfs.storage.types import guess_type


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    sign = commands.add_parser(
        "sign",
        parents=[common],
        help="print a slot, as the XMPP server would issue it",
        description="Print the signed URL to PUT a file to, and the URL to GET it from.",
    )
    sign.add_argument("name", metavar="NAME", help="of the file; DIRECTORY/NAME to choose the random part as well")
    sign.add_argument("size", metavar="SIZE", type=_size, help="of the file, in bytes")
    sign.add_argument("--type", help="content type (guessed by the name)")
    sign.add_argument("--scheme", choices=SCHEMES, default="v", help="kind of signature (%(default)s)")
    sign.add_argument(
        "--base-url",
        metavar="URL",
        default="http://127.0.0.1:8080",
        help="of the server, without UploadSubDir (%(default)s)",
    )
    arguments.of_file(sign.add_argument("--curl", metavar="FILE", help="print a curl command that uploads FILE"))
    sign.set_defaults(run=_sign)


def _size(text: str) -> int:
    size = int(text)
    if size < 0:
        raise ValueError(text)
    return size


def _sign(options: argparse.Namespace) -> int:
    config = load(options.config)
    name = options.name if "/" in options.name else f"{random_directory()}/{options.name}"
    path = SlotPath.from_encoded(name.encode("utf-8", "surrogateescape"))
    content_type = options.type if options.type is not None else guess_type(path.name)
    slot = issue(
        Secret(config.secret),
        _base_url(config, options.base_url),
        path,
        options.size,
        content_type,
        options.scheme,
        time.time(),
    )
    print(_shown(slot, content_type, options))
    return 0


def _base_url(config: Config, server: str) -> str:
    return "/".join([server.rstrip("/"), *config.upload_sub_dir])


def _shown(slot: IssuedSlot, content_type: str, options: argparse.Namespace) -> str:
    if options.json:
        return json.dumps({"put": slot.put, "get": slot.get, "headers": dict(slot.headers), "type": content_type})
    headers = {**slot.headers, "Content-Type": content_type}
    if options.curl is not None:
        words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        return f"  {shlex.join(['curl', '-T', options.curl, *words, slot.put])}\n  {slot.get}"
    lines = [f"PUT {slot.put}", *(f"{name}: {value}" for name, value in headers.items()), f"GET {slot.get}"]
    return "\n".join(lines)
