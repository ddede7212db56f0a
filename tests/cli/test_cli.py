"""The operator's command."""

from __future__ import annotations

import json
import shlex
import sys
import time
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

from hmacfs import __version__
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.slot import Slot
from hmacfs.cli import main
from tests.access.vectors import path_of, put
from tests.cli.commanding import CommandTestCase

SECRET = "a secret of more than 16 characters"


class ConfiguredTestCase(CommandTestCase):
    """Runs commands, with a configuration file."""

    def setUp(self) -> None:
        self.config = Path(self.mktemp())
        self.configure(f'Secret = "{SECRET}"\n')


class CheckConfigTests(ConfiguredTestCase):
    """``check-config``."""

    def test_fine(self) -> None:
        """With what the XMPP server's side can be compared with, and without the secret."""
        out = self.printed("check-config")
        self.assertIn(f"{self.config}: fine", out)
        self.assertIn(Secret(SECRET.encode()).fingerprint, out)
        self.assertNotIn(SECRET, out)

    def test_faults(self) -> None:
        """All of them, each with its line, and a status that a script sees."""
        self.configure(f'Secret = "{SECRET}"\nMaxRetentionTime = "6m"\nLogLevle = "info"\n')
        err = self.refused("check-config")
        self.assertIn(f"{self.config}:2", err)
        self.assertIn(f"{self.config}:3", err)

    def test_no_file(self) -> None:
        self.config.unlink()
        self.assertIn(str(self.config), self.refused("check-config"))

    def test_warnings(self) -> None:
        """What can be started with, and is not as it should be."""
        self.configure('Secret = "short"\n')
        lines = self.printed("check-config").splitlines()
        self.assertGreater(len(lines), 1)
        self.assertIn("fine", lines[-1])

    def test_json(self) -> None:
        self.assertEqual(json.loads(self.printed("check-config", "--json"))["valid"], True)

    def test_faults_as_json(self) -> None:
        """One entry for each."""
        self.configure("LogLevle = 5\n")
        status, out, err = self.run_it("check-config", "--json")
        told = json.loads(out)
        self.assertEqual((status, err, told["valid"]), (1, "", False))
        self.assertEqual(len([fault for fault in told["faults"] if "LogLevle" in fault]), 1)


class SignTests(ConfiguredTestCase):
    """``sign``."""

    def slot(self, *argv: str) -> dict[str, str]:
        slot: dict[str, str] = json.loads(self.printed("sign", "--json", *argv))
        return slot

    def granted(self, slot: dict[str, object], size: int) -> Slot:
        """What a server with the same configuration makes of it."""
        headers = slot["headers"]
        assert isinstance(headers, dict)
        shown = put(str(slot["put"]), size, authorization=headers.get("Authorization"), content_type=str(slot["type"]))
        gate = Gate(Keyring(Secret(SECRET.encode())), "upload", False, time.time)
        return gate.authorize(path_of(shown), shown)

    def test_every_scheme(self) -> None:
        """What it prints, the server takes."""
        for scheme in ("v", "v2", "token", "jwt"):
            slot = json.loads(self.printed("sign", "--json", "--scheme", scheme, "photo.jpg", "1000"))
            granted = self.granted(slot, 1000)
            self.assertEqual((granted.scheme, granted.content_type), (scheme, "image/jpeg"))
            self.assertEqual(granted.path.name, b"photo.jpg")

    def test_random_directory(self) -> None:
        self.assertNotEqual(self.slot("f", "1")["get"], self.slot("f", "1")["get"])

    def test_given_directory(self) -> None:
        self.assertEqual(urlsplit(self.slot("dir/très.jpg", "1")["get"]).path, "/upload/dir/tr%C3%A8s.jpg")

    def test_where(self) -> None:
        """The server's URL, and ``UploadSubDir`` from the configuration."""
        self.configure(f'Secret = "{SECRET}"\nUploadSubDir = "share/files"\n')
        slot = self.slot("--base-url", "https://x.example/", "a/b", "1")
        self.assertEqual(slot["get"], "https://x.example/share/files/a/b")

    def test_type(self) -> None:
        """Guessed by the name, or as it is said."""
        self.assertEqual(self.slot("a/song.mp3", "1")["type"], "audio/mpeg")
        self.assertEqual(self.slot("a/song.mp3", "1", "--type", "text/plain")["type"], "text/plain")

    def test_for_people(self) -> None:
        put, content_type, get = self.printed("sign", "a/photo.jpg", "5").splitlines()
        self.assertRegex(put, r"^PUT http://127\.0\.0\.1:8080/upload/a/photo\.jpg\?v=[0-9a-f]{64}$")
        self.assertEqual(content_type, "Content-Type: image/jpeg")
        self.assertEqual(get, "GET http://127.0.0.1:8080/upload/a/photo.jpg")

    def test_curl(self) -> None:
        """A line for a shell, whatever the file is called."""
        curl, get = self.printed("sign", "--scheme", "jwt", "--curl", "my photo.jpg", "a/photo.jpg", "5").splitlines()
        words = shlex.split(curl)
        self.assertEqual(words[:3], ["curl", "-T", "my photo.jpg"])
        self.assertRegex(words[4], "^Authorization: Bearer ")
        self.assertEqual(words[-1], get.strip())

    def test_dangerous_name(self) -> None:
        """Refused as the server would."""
        for name in ("a/..", "../x", ".hmacfs/x", "a\nb/c"):
            self.assertIn("bad-path", self.refused("sign", name, "5"))
        self.assertIn("bad-name", self.refused("sign", "a//b", "5"))

    def test_no_size(self) -> None:
        for size in ("-1", "5k", "", "1.5"):
            self.refused("sign", "--", "f", size, status=2)

    def test_token_for_other_paths(self) -> None:
        """A token is of a directory and a name."""
        self.assertIn("DIRECTORY/NAME", self.refused("sign", "--scheme", "jwt", "a/b/c", "5"))

    def test_bad_configuration(self) -> None:
        self.configure("Secret = 5\n")
        self.assertIn(f"{self.config}:1", self.refused("sign", "f", "5"))


class CallTests(ConfiguredTestCase):
    """The command itself."""

    def test_version(self) -> None:
        out = StringIO()
        self.patch(sys, "stdout", out)
        ended = self.assertRaises(SystemExit, main, ["--version"])
        self.assertEqual((ended.code, out.getvalue()), (0, f"hmacfs {__version__}\n"))

    def test_no_command(self) -> None:
        err = StringIO()
        self.patch(sys, "stderr", err)
        ended = self.assertRaises(SystemExit, main, [])
        self.assertEqual(ended.code, 2)
        self.assertIn("COMMAND", err.getvalue())
