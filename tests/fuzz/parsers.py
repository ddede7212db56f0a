"""The single parsers: whatever they are given, they answer in one of the ways that they promise."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from twisted.internet.address import IPv4Address
from twisted.web.http_headers import Headers

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.attempt import Attempt
from hmacfs.access.bearer import BearerTokens, bearer_token
from hmacfs.access.gate import Gate
from hmacfs.access.keys import Keyring, Secret
from hmacfs.access.query import parse_query
from hmacfs.config import KEYS, Config, ConfigError, load
from hmacfs.errors import Refused
from hmacfs.net.heads import Head, MalformedHead
from hmacfs.storage.facts import Facts
from hmacfs.storage.names import MAX_PATH_BYTES, MAX_SEGMENT_BYTES, OWN_DIRECTORY, SlotPath
from hmacfs.units import MAX_DURATION_S, MAX_SIZE_BYTES, UnitError, parse_duration, parse_size
from hmacfs.uploads.digests import StatedDigests
from hmacfs.uploads.note import decode, encode
from hmacfs.uploads.request import UploadRequest
from hmacfs.uploads.state import NewUpload
from hmacfs.web.ranges import Unsatisfiable, parse_range
from tests.fuzz.connections import scratch_directory
from tests.fuzz.grammar import ODD_HEADERS, ODD_PATHS
from tests.fuzz.mutation import mutate
from tests.fuzz.requests import read_requests
from tests.fuzz.slots import NOW, SECRET, Slots, digest_headers, jwt
from tests.fuzz.target import must, shrink_bytes

_SECRETS = (Secret(SECRET),)


class ParserTarget:
    """A parser of bytes.

    :param seeds: makes an example that is more or less well-formed; it is damaged now and then.
    :param parse: tries one.
    """

    def __init__(self, name: str, seeds: Callable[[Random], bytes], parse: Callable[[bytes], None]) -> None:
        self.name = name
        self._seeds = seeds
        self._parse = parse

    def make(self, random: Random) -> bytes:
        data = self._seeds(random)
        return mutate(random, data) if random.random() < 0.5 else data

    def check(self, example: bytes) -> None:
        self._parse(example)

    def smaller(self, example: bytes, fails: Callable[[bytes], bool]) -> bytes:
        return shrink_bytes(example, fails)

    def show(self, example: bytes) -> str:
        return repr(example)


def _headers(data: bytes) -> Headers:
    """Header lines, as a channel would pass them on."""
    headers = Headers()
    for line in data.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and re.fullmatch(rb"[A-Za-z0-9-]+", name) and b"\r" not in value and b"\0" not in value:
            headers.addRawHeader(name, value.strip(b" \t"))
    return headers


def _number(random: Random) -> bytes:
    return random.choice(
        (b"", b"0", b"1", b"9", b"10", b"%d" % random.randrange(1000), b"%d" % random.getrandbits(64), b"9" * 20, b"-1")
    )


def _refused(refused: Refused, *reasons: str) -> None:
    must(refused.reason in reasons, "refused for", refused.reason)
    must(400 <= refused.status < 500, "refused with", refused.status)


# Paths


def _make_path(random: Random) -> bytes:
    if random.random() < 0.5:
        return random.choice(ODD_PATHS).removeprefix(b"/")
    return Slots(random, (), "p").new().target.removeprefix(b"/").partition(b"?")[0]


def _parse_path(data: bytes) -> None:
    try:
        path = SlotPath.from_url(data.split(b"/"))
    except Refused as refused:
        _refused(refused, "bad-path", "bad-name")
        return
    must(len(path.encoded) <= MAX_PATH_BYTES, "too long")
    for segment in path.segments:
        must(segment not in (b"", b".", b"..") and b"/" not in segment, "unsafe:", segment)
        must(not re.search(rb"[\x00-\x1f\x7f]", segment), "a control character:", segment)
        must(len(segment) <= MAX_SEGMENT_BYTES, "a long segment")
    must(path.segments[0].lower() != OWN_DIRECTORY, "our own directory")
    must(SlotPath.from_encoded(path.encoded) == path, "another path from its encoded form")
    must(SlotPath.from_url(path.url.encode().split(b"/")) == path, "another path from its URL")
    must(path.text.encode("utf-8", "surrogateescape") == path.encoded, "another path from its text")


# Credentials


def _make_query(random: Random) -> bytes:
    names = (b"v", b"v2", b"v3", b"token", b"expires", b"V", b"%76", b"x", b"")
    values = (b"", b"0" * 64, b"%00", b"%", b"=", b"a+b", random.randbytes(3), _number(random))
    pairs = [random.choice(names) + random.choice((b"=", b"=", b"")) + random.choice(values) for _ in range(3)]
    return b"&".join(pairs[: random.randrange(4)])


def _parse_query(data: bytes) -> None:
    try:
        given = parse_query(data).given
    except Refused as refused:
        _refused(refused, "bad-query")
        return
    must(set(given) <= {"v", "v2", "v3", "token", "expires"}, "an unknown parameter")
    must(all(isinstance(value, bytes) for value in given.values()), "no bytes")


_JSON = ("null", "true", "0", "-1", "1e400", "NaN", "9" * 5000, '"\\ud800"', '""', "[]", "{}", "[" * 3000, '"a"', "1.5")


def _make_token(random: Random) -> bytes:
    names = ("slot", "filename", "filesize", "filetype", "exp", "expires")
    claims = {name: random.choice(_JSON) for name in names if random.random() < 0.3}
    good = {"slot": '"a"', "filename": '"b"', "filesize": "10", "exp": "1795364700", "sub": '"x@y"'}
    for name, value in good.items():
        if random.random() < 0.9:
            claims[name] = value
    payload = "{" + ",".join(f'"{name}":{value}' for name, value in claims.items()) + "}"
    payload = random.choice((payload, payload, payload, random.choice(_JSON), "\udce9"))
    header = random.choice(
        (b'{"alg":"HS256"}',) * 9 + (b'{"alg":"none"}', b'{"alg":"HS512"}', b"[]", b"1", b"{" * 3000)
    )
    if random.random() < 0.1:
        header = mutate(random, b'{"alg":"HS256","typ":"JWT","crit":["b64"],"b64":false,"kid":1}')
    secret = SECRET if random.random() < 0.8 else b"another"
    body = payload.encode("utf-8", "surrogateescape")
    return random.choice((b"Bearer ", b"bearer\t", b"BEARER  ", b"Basic ", b"")) + jwt(
        mutate(random, body) if random.random() < 0.3 else body, header, secret
    )


def _parse_token(data: bytes) -> None:
    try:
        token = bearer_token(data)
        grant = None if token is None else BearerTokens().read(token, _SECRETS)
    except Refused as refused:
        _refused(refused, "bad-token")
        return
    if grant is not None:
        must(isinstance(grant.size, int) and 0 <= grant.size <= 2**53, "a size of", grant.size)
        must(grant.content_type.isascii() and grant.content_type.isprintable(), "a type of", grant.content_type)
        must(0 <= grant.ends <= 2**53, "an end of", grant.ends)
        grant.is_for(SlotPath((b"a", b"b")))


_REASONS_OF_THE_GATE = (
    *("missing-signature", "bad-query", "bad-signature", "bad-token", "expired", "wrong-slot"),
    *("length-required", "size-mismatch", "bad-path", "bad-name"),
)


def _make_attempt(random: Random) -> bytes:
    """A slot that is right, on five lines: path and query, authorization, method, size, type."""
    slot = Slots(random, (), "a").new()
    size = b"%d" % slot.size if random.random() < 0.9 else _number(random)
    content_type = slot.content_type.encode().replace(b"\n", b"")
    return b"\n".join((slot.target, slot.authorization or b"", b"PUT", size, content_type))


class _GateTarget(ParserTarget):
    """Damaged slots must not open the gate for another path or size than the one that was signed."""

    def __init__(self) -> None:
        super().__init__("gate", _make_attempt, self._pass)
        self._gate = Gate(Keyring(Secret(SECRET)), "", True, lambda: NOW)

    def make(self, random: Random) -> bytes:
        data = _make_attempt(random)
        # The example carries what was signed with it.
        return data + b"\n\n" + mutate(random, data)

    def _pass(self, data: bytes) -> None:
        signed, _, attempted = data.partition(b"\n\n")
        lines = [*attempted.split(b"\n"), b"", b"", b"", b"", b""]
        raw, _, query = lines[0].partition(b"?")
        attempt = Attempt(
            raw_path=raw,
            query=query,
            authorization=lines[1] or None,
            method=lines[2],
            size=int(lines[3]) if re.fullmatch(rb"[0-9]{1,18}", lines[3]) else None,
            content_type=lines[4] or None,
        )
        self._gate.identify(attempt)
        self._gate.explain(attempt)
        try:
            path = SlotPath.from_url(raw[1:].split(b"/"))
            slot = self._gate.authorize(path, attempt)
        except Refused as refused:
            _refused(refused, *_REASONS_OF_THE_GATE)
            return
        before = signed.split(b"\n")
        right = SlotPath.from_url(before[0].partition(b"?")[0][1:].split(b"/"))
        must(path == right, "a path that wasn't signed:", path)
        must(slot.size is None or b"%d" % slot.size == before[3] or b"Bearer" in before[1], "an unsigned size")


# Headers of uploads and downloads


def _make_range(random: Random) -> bytes:
    """The file's size, and the header."""
    size = random.choice((0, 1, 10, 1000, 2**40))
    parts = b",".join(_number(random) + b"-" + _number(random) for _ in range(random.choice((1, 1, 1, 2))))
    return b"%d\nbytes=%b" % (size, parts)


