"""What systemd is told, at a socket like its own."""

from __future__ import annotations

import os
import socket
import tempfile

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.systemd import Notifier


class NotifierTests(SynchronousTestCase):
    """A service of ``Type=notify``."""

    def setUp(self) -> None:
        self.clock = Clock()
        directory = tempfile.TemporaryDirectory(prefix="hmacfs-")
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "notify")
        self.socket = self.listen(self.path)

    def listen(self, address: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.bind(address)
        listening.setblocking(False)
        return listening

    def heard(self) -> list[str]:
        """All that it was told since."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def make(self, **environ: str) -> Notifier:
        notifier = Notifier.from_environment(environ, 7, self.clock)
        self.addCleanup(notifier.close)
        return notifier

    def test_life(self) -> None:
        """Ready, reloading with the time that it began, ready again, stopping; each with a status."""
        notifier = Notifier(self.path, None, self.clock, lambda: 12.5)
        notifier.ready("Serving")
        notifier.reloading()
        notifier.ready("Serving")
        notifier.stopping("Waiting for 3 requests")
        self.assertEqual(
            self.heard(),
            [
                "READY=1\nSTATUS=Serving",
                "RELOADING=1\nMONOTONIC_USEC=12500000\nSTATUS=Reloading",
                "READY=1\nSTATUS=Serving",
                "STOPPING=1\nSTATUS=Waiting for 3 requests",
            ],
        )

    def test_abstract(self) -> None:
        """An address that begins with @ is a name in the abstract namespace."""
        name = f"hmacfs-test-{os.getpid()}"
        self.socket = self.listen(f"\0{name}")
        self.make(NOTIFY_SOCKET=f"@{name}").ready("Serving")
        self.assertEqual(self.heard(), ["READY=1\nSTATUS=Serving"])

    def test_watchdog(self) -> None:
        """A sign of life twice in its time, from when the service is ready until the end."""
        notifier = self.make(NOTIFY_SOCKET=self.path, WATCHDOG_USEC="60000000", WATCHDOG_PID="7")
        self.clock.advance(100)
        self.assertEqual(self.heard(), [])
        notifier.ready("Serving")
        self.clock.pump([10] * 7)
        notifier.reloading()
        notifier.ready("Serving")
        notifier.stopping("Waiting")
        alive = [message for message in self.heard() if message == "WATCHDOG=1"]
        self.assertEqual(len(alive), 3)
        notifier.close()
        self.clock.advance(100)
        self.assertEqual(self.heard(), [])

    def test_other_watchdog(self) -> None:
        """One that watches another process, or is no number, gets no sign of life."""
        for environ in (
            {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"},
            {"WATCHDOG_USEC": "x"},
            {"WATCHDOG_USEC": "0"},
        ):
            self.make(NOTIFY_SOCKET=self.path, **environ).ready("Serving")
            self.clock.advance(10)
            self.assertEqual(self.heard(), ["READY=1\nSTATUS=Serving"])

    def test_environment(self) -> None:
        """Children don't inherit it."""
        environ = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
        Notifier.from_environment(environ, 7, self.clock)
        self.assertEqual(environ, {"PATH": "/bin"})

    def test_nobody(self) -> None:
        """Without systemd, and when it is gone, nothing happens."""
        self.make().ready("Serving")
        os.unlink(self.path)
        self.make(NOTIFY_SOCKET=self.path, WATCHDOG_USEC="1000000").ready("Serving")
        self.clock.advance(10)
        self.assertEqual(self.heard(), [])

    def test_full(self) -> None:
        """When its queue is full it is not waited for."""
        notifier = self.make(NOTIFY_SOCKET=self.path)
        for _ in range(2000):
            notifier.ready("Serving")
        self.assertTrue(self.heard())
