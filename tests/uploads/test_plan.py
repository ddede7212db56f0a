from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from hmacfs.errors import Refused
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.plan import Plan, plan
from hmacfs.uploads.request import Append, Part, UploadRequest

TOTAL = 100


def asked(length: int | None, *, content_range: bytes | None = None, token: bytes | None = None) -> UploadRequest:
    headers = Headers()
    if content_range is not None:
        headers.setRawHeaders(b"content-range", [content_range])
    if token is not None:
        headers.setRawHeaders(b"x-session-token", [token])
    return UploadRequest.from_headers(headers, length)


class PlanTests(SynchronousTestCase):
    """Where a body belongs: the rows of the contract."""

    def refused(self, request: UploadRequest, offset: int) -> Refused:
        with self.assertRaises(Refused) as caught:
            plan(request, TOTAL, offset)
        return caught.exception

    def test_whole_body(self) -> None:
        """It may always be sent again; what is there is compared."""
        for offset in (0, 40, TOTAL):
            self.assertEqual(plan(asked(TOTAL), TOTAL, offset), Plan(0, TOTAL, restarts=True))

    def test_chunked(self) -> None:
        """A body without a length is the whole file."""
        self.assertEqual(plan(asked(None), TOTAL, 40), Plan(0, TOTAL, restarts=True))

    def test_rest(self) -> None:
        """A part that begins where the upload is."""
        request = asked(60, content_range=b"bytes 40-99/100")
        self.assertEqual(plan(request, TOTAL, 40), Plan(40, 100, restarts=False))

    def test_part_in_the_middle(self) -> None:
        request = asked(10, content_range=b"bytes 40-49/100")
        self.assertEqual(plan(request, TOTAL, 40), Plan(40, 50, restarts=False))

    def test_overlap(self) -> None:
        """A part may begin before: those bytes are compared, and a difference is the client's error."""
        request = asked(80, content_range=b"bytes 20-99/100")
        self.assertEqual(plan(request, TOTAL, 40), Plan(20, 100, restarts=False))

    def test_query(self) -> None:
        """Who asks how far it is brings nothing; if all of it is here, that is the end."""
        for offset in (0, 40, TOTAL):
            self.assertEqual(
                plan(asked(0, content_range=b"bytes */100"), TOTAL, offset), Plan(offset, offset, restarts=False)
            )

    def test_gap(self) -> None:
        """A part that begins later is refused, and the client told where the upload is."""
        refused = self.refused(asked(50, content_range=b"bytes 50-99/100"), 40)
        self.assertEqual((refused.status, refused.reason), (409, "offset-mismatch"))
        self.assertEqual(refused.headers["Upload-Offset"], "40")
        self.assertEqual((refused.members["expected-offset"], refused.members["provided-offset"]), (40, 50))

    def test_other_total(self) -> None:
        """What is signed is the size of the whole file."""
        refused = self.refused(asked(50, content_range=b"bytes 0-49/50"), 0)
        self.assertEqual((refused.status, refused.reason), (400, "bad-range"))

    def test_unannounced_rest(self) -> None:
        """With a token, a body as long as what is missing is the rest."""
        self.assertEqual(plan(asked(60, token=b"tok-0001"), TOTAL, 40), Plan(40, 100, restarts=False))

    def test_unannounced_rest_without_token(self) -> None:
        """Without one it is an accident."""
        refused = self.refused(asked(60), 40)
        self.assertEqual((refused.status, refused.headers["Upload-Offset"]), (409, "40"))

    def test_neither_whole_nor_rest(self) -> None:
        self.assertEqual(self.refused(asked(61, token=b"tok-0001"), 40).status, 409)

    @given(
        st.one_of(st.none(), st.integers(0, 120)),
        st.one_of(st.none(), st.tuples(st.integers(0, 120), st.integers(0, 120), st.integers(0, 120))),
        st.booleans(),
        st.integers(0, TOTAL),
    )
    def test_never_a_hole(
        self, length: int | None, part: tuple[int, int, int] | None, has_token: bool, offset: int
    ) -> None:
        """Whatever is asked, a body begins at or before what is there, and ends within the file."""
        content_range = None if part is None else b"bytes %d-%d/%d" % part
        try:
            request = asked(length, content_range=content_range, token=b"tok-0001" if has_token else None)
            placed = plan(request, TOTAL, offset)
        except Refused as refused:
            self.assertIn(refused.status, (400, 409))
            return
        self.assertTrue(0 <= placed.start <= offset)
        self.assertTrue(placed.start <= placed.end <= TOTAL)
        if length is not None:
            self.assertEqual(placed.size, length)


