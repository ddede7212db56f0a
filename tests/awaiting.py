"""Tests that are coroutine functions, on every Twisted."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase


class AwaitedTestCase(TestCase):
    """Awaits tests that are coroutine functions. Trial of Twisted 22.4 would call them, and count them as passed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in filter(re.compile("test").match, dir(cls)):
            method = getattr(cls, name)
            if inspect.iscoroutinefunction(method):
                setattr(cls, name, _awaited(method))


def _awaited(test: Callable[[Any], Coroutine[Deferred[Any], Any, None]]) -> Callable[[Any], Deferred[None]]:
    @functools.wraps(test)
    def run(case: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(test(case))

    return run
