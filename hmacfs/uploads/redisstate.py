"""Upload states in a Redis: the store that several hosts can share.

**While Redis is away** every call fails with :exc:`~hmacfs.uploads.state.StateUnavailable`: after
:data:`~hmacfs.net.redislink.CALL_TIMEOUT_S` if that was not known before, at once if it was. What it means for a
client is for the caller to say. An upload that begins needs no store as long as nothing breaks: receive it, publish it,
and don't promise that it can be resumed. One that is under way goes on, and tries to commit at its next checkpoint. A
request that asks for an offset, or resumes an upload, can't be helped: 503 with ``Retry-After``.

**After a flush or a restart** Redis may have forgotten uploads (:exc:`~hmacfs.uploads.state.UnknownUpload`), or
remember an older offset. The part file is then what counts: create the upload again with the durable bytes that are
there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from attrs import evolve, fields
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from hmacfs.config_addresses import RedisAddress
from hmacfs.errors import StartError
from hmacfs.net.redislink import CALL_TIMEOUT_S, RedisAway, RedisLink
from hmacfs.uploads import redisscripts as scripts
from hmacfs.uploads.state import (
    LEASE_S,
    Busy,
    Fenced,
    Holder,
    Holdings,
    IUploadState,
    Lease,
    NewUpload,
    OffsetMismatch,
    Page,
    StateUnavailable,
    Status,
    UnknownUpload,
    UploadRecord,
    beginning,
    expiry,
)

#: When it is worth to ask again, in seconds.
RETRY_AFTER_S: Final = 5.0

#: How long Redis keeps a record that no janitor removed, counted from its expiry, in seconds.
KEPT_S: Final = 24 * 60 * 60

#: Records on one page of :meth:`RedisUploadState.unfinished`, or some more.
PAGE_RECORDS: Final = 100


def redis_endpoint(reactor: Any, address: RedisAddress, ca_file: Path | None) -> IStreamClientEndpoint:
    """How to reach Redis.

    Where TLS is asked for the certificate is always verified, with the name or address that stands in *address*.

    :param ca_file: PEM certificates to verify by; ``None`` for the system's.
    :raises StartError: *ca_file* has none.
    """
    if address.unix_path is not None:
        return UNIXClientEndpoint(reactor, str(address.unix_path), timeout=CALL_TIMEOUT_S)
    endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout=CALL_TIMEOUT_S)
    if not address.tls:
        return endpoint
    return wrapClientTLS(optionsForClientTLS(address.host, trustRoot=_trust(ca_file)), endpoint)


def _trust(ca_file: Path | None) -> Any:
    if ca_file is None:
        return platformTrust()
    try:
        pem = ca_file.read_bytes()
        blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
        certificates = [Certificate.loadPEM(block) for block in blocks]
    except Exception as error:
        raise StartError(f"RedisCAFile {ca_file}: {error}") from error
    if not certificates:
        raise StartError(f"RedisCAFile {ca_file}: expected certificates in PEM format.")
    return trustRootFromCertificates(certificates)


# How a field is read from the text that Redis has of it. An empty text is None where None can be.
_READERS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "uid": bytes.decode,
    "path": bytes,
    "signature": bytes,
    "token": bytes.decode,
    "content_type": bytes.decode,
    "total": lambda text: int(text) if text else None,
    "owner": lambda text: text.decode() or None,
    "file_expires": lambda text: float(text) if text else None,
    "offset": int,
    "hash_state": bytes,
    "generation": int,
    "status": lambda text: Status(text.decode()),
    "reason": bytes.decode,
    "epoch": int,
    "created": float,
    "modified": float,
    "expires": float,
    "attempts_without_progress": int,
    "sha256": lambda text: text or None,
    "metadata": bytes.decode,
}
assert tuple(_READERS) == tuple(attribute.name for attribute in fields(UploadRecord))


def _text(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case None:
            return b""
        case Status():
            return value.value.encode()
        case float():
            return repr(value).encode()
        case _:
            return str(value).encode()


def _pairs(**values: object) -> list[object]:
    """Fields and values, as HSET takes them."""
    return [part for pair in values.items() for part in pair]


def _all_pairs(record: UploadRecord) -> list[object]:
    return _pairs(**{name: getattr(record, name) for name in _READERS})


def _record(pairs: Sequence[str]) -> UploadRecord:
    """The record from HGETALL's answer, whose bytes come as characters below 256: JSON has no bytes."""
    found = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return UploadRecord(**{name: read(found[name].encode("latin-1")) for name, read in _READERS.items()})


