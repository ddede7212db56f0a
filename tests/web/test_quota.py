"""A quota as a client meets it."""

from __future__ import annotations

import json

from hmacfs.keeping.quotas import QuotaLimits
from tests.net.wire import Answer
from tests.web.support import Server, ServerTestCase, bearer, request, url

ALICE = "alice@localhost"
PER_USER = QuotaLimits(per_user_bytes=100)


class QuotaTests(ServerTestCase):
    """The whole way of an upload."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.serve(quota_limits=PER_USER)

    def put(self, path: str, size: int, sub: str = ALICE, server: Server | None = None, **headers: str) -> Answer:
        """Upload a file of so many bytes, as Prosody lets its users."""
        credentials = bearer(path, size, sub=sub)
        return (server or self.server).ask(request("PUT", url(path), {**credentials, **headers}, bytes(size)))

    def test_over(self) -> None:
        """413 with a sentence, and nothing is stored or left."""
        self.assertEqual(self.put("a/1", 60).status, 201)
        answer = self.put("a/2", 41)
        self.assert_refused(answer, 413, "over-quota")
        self.assertIn(b"Your files may take 100 B together", answer.body)
        self.assertEqual((self.tree(), self.own_files("parts")), (["a", "a/1"], []))
        self.assertEqual(self.put("b/1", 100, "bob@localhost").status, 201)

    def test_as_json(self) -> None:
        self.put("a/1", 60)
        answer = self.put("a/2", 41, Accept="application/problem+json")
        self.assertEqual(json.loads(answer.body)["reason"], "over-quota")

    def test_before_the_body(self) -> None:
        """A client that waits keeps its body."""
        self.put("a/1", 60)
        data = request("PUT", url("a/2"), {**bearer("a/2", 60), "Expect": "100-continue"}, length=60)
        (answer,) = self.server.connect(data).answers("PUT")
        self.assertEqual((answer.status, answer.interim), (413, ()))

    def test_under_way(self) -> None:
        """An upload counts while it lasts, and no longer."""
        wire = self.server.connect(request("PUT", url("a/1"), bearer("a/1", 60), bytes(10), length=60))
        self.assert_refused(self.put("a/2", 41), 413, "over-quota")
        wire.vanish()
        self.assertEqual(self.put("a/2", 41).status, 201)

    def test_resumed(self) -> None:
        """The rest of an upload counts with what is here of it, once."""
        wire = self.server.connect(request("PUT", url("a/1"), bearer("a/1", 60), bytes(10), length=60))
        wire.vanish()
        headers = {**bearer("a/1", 60), "Content-Range": "bytes 10-59/60"}
        self.assertEqual(self.server.ask(request("PUT", url("a/1"), headers, bytes(50))).status, 201)
        self.assert_refused(self.put("a/2", 41), 413, "over-quota")
        self.assertEqual(self.put("a/3", 40).status, 201)

    def test_sent_again(self) -> None:
        """A file that is here is as good as stored just now, also where there is no room for another."""
        self.put("a/1", 60)
        self.assertEqual(self.put("a/1", 60).status, 201)

    def test_oldest(self) -> None:
        """The oldest makes room, when the new one is stored."""
        server = self.serve(quota_limits=QuotaLimits(per_user_bytes=100, oldest_go=True))
        for number in range(3):
            self.assertEqual(self.put(f"a/{number}", 40, server=server).status, 201)
            self.clock.advance(1)
        self.assertEqual(self.tree(), ["a", "a/1", "a/2"])
        (deleted,) = server.reported
        self.assertEqual(
            (deleted.path.text, deleted.reason, deleted.by, deleted.owner), ("a/0", "quota", "quota", ALICE)
        )
        self.assert_refused(self.put("a/4", 101, server=server), 413, "over-quota", server)

    def test_broken_upload_costs_nothing(self) -> None:
        server = self.serve(quota_limits=QuotaLimits(per_user_bytes=100, oldest_go=True))
        self.put("a/1", 80, server=server)
        wire = server.connect(request("PUT", url("a/2"), bearer("a/2", 60), bytes(10), length=60))
        wire.vanish()
        self.assertEqual(self.tree(), ["a", "a/1"])

    def test_no_quota(self) -> None:
        """Then nobody opens an index for it."""
        server = self.serve()
        self.put("a/1", 100, server=server)
        self.assertEqual(list(self.store.own_directory.glob("index*")), [])