def _parse_range(data: bytes) -> None:
    first, _, header = data.partition(b"\n")
    total = int(first) if re.fullmatch(rb"[0-9]{1,15}", first) else 10
    try:
        part = parse_range(header, total)
    except Unsatisfiable:
        return
    if part is not None:
        must(part.size >= 1 and part.start >= 0 and part.start + part.size <= total, "beyond the file:", part)
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", part.content_range(total))
        must(match and int(match[2]) - int(match[1]) + 1 == part.size, "another Content-Range")


def _make_digests(random: Random) -> bytes:
    lines = [
        b": ".join(header) for _ in range(random.choice((1, 1, 2))) for header in digest_headers(random, b"x", b"")
    ]
    return b"\n".join(lines)


def _parse_digests(data: bytes) -> None:
    sizes = {"sha256": 32, "sha512": 64, "sha1": 20, "md5": 16}
    try:
        stated = StatedDigests.from_headers(_headers(data))
    except Refused as refused:
        _refused(refused, "bad-digest")
        return
    for digest in (*stated.representation, *stated.content):
        must(len(digest.value) == sizes[digest.algorithm], "a digest of", len(digest.value), "bytes")
    must(stated.wanted <= set(sizes), "an algorithm that nobody knows")


def _make_upload(random: Random) -> bytes:
    """The body's length, and header lines."""
    numbers = [_number(random) for _ in range(4)]
    lines = [
        random.choice((b"Content-Range: bytes %b-%b/%b" % (*numbers[:3],), b"Content-Range: bytes */%b" % numbers[0])),
        b"Range: bytes=%b-%b/%b" % (*numbers[:3],),
        b"X-Session-Token: " + random.choice((b"tok-5c1e-0001", b"x", b"")),
        b": ".join(digest_headers(random, b"x", b"")[0]),
        random.choice(ODD_HEADERS),
    ]
    return b"\n".join([numbers[3], *random.sample(lines, random.randrange(4))])


