"""Reading the configuration and the secret again, with a host that a test plays."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.keys import Keyring, Secret
from hmacfs.config import Config, load
from hmacfs.errors import StartError
from hmacfs.net.systemd import Notifier
from hmacfs.reloading import Reloads

OLD, NEW, NEWER = "the-old-secret-of-the-tests", "the-new-secret-of-the-tests", "an-even-newer-secret-of-the-tests"


class Systemd(Notifier):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("", None, Clock())
        self.told: list[str] = []

    def _tell(self, message: str) -> None:
        self.told.append(message.split("\n")[0] if message.startswith("RELOADING") else message)


class ReloadsTests(SynchronousTestCase):
    """One host.

    :ivar taken_up: with what it was told to go on, and which keys were said to have changed.
    :ivar renewed: the secrets that are accepted, at each change.
    :ivar waiting: what it takes its time until.
    :ivar failing: why it can't go on.
    """

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="hmacfs-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.file = self.directory / "config.toml"
        self.keys: dict[str, object] = {"SecretFile": "secret", "ReaskSecretInterval": 60, "SecretGracePeriod": 600}
        self.write_secret(OLD)
        self.write()
        self.clock = Clock()
        self.taken_up: list[tuple[Config, tuple[str, ...]]] = []
        self.renewed: list[tuple[str, ...]] = []
        self.waiting: Deferred[None] | None = None
        self.failing: str | None = None
        self.systemd = Systemd()
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self._observe)
        self.addCleanup(globalLogPublisher.removeObserver, self._observe)

    def _observe(self, event: Any) -> None:
        self.logged.append(formatEvent(event))

    def write(self, **keys: object) -> None:
        """Change the configuration file; ``None`` takes a key out of it."""
        self.keys.update(keys)
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in self.keys.items() if value is not None)
        self.file.touch(0o600)
        self.file.write_text("".join(lines), "utf-8")

    def write_secret(self, secret: str) -> None:
        (self.directory / "secret").touch(0o600)
        (self.directory / "secret").write_text(secret, "utf-8")

    def begin(self) -> Reloads:
        self.reloads = Reloads(load(self.file), self, self.clock, self.clock.seconds)
        self.reloads.begin(self.systemd)
        return self.reloads

    def accepted(self, keyring: Keyring) -> tuple[str, ...]:
        return tuple(secret.value.decode() for secret in keyring.candidates(self.clock.seconds()))

    # Host

    async def take_up(self, config: Config, keyring: Keyring, changed: tuple[str, ...]) -> str:
        if self.waiting is not None:
            await self.waiting
        if self.failing is not None:
            raise StartError(self.failing)
        self.taken_up.append((config, changed))
        return " by me"

    def renew(self, keyring: Keyring) -> None:
        self.renewed.append(self.accepted(keyring))

    def describe(self) -> str:
        return "listens"

    # The configuration

    def test_reload(self) -> None:
        """What has changed is taken up, and is named; systemd is told before and after."""
        self.begin()
        self.write(MaxUploadSize=5, LogLevel="warn")
        self.reloads.reload()
        [(config, changed)] = self.taken_up
        self.assertEqual((config.max_upload_bytes, config.log_level), (5, "warn"))
        self.assertEqual(changed, ("MaxUploadSize", "LogLevel"))
        self.assertIs(self.reloads.config, config)
        self.assertIn("The configuration has been taken up by me; changed: MaxUploadSize, LogLevel", self.logged)
        self.assertEqual(self.systemd.told, ["RELOADING=1", "READY=1\nSTATUS=listens"])

    def test_nothing_has_changed(self) -> None:
        self.begin().reload()
        self.assertIn("The configuration has been taken up by me; nothing in it has changed", self.logged)
        self.assertEqual(self.renewed, [])

    def test_faults(self) -> None:
        """All of them are told, systemd has the first; nothing has changed."""
        before = self.begin().config
        self.write(MaxUploadSize="much", LogLevle="warn")
        self.write_secret(NEW)
        self.reloads.reload()
        self.assertEqual((self.taken_up, self.renewed), ([], []))
        self.assertIs(self.reloads.config, before)
        [line] = [line for line in self.logged if "the old one stays in force" in line]
        self.assertIn('MaxUploadSize = "much"', line)
        self.assertIn("LogLevle", line)
        self.assertRegex(
            self.systemd.told[-1], r"^READY=1\nSTATUS=listens; the configuration is not taken up: .*MaxUploadSize.*$"
        )

    def test_host_fails(self) -> None:
        """Nor has the secret changed then."""
        before = self.begin().config
        self.failing = "ReportFile can't be had"
        self.write(MaxUploadSize=5)
        self.write_secret(NEW)
        self.reloads.reload()
        self.assertIs(self.reloads.config, before)
        self.assertEqual(self.accepted(self.reloads.keyring), (OLD,))
        self.assertEqual(self.renewed, [])
        self.assertTrue(any("stays in force: ReportFile can't be had" in line for line in self.logged))
        self.failing = None
        self.reloads.reload()
        self.assertEqual(self.accepted(self.reloads.keyring), (NEW, OLD))

    def test_fixed_keys(self) -> None:
        """They are named, and have their old values in what is taken up."""
        self.begin()
        self.write(ListenPort="127.0.0.1:81", StoreDir="elsewhere", MaxUploadSize=5)
        self.reloads.reload()
        [(config, changed)] = self.taken_up
        self.assertEqual(changed, ("MaxUploadSize",))
        self.assertEqual([place.name for place in config.listen], ["127.0.0.1:8080"])
        for name in ("ListenPort", "StoreDir"):
            self.assertIn(f"{name} has changed, which takes a restart: the old value stays in force", self.logged)

    def test_told_again_meanwhile(self) -> None:
        """However often, it is done once more."""
        self.waiting = Deferred()
        self.begin()
        self.reloads.reload()
        self.reloads.reload()
        self.reloads.reload()
        self.write(MaxUploadSize=5)
        waiting, self.waiting = self.waiting, None
        waiting.callback(None)
        self.assertEqual([changed for _, changed in self.taken_up], [(), ("MaxUploadSize",)])

    def test_told_before_the_start(self) -> None:
        """It is done when hmacfs serves."""
        reloads = Reloads(load(self.file), self, self.clock, self.clock.seconds)
        reloads.reload()
        self.assertEqual(self.taken_up, [])
        reloads.begin(self.systemd)
        self.assertEqual(len(self.taken_up), 1)

    def test_stop(self) -> None:
        """What is being taken up is waited for, and nothing comes after it."""
        self.waiting = Deferred()
        self.begin().reload()
        self.reloads.reload()
        stopped = self.reloads.stop()
        self.assertNoResult(stopped)
        self.waiting.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(len(self.taken_up), 1)
        self.assertEqual(self.systemd.told, ["RELOADING=1"])
        self.reloads.reload()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    # The secret

    def test_secret(self) -> None:
        """The old one is accepted for a while; the log has fingerprints, and neither of the two."""
        self.begin()
        self.write_secret(NEW)
        self.reloads.reload()
        self.assertEqual(self.renewed, [(NEW, OLD)])
        old, new = (Secret(secret.encode()).fingerprint for secret in (OLD, NEW))
        self.assertIn(
            f"The secret has changed: its fingerprint is {new} now, and {old} is accepted for 10min more", self.logged
        )
        self.clock.advance(600)
        self.assertEqual(self.accepted(self.reloads.keyring), (NEW,))
        for secret in (OLD, NEW):
            self.assertNotIn(secret, "\n".join([*self.logged, *self.systemd.told]))

    def test_interval(self) -> None:
        """The secret alone is read, of a changed configuration."""
        self.begin()
        self.write(MaxUploadSize=5)
        self.write_secret(NEW)
        self.clock.advance(59)
        self.assertEqual(self.renewed, [])
        self.clock.advance(1)
        self.assertEqual(self.renewed, [(NEW, OLD)])
        self.assertEqual(self.taken_up, [])
        self.clock.advance(60)
        self.assertEqual(len(self.renewed), 1)
        self.assertEqual(self.reloads.config.secret, NEW.encode())

    def test_interval_of_the_configuration_file(self) -> None:
        """Where the secret stands there, nothing else in it matters, not even whether it is right."""
        self.write(SecretFile=None, secret=OLD)
        self.begin()
        self.write(secret=NEW, MaxUploadSize="much")
        self.clock.advance(60)
        self.assertEqual(self.renewed, [(NEW, OLD)])
        self.write(secret=None)
        self.clock.advance(60)
        self.assertIn("Secret: missing", self.logged[-1])

    def test_another_interval(self) -> None:
        """It counts from the reload on."""
        self.begin()
        self.write(ReaskSecretInterval=1000)
        self.reloads.reload()
        self.write_secret(NEW)
        self.clock.advance(999)
        self.assertEqual(self.renewed, [])
        self.clock.advance(1)
        self.assertEqual(self.renewed, [(NEW, OLD)])

    def test_unreadable(self) -> None:
        """The old one stays in force. That is said once, until something else is wrong, or it was right in between."""
        self.begin()
        complaints = []
        for content in ("", "", None, None, OLD, None):
            if content is None:
                (self.directory / "secret").unlink(missing_ok=True)
            else:
                self.write_secret(content)
            self.clock.advance(60)
            complaints.append(sum("can't be read again" in line for line in self.logged))
        self.assertEqual(complaints, [1, 1, 2, 2, 2, 3])
        self.assertEqual(self.accepted(self.reloads.keyring), (OLD,))
        self.write_secret(NEW)
        self.clock.advance(60)
        self.assertEqual(self.renewed, [(NEW, OLD)])

    def test_not_wanted(self) -> None:
        """Neither from time to time nor when told to, which is said."""
        self.write(ReaskSecretEnabled=False)
        self.begin()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.write_secret(NEW)
        self.reloads.reload()
        self.assertIn("Secret has changed, which takes a restart: the old value stays in force", self.logged)
        self.assertEqual(self.renewed, [])
        self.write(ReaskSecretEnabled=True)
        self.reloads.reload()
        self.assertEqual(self.renewed, [(NEW, OLD)])

    def test_not_while_reloading(self) -> None:
        """What is being taken up has been read already, and must not be overtaken."""
        self.begin()
        self.waiting = Deferred()
        self.write_secret(NEW)
        self.reloads.reload()
        self.write_secret(NEWER)
        self.clock.advance(60)
        self.assertEqual(self.renewed, [])
        self.waiting.callback(None)
        self.assertEqual(self.renewed, [(NEW, OLD)])
        self.clock.advance(60)
        self.assertEqual(self.renewed[1:], [(NEWER, NEW)])
