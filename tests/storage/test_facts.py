from __future__ import annotations

import json

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused
from hmacfs.storage.facts import Facts
from tests.storage.support import FACTS

NOW = 1_796_000_000.0

times = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=30)


class EncodingTests(SynchronousTestCase):
    """The text that travels with a file."""

    @given(
        st.builds(
            Facts,
            content_type=texts,
            sha256=st.none() | st.binary(min_size=32, max_size=32),
            owner=st.none() | texts,
            expires=st.none() | times,
            uploaded=times,
            quarantined=st.none() | texts,
            source=st.none() | texts,
        )
    )
    def test_round_trip(self, facts: Facts) -> None:
        """All of it comes back, lone surrogates and negative times too."""
        self.assertEqual(Facts.decode(facts.encode()), facts)

    def test_readable(self) -> None:
        """getfattr shows plain text only where it is printable ASCII; an unknown fact takes no room."""
        facts = Facts(content_type="text/plain", sha256=None, owner="jürgen@example.org", expires=None, uploaded=5.0)
        self.assertEqual(
            facts.encode(), b'{"v":1,"type":"text/plain","owner":"j\\u00fcrgen@example.org","uploaded":5.0}'
        )

    @given(st.binary(max_size=60))
    def test_garbage(self, garbage: bytes) -> None:
        """Whatever stands there, it is never an exception."""
        self.assertIsNone(Facts.decode(garbage))

    def test_garbage_that_is_json(self) -> None:
        """Fields that are missing or of a wrong type, numbers out of range, a nest deeper than the stack."""
        good = json.loads(FACTS.encode())
        self.assertIsNotNone(Facts.decode(json.dumps(good).encode()))
        wrong: list[dict[str, object]] = [
            {"v": 2},
            {"type": None},
            {"type": 7},
            {"sha256": "00"},
            {"sha256": "zz" * 32},
            {"sha256": 5},
            {"owner": ["x"]},
            {"expires": "tomorrow"},
            {"expires": True},
            {"expires": float("nan")},
            {"expires": 10**400},
            {"uploaded": None},
            {"quarantined": True},
            {"source": ["x"]},
        ]
        for fields in wrong:
            self.assertIsNone(Facts.decode(json.dumps({**good, **fields}).encode()), fields)
        for text in (b"null", b"[]", b'"v"', b"1", b"[" * 60_000, b'{"v":1}', b"\xff\xfe"):
            self.assertIsNone(Facts.decode(text), text[:10])

    def test_unknown_fields(self) -> None:
        """Another release may have noted more."""
        self.assertEqual(Facts.decode(FACTS.encode()[:-1] + b',"colour":"blue"}'), FACTS)

    def test_served(self) -> None:
        """Until its very second, and not while the operator has taken it down."""
        facts = Facts("a/b", None, None, NOW, NOW - 9)
        facts.check_served(NOW - 0.1)
        refused = self.assertRaises(Refused, facts.check_served, NOW)
        self.assertEqual((refused.status, refused.reason), (410, "expired"))
        refused = self.assertRaises(Refused, evolve(facts, quarantined="").check_served, NOW - 1)
        self.assertEqual((refused.status, refused.reason), (451, "quarantined"))

    def test_guessed(self) -> None:
        """A file of another server's has the type that its name says and the time of its last change."""
        facts = Facts.guessed(b"cat.JPG", 17.5)
        self.assertEqual(facts, Facts("image/jpeg", None, None, None, 17.5, source="adopted"))
