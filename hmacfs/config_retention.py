"""``RetentionRules``: how long files of a path or a type are kept, as it stands in config.toml."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from hmacfs.config_values import Here, duration, nearest, show, show_key, text

FOREVER = "forever"

_KEYS = ("Path", "Type", "Keep")


@frozen
class RetentionRule:
    """How long certain files are kept.

    :ivar path: a glob over the path below ``UploadSubDir``; ``None`` for every path.
    :ivar content_type: a glob over the type, without its parameters and in lower case; ``None`` for every type.
    :ivar keep_s: from the upload, in seconds; ``None`` for ever.
    """

    path: str | None
    content_type: str | None
    keep_s: float | None


def retention_rules(value: object, here: Here) -> tuple[RetentionRule, ...]:
    """A list of tables, the first of which that fits a file counts."""
    if not isinstance(value, list):
        raise ValueError('expected a list such as [{ Path = "avatars/*", Keep = "forever" }]')
    rules, faults = [], []
    for number, table in enumerate(value, start=1):
        try:
            rules.append(_rule(table, here))
        except ValueError as error:
            faults.append(f"rule {number}: {error}")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(rules)


def _rule(table: object, here: Here) -> RetentionRule:
    if not isinstance(table, dict):
        raise ValueError('expected a table such as { Type = "video/*", Keep = "7d" }')
    given = _by_name(table)
    if "Keep" not in given:
        raise ValueError("has no Keep")
    path, content_type = _glob(given, "Path", here), _glob(given, "Type", here)
    if path is None and content_type is None:
        raise ValueError("has neither Path nor Type")
    if path is not None and path.startswith("/"):
        raise ValueError(f"Path = {show(path)}: paths begin below UploadSubDir, without a slash")
    return RetentionRule(path, None if content_type is None else content_type.lower(), _keep(given["Keep"], here))


def _by_name(table: Mapping[str, object]) -> dict[str, object]:
    names = {name.lower(): name for name in _KEYS}
    given: dict[str, object] = {}
    for spelling, value in table.items():
        name = names.get(spelling.lower()) if spelling.isascii() else None
        if name is None:
            meant = names.get(nearest(spelling.lower(), names) or "")
            hint = f". Did you mean {meant}?" if meant else ""
            raise ValueError(f"{show_key(spelling)}: expected Path, Type or Keep{hint}")
        if name in given:
            raise ValueError(f"{spelling}: set a second time")
        given[name] = value
    return given


def _glob(given: Mapping[str, object], name: str, here: Here) -> str | None:
    if name not in given:
        return None
    try:
        pattern = text(given[name], here)
        if not pattern:
            raise ValueError("is empty")
    except ValueError as error:
        raise ValueError(f"{name} = {show(given[name])}: {error}") from None
    return pattern


def _keep(value: object, here: Here) -> float | None:
    if isinstance(value, str) and value.lower() == FOREVER:
        return None
    try:
        return duration(least_s=1)(value, here)
    except ValueError as error:
        further = f', or "{FOREVER}"' if str(error).startswith("expected") else ""
        raise ValueError(f"Keep = {show(value)}: {error}{further}") from None
