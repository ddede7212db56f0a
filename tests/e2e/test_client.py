"""``hmacfs put`` and ``hmacfs get`` against a real server, over networks that break."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from hmacfs.cli import main, patience
from tests.e2e import signing
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.daemon import Daemon, command
from tests.e2e.processes import Finished, PeerTestCase, Process, program, run, wait_until
from tests.e2e.resuming import Client
from tests.e2e.wire import ask

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

PATH = "6f95dd3c-d84d-4ec3-9bfc-efc2794c9163/film.mp4"
SIZE_BYTES = 3_000_000
THROUGH = Fault()


class ClientTestCase(PeerTestCase):
    """A test with a server, and a file that nobody else has.

    :ivar here: the directory that the command runs in; has the file, as ``film.mp4``.
    """

    def setUp(self) -> None:
        self.daemon = Daemon(self).started()
        self.here = self.directory / "here"
        self.here.mkdir()
        self.content = os.urandom(SIZE_BYTES)
        self.file = self.here / "film.mp4"
        self.file.write_bytes(self.content)
        self.slot = signing.v(PATH, SIZE_BYTES)
        self.public = signing.url_path(PATH)

    def hmacfs(self, *arguments: str | Path, stdin: bytes = b"", token: str = "") -> Finished:
        """Run the command, in this process, and without its long waits."""
        out, err = BytesIO(), BytesIO()
        streams = {"stdin": BytesIO(stdin), "stdout": out, "stderr": err}
        patches = [self.patch(sys, name, TextIOWrapper(stream, write_through=True)) for name, stream in streams.items()]
        patches.append(self.patch(patience, "FIRST_WAIT_S", 0.05))
        patches.append(self.patch(os, "environ", {**os.environ, "HMACFS_TOKEN": token}))
        before = os.getcwd()
        os.chdir(self.here)
        try:
            status = main([*map(str, arguments)])
            written = out.getvalue(), err.getvalue()
        finally:
            os.chdir(before)
            for patched in patches:
                patched.restore()
        return Finished(CompletedProcess(arguments, status, *written))

    def through(self, *faults: Fault) -> int:
        """The port of a bad network in front of the server."""
        return CuttingProxy(self, self.daemon.port, *faults).port

    def url(self, target: str, port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.daemon.port}{target}"

    def background(self, *arguments: str | Path) -> Process:
        """Start the command."""
        argv = [*command("hmacfs"), *map(str, arguments)]
        return self.started(Process("hmacfs", argv, cwd=self.here))

    def told(self, finished: Finished) -> dict[str, Any]:
        """What one that went well has printed as JSON."""
        self.assertEqual(finished.status, 0, finished.stderr)
        self.assertNotIn("?v=", finished.text + finished.stderr)
        told: dict[str, Any] = json.loads(finished.text)
        return told

    def fault(self, finished: Finished, status: int = 1) -> str:
        """What one said that didn't."""
        self.assertEqual((finished.status, finished.text), (status, ""), finished.stderr)
        self.assertNotIn("Traceback", finished.stderr)
        self.assertNotIn("?v=", finished.stderr)
        return finished.stderr


