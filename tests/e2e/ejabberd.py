"""ejabberd with two upload services: one that signs slots for hmacfs, and one that keeps the files itself."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.processes import PeerTestCase, Process, program
from tests.e2e.signing import SECRET
from tests.e2e.xmpp import PASSWORD, USER, Client

EXTERNAL, INTERNAL = "external.localhost", "upload.localhost"

_LIBRARIES = Path("/usr/lib")


def libraries() -> Path | None:
    """Where ejabberd's code is, in Debian; ``None`` where it isn't."""
    found = [*_LIBRARIES.glob("*/ejabberd-*/ebin/ejabberd.app")]
    return found[0].parents[2] if found else None


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
        external = {"put_url": base_url, "external_secret": secret, "host": EXTERNAL}
        internal = {"put_url": url, "get_url": url, "docroot": str(self.docroot), "host": INTERNAL}
        loopback = {"ip": "127.0.0.1"}
        handlers = {"/upload": "mod_http_upload"}
        config = directory / "ejabberd.yml"
        # JSON is YAML.
        config.write_text(
            json.dumps(
                {
                    "loglevel": "info",
                    "hosts": ["localhost"],
                    "auth_method": "internal",
                    "listen": [
                        {**loopback, "port": self.port, "module": "ejabberd_c2s", "starttls": False, "access": "all"},
                        {**loopback, "port": http_port, "module": "ejabberd_http", "request_handlers": handlers},
                    ],
                    "modules": {
                        "mod_disco": {},
                        "mod_http_upload": {
                            "access": "all",
                            "max_size": 10_000_000,
                            **(internal if keeps else external),
                        },
                    },
                }
            ),
            encoding="utf-8",
        )
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
