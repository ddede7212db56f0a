"""What a request states about the integrity of its bytes, and what we state about ours.

================================================== ==================================== =================================
field                                              source                               of what
================================================== ==================================== =================================
``Content-Digest``                                 RFC 9530 section 2                   the body of this request
``Content-MD5``                                    RFC 1864, gone from HTTP; S3 clients the body of this request
``Repr-Digest``                                    RFC 9530 section 3                   the whole file
``Digest``                                         RFC 3230, obsolete                   the whole file
``X-Checksum``, ``X-Checksum-Sha256``,             in use                               the whole file
``X-Content-SHA256``, ``X-SHA256``
``Want-Repr-Digest``                               RFC 9530 section 4                   a wish, not a statement
================================================== ==================================== =================================

All that are stated are verified. An algorithm that we don't know is passed over, as RFC 9530 has it; so is a structured
field with an error of syntax (RFC 9651 section 4.2). A digest of a wrong length can't be meant: 400.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

from attrs import evolve, field, frozen
from twisted.web.http_headers import Headers

from hmacfs.errors import Refused
from hmacfs.net.fields import FieldError, parse_dictionary

T = TypeVar("T")

#: :mod:`hashlib`'s name by the registered one (RFC 9530 section 7.2). The last two only find accidents.
_ALGORITHMS: Mapping[str, str] = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5"}

_HEX_FIELDS = (b"x-checksum", b"x-checksum-sha256", b"x-content-sha256", b"x-sha256")
_HEX_SHA256 = re.compile(rb"(?:sha-?256[:=])?([0-9a-f]{64})", re.IGNORECASE | re.ASCII)


@frozen
class Digest:
    """One digest that a request states.

    :ivar algorithm: as :mod:`hashlib` names it.
    """

    algorithm: str
    value: bytes = field(repr=False)


@frozen
class StatedDigests:
    """All digests that a request states.

    :ivar representation: of the whole file.
    :ivar content: of the body of this request.
    :ivar wanted: algorithms, as :mod:`hashlib` names them, whose digest of the whole file the client would like to have.
    :ivar ignored: names of fields that were passed over for an error of syntax. For the log: their senders believe that
        something is verified.
    """

    representation: tuple[Digest, ...] = ()
    content: tuple[Digest, ...] = ()
    wanted: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()

    @classmethod
    def from_headers(cls, headers: Headers) -> StatedDigests:
        """Read the fields above.

        :raises Refused: 400 ``bad-digest`` for a digest of a wrong length, or one that isn't hexadecimal or base64
            where nothing else could be meant.
        """
        ignored: list[str] = []
        representation = _structured(headers, b"repr-digest", ignored)
        content = _structured(headers, b"content-digest", ignored)
        wanted = _wanted(headers, ignored)
        return cls(
            representation=(*representation, *_rfc3230(headers), *_hexadecimal(headers)),
            content=(*content, *_content_md5(headers)),
            wanted=wanted,
            ignored=tuple(ignored),
        )

    def of_whole_file(self) -> StatedDigests:
        """The same for a request whose body is the whole file: then there is no difference between the two kinds, and
        an upload that breaks off can be gone on with."""
        if not self.content:
            return self
        return evolve(self, representation=(*self.representation, *self.content), content=())


def algorithms(digests: Iterable[Digest]) -> frozenset[str]:
    """What has to be computed to verify *digests*."""
    return frozenset(digest.algorithm for digest in digests)


def check(stated: Iterable[Digest], computed: Mapping[str, bytes]) -> None:
    """Verify what was stated.

    :param computed: by algorithm; all of :func:`algorithms`.
    :raises Refused: 400 ``digest-mismatch``.
    """
    for digest in stated:
        if not hmac.compare_digest(digest.value, computed[digest.algorithm]):
            raise Refused(
                400,
                "digest-mismatch",
                f"The bytes that arrived don't have the {digest.algorithm} digest that the request states.",
            )


def repr_digest(sha256: bytes) -> str:
    """The ``Repr-Digest`` of a file (RFC 9530 section 3)."""
    return f"sha-256=:{b64encode(sha256).decode('ascii')}:"


def etag(sha256: bytes) -> str:
    """The strong ``ETag`` of a file: half of its digest tells it from every other one."""
    return f'"{sha256.hex()[:32]}"'


def _structured(headers: Headers, name: bytes, ignored: list[str]) -> list[Digest]:
    members = _members(headers, name, bytes, ignored)
    return [_digest(name, key, value) for key, value in members.items()]


def _wanted(headers: Headers, ignored: list[str]) -> frozenset[str]:
    weights = _members(headers, b"want-repr-digest", int, ignored)
    # From 1 to 10 is how much; 0 is not at all.
    return frozenset(_ALGORITHMS[key] for key, weight in weights.items() if weight > 0)


def _members(headers: Headers, name: bytes, kind: type[T], ignored: list[str]) -> dict[str, T]:
    """The members, of algorithms that we know, of a field that is a Dictionary (RFC 9651 section 3.2).

    An error of syntax, or a value of another kind than the field's definition says, costs the whole field.
    """
    lines = headers.getRawHeaders(name)
    if lines is None:
        return {}
    try:
        parsed = parse_dictionary(b", ".join(lines))
        known = {key: member[0] for key, member in parsed.items() if key in _ALGORITHMS}
        # bool is an int to Python, and a key without a value is True.
        if not all(type(value) is kind for value in known.values()):
            raise FieldError("a value of another type")
    except FieldError:
        ignored.append(name.decode("ascii"))
        return {}
    return cast("dict[str, T]", known)


def _rfc3230(headers: Headers) -> Iterator[Digest]:
    for line in headers.getRawHeaders(b"digest", []):
        for instance in line.split(b","):
            key, _, value = instance.strip().partition(b"=")
            algorithm = key.decode("ascii", "replace").lower()
            if algorithm in _ALGORITHMS:
                yield _digest(b"digest", algorithm, _from_base64(b"digest", value))


def _content_md5(headers: Headers) -> Iterator[Digest]:
    for line in headers.getRawHeaders(b"content-md5", []):
        yield _digest(b"content-md5", "md5", _from_base64(b"content-md5", line.strip()))


def _hexadecimal(headers: Headers) -> Iterator[Digest]:
    for name in _HEX_FIELDS:
        for line in headers.getRawHeaders(name, []):
            match = _HEX_SHA256.fullmatch(line.strip())
            if match is None:
                raise _bad(name, "a SHA-256 in 64 hexadecimal digits")
            yield Digest("sha256", binascii.unhexlify(match[1]))


def _from_base64(name: bytes, text: bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        raise _bad(name, "base64") from None


def _digest(name: bytes, key: str, value: bytes) -> Digest:
    algorithm = _ALGORITHMS[key]
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    if len(value) != size:
        raise _bad(name, f"{size} bytes for {key}")
    return Digest(algorithm, value)


def _bad(name: bytes, expected: str) -> Refused:
    return Refused(400, "bad-digest", f"{name.decode('ascii').title()}: expected {expected}.")
