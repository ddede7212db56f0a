"""The whole way of a file: slixmpp asks a real Prosody for a slot, uploads to hmacfs, and anybody downloads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

from tests.e2e import signing
from tests.e2e.curl import Fetched, curl
from tests.e2e.daemon import Daemon
from tests.e2e.processes import ROOT, PeerTestCase, wait_until
from tests.e2e.prosody import SHARE, SIZE_LIMIT_BYTES, V1, V2, Prosody, RequestFailed, SlotReply

COMPONENTS = (V1, V2, SHARE)


def known_requests() -> list[tuple[str, int, str | None]]:
    """The slot requests of the vectors: names, sizes and types that real clients have asked for."""
    vectors = json.loads((ROOT / "tests/vectors/slots.json").read_text(encoding="utf-8"))
    requests = [entry["request"] for entry in vectors]
    return sorted({(entry["filename"], entry["size"], entry["content_type"]) for entry in requests})


class ProsodyTestCase(PeerTestCase):
    """Tests with hmacfs and Prosody, which share a secret unless a test says otherwise."""

    needs: ClassVar[tuple[str, ...]] = ("prosody", "slixmpp", "curl")

    def prosody(self, daemon: Daemon, secret: str = signing.SECRET) -> Prosody:
        """A Prosody whose slots are on *daemon*."""
        return Prosody(self, daemon.url("/upload/"), secret)

    def file(self, size_bytes: int, name: str = "photo.jpg") -> Path:
        """A file whose bytes are not to be guessed."""
        path = self.directory / name
        path.write_bytes(os.urandom(size_bytes))
        return path

    def put(self, slot: SlotReply, path: Path, content_type: str | None) -> Fetched:
        """Upload to a slot with what the slot wants sent, and the type if there is one."""
        headers = dict(slot.headers) | ({"Content-Type": content_type} if content_type else {})
        options = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
        return curl("-T", path, *options, slot.put)


class UploadTests(ProsodyTestCase):
    """Slots that are good."""

    def test_slixmpp(self) -> None:
        """slixmpp finds the component, gets its slot and uploads, in each of Prosody's ways to sign."""
        daemon = Daemon(self).started()
        prosody, file = self.prosody(daemon), self.file(300_000, "très cool+é.jpg")
        for component in COMPONENTS:
            [url] = prosody.upload(component, [(file, "image/jpeg")])
            get = curl(url)
            self.assertEqual((get.status, get.body), (200, file.read_bytes()), component)
            self.assertEqual(get.header("Content-Type"), "image/jpeg", component)

    def test_names_and_types(self) -> None:
        """Every name that clients have been seen to ask for goes in and comes out, with its bytes, type and name."""
        daemon = Daemon(self).started()
        prosody, requests = self.prosody(daemon), known_requests()
        for component in COMPONENTS:
            slots = prosody.slots(component, requests)
            for slot, request in zip(slots, requests, strict=True):
                self.check(daemon, slot, *request)

    def check(self, daemon: Daemon, slot: SlotReply, filename: str, size_bytes: int, content_type: str | None) -> None:
        """Upload to a slot and look at what comes back."""
        file, about = self.file(size_bytes), f"{filename} of {content_type} to {slot.put}"
        put = self.put(slot, file, content_type)
        self.assertEqual(put.status, 201, f"{about}: {put.text}")
        get = curl(slot.get)
        self.assertEqual((get.status, get.body == file.read_bytes()), (200, True), about)
        self.assertEqual(get.header("Content-Length"), str(size_bytes), about)
        self.assertEqual(get.header("Content-Type"), content_type or "application/octet-stream", about)
        shown = (get.header("Content-Disposition") or "").partition("filename*=UTF-8''")[2]
        self.assertEqual(unquote(shown), filename, about)
        self.assertIn(unquote(urlsplit(slot.get).path).removeprefix("/upload/"), daemon.files())

    def test_after_restart(self) -> None:
        """The type that was signed is served by the next process too."""
        daemon = Daemon(self).started()
        [url] = self.prosody(daemon).upload(SHARE, [(self.file(10, "noextension"), "image/webp")])
        daemon.process.stop()
        daemon.restart()
        self.assertEqual(curl("-I", url).header("Content-Type"), "image/webp")


