"""The store of upload states in Redis: the promises of every store, and those for the days when Redis is not well.

txredisapi takes its timers from the global reactor, so these tests run on it, against a Redis that they start. How soon
Redis is found to be back is not measured here: the tests wait for it, :attr:`RedisCase.timeout` at most.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.config_addresses import RedisAddress
from hmacfs.errors import StartError
from hmacfs.net import redislink
from hmacfs.net.redislink import CALL_TIMEOUT_S, FIRST_DELAY_S, RedisLink
from hmacfs.uploads.redisstate import RedisUploadState, redis_endpoint
from hmacfs.uploads.state import Busy, Holder, Lease, StateUnavailable, Status, UnknownUpload
from tests.awaiting import AwaitedTestCase
from tests.uploads.redisserver import Certificates, RedisServer, StubFactory, free_port
from tests.uploads.test_state import NOW, TTL_S, UploadStateMixin, holder, new_upload, random_steps

PREFIX = "test:"

#: What a user of Redis must be allowed for hmacfs, beside its keys and channels.
PERMISSIONS = (
    "+auth +select +ping +subscribe +publish +eval +evalsha +exists +set +del +pexpire +hget +hset +hgetall +hmget "
    "+hincrby +zadd +zrem +zcard +zscan +zrangebyscore"
)


class RedisCase(AwaitedTestCase):
    """A Redis, and states that are stored in it."""

    timeout = 60.0

    username = password = ""
    database = 0
    ca_file: Path | None = None

    def setUp(self) -> object:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.links: dict[RedisUploadState, RedisLink] = {}
        self.server = self.make_server()
        self.addCleanup(self.server.remove)
        self.address = self.make_address()
        return None

    def make_server(self) -> RedisServer:
        """A server that has not been started."""
        return RedisServer()

    def make_address(self) -> RedisAddress:
        return RedisAddress(unix_path=self.server.socket)

    async def start_state(self) -> RedisUploadState:
        """One process's view of Redis."""
        link = RedisLink(
            reactor,
            redis_endpoint(reactor, self.address, self.ca_file),
            str(self.address),
            username=self.username,
            password=self.password,
            database=self.database,
            probe_key=f"{PREFIX}probe",
        )
        state = RedisUploadState(link, self.clock.seconds, TTL_S, PREFIX)
        self.links[state] = link
        self.addCleanup(link.stop)
        await link.start()
        return state

    async def begin(self, state: RedisUploadState, uid: str = "upload-1") -> Lease:
        lease = await state.create(new_upload(uid), holder())
        assert isinstance(lease, Lease)
        return lease

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait for what nobody tells."""
        while not condition():
            await deferLater(reactor, 0.02, lambda: None)

    async def recovered(self, state: RedisUploadState) -> None:
        """Wait until the state is stored again."""
        await self.eventually(lambda: state.available)
        await self.begin(state, "recovered")

    async def reason(self, call: Deferred[object]) -> str:
        """Why a call could not be made."""
        error = await self.assertFailure(call, StateUnavailable)
        return error.reason


class RedisMixin(UploadStateMixin):
    """Two processes' views of one Redis."""

    def setUp(self) -> Deferred[None]:
        super().setUp()
        self.server.start()
        return Deferred.fromCoroutine(self.start_states())

    async def start_states(self) -> None:
        self.state = await self.start_state()
        self.other = await self.start_state()

    async def begin(self, **facts: object) -> Lease:
        return await UploadStateMixin.begin(self, **facts)

    def lapse(self, uid: str) -> None:
        self.server.command("-n", str(self.database), "DEL", f"{PREFIX}{{up1}}:lease:{uid}")


class UnixSocketTests(RedisMixin, RedisCase):
    """Over a UNIX socket, without a password."""

    async def test_follows_the_model(self) -> None:
        """Whatever two processes do, the store does what the model does."""
        for seed in range(20):
            self.server.command("FLUSHALL")
            await self.follow(random_steps(seed, 60))


