"""What the values of config.toml may be, and what becomes of them.

A reader is a function that takes what tomllib found and the :class:`Here` of the file, and returns the typed value. For
what can't be had it raises :class:`ValueError`, whose text goes behind ``Key = value: ``.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

from attrs import field, frozen

from hmacfs.units import MAX_DURATION_S, MAX_SIZE_BYTES, parse_duration, parse_size, write_duration, write_size

T = TypeVar("T")

#: More than a secret has.
_SECRET_FILE_BYTES = 64 * 1024

#: What SecretFile begins with where it names a credential and no file.
_CREDENTIAL = "credential:"


@frozen
class Here:
    """What the meaning of a value depends on, beside the value.

    :ivar base: from where relative paths count: the config file's directory.
    :ivar unix_socket: whether ``ListenPort`` is the path of a UNIX socket.
    :ivar unix_mode: the mode of UNIX sockets whose endpoint does not say another.
    :ivar credentials: the directory with systemd's credentials, if it has given us any.
    """

    base: Path = field(factory=Path)
    unix_socket: bool = False
    unix_mode: int = 0o660
    credentials: str | None = None


Reader = Callable[[object, Here], T]


# -- Plain values


def boolean(value: object, _here: Here) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def whole(least: int, most: int) -> Reader[int]:
    """A whole number from *least* to *most*."""

    def read(value: object, _here: Here) -> int:
        # True is an int to Python, and not to TOML.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return value

    return read


def duration(least_s: float = 0, most_s: float = MAX_DURATION_S) -> Reader[float]:
    """A duration, in seconds."""

    def read(value: object, _here: Here) -> float:
        seconds = parse_duration(value)
        if not least_s <= seconds <= most_s:
            limits = f"from {write_duration(least_s)} to {write_duration(most_s)}"
            raise ValueError(f"expected a duration {limits}")
        return seconds

    return read


def size(least: int = 0, most: int = MAX_SIZE_BYTES) -> Reader[int]:
    """A size, in bytes."""

    def read(value: object, _here: Here) -> int:
        size_bytes = parse_size(value)
        if not least <= size_bytes <= most:
            raise ValueError(f"expected a size from {write_size(least)} to {write_size(most)}")
        return size_bytes

    return read


def limit(value: object, here: Here) -> int | None:
    """A size in bytes, or 0 for no limit."""
    return size()(value, here) or None


def text(value: object, _here: Here) -> str:
    """A string without control characters."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    if any(ord(character) < 0x20 or character == "\x7f" for character in value):
        raise ValueError("expected a string without control characters")
    return value


def choice(*words: str, **synonyms: str) -> Reader[str]:
    """One of *words*, in upper or lower case, or a synonym of one."""
    meanings = {**{word.lower(): word for word in words}, **synonyms}

    def read(value: object, _here: Here) -> str:
        meaning = meanings.get(value.lower()) if isinstance(value, str) else None
        if meaning is None:
            raise ValueError("expected " + " or ".join(f'"{word}"' for word in words))
        return meaning

    return read


def cores(value: object, _here: Here) -> int | Literal["auto"]:
    """``"auto"``, or a number of processes; also as a string, as configurations of old have it."""
    if isinstance(value, str):
        if value.lower() == "auto":
            return "auto"
        if re.fullmatch("[0-9]{1,4}", value):
            value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError('expected "auto", or a whole number from 1 to 1024')
    return value


def octal_mode(value: object, _here: Here) -> int:
    """Permission bits, written in octal digits."""
    # Not as a number: 660 is 0o1224.
    if not isinstance(value, str) or not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError('expected three octal digits in quotes, such as "660"')
    return int(value, 8)


# -- Paths


def path(value: object, here: Here) -> Path:
    """A path, made absolute."""
    written = text(value, here)
    if not written:
        raise ValueError("expected a path")
    return here.base / written


def optional_path(value: object, here: Here) -> Path | None:
    """A path, made absolute, or the empty string for none."""
    return None if value == "" else path(value, here)