class RefusalTests(ProsodyTestCase):
    """Slots that are not."""

    def test_other_secret(self) -> None:
        """Signatures under another secret are refused, and nothing is stored."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        prosody, file = self.prosody(daemon, secret="another-secret-of-the-tests-0123"), self.file(1000)
        for component in COMPONENTS:
            slot = prosody.slot(component, file.name, 1000, "image/jpeg")
            put = self.put(slot, file, "image/jpeg")
            self.assertEqual(put.status, 403, component)
            self.assertIn("bad-signature", put.text)
            with self.assertRaises(RequestFailed) as raised:
                prosody.upload(component, [(file, "image/jpeg")])
            self.assertIn("403", str(raised.exception))
        self.assertEqual(daemon.files(), [])

    def test_larger_than_hmacfs_takes(self) -> None:
        """A slot for more than MaxUploadSize: 413 with the limit, before the body."""
        daemon = Daemon(self, MaxUploadSize="1MiB").started()
        prosody, file = self.prosody(daemon), self.file(2 << 20)
        for component in COMPONENTS:
            slot = prosody.slot(component, file.name, 2 << 20, "image/jpeg")
            put = self.put(slot, file, "image/jpeg")
            self.assertEqual(put.status, 413, component)
            self.assertIn("too-large", put.text)
        self.assertEqual(daemon.files(), [])

    def test_larger_than_signed(self) -> None:
        """A body of another size than the slot's is refused."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        prosody, file = self.prosody(daemon), self.file(2000)
        for component, status in ((V1, 403), (V2, 403), (SHARE, 413)):
            slot = prosody.slot(component, file.name, 1000, "image/jpeg")
            self.assertEqual(self.put(slot, file, "image/jpeg").status, status, component)
        self.assertEqual(daemon.files(), [])

    def test_larger_than_prosody_signs(self) -> None:
        """Above its own limit Prosody gives no slot, and slixmpp does not even ask."""
        daemon = Daemon(self).started()
        prosody, file = self.prosody(daemon), self.directory / "large"
        with file.open("wb") as sparse:
            sparse.truncate(SIZE_LIMIT_BYTES + 1)
        with self.assertRaises(RequestFailed):
            prosody.slot(SHARE, file.name, SIZE_LIMIT_BYTES + 1)
        for component in COMPONENTS:
            with self.assertRaises(RequestFailed) as raised:
                prosody.upload(component, [(file, None)])
            self.assertIn("FileTooBig", str(raised.exception))

    def test_slot_of_another_file(self) -> None:
        """A token opens its own slot only."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        prosody, file = self.prosody(daemon), self.file(1000)
        one, other = prosody.slots(SHARE, [("one.jpg", 1000, "image/jpeg"), ("other.jpg", 1000, "image/jpeg")])
        self.assertEqual(self.put(SlotReply(one.put, one.get, other.headers), file, "image/jpeg").status, 403)
        self.assertEqual(daemon.files(), [])

    def test_dot_dot(self) -> None:
        """Prosody signs the name ``..``; hmacfs does not store it."""
        daemon = Daemon(self, BlockAfterFails=0).started()
        prosody = self.prosody(daemon)
        for component in COMPONENTS:
            slot = prosody.slot(component, "..", 4, "text/plain")
            target = slot.put.removeprefix(daemon.url(""))
            put = daemon.ask("PUT", target, {**slot.headers, "Content-Type": "text/plain"}, b"1234")
            self.assertEqual(put.status, 400, component)
            self.assertIn("bad-path", put.text)
        self.assertEqual(daemon.files(), [])


class TokenTimeTests(ProsodyTestCase):
    """Tokens like Prosody's, at times that Prosody can't be made to wait for."""

    needs = ("curl",)

    def test_expired_token(self) -> None:
        """A token is good until its ``exp``."""
        daemon, file = Daemon(self).started(), self.file(1000)
        token = signing.bearer("slot/photo.jpg", 1000, valid_s=-60)
        url = daemon.url(signing.url_path("slot/photo.jpg"))
        put = curl("-T", file, "-H", f"Authorization: {token}", url)
        self.assertEqual(put.status, 403)
        self.assertIn("expired", put.text)
        self.assertEqual(daemon.files(), [])

    def test_expired_file(self) -> None:
        """A file is served until its ``expires``, which caches are told, and gone afterwards."""
        daemon, file = Daemon(self).started(), self.file(1000)
        for keep_s in (3600, 2):
            path = f"slot-{keep_s}/photo.jpg"
            token = signing.bearer(path, 1000, keep_s=keep_s)
            put = curl("-T", file, "-H", f"Authorization: {token}", daemon.url(signing.url_path(path)))
            self.assertEqual(put.status, 201, put.text)
        kept, gone = (daemon.url(signing.url_path(f"slot-{keep_s}/photo.jpg")) for keep_s in (3600, 2))
        wait_until(lambda: curl(gone).status == 410, "the file expires")
        self.assertEqual(curl("-I", gone).status, 410)
        get = curl(kept)
        self.assertEqual(get.body, file.read_bytes())
        [max_age] = [part for part in (get.header("Cache-Control") or "").split(", ") if part.startswith("max-age=")]
        self.assertLessEqual(int(max_age.removeprefix("max-age=")), 3600)

    def test_raw_path(self) -> None:
        """A client that sends the name's UTF-8 unescaped means the same file (ejabberd since 25.10)."""
        daemon = Daemon(self).started()
        target = signing.v("slot/grüße.txt", 5).replace(quote("grüße"), "grüße")
        self.assertEqual(daemon.ask("PUT", target, body=b"12345").status, 201)
        self.assertEqual(daemon.ask("GET", signing.url_path("slot/grüße.txt")).body, b"12345")
