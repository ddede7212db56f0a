"""A bad network: a proxy on loopback that cuts connections at a chosen byte, or lets them trickle."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time

from attrs import frozen

from tests.e2e.processes import PATIENCE_S, PeerTestCase

CHUNK_BYTES = 1 << 14


@frozen
class Fault:
    """What happens to one connection.

    :ivar cut_after_bytes: of what the client sends; then both sides are cut. ``None``: never.
    :ivar cut_answer_after_bytes: the same for what the server sends.
    :ivar reset: cut with RST instead of FIN.
    :ivar rate_bytes_s: how fast the client's bytes pass. ``None``: as they come.
    """

    cut_after_bytes: int | None = None
    cut_answer_after_bytes: int | None = None
    reset: bool = False
    rate_bytes_s: int | None = None


class CuttingProxy:
    """Listens on a port of 127.0.0.1 and passes everything on to another.

    :param case: the test; it ends the proxy.
    :param target_port: where to, on 127.0.0.1.
    :param faults: for the first connections, one each; those that come after them get through.

    :ivar port: where it listens.
    """

    def __init__(self, case: PeerTestCase, target_port: int, *faults: Fault) -> None:
        self._target_port = target_port
        self._faults = list(faults)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="cutting proxy", daemon=True).start()
        case.addCleanup(self._close)

    def _close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed, the test is over
                return
            fault = self._faults.pop(0) if self._faults else Fault()
            threading.Thread(target=self._connect, args=(client, fault), daemon=True).start()

    def _connect(self, client: socket.socket, fault: Fault) -> None:
        # One thread for both directions: a socket that another thread reads from is not closed by close().
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:  # nobody is there
                return
            with server:
                self._connect_to(server, client, fault)

    def _connect_to(self, server: socket.socket, client: socket.socket, fault: Fault) -> None:
        try:
            self._pass_on(client, server, fault)
        except OSError:  # one of them has gone
            return
        if fault.reset:
            for side in (client, server):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pass_on(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        sinks = {client: server, server: client}
        left = {client: fault.cut_after_bytes, server: fault.cut_answer_after_bytes}
        while sinks and 0 not in left.values():
            readable, _, _ = select.select(list(sinks), [], [], PATIENCE_S)
            if not readable:
                return
            for source in readable:
                allowed = left[source]
                data = source.recv(CHUNK_BYTES if allowed is None else min(allowed, CHUNK_BYTES))
                if not data:
                    sinks.pop(source).shutdown(socket.SHUT_WR)
                    continue
                if source is client and fault.rate_bytes_s is not None:
                    time.sleep(len(data) / fault.rate_bytes_s)
                sinks[source].sendall(data)
                if allowed is not None:
                    left[source] = allowed - len(data)
