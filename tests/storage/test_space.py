from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.storage.promises import Circle
from hmacfs.storage.space import REFRESH_S, Reservations


class ReservationsTests(SynchronousTestCase):
    """Room for uploads in flight."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.looks = 0
        self.free_bytes = 1000
        self.space = Reservations(self.look, 100, self.clock, Circle().join())

    def look(self) -> int:
        self.looks += 1
        return self.free_bytes

    def refused(self, size_bytes: int) -> None:
        refused = self.assertRaises(Refused, self.space.reserve, size_bytes)
        self.assertEqual((refused.status, refused.reason), (507, "no-space"))
        self.assertGreater(int(refused.headers["Retry-After"]), 0)

    def test_up_to_what_must_stay_free(self) -> None:
        """The last byte above the minimum can be had, the next one can't."""
        self.refused(901)
        self.space.reserve(900)

    def test_together(self) -> None:
        """Uploads in flight count although nothing of them is written."""
        self.space.reserve(500)
        self.refused(401)
        self.space.reserve(400)
        self.refused(1)

    def test_looking_promises_nothing(self) -> None:
        """Who only asks hears the same, and takes nothing from others."""
        self.space.check(900)
        refused = self.assertRaises(Refused, self.space.check, 901)
        self.assertEqual((refused.status, refused.reason), (507, "no-space"))
        self.space.reserve(900)

    def test_full(self) -> None:
        """Less free than must be: not even an empty file."""
        self.free_bytes = 99
        self.refused(0)

    def test_released(self) -> None:
        """What an upload didn't need is there for the next one; once, however often it says so."""
        reservation = self.space.reserve(900)
        reservation.release()
        reservation.release()
        self.space.reserve(900)
        self.refused(1)

    def test_written_counts_once(self) -> None:
        """A byte is promised or missing from what is free, never both and never neither."""
        reservation = self.space.reserve(600)
        reservation.wrote(600)
        self.refused(301)
        self.free_bytes -= 600
        self.clock.advance(REFRESH_S)
        self.refused(301)
        self.space.reserve(300)

    def test_release_keeps_what_is_written(self) -> None:
        """After a release between two looks, written bytes are still gone."""
        reservation = self.space.reserve(600)
        reservation.wrote(200)
        reservation.release()
        self.refused(701)
        self.space.reserve(700)

    def test_more_than_promised(self) -> None:
        """An upload that writes more takes from what is free, not from what others were promised."""
        reservation = self.space.reserve(100)
        self.space.reserve(300)
        reservation.wrote(150)
        self.assertEqual(self.space.promised_bytes, 300)
        reservation.release()
        self.assertEqual(self.space.promised_bytes, 300)
        self.refused(451)
        self.space.reserve(450)

    def test_looks_seldom(self) -> None:
        """statvfs is asked once a second at most."""
        for _ in range(10):
            self.space.reserve(1)
        self.clock.advance(REFRESH_S / 2)
        self.space.reserve(1)
        self.assertEqual(self.looks, 1)
        self.clock.advance(REFRESH_S / 2)
        self.space.reserve(1)
        self.assertEqual(self.looks, 2)

    def test_sees_room_that_was_made(self) -> None:
        """A sweep that freed something is noticed at the next look."""
        self.refused(1500)
        self.free_bytes = 2000
        self.clock.advance(REFRESH_S)
        self.space.reserve(1500)

    def test_clock_set_back(self) -> None:
        """An answer from the future isn't believed until then."""
        self.clock.rightNow = 5000.0
        self.space.reserve(0)
        self.free_bytes = 100
        self.clock.rightNow = 10.0
        self.refused(1)

    def test_mute_file_system(self) -> None:
        """An error isn't taken for room, and the next request asks again."""

        def broken() -> int:
            raise OSError("statvfs")

        space = Reservations(broken, 0, self.clock, Circle().join())
        self.assertRaises(OSError, space.reserve, 1)
        self.assertRaises(OSError, space.reserve, 1)
        self.assertEqual(space.promised_bytes, 0)

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 600)), max_size=40))
    def test_never_below_the_minimum(self, steps: list[tuple[int, int]]) -> None:
        """Uploads that write no more than they reserved never take the disk below its minimum, in whatever order."""
        clock, disk = Clock(), {"free": 1000}
        space = Reservations(lambda: disk["free"], 100, clock, Circle().join())
        running: list[tuple[list[int], object]] = []
        for what, amount in steps:
            if what == 0:
                try:
                    running.append(([amount], space.reserve(amount)))
                except Refused:
                    pass
            elif what == 1 and running:
                (left, reservation) = running[amount % len(running)]
                written = min(left[0], amount)
                left[0] -= written
                disk["free"] -= written
                reservation.wrote(written)  # type: ignore[attr-defined]
            elif what == 2 and running:
                running.pop(amount % len(running))[1].release()  # type: ignore[attr-defined]
            else:
                clock.advance(amount / 300)
            promised = sum(left[0] for left, _ in running)
            self.assertEqual(space.promised_bytes, promised)
            self.assertGreaterEqual(disk["free"] - promised, 100)
