"""Uploads that did not end by themselves, against a running server: the contract of ``docs/protocol.md``, row by row."""

from __future__ import annotations

import hashlib
import random
import signal
import threading
import time
from base64 import b64encode
from typing import TYPE_CHECKING, ClassVar

from tests.e2e import signing
from tests.e2e.curl import curl
from tests.e2e.cutting import CuttingProxy, Fault
from tests.e2e.daemon import Daemon, TomlValue
from tests.e2e.processes import wait_until
from tests.e2e.resuming import PATH, TOKEN, Client, OnRedis, ResumeTestCase, sha256
from tests.e2e.wire import Answer, Closed, Connection

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

HALF = 1_500_000
SESSION = {"X-Session-Token": TOKEN}

if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object


class StoredRowsMixin(_Case):
    """The rows that live from what the server has kept, on either store."""

    # Breaking, and asking how far it is

    def test_ended_connection(self) -> None:
        """FIN after a chosen byte: every byte before it counts."""
        for arrived in (1, 65_536, HALF, self.size_bytes - 1):
            self.cut(arrived, reset=False)
            self.arrived(arrived)
            self.assert_unfinished(arrived)
            self.assertEqual(self.client.delete().status, 204)

    def test_reset_connection(self) -> None:
        """RST after a chosen byte: what the server had read counts, and not one byte more."""
        for arrived in (70_000, HALF):
            self.cut(arrived, reset=True)
            [part] = wait_until(self.daemon.parts, "the upload has begun")
            offset = self.client.offset()
            self.assertLessEqual(offset, arrived)
            self.assertEqual(offset, part.stat().st_size)
            self.assert_stored(self.client.part(offset))
            (self.daemon.store / PATH).unlink()

    def cut(self, arrived: int, *, reset: bool) -> None:
        """Send the whole body through a network that breaks at that byte of it."""
        at = len(self.client.beginning(0)) + arrived
        network = CuttingProxy(self, self.daemon.port, Fault(cut_after_bytes=at, reset=reset))
        through = Client(network.port, self.client.content)
        self.assertRaises((Closed, OSError), through.put)

    def test_head(self) -> None:
        """HEAD of what is unfinished: offset, size, token, and for how long it can be resumed; not for caches."""
        client = self.make_client(token=TOKEN)
        self.interrupt(HALF, client=client)
        head = client.head()
        self.assertEqual((head.status, head.body), (204, b""))
        self.assertEqual(head.header("Upload-Offset"), str(HALF))
        self.assertEqual(head.header("Upload-Length"), str(self.size_bytes))
        self.assertEqual(head.header("Upload-Complete"), "?0")
        self.assertEqual(head.header("X-Session-Token"), TOKEN)
        self.assertEqual(head.header("Cache-Control"), "no-store")
        max_age_s = int((head.header("Upload-Limit") or "").removeprefix("max-age="))
        self.assertTrue(86_000 < max_age_s <= 86_400)

    def test_restarted_server(self) -> None:
        """A server that was stopped, or killed, knows the offset when it is back; the digest is of all the bytes."""
        self.interrupt(500_000)
        self.assert_unfinished(500_000)
        self.daemon.process.stop()
        self.daemon.restart()
        self.interrupt(HALF, first=500_000)
        self.assert_unfinished(HALF)
        self.daemon.process.kill()
        self.daemon.restart()
        self.assert_unfinished(HALF)
        self.assert_stored(self.client.part(HALF))

    def test_stopping_server(self) -> None:
        """A server that is being stopped keeps what has arrived, and tells the client to come back."""
        connection = self.client.begin(HALF)
        self.arrived(HALF)
        self.daemon.process.signal(signal.SIGTERM)
        answer = connection.answer("PUT")
        self.assertEqual(answer.status, 503)
        self.assertGreater(int(answer.header("Retry-After") or ""), 0)
        connection.close()
        self.daemon.process.wait()
        self.daemon.restart()
        self.assert_unfinished(HALF)

    # Going on

    def test_parts(self) -> None:
        """A file in pieces, over a restart: 202 until the last one."""
        for first, end in ((0, 1_000_000), (1_000_000, 2_999_999)):
            answer = self.client.part(first, end)
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (202, str(end)))
            self.assertEqual(answer.header("Upload-Complete"), "?0")
            self.assertEqual(self.daemon.files(), [])
        self.daemon.process.kill()
        self.daemon.restart()
        self.assert_stored(self.client.part(2_999_999))

    def test_gap(self) -> None:
        """A part that begins later than where the upload is: 409 with the offset, and nothing is stored of it."""
        self.interrupt(HALF)
        answer = self.client.part(HALF + 1)
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (409, str(HALF)))
        self.assert_unfinished(HALF)
        self.assert_stored(self.client.part(HALF))

    def test_query(self) -> None:
        """``bytes */N`` begins an upload without a byte, asks how far it is, and hears of its end."""
        answer = self.client.query()
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (202, "0"))
        token = answer.header("X-Session-Token")
        self.interrupt(HALF)
        answer = self.client.query()
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (202, str(HALF)))
        self.assertEqual(answer.header("X-Session-Token"), token)
        self.assert_stored(self.client.part(HALF))
        self.assertEqual(self.client.query().status, 201)

    def test_many_queries(self) -> None:
        """However often a client asks, it has not tried in vain."""
        self.interrupt(HALF)
        for _ in range(8):
            self.assertEqual(self.client.query().header("Upload-Offset"), str(HALF))
        self.assert_stored(self.client.part(HALF))

    def test_whole_body_again(self) -> None:
        """What a client does that knows nothing of all this."""
        self.interrupt(HALF)
        self.assert_stored(self.client.put())

    def test_other_body(self) -> None:
        """A client that encrypts anew for each try: the file is the last body, to the byte."""
        other = self.client.content[:HALF] + bytes(self.size_bytes - HALF)
        self.interrupt(2_000_000)
        self.assert_stored(self.client.put(other), other)

    def test_other_body_broken(self) -> None:
        """The new body breaks before it is as long as the old one was: not one old byte comes back."""
        self.interrupt(2_000_000)
        other = Client(self.daemon.port, self.client.content[:1000] + bytes(self.size_bytes - 1000))
        self.interrupt(HALF, client=other)
        self.assert_unfinished(HALF, other)
        self.daemon.process.kill()
        self.daemon.restart()
        self.assert_stored(other.part(HALF), other.content)

    def test_no_progress(self) -> None:
        """An upload that is taken up again and again without one new byte is given up; the file may come anew."""
        self.interrupt(HALF)
        wanted = [0] * 10
        statuses = [self.client.part(HALF + 1).status for _ in wanted]
        self.assertEqual(statuses, [409] * 5 + [410] * 5)
        self.assertEqual(self.client.head().status, 410)
        self.assert_stored(self.client.put())

    # The session token

    def test_other_token(self) -> None:
        """Another token is another session, which begins at the first byte."""
        self.interrupt(HALF)
        self.assert_unfinished(HALF)
        later = Client(self.daemon.port, self.client.content, TOKEN)
        self.assertEqual(later.query().header("Upload-Offset"), "0")
        self.assertEqual(later.part(HALF).status, 409)
        self.assert_stored(later.put())

    def test_unannounced_rest(self) -> None:
        """The rest without a word about where it belongs, but with the token."""
        client = self.make_client(token=TOKEN)
        self.interrupt(HALF, client=client)
        self.assert_unfinished(HALF, client)
        for wrong in (HALF + 1, HALF - 1):
            answer = client.put(client.content[wrong:])
            self.assertEqual((answer.status, answer.header("Upload-Offset")), (409, str(HALF)))
        answer = client.put(client.content[HALF:])
        self.assert_stored(answer, client=client)
        self.assertEqual(answer.header("X-Session-Token"), TOKEN)

    # Several requests at once

    def test_newest_wins(self) -> None:
        """Two clients with one token: the first one's connection is cut, the second one stores the file."""
        client = self.make_client(token=TOKEN)
        first = client.begin(HALF)
        self.arrived(HALF)
        self.assert_stored(client.part(HALF), client=client)
        self.assertTrue(first.closed_by_peer())
        first.close()

    def test_asking_stops_the_writer(self) -> None:
        """An offset that was told must be right for the next request: who still writes is cut off."""
        first = self.client.begin(HALF)
        self.arrived(HALF)
        self.assert_unfinished(HALF)
        self.assertTrue(first.closed_by_peer())
        first.close()
        self.assert_stored(self.client.part(HALF))

    def test_all_at_once(self) -> None:
        """Clients that cut each other off, and try again after a while: in the end the file is there, and is right."""
        statuses: list[int] = []

        def insist() -> None:
            for number in range(12):
                try:
                    statuses.append(self.client.put().status)
                except (Closed, OSError):
                    time.sleep(random.random() * 0.01 * 2**number)
                    continue
                return

        threads = [threading.Thread(target=insist) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(statuses, [201] * 4)
        self.assert_stored(self.client.put())

    # Giving up, and losing

    def test_delete(self) -> None:
        """Who began an upload may give it up: nothing is left of it."""
        self.interrupt(HALF)
        self.assert_unfinished(HALF)
        self.assertEqual(self.client.delete().status, 204)
        self.assertEqual((self.client.head().status, self.daemon.parts()), (404, []))
        self.assertEqual(self.client.delete().status, 404)
        self.assert_stored(self.client.put())

    def test_lost_bytes(self) -> None:
        """The part file has fewer bytes than were promised, or is gone: 410, until the whole file comes."""
        for lose in ("truncate", "unlink"):
            self.interrupt(HALF)
            self.assert_unfinished(HALF)
            [part] = self.daemon.parts()
            if lose == "unlink":
                part.unlink()
            else:
                part.write_bytes(self.client.content[:1000])
            for answer in (self.client.head(), self.client.part(HALF), self.client.head()):
                self.assertEqual(answer.status, 410, lose)
            self.assert_stored(self.client.put())
            (self.daemon.store / PATH).unlink()


class EmbeddedTests(StoredRowsMixin, ResumeTestCase):
    """Without any other program."""


class RedisTests(OnRedis, StoredRowsMixin, ResumeTestCase):
    """With Redis."""


class RowsTests(ResumeTestCase):
    """The other rows."""

    needs: ClassVar[tuple[str, ...]] = ("curl",)

    def test_whole_upload(self) -> None:
        """Nothing breaks: 201 with all that a client may want to know, a session token among it."""
        answer = self.client.put()
        self.assert_stored(answer)
        self.assertRegex(answer.header("X-Session-Token") or "", "^[A-Za-z0-9._~-]{8,128}$")
        self.assertEqual(self.daemon.files(), [PATH])

    def test_head_without_signature(self) -> None:
        """Nobody else learns that there is an upload."""
        self.interrupt(HALF)
        self.assert_unfinished(HALF)
        self.assertEqual(self.daemon.ask("HEAD", signing.url_path(PATH)).status, 404)

    def test_head_of_nothing_or_all(self) -> None:
        """404 before the upload has begun; 200 when it is complete, as for every reader, and that it is."""
        self.assertEqual(self.client.head().status, 404)
        self.client.put()
        head = self.client.head()
        self.assertEqual((head.status, head.header("Upload-Complete")), (200, "?1"))
        self.assertEqual(head.header("Content-Length"), str(self.size_bytes))
        self.assertEqual(head.header("Repr-Digest"), sha256(self.client.content))

    def test_curl(self) -> None:
        """``curl -C OFFSET -T`` goes on from the offset that ``curl -I`` has brought."""
        file = self.directory / "film.mp4"
        file.write_bytes(self.client.content)
        network = CuttingProxy(self, self.daemon.port, Fault(cut_after_bytes=HALF))
        session = ["-H", f"X-Session-Token: {TOKEN}"]
        through = f"http://127.0.0.1:{network.port}{self.client.target}"
        self.assertNotEqual(curl("-T", file, *session, through).exit_status, 0)
        offset = curl("-I", *session, through).header("Upload-Offset") or ""
        self.assertTrue(HALF - 2000 < int(offset) < HALF)
        put = curl("-C", offset, "-T", file, *session, through)
        self.assertEqual((put.status, put.sent_bytes), (201, self.size_bytes - int(offset)), put.text)
        self.assertEqual(put.header("X-Session-Token"), TOKEN)
        self.assertTrue(self.client.get().body == self.client.content)
        metrics = self.daemon.metrics()
        self.assertEqual(metrics["hmac_file_server_uploads_resumed_total"], 1)
        self.assertEqual(metrics["hmac_file_server_resumed_bytes_saved_total"], int(offset))
        self.daemon.process.wait_for_line(r"PUT .*film\.mp4 201 .*resumed-at=1\.\d+ MB")

    def test_overlap(self) -> None:
        """A part that begins earlier is compared with what is here, and the rest of it is appended."""
        self.interrupt(HALF)
        self.assert_stored(self.client.part(HALF - 700_000))

    def test_overlap_differs(self) -> None:
        """One byte of it is another: 409, and what is here stays."""
        self.interrupt(HALF)
        other = bytearray(self.client.content)
        other[HALF - 1] ^= 1
        answer = self.client.part(HALF - 700_000, content=bytes(other))
        self.assertEqual((answer.status, answer.header("Upload-Offset")), (409, str(HALF)))
        self.assertIn("content-mismatch", answer.text)
        self.assert_unfinished(HALF)
        self.assert_stored(self.client.part(HALF))

    def test_token_in_every_answer(self) -> None:
        """Whatever is answered."""
        client = self.make_client(token=TOKEN)
        unsigned = client.target.partition("?")[0]
        for status, answer in (
            (404, client.head()),
            (404, client.delete()),
            (403, self.daemon.ask("PUT", unsigned, SESSION, b"x")),
            (403, self.daemon.ask("DELETE", unsigned, SESSION)),
            (202, client.query()),
            (409, client.part(1)),
            (202, client.part(0, 10)),
            (204, client.head()),
            (204, client.delete()),
            (201, client.put()),
            (200, client.head()),
            (201, client.put()),
            (409, client.put(bytes(self.size_bytes))),
            (409, client.delete()),
        ):
            self.assertEqual((answer.status, answer.header("X-Session-Token")), (status, TOKEN))

    def test_malformed_token(self) -> None:
        """400, whatever the request."""
        for token in ("short", "x" * 129, "with spaces in", "semi;colon", "grüße-grüße"):
            client = Client(self.daemon.port, self.client.content, token)
            for answer in (client.head(), client.put(), client.delete()):
                self.assertEqual((answer.status, answer.header("X-Session-Token")), (400, None), token)

    def test_replay(self) -> None:
        """The same again, whole or in part, is confirmed; anything else is refused and changes nothing."""
        self.assert_stored(self.client.put())
        other = self.client.content[:-1] + b"?"
        for status, answer in (
            (201, self.client.put()),
            (201, self.client.part(HALF)),
            (201, self.client.query()),
            (409, self.client.put(other)),
            (409, self.client.part(HALF, content=other)),
        ):
            self.assertEqual(answer.status, status)
        self.assertTrue(self.client.get().body == self.client.content)

    def test_replay_with_digest(self) -> None:
        """Who states the digest is answered at once, and needn't send the body."""
        self.assert_stored(self.client.put())
        for status, content in ((201, self.client.content), (409, bytes(self.size_bytes))):
            answer = self.expecting(content)
            self.assertEqual((answer.status, answer.interim), (status, ()))

    def expecting(self, content: bytes) -> Answer:
        """Announce a whole body and its digest, and send nothing of it before the go-ahead."""
        headers = {"Expect": "100-continue", "Repr-Digest": sha256(content)}
        with Connection(self.daemon.port) as connection:
            connection.send_head("PUT", self.client.target, headers, self.size_bytes)
            return connection.answer("PUT")

    def test_delete_stored(self) -> None:
        """What is stored stays."""
        self.client.put()
        self.assertEqual((self.client.delete().status, self.client.get().status), (409, 200))


class TwoServersMixin(_Case):
    """Two processes serve one directory, begun at the same time, and a client comes back to the other one."""

    def setUp(self) -> None:
        self.daemon = Daemon(self, text=None, **self.keys())
        self.other_daemon = Daemon(self, text=None, **{**self.keys(), "StoreDir": str(self.daemon.store)})
        for daemon in (self.daemon, self.other_daemon):
            daemon.started()
        self.client = self.make_client()
        self.other = Client(self.other_daemon.port, self.client.content)

    def test_taken_over(self) -> None:
        """The newest request wins there, too, and not one byte is sent twice."""
        first = self.client.begin(HALF)
        self.arrived(HALF)
        self.assert_stored(self.other.part(HALF))
        self.assertTrue(first.closed_by_peer())
        first.close()

    def test_nothing_arrived_yet(self) -> None:
        """And if not one byte has come to the first server."""
        first = self.client.begin(0)
        self.arrived(0)
        self.assert_stored(self.other.put())
        first.close()

    def test_head(self) -> None:
        """The offset is told by the one, and good for the other."""
        first = self.client.begin(HALF)
        self.arrived(HALF)
        self.assert_unfinished(HALF, self.other)
        self.assertTrue(first.closed_by_peer())
        first.close()
        self.assert_stored(self.client.part(HALF))


class TwoEmbeddedServersTests(TwoServersMixin, ResumeTestCase):
    """They share an SQLite file."""

    def test_delete(self) -> None:
        """Given up there, it is over here."""
        first = self.client.begin(HALF)
        self.arrived(HALF)
        self.assertEqual(self.other.delete().status, 204)
        self.assertTrue(first.closed_by_peer())
        first.close()
        self.assertEqual((self.client.head().status, self.daemon.parts()), (404, []))

    def test_killed(self) -> None:
        """What a killed server had in its hands is the other one's at once."""
        first = self.client.begin(HALF)
        self.arrived(HALF)
        self.assertEqual(self.other.offset(), HALF)
        second = self.other.begin(2_000_000, first=HALF)
        self.arrived(2_000_000)
        self.other_daemon.process.kill()
        first.close()
        second.close()
        offset = self.client.offset()
        self.assertTrue(HALF <= offset <= 2_000_000)
        self.assert_stored(self.client.part(offset))

    def test_same_file_twice_at_once(self) -> None:
        """Two slots for one path, one on each server: whoever is first stores the file, the other one agrees."""
        slot = signing.v2(PATH, self.size_bytes, "video/mp4")
        self.interrupt(HALF)
        self.assert_unfinished(HALF)
        answer = self.other_daemon.ask("PUT", slot, {"Content-Type": "video/mp4"}, self.client.content)
        self.assertEqual(answer.status, 201)
        self.assertEqual(self.client.part(HALF).status, 201)
        self.assertTrue(self.client.get().body == self.client.content)


class TwoRedisServersTests(OnRedis, TwoServersMixin, ResumeTestCase):
    """They share a Redis."""


class DigestTests(ResumeTestCase):
    """What a client states of its bytes is verified; what the server states of them is true."""

    size_bytes = 300_000

    def right(self) -> dict[str, str]:
        """Every field that may state a digest of the file, and its value."""
        content = self.client.content
        md5 = b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        sha512 = b64encode(hashlib.sha512(content).digest()).decode()
        sha256_hex = hashlib.sha256(content).hexdigest()
        base64 = sha256(content).removeprefix("sha-256=:").removesuffix(":")
        return {
            "Content-Digest": sha256(content),
            "Repr-Digest": f"sha-512=:{sha512}:, {sha256(content)}",
            "Digest": f"SHA-256={base64},MD5={md5}",
            "Content-MD5": md5,
            "X-Checksum": sha256_hex,
            "X-Checksum-Sha256": f"sha256:{sha256_hex.upper()}",
        }

    def test_right(self) -> None:
        """Stored."""
        for name, value in self.right().items():
            self.assert_stored(self.client.put(headers={name: value}))
            (self.daemon.store / PATH).unlink()

    def test_wrong(self) -> None:
        """400, and nothing of the file is to be had, now or later."""
        for name, value in self.right().items():
            answer = self.client.put(bytes(self.size_bytes), {name: value})
            self.assertEqual((answer.status, "digest-mismatch" in answer.text), (400, True), name)
            self.assertEqual((self.client.get().status, self.daemon.files(), self.daemon.parts()), (404, [], []))
        self.assert_stored(self.client.put())

    def test_malformed(self) -> None:
        """A digest that can't be one: 400. A structured field that can't be read is passed over, as its rules say."""
        for headers in ({"X-Checksum": "abc"}, {"Content-MD5": "AAAA"}, {"Repr-Digest": "sha-256=:AAAA:"}):
            self.assertEqual(self.client.put(headers=headers).status, 400, str(headers))
        self.assertEqual(self.client.put(headers={"Repr-Digest": "sha-256=nonsense;;"}).status, 201)

    def test_of_the_rest(self) -> None:
        """A digest of the rest is checked before one byte of it counts."""
        self.interrupt(100_000)
        rest = self.client.content[100_000:]
        wrong = self.client.part(100_000, content=bytes(self.size_bytes), headers={"Content-Digest": sha256(rest)})
        self.assertEqual(wrong.status, 400)
        self.assert_unfinished(100_000)
        self.assert_stored(self.client.part(100_000, headers={"Content-Digest": sha256(rest)}))

    def test_of_the_rest_broken(self) -> None:
        """Bytes of a part that could not be verified are not kept, even if the server is killed."""
        self.interrupt(100_000)
        self.assert_unfinished(100_000)
        rest = self.client.content[100_000:]
        headers = {"Content-Digest": sha256(rest), **self.client.content_range(100_000, len(rest))}
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        start = f"PUT {self.client.target} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(rest)}\r\n{fields}\r\n".encode()
        with Connection(self.daemon.port) as connection:
            connection.send(start + rest[:100_000])
            self.arrived(200_000)
            self.daemon.process.kill()
        self.daemon.restart()
        self.assert_unfinished(100_000)

    def test_of_the_whole(self) -> None:
        """One of the whole file, with its last part: over the bytes of all connections and processes."""
        for status, content in ((400, bytes(self.size_bytes)), (201, self.client.content)):
            self.interrupt(100_000)
            self.assert_unfinished(100_000)
            self.daemon.process.kill()
            self.daemon.restart()
            answer = self.client.part(100_000, headers={"Repr-Digest": sha256(content)})
            self.assertEqual(answer.status, status)
            self.assertEqual(self.client.get().status, {400: 404, 201: 200}[status])
        self.assert_stored(self.client.put())


class UncheckedTests(ResumeTestCase):
    """``ChecksumVerification = false``."""

    size_bytes = 300_000

    def keys(self) -> dict[str, TomlValue]:
        return {"ChecksumVerification": False}

    def test_not_stated(self) -> None:
        """Nothing is hashed, so nothing is said of a digest; the ETag is another one."""
        answers = [self.client.put(), self.client.get(), self.client.head()]
        self.assertEqual([answer.status for answer in answers], [201, 200, 200])
        self.assertEqual([answer.header("Repr-Digest") for answer in answers], [None] * 3)
        self.assertEqual(len({answer.header("ETag") for answer in answers} - {None}), 1)

    def test_resumed(self) -> None:
        """Resuming takes no digest."""
        self.interrupt(100_000)
        self.assertEqual(self.client.part(self.client.offset()).status, 201)
        self.assertTrue(self.client.get().body == self.client.content)

    def test_stated(self) -> None:
        """What a client states is verified nevertheless."""
        right = {"Repr-Digest": sha256(self.client.content)}
        self.assertEqual(self.client.put(bytes(self.size_bytes), right).status, 400)
        self.assertEqual(self.client.get().status, 404)
        self.assert_stored(self.client.put(headers=right))

    def test_wanted(self) -> None:
        """And what it asks for is computed."""
        self.assert_stored(self.client.put(headers={"Want-Repr-Digest": "sha-256=5"}))
