"""One HTTP request at a time to a file server, blocking: what ``put`` and ``get`` speak.

:mod:`http.client` writes the heads and reads the answers. What it lacks is here: an answer that comes while the body is
still being sent is seen at once, and ``100 Continue`` is waited for (RFC 9110 sections 9.3.4 and 10.1.1). Each request
has a connection of its own. Redirects are not followed: a slot is signed for one place.
"""

from __future__ import annotations

import io
import json
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

from attrs import define, field, frozen

from hmacfs.cli.output import Fault, Usage, os_sentence

#: How long a body is held back for a ``100 Continue`` that doesn't come, in seconds.
GO_S: Final = 2.0

CHUNK_BYTES: Final = 1 << 16
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_REFUSAL_BYTES: Final = 1 << 16
_INTERIM: Final = re.compile(rb"HTTP/1\.[01] 1[0-9][0-9] ?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_INTERIM_BEGINS: Final = re.compile(rb"HTTP/1\.[01] 1")
_STATUS_BEGINS_BYTES: Final = len(b"HTTP/1.1 1")


class Broken(Exception):
    """This request has failed for a reason that may pass. Its text says how.

    :param retry_after_s: how long the server wishes us to wait; ``None`` if it doesn't say.
    """

    def __init__(self, how: str, retry_after_s: float | None = None) -> None:
        super().__init__(how)
        self.retry_after_s = retry_after_s


@frozen
class Url:
    """An ``http`` or ``https`` URL of a file.

    :ivar target: path and query, as they are requested. The query may be a signature.
    :ivar public: the URL without its query, for people.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    public: str

    @classmethod
    def parse(cls, written: str) -> Url:
        """:raises Usage: it is none."""
        try:
            parts = urlsplit(written)
            port = parts.port
        except ValueError as error:
            raise Usage(f"URL: {error}.") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise Usage("URL: expected one that begins with https:// or http://")
        if parts.username is not None:
            raise Usage("URL: expected none with a user name in it.")
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
        target = f"{path}?{query}" if query else path
        public = f"{parts.scheme}://{parts.netloc}{path}"
        return cls(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], target, public)

    def hide(self, text: str) -> str:
        """*text* without what the query consists of: some servers repeat the URL in their answers."""
        _, _, query = self.target.partition("?")
        for secret in (query, *(value for _, value in parse_qsl(query))):
            if secret:
                text = text.replace(secret, "...")
        return text

    @property
    def name(self) -> bytes:
        """The last segment of the path, percent-decoded."""
        return unquote_to_bytes(self.target.partition("?")[0].rpartition("/")[2])


@frozen
class Reply:
    """What a request was answered with, its (short) body read.

    :ivar reason: the word of hmacfs's answers; empty from other servers.
    :ivar detail: a sentence, if there is one.
    """

    status: int
    headers: Mapping[str, str]
    reason: str = ""
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The server's own words, with the status."""
        words = ": ".join(word for word in (self.reason, self.detail) if word)
        where = self.headers.get("Location")
        if 300 <= self.status < 400 and where:
            words = f"it leads to {where.partition('?')[0]}; redirects are not followed."
        return f"The server answers {self.status} {words}".rstrip()

    def number(self, header: str) -> int | None:
        """The value of a header, if that is a natural number."""
        value = self.headers.get(header, "").strip()
        return int(value) if re.fullmatch(r"[0-9]{1,19}", value, re.ASCII) else None

    @property
    def retry_after_s(self) -> float | None:
        """``Retry-After`` in either of its forms (RFC 9110 section 10.2.3)."""
        seconds = self.number("Retry-After")
        if seconds is not None:
            return float(seconds)
        try:
            return max(0.0, parsedate_to_datetime(self.headers["Retry-After"]).timestamp() - time.time())
        except (KeyError, ValueError, TypeError):
            return None

    @property
    def may_pass(self) -> bool:
        """Whether the same request may be answered otherwise soon."""
        return self.status in (408, 423, 425, 429, 502, 503, 504) or self.reason in ("short-body", "malformed-body")


class Exchange:
    """One request, whose head has been sent, and its answer."""

    def __init__(self, url: Url, connection: HTTPConnection, wire: _Wire) -> None:
        self._url = url
        self._connection = connection
        self._wire = wire

    def await_go(self) -> None:
        """Wait for ``100 Continue``, a final answer, or :data:`GO_S`."""
        self._wire.await_interim(GO_S)

    def answered(self) -> bool:
        """Whether a final answer, or the end of the connection, is here already."""
        return self._wire.answered()

    def send(self, data: bytes) -> bool:
        """Send a piece of the body; ``False`` if the server doesn't take it, and may have said why."""
        try:
            self._wire.sendall(data)
        except TimeoutError:
            raise Broken("the server takes nothing") from None
        except OSError:
            return False
        return True

    def response(self) -> HTTPResponse:
        """The final answer, its body unread.

        :raises Broken: it doesn't come.
        """
        with network():
            response = self._connection.getresponse()
        if self._wire.ended:  # http.client takes a head that was cut off for a whole one
            raise Broken("the connection was closed")
        return response

    def reply(self) -> Reply:
        """The final answer.

        :raises Broken: it doesn't come.
        """
        return read_reply(self.response(), self._url)


def read_reply(response: HTTPResponse, url: Url) -> Reply:
    """Read the body of an answer that isn't a file."""
    try:
        body = response.read(_MAX_REFUSAL_BYTES)
    except (OSError, HTTPException):  # its status is here, which is what matters
        body = b""
    headers: Any = response.headers
    reason, detail = map(url.hide, _words(body, response.headers.get_content_type()))
    return Reply(response.status, headers, reason, detail or ("" if reason else url.hide(response.reason or "")))


def _words(body: bytes, content_type: str) -> tuple[str, str]:
    text = body.decode("utf-8", "replace").strip()
    if content_type.endswith("json"):
        try:
            problem = json.loads(text)
        except ValueError:
            return "", ""
        if isinstance(problem, dict):
            reason, detail = problem.get("reason", ""), problem.get("detail") or problem.get("title") or ""
            return str(reason), str(detail)
    # Other servers answer with a page, or with a word.
    return "", text if content_type == "text/plain" and len(text) <= 300 and "\n" not in text else ""


@define
class Server:
    """Where the requests for one URL go.

    :ivar cacert: a file of certificates to trust instead of the system's; ``None``: the system's.
    :ivar timeout_s: how long the server may be silent.
    :ivar headers: of every request.
    """

    url: Url
    cacert: str | None
    timeout_s: float
    headers: Mapping[str, str] = field(factory=dict, repr=False)

    #: Whether a connection has ever been made: a name that never resolved is a wrong one.
    _reached: bool = field(default=False, init=False)

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Exchange]:
        """Send the head of a request, on a connection that is closed with the context.

        :raises Broken: the server can't be reached now.
        :raises Fault: it never will: its name, or its certificate, is wrong.
        """
        with self._connect() as sock:
            wire = _Wire(sock)
            connection = HTTPConnection(self.url.host, self.url.port, timeout=self.timeout_s)
            connection.default_port = _DEFAULT_PORTS[self.url.scheme]  # which Host leaves out
            replaced: Any = wire
            connection.sock = replaced
            with network():
                connection.putrequest(method, self.url.target, skip_accept_encoding="Accept-Encoding" in headers)
                fields = {"Accept": "application/problem+json, */*;q=0.5", "Connection": "close"}
                for name, value in {**fields, **self.headers, **headers}.items():
                    connection.putheader(name, value)
                connection.endheaders()
            yield Exchange(self.url, connection, wire)

    def _connect(self) -> socket.socket:
        with network():
            try:
                sock = socket.create_connection((self.url.host, self.url.port), self.timeout_s)
            except socket.gaierror as error:
                if self._reached:
                    raise
                raise Fault(f"{self.url.host}: {os_sentence(error)}") from None
            self._reached = True
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock if self.url.scheme == "http" else self._wrap(sock)

    def _wrap(self, sock: socket.socket) -> socket.socket:
        try:
            return ssl.create_default_context(cafile=self.cacert).wrap_socket(sock, server_hostname=self.url.host)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise Fault(f"{self.url.host}: its certificate is not to be trusted: {error.verify_message}.") from None
        except BaseException:
            sock.close()
            raise


