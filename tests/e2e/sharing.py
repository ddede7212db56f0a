"""Test cases with a server: one of the test's own, or one for all tests of a class, if they don't disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import PeerTestCase, wait_until
from tests.e2e.redis import Redis

_P = ParamSpec("_P")


class House(PeerTestCase):
    """Looks after what several tests use, for longer than any of them."""

    def __init__(self) -> None:
        super().__init__("stays")
        self._processes = []
        self._directory = None
        self._stack = ExitStack()

    def addCleanup(  # type: ignore[override]
        self, f: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        self._stack.callback(f, *args, **kwargs)

    def stays(self) -> None:
        """It is no test."""

    def close(self) -> None:
        """The last one has left."""
        self._stack.close()
        self._forget_directory()


class ServedTestCase(PeerTestCase):
    """A test with a server, which it may kill.

    :ivar daemon: the server.
    """

    def setUp(self) -> None:
        super().setUp()
        self.daemon = self.served()
        self._parts_before = frozenset(self.daemon.parts())

    def served(self) -> Daemon:
        """The server, running."""
        return Daemon(self, text=None, **self.keys(self)).started()

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        """What the config file says. *house* looks after what is started for it."""
        return {}

    def part(self) -> Path:
        """Where the server keeps the one upload that the test has begun and not finished."""
        [part] = wait_until(lambda: frozenset(self.daemon.parts()) - self._parts_before, "an upload has begun")
        return part

    def arrived(self, size_bytes: int) -> None:
        """Wait until that much of it is in the server's hands, durable or not."""
        wait_until(lambda: self.part().stat().st_size >= size_bytes, "the bytes arrive")


class SharedTestCase(ServedTestCase):
    """A test whose class has one server for all of its tests. (Trial doesn't know ``setUpClass``.)

    The server is started for the first test, and ended after the last one that was loaded.
    """

    _house: ClassVar[House | None] = None
    _daemon: ClassVar[Daemon | None] = None
    _left = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._house, cls._daemon, cls._left = None, None, 0

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        type(self)._left += 1

    def run(self, result: Any = None) -> None:
        try:
            super().run(result)
        finally:
            type(self)._left -= 1
            if self._house is not None and type(self)._left <= 0:
                house, type(self)._house, type(self)._daemon = self._house, None, None
                house.close()

    def served(self) -> Daemon:
        cls = type(self)
        if cls._house is None:
            cls._house = House()
        if cls._daemon is None or not cls._daemon.process.running:
            cls._daemon = Daemon(cls._house, text=None, **self.keys(cls._house)).started()
        # Shown if this test fails, and not ended with it.
        self._processes.append(cls._daemon.process)
        return cls._daemon


if TYPE_CHECKING:
    _Case = ServedTestCase
else:
    _Case = object


class OnRedis(_Case):
    """For a test case: its server keeps what it knows of uploads in a Redis.

    :ivar redis: that Redis, if the server is the test's own.
    """

    needs: ClassVar[tuple[str, ...]] = ("redis",)

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        self.redis = Redis(house)
        return {**super().keys(house), "RedisAddr": f"unix:{self.redis.socket}"}
