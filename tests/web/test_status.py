"""What monitoring and load balancers ask."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.addresses import ClientAddresses
from hmacfs.metrics import CONTENT_TYPE, Metrics
from hmacfs.net.limits import Limits
from hmacfs.web.site import HmacfsSite
from hmacfs.web.status import build_status
from tests.net.wire import Answer, Wire
from tests.web.support import request


class StatusTests(SynchronousTestCase):
    """The pages at ``MetricsPort``."""

    def setUp(self) -> None:
        self.failing: dict[str, str] = {}
        self.shown = Metrics()
        self.site = HmacfsSite(
            build_status(self.shown, self.check),
            reactor=Clock(),
            limits=Limits(),
            addresses=ClientAddresses([]),
            access_log=lambda _entry: None,
            metrics=Metrics(),
        )

    async def check(self) -> dict[str, str]:
        return self.failing

    def ask(self, target: str, method: str = "GET") -> Answer:
        wire = Wire(self.site)
        wire.send(request(method, target))
        (answer,) = wire.answers(method)
        return answer

    def test_metrics(self) -> None:
        """As Prometheus reads them."""
        self.shown.uploads.inc(3)
        answer = self.ask("/metrics")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, CONTENT_TYPE))
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        self.assertEqual(families["hmac_file_server_uploads"].samples[0].value, 3)

    def test_query_is_ignored(self) -> None:
        """Some scrapers send one."""
        self.assertEqual(self.ask("/metrics?name[]=up").status, 200)

    def test_alive(self) -> None:
        """Whatever else is the matter: a restart would not help."""
        self.failing["storage"] = "gone"
        self.assertEqual((self.ask("/healthz").status, self.ask("/healthz").body), (200, b"ok\n"))

    def test_ready(self) -> None:
        answer = self.ask("/readyz")
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"ready": True, "failing": {}}))

    def test_not_ready(self) -> None:
        """503, and what it is that fails."""
        self.failing["storage"] = "Input/output error"
        answer = self.ask("/readyz")
        self.assertEqual(answer.status, 503)
        self.assertEqual(json.loads(answer.body), {"ready": False, "failing": {"storage": "Input/output error"}})

    def test_waits_for_the_checks(self) -> None:
        waiting: Deferred[dict[str, str]] = Deferred()
        self.patch(self.site, "resource", build_status(self.shown, lambda: waiting))
        wire = Wire(self.site)
        wire.send(request("GET", "/readyz"))
        self.assertEqual(wire.answers(), [])
        waiting.callback({})
        self.assertEqual(wire.answer().status, 200)

    def test_never_cached(self) -> None:
        for target in ("/metrics", "/healthz", "/readyz"):
            self.assertEqual(self.ask(target).headers["cache-control"], "no-store")

    def test_head(self) -> None:
        answer = self.ask("/healthz", "HEAD")
        self.assertEqual((answer.status, answer.headers["content-length"], answer.body), (200, "3", b""))

    def test_nothing_else(self) -> None:
        """No files here, and nothing to be changed."""
        for target in ("/", "/upload/x", "/metricsx", "/metrics/../x", "/x/metrics"):
            self.assertEqual(self.ask(target).status, 404 if "metrics/" not in target else 200, target)
        self.assertEqual(self.ask("/metrics", "POST").status, 405)
