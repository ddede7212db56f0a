"""ejabberd with two upload services: one that signs slots for hmacfs, and one that keeps the files itself."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.contrib import adapted
from tests.e2e.processes import PeerTestCase, Process, program
from tests.e2e.signing import SECRET
from tests.e2e.xmpp import PASSWORD, USER, Client

EXTERNAL, INTERNAL = "external.localhost", "upload.localhost"

SIZE_LIMIT_BYTES = 10_000_000

_LIBRARIES = Path("/usr/lib")


def libraries() -> Path | None:
    """Where ejabberd's code is, in Debian; ``None`` where it isn't."""
    found = [*_LIBRARIES.glob("*/ejabberd-*/ebin/ejabberd.app")]
    return found[0].parents[2] if found else None


def _modules_that_sign(base_url: str, secret: str) -> str:
    """As operators get them, but for the names, and for everybody."""
    return adapted(
        "ejabberd/mod_http_upload.yml",
        ("  mod_http_upload:\n", f"  mod_disco: {{}}\n  mod_http_upload:\n    host: {EXTERNAL}\n    access: all\n"),
        ("https://upload.example.org/upload", base_url),
        ("the same secret", secret),
        ("1073741824", str(SIZE_LIMIT_BYTES)),
    )


class Ejabberd(Client):
    """An ejabberd on loopback with the user ``alice@localhost``, without the programs that make it a cluster.

    One service to a virtual host: ``localhost`` has the one that signs, unless *keeps* says otherwise.

    :param case: the test; it ends ejabberd.
    :param base_url: of the upload server, without a slash at the end.
    :param keeps: whether it keeps the files itself.
    :ivar docroot: where it keeps them.
    """

    def __init__(self, case: PeerTestCase, base_url: str, *, keeps: bool = False, secret: str = SECRET) -> None:
        super().__init__(case.free_port())
        directory = case.directory / f"ejabberd-{self.port}"
        directory.mkdir()
        self.docroot = directory / "upload"
        http_port = case.free_port()
        url = f"http://127.0.0.1:{http_port}/upload"
        internal = {"put_url": url, "get_url": url, "docroot": str(self.docroot), "host": INTERNAL, "access": "all"}
        loopback = {"ip": "127.0.0.1"}
        handlers = {"/upload": "mod_http_upload"}
        config = directory / "ejabberd.yml"
        options: dict[str, object] = {
            "loglevel": "info",
            "hosts": ["localhost"],
            "auth_method": "internal",
            "listen": [
                {**loopback, "port": self.port, "module": "ejabberd_c2s", "starttls": False, "access": "all"},
                {**loopback, "port": http_port, "module": "ejabberd_http", "request_handlers": handlers},
            ],
        }
        if keeps:
            options["modules"] = {"mod_disco": {}, "mod_http_upload": internal}
        # JSON is YAML.
        text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in options.items())
        config.write_text(text + ("" if keeps else _modules_that_sign(base_url, secret)), encoding="utf-8")
        user, host = USER.split("@")
        start = (
            "{ok, _} = application:ensure_all_started(ejabberd), "
            f'ok = ejabberd_auth:try_register(<<"{user}">>, <<"{host}">>, <<"{PASSWORD}">>), '
            'io:format("registered~n").'
        )
        argv = [program("erl"), "-noinput", "-mnesia", "dir", f'"{directory}/db"', "-eval", start]
        env = {
            "EJABBERD_CONFIG_PATH": str(config),
            "EJABBERD_LOG_PATH": str(directory / "ejabberd.log"),
            "ERL_LIBS": str(libraries()),
            "ERL_CRASH_DUMP": "/dev/null",
            "HOME": str(directory),
        }
        case.started(Process("ejabberd", argv, env=env, cwd=directory)).wait_for_line("^registered$")
