"""``hmacfs bans``: who is blocked or banned, and why; and to change that."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from attrs import frozen

from hmacfs.access.addresses import ClientAddresses
from hmacfs.access.banstate import (
    IBanState,
    Kind,
    Mark,
    Record,
    Sentence,
    network_of,
    network_text,
    pardoned,
    sentenced,
    unchanged,
)
from hmacfs.access.scopes import Scopes
from hmacfs.cli.arguments import duration
from hmacfs.cli.audit import audit, operator
from hmacfs.cli.banstore import with_bans
from hmacfs.cli.output import FINE, Column, Fault, Output, Usage, moment, timestamp
from hmacfs.config import Config, load
from hmacfs.units import counted

Network = IPv4Network | IPv6Network

_WHOM: Final = "an address, or a network as 192.0.2.0/24; an address of IPv6 stands for its network (BanPrefixV6)"


@frozen
class _Written:
    """An address or a network, as the operator has written it.

    :ivar network: that, or the one of the address alone.
    :ivar is_exact: a prefix was written. What has none is an address, and stands for whom the daemon counts it for.
    """

    network: Network
    is_exact: bool

    @classmethod
    def parse(cls, text: str) -> _Written:
        try:
            return cls(network_of(text), "/" in text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    def __str__(self) -> str:
        return network_text(self.network) if self.is_exact else str(self.network.network_address)


@frozen
class _Task:
    """What a command works with.

    :ivar now: seconds since the epoch.
    """

    state: IBanState
    config: Config
    options: argparse.Namespace
    output: Output
    now: float

    async def in_force(self) -> list[tuple[Record, Sentence]]:
        """Every sentence that is, the earliest first."""
        found: dict[str, Record] = {}
        mark, more = Mark(), True
        while more:
            changes = await self.state.changes(mark)
            found.update((record.scope, record) for record in changes.records)
            mark, more = changes.mark, changes.more
        pairs = ((record, record.sentence) for record in found.values() if record.sentence is not None)
        return sorted(
            ((record, sentence) for record, sentence in pairs if sentence.left_s(self.now) > 0),
            key=lambda pair: pair[1].since,
        )

    def meant(self, written: _Written) -> Network:
        """Whom the failures of an address are counted for; what was written with a prefix stands for itself."""
        if written.is_exact:
            return written.network
        scopes = Scopes(ClientAddresses(self.config.trusted_proxies), self.config.ban_prefix_v6)
        return ip_network(scopes.of_host(str(written)))


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the family to argparse's *commands*."""
    bans = commands.add_parser("bans", help="list, add and lift blocks and bans, and say why")
    verbs = bans.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", parents=[common], help="list who is blocked or banned")
    listing.set_defaults(run=partial(_run, _list))

    adding = verbs.add_parser("add", parents=[common], help="ban an address or a network")
    adding.add_argument("address", metavar="ADDRESS", type=_Written.parse, help=_WHOM)
    length = adding.add_mutually_exclusive_group()
    length.add_argument("--for", dest="length_s", metavar="TIME", type=duration, help="for how long: 1d")
    length.add_argument("--forever", action="store_true", help="until it is lifted; so is what has no --for")
    adding.add_argument("--reason", metavar="TEXT", default="", help="what it is for, for those who look later")
    adding.set_defaults(run=partial(_run, _add))

    lifting = verbs.add_parser("lift", parents=[common], help="let an address or a network in again")
    lifting.add_argument("address", metavar="ADDRESS", type=_Written.parse, nargs="?", help="as the list shows it")
    lifting.add_argument("--all", action="store_true", help="everybody")
    lifting.add_argument("--dry-run", action="store_true", help="only say what would be done")
    lifting.set_defaults(run=partial(_run, _lift))

    asking = verbs.add_parser("why", parents=[common], help="what an address has done, and what became of it")
    asking.add_argument("address", metavar="ADDRESS", type=_Written.parse, help="an address, or a network")
    asking.set_defaults(run=partial(_run, _why))


def _run(work: Callable[[_Task], Awaitable[int]], options: argparse.Namespace) -> int:
    config, output = load(options.config), Output.of(options)
    return with_bans(config, lambda state: work(_Task(state, config, options, output, time.time())))


async def _list(task: _Task) -> int:
    found = await task.in_force()
    task.output.records(_as_json(record.scope, sentence) for record, sentence in found)
    if not found:
        task.output.say("Nobody is blocked or banned.")
        return FINE
    titles = ("address", "kind", "since", "until")
    columns = [*map(Column, titles), Column("failures", right=True), Column("why")]
    task.output.table(columns, (_cells(record.scope, sentence) for record, sentence in found))
    return FINE


