"""What the operator hears of a store that goes and comes back."""

from __future__ import annotations

import os

from twisted.logger import capturedLogs, formatEvent

from hmacfs.net.threads import InlineThreads
from hmacfs.storage.watch import Watch
from hmacfs.uploads.identity import server_key
from tests.storage.support import StoreTestCase
from tests.uploads.support import begun


class WatchTests(StoreTestCase):
    """One look after the other."""

    def setUp(self) -> None:
        super().setUp()
        self.watch = Watch(self.store, server_key(self.store.own_directory), InlineThreads())

    def look(self) -> list[str]:
        """Look, and say what was logged."""
        with capturedLogs() as events:
            self.successResultOf(begun(self.watch.look()))
        return [formatEvent(event) for event in events]

    def test_well(self) -> None:
        """Nothing to be said."""
        self.assertEqual((self.look(), self.watch.well), ([], True))

    def test_gone_and_back(self) -> None:
        """Said once when it goes, and once when it is back."""
        self.root.rename(self.root.with_name("away"))
        gone = [f"uploads are refused. StoreDir {self.root}: there is no such directory any more"]
        self.assertEqual(([self.look(), self.look()], self.watch.well), ([gone, []], False))
        self.root.with_name("away").rename(self.root)
        back = [f"StoreDir {self.root} is in order, and used again"]
        self.assertEqual(([self.look(), self.look()], self.watch.well), ([back, []], True))

    def test_read_only(self) -> None:
        """The same, before anybody tries to write."""
        real = os.fstatvfs
        read_only = [True]

        def status(fd: int) -> os.statvfs_result:
            values = list(real(fd))
            values[8] |= os.ST_RDONLY if read_only[0] else 0
            return os.statvfs_result(values)

        self.patch(os, "fstatvfs", status)
        self.assertEqual(self.look(), ["uploads are refused. Read-only file system"])
        read_only.clear()
        read_only.append(False)
        self.assertEqual((len(self.look()), self.watch.well), (1, True))

    def test_another_trouble(self) -> None:
        """One after the other are two."""
        self.root.rename(self.root.with_name("away"))
        self.look()
        self.root.mkdir()
        self.assertIn("there is another directory now. Is its file system mounted?", self.look()[0])
