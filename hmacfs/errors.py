"""What can go wrong in a way that is nobody's bug."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """The request can't be had, and that is nobody's bug.

    One place (:mod:`hmacfs.web.answers`) turns it into an answer, a log line and a metric, all three under the same
    *reason*.

    :param status: HTTP status.
    :param reason: one hyphenated word (``bad-signature``, ``too-large``, ``no-space``, ...), the same in the answer, the
        log line and the ``reason`` label of the metric.
    :param detail: one sentence for the person who reads the answer. Never says *why* a signature is wrong.
    :param headers: further response headers that the status calls for (``Retry-After``, ``WWW-Authenticate``, ...).
    :param members: further members of the answer where the client asks for ``application/problem+json`` (RFC 9457
        section 3.2), a ``type`` among them where the problem has a registered or published one.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        self.members: Mapping[str, object] = members or {}

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.detail}"


class StartError(Exception):
    """hmacfs can't start, or an operator's command can't run, for a reason that the operator can mend.

    Its text is what the operator reads: one or more whole lines, each naming the file, key or address that it is about.
    """
