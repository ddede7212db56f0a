from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.keeping.account import Account, account_of


class AccountTests(SynchronousTestCase):
    """Whose a file is."""

    def test_owner(self) -> None:
        """Who the signature names, whatever the path looks like."""
        alice = Account("alice@example.org", "example.org")
        for path in (b"slot/cat.jpg", b"bob/random/cat.jpg"):
            self.assertEqual(account_of("alice@example.org", path), alice)

    def test_owner_without_a_name(self) -> None:
        """A server or component that uploads for itself."""
        self.assertEqual(account_of("example.org", b"a/b"), Account("example.org", "example.org"))

    def test_ejabberd(self) -> None:
        """Its paths begin with the user, and have three segments."""
        self.assertEqual(account_of(None, b"5a1f/random/cat.jpg"), Account("5a1f", ""))

    def test_nobody(self) -> None:
        for path in (b"cat.jpg", b"slot/cat.jpg", b"a/b/c/d"):
            self.assertEqual(account_of(None, path), Account(None, ""))

    def test_not_utf8(self) -> None:
        """Two users stay two, whatever bytes they are made of, and can be written down."""
        users = [account_of(None, first + b"/r/f").user for first in (b"\xff", b"\xfe", "ü".encode())]
        self.assertEqual(len(set(users)), 3)
        for user in users:
            assert user is not None
            user.encode("utf-8")
