"""twistd's door."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.internet import reactor
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.service import HmacfsService
from hmacfs.supervising import SupervisorService
from hmacfs.tap import Options, makeService


class TapTests(SynchronousTestCase):
    """From a command line to a service that has not begun yet."""

    def setUp(self) -> None:
        # What makeService does to the real one must not outlive a test.
        self.patch(reactor, "seconds", time.time)
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file = self.directory / "config.toml"

    def parsed(self, text: str) -> Options:
        self.file.write_text(text, encoding="utf-8")
        options = Options()
        options.parseOptions(["-c", str(self.file)])
        return options

    def ended(self, text: str) -> str:
        """What it says when it can't; a text as exit code means status 1, and the text on standard error."""
        ended = self.assertRaises(SystemExit, lambda: makeService(self.parsed(text)))
        assert isinstance(ended.code, str)
        return ended.code

    def test_service(self) -> None:
        text = 'Secret = "a secret of more than 16 characters"\nListenPort = 0\n'
        for number, kind in (1, HmacfsService), (2, SupervisorService):
            service = makeService(self.parsed(f"{text}NumCores = {number}\n"))
            self.assertIsInstance(service, kind)
            self.assertTrue(IService.providedBy(service))

    def test_timers_go_by_a_clock_that_nobody_sets(self) -> None:
        """Otherwise all of them would be due at once when somebody does."""
        makeService(self.parsed('Secret = "a secret of more than 16 characters"\n'))
        real: Any = reactor
        self.assertIs(real.seconds, time.monotonic)

    def test_nothing_happens_yet(self) -> None:
        """twistd has not become a daemon, nor another user."""
        makeService(self.parsed('Secret = "a secret of more than 16 characters"\nStoreDir = "store"\n'))
        self.assertEqual([path.name for path in self.directory.iterdir()], ["config.toml"])

    def test_faults(self) -> None:
        """Lines for a person, on every version of Twisted."""
        text = self.ended("LogLevle = 5\nStoreDir = 5\n")
        self.assertIn(f"{self.file}:1", text)
        self.assertIn(f"{self.file}:2", text)

    def test_no_file(self) -> None:
        options = Options()
        missing = str(self.directory / "none.toml")
        ended = self.assertRaises(SystemExit, options.parseOptions, ["-c", missing])
        self.assertIn(missing, str(ended.code))

    def test_log_file(self) -> None:
        """One that can't be had is found at once."""
        text = self.ended('Secret = "a secret of more than 16 characters"\nLogFile = "none/hmacfs.log"\n')
        self.assertIn("LogFile", text)

    def test_plugin(self) -> None:
        """twistd knows us by this name."""
        (maker,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "hmacfs"]
        self.assertEqual((maker.options, maker.makeService), (Options, makeService))
