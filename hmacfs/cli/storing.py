"""The store and its index, for commands that work beside a running daemon, or without one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from hmacfs.cli.output import Output
from hmacfs.config import Config, load
from hmacfs.errors import StartError
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.report import Report
from hmacfs.keeping.scan import refresh
from hmacfs.storage.database import DatabaseAway, WrongFormat
from hmacfs.storage.disk import heir
from hmacfs.storage.store import Store


@frozen
class Stored:
    """What a command works with.

    :ivar config: as the daemon has it.
    """

    config: Config
    store: Store
    index: Index

    @contextmanager
    def report(self) -> Iterator[Report]:
        """Where deletions are written down. If root makes the file, the daemon can write to it all the same.

        :raises StartError: the file can't be had.
        """
        report = Report(self.config.report_file, heir(self.config.store_dir))
        try:
            yield report
        finally:
            report.close()

    def note(self, paths: Sequence[bytes], output: Output) -> None:
        """Bring the index in step where files have come, gone or changed.

        :param paths: as :attr:`hmacfs.storage.names.SlotPath.encoded`.
        """
        try:
            refresh(self.store, self.index, paths, time.time())
        except DatabaseAway as away:
            output.note(f"The index can't be written to ({away.reason}); the daemon's next scan brings it in step.")


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Stored]:
    """The store that ``--config`` names, and its index.

    :raises StartError: there is none: a command doesn't make one. Or its index can't be used.
    """
    config = load(options.config)
    if not config.store_dir.is_dir():
        raise StartError(f"StoreDir {config.store_dir}: there is no such directory.")
    store = Store.open(config.store_dir)
    try:
        index = Index(store.own_directory / FILE_NAME)
        try:
            yield Stored(config, store, index)
        except DatabaseAway as away:
            raise StartError(f"{index.path} can't be used now: {away.reason}.") from away
        except WrongFormat as other:
            raise StartError(f"{other}. Say hmacfs index rebuild --from-scratch, or restart the daemon.") from other
        finally:
            index.close()
    finally:
        store.close()