class PutTests(ClientTestCase):
    """``put``."""

    def put(self, *options: str | Path, port: int | None = None) -> Finished:
        return self.hmacfs("put", "--json", *options, self.file, self.url(self.slot, port))

    def assert_stored(self, content: bytes | None = None) -> None:
        """The file is served as it was sent."""
        get = ask(self.daemon.port, "GET", self.public)
        self.assertEqual(get.status, 200)
        self.assertTrue(get.body == (self.content if content is None else content))
        self.assertEqual(self.daemon.parts(), [])

    def test_put(self) -> None:
        """It prints the URL to get the file from, and nothing else; or JSON."""
        put = self.hmacfs("put", self.file, self.url(self.slot))
        self.assertEqual((put.status, put.text, put.stderr), (0, f"{self.url(self.public)}\n", ""))
        self.assert_stored()
        told = self.told(self.put())
        self.assertEqual((told["url"], told["size"]), (self.url(self.public), SIZE_BYTES))
        self.assertEqual((told["sha256"], told["resumed"]), (hashlib.sha256(self.content).hexdigest(), 0))
        self.assertIsNone(self.told(self.put("--no-digest"))["sha256"])

    def test_standard_input(self) -> None:
        """Of a pipe, which breaks like everything else."""
        url = self.url(self.slot, self.through(THROUGH, Fault(cut_after_bytes=1_000_000)))
        put = self.hmacfs("put", "--json", "-", url, stdin=self.content)
        self.assertEqual(self.told(put)["resumed"], 1)
        self.assert_stored()

    def test_cut_again_and_again(self) -> None:
        """Each time it asks how far the upload is, and goes on from there."""
        port = self.through(
            THROUGH,
            Fault(cut_after_bytes=700_000),
            THROUGH,
            Fault(cut_after_bytes=900_000, reset=True),
            THROUGH,
            Fault(cut_after_bytes=800_000),
        )
        put = self.put(port=port)
        self.assertGreaterEqual(self.told(put)["resumed"], 2)
        self.assertEqual(put.stderr.count("Again in"), 3, put.stderr)
        self.assert_stored()

    def test_lost_answer(self) -> None:
        """The file was stored, but the connection broke before the 201 was here: the body isn't sent again."""
        # 100 Continue is shorter, and a 201 longer.
        self.told(self.put(port=self.through(THROUGH, Fault(cut_answer_after_bytes=60))))
        self.assert_stored()
        received = self.daemon.metrics()["hmac_file_server_received_bytes_total"]
        self.assertEqual(received, SIZE_BYTES)

    def test_killed_server(self) -> None:
        """It comes back, and the upload goes on."""
        put = self.background("put", "--json", "--limit-rate", "1MB", self.file, self.url(self.slot))
        wait_until(lambda: any(part.stat().st_size > 500_000 for part in self.daemon.parts()), "some of it is here")
        self.daemon.process.kill()
        put.wait_for_line("Again in")
        self.daemon.restart()
        self.assertEqual(put.wait(), 0, put.output)
        self.assert_stored()

    def test_interrupted_by_hand(self) -> None:
        """Ctrl-C ends it without a word; the same command goes on."""
        put = self.background("put", "--limit-rate", "1MB", self.file, self.url(self.slot))
        wait_until(lambda: any(part.stat().st_size > 500_000 for part in self.daemon.parts()), "some of it is here")
        put.signal(signal.SIGINT)
        self.assertEqual((put.wait(), put.output), (130, ""))
        again = self.put()
        self.assertEqual(self.told(again)["resumed"], 1)
        self.assertRegex(again.stderr, r"^Going on from [0-9.]+ [kM]B of 3.0 MB.$")
        self.assert_stored()

    def test_begun_with_another_file(self) -> None:
        """What the server has turns out to be of another file: the digest says so, and all of it is sent."""
        other = Client(self.daemon.port, bytes(SIZE_BYTES), path=PATH)
        with other.begin(1_000_000):
            wait_until(lambda: [part.stat().st_size for part in self.daemon.parts()] == [1_000_000], "it arrives")
        put = self.put()
        self.told(put)
        self.assertIn("digest-mismatch", put.stderr)
        self.assert_stored()

    def test_stored_already(self) -> None:
        """As it was: fine. Another file: the server's sentence."""
        self.told(self.put())
        self.told(self.put())
        self.file.write_bytes(bytes(SIZE_BYTES))
        self.assertIn("409 conflict: There is another file", self.fault(self.put()))
        self.assert_stored()

    def test_wrong_signature(self) -> None:
        """At once, and without the signature in the sentence."""
        self.file.write_bytes(b"another size")
        said = self.fault(self.put())
        self.assertIn(self.public, said)
        self.assertIn("403 bad-signature: The signature isn't right for this request.", said)

    def test_too_large(self) -> None:
        """Refused before the body is sent."""
        self.daemon = Daemon(self, MaxUploadSize="1MB").started()
        self.assertIn("413 too-large", self.fault(self.put()))
        self.assertEqual(self.daemon.metrics()["hmac_file_server_received_bytes_total"], 0)

    def test_bearer_token(self) -> None:
        """From the environment, or from a file."""
        url = self.url(self.public)
        self.assertIn("403 missing-signature", self.fault(self.hmacfs("put", self.file, url)))
        token = signing.bearer(PATH, SIZE_BYTES, "video/mp4")
        self.assertEqual(self.hmacfs("put", self.file, url, token=token).status, 0)
        self.assert_stored()
        written = self.here / "token"
        written.write_text(f"{token.removeprefix('Bearer ')}\n", encoding="ascii")
        self.assertEqual(self.hmacfs("put", "--token-file", written, self.file, url).status, 0)

    def test_signed_type(self) -> None:
        """A slot that signs the type is content with a client that states none."""
        for name, content_type, options in (("a.png", "image/png", []), ("b.x", "x/y", ["--type", "x/y"])):
            slot = self.url(signing.v2(f"dir/{name}", SIZE_BYTES, content_type))
            self.assertEqual(self.hmacfs("put", *options, self.file, slot).status, 0)
            head = ask(self.daemon.port, "HEAD", signing.url_path(f"dir/{name}"))
            self.assertEqual(head.header("Content-Type"), content_type)
        self.assertIn("403 bad-signature", self.fault(self.hmacfs("put", "--type", "z/z", self.file, slot)))