def readable_file(value: object, here: Here) -> Path | None:
    """The path of a file that is there and can be read, or the empty string for none."""
    found = optional_path(value, here)
    if found is not None:
        check_readable(found)
    return found


def store_directory(value: object, here: Here) -> Path:
    """The path of a directory, or of nothing yet."""
    found = path(value, here)
    if os.path.exists(found) and not os.path.isdir(found):
        raise ValueError("expected a directory; this is a file")
    return found


def url_prefix(value: object, here: Here) -> tuple[str, ...]:
    """The segments of the path below which the slots are."""
    written = text(value, here)
    if "://" in written:
        raise ValueError('expected the path of the URL alone, such as "upload"')
    if set(written) & set("%?#\\"):
        raise ValueError('expected a path such as "upload" or "files/upload", not percent-encoded, without ? # % \\')
    segments = written.removeprefix("/").removesuffix("/").split("/")
    if segments == [""]:
        return ()
    if {"", ".", ".."} & set(segments):
        raise ValueError('expected a path such as "upload" or "files/upload", without empty segments, "." and ".."')
    return tuple(segments)


def location(value: object, here: Here) -> str:
    """A URL path, from the root to a slash at its end, with nothing in it that would have to be encoded."""
    written = text(value, here)
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~-]+/)+", written) or {".", ".."} & set(written.split("/")):
        raise ValueError('expected a path such as "/protected/", of letters, digits and - . _ ~')
    return written


def check_readable(path: Path) -> None:
    """
    :raises ValueError: it can't be opened for reading.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error


# -- The secret


def secret_text(value: object, _here: Here) -> bytes:
    """A secret that stands in the file itself."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    if not value:
        raise ValueError("is empty. Whoever knows the secret may upload: take a long random one")
    return value.encode()


def secret_path(value: object, here: Here) -> Path | None:
    """A path, made absolute, or ``credential:NAME`` for that of systemd's credential; the empty string for none."""
    written = text(value, here)
    if not written.startswith(_CREDENTIAL):
        return optional_path(value, here)
    name = written.removeprefix(_CREDENTIAL)
    if not re.fullmatch("[A-Za-z0-9_.-]{1,255}", name) or name in (".", ".."):
        raise ValueError('expected "credential:NAME", with the name that LoadCredential= has in the systemd unit')
    if not here.credentials:
        raise ValueError(
            f"there is no CREDENTIALS_DIRECTORY in the environment. systemd sets it for a service with"
            f" LoadCredential={name}:/PATH; a command can be given that of the service, as a rule"
            " CREDENTIALS_DIRECTORY=/run/credentials/hmacfs.service"
        )
    return Path(here.credentials) / name


def read_secret_file(path: Path) -> bytes:
    """The secret in a file: its first line, without the newline that ends it (LF or CR LF).

    :raises ValueError: the file can't be read, is no regular file, or has an empty first line. The text says which, and
        nothing of what is in the file.
    """
    try:
        # A FIFO would make us wait for whoever writes it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path} is not a regular file")
            content = os.read(descriptor, _SECRET_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    line = content.partition(b"\n")[0]
    if line.endswith(b"\r"):
        line = line[:-1]
    if not line:
        raise ValueError(f"the first line of {path} is empty")
    return line


# -- Showing


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Which of *words* was meant, if one is close."""
    return next(iter(difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.6)), None)


def show(value: object, longest: int = 60) -> str:
    """*value* as it would stand in the file: one line, no control characters, cut where it is long."""
    shown = _written(value)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{…}"
    if isinstance(value, list):
        return "[" + ", ".join("[…]" if isinstance(item, list) else _written(item) for item in value) + "]"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    # More digits than Python likes to write.
    if isinstance(value, int) and value.bit_length() > 256:
        return f"{value:#x}"
    return str(value)


def show_key(key: str) -> str:
    """A key as it would stand in the file."""
    return key if re.fullmatch("[A-Za-z0-9_-]{1,60}", key) else show(key)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