async def _add(task: _Task) -> int:
    written: _Written = task.options.address
    network = task.meant(written)
    _check_proxies(written, network, task)
    until = None if task.options.length_s is None else task.now + task.options.length_s
    sentence = Sentence(Kind.BANNED, task.now, until, task.options.reason or f"by {operator()}", manual=True)
    scope = network_text(network)
    await task.state.update([scope], lambda record: sentenced(record, sentence, task.config.auto_ban_time_s))
    audit(f"banned {scope}")
    task.output.document(_as_json(scope, sentence))
    task.output.say(f"{scope} is banned {_until(sentence)}.")
    if network != written.network:
        task.output.say(
            f"{written} is counted by that network (BanPrefixV6 = {network.prefixlen}). To ban the one address alone,"
            f" write {written}/{written.network.prefixlen}."
        )
    return FINE


def _check_proxies(written: _Written, network: Network, task: _Task) -> None:
    """Nobody can be banned who speaks for others.

    :param network: what is to be banned for what was *written*.
    :raises Fault: that is a trusted proxy.
    """
    for proxy in task.config.trusted_proxies:
        if proxy == "unix" or proxy.version != network.version or not network.overlaps(proxy):
            continue
        if written.network.num_addresses == 1 and written.network.overlaps(proxy):
            raise Fault(f"{written} is in TrustedProxies, and speaks for all of its clients.")
        task.output.note(f"{network_text(proxy)} is in TrustedProxies: what it says for its clients is still heard.")


async def _lift(task: _Task) -> int:
    options = task.options
    if (options.address is None) != options.all:
        raise Usage("Say an ADDRESS, or --all.")
    found = await task.in_force()
    chosen = [record.scope for record, _ in found]
    if options.address is not None:
        written: _Written = options.address
        names = {network_text(network) for network in (written.network, task.meant(written))}
        chosen = [scope for scope in chosen if scope in names]
        others = [scope for scope in _covering(written.network, found) if scope not in chosen]
        if others:
            task.output.note(f"{written} also falls under {', '.join(others)}.")
        if not chosen:
            raise Fault(f"{written} is neither blocked nor banned by itself.")
    if not options.dry_run and chosen:
        await task.state.update(chosen, lambda record: pardoned(record, task.now))
        lifted = counted(len(chosen), "block or ban", "blocks and bans") if options.all else ", ".join(chosen)
        audit(f"lifted {lifted}")
    task.output.document({"would_lift" if options.dry_run else "lifted": chosen})
    verb = "would be lifted" if options.dry_run else "lifted"
    task.output.say("\n".join(f"{scope}: {verb}" for scope in chosen) or "Nobody is blocked or banned.")
    return FINE


async def _why(task: _Task) -> int:
    written: _Written = task.options.address
    name, scope = str(written), network_text(task.meant(written))
    (record,) = await task.state.update([scope], unchanged)
    found = await task.in_force()
    covering = _covering(written.network, found)
    in_force = [(other.scope, sentence) for other, sentence in found if other.scope in covering]
    last = record.sentence
    task.output.document(
        {
            "address": name,
            "counted_as": scope,
            "in_force": [_as_json(other, sentence) for other, sentence in in_force],
            "last": None if last is None else _as_json(scope, last),
            "failures": [{"at": timestamp(failure.at), "reason": failure.reason} for failure in record.failures],
        }
    )
    for other, sentence in in_force:
        task.output.say(f"{other} is {sentence.kind.value} {_until(sentence)}: {sentence.why}")
    if not in_force:
        task.output.say(f"{name} is neither blocked nor banned.")
        if last is not None:
            task.output.say(f"{scope} was {last.kind.value} {_until(last)}: {last.why}")
    if record.failures:
        task.output.table(
            [Column("failed at"), Column("reason")],
            ([moment(failure.at), failure.reason] for failure in record.failures),
        )
    return FINE


def _covering(network: Network, found: Sequence[tuple[Record, Sentence]]) -> list[str]:
    """The scopes that *network* is in."""
    scopes = [record.scope for record, _ in found]
    return [scope for scope in scopes if _is_within(network, ip_network(scope))]


def _is_within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def _cells(scope: str, sentence: Sentence) -> list[str]:
    until = "lifted" if sentence.until is None else moment(sentence.until)
    failures = "" if sentence.manual else str(sentence.failures)
    return [scope, sentence.kind.value, moment(sentence.since), until, failures, sentence.why]


def _as_json(scope: str, sentence: Sentence) -> dict[str, object]:
    return {
        "address": scope,
        "kind": sentence.kind.value,
        "since": timestamp(sentence.since),
        "until": None if sentence.until is None else timestamp(sentence.until),
        "why": sentence.why,
        "failures": sentence.failures,
        "manual": sentence.manual,
    }


def _until(sentence: Sentence) -> str:
    return "until it is lifted" if sentence.until is None else f"until {moment(sentence.until)}"