class GetTests(ClientTestCase):
    """``get``."""

    def setUp(self) -> None:
        super().setUp()
        self.store(self.content)
        self.file.unlink()

    def store(self, content: bytes) -> None:
        self.assertEqual(Client(self.daemon.port, content, path=PATH).put().status, 201)

    def get(self, *options: str | Path, port: int | None = None) -> Finished:
        return self.hmacfs("get", "--json", *options, self.url(self.public, port))

    def assert_received(self, content: bytes | None = None) -> None:
        """The file is here under its name, and nothing else is."""
        self.assertTrue(self.file.read_bytes() == (self.content if content is None else content))
        self.assertEqual(os.listdir(self.here), ["film.mp4"])

    def interrupted(self) -> None:
        """Begin a download, and end it by hand when some of it is here."""
        get = self.background("get", "--limit-rate", "1MB", self.url(self.public))
        part = self.here / "film.mp4.part"
        wait_until(lambda: part.exists() and part.stat().st_size > 500_000, "some of it is here")
        get.signal(signal.SIGINT)
        self.assertEqual((get.wait(), get.output), (130, ""))
        self.assertFalse(self.file.exists())

    def test_get(self) -> None:
        """Under the name that the server says; and JSON."""
        get = self.hmacfs("get", self.url(self.public))
        self.assertEqual((get.status, get.text, get.stderr), (0, "film.mp4\n", ""))
        self.assert_received()
        told = self.told(self.get("--force"))
        digest = hashlib.sha256(self.content).hexdigest()
        self.assertEqual((told["file"], told["size"], told["sha256"]), ("film.mp4", SIZE_BYTES, digest))
        self.assertEqual((told["verified"], told["resumed"]), (True, 0))
        (self.here / "sub").mkdir()
        self.assertEqual(self.told(self.get("-o", "sub"))["file"], "sub/film.mp4")

    def test_standard_output(self) -> None:
        """Every byte once, even if the network breaks."""
        port = self.through(Fault(cut_answer_after_bytes=1_000_000))
        get = self.hmacfs("get", "-o", "-", self.url(self.public, port))
        self.assertEqual(get.status, 0, get.stderr)
        self.assertTrue(get.stdout == self.content)
        self.assertEqual(os.listdir(self.here), [])

    def test_cut_again_and_again(self) -> None:
        """Each time it asks for the rest."""
        port = self.through(
            Fault(cut_answer_after_bytes=700_000),
            Fault(cut_answer_after_bytes=900_000, reset=True),
            Fault(cut_answer_after_bytes=100),
        )
        get = self.get(port=port)
        self.assertGreaterEqual(self.told(get)["resumed"], 1)
        self.assertEqual(get.stderr.count("Again in"), 3, get.stderr)
        self.assert_received()

    def test_another_run(self) -> None:
        """goes on with what was left by the one before."""
        self.interrupted()
        told = self.told(self.get())
        self.assertEqual((told["resumed"], told["verified"]), (1, True))
        self.assert_received()
        sent = self.daemon.metrics()["hmac_file_server_sent_bytes_total"]
        self.assertLess(sent, 2 * SIZE_BYTES)
        self.file.unlink()
        self.interrupted()
        (self.here / "film.mp4.part").write_bytes(self.content)  # all of it is here, and only the end was missing
        self.assertEqual(self.told(self.get())["resumed"], 1)
        self.assert_received()

    def test_changed_meanwhile(self) -> None:
        """There is another file at the URL now: it begins anew."""
        self.interrupted()
        (self.daemon.store / PATH).unlink()
        other = os.urandom(SIZE_BYTES)
        self.store(other)
        get = self.get()
        self.assertEqual(self.told(get)["resumed"], 0)
        self.assertIn("beginning anew", get.stderr)
        self.assert_received(other)

    def test_spoilt_part(self) -> None:
        """What was left has changed: it isn't taken for the file, and not gone on with again."""
        self.interrupted()
        part = self.here / "film.mp4.part"
        with open(part, "r+b") as file:
            file.write(b"something else")
        self.assertIn("not those that the server speaks of", self.fault(self.get()))
        self.assertEqual(os.listdir(self.here), [])
        self.told(self.get())
        self.assert_received()

    def test_nothing_is_overwritten(self) -> None:
        """Not the file, whatever its name comes from, and no part of somebody else's; unless it is said so."""
        self.file.write_bytes(b"precious")
        for options in ((), ("-o", "film.mp4"), ("-o", ".")):
            self.assertIn("film.mp4: File exists. Say --force", self.fault(self.get(*options)))
        self.assert_received(b"precious")
        part = self.here / "film.mp4.part"
        part.write_bytes(b"precious, too")
        self.assertIn("is not of hmacfs get", self.fault(self.get()))
        self.assertEqual(part.read_bytes(), b"precious, too")
        self.told(self.get("--force"))
        self.assert_received()

    def test_no_such_file(self) -> None:
        """The server's sentence, and nothing left behind."""
        (self.daemon.store / PATH).unlink()
        self.assertIn("404 not-found: There is no file at this URL.", self.fault(self.get()))
        self.assertEqual(os.listdir(self.here), [])

    def test_closed_pipe(self) -> None:
        """A reader that has enough ends it without a word."""
        script = '"$@" | head -c 5 | wc -c'
        argv = ["/bin/sh", "-c", script, "sh", *command("hmacfs"), "get", "-o", "-", self.url(self.public)]
        piped = run(argv, cwd=self.here)
        self.assertEqual((piped.text.strip(), piped.stderr), ("5", ""))


