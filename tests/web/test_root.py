"""Where in the URL space the slots are."""

from __future__ import annotations

from tests.access.vectors import hex_mac
from tests.net.wire import Answer
from tests.web.support import PATH, SECRET, Server, ServerTestCase, request

SIGNATURE = "?v=" + hex_mac(f"{PATH} 3".encode(), SECRET)


class SubDirTests(ServerTestCase):
    """``UploadSubDir``: signatures are of what comes after it."""

    def ask(self, server: Server, prefix: str) -> list[Answer]:
        put = server.ask(request("PUT", prefix + PATH + SIGNATURE, None, b"abc"))
        return [put, server.ask(request("GET", prefix + PATH))]

    def assert_served(self, server: Server, prefix: str) -> None:
        put, get = self.ask(server, prefix)
        self.assertEqual((put.status, get.status, get.body), (201, 200, b"abc"), prefix)
        self.assertEqual(self.get(PATH), b"abc")

    def test_one_segment(self) -> None:
        self.assert_served(self.server, "/upload/")

    def test_root(self) -> None:
        """A host of its own needs no prefix."""
        self.assert_served(self.serve(upload_sub_dir=()), "/")

    def test_several_segments(self) -> None:
        self.assert_served(self.serve(upload_sub_dir=("share", "upload")), "/share/upload/")

    def test_segment_to_be_escaped(self) -> None:
        self.assert_served(self.serve(upload_sub_dir=("hoch laden ä",)), "/hoch%20laden%20%C3%A4/")

    def test_escaped_without_need(self) -> None:
        """Two spellings of one URL."""
        self.assert_served(self.server, "/%75pload/")

    def test_elsewhere(self) -> None:
        """There is nothing, not even for the right signature."""
        server = self.serve(upload_sub_dir=("share", "upload"))
        for prefix in ("/", "/upload/", "/share/", "/share//upload/", "/x/share/upload/", "/share%2Fupload/"):
            self.assertEqual([answer.status for answer in self.ask(server, prefix)], [404, 404], prefix)
        self.assertEqual(self.tree(), [])

    def test_twice(self) -> None:
        """A prefix that a proxy has doubled is part of the path, which nobody has signed so."""
        statuses = [answer.status for answer in self.ask(self.server, "/upload/upload/")]
        self.assertEqual(statuses, [403, 404])
