"""Damage to bytes, and the ways in which they may arrive."""

from __future__ import annotations

from itertools import pairwise
from random import Random

#: What is put in.
_TOKENS: tuple[bytes, ...] = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b":",
    b"%00",
    b"%",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"GET /stock/photo.jpg HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HTTP/1.1",
    b"\xff",
    b"\x80",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    b"9" * 30,
    b"a" * 20000,
)


def mutate(random: Random, data: bytes) -> bytes:
    """Damage *data* in a few places, of which most are in its first KiB."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        reach = min(len(data), 1024 if random.random() < 0.8 else len(data))
        at = random.randrange(reach + 1)
        data = _once(random, data, at)
    return data


def _once(random: Random, data: bytes, at: int) -> bytes:
    choice = random.randrange(8)
    size = random.choice((1, 1, 2, 5, 30))
    if choice == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    if choice == 1:
        return data[:at] + data[at + size :]
    if choice == 2:
        return data[:at] + data[at : at + size] * random.choice((2, 2, 3, 50)) + data[at + size :]
    if choice == 3:
        other = random.randrange(len(data) + 1)
        return data[:at] + data[other : other + size] + data[at:]
    if choice == 4:
        return data[:at] + random.choice(_TOKENS) + data[at + size :]
    if choice == 5:
        return data[:at] + random.randbytes(size) + data[at:]
    if choice == 6:
        return _swap_lines(random, data)
    return data[:at] + random.choice(_TOKENS) + data[at:]


def _swap_lines(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    if random.random() < 0.5:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines.insert(one, lines[two])
    return b"\r\n".join(lines)


def cut(random: Random, data: bytes) -> list[bytes]:
    """The pieces in which *data* arrives."""
    choice = random.random()
    if choice < 0.4 or not data:
        pieces = [data]
    elif choice < 0.42 and len(data) < 1000:
        pieces = [data[at : at + 1] for at in range(len(data))]
    elif choice < 0.47:
        pieces = [piece + b"\r\n" for piece in data.split(b"\r\n")[:40]]
        pieces = [*pieces[:-1], data[sum(map(len, pieces[:-1])) :]]
    else:
        edges = sorted({0, len(data), *(random.randrange(len(data)) for _ in range(random.randrange(1, 6)))})
        pieces = [data[start:end] for start, end in pairwise(edges)]
    # No transport reads more than this at a time.
    return [piece[at : at + 65536] for piece in pieces for at in range(0, len(piece), 65536)]