def _parse_upload(data: bytes) -> None:
    first, _, rest = data.partition(b"\n")
    length = int(first) if re.fullmatch(rb"[0-9]{1,18}", first) else None
    try:
        asked = UploadRequest.from_headers(_headers(rest), length)
    except Refused as refused:
        _refused(refused, "bad-range", "bad-session-token", "bad-digest")
        return
    part = asked.part
    if part is not None:
        must(part.start >= 0 and part.end <= part.total, "beyond the file:", part)
        must(length is None or part.size == length, "a body of another length")
    asked.relies_on_offset(10)


def _make_address(random: Random) -> bytes:
    node = random.choice(
        (b"127.0.0.1", b"[::1]:80", b"::ffff:1.2.3.4", b"unknown", b'"[2001:db8::1]"', b"_x", b"unix:")
    )
    other = random.choice((b"203.0.113.9", b"1.2.3.4:80", b"999.1.1.1", b"::1%eth0", b"", b"1" * 100))
    nodes = b",".join(random.choice((node, other)) for _ in range(random.choice((1, 2, 40))))
    forwarded = random.choice((b"for=%b;proto=https, for=%b", b'for="%b",for="%b', b'a="\\",";for=%b, For=%b;x'))
    lines = [b"X-Forwarded-For: " + nodes, b"X-Real-IP: " + node, b"Forwarded: " + forwarded % (node, other)]
    return b"\n".join(random.sample(lines, random.randrange(1, 4)))


