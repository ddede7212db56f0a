"""How other servers keep their files, and under which paths they have served them.

Each layout is a function that looks through a directory and tells, file by file, what it found: where the file lies,
the path that its old URL has below the upload prefix, and what is known of it. Nothing is changed. No symbolic link is
followed. What can't be taken over is told as well, with the reason.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes
from xml.etree import ElementTree

from attrs import frozen

from hmacfs.errors import Refused, StartError
from hmacfs.keeping import luadata
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import OWN_DIRECTORY, SlotPath
from hmacfs.storage.types import guess_type, storable_type

#: Of a ``.meta`` file of xmpp-http-upload.
_MAX_META_BYTES: Final = 64 * 1024


@frozen
class Found:
    """A file that can be taken over.

    :ivar source: where it lies.
    :ivar path: by which its old URL named it, without the upload prefix.
    :ivar facts: what the other server knew, and guesses for the rest.
    """

    source: Path
    path: SlotPath
    facts: Facts


@frozen
class Passed:
    """A file that is left where it is.

    :ivar reason: one hyphenated word: ``symbolic-link``, ``not-a-file``, ``unfinished``, ``bad-path``, ``no-metadata``,
        ``bad-metadata``, ``unreadable``.
    """

    source: Path
    reason: str


@frozen
class Hints:
    """What the operator adds to what the directory says.

    :ivar prefix: a leading directory that isn't part of the paths below the upload prefix (hmac-file-server keeps the
        URL's prefix); empty for none.
    :ivar database: of Prosody, where its archive is kept in SQLite.
    :ivar host: whose uploads of that database these are.
    :ivar expires_after_s: after how many seconds Prosody would have deleted each file; ``None`` for never.
    """

    prefix: bytes = b""
    database: Path | None = None
    host: str | None = None
    expires_after_s: float | None = None


Layout = Callable[[Path, Hints], "Iterator[Found | Passed]"]


def _tree(root: Path, hints: Hints, source: str) -> Iterator[Found | Passed]:
    """A tree whose paths are those of the URLs."""
    for file in _files(root):
        if isinstance(file, Passed):
            yield file
            continue
        name, status = file
        path = _slot_path(name.removeprefix(hints.prefix + b"/") if hints.prefix else name)
        where = root / os.fsdecode(name)
        if path is None:
            yield Passed(where, "bad-path")
        else:
            yield Found(where, path, _facts(guess_type(path.name), status, source))


def prosody_filer(root: Path, hints: Hints) -> Iterator[Found | Passed]:
    """``<slot>/<name>``; the type was guessed by the extension at each download. Prosody's old mod_http_upload, and the
    module for nginx, have the same."""
    return _tree(root, hints, "import prosody-filer")


def ejabberd(root: Path, hints: Hints) -> Iterator[Found | Passed]:
    """``<user or hash of the JID>/<random>/<name>``: mod_http_upload's ``docroot``."""
    return _tree(root, hints, "import ejabberd")


def hmac_file_server(root: Path, hints: Hints) -> Iterator[Found | Passed]:
    """``<path of the URL>``, with its prefix. Not to be had: ``FileNaming = "HMAC"``, whose names no URL leads to, and
    what its deduplication keeps beside, which is a second name of files that are found under their own."""
    for found in _tree(root, hints, "import hmac-file-server"):
        name = found.source.name
        if name.endswith((".part", ".partial", ".uploading", ".tmp")):
            yield Passed(found.source, "unfinished")
        else:
            yield found


def xhu(root: Path, _hints: Hints) -> Iterator[Found | Passed]:
    """xmpp-http-upload: ``<path>.data``, and ``<path>.meta`` with the headers of the PUT as JSON."""
    for file in _files(root):
        if isinstance(file, Passed):
            yield file
            continue
        name, status = file
        where = root / os.fsdecode(name)
        if name.endswith(b".meta"):
            continue
        path = _slot_path(name.removesuffix(b".data")) if name.endswith(b".data") else None
        if path is None:
            yield Passed(where, "bad-path" if name.endswith(b".data") else "no-metadata")
            continue
        content_type = _xhu_type(where.with_suffix(".meta")) or guess_type(path.name)
        yield Found(where, path, _facts(content_type, status, "import xhu"))


def prosody_file_share(root: Path, hints: Hints) -> Iterator[Found | Passed]:
    """Prosody's mod_http_file_share: ``<data>/<host>/http_file_share/<slot>.bin``, and the slots in its archive store
    ``uploads``: a list beside that directory, or a database.

    :param root: the host's directory in Prosody's data directory.
    """
    slots = _slots_in_sqlite(hints.database, hints.host) if hints.database else _slots_in_list(root / "uploads.list")
    files = root / "http_file_share"
    for file in _files(files):
        if isinstance(file, Passed):
            yield file
            continue
        name, status = file
        where = files / os.fsdecode(name)
        if name.endswith(b".bin~"):
            yield Passed(where, "unfinished")
            continue
        slot = slots.get(_decoded(name.removesuffix(b".bin"))) if name.endswith(b".bin") else None
        if slot is None:
            yield Passed(where, "no-metadata")
            continue
        path = _slot_path(slot.key + b"/" + slot.name)
        if path is None:
            yield Passed(where, "bad-path")
        else:
            yield Found(where, path, slot.facts(status, hints.expires_after_s))


