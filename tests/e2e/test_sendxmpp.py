"""go-sendxmpp over TLS: to a real Prosody, which hands out slots, and to hmacfs, which has the same certificate."""

from __future__ import annotations

import os
from typing import ClassVar

from tests.e2e.curl import curl
from tests.e2e.daemon import Daemon
from tests.e2e.processes import PeerTestCase, Process, program, run
from tests.e2e.prosody import SHARE, V1, V2, Prosody
from tests.e2e.tls import Certificate
from tests.e2e.xmpp import PASSWORD, USER

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""


class SendxmppTests(PeerTestCase):
    """A file sent from a shell. Certificates are verified: the client trusts the one of the test, and no other."""

    needs: ClassVar[tuple[str, ...]] = ("go-sendxmpp", "prosody", "openssl", "curl")

    def test_v(self) -> None:
        """A slot whose name and size are signed."""
        self.check(V1)

    def test_v2(self) -> None:
        """A slot whose type is signed as well."""
        self.check(V2)

    def test_bearer(self) -> None:
        """A slot with a token, which goes into a header."""
        self.check(SHARE)

    def check(self, component: str) -> None:
        """Send a file, and fetch it from the URL in the message that the other side got."""
        certificate = Certificate.make(self.directory)
        port = self.free_port()
        endpoint = f"ssl:{port}:interface=127.0.0.1:privateKey={certificate.key}:certKey={certificate.chain}"
        Daemon(self, ListenPort=endpoint).started()
        prosody = Prosody(self, f"https://localhost:{port}/upload/", components=[component], certificate=certificate)
        client = [program("go-sendxmpp"), "-u", USER, "-p", PASSWORD, "-j", f"localhost:{prosody.port}", "-d"]
        trusting = {"SSL_CERT_FILE": str(certificate.chain), "SSL_CERT_DIR": str(self.directory / "none")}
        receiver = self.started(Process("go-sendxmpp", [*client, "--listen"], env=trusting))
        # Prosody tells it of its own presence: from here on it gets messages.
        receiver.wait_for_line(f"<presence .*from='{USER}/")
        file = self.directory / "très cool photo.jpg"
        # It looks at the first bytes for the type.
        file.write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(300_000))
        sent = run([*client, "--http-upload", file, USER], env=trusting)
        self.assertEqual(sent.status, 0, sent.stderr)
        url = receiver.wait_for_line(rf" {USER}: https://").rpartition(" ")[2]
        got = curl("--cacert", certificate.chain, url)
        self.assertEqual((got.status, got.body == file.read_bytes()), (200, True), got.error)
        self.assertEqual(got.header("Content-Type"), "image/jpeg")
