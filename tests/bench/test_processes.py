"""CPU time and memory of process trees, of real ones."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from bench.processes import cpu_seconds, memory, tree

#: A parent, whose child has 40 MB and has done some work before it says so.
_FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
kept = b"x" * 40_000_000
while time.process_time() < 0.3:
    sum(range(1000))
print("ready", flush=True)
sys.stdin.read()
'''], stdout=sys.stdout)
child.wait()
"""


class TreeTests(SynchronousTestCase):
    """A process that has started another."""

    def setUp(self) -> None:
        argv = [sys.executable, "-c", _FAMILY]
        self.family = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.family.stdin is not None and self.family.stdout is not None
        self.addCleanup(self.family.stdout.close)
        self.addCleanup(self.family.wait)
        self.addCleanup(self.family.stdin.close)
        self.assertEqual(self.family.stdout.readline(), b"ready\n")

    def test_tree(self) -> None:
        """It and its child, and nobody else."""
        members = tree(self.family.pid)
        self.assertEqual((len(members), members[0]), (2, self.family.pid))
        self.assertNotIn(os.getpid(), members)

    def test_cpu(self) -> None:
        """What the child has done counts."""
        self.assertGreaterEqual(cpu_seconds(self.family.pid), 0.25)

    def test_memory(self) -> None:
        """What the child has counts; a page that both have counts twice in one sum, and not in the other."""
        both = memory(self.family.pid)
        self.assertEqual(both.processes, 2)
        self.assertGreater(both.proportional, 40_000_000)
        self.assertGreater(both.resident, both.proportional)
