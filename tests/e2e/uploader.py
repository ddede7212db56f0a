"""What all clients have that begin an upload at a slot's URL and go on with it at the upload's own."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from tests.e2e import signing
from tests.e2e.wire import Address, Answer, Connection, ask

Headers = Mapping[str, str | None]
"""``None`` takes away one that the client would send by itself."""

Own = TypeVar("Own", bound="Uploader")


class Uploader(ABC):
    """A client with one file, a slot for it, and the URL of its upload, once it has one.

    :param port: of the server, or of whatever is in front of it; any address will do.
    :param content: the file, or how many random bytes it has.

    :ivar slot: the target of requests to the slot.
    :ivar upload: the target of those to the upload.
    :ivar connection: what requests go over; ``None``: each over one of its own.
    """

    def __init__(self, port: Address, content: bytes | int, path: str | None = None) -> None:
        self.port = port
        self.content = os.urandom(content) if isinstance(content, int) else content
        self.path = path or f"{uuid.uuid4()}/film.mp4"
        self.slot = signing.v(self.path, len(self.content))
        self.upload = ""
        self.connection: Connection | None = None

    @property
    def size(self) -> int:
        return len(self.content)

    def get(self) -> Answer:
        """Fetch the file, as everybody else would."""
        return ask(self.port, "GET", signing.url_path(self.path))

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """One request."""
        if self.connection is None:
            return ask(self.port, method, target, headers, body)
        return self.connection.request(method, target, headers, body)

    def located(self, answer: Answer) -> Answer:
        """Remember where the upload is."""
        if location := answer.header("Location"):
            self.upload = urlsplit(location).path
        return answer

    @abstractmethod
    def created(self: Own, headers: Headers | None = None) -> Own:
        """Begin the upload without a byte of it, which must do."""

    @abstractmethod
    def head(self, headers: Headers | None = None) -> Answer:
        """Ask how far the upload is."""

    @abstractmethod
    def offset(self) -> int:
        """How far the upload is."""

    @abstractmethod
    def rest(self, offset: int) -> Answer:
        """Send all that comes from *offset* on."""

    @abstractmethod
    def begin(self, offset: int, arrived: int, headers: Headers | None = None) -> Connection:
        """Send a request for all that comes from *offset* on, up to *arrived* of the file, and leave it at that."""

    @abstractmethod
    def delete(self) -> Answer:
        """Give the upload up."""


def merged(*headers: Headers) -> dict[str, str]:
    """Later ones win."""
    together = {name: value for part in headers for name, value in part.items()}
    return {name: value for name, value in together.items() if value is not None}
