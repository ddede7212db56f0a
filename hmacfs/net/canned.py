"""Whole responses for peers whose request nobody has read, or could."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from twisted.web.http import datetimeToString


def canned_answer(
    status: int,
    reason: str,
    detail: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    closes: bool = True,
    bodiless: bool = False,
) -> bytes:
    """A response that says why there is no other.

    :param reason: one hyphenated word.
    :param detail: a sentence for the person who reads the answer.
    :param headers: stand on it as well, unchecked.
    :param closes: whether the connection closes after it.
    :param bodiless: whether it answers a HEAD.
    """
    text = f"{reason}: {detail}\n".encode()
    lines = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        *(b"%b: %b" % header for header in headers),
        b"Date: " + datetimeToString(),
        *([b"Connection: close"] if closes else []),
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(text),
        b"",
    ]
    return b"\r\n".join(lines) + b"\r\n" + (b"" if bodiless else text)
