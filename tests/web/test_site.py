"""What is logged and counted of a request, whatever became of it."""

from __future__ import annotations

from ipaddress import ip_network

from prometheus_client import CollectorRegistry

from hmacfs.access.addresses import ClientAddresses
from hmacfs.logs import text_line
from hmacfs.metrics import Metrics
from hmacfs.net.limits import Limits
from hmacfs.web.site import HmacfsSite
from tests.net.wire import Answer, Wire
from tests.uploads.test_beside import HeldThreads
from tests.web.support import NOW, PATH, TOKEN, URL, Server, ServerTestCase, bearer, request, url, v

CONTENT = b"a photo of a cat"
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}


class EntryTests(ServerTestCase):
    """One line for each request."""

    def line(self) -> str:
        (entry,) = self.server.entries
        return text_line(entry)

    def test_upload(self) -> None:
        """When it is over: what came, in what time, from where."""
        wire = self.server.connect(request("PUT", v(PATH, 16), {"X-Session-Token": TOKEN}, CONTENT[:10], length=16))
        self.clock.advance(1.24)
        self.assertEqual(self.server.entries, [])
        wire.send(CONTENT[10:])
        self.assertEqual(self.line(), f"PUT {URL} 201 16 B in 1.24 s from 192.0.2.1 session=tok-5c…")

    def test_download(self) -> None:
        self.put(PATH, CONTENT)
        self.server.get()
        self.assertRegex(self.line(), f"^GET {URL} 200 16 B in .+ from 192.0.2.1$")

    def test_refusal(self) -> None:
        """With the word that the client was told."""
        self.server.ask(request("PUT", url(PATH), None, CONTENT))
        self.assertRegex(self.line(), f"^PUT {URL} 403 missing-signature .*from 192.0.2.1$")

    def test_client_gone(self) -> None:
        """499, with what had arrived."""
        self.server.broken(PATH, CONTENT, 5)
        self.assertRegex(self.line(), f"^PUT {URL} 499 client-gone 5 B")
        self.assertEqual(self.server.metric("upload_errors_total", reason="client-gone"), 1)

    def test_gone_before_the_answer_was_read(self) -> None:
        """A client that doesn't want the rest of a download."""
        self.put(PATH, CONTENT)
        self.server.stalled(request("GET", URL)).vanish()
        self.assertRegex(self.line(), f"^GET {URL} 499 client-gone")

    def test_path_as_sent(self) -> None:
        """Percent-encoded: nothing in a line is the client's to choose freely."""
        self.server.ask(request("GET", b"/upload/a%0Ab/%C3%A9?x=y" + b"\xe9"))
        self.assertIn("GET /upload/a%0Ab/%C3%A9 400", self.line())

    def test_absolute_form(self) -> None:
        """A request target with scheme and host has the same path."""
        self.put(PATH, CONTENT)
        self.assertEqual(self.server.ask(request("GET", f"http://h{URL}?v=1")).body, CONTENT)
        self.assertIn(f"GET {URL} 200", self.line())

    def test_method_in_other_bytes(self) -> None:
        """Those are no HTTP, and have a line all the same."""
        self.server.connect(b"G\xc3T / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertEqual(self.line(), "- - 400 malformed-head from 192.0.2.1")

    def test_malformed(self) -> None:
        """What never came to a resource: who it was, and what was wrong with it."""
        for data, status, reason in (
            (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\nc\r\n\r\n", 400, "malformed-head"),
            (b"GET / HTTP/3.0\r\n", 505, "unknown-version"),
            (request("PUT", URL, {"Content-Length": "1", "Transfer-Encoding": "chunked"}), 400, "malformed-head"),
        ):
            self.server.entries.clear()
            counted = self.server.metric("malformed_requests_total", reason=reason) or 0
            self.server.connect(data)
            self.assertEqual(self.line(), f"- - {status} {reason} from 192.0.2.1")
            self.assertEqual(self.server.metric("malformed_requests_total", reason=reason), counted + 1)

    def test_nobody_reads(self) -> None:
        """Where requests aren't logged, they are answered and counted all the same, and so is what is no request."""
        registry = CollectorRegistry()
        site = HmacfsSite(
            self.server.root,
            reactor=self.clock,
            limits=Limits(),
            addresses=ClientAddresses([]),
            access_log=None,
            metrics=Metrics(registry),
        )
        wire = Wire(site)
        wire.send(request("GET", URL), request("PUT", url(PATH), None, CONTENT), b"garbage\r\n\r\n")
        self.assertEqual([answer.status for answer in wire.answers()], [404, 403, 400])

        def counted(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"hmac_file_server_{name}_total", labels)

        self.assertEqual(counted("requests", method="GET", status="404"), 1)
        self.assertEqual(counted("upload_errors", reason="missing-signature"), 1)
        self.assertEqual(counted("malformed_requests", reason="malformed-head"), 1)

    def test_pipelined(self) -> None:
        """Each its own."""
        self.server.connect(request("GET", "/1") + request("GET", "/2") + request("OPTIONS", "/3"))
        self.assertEqual([entry.path for entry in self.server.entries], ["/1", "/2", "/3"])


class CountTests(ServerTestCase):
    """The metrics that the issue names, and their siblings."""

    def test_uploads(self) -> None:
        """A stored file: counted, timed; its bytes too."""
        wire = self.server.connect(request("PUT", v(PATH, 16), {}, CONTENT[:10], length=16))
        self.assertEqual((self.server.site.in_flight, len(self.server.uploads)), (1, 1))
        self.clock.advance(2)
        wire.send(CONTENT[10:])
        self.assertEqual(self.server.metric("uploads_total"), 1)
        self.assertEqual(self.server.metric("upload_duration_seconds_sum"), 2)
        self.assertEqual(self.server.metric("upload_duration_seconds_count"), 1)
        self.assertEqual(self.server.metric("received_bytes_total"), 16)
        self.assertEqual(self.server.metric("requests_total", method="PUT", status="201"), 1)
        self.assertEqual((self.server.site.in_flight, len(self.server.uploads)), (0, 0))

    def test_stored_once(self) -> None:
        """A file that is sent again adds nothing to the store."""
        self.server.put(PATH, CONTENT)
        self.server.put(PATH, CONTENT)
        self.assertEqual([stored.size for stored in self.server.published], [16])

    def test_errors(self) -> None:
        """Under the reason of the answer, and no stored file."""
        self.server.ask(request("PUT", v(PATH, 17), None, CONTENT))
        self.assertEqual(self.server.metric("upload_errors_total", reason="bad-signature"), 1)
        self.assertEqual((self.server.metric("uploads_total"), self.server.published), (0, []))

    def test_part_is_no_error(self) -> None:
        """Nor is it an upload yet."""
        self.server.ask(request("PUT", v(PATH, 16), {"Content-Range": "bytes 0-7/16"}, CONTENT[:8]))
        self.assertEqual(self.server.metric("uploads_total"), 0)
        self.assertNotIn("upload_errors_total{", self.server.metrics.expose().decode())

    def test_unknown_methods(self) -> None:
        """Whatever a client calls its method, there is one label for it."""
        for method in ("FOO", "BAR"):
            self.server.ask(request(method, URL))
        self.assertEqual(self.server.metric("requests_total", method="other", status="405"), 2)


class ProxyTests(ServerTestCase):
    """Whose address is logged."""

    def client(self, server: Server) -> str:
        server.ask(request("GET", URL, FORWARDED))
        return server.entries[-1].client

    def test_trusted(self) -> None:
        self.assertEqual(self.client(self.serve(trusted=[ip_network("192.0.2.1")])), "203.0.113.9")

    def test_not_trusted(self) -> None:
        """Anybody can write a header. Perhaps it is the operator's proxy: that is said, once."""
        self.assertEqual([self.client(self.server) for _ in range(3)], ["192.0.2.1"] * 3)
        self.assertEqual(len([line for line in self.logged() if "TrustedProxies" in line]), 1)


class RemarkTests(ServerTestCase):
    """Why a signature is wrong, for the operator alone."""

    def refuse(self, server: Server, target: str) -> Answer:
        return server.ask(request("PUT", target, None, CONTENT))

    def test_explained(self) -> None:
        """The one difference that explains it stands in the line, and not in the answer."""
        answer = self.refuse(self.server, v(PATH, 32))
        (entry,) = self.server.entries
        self.assertIn("32", entry.remark)
        self.assertNotIn(b"32", answer.body)

    def test_prefix(self) -> None:
        """The commonest one: the XMPP server has signed the prefix, too."""
        target = v(f"upload/{PATH}", 16).replace("/upload/upload/", "/upload/")
        self.refuse(self.server, target)
        self.assertRegex(self.server.entries[0].remark, "upload/")

    def test_not_explained(self) -> None:
        """A signature that is just made up has a line without a remark."""
        self.refuse(self.server, f"{URL}?v={'0' * 64}")
        (entry,) = self.server.entries
        self.assertEqual((entry.reason, entry.remark), ("bad-signature", ""))

    def test_found_out_afterwards(self) -> None:
        """The answer does not wait for it; the line does."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        self.assertEqual(self.refuse(server, v(PATH, 17)).status, 403)
        self.assertEqual(server.entries, [])
        threads.finish()
        self.assertEqual([entry.status for entry in server.entries], [403])

    def test_bounded(self) -> None:
        """Whoever guesses signatures doesn't take all our threads: the fifth at a time has its line at once."""
        threads = HeldThreads()
        server = self.serve(threads=threads)
        for _ in range(6):
            self.refuse(server, v(PATH, 17))
        self.assertEqual((len(threads.jobs), len(server.entries)), (4, 2))
        while threads.jobs:
            threads.finish()
        self.assertEqual(len(server.entries), 6)
        self.refuse(server, v(PATH, 17))
        self.assertEqual(len(threads.jobs), 1)

    def test_fails(self) -> None:
        """An explanation that has a fault itself costs nobody the line."""
        self.patch(self.server.entrance, "_gate", _Unexplaining(self.server.entrance._gate))
        self.refuse(self.server, v(PATH, 17))
        self.assertEqual([entry.reason for entry in self.server.entries], ["bad-signature"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class SecretTests(ServerTestCase):
    """What opens a slot is in no log; every test with a server looks after that, these here give it the most to find."""

    def test_in_refusals(self) -> None:
        """Of each kind, with the explanation that comes after it."""
        for target, headers in (
            (v(PATH, 17), {}),
            (v(PATH, 16) + "&v2=" + "0" * 64, {}),
            (v(PATH, 16), {"Content-Type": "multipart/form-data"}),
            (v(PATH, 16) + "&v=" + "1" * 64, {}),
            (URL, bearer(PATH, 16, exp=NOW - 1)),
            (URL, bearer(PATH, 99)),
            (URL, {"Authorization": bearer(PATH, 16)["Authorization"][:-2]}),
            (URL + "x", bearer(PATH, 16)),
        ):
            self.server.ask(request("PUT", target, headers, CONTENT))
        self.assertEqual(len(self.server.entries), 8)
        self.assertGreaterEqual(len(self.server.credentials), 6)

    def test_in_faults(self) -> None:
        """Of ours, tracebacks included."""
        self.patch(self.server.uploads, "_turns", None)
        self.server.put(PATH, CONTENT)
        self.server.ask(request("PUT", URL, bearer(PATH, 16), CONTENT))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 2)

    def test_in_malformed_requests(self) -> None:
        self.server.connect(request("PUT", v(PATH, 16), {"Host": "twice"}, CONTENT))
        self.server.connect(b"PUT " + v(PATH, 16).encode() + b" HTTP/1.1\r\nX" + b"\r\n\r\n")

    def test_in_slow_requests(self) -> None:
        server = self.serve(limits=Limits(read_timeout_s=10))
        server.connect(request("PUT", v(PATH, 16), None, CONTENT[:3], length=16))
        self.clock.pump([1] * 12)
        self.assertEqual(server.entries[-1].reason, "timeout")


class _Unexplaining:
    """A gate that can refuse, and not say why."""

    def __init__(self, gate: object) -> None:
        self._gate = gate

    def __getattr__(self, name: str) -> object:
        return getattr(self._gate, name)

    def explain(self, _attempt: object) -> str:
        raise ZeroDivisionError