class UploadRequestTests(SynchronousTestCase):
    """What the headers of a PUT say."""

    def refused(self, headers: dict[bytes, bytes], length: int | None) -> Refused:
        with self.assertRaises(Refused) as caught:
            UploadRequest.from_headers(Headers({name: [value] for name, value in headers.items()}), length)
        return caught.exception

    def test_query(self) -> None:
        """``*`` asks how far the upload is."""
        request = asked(0, content_range=b"bytes */100")
        self.assertEqual(request.part, Part(0, 0, 100))
        self.assertEqual(request.total, 100)
        self.assertTrue(request.relies_on_offset(100))

    def test_lftp(self) -> None:
        """lftp says ``Range`` where it means ``Content-Range``."""
        request = UploadRequest.from_headers(Headers({b"range": [b"bytes=40-99/100"]}), 60)
        self.assertEqual(request.part, Part(40, 60, 100))

    def test_other_range_on_put(self) -> None:
        """It is never ignored: the bytes would go to the wrong place."""
        self.assertEqual(self.refused({b"range": b"bytes=40-"}, 60).status, 400)

    def test_malformed_content_range(self) -> None:
        for value in (b"bytes 0-99", b"bytes 99-0/100", b"bytes 0-100/100", b"bytes 0-9/*", b"items 0-9/10", b""):
            self.assertEqual(self.refused({b"content-range": value}, 10).reason, "bad-range", value)

    def test_length_contradicts(self) -> None:
        self.assertEqual(self.refused({b"content-range": b"bytes 0-9/100"}, 11).reason, "bad-range")

    def test_bad_token(self) -> None:
        """A token that could not be echoed or logged safely."""
        for value in (b"short", b"a b c d e f g h", b"x" * 129):
            self.assertEqual(self.refused({b"x-session-token": value}, 10).status, 400, value)

    def test_relies_on_offset(self) -> None:
        """Who sends the file from its first byte relies on nothing."""
        self.assertFalse(asked(TOTAL).relies_on_offset(TOTAL))
        self.assertFalse(asked(None).relies_on_offset(TOTAL))
        self.assertFalse(asked(TOTAL, content_range=b"bytes 0-99/100").relies_on_offset(TOTAL))
        self.assertTrue(asked(60, content_range=b"bytes 40-99/100").relies_on_offset(TOTAL))
        self.assertTrue(asked(60, token=b"tok-0001").relies_on_offset(TOTAL))


class AppendTests(SynchronousTestCase):
    """Bodies that go on exactly where the upload is."""

    def plan(self, length: int | None, offset: int, append: Append) -> Plan | str:
        try:
            return plan(UploadRequest(length, None, None, StatedDigests(), append), TOTAL, offset)
        except Refused as refused:
            return f"{refused.status} {refused.reason}"

    def test_placed(self) -> None:
        """By their length; without one they may end wherever they like, unless they say that they are the last."""
        for length, append, expected in (
            (20, Append(40), Plan(40, 60, restarts=False)),
            (60, Append(40), Plan(40, 100, restarts=False)),
            (60, Append(40, last=True), Plan(40, 100, restarts=False)),
            (0, Append(40), Plan(40, 40, restarts=False)),
            (None, Append(40), Plan(40, 100, restarts=False, is_open=True)),
            (None, Append(40, last=False), Plan(40, 100, restarts=False, is_open=True)),
            (None, Append(40, last=True), Plan(40, 100, restarts=False)),
        ):
            self.assertEqual(self.plan(length, 40, append), expected)

    def test_refused(self) -> None:
        for length, append, expected in (
            (61, Append(40), "413 size-mismatch"),
            (59, Append(40, last=True), "413 size-mismatch"),
            (10, Append(40, total=99), "413 size-mismatch"),
            (10, Append(39), "409 offset-mismatch"),
            (10, Append(41), "409 offset-mismatch"),
            (None, Append(0), "409 offset-mismatch"),
        ):
            self.assertEqual(self.plan(length, 40, append), expected)

    @given(st.none() | st.integers(0, 2 * TOTAL), st.integers(0, TOTAL), st.integers(0, 2 * TOTAL))
    def test_never_elsewhere(self, length: int | None, offset: int, claimed: int) -> None:
        """Whatever is claimed, nothing is put anywhere but where the upload is, and nothing beyond the file's end."""
        placed = self.plan(length, offset, Append(claimed))
        if isinstance(placed, Plan):
            self.assertEqual((placed.start, claimed), (offset, offset))
            self.assertTrue(placed.start <= placed.end <= TOTAL)
