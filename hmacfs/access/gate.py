"""Who may write what: from the credentials of a request to a :class:`~hmacfs.access.slot.Slot`, or a refusal.

The refusals, by their reason word:

=================== ====== ============================================================================================
reason              status when
=================== ====== ============================================================================================
missing-signature   403    neither a Bearer token nor a signature parameter that is spoken here
bad-query           400    a signature parameter is there twice
bad-signature       403    the signature isn't ours: another secret, path, size, content type or method, or not 64
                           hexadecimal digits; a well-formed token that somebody else signed
bad-token           401    ``Authorization: Bearer`` with what is no upload token at all: not a JWT, not HS256, a claim
                           missing or of a wrong type. Comes with ``WWW-Authenticate``
expired             403    a genuine token or v3 signature whose time is over
wrong-slot          403    a genuine token for another path
length-required     411    ``v``, ``v2`` and ``token`` sign the size, and the request doesn't tell it
size-mismatch       413    a genuine token for another size
=================== ====== ============================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from hmacfs.access.attempt import Attempt
from hmacfs.access.bearer import BearerTokens, bearer_token
from hmacfs.access.diagnosis import explain
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.query import parse_query
from hmacfs.access.signatures import content_types, is_signed, parse_mac, text_deletion, text_v, text_v2, text_v3
from hmacfs.access.slot import Slot
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from hmacfs.storage.types import guess_type, storable_type

# As every signer writes it: no sign, no leading zero. 15 digits are some 30 million years.
_EPOCH_S: Final = re.compile(rb"0|[1-9][0-9]{0,14}")


@frozen
class _Credential:
    """What is shown, well-formed and no more than that.

    :ivar value: the token, or the 32 bytes of a MAC.
    """

    scheme: str
    value: bytes = field(repr=False)

    @property
    def identity(self) -> bytes:
        return sha256(b"%b:%b" % (self.scheme.encode("ascii"), self.value)).digest()


class Gate:
    """Decides, without side effects and on the reactor's thread: a few HMACs per request.

    :param keyring: the secrets that are accepted.
    :param upload_subdir: the URL prefix of slots; slashes around it don't matter.
    :param accept_v3: take v3 signatures, which bind neither size nor type and can be used again until they expire.
    :param now: the time in seconds since the epoch.
    :param delete_secret: with what the XMPP server signs that a file is to be deleted; empty where it can't.
    """

    def __init__(
        self,
        keyring: Keyring,
        upload_subdir: str,
        accept_v3: bool,
        now: Callable[[], float],
        delete_secret: bytes = b"",
    ) -> None:
        self._keyring = keyring
        self._upload_subdir = upload_subdir.strip("/").encode("utf-8")
        self._accept_v3 = accept_v3
        self._now = now
        self._delete_secret = delete_secret
        self._tokens = BearerTokens()

    def authorize(self, path: SlotPath, attempt: Attempt) -> Slot:
        """Check the credential of *attempt* for *path*.

        A Bearer token goes before everything else, then the highest version of the signature parameters; what is there
        must be right, nothing lower is fallen back to. An ``Authorization`` of another scheme is none of our business.

        For an upload that was begun before see :meth:`identify`. Where its size was noted, a request about it (HEAD,
        the rest of the file, DELETE) can be checked here just as well, with that size: every signature but v3 is one of
        the file and not of the method.

        :param path: made from ``attempt.raw_path``; whatever is dangerous in it was refused then.
        :raises Refused: see the module.
        """
        shown = self._shown(attempt)
        if shown is None:
            raise Refused(403, "missing-signature", "Writing here takes a slot from your XMPP server.")
        if shown.scheme == "jwt":
            return self._by_token(path, attempt, shown)
        if shown.scheme == "v3":
            return self._by_v3(path, attempt, shown)
        return self._by_size(path, attempt, shown)

    def identify(self, attempt: Attempt) -> bytes | None:
        """What :attr:`Slot.signature` would be, whatever the credential is worth; ``None`` without a well-formed one.

        Grants nothing by itself. But who shows a credential that began an upload may go on with that upload, ask about
        it and give it up, without the total size at hand and after the credential's time is over: it was checked when
        the upload began, and nobody else has it.
        """
        try:
            shown = self._shown(attempt)
        except Refused:
            return None
        return None if shown is None else shown.identity

    def authorize_deletion(self, path: SlotPath, attempt: Attempt) -> bool:
        """Check whether the XMPP server itself asks for the deletion of what is stored at *path*.

        :return: false where *attempt* is none of that kind: without a ``token``, or where no file can be deleted in this
            way. It may then be that of a client, which gives an unfinished upload up.
        :raises Refused: 403 ``bad-signature``, 400 ``bad-query``.
        """
        if not self._delete_secret:
            return False
        shown = self._shown(attempt)
        if shown is None or shown.scheme != "token":
            return False
        if not is_signed(text_deletion(path.encoded, self._delete_secret), shown.value, self._accepted()):
            raise _bad_signature()
        return True

    def explain(self, attempt: Attempt) -> str | None:
        """One sentence for the log on why *attempt* was refused; see :mod:`hmacfs.access.diagnosis`.

        May run in a thread, and should, one at a time: it takes some 2 ms, a hundred times what the refusal took.
        """
        at = self._now()
        return explain(
            attempt, self._keyring.candidates(at), self._keyring.retired(at), self._upload_subdir, self._accept_v3
        )

    def _shown(self, attempt: Attempt) -> _Credential | None:
        token = bearer_token(attempt.authorization)
        if token is not None:
            return _Credential("jwt", token)
        highest = parse_query(attempt.query).highest(self._accept_v3)
        if highest is None:
            return None
        scheme, text = highest
        mac = parse_mac(text)
        if mac is None:
            raise _bad_signature()
        return _Credential(scheme, mac)

    def _accepted(self) -> tuple[Secret, ...]:
        return self._keyring.candidates(self._now())

    def _by_token(self, path: SlotPath, attempt: Attempt, shown: _Credential) -> Slot:
        grant = self._tokens.read(shown.value, self._accepted())
        if grant is None:
            raise _bad_signature()
        if grant.ends < self._now():
            raise _expired()
        if not grant.is_for(path):
            raise Refused(403, "wrong-slot", "The token is for another URL.")
        if attempt.size is not None and attempt.size != grant.size:
            detail = f"The slot is for a file of {grant.size} bytes, and this one has {attempt.size}."
            raise Refused(413, "size-mismatch", detail)
        return Slot(path, grant.size, grant.content_type, grant.owner, grant.expires, shown.scheme, shown.identity)

    def _by_v3(self, path: SlotPath, attempt: Attempt, shown: _Credential) -> Slot:
        expires = parse_query(attempt.query).given.get("expires", b"")
        if attempt.method != b"PUT" or not _EPOCH_S.fullmatch(expires):
            raise _bad_signature()
        url_path = b"/%b/%b" % (self._upload_subdir, path.encoded) if self._upload_subdir else b"/" + path.encoded
        if not is_signed(text_v3(b"PUT", int(expires), url_path), shown.value, self._accepted()):
            raise _bad_signature()
        if int(expires) < self._now():
            raise _expired()
        return Slot(path, None, _sent_type(attempt, path), None, None, shown.scheme, shown.identity)

    def _by_size(self, path: SlotPath, attempt: Attempt, shown: _Credential) -> Slot:
        if attempt.size is None:
            raise Refused(411, "length-required", "The signature is of the file's size: send a Content-Length.")
        content_type = self._signed_type(path, attempt, attempt.size, shown)
        if content_type is None:
            raise _bad_signature()
        return Slot(path, attempt.size, content_type, None, None, shown.scheme, shown.identity)

    def _signed_type(self, path: SlotPath, attempt: Attempt, size: int, shown: _Credential) -> str | None:
        """The content type to keep if the signature is right, otherwise ``None``."""
        secrets = self._accepted()
        if shown.scheme == "v":
            return _sent_type(attempt, path) if is_signed(text_v(path.encoded, size), shown.value, secrets) else None
        for content_type in content_types(attempt.content_type, path.name):
            if is_signed(text_v2(path.encoded, size, content_type), shown.value, secrets):
                return storable_type(content_type)
        return None


def _sent_type(attempt: Attempt, path: SlotPath) -> str:
    return storable_type(attempt.content_type) if attempt.content_type else guess_type(path.name)


def _bad_signature() -> Refused:
    return Refused(403, "bad-signature", "The signature isn't right for this request.")


def _expired() -> Refused:
    return Refused(403, "expired", "The time to use this slot is over; ask your XMPP server for another.")
