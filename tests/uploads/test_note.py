"""What a part file says of its upload."""

from __future__ import annotations

import errno
import json
import math
import os

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.parts import NOTE_ATTRIBUTE
from hmacfs.uploads.note import decode, encode, read_note, write_note
from hmacfs.uploads.state import NewUpload
from tests.storage.support import FACTS, StoreTestCase
from tests.uploads.support import UID, UPLOAD

SIZES = st.integers(0, 2**60)
UPLOADS = st.builds(
    NewUpload,
    uid=st.text("abcXYZ019-_", min_size=1),
    path=st.binary(),
    signature=st.binary(min_size=32, max_size=32),
    token=st.text("abcXYZ019-_.~", min_size=8),
    content_type=st.text(),
    total=st.none() | SIZES,
    owner=st.none() | st.text(),
    file_expires=st.none() | st.floats(0, 1e12),
    offset=SIZES,
    generation=st.integers(1, 1000),
    metadata=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
)


class FormTests(SynchronousTestCase):
    """Its text."""

    @given(UPLOADS)
    def test_round_trip(self, upload: NewUpload) -> None:
        """All of an upload is in it."""
        self.assertEqual(decode(encode(upload)), upload)

    def test_hash_state_is_left_out(self) -> None:
        """The state store keeps that with the offset that it is of; from a note the prefix is read again."""
        self.assertEqual(decode(encode(evolve(UPLOAD, hash_state=b"x"))), UPLOAD)

    def test_fits(self) -> None:
        """A file system may have no more room than a block for all attributes of a file."""
        longest = evolve(UPLOAD, path=b"x" * 400, token="t" * 128, content_type="c" * 255, owner="o" * 200)
        self.assertLess(len(encode(longest)), 2048)

    @given(st.binary())
    def test_garbage(self, encoded: bytes) -> None:
        """Whatever we didn't write is no note."""
        self.assertIsNone(decode(encoded))

    def test_nearly_right(self) -> None:
        """Of another version, with something missing, or of another type."""
        fields = json.loads(encode(UPLOAD))
        for wrong in (
            *({**fields, "v": version} for version in (0, 2, None)),
            *({key: value for key, value in fields.items() if key != name} for name in fields),
            {**fields, "path": "xy"},
            {**fields, "signature": 5},
            {**fields, "offset": "many"},
            {**fields, "offset": None},
            {**fields, "total": "x"},
            {**fields, "expires": []},
            {**fields, "expires": math.nan},
            {**fields, "expires": math.inf},
            [fields],
            "x",
            5,
            None,
        ):
            self.assertIsNone(decode(json.dumps(wrong).encode()), wrong)
        self.assertIsNone(decode(b"[" * 100_000))


class AttributeTests(StoreTestCase):
    """Where it is kept."""

    def test_with_the_part(self) -> None:
        """Another process finds it there."""
        part = self.store.begin(UID)
        write_note(part, UPLOAD)
        part.close()
        again = self.open_store().reopen(UID)
        self.addCleanup(again.close)
        self.assertEqual(read_note(again), UPLOAD)

    def test_newest_counts(self) -> None:
        part = self.store.begin(UID)
        self.addCleanup(part.close)
        write_note(part, UPLOAD)
        write_note(part, evolve(UPLOAD, offset=50))
        self.assertEqual(read_note(part), evolve(UPLOAD, offset=50))

    def test_none(self) -> None:
        part = self.store.begin(UID)
        self.addCleanup(part.close)
        self.assertIsNone(read_note(part))

    def test_no_place_for_it(self) -> None:
        """A file system without attributes costs a resumption, not the upload."""
        part = self.store.begin(UID)
        self.addCleanup(part.close)
        self.disk.fail("set_attribute", errno.ENOTSUP)
        write_note(part, UPLOAD)
        self.assertIsNone(read_note(part))

    def test_not_with_the_file(self) -> None:
        """What is published says nothing of how its upload could go on."""
        part = self.store.begin(UID)
        write_note(part, UPLOAD)
        self.store.publish(part, self.path("a/b"), FACTS)
        self.assertNotIn(NOTE_ATTRIBUTE, os.listxattr(self.root / "a" / "b"))
