"""Why a signature is wrong: the one difference between what was sent and what was signed.

For the operator's log only. Whoever sent the request learns nothing of it, and nothing is ever granted by it. The usual
reasons are a base URL that doesn't fit ``UploadSubDir``, a proxy that rewrites paths, a client that changes its mind
about the file, and two sides that don't have the same secret, and all of them look alike from outside.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from attrs import field, frozen

from hmacfs.access.attempt import Attempt
from hmacfs.access.bearer import bearer_token
from hmacfs.access.keys import Secret
from hmacfs.access.query import parse_query
from hmacfs.access.signatures import content_types, mac, parse_mac
from hmacfs.errors import Refused
from hmacfs.storage.names import MAX_PATH_BYTES
from hmacfs.storage.types import KNOWN_TYPES

#: How many HMACs one explanation may take.
MAX_MACS: Final = 1024

#: Of a path or a type that a sentence shows, in characters.
MAX_SHOWN: Final = 160

# A base URL may have so many segments more or fewer than UploadSubDir.
_SEGMENTS_OFF: Final = 3

# What AES-GCM adds to a file (OMEMO, XEP-0454).
_GCM_TAG_BYTES: Final = 16

_ESCAPE: Final = re.compile(rb"%[0-9A-F]{2}")

#: A different path, size, type or secret, and what is to be said of it.
_Difference = tuple[bytes, str]


def explain(
    attempt: Attempt,
    accepted: tuple[Secret, ...],
    retired: tuple[Secret, ...],
    upload_subdir: bytes,
    accept_v3: bool,
) -> str | None:
    """Find the single difference that would make the signature of *attempt* right.

    A pure function. Takes :data:`MAX_MACS` HMACs at most: a few milliseconds, which may be spent in a thread.

    :param accepted: the secrets that are accepted.
    :param retired: secrets that were accepted once.
    :param upload_subdir: the URL prefix of slots, without slashes around it.
    :returns: what to add to "403 bad-signature" in the log, without a signature, a token or a secret in it; ``None`` if
        no single difference explains the refusal, if there is no signature, or if it is right.
    """
    try:
        token = bearer_token(attempt.authorization)
        if token is not None:
            return _explain_token(token, accepted, retired)
        signatures = parse_query(attempt.query)
    except Refused:
        return None
    highest = signatures.highest(accept_v3)
    if highest is None:
        return "a v3 signature came, and AcceptV3 is off" if "v3" in signatures.given else None
    scheme, text = highest
    given = parse_mac(text)
    sent = _Sent.of(attempt, upload_subdir)
    # What is refused for its NUL or its length isn't made right by anything.
    if given is None or b"\0" in sent.url_path or len(sent.path) > MAX_PATH_BYTES:
        return None
    if scheme == "v3":
        guesses = _v3_guesses(sent, signatures.given.get("expires", b""), accepted, retired)
    else:
        guesses = _guesses(sent, scheme, accepted, retired)
    return _first_right(guesses, given)


def _explain_token(token: bytes, accepted: tuple[Secret, ...], retired: tuple[Secret, ...]) -> str | None:
    text, _, signature = token.rpartition(b".")
    guesses = (_Guess(secret, text, sentence) for secret, sentence in _other_secrets(accepted, retired))
    return _first_right(guesses, urlsafe_b64decode(signature + b"="))


def _first_right(guesses: Iterator[_Guess], given: bytes) -> str | None:
    for guess in islice(guesses, MAX_MACS):
        if hmac.compare_digest(mac(guess.secret, guess.text), given):
            return guess.sentence
    return None


@frozen
class _Sent:
    """A request, taken apart as far as guesses need it.

    :ivar url_path: the URL's whole path, percent-decoded; *raw_url_path* as it was sent.
    :ivar path: what is below the upload prefix, percent-decoded: what v and v2 sign; *raw_path* as it was sent.
    :ivar size: in decimal, empty if unknown.
    :ivar types: the content types that the gate tries for every v2 signature.
    """

    url_path: bytes
    raw_url_path: bytes
    prefix: bytes
    path: bytes
    raw_path: bytes
    size: bytes
    types: tuple[bytes, ...]

    @classmethod
    def of(cls, attempt: Attempt, upload_subdir: bytes) -> _Sent:
        url_path = unquote_to_bytes(attempt.raw_path)
        front = b"/%b/" % upload_subdir if upload_subdir else b"/"
        inside = url_path.startswith(front)
        path = url_path[len(front) :] if inside else url_path.lstrip(b"/")
        return cls(
            url_path=url_path,
            raw_url_path=attempt.raw_path,
            prefix=upload_subdir,
            path=path,
            raw_path=attempt.raw_path.split(b"/", front.count(b"/"))[-1] if inside else attempt.raw_path.lstrip(b"/"),
            size=b"" if attempt.size is None else b"%d" % attempt.size,
            types=content_types(attempt.content_type, path.rpartition(b"/")[2]),
        )


@frozen
class _Guess:
    """One way in which the signature may have been made, and what is to be said if it was."""

    secret: Secret
    text: bytes = field(repr=False)
    sentence: str


def _guesses(sent: _Sent, scheme: str, accepted: tuple[Secret, ...], retired: tuple[Secret, ...]) -> Iterator[_Guess]:
    """For v, v2 and token. The likelier ones first, as their number is bounded."""
    for path, why in [*_shifts(sent), *_spellings(sent.path, sent.raw_path)]:
        texts = _texts(scheme, path, sent.size, sent.types)
        yield from _each(accepted, texts, f'right if the path were "{_shown(path)}": {why}')
    for secret, why in _other_secrets(accepted, retired):
        yield from _each([secret], _texts(scheme, sent.path, sent.size, sent.types), why)
    for size, why in _sizes(sent.size):
        if size != sent.size:
            yield from _each(accepted, _texts(scheme, sent.path, size, sent.types), why)
    yield from _each(accepted, [sent.path], "right for the path alone: a slot must be signed with the file's size")
    other, name = ("v2", "v2 (or token)") if scheme == "v" else ("v", "v")
    texts = _texts(other, sent.path, sent.size, sent.types)
    yield from _each(accepted, texts, f"right as {name}: the parameter is named {scheme}")
    if scheme != "v":
        yield from _type_guesses(sent, accepted)


def _type_guesses(sent: _Sent, accepted: tuple[Secret, ...]) -> Iterator[_Guess]:
    for content_type in _types(sent.types):
        sentence = f'right if the content type were "{_shown(content_type)}": the slot was asked for with that one'
        yield from _each(accepted, _texts("v2", sent.path, sent.size, [content_type]), sentence)


def _v3_guesses(
    sent: _Sent, expires: bytes, accepted: tuple[Secret, ...], retired: tuple[Secret, ...]
) -> Iterator[_Guess]:
    def text(path: bytes, method: bytes = b"PUT") -> list[bytes]:
        return [b"%b\n%b\n%b" % (method, expires, path)]

    shifts = [
        (sent.url_path.lstrip(b"/"), "v3 signs it with its leading slash"),
        (b"/" + sent.path, "v3 signs it with UploadSubDir"),
        (sent.path, "v3 signs it with its leading slash and UploadSubDir"),
    ]
    for path, why in [*shifts, *_spellings(sent.url_path, sent.raw_url_path)]:
        if path != sent.url_path:
            yield from _each(accepted, text(path), f'right if the path were "{_shown(path)}": {why}')
    for secret, why in _other_secrets(accepted, retired):
        yield from _each([secret], text(sent.url_path), why)
    for method in (b"POST", b"GET", b"HEAD", b"DELETE"):
        sentence = f"right for {method.decode('ascii')}: a v3 signature is taken for PUT only"
        yield from _each(accepted, text(sent.url_path, method), sentence)


def _each(secrets: Iterable[Secret], texts: Iterable[bytes], sentence: str) -> Iterator[_Guess]:
    return (_Guess(secret, text, sentence) for text in texts for secret in secrets)


def _texts(scheme: str, path: bytes, size: bytes, types: Iterable[bytes]) -> list[bytes]:
    if scheme == "v":
        return [b"%b %b" % (path, size)]
    return [b"%b\0%b\0%b" % (path, size, content_type) for content_type in types]


def _shifts(sent: _Sent) -> Iterator[_Difference]:
    """The same path, beginning somewhere else."""
    differ = "the XMPP server's base URL and UploadSubDir differ"
    kept = sent.prefix.split(b"/") if sent.prefix else []
    for first in range(max(0, len(kept) - _SEGMENTS_OFF), len(kept)):
        for shape in (b"%b/%b", b"/%b/%b", b"%b//%b"):
            yield shape % (b"/".join(kept[first:]), sent.path), differ
    yield b"/" + sent.path, "it was signed with a leading slash"
    for count in range(1, _SEGMENTS_OFF + 1):
        segments = sent.path.split(b"/", count)
        if len(segments) > count:
            yield segments[-1], differ if all(segments) else "there is a double slash in the URL"


def _spellings(path: bytes, raw: bytes) -> Iterator[_Difference]:
    """The same path, written in another way."""
    upper = quote_from_bytes(path).encode("ascii")
    spellings = [
        (re.sub(rb"/+", b"/", path), "there is a double slash in the URL"),
        (raw, "it was signed percent-encoded"),
        (upper, "it was signed percent-encoded"),
        (_ESCAPE.sub(lambda escape: escape.group().lower(), upper), "it was signed percent-encoded"),
        (unquote_to_bytes(path), "it was percent-encoded twice on its way"),
        (path.replace(b"+", b" "), "a space became a plus on its way"),
        (path.replace(b" ", b"+"), "a plus became a space on its way"),
        (_normalized("NFC", path), "it became Unicode NFD on its way"),
        (_normalized("NFD", path), "it became Unicode NFC on its way"),
    ]
    return ((spelling, why) for spelling, why in spellings if spelling != path)


def _normalized(form: Literal["NFC", "NFD"], path: bytes) -> bytes:
    text = path.decode("utf-8", "surrogateescape")
    return unicodedata.normalize(form, text).encode("utf-8", "surrogateescape")


def _other_secrets(accepted: tuple[Secret, ...], retired: tuple[Secret, ...]) -> Iterator[tuple[Secret, str]]:
    for secret in retired:
        yield secret, f"right with the previous secret ({secret.fingerprint}), whose grace period is over"
    for secret in accepted:
        for other, why in _misread(secret.value):
            if other and Secret(other) not in accepted:
                yield Secret(other), f"right if the secret ({secret.fingerprint}) {why}"


def _misread(secret: bytes) -> list[_Difference]:
    """What two sides that were given the same secret make of it."""
    return [
        (secret + b"\n", "ended with a line end: the XMPP server has one there"),
        (secret.strip(), "had no white space around it: the XMPP server has none"),
        (b'"%b"' % secret, "were in quotation marks: the XMPP server has them as a part of it"),
        (secret.strip(b"\"'"), "were without its quotation marks: the XMPP server has none"),
    ]


def _sizes(size: bytes) -> Iterator[_Difference]:
    unknown = "the signer didn't know the file's size"
    yield b"0", f"right for 0 bytes: {unknown}"
    yield b"-1", f"right for -1 bytes: {unknown}"
    if size:
        plain, encrypted = int(size) - _GCM_TAG_BYTES, int(size) + _GCM_TAG_BYTES
        yield b"%d" % plain, f"right for {plain} bytes: the client encrypted the file after it had asked for the slot"
        yield b"%d" % encrypted, f"right for {encrypted} bytes: the slot was asked for an encrypted file"


def _types(tried: tuple[bytes, ...]) -> Iterator[bytes]:
    """The content types that the gate doesn't try by itself: with a charset, and all that are known."""
    for content_type in tried:
        if content_type and b";" not in content_type:
            yield content_type + b"; charset=utf-8"
            yield content_type + b";charset=utf-8"
    for known in sorted(KNOWN_TYPES):
        if known.encode("ascii") not in tried:
            yield known.encode("ascii")


def _shown(text: bytes) -> str:
    """*text* as it may stand in a log line: controls and non-ASCII escaped, the middle of a long one left out."""
    shown = quote_from_bytes(text, safe="/;=,+@:&'% ")
    half = MAX_SHOWN // 2
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:half]}…{shown[-half:]}"
