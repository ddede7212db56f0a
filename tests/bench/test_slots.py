"""Slots as hmacfs and Prosody take them."""

from __future__ import annotations

import jwt
from twisted.trial.unittest import SynchronousTestCase

from bench.slots import SECRET, Slot, bearer, signed
from tests.e2e import signing


class SlotTests(SynchronousTestCase):
    """Room for one file each."""

    def test_signed(self) -> None:
        """Signed as the tests sign, for the size, and each another."""
        slot = signed(1000)
        path = slot.path.removeprefix("/upload/")
        self.assertEqual(slot.target, signing.v(path, 1000, SECRET))
        self.assertNotEqual(slot.path, signed(1000).path)

    def test_bearer(self) -> None:
        """Prosody finds its own claims in the token."""
        slot = bearer(1000)
        claims = jwt.decode(slot.header.removeprefix("Authorization: Bearer "), SECRET, algorithms=["HS256"])
        self.assertEqual(slot.path, f"/file_share/{claims['slot']}/{claims['filename']}")
        self.assertEqual(claims["filesize"], 1000)

    def test_lines(self) -> None:
        """A slot survives the way to the process that uses it."""
        for slot in (signed(1), bearer(1), Slot("/x")):
            self.assertEqual(Slot.parse(f"{slot}\n"), slot)
