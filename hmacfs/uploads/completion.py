"""The end of an upload: the part that is whole becomes a stored file, unless somebody else's is there by then."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from hmacfs.keeping.quotas import Quotas
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.parts import Part
from hmacfs.storage.publisher import Publisher
from hmacfs.storage.store import AlreadyStored, Store, StoredFile
from hmacfs.storage.tree import PathConflict
from hmacfs.uploads.comparing import conflict, same_content
from hmacfs.uploads.retrying import unavailable
from hmacfs.uploads.session import Session
from hmacfs.uploads.upload import Means


class Completion:
    """See the module. To be used on the reactor's thread alone.

    :param quotas: told of each file that is stored.
    :param now: the time in seconds since the epoch.
    :param published: called with the path of each file that is stored, and the file.
    """

    def __init__(
        self,
        store: Store,
        means: Means,
        quotas: Quotas,
        now: Callable[[], float],
        published: Callable[[SlotPath, StoredFile], None],
    ) -> None:
        self._store = store
        self._means = means
        self._quotas = quotas
        self._now = now
        self._published = published
        self._publisher = Publisher(store, means.threads)
        self._waiting: dict[bytes, list[Deferred[None]]] = {}

    async def publishing(self, path: SlotPath) -> bool:
        """Wait until an upload that is just being published under *path* is; false where there is none."""
        waiting = self._waiting.get(path.encoded)
        if waiting is None:
            return False
        done: Deferred[None] = Deferred()
        waiting.append(done)
        await done
        return True

    async def publish(self, session: Session, path: SlotPath, sha256: bytes | None) -> StoredFile:
        """Store the file of *session* at *path*; the session is over then.

        :param sha256: of the file, if it has been hashed.
        :raises Refused: 409 where there is another file, 503 where the storage doesn't answer.
        :raises OSError: when the storage fails for a reason that won't pass. The part stays.
        """
        upload = session.upload
        facts = Facts(
            content_type=upload.content_type,
            sha256=sha256,
            owner=upload.owner,
            expires=upload.file_expires,
            uploaded=self._now(),
        )
        self._waiting.setdefault(path.encoded, [])
        try:
            stored = await self._place_or_compare(session, path, facts)
        finally:
            for waiting in self._waiting.pop(path.encoded, []):
                waiting.callback(None)
        await session.finished(sha256)
        return stored

    async def _place_or_compare(self, session: Session, path: SlotPath, facts: Facts) -> StoredFile:
        """
        :raises Refused: 409 where there is another file.
        """
        try:
            stored = await self._place(session.part, path, facts)
        except (AlreadyStored, PathConflict):
            same = await self._means.threads.run(self._settle_same, session.part, path)
            if same is None:
                await session.discarded()
                raise conflict() from None
            return same
        self._published(path, stored)
        self._quotas.published(path)
        return stored

    async def _place(self, part: Part, path: SlotPath, facts: Facts) -> StoredFile:
        async def attempt() -> StoredFile:
            try:
                return await self._publisher.publish(part, path, facts)
            except OSError as error:
                if part.lost:
                    # Not to be tried again: see Part.sync.
                    raise unavailable("The storage failed; send the file again.") from error
                raise

        return await self._means.retries.run("publish", attempt)

    def _settle_same(self, part: Part, path: SlotPath) -> StoredFile | None:
        """The file that somebody else has stored at *path* meanwhile, if it is the same. In a thread."""
        stored = self._store.open_file(path)
        if stored is None:
            return None
        try:
            same = stored.size == part.size and same_content(stored.fd, part.fd, part.size)
        finally:
            stored.close()
        if not same or not self._store.settle(path):
            return None
        part.discard()
        return stored
