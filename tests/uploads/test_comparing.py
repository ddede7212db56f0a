"""A body that is compared with what is stored."""

from __future__ import annotations

import os
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.net.threads import InlineThreads, Threads
from hmacfs.uploads.beside import HIGH_WATER_BYTES
from hmacfs.uploads.body import ContentMismatch
from hmacfs.uploads.comparing import Comparison, same_content
from hmacfs.uploads.digests import Digest, StatedDigests
from hmacfs.uploads.exchange import Hooks, Receipt
from hmacfs.uploads.request import UploadRequest
from tests.uploads.asking import OngoingTestCase
from tests.uploads.support import Body, begun
from tests.uploads.test_beside import HeldThreads
from tests.web.support import PATH

CONTENT = bytes(range(100))


class ComparisonCase(SynchronousTestCase):
    def open(self, content: bytes) -> int:
        path = Path(self.mktemp())
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return fd

    def compare(
        self, stored: bytes, start: int, end: int, threads: Threads | None = None
    ) -> tuple[Body, Deferred[None]]:
        body = Body()
        comparison = Comparison(self.open(stored), start, end, threads or InlineThreads(), lambda _size: None)
        return body, begun(comparison.receive(body))


class ComparisonTests(ComparisonCase):
    """While it arrives."""

    def test_same(self) -> None:
        body, result = self.compare(CONTENT, 0, 100)
        body.send(CONTENT[:33], CONTENT[33:])
        body.end()
        self.successResultOf(result)

    def test_same_part(self) -> None:
        """Compared where it belongs."""
        body, result = self.compare(CONTENT, 40, 60)
        body.send(CONTENT[40:60])
        body.end()
        self.successResultOf(result)

    def test_different(self) -> None:
        """Told as soon as it is known, with the place."""
        body, result = self.compare(CONTENT, 40, 100)
        body.send(CONTENT[40:50], b"\xff")
        body.send(CONTENT[51:])
        error = self.failureResultOf(result, ContentMismatch).value
        assert isinstance(error, ContentMismatch)
        self.assertEqual((error.at, body.stopped), (50, True))

    def test_different_in_the_last_byte(self) -> None:
        body, result = self.compare(CONTENT, 0, 100)
        body.send(CONTENT[:-1] + b"\xff")
        body.end()
        self.failureResultOf(result, ContentMismatch)

    def test_stored_file_is_shorter(self) -> None:
        body, result = self.compare(CONTENT[:50], 0, 100)
        body.send(CONTENT)
        body.end()
        self.failureResultOf(result, ContentMismatch)

    def test_short_body(self) -> None:
        """Bytes that are the same as far as they go are not the file."""
        body, result = self.compare(CONTENT, 0, 100)
        body.send(CONTENT[:50])
        body.end()
        self.failureResultOf(result, Refused)

    def test_sender_waits_for_the_disk(self) -> None:
        """What arrives faster than it can be compared does not pile up."""
        threads = HeldThreads()
        size = HIGH_WATER_BYTES + 1
        body, _ = self.compare(bytes(size), 0, size, threads)
        body.send(bytes(size))
        self.assertTrue(body.paused)
        threads.finish()
        self.assertFalse(body.paused)

    def test_file_is_left_alone(self) -> None:
        """When the comparison is over no thread reads the file any more: its descriptor may be closed."""
        threads = HeldThreads()
        body, result = self.compare(CONTENT, 0, 100, threads)
        body.send(CONTENT[:50])
        body.end(ConnectionDone())
        self.assertNoResult(result)
        threads.finish()
        self.failureResultOf(result, ConnectionDone)

    @given(st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 40)))
    def test_any(self, stored: bytes, sent: bytes, cuts: list[int]) -> None:
        """Same is what is the same byte for byte, however it is cut."""
        body, result = self.compare(stored, 0, len(sent))
        edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
        body.send(*(sent[a:b] for a, b in pairwise(edges)))
        body.end()
        if stored.startswith(sent):
            self.successResultOf(result)
        else:
            self.failureResultOf(result, ContentMismatch)


class SameContentTests(ComparisonCase):
    """Two files that are there."""

    def test_same(self) -> None:
        large = os.urandom(3_000_000)
        self.assertTrue(same_content(self.open(large), self.open(large), len(large)))
        self.assertTrue(same_content(self.open(b""), self.open(b""), 0))

    def test_different(self) -> None:
        """Wherever the difference is."""
        large = bytes(3_000_000)
        for at in (0, 1_048_575, 1_048_576, 2_999_999):
            other = large[:at] + b"x" + large[at + 1 :]
            self.assertFalse(same_content(self.open(large), self.open(other), len(large)), at)


class RepeatsTests(OngoingTestCase):
    """The file of a slot is stored, and somebody sends one."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.put())

    def again(self, request: UploadRequest) -> tuple[Body, Deferred[Receipt]]:
        body = Body()
        return body, begun(self.server.uploads.receive(self.slot(), request, body, Hooks()))

    def test_same(self) -> None:
        """As good as stored just now, and nothing is written."""
        receipt = self.successResultOf(self.put())
        assert receipt.stored is not None
        self.assertEqual((receipt.offset, receipt.name, len(self.server.published)), (100, None, 1))

    def test_other(self) -> None:
        self.assert_refused_with(self.put(content=bytes(100)), 409, "conflict")
        self.assertEqual(self.get(PATH), CONTENT)

    def test_stated_digest(self) -> None:
        """If that is all there is to know, the body isn't asked for."""
        for content, same in ((CONTENT, True), (bytes(100), False)):
            stated = StatedDigests(representation=(Digest("sha256", sha256(content).digest()),))
            body, result = self.again(UploadRequest(100, None, None, stated))
            self.assertFalse(body.wanted)
            if same:
                self.successResultOf(result)
            else:
                self.assert_refused_with(result, 409, "conflict")

    def test_begun_anew_without_bytes(self) -> None:
        """Nothing tells whether it would be the same file."""
        self.assert_refused_with(self.creating(0)[1], 409, "conflict")

    def test_begun_anew(self) -> None:
        """With its bytes: the upload is over, and has a name nevertheless."""
        body, result = self.creating(100)
        body.send(CONTENT)
        body.end()
        receipt = self.successResultOf(result)
        assert receipt.stored is not None
        self.assertIsNotNone(receipt.name)
