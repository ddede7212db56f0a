"""A TOML file with what tomllib does not tell: the line of every key, and what is wrong with the file in one form."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from hmacfs.config_values import show_key
from hmacfs.errors import StartError
from hmacfs.units import counted

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_FILE_BYTES = 1 << 20

# One alternative always matches, whatever the text: a scan can't fail, and can't stand still.
_TOKEN = re.compile(
    r"""
    (?P<comment> \#[^\n]* )
  | (?P<text>    \"{3} (?: \\. | [^\\] )*? \"{3,5}
               | '{3} .*? '{3,5}
               | " (?: \\. | [^"\\\n] )* "
               | ' [^'\n]* ' )
  | (?P<open>    [\[{] )
  | (?P<close>   [\]}] )
  | (?P<end>     \n )
  | (?P<blank>   [^\S\n]+ )
  | (?P<bare>    [A-Za-z0-9_-]+ )
  | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)


class ConfigError(StartError):
    """A configuration that nothing can be started with.

    :param faults: all that is wrong with it, a line each: file, line, key, and what was expected.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults: tuple[str, ...] = tuple(faults)
        count = counted(len(self.faults), "fault")
        super().__init__("\n".join([*self.faults, f"{count}; nothing was started."]))


@frozen
class TomlFile:
    """What a TOML file says.

    :ivar path: as it was named.
    :ivar values: what stands at its top, tables among it.
    :ivar lines: where each of these begins; the first line is 1.
    """

    path: Path
    values: Mapping[str, object]
    lines: Mapping[str, int]


def read_toml(path: Path) -> TomlFile:
    """
    :raises ConfigError: it can't be read, or it is not TOML. Never shows what is in it: that may be a secret.
    """
    text = _text_of(path)
    keys = top_level_keys(text)
    values = _parsed(path, text, keys)
    # Where a table is opened a second time, the first one counts.
    return TomlFile(path, values, dict(reversed(keys)))


def top_level_keys(text: str) -> list[tuple[str, int]]:
    """The keys that a TOML document has at its top, tables among them, each with its line, in the order of the text.

    A key stands here as often as it is written: twice if it is set twice. Of a dotted key (``a.b = 1``) and of a table
    (``[a.b]``) it is the first part. Where *text* is not valid TOML, the answer is as good as it can be.
    """
    found: list[tuple[str, int]] = []
    line = 1
    depth = 0
    in_table = False
    at_start = True
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "end" and depth == 0:
            at_start = True
        elif kind == "open":
            # A bracket where a key could be opens a table, and the key is yet to come.
            in_table = in_table or at_start
            depth += 1
        elif kind == "close":
            depth = max(depth - 1, 0)
        elif kind in ("text", "bare") and at_start:
            if depth or not in_table:
                found.append((_unquoted(token.group()), line))
            at_start = False
        elif kind == "other":
            at_start = False
        line += token.group().count("\n")
    return found


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    try:
        return next(iter(tomllib.loads(f"{key} = 0")))
    except tomllib.TOMLDecodeError:
        return key


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError([f"{path}: can't be read: {reason}"]) from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError([f"{path}: has more than 1 MiB, which is no configuration"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8, as TOML must be"]) from None


def _parsed(path: Path, text: str, keys: Sequence[tuple[str, int]]) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        twice = _set_twice(path, keys) if str(error).startswith("Cannot overwrite a value") else []
        raise ConfigError(twice or [_syntax_fault(path, text, str(error))]) from None
    except RecursionError:
        raise ConfigError([f"{path}: has too many brackets within brackets"]) from None
    except ValueError:
        # Python reads no decimal number of more than 4,300 digits.
        raise ConfigError([f"{path}: has a number with too many digits"]) from None


def _set_twice(path: Path, keys: Iterable[tuple[str, int]]) -> list[str]:
    first: dict[str, int] = {}
    return [
        f"{path}:{line}: {show_key(name)}: set a second time, after line {first[name]}"
        for name, line in keys
        if first.setdefault(name, line) != line
    ]


def _syntax_fault(path: Path, text: str, message: str) -> str:
    """What tomllib says, in the form that compilers have for it and editors know."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if match is None:
        return f"{path}: {message}"
    lines = text.rstrip().split("\n")
    line, column = match[2] or len(lines), match[3] or len(lines[-1]) + 1
    what = match[1][0].lower() + match[1][1:]
    hint = '. Text stands in quotes: Key = "text"' if what == "invalid value" else ""
    return f"{path}:{line}:{column}: {what}{hint}"
