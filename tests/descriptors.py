"""Whether what is tested leaves files open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import TestCase


@contextmanager
def none_left_open(case: TestCase) -> Iterator[None]:
    """Fail unless as many files are open afterwards as before. What other tests have left to the collector waits."""
    collects = gc.isenabled()
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        yield
        case.assertEqual(len(os.listdir("/proc/self/fd")), len(before))
    finally:
        if collects:
            gc.enable()
