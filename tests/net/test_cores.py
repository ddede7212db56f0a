"""How many cores there are for us."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.cores import processes, usable_cores


class UsableCoresTests(SynchronousTestCase):
    """By affinity and by the quotas of control groups."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.mounted = self.directory / "cgroup"
        self.mounted.mkdir(parents=True)
        self.groups = self.directory / "own"

    def cores(self, affinity: int, groups: str, **files: str) -> int:
        """
        :param groups: what stands in ``/proc/self/cgroup``.
        :param files: contents of files below ``/sys/fs/cgroup``; in their names, ``__`` is a slash and ``_DOT_`` a dot.
        """
        self.groups.write_text(groups)
        for name, text in files.items():
            file = self.mounted / name.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return usable_cores(affinity, own_groups=self.groups, mounted=self.mounted)

    def test_affinity(self) -> None:
        """Without a quota."""
        self.assertEqual(self.cores(3, ""), 3)
        self.assertEqual(self.cores(3, "0::/a\n", a__cpu_DOT_max="max 100000\n"), 3)

    def test_of_this_machine(self) -> None:
        """No more than it may run on."""
        self.assertIn(usable_cores(), range(1, len(os.sched_getaffinity(0)) + 1))

    def test_quota_is_rounded_up(self) -> None:
        self.assertEqual(self.cores(8, "0::/a\n", a__cpu_DOT_max="150000 100000\n"), 2)

    def test_at_least_one(self) -> None:
        self.assertEqual(self.cores(8, "0::/a\n", a__cpu_DOT_max="1000 100000\n"), 1)

    def test_quota_beyond_affinity(self) -> None:
        self.assertEqual(self.cores(2, "0::/a\n", a__cpu_DOT_max="800000 100000\n"), 2)

    def test_group_above(self) -> None:
        """The least of all groups that we are in."""
        files = {"a__cpu_DOT_max": "200000 100000\n", "a__b__cpu_DOT_max": "max 100000\n"}
        self.assertEqual(self.cores(8, "0::/a/b\n", **files), 2)

    def test_path_of_the_host(self) -> None:
        """In a container, where only the root is to be seen."""
        self.assertEqual(self.cores(8, "0::/docker/8f3a\n", cpu_DOT_max="300000 100000\n"), 3)

    def test_first_version(self) -> None:
        files = {
            "cpu,cpuacct__a__cpu_DOT_cfs_quota_us": "250000\n",
            "cpu,cpuacct__a__cpu_DOT_cfs_period_us": "100000\n",
        }
        self.assertEqual(self.cores(8, "4:memory:/m\n3:cpu,cpuacct:/a\n", **files), 3)

    def test_first_version_without_quota(self) -> None:
        files = {"cpu__cpu_DOT_cfs_quota_us": "-1\n", "cpu__cpu_DOT_cfs_period_us": "100000\n"}
        self.assertEqual(self.cores(8, "3:cpu:/\n", **files), 8)

    def test_no_control_groups(self) -> None:
        """Nothing is known of them, or nothing that makes sense."""
        self.assertEqual(usable_cores(4, own_groups=self.directory / "none", mounted=self.mounted), 4)
        self.assertEqual(self.cores(4, "0::/a\n", a__cpu_DOT_max="what\n"), 4)

    def test_processes(self) -> None:
        """What is configured counts."""
        self.assertEqual((processes(7), processes("auto")), (7, usable_cores()))
