"""Behind every proxy of ``docs/proxies.md``, with its file of ``contrib/``: what passes, and what doesn't."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.e2e import signing
from tests.e2e.contrib import CONTRIB
from tests.e2e.curl import Fetched, curl
from tests.e2e.daemon import Daemon, TomlValue, command
from tests.e2e.draft import DraftClient
from tests.e2e.processes import PATIENCE_S, ROOT, PeerTestCase, run, wait_until
from tests.e2e.proxies import Apache, Caddy, HAProxy, Nginx, Proxy
from tests.e2e.resuming import TOKEN, Client
from tests.e2e.sharing import SharedTestCase
from tests.e2e.tus import TusClient
from tests.e2e.uploader import Uploader
from tests.e2e.wire import Answer, Connection, ask

NEWEST_ALONE = True
"""These tests are about other programs: once is enough."""

SIZE = 3_000_000
SENT, ENOUGH = 2_000_000, 1_500_000
"""Of a broken upload: what its client has sent, and what must have arrived. A proxy may have the rest still."""

NEVER_S = 1.0
"""How long is waited for what doesn't come at all."""

TRIES = 5
"""How often a refused upload is tried where the client must read the answer within half a second."""

ORIGIN = {"Origin": "https://chat.example.org"}


class FileTests(SynchronousTestCase):
    """The files of contrib/."""

    def test_documented(self) -> None:
        """Each is the snippet that the page shows, word for word."""
        for page, languages, names in (
            (
                "proxies.md",
                ("nginx", "apache", "haproxy", "caddyfile"),
                ("nginx/hmacfs.conf", "apache/hmacfs.conf", "haproxy/hmacfs.cfg", "caddy/Caddyfile"),
            ),
            (
                "operators-guide.md",
                ("lua", "yaml"),
                (
                    "prosody/http_file_share.cfg.lua",
                    "prosody/http_upload_external.cfg.lua",
                    "ejabberd/mod_http_upload.yml",
                    "metronome/http_upload_external.cfg.lua",
                ),
            ),
        ):
            text = (ROOT / "docs" / page).read_text(encoding="utf-8")
            shown = re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
            for name in names:
                self.assertIn((CONTRIB / name).read_text(encoding="utf-8"), shown, name)
                self.assertIn(f"`contrib/{name}`", text)


if TYPE_CHECKING:
    _Case = SharedTestCase
else:
    _Case = object


