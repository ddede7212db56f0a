"""A resource whose methods are coroutines that return an :class:`Answer` or raise :class:`Refused`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from hmacfs.errors import Refused
from hmacfs.storage.failures import storage_refusal
from hmacfs.web import cors
from hmacfs.web.answers import Answer, refusal, write_answer
from hmacfs.web.site import HmacfsRequest

#: Returns ``None`` where it has finished the request itself.
Handler = Callable[[HmacfsRequest], Awaitable[Answer | None]]

_NO_OPTIONS: Mapping[str, str] = {}
_PREFLIGHT = Answer(204, dict(cors.PREFLIGHT))


class AsyncResource(Resource):
    """Dispatches a request to one of its handlers, and turns whatever comes of it into exactly one answer.

    :param handlers: by method, in the order in which ``Allow`` names them; OPTIONS is answered here.
    :param options: headers of the answer to OPTIONS.
    """

    _log = Logger()

    def __init__(self, handlers: Iterable[tuple[bytes, Handler]], options: Mapping[str, str] = _NO_OPTIONS) -> None:
        super().__init__()
        self._options = options
        self._handlers = dict(handlers)
        self._allow = ", ".join(["OPTIONS", *(method.decode() for method in self._handlers)])

    def render(self, request: Request) -> int:
        """Called by twisted.web when the request's *headers* are in."""
        assert isinstance(request, HmacfsRequest)
        handler = self._handlers.get(request.method, self._other)
        Deferred.fromCoroutine(self._respond(request, handler))
        return NOT_DONE_YET

    async def _respond(self, request: HmacfsRequest, handler: Handler) -> None:
        try:
            answer = await self._handle(request, handler)
        except Refused as refused:
            request.notes.reason = refused.reason
            answer = refusal(refused, request.getHeader(b"accept"))
        except (ConnectionDone, ConnectionLost):
            request.notes.reason = "client-gone"
            return
        except Exception:
            self._log.failure("{method} failed", failure=Failure(), method=request.method.decode("ascii", "replace"))
            request.notes.reason = "internal"
            fault = Refused(500, "internal", "Something is wrong on our side; it has been logged.")
            answer = refusal(fault, request.getHeader(b"accept"))
        if answer is None or request.lost:
            return
        if request.startedWriting:
            # The head of another answer has gone out: only a cut connection tells the client that it won't be whole.
            request.abort()
        else:
            write_answer(request, answer)

    async def _handle(self, request: HmacfsRequest, handler: Handler) -> Answer | None:
        try:
            return await handler(request)
        except OSError as error:
            raise storage_refusal(error, self._log) from error

    async def _other(self, request: HmacfsRequest) -> Answer:
        if request.method == b"OPTIONS":
            return self.options()
        raise Refused(405, "method-not-allowed", "This URL takes " + self._allow + ".", {"Allow": self._allow})

    def options(self) -> Answer:
        """The answer to OPTIONS, a CORS preflight or not."""
        return Answer(204, {"Allow": self._allow, **_PREFLIGHT.headers, **self._options})


class Nothing(AsyncResource):
    """What stands at a URL where there is nothing: 404, with the headers of every answer."""

    def __init__(self) -> None:
        super().__init__([])

    def getChild(self, path: bytes, request: Request) -> Resource:
        # Not this one: it may have children, which are not to be found below any other name.
        return Nothing()

    async def _other(self, request: HmacfsRequest) -> Answer:
        if request.method == b"OPTIONS":
            return self.options()
        raise Refused(404, "not-found", "There is nothing at this URL.")