LAYOUTS: Final[Mapping[str, Layout]] = {
    "prosody-filer": prosody_filer,
    "hmac-file-server": hmac_file_server,
    "ejabberd": ejabberd,
    "prosody-file-share": prosody_file_share,
    "xhu": xhu,
}


# -- Prosody's archive


@frozen
class _Slot:
    """A slot that Prosody has issued.

    :ivar when: in seconds since the epoch.
    :ivar owner: bare JID.
    """

    key: bytes
    name: bytes
    content_type: str
    when: float
    owner: str | None

    def facts(self, status: os.stat_result, expires_after_s: float | None) -> Facts:
        return Facts(
            content_type=self.content_type,
            sha256=None,
            owner=self.owner,
            expires=None if expires_after_s is None else self.when + expires_after_s,
            uploaded=status.st_mtime,
            source="import prosody-file-share",
        )

    @classmethod
    def made(cls, key: bytes, when: float, owner: str | None, attributes: Mapping[str, str]) -> _Slot | None:
        name = attributes.get("filename")
        if name is None:
            return None
        stated = attributes.get("content-type", "").encode("utf-8", "surrogateescape")
        return cls(key, name.encode("utf-8", "surrogateescape"), storable_type(stated), when, owner)


def _slots_in_list(path: Path) -> Mapping[bytes, _Slot]:
    """From ``uploads.list``.

    :raises StartError: it isn't there, or isn't what Prosody writes.
    """
    try:
        entries = list(luadata.items(path.read_bytes()))
    except OSError as error:
        raise StartError(
            f"{path}: {error.strerror}. Name the host's directory in Prosody's data directory; where Prosody keeps its"
            " archive in SQLite, say --sqlite FILE --host HOST."
        ) from error
    except luadata.LuaSyntax as error:
        raise StartError(f"{path}: not a list of Prosody's: {error}") from error
    slots = map(_listed, entries)
    return {slot.key: slot for slot in slots if slot is not None}


def _listed(entry: Mapping[object, object]) -> _Slot | None:
    key, when, owner, attributes = (entry.get(name) for name in (b"key", b"when", b"with", b"attr"))
    if not isinstance(key, bytes) or not isinstance(attributes, dict):
        return None
    return _Slot.made(
        key,
        float(when) if isinstance(when, (int, float)) else 0.0,
        owner.decode("utf-8", "backslashreplace") if isinstance(owner, bytes) else None,
        {_text(name): _text(value) for name, value in attributes.items() if isinstance(value, bytes)},
    )


def _slots_in_sqlite(path: Path, host: str | None) -> Mapping[bytes, _Slot]:
    """From the table of mod_storage_sql.

    :raises StartError: it can't be read.
    """
    if host is None:
        raise StartError("--sqlite has the archives of all hosts: say --host, the name of the component.")
    query = """SELECT "key", "when", "with", value FROM prosodyarchive WHERE host = ? AND store = 'uploads'"""
    try:
        connection = sqlite3.connect(f"file:{quote_from_bytes(os.fsencode(path))}?mode=ro", uri=True)
        try:
            rows = connection.execute(query, (host,)).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StartError(f"{path}: {error}") from error
    slots = (_stored(*row) for row in rows)
    return {slot.key: slot for slot in slots if slot is not None}


def _stored(key: str, when: float, owner: str | None, value: str) -> _Slot | None:
    try:
        attributes = ElementTree.fromstring(value).attrib  # noqa: S314 (written by Prosody, which parsed it before)
    except ElementTree.ParseError:
        return None
    return _Slot.made(key.encode(), float(when), owner or None, attributes)


# -- Files


def _files(root: Path) -> Iterator[tuple[bytes, os.stat_result] | Passed]:
    """All regular files below a directory, by their paths from there; without what is ours.

    :raises StartError: there is no such directory.
    """
    if not root.is_dir():
        raise StartError(f"{root}: no such directory.")
    below: list[bytes] = [b""]
    start = os.fsencode(root)
    while below:
        directory = below.pop()
        try:
            entries = sorted(os.scandir(os.path.join(start, directory)), key=lambda entry: entry.name)
        except OSError:
            yield Passed(Path(os.fsdecode(os.path.join(start, directory))), "unreadable")
            continue
        for entry in entries:
            name = os.path.join(directory, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if name != OWN_DIRECTORY:
                    below.append(name)
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False)
            else:
                reason = "symbolic-link" if entry.is_symlink() else "not-a-file"
                yield Passed(Path(os.fsdecode(entry.path)), reason)


def _slot_path(encoded: bytes) -> SlotPath | None:
    try:
        return SlotPath.from_encoded(encoded)
    except Refused:
        return None


def _facts(content_type: str, status: os.stat_result, source: str) -> Facts:
    return Facts(content_type, sha256=None, owner=None, expires=None, uploaded=status.st_mtime, source=source)


def _xhu_type(meta: Path) -> str | None:
    try:
        with meta.open("rb") as file:
            headers = json.loads(file.read(_MAX_META_BYTES))["headers"]
        content_type = headers["Content-Type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return storable_type(content_type.encode()) if isinstance(content_type, str) else None


def _decoded(name: bytes) -> bytes:
    """Prosody writes every byte of a name but letters and digits as ``%xx``."""
    head, *rest = name.split(b"%")
    try:
        return head + b"".join(bytes.fromhex(part[:2].decode("ascii")) + part[2:] for part in rest)
    except ValueError:
        return name


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else ""
