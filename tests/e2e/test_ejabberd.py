"""The whole way of a file with a real ejabberd, which signs slots with ``external_secret``."""

from __future__ import annotations

import hashlib
import json
import os
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.ejabberd import EXTERNAL, Ejabberd
from tests.e2e.processes import PeerTestCase
from tests.e2e.xmpp import USER, RequestFailed

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

NAMES = ("photo.jpg", "très cool+é.jpg", "a b & c;d=e%20f.txt", "имя файла", "🎉.png")


class EjabberdTests(PeerTestCase):
    """ejabberd, slixmpp and hmacfs."""

    needs: ClassVar[tuple[str, ...]] = ("ejabberd", "slixmpp", "curl")

    def test_uploads(self) -> None:
        """slixmpp finds the service, gets its slots and uploads; what is fetched is what was sent."""
        daemon = Daemon(self, QuotaPerUser="100MB").started()
        ejabberd = Ejabberd(self, daemon.url("/upload"))
        files = [self.directory / name for name in NAMES]
        for file in files:
            file.write_bytes(os.urandom(20_000))
        urls = ejabberd.upload(EXTERNAL, [(file, "image/jpeg") for file in files])
        for url, file in zip(urls, files, strict=True):
            got = curl(url)
            self.assertEqual((got.status, got.body), (200, file.read_bytes()), file.name)
            # ejabberd writes an underscore for what it doesn't know, and three directories.
            self.assertEqual(len(unquote(urlsplit(url).path).split("/")), 5)
        owner = hashlib.sha1(USER.encode()).hexdigest()
        self.assertTrue(all(name.startswith(f"{owner}/") for name in daemon.files()))

    def test_other_secret(self) -> None:
        """Refused, and the client hears of it."""
        daemon = Daemon(self).started()
        ejabberd = Ejabberd(self, daemon.url("/upload"), secret="another secret, just as long as ours")
        file = self.directory / "file.bin"
        file.write_bytes(b"content")
        self.assertRaises(RequestFailed, ejabberd.upload, EXTERNAL, [(file, None)])
        self.assertEqual(daemon.files(), [])

    def test_user(self) -> None:
        """ejabberd's first directory is whose the file is: for quotas, and for the operator's command."""
        daemon = Daemon(self, QuotaPerUser=30_000).started()
        ejabberd = Ejabberd(self, daemon.url("/upload"))
        file = self.directory / "file.bin"
        file.write_bytes(os.urandom(20_000))
        ejabberd.upload(EXTERNAL, [(file, None)])
        self.assertRaises(RequestFailed, ejabberd.upload, EXTERNAL, [(file, None)])
        self.assertEqual(len(daemon.files()), 1)
        daemon.process.stop()
        exported = daemon.command("users", "export", USER)
        (known,) = [json.loads(line) for line in exported.splitlines()]
        self.assertEqual(known["size"], 20_000)
        daemon.command("users", "delete", USER, "--yes")
        self.assertEqual(daemon.files(), [])
