"""The server is killed, at moments that nobody has chosen for their convenience."""

from __future__ import annotations

import os
import time
from random import Random
from typing import TYPE_CHECKING

from tests.e2e.resuming import MIB, Client, OnRedis, ResumeTestCase

NEWEST_ALONE = True
"""Once is enough: what depends on Twisted has tests that run on every one of them."""

ROUNDS = 26
"""Of each of the two stores: more than fifty together."""

PIECE_BYTES = 1 << 18

if TYPE_CHECKING:
    _Case = ResumeTestCase
else:
    _Case = object


class KillMixin(_Case):
    """SIGKILL while bytes arrive, are synced, hashed, published.

    The seed settles what is sent and when it stops; which of it the kernel has handed over by then differs from run to
    run, and that is as well.
    """

    seed: int
    random: Random
    kills: int

    def test_killed_at_random(self) -> None:
        """Whenever it happens: nothing half is ever served, what HEAD tells is on the disk, and the upload completes."""
        self.random = Random(self.seed)
        self.kills = 0
        while self.kills < ROUNDS:
            path = f"slot-{self.kills}/film.mp4"
            self.upload(Client(self.daemon.port, self.new_content(), path=path))
            self.assertIn(path, self.daemon.files())
            # Makes room, and leaves the file in its place.
            os.truncate(self.daemon.store / path, 0)

    def new_content(self) -> bytes:
        """A film."""
        return self.random.randbytes(self.random.randrange(8 * MIB, 20 * MIB))

    def upload(self, client: Client) -> None:
        """Upload a file to a server that is killed several times on the way."""
        offset = 0
        for _ in range(self.random.randrange(1, 4)):
            earlier = client.content
            if self.random.random() < 0.2:
                # Encrypted anew: from somewhere on it is another file, which can only be sent as a whole.
                same = self.random.randrange(len(earlier))
                client.content = earlier[:same] + self.random.randbytes(len(earlier) - same)
                offset = 0
            self.kill(client, self.random.choice((0, offset, offset)) % len(client.content))
            if client.get().status == 200:
                # Published, and nobody has heard of it.
                break
            offset = self.checked_offset(client, earlier, offset)
        self.assert_stored(client.rest(offset), client=client)

    def kill(self, client: Client, first: int) -> None:
        """Send everything from *first* on, and kill the server on the way or just after it."""
        self.assertEqual(self.daemon.metrics()["hmac_file_server_sessions_lost_total"], 0)
        total = len(client.content)
        stop = self.random.choice((self.random.randrange(first, total), total))
        delay_s = self.random.random() * self.random.choice((0.0, 0.01, 0.1))
        with client.begin(first, first) as connection:
            connection.send_while_wanted(
                client.content[at : min(at + PIECE_BYTES, stop)] for at in range(first, stop, PIECE_BYTES)
            )
            time.sleep(delay_s)
            self.daemon.process.kill()
        self.kills += 1
        self.daemon.restart()

    def checked_offset(self, client: Client, earlier: bytes, before: int) -> int:
        """How far the upload is: not less than the last time, and no more than what is on the disk.

        :param earlier: the content of the request before; the last one need not have come so far as to replace it.
        :return: 0 if nothing of the client's present content can be relied on.
        """
        [on_disk] = [path.read_bytes() for path in self.daemon.parts()] or [b""]
        head = client.head()
        offset = 0 if head.status == 404 else int(head.header("Upload-Offset") or "")
        self.assertTrue(before <= offset <= len(on_disk), f"{before} <= {offset} <= {len(on_disk)}")
        present = on_disk[:offset]
        self.assertTrue(client.content.startswith(present) or earlier.startswith(present))
        return offset if client.content.startswith(present) else 0


class EmbeddedKillTests(KillMixin, ResumeTestCase):
    """What is known of uploads is in an SQLite file."""

    seed = 20261101


class RedisKillTests(OnRedis, KillMixin, ResumeTestCase):
    """It is in a Redis, which lives on."""

    seed = 20261102
