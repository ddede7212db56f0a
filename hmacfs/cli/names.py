"""What a downloaded file is called, where a stranger has called it something."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from hmacfs.cli.exchange import Url

NAMELESS: Final = "download"

#: Leaves room for the endings of a part that is under way.
MAX_NAME_BYTES: Final = 200

_EXTENDED: Final = re.compile(r"filename\*\s*=\s*UTF-8'[^']*'([^\s;]+)", re.IGNORECASE)
_QUOTED: Final = re.compile(r'filename\s*=\s*"((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_BARE: Final = re.compile(r"filename\s*=\s*([^\s;\"]+)", re.IGNORECASE)


def stated_name(headers: Mapping[str, str], url: Url) -> str:
    """A name for the file in the current directory: as ``Content-Disposition`` has it (RFC 6266), or the URL."""
    return safe_name(_disposition_name(headers.get("Content-Disposition", "")) or url.name)


def safe_name(name: bytes) -> str:
    """*name* as a plain file name: no path, nothing hidden, nothing invisible, and not too long."""
    text = name.decode("utf-8", "replace")
    text = re.split(r"[/\\]", text)[-1]
    text = "".join(character if character.isprintable() else "_" for character in text).strip()
    if text.startswith((".", "-")):
        text = f"_{text[1:]}"
    if len(text.encode()) > MAX_NAME_BYTES:
        text = _shortened(text)
    return text if text.strip("_. ") else NAMELESS


def _shortened(text: str) -> str:
    stem, dot, ending = text.rpartition(".")
    if not dot or len(ending.encode()) > 20:
        stem, dot, ending = text, "", ""
    room = MAX_NAME_BYTES - len((dot + ending).encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + dot + ending


def _disposition_name(value: str) -> bytes:
    if match := _EXTENDED.search(value):
        return unquote_to_bytes(match[1])
    if match := _QUOTED.search(value):
        return re.sub(r"\\(.)", r"\1", match[1]).encode("latin-1", "replace")
    match = _BARE.search(value)
    return b"" if match is None else match[1].encode("latin-1", "replace")
