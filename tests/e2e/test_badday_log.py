"""Days on which the log can't be written: requests are served all the same."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import ClassVar

from tests.e2e.badday import BadDayTestCase
from tests.e2e.daemon import TomlValue
from tests.e2e.processes import wait_until
from tests.smalldisk import SmallDisk

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

LOST = "hmac_file_server_log_lines_lost"


class LogTestCase(BadDayTestCase):
    """A server with a log file.

    :ivar log: that file.
    """

    needs: ClassVar[tuple[str, ...]] = ("small disk",)

    def setUp(self) -> None:
        self.log = self.make_log()
        super().setUp()

    def make_log(self) -> Path:
        """Where it is."""
        (self.directory / "logs").mkdir()
        return self.directory / "logs" / "hmacfs.log"

    def keys(self) -> dict[str, TomlValue]:
        return {"LogFile": str(self.log)}

    def written(self) -> str:
        """Both what is in the file and what stands on standard error."""
        log = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return log + self.daemon.process.output

    def lost(self) -> float:
        """How many lines were lost."""
        return self.daemon.metrics()[LOST]

    def logged(self, name: str) -> bool:
        """Ask for a file that isn't there: whether that is in the log then."""
        self.assertEqual(self.daemon.ask("GET", f"/upload/{name}").status, 404)
        return self.log.exists() and name in self.log.read_text(encoding="utf-8")


class FullTests(LogTestCase):
    """The disk of the log is full."""

    def make_log(self) -> Path:
        self.disk = SmallDisk()
        self.addCleanup(self.disk.close)
        return self.disk.path / "hmacfs.log"

    def test_full(self) -> None:
        """Lines are lost and counted, which standard error is told once; they are written again when there is room."""
        self.assertTrue(self.logged("before"))
        filler = self.disk.fill()
        # What is left of the last page.
        names = (f"{number:0200}" for number in range(1000))
        wait_until(lambda: not self.logged(next(names)) and self.lost(), "the disk is full")
        before = self.lost()
        for _ in range(20):
            self.assertEqual(self.daemon.ask("GET", "/upload/no/file").status, 404)
        self.assertEqual(self.lost() - before, 20)
        self.assert_stored(self.client.put())
        complaint = f"hmacfs: LogFile {self.log}: (No space left on device|no room for a whole line)"
        self.assert_said_once(complaint)
        filler.unlink()
        self.assertTrue(self.logged("after"))
        self.assertEqual(self.failing(), {})


class MissingTests(LogTestCase):
    """The directory of the log is gone."""

    def test_directory_gone(self) -> None:
        """The old file goes on being used, out of sight; when there is a directory again, a new file is made."""
        self.assertTrue(self.logged("before"))
        shutil.rmtree(self.log.parent)
        wait_until(lambda: self.complaints() or self.logged("missing"), "the server notices")
        self.assert_stored(self.client.put())
        self.assertEqual((self.complaints(), self.lost()), (1, 0))
        self.log.parent.mkdir()
        wait_until(lambda: self.logged("after"), "the server looks again")
        self.assertTrue(self.daemon.process.running)

    def test_hangup(self) -> None:
        """SIGHUP, and no new file can be made: it stays with the old one, and says so."""
        aside = self.log.parent.rename(self.directory / "aside")
        self.daemon.process.signal(signal.SIGHUP)
        wait_until(self.complaints, "the server says so")
        self.assertEqual(self.daemon.ask("GET", "/upload/kept").status, 404)
        wait_until(lambda: "kept" in (aside / self.log.name).read_text(encoding="utf-8"), "the old one is used")
        self.assertEqual((self.complaints(), self.lost()), (1, 0))
        self.assertTrue(self.daemon.process.running)

    def complaints(self) -> int:
        """How often standard error was told."""
        return self.daemon.process.output.count(f"hmacfs: LogFile {self.log}: No such file or directory")
