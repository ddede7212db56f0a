"""Where to listen, where Redis is, and which proxies to believe: the addresses in config.toml, read and checked.

The readers here are as those of :mod:`hmacfs.config_values`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from hmacfs.config_values import Here, check_readable, nearest, octal_mode, show, text

#: Proxies that come by TCP from a network, or all peers on UNIX sockets.
Trusted = IPv4Network | IPv6Network | Literal["unix"]

#: What a UNIX socket's path may be at most: sun_path has 108 bytes (unix(7)), the last of them a NUL.
_UNIX_PATH_BYTES = 107
#: As many connections wait to be accepted. Linux lowers it to net.core.somaxconn.
_BACKLOG = 1024
_REDIS_PORT = 6379

_CORE_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl", "unix", "systemd", "haproxy"})
_ENDPOINT_FILES = frozenset({"privateKey", "certKey", "extraCertChain", "dhParameters"})


@frozen
class Listen:
    """One place to listen at.

    :ivar endpoint: as Twisted's ``serverFromString`` takes it, all paths in it absolute.
    :ivar name: for messages: ``127.0.0.1:8080``, ``[::]:8080``, ``unix:/run/hmacfs/http.sock``.
    :ivar fallback: the endpoint to take instead where this machine has no IPv6, and to take as well where IPv6 sockets
        don't accept IPv4 connections.
    :ivar unix_mode: of the socket's file, where it has one.
    """

    endpoint: str
    name: str
    fallback: str | None = None
    unix_mode: int | None = None


@frozen
class RedisAddress:
    """Where Redis is. Knows no password, so it may be shown.

    :ivar host: name or address; empty where *unix_path* is set.
    :ivar unix_path: of its UNIX socket.
    :ivar tls: whether to speak TLS, and to verify the peer's name and certificate.
    """

    host: str = ""
    port: int = _REDIS_PORT
    unix_path: Path | None = None
    tls: bool = False

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss://' if self.tls else ''}{host}:{self.port}"


def trusted_proxies(value: object, _here: Here) -> tuple[Trusted, ...]:
    """A list of addresses, networks, and ``"unix"``."""
    if not isinstance(value, list):
        raise ValueError('expected a list, such as ["127.0.0.1", "10.0.0.0/8", "unix"]')
    return tuple("unix" if item == "unix" else _network(item) for item in value)


def _network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError("expected a list of strings")
    try:
        network = ip_network(value, strict=False)
    except ValueError as error:
        raise ValueError(f'{show(value)} is no address, no network and not "unix"') from error
    if "/" in value and ip_address(value.partition("/")[0]) != network.network_address:
        raise ValueError(f'{show(value)} is an address within a network. Write "{network}" for the whole network.')
    return network


def redis_address(value: object, here: Here) -> RedisAddress | None:
    """``host:port``, ``unix:/path``, ``redis://host:port``, with TLS ``rediss://host:port``; or the empty string."""
    expected = 'expected "host:6379", "unix:/path/to/redis.sock" or "rediss://host:6380"'
    written = text(value, here)
    if not written:
        return None
    if written.startswith("unix:"):
        return RedisAddress(unix_path=_unix_path(written.removeprefix("unix:").removeprefix("//"), here))
    if written.startswith("/"):
        raise ValueError(f'{expected}. Write "unix:{written}" for a UNIX socket.')
    scheme, separator, rest = written.rpartition("://")
    if "@" in rest:
        raise ValueError("expected an address alone. User and password stand in RedisUsername and RedisPassword.")
    rest, _, database = rest.partition("/")
    if database:
        raise ValueError("expected an address alone. The number of the database stands in RedisDB.")
    host, port = _host_and_port(rest, _REDIS_PORT) or ("", 0)
    if not host or port == 0 or (separator and scheme not in ("redis", "rediss")):
        raise ValueError(expected)
    return RedisAddress(host, port, tls=scheme == "rediss")


def listen_by_tcp_too(value: object, here: Here) -> tuple[Listen, ...]:
    """As :func:`listen`, whatever ``UnixSocket`` says."""
    return listen(value, evolve(here, unix_socket=False))


def listen(value: object, here: Here) -> tuple[Listen, ...]:
    """Where to listen: an address, an endpoint string, a port number, or a list of them."""
    if isinstance(value, list):
        if here.unix_socket:
            raise ValueError("expected one path, as UnixSocket = true says")
        if not value:
            raise ValueError("expected at least one place to listen at")
        places = tuple(_listen(item, here) for item in value)
        if len({place.endpoint for place in places}) < len(places):
            raise ValueError("expected each place once")
        return places
    return (_listen(value, here),)


def _listen(value: object, here: Here) -> Listen:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if 0 <= value <= 65535 else ""
    if not isinstance(value, str) or not value.strip():
        raise ValueError('expected an address such as ":8080", "127.0.0.1:8080", "[::1]:8080", or an endpoint')
    written = text(value, here).strip()
    if here.unix_socket:
        return _listen_at_path(written, here)
    kind = written.partition(":")[0]
    if ":" in written and kind in _CORE_ENDPOINTS:
        return _listen_at_endpoint(written, here)
    if re.fullmatch("[0-9]+", written):
        written = f":{written}"
    if written.startswith(("/", "./", "../")):
        raise ValueError(f'looks like a path. Write "unix:{written}", or set UnixSocket = true.')
    split = _host_and_port(written, None)
    if split is not None:
        return _listen_at_address(*split)
    return _listen_at_foreign_endpoint(written, kind)


