"""Where ``hmacfs get`` puts what arrives: a part file that becomes the file, or standard output.

A part file is ``NAME.part``. Beside it ``NAME.part.etag`` says what it is a part of, for the next run of the command.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from attrs import frozen

from hmacfs.cli.exchange import Url
from hmacfs.cli.names import safe_name, stated_name
from hmacfs.cli.output import Fault
from hmacfs.storage.disk import Disk, move_new

_READ_BYTES: Final = 1 << 20


class Target(Protocol):
    """Where the bytes go."""

    @property
    def etag(self) -> str | None:
        """Of the file that an earlier run has left a part of; ``None`` if there is nothing to go on with."""

    def kept(self) -> Iterator[bytes]:
        """The bytes of that part."""

    def check(self, headers: Mapping[str, str]) -> None:
        """Look at the answer before its bytes are read.

        :raises Fault: they are not to be had here.
        """

    def begin(self, etag: str | None) -> None:
        """Forget the bytes that are here; those of *etag* follow."""

    def write(self, data: bytes) -> None:
        """Append."""

    def finish(self, headers: Mapping[str, str]) -> Path | None:
        """All of it is here, and right. Where it is now, if it has a name.

        :raises Fault: the name has been taken meanwhile.
        """


@frozen
class Pipe:
    """Standard output."""

    _stream: BinaryIO
    etag: None = None

    def kept(self) -> Iterator[bytes]:
        return iter(())

    def check(self, headers: Mapping[str, str]) -> None:
        """Everything can be written to it."""

    def begin(self, etag: str | None) -> None:
        """Nothing has been written yet: :class:`~hmacfs.cli.getting.Receiving` sees to that."""

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def finish(self, headers: Mapping[str, str]) -> None:
        self._stream.flush()


@frozen
class PartFile:
    """A file that is being downloaded.

    :ivar _final: what it is to be called; ``None``: as the server says, in *_directory*.
    """

    _file: io.FileIO
    _part: Path
    _final: Path | None
    _directory: Path
    _url: Url
    _force: bool

    @property
    def etag(self) -> str | None:
        try:
            etag = self._etag_file.read_text(encoding="latin-1")
        except FileNotFoundError:
            return None
        return etag if self.size else None

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def _etag_file(self) -> Path:
        return self._part.with_name(f"{self._part.name}.etag")

    def kept(self) -> Iterator[bytes]:
        offset = 0
        while data := os.pread(self._file.fileno(), _READ_BYTES, offset):
            offset += len(data)
            yield data

    def check(self, headers: Mapping[str, str]) -> None:
        final = self._called(headers)
        if os.path.lexists(final) and not self._force:
            raise taken(final)

    def _called(self, headers: Mapping[str, str]) -> Path:
        return self._final or self._directory / stated_name(headers, self._url)

    def begin(self, etag: str | None) -> None:
        self._etag_file.unlink(missing_ok=True)
        self._file.truncate(0)
        if etag is not None:
            self._etag_file.write_text(etag, encoding="latin-1")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, headers: Mapping[str, str]) -> Path:
        os.fsync(self._file.fileno())
        final = self._called(headers)
        if self._force:
            self._part.replace(final)
        else:
            self._move_new(final)
        self._etag_file.unlink(missing_ok=True)
        return final

    def _move_new(self, final: Path) -> None:
        directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            move_new(Disk(), os.fsencode(self._part.name), directory_fd, os.fsencode(final.name), directory_fd)
        except FileExistsError:
            raise taken(final) from None
        finally:
            os.close(directory_fd)
        self._part.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Leave no part that nobody can go on with."""
        if self.etag is None:
            self._etag_file.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)


@contextmanager
def part_file(wish: str | None, url: Url, force: bool) -> Iterator[PartFile]:
    """The part file of a download, for this process alone.

    :param wish: a path, or a directory; ``None``: the current one.
    :raises Fault: the file is there already, or the part belongs to somebody else.
    """
    named = Path() if wish is None else Path(wish)
    directory, final = (named, None) if named.is_dir() else (named.parent, named)
    if final is not None and os.path.lexists(final) and not force:
        raise taken(final)
    part = directory / f"{safe_name(url.name) if final is None else final.name}.part"
    with open(part, "ab+", buffering=0, opener=_without_links) as file:
        assert isinstance(file, io.FileIO)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fault(f"{part}: another hmacfs get is writing to it.") from None
        target = PartFile(file, part, final, directory, url, force)
        if target.size and target.etag is None and not force:
            raise Fault(f"{part}: is not of hmacfs get. Remove it, or say --force to overwrite it.")
        try:
            yield target
        finally:
            target.tidy()


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def taken(path: Path) -> Fault:
    """There is a file already."""
    return Fault(f"{path}: {os.strerror(errno.EEXIST)}. Say --force to overwrite it.")
