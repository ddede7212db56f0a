"""Finding signature parameters in a query string."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.query import parse_query
from hmacfs.errors import Refused

NAMES = ("v", "v2", "v3", "token", "expires")


class ParseQueryTests(SynchronousTestCase):
    def test_each_parameter(self) -> None:
        for name in NAMES:
            self.assertEqual(parse_query(f"{name}=abc".encode()).given, {name: b"abc"})

    def test_among_others(self) -> None:
        self.assertEqual(parse_query(b"a=1&v=x&v22=2&b").given, {"v": b"x"})

    def test_names_are_compared_whole(self) -> None:
        """The nginx module's pattern finds ``v=`` in ``xv=``, too."""
        for query in (b"xv=1", b"xv2=1", b"V=1", b"v =1", b"vv=1", b"a?v=1", b"a;v=1", b"", b"&&", b"=v"):
            self.assertEqual(parse_query(query).given, {}, query)

    def test_percent_decoding(self) -> None:
        """Of names and values, once."""
        self.assertEqual(parse_query(b"%76=%61%2562").given, {"v": b"a%62"})

    def test_plus_is_a_plus(self) -> None:
        self.assertEqual(parse_query(b"v=a+b").given, {"v": b"a+b"})

    def test_only_the_first_equals_sign_separates(self) -> None:
        self.assertEqual(parse_query(b"token=YWJj=").given, {"token": b"YWJj="})

    def test_without_a_value(self) -> None:
        """It is there, so nothing lower counts in its place."""
        self.assertEqual(parse_query(b"v=x&v2").highest(False), ("v2", b""))

    def test_twice_is_refused(self) -> None:
        """However it is written, and whether or not the values are the same."""
        for query in (b"v=a&v=b", b"v=a&v=a", b"v=a&%76=b", b"v2=&x=1&v2", b"expires=1&expires=2&v3=a"):
            refused = self.assertRaises(Refused, parse_query, query)
            self.assertEqual((refused.status, refused.reason), (400, "bad-query"))

    def test_other_parameters_may_be_there_twice(self) -> None:
        self.assertEqual(parse_query(b"x=1&x=2&v=a").given, {"v": b"a"})

    def test_is_not_shown(self) -> None:
        self.assertNotIn("abc", repr(parse_query(b"v=abc")))

    @given(st.binary(max_size=60))
    def test_any_bytes_are_parsed_or_refused(self, query: bytes) -> None:
        try:
            found = parse_query(query).given
        except Refused as refused:
            self.assertEqual(refused.reason, "bad-query")
        else:
            self.assertLessEqual(set(found), set(NAMES))

    @given(st.dictionaries(st.sampled_from(NAMES), st.binary()), st.lists(st.sampled_from(["x=1", "", "xv=2"])))
    def test_round_trip(self, given_: dict[str, bytes], noise: list[str]) -> None:
        """Whatever the values are, and whatever stands between them."""
        pairs = [f"{name}={quote_from_bytes(value, safe='')}" for name, value in given_.items()]
        self.assertEqual(parse_query("&".join([*noise, *pairs, *noise]).encode()).given, given_)


class HighestVersionTests(SynchronousTestCase):
    def test_order(self) -> None:
        query = parse_query(b"v=1&token=2&v2=3&v3=4&expires=5")
        self.assertEqual(query.highest(True), ("v3", b"4"))
        self.assertEqual(query.highest(False), ("v2", b"3"))
        self.assertEqual(parse_query(b"v=1&token=2").highest(True), ("token", b"2"))
        self.assertEqual(parse_query(b"v=1").highest(True), ("v", b"1"))

    def test_none(self) -> None:
        self.assertIsNone(parse_query(b"expires=5&x=1").highest(True))
        self.assertIsNone(parse_query(b"v3=4&expires=5").highest(False))
