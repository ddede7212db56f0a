"""``hmacfs put``: the reference client for uploads.

Does what docs/protocol.md asks of a client: states the file's digest, waits for ``100 Continue``, looks for an answer
while it sends, and after a break asks with HEAD how far the upload is and goes on from there. It sends no session token:
it has nowhere to keep one between two runs, and a new one would begin anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from attrs import define, field, frozen

from hmacfs.cli import arguments
from hmacfs.cli.exchange import Broken, Exchange, Reply, Server
from hmacfs.cli.output import FINE, Bar, Fault, Output
from hmacfs.cli.pace import Pace
from hmacfs.cli.patience import Patience
from hmacfs.cli.transfers import add_transfer, patience, server, stated_sha256
from hmacfs.units import human_size
from hmacfs.uploads.digests import repr_digest

_HASHED_BYTES: Final = 1 << 20
#: What other servers than hmacfs may say when they have stored a file (RFC 9110 section 9.3.4).
_STORED: Final = (200, 201, 204)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    put = commands.add_parser(
        "put",
        help="upload a file to a slot, however often the network breaks",
        description="Upload a file to a slot, and print the URL to get it from. What breaks off goes on from where it was.",
    )
    arguments.of_file(
        put.add_argument(
            "file", metavar="FILE", help="to upload; - for standard input, which is copied to a file first"
        )
    )
    put.add_argument("url", metavar="URL", help="of the slot, with its signature")
    put.add_argument("--type", help="content type (none: the server goes by the slot, or by the name)")
    put.add_argument(
        "--digest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read FILE once before it is sent, to state its SHA-256",
    )
    add_transfer(put)
    put.set_defaults(run=_put)


def _put(options: argparse.Namespace) -> int:
    output, there = Output.of(options), server(options)
    began = time.monotonic()
    with _opened(options.file) as file:
        source = Source(file, options.file)
        with output.progress("reading", source.size) as bar:
            sha256 = source.sha256(bar) if options.digest else None
        with output.progress("sending", source.size) as bar:
            sending = Sending(
                there, source, sha256, options.type, patience(options), Pace(options.limit_rate), output, bar
            )
            sending.run()
    output.say(there.url.public)
    output.document(
        {
            "url": there.url.public,
            "size": source.size,
            "sha256": None if sha256 is None else sha256.hex(),
            "resumed": sending.resumed,
            "seconds": round(time.monotonic() - began, 3),
        }
    )
    return FINE


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """The file, or a copy of what can be read only once: what gets lost on the way is needed again."""
    with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
        if name != "-" and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, _HASHED_BYTES)
            copy.flush()
            yield copy


@frozen
class Source:
    """The file that is uploaded; it can be read from any place, and more than once."""

    _file: BinaryIO
    _name: str
    size: int = field(init=False)

    @size.default
    def _size_now(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def sha256(self, bar: Bar) -> bytes:
        """Of the whole file."""
        digest = hashlib.sha256()
        for data in self.chunks(0, _HASHED_BYTES):
            digest.update(data)
            bar.advance(len(data))
        return digest.digest()

    def chunks(self, offset: int, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes from *offset* on, up to the size that the file had at first.

        :raises Fault: it has become shorter.
        """
        while offset < self.size:
            data = os.pread(self._file.fileno(), min(chunk_bytes, self.size - offset), offset)
            if not data:
                raise Fault(f"{self._name}: has become shorter while it was read.")
            offset += len(data)
            yield data


@define
class Sending:
    """One upload, until it is stored.

    :ivar sha256: of the file; ``None``: it isn't stated, and not compared.
    :ivar resumed: how many requests went on from the middle of the file.
    """

    _server: Server
    _source: Source
    _sha256: bytes | None
    _type: str | None
    _patience: Patience
    _pace: Pace
    _output: Output
    _bar: Bar
    resumed: int = field(default=0, init=False)
    _furthest: int = field(default=0, init=False)

    def run(self) -> None:
        """Send the file until it is stored.

        :raises Fault: it is refused, or it takes too long.
        """
        offset: int | None = None
        while True:
            try:
                if offset is None:
                    offset = self._ask()
                reply = self._send(offset)
            except Broken as broken:
                self._patience.wait(broken, self._output.note)
                offset = None
                continue
            if reply.status in _STORED:
                return self._check(reply)
            offset = self._after(reply, offset)

    def _ask(self) -> int:
        """How many bytes the server has; 0 also if it doesn't say, because the whole file is never wrong."""
        with self._server.request("HEAD", {}) as exchange:
            reply = exchange.reply()
        if reply.may_pass:
            raise Broken(reply.sentence, reply.retry_after_s)
        offset = self._told(reply) if reply.status == 204 else None
        if not offset:
            return 0
        self._output.note(f"Going on from {human_size(offset)} of {human_size(self._source.size)}.")
        return offset

    def _told(self, reply: Reply) -> int | None:
        """The offset that an answer tells."""
        offset = reply.number("Upload-Offset")
        if offset is None or offset > self._source.size:
            return None
        if offset > self._furthest:
            self._furthest = offset
            self._patience.progressed()
        return offset

    def _send(self, offset: int) -> Reply:
        """Send everything from *offset* on, or as much as the server wants, and return its answer."""
        self._bar.restart(offset)
        self.resumed += offset > 0
        with self._server.request("PUT", self._headers(offset)) as exchange:
            self._send_body(exchange, offset)
            reply = exchange.reply()
        if reply.may_pass:
            raise Broken(reply.sentence, reply.retry_after_s)
        return reply

    def _send_body(self, exchange: Exchange, offset: int) -> None:
        if offset < self._source.size:
            exchange.await_go()
        for data in self._source.chunks(offset, self._pace.chunk_bytes):
            if exchange.answered() or not exchange.send(data):
                return
            self._bar.advance(len(data))
            self._pace.passed(len(data))

    def _headers(self, offset: int) -> dict[str, str]:
        size = self._source.size
        headers = {"Content-Length": str(size - offset)}
        if offset < size:
            headers["Expect"] = "100-continue"
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}" if offset < size else f"bytes */{size}"
        if self._type is not None:
            headers["Content-Type"] = self._type
        if self._sha256 is not None:
            headers["Repr-Digest"] = repr_digest(self._sha256)
        return headers

    def _after(self, reply: Reply, sent_from: int) -> int | None:
        """Where to go on after an answer other than 201; ``None``: ask.

        :raises Fault: it is final, or it has come too often.
        """
        told = self._told(reply) if reply.status == 202 or reply.reason == "offset-mismatch" else None
        anew = reply.reason in ("content-mismatch", "upload-gone") or (reply.reason == "digest-mismatch" and sent_from)
        if told is None and not anew:
            raise Fault(f"{self._server.url.public}: {reply.sentence}")
        self._patience.wait(Broken(reply.sentence), self._output.note)
        return 0 if told is None else told

    def _check(self, reply: Reply) -> None:
        """Compare the digest that the server states with ours."""
        stated = stated_sha256(reply.headers)
        if None not in (stated, self._sha256) and stated != self._sha256:
            raise Fault(f"{self._server.url.public}: stored, but the server has other bytes than were sent.")
