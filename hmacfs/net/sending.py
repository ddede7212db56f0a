"""Files as the bodies of responses, without a copy where that can be had.

Twisted has no ``sendfile`` (twisted issue 11395, open since 2004). What makes it possible with public names alone: a
*pull* producer is asked for more exactly when the transport's own buffer is empty, which is when the headers have left
and the socket may be written to directly. Most files are smaller than what a socket takes at once: if the headers have left
already, it is given the file right away, and only what is left over then is a producer's business. Nor does the producer
wait for the reactor's next turn: ``doWrite``, which the reactor would call then, is called when it is registered.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IPushProducer, ISystemHandle
from twisted.python.failure import Failure
from zope.interface import implementer

from hmacfs.net.streaming import StreamingRequest

#: How much a connection may send at a time while others wait for their turn.
SLICE_BYTES = 1024 * 1024
#: How much is read at a time where it has to be copied.
COPY_BYTES = 64 * 1024
#: What is no larger is copied anyway: that costs as much as sendfile, and it leaves in one packet with the headers.
SMALL_BYTES = 16 * 1024

#: The file system, or the kernel, has no sendfile for this file.
_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class SendStalled(ConnectionAborted):
    """The peer has not taken a byte for too long, and we have cut the connection."""


class FileShrank(Exception):
    """The file ended before the response did, and we have cut the connection."""


def send_file(request: StreamingRequest, fd: int, offset: int, size: int, stall_s: float) -> Deferred[None]:
    """Send a part of a file as the body of *request*'s response, and finish it.

    Over TCP and UNIX sockets the kernel copies from the page cache; over TLS we do.

    :param request: status and headers are set, ``Content-Length`` among them, or have been written. Nothing else has.
    :param fd: of a regular file. It is not closed, and its position doesn't matter. It must stay open until the
        Deferred fires.
    :param size: how many bytes, at least one, to send from *offset* on.
    :param stall_s: after so many seconds without progress the connection is cut.
    :return: fires after ``request.finish()``. It fails when the connection is gone: with its reason, a
        :class:`~twisted.internet.error.ConnectionDone` or :class:`~twisted.internet.error.ConnectionLost` (of which
        :class:`SendStalled` is one), or with the :class:`FileShrank` or :class:`OSError` for which we have cut it:
        nothing else tells a client that a response which has begun won't be whole. Cancelling cuts it too.
    :raises ValueError: if there is no ``Content-Length``.
    """
    if request.lost:
        return fail(ConnectionLost("The peer was gone before the file was sent."))
    if not request.startedWriting and not request.responseHeaders.hasHeader(b"content-length"):
        raise ValueError("A file is sent as it is: its response needs a Content-Length.")
    sent = _sent_at_once(request, fd, offset, size)
    if sent == size:
        request.finish()
        return succeed(None)
    transport: Any = request.channel.transport
    direct = ISystemHandle.providedBy(transport) and not request.channel.isSecure()
    sender = _Sendfile if direct and size > SMALL_BYTES else _Copy
    return sender(request, fd, offset + sent, size - sent, stall_s).start()


def _sent_at_once(request: StreamingRequest, fd: int, offset: int, size: int) -> int:
    """Send what the socket takes now, if the head is in it and nothing else is before the file.

    :return: how much that was. What fails will fail again for those who send the rest, and know what to do about it.
    """
    free = request.channel.freeSocket if request.startedWriting else None
    if free is None:
        return 0
    try:
        sent = os.sendfile(free.fileno(), fd, offset, min(size, SLICE_BYTES))
    except OSError:
        return 0
    request.sentLength += sent
    return sent


class _Sender:
    """What is left to be sent, and what becomes of it. Subclasses know how."""

    def __init__(self, request: StreamingRequest, fd: int, offset: int, size: int, stall_s: float) -> None:
        self._request = request
        self._channel = request.channel
        self._transport: Any = request.channel.transport
        self._fd = fd
        self._offset = offset
        self._left = size
        self._stall_s = stall_s
        self._done: Deferred[None] = Deferred(lambda _: self._abort(CancelledError()))
        self._over = False
        self._cause: Exception | None = None
        #: When the peer's time to take more is over; ``None`` while all may yet be sent at once.
        self._stall: IDelayedCall | None = None

    def start(self) -> Deferred[None]:
        self._request.notifyFinish().addErrback(self._lost)
        if not self._request.startedWriting:
            self._request.write(b"")
        self._begin()
        if not self._over:
            self._stall = self._channel.callLater(self._stall_s, self._stalled)
        return self._done

    def stopProducing(self) -> None:
        """The transport is gone: :meth:`_lost` will be called."""

    def _begin(self) -> None:
        """Register as a producer."""
        raise NotImplementedError

    def _release(self) -> None:
        """Undo :meth:`_begin`."""
        raise NotImplementedError

    def _advance(self, size: int) -> None:
        self._offset += size
        self._left -= size
        if self._stall is not None:
            self._stall.reset(self._stall_s)

    def _finish(self) -> None:
        self._stop()
        self._release()
        self._request.finish()
        self._done.callback(None)

    def _stalled(self) -> None:
        self._abort(SendStalled(f"The peer has taken nothing for {self._stall_s:g} s."))

    def _abort(self, cause: Exception | None) -> None:
        """Cut the connection; :meth:`_lost` will be called."""
        self._cause = cause
        self._stop()
        self._request.abort()

    def _stop(self) -> None:
        self._over = True
        if self._stall is not None and self._stall.active():
            self._stall.cancel()

    def _lost(self, reason: Failure) -> None:
        self._stop()
        if not self._done.called:
            self._done.errback(self._cause or reason)


@implementer(IPullProducer)
class _Sendfile(_Sender):
    """Sends by sendfile(2), as the producer of the bare transport."""

    _asked = False

    def _begin(self) -> None:
        self._socket = self._transport.getHandle().fileno()
        # The channel paces itself by the transport's buffer, which stays empty from now on.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, False)
        # If that fails, the reactor finds out too, as it has been asked to.
        self._transport.doWrite()

    def _release(self) -> None:
        self._transport.unregisterProducer()
        self._transport.registerProducer(self._channel, True)

    def resumeProducing(self) -> None:
        if self._over:
            return
        if not self._asked:  # by registerProducer, before the headers have left
            self._asked = True
            return
        try:
            sent = os.sendfile(self._socket, self._fd, self._offset, min(self._left, SLICE_BYTES))
        except (BlockingIOError, InterruptedError):
            self._transport.startWriting()
        except (ConnectionError, TimeoutError):
            self._abort(None)
        except OSError as error:
            self._failed(error)
        else:
            self._sent(sent)

    def _sent(self, size: int) -> None:
        if not size:
            self._abort(FileShrank("The file has become shorter while it was sent."))
            return
        self._request.sentLength += size
        self._advance(size)
        if self._left:
            self._transport.startWriting()
        else:
            self._finish()

    def _failed(self, error: OSError) -> None:
        if error.errno not in _NO_SENDFILE:
            self._abort(error)
            return
        self._stop()
        self._release()
        copy = _Copy(self._request, self._fd, self._offset, self._left, self._stall_s)
        copy._done = self._done
        copy.start()


@implementer(IPushProducer)
class _Copy(_Sender):
    """Reads and writes, as the producer of the channel: for TLS, small files, and transports without a socket."""

    _paused = False

    def _begin(self) -> None:
        self._request.registerProducer(self, True)
        if not self._paused:
            self.resumeProducing()

    def _release(self) -> None:
        self._request.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._left and not self._paused and not self._over:
            self._copy()
        if not self._left and not self._over:
            self._finish()

    def _copy(self) -> None:
        try:
            data = os.pread(self._fd, min(self._left, COPY_BYTES), self._offset)
        except OSError as error:
            self._abort(error)
            return
        if not data:
            self._abort(FileShrank("The file has become shorter while it was sent."))
            return
        self._advance(len(data))
        self._request.write(data)
