"""What a worker gets from its supervisor, through a pipe."""

from __future__ import annotations

import pickle

from attrs import frozen

from hmacfs.access.keys import Keyring
from hmacfs.config import Config
from hmacfs.metrics import Sharing


def packed_keyring(keyring: Keyring) -> bytes:
    """For :func:`unpacked_keyring`, in a process that runs the same program."""
    return pickle.dumps(keyring)


def unpacked_keyring(packed: bytes) -> Keyring:
    """Of a supervisor, which is to be believed whatever it says."""
    keyring = pickle.loads(packed)  # noqa: S301
    assert isinstance(keyring, Keyring)
    return keyring


@frozen
class Seat:
    """A worker's place among the others.

    :ivar config: as the supervisor has read it. That process may have been allowed to read more than the worker is.
    :ivar keyring: the secret, and the one before it for as long as that is accepted.
    :ivar sharing: with whom metrics are shared.
    :ivar workers: how many there are.
    :ivar sockets: the descriptors to listen on, for each of ``config.listen``, and then of ``config.metrics_listen``.
    :ivar log: the descriptor of the log file, if there is one.
    :ivar reports: the descriptor that leads to the supervisor.
    """

    config: Config
    keyring: Keyring
    sharing: Sharing
    workers: int
    sockets: tuple[tuple[int, ...], ...]
    log: int | None
    reports: int

    def packed(self) -> bytes:
        """For :meth:`unpacked`, in a process that runs the same program."""
        return pickle.dumps(self)

    @classmethod
    def unpacked(cls, packed: bytes) -> Seat:
        """Of a supervisor, which is to be believed whatever it says."""
        seat = pickle.loads(packed)  # noqa: S301
        assert isinstance(seat, cls)
        return seat
