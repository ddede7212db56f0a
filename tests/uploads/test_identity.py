"""What tells one upload from another."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.errors import Refused, StartError
from hmacfs.uploads.identity import ID_LENGTH, UploadName, check_token, new_token, server_key, upload_id

KEY = bytes(range(32))
SIGNATURE = b"s" * 32


class ServerKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_same_for_every_process(self) -> None:
        """Whoever asks second gets what the first one made."""
        self.assertEqual(server_key(self.directory), server_key(self.directory))

    def test_unlike_any_other(self) -> None:
        """Two stores have two keys, of 32 bytes."""
        other = self.directory / "other"
        other.mkdir()
        self.assertNotEqual(server_key(self.directory), server_key(other))
        self.assertEqual(len(server_key(other)), 32)

    def test_nobody_else_may_read_it(self) -> None:
        """The file has mode 0600."""
        server_key(self.directory)
        mode = (self.directory / "server.key").stat().st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_interrupted_making_is_made_good(self) -> None:
        """A process that died before it wrote the key leaves an empty file: the next one fills it."""
        (self.directory / "server.key").touch()
        self.assertEqual(len(server_key(self.directory)), 32)

    def test_damaged_file_is_named(self) -> None:
        """A key of another length isn't used; the operator reads which file it is and what removing it costs."""
        (self.directory / "server.key").write_bytes(b"short")
        error = self.assertRaises(StartError, server_key, self.directory)
        self.assertIn("server.key: expected 32 bytes. Remove the file", str(error))

    def test_missing_directory_is_named(self) -> None:
        """Where the file can't be had the operator reads which and why."""
        error = self.assertRaises(StartError, server_key, self.directory / "gone")
        self.assertIn("gone/server.key: No such file or directory", str(error))


class UploadIdTests(SynchronousTestCase):
    @given(st.binary(max_size=60), st.binary(min_size=32, max_size=32))
    def test_is_a_name(self, path: bytes, signature: bytes) -> None:
        """It can be part of a file's name and of a Redis key, whatever the path was."""
        self.assertRegex(upload_id(KEY, path, signature), r"\A[A-Za-z0-9_-]{32}\Z")

    def test_fixed(self) -> None:
        """It never changes between versions: unfinished uploads outlive an upgrade."""
        self.assertEqual(upload_id(KEY, b"a/photo.jpg", SIGNATURE), "4LuCVwH45lEgbLIucjWtEFM5YXgdgeQm")

    def test_every_part_counts(self) -> None:
        """Another server, another path or another credential is another upload."""
        ids = {
            upload_id(KEY, b"a/b", SIGNATURE),
            upload_id(KEY[::-1], b"a/b", SIGNATURE),
            upload_id(KEY, b"a/c", SIGNATURE),
            upload_id(KEY, b"a/b", b"t" * 32),
        }
        self.assertEqual(len(ids), 4)


class TokenTests(SynchronousTestCase):
    @given(st.from_regex(r"\A[A-Za-z0-9._~-]{8,128}\Z"))
    def test_accepted_as_it_is(self, token: str) -> None:
        """Any 8 to 128 unreserved characters (RFC 3986 section 2.3) are a token."""
        self.assertEqual(check_token(token.encode()), token)

    @given(st.binary(max_size=200).filter(lambda value: not re.fullmatch(rb"[A-Za-z0-9._~-]{8,128}", value)))
    def test_anything_else_is_refused(self, value: bytes) -> None:
        """Too short, too long, a space, a line break, a byte that isn't ASCII: 400."""
        refused = self.assertRaises(Refused, check_token, value)
        self.assertEqual((refused.status, refused.reason), (400, "bad-session-token"))

    def test_line_break_at_the_end(self) -> None:
        """What looks like a token up to its last byte is none."""
        self.assertRaises(Refused, check_token, b"tok-00000001\n")

    def test_refusal_does_not_repeat_it(self) -> None:
        """The token goes into no answer and no log line."""
        self.assertNotIn("short", str(self.assertRaises(Refused, check_token, b"short")))

    def test_own_tokens_are_tokens(self) -> None:
        """What a client gets when it brought none is accepted when it comes back, and never given out twice."""
        tokens = {new_token() for _ in range(100)}
        self.assertEqual(len(tokens), 100)
        for token in tokens:
            self.assertEqual(check_token(token.encode()), token)


class UploadNameTests(SynchronousTestCase):
    """What an upload is called in URLs."""

    @given(st.binary(), st.binary(), st.integers(1, 10**15 - 1))
    def test_round_trip(self, path: bytes, signature: bytes, generation: int) -> None:
        name = UploadName(upload_id(KEY, path, signature), generation)
        self.assertEqual(UploadName.parse(str(name).encode()), name)

    @given(st.binary(max_size=60) | st.from_regex(rb"[A-Za-z0-9_-]{31,33}-[0-9]{0,16}", fullmatch=True))
    def test_anything(self, text: bytes) -> None:
        """There is one way to write a name, and whatever isn't one is none."""
        name = UploadName.parse(text)
        if name is not None:
            self.assertEqual(str(name).encode(), text)
            self.assertEqual((len(name.uid), name.generation > 0), (ID_LENGTH, True))

    def test_malformed(self) -> None:
        uid = b"a" * ID_LENGTH
        for text in (
            b"",
            uid,
            uid + b"-",
            uid + b"-0",
            uid + b"-01",
            uid + b"-1 ",
            uid + b"-1\n",
            uid + b"-" + b"1" * 16,
        ):
            self.assertIsNone(UploadName.parse(text))
