"""DELETE on a slot URL, as Metronome asks for it; giving an unfinished upload up is in ``test_resuming``."""

from __future__ import annotations

import errno

from attrs import evolve

from tests.access.vectors import hex_mac
from tests.net.wire import Answer
from tests.web.support import NOW, PATH, SECRET, URL, Server, ServerTestCase, bearer, request, url, v, v2

CONTENT = b"a photo of a cat"

#: The upload's own URL, with a signature of the kind that deletions have, too.
U = v2(PATH, len(CONTENT), "image/jpeg", "token")


def deletion(path: str, delete_secret: str = "delete-me") -> str:
    """The request target with which Metronome deletes (mod_http_upload_external, ``delete_file``)."""
    return f"{url(path)}?token={hex_mac(f'{path}{chr(0)}{delete_secret}'.encode(), SECRET)}"


class DeletionTestCase(ServerTestCase):
    """A server that deletes when it is asked to."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.serve(delete_secret=b"delete-me")

    def delete(self, target: str, server: Server | None = None) -> Answer:
        return (server or self.server).ask(request("DELETE", target))


class DeleteTests(DeletionTestCase):
    """A stored file."""

    def test_deleted(self) -> None:
        """204, the only status that Metronome takes for success; the file and its directory are gone."""
        self.server.put(PATH, CONTENT)
        answer = self.delete(deletion(PATH))
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(self.tree(), [])
        self.assert_refused(self.server.get(), 404, "not-found")

    def test_nothing_there(self) -> None:
        """Whoever asks again, or for what retention has deleted, has what he wants."""
        self.assertEqual(self.delete(deletion(PATH)).status, 204)
        self.assertEqual(self.server.reported, [])

    def test_report_and_metrics(self) -> None:
        """Who wanted it, and how much it was."""
        self.server.ask(request("PUT", URL, bearer(PATH, len(CONTENT)), CONTENT))
        self.delete(deletion(PATH))
        (deleted,) = self.server.reported
        self.assertEqual((deleted.path.text, deleted.size, deleted.owner), (PATH, len(CONTENT), "alice@localhost"))
        self.assertEqual((deleted.time, deleted.reason, deleted.by), (NOW, "asked", "xmpp-server"))
        self.assertEqual(self.server.metric("deleted_files_total", reason="asked"), 1)
        self.assertEqual(self.server.metric("deleted_bytes_total", reason="asked"), len(CONTENT))

    def test_expired(self) -> None:
        """A file that nobody gets any more, and that no sweep has met yet."""
        self.server.ask(request("PUT", URL, bearer(PATH, len(CONTENT), expires=NOW + 5), CONTENT))
        self.clock.advance(10)
        self.assertEqual(self.delete(deletion(PATH)).status, 204)
        self.assertEqual(self.tree(), [])

    def test_quarantined(self) -> None:
        """The operator has put it aside, maybe for good reasons."""
        self.server.put(PATH, CONTENT)
        found = self.store.open_file(self.path(PATH))
        assert found is not None
        found.close()
        self.store.set_facts(self.path(PATH), evolve(found.facts, quarantined="police"))
        self.assert_refused(self.delete(deletion(PATH)), 451, "quarantined")
        self.assertEqual(self.get(PATH), CONTENT)

    def test_wrong(self) -> None:
        """What isn't signed for this path, with both secrets, deletes nothing."""
        self.server.put(PATH, CONTENT)
        for target in (
            deletion("another/path").replace("another/path", PATH),
            deletion(PATH, "another secret"),
            deletion(PATH, ""),
            f"{url(PATH)}?token={'0' * 64}",
            f"{url(PATH)}?token=",
            U,
        ):
            self.assert_refused(self.delete(target), 403, "bad-signature")
        self.assertEqual(self.get(PATH), CONTENT)

    def test_other_credentials(self) -> None:
        """Who may upload a file may not delete it, whatever the slot's signature was."""
        self.server.put(PATH, CONTENT)
        self.assert_refused(self.delete(v(PATH, len(CONTENT))), 409, "conflict")
        self.assert_refused(self.delete(URL), 403, "missing-signature")
        self.assertEqual(self.get(PATH), CONTENT)

    def test_off(self) -> None:
        """Without a delete secret, as ever: nothing that is stored can be deleted."""
        server = self.serve()
        server.put(PATH, CONTENT)
        for target in (deletion(PATH), deletion(PATH, "")):
            self.assert_refused(self.delete(target, server), 409, "conflict", server)
        self.assert_refused(self.delete(deletion("b/x"), server), 404, "not-found", server)

    def test_download_goes_on(self) -> None:
        """Who is just reading it gets all of it."""
        self.server.put(PATH, CONTENT)
        found = self.store.open_file(self.path(PATH))
        assert found is not None
        with found.handle as handle:
            self.delete(deletion(PATH))
            self.assertEqual(handle.read(), CONTENT)

    def test_disk(self) -> None:
        """What can't be deleted is no success."""
        self.server.put(PATH, CONTENT)
        self.disk.fail("rename", errno.EROFS)
        self.assertGreaterEqual(self.delete(deletion(PATH)).status, 500)
        self.assertEqual(self.get(PATH), CONTENT)

    def test_again(self) -> None:
        """The URL is free for its file."""
        self.server.put(PATH, CONTENT)
        self.delete(deletion(PATH))
        self.assertEqual(self.server.put(PATH, CONTENT).status, 201)


class UnfinishedTests(DeletionTestCase):
    """An upload that was begun with a signature of the same parameter."""

    def begin(self) -> None:
        wire = self.server.connect(request("PUT", U, {"Content-Type": "image/jpeg"}, CONTENT[:5], length=len(CONTENT)))
        self.assertEqual(wire.answers(), [])
        wire.vanish()
        self.assertEqual(len(self.own_files("parts")), 1)

    def test_given_up(self) -> None:
        """By whoever began it."""
        self.begin()
        self.assertEqual(self.delete(U).status, 204)
        self.assertEqual(self.own_files("parts"), [])
        self.assert_refused(self.delete(U), 403, "bad-signature")

    def test_stays(self) -> None:
        """The XMPP server's word is about what is stored."""
        self.begin()
        self.assertEqual(self.delete(deletion(PATH)).status, 204)
        self.assertEqual(len(self.own_files("parts")), 1)