@contextmanager
def network() -> Iterator[None]:
    """What goes wrong with the connection inside is :exc:`Broken`.

    :raises Broken: and nothing else that has to do with the network.
    """
    try:
        yield
    except TimeoutError:
        raise Broken("the server is silent") from None
    except HTTPException as error:
        how = "the connection was closed" if isinstance(error, ConnectionError) else "the answer is no HTTP"
        raise Broken(how) from None
    except OSError as error:
        raise Broken(f"the connection failed: {os_sentence(error)}") from None


class _Wire:
    """A socket that can be asked whether something has arrived while it is written to.

    Has what :class:`http.client.HTTPConnection` uses of a socket.

    :ivar ended: whoever read from it has met the end.
    """

    ended = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self._closed = False

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self))

    def close(self) -> None:
        """Nothing: who has opened the socket closes it."""

    def read_into(self, buffer: memoryview) -> int:
        """As :meth:`io.RawIOBase.readinto`: what has been taken in already, then what comes."""
        if not self._received:
            count = 0 if self._closed else self._sock.recv_into(buffer)
            self.ended = not count
            return count
        count = min(len(buffer), len(self._received))
        buffer[:count] = self._received[:count]
        del self._received[:count]
        return count

    def answered(self) -> bool:
        """Whether a final answer has begun to arrive, or the connection has ended. Waits for nothing."""
        self._take_in()
        while interim := _INTERIM.match(self._received):
            del self._received[: interim.end()]
        begun = len(self._received) >= _STATUS_BEGINS_BYTES
        return self._closed or (begun and not _INTERIM_BEGINS.match(self._received))

    def await_interim(self, patience_s: float) -> None:
        """Wait for an interim answer, and take it away; or for a final one; or as long as *patience_s*."""
        deadline = time.monotonic() + patience_s
        while not self._closed:
            self._take_in()
            if _INTERIM.match(self._received) or self.answered():
                return
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                return

    def _take_in(self) -> None:
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            data = self._sock.recv(CHUNK_BYTES)
            self._received += data
            self._closed = not data
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:  # reset: whatever has been read before still counts
            self._closed = True
        finally:
            self._sock.settimeout(timeout)


class _Reading(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        super().__init__()
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.read_into(memoryview(buffer).cast("B"))
