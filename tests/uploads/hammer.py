"""A process that takes one upload again and again, and adds one byte each time: ``python -m tests.uploads.hammer``.

Arguments: the path of the database, the upload's uid, and how many bytes to add. Writes how often it had to wait.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from hmacfs.net.threads import InlineThreads
from hmacfs.uploads.embedded import EmbeddedUploadState
from hmacfs.uploads.state import Busy, Holder, Lease
from tests.uploads.test_state import TTL_S, new_upload


async def hammer(state: EmbeddedUploadState, uid: str, rounds: int) -> int:
    """Add *rounds* bytes, and count how often somebody else had the upload."""
    waited = 0
    await state.start()
    begun = await state.create(new_upload(uid, total=None), Holder(lambda: None))
    if isinstance(begun, Lease):
        await state.release(begun)
    while rounds:
        try:
            lease = await state.acquire(uid, Holder(lambda: None))
        except Busy:
            waited += 1
            time.sleep(0.001)
            continue
        await state.commit(lease, lease.record.offset + 1)
        await state.release(lease)
        rounds -= 1
    return waited


def main(path: str, uid: str, rounds: str) -> None:
    clock = Clock()
    clock.advance(time.time())
    state = EmbeddedUploadState(Path(path), InlineThreads(), clock, TTL_S, clock.seconds)
    outcome: list[object] = []
    Deferred.fromCoroutine(hammer(state, uid, int(rounds))).addBoth(outcome.append)
    sys.stdout.write(f"{outcome[0]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
