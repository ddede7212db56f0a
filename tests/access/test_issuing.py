"""Slots of our own: as an XMPP server would issue them, and as the gate takes them."""

from __future__ import annotations

from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.attempt import Attempt
from hmacfs.access.gate import Gate
from hmacfs.access.issuing import SCHEMES, TOKEN_S, IssuedSlot, issue, random_directory
from hmacfs.access.keys import Keyring, Secret
from hmacfs.errors import Refused
from hmacfs.storage.names import SlotPath
from tests.access.vectors import path_of, put, signatures

SECRET = Secret(b"it-is-secret")
BASE = "https://files.example.org/upload"
NOW = 1_795_364_600.0

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and "/" not in name
)


def slot(path: str, size: int, content_type: str, scheme: str, base: str = BASE, now: float = NOW) -> IssuedSlot:
    return issue(SECRET, base, SlotPath.from_encoded(path.encode()), size, content_type, scheme, now)


def attempt(issued: IssuedSlot, size: int, content_type: str) -> Attempt:
    """What a client shows that uses it."""
    return put(issued.put, size, authorization=issued.headers.get("Authorization"), content_type=content_type)


class IssueTests(SynchronousTestCase):
    """What is in a slot."""

    def test_vectors(self) -> None:
        """The MACs are those that Prosody and ejabberd make."""
        for vector in signatures("v", "v2"):
            try:
                path = SlotPath.from_encoded(vector["path"].encode())
            except Refused:
                continue
            issued = issue(
                Secret(vector["secret"].encode()),
                BASE,
                path,
                vector["size"],
                vector.get("content_type", ""),
                vector["scheme"],
                NOW,
            )
            self.assertEqual(urlsplit(issued.put).query, f"{vector['scheme']}={vector['mac']}", vector)

    def test_urls(self) -> None:
        """What is PUT with a signature is fetched without."""
        issued = slot("a b/é.jpg", 3, "image/jpeg", "v")
        self.assertEqual(issued.get, BASE + "/a%20b/%C3%A9.jpg")
        self.assertEqual((issued.put.partition("?")[0], issued.headers), (issued.get, {}))

    def test_base_with_slash(self) -> None:
        """Prosody's must end in one, ejabberd's need not."""
        self.assertEqual(slot("a/b", 3, "", "v", BASE + "/"), slot("a/b", 3, "", "v"))

    def test_token(self) -> None:
        """Nothing in the URL gives anybody a right."""
        issued = slot("a/b", 3, "image/jpeg", "jwt")
        self.assertEqual((issued.put, [*issued.headers]), (issued.get, ["Authorization"]))

    def test_token_needs_two_segments(self) -> None:
        """The claims name a slot and a file, nothing else."""
        for path in ("a", "a/b/c"):
            self.assertRaises(ValueError, slot, path, 3, "", "jwt")

    def test_no_credential_in_representation(self) -> None:
        """It may get into a log."""
        for scheme in SCHEMES:
            issued = slot("a/b", 3, "image/jpeg", scheme)
            shown = repr(issued)
            self.assertNotIn(issued.put.partition("?")[2] or issued.headers["Authorization"][7:], shown)

    def test_random_directory(self) -> None:
        """One segment that nobody guesses."""
        names = {random_directory() for _ in range(100)}
        self.assertEqual(len(names), 100)
        for name in names:
            self.assertRegex(name, "^[A-Za-z0-9_-]{24}$")


class GateTests(SynchronousTestCase):
    """What the server makes of it."""

    def gate(self, now: float = NOW) -> Gate:
        return Gate(Keyring(SECRET), "upload", False, lambda: now)

    @given(NAMES, NAMES, st.integers(0, 2**40), st.sampled_from(SCHEMES))
    def test_accepted(self, directory: str, name: str, size: int, scheme: str) -> None:
        """Whatever is issued opens the gate for just that."""
        if directory.lower() == ".hmacfs":
            return
        path = f"{directory}/{name}"
        shown = attempt(slot(path, size, "image/jpeg", scheme), size, "image/jpeg")
        granted = self.gate().authorize(path_of(shown), shown)
        self.assertEqual((granted.path.text, granted.size, granted.content_type), (path, size, "image/jpeg"))

    def test_for_nothing_else(self) -> None:
        for scheme in SCHEMES:
            shown = attempt(slot("a/b", 3, "image/jpeg", scheme), 4, "image/jpeg")
            self.assertRaises(Refused, self.gate().authorize, path_of(shown), shown)

    def test_token_ends(self) -> None:
        """After as long as one of Prosody's."""
        shown = attempt(slot("a/b", 3, "image/jpeg", "jwt"), 3, "")
        self.gate(NOW + TOKEN_S - 1).authorize(path_of(shown), shown)
        late = self.assertRaises(Refused, self.gate(NOW + TOKEN_S + 1).authorize, path_of(shown), shown)
        self.assertEqual(late.reason, "expired")
