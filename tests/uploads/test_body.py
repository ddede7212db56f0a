"""Taking a body: who may hold it back, and every way in which it may end."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.net.bodies import BodyTimeout, MalformedBody
from hmacfs.uploads.body import BodyConsumer, Brake
from tests.uploads.support import Body, begun

REASONS = ("disk", "hash", "write")


class BrakeTests(SynchronousTestCase):
    """Several who want a producer to wait."""

    def setUp(self) -> None:
        self.brake = Brake()
        self.body = Body()
        self.brake.attach(self.body)

    def test_one_reason(self) -> None:
        self.brake.hold("disk")
        self.assertTrue(self.body.paused)
        self.brake.release("disk")
        self.assertFalse(self.body.paused)

    def test_last_reason_counts(self) -> None:
        """Who is content early doesn't speak for the others."""
        self.brake.hold("disk")
        self.brake.hold("hash")
        self.brake.release("disk")
        self.assertTrue(self.body.paused)
        self.brake.release("hash")
        self.assertFalse(self.body.paused)

    def test_reasons_are_not_counted(self) -> None:
        """Twice held for one reason is held once."""
        self.brake.hold("disk")
        self.brake.hold("disk")
        self.brake.release("disk")
        self.assertFalse(self.body.paused)

    def test_unknown_reason(self) -> None:
        """Who never held it can't let it go on."""
        self.brake.hold("disk")
        self.brake.release("hash")
        self.assertTrue(self.body.paused)

    def test_held_before_there_is_anything_to_hold(self) -> None:
        """A digest may want to catch up before the body has begun."""
        brake, body = Brake(), Body()
        brake.hold("prefix")
        brake.attach(body)
        self.assertTrue(body.paused)
        brake.release("prefix")
        self.assertFalse(body.paused)

    def test_producer_that_has_gone(self) -> None:
        """It is left alone."""
        self.brake.detach()
        self.brake.hold("disk")
        self.assertFalse(self.body.paused)
        self.brake.release("disk")

    def test_pedals(self) -> None:
        """The same for those who know no reasons."""
        pause, resume = self.brake.pedals("digest")
        self.brake.hold("disk")
        pause()
        self.brake.release("disk")
        self.assertTrue(self.body.paused)
        resume()
        self.assertFalse(self.body.paused)

    @given(st.lists(st.tuples(st.booleans(), st.sampled_from(REASONS))))
    def test_any_sequence(self, steps: list[tuple[bool, str]]) -> None:
        """It is held exactly as long as there is a reason."""
        brake, body = Brake(), Body()
        brake.attach(body)
        held: set[str] = set()
        for holds, reason in steps:
            (brake.hold if holds else brake.release)(reason)
            (held.add if holds else held.discard)(reason)
            self.assertEqual(body.paused, bool(held))


