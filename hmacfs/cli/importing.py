"""``hmacfs import``: take over the files of another server."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hmacfs.cli.arguments import duration
from hmacfs.cli.output import FAULT, FINE, Column, Output
from hmacfs.cli.storing import Stored, opened
from hmacfs.errors import StartError
from hmacfs.keeping.importing import How, Importer, Taken
from hmacfs.keeping.index import BATCH
from hmacfs.keeping.layouts import LAYOUTS, Found, Hints, Passed
from hmacfs.units import counted, human_size

_DESCRIPTION: Final = """
Take over the files of another server, so that their old URLs go on working (below the same UploadSubDir). Every file
is linked into StoreDir, which takes no room and leaves it where it was, too; the same file under two names has one
owner and one mode, those of hmacfs. In a directory that is StoreDir already, only what is known of the files is noted.
Can be stopped, and run again, at any time.
"""

_LAYOUTS_HELP: Final = """
Layouts, and the directory that each takes:
  prosody-filer       StoreDir of its configuration; also that of Prosody's old mod_http_upload, and of the nginx module
  hmac-file-server    its storage path
  ejabberd            docroot of mod_http_upload
  prosody-file-share  the component's directory in Prosody's data directory (mod_http_file_share)
  xhu                 the data directory of xmpp-http-upload
"""

#: What the operator can do about files that were passed over.
_MEANINGS: Final = {
    "symbolic-link": "symbolic links, which are never followed",
    "not-a-file": "neither files nor directories",
    "unfinished": "uploads that were never finished",
    "bad-path": "names that no URL leads to",
    "no-metadata": "files that the other server knows nothing of",
    "unreadable": "could not be read",
    "conflict": "another file has that path in StoreDir already",
}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    parser = commands.add_parser(
        "import",
        parents=[common],
        help="take over the files of another server",
        description=_DESCRIPTION,
        epilog=_LAYOUTS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("layout", metavar="LAYOUT", choices=sorted(LAYOUTS), help="the other server's: see below")
    parser.add_argument("directory", metavar="DIR", type=Path, help="with the other server's files")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--move", dest="how", action="store_const", const=How.MOVE, help="remove the old names")
    how.add_argument("--copy", dest="how", action="store_const", const=How.COPY, help="copy: from another file system")
    parser.add_argument("--prefix", default="", metavar="DIR", help="a leading directory that isn't part of the paths")
    parser.add_argument("--sqlite", type=Path, metavar="FILE", help="Prosody's archive, where it is kept in SQLite")
    parser.add_argument("--host", help="the component whose uploads are in that archive")
    parser.add_argument(
        "--expires-after", type=duration, metavar="TIME", help="as Prosody's http_file_share_expires_after"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.set_defaults(run=_import, how=How.LINK)


def _import(options: argparse.Namespace) -> int:
    output = Output.of(options)
    hints = Hints(os.fsencode(options.prefix.strip("/")), options.sqlite, options.host, options.expires_after)
    found = LAYOUTS[options.layout](options.directory, hints)
    with opened(options) as stored:
        _check_place(stored, options.directory)
        run = _would_take(found) if options.dry_run else _take(stored, options.how, found, output)
        return _tell(run, output, options.dry_run)


def _check_place(stored: Stored, directory: Path) -> None:
    """
    :raises StartError: the directory lies in the store, and isn't it.
    """
    inner, outer = Path(os.path.realpath(directory)), Path(os.path.realpath(stored.store.root))
    if inner != outer and inner.is_relative_to(outer):
        raise StartError(f"{directory} lies within StoreDir, {outer}, where its files are served already. Move it out.")


def _take(stored: Stored, how: How, found: Iterator[Found | Passed], output: Output) -> Iterator[Taken | Passed]:
    """Take over, and have the index know of it."""
    fresh: list[bytes] = []
    try:
        with output.progress("files", None, of_bytes=False) as bar:
            for each in Importer(stored.store, how).run(found):
                bar.advance()
                if isinstance(each, Taken):
                    fresh.append(each.path.encoded)
                if len(fresh) == BATCH:
                    stored.note(fresh, output)
                    fresh = []
                yield each
    finally:
        stored.note(fresh, output)
        # Of files that were linked, only the file system knows yet.
        os.sync()


def _would_take(found: Iterator[Found | Passed]) -> Iterator[Taken | Passed]:
    for each in found:
        yield each if isinstance(each, Passed) else Taken(each.path, None)


def _tell(run: Iterator[Taken | Passed], output: Output, dry_run: bool) -> int:
    """Say what has become of the files: of those that were passed over each, of the others how many they are."""
    taken = there = size = 0
    passed: Counter[str] = Counter()
    for each in run:
        if isinstance(each, Passed):
            passed[each.reason] += 1
            output.note(f"{each.source}: left where it is ({each.reason})")
        elif each.stored is None:
            there += 1
        else:
            taken += 1
            size += each.stored.size
    if dry_run:
        output.say(f"{counted(there, 'file')} would be taken over.")
        output.document({"would_take": there, "passed_over": dict(passed)})
    else:
        output.say(
            f"{counted(taken, 'file was', 'files were')} taken over, {human_size(size)};"
            f" {counted(there, 'was', 'were')} there before."
        )
        output.document({"taken": taken, "bytes": size, "there_before": there, "passed_over": dict(passed)})
    if passed:
        rows = [[str(count), _MEANINGS[reason]] for reason, count in sorted(passed.items())]
        output.table([Column("passed over", right=True), Column("because they are")], rows)
    return FAULT if passed.keys() & {"conflict", "unreadable"} else FINE
