"""Which secrets are accepted when, and that none is ever shown."""

from __future__ import annotations

from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from hmacfs.access.keys import Keyring, Secret

NOW = 1_800_000_000.0
OLD, NEW, NEWER = Secret(b"the old secret"), Secret(b"the new secret"), Secret(b"an even newer one")


class SecretTests(SynchronousTestCase):
    def test_fingerprint(self) -> None:
        """As ``printf %s SECRET | sha256sum | cut -c1-8`` prints it."""
        self.assertEqual(OLD.fingerprint, sha256(b"the old secret").hexdigest()[:8])
        self.assertEqual(Secret(b"it-is-secret").fingerprint, "3bfd9bd5")

    def test_is_never_shown(self) -> None:
        shown = f"{OLD} {OLD!r} {[OLD]} {Keyring(OLD)!r}"
        self.assertNotIn("old secret", shown)
        self.assertIn(OLD.fingerprint, shown)

    def test_empty_is_refused(self) -> None:
        """Everybody knows the empty secret."""
        self.assertRaises(ValueError, Secret, b"")


class KeyringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.keyring = Keyring(OLD)

    def test_one_secret(self) -> None:
        self.assertEqual(self.keyring.candidates(NOW), (OLD,))
        self.assertEqual(self.keyring.current, OLD)
        self.assertEqual(self.keyring.retired(NOW), ())

    def test_previous_secret_is_accepted_for_the_grace_period(self) -> None:
        """Newest first, and up to the end of the grace period but not at it."""
        self.assertTrue(self.keyring.replace(NEW, NOW, 3600))
        self.assertEqual(self.keyring.current, NEW)
        self.assertEqual(self.keyring.candidates(NOW), (NEW, OLD))
        self.assertEqual(self.keyring.candidates(NOW + 3599.9), (NEW, OLD))
        self.assertEqual(self.keyring.retired(NOW + 3599.9), ())
        self.assertEqual(self.keyring.candidates(NOW + 3600), (NEW,))
        self.assertEqual(self.keyring.retired(NOW + 3600), (OLD,))

    def test_no_grace(self) -> None:
        self.keyring.replace(NEW, NOW, 0)
        self.assertEqual(self.keyring.candidates(NOW), (NEW,))

    def test_become(self) -> None:
        """As another one, in the place of what it was; what becomes of that one later is its own business."""
        other = Keyring(OLD)
        other.replace(NEW, NOW, 3600)
        self.keyring.become(other)
        other.replace(NEWER, NOW, 3600)
        self.assertEqual(self.keyring.candidates(NOW + 3599), (NEW, OLD))
        self.assertEqual(self.keyring.candidates(NOW + 3600), (NEW,))

    def test_reading_the_same_secret_again_changes_nothing(self) -> None:
        """The previous one keeps its grace, no more and no less of it."""
        self.keyring.replace(NEW, NOW, 3600)
        self.assertFalse(self.keyring.replace(Secret(b"the new secret"), NOW + 1800, 3600))
        self.assertEqual(self.keyring.candidates(NOW + 3599), (NEW, OLD))
        self.assertEqual(self.keyring.candidates(NOW + 3600), (NEW,))

    def test_second_change_retires_the_oldest(self) -> None:
        self.keyring.replace(NEW, NOW, 3600)
        self.keyring.replace(NEWER, NOW + 1, 3600)
        self.assertEqual(self.keyring.candidates(NOW + 2), (NEWER, NEW))

    def test_change_taken_back(self) -> None:
        """Both the right secret and the mistaken one are accepted during the grace period."""
        self.keyring.replace(NEW, NOW, 3600)
        self.keyring.replace(OLD, NOW + 60, 3600)
        self.assertEqual(self.keyring.candidates(NOW + 61), (OLD, NEW))
