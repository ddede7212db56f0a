"""config.toml: what may stand in it, and the typed, checked values that the rest of hmacfs works with.

Every key is one line of :class:`Config`: attribute, key, default and reader. ``docs/configuration.md`` tells operators
what they mean; a test holds the two together.
"""

# ruff: noqa: RUF009  (the functions called for defaults make attrs fields)

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import attrs
from attrs import field, frozen

from hmacfs import config_addresses as addresses
from hmacfs import config_retention as retention
from hmacfs import config_values as values
from hmacfs.config_addresses import Listen, RedisAddress, Trusted
from hmacfs.config_retention import RetentionRule
from hmacfs.config_toml import ConfigError, TomlFile, read_toml
from hmacfs.config_values import Here, Reader, nearest, show, show_key
from hmacfs.units import DAY_S, HOUR_S

__all__ = [
    "FIXED",
    "KEYS",
    "MISSING_FEATURES",
    "Config",
    "ConfigError",
    "Key",
    "Listen",
    "RedisAddress",
    "Trusted",
    "load",
    "read_secret",
]

T = TypeVar("T")

_SHORT_SECRET = 16
#: From the examples of the servers and modules that share a secret with us.
_WELL_KNOWN_SECRETS = frozenset(
    {"mysecret", "changeme", "change-me", "change me", "secret", "password", "it-is-secret", "123", "test", "hmacfs"}
    | {"your-secret-here", "your secret here", "your_secret_here", "mysecretkey", "supersecret", "stronger-secret-here"}
)
#: Names that other servers, or older versions of them, have for a key of ours, in lower case.
_RENAMED = {"uploadrootdir": "StoreDir"}

_KIB = 1024
_MIB = 1024 * _KIB

#: Keys that are read and checked, and that nothing acts on in this version, by the feature that is missing. A feature
#: that is there leaves this table.
MISSING_FEATURES: Mapping[str, tuple[str, ...]] = {}


@frozen
class Key:
    """What a key of the file is.

    :ivar name: as the documentation spells it; the file may spell it in any case.
    :ivar default: as it would stand in the file; ``None`` where there is none.
    :ivar reader: makes a typed value from what stands in the file.
    :ivar confidential: never shown, not even where it is wrong.
    :ivar fixed: a change takes a restart; all others are taken up by a reload.
    """

    name: str
    default: object
    reader: Reader[Any]
    confidential: bool = False
    fixed: bool = False


def _key(name: str, default: object, reader: Reader[T], *, confidential: bool = False, fixed: bool = False) -> T:
    """One attribute of :class:`Config` that a key of the file sets."""
    value = None if default is None else reader(default, Here())
    key = Key(name, default, reader, confidential, fixed)
    return cast(T, field(default=value, repr=not confidential, metadata={"key": key}))


