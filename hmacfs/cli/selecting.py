"""Which files a command is about: by URL or path, or by what the index knows of them."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from hmacfs.cli.arguments import duration, size
from hmacfs.cli.output import Fault, Output, Usage
from hmacfs.cli.storing import Stored
from hmacfs.keeping.index import Entry, Query
from hmacfs.keeping.scan import SCANNED_KEY, look_up
from hmacfs.storage.names import SlotPath

#: Entries that are in memory at a time.
_PAGE: Final = 1000


def add_selectors(parser: argparse.ArgumentParser) -> None:
    """The options that choose files; all that are given must apply."""
    parser.add_argument("which", metavar="URL|PATH", nargs="*", help="a file's URL, or its path below StoreDir")
    group = parser.add_argument_group("choosing by what is known of the files")
    group.add_argument("--user", metavar="JID", help="uploaded by (bearer token's sub, or ejabberd's directory)")
    group.add_argument("--domain", help="uploaded by somebody of")
    group.add_argument("--sha256", metavar="DIGEST", type=_digest, help="with this content, in hexadecimal digits")
    group.add_argument("--pattern", metavar="GLOB", help="whose path fits; * stands for slashes, too")
    group.add_argument("--type", metavar="GLOB", help="whose content type fits: 'video/*'")
    group.add_argument("--source", help="which came in this way: upload, adopted, 'import ejabberd'")
    group.add_argument("--older-than", metavar="TIME", type=duration, help="uploaded longer ago: 30d")
    group.add_argument("--newer-than", metavar="TIME", type=duration, help="uploaded since")
    group.add_argument("--larger-than", metavar="SIZE", type=size, help="of more bytes: 10MB")
    group.add_argument("--smaller-than", metavar="SIZE", type=size, help="of fewer bytes")
    group.add_argument("--quarantined", action="store_true", default=None, help="which are in quarantine")


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise argparse.ArgumentTypeError("expected 64 hexadecimal digits")
    return digest


@frozen
class Selection:
    """The files that were chosen.

    :ivar query: ``None`` where they were named.
    :ivar paths: those that were named, as :attr:`SlotPath.encoded`.
    """

    stored: Stored
    query: Query | None
    paths: Sequence[bytes] = ()

    @classmethod
    def of(cls, stored: Stored, options: argparse.Namespace, output: Output, *, all_of_them: bool) -> Selection:
        """What :func:`add_selectors` has parsed.

        :param all_of_them: whether no choice at all means every file, and not a mistake.
        :raises Usage: names and other choices at once; or no choice.
        :raises Fault: a name that can't be one.
        """
        now = time.time()
        query = Query(
            user=options.user,
            domain=options.domain,
            sha256=options.sha256,
            source=options.source,
            quarantined=options.quarantined,
            pattern=None if options.pattern is None else os.fsencode(options.pattern),
            content_type=options.type,
            uploaded_before=None if options.older_than is None else now - options.older_than,
            uploaded_after=None if options.newer_than is None else now - options.newer_than,
            larger_than=options.larger_than,
            smaller_than=options.smaller_than,
        )
        chosen = query != Query()
        if options.which and chosen:
            raise Usage("Name the files, or choose them by options; not both.")
        if options.which:
            return cls(stored, None, [named(which, stored).encoded for which in options.which])
        if not chosen and not all_of_them:
            raise Usage("Which files? Name them, or choose them by options; see --help.")
        return cls.by(stored, query, output)

    @classmethod
    def by(cls, stored: Stored, query: Query, output: Output) -> Selection:
        """The files of which the index knows that they are so."""
        if stored.index.setting(SCANNED_KEY) is None:
            output.note(
                "The index has not seen the whole store yet; this may not be all. hmacfs index rebuild waits for it."
            )
        return cls(stored, query)

    def entries(self) -> Iterator[Entry]:
        """The files, oldest upload first, or in the order in which they were named. Memory stays flat.

        :raises Fault: a file that was named isn't there.
        """
        if self.query is not None:
            yield from self._queried(self.query)
            return
        for path in self.paths:
            entry = look_up(self.stored.store, path, time.time())
            if entry is None:
                raise Fault(f"{path.decode('utf-8', 'backslashreplace')}: there is no such file.")
            # What only the index knows: the last download, for one.
            yield self.stored.index.get(path) or entry

    def _queried(self, query: Query) -> Iterator[Entry]:
        after = None
        while page := self.stored.index.select(query, after, _PAGE):
            yield from page
            after = page[-1]


def named(which: str, stored: Stored) -> SlotPath:
    """The path of a file that was named by its URL, or by its path below ``StoreDir``.

    :raises Fault: it can't be one.
    :raises Refused: likewise.
    """
    if not which.lower().startswith(("http://", "https://")):
        return SlotPath.from_encoded(os.fsencode(which).lstrip(b"/"))
    segments = urlsplit(which).path[1:].encode("utf-8").split(b"/")
    prefix = [segment.encode() for segment in stored.config.upload_sub_dir]
    if segments[: len(prefix)] != prefix:
        below = "/".join(stored.config.upload_sub_dir)
        raise Fault(f"{which.partition('?')[0]}: isn't below /{below}/, where this server's files are.")
    return SlotPath.from_url(segments[len(prefix) :])
