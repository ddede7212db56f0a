"""Whose a stored file is: what quotas count by, and what an operator asks for."""

from __future__ import annotations

from attrs import frozen

#: ejabberd signs ``<user>/<random>/<name>``, Prosody and Metronome sign ``<random>/<name>``.
_EJABBERD_SEGMENTS = 3


@frozen
class Account:
    """Whose a file is, as far as its upload says.

    :ivar user: a bare JID; with ejabberd the first segment of its paths, which is the user's name or a hash of the JID
        (``jid_in_url``); ``None`` where nothing names a user.
    :ivar domain: of the JID; empty where there is none.
    """

    user: str | None
    domain: str


def account_of(owner: str | None, path: bytes) -> Account:
    """Whose the file at a path is.

    :param owner: bare JID, where the upload's signature named one.
    :param path: as :attr:`hmacfs.storage.names.SlotPath.encoded`.
    """
    if owner is not None:
        return Account(owner, owner.partition("/")[0].rpartition("@")[2])
    segments = path.split(b"/")
    if len(segments) == _EJABBERD_SEGMENTS:
        # Bytes that aren't UTF-8 must not make two users one, nor something that SQLite can't store.
        return Account(segments[0].decode("utf-8", "backslashreplace"), "")
    return Account(None, "")
