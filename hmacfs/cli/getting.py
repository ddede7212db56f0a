"""``hmacfs get``: downloads that go on after a break, and are checked against the digest that the server states."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPResponse
from typing import Any, Final

from attrs import define, field

from hmacfs.cli import arguments
from hmacfs.cli.exchange import Broken, Reply, Server, network, read_reply
from hmacfs.cli.output import FINE, Bar, Fault, Output, Usage
from hmacfs.cli.pace import Pace
from hmacfs.cli.patience import Patience
from hmacfs.cli.targets import Pipe, Target, part_file
from hmacfs.cli.transfers import add_transfer, patience, server, stated_sha256

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19})", re.ASCII)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to argparse's *commands*."""
    get = commands.add_parser(
        "get",
        help="download a file, however often the network breaks",
        description="Download a file. What breaks off stays as FILE.part, and the same command goes on with it.",
    )
    get.add_argument("url", metavar="URL", help="of the file")
    arguments.of_file(
        get.add_argument(
            "-o", "--output", metavar="FILE", help="where to, or into which directory; - for standard output"
        )
    )
    get.add_argument("--force", action="store_true", help="overwrite FILE")
    add_transfer(get)
    get.set_defaults(run=_get)


def _get(options: argparse.Namespace) -> int:
    output, there = Output.of(options), server(options)
    began = time.monotonic()
    with _target(options, there) as target, output.progress("receiving", None) as bar:
        receiving = Receiving(there, target, patience(options), Pace(options.limit_rate), output, bar)
        receiving.run()
        where = target.finish(receiving.headers)
    if where is not None:
        output.say(str(where))
    output.document(
        {
            "file": str(where),
            "size": receiving.received,
            "sha256": receiving.sha256.hex(),
            "verified": receiving.verified,
            "resumed": receiving.resumed,
            "seconds": round(time.monotonic() - began, 3),
        }
    )
    return FINE


def _target(options: argparse.Namespace, there: Server) -> AbstractContextManager[Target]:
    if options.output != "-":
        return part_file(options.output, there.url, options.force)
    if options.json:
        raise Usage("--json and --output - both want standard output.")
    return nullcontext(Pipe(sys.stdout.buffer))


@define
class Receiving:
    """One download, until all of it is here.

    :ivar received: bytes that are here.
    :ivar verified: whether the server has stated a digest, which was right.
    :ivar resumed: how many answers went on from the middle of the file.
    :ivar headers: of the last answer that brought bytes.
    """

    _server: Server
    _target: Target
    _patience: Patience
    _pace: Pace
    _output: Output
    _bar: Bar
    received: int = field(default=0, init=False)
    verified: bool = field(default=False, init=False)
    resumed: int = field(default=0, init=False)
    headers: Mapping[str, str] = field(factory=dict, init=False)
    _furthest: int = field(default=0, init=False)
    _etag: str | None = field(default=None, init=False)
    _hash: Any = field(factory=hashlib.sha256, init=False)

    @property
    def sha256(self) -> bytes:
        """Of what is here."""
        digest: bytes = self._hash.digest()
        return digest

    def run(self) -> None:
        """Receive the file until it is whole.

        :raises Fault: it can't be had, it takes too long, or it isn't what the server says it is.
        """
        self._etag = self._target.etag
        if self._etag is not None:
            for data in self._target.kept():
                self._count(data)
        while True:
            try:
                self._receive()
                break
            except Broken as broken:
                self._patience.wait(broken, self._output.note)
        stated = stated_sha256(self.headers)
        if stated not in (None, self.sha256):
            self._target.begin(None)
            raise Fault(f"{self._server.url.public}: the bytes that arrived are not those that the server speaks of.")
        self.verified = stated is not None

    def _receive(self) -> None:
        """One request, and everything that its answer brings.

        :raises Broken: that isn't the end of the file yet.
        """
        with self._server.request("GET", self._range()) as exchange:
            response = exchange.response()
            if response.status not in (200, 206):
                self._refused(read_reply(response, self._server.url))
            reply = Reply(response.status, dict(response.headers.items()))
            self._target.check(reply.headers)
            skip, total = self._resume(reply) if response.status == 206 else self._begin(reply)
            self.headers = reply.headers
            self._bar.restart(self.received, total)
            while data := self._read(response, None if total is None else skip + total - self.received):
                fresh = data[skip:]
                skip -= len(data) - len(fresh)
                self._target.write(fresh)
                self._count(fresh)
                self._bar.advance(len(fresh))
        if total is not None and self.received < total:
            raise Broken("the connection was closed")

    def _range(self) -> dict[str, str]:
        """Ask for the rest, and for the last byte again: a part that is whole already is not out of range then."""
        if not self.received or self._etag is None:
            return {}
        return {"Range": f"bytes={self.received - 1}-", "If-Range": self._etag}

    def _begin(self, reply: Reply) -> tuple[int, int | None]:
        """The answer has the whole file. How many bytes of it to pass over, and its size."""
        if self.received:
            if isinstance(self._target, Pipe):
                raise Fault(f"{self._server.url.public}: can't go on, and what was written can't be taken back.")
            self._output.note("The part that is here can't be gone on with; beginning anew.")
        etag = reply.headers.get("ETag", "").strip()
        self._etag = etag if etag.startswith('"') else None  # If-Range takes no weak one (RFC 9110 section 13.1.5)
        self._target.begin(self._etag)
        self._hash, self.received = hashlib.sha256(), 0
        return 0, reply.number("Content-Length")

    def _resume(self, reply: Reply) -> tuple[int, int]:
        """The same for an answer that has the rest of the file."""
        match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if match is None or not int(match[1]) < self.received <= int(match[2]):
            raise Fault(f"{self._server.url.public}: the server answers with a part that was not asked for.")
        self.resumed += 1
        return self.received - int(match[1]), int(match[2])

    def _read(self, response: HTTPResponse, left: int | None) -> bytes:
        """Some bytes of the body, at most *left*; none at its end."""
        size = self._pace.chunk_bytes if left is None else min(self._pace.chunk_bytes, left)
        if not size:
            return b""
        with network():
            data = response.read1(size)
        self._pace.passed(len(data))
        return data

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self.received += len(data)
        if self.received > self._furthest:
            self._furthest = self.received
            self._patience.progressed()

    def _refused(self, reply: Reply) -> None:
        if reply.may_pass:
            raise Broken(reply.sentence, reply.retry_after_s)
        raise Fault(f"{self._server.url.public}: {reply.sentence}")
