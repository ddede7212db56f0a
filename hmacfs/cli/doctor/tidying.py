"""Taking away what an examination has stored."""

from __future__ import annotations

import time
from collections.abc import Iterable

from hmacfs.config import Config
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.scan import look_up
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store


def tidy(config: Config, paths: Iterable[SlotPath]) -> list[str]:
    """Delete the files that are there, and return the URLs of those that couldn't be.

    The report of deletions doesn't hear of them: they were nobody's.
    """
    if not config.store_dir.is_dir():
        return [path.url for path in paths]
    left = []
    store = Store.open(config.store_dir)
    try:
        index = Index(store.own_directory / FILE_NAME)
        try:
            deleting = Deleting(store, index, lambda _deletion: None, "doctor")
            for path in paths:
                entry = look_up(store, path.encoded, time.time())
                if entry is not None and deleting.delete(entry, "doctor", time.time()) is None:
                    left.append(path.url)
        finally:
            index.close()
    except OSError:
        return [path.url for path in paths]
    finally:
        store.close()
    return left