_ADDRESSES = ClientAddresses(["unix"]), ClientAddresses([*Config().trusted_proxies])


def _parse_address(data: bytes) -> None:
    headers = _headers(data)
    stranger = _ADDRESSES[0].resolve(IPv4Address("TCP", "192.0.2.1", 1), headers)
    must(stranger.host == "192.0.2.1", "a stranger was believed:", stranger.host)
    client = _ADDRESSES[1].resolve(IPv4Address("TCP", "127.0.0.1", 1), headers)
    must(re.fullmatch(r"[0-9a-f.:]{2,45}|unix", client.host), "no address:", client.host)


def _make_head(random: Random) -> bytes:
    """Lines of a head."""
    first = b"%b %b HTTP/%b" % (
        random.choice((b"GET", b"PUT", b"\xe9", b"")),
        random.choice((b"/x", *ODD_PATHS)),
        random.choice((b"1.1", b"1.1", b"1.0", b"2.0", b"1.10")),
    )
    lines = [random.choice((b"Host: h", *ODD_HEADERS)) for _ in range(random.randrange(4))]
    return b"\r\n".join([first, *(b"Host: h" for _ in range(random.random() < 0.8)), *lines])


def _parse_head(data: bytes) -> None:
    try:
        head = Head(data, 16384, 500)
    except MalformedHead as malformed:
        must(malformed.status in (400, 414, 431, 501, 505), "refused with", malformed.status)
        return
    must(head.target.isascii(), "octets beyond ASCII")
    # What it lets through is a request to those who take RFC 9112 by the letter, too.
    requests, _ = read_requests(data + b"\r\n\r\n")
    must(len(requests) == 1, "not one request but", len(requests))


# What we have written ourselves, and somebody may have damaged


def _make_facts(random: Random) -> bytes:
    facts = Facts(
        content_type=random.choice(("image/png", "", "é")),
        sha256=random.choice((None, random.randbytes(32))),
        owner=random.choice((None, "alice@example.org")),
        expires=random.choice((None, NOW)),
        uploaded=NOW,
    )
    fields = json.loads(facts.encode())
    if random.random() < 0.5:
        fields[random.choice([*fields])] = "?"
        return json.dumps(fields).encode().replace(b'"?"', random.choice(_JSON).encode())
    return facts.encode()


def _parse_facts(data: bytes) -> None:
    facts = Facts.decode(data)
    if facts is not None:
        must(Facts.decode(facts.encode()) == facts, "other facts after another turn")


def _make_note(random: Random) -> bytes:
    note = encode(
        NewUpload(
            uid="u",
            path=b"a/b",
            signature=random.randbytes(32),
            token="tok-5c1e-0001",
            content_type="image/png",
            total=random.choice((None, 10)),
            owner=random.choice((None, "alice@example.org")),
            file_expires=random.choice((None, NOW)),
            offset=3,
            generation=1,
        )
    )
    if random.random() < 0.5:
        fields = json.loads(note)
        fields[random.choice([*fields])] = "?"
        return json.dumps(fields).encode().replace(b'"?"', random.choice(_JSON).encode())
    return note


def _parse_note(data: bytes) -> None:
    upload = decode(data)
    if upload is not None:
        must(decode(encode(upload)) == upload, "another upload after another turn")


# What the operator writes


