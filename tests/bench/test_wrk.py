"""wrk's result, and the real wrk against a server of ours."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.wrk import LoadFailed, parse

REPORT = """Running 1s test @ http://127.0.0.1:10101/
  2 threads and 16 connections
  8458 requests in 1.10s, 1.24MB read
Requests/sec:   7690.80
"""


def result(requests: int = 8458, failed_connections: int = 0, failed_requests: int = 0, timeouts: int = 0) -> str:
    return (
        f'{REPORT}result {{"requests": {requests}, "seconds": 1.1, "p50_s": 0.0017, "p99_s": 0.0053,'
        f' "failed_connections": {failed_connections}, "failed_requests": {failed_requests}, "timeouts": {timeouts}}}\n'
    )


class ParseTests(SynchronousTestCase):
    """What wrk.lua writes."""

    def test_result(self) -> None:
        """The line below wrk's own report counts, in seconds."""
        outcome = parse(result())
        self.assertEqual((outcome.requests, outcome.seconds), (8458, 1.1))
        self.assertEqual((outcome.p50_s, outcome.p99_s), (0.0017, 0.0053))

    def test_failures(self) -> None:
        """A run in which anything failed is no measurement, nor is one without an answer."""
        for text in (result(failed_connections=1), result(failed_requests=1), result(timeouts=1), result(requests=0)):
            self.assertRaises(LoadFailed, parse, text)

    def test_silence(self) -> None:
        """wrk that ends with an error of its own has said nothing."""
        self.assertRaises(LoadFailed, parse, "unable to connect to 127.0.0.1:1 Connection refused\n")