class TlsTests(ClientTestCase):
    """https."""

    needs = ("openssl",)

    def serve(self) -> Path:
        """Start a server with a certificate of its own, and return that."""
        certificate, key = self.directory / "cert.pem", self.directory / "key.pem"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        new = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
        made = run([program("openssl"), "req", "-x509", *subject, *new])
        self.assertEqual(made.status, 0, made.stderr)
        port = self.free_port()
        where = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        self.daemon = Daemon(self, ListenPort=where).started()
        self.daemon.port = port
        return certificate

    def url(self, target: str, port: int | None = None) -> str:
        return super().url(target, port).replace("http:", "https:")

    def test_both_ways(self) -> None:
        """Resuming included."""
        certificate = self.serve()
        port = self.through(THROUGH, Fault(cut_after_bytes=1_000_000))
        put = self.hmacfs("put", "--json", "--cacert", certificate, self.file, self.url(self.slot, port))
        self.assertEqual(self.told(put)["resumed"], 1)
        self.file.unlink()
        port = self.through(Fault(cut_answer_after_bytes=1_000_000))
        get = self.hmacfs("get", "--json", "--cacert", certificate, self.url(self.public, port))
        self.assertEqual((self.told(get)["resumed"], self.told(get)["verified"]), (1, True))
        self.assertTrue(self.file.read_bytes() == self.content)

    def test_stranger(self) -> None:
        """A certificate that nobody vouches for is a fault, and not tried again."""
        self.serve()
        said = self.fault(self.hmacfs("put", self.file, self.url(self.slot)))
        self.assertRegex(said, re.compile(r"certificate is not to be trusted: self.signed certificate"))
        self.assertEqual(self.daemon.files(), [])
