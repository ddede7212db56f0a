"""What the tests of commands about stored files share: a store with files in it, and its index."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from attrs import evolve

from hmacfs.cli import audit
from hmacfs.keeping.index import FILE_NAME, Index
from hmacfs.keeping.scan import Scan
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import Store
from tests.cli.commanding import CommandTestCase

SECRET = "a secret of more than 16 characters"
DAY_S = 86_400.0
NOW = 1_795_000_000.0
FACTS = Facts("image/png", bytes(32), None, None, NOW - 10 * DAY_S)


class StoredTestCase(CommandTestCase):
    """A configuration, a store, and commands about it.

    :ivar audited: the lines for the system's log.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.root = self.directory / "store"
        self.root.mkdir(parents=True)
        self.config = self.directory / "config.toml"
        self.configure("")
        self.audited: list[str] = []
        self.patch(audit.syslog, "syslog", lambda _priority, line: self.audited.append(line))
        self.store = Store.open(self.root)
        self.addCleanup(self.store.close)

    def configure(self, text: str) -> None:
        super().configure(f'Secret = "{SECRET}"\nStoreDir = "{self.root}"\n{text}')

    def put(self, path: str | bytes, content: bytes = b"content", **facts: Any) -> None:
        """Store a file, and tell nobody."""
        part = self.store.begin(f"put-{os.urandom(8).hex()}")
        part.write(content)
        self.store.publish(part, SlotPath.from_encoded(os.fsencode(path)), evolve(FACTS, **facts))

    def scan(self) -> None:
        """Bring the index in step, as the daemon does."""
        index = Index(self.store.own_directory / FILE_NAME)
        scan = Scan(self.store, index, lambda: NOW)
        while scan.step() is not None:
            pass
        index.close()

    def there(self) -> list[str]:
        """The stored files."""
        return sorted(path.decode("utf-8", "backslashreplace") for path, _ in self.store.walk())

    def run_it(self, *argv: str, words: int = 2) -> tuple[int, str, str]:
        return super().run_it(*argv, words=words)

    def json_of(self, *argv: str, words: int = 2) -> list[dict[str, Any]]:
        """What a command that goes well says with ``--json``."""
        return [json.loads(line) for line in self.printed(*argv, "--json", words=words).splitlines()]
