"""The request path: raw bytes in, in memory, and what must hold of whatever comes out."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from attrs import evolve, field, frozen

from tests.fuzz.grammar import STOCK, Draft, Grammar
from tests.fuzz.mutation import cut, mutate
from tests.fuzz.playground import HIDDEN, LONGEST_S, PROFILES, Peer, Playground, documented_reasons
from tests.fuzz.requests import Seen, read_requests
from tests.fuzz.responses import MALFORMED, Response, read_responses
from tests.fuzz.slots import Slots
from tests.fuzz.target import must, shrink, shrink_bytes

#: After so many examples the servers get new, empty stores.
_EXAMPLES_PER_STORE = 2000

#: How often an example is tried again to make it smaller: each costs a new store.
_TRIES = 150

_CREDENTIAL = re.compile(rb"[?&](?:v[23]?|token)=([0-9a-f]{64})(?![0-9a-f])")
_STATUSES = frozenset({200, 201, 202, 204, 206, 304})


@frozen
class Step:
    """Something that happens on one of the connections."""

    peer: int
    kind: Literal["send", "wait", "stall", "read", "vanish"]
    data: bytes = b""
    seconds: float = 0.0

    def __repr__(self) -> str:
        what = {"send": repr(self.data), "wait": f"{self.seconds} s"}.get(self.kind, "")
        return f"{self.peer} {self.kind} {what}".rstrip()


@frozen
class Example:
    """What happens on one connection, or on a few to one server.

    :ivar issued: which sizes were signed, by path.
    """

    profile: str
    steps: tuple[Step, ...]
    issued: dict[bytes, set[int | None]] = field(repr=False)


class ConnectionTarget:
    """See the module.

    :ivar outcomes: how many answers there were of each status, to see that a campaign isn't blind.
    """

    name = "connections"

    def __init__(self, scratch: str | None = None) -> None:
        self.outcomes: Counter[str] = Counter()
        self._scratch = scratch
        self._playgrounds: dict[str, Playground] = {}
        self._used = 0
        self._reasons = documented_reasons()

    def close(self) -> None:
        for playground in self._playgrounds.values():
            playground.close()
        self._playgrounds.clear()
        self._used = 0

    # Making examples

    def make(self, random: Random) -> Example:
        profile = random.choice(("usual", "usual", "root", "slow"))
        slots = Slots(random, PROFILES[profile].prefix, f"e{random.randrange(10**9)}-")
        grammar = Grammar(random, slots)
        peers = random.choice((1, 1, 1, 1, 1, 1, 2, 3))
        streams = [self._stream(random, grammar, peer) for peer in range(peers)]
        steps: list[Step] = []
        while any(streams):
            stream = random.choice([stream for stream in streams if stream])
            steps += [stream.pop(0) for _ in range(min(len(stream), random.choice((1, 1, 100))))]
        return Example(profile, tuple(steps), slots.issued)

    def _stream(self, random: Random, grammar: Grammar, peer: int) -> list[Step]:
        drafts: list[Draft] = []
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            drafts += grammar.conversation()
        spoils = random.random() < 0.3
        for draft in drafts:
            if spoils and random.random() < 0.7:
                grammar.spoil(draft)
        data = b"".join(map(bytes, drafts))
        if random.random() < 0.3:
            data = mutate(random, data)
        if random.random() < 0.15:
            data = data[: random.randrange(len(data) + 1)]
        if random.random() < 0.05:
            data += b"x" * random.choice((1, 500, 200_000))
        steps = [Step(peer, "send", piece) for piece in cut(random, data)]
        while random.random() < 0.2:
            steps.insert(random.randrange(len(steps) + 1), self._event(random, peer))
        if random.random() < 0.1:
            steps.append(Step(peer, "vanish"))
        return steps

    def _event(self, random: Random, peer: int) -> Step:
        kind: Any = random.choice(("wait", "wait", "stall", "read", "vanish"))
        return Step(peer, kind, seconds=random.choice((0.1, 1.1, 2.5, 6.0, 10.0)) if kind == "wait" else 0.0)

    # Trying them

    def check(self, example: Example) -> None:
        if self._used >= _EXAMPLES_PER_STORE:
            self.close()
        self._used += 1
        playground = self._playgrounds.get(example.profile)
        if playground is None:
            playground = self._playgrounds[example.profile] = Playground(example.profile, self._scratch)
        try:
            self._check(playground, example)
        except BaseException:
            # What it has left must not be the next one's fault.
            self.close()
            raise

    def _check(self, playground: Playground, example: Example) -> None:
        playground.begin()
        peers: dict[int, Peer] = {}
        for step in example.steps:
            self._do(playground, peers, step)
        every = list(peers.values())
        for peer in every:
            peer.transport.read_again()
        playground.settle(every)
        playground.wait(LONGEST_S, every)
        for peer in every:
            must(peer.gone, "a connection that nobody ends")
        seen = [self._check_peer(playground, peer) for peer in every]
        requests = [request for of_peer in seen for request in of_peer]
        self._check_store(playground, example, requests)
        playground.check_log(_credentials(requests))
        self._check_entries(playground, seen)
        playground.check_rest()

    def _do(self, playground: Playground, peers: dict[int, Peer], step: Step) -> None:
        peer = peers.get(step.peer)
        if peer is None:
            peer = peers[step.peer] = Peer(playground.server.site)
        if step.kind == "send":
            peer.send(step.data)
        elif step.kind == "wait":
            playground.wait(step.seconds, list(peers.values()))
        elif step.kind == "stall":
            peer.transport.stalled = True
        elif step.kind == "read":
            peer.transport.read_again()
        else:
            playground.settle(list(peers.values()))
            peer.vanish()
        playground.settle(list(peers.values()))

    # What must hold

    def _check_peer(self, playground: Playground, peer: Peer) -> list[Seen]:
        """:return: the requests on this connection."""
        seen, malformed = read_requests(bytes(peer.sent))
        output = peer.transport.value()
        must(HIDDEN not in output, "what nobody may get was sent")
        responses = read_responses(output, [request.method for request in seen], cut=peer.cut)
        for position, response in enumerate(responses):
            request = seen[position] if position < len(seen) else None
            self._check_response(playground, request, response)
        must(len(responses) <= len(seen) + 1, len(responses), "answers to", len(seen), "requests")
        if len(responses) > len(seen):
            must(responses[-1].status in MALFORMED, "an answer to no request:", responses[-1].status)
            must(responses[-1].closes, "a connection goes on after what was no request")
        if not peer.cut and not peer.waiting and not (responses and responses[-1].closes):
            whole = sum(request.whole for request in seen)
            closing = [request for request in seen if _closes(request)]
            must(len(responses) >= whole or closing, len(responses), "answers to", whole, "whole requests")
            must(not malformed or closing, "what is malformed was not answered")
        return seen

    def _check_response(self, playground: Playground, request: Seen | None, response: Response) -> None:
        status, headers = response.status, response.headers
        self.outcomes[str(status)] += 1
        must(status in _STATUSES or status in self._reasons, "a status that is not documented:", status)
        must(status != 500, "internal")
        must(headers.get(b"access-control-allow-origin") == b"*", "no CORS:", status)
        must(headers.get(b"x-content-type-options") == b"nosniff", "no nosniff:", status)
        if status >= 400 and response.whole and response.body:
            self._check_refusal(response)
        if request is not None and status in (200, 206) and request.method == b"GET":
            self._check_download(playground, request, response)
        if request is not None and status == 201 and request.whole and not _may_bring_less(request):
            size = response.headers[b"upload-offset"]
            must(size == b"%d" % len(request.body), "201 to a file of", len(request.body), "bytes, stored are", size)
        if response.continues:
            must(request is not None and (request.header(b"expect") or b"").lower() == b"100-continue", "100 unasked")

    def _check_refusal(self, response: Response) -> None:
        if response.headers[b"content-type"] == b"application/problem+json":
            problem = json.loads(response.body)
            must(problem["status"] == response.status, "another status in the problem")
            reason = problem["reason"]
        else:
            reason = response.body.partition(b":")[0].decode()
        must(reason in self._reasons[response.status], "a reason that is not documented:", response.status, reason)
        self.outcomes[f"{response.status} {reason}"] += 1

    def _check_download(self, playground: Playground, request: Seen, response: Response) -> None:
        path = _path(playground, request.target)
        content = None if path is None else STOCK.get(path)
        if path is None or not path.startswith(b"stock/"):
            return
        must(content is not None, "a file that isn't there was served:", path)
        assert content is not None
        if response.status == 206:
            match = re.fullmatch(rb"bytes (\d+)-(\d+)/(\d+)", response.headers[b"content-range"])
            must(match and int(match[3]) == len(content), "a wrong Content-Range")
            assert match is not None
            content = content[int(match[1]) : int(match[2]) + 1]
            must(len(content) == int(match[2]) - int(match[1]) + 1, "a range beyond the file")
        must(content.startswith(response.body), "other bytes than the file's")
        must(not response.whole or content == response.body, "too few bytes of the file")
        must(b"sandbox" in response.headers.get(b"content-security-policy", b""), "a file that may run scripts")
        must(b"attachment" in response.headers[b"content-disposition"], "SVG is shown inline")

    def _check_store(self, playground: Playground, example: Example, seen: list[Seen]) -> None:
        playground.parts()
        stored = playground.stored()
        for path, content in stored.items():
            sizes = example.issued.get(path)
            must(sizes is not None, "a file that was never signed:", path)
            assert sizes is not None
            must(len(content) in sizes or None in sizes, "a file of", len(content), "bytes, signed for", sizes)
            must(_was_sent(playground, path, content, seen), "bytes that were never sent are in", path)
        must(len(playground.server.published) == len(stored), "the count of published files")
        self.outcomes["files stored"] += len(stored)

    def _check_entries(self, playground: Playground, seen: list[list[Seen]]) -> None:
        """What was logged are the requests that were sent, and no other."""
        logged = Counter((entry.method, entry.path) for entry in playground.server.entries if entry.method != "-")
        sent = Counter((request.method.decode(), _logged_path(request)) for requests in seen for request in requests)
        must(logged <= sent, "requests that nobody sent:", logged - sent)

    # Findings

    def smaller(self, example: Example, fails: Callable[[Example], bool]) -> Example:
        def fails_with(steps: list[Step]) -> bool:
            return fails(evolve(example, steps=tuple(steps)))

        merged = _merged(example.steps)
        steps = shrink(merged if fails_with(merged) else list(example.steps), fails_with)
        for at in range(len(steps)):
            steps = _with_less_sent(steps, at, fails_with)
        return evolve(example, steps=tuple(steps))

    def show(self, example: Example) -> str:
        return "\n".join([f"server: {example.profile}", *map(repr, example.steps)])


def _with_less_sent(steps: list[Step], at: int, fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Make smaller what one step sends."""
    step = steps[at]

    def sending(data: bytes) -> list[Step]:
        return [*steps[:at], evolve(step, data=data), *steps[at + 1 :]]

    if step.kind != "send":
        return steps
    return sending(shrink_bytes(step.data, lambda data: fails(sending(data)), tries=_TRIES // len(steps)))


def _merged(steps: Iterable[Step]) -> list[Step]:
    """The same with as few pieces as may be."""
    merged: list[Step] = []
    for step in steps:
        if merged and step.kind == merged[-1].kind == "send" and step.peer == merged[-1].peer:
            merged[-1] = evolve(step, data=merged[-1].data + step.data)
        else:
            merged.append(step)
    return merged


def _closes(request: Seen) -> bool:
    """Whether what follows this request need not be looked at."""
    connection = (request.header(b"connection") or b"").lower()
    return b"close" in connection or request.minor == 0


def _credentials(requests: list[Seen]) -> list[bytes]:
    """What must not be logged. Who writes a signature into the path of a URL has written a name."""
    paths = b"\n".join(request.target.partition(b"?")[0] for request in requests)
    tokens = [(request.header(b"authorization") or b"").partition(b" ")[2] for request in requests]
    found = [mac for request in requests for mac in _CREDENTIAL.findall(request.target)]
    return [credential for credential in [*found, *tokens] if len(credential) > 40 and credential not in paths]


def _may_bring_less(request: Seen) -> bool:
    """Whether a PUT may be answered with 201 without bringing the file: it says that it is about a part of it, has the
    token of an upload whose rest it may be, or states the digest of what is stored already."""
    return any(re.search(rb"range|x-session-token|digest|md5|checksum|sha256", name) for name, _ in request.headers)


def _origin_form(target: bytes) -> bytes:
    target = re.sub(rb"^https?://[^/?#]*", b"", target, count=1, flags=re.IGNORECASE)
    return target if target.startswith((b"/", b"*")) else b"/" + target


def _logged_path(request: Seen) -> str:
    target = re.sub(rb"[\x80-\xff]", lambda octet: b"%%%02X" % octet[0][0], request.target)
    return _origin_form(target).partition(b"?")[0].decode("ascii")


def _path(playground: Playground, target: bytes) -> bytes | None:
    """The path of a slot that a request target means; ``None`` if it is no slot's."""
    prefix = "/".join(["", *playground.profile.prefix, ""]).encode()
    path = _origin_form(target).partition(b"?")[0]
    decoded = b"/".join(unquote_to_bytes(segment) for segment in path.split(b"/"))
    return decoded.removeprefix(prefix) if decoded.startswith(prefix) else None


def _was_sent(playground: Playground, path: bytes, content: bytes, seen: list[Seen]) -> bool:
    """Whether each byte stands at its place in a body that was sent to *path*."""
    bodies = []
    for request in seen:
        if request.method == b"PUT" and _path(playground, request.target) == path:
            if request.body == content:
                return True
            bodies.append((_start(request), request.body))
    covered = [False] * len(content)
    for start, body in bodies:
        # The rest without its place may begin wherever the one before has ended.
        starts = [start] if start is not None else [0, max(0, len(content) - len(body))]
        for begin in starts:
            for at, byte in enumerate(body[: max(0, len(content) - begin)], begin):
                covered[at] = covered[at] or content[at] == byte
    return all(covered)


def _start(request: Seen) -> int | None:
    announced = request.header(b"content-range") or request.header(b"range") or b""
    match = re.search(rb"[ =\t](\d{1,15})-\d{1,15}/", announced)
    return int(match[1]) if match else None


def scratch_directory() -> str | None:
    """Where files cost no disk, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
