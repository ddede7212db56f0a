"""What downloaded files are called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli.exchange import Url
from hmacfs.cli.names import MAX_NAME_BYTES, safe_name, stated_name
from hmacfs.web.fileheaders import disposition

URL = Url.parse("https://x.example/upload/dir/from%20url.jpg?v=1")


class SafeNameTests(SynchronousTestCase):
    """Names that may come from anybody."""

    def test_harmless(self) -> None:
        for name in ("film.mp4", "très cool (1).jpg", "日本語.txt", "a"):
            self.assertEqual(safe_name(name.encode()), name)

    def test_paths(self) -> None:
        """Only the last part counts, on whichever system."""
        for name in (b"/etc/passwd", b"../passwd", b"..\\..\\passwd", b"C:\\passwd"):
            self.assertEqual(safe_name(name), "passwd")

    def test_nothing_left(self) -> None:
        for name in (b"", b".", b"..", b"a/", b"\x00", b" ", b"..."):
            self.assertEqual(safe_name(name), "download")

    def test_hidden(self) -> None:
        """No dot file, and nothing that looks like an option."""
        self.assertEqual((safe_name(b".bashrc"), safe_name(b"-rf")), ("_bashrc", "_rf"))

    def test_invisible(self) -> None:
        self.assertEqual(safe_name("a\x1b\u202eb\n.txt".encode()), "a__b_.txt")

    def test_long(self) -> None:
        """The ending is kept."""
        name = safe_name("é".encode() * 400 + b".jpg")
        self.assertTrue(name.endswith("é.jpg"))
        self.assertLessEqual(len(name.encode()), MAX_NAME_BYTES)
        self.assertLessEqual(len(safe_name(b"a." + b"b" * 400)), MAX_NAME_BYTES)

    @given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_always_a_name(self, name: bytes) -> None:
        safe = safe_name(name)
        self.assertNotIn("/", safe)
        self.assertNotIn(safe[:1], (".", "-", ""))
        self.assertTrue(safe.isprintable())
        self.assertLessEqual(len(safe.encode()), MAX_NAME_BYTES)
        self.assertEqual(safe_name(safe.encode()), safe)


class StatedNameTests(SynchronousTestCase):
    """Where the name comes from."""

    def stated(self, value: str) -> str:
        return stated_name({"Content-Disposition": value}, URL)

    def test_header(self) -> None:
        """The extended form before the plain one (RFC 6266 section 4.3)."""
        self.assertEqual(self.stated("attachment; filename=a.txt"), "a.txt")
        self.assertEqual(self.stated(r'attachment; filename="a \"b\".txt"'), 'a "b".txt')
        self.assertEqual(self.stated("inline; filename=\"b\"; filename*=UTF-8''tr%C3%A8s%2Fc.txt"), "c.txt")

    def test_url(self) -> None:
        for value in ("", "inline", 'attachment; filename=""'):
            self.assertEqual(self.stated(value), "from url.jpg")

    def test_ours(self) -> None:
        """What the server writes is read back."""
        for name in ("film.mp4", "très.jpg", 'quo"te; x.txt', "100%.txt"):
            self.assertEqual(self.stated(disposition("video/mp4", name.encode())), name)