@frozen(kw_only=True)
class Config:
    """The configuration, checked. What is said to be off is off where the file leaves the key out.

    Paths are absolute. Names end in their unit: seconds, bytes.

    :ivar path: the file that it came from.
    :ivar warnings: what is dangerous or pointless in it, though it can be started with: a line each, for the log.
    :ivar inactive: the keys set in the file that this version has no feature for yet: a line each, for the log.

    :ivar listen: where to serve files.
    :ivar unix_socket: whether ``ListenPort`` was the path of a UNIX socket.
    :ivar unix_socket_mode: of a UNIX socket whose endpoint does not say another.
    :ivar trusted_proxies: whose forwarding headers are believed: networks, and ``unix`` for all peers on UNIX sockets.

    :ivar secret: shared with the XMPP server; never empty. From ``Secret``, or from *secret_file* as it was when the
        configuration was loaded.
    :ivar secret_file: where the secret came from, if not from the configuration itself.
    :ivar accept_v3: whether ``v3`` signatures are accepted, which bind neither size nor type.
    :ivar reask_secret: whether to read the secret again from time to time, and on SIGHUP.
    :ivar reask_secret_interval_s: the time between two readings.
    :ivar secret_grace_s: how long the previous secret is still accepted.

    :ivar store_dir: the directory with the files; may not be there yet.
    :ivar upload_sub_dir: the segments of the URL path below which the slots are, decoded; none for the root.
    :ivar max_upload_bytes: the largest file to take; ``None`` for any.
    :ivar min_free_bytes: what must stay free on the store's file system.
    :ivar durability: ``fsync``: what is answered with 201 survives a power loss; ``none``: it need not.
    :ivar checksum_verification: whether every upload is hashed; if not, only those whose request states a digest.

    :ivar log_level: ``debug``, ``info``, ``warn`` or ``error``.
    :ivar log_file: ``None`` for standard output.
    :ivar log_format: ``text`` or ``json``.
    :ivar metrics_enabled: whether to serve metrics and health at *metrics_listen*.
    :ivar metrics_listen: where to serve them.

    :ivar read_timeout_s: without one byte of an expected body.
    :ivar write_timeout_s: without progress of a response.
    :ivar min_body_rate: bytes per second that a body must average over a minute; 0 for any.
    :ivar max_connections: at all places for files together; 0 for any number.
    :ivar max_connections_per_ip: of one address, or requests in progress of one client behind a proxy; 0 for any number.
    :ivar buffer_bytes: to read from the socket at most at once while a body arrives.

    :ivar max_retries: of a step that failed for a reason that may pass.
    :ivar retry_delay_s: between two tries.
    :ivar get_retries: whether GET is retried likewise.
    :ivar session_ttl_s: how long an unfinished upload can be resumed after its last byte.
    :ivar interim_responses: whether clients of the IETF's resumable uploads hear of them by 104; ``auto`` for those
        without a proxy in between.

    :ivar redis: where upload state and bans are; ``None`` for the embedded store.
    :ivar redis_username: empty for Redis' default user.
    :ivar redis_password: empty for none.
    :ivar redis_db: the number of the database.
    :ivar redis_prefix: what our keys begin with.
    :ivar redis_ca_file: certificates to verify Redis by; ``None`` for the system's.

    :ivar block_after_fails: so many failures within *block_duration_s* block an address; 0 for never.
    :ivar block_duration_s: how long a block lasts.
    :ivar auto_unban: whether bans end by themselves.
    :ivar auto_ban_time_s: how long a ban lasts, and how soon after a block a second one becomes a ban.
    :ivar block_scope: ``all``, or ``uploads`` where blocked addresses may still download.
    :ivar ban_prefix_v6: the length of the prefix by which IPv6 addresses are counted.

    :ivar delete_files: whether files are deleted by their age.
    :ivar delete_files_after_s: the age.
    :ivar retention_enabled: whether the store is kept below the two limits that follow.
    :ivar max_retention_bytes: of all files together; ``None`` for no limit.
    :ivar max_retention_s: the age of a file.
    :ivar retention_interval_s: the time between two sweeps.
    :ivar retention_grace_s: how long files are spared that were there before retention was switched on.
    :ivar retention_rules: how long files of certain paths and types are kept; the first that fits counts.
    :ivar report_file: where deletions are reported to; ``None`` for nowhere.

    :ivar quota_per_user_bytes: what the files of one user may take; ``None`` for no limit.
    :ivar quota_per_domain_bytes: likewise of one domain.
    :ivar quota_total_bytes: likewise of all.
    :ivar quota_policy: ``refuse``, or ``oldest`` where older files make room for a new one.

    :ivar delete_secret: with what an XMPP server signs that a file is to be deleted; empty where it can't.

    :ivar sendfile_header: by which header a proxy is told to send a file; empty for none.
    :ivar sendfile_prefix: the URL path below which nginx has the store, for itself alone.

    :ivar num_cores: the number of processes that serve, or ``auto``.
    :ivar shutdown_grace_s: how long requests in progress may take to end when hmacfs stops.
    """

    path: Path = field(factory=Path)
    warnings: tuple[str, ...] = ()
    inactive: tuple[str, ...] = ()

    listen: tuple[Listen, ...] = _key("ListenPort", "127.0.0.1:8080", addresses.listen, fixed=True)
    unix_socket: bool = _key("UnixSocket", False, values.boolean, fixed=True)
    unix_socket_mode: int = _key("UnixSocketMode", "660", values.octal_mode, fixed=True)
    trusted_proxies: tuple[Trusted, ...] = _key(
        "TrustedProxies", ["127.0.0.1", "::1", "unix"], addresses.trusted_proxies
    )

    secret: bytes = _key("Secret", None, values.secret_text, confidential=True)
    secret_file: Path | None = _key("SecretFile", None, values.secret_path)
    accept_v3: bool = _key("AcceptV3", False, values.boolean)
    reask_secret: bool = _key("ReaskSecretEnabled", True, values.boolean)
    reask_secret_interval_s: float = _key("ReaskSecretInterval", "24h", values.duration(least_s=1))
    secret_grace_s: float = _key("SecretGracePeriod", "1h", values.duration())

    store_dir: Path = _key("StoreDir", "./data", values.store_directory, fixed=True)
    upload_sub_dir: tuple[str, ...] = _key("UploadSubDir", "upload", values.url_prefix, fixed=True)
    max_upload_bytes: int | None = _key("MaxUploadSize", "1GiB", values.limit)
    min_free_bytes: int = _key("MinFreeSpace", "100MiB", values.size())
    durability: str = _key("Durability", "fsync", values.choice("fsync", "none"))
    checksum_verification: bool = _key("ChecksumVerification", True, values.boolean)

    log_level: str = _key("LogLevel", "info", values.choice("debug", "info", "warn", "error", warning="warn"))
    log_file: Path | None = _key("LogFile", "", values.optional_path)
    log_format: str = _key("LogFormat", "text", values.choice("text", "json"))
    metrics_enabled: bool = _key("MetricsEnabled", True, values.boolean, fixed=True)
    metrics_listen: tuple[Listen, ...] = _key("MetricsPort", "127.0.0.1:9090", addresses.listen_by_tcp_too, fixed=True)

    read_timeout_s: float = _key("ReadTimeout", 900, values.duration(least_s=1, most_s=DAY_S))
    write_timeout_s: float = _key("WriteTimeout", 900, values.duration(least_s=1, most_s=DAY_S))
    min_body_rate: int = _key("MinBodyRate", 256, values.size())
    max_connections: int = _key("MaxConnections", 10_000, values.whole(0, 1_000_000))
    max_connections_per_ip: int = _key("MaxConnectionsPerIP", 256, values.whole(0, 1_000_000))
    buffer_bytes: int = _key("BufferSize", "512KiB", values.size(4 * _KIB, 4 * _MIB))

    max_retries: int = _key("MaxRetries", 5, values.whole(0, 1000))
    retry_delay_s: float = _key("RetryDelay", 2, values.duration(most_s=HOUR_S))
    get_retries: bool = _key("EnableGetRetries", True, values.boolean)
    session_ttl_s: float = _key("SessionTTL", "24h", values.duration(least_s=1))
    interim_responses: str = _key("InterimResponses", "auto", values.choice("auto", "on", "off"))

    redis: RedisAddress | None = _key("RedisAddr", "", addresses.redis_address)
    redis_username: str = _key("RedisUsername", "", values.text)
    redis_password: str = _key("RedisPassword", "", values.text, confidential=True)
    redis_db: int = _key("RedisDB", 0, values.whole(0, 1_000_000))
    redis_prefix: str = _key("RedisPrefix", "hmacfs:", values.text)
    redis_ca_file: Path | None = _key("RedisCAFile", "", values.readable_file)

    block_after_fails: int = _key("BlockAfterFails", 3, values.whole(0, 1000))
    block_duration_s: float = _key("BlockDuration", 300, values.duration(least_s=1))
    auto_unban: bool = _key("AutoUnban", True, values.boolean)
    auto_ban_time_s: float = _key("AutoBanTime", 600, values.duration(least_s=1))
    block_scope: str = _key("BlockScope", "all", values.choice("all", "uploads"))
    ban_prefix_v6: int = _key("BanPrefixV6", 64, values.whole(1, 128))

    delete_files: bool = _key("DeleteFiles", False, values.boolean)
    delete_files_after_s: float = _key("DeleteFilesAfterPeriod", "30d", values.duration(least_s=1))
    retention_enabled: bool = _key("RetentionPolicyEnabled", False, values.boolean)
    max_retention_bytes: int | None = _key("MaxRetentionSize", 10737418240, values.limit)
    max_retention_s: float = _key("MaxRetentionTime", "30d", values.duration(least_s=1))
    retention_interval_s: float = _key("RetentionInterval", "1h", values.duration(least_s=1))
    retention_grace_s: float = _key("RetentionGrace", "24h", values.duration())
    retention_rules: tuple[RetentionRule, ...] = _key("RetentionRules", [], retention.retention_rules)
    report_file: Path | None = _key("ReportFile", "", values.optional_path)

    quota_per_user_bytes: int | None = _key("QuotaPerUser", 0, values.limit)
    quota_per_domain_bytes: int | None = _key("QuotaPerDomain", 0, values.limit)
    quota_total_bytes: int | None = _key("QuotaTotal", 0, values.limit)
    quota_policy: str = _key("QuotaPolicy", "refuse", values.choice("refuse", "oldest"))

    delete_secret: str = _key("DeleteSecret", "", values.text, confidential=True)

    sendfile_header: str = _key("SendfileHeader", "", values.choice("", "X-Accel-Redirect", "X-Sendfile"))
    sendfile_prefix: str = _key("SendfilePrefix", "/protected/", values.location)

    num_cores: int | Literal["auto"] = _key("NumCores", "auto", values.cores, fixed=True)
    shutdown_grace_s: float = _key("ShutdownGrace", "30s", values.duration(most_s=HOUR_S), fixed=True)

    def retaining(self, names: Iterable[str], old: Config) -> tuple[Config, tuple[str, ...]]:
        """What comes of this configuration where some keys can't change.

        :param names: of these keys.
        :param old: has their values.
        :return: this configuration with those values, and which of *names* differ here.
        """
        olds = {name: getattr(old, _ATTRIBUTES[name]) for name in names}
        differing = tuple(name for name in olds if getattr(self, _ATTRIBUTES[name]) != olds[name])
        return attrs.evolve(self, **{_ATTRIBUTES[name]: olds[name] for name in olds}), differing

    def differing(self, old: Config) -> tuple[str, ...]:
        """Which keys have another value here."""
        return tuple(name for name, own in _ATTRIBUTES.items() if getattr(self, own) != getattr(old, own))