class TlsTests(RedisMixin, RedisCase):
    """Over TLS, as a user who may do what is needed and no more, in a database of its own."""

    username, password, database = "hmacfs", "correct-horse-battery", 3

    def make_server(self) -> RedisServer:
        directory = Path(self.mktemp())
        directory.mkdir()
        certificates = Certificates(directory.resolve())
        self.ca_file = certificates.ca_file
        self.port = free_port()
        return RedisServer(
            tls_port=str(self.port),
            tls_cert_file=str(certificates.cert_file),
            tls_key_file=str(certificates.key_file),
            tls_ca_cert_file=str(certificates.ca_file),
            tls_auth_clients="no",
            user=f"hmacfs on >{self.password} ~{PREFIX}* &{PREFIX}* {PERMISSIONS}",
        )

    def make_address(self) -> RedisAddress:
        return RedisAddress("127.0.0.1", self.port, tls=True)

    async def test_database(self) -> None:
        """What is stored is in the database that was asked for."""
        await self.begin()
        self.assertEqual(self.server.command("-n", "0", "DBSIZE"), "0")
        self.assertNotEqual(self.server.command("-n", "3", "DBSIZE"), "0")

    async def test_unknown_authority(self) -> None:
        """A certificate that the CA file does not vouch for is refused."""
        self.ca_file = None
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "connection-lost")

    async def test_another_name(self) -> None:
        """So is a certificate of somebody else."""
        self.address = RedisAddress("localhost", self.port, tls=True)
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "connection-lost")


