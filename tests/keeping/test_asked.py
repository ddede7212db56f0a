"""Deletions that are asked for, where something gets in their way. The way of the request is in ``tests.web``."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred

from hmacfs.errors import Refused
from hmacfs.keeping.asked import AskedDeletions
from hmacfs.keeping.deleting import Deleting
from hmacfs.keeping.index import Entry
from hmacfs.metrics import Metrics
from hmacfs.net.threads import InlineThreads
from tests.storage.support import StoreTestCase

NOW = 1_790_000_000.0


class _Deleting:
    """Finds the file changed so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def delete(self, entry: Entry, _reason: str, _now: float) -> int | None:
        self.times -= 1
        return None if self.times >= 0 else entry.size


class ChangingTests(StoreTestCase):
    """What is known of the file changes between the look at it and the deletion."""

    def setUp(self) -> None:
        super().setUp()
        self.put("a/x")
        self.registry = CollectorRegistry()

    def deleted(self, times: int) -> Deferred[None]:
        deletions = AskedDeletions(
            self.store, cast(Deleting, _Deleting(times)), InlineThreads(), lambda: NOW, Metrics(self.registry)
        )
        return Deferred.fromCoroutine(deletions.delete(self.path("a/x")))

    def counted(self) -> float | None:
        return self.registry.get_sample_value("hmac_file_server_deleted_files_total", {"reason": "asked"})

    def test_once(self) -> None:
        """It is looked at again."""
        self.successResultOf(self.deleted(1))
        self.assertEqual(self.counted(), 1)

    def test_always(self) -> None:
        """204 would be a lie, and to go on for ever no answer."""
        refused = self.failureResultOf(self.deleted(1_000_000), Refused).value
        self.assertEqual((refused.status, refused.reason), (503, "unavailable"))
        self.assertIn("Retry-After", refused.headers)
        self.assertIsNone(self.counted())
