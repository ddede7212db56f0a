"""``MaxRetries`` and ``RetryDelay``: steps that fail on our side, and clients that wait meanwhile."""

from __future__ import annotations

import errno

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.storage.failures import may_pass
from hmacfs.uploads.retrying import Retries
from tests.net.wire import Answer
from tests.uploads.support import begun
from tests.web.support import PATH, ServerTestCase, request, v

PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EDQUOT, errno.ETIMEDOUT, errno.EINTR)


class RetriesTests(SynchronousTestCase):
    """One step."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.retried: list[str] = []
        self.calls = 0
        self.errors: list[Exception] = []

    def run_step(self, limit: int, *errors: Exception) -> Deferred[str]:
        """A step that fails with one after the other of *errors*, and then succeeds."""
        self.errors = list(errors)
        return begun(Retries(limit, 2.0, self.clock, self.retried.append).run("write", self.step))

    async def step(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def test_succeeds(self) -> None:
        """At once, and nothing is counted."""
        self.assertEqual(self.successResultOf(self.run_step(5)), "done")
        self.assertEqual((self.calls, self.retried, self.clock.getDelayedCalls()), (1, [], []))

    def test_passes(self) -> None:
        """Whatever may pass is tried again, ``RetryDelay`` later and no sooner, as often as ``MaxRetries`` says."""
        for code in PASSING:
            self.calls, self.retried = 0, []
            result = self.run_step(2, OSError(code, "x"), OSError(code, "x"))
            for tries in (1, 2):
                self.assertNoResult(result)
                self.assertEqual((self.calls, len(self.retried)), (tries, tries))
                self.clock.advance(1.99)
                self.assertEqual(self.calls, tries)
                self.clock.advance(0.01)
            self.assertEqual(self.successResultOf(result), "done")
            self.assertEqual(self.retried, ["write", "write"])

    def test_last_try(self) -> None:
        """After the last one the client is told when to come back, and nobody is waited for any more."""
        for limit in (0, 1, 5):
            self.calls = 0
            result = self.run_step(limit, *[OSError(errno.EIO, "x")] * 10)
            self.clock.pump([2.0] * limit)
            refused = self.failureResultOf(result, Refused).value
            self.assertEqual((refused.status, refused.reason, self.calls), (503, "unavailable", limit + 1))
            self.assertGreater(int(refused.headers["Retry-After"]), 0)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_won_t_pass(self) -> None:
        """A full disk, a missing right or an error of ours are no better in two seconds."""
        for error in (OSError(errno.ENOSPC, "x"), OSError(errno.EACCES, "x"), OSError("x"), ValueError("x")):
            self.calls = 0
            failure = self.failureResultOf(self.run_step(5, error))
            self.assertIs(failure.value, error)
            self.assertEqual((self.calls, self.retried), (1, []))

    def test_second_reason_won_t_pass(self) -> None:
        """The last reason counts."""
        result = self.run_step(5, OSError(errno.EIO, "x"), OSError(errno.ENOSPC, "full"))
        self.clock.advance(2.0)
        self.assertEqual(self.failureResultOf(result, OSError).value.errno, errno.ENOSPC)

    def test_function(self) -> None:
        """One that waits for nothing is called at once, and again as any other."""
        results: list[float | OSError] = [1.0, OSError(errno.EIO, "x"), 2.0]

        def step(factor: int) -> float:
            result = results.pop(0)
            if isinstance(result, OSError):
                raise result
            return factor * result

        retries = Retries(1, 2.0, self.clock, self.retried.append)
        self.assertEqual(self.successResultOf(begun(retries.call("read", step, 3))), 3.0)
        second = begun(retries.call("read", step, 3))
        self.assertNoResult(second)
        self.clock.advance(2.0)
        self.assertEqual((self.successResultOf(second), self.retried), (6.0, ["read"]))

    def test_logged(self) -> None:
        """The operator reads which step, which try of how many, and why."""
        with capturedLogs() as events:
            self.run_step(5, OSError(errno.ESTALE, "Stale file handle"))
        [line] = [formatEvent(event) for event in events]
        self.assertEqual(line, f"write failed, try 1 of 6: [Errno {errno.ESTALE}] Stale file handle")

    def test_may_pass(self) -> None:
        """The list of the configuration's manual, and nothing else."""
        self.assertEqual({code for code in errno.errorcode if may_pass(OSError(code, "x"))}, set(PASSING))


CONTENT = bytes(range(100))