class BadDayTests(RedisCase):
    """Redis is not there, or not well. Whatever it is, calls fail soon, and all is well again when Redis is."""

    async def test_not_there_at_the_start(self) -> None:
        """hmacfs starts without Redis; calls fail at once, until Redis comes."""
        state = await self.start_state()
        self.assertEqual(state.available, False)
        error = self.failureResultOf(state.get("upload-1"), StateUnavailable).value
        self.assertEqual(error.reason, "unreachable")
        self.assertGreater(error.retry_after_s, 0)
        self.server.start()
        await self.recovered(state)

    async def test_every_call_fails_alike(self) -> None:
        """No call does anything else than fail while Redis is away."""
        self.server.start()
        state = await self.start_state()
        lease = await self.begin(state)
        self.server.stop()
        await self.eventually(lambda: not state.available)
        for call in (
            state.create(new_upload(), holder()),
            state.get("upload-1"),
            state.acquire("upload-1", holder()),
            state.commit(lease, 1),
            state.renew(lease),
            state.release(lease),
            state.finish(lease, 1000, None),
            state.fail(lease, "no-progress"),
            state.restart(lease, new_upload()),
            state.discard(lease),
            state.expired(NOW, 1),
            state.unfinished(),
            state.known(["upload-1"]),
            state.counts(),
        ):
            self.failureResultOf(call, StateUnavailable)

    async def test_restarted(self) -> None:
        """A Redis that was restarted has forgotten everything; the upload begins again where the part file ends."""
        self.server.start()
        state = await self.start_state()
        lease = await self.begin(state)
        self.server.stop()
        await self.eventually(lambda: not state.available)
        self.server.start()
        await self.recovered(state)
        await self.assertFailure(state.commit(lease, 500), UnknownUpload)
        again = await state.create(new_upload(offset=500), holder())
        assert isinstance(again, Lease)
        self.assertEqual(again.record.offset, 500)

    async def test_flushed(self) -> None:
        """So has one that was flushed, without a word."""
        self.server.start()
        state = await self.start_state()
        lease = await self.begin(state)
        self.server.command("FLUSHALL")
        await self.assertFailure(state.commit(lease, 500), UnknownUpload)
        await state.release(lease)
        self.assertEqual(await state.counts(), dict.fromkeys(Status, 0))

    async def test_rolled_back(self) -> None:
        """A Redis that lost its last second has an older offset: the next commit puts it right."""
        self.server.start()
        state = await self.start_state()
        lease = await self.begin(state)
        await state.commit(lease, 500)
        self.server.command("HSET", f"{PREFIX}{{up1}}:upload:upload-1", "offset", "100")
        await state.commit(lease, 500)
        record = await state.get("upload-1")
        assert record is not None
        self.assertEqual(record.offset, 500)

    async def test_evicted(self) -> None:
        """A record that Redis dropped by itself is unknown, and the janitor's question puts the counts right."""
        self.server.start()
        state = await self.start_state()
        await self.begin(state)
        self.server.command("DEL", f"{PREFIX}{{up1}}:upload:upload-1")
        self.assertEqual(await state.known(["upload-1"]), {})
        self.assertEqual((await state.unfinished()).records, [])
        self.assertEqual(await state.expired(NOW + TTL_S + 1, 10), [])
        self.assertEqual((await state.counts())[Status.ACTIVE], 0)

    async def test_forgotten_scripts(self) -> None:
        """A Redis that has forgotten the scripts gets them again."""
        self.server.start()
        state = await self.start_state()
        lease = await self.begin(state)
        self.server.command("SCRIPT", "FLUSH")
        await state.release(lease)
        await self.begin(state, "upload-2")

    async def test_hung(self) -> None:
        """A Redis that doesn't answer costs the first calls not quite two seconds, all at once, and later ones nothing."""
        self.server.start()
        state = await self.start_state()
        self.server.send(signal.SIGSTOP)
        calls = [self.reason(state.get("upload-1")) for _ in range(100)]
        self.assertLess(CALL_TIMEOUT_S, 2)
        self.assertEqual(await gatherResults([Deferred.fromCoroutine(call) for call in calls]), ["timeout"] * 100)
        self.failureResultOf(state.get("upload-1"), StateUnavailable)
        self.server.send(signal.SIGCONT)
        await self.recovered(state)

    async def test_hung_while_nobody_asks(self) -> None:
        """That Redis doesn't answer is found out without an upload that suffers from it."""
        self.server.start()
        state = await self.start_state()
        self.server.send(signal.SIGSTOP)
        await self.eventually(lambda: not state.available)
        self.server.send(signal.SIGCONT)
        await self.recovered(state)

    async def test_hung_at_the_start(self) -> None:
        """A Redis that takes connections and doesn't answer doesn't keep hmacfs from starting."""
        self.server.start()
        self.server.send(signal.SIGSTOP)
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "timeout")
        self.server.send(signal.SIGCONT)
        await self.recovered(state)

    async def test_killed_connections(self) -> None:
        """Connections that are lost are made again."""
        self.server.start()
        state = await self.start_state()
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        await self.eventually(lambda: not state.available)
        await self.recovered(state)

    async def test_killed_subscription(self) -> None:
        """Holders are told to let go again after the connection for messages was lost."""
        self.server.start()
        state, other = await self.start_state(), await self.start_state()
        told: Deferred[None] = Deferred()
        await state.create(new_upload(), Holder(lambda: told.callback(None)))
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        while not told.called:
            await self.assertFailure(other.acquire("upload-1", holder()), Busy)
            await deferLater(reactor, 0.02, lambda: None)

    async def test_foreign_messages(self) -> None:
        """What isn't ours on our channel is passed over."""
        self.server.start()
        state = await self.start_state()
        told: Deferred[None] = Deferred()
        await state.create(new_upload(), Holder(lambda: told.callback(None)))
        for message in (
            "",
            "upload-1",
            "1",
            "one upload-1",
            "1 upload-1 ",
            "1 ../upload-1",
            "1 \udcff",
            "9" * 50 + " upload-1",
        ):
            self.server.command("PUBLISH", f"{PREFIX}{{up1}}:let-go", message)
        self.assertEqual(told.called, False)
        self.server.command("PUBLISH", f"{PREFIX}{{up1}}:let-go", "1 upload-1")
        await told

    async def test_too_many_clients(self) -> None:
        """A Redis that takes no more connections does so again when others have gone."""
        self.server.start()
        self.server.command("CONFIG", "SET", "maxclients", "2")
        others = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for other in others:
            other.connect(str(self.server.socket))
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "too-many-clients")
        for other in others:
            other.close()
        await self.recovered(state)

    async def test_wrong_password(self) -> None:
        """A password that Redis doesn't take is said so, and not shown; it is tried again until it is right."""
        self.server.start()
        self.server.command("CONFIG", "SET", "requirepass", "another-secret")
        self.password = "confidential"
        with capturedLogs() as events:
            state = await self.start_state()
            error = await self.assertFailure(state.get("upload-1"), StateUnavailable)
        self.assertEqual(error.reason, "wrong-password")
        said = "".join(map(str, [repr(state), error, error.__cause__, *map(formatEvent, events)]))
        self.assertIn("is away: wrong-password (WRONGPASS", said)
        self.assertNotIn("confidential", said)
        self.server.command("CONFIG", "SET", "requirepass", "confidential", password="another-secret")
        await self.recovered(state)

    async def test_missing_password(self) -> None:
        """So is one that was left out."""
        self.server.start()
        self.server.command("CONFIG", "SET", "requirepass", "secret")
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "wrong-password")

    async def test_replica(self) -> None:
        """A Redis that takes no writes any more counts as away, reads and all, until it does.

        One refused call is enough to find out.
        """
        self.patch(redislink, "PROBE_INTERVAL_S", 1000.0)
        self.server.start()
        state = await self.start_state()
        self.server.command("REPLICAOF", "127.0.0.1", "1")
        self.assertEqual(await self.reason(state.create(new_upload(), holder())), "read-only")
        await self.eventually(lambda: not state.available)
        self.assertEqual(await self.reason(state.get("upload-1")), "read-only")
        self.server.command("REPLICAOF", "NO", "ONE")
        await self.recovered(state)

    async def test_out_of_memory(self) -> None:
        """So does one that is full."""
        self.server.start()
        state = await self.start_state()
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        self.assertEqual(await self.reason(state.create(new_upload(), holder())), "out-of-memory")
        self.server.command("CONFIG", "SET", "maxmemory", "0")
        await self.recovered(state)

    async def test_refused_command(self) -> None:
        """A command that fails for itself alone leaves the others as they were."""
        self.server.start()
        state = await self.start_state()
        self.server.command("SET", f"{PREFIX}{{up1}}:upload:upload-1", "not a hash")
        self.assertEqual(await self.reason(state.get("upload-1")), "refused")
        await self.begin(state, "upload-2")
        self.assertEqual(state.available, True)

    async def stand_in(self, line: bytes | None) -> StubFactory:
        """Something that isn't Redis where Redis should be."""
        stub = StubFactory(line)
        port = reactor.listenUNIX(str(self.server.socket), stub)
        self.addCleanup(port.stopListening)
        return stub

    async def replaced(self, state: RedisUploadState) -> None:
        """Redis comes to where the stand-in was."""
        self.server.socket.unlink()
        self.server.start()
        await self.recovered(state)

    async def test_dropped_during_login(self) -> None:
        """A Redis that went away while it was looking at the password is asked again when it is back."""
        self.password = "confidential"
        stub = await self.stand_in(None)
        state = await self.start_state()
        self.assertIn(b"AUTH", await stub.heard)
        self.assertEqual(await self.reason(state.get("upload-1")), "connection-lost")
        self.server.socket.unlink()
        self.server.start()
        self.server.command("CONFIG", "SET", "requirepass", "confidential")
        await self.recovered(state)

    async def test_error_replies(self) -> None:
        """What Redis says when it won't do anything now has a word for each case."""
        for line, reason in (
            (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
            (b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n", "loading"),
            (b"-MISCONF Redis is configured to save RDB snapshots, but can't.\r\n", "cannot-persist"),
            (b"-BUSY Redis is busy running a script.\r\n", "busy"),
            (b"-NOPERM this user has no permissions to run the 'eval' command\r\n", "no-permission"),
            (b"-ERR invalid password\r\n", "wrong-password"),
            (b"-ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write.\r\n", "read-only"),
            (b"-ERR whatever comes next\r\n", "refused"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "timeout"),
        ):
            stub = StubFactory(line)
            port = reactor.listenUNIX(str(self.server.socket), stub)
            state = await self.start_state()
            self.assertEqual(await self.reason(state.get("upload-1")), reason)
            await self.links[state].stop()
            await port.stopListening()

    async def test_loading(self) -> None:
        """A Redis that was loading is asked again."""
        await self.stand_in(b"-LOADING Redis is loading the dataset in memory\r\n")
        state = await self.start_state()
        self.assertEqual(await self.reason(state.get("upload-1")), "loading")
        await self.replaced(state)

    async def test_log(self) -> None:
        """However often it is tried, an outage is one line in the log for each thing that is the matter."""
        self.server.start()
        state = await self.start_state()
        with capturedLogs() as events:
            self.server.stop()
            await self.eventually(lambda: not state.available)
            await deferLater(reactor, 10 * FIRST_DELAY_S, lambda: None)
            self.server.start()
            await self.recovered(state)
        name = f"Redis at {self.address} (commands) is "
        lines = [line for line in map(formatEvent, events) if line.startswith(name)]
        self.assertEqual(
            [line.removeprefix(name).split(" (")[0] for line in lines],
            ["away: connection-lost", "away: unreachable", "there"],
        )

    async def test_stopped_while_it_waits(self) -> None:
        """Calls that wait for an answer fail when hmacfs stops, and nothing is left behind."""
        self.server.start()
        state = await self.start_state()
        self.server.send(signal.SIGSTOP)
        call = state.get("upload-1")
        await self.links[state].stop()
        self.assertEqual(await self.reason(call), "not-connected")

    async def test_keys(self) -> None:
        """All keys have the prefix, live in one slot of a cluster, and go by themselves some day."""
        self.server.start()
        state = await self.start_state()
        await self.begin(state)
        await state.finish(await self.begin(state, "upload-2"), 1000, None)
        keys = set(self.server.command("KEYS", "*").split())
        up = f"{PREFIX}{{up1}}:"
        self.assertEqual(
            keys,
            {f"{PREFIX}probe"}
            | {up + key for key in ("upload:upload-1", "lease:upload-1", "upload:upload-2", "active", "complete")},
        )
        self.assertEqual(int(self.server.command("PTTL", f"{up}lease:upload-1")) in range(10_000, 15_001), True)
        kept_ms = int(self.server.command("PTTL", f"{up}upload:upload-1"))
        self.assertEqual(kept_ms in range(int(2000 * TTL_S) - 10_000, int(2000 * TTL_S) + 1), True)


class EndpointTests(SynchronousTestCase):
    def test_ca_file_without_certificates(self) -> None:
        """A CA file that has no certificate would vouch for nobody: the operator reads which file it is."""
        path = Path(self.mktemp())
        for content in (b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"):
            path.write_bytes(content)
            address = RedisAddress("redis.example", tls=True)
            error = self.assertRaises(StartError, redis_endpoint, reactor, address, path)
            self.assertIn(str(path), str(error))

    def test_before_the_start(self) -> None:
        """A store that was not started is away, and can be stopped."""
        endpoint = redis_endpoint(reactor, RedisAddress("redis.example"), None)
        state = RedisUploadState(
            RedisLink(Clock(), endpoint, "redis.example", probe_key="probe"), Clock().seconds, TTL_S, PREFIX
        )
        self.failureResultOf(state.get("upload-1"), StateUnavailable)
        self.assertEqual((state.available, state.round_trip_s), (False, None))
        self.successResultOf(state.stop())