_ATTRIBUTES: Mapping[str, str] = {
    attribute.metadata["key"].name: attribute.name for attribute in attrs.fields(Config) if "key" in attribute.metadata
}

#: Every key of the file, by its name.
KEYS: Mapping[str, Key] = {
    name: getattr(attrs.fields(Config), attribute).metadata["key"] for name, attribute in _ATTRIBUTES.items()
}
_NAMES: Mapping[str, str] = {name.lower(): name for name in KEYS}

#: The keys that can't change while hmacfs runs: what they say has been opened, or is what its parts meet by.
FIXED: tuple[str, ...] = tuple(name for name, key in KEYS.items() if key.fixed)


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file, and the file with the secret where it names one.

    :param path: the file; messages name it as it is named here.
    :param environ: says where systemd's credentials are.
    :raises ConfigError: it can't be read, is not TOML, or says something that can't be; with all that is wrong.
    """
    return _Reading(read_toml(Path(path)), environ).config()


def read_secret(config: Config) -> bytes:
    """Read the secret again from where that of *config* came, and nothing else.

    :raises ConfigError: it can't be had from there.
    """
    try:
        if config.secret_file is not None:
            return values.read_secret_file(config.secret_file)
        written = {spelling.lower(): value for spelling, value in read_toml(config.path).values.items()}
        if "secret" not in written:
            raise ValueError("missing")
        return values.secret_text(written["secret"], Here())
    except ValueError as error:
        key = "Secret" if config.secret_file is None else "SecretFile"
        raise ConfigError((f"{config.path}: {key}: {error}",)) from error


class _Reading:
    """One reading of one file. Notes what is wrong on its way, and goes on."""

    def __init__(self, file: TomlFile, environ: Mapping[str, str]) -> None:
        self._path = file.path
        self._credentials = environ.get("CREDENTIALS_DIRECTORY")
        self._faults: list[tuple[int, str]] = []
        self._warnings: list[tuple[int, str]] = []
        self._faulty: set[str] = set()
        self._written: dict[str, object] = {}
        self._lines: dict[str, int] = {}
        self._values: dict[str, Any] = {}
        for spelling, value in file.values.items():
            self._take(spelling, value, file.lines.get(spelling, 0))

    def _take(self, spelling: str, value: object, line: int) -> None:
        name = _NAMES.get(spelling.lower()) if spelling.isascii() else None
        if name is None:
            self._faults.append((line, f"{show_key(spelling)}: unknown key.{_suggestion(spelling, value)}"))
        elif name in self._written:
            self._faults.append((line, f"{spelling}: set a second time, after line {self._lines[name]}"))
        else:
            self._written[name] = value
            self._lines[name] = line

    def config(self) -> Config:
        """
        :raises ConfigError: with all that is wrong.
        """
        here = Here(self._path.absolute().parent, credentials=self._credentials)
        self._read(["UnixSocket", "UnixSocketMode"], here)
        here = attrs.evolve(here, unix_socket=self._values["UnixSocket"], unix_mode=self._values["UnixSocketMode"])
        self._read([name for name in KEYS if name not in self._values], here)
        self._take_secret()
        self._check_readers()
        self._check_listening()
        self._check_store()
        self._check_redis()
        self._check_delete_secret()
        self._check_sendfile()
        self._check_pointless()
        self._check_durability()
        self._check_rules()
        if self._faults:
            raise ConfigError(self._noted(self._faults))
        return Config(
            path=self._path.absolute(),
            warnings=self._noted(self._warnings),
            inactive=self._noted(self._inactive()),
            **{_ATTRIBUTES[name]: value for name, value in self._values.items()},
        )

    def _read(self, names: Iterable[str], here: Here) -> None:
        """Have a value for each of *names*: the file's, or the default if that is missing or wrong."""
        for name in names:
            key = KEYS[name]
            try:
                if name in self._written:
                    self._values[name] = key.reader(self._written[name], here)
                    continue
            except ValueError as error:
                self._fault(name, str(error))
            # Defaults are addresses, not paths of sockets.
            self._values[name] = None if key.default is None else key.reader(key.default, Here(here.base))

    # -- What keys mean together

    def _take_secret(self) -> None:
        file = self._values["SecretFile"]
        if file is not None and "Secret" in self._written:
            self._fault("SecretFile", f"contradicts Secret in line {self._lines['Secret']}. Take one of the two.")
        elif file is not None:
            self._read_secret_file(file)
        elif "Secret" not in self._written and "SecretFile" not in self._faulty:
            fault = "Secret: missing. Set it to the secret of the XMPP server, or SecretFile to a file that has it."
            self._faults.append((self._lines.get("SecretFile", 0), fault))
        if self._values["Secret"]:
            self._judge_secret("Secret" if file is None else "SecretFile", self._values["Secret"])

    def _read_secret_file(self, file: Path) -> None:
        try:
            self._values["Secret"] = values.read_secret_file(file)
            if file.stat().st_mode & stat.S_IROTH:
                self._warn("SecretFile", f"everybody on this machine may read it. Say: chmod o= {file}")
        except (OSError, ValueError) as error:
            self._fault("SecretFile", str(error))

    def _check_readers(self) -> None:
        told = [name for name in self._written if KEYS[name].confidential and self._written[name]]
        with suppress(OSError):  # gone since it was read
            if told and self._path.stat().st_mode & stat.S_IROTH:
                self._warn(told[0], f"everybody on this machine may read it here. Say: chmod o= {self._path}")

    def _judge_secret(self, name: str, secret: bytes) -> None:
        text = secret.decode("utf-8", "surrogateescape")
        if text.lower() in _WELL_KNOWN_SECRETS:
            self._warn(name, "the secret is a well-known example. Whoever tries it may upload.")
        elif len(text) < _SHORT_SECRET:
            self._warn(name, f"the secret has fewer than {_SHORT_SECRET} characters, and can be guessed")
        if text != text.strip() or text[0] in "\"'":
            self._warn(name, "the secret begins or ends with a blank or a quote, which is part of it")

    def _check_listening(self) -> None:
        if self._values["UnixSocket"] and "ListenPort" not in self._written:
            self._fault("UnixSocket", "ListenPort is to be the path of the socket, and is not set")
        if not self._values["MetricsEnabled"] or {"ListenPort", "MetricsPort"} & self._faulty:
            return
        taken = {place.endpoint for place in self._values["ListenPort"]}
        at, other = ("MetricsPort", "ListenPort") if "MetricsPort" in self._written else ("ListenPort", "MetricsPort")
        for place in self._values["MetricsPort"]:
            # Port 0 is any free port, a different one each time.
            if place.endpoint in taken and not place.endpoint.startswith("tcp:0:"):
                self._fault(at, f"{place.name} is {other} as well")

    def _check_store(self) -> None:
        """Nothing but uploads may lie in the store: what lies there can be downloaded, a secret too."""
        if "StoreDir" in self._faulty:
            return
        store = Path(os.path.realpath(self._values["StoreDir"]))
        for name in ("SecretFile", "LogFile", "ReportFile"):
            file = self._values[name]
            if file is not None and _is_served(store, file):
                self._fault(name, f"lies in StoreDir, {store}, from where it would be served")
        if _is_served(store, self._path):
            self._fault("StoreDir", "has this very file in it, which would be served")

    def _check_redis(self) -> None:
        redis = self._values["RedisAddr"]
        if "RedisAddr" in self._faulty:
            return
        if self._values["RedisCAFile"] is not None and (redis is None or not redis.tls):
            self._fault("RedisCAFile", 'is for TLS, which RedisAddr = "rediss://host:port" switches on')
        if redis is None and self._values["RedisPassword"]:
            self._warn("RedisPassword", "has no effect, as RedisAddr is empty")

    def _check_delete_secret(self) -> None:
        delete_secret = self._values["DeleteSecret"]
        if delete_secret and delete_secret.encode() == self._values["Secret"]:
            self._warn("DeleteSecret", "is the same as the secret. Take another: each should be good for one thing.")

    def _check_sendfile(self) -> None:
        header, slots = self._values["SendfileHeader"], "".join(f"{each}/" for each in self._values["UploadSubDir"])
        if header == "X-Accel-Redirect":
            if slots and self._values["SendfilePrefix"].startswith(f"/{slots}"):
                self._fault("SendfilePrefix", "lies below UploadSubDir, where the uploads are")
        elif "SendfilePrefix" in self._written:
            self._warn("SendfilePrefix", "has no effect, as SendfileHeader isn't X-Accel-Redirect")
        if header and not self._values["TrustedProxies"]:
            self._warn("SendfileHeader", "has no effect, as TrustedProxies is empty")

    def _check_durability(self) -> None:
        if self._values["Durability"] == "none":
            self._warn("Durability", "a power loss can cost files whose upload was answered with 201")

    def _check_rules(self) -> None:
        slots = "".join(f"{each}/" for each in self._values["UploadSubDir"])
        for number, rule in enumerate(self._values["RetentionRules"], start=1):
            if slots and rule.path is not None and rule.path.startswith(slots):
                self._warn(
                    "RetentionRules",
                    f"rule {number}: Path = {values.show(rule.path)}: fits {slots}{rule.path}, as paths begin below"
                    " UploadSubDir",
                )
            if rule.content_type is not None and not set(rule.content_type) & set("/*?["):
                self._warn(
                    "RetentionRules",
                    f"rule {number}: Type = {values.show(rule.content_type)}: fits no type;"
                    f" {values.show(rule.content_type + '/*')} does",
                )

    def _check_pointless(self) -> None:
        if any(proxy != "unix" and proxy.prefixlen == 0 for proxy in self._values["TrustedProxies"]):
            self._warn("TrustedProxies", "everybody is trusted, so that every client may claim any address")
        kept, largest = self._values["MaxRetentionSize"], self._values["MaxUploadSize"]
        if self._values["RetentionPolicyEnabled"] and kept and (largest is None or largest > kept):
            self._warn(
                "MaxRetentionSize", "is less than MaxUploadSize: one large upload would push out all other files"
            )
        quotas = ("QuotaPerUser", "QuotaPerDomain", "QuotaTotal")
        if self._values["QuotaPolicy"] == "oldest" and not any(self._values[name] for name in quotas):
            self._warn("QuotaPolicy", "has no effect, as there is no quota")

    def _inactive(self) -> list[tuple[int, str]]:
        return [
            (self._lines[name], f"{self._shown(name)}: accepted, but this version of hmacfs has no {feature} yet")
            for feature, names in MISSING_FEATURES.items()
            for name in names
            if name in self._written and self._written[name] not in (False, "", 0)
        ]

    # -- Saying so

    def _fault(self, name: str, what: str) -> None:
        self._faulty.add(name)
        self._faults.append((self._lines.get(name, 0), f"{self._shown(name)}: {what}"))

    def _warn(self, name: str, what: str) -> None:
        self._warnings.append((self._lines.get(name, 0), f"{self._shown(name)}: {what}"))

    def _shown(self, name: str) -> str:
        if name not in self._written or KEYS[name].confidential:
            return name
        # A URL is where people put passwords.
        return f"{name} = {re.sub('//[^/]*@', '//…@', show(self._written[name]))}"

    def _noted(self, notes: Iterable[tuple[int, str]]) -> tuple[str, ...]:
        return tuple(
            f"{self._path}:{line}: {text}" if line else f"{self._path}: {text}" for line, text in sorted(notes)
        )


def _is_served(store: Path, file: Path) -> bool:
    """Whether *file* is below *store*, and not in our own directory there, which no URL leads to."""
    try:
        below = Path(os.path.realpath(file)).relative_to(store)
    except ValueError:
        return False
    return below.parts[:1] != (".hmacfs",)


def _suggestion(spelling: str, value: object) -> str:
    lowered = spelling.lower()
    name = _RENAMED.get(lowered) or _NAMES.get(nearest(lowered, _NAMES) or "")
    if name is not None:
        return f" Did you mean {name}?"
    return " The file has keys alone, no [sections]." if isinstance(value, dict) else ""
