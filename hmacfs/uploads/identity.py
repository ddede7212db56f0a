"""What tells one upload from another: its id, made of the slot, and the client's session token."""

from __future__ import annotations

import fcntl
import hmac
import os
import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import frozen

from hmacfs.errors import Refused, StartError

KEY_BYTES: Final = 32

#: Characters of an upload's id: 192 bits, and short enough for the name of a part file or a Redis key.
ID_LENGTH: Final = 32

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~-]{8,128}")
_UPLOAD_NAME: Final = re.compile(rb"([A-Za-z0-9_-]{%d})-([1-9][0-9]{0,14})" % ID_LENGTH)


@frozen
class UploadName:
    """What an upload that has begun is called in URLs. Who knows it may go on with the upload: it can't be guessed.

    :ivar uid: :func:`upload_id`.
    :ivar generation: an upload that begins anew has another name, and the one before means nothing any more.
    """

    uid: str
    generation: int

    @classmethod
    def parse(cls, text: bytes) -> UploadName | None:
        """The reverse of ``str``; ``None`` for what can't be a name."""
        match = _UPLOAD_NAME.fullmatch(text)
        return None if match is None else cls(match[1].decode("ascii"), int(match[2]))

    def __str__(self) -> str:
        return f"{self.uid}-{self.generation}"


def server_key(directory: Path) -> bytes:
    """The key that upload ids are made with: random, made once, the same for every process that uses *directory*.

    Who loses it loses the way back to unfinished uploads, nothing else. Blocks, for one fsync at most.

    :param directory: ``<StoreDir>/.hmacfs``.
    :raises StartError: the file has been damaged, or can't be had.
    """
    path = directory / "server.key"
    try:
        # Whoever opens the file first fills it under the lock, so that nobody ever reads half a key.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            key = os.read(fd, KEY_BYTES + 1) or _fill(fd, directory)
        finally:
            os.close(fd)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise StartError(f"{path}: expected {KEY_BYTES} bytes. Remove the file; unfinished uploads then begin anew.")
    return key


def _fill(fd: int, directory: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    os.write(fd, key)
    os.fsync(fd)
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return key


def upload_id(key: bytes, path: bytes, signature: bytes) -> str:
    """The id of the upload to a slot: found from the slot's URL alone, and not to be guessed without it.

    :param key: :func:`server_key`.
    :param path: :attr:`hmacfs.storage.names.SlotPath.encoded`; it has no NUL, which separates the parts here.
    :param signature: :attr:`hmacfs.access.slot.Slot.signature`.
    """
    mac = hmac.new(key, b"\0".join((b"up1", path, signature)), sha256).digest()
    return urlsafe_b64encode(mac)[:ID_LENGTH].decode("ascii")


def first_generation(now: float) -> int:
    """Of an upload of which nothing is known, though there may have been one that was given up: its name had another one.

    :param now: in seconds since the epoch.
    """
    return max(1, int(now * 1000))


def check_token(value: bytes) -> str:
    """The client's session token, from the value of its ``X-Session-Token``.

    :raises Refused: 400 ``bad-session-token``. The detail does not repeat it.
    """
    if not _TOKEN.fullmatch(value):
        raise Refused(
            400, "bad-session-token", "X-Session-Token: expected 8 to 128 characters out of A-Z a-z 0-9 . _ ~ -"
        )
    return value.decode("ascii")


def new_token() -> str:
    """A session token for a client that brought none."""
    return secrets.token_urlsafe(24)