class ClientTestCase(ServerTestCase):
    """A client with a slot, and what it sees of all this."""

    def well(self) -> None:
        """The disk is repaired."""
        self.disk.before = lambda _method: None

    def sent(self, first: int = 0) -> list[Answer]:
        """What is answered to a PUT of all bytes from *first* on, while no time passes."""
        self.wire = self.server.connect(self.part(first))
        return self.wire.answers()

    def part(self, first: int, end: int = 100) -> bytes:
        """A PUT of everything from *first* on that breaks off at *end*."""
        headers = {"Content-Range": f"bytes {first}-99/100"} if first else {}
        return request("PUT", v(PATH, 100), headers, CONTENT[first:end], length=100 - first)

    def broken_at(self, arrived: int) -> None:
        self.server.connect(self.part(0, arrived)).vanish()

    def offset(self) -> int:
        return int(self.server.head(v(PATH, 100)).headers["upload-offset"])


class WaitingClientTests(ClientTestCase):
    """Who waits while it is tried again."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.serve(retries=2)

    def test_every_step(self) -> None:
        """A step that fails twice, whichever: the client waits for as long as that takes, and then it is stored."""
        for step in ("create", "write", "set_mode", "link"):
            for code in (errno.EIO, errno.ESTALE, errno.EDQUOT):
                self.disk.fail(step, code, times=2)
                self.assertEqual(self.sent(), [], f"{step} {errno.errorcode[code]}")
                self.clock.advance(1.0)
                self.assertEqual(self.wire.answers(), [])
                self.clock.advance(1.0)
                self.assertEqual((self.wire.answer().status, self.get(PATH)), (201, CONTENT))
                (self.root / PATH).unlink()

    def test_last_try(self) -> None:
        """A write that fails once more: 503, when to come back, and what is durable is kept."""
        self.broken_at(40)
        self.disk.fail("write", errno.EIO)
        self.assertEqual(self.sent(40), [])
        self.clock.pump([1.0, 1.0])
        answer = self.wire.answer()
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "30"))
        self.well()
        self.assertEqual((self.offset(), self.tree()), (40, []))
        self.assertEqual(self.sent(40)[0].status, 201)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_all_is_here(self) -> None:
        """Publishing failed to the end. No byte is left to be sent: who asks how far it is, is told that it is stored."""
        self.disk.fail("link", errno.EIO)
        self.sent()
        self.clock.pump([1.0, 1.0])
        self.assertEqual(self.wire.answer().status, 503)
        self.well()
        self.assertEqual((self.offset(), self.tree()), (100, []))
        answer = self.server.ask(request("PUT", v(PATH, 100), {"Content-Range": "bytes */100"}, b""))
        self.assertEqual((answer.status, self.get(PATH)), (201, CONTENT))
        self.assertEqual(answer.headers["upload-complete"], "?1")
        self.assertIn("repr-digest", answer.headers)

    def test_full_disk_is_not_waited_for(self) -> None:
        """507 at once, and nothing is left."""
        self.disk.fail("write", errno.ENOSPC)
        self.assertEqual([answer.status for answer in self.sent()], [507])
        self.assertEqual((self.server.retried, self.own_files("parts"), self.tree()), ([], [], []))

    def test_counted(self) -> None:
        """By step, for the metric."""
        self.disk.fail("write", errno.EIO, times=1)
        self.sent()
        self.clock.advance(1.0)
        self.assertEqual(self.server.retried, ["write"])


class GivenUpTests(ClientTestCase):
    """An upload that is taken up again ``MaxRetries`` times in a row without one new durable byte."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.serve(max_attempts=2)
        self.broken_at(40)

    def try_in_vain(self, first: int = 40) -> int:
        """Announce the rest and send nothing of it; the status, or 0 if the body would have been taken."""
        wire = self.server.connect(self.part(first, first))
        answers = wire.answers()
        wire.vanish()
        return answers[0].status if answers else 0

    def test_limit(self) -> None:
        """So often and no more: 410, for everybody who asks, until the whole file comes."""
        self.assertEqual([self.try_in_vain() for _ in range(4)], [0, 0, 410, 410])
        self.assertEqual(self.server.head(v(PATH, 100)).status, 410)
        self.assertEqual((self.sent()[0].status, self.get(PATH)), (201, CONTENT))

    def test_progress_forgives(self) -> None:
        """One byte is enough to begin counting anew."""
        self.assertEqual(self.try_in_vain(), 0)
        self.server.connect(self.part(40, 41)).vanish()
        self.assertEqual(self.offset(), 41)
        self.assertEqual([self.try_in_vain(first=41) for _ in range(3)], [0, 0, 410])

    def test_asking_is_free(self) -> None:
        """Who only asks has not tried."""
        query = request("PUT", v(PATH, 100), {"Content-Range": "bytes */100"}, b"")
        self.assertEqual([self.server.ask(query).status for _ in range(9)], [202] * 9)
        self.assertEqual([self.offset() for _ in range(9)], [40] * 9)
        self.assertEqual(self.try_in_vain(), 0)
