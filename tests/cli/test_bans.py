"""``hmacfs bans``, with the store of bans that needs no other program."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from hmacfs.access.banstate import Failure, IBanState, Kind, Policy, Record, Sentence, judged, sentenced
from hmacfs.access.embeddedbans import FILE_NAME, EmbeddedBanState
from hmacfs.cli import audit
from hmacfs.net.threads import InlineThreads
from tests.cli.commanding import CommandTestCase

SECRET = "a secret of more than 16 characters"


class BansTests(CommandTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.own = self.directory / "store" / ".hmacfs"
        self.own.mkdir(parents=True)
        self.config = self.directory / "config.toml"
        self.configure(f'Secret = "{SECRET}"\nStoreDir = "store"\nTrustedProxies = ["192.0.2.1"]\n')
        self.audited: list[str] = []
        self.patch(audit.syslog, "syslog", lambda _priority, line: self.audited.append(line))
        self.now = time.time()
        self.state: IBanState = EmbeddedBanState(self.own / FILE_NAME, InlineThreads(), lambda: self.now)
        self.addCleanup(self.state.stop)

    def run_it(self, *argv: str, words: int = 1) -> tuple[int, str, str]:
        return super().run_it("bans", *argv, words=words + 1)

    def json(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.printed(*words, "--json").splitlines()]

    def listed(self) -> list[str]:
        return [entry["address"] for entry in self.json("list")]

    def block(self, scope: str = "203.0.113.9", times: int = 3) -> None:
        """What the daemon does."""

        def change(record: Record) -> Record:
            for number in range(times):
                failure = Failure(self.now - 30 + number, "bad-signature", str(number))
                record = judged(record, failure, Policy(3, 300.0, 600.0, 600.0))
            return record

        self.successResultOf(self.state.update([scope], change))

    def test_nobody(self) -> None:
        self.assertEqual(self.printed("list"), "Nobody is blocked or banned.\n")
        self.assertEqual(self.json("list"), [])

    def test_list(self) -> None:
        """Who, since when, until when and why; not what is over."""
        self.block()
        self.printed("add", "2001:db8::/48", "--reason", "scans")
        over = Sentence(Kind.BLOCKED, self.now - 100, self.now - 1, "3 bad-path", 3)
        self.successResultOf(self.state.update(["192.0.2.9"], lambda record: sentenced(record, over, 600.0)))
        header, blocked, banned = self.printed("list").splitlines()
        self.assertEqual(header.split(), ["address", "kind", "since", "until", "failures", "why"])
        moment = r"\d{4}-\d\d-\d\d \d\d:\d\d"
        self.assertRegex(blocked, rf"^203\.0\.113\.9 +blocked +{moment} +{moment} +3 +3 bad-signature$")
        self.assertRegex(banned, rf"^2001:db8::/48 +banned +{moment} +lifted +scans$")
        entry, _ = self.json("list")
        self.assertEqual(entry["kind"], "blocked")
        self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["until"]))

    def test_add(self) -> None:
        """For a while or for ever, an address or a network; one line for the system's log."""
        (entry,) = self.json("add", "203.0.113.9", "--for", "1d", "--reason", "scans")
        self.assertEqual((entry["kind"], entry["why"], entry["manual"]), ("banned", "scans", True))
        (entry,) = self.json("add", "198.51.100.0/24", "--forever")
        self.assertIsNone(entry["until"])
        self.assertEqual(self.listed(), ["203.0.113.9", "198.51.100.0/24"])
        self.assertEqual(
            [line.partition(": ")[2] for line in self.audited], ["banned 203.0.113.9", "banned 198.51.100.0/24"]
        )

    def test_add_ipv6(self) -> None:
        """An address stands for the network by which the server counts it, and that is said."""
        out = self.printed("add", "2001:db8:1:2::77")
        self.assertIn("2001:db8:1:2::/64 is banned until it is lifted.", out)
        self.assertIn("2001:db8:1:2::77 is counted by that network (BanPrefixV6 = 64)", out)
        self.assertIn("2001:db8:1:2::77/128", out)
        self.assertEqual(self.listed(), ["2001:db8:1:2::/64"])
        self.assertIn("banned 2001:db8:1:2::/64", self.audited[-1])
        self.assertEqual(self.json("add", "2001:db8:1:3::1")[0]["address"], "2001:db8:1:3::/64")

    def test_add_ipv6_as_configured(self) -> None:
        self.configure(f'Secret = "{SECRET}"\nStoreDir = "store"\nBanPrefixV6 = 48\n')
        self.assertIn("(BanPrefixV6 = 48)", self.printed("add", "2001:db8:1:2::77"))
        self.assertEqual(self.listed(), ["2001:db8:1::/48"])

    def test_add_one_ipv6_address(self) -> None:
        """Who writes a prefix means it."""
        out = self.printed("add", "2001:db8:1:2::77/128")
        self.assertEqual(out, "2001:db8:1:2::77/128 is banned until it is lifted.\n")
        self.assertEqual(self.listed(), ["2001:db8:1:2::77/128"])

    def test_add_mapped_ipv4(self) -> None:
        """It is the IPv4 address."""
        self.assertEqual(self.printed("add", "::ffff:203.0.113.9"), "203.0.113.9 is banned until it is lifted.\n")

    def test_add_proxy_of_ipv6(self) -> None:
        """An address can't be banned that is a proxy; one whose network a proxy is in can."""
        self.configure(f'Secret = "{SECRET}"\nStoreDir = "store"\nTrustedProxies = ["2001:db8::1"]\n')
        for address in ("2001:db8::1", "2001:db8::1/128"):
            self.assertIn("TrustedProxies", self.refused("add", address))
        status, _, err = self.run_it("add", "2001:db8::2")
        self.assertEqual((status, self.listed()), (0, ["2001:db8::/64"]))
        self.assertIn("2001:db8::1/128 is in TrustedProxies", err)

    def test_add_nonsense(self) -> None:
        for words in (("host.example",), ("203.0.113.9/24",), ("",), ("203.0.113.9", "--for", "1d", "--forever")):
            self.refused("add", *words, status=2)
        self.assertEqual(self.listed(), [])

    def test_add_proxy(self) -> None:
        """A trusted proxy can't be banned; a network that it is in can, and it stays out of that."""
        self.assertIn("TrustedProxies", self.refused("add", "192.0.2.1"))
        status, _, err = self.run_it("add", "192.0.2.0/24")
        self.assertEqual(status, 0)
        self.assertIn("192.0.2.1 is in TrustedProxies", err)
        self.assertEqual(self.listed(), ["192.0.2.0/24"])

    def test_lift(self) -> None:
        """One of them, and what has failed before counts no more."""
        self.block()
        self.block("203.0.113.10")
        self.assertEqual(self.json("lift", "203.0.113.9"), [{"lifted": ["203.0.113.9"]}])
        self.assertEqual(self.listed(), ["203.0.113.10"])
        self.assertIn("lifted 203.0.113.9", self.audited[-1])

    def test_lift_ipv6(self) -> None:
        """An address stands for the network that it is counted as."""
        self.block("2001:db8:1:2::/64")
        self.assertEqual(self.printed("lift", "2001:db8:1:2::77"), "2001:db8:1:2::/64: lifted\n")
        self.assertEqual(self.listed(), [])

    def test_lift_as_it_was_added(self) -> None:
        """By the same words, and by what the list shows."""
        for words, shown in (("2001:db8::1", "2001:db8::/64"), ("2001:db8::1/128", "2001:db8::1/128")):
            for lifted in (words, shown):
                self.printed("add", words)
                self.assertEqual(self.json("lift", lifted), [{"lifted": [shown]}])

    def test_lift_one_ipv6_address(self) -> None:
        """The network that it is in stays banned, which is said."""
        self.printed("add", "2001:db8::1")
        self.printed("add", "2001:db8::1/128")
        status, out, err = self.run_it("lift", "2001:db8::1/128")
        self.assertEqual((status, out), (0, "2001:db8::1/128: lifted\n"))
        self.assertIn("also falls under 2001:db8::/64", err)
        self.assertEqual(self.listed(), ["2001:db8::/64"])

    def test_lift_all(self) -> None:
        self.block()
        self.block("203.0.113.10")
        self.assertEqual(self.json("lift", "--all", "--dry-run")[0]["would_lift"], ["203.0.113.9", "203.0.113.10"])
        self.assertEqual(len(self.listed()), 2)
        self.printed("lift", "--all")
        self.assertEqual(self.listed(), [])
        self.assertEqual(self.printed("lift", "--all"), "Nobody is blocked or banned.\n")

    def test_lift_what_is_not_there(self) -> None:
        """Within a network that stays banned, it is said."""
        self.printed("add", "203.0.113.0/24")
        err = self.refused("lift", "203.0.113.9")
        self.assertIn("also falls under 203.0.113.0/24", err)
        self.assertIn("neither blocked nor banned by itself", err)
        self.assertEqual(self.listed(), ["203.0.113.0/24"])

    def test_lift_whom(self) -> None:
        """An address or all, and not both."""
        self.refused("lift", status=2)
        self.refused("lift", "203.0.113.9", "--all", status=2)

    def test_why(self) -> None:
        """What it did, what became of it, and in what network it is."""
        self.block()
        self.printed("add", "203.0.113.0/24", "--reason", "scans")
        out = self.printed("why", "203.0.113.9")
        self.assertIn("203.0.113.9 is blocked until ", out)
        self.assertIn("203.0.113.0/24 is banned until it is lifted: scans", out)
        self.assertEqual(out.count("bad-signature"), 4)
        (told,) = self.json("why", "203.0.113.9")
        self.assertEqual([entry["kind"] for entry in told["in_force"]], ["blocked", "banned"])
        self.assertEqual([failure["reason"] for failure in told["failures"]], ["bad-signature"] * 3)

    def test_why_ipv6(self) -> None:
        """Of what its network did, and also of a ban of it alone."""
        self.block("2001:db8:1:2::/64")
        self.printed("add", "2001:db8:1:2::77/128")
        (told,) = self.json("why", "2001:db8:1:2::77")
        self.assertEqual((told["counted_as"], len(told["failures"])), ("2001:db8:1:2::/64", 3))
        in_force = [entry["address"] for entry in told["in_force"]]
        self.assertEqual(in_force, ["2001:db8:1:2::/64", "2001:db8:1:2::77/128"])

    def test_why_not(self) -> None:
        """Who has failed and isn't blocked yet, or not any more, or never did anything."""
        self.assertEqual(self.printed("why", "203.0.113.10"), "203.0.113.10 is neither blocked nor banned.\n")
        self.block(times=2)
        self.assertEqual(self.printed("why", "203.0.113.9").count("bad-signature"), 2)
        over = Sentence(Kind.BLOCKED, self.now - 100, self.now - 1, "3 bad-path", 3)
        self.successResultOf(self.state.update(["192.0.2.9"], lambda record: sentenced(record, over, 600.0)))
        self.assertIn("192.0.2.9 was blocked until ", self.printed("why", "192.0.2.9"))

    def test_never_started(self) -> None:
        """A command makes no store."""
        for file in self.own.iterdir():
            file.unlink()
        self.own.rmdir()
        self.assertIn("no such directory", self.refused("list"))
        self.assertFalse(self.own.exists())

    def test_store_away(self) -> None:
        """A sentence, and no traceback."""
        self.block()
        self.successResultOf(self.state.stop())
        for file in self.own.iterdir():
            file.unlink()
        (self.own / FILE_NAME).mkdir()
        self.assertIn("can't be used now", self.refused("list"))
