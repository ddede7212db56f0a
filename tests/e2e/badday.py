"""What every bad day has: an answer, one line in the log, a metric, and no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import wait_until
from tests.e2e.resuming import Client, ResumeTestCase
from tests.e2e.wire import Answer, ask
from tests.smalldisk import SmallDisk


class BadDayTestCase(ResumeTestCase):
    """A server to which bad things happen, and that logs none of them a hundred times."""

    size_bytes = 1_000_000

    def said(self, pattern: str) -> int:
        """How many lines the server has written that match."""
        return len(re.findall(f"^.*{pattern}", self.written(), re.MULTILINE))

    def written(self) -> str:
        """What the server has logged."""
        return self.daemon.process.output

    def assert_said_once(self, pattern: str) -> None:
        """There is a line about it, and no more than one; and no traceback about anything."""
        wait_until(lambda: self.said(pattern), f"the log says {pattern}")
        self.assertEqual(self.said(pattern), 1)
        self.assertNotIn("Traceback", self.written())

    def assert_come_back(self, answer: Answer, status: int, reason: str) -> None:
        """The answer names the reason, and a time after which to try again."""
        self.assertEqual((answer.status, answer.text.partition(":")[0]), (status, reason))
        self.assertGreater(int(answer.header("Retry-After") or ""), 0)

    def refused(self, reason: str) -> float:
        """How many requests to write were refused for it, as the metrics say."""
        return self.daemon.metrics().get(f'hmac_file_server_upload_errors_total{{reason="{reason}"}}', 0)

    def failing(self) -> dict[str, str]:
        """Why an upload would not be taken now, as ``/readyz`` says."""
        answer = ask(self.daemon.metrics_port, "GET", "/readyz")
        failing: dict[str, str] = json.loads(answer.body)["failing"]
        self.assertEqual(answer.status, 503 if failing else 200)
        return failing

    def recovers(self, client: Client | None = None) -> None:
        """Wait until uploads are taken again, and that nobody had to restart the server for it."""
        client = client or self.client
        wait_until(lambda: client.put().status == 201, "uploads are taken again")
        self.assertTrue(client.get().body == client.content)
        self.assertTrue(self.daemon.process.running)
        self.assertEqual((self.daemon.parts(), self.failing()), ([], {}))
        self.assertNotIn("Traceback", self.written())


class DiskTestCase(BadDayTestCase):
    """A server whose store is on a small file system.

    :ivar disk: that file system.
    """

    def setUp(self) -> None:
        self.disk = self.make_disk()
        self.addCleanup(self.disk.close)
        super().setUp()

    def make_disk(self) -> SmallDisk:
        """Mount it."""
        return SmallDisk()

    @property
    def store(self) -> Path:
        """``StoreDir``."""
        return self.disk.path / "store"

    def keys(self) -> dict[str, TomlValue]:
        return {**super().keys(), "StoreDir": str(self.store), "MinFreeSpace": 0}

    def serve(self, **keys: TomlValue) -> Daemon:
        daemon = super().serve(**keys)
        daemon.store = self.store
        return daemon
