"""Who may write to an upload, when several want to."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.uploads.body import BodyConsumer
from hmacfs.uploads.session import Superseded
from hmacfs.uploads.state import StateUnavailable
from hmacfs.uploads.turns import PATIENCE_S, Turn, Turns
from tests.uploads.support import begun


class Consumer(BodyConsumer):
    """Remembers why it was stopped."""

    def __init__(self) -> None:
        super().__init__(0, 10, lambda _size: None)
        self.reasons: list[BaseException] = []

    def stop(self, reason: BaseException) -> None:
        self.reasons.append(reason)


def over(turn: Turn) -> None:
    """Let *turn* end."""
    with turn:
        pass


class TurnsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)

    def asked(self, uid: str = "one") -> Deferred[Turn]:
        return begun(self.turns.take(uid))

    def taken(self, uid: str = "one") -> Turn:
        return self.successResultOf(self.asked(uid))

    def assert_busy(self, asked: Deferred[Turn]) -> None:
        refused = self.failureResultOf(asked, Refused).value
        assert isinstance(refused, Refused)
        self.assertEqual((refused.status, refused.reason, refused.headers["Retry-After"]), (423, "busy", "1"))


class TakeTests(TurnsCase):
    """The newest wins, once the one before has let go."""

    def test_free(self) -> None:
        turn = self.taken()
        self.assertEqual(len(self.turns), 1)
        over(turn)
        self.assertEqual(len(self.turns), 0)
        self.taken()

    def test_each_upload_by_itself(self) -> None:
        self.taken("one")
        self.taken("two")
        self.assertEqual(len(self.turns), 2)

    def test_older_is_stopped(self) -> None:
        """And is waited for: two must never write at once."""
        older, consumer = self.taken(), Consumer()
        older.consume_with(consumer)
        newer = self.asked()
        self.assertIsInstance(consumer.reasons[0], Superseded)
        self.assertNoResult(newer)
        over(older)
        self.successResultOf(newer)

    def test_older_has_not_begun_to_read(self) -> None:
        """It is stopped as soon as it would."""
        older = self.taken()
        newer = self.asked()
        consumer = Consumer()
        older.consume_with(consumer)
        self.assertEqual([type(reason) for reason in consumer.reasons], [Superseded])
        over(older)
        self.successResultOf(newer)

    def test_three(self) -> None:
        """The last to come is the last to write, whoever waits beside it."""
        first = self.taken()
        second, third = self.asked(), self.asked()
        over(first)
        turn = self.successResultOf(second)
        self.assertNoResult(third)
        consumer = Consumer()
        turn.consume_with(consumer)
        self.assertEqual([type(reason) for reason in consumer.reasons], [Superseded])
        over(turn)
        self.successResultOf(third)

    def test_never_lets_go(self) -> None:
        """423 when the patience is over, and not before."""
        self.taken()
        newer = self.asked()
        self.clock.advance(PATIENCE_S - 0.1)
        self.assertNoResult(newer)
        self.clock.advance(0.1)
        self.assert_busy(newer)

    def test_patience_is_not_renewed(self) -> None:
        """Who waits behind several waits no longer for it."""
        first = self.taken()
        second, third = self.asked(), self.asked()
        self.clock.advance(PATIENCE_S - 1)
        over(first)
        self.successResultOf(second)
        self.clock.advance(1)
        self.assert_busy(third)

    def test_gave_up(self) -> None:
        """Who gave up waiting is not in the way of those who come later."""
        older = self.taken()
        self.asked().addErrback(lambda _: None)
        self.clock.advance(PATIENCE_S)
        newer = self.asked()
        over(older)
        self.successResultOf(newer)

    def test_no_timer_left(self) -> None:
        older = self.taken()
        newer = self.asked()
        over(older)
        self.successResultOf(newer)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndTests(TurnsCase):
    """A turn ends with its block."""

    def test_fails(self) -> None:
        """However that ends."""
        with self.assertRaises(KeyError), self.taken():
            raise KeyError
        self.assertEqual(len(self.turns), 0)

    def test_state_away(self) -> None:
        """A state store that is away is no fault of ours, and the client is told when to come back."""
        with self.assertRaises(Refused) as caught, self.taken():
            raise StateUnavailable("timeout", 3.2)
        refused = caught.exception
        self.assertEqual((refused.status, refused.reason, refused.headers["Retry-After"]), (503, "unavailable", "3"))
        self.assertEqual(len(self.turns), 0)


class CloseTests(TurnsCase):
    """The server stops."""

    def setUp(self) -> None:
        super().setUp()
        self.reason = Refused(503, "unavailable", "Stopping.")

    def test_stops_all(self) -> None:
        """And waits for all of them."""
        running = [self.taken("one"), self.taken("two")]
        consumers = [Consumer(), Consumer()]
        for turn, consumer in zip(running, consumers, strict=True):
            turn.consume_with(consumer)
        closed = begun(self.turns.close(self.reason))
        self.assertEqual([consumer.reasons for consumer in consumers], [[self.reason], [self.reason]])
        over(running[1])
        self.assertNoResult(closed)
        over(running[0])
        self.successResultOf(closed)

    def test_nobody_there(self) -> None:
        self.successResultOf(begun(self.turns.close(self.reason)))

    def test_no_more_turns(self) -> None:
        self.successResultOf(begun(self.turns.close(self.reason)))
        self.assertIs(self.failureResultOf(self.asked()).value, self.reason)

    def test_who_waits(self) -> None:
        """Has waited in vain."""
        running = self.taken()
        waiting = self.asked()
        closed = begun(self.turns.close(self.reason))
        over(running)
        self.assertIs(self.failureResultOf(waiting).value, self.reason)
        self.successResultOf(closed)

    def test_older_reason_stays(self) -> None:
        """Who was superseded is not told to come back."""
        running, consumer = self.taken(), Consumer()
        waiting = self.asked()
        closed = begun(self.turns.close(self.reason))
        running.consume_with(consumer)
        self.assertEqual([type(reason) for reason in consumer.reasons], [Superseded])
        over(running)
        self.failureResultOf(waiting, Refused)
        self.successResultOf(closed)