def _json(answer: bytes) -> Any:
    return json.loads(answer.decode("latin-1"))


_MESSAGE: Final = re.compile(rb"([0-9]{1,18}) ([A-Za-z0-9_-]{1,64})")


@implementer(IUploadState)
class RedisUploadState:
    """See :class:`~hmacfs.uploads.state.IUploadState`. Each change is one script, so it is made whole or not at all.

    Use a Redis that does not evict (``maxmemory-policy noeviction``): what it evicts counts as lost.

    :param link: started, once this is made, and stopped by whoever made it: others use it, too.
    :param now: the time in seconds since the epoch.
    :param ttl_s: ``SessionTTL`` in seconds.
    :param prefix: ``RedisPrefix``, which all keys and the channel begin with.
    """

    def __init__(self, link: RedisLink, now: Callable[[], float], ttl_s: float, prefix: str) -> None:
        self._link = link
        self._now = now
        self._ttl_s = ttl_s
        # The number is that of the format: another one doesn't see these keys.
        base = f"{prefix}{{up1}}:"
        self._record_key = f"{base}upload:"
        self._lease_key = f"{base}lease:"
        self._channel = f"{base}let-go"
        self._shelves = [f"{base}{status.value}" for status in Status]
        self._holdings = Holdings()
        link.subscribe(self._channel, self._wished)

    @property
    def available(self) -> bool:
        return self._link.available

    @property
    def round_trip_s(self) -> float | None:
        return self._link.round_trip_s

    def start(self) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def create(self, new: NewUpload, holder: Holder) -> Deferred[Lease | UploadRecord]:
        now = self._now()
        record = beginning(new, 1, now, self._ttl_s)

        def created(answer: bytes) -> Lease | UploadRecord:
            word, _, pairs = answer.partition(b" ")
            there = _record(_json(pairs))
            return self._leased(there, holder) if word == b"ok" else there

        return self._change(
            scripts.CREATE, new.uid, "", holder.name, *self._lifetime(record, now), *_all_pairs(record)
        ).addCallback(created)

    def get(self, uid: str) -> Deferred[UploadRecord | None]:
        def missing(failure: Failure) -> None:
            if not isinstance(failure.value, UnknownUpload):
                failure.raiseException()

        return self._change(scripts.GET, uid, "", "").addCallbacks(_answered_record, missing)

    def acquire(self, uid: str, holder: Holder, steal: bool = False, attempt: bool = True) -> Deferred[Lease]:
        return self._change(scripts.ACQUIRE, uid, "", holder.name, int(steal), int(attempt)).addCallback(
            lambda answer: self._leased(_answered_record(answer), holder)
        )

    def commit(self, lease: Lease, offset: int, hash_state: bytes = b"") -> Deferred[None]:
        now = self._now()
        expires, keep_ms = self._lifetime(lease.record, now)
        changes = _pairs(offset=offset, hash_state=hash_state, modified=now, expires=expires)
        return self._under(lease, scripts.COMMIT, offset, expires, keep_ms, *changes).addCallback(_none)

    def renew(self, lease: Lease) -> Deferred[None]:
        return self._under(lease, scripts.RENEW).addCallback(_none)

    def release(self, lease: Lease) -> Deferred[None]:
        self._holdings.drop(lease)
        return self._under(lease, scripts.RELEASE).addCallback(_none)

    def finish(self, lease: Lease, size: int, sha256: bytes | None) -> Deferred[None]:
        now = self._now()
        expires, keep_ms = self._lifetime(lease.record, now)
        changes = _pairs(
            status=Status.COMPLETE,
            total=size,
            offset=size,
            hash_state=b"",
            sha256=sha256,
            modified=now,
            expires=expires,
        )
        return self._under(lease, scripts.FINISH, size, expires, keep_ms, *changes).addCallback(self._let_go_of, lease)

    def fail(self, lease: Lease, reason: str) -> Deferred[None]:
        now = self._now()
        expires, keep_ms = self._lifetime(lease.record, now)
        changes = _pairs(status=Status.FAILED, reason=reason, hash_state=b"", modified=now, expires=expires)
        return self._under(lease, scripts.FAIL, expires, keep_ms, *changes).addCallback(self._let_go_of, lease)

    def restart(self, lease: Lease, new: NewUpload) -> Deferred[Lease]:
        now = self._now()
        new = evolve(new, generation=max(new.generation, lease.record.generation + 1))
        record = beginning(new, lease.epoch, now, self._ttl_s)
        return self._under(lease, scripts.RESTART, *self._lifetime(record, now), *_all_pairs(record)).addCallback(
            lambda answer: evolve(lease, record=_answered_record(answer))
        )

    def discard(self, lease: Lease) -> Deferred[None]:
        return self._under(lease, scripts.DISCARD).addCallback(self._let_go_of, lease)

    def expired(self, now: float, limit: int) -> Deferred[Sequence[UploadRecord]]:
        def oldest_first(answer: bytes) -> Sequence[UploadRecord]:
            records = map(_record, _json(answer))
            return sorted(records, key=lambda record: record.expires)[:limit]

        return self._eval(scripts.EXPIRED, self._shelves, [self._record_key, now, limit]).addCallback(oldest_first)

    def unfinished(self, cursor: str = "") -> Deferred[Page]:
        def page(answer: bytes) -> Page:
            following, records = _json(answer)
            return Page([_record(pairs) for pairs in records], "" if following == "0" else following)

        return self._eval(
            scripts.UNFINISHED, self._shelves[:1], [self._record_key, cursor or "0", PAGE_RECORDS]
        ).addCallback(page)

    def known(self, uids: Sequence[str]) -> Deferred[Mapping[str, int]]:
        def generations(answer: bytes) -> Mapping[str, int]:
            return {uid: int(text) for uid, text in zip(uids, _json(answer), strict=True) if text}

        if not uids:
            return succeed({})
        return self._eval(scripts.KNOWN, [self._record_key + uid for uid in uids], []).addCallback(generations)

    def counts(self) -> Deferred[Mapping[Status, int]]:
        return self._eval(scripts.COUNTS, self._shelves, []).addCallback(
            lambda answer: dict(zip(Status, map(int, _json(answer)), strict=True))
        )

    def _lifetime(self, record: UploadRecord, now: float) -> tuple[float, int]:
        """When the record expires (seconds since the epoch), and how long Redis is to keep it (milliseconds)."""
        expires = expiry(record, now, self._ttl_s)
        return expires, int(1000 * (max(expires - now, 0) + KEPT_S))

    def _change(self, script: str, uid: str, epoch: object, holder: str, *args: object) -> Deferred[bytes]:
        """Run a script on one upload. Fires with its answer, unless that is an error's name.

        :raises UploadStateError: what the answer says.
        """
        keys = [self._record_key + uid, self._lease_key + uid, *self._shelves]
        common = (uid, self._channel, epoch, holder, int(1000 * LEASE_S))
        return self._eval(script, keys, [*common, *args]).addCallback(_checked, uid)

    def _under(self, lease: Lease, script: str, *args: object) -> Deferred[bytes]:
        """Run a script that *lease* allows; if it is over, nobody needs to be told to let go of it."""

        def over(failure: Failure) -> Failure:
            if isinstance(failure.value, (Fenced, UnknownUpload)):
                self._holdings.drop(lease)
            return failure

        return self._change(script, lease.uid, lease.epoch, lease.holder, *args).addErrback(over)

    def _eval(self, script: str, keys: Sequence[str], args: Sequence[object]) -> Deferred[bytes]:
        def away(failure: Failure) -> NoReturn:
            if isinstance(failure.value, RedisAway):
                raise StateUnavailable(failure.value.reason, RETRY_AFTER_S) from failure.value
            failure.raiseException()

        return self._link.eval(script, keys, [_text(arg) for arg in args]).addErrback(away)

    def _leased(self, record: UploadRecord, holder: Holder) -> Lease:
        lease = Lease(record.uid, holder.name, record.epoch, record)
        self._holdings.add(lease, holder)
        return lease

    def _let_go_of(self, _: object, lease: Lease) -> None:
        self._holdings.drop(lease)

    def _wished(self, message: bytes) -> None:
        match = _MESSAGE.fullmatch(message)
        if match is not None:
            self._holdings.tell(match[2].decode(), int(match[1]))


def _checked(answer: bytes, uid: str) -> bytes:
    word, _, rest = answer.partition(b" ")
    match word:
        case b"unknown":
            raise UnknownUpload(uid)
        case b"fenced":
            raise Fenced(uid)
        case b"busy":
            raise Busy(uid, rest.decode())
        case b"offset":
            raise OffsetMismatch(uid, int(rest))
    return answer


def _answered_record(answer: bytes) -> UploadRecord:
    return _record(_json(answer.partition(b" ")[2]))


def _none(_: object) -> None:
    pass
