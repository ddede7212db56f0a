"""The link to Redis, while there is no Redis: when it is tried again, and that it can be stopped at any time.

What happens with a Redis is in :mod:`tests.uploads.test_redisstate`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from twisted.internet.defer import Deferred
from twisted.internet.defer import fail as failed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from hmacfs.net.redislink import CALL_TIMEOUT_S, MAX_DELAY_S, PROBE_INTERVAL_S, RedisAway, RedisLink


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Does what the test says when somebody connects.

    :ivar attempts: when that was.
    """

    def __init__(self, clock: Clock, outcome: Callable[[], Deferred[Protocol]]) -> None:
        self._clock = clock
        self._outcome = outcome
        self.attempts: list[float] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Protocol]:
        self.attempts.append(self._clock.seconds())
        return self._outcome()


def refused() -> Deferred[Protocol]:
    """Nobody listens."""
    return failed(ConnectionRefusedError())


class LinkTests(SynchronousTestCase):
    def start(self, outcome: Callable[[], Deferred[Protocol]]) -> Deferred[None]:
        self.clock = Clock()
        self.endpoint = Endpoint(self.clock, outcome)
        self.link = RedisLink(self.clock, self.endpoint, "redis.example", probe_key="probe")
        return self.link.start()

    def why(self) -> str:
        """Why a call fails, and that it does so at once."""
        error = self.failureResultOf(self.link.eval("return 1", [], []), RedisAway).value
        return str(error.reason)

    def test_tried_again(self) -> None:
        """It is tried again soon at first, and never less often than every four seconds."""
        self.successResultOf(self.start(refused))
        self.clock.pump([0.01] * 3000)
        times = self.endpoint.attempts
        pauses = [round(later - earlier, 1) for earlier, later in pairwise(times)]
        self.assertEqual(pauses[:7], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, MAX_DELAY_S])
        self.assertEqual(set(pauses[6:]), {MAX_DELAY_S})
        self.assertEqual(self.why(), "unreachable")
        self.successResultOf(self.link.stop())

    def test_bound(self) -> None:
        """However it ended, and whatever was being done, Redis is found within 15 seconds of its return.

        At worst an attempt that hangs has to end, the longest pause follows, and connecting, authentication, selection
        and the probe take almost as long as they may.
        """
        self.assertLess(CALL_TIMEOUT_S + MAX_DELAY_S + 4 * CALL_TIMEOUT_S, 15)
        self.assertLess(PROBE_INTERVAL_S + CALL_TIMEOUT_S, 15)

    def test_connecting_for_too_long(self) -> None:
        """A network that swallows everything counts as no Redis, and the start does not wait for it any longer."""
        starting = self.start(Deferred)
        self.assertEqual(self.why(), "not-connected")
        self.assertNoResult(starting)
        self.clock.advance(CALL_TIMEOUT_S)
        self.successResultOf(starting)
        self.assertEqual(self.why(), "unreachable")
        self.successResultOf(self.link.stop())

    def test_stopped_between_two_attempts(self) -> None:
        """Stopping does not wait for the pause to end, and leaves no timer."""
        self.start(refused)
        self.successResultOf(self.link.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_while_connecting(self) -> None:
        """Nor for the network."""
        starting = self.start(Deferred)
        self.successResultOf(self.link.stop())
        self.successResultOf(starting)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.endpoint.attempts), 1)

    def test_fault_of_our_own(self) -> None:
        """An error that nobody thought of is logged, and tried again."""

        def broken() -> Deferred[Protocol]:
            raise ZeroDivisionError

        self.start(broken)
        self.clock.advance(1)
        self.assertGreater(len(self.endpoint.attempts), 1)
        self.successResultOf(self.link.stop())

    def test_before_the_start(self) -> None:
        """A link that was not started has nobody to ask, and can be stopped."""
        clock = Clock()
        self.link = RedisLink(clock, Endpoint(clock, refused), "redis.example", probe_key="probe")
        self.assertEqual((self.why(), self.link.available, self.link.round_trip_s), ("not-connected", False, None))
        self.successResultOf(self.link.stop())