class ProxyMixin(_Case):
    """What every proxy must be fit for.

    :cvar kind: the proxy.
    :cvar http2: whether its file offers HTTP/2.
    :cvar first_heard: by a client that asks before it sends a body that hmacfs refuses. 100: the proxy didn't wait.
    :cvar answers_early: whether an answer is passed on while the body is still being sent.
    :cvar stays_open: whether a connection is kept on which it has answered before the body was sent.
    :ivar proxy: of this class.
    """

    kind: ClassVar[type[Proxy]]
    http2: ClassVar[bool] = True
    first_heard: ClassVar[tuple[int, ...]] = (403,)
    answers_early: ClassVar[bool] = True
    stays_open: ClassVar[bool] = True
    _proxy: ClassVar[Proxy | None] = None

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        return {"MaxUploadSize": "8MiB", "BlockAfterFails": 0}

    def upstream(self, daemon: Daemon) -> str:
        """Where the proxy finds hmacfs."""
        return f"127.0.0.1:{daemon.port}"

    def served(self) -> Daemon:
        daemon = super().served()
        cls = type(self)
        if cls._proxy is None or not cls._proxy.process.running:
            assert cls._house is not None
            cls._proxy = self.kind(cls._house, self.upstream(daemon))
        self.proxy = cls._proxy
        self._processes.append(self.proxy.process)
        return daemon

    def curl(self, target: str, *options: Any) -> Fetched:
        """Through the proxy."""
        return curl("--cacert", self.proxy.certificate.chain, *options, self.proxy.base + target)

    def path(self, name: str) -> str:
        """Of a file that no other test of the class has."""
        return f"{self.id().rpartition('.')[2]}/{name}"

    def test_put_and_get(self) -> None:
        """A file goes in and comes out as it was, over each version of HTTP, whatever its name."""
        file = self.directory / "a file.bin"
        file.write_bytes(os.urandom(SIZE))
        for version, said in (("--http1.1", "HTTP/1.1 "), ("--http2", "HTTP/2 " if self.http2 else "HTTP/1.1 ")):
            path = self.path(f"très cool+{version} 100%.bin")
            put = self.curl(signing.v(path, SIZE), version, "-T", file)
            self.assertEqual((put.status, put.text), (201, ""))
            get = self.curl(signing.url_path(path), version)
            self.assertEqual((get.status, get.body == file.read_bytes()), (200, True))
            self.assertIn(said, get.head)

    def test_plain_text(self) -> None:
        """What proxies would compress keeps its length."""
        path = self.path("a.txt")
        put = ask(self.proxy.address, "PUT", signing.v(path, 9000), {}, b"a" * 9000)
        self.assertEqual(put.status, 201)
        get = self.curl(signing.url_path(path), "-H", "Accept-Encoding: gzip")
        self.assertEqual((get.header("Content-Length"), get.header("Content-Encoding")), ("9000", None))

    def test_cut(self) -> None:
        """An upload that breaks in the middle goes on with ``Content-Range``."""
        client = Client(self.proxy.address, os.urandom(SIZE), TOKEN, self.path("film.mp4"))
        with client.begin(SENT):
            self.arrived(ENOUGH)
        stored = self.finished(client)
        self.assertEqual((stored.status, stored.header("X-Session-Token")), (201, TOKEN))

    def test_tus(self) -> None:
        """tus: the upload has a URL of its own, and goes on there."""
        client = TusClient(self.proxy.address, SIZE)
        created = client.create()
        self.assertEqual((created.status, created.header("Tus-Resumable")), (201, "1.0.0"))
        self.assertRegex(created.header("Location") or "", "^/upload/.up/")
        with client.begin(0, SENT):
            self.arrived(ENOUGH)
        self.assertEqual(self.finished(client).status, 204)

    def test_draft(self) -> None:
        """The IETF's draft: the same."""
        for version in (6, 8):
            client = DraftClient(self.proxy.address, SIZE, version)
            created = client.create(b"", ends=False, method="PUT")
            self.assertEqual((created.status, created.interim), (201, ()))
            self.assertRegex(created.header("Location") or "", "^/upload/.up/")
            with client.begin(0, SENT):
                self.arrived(ENOUGH)
            self.assertIn(self.finished(client).status, (200, 201, 204))

    def test_draft_at_once(self) -> None:
        """The whole file in one request, as Apple's systems send it: no interim response is in anybody's way."""
        for version in (6, 8):
            client = DraftClient(self.proxy.address, SIZE, version)
            stored = client.create(method="PUT")
            self.assertEqual((stored.status, stored.interim), (201, ()))
            self.assertTrue(client.get().body == client.content)

    def finished(self, client: Client | Uploader) -> Answer:
        """Go on as often as it takes, and see that the file is there, and that nothing was sent again."""
        offsets: list[int] = []

        def go_on() -> Answer | None:
            head = client.head()
            if head.status not in (200, 204):
                return None
            offsets.append(int(head.header("Upload-Offset") or ""))
            answer = client.rest(offsets[-1])
            return answer if answer.status < 300 else None

        answer = wait_until(go_on, "the upload is complete")
        self.assertGreaterEqual(offsets[-1], ENOUGH)
        self.assertTrue(client.get().body == client.content)
        assert answer is not None
        return answer

    def test_refused(self) -> None:
        """curl, which reads while it sends, gets hmacfs' own answer, with its reason."""
        for target, size, status, reason in self.unwanted():
            file = self.directory / reason
            with file.open("wb") as opened:
                opened.truncate(size)
            options = ("--http1.1", "-H", "Expect:", "-H", f"Origin: {ORIGIN['Origin']}", "-T", file)
            answers = (self.curl(target, *options) for _ in range(1 if self.stays_open else TRIES))
            answer = next((answer for answer in answers if answer.exit_status == 0), None)
            assert answer is not None, reason
            self.assertEqual((answer.status, answer.header("Access-Control-Allow-Origin")), (status, "*"))
            self.assertIn(reason, answer.text)

    def unwanted(self) -> list[tuple[str, int, int, str]]:
        """Uploads that are refused: target, size, status, reason."""
        return [
            (signing.url_path(self.path("a")), SIZE, 403, "missing-signature"),
            (signing.v(self.path("b"), 9 << 20), 9 << 20, 413, "too-large"),
        ]

    def test_refused_after_all(self) -> None:
        """Who reads no answer before the body is sent gets it then, if the proxy hasn't closed. The log has it."""
        for target, size, status, reason in self.unwanted():
            with Connection(self.proxy.address) as connection:
                connection.send_head("PUT", target, {}, size)
                pieces = [bytes(1 << 16)] * (size >> 16) + [bytes(size % (1 << 16))]
                connection.send_while_wanted(pieces)
                if self.stays_open:
                    answer = connection.answer("PUT")
                    self.assertEqual((answer.status, reason in answer.text), (status, True))
                path = re.escape(target.partition("?")[0])
                self.daemon.process.wait_for_line(rf"PUT {path} {status} {reason}\b")

    def test_refused_early(self) -> None:
        """The answer is there while the body is being sent, unless the proxy looks for it after the body only."""
        with Connection(self.proxy.address) as connection:
            connection.send_head("PUT", signing.url_path(self.path("a")), {}, SIZE)
            connection.send(bytes(SIZE // 4))
            if not connection.hears(NEVER_S):
                # Caddy notices an answer with the next piece.
                connection.send(bytes(SIZE // 4))
                self.assertEqual(connection.hears(PATIENCE_S if self.answers_early else NEVER_S), self.answers_early)
            if not self.answers_early:
                connection.send(bytes(SIZE - SIZE // 4 * 2))
            self.assertEqual(connection.answer("PUT").status, 403)

    def test_expect(self) -> None:
        """Who asks before sending the body is told not to, unless the proxy answers that by itself."""
        with Connection(self.proxy.address) as connection:
            connection.send_head("PUT", signing.url_path(self.path("a")), {"Expect": "100-continue"}, 1 << 20)
            self.assertIn(connection.head().status, self.first_heard)

    def test_cors(self) -> None:
        """Every header of CORS stands there once."""
        asked = {**ORIGIN, "Access-Control-Request-Method": "PATCH"}
        preflight = ask(self.proxy.address, "OPTIONS", signing.url_path(self.path("a")), asked)
        self.assertIn("PATCH", preflight.header("Access-Control-Allow-Methods") or "")
        for answer in (preflight, ask(self.proxy.address, "GET", signing.url_path(self.path("a")), ORIGIN)):
            self.assertEqual(answer.header("Access-Control-Allow-Origin"), "*")

    def test_client_address(self) -> None:
        """The log has the client's, and not one that the client has made up."""
        path = signing.url_path(self.path("none"))
        with Connection(self.proxy.address, source="127.0.0.2") as connection:
            connection.request("GET", path, {"X-Forwarded-For": "203.0.113.77", "X-Real-IP": "203.0.113.78"})
        self.daemon.process.wait_for_line(rf"GET {re.escape(path)} 404 .*from 127\.0\.0\.2\b")


class NginxTests(ProxyMixin, SharedTestCase):
    """nginx, which asks for every body."""

    needs: ClassVar[tuple[str, ...]] = ("nginx", "curl", "openssl")
    kind = Nginx
    first_heard = (100,)


class NginxSocketTests(NginxTests):
    """nginx, with two processes behind a UNIX socket."""

    def keys(self, house: PeerTestCase) -> dict[str, TomlValue]:
        self.socket = house.directory / "http.sock"
        return {**super().keys(house), "ListenPort": f"unix:{self.socket}", "NumCores": 2}

    def upstream(self, daemon: Daemon) -> str:
        return f"unix:{self.socket}"


class ApacheTests(ProxyMixin, SharedTestCase):
    """Apache, which looks for an answer after the body."""

    needs: ClassVar[tuple[str, ...]] = ("apache", "curl", "openssl")
    kind = Apache
    http2 = False
    answers_early = False


class HAProxyTests(ProxyMixin, SharedTestCase):
    """HAProxy."""

    needs: ClassVar[tuple[str, ...]] = ("haproxy", "curl", "openssl")
    kind = HAProxy


class CaddyTests(ProxyMixin, SharedTestCase):
    """Caddy, which asks for bodies while it passes the request on."""

    needs: ClassVar[tuple[str, ...]] = ("caddy", "curl", "openssl")
    kind = Caddy
    first_heard = (100, 403)
    stays_open = False


class TogetherTests(PeerTestCase):
    """All proxies in front of one hmacfs."""

    needs: ClassVar[tuple[str, ...]] = ("nginx", "apache", "haproxy", "caddy", "openssl")

    def proxies(self, daemon: Daemon) -> list[Proxy]:
        """Start them."""
        kinds: tuple[type[Proxy], ...] = (Nginx, Apache, HAProxy, Caddy)
        return [kind(self, f"127.0.0.1:{daemon.port}") for kind in kinds]

    def test_doctor(self) -> None:
        """``hmacfs doctor`` finds nothing to complain about. It knows those that name themselves."""
        daemon = Daemon(self, text=None).started()

        def examine(proxy: Proxy) -> dict[str, Any]:
            argv = [*command("hmacfs"), "doctor", "--json", "--url", f"{proxy.base}/upload/"]
            argv += ["-c", str(daemon.config), "--cacert", str(proxy.certificate.chain)]
            said: dict[str, Any] = json.loads(run(argv).text)
            return said

        proxies = self.proxies(daemon)
        with ThreadPoolExecutor(len(proxies)) as pool:
            for proxy, said in zip(proxies, pool.map(examine, proxies), strict=True):
                wrong = [finding for finding in said["findings"] if finding["verdict"] != "fine"]
                named = proxy.name if proxy.name in ("nginx", "Caddy") else ""
                self.assertEqual((said["proxy"], [finding["check"] for finding in wrong]), (named, ["timeouts"]))

    def test_interim(self) -> None:
        """``InterimResponses = "on"``: 104 gets through, but for nginx, which takes it for the answer and waits on."""
        daemon = Daemon(self, text=None, InterimResponses="on").started()
        for proxy in self.proxies(daemon):
            self.interim(daemon, proxy)

    def interim(self, daemon: Daemon, proxy: Proxy) -> None:
        """Upload through one of them."""
        client = DraftClient(proxy.address, 100_000)
        with client.begin_creation(client.size) as connection:
            daemon.process.wait_for_line(rf"PUT /upload/{client.path} 201 ")
            if proxy.name == "nginx":
                self.assertFalse(connection.hears(NEVER_S))
            else:
                answer = connection.answer("PUT")
                self.assertEqual((answer.status, set(answer.interim)), (201, {104}), proxy.name)
