"""``hmacfs users``: all that is here of one person, to be handed out or to be deleted (GDPR articles 15 and 17)."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hmacfs.cli.arguments import add_changing
from hmacfs.cli.audit import audit
from hmacfs.cli.files import as_record, delete
from hmacfs.cli.output import FINE, Column, Output
from hmacfs.cli.selecting import Selection
from hmacfs.cli.storing import Stored, opened
from hmacfs.keeping.account import account_of
from hmacfs.keeping.index import Entry, Query
from hmacfs.storage.names import SlotPath
from hmacfs.units import counted, human_size
from hmacfs.uploads.note import decode

_MANIFEST: Final = "files.json"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the family to argparse's *commands*."""
    users = commands.add_parser("users", help="what users have stored; export or delete all of one")
    verbs = users.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", parents=[common], help="list users by what they have stored, most first")
    listing.set_defaults(run=_list)

    export = verbs.add_parser(
        "export",
        parents=[common],
        help="list all files of a user, or put them into an archive",
        description="Print what is known of each file of a user, a JSON object a line; with --tar, write the files, too.",
    )
    export.add_argument("jid", metavar="JID", help="bare JID; with ejabberd its directory is found, too")
    export.add_argument("--tar", type=Path, metavar="FILE", help="an archive to be made")
    export.set_defaults(run=_export)

    removing = verbs.add_parser(
        "delete",
        parents=[common],
        help="delete all files of a user, and unfinished uploads",
        description="Delete all files of a user, those in quarantine and unfinished uploads as well.",
    )
    removing.add_argument("jid", metavar="JID", help="bare JID; with ejabberd its directory is found, too")
    add_changing(removing)
    removing.set_defaults(run=_delete)


def names_of(jid: str) -> tuple[str, str]:
    """As whom the index may know somebody: the JID, and the SHA-1 of it that ejabberd makes a directory of."""
    bare = jid.partition("/")[0]
    return bare, hashlib.sha1(bare.encode("utf-8"), usedforsecurity=False).hexdigest()


def _list(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        users = stored.index.users()
        output.records({"user": user, "files": usage.files, "bytes": usage.size_bytes} for user, usage in users)
        rows = ([user, f"{usage.files:,}", human_size(usage.size_bytes)] for user, usage in users)
        output.table([Column("user"), Column("files", right=True), Column("size", right=True)], rows)
    return FINE


def _entries(stored: Stored, jid: str, output: Output) -> Iterator[Entry]:
    for name in names_of(jid):
        yield from Selection.by(stored, Query(user=name), output).entries()


def _export(options: argparse.Namespace) -> int:
    output = Output.of(options)
    with opened(options) as stored:
        if options.tar is None:
            for entry in _entries(stored, options.jid, output):
                output.stdout.write(json.dumps(as_record(entry)) + "\n")
            return FINE
        exported = _archive(stored, options.jid, options.tar, output)
        output.say(f"{options.tar}: {counted(exported, 'file')}.")
        output.document({"tar": str(options.tar), "files": exported})
    return FINE


def _archive(stored: Stored, jid: str, path: Path, output: Output) -> int:
    """Write an archive that only its maker may read: the files by their paths, and what is known of them.

    :return: how many files.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return _write_archive(stored, jid, fd, output)
    except BaseException:
        # A part of the files must not be taken for all of them.
        path.unlink(missing_ok=True)
        raise


def _write_archive(stored: Stored, jid: str, fd: int, output: Output) -> int:
    known: list[object] = []
    with open(fd, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        with output.progress("files", None, of_bytes=False) as bar:
            for entry in _entries(stored, jid, output):
                if _add(stored, entry, archive):
                    known.append(as_record(entry))
                bar.advance()
        manifest = json.dumps(known, indent=1).encode()
        member = tarfile.TarInfo(_MANIFEST)
        member.size, member.mode, member.mtime = len(manifest), 0o600, int(time.time())
        archive.addfile(member, io.BytesIO(manifest))
    return len(known)


def _add(stored: Stored, entry: Entry, archive: tarfile.TarFile) -> bool:
    path = SlotPath.from_encoded(entry.path)
    found = stored.store.open_file(path)
    if found is None:
        return False
    with found.handle as handle:
        member = tarfile.TarInfo(f"files/{path.text}")
        member.size, member.mode, member.mtime = found.size, 0o600, int(found.mtime_ns // 1_000_000_000)
        archive.addfile(member, handle)
    return True


def _delete(options: argparse.Namespace) -> int:
    output = Output.of(options)
    status = FINE
    with opened(options) as stored:
        for name in names_of(options.jid):
            selection = Selection.by(stored, Query(user=name), output)
            if name == names_of(options.jid)[0] or next(selection.entries(), None) is not None:
                status |= delete(
                    stored,
                    selection,
                    output,
                    dry_run=options.dry_run,
                    yes=options.yes,
                    what=f"users delete {options.jid}",
                    reason="user-deleted",
                )
        if not options.dry_run:
            _drop_unfinished(stored, options.jid, output)
    return status


def _drop_unfinished(stored: Stored, jid: str, output: Output) -> None:
    """Remove what has arrived of uploads that nobody is writing to now."""

    def is_somebody_elses(part: str) -> bool:
        note = stored.store.part_note(part)
        upload = None if note is None else decode(note)
        return upload is None or account_of(upload.owner, upload.path).user not in names_of(jid)

    swept = stored.store.sweep_parts(0.0, time.time() + 1.0, is_somebody_elses)
    if swept.files:
        audit(f"users delete {jid}: removed {counted(swept.files, 'unfinished upload')}, {swept.size_bytes} bytes")
        output.say(f"removed {counted(swept.files, 'unfinished upload')}, {human_size(swept.size_bytes)}.")
