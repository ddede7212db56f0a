"""What goes through the pipes between a supervisor and its workers."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.net.orders import Order, Supervisor, framed, news, read_brief
from hmacfs.net.workers import Worker

#: More than fits into a pipe at once.
LARGE = os.urandom(300_000)

CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """*data*, cut at some places, and a byte after its first one."""
    places = sorted({0, 1, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


class BriefTests(SynchronousTestCase):
    """The first thing that a worker reads."""

    def setUp(self) -> None:
        self.reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.reading)

    def write(self, data: bytes, *, end: bool = True) -> None:
        """From another thread, as a reader may have to take some of it before the rest can be written."""

        def work() -> None:
            with os.fdopen(self.writing, "wb", buffering=0, closefd=end) as pipe:
                left = memoryview(data)
                while left:
                    left = left[pipe.write(left) :]

        writer = threading.Thread(target=work)
        self.addCleanup(writer.join)
        writer.start()

    def test_whole(self) -> None:
        self.write(framed(b"a brief"))
        self.assertEqual(read_brief(self.reading), b"a brief")

    def test_empty(self) -> None:
        """Nothing to be said is not the end of the supervisor."""
        self.write(framed(b""))
        self.assertEqual(read_brief(self.reading), b"")

    def test_in_parts(self) -> None:
        """It is read to its end, however little comes at a time."""
        self.write(framed(LARGE))
        self.assertEqual(read_brief(self.reading), LARGE)

    def test_byte_by_byte(self) -> None:
        read = os.read
        self.patch(os, "read", lambda fd, _size: read(fd, 1))
        self.write(framed(LARGE[:1000]))
        self.assertEqual(read_brief(self.reading), LARGE[:1000])

    def test_orders_stay(self) -> None:
        """What was written behind it is for whoever reads next; and nobody waits for more than the brief."""
        self.addCleanup(os.close, self.writing)
        self.write(framed(b"a brief") + b"retire\n", end=False)
        self.assertEqual(read_brief(self.reading), b"a brief")
        self.assertEqual(os.read(self.reading, 100), b"retire\n")

    def test_end(self) -> None:
        """The supervisor has ended before, within the length, or within the brief."""
        for sent in (b"", framed(b"a brief")[:3], framed(b"a brief")[:4], framed(b"a brief")[:-1]):
            with self.subTest(sent=sent):
                reading, writing = os.pipe()
                self.addCleanup(os.close, reading)
                os.write(writing, sent)
                os.close(writing)
                self.assertIsNone(read_brief(reading))


class OrdersTests(SynchronousTestCase):
    """What a worker is told.

    :ivar heard: the orders, with what came with each.
    :ivar gone: how often the supervisor was said to have ended.
    """

    def setUp(self) -> None:
        self.heard: list[tuple[Order, bytes]] = []
        self.gone = 0
        self.supervisor = Supervisor(-1, self.end)
        self.supervisor._obey = {order: self.obey(order) for order in Order}
        self.transport = StringTransport()
        self.supervisor.makeConnection(self.transport)

    def end(self) -> None:
        self.gone += 1

    def obey(self, order: Order) -> Callable[[bytes], None]:
        return lambda content: self.heard.append((order, content))

    def test_each(self) -> None:
        for order in Order:
            self.supervisor.dataReceived(order.value + b"\n")
        self.assertEqual(self.heard, [(order, b"") for order in Order])

    @given(st.lists(st.binary() | st.sampled_from(Order)), CUTS)
    def test_in_pieces(self, told: list[bytes | Order], cuts: list[int]) -> None:
        """Several at once, and parts of one: they are heard whole, and in their order. Any bytes can be news."""
        self.setUp()
        stream = b"".join(news(each) if isinstance(each, bytes) else each.value + b"\n" for each in told)
        for piece in pieces(stream, cuts):
            self.supervisor.dataReceived(piece)
        self.assertEqual(self.heard, [(Order.NEWS, each) if isinstance(each, bytes) else (each, b"") for each in told])

    def test_part_of_a_line(self) -> None:
        """Nothing is done for it, also when no more comes."""
        self.supervisor.dataReceived(b"stop")
        self.supervisor.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.heard, self.gone), ([], 1))

    def test_large_news(self) -> None:
        """A configuration's worth of keys, and far more."""
        self.supervisor.dataReceived(news(LARGE))
        self.assertEqual(self.heard, [(Order.NEWS, LARGE)])

    def test_garbage(self) -> None:
        """No supervisor says that. It obeys none of it, and whoever reads the pipe hears of it."""
        for line in (b"\n", b"dance\n", b"STOP\n", b"\xff\xfe\n", b"news !\n", b"news YQ\n"):
            with self.subTest(line=line):
                self.assertRaises(ValueError, self.supervisor.dataReceived, line)
        self.assertEqual(self.heard, [])

    def test_endless_line(self) -> None:
        """It isn't kept in memory for ever: the pipe is closed."""
        for _ in range(17):
            self.supervisor.dataReceived(bytes(1 << 16))
        self.assertEqual((self.heard, self.transport.disconnecting), ([], True))


class ReportsTests(SynchronousTestCase):
    """What a worker tells, through a pipe, and what the supervisor makes of it."""

    def setUp(self) -> None:
        self.reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.supervisor = Supervisor(self.writing, lambda: None)
        self.worker = Worker("w0", 0, Clock(), lambda _worker, _how: None)
        self.is_ready: list[Any] = []
        self.worker.ready.addCallback(self.is_ready.append)

    def told(self) -> bytes:
        os.close(self.writing)
        return os.read(self.reading, 1 << 16)

    def hear(self, *data: bytes) -> None:
        for piece in data:
            self.worker.childDataReceived(3, piece)

    def test_ready(self) -> None:
        """Once, however often it is said."""
        self.supervisor.ready()
        self.supervisor.ready()
        self.hear(self.told())
        self.assertEqual((self.is_ready, self.worker.serves), ([None], True))

    def test_ready_in_part(self) -> None:
        self.hear(b"ready")
        self.assertEqual((self.is_ready, self.worker.serves), ([], False))

    @given(st.text(), CUTS)
    def test_failed(self, sentence: str, cuts: list[int]) -> None:
        """Any sentence arrives, of several lines too, in whatever pieces."""
        self.setUp()
        self.supervisor.failed(sentence)
        self.hear(*pieces(self.told(), cuts))
        self.assertEqual((self.worker.sentence, self.worker.serves), (sentence, False))
        self.doCleanups()

    def test_several_at_once(self) -> None:
        self.supervisor.ready()
        self.supervisor.failed("then it broke")
        self.hear(self.told())
        self.assertEqual((self.worker.serves, self.worker.sentence), (True, "then it broke"))

    def test_garbage(self) -> None:
        """What is no report is none."""
        self.hear(b"\n", b"steady\n", b"readyready\n", b"\xff\n")
        self.assertEqual((self.is_ready, self.worker.sentence), ([], None))

    def test_nobody_listens(self) -> None:
        """That the supervisor has ended is found out by its own pipe, and is no failure here."""
        reading, writing = os.pipe()
        os.close(reading)
        self.addCleanup(os.close, writing)
        self.addCleanup(os.close, self.writing)
        supervisor = Supervisor(writing, lambda: None)
        supervisor.ready()
        supervisor.failed("why")
