"""What the tests of commands about stored files share: a store with files in it, and its index."""

from __future__ import annotations

import json
import os
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli import audit, main
from hmacfs.storage.facts import Facts
from hmacfs.storage.index import FILE_NAME, Index
from hmacfs.storage.names import SlotPath
from hmacfs.storage.scan import Scan
from hmacfs.storage.store import Store

SECRET = "a secret of more than 16 characters"
DAY_S = 86_400.0
NOW = 1_795_000_000.0
FACTS = Facts("image/png", bytes(32), None, None, NOW - 10 * DAY_S)


class StoredTestCase(SynchronousTestCase):
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

    def configure(self, more: str) -> None:
        self.config.write_text(f'Secret = "{SECRET}"\nStoreDir = "{self.root}"\n{more}', encoding="utf-8")

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

    def run_it(self, *words: str, verb: bool = True) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a command.

        :param verb: whether two words say what to do, or one.
        """
        out, err = StringIO(), StringIO()
        streams = self.patch(sys, "stdout", out), self.patch(sys, "stderr", err)
        at = 2 if verb else 1
        try:
            status = main([*words[:at], "-c", str(self.config), *words[at:]])
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            for stream in reversed(streams):
                stream.restore()
        return status, out.getvalue(), err.getvalue()

    def json_of(self, *words: str, verb: bool = True) -> list[dict[str, Any]]:
        """What a command that goes well says with ``--json``."""
        status, out, err = self.run_it(*words, "--json", verb=verb)
        self.assertEqual((status, err), (0, ""))
        return [json.loads(line) for line in out.splitlines()]
