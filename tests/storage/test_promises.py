"""What those that serve together tell each other of their uploads."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from shutil import rmtree

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.storage.promises import CHARGES, LOOK_EVERY_S, Circle, Claim, IPromises, Others, SharedPromises
from hmacfs.storage.space import REFRESH_S, Reservation, Reservations

#: What is done, how much of it, and whether by the first of two.
Steps = list[tuple[int, int, bool]]
STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 600), st.booleans()), max_size=30)

#: Promises something, says so, and waits for its end.
_MEMBER = """
import signal, sys
from pathlib import Path
from twisted.internet.task import Clock
from hmacfs.storage.promises import SharedPromises
member = SharedPromises(Path(sys.argv[1]), sys.argv[2], Clock())
member.tell(500, 70)
with member.one_at_a_time():
    member.charge(["total"], 500)
print("told", flush=True)
signal.pause()
"""


class Local:
    """Within one process."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.circle = Circle()

    def join(self, _name: str) -> IPromises:
        return self.circle.join()


class Shared:
    """Processes that share a directory. Those of a test are all in this one, and known by their names."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())

    def join(self, name: str) -> IPromises:
        return SharedPromises(self.directory, name, self.clock)


class PromisesCase(SynchronousTestCase):
    """Those that serve together, in one of these ways."""

    clock: Clock

    def join(self, name: str) -> IPromises:
        raise NotImplementedError

    def member(self, name: str) -> IPromises:
        member = self.join(name)
        self.addCleanup(member.close)
        return member

    def others(self, member: IPromises) -> Others:
        with member.one_at_a_time():
            return member.others()

    def charge(self, member: IPromises, *keys: str, size: int = 100) -> Claim:
        with member.one_at_a_time():
            return member.charge(keys, size)

    def charged(self, member: IPromises, key: str, before: Claim | None = None) -> int:
        with member.one_at_a_time():
            return member.charged(key, before or member.charge((), 0))


class PromisesTests:
    """What is told arrives."""

    def test_room(self) -> None:
        """Each hears the sum of the others, and nothing of itself."""
        first, second, third = self.member("w0"), self.member("w1"), self.member("w2")
        first.tell(1000, 1)
        second.tell(200, 20)
        third.tell(30, 300)
        self.assertEqual([self.others(first).promised_bytes, self.others(first).written_bytes], [230, 320])
        self.assertEqual([self.others(third).promised_bytes, self.others(third).written_bytes], [1200, 21])
        second.tell(0, 220)
        self.assertEqual([self.others(first).promised_bytes, self.others(first).written_bytes], [30, 520])

    def test_joined(self) -> None:
        """Who joins is heard at once, and changes who there is."""
        first = self.member("w0")
        alone = self.others(first)
        self.assertEqual(alone, Others())
        self.member("w1").tell(7, 0)
        self.assertEqual(self.others(first).promised_bytes, 7)
        self.assertNotEqual(self.others(first).members, alone.members)

    def test_left(self) -> None:
        """A moment after its end nobody counts what one has promised."""
        first, second = self.member("w0"), self.join("w1")
        second.tell(7, 0)
        self.charge(second, "total")
        self.assertEqual(len(self.others(first).members), 1)
        second.close()
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.others(first), Others())
        self.assertEqual(self.charged(first, "total"), 0)

    def test_name_again(self) -> None:
        """Who takes the name of one that has ended begins with nothing, and is another one."""
        first, second = self.member("w0"), self.join("w1")
        second.tell(7, 5)
        self.charge(second, "total")
        before = self.others(first).members
        second.close()
        self.member("w1")
        self.assertEqual((self.others(first).promised_bytes, self.charged(first, "total")), (0, 0))
        self.assertNotEqual(self.others(first).members, before)

    def test_charges(self) -> None:
        """Each is counted for all its keys, until it is withdrawn."""
        first, second = self.member("w0"), self.member("w1")
        claim = self.charge(second, "user alice", "total")
        self.charge(second, "user bob", "total", size=30)
        sums = [self.charged(first, key) for key in ("user alice", "user bob", "user carol", "total")]
        self.assertEqual(sums, [100, 30, 0, 130])
        claim.withdraw()
        claim.withdraw()
        self.assertEqual([self.charged(first, key) for key in ("user alice", "total")], [0, 30])

    def test_own_charges(self) -> None:
        """They are nothing that others have been charged for."""
        first = self.member("w0")
        self.charge(first, "total")
        self.assertEqual(self.charged(first, "total"), 0)

    def test_in_order(self) -> None:
        """Of two only the later one counts the other, so that exactly one finds no room."""
        first, second = self.member("w0"), self.member("w1")
        early = self.charge(first, "total")
        late = self.charge(second, "total")
        self.assertEqual((self.charged(first, "total", early), self.charged(second, "total", late)), (0, 100))


class LocalPromisesTests(Local, PromisesTests, PromisesCase):
    pass


class SharedPromisesTests(Shared, PromisesTests, PromisesCase):
    def test_name_is_taken(self) -> None:
        self.member("w0")
        self.assertRaises(OSError, SharedPromises, self.directory, "w0", self.clock)

    def test_killed(self) -> None:
        """The kernel says that a process is gone, however it went."""
        first = self.member("w0")
        arguments = [sys.executable, "-c", _MEMBER, self.directory, "w1"]
        other = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        assert other.stdout is not None
        self.addCleanup(other.stdout.close)
        self.assertEqual(other.stdout.readline(), "told\n")
        self.assertEqual((self.others(first).promised_bytes, self.charged(first, "total")), (500, 500))
        other.send_signal(signal.SIGKILL)
        other.wait()
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((self.others(first).promised_bytes, self.charged(first, "total")), (0, 0))

    def test_tidied_up(self) -> None:
        """Where somebody has removed the files, those that know each other go on."""
        first, second = self.member("w0"), self.member("w1")
        self.others(first)
        rmtree(self.directory)
        second.tell(7, 0)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.others(first).promised_bytes, 7)

    def test_very_many(self) -> None:
        """Only so many can be told of; places come back, and are used again."""
        first, second = self.member("w0"), self.member("w1")
        claims = [self.charge(second, "total", size=1) for _ in range(CHARGES + 10)]
        self.assertEqual(self.charged(first, "total"), CHARGES)
        for claim in claims:
            claim.withdraw()
        self.assertEqual(self.charged(first, "total"), 0)
        self.charge(second, "total", size=1)
        self.assertEqual(self.charged(first, "total"), 1)


class RoomTests:
    """Two on one disk with 1000 bytes, 100 of which must stay free."""

    def setUp(self) -> None:
        super().setUp()
        self.free_bytes = 1000
        self.first, self.second = self.space("w0"), self.space("w1")

    def space(self, name: str) -> Reservations:
        return Reservations(lambda: self.free_bytes, 100, self.clock, self.member(name))

    def refused(self, space: Reservations, size_bytes: int) -> None:
        self.assertEqual(self.assertRaises(Refused, space.reserve, size_bytes).reason, "no-space")

    def write(self, reservation: Reservation, size_bytes: int) -> None:
        self.free_bytes -= size_bytes
        reservation.wrote(size_bytes)

    def test_together(self) -> None:
        self.first.reserve(500)
        self.refused(self.second, 401)
        self.second.reserve(400)
        self.refused(self.first, 1)

    def test_released(self) -> None:
        self.first.reserve(900).release()
        self.second.reserve(900)

    def test_written_between_two_looks(self) -> None:
        """What the other one writes is promised or missing, also before the disk is asked again."""
        reservation = self.first.reserve(600)
        self.second.reserve(0)
        self.write(reservation, 600)
        self.refused(self.second, 301)
        self.clock.advance(REFRESH_S)
        self.refused(self.second, 301)
        self.second.reserve(300)

    def test_ended_between_two_looks(self) -> None:
        """Who has gone has promised nothing, and what it has written is missing."""
        ours, theirs = self.member("w2"), self.join("w3")
        space = Reservations(lambda: self.free_bytes, 100, self.clock, ours)
        reservation = Reservations(lambda: self.free_bytes, 100, self.clock, theirs).reserve(300)
        self.charged(ours, "total")
        self.write(reservation, 100)
        self.clock.advance(LOOK_EVERY_S / 2)
        space.reserve(0)
        self.write(reservation, 150)
        theirs.close()
        self.clock.advance(LOOK_EVERY_S / 2)
        self.refused(space, 651)
        space.reserve(650)

    def never_below_the_minimum(self, steps: Steps) -> None:
        """In whatever order two reserve, write and give back."""
        self.setUp()
        running: list[tuple[list[int], Reservation]] = []
        for what, amount, is_first in steps:
            if what == 0:
                try:
                    running.append(([amount], (self.first if is_first else self.second).reserve(amount)))
                except Refused:
                    pass
            elif what == 1 and running:
                left, reservation = running[amount % len(running)]
                size = min(left[0], amount)
                left[0] -= size
                self.write(reservation, size)
            elif what == 2 and running:
                running.pop(amount % len(running))[1].release()
            else:
                self.clock.advance(amount / 300)
            self.assertGreaterEqual(self.free_bytes - sum(left[0] for left, _ in running), 100)
        self.doCleanups()


class LocalRoomTests(RoomTests, Local, PromisesCase):
    @given(STEPS)
    def test_never_below_the_minimum(self, steps: Steps) -> None:
        self.never_below_the_minimum(steps)


class SharedRoomTests(RoomTests, Shared, PromisesCase):
    @given(STEPS)
    def test_never_below_the_minimum(self, steps: Steps) -> None:
        self.never_below_the_minimum(steps)
