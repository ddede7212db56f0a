"""Very many deadlines: hmacfs.net.wheel."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.wheel import TICK_S, Wheel


class Thing:
    """Has a deadline, and remembers its visits."""

    def __init__(self, deadline: float = inf) -> None:
        self.deadline = deadline
        self.visits: list[float] = []
        self.ended_at = 0.0
        self.aborted = False

    def checkTime(self, now: float) -> float:
        self.visits.append(now)
        if now < self.deadline:
            return self.deadline
        self.ended_at = now
        return inf

    def abortConnection(self) -> None:
        self.aborted = True


class WheelTests(SynchronousTestCase):
    """When things are visited."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock)

    def filed(self, deadline: float) -> Thing:
        thing = Thing(deadline)
        self.wheel.file(thing, deadline)
        return thing

    def test_at_its_second(self) -> None:
        """Not before the deadline, and no tick after it."""
        thing = self.filed(30)
        self.clock.pump([1] * 29)
        self.assertEqual(thing.visits, [])
        self.clock.advance(1)
        self.assertEqual((thing.visits, len(self.wheel)), ([30], 0))

    @given(st.lists(st.floats(0, 5000), max_size=30), st.floats(0, 10))
    def test_never_early_and_never_late(self, deadlines: list[float], start: float) -> None:
        """Whatever the deadlines are, and wherever in a second the wheel began: up to a tick late."""
        clock = Clock()
        clock.advance(start)
        wheel = Wheel(clock)
        things = [Thing(start + deadline) for deadline in deadlines]
        for thing in things:
            wheel.file(thing, thing.deadline)
        clock.pump([TICK_S] * 5002)
        for thing in things:
            self.assertGreaterEqual(thing.ended_at, thing.deadline)
            self.assertLess(thing.ended_at - thing.deadline, TICK_S + 1e-6)
        self.assertEqual((len(wheel), clock.getDelayedCalls()), (0, []))

    def test_put_off(self) -> None:
        """A deadline that is put off costs one visit at the old one."""
        thing = self.filed(30)
        for deadline in (40, 50, 60):
            thing.deadline = deadline
            self.wheel.file(thing, deadline)
        self.clock.pump([1] * 70)
        self.assertEqual(thing.visits, [30, 60])

    def test_moved_up(self) -> None:
        """A deadline that comes sooner than it was counts at once."""
        thing = self.filed(900)
        thing.deadline = 5
        self.wheel.file(thing, 5)
        self.clock.pump([1] * 1000)
        self.assertEqual(thing.visits, [5])

    def test_in_the_past(self) -> None:
        """What is overdue is visited at the next tick."""
        self.clock.advance(100)
        thing = self.filed(1)
        self.clock.advance(1)
        self.assertEqual(thing.visits, [101])

    def test_never(self) -> None:
        """Without a deadline there is no visit, and no tick."""
        self.filed(inf)
        self.assertEqual((len(self.wheel), self.clock.getDelayedCalls()), (0, []))

    def test_dropped(self) -> None:
        """The wheel stands still when nothing is filed."""
        thing, other = self.filed(3), self.filed(3)
        self.wheel.drop(thing)
        self.wheel.drop(thing)
        self.clock.pump([1] * 5)
        self.assertEqual((thing.visits, other.visits), ([], [3]))
        last = self.filed(10)
        self.wheel.drop(last)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dropped_by_another(self) -> None:
        """A visit may end others that are due in the same second; the wheel turns on."""
        wheel, seen = self.wheel, []

        class Jealous(Thing):
            def checkTime(self, now: float) -> float:
                seen.append(self)
                for rival in rivals:
                    wheel.drop(rival)
                return now + 1

        rivals = [Jealous(), Jealous()]
        for rival in rivals:
            self.wheel.file(rival, 1)
        self.clock.advance(1)
        self.assertEqual((len(seen), len(self.wheel), len(self.clock.getDelayedCalls())), (1, 1, 1))
        self.clock.advance(1)
        self.assertEqual(seen, seen[:1] * 2)

    def test_filed_again_by_its_visit(self) -> None:
        """The sooner of what a visit files and what it returns counts."""
        wheel = self.wheel

        class Restless(Thing):
            def checkTime(self, now: float) -> float:
                self.visits.append(now)
                wheel.file(self, now + 2)
                return now + 10

        thing = Restless()
        wheel.file(thing, 1)
        self.clock.pump([1] * 6)
        self.assertEqual(thing.visits, [1, 3, 5])

    def test_visit_that_raises(self) -> None:
        """Ends that one, and no other."""

        class Broken(Thing):
            def checkTime(self, now: float) -> float:
                raise ValueError("on purpose")

        broken, other = Broken(), self.filed(1)
        self.wheel.file(broken, 1)
        self.clock.advance(1)
        self.assertEqual((broken.aborted, other.visits, len(self.wheel)), (True, [1], 0))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_clock_set_back(self) -> None:
        """What was filed before is visited when its time comes again, what is filed afterwards in its own."""
        self.clock.advance(10_000)
        before = self.filed(10_030)
        self.clock.advance(1)
        self.clock.rightNow = 5_000.0
        after = self.filed(5_005)
        self.clock.rightNow = 10_002.0  # the timers of the reactor stand still for so long
        self.clock.advance(1)
        self.assertEqual((before.visits, after.visits), ([], [10_003]))
        self.clock.pump([1] * 27)
        self.assertEqual(before.visits, [10_030])

    def test_clock_set_back_within_a_tick(self) -> None:
        """The same where the tick comes: nothing is visited early, nothing twice."""
        thing = self.filed(30)
        self.clock.pump([1] * 20)
        self.clock.rightNow -= 0.5
        self.clock.pump([0.5] * 20)
        self.assertEqual(thing.visits, [])
        self.clock.pump([0.5] * 4)
        self.assertEqual(len(thing.visits), 1)
        self.assertGreaterEqual(thing.visits[0], 30)

    def test_clock_set_forward(self) -> None:
        """All that is overdue then is visited in one tick."""
        things = [self.filed(deadline) for deadline in (5, 500, 50_000)]
        self.clock.advance(60_000)
        self.assertEqual([thing.visits for thing in things], [[60_000]] * 3)

    def test_idle_connections_cost_nothing(self) -> None:
        """A tick in which nothing is due looks at nothing, however much is filed."""
        looked: list[Any] = []

        class Sensitive(Thing):
            def __hash__(self) -> int:
                looked.append(self)
                return id(self)

        for number in range(1000):
            self.wheel.file(Sensitive(), 1000 + number)
        looked.clear()
        self.clock.pump([1] * 999)
        self.assertEqual(looked, [])
