"""What a read into more memory than comes costs, on glibc; when garbage is looked for."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from hmacfs.net.heap import loading

_READS = 1000

_READER = f"""
import resource, socket, sys
from hmacfs.net.heap import keep_on_heap

keep_on_heap(int(sys.argv[1]))
ours, theirs = socket.socketpair()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({_READS}):
    theirs.send(b"some")
    ours.recv(1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(size_bytes: int) -> int:
    """How many pages a process has to be given for its reads, each of which asks for 1 MiB."""
    argv = [sys.executable, "-c", _READER, str(size_bytes)]
    return int(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)


class HeapTests(SynchronousTestCase):
    """:func:`~hmacfs.net.heap.keep_on_heap`."""

    def test_no_new_memory_for_each_read(self) -> None:
        """After it, blocks of that size are used again."""
        if platform.libc_ver()[0] != "glibc":
            raise SkipTest("it is about glibc")
        self.assertGreater(faults(0), _READS)
        self.assertLess(faults(2 << 20), _READS // 10)


class LoadingTests(SynchronousTestCase):
    """:func:`~hmacfs.net.heap.loading`."""

    def setUp(self) -> None:
        self.addCleanup(gc.unfreeze)

    def test_garbage_is_not_looked_for_meanwhile(self) -> None:
        with loading():
            self.assertFalse(gc.isenabled())
        self.assertTrue(gc.isenabled())

    def test_nor_later_among_what_was_made(self) -> None:
        with loading():
            made: list[list[int]] = [[] for _ in range(1000)]
        self.assertGreaterEqual(gc.get_freeze_count(), len(made))

    def test_it_is_looked_for_after_a_failure(self) -> None:
        with self.assertRaises(ImportError), loading():
            raise ImportError
        self.assertTrue(gc.isenabled())
