"""When a stored file ends: the policies and rules that the operator has set, applied to one file. Nothing is read here.

=============================================== ====================================================================
what                                            ends the file
=============================================== ====================================================================
the first of ``RetentionRules`` that fits       its ``Keep`` after the upload; never for ``forever``
``DeleteFiles``, where no rule fits             ``DeleteFilesAfterPeriod`` after the upload
``RetentionPolicyEnabled``, where no rule fits  ``MaxRetentionTime`` after the upload, if that is earlier
a bearer token's ``expires``                    at that time, whatever the others say, and without a grace
=============================================== ====================================================================

What was there before retention was switched on, or before we knew of it, is spared for ``RetentionGrace``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from math import inf
from typing import Final

from attrs import frozen

from hmacfs.config_retention import RetentionRule
from hmacfs.keeping.index import Entry

#: The ``source`` of a file that was uploaded to us; of any other, the time of its upload is hearsay.
UPLOADED: Final = "upload"

#: What a file is deleted for, by the policy that wants it: reason words of the report, the log and the metrics.
EXPIRED: Final = "expired"
AGED: Final = "age"

#: Of how many content types it is remembered which rules are for them.
_TYPES: Final = 1024


@frozen
class _Rule:
    """A rule as it is applied.

    :ivar path: ``None`` for every path.
    """

    path: re.Pattern[str] | None
    keep_s: float


class Lifetimes:
    """Says when files end. May be used in several threads.

    :param rules: the first that fits a file counts.
    :param default_s: how long a file is kept that no rule fits, in seconds from its upload; ``None`` for ever.
    :param since: when retention was switched on, in seconds since the epoch.
    :param grace_s: how long files that were there before are spared.
    """

    def __init__(
        self, rules: Sequence[RetentionRule], default_s: float | None, *, since: float, grace_s: float
    ) -> None:
        self._rules = [(_pattern(rule.content_type), _rule(rule)) for rule in rules]
        self._default_s = inf if default_s is None else default_s
        self._since = since
        self._grace_s = grace_s
        self._said = repr((tuple(rules), default_s, since, grace_s))
        self._rules_for = lru_cache(maxsize=_TYPES)(self._find_rules_for)

    @property
    def fingerprint(self) -> str:
        """Of all that goes into :meth:`ends`: another one calls for asking again about every file."""
        return sha256(self._said.encode()).hexdigest()

    def ends(self, entry: Entry) -> float | None:
        """When policies and rules end a file, its grace counted in; in seconds since the epoch, ``None`` for never.

        A bearer token's ``expires`` is not in it.
        """
        rule = self._rule_for(entry)
        keep_s = self._default_s if rule is None else rule.keep_s
        return None if keep_s == inf else max(entry.uploaded + keep_s, self.grace_ends(entry))

    def reason(self, entry: Entry, now: float) -> str | None:
        """Why a file is to be deleted now; ``None`` if it isn't. One in quarantine never is."""
        if entry.quarantined:
            return None
        if entry.expires is not None and entry.expires <= now:
            return EXPIRED
        ends = self.ends(entry)
        return AGED if ends is not None and ends <= now else None

    def is_spared(self, entry: Entry, now: float) -> bool:
        """Whether a file may not be deleted for the room that it takes."""
        if entry.quarantined or self.grace_ends(entry) > now:
            return True
        rule = self._rule_for(entry)
        return rule is not None and rule.keep_s == inf

    def grace_ends(self, entry: Entry) -> float:
        """Until when a file is spared because it was there before, in seconds since the epoch; -inf if it wasn't."""
        if entry.source != UPLOADED:
            return max(entry.first_seen, self._since) + self._grace_s
        return self._since + self._grace_s if entry.uploaded < self._since else -inf

    def _rule_for(self, entry: Entry) -> _Rule | None:
        """The first that fits a file."""
        rules = self._rules_for(entry.content_type)
        if not rules:
            return None
        path = entry.path.decode("utf-8", "surrogateescape")
        return next((rule for rule in rules if rule.path is None or rule.path.match(path)), None)

    def _find_rules_for(self, content_type: str) -> Sequence[_Rule]:
        essence = content_type.partition(";")[0].strip().lower()
        return [rule for of_type, rule in self._rules if of_type is None or of_type.match(essence)]


def _rule(rule: RetentionRule) -> _Rule:
    return _Rule(_pattern(rule.path), inf if rule.keep_s is None else rule.keep_s)


def _pattern(glob: str | None) -> re.Pattern[str] | None:
    """``*`` stands for slashes, too, as it does in the index."""
    return None if glob is None else re.compile(translate(glob))