_VALUES = (
    *(
        b"true",
        b"0",
        b"-1",
        b"1",
        b"9223372036854775808",
        b"1e400",
        b"nan",
        b"inf",
        b"1.5",
        b"[]",
        b"{}",
        b"''",
        b"[[]]",
    ),
    *(b'"10GiB"', b'"6m"', b'"6mo"', b'"1e9GB"', b'"127.0.0.1:8080"', b'":80"', b'"[::]:0"', b'"unix:/x"', b'"ssl:1"'),
    *(
        b'"/dev/null"',
        b'"./data"',
        b'"\\u0000"',
        b'"\\u00e9/.."',
        b'"660"',
        b'"auto"',
        b'"debug"',
        b'"json"',
        b"1979-05-27",
    ),
    *(
        b'["::/0", "unix"]',
        b'["x"]',
        b'"redis://[::1]:1/2"',
        b'"rediss://h"',
        b'"///"',
        b'"a/../b"',
        b'"text"',
        b"07:32:00",
    ),
    b'[{Path = "*", Keep = "1d"}]',
)
_KEYS = tuple(name.encode() for name in KEYS)


def _make_config(random: Random) -> bytes:
    lines = [b'Secret = "it-is-a-long-enough-secret"'] if random.random() < 0.9 else []
    for _ in range(random.randrange(6)):
        key = random.choice(_KEYS)
        if random.random() < 0.1:
            key = random.choice((key.lower(), key[:-1], b'"%b"' % key, b"a.b", b"[%b]\nx" % key))
        lines.append(key + b" = " + random.choice(_VALUES))
    random.shuffle(lines)
    return b"\n".join(lines) + b"\n"


def _parse_config(data: bytes) -> None:
    path = _config_directory() / "config.toml"
    path.write_bytes(data)
    try:
        config = load(path)
    except ConfigError as error:
        must(error.faults and all(fault for fault in error.faults), "no fault is named")
        return
    must(isinstance(config, Config) and config.secret, "a configuration without a secret")
    must(f" secret={config.secret!r}" not in repr(config), "the secret is shown")


class _Directory:
    """Made when it is first asked for, and gone with the process."""

    def __init__(self) -> None:
        self._made: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self) -> Path:
        if self._made is None:
            self._made = tempfile.TemporaryDirectory(prefix="hmacfs-fuzz-", dir=scratch_directory())
        return Path(self._made.name)


_config_directory = _Directory()


def _make_quantity(random: Random) -> bytes:
    units = (b"", b"s", b"m", b"min", b"mo", b"KiB", b"GB", b" b", b"PiB", b"Y", b"\xc2\xb5s")
    return random.choice((b"1", b"0", b"00.5", b"9" * 19, b"9" * 20, b"1.123456789", b".5", b"1e9")) + random.choice(
        units
    )


def _parse_quantity(data: bytes) -> None:
    text = data.decode("latin-1")
    written: object = text
    if re.fullmatch(r"-?[0-9]{1,30}", text):
        written = int(text)
    elif re.fullmatch(r"-?[0-9.]+(e[0-9]{1,3})?", text):
        try:
            written = float(text)
        except ValueError:
            pass
    for parse, most in ((parse_duration, MAX_DURATION_S), (parse_size, MAX_SIZE_BYTES)):
        try:
            value = parse(written)
        except UnitError:
            continue
        must(0 <= value <= most, "out of bounds:", value)


PARSERS: Mapping[str, ParserTarget] = {
    target.name: target
    for target in (
        ParserTarget("paths", _make_path, _parse_path),
        ParserTarget("queries", _make_query, _parse_query),
        ParserTarget("tokens", _make_token, _parse_token),
        _GateTarget(),
        ParserTarget("ranges", _make_range, _parse_range),
        ParserTarget("digests", _make_digests, _parse_digests),
        ParserTarget("uploads", _make_upload, _parse_upload),
        ParserTarget("addresses", _make_address, _parse_address),
        ParserTarget("heads", _make_head, _parse_head),
        ParserTarget("facts", _make_facts, _parse_facts),
        ParserTarget("notes", _make_note, _parse_note),
        ParserTarget("config", _make_config, _parse_config),
        ParserTarget("quantities", _make_quantity, _parse_quantity),
    )
}
