"""``hmacfs stats`` and ``hmacfs verify``."""

from __future__ import annotations

import hashlib
import json
import os
import time

from tests.cli.storing import DAY_S, StoredTestCase


class StatsTests(StoredTestCase):
    """How many files, of which age, type and size."""

    def setUp(self) -> None:
        super().setUp()
        now = time.time()
        self.put("slot1/a.png", b"1" * 5, uploaded=now - 3600)
        self.put("slot2/b.png", b"1" * 20_000, uploaded=now - 5 * DAY_S, owner="alice@example.org")
        self.put("slot3/c.mp4", b"1" * 200_000, uploaded=now - 400 * DAY_S, content_type="Video/MP4; codecs=x")
        self.scan()

    def test_groups(self) -> None:
        (stats,) = self.json_of("stats", words=1)
        self.assertEqual((stats["files"], stats["bytes"]), (3, 220_005))
        self.assertEqual(
            {name: each["files"] for name, each in stats["by_age"].items()},
            {"under a day": 1, "under a week": 1, "older": 1},
        )
        self.assertEqual(stats["by_size"]["under 1 MB"], {"files": 1, "bytes": 200_000})
        self.assertEqual(
            stats["by_type"], {"image/png": {"files": 2, "bytes": 20_005}, "video/mp4": {"files": 1, "bytes": 200_000}}
        )

    def test_some_of_them(self) -> None:
        (stats,) = self.json_of("stats", "--user", "alice@example.org", words=1)
        self.assertEqual(stats["files"], 1)

    def test_for_people(self) -> None:
        """The longest bar stands for the most bytes."""
        status, out, _ = self.run_it("stats", words=1)
        self.assertEqual(status, 0)
        self.assertIn("3 files, 220.0 kB", out)
        bars = {line.split("  ")[0]: line.count("#") for line in out.splitlines()}
        self.assertEqual((bars["video/mp4"], bars["image/png"], bars["under a day"]), (30, 3, 0))

    def test_many_types(self) -> None:
        """Those that take little are one."""
        for number in range(20):
            self.put(f"slot{number}/x", b"1" * (30 + number), content_type=f"x/type{number}")
        self.scan()
        _, out, _ = self.run_it("stats", words=1)
        self.assertIn("others", out)
        self.assertNotIn("x/type0 ", out)

    def test_empty_store(self) -> None:
        (self.root / "slot1" / "a.png").unlink()
        self.assertEqual(self.run_it("stats", "--user", "nobody", words=1)[0], 0)


class VerifyTests(StoredTestCase):
    """Files are read again."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("a", "b"):
            content = name.encode() * 3_000_000
            self.put(f"slot/{name}", content, sha256=hashlib.sha256(content).digest())
        self.put("slot/unknown", sha256=None)
        self.scan()

    def test_all_well(self) -> None:
        status, out, _ = self.run_it("verify", "--rate", "0", words=1)
        self.assertEqual(status, 0)
        self.assertEqual(
            out, "2 files are as they were uploaded; 0 are not, 0 can't be read; of 1 the SHA-256 isn't known.\n"
        )

    def test_bit_rot(self) -> None:
        """One bit, and the time of change as it was."""
        path = self.root / "slot" / "b"
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(2_500_000)
            file.write(b"c")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        code, out, _ = self.run_it("verify", "--rate", "0", "--json", words=1)
        self.assertEqual(code, 1)
        bad, result = map(json.loads, out.splitlines())
        self.assertEqual(bad, {"path": "slot/b", "is": "bad"})
        self.assertEqual(result["result"], {"good": 1, "without_digest": 1, "bad": 1, "unreadable": 0})
        self.assertIn("slot/b: isn't what was uploaded", self.run_it("verify", "--rate", "0", words=1)[1])

    def test_bad_sector(self) -> None:
        """One file that can't be read doesn't keep the others from being looked at."""
        real, reads = os.pread, []

        def pread(fd: int, size: int, offset: int) -> bytes:
            reads.append(offset)
            if len(reads) == 1:
                raise OSError(5, "Input/output error")
            return real(fd, size, offset)

        self.patch(os, "pread", pread)
        status, out, _ = self.run_it("verify", "--rate", "0", words=1)
        self.assertEqual(status, 1)
        self.assertIn("1 can't be read", out)
        self.assertIn("1 file is as it was", out)
