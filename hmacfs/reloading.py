"""Taking up the configuration and the secret again, in the process that has read them: the supervisor, or the only one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from hmacfs.access.keys import Keyring, Secret
from hmacfs.config import FIXED, Config, ConfigError, load, read_secret
from hmacfs.errors import StartError
from hmacfs.logs import Logs
from hmacfs.net.systemd import Notifier
from hmacfs.units import write_duration

#: Where the secret is from.
_OF_SECRET: Final = ("Secret", "SecretFile")


class Host(Protocol):
    """Whose configuration it is."""

    async def take_up(self, config: Config, keyring: Keyring, changed: tuple[str, ...]) -> str:
        """Go on by another configuration. Either all is done by it afterwards, or nothing has changed.

        :param keyring: with the secret of *config*. Where another one is in force already, :meth:`renew` follows.
        :param changed: the keys that have other values than before.
        :return: by whom it was done, for the log: empty, or `` by ...``.
        :raises StartError: what keeps it from being taken up.
        """

    def renew(self, keyring: Keyring) -> None:
        """There is another secret: let everybody have the keys as they are now."""

    def describe(self) -> str:
        """How the service is, for systemd."""


class Reloads:
    """See the module.

    :param config: as it was read first.
    :param clock: for the time between two readings of the secret.
    :param now: the time in seconds since the epoch.
    :ivar config: what is in force.
    :ivar keyring: the secrets that are in force.
    """

    _log = Logger()

    def __init__(self, config: Config, host: Host, clock: IReactorTime, now: Callable[[], float]) -> None:
        self.config = config
        self.keyring = Keyring(Secret(config.secret))
        self._host = host
        self._clock = clock
        self._now = now
        self._notifier = Notifier("", None, clock)
        self._reading = LoopingCall(self._read_secret)
        self._work: Deferred[None] | None = None
        self._again = False
        self._has_begun = False
        self._has_stopped = False
        self._complaint = ""

    def tell_fingerprint(self) -> None:
        """Log it, to be compared with that of the XMPP server's secret."""
        self._log.info("The secret's fingerprint is {fingerprint}", fingerprint=self.keyring.current.fingerprint)

    def begin(self, notifier: Notifier) -> None:
        """Reload when told to, and read the secret from time to time, from now on.

        :param notifier: is told of reloads.
        """
        self._notifier = notifier
        self._has_begun = True
        self._set_interval()
        self._reload_again()

    def stop(self) -> Deferred[None]:
        """Read nothing any more. Fires when nothing is being taken up any more."""
        self._has_stopped = True
        if self._reading.running:
            self._reading.stop()
        stopped: Deferred[None] = Deferred()
        if self._work is None:
            stopped.callback(None)
        else:
            self._work.addCallback(stopped.callback)
        return stopped

    def reload(self) -> None:
        """Read the configuration again. Where that is being done, or nothing can be done yet, it is done afterwards."""
        if self._has_stopped:
            return
        if self._work is not None or not self._has_begun:
            self._again = True
            return
        work = self._work = Deferred()
        Deferred.fromCoroutine(self._reload()).addCallback(lambda _: self._reloaded(work))

    def _reloaded(self, work: Deferred[None]) -> None:
        self._work = None
        work.callback(None)
        self._reload_again()

    def _reload_again(self) -> None:
        if self._again:
            self._again = False
            self.reload()

    async def _reload(self) -> None:
        self._notifier.reloading()
        note = await self._try_to_take_up()
        if not self._has_stopped:
            self._notifier.ready(self._host.describe() + note)

    async def _try_to_take_up(self) -> str:
        """
        :return: what systemd is to be told beside how the service is.
        """
        try:
            await self._take_up()
            return ""
        except StartError as error:
            if self._has_stopped:
                return ""
            faults = error.faults if isinstance(error, ConfigError) else (str(error),)
            self._log.error(
                "The configuration is not taken up, and the old one stays in force: {faults}", faults="; ".join(faults)
            )
            return f"; the configuration is not taken up: {faults[0]}"
        except Exception:
            self._log.failure("the configuration was not taken up")
            return "; the configuration is not taken up"

    async def _take_up(self) -> None:
        """
        :raises StartError: it can't be taken up.
        """
        new = load(self.config.path)
        config, refused = new.retaining(FIXED if new.reask_secret else (*FIXED, *_OF_SECRET), self.config)
        warn_of(config, self._log)
        for name in refused:
            self._log.warn("{key} has changed, which takes a restart: the old value stays in force", key=name)
        changed = config.differing(self.config)
        secret = Secret(config.secret)
        keyring = self.keyring.renewed(secret, self._now(), config.secret_grace_s)
        by = await self._host.take_up(config, keyring, changed)
        # That may have taken a while, which the grace doesn't count.
        keyring.become(self.keyring.renewed(secret, self._now(), config.secret_grace_s))
        before, self.config = self.keyring.current, config
        self.keyring = keyring
        if keyring.current != before:
            self._renewed(before)
        self._complaint = ""
        self._set_interval()
        self._log.info(
            "The configuration has been taken up{by}; {changed}",
            by=by,
            changed=f"changed: {', '.join(changed)}" if changed else "nothing in it has changed",
        )

    def _set_interval(self) -> None:
        interval_s = self.config.reask_secret_interval_s if self.config.reask_secret else None
        if self._reading.running:
            if self._reading.interval == interval_s:
                return
            self._reading.stop()
        if interval_s is not None and not self._has_stopped:
            self._reading.clock = self._clock
            self._reading.start(interval_s, now=False)

    def _read_secret(self) -> None:
        """Take up another secret, if there is one, and nothing else."""
        if self._work is not None:
            return
        try:
            secret = Secret(read_secret(self.config))
        except ConfigError as error:
            complaint = "; ".join(error.faults)
            if complaint != self._complaint:
                self._log.error("The secret can't be read again, and stays in force: {faults}", faults=complaint)
            self._complaint = complaint
            return
        self._complaint = ""
        before = self.keyring.current
        if self.keyring.replace(secret, self._now(), self.config.secret_grace_s):
            self.config = attrs.evolve(self.config, secret=secret.value)
            self._renewed(before)

    def _renewed(self, before: Secret) -> None:
        grace_s = self.config.secret_grace_s
        self._host.renew(self.keyring)
        self._log.info(
            "The secret has changed: its fingerprint is {new} now, and {old} {fate}",
            new=self.keyring.current.fingerprint,
            old=before.fingerprint,
            fate=f"is accepted for {write_duration(grace_s)} more" if grace_s else "isn't accepted any more",
        )


def open_logs(config: Config, opened: int | None = None) -> Logs:
    """
    :param opened: a descriptor of the log file, if there is one already.
    :raises StartError: the log file can't be had.
    """
    return Logs(config.log_level, config.log_file, config.log_format, opened=opened)


def reopen_logs(config: Config, logs: Logs, old: Config) -> Logs:
    """Logs as *config* has them, instead of *logs*, which are those of *old*.

    :raises StartError: the log file can't be had.
    """
    if logs.file_fd is None or config.log_file != old.log_file:
        return open_logs(config)
    # By now we need not be allowed to open it.
    return open_logs(config, os.dup(logs.file_fd))


def warn_of(config: Config, log: Logger) -> None:
    """Tell the operator what isn't right about a configuration."""
    for line in (*config.warnings, *config.inactive):
        log.warn("{line}", line=line)
