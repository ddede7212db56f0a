"""Blocking calls beside the reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class Threads:
    """Runs blocking calls (fsync, unlink, directory walks, hashing of stored files) in a pool of threads.

    :param reactor: where the results are delivered.
    :param pool: a running pool; its size is the bound on what may block at once, the rest waits in its queue.
    """

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        """Call *function* in a thread. The Deferred fires on the reactor's thread, with its result or its exception."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    @property
    def busy(self) -> int:
        """How many threads are at work now."""
        return len(self._pool.working)


class InlineThreads(Threads):
    """Runs every call at once, where it stands: for tests without a reactor."""

    def __init__(self) -> None:
        pass

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Deferred[T]:
        return maybeDeferred(function, *args, **kwargs)

    @property
    def busy(self) -> int:
        return 0
