"""Days on which the store is read-only, unmounted, replaced, or tidied up by somebody who meant well."""

from __future__ import annotations

import shutil
from typing import ClassVar

from tests.e2e.badday import DiskTestCase
from tests.e2e.processes import wait_until
from tests.smalldisk import SmallDisk

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

GONE = r"error: uploads are refused\. StoreDir .*"
BACK = r"warn: StoreDir .* is in order, and used again"


class MountedTestCase(DiskTestCase):
    """A store on a file system of its own, with a file in it."""

    needs: ClassVar[tuple[str, ...]] = ("mounting",)

    def make_disk(self) -> SmallDisk:
        return SmallDisk(mounted=True)

    def setUp(self) -> None:
        super().setUp()
        self.stored = self.make_client(path="slot/stored")
        self.assertEqual(self.stored.put().status, 201)

    def is_up(self) -> bool:
        """What the metrics say."""
        return self.daemon.metrics()["hmac_file_server_store_up"] == 1

    def noticed(self) -> None:
        """Wait until the server has seen it."""
        wait_until(lambda: not self.is_up(), "the server sees it")

    def assert_refused(self, times: int = 3) -> None:
        """Uploads are refused, at once and as often as they are tried; downloads go on, and it is known why."""
        before = self.refused("storage")
        for _ in range(times):
            self.assert_come_back(self.client.put(), 503, "storage")
        self.assertEqual(self.refused("storage") - before, times)
        self.assertTrue(self.stored.get().body == self.stored.content)
        self.assertFalse(self.is_up())

    def back_in_order(self) -> None:
        """The operator has mended it."""
        wait_until(self.is_up, "the server sees it")
        self.recovers()
        self.assert_said_once(BACK)


class ReadOnlyTests(MountedTestCase):
    """Nothing can be written, as after ``errors=remount-ro``."""

    def setUp(self) -> None:
        super().setUp()
        # A file system with a file that is open for writing can't be made read-only, but by its own decision.
        self.move_what_is_open()

    def move_what_is_open(self) -> None:
        """Let the server have its databases on another disk, behind links, and the lock that it holds as well."""
        self.daemon.process.stop()
        for name in ("state", "index", "bans"):
            elsewhere = self.directory / f"{name}.sqlite"
            database = self.store / ".hmacfs" / elsewhere.name
            if database.exists():
                shutil.move(database, elsewhere)
            else:
                elsewhere.touch()
            database.symlink_to(elsewhere)
        lock = self.directory / "sweeps.lock"
        lock.touch()
        self.disk.cover(self.store / ".hmacfs" / lock.name, lock)
        self.daemon.restart()

    def test_running(self) -> None:
        """503 at once, downloads go on; when it is writable again, it is used again."""
        self.disk.read_only()
        self.noticed()
        self.assert_refused()
        self.assertIn("Read-only", self.failing()["storage"])
        self.assert_said_once(r"error: uploads are refused\. Read-only file system")
        self.assert_said_once("error: the storage fails: Read-only file system")
        self.disk.read_only(False)
        self.back_in_order()

    def test_interrupted_upload(self) -> None:
        """What is here of one can't even be asked about; it goes on afterwards."""
        self.interrupt(400_000)
        self.assertEqual(self.client.offset(), 400_000)
        self.disk.read_only()
        self.assertEqual([self.client.head().status, self.client.part(400_000).status], [503, 503])
        self.disk.read_only(False)
        self.assert_stored(self.client.part(400_000))
        self.assertNotIn("Traceback", self.written())

    def test_start(self) -> None:
        """A server doesn't start on it: a sentence, and status 1."""
        self.daemon.process.stop()
        self.disk.read_only()
        self.daemon.spawn()
        self.assertEqual(self.daemon.process.wait(), 1)
        self.assertIn("mount it read-write", self.written())
        self.assertNotIn("Traceback", self.written())


class UnmountedTests(MountedTestCase):
    """The file system is taken away, and the kernel keeps what we have open."""

    def test_unmounted(self) -> None:
        """Nothing is written to either side; what is mounted again is used again."""
        self.disk.unmount()
        self.noticed()
        self.assert_refused()
        self.assertIn("StoreDir", self.failing()["storage"])
        self.assert_said_once(GONE)
        self.assertEqual(list(self.disk.path.iterdir()), [])
        self.assertEqual(list((self.disk.aside / "store" / ".hmacfs" / "parts").iterdir()), [])
        self.disk.mount()
        self.back_in_order()

    def test_during_an_upload(self) -> None:
        """It must not be said to be stored; what has arrived is used when it is mounted again."""
        with self.client.begin(400_000) as connection:
            self.arrived(400_000)
            self.disk.unmount()
            connection.send(self.client.content[400_000:])
            self.assert_come_back(connection.answer("PUT"), 503, "storage")
        self.assertEqual(list(self.disk.path.iterdir()), [])
        self.disk.mount()
        wait_until(lambda: self.client.head().status != 503, "the server sees it")
        self.assert_stored(self.client.rest(self.client.offset()))
        self.assertNotIn("Traceback", self.written())

    def test_directory_below(self) -> None:
        """Where it was mounted there is a directory of that name, of another disk: it stays empty."""
        self.disk.unmount()
        self.store.mkdir()
        self.noticed()
        self.assert_refused()
        self.assert_said_once(GONE + "another directory now. Is its file system mounted")
        self.daemon.ask("GET", "/upload/no/file")
        self.assertEqual(list(self.store.iterdir()), [])
        self.store.rmdir()
        self.disk.mount()
        self.back_in_order()

    def test_another_disk(self) -> None:
        """The store comes back from a backup, on another file system: that is used from then on."""
        self.disk.unmount()
        self.noticed()
        self.disk.mount_copy()
        self.back_in_order()
        self.assertTrue((self.store / "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163" / "film.mp4").exists())
        self.assertEqual([path.name for path in (self.disk.aside / "store").iterdir() if path.name[0] != "."], ["slot"])
        self.assertTrue(self.stored.get().body == self.stored.content)


class TidiedTests(MountedTestCase):
    """Somebody has removed what isn't a file of a user's."""

    def test_own_directory(self) -> None:
        """``.hmacfs`` is made anew: the files beside it are those that we know."""
        shutil.rmtree(self.store / ".hmacfs")
        wait_until(lambda: self.said(BACK), "the server sees it")
        self.recovers()
        self.assert_said_once(BACK)
        self.interrupt(400_000, client=self.make_client(path="slot/broken"))
        self.assertTrue(self.stored.get().body == self.stored.content)

    def test_after_a_restart(self) -> None:
        """Its key is the one of before: unfinished uploads are found by it."""
        shutil.rmtree(self.store / ".hmacfs")
        wait_until(lambda: self.said(BACK), "the server sees it")
        self.interrupt(400_000)
        self.assertEqual(self.client.offset(), 400_000)
        self.daemon.process.stop()
        self.daemon.restart()
        self.assertEqual(self.client.offset(), 400_000)
