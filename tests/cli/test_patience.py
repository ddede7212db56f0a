"""How long transfers that break are tried again."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli.exchange import Broken
from hmacfs.cli.output import Fault
from hmacfs.cli.patience import Patience


class PatienceTests(SynchronousTestCase):
    """With a clock that sleeping moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.waits: list[float] = []
        self.notes: list[str] = []

    def patience(self, retries: int | None = None, give_up_after_s: float = 900, chance: float = 0.0) -> Patience:
        def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.clock.advance(seconds)

        return Patience(retries, give_up_after_s, self.clock.seconds, sleep, lambda: chance)

    def wait(self, patience: Patience, retry_after_s: float | None = None) -> None:
        patience.wait(Broken("the network has gone", retry_after_s), self.notes.append)

    def test_back_off(self) -> None:
        """Longer each time, up to half a minute; and it says so."""
        patience = self.patience()
        for _ in range(7):
            self.wait(patience)
        self.assertEqual(self.waits, [1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(self.notes[:2], ["The network has gone. Again in 1 s.", "The network has gone. Again in 2 s."])

    def test_jitter(self) -> None:
        """A quarter less at most."""
        self.wait(self.patience(chance=1.0))
        self.assertEqual(self.waits, [0.75])

    def test_progress(self) -> None:
        """begins the count anew, and the time."""
        patience = self.patience(retries=2, give_up_after_s=10)
        for _ in range(5):
            self.clock.advance(9)
            patience.progressed()
            self.wait(patience)
            self.wait(patience)
        self.assertEqual(self.waits, [1, 2] * 5)

    def test_server_says(self) -> None:
        """``Retry-After`` is the least."""
        patience = self.patience()
        self.wait(patience, 20)
        self.wait(patience, 0)
        self.assertEqual(self.waits, [20, 2])

    def test_retries(self) -> None:
        patience = self.patience(retries=2)
        self.wait(patience)
        self.wait(patience)
        fault = self.assertRaises(Fault, self.wait, patience)
        self.assertEqual(str(fault), "The network has gone. Given up after 3 attempts.")

    def test_time(self) -> None:
        """It doesn't wait for what would come too late."""
        patience = self.patience(give_up_after_s=60)
        self.clock.advance(45)
        fault = self.assertRaises(Fault, self.wait, patience, 16)
        self.assertEqual(str(fault), "The network has gone. Given up: nothing has got through for 45 s.")
        fault = self.assertRaises(Fault, self.wait, patience, 3600)
        self.assertEqual(str(fault), "The network has gone. Given up: it is to be tried again in 60 min.")
        self.assertEqual(self.waits, [])
