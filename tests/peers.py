"""What the tests need besides Python packages: programs of other people, and how Debian calls them."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

from tests import smalldisk

SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
"""Where servers are; not everybody's PATH says so."""


@frozen
class Peer:
    """Something that a test case may name in its ``needs``.

    :ivar name: as in ``needs``.
    :ivar present: whether this machine has it.
    :ivar packages: the Debian packages that bring it; none for what can't be installed.
    """

    name: str
    present: Callable[[], bool]
    packages: tuple[str, ...] = ()


def which(name: str) -> str | None:
    """The path of an installed program, servers included."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + SBIN)


def _program(name: str) -> Callable[[], bool]:
    return lambda: which(name) is not None


def _prosody() -> bool:
    folders = (Path("/usr/lib/prosody/modules"), Path("/usr/local/lib/prosody/modules"))
    return which("prosody") is not None and any((folder / "mod_http_upload_external").exists() for folder in folders)


def _ejabberd() -> bool:
    return which("erl") is not None and any(Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.app"))


def _modules(*names: str) -> Callable[[], bool]:
    return lambda: all(find_spec(name) is not None for name in names)


def _ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


PEERS = {
    peer.name: peer
    for peer in (
        Peer("curl", _program("curl"), ("curl",)),
        Peer("nginx", _program("nginx"), ("nginx-light",)),
        Peer("apache", _program("apache2"), ("apache2-bin",)),
        Peer("haproxy", _program("haproxy"), ("haproxy",)),
        Peer("caddy", _program("caddy"), ("caddy",)),
        Peer("luac", _program("luac5.4"), ("lua5.4",)),
        Peer("redis", _program("redis-server"), ("redis-server",)),
        Peer("prosody", _prosody, ("prosody", "prosody-modules")),
        Peer("ejabberd", _ejabberd, ("ejabberd",)),
        Peer("go-sendxmpp", _program("go-sendxmpp"), ("go-sendxmpp",)),
        Peer("rsync", _program("rsync"), ("rsync",)),
        Peer("wrk", _program("wrk"), ("wrk",)),
        Peer("promtool", _program("promtool"), ("prometheus",)),
        Peer("fail2ban", _program("fail2ban-regex"), ("fail2ban",)),
        Peer("openssl", _program("openssl"), ("openssl",)),
        Peer("make", _program("make"), ("make",)),
        Peer("faketime", _program("faketime"), ("faketime",)),
        Peer("chromium", _program("chromium"), ("chromium",)),
        Peer("node", _program("node"), ("nodejs",)),
        Peer("npm", _program("npm"), ("npm",)),
        Peer("slixmpp", _modules("slixmpp", "aiohttp")),
        Peer("tuspy", _modules("tusclient")),
        Peer("h11", _modules("h11")),
        Peer("small disk", smalldisk.is_to_be_had),
        Peer("mounting", smalldisk.can_be_mounted),
        Peer("IPv6", _ipv6),
    )
}