def _host_and_port(written: str, default_port: int | None) -> tuple[str, int] | None:
    """``host:port``, ``[address]:port``, ``:port``; without the port if there is a default."""
    match = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]/]*))(?::(?P<port>[0-9]{1,5}))?", written)
    if match is None or (match["port"] is None and default_port is None):
        return None
    if match["v6"] is not None:
        try:
            IPv6Address(match["v6"])
        except ValueError as error:
            raise ValueError(f"{show(match['v6'])} is no IPv6 address") from error
    port = default_port if match["port"] is None else int(match["port"])
    if port is None or port > 65535:
        raise ValueError("expected a port from 1 to 65535")
    return match["v6"] or match["host"] or "", port


def _listen_at_address(host: str, port: int) -> Listen:
    # As Go does, for whose servers many a config.toml was written: [::] is every address there is.
    if host in ("", "::"):
        return Listen(_tcp("::", port), f"[::]:{port}", fallback=_tcp("0.0.0.0", port))  # noqa: S104
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ip_address(host)
    except ValueError as error:
        near = nearest(host, _CORE_ENDPOINTS)
        hint = f" Did you mean {near}:{port}?" if near else f' All addresses are ":{port}".'
        raise ValueError(f"{show(host)} is no address of this machine.{hint}") from error
    return Listen(_tcp(host, port), f"[{host}]:{port}" if address.version == 6 else f"{host}:{port}")


def _tcp(host: str, port: int) -> str:
    return f"tcp:{port}:interface={_quoted(host)}:backlog={_BACKLOG}"


def _listen_at_path(written: str, here: Here) -> Listen:
    if re.fullmatch(r"[^/]*:[0-9]+|[0-9]+", written):
        raise ValueError("expected the path of a UNIX socket, as UnixSocket = true says")
    if written.partition(":")[0] in _CORE_ENDPOINTS - {"unix"}:
        raise ValueError("expected the path of a UNIX socket, as UnixSocket = true says")
    if written.startswith("unix:"):
        return _listen_at_endpoint(written, here)
    return _listen_at_endpoint(f"unix:{_quoted(written)}:backlog={_BACKLOG}", here)


def _listen_at_endpoint(written: str, here: Here) -> Listen:
    """An endpoint of Twisted's own: what can be wrong with it is better said now than when it is opened."""
    pieces = _pieces(written)
    wrapper = ["haproxy"] if pieces[0] == "haproxy" else []
    kind, *rest = pieces[len(wrapper) :] or [""]
    positional = [piece for piece in rest if not _is_named(piece)]
    named = dict(piece.split("=", 1) for piece in rest if _is_named(piece))
    mode = None
    if kind == "unix":
        mode = octal_mode(named.setdefault("mode", f"{here.unix_mode:o}"), here)
        socket = _unix_path(_unquoted(named.pop("address", "") or _first(positional)), here)
        positional = [_quoted(str(socket))]
        # Twisted's lock file outlives a killed server; whether a socket is alive is asked of the socket.
        named.setdefault("lockfile", "0")
        name = f"unix:{socket}"
    elif kind in ("tcp", "tcp6", "ssl"):
        port = named.get("port") or _first(positional)
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(f'expected a port from 1 to 65535, such as "{kind}:8080"')
        name = written
    elif kind == "systemd":
        if named.get("domain") not in ("INET", "INET6", "UNIX") or not {"index", "name"} & set(named):
            raise ValueError('expected "systemd:domain=INET:index=0"; domain is INET, INET6 or UNIX')
        name = written
    else:
        raise ValueError('expected an endpoint behind "haproxy:", such as "haproxy:tcp:8080"')
    if kind == "ssl" and "privateKey" not in named:
        raise ValueError('expected "ssl:PORT:privateKey=FILE:certKey=FILE"')
    for key in _ENDPOINT_FILES & set(named):
        file = here.base / _unquoted(named[key])
        check_readable(file)
        named[key] = _quoted(str(file))
    endpoint = ":".join([*wrapper, kind, *positional, *(f"{key}={value}" for key, value in named.items())])
    return Listen(endpoint, name, unix_mode=mode)


def _listen_at_foreign_endpoint(written: str, kind: str) -> Listen:
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins

    known = {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)}
    if ":" in written and kind in known:
        return Listen(written, written)
    try:
        address = IPv6Address(written.rpartition(":")[0])
    except ValueError:
        near = nearest(kind, known | _CORE_ENDPOINTS) if ":" in written else None
        hint = f' Did you mean "{near}:"?' if near else ""
        raise ValueError(f"expected an address, a port, or an endpoint that Twisted knows.{hint}") from None
    raise ValueError(f'ambiguous. Write "[{address}]:{written.rpartition(":")[2]}" for an address and a port.')


def _unix_path(written: str, here: Here) -> Path:
    if not written:
        raise ValueError("expected the path of a UNIX socket")
    path = here.base / written
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise ValueError(f"expected a path of at most {_UNIX_PATH_BYTES} bytes, the most that a UNIX socket can have")
    return path


def _pieces(endpoint: str) -> list[str]:
    """What stands between the colons of an endpoint string; a backslash quotes what follows it, and stays."""
    pieces = [""]
    for character in re.findall(r"\\?.", endpoint):
        if character == ":":
            pieces.append("")
        elif character == "\\":
            raise ValueError("ends with a backslash that quotes nothing")
        else:
            pieces[-1] += character
    return pieces


def _first(pieces: Sequence[str]) -> str:
    return pieces[0] if pieces else ""


def _is_named(piece: str) -> bool:
    return re.match(r"[A-Za-z]+=", piece) is not None


def _quoted(argument: str) -> str:
    """As an argument of an endpoint string."""
    return re.sub(r"([\\:=])", r"\\\1", argument)


def _unquoted(argument: str) -> str:
    return re.sub(r"\\(.)", r"\1", argument)
