"""nginx in front of hmacfs, in every way that changes how a body and an early answer travel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from attrs import frozen

from tests.e2e.processes import PeerTestCase, Process, accepts, program, wait_until

MAIN = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr {level};
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{http}
}}
"""
"""A configuration for nginx in a directory of its own."""

HTTP = """
    upstream keepalive {{ server 127.0.0.1:{upstream_port}; keepalive 8; }}
    upstream closing {{ server 127.0.0.1:{upstream_port}; }}
    client_max_body_size 0;
{servers}
"""

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{upstream};
            proxy_request_buffering {buffering};
            proxy_http_version {version};
            proxy_set_header Connection {connection};
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
"""


@frozen
class Front:
    """One way of standing in front.

    :ivar port: of 127.0.0.1, where nginx listens for it.
    :ivar buffered: nginx takes in the whole request body before it asks hmacfs.
    :ivar keepalive: nginx keeps its connections to hmacfs, HTTP/1.1; otherwise HTTP/1.0, one for each request.
    """

    port: int
    buffered: bool
    keepalive: bool

    def __str__(self) -> str:
        return f"{'' if self.buffered else 'un'}buffered, {'keep-alive' if self.keepalive else 'closing'}"


class Nginx:
    """An nginx with every :class:`Front` there is. Iterate over it to get them.

    :param case: the test; it ends nginx.
    :param upstream_port: of hmacfs, on 127.0.0.1.
    """

    def __init__(self, case: PeerTestCase, upstream_port: int) -> None:
        combinations = itertools.product([True, False], [True, False])
        self._fronts = [Front(case.free_port(), buffered, keepalive) for buffered, keepalive in combinations]
        directory = case.directory / f"nginx-{self._fronts[0].port}"
        directory.mkdir()
        servers = "".join(
            SERVER.format(
                port=front.port,
                upstream="keepalive" if front.keepalive else "closing",
                buffering="on" if front.buffered else "off",
                version="1.1" if front.keepalive else "1.0",
                connection='""' if front.keepalive else "close",
            )
            for front in self._fronts
        )
        config = directory / "nginx.conf"
        http = HTTP.format(upstream_port=upstream_port, servers=servers)
        text = MAIN.format(directory=directory, level="warn", http=http)
        config.write_text(text, encoding="utf-8")
        argv = [program("nginx"), "-c", str(config), "-p", str(directory), "-e", "stderr"]
        self._process = case.started(Process("nginx", argv))
        for front in self._fronts:
            wait_until(lambda port=front.port: accepts(port), "nginx is listening")  # type: ignore[misc]

    def __iter__(self) -> Iterator[Front]:
        return iter(self._fronts)
