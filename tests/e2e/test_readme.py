"""What the README promises in two commands."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

from tests.e2e.daemon import command
from tests.e2e.processes import ROOT, PeerTestCase, Process, accepts, program, run, wait_until

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""


class MakeRunTests(PeerTestCase):
    """``make run`` in a checkout."""

    needs = ("make", "curl")

    def checkout(self, port: int) -> Path:
        """A copy of this one that listens elsewhere, and in whose ``.venv`` hmacfs has been installed already."""
        copy = self.directory / "hmacfs"
        copy.mkdir()
        for name in ("Makefile", "README.md", "config.toml", "pyproject.toml", "setup.cfg"):
            shutil.copy2(ROOT / name, copy)
        text = (copy / "config.toml").read_text(encoding="utf-8")
        for key, own_port in (("ListenPort", port), ("MetricsPort", self.free_port())):
            text = re.sub(rf"^#? *{key} *=.*$", "", text, flags=re.MULTILINE) + f'{key} = "127.0.0.1:{own_port}"\n'
        (copy / "config.toml").write_text(text, encoding="utf-8")
        programs = copy / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, argv in (("python", [sys.executable]), ("twistd", command("twistd")), ("hmacfs", command("hmacfs"))):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
        (copy / ".venv" / ".installed").touch()
        return copy

    def test_printed_line(self) -> None:
        """The printed curl line uploads a file, the printed URL gets it back; a second start keeps the secret."""
        port = self.free_port()
        copy = self.checkout(port)
        secrets = set()
        for _ in range(2):
            argv = [program("make"), "run", f"URL=http://127.0.0.1:{port}"]
            made = self.started(Process("make run", argv, cwd=copy, env={"MAKEFLAGS": ""}))
            line = made.wait_for_line(r"^\s*curl ").strip()
            get = made.wait_for_line(r"^\s*http://\S+$").split()[-1]
            wait_until(lambda: accepts(port), "hmacfs is listening")
            put = run(["/bin/sh", "-c", f"{line} -s -o /dev/null -w '%{{http_code}}'"], cwd=copy)
            self.assertEqual((put.status, put.text), (0, "201"), put.stderr)
            self.assertEqual(run([program("curl"), "-s", get]).stdout, (copy / "README.md").read_bytes())
            made.kill()
            secrets.add((copy / "data" / "secret").read_text(encoding="ascii"))
        self.assertEqual(len(secrets), 1)
        self.assertEqual((copy / "data" / "secret").stat().st_mode & 0o777, 0o600)
        self.assertGreaterEqual(len(secrets.pop()), 32)
