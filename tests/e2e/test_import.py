"""Files that other servers have taken, and that hmacfs serves at their old paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from tests.e2e import ejabberd, prosody
from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.processes import PeerTestCase
from tests.e2e.xmpp import Client

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

NAMES = ("photo.jpg", "très cool+é.jpg", "a b & c;d=e%20f.txt", "имя файла.png")


class ImportTestCase(PeerTestCase):
    """Uploads to another server, moves in, and asks for the old URLs."""

    def uploaded(self, client: Client, component: str) -> dict[str, bytes]:
        """What the other server has taken: the contents by the paths of the URLs."""
        files = [self.directory / name for name in NAMES]
        for file in files:
            file.write_bytes(os.urandom(10_000))
        urls = client.upload(component, [(file, "image/x-test") for file in files])
        for url, file in zip(urls, files, strict=True):
            self.assertEqual(curl(url).body, file.read_bytes())
        return {urlsplit(url).path: file.read_bytes() for url, file in zip(urls, files, strict=True)}

    def moved_in(self, layout: str, directory: Path, *options: str, sub_dir: str = "upload") -> Daemon:
        """A running server that has taken them over before it started."""
        daemon = Daemon(self, UploadSubDir=sub_dir).started()
        said = daemon.command("import", layout, str(directory), *options)
        self.assertIn(f"{len(NAMES)} files were taken over", said)
        return daemon


class ProsodyTests(ImportTestCase):
    """mod_http_file_share, which keeps files and what it knows of them apart."""

    needs: ClassVar[tuple[str, ...]] = ("prosody", "slixmpp", "curl")

    def test_old_urls(self) -> None:
        """Same path, same bytes, same type; and whose they are is known."""
        peer = prosody.Prosody(self, "http://127.0.0.1:1/")
        old = self.uploaded(peer, prosody.INTERNAL)
        daemon = self.moved_in("prosody-file-share", peer.data / "internal%2elocalhost", sub_dir="file_share")
        for path, content in old.items():
            got = curl(daemon.url(path))
            self.assertEqual((got.status, got.body), (200, content), path)
            self.assertEqual(got.header("Content-Type"), "image/x-test")
        self.assertEqual(len(daemon.command("users", "export", "alice@localhost").splitlines()), len(NAMES))


class EjabberdTests(ImportTestCase):
    """mod_http_upload with a docroot of its own."""

    needs: ClassVar[tuple[str, ...]] = ("ejabberd", "slixmpp", "curl")

    def test_old_urls(self) -> None:
        """Same path, same bytes; moved, so that the old names are gone."""
        peer = ejabberd.Ejabberd(self, "", keeps=True)
        old = self.uploaded(peer, ejabberd.INTERNAL)
        daemon = self.moved_in("ejabberd", peer.docroot, "--move")
        for path, content in old.items():
            got = curl(daemon.url(path))
            self.assertEqual((got.status, got.body), (200, content), path)
        self.assertEqual([path for path in peer.docroot.rglob("*") if path.is_file()], [])
        self.assertEqual(len(daemon.command("users", "export", "alice@localhost").splitlines()), len(NAMES))
