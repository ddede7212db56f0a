"""The guide's chapters on backup and restore, carried out."""

from __future__ import annotations

import re

from tests.e2e import signing
from tests.e2e.daemon import Daemon
from tests.e2e.processes import ROOT, PeerTestCase, run
from tests.e2e.wire import Answer

NEWEST_ALONE = True
"""Once is enough: it is about other programs."""

PATHS = ("6f95dd3c/photo.jpg", "6f95dd3c/notes", "a7/film.mp4")
KEPT_S = 86_400


def told(chapter: str, program: str) -> str:
    """The command line of a program that a chapter of the guide has."""
    guide = (ROOT / "docs" / "operators-guide.md").read_text(encoding="utf-8")
    text = re.split(r"^## ", guide.partition(f"## {chapter}\n")[2], flags=re.MULTILINE)[0].replace("\\\n", " ")
    # One of them stands in a comment, as the other one's alternative.
    lines = (line.strip().replace("# or: ", "") for line in text.replace("   # or:", "\n# or:").splitlines())
    return next(line for line in lines if line.startswith(program))


class BackupTests(PeerTestCase):
    """From a store in use to another one."""

    needs = ("rsync",)

    def setUp(self) -> None:
        super().setUp()
        self.daemon = Daemon(self).started()
        self.before = {path: self.put(path) for path in PATHS}

    def put(self, path: str) -> Answer:
        """Upload a file, which is kept for a day, and get it back."""
        content = path.encode() * 1000
        token = signing.bearer(path, len(content), sub="alice@localhost", keep_s=KEPT_S)
        target = signing.url_path(path)
        headers = {"Authorization": token, "Content-Type": "text/plain"}
        self.assertEqual(self.daemon.ask("PUT", target, headers, content).status, 201)
        return self.daemon.ask("GET", target)

    def shell(self, line: str) -> None:
        """Carry out a line of the guide here."""
        line = line.replace("/var/lib/hmacfs", str(self.daemon.directory))
        line = line.replace("backup:/srv/hmacfs", str(self.directory / "backup"))
        done = run(["/bin/sh", "-c", line], cwd=self.directory)
        self.assertEqual(done.status, 0, f"{line}: {done.stderr}")

    def check(self, program: str) -> None:
        """Back up while the server runs and an upload is under way; lose everything; restore."""
        (self.directory / "backup").mkdir()
        broken = signing.v("broken/film.mp4", 1000)
        self.assertEqual(self.daemon.ask("PUT", broken, {"Content-Range": "bytes 0-499/1000"}, bytes(500)).status, 202)
        self.shell(told("Backup", program))
        self.daemon.process.stop()
        self.daemon.store.rename(self.directory / "lost")
        self.daemon.store.mkdir()
        self.shell(told("Restore", program))
        self.daemon.restart()
        self.daemon.command("index", "rebuild")
        self.assertIn("3 files", self.daemon.command("verify"))
        for path, before in self.before.items():
            after = self.daemon.ask("GET", signing.url_path(path))
            self.assertEqual((after.status, after.body), (200, before.body))
            for name in ("content-type", "repr-digest", "etag", "last-modified"):
                self.assertEqual(after.header(name), before.header(name))
            self.assertRegex(after.header("cache-control") or "", r"max-age=8[56]\d{3},")
        self.assertIn("alice@localhost", self.daemon.command("files", "show", PATHS[0]))
        # What was unfinished begins anew.
        self.assertEqual(self.daemon.ask("PUT", broken, None, bytes(1000)).status, 201)

    def test_rsync(self) -> None:
        """With extended attributes."""
        self.check("rsync")

    def test_tar(self) -> None:
        """In one archive."""
        self.check("tar")

    def test_one_file(self) -> None:
        """It goes to its place while the server runs, with all that is known of it."""
        path = PATHS[0]
        (self.directory / "backup").mkdir()
        self.shell(told("Backup", "rsync"))
        self.daemon.command("files", "delete", "--yes", path)
        self.assertEqual(self.daemon.ask("GET", signing.url_path(path)).status, 404)
        self.shell(
            f"mkdir -p {self.daemon.store}/6f95dd3c && cp --preserve=all backup/{path} {self.daemon.store}/{path}"
        )
        after = self.daemon.ask("GET", signing.url_path(path))
        self.assertEqual((after.status, after.header("etag")), (200, self.before[path].header("etag")))
