"""Who does what one process does for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.leadership import Leadership
from hmacfs.net.threads import InlineThreads

T = TypeVar("T")

#: Leads, says so, and waits for its end.
_LEADER = """
import signal, sys
from pathlib import Path
from twisted.internet.defer import Deferred
from hmacfs.net.leadership import Leadership
from hmacfs.net.threads import InlineThreads
leadership = Leadership(Path(sys.argv[1]), lambda: print("leads", flush=True), InlineThreads())
Deferred.fromCoroutine(leadership.stand())
signal.pause()
"""


class HeldThreads(InlineThreads):
    """A call is made at once; that it is over is heard of when a test says so."""

    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        result = function(*args, **kwargs)
        return self.over.addCallback(lambda _: result)  # type: ignore[return-value]


class LeadershipTests(SynchronousTestCase):
    """Some who share a file.

    :ivar began: who has begun to lead, in that order.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.began: list[str] = []

    def member(self, name: str, threads: InlineThreads | None = None) -> Leadership:
        member = Leadership(self.path, lambda: self.began.append(name), threads or InlineThreads())
        self.addCleanup(member.resign)
        return member

    def stand(self, member: Leadership) -> None:
        self.successResultOf(Deferred.fromCoroutine(member.stand()))

    def test_one_of_two(self) -> None:
        first, second = self.member("first"), self.member("second")
        for member in (first, second, first, second):
            self.stand(member)
        self.assertEqual((self.began, first.leads, second.leads), (["first"], True, False))

    def test_resigned(self) -> None:
        """The next one leads as soon as it stands; who has resigned never leads again."""
        first, second = self.member("first"), self.member("second")
        self.stand(first)
        first.resign()
        self.stand(first)
        self.stand(second)
        second.resign()
        self.stand(first)
        self.assertEqual((self.began, first.leads, second.leads), (["first", "second"], False, False))

    def test_killed(self) -> None:
        """The kernel sees to it that another one leads after the leader, however that has ended."""
        other = subprocess.Popen([sys.executable, "-c", _LEADER, self.path], stdout=subprocess.PIPE, text=True)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        assert other.stdout is not None
        self.addCleanup(other.stdout.close)
        self.assertEqual(other.stdout.readline(), "leads\n")
        member = self.member("ours")
        self.stand(member)
        self.assertEqual(self.began, [])
        other.send_signal(signal.SIGKILL)
        other.wait()
        self.stand(member)
        self.assertEqual(self.began, ["ours"])

    def test_resigned_while_it_stood(self) -> None:
        """Then it doesn't begin any more, and is in nobody's way."""
        threads = HeldThreads()
        late = self.member("late", threads)
        standing = Deferred.fromCoroutine(late.stand())
        late.resign()
        threads.over.callback(None)
        self.successResultOf(standing)
        self.stand(self.member("next"))
        self.assertEqual((self.began, late.leads), (["next"], False))

    def test_no_directory(self) -> None:
        """It says so, and stands again another time."""
        self.path.mkdir()
        member = self.member("it")
        self.failureResultOf(Deferred.fromCoroutine(member.stand()), IsADirectoryError)
        self.path.rmdir()
        self.stand(member)
        self.assertEqual(self.began, ["it"])

    def test_only_ours(self) -> None:
        """Nobody else may lock the file and so keep everybody from sweeping."""
        self.stand(self.member("it"))
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
