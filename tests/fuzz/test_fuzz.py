"""A little fuzzing with every run of the tests, always of the same examples; and that it would find what it is for."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import hmacfs.access.gate
import hmacfs.web.downloads
from hmacfs.net.heads import Head
from hmacfs.storage.space import Reservation
from hmacfs.web.downloads import Downloads
from hmacfs.web.ranges import ByteRange, parse_range
from tests.fuzz.__main__ import find
from tests.fuzz.connections import ConnectionTarget, scratch_directory
from tests.fuzz.parsers import PARSERS
from tests.fuzz.playground import HIDDEN, Playground
from tests.fuzz.target import Broken, Target, failure_of, kind_of, random_of, shrink_bytes

_SEED = "ci"
_CONNECTIONS = 300
_OF_EACH_PARSER = 150


class ConnectionTests(SynchronousTestCase):
    """The request path."""

    def setUp(self) -> None:
        self.target = ConnectionTarget(scratch_directory())
        self.addCleanup(self.target.close)

    def test_examples(self) -> None:
        """Nothing that must hold is broken by any of them, and they reach what they are for."""
        for number in range(_CONNECTIONS):
            self.assertIsNone(find(self.target, _SEED, number))
        for outcome in ("201", "206", "files stored", "400 malformed-head", "403 bad-signature", "409 offset-mismatch"):
            self.assertGreater(self.target.outcomes[outcome], 0, outcome)

    def test_same_example(self) -> None:
        """An example can be made again from its seed and number."""
        first, again, other = (self.target.make(random_of("connections", _SEED, number)) for number in (1, 1, 2))
        self.assertEqual(self.target.show(first), self.target.show(again))
        self.assertNotEqual(first, other)


class FaultTests(SynchronousTestCase):
    """A server with a fault, which the examples must find soon."""

    def setUp(self) -> None:
        self.target = ConnectionTarget(scratch_directory())
        self.addCleanup(self.target.close)

    def assert_found(self, what: str) -> None:
        """Some example must be broken by *what*."""
        kinds = []
        for number in range(_CONNECTIONS):
            error = failure_of(self.target, self.target.make(random_of("connections", _SEED, number)))
            if error is not None:
                kinds.append(kind_of(error))
                if what in str(error):
                    break
        else:
            self.fail(f"not found; but: {kinds}")
        self.flushLoggedErrors()

    def test_wrong_signature(self) -> None:
        self.patch(hmacfs.access.gate, "is_signed", lambda _text, _given, _secrets: True)
        self.assert_found("never signed")

    def test_wrong_bytes(self) -> None:
        """A range that is off by one."""

        def shifted(header: bytes, total: int) -> ByteRange | None:
            part = parse_range(header, total)
            return part if part is None or part.size < 2 else ByteRange(part.start + 1, part.size - 1)

        self.patch(hmacfs.web.downloads, "parse_range", shifted)
        self.patch(ByteRange, "content_range", lambda part, total: f"bytes {part.start - 1}-{part.start}/{total}")
        self.assert_found("the file")

    def test_bookkeeping(self) -> None:
        """Room that is promised for ever."""
        self.patch(Reservation, "release", lambda _self: None)
        self.assert_found("still promised")

    def test_exception(self) -> None:
        def fail(*_args: Any) -> None:
            raise ValueError("on purpose")

        self.patch(Downloads, "_part", fail)
        self.assert_found("internal")

    def test_smuggling(self) -> None:
        """A head with a length and a coding that is let through."""
        self.patch(Head, "_frame", lambda head, line: setattr(head, "framing", line))
        self.assert_found("answers")


class OracleTests(SynchronousTestCase):
    """What looks after the server."""

    def setUp(self) -> None:
        self.playground = Playground("usual", scratch_directory())
        self.addCleanup(self.playground.close)

    def test_own_directory(self) -> None:
        """Whatever appears beside the store's own files is noticed, and so is what appears outside of the store."""
        for place in (self.playground.root / ".hmacfs", self.playground.root.parent / "outside"):
            self.playground.begin()
            self.playground.check_rest()
            (place / "new").write_bytes(HIDDEN)
            self.assertRaises(Broken, self.playground.check_rest)
            (place / "new").unlink()

    def test_open_file(self) -> None:
        self.playground.begin()
        with (self.playground.root / "secret-link.txt").open("rb"):
            self.assertRaises(Broken, self.playground.check_rest)


class ParserTests(SynchronousTestCase):
    """The single parsers."""

    def test_examples(self) -> None:
        """All of them answer as they promise."""
        for target in PARSERS.values():
            for number in range(_OF_EACH_PARSER):
                self.assertIsNone(find(target, _SEED, number))

    def test_smaller(self) -> None:
        """What is found is made small."""

        class Finds42(type(PARSERS["ranges"])):  # type: ignore[misc]
            pass

        def parse(data: bytes) -> None:
            if b"42" in data:
                raise ValueError("found")

        target: Target = Finds42("forty-two", lambda random: random.randbytes(500) + b"42", parse)
        found = [finding for number in range(5) if (finding := find(target, _SEED, number)) is not None]
        self.assertIn("b'42'", [finding.example for finding in found])
        self.assertIn("--target forty-two --replay ci:", str(found[0]))

    def test_shrinking(self) -> None:
        self.assertEqual(
            shrink_bytes(b"x" * 100 + b"ab" + b"x" * 300, lambda data: b"a" in data and b"b" in data), b"ab"
        )
