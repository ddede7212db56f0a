"""The secret shared with the XMPP server, and the one before it."""

from __future__ import annotations

from copy import copy
from hashlib import sha256

from attrs import field, frozen
from attrs.validators import min_len


@frozen(repr=False)
class Secret:
    """A secret as bytes: the text of the XMPP server's configuration in UTF-8, never decoded from hex or base64.

    Its representation shows the fingerprint alone.

    :raises ValueError: if it is empty; everybody could sign with that.
    """

    value: bytes = field(validator=min_len(1))

    @property
    def fingerprint(self) -> str:
        """The first 8 hexadecimal digits of the secret's SHA-256, for comparing two sides without showing either.

        ``printf %s "$SECRET" | sha256sum`` prints the same at the XMPP server.
        """
        return sha256(self.value).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"<Secret {self.fingerprint}>"


class Keyring:
    """Which secrets a signature may be made with at a given time.

    That is the current secret and, for a while after a change, the previous one: for the slots that the XMPP server
    has handed out already, and for the minutes in which only one side has the new secret. A second change within that
    while retires the older one at once. All times are in seconds since the epoch.
    """

    def __init__(self, current: Secret) -> None:
        self._current = current
        self._previous: Secret | None = None
        self._grace_until = 0.0

    @property
    def current(self) -> Secret:
        return self._current

    def renewed(self, new: Secret, now: float, grace_s: float) -> Keyring:
        """Another keyring, which is as this one after :meth:`replace`."""
        renewed = copy(self)
        renewed.replace(new, now, grace_s)
        return renewed

    def become(self, other: Keyring) -> None:
        """Be as *other* is now."""
        self._current, self._previous, self._grace_until = other._current, other._previous, other._grace_until

    def candidates(self, now: float) -> tuple[Secret, ...]:
        """The secrets that are accepted at the time *now*, the newest first."""
        if self._previous is not None and now < self._grace_until:
            return (self._current, self._previous)
        return (self._current,)

    def retired(self, now: float) -> tuple[Secret, ...]:
        """The previous secret, if it is accepted no longer. For explaining a refusal, never for granting anything."""
        if self._previous is not None and now >= self._grace_until:
            return (self._previous,)
        return ()

    def replace(self, new: Secret, now: float, grace_s: float) -> bool:
        """Make *new* the current secret and accept the one that it replaces until *grace_s* seconds from *now*.

        :returns: false if *new* is the current secret already, in which case nothing changes: reading the same secret
            again neither lengthens nor ends a grace.
        """
        if new == self._current:
            return False
        self._previous, self._current = self._current, new
        self._grace_until = now + grace_s
        return True
