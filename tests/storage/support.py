"""What the tests of this room share: a store in a temporary directory, and a disk that can be made to fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.storage.disk import Disk
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import SlotPath
from hmacfs.storage.store import AlreadyStored, Store, StoredFile

FACTS = Facts(
    content_type="image/jpeg",
    sha256=bytes(range(32)),
    owner="alice@example.org",
    expires=1_800_000_000.0,
    uploaded=1_790_000_000.25,
)


class Crash(BaseException):
    """The process was killed at this point."""


class ScriptedDisk(Disk):
    """The real disk, which writes down what is asked of it, and fails where a test says so.

    :ivar calls: method and the path of the descriptor or file that it was about.
    :ivar before: called with each method's name before it happens; raises what the test wants raised.
    :ivar after: likewise, once it has happened or failed.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str], None] = lambda _method: None
        self.after: Callable[[str], None] = lambda _method: None

    def fail(self, method: str, code: int, times: int = 1_000_000) -> None:
        """Let the next calls of *method* fail with an error code."""
        left = iter(range(times))

        def fail(called: str) -> None:
            if called == method and next(left, None) is not None:
                raise OSError(code, os.strerror(code))

        self.before = fail

    def crash(self, number: int, after: bool) -> None:
        """Die at call *number* from now, before or after it takes effect. Nothing happens from then on."""
        first = len(self.calls)

        def die(_method: str) -> None:
            if len(self.calls) - first > number + after:
                raise Crash

        def die_after(_method: str) -> None:
            if after and len(self.calls) - first == number + 1:
                raise Crash

        self.before, self.after = die, die_after


def _scripted(method: str) -> Callable[..., Any]:
    def call(self: ScriptedDisk, *args: Any) -> Any:
        self.calls.append((method, _subject(args)))
        self.before(method)
        try:
            # Looked up late: a test may have made the real disk poorer.
            return getattr(Disk, method)(self, *args)
        finally:
            self.after(method)

    return call


def _subject(args: tuple[Any, ...]) -> str:
    """The path that a call is about: of its descriptor, or of its last name and directory."""
    if args[0] == -1:
        return "closed"
    if isinstance(args[0], int):
        return os.readlink(f"/proc/self/fd/{args[0]}")
    name, directory_fd = (args[2], args[3]) if len(args) == 4 else (args[0], args[1])
    return os.path.join(os.readlink(f"/proc/self/fd/{directory_fd}"), os.fsdecode(name))


for _method in [name for name, value in vars(Disk).items() if callable(value) and not name.startswith("_")]:
    setattr(ScriptedDisk, _method, _scripted(_method))


class StoreTestCase(SynchronousTestCase):
    """A test with a store of its own."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.disk = ScriptedDisk()
        self.store = self.open_store(self.disk)
        self.disk.calls.clear()

    def open_store(self, disk: Disk | None = None) -> Store:
        """A further store over the same directory, as another process would have it."""
        store = Store.open(self.root, disk)
        self.addCleanup(store.close)
        return store

    def path(self, encoded: bytes | str) -> SlotPath:
        return SlotPath.from_encoded(os.fsencode(encoded))

    def put(self, encoded: bytes | str, content: bytes = b"content", store: Store | None = None) -> StoredFile:
        """Upload a file, as it should go."""
        store = store or self.store
        part = store.begin(f"put-{os.urandom(8).hex()}")
        self.addCleanup(part.close)
        part.write(content)
        try:
            return store.publish(part, self.path(encoded), FACTS)
        finally:
            part.discard()

    def get(self, encoded: bytes | str, store: Store | None = None) -> bytes | None:
        """Download a file."""
        found = (store or self.store).open_file(self.path(encoded))
        if found is None:
            return None
        with found.handle as handle:
            return handle.read()

    def facts(self, encoded: bytes | str, store: Store | None = None) -> Facts | None:
        found = (store or self.store).open_file(self.path(encoded))
        if found is None:
            return None
        found.close()
        return found.facts

    def put_again(self, encoded: str, content: bytes, store: Store) -> None:
        """What a client does that heard nothing: upload it once more, and be content with what is there."""
        try:
            self.put(encoded, content, store)
        except AlreadyStored:
            pass

    def tree(self) -> list[str]:
        """Every file and directory in the store that isn't ours."""
        found = [str(path.relative_to(self.root)) for path in self.root.rglob("*")]
        return sorted(path for path in found if not path.startswith(".hmacfs"))

    def own_files(self, directory: str) -> list[Path]:
        """The files below one of our own directories."""
        return [path for path in (self.root / ".hmacfs" / directory).rglob("*") if path.is_file()]

    def assert_fails_with(self, code: int, function: Callable[..., object], *args: object) -> None:
        error = self.assertRaises(OSError, function, *args)
        self.assertEqual(errno.errorcode[error.errno], errno.errorcode[code])