class Recorder(BodyConsumer):
    """Writes down what it is asked to do."""

    def __init__(self, start: int, end: int, arrived: Callable[[int], None]) -> None:
        super().__init__(start, end, arrived)
        self.taken: list[bytes] = []
        self.steps: list[str] = []
        self.finishing: Deferred[None] | None = None

    def _take(self, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("bad")
        self.taken.append(data)

    async def _finish(self) -> None:
        self.steps.append("finish")
        if self.finishing is not None:
            await self.finishing

    async def _settle(self) -> None:
        self.steps.append("settle")


class ConsumerTests(SynchronousTestCase):
    """A body of ten bytes, for the offsets from 5 to 15."""

    def setUp(self) -> None:
        self.arrived: list[int] = []
        self.body = Body()
        self.consumer = Recorder(5, 15, self.arrived.append)
        self.receiving = begun(self.consumer.receive(self.body))

    def assert_refused(self, status: int, reason: str) -> None:
        error = self.failureResultOf(self.receiving, Refused).value
        self.assertEqual(error.args[:2], (status, reason))

    def test_whole(self) -> None:
        """In its pieces, and in order."""
        self.body.send(b"123", b"4567")
        self.assertEqual(self.consumer.position, 12)
        self.body.send(b"890")
        self.assertNoResult(self.receiving)
        self.body.end()
        self.successResultOf(self.receiving)
        self.assertEqual((self.consumer.taken, self.consumer.position), ([b"123", b"4567", b"890"], 15))
        self.assertEqual((self.consumer.steps, self.arrived), (["finish", "settle"], [3, 4, 3]))

    def test_short(self) -> None:
        """An end before the end that was announced."""
        self.body.send(b"123")
        self.body.end()
        self.assert_refused(400, "short-body")

    def test_long(self) -> None:
        """Not one byte beyond the end is taken; nor what came in one piece with it."""
        self.body.send(b"1234567", b"8901")
        self.assert_refused(413, "size-mismatch")
        self.assertEqual((self.consumer.taken, self.arrived), ([b"1234567"], [7]))

    def test_consumer_fails(self) -> None:
        """What it raises ends the body, and is what is told."""
        self.body.send(b"12", b"bad", b"345")
        self.failureResultOf(self.receiving, ValueError)
        self.assertEqual((self.consumer.taken, self.consumer.steps), ([b"12"], ["settle"]))

    def test_connection_lost(self) -> None:
        self.body.send(b"12")
        self.body.end(ConnectionDone())
        self.failureResultOf(self.receiving, ConnectionDone)
        self.assertEqual(self.consumer.steps, ["settle"])

    def test_too_slow(self) -> None:
        self.body.end(BodyTimeout("no byte within 60 s"))
        self.assert_refused(408, "timeout")

    def test_broken_coding(self) -> None:
        self.body.end(MalformedBody("no size"))
        self.assert_refused(400, "malformed-body")

    def test_stopped(self) -> None:
        """Somebody else wants its place: the sender is stopped, and the reason is told."""
        self.body.send(b"12")
        self.consumer.stop(KeyError("newer"))
        self.failureResultOf(self.receiving, KeyError)
        self.assertEqual((self.body.stopped, self.consumer.steps), (True, ["settle"]))

    def test_first_reason_counts(self) -> None:
        consumer = Recorder(0, 0, self.arrived.append)
        consumer.stop(KeyError("newer"))
        consumer.stop(ValueError("newest"))
        self.failureResultOf(begun(consumer.receive(None)), KeyError)

    def test_stopped_before_it_began(self) -> None:
        """Nothing is finished then, however whole the body is."""
        consumer = Recorder(0, 0, self.arrived.append)
        consumer.stop(KeyError("newer"))
        self.failureResultOf(begun(consumer.receive(None)), KeyError)
        self.assertEqual(consumer.steps, ["settle"])

    def test_stopped_before_it_was_asked_for(self) -> None:
        """Then it isn't."""
        consumer, body = Recorder(0, 10, self.arrived.append), Body()
        consumer.stop(KeyError("newer"))
        self.failureResultOf(begun(consumer.receive(body)), KeyError)
        self.assertFalse(body.wanted)

    def test_stopped_too_late(self) -> None:
        """What is over is over."""
        self.body.send(b"1234567890")
        self.body.end()
        self.consumer.stop(KeyError("newer"))
        self.successResultOf(self.receiving)

    def test_cancelled_by_somebody_else(self) -> None:
        """That isn't hidden behind a reason that nobody gave."""
        self.receiving.cancel()
        self.failureResultOf(self.receiving, CancelledError)
        self.assertEqual(self.consumer.steps, ["settle"])

    def test_waits_for_the_rest_of_the_work(self) -> None:
        """All bytes are here, and something is still done with them."""
        self.consumer.finishing = Deferred()
        self.body.send(b"1234567890")
        self.body.end()
        self.assertNoResult(self.receiving)
        self.consumer.finishing.callback(None)
        self.successResultOf(self.receiving)

    def test_rest_of_the_work_fails(self) -> None:
        self.consumer.finishing = Deferred()
        self.body.send(b"1234567890")
        self.body.end()
        self.consumer.finishing.errback(ValueError())
        self.failureResultOf(self.receiving, ValueError)
        self.assertEqual(self.consumer.steps, ["finish", "settle"])

    def test_no_body(self) -> None:
        """Fine where no byte is missing."""
        self.successResultOf(begun(Recorder(7, 7, self.arrived.append).receive(None)))
        missing = begun(Recorder(6, 7, self.arrived.append).receive(None))
        self.assertEqual(self.failureResultOf(missing, Refused).value.args[:2], (400, "short-body"))

    def test_only_pushed(self) -> None:
        """A body is a push producer; anything else would wait for us to ask."""
        self.assertRaises(ValueError, self.consumer.registerProducer, self.body, False)
