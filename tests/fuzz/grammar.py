"""Requests as clients send them, and as nobody should."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from attrs import define, field

from tests.fuzz.slots import Slot, Slots, digest_headers

Header = tuple[bytes, bytes]

#: What is stored before an example begins, by path.
STOCK: dict[bytes, bytes] = {
    b"stock/photo.jpg": bytes(range(256)) * 4,
    b"stock/empty.txt": b"",
    b"stock/page.html": b"<script>alert(1)</script>",
    b"stock/dr\xc3\xa4wing +%.svg": b"<svg/>",
    b"stock/big.bin": bytes(range(251)) * 900,
}
EXPIRED = b"stock/expired.txt"

_TOKENS = (*(b"tok-5c1e-0001", b"tok-5c1e-0002") * 4, b"short", b"x" * 129, b"bad token!", b"")
_NUMBERS = (b"0", b"1", b"9", b"00", b"007", b"-1", b"+1", b"1e3", b"0x10", b"1 ", b"1,1", b"1, 1", b"1.0", b"")
_HUGE = (b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"9" * 18, b"9" * 19, b"9" * 400)

#: Chunks that are none, or too much of one.
_BAD_CHUNKS = (
    b"\r\n",
    b"x\r\n",
    b"-1\r\nx\r\n",
    b"+1\r\nx\r\n",
    b"0x1\r\nx\r\n",
    b" 1\r\nx\r\n",
    b"1\nx\n",
    b"1\rx\r\n",
    b"1\r\nxy\r\n",
    b"2\r\nx\r\n",
    b"1\r\nx",
    b"1;\x00\r\nx\r\n",
    b"1;" + b"e" * 20000 + b"\r\nx\r\n",
    b"f" * 16 + b"\r\nx\r\n",
    b"f" * 300 + b"\r\nx\r\n",
    b"0\r\n\r\nGET /stock/photo.jpg HTTP/1.1\r\nHost: h\r\n\r\n",
)

#: Lines that requests are smuggled with, and others that parsers differ about.
ODD_HEADERS: tuple[bytes, ...] = (
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length : 5",
    b"Content-Length:\t5",
    b"Content-Length: 5\x00",
    b"content-length: 0x5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked\r",
    b"Transfer-Encoding: CHUNKED",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b" folded",
    b"\tfolded: yes",
    b"X-Nul: a\x00b",
    b"X\x00: a",
    b"no colon",
    b": no name",
    b"Host: other",
    b"Host:",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: close, keep-alive, upgrade",
    b"Connection: Transfer-Encoding, Content-Length",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Expect: 100-continue",
    b"Expect: 100-Continue, x",
    b"Expect: nothing",
    b"Cookie: a=b; c=\xff",
    b"Cookie: =;;==",
    b"Authorization: Bearer",
    b"Authorization: Bearer x.y.z",
    b"Authorization: Basic YTpi",
    b"X-HTTP-Method-Override: DELETE",
    b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Encoding: gzip",
    b"TE: trailers",
    b"Trailer: Content-Length",
    b"Content-Range: bytes 0-0/1",
    b"Content-Range: bytes */10",
    b"Content-Range: bytes 0-999999999999999/1000000000000000",
    b"Range: bytes=0-0/1",
    b"X-Forwarded-For: 203.0.113.9, 127.0.0.1",
    b"X-Forwarded-For: " + b"1.1.1.1," * 100,
    b'Forwarded: for="[2001:db8::1]:80";proto=https, for="_x',
    b"X-Real-IP: ::ffff:192.0.2.1",
    b"Tus-Resumable: 1.0.0",
    b"Upload-Length: 10",
    b"Upload-Offset: 3",
    b"Upload-Complete: ?0",
    b"Upload-Draft-Interop-Version: 6",
    b"X-Long: " + b"a" * 9000,
    b"X-Longer: " + b"b" * 20000,
    b"X-\xe9: a",
    b"X-Latin: \xe9",
)

#: Paths that should lead nowhere, or nowhere else.
ODD_PATHS: tuple[bytes, ...] = (
    b"",
    b"/",
    b"//",
    b"/.",
    b"/..",
    b"/../../etc/passwd",
    b"/%2e%2e/outside/secret.txt",
    b"/stock/..%2f..%2foutside%2fsecret.txt",
    b"/stock/%2e%2e/%2e%2e/outside/secret.txt",
    b"/stock//photo.jpg",
    b"/stock/photo.jpg/",
    b"/stock/photo.jpg/x",
    b"/stock/photo.jpg%00",
    b"/stock/photo.jpg%00.html",
    b"/stock/photo.jpg%20",
    b"/stock",
    b"/stock/",
    b"/.hmacfs",
    b"/.hmacfs/server.key",
    b"/%2ehmacfs/server.key",
    b"/.HMACFS/state.sqlite",
    b"/.hmacfs/state.sqlite-wal",
    b"/.hmacfs/parts/",
    b"/./.hmacfs/server.key",
    b"/stock/../.hmacfs/server.key",
    b"/x%2f..%2f.hmacfs%2fserver.key",
    b"/link/secret.txt",
    b"/link",
    b"/secret-link.txt",
    b"/loop/loop/x",
    b"/fifo",
    b"/%",
    b"/%zz",
    b"/%e9",
    b"/%0d%0aX-Injected:1",
    b"/a%0a",
    b"/" + b"a" * 256,
    b"/" + b"a/" * 40 + b"b",
    b"/" + b"%61" * 2000,
    b"/\\..\\..\\x",
    b"/con:stream",
    b"/~root",
    b"?",
    b"/x?v=1&v=2",
    b"/x?v=" + b"0" * 64,
    b"/x?v2=" + b"0" * 64 + b"&v=" + b"0" * 64,
    b"/x?v3=" + b"0" * 64 + b"&expires=99999999999999999999",
    b"/x?token=" + b"0" * 63,
    b"/x?%76=" + b"0" * 64,
    b"/metrics",
    b"/healthz",
)

METHODS = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"POST",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"get",
    b"PRI",
    b"M-X",
)


@define
class Draft:
    """A request before it is bytes.

    :ivar lines: further lines of the head, as they are.
    :ivar coded: the body with its coding, where that isn't the body itself.
    """

    method: bytes
    target: bytes
    headers: list[Header] = field(factory=list)
    body: bytes = b""
    minor: int = 1
    lines: list[bytes] = field(factory=list)
    coded: bytes | None = None

    def head(self) -> list[bytes]:
        first = b"%b %b HTTP/1.%d" % (self.method, self.target, self.minor)
        return [first, *(b"%b: %b" % header for header in self.headers), *self.lines]

    def __bytes__(self) -> bytes:
        return b"\r\n".join(self.head()) + b"\r\n\r\n" + (self.body if self.coded is None else self.coded)


class Grammar:
    """Makes requests."""

    def __init__(self, random: Random, slots: Slots) -> None:
        self._random = random
        self._slots = slots
        self._used: list[Slot] = []

    def conversation(self) -> list[Draft]:
        """What belongs together: one request, or a few about one slot."""
        random = self._random
        choice = random.random()
        if choice < 0.30:
            return [self.put(self.slot())]
        if choice < 0.45:
            return self.in_parts(self.slot())
        if choice < 0.55:
            slot = self.slot()
            return [self.put(slot), self.of_slot(slot), self.put(slot)][: random.randrange(2, 4)]
        if choice < 0.60:
            return [self.of_slot(self.slot())]
        if choice < 0.80:
            return [self.get()]
        if choice < 0.95:
            return [self.odd()]
        return [Draft(b"OPTIONS", random.choice((b"*", b"/", b"/upload/x")), self.common())]

    def slot(self) -> Slot:
        """A new one, or one that another request is about."""
        if self._used and self._random.random() < 0.5:
            return self._random.choice(self._used)
        slot = self._slots.new()
        self._used.append(slot)
        return slot

    def common(self) -> list[Header]:
        random = self._random
        headers = [(b"Host", b"h")]
        if random.random() < 0.1:
            headers.append((b"Accept", random.choice((b"application/problem+json", b"*/*", b"application/JSON;q=0"))))
        if random.random() < 0.1:
            headers.append((b"Connection", random.choice((b"close", b"keep-alive", b"Close"))))
        return headers

    def put(self, slot: Slot) -> Draft:
        """The whole file, and now and then something else."""
        random = self._random
        body = slot.content
        if random.random() < 0.1:
            body = random.choice((body[:-1], body + b"x", random.randbytes(len(body)), b""))
        headers = self.upload_headers(slot, body)
        draft = Draft(b"PUT", self.target(slot), headers, body)
        # Only these leave the size open.
        if random.random() < (0.4 if slot.scheme in ("jwt", "v3") else 0.03):
            self.chunk(draft)
        else:
            headers.append((b"Content-Length", b"%d" % len(body)))
        if random.random() < 0.1:
            total = random.choice((slot.size, slot.size, len(body) + 1))
            headers.append((b"Content-Range", b"bytes 0-%d/%d" % (max(0, len(body) - 1), total)))
        if random.random() < 0.05:
            draft.minor = 0
        return draft

    def in_parts(self, slot: Slot) -> list[Draft]:
        """An upload in several requests, in order or not."""
        random = self._random
        cuts = sorted(random.randrange(slot.size + 1) for _ in range(random.randrange(1, 3)))
        edges = [0, *cuts, slot.size]
        parts = [self.part(slot, start, end) for start, end in pairwise(edges) if start < end]
        if random.random() < 0.3:
            parts.insert(random.randrange(len(parts) + 1), self.ask(slot))
        if random.random() < 0.3:
            parts.insert(random.randrange(len(parts) + 1), self.of_slot(slot))
        if random.random() < 0.2:
            random.shuffle(parts)
        if random.random() < 0.2:
            start = random.randrange(slot.size + 1)
            parts.append(self.part(slot, max(0, start - 3), slot.size))
        return parts

    def part(self, slot: Slot, start: int, end: int) -> Draft:
        random = self._random
        body = slot.content[start:end]
        headers = self.upload_headers(slot, body)
        if random.random() < 0.3:
            headers.append((b"X-Session-Token", _TOKENS[random.random() < 0.1]))
        if random.random() < 0.1 and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        draft = Draft(b"PUT", self.target(slot), headers, body)
        if random.random() < 0.1:
            headers.append((b"Range", b"bytes=%d-%d/%d" % (start, max(start, end - 1), slot.size)))
        elif random.random() < 0.9:
            headers.append((b"Content-Range", b"bytes %d-%d/%d" % (start, max(start, end - 1), slot.size)))
        if random.random() < 0.1:
            self.chunk(draft)
        else:
            headers.append((b"Content-Length", b"%d" % len(body)))
        return draft

    def ask(self, slot: Slot) -> Draft:
        headers = [*self.upload_headers(slot, b""), (b"Content-Range", b"bytes */%d" % slot.size)]
        return Draft(b"PUT", self.target(slot), [*headers, (b"Content-Length", b"0")])

    def of_slot(self, slot: Slot) -> Draft:
        random = self._random
        method = random.choice((b"HEAD", b"HEAD", b"GET", b"GET", b"DELETE"))
        headers = self.upload_headers(slot, b"") if random.random() < 0.6 else self.common()
        return Draft(method, self.target(slot), headers)

    def upload_headers(self, slot: Slot, body: bytes) -> list[Header]:
        random = self._random
        headers = self.common()
        if slot.authorization is not None:
            headers.append((b"Authorization", slot.authorization))
        sent_type = slot.content_type.encode()
        if random.random() < 0.8 and not set(sent_type) & {10, 13}:
            headers.append((b"Content-Type", sent_type))
        if random.random() < 0.2:
            headers += digest_headers(random, slot.content, body)
        if random.random() < 0.15:
            headers.append((b"X-Session-Token", random.choice(_TOKENS)))
        if random.random() < 0.1:
            headers.append((b"Expect", b"100-continue"))
        return headers

    def target(self, slot: Slot) -> bytes:
        """The slot's own, or the same in another form."""
        choice = self._random.random()
        if choice < 0.93:
            return slot.target
        if choice < 0.96:
            return b"http://h" + slot.target
        if choice < 0.98:
            return slot.target + b"&x=y" if b"?" in slot.target else slot.target + b"?x=y"
        return slot.target + slot.target.partition(b"?")[2]

    def get(self) -> Draft:
        """A download of what is there."""
        random = self._random
        path = random.choice((*STOCK, EXPIRED))
        headers = self.common()
        if random.random() < 0.6:
            headers.append((b"Range", self.range(len(STOCK.get(path, b"")))))
        if random.random() < 0.2:
            when = b"Thu, 12 Nov 2026 00:00:00 GMT"
            headers.append(
                random.choice(
                    (
                        (b"If-None-Match", b"*"),
                        (b"If-None-Match", b'W/"x", "y'),
                        (b"If-Modified-Since", when),
                        (b"If-Modified-Since", b"Thu, 99 Nov 99999 00:00:00 GMT"),
                        (b"If-Range", b'"x"'),
                        (b"If-Range", when),
                        (b"If-Range", b"Sun Nov  6 08:49:37 1994"),
                        (b"If-Match", b'"x"'),
                    )
                )
            )
        method = b"HEAD" if random.random() < 0.2 else b"GET"
        minor = 0 if random.random() < 0.05 else 1
        return Draft(method, self._slots.target(path), headers, minor=minor)

    def range(self, size: int) -> bytes:
        random = self._random
        first, last = (random.choice((b"", b"0", b"1", b"%d" % random.randrange(size + 2))) for _ in range(2))
        if random.random() < 0.2:
            last = random.choice(_HUGE + _NUMBERS)
        unit = random.choice((b"bytes",) * 8 + (b"Bytes", b"items", b"", b"bytes "))
        more = random.choice((b"",) * 8 + (b",", b",0-0", b",1-2,3-4", b" x", b"-"))
        return b"%b=%b-%b%b" % (unit, first, last, more)

    def odd(self) -> Draft:
        """A path or a method that is out of the ordinary."""
        random = self._random
        method = random.choice(METHODS)
        target = self._slots.target(b"")[:-1] + random.choice(ODD_PATHS)
        if random.random() < 0.1:
            target = random.choice((b"*", b"h:80", b"/" * 3000, b"http://", b"http://h", b"//h/x", b"\xff", target * 2))
        draft = Draft(method, target or b"/", self.common(), minor=int(random.random() < 0.9))
        if method in (b"PUT", b"POST", b"PATCH") or random.random() < 0.1:
            draft.body = random.randbytes(random.choice((1, 10, 100)))
            if random.random() < 0.3:
                self.chunk(draft)
            else:
                draft.headers.append((b"Content-Length", b"%d" % len(draft.body)))
        return draft

    def chunk(self, draft: Draft) -> None:
        """Give *draft*'s body the chunked coding."""
        random = self._random
        draft.headers.append((b"Transfer-Encoding", random.choice((b"chunked", b"Chunked"))))
        body, coded = draft.body, []
        while body:
            size = random.choice((1, 3, 16, 1000, len(body)))
            chunk, body = body[:size], body[size:]
            length = random.choice((b"%x", b"%X", b"0%x", b"%x;a=b", b'%x;a="b;c"')) % len(chunk)
            coded.append(b"%b\r\n%b\r\n" % (length, chunk))
        trailer = random.choice((b"",) * 6 + (b"X-Trailer: 1\r\n", b"Content-Length: 5\r\n", b"A: b\r\nC: d\r\n"))
        if random.random() < 0.15:
            coded.insert(random.randrange(len(coded) + 1), random.choice(_BAD_CHUNKS))
        draft.coded = b"".join(coded) + random.choice((b"0", b"0", b"000", b"0;x")) + b"\r\n" + trailer + b"\r\n"

    def spoil(self, draft: Draft) -> None:
        """Do something to a head that no client does."""
        random = self._random
        choice = random.randrange(9)
        at = random.randrange(len(draft.headers)) if draft.headers else 0
        if choice == 0 and draft.headers:
            draft.headers.insert(random.randrange(len(draft.headers)), draft.headers[at])
        elif choice == 1 and draft.headers:
            del draft.headers[at]
        elif choice == 2 and draft.headers:
            name, _ = draft.headers[at]
            draft.headers[at] = (name, random.choice(_NUMBERS + _HUGE))
        elif choice == 3 and draft.headers:
            name, value = draft.headers[at]
            draft.headers[at] = (random.choice((name.upper(), name + b" ", b" " + name, b"x-" + name)), value)
        elif choice == 4:
            draft.method = random.choice(METHODS)
        elif choice == 5:
            draft.minor = random.choice((0, 1, 2, 9, 10))
        elif choice == 6:
            draft.target = random.choice((draft.target * 2, draft.target[:-1], b"", draft.target + b" x", b"*"))
        else:
            draft.lines.append(random.choice(ODD_HEADERS))
