"""Tests for :mod:`hmacfs.config`, and for what it stands on."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs import config
from hmacfs.config import FIXED, KEYS, MISSING_FEATURES, Config, ConfigError, Listen, RedisAddress, load, read_secret
from hmacfs.config_toml import tomllib, top_level_keys
from hmacfs.config_values import show
from hmacfs.errors import StartError

ROOT = Path(__file__).parent.parent
VECTORS = Path(__file__).parent / "vectors"

SECRET = "a secret of more than 16 characters"
DAY_S = 86400


class ConfigTestCase(SynchronousTestCase):
    """Has a directory with a configuration in it."""

    def setUp(self) -> None:
        # trial's own directory for a test can be too deep for a UNIX socket.
        directory = tempfile.TemporaryDirectory(prefix="config-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.file = self.directory / "config.toml"

    def load(self, text: str | bytes, secret: str = f'\nSecret = "{SECRET}"\n') -> Config:
        """The configuration in *text*, to which a good secret is added."""
        content = text if isinstance(text, bytes) else (text + secret).encode()
        self.file.touch(0o600)
        self.file.write_bytes(content)
        return load(self.file)

    def faults(self, text: str | bytes, secret: str = f'\nSecret = "{SECRET}"\n') -> list[str]:
        """What is wrong with *text*, without the path of the file: ``7: Key = value: ...``."""
        error = self.assertRaises(ConfigError, self.load, text, secret)
        for fault in error.faults:
            self.assertTrue(fault.startswith(f"{self.file}:"), fault)
        return [fault.removeprefix(f"{self.file}:") for fault in error.faults]

    def fault(self, text: str | bytes, secret: str = f'\nSecret = "{SECRET}"\n') -> str:
        """The one thing that is wrong with *text*."""
        (fault,) = self.faults(text, secret)
        return fault

    def warnings(self, text: str, secret: str = f'\nSecret = "{SECRET}"\n') -> list[str]:
        """What *text* is warned about, without the path of the file."""
        return [warning.removeprefix(f"{self.file}:") for warning in self.load(text, secret).warnings]


class LoadTests(ConfigTestCase):
    """What a file becomes."""

    def test_defaults(self) -> None:
        """A file with a secret alone is a configuration."""
        config = self.load("")
        self.assertEqual(config.path, self.file)
        self.assertEqual(config.secret, SECRET.encode())
        self.assertEqual([place.name for place in config.listen], ["127.0.0.1:8080"])
        self.assertEqual([place.name for place in config.metrics_listen], ["127.0.0.1:9090"])
        self.assertEqual(config.store_dir, self.directory / "data")
        self.assertEqual(config.upload_sub_dir, ("upload",))
        self.assertEqual(config.max_upload_bytes, 1024**3)
        self.assertEqual(config.min_free_bytes, 100 * 1024**2)
        self.assertEqual(config.unix_socket_mode, 0o660)
        self.assertEqual(config.trusted_proxies, (ip_network("127.0.0.1"), ip_network("::1"), "unix"))
        self.assertEqual((config.log_level, config.log_file, config.log_format), ("info", None, "text"))
        self.assertEqual((config.read_timeout_s, config.write_timeout_s), (900, 900))
        self.assertEqual((config.min_body_rate, config.buffer_bytes), (256, 512 * 1024))
        self.assertEqual((config.max_connections, config.max_connections_per_ip), (10_000, 256))
        self.assertEqual((config.max_retries, config.retry_delay_s, config.get_retries), (5, 2, True))
        self.assertEqual((config.redis, config.redis_prefix, config.redis_ca_file), (None, "hmacfs:", None))
        self.assertEqual((config.session_ttl_s, config.secret_grace_s), (DAY_S, 3600))
        self.assertEqual((config.max_retention_bytes, config.max_retention_s), (10 * 1024**3, 30 * DAY_S))
        self.assertEqual((config.delete_files, config.retention_enabled), (False, False))
        self.assertEqual((config.metrics_enabled, config.checksum_verification), (True, True))
        self.assertEqual((config.num_cores, config.accept_v3), ("auto", False))
        self.assertEqual((config.warnings, config.inactive), ((), ()))

    def test_made_by_hand(self) -> None:
        """Code that makes a configuration itself has the same defaults."""
        loaded = self.load("")
        made = Config(path=loaded.path, secret=loaded.secret, store_dir=loaded.store_dir)
        self.assertEqual(made, loaded)

    def test_immutable(self) -> None:
        """It is made once, and then is what it is."""
        config = self.load("")
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, config, "secret", b"")

    def test_every_attribute_is_described(self) -> None:
        """The class says of every attribute what it is, and of nothing else."""
        described = re.findall(r":ivar (\w+):", Config.__doc__ or "")
        self.assertEqual(sorted(described), sorted(each.name for each in attrs.fields(Config)))

    def test_config_of_old(self) -> None:
        """The example that hmac-file-server came with loads as it is, and says the same."""
        config = self.load((VECTORS / "config-of-old.toml").read_bytes())
        self.assertEqual([place.name for place in config.listen], ["[::]:8080"])
        self.assertEqual([place.name for place in config.metrics_listen], ["[::]:9090"])
        self.assertEqual(config.secret, b"mysecret")
        self.assertEqual(config.store_dir, Path("/data/uploads"))
        self.assertEqual(config.log_file, Path("/var/log/hmac-file-server.log"))
        self.assertEqual(config.upload_sub_dir, ("uploads",))
        self.assertEqual((config.max_retries, config.retry_delay_s, config.get_retries), (5, 2, True))
        self.assertEqual((config.block_after_fails, config.block_duration_s), (3, 300))
        self.assertEqual((config.auto_unban, config.auto_ban_time_s), (True, 600))
        self.assertEqual((config.delete_files, config.delete_files_after_s), (True, 30 * DAY_S))
        self.assertEqual((config.num_cores, config.reask_secret_interval_s), ("auto", DAY_S))
        self.assertEqual((config.retention_enabled, config.max_retention_bytes), (True, 10 * 1024**3))
        self.assertEqual((str(config.redis), config.redis_password, config.redis_db), ("localhost:6379", "", 0))
        self.assertEqual((config.read_timeout_s, config.write_timeout_s, config.buffer_bytes), (900, 900, 65536))

    def test_config_of_prosody_filer(self) -> None:
        """The keys of prosody-filer, in its spelling, mean what they mean there."""
        config = self.load(
            'listenPort = "[::]:5050"\nsecret = "mysecret"\nstoreDir = "./uploads/"\nuploadSubDir = "upload/"\n', ""
        )
        self.assertEqual([place.name for place in config.listen], ["[::]:5050"])
        self.assertEqual(config.secret, b"mysecret")
        self.assertEqual(config.store_dir, self.directory / "uploads")
        self.assertEqual(config.upload_sub_dir, ("upload",))

    def test_unix_socket_of_prosody_filer(self) -> None:
        """With ``unixSocket`` its ``listenport`` is a path."""
        config = self.load('unixSocket = true\nlistenport = "/run/prosody-filer.sock"\nloglevel = "WARN"\n')
        self.assertEqual([place.name for place in config.listen], ["unix:/run/prosody-filer.sock"])
        self.assertEqual(config.log_level, "warn")

    def test_relative_paths(self) -> None:
        """A relative path counts from the directory of the file, wherever the process is."""
        (self.directory / "secret").write_text(SECRET)
        (self.directory / "ca.pem").touch()
        self.file.write_text(
            'StoreDir = "store"\nSecretFile = "secret"\nLogFile = "log/hmacfs.log"\n'
            'RedisAddr = "rediss://host"\nRedisCAFile = "ca.pem"\nListenPort = ["unix:a.sock", "haproxy:unix:b.sock"]\n'
        )
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory.parent)
        config = load(self.file.relative_to(self.directory.parent))
        self.assertEqual(config.path, self.file)
        self.assertEqual(config.store_dir, self.directory / "store")
        self.assertEqual(config.secret_file, self.directory / "secret")
        self.assertEqual(config.log_file, self.directory / "log" / "hmacfs.log")
        self.assertEqual(config.redis_ca_file, self.directory / "ca.pem")
        self.assertIn(f"unix:{self.directory}/a.sock:", config.listen[0].endpoint)
        self.assertIn(f"haproxy:unix:{self.directory}/b.sock:", config.listen[1].endpoint)

    def test_no_limit(self) -> None:
        """0 is no limit for the two sizes that may be without."""
        config = self.load("MaxUploadSize = 0\nMaxRetentionSize = 0")
        self.assertEqual((config.max_upload_bytes, config.max_retention_bytes), (None, None))

    def test_number_of_processes(self) -> None:
        """A number, or a number in quotes, as configurations of old have it."""
        self.assertEqual([self.load(f"NumCores = {n}").num_cores for n in ("3", '"4"', '"Auto"')], [3, 4, "auto"])

    def test_url_prefix(self) -> None:
        """Slashes around the prefix make no difference; it may be empty or have several segments."""
        prefixes = {text: self.load(f'UploadSubDir = "{text}"').upload_sub_dir for text in ("", "/", "a/b", "/upload/")}
        self.assertEqual(prefixes, {"": (), "/": (), "a/b": ("a", "b"), "/upload/": ("upload",)})

    def test_byte_order_mark(self) -> None:
        """A mark that editors put before UTF-8 is no part of the first key."""
        self.assertEqual(self.load(b'\xef\xbb\xbfSecret = "a secret of sixteen or more"').warnings, ())


class FaultTests(ConfigTestCase):
    """What is wrong, and how it is said."""

    def test_as_the_operator_reads_it(self) -> None:
        """Every fault is a line with file, line and key, in the order of the file; how many they are comes last."""
        text = 'Secret = "enough characters"\n\nMaxRetentionTime = "6m"\nRetentionPolicyEnable = true\n'
        self.file.write_text(text)
        error = self.assertRaises(ConfigError, load, self.file)
        self.assertIsInstance(error, StartError)
        self.assertEqual(
            str(error),
            f'{self.file}:3: MaxRetentionTime = "6m": ambiguous. Write "6min" or "6mo".\n'
            f"{self.file}:4: RetentionPolicyEnable: unknown key. Did you mean RetentionPolicyEnabled?\n"
            "2 faults; nothing was started.",
        )

    def test_one_fault(self) -> None:
        """One is not counted as several."""
        error = self.assertRaises(ConfigError, self.load, "Nonsense = 1")
        self.assertEqual(str(error).splitlines()[-1], "1 fault; nothing was started.")

    def test_named_as_it_was_named(self) -> None:
        """Messages name the file as the operator did."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        Path("mine.toml").write_text("Secret = 1")
        self.assertEqual(
            self.assertRaises(ConfigError, load, "mine.toml").faults, ("mine.toml:1: Secret: expected a string",)
        )

    def test_all_kinds_at_once(self) -> None:
        """Unknown keys, wrong types, impossible values and contradictions don't hide each other."""
        faults = self.faults(
            'Nonsense = 1\nMaxRetries = "5"\nBufferSize = 1\nSecretFile = "/nonexistent"\nRedisCAFile = "/dev/null"\n'
        )
        self.assertEqual([fault.split(":")[0] for fault in faults], ["1", "2", "3", "4", "5"])

    def test_unknown_key(self) -> None:
        """A key that is close to one of ours is taken for a slip; another one is just unknown."""
        self.assertEqual(self.fault("StoreDirr = 1"), "1: StoreDirr: unknown key. Did you mean StoreDir?")
        self.assertEqual(self.fault("listen_port = 1"), "1: listen_port: unknown key. Did you mean ListenPort?")
        self.assertEqual(self.fault("Zebra = 1"), "1: Zebra: unknown key.")

    def test_renamed_key(self) -> None:
        """What prosody-filer once called its directory is not taken for the key that looks most like it."""
        self.assertEqual(self.fault("uploadRootDir = 1"), "1: uploadRootDir: unknown key. Did you mean StoreDir?")

    def test_table(self) -> None:
        """A file in sections is of another program."""
        self.file.write_text(f'Secret = "{SECRET}"\n[quux]\nport = 1\n[quux.more]\n')
        error = self.assertRaises(ConfigError, load, self.file)
        self.assertEqual(error.faults, (f"{self.file}:2: quux: unknown key. The file has keys alone, no [sections].",))

    def test_key_set_twice(self) -> None:
        """Two spellings of one key, or one spelling twice, are a fault that names both lines."""
        self.assertEqual(
            self.fault("LogLevel = 'info'\n\nlogLevel = 'warn'"), "3: logLevel: set a second time, after line 1"
        )
        self.assertEqual(
            self.fault("LogLevel = 'info'\n\nLogLevel = 'warn'"), "3: LogLevel: set a second time, after line 1"
        )

    def test_key_that_looks_like_ours(self) -> None:
        """Upper and lower case are those of ASCII: a Kelvin sign is no K."""
        self.assertIn("unknown key", self.fault('"Bloc\\u212aScope" = "all"'))

    def test_syntax(self) -> None:
        """What is not TOML has line and column, as compilers have it."""
        self.assertRegex(self.fault("MaxRetries = 5\nListenPort = :8080\n"), r'^2:14: invalid value\. .*"text"$')
        self.assertRegex(self.fault('LogLevel = "info', secret=""), r"^1:\d+: ")
        self.assertRegex(self.fault("a = [\n1,\n", secret=""), r"^2:\d+: ")

    def test_syntax_fault_shows_nothing_of_the_line(self) -> None:
        """A secret without quotes is no TOML, and still a secret."""
        self.assertNotIn("hunter", self.fault("Secret = hunter2hunter2", secret=""))

    def test_not_utf8(self) -> None:
        """A file in another encoding is told where."""
        self.assertEqual(self.fault(b"a = 1\nb = '\xe4'\n"), "2: is not UTF-8, as TOML must be")

    def test_more_than_python_takes(self) -> None:
        """Numbers without end and brackets without end are faults, not tracebacks."""
        self.assertIn("too many digits", self.fault("MaxRetries = " + "1" * 5000))
        self.assertRegex(self.fault("MaxRetries = " + "[" * 5000), "brackets|^1:")

    def test_unreadable(self) -> None:
        """A file that isn't there, or isn't one, is said to be so."""
        missing = self.assertRaises(ConfigError, load, self.file)
        self.assertEqual(missing.faults, (f"{self.file}: can't be read: No such file or directory",))
        self.assertIn("Is a directory", str(self.assertRaises(ConfigError, load, self.directory)))
        self.assertIn("can't be read", str(self.assertRaises(ConfigError, load, "a\0b")))

    def test_endless(self) -> None:
        """A device without end is not read to its end."""
        self.assertIn("more than 1 MiB", str(self.assertRaises(ConfigError, load, "/dev/zero")))

    def test_wrong_values(self) -> None:
        """Each wrong type and impossible value is answered with what was expected."""
        expected = {
            "UnixSocket = 1": "expected true or false",
            'MetricsEnabled = "yes"': "expected true or false",
            'UnixSocketMode = "968"': 'expected three octal digits in quotes, such as "660"',
            "UnixSocketMode = 660": 'expected three octal digits in quotes, such as "660"',
            "MaxRetries = true": "expected a whole number from 0 to 1000",
            "MaxRetries = 5.0": "expected a whole number from 0 to 1000",
            "MaxRetries = -1": "expected a whole number from 0 to 1000",
            "RetryDelay = true": "expected a number of seconds, or a duration such as",
            'RetryDelay = "2h"': "expected a duration from 0s to 1h",
            "ReadTimeout = 0": "expected a duration from 1s to 24h",
            "BlockDuration = -1": "expected a duration between 0 and 100 years",
            "MaxRetentionTime = inf": "expected a finite number",
            'MaxUploadSize = "10G"': 'ambiguous. Write "10GB" (1000) or "10GiB" (1024).',
            "MaxUploadSize = false": "expected a number of bytes, or a size such as",
            'BufferSize = "8MiB"': "expected a size from 4KiB to 4MiB",
            "BanPrefixV6 = 129": "expected a whole number from 1 to 128",
            'LogLevel = "loud"': 'expected "debug" or "info" or "warn" or "error"',
            "LogLevel = 1": 'expected "debug" or "info" or "warn" or "error"',
            'BlockScope = "downloads"': 'expected "all" or "uploads"',
            "LogFile = 1": "expected a string",
            'LogFile = "a\\u0000b"': "expected a string without control characters",
            'StoreDir = ""': "expected a path",
            'StoreDir = "/dev/null"': "expected a directory; this is a file",
            "NumCores = 0": 'expected "auto", or a whole number from 1 to 1024',
            'NumCores = "all"': 'expected "auto", or a whole number from 1 to 1024',
            "NumCores = true": 'expected "auto", or a whole number from 1 to 1024',
            'UploadSubDir = "a//b"': "without empty segments",
            'UploadSubDir = "a/../b"': 'without empty segments, "." and ".."',
            'UploadSubDir = "a%20b"': "not percent-encoded",
            'UploadSubDir = "https://upload.example.org/upload/"': "expected the path of the URL alone",
            "RedisDB = -1": "expected a whole number from 0",
            "RedisPrefix = 1979-05-27": "expected a string",
            'Durability = "maybe"': 'expected "fsync" or "none"',
            'SendfileHeader = "X-Send"': 'expected "" or "X-Accel-Redirect" or "X-Sendfile"',
            'SendfilePrefix = "/"': 'expected a path such as "/protected/"',
            'SendfilePrefix = "protected/"': 'expected a path such as "/protected/"',
            'SendfilePrefix = "/protected"': 'expected a path such as "/protected/"',
            'SendfilePrefix = "/a b/"': 'expected a path such as "/protected/"',
            'SendfilePrefix = "/a/../b/"': 'expected a path such as "/protected/"',
        }
        for text, what in expected.items():
            with self.subTest(text=text):
                fault = self.fault(text)
                self.assertTrue(fault.startswith(f"1: {text.split(' ')[0]} = "), fault)
                self.assertIn(f": {what}" if what[0] in "ea" else what, fault)

    def test_shown_values_stay_on_their_line(self) -> None:
        """However a wrong value looks, a fault is one line, without control characters, and not a long one."""
        for value in (
            '"a\\u001b[31m\\nb\\u202e"',
            '"' + "x" * 10000 + '"',
            "0x" + "f" * 9000,
            "[[[[1]]]]",
            "{a={b={}}}",
        ):
            fault = self.fault(f"LogLevel = {value}")
            self.assertTrue(fault.isprintable(), fault)
            self.assertLess(len(fault), 200)

    def test_values_are_shown_as_toml(self) -> None:
        """What is shown is what an operator would look for in the file."""
        shown = [show(value) for value in (True, 'a"b\\c\n☃', 1, 1.5, ["a", [1]], {"a": 1}, {})]
        self.assertEqual(shown, ["true", '"a\\"b\\\\c\\u000a☃"', "1", "1.5", '["a", […]]', "{…}", "{…}"])


class ListenTests(ConfigTestCase):
    """Where to listen."""

    def places(self, value: str, more: str = "") -> list[Listen]:
        return list(self.load(f"ListenPort = {value}\n{more}").listen)

    def endpoints(self, value: str, more: str = "") -> list[tuple[str, str | None]]:
        return [(place.endpoint, place.fallback) for place in self.places(value, more)]

    def test_address(self) -> None:
        """An address and a port are one endpoint, colons quoted."""
        self.assertEqual(self.endpoints('"127.0.0.1:8080"'), [("tcp:8080:interface=127.0.0.1:backlog=1024", None)])
        self.assertEqual(self.endpoints('"[::1]:8080"'), [("tcp:8080:interface=\\:\\:1:backlog=1024", None)])
        self.assertEqual(self.endpoints('"0.0.0.0:80"'), [("tcp:80:interface=0.0.0.0:backlog=1024", None)])
        self.assertEqual([place.name for place in self.places('"[::1]:8080"')], ["[::1]:8080"])

    def test_name_of_this_machine(self) -> None:
        """``localhost`` is the address that it is everywhere."""
        self.assertEqual(self.places('"localhost:8080"'), self.places('"127.0.0.1:8080"'))

    def test_all_addresses(self) -> None:
        """A port without an address is served on all there are; a machine without IPv6 has a way out."""
        everywhere = [("tcp:8080:interface=\\:\\::backlog=1024", "tcp:8080:interface=0.0.0.0:backlog=1024")]
        for value in ('":8080"', "8080", '"8080"', '"[::]:8080"'):
            self.assertEqual(self.endpoints(value), everywhere, value)
            self.assertEqual(self.places(value)[0].name, "[::]:8080")

    def test_several(self) -> None:
        """A list may mix all kinds."""
        places = self.places('["127.0.0.1:8080", 8081, "unix:/run/x.sock", "systemd:domain=INET:index=0"]')
        names = ["127.0.0.1:8080", "[::]:8081", "unix:/run/x.sock", "systemd:domain=INET:index=0"]
        self.assertEqual([place.name for place in places], names)

    def test_endpoints(self) -> None:
        """Twisted's strings go through as they are."""
        for text in (
            "tcp:8080",
            "tcp:8080:interface=127.0.0.1",
            "tcp6:8080",
            "systemd:domain=INET6:name=http",
            "haproxy:tcp:8080",
            "haproxy:systemd:domain=UNIX:index=1",
        ):
            self.assertEqual(self.endpoints(f'"{text}"'), [(text, None)])

    def test_unix_endpoint(self) -> None:
        """The path becomes absolute, the mode is that of the endpoint or of the key, and no lock file is asked for."""
        place = self.places("'unix:a\\:b=c.sock'", 'UnixSocketMode = "600"')[0]
        self.assertEqual(place.endpoint, f"unix:{self.directory}/a\\:b\\=c.sock:mode=600:lockfile=0")
        self.assertEqual((place.name, place.unix_mode), (f"unix:{self.directory}/a:b=c.sock", 0o600))
        self.assertEqual(self.places('"unix:/run/a.sock:mode=666:backlog=9"')[0].unix_mode, 0o666)
        self.assertIn("unix:/run/b.sock:", self.places('"unix:address=/run/b.sock"')[0].endpoint)

    def test_unix_socket(self) -> None:
        """``UnixSocket`` makes a path of it."""
        place = self.places('"run/http.sock"', "UnixSocket = true")[0]
        self.assertEqual(place.endpoint, f"unix:{self.directory}/run/http.sock:backlog=1024:mode=660:lockfile=0")
        self.assertEqual(place.name, f"unix:{self.directory}/run/http.sock")
        self.assertEqual(self.places('"unix:/a"', "UnixSocket = true")[0].name, "unix:/a")

    def test_unix_socket_and_metrics(self) -> None:
        """``UnixSocket`` is not about metrics."""
        config = self.load('UnixSocket = true\nListenPort = "/a"\nMetricsPort = "127.0.0.1:9091"')
        self.assertEqual(config.metrics_listen[0].name, "127.0.0.1:9091")

    def test_unix_socket_contradicted(self) -> None:
        """A list, a port and an address are no paths; a path that isn't there is none either."""
        expected = "expected the path of a UNIX socket, as UnixSocket = true says"
        for value in ('":8080"', '"127.0.0.1:8080"', "8080", '"8080"', '"tcp:8080"', '"haproxy:unix:/a"'):
            self.assertEqual(
                self.fault(f"ListenPort = {value}\nUnixSocket = true"), f"1: ListenPort = {value}: {expected}"
            )
        listed = self.fault('ListenPort = ["/a"]\nUnixSocket = true')
        self.assertEqual(listed, '1: ListenPort = ["/a"]: expected one path, as UnixSocket = true says')
        self.assertIn("1: UnixSocket = true: ListenPort is to be the path", self.fault("UnixSocket = true"))

    def test_ssl(self) -> None:
        """Key and certificate become absolute, and have to be readable."""
        (self.directory / "key.pem").touch()
        (self.directory / "cert.pem").touch()
        endpoint = self.places('"ssl:8443:privateKey=key.pem:certKey=cert.pem"')[0].endpoint
        self.assertEqual(endpoint, f"ssl:8443:privateKey={self.directory}/key.pem:certKey={self.directory}/cert.pem")
        fault = self.fault('ListenPort = "ssl:8443:privateKey=none.pem"')
        self.assertIn(f"{self.directory}/none.pem can't be read: No such file or directory", fault)

    def test_wrong_places(self) -> None:
        """What can't be listened at is answered with what could."""
        expected = {
            '""': "expected an address such as",
            "true": "expected an address such as",
            "-1": "expected an address such as",
            "65536": "expected an address such as",
            "1.5": "expected an address such as",
            "[]": "expected at least one place",
            '[":80", [":81"]]': "expected an address such as",
            '[":80", "[::]:80"]': "expected each place once",
            '":65536"': "expected a port from 1 to 65535",
            '"tcp:http"': 'such as "tcp:8080"',
            '"tpc:8080"': "Did you mean tcp:8080?",
            '"upload.example.org:8080"': 'All addresses are ":8080"',
            '"::1:8080"': 'Write "[::1]:8080"',
            '"[127.0.0.1]:8080"': "no IPv6 address",
            '"/run/http.sock"': 'Write "unix:/run/http.sock", or set UnixSocket = true.',
            '"unx:/run/http.sock"': 'Did you mean "unix:"?',
            '"elsewhere"': "expected an address, a port, or an endpoint",
            '"unix:"': "expected the path of a UNIX socket",
            '"unix:/a:mode=999"': "three octal digits",
            f'"unix:/{"x" * 107}"': "at most 107 bytes",
            '"systemd:domain=INET"': '"systemd:domain=INET:index=0"',
            '"systemd:index=0"': "domain is INET, INET6 or UNIX",
            '"ssl:8443"': "privateKey=FILE",
            '"haproxy:"': '"haproxy:tcp:8080"',
            '"haproxy:haproxy:tcp:1"': '"haproxy:tcp:8080"',
            "'tcp:8080\\'": "quotes nothing",
        }
        for value, what in expected.items():
            with self.subTest(value=value):
                self.assertIn(what, self.fault(f"ListenPort = {value}"))

    def test_same_place_for_metrics(self) -> None:
        """Files and metrics can't share a place, told in the line that says it; unless there are no metrics."""
        same = 'ListenPort = ":9090"\nMetricsPort = 9090'
        self.assertEqual(self.fault(same), "2: MetricsPort = 9090: [::]:9090 is ListenPort as well")
        default = self.fault('ListenPort = "127.0.0.1:9090"')
        self.assertEqual(default, '1: ListenPort = "127.0.0.1:9090": 127.0.0.1:9090 is MetricsPort as well')
        self.assertEqual(len(self.load(same + "\nMetricsEnabled = false").listen), 1)

    def test_any_free_port(self) -> None:
        """Port 0 is another one each time, so it may stand twice."""
        config = self.load('ListenPort = "127.0.0.1:0"\nMetricsPort = "127.0.0.1:0"')
        self.assertEqual(config.listen, config.metrics_listen)


class TrustedProxiesTests(ConfigTestCase):
    """Whose headers are believed."""

    def test_networks(self) -> None:
        """Addresses, networks and UNIX sockets, in the order of the file."""
        config = self.load('TrustedProxies = ["192.0.2.1", "10.0.0.0/8", "unix", "2001:db8::/32"]')
        networks = (ip_network("192.0.2.1"), ip_network("10.0.0.0/8"), "unix", ip_network("2001:db8::/32"))
        self.assertEqual(config.trusted_proxies, networks)

    def test_nobody(self) -> None:
        """An empty list trusts nobody."""
        self.assertEqual(self.load("TrustedProxies = []").trusted_proxies, ())

    def test_wrong(self) -> None:
        """What is no network is named; an address within a network is offered the whole."""
        expected = {
            '"127.0.0.1"': "expected a list",
            "[1]": "expected a list of strings",
            '["proxy.example.org"]': '"proxy.example.org" is no address, no network and not "unix"',
            '["10.1.2.3/8"]': 'Write "10.0.0.0/8" for the whole network.',
        }
        for value, what in expected.items():
            self.assertIn(what, self.fault(f"TrustedProxies = {value}"))

    def test_everybody(self) -> None:
        """To trust everybody is to let everybody lie."""
        for network in ("0.0.0.0/0", "::/0"):
            (warning,) = self.warnings(f'TrustedProxies = ["unix", "{network}"]')
            self.assertIn("everybody is trusted", warning)


class SecretTests(ConfigTestCase):
    """The secret, and that it stays one."""

    def with_file(self, content: bytes, mode: int = 0o600) -> Config:
        path = self.directory / "secret"
        path.write_bytes(content)
        path.chmod(mode)
        return self.load('SecretFile = "secret"', secret="")

    def test_credential(self) -> None:
        """One of systemd's, in the directory that the environment names."""
        (self.directory / "upload-secret").write_text(SECRET + "\n")
        self.file.write_text('SecretFile = "credential:upload-secret"\n')
        config = load(self.file, {"CREDENTIALS_DIRECTORY": str(self.directory)})
        self.assertEqual((config.secret, config.secret_file), (SECRET.encode(), self.directory / "upload-secret"))
        (self.directory / "upload-secret").write_text("another-secret-of-the-tests")
        self.assertEqual(read_secret(config), b"another-secret-of-the-tests")

    def test_credential_without_systemd(self) -> None:
        """What is missing is said."""
        self.file.write_text('SecretFile = "credential:upload-secret"\n')
        error = self.assertRaises(ConfigError, load, self.file, {})
        self.assertIn("no CREDENTIALS_DIRECTORY in the environment", str(error))
        self.assertIn("LoadCredential=upload-secret:", str(error))
        self.assertEqual(len(error.faults), 1)

    def test_credential_elsewhere(self) -> None:
        """A name is no path."""
        for name in ("", "..", "../secret", "a/b", "a b"):
            self.file.write_text(f'SecretFile = "credential:{name}"\n')
            error = self.assertRaises(ConfigError, load, self.file, {"CREDENTIALS_DIRECTORY": str(self.directory)})
            self.assertIn('expected "credential:NAME"', str(error))

    def test_raw_bytes(self) -> None:
        """The UTF-8 bytes are the key, hexadecimal or Base64 look or not."""
        self.assertEqual(self.load("", 'Secret = "ключ\\u0000 deadbeef ="').secret, "ключ\0 deadbeef =".encode())

    def test_missing(self) -> None:
        """Without a secret nothing is started."""
        self.assertRegex(self.fault("MaxRetries = 1", secret=""), r"^ Secret: missing\. .*SecretFile")
        self.assertRegex(self.fault('SecretFile = ""', secret=""), r"^1: Secret: missing")
        self.assertEqual(self.load('SecretFile = ""').secret, SECRET.encode())

    def test_empty(self) -> None:
        """An empty secret would let in everybody."""
        self.assertRegex(self.fault("", 'Secret = ""'), "^1: Secret: is empty")
        self.assertRegex(self.fault("", "Secret = 5"), "^1: Secret: expected a string$")

    def test_both(self) -> None:
        """Which of two secrets counts is not guessed at."""
        (self.directory / "secret").write_text(SECRET)
        fault = self.fault(f'Secret = "{SECRET}"\nSecretFile = "secret"', secret="")
        self.assertEqual(fault, '2: SecretFile = "secret": contradicts Secret in line 1. Take one of the two.')

    def test_first_line_of_file(self) -> None:
        """One newline ends the secret and is no part of it; what follows is not either."""
        long = b"a secret of sixteen or more"
        for ending in (b"", b"\n", b"\r\n", b"\nsecond line\n", b"\n\n"):
            config = self.with_file(long + ending)
            self.assertEqual((config.secret, config.warnings), (long, ()))
        self.assertEqual(config.secret_file, self.directory / "secret")

    def test_file_of_bytes(self) -> None:
        """A secret in a file may be any bytes."""
        self.assertEqual(self.with_file(b"\xff\x00" * 10).secret, b"\xff\x00" * 10)

    def test_empty_file(self) -> None:
        """A file with an empty first line has no secret."""
        for content in (b"", b"\n", b"\r\n", b"\nsecret on the second line"):
            error = self.assertRaises(ConfigError, self.with_file, content)
            self.assertIn(f"the first line of {self.directory}/secret is empty", str(error))

    def test_unreadable_file(self) -> None:
        """A file that can't be read is a fault that says why, and the only one."""
        (self.directory / "dir").mkdir()
        os.mkfifo(self.directory / "fifo")
        for name, reason in {"none": "No such file", "dir": "not a regular file", "fifo": "not a regular"}.items():
            fault = self.fault(f'SecretFile = "{name}"', secret="")
            self.assertTrue(fault.startswith(f'1: SecretFile = "{name}": '), fault)
            self.assertIn(reason, fault)

    def test_open_file(self) -> None:
        """A file that everybody may read is warned about, with the cure; a group may read it."""
        (warning,) = self.with_file(SECRET.encode(), 0o644).warnings
        self.assertIn("everybody on this machine may read it", warning)
        self.assertIn(f"chmod o= {self.directory}/secret", warning)
        self.assertEqual(self.with_file(SECRET.encode(), 0o640).warnings, ())

    def test_open_config(self) -> None:
        """So is a configuration, once, if a secret or a password stands in it."""
        self.file.touch()
        self.file.chmod(0o644)
        (warning,) = self.warnings('RedisAddr = "localhost:6379"\nRedisPassword = "x"')
        self.assertEqual(
            warning, f"2: RedisPassword: everybody on this machine may read it here. Say: chmod o= {self.file}"
        )
        (warning,) = self.warnings("")
        self.assertIn("Secret: everybody", warning)
        self.assertEqual(self.with_file(SECRET.encode(), 0o640).warnings, ())
        self.file.chmod(0o640)
        self.assertEqual(self.warnings(""), [])

    def test_well_known(self) -> None:
        """The secrets in examples are warned about, in any case."""
        for secret in ("mysecret", "changeme", "ChangeMe"):
            self.assertEqual(
                self.warnings("", f'Secret = "{secret}"'),
                ["1: Secret: the secret is a well-known example. Whoever tries it may upload."],
            )

    def test_short(self) -> None:
        """Fewer than 16 characters are warned about, in the file and in a file of its own."""
        self.assertIn("fewer than 16", self.warnings("", 'Secret = "ääääääääääääääö"')[0])
        self.assertEqual(self.warnings("", 'Secret = "äääääääääääääääö"'), [])
        self.assertIn('SecretFile = "secret": the secret has fewer', self.with_file(b"short one").warnings[0])

    def test_slips_of_the_clipboard(self) -> None:
        """Blanks and quotes at the ends are kept, and pointed at."""
        for secret in (b" " + SECRET.encode(), SECRET.encode() + b" \n", b'"' + SECRET.encode() + b'"'):
            self.assertIn("blank or a quote", self.with_file(secret).warnings[0])

    def test_not_below_the_store(self) -> None:
        """A secret, a log or the configuration in the store would be served to everybody."""
        (self.directory / "secret").write_text(SECRET)
        faults = self.faults('StoreDir = "."\nSecretFile = "secret"\nLogFile = "hmacfs.log"', secret="")
        self.assertEqual(len(faults), 3)
        self.assertIn('1: StoreDir = ".": has this very file in it', faults[0])
        self.assertIn('2: SecretFile = "secret": lies in StoreDir', faults[1])
        self.assertIn('3: LogFile = "hmacfs.log": lies in StoreDir', faults[2])

    def test_below_the_store_by_a_link(self) -> None:
        """Links don't hide where a file is."""
        (self.directory / "store").mkdir()
        (self.directory / "store" / "secret").write_text(SECRET)
        (self.directory / "link").symlink_to("store/secret")
        self.assertIn("lies in StoreDir", self.fault('StoreDir = "store"\nSecretFile = "link"', secret=""))

    def test_in_our_own_directory_below_the_store(self) -> None:
        """No URL leads to our own directory, so a secret may lie there."""
        (self.directory / "store" / ".hmacfs").mkdir(parents=True)
        secret = self.directory / "store" / ".hmacfs" / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        config = self.load('StoreDir = "store"\nSecretFile = "store/.hmacfs/secret"', secret="")
        self.assertEqual(config.secret, SECRET.encode())

    @given(st.text("abcdefghijk", min_size=8, max_size=30), st.text("lmnopqrstuv", min_size=8, max_size=30))
    def test_never_shown(self, secret: str, password: str) -> None:
        """Neither secret nor password is in anything that could get into a log."""
        text = f'Secret = "{secret}"\nRedisPassword = "{password}"\n'
        config = self.load(text, secret="")
        shown = repr(config) + str(config) + " ".join(config.warnings + config.inactive)
        shown += str(self.assertRaises(ConfigError, self.load, text + "LogLevel = 1", ""))
        shown += str(self.assertRaises(ConfigError, self.load, text + 'secret = "x"', ""))
        shown += str(self.assertRaises(ConfigError, self.load, text.replace('"', ""), ""))
        shown += str(self.assertRaises(ConfigError, self.load, text.replace(' "', ' ["').replace('"\n', '"]\n'), ""))
        shown += str(self.assertRaises(ConfigError, self.load, f'RedisAddr = "redis://:{password}@localhost:6379"'))
        self.assertNotIn(secret, shown)
        self.assertNotIn(password, shown)


class RetainingTests(ConfigTestCase):
    """A configuration that is taken up where some keys can't change."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.load('ListenPort = "127.0.0.1:8080"\nStoreDir = "old"\nMaxUploadSize = 1\nNumCores = 1')

    def test_fixed_keys(self) -> None:
        """Those have their old values, and are named where the file says something else; the others are as it says."""
        new = self.load('ListenPort = "127.0.0.1:8081"\nStoreDir = "new"\nMaxUploadSize = 2\nNumCores = 1')
        config, refused = new.retaining(FIXED, self.old)
        self.assertEqual(set(refused), {"ListenPort", "StoreDir"})
        self.assertEqual((config.listen, config.store_dir), (self.old.listen, self.directory / "old"))
        self.assertEqual(config.max_upload_bytes, 2)
        self.assertEqual(config.differing(self.old), ("MaxUploadSize",))

    def test_key_that_is_gone(self) -> None:
        """A default is another value, too."""
        config, refused = self.load('StoreDir = "old"\nNumCores = 1').retaining(["NumCores", "MaxUploadSize"], self.old)
        self.assertEqual((refused, config.max_upload_bytes), (("MaxUploadSize",), 1))

    def test_nothing_differs(self) -> None:
        config, refused = self.old.retaining(KEYS, self.old)
        self.assertEqual((config, refused), (self.old, ()))

    def test_no_keys(self) -> None:
        """All is taken up then."""
        new = self.load('StoreDir = "new"')
        self.assertEqual(new.retaining([], self.old), (new, ()))

    def test_all_keys(self) -> None:
        """No key differs afterwards, and those are named that did."""
        new = self.load('NumCores = 1\nDurability = "none"\nQuotaTotal = 5')
        config, refused = new.retaining(KEYS, self.old)
        self.assertEqual(config.differing(self.old), ())
        self.assertEqual(refused, new.differing(self.old))
        self.assertIn("QuotaTotal", refused)


class RedisTests(ConfigTestCase):
    """Where Redis is."""

    def redis(self, value: str) -> RedisAddress | None:
        return self.load(f'RedisAddr = "{value}"').redis

    def test_addresses(self) -> None:
        """TCP, TLS and UNIX sockets."""
        self.assertEqual(self.redis("localhost:6379"), RedisAddress("localhost", 6379))
        self.assertEqual(self.redis("redis://10.0.0.1:6380"), RedisAddress("10.0.0.1", 6380))
        self.assertEqual(self.redis("rediss://host:6380"), RedisAddress("host", 6380, tls=True))
        self.assertEqual(self.redis("[::1]:6379"), RedisAddress("::1", 6379))
        self.assertEqual(self.redis("host"), RedisAddress("host", 6379))
        self.assertEqual(self.redis("unix:/run/redis.sock"), RedisAddress(unix_path=Path("/run/redis.sock")))
        self.assertEqual(self.redis("unix:redis.sock"), RedisAddress(unix_path=self.directory / "redis.sock"))

    def test_shown_as_written(self) -> None:
        """A log line has it as the file has."""
        for text in ("localhost:6379", "rediss://host:6380", "[::1]:6379", "unix:/run/redis.sock"):
            self.assertEqual(str(self.redis(text)), text)

    def test_wrong_addresses(self) -> None:
        """What can't be reached is answered with what could."""
        expected = {
            "http://host:6379": 'expected "host:6379"',
            ":6379": 'expected "host:6379"',
            "host:0": 'expected "host:6379"',
            "host:70000": "expected a port from 1 to 65535",
            "a:b:c": 'expected "host:6379"',
            "/run/redis.sock": 'Write "unix:/run/redis.sock"',
            "unix:": "expected the path of a UNIX socket",
            "redis://user:hunter2@host:6379": "RedisUsername and RedisPassword",
            "redis://host:6379/2": "RedisDB",
        }
        for value, what in expected.items():
            with self.subTest(value=value):
                fault = self.fault(f'RedisAddr = "{value}"')
                self.assertIn(what, fault)
                self.assertNotIn("hunter2", fault)

    def test_certificates_without_tls(self) -> None:
        """Who names certificates expects them to be looked at."""
        for address in ("", "localhost:6379", "unix:/run/redis.sock"):
            fault = self.fault(f'RedisCAFile = "/dev/null"\nRedisAddr = "{address}"')
            self.assertIn('1: RedisCAFile = "/dev/null": is for TLS', fault)

    def test_certificates_that_are_not_there(self) -> None:
        """A file that can't be read is a fault now, not when Redis is first needed."""
        fault = self.fault('RedisAddr = "rediss://host"\nRedisCAFile = "none.pem"')
        self.assertIn(f"{self.directory}/none.pem can't be read: No such file", fault)

    def test_password_without_redis(self) -> None:
        """A password for nobody is a warning."""
        self.assertEqual(
            self.warnings('RedisPassword = "x"'), ["1: RedisPassword: has no effect, as RedisAddr is empty"]
        )


class SendfileTests(ConfigTestCase):
    """Downloads by a proxy."""

    def test_durability(self) -> None:
        """Nothing is lost unless the operator says that it may be, and then each start says so."""
        self.assertEqual((self.load("").durability, self.load("").warnings), ("fsync", ()))
        self.assertEqual(self.load('Durability = "FSYNC"').warnings, ())
        (warning,) = self.load('Durability = "none"').warnings
        self.assertIn('Durability = "none": a power loss can cost files', warning)

    def test_header(self) -> None:
        """In any case, as headers are."""
        headers = [self.load(f'SendfileHeader = "{text}"').sendfile_header for text in ("", "x-SENDFILE")]
        self.assertEqual(headers, ["", "X-Sendfile"])
        accel = self.load('SendfileHeader = "x-accel-redirect"')
        self.assertEqual((accel.sendfile_header, accel.sendfile_prefix), ("X-Accel-Redirect", "/protected/"))

    def test_prefix_below_the_uploads(self) -> None:
        """nginx would ask hmacfs again, and again."""
        header = 'SendfileHeader = "X-Accel-Redirect"\n'
        for prefix in ("/upload/", "/upload/protected/"):
            self.assertIn("lies below UploadSubDir", self.fault(f'{header}SendfilePrefix = "{prefix}"'))
        for text in ('SendfilePrefix = "/uploads/"', 'UploadSubDir = ""'):
            self.assertEqual(self.warnings(header + text), [])

    def test_in_vain(self) -> None:
        """A prefix that nothing is put behind, and a header that nobody gets, are warnings."""
        self.assertIn("has no effect", self.warnings('SendfilePrefix = "/p/"')[0])
        self.assertIn("has no effect", self.warnings('SendfileHeader = "X-Sendfile"\nSendfilePrefix = "/p/"')[0])
        (warning,) = self.warnings('SendfileHeader = "X-Sendfile"\nTrustedProxies = []')
        self.assertIn("as TrustedProxies is empty", warning)


class WarningTests(ConfigTestCase):
    """What is said at start though it can be started with."""

    def test_upload_larger_than_the_store(self) -> None:
        """A store that one upload fills would forget everything else."""
        (warning,) = self.warnings('RetentionPolicyEnabled = true\nMaxRetentionSize = "500MB"\nMaxUploadSize = "1GB"')
        self.assertIn("2: MaxRetentionSize", warning)
        self.assertEqual(len(self.warnings("RetentionPolicyEnabled = true\nMaxUploadSize = 0")), 1)
        self.assertEqual(self.warnings('MaxRetentionSize = "500MB"'), [])
        self.assertEqual(self.warnings("RetentionPolicyEnabled = true\nMaxRetentionSize = 0"), [])

    def test_keys_without_their_feature(self) -> None:
        """A key that nothing acts on says so, where it switches something on."""
        self.patch(config, "MISSING_FEATURES", {"bans": ("BlockAfterFails", "AutoUnban"), "size": ("MaxRetries",)})
        inactive = self.load("\n\nBlockAfterFails = 10\nRetryDelay = 3").inactive
        expected = f"{self.file}:3: BlockAfterFails = 10: accepted, but this version of hmacfs has no bans yet"
        self.assertEqual(inactive, (expected,))
        self.assertEqual(self.load("BlockAfterFails = 0\nAutoUnban = false\nMaxRetries = 0").inactive, ())
        self.assertEqual(len(self.load("BlockAfterFails = 1\nAutoUnban = true\nMaxRetries = 2").inactive), 3)

    def test_missing_features_are_keys(self) -> None:
        """The table of what is missing names keys that there are."""
        self.assertEqual({name for names in MISSING_FEATURES.values() for name in names} - set(KEYS), set())

    def test_confidential_keys_without_their_feature(self) -> None:
        """A password that nothing uses yet is not shown either."""
        self.patch(config, "MISSING_FEATURES", {"Redis": ("RedisPassword",)})
        (line,) = self.load('RedisAddr = "localhost"\nRedisPassword = "hunter2"').inactive
        self.assertIn("RedisPassword: accepted", line)


class LineTests(SynchronousTestCase):
    """Where a key stands."""

    def test_what_looks_like_a_key(self) -> None:
        """Keys are not found in strings, arrays, inline tables, comments and values."""
        text = (
            "# no = 1\n"
            'a = """\nno = 1\n\\""" no = 2\n"""""\n'
            "b = '''\nno = '\n'''\n"
            'c = [\n  "no = [", # no = ]\n  {no = 1},\n  1979-05-27 07:32:00,\n]\n'
            'd = \'no = "\'  # """\n'
            'e = """x"""" # "[\n'
            "f = '''x'''' # '[\n"
            "g = true\n"
        )
        self.assertEqual(list(tomllib.loads(text)), list("abcdefg"))
        self.assertEqual(
            top_level_keys(text), [("a", 2), ("b", 6), ("c", 9), ("d", 14), ("e", 15), ("f", 16), ("g", 17)]
        )

    def test_how_keys_are_written(self) -> None:
        """Quoted and dotted keys are the key that tomllib finds."""
        text = "\"\\u0061b\" = 1\n'c.d' . e = 2\n  f.g = 3\r\n1234 = 4\n"
        self.assertEqual(top_level_keys(text), [("ab", 1), ("c.d", 2), ("f", 3), ("1234", 4)])

    def test_tables(self) -> None:
        """A table is a key where it is opened; what is in it is none."""
        text = 'a = 1\n[ b . c ]\nno = 1\n[["d"]]\nno = [\n1]\n[b]\nno = 2\n'
        self.assertEqual(top_level_keys(text), [("a", 1), ("b", 2), ("d", 4), ("b", 7)])

    @given(st.data())
    def test_agrees_with_tomllib(self, data: st.DataObject) -> None:
        """For any document, the keys are those that tomllib finds, in the lines where they were written."""
        values = st.one_of(
            st.sampled_from(["1", "true", "''", '""', "'''\n'''", '"""\n\n"""', '"""a\n"b\\""""""', "''''\nx = 1''''"]),
            st.sampled_from(["[]", "[1,\n2]", "[[\n'['],\n# ]\n]", "{}", "{x = 1}", "{x = ['}']}", "07:32:00"]),
            st.text("ab='#[]{} ", max_size=8).map(lambda text: '"' + text + '"'),
            st.text('ab="#[]{} \\', max_size=8).map(lambda text: "'" + text + "'"),
        )
        comments = st.one_of(st.just(""), st.text("ab=\"'#[]{} ", max_size=8).map("#".__add__))
        text, expected = "", []
        for index in range(data.draw(st.integers(0, 6))):
            text += data.draw(st.sampled_from(["", "\n", "  \n\n", "# no = 1\n", "#'''\n"]))
            spelling = data.draw(st.sampled_from(["k{}", "'k{}'", '"k{}"', "k{}.x", "k{} . 'y'", '"\\u006b{}"']))
            expected.append((f"k{index}", text.count("\n") + 1))
            text += f"{spelling.format(index)} = {data.draw(values)} {data.draw(comments)}\n"
        self.assertEqual(list(tomllib.loads(text)), [key for key, _ in expected])
        self.assertEqual(top_level_keys(text), expected)

    @given(st.one_of(st.text(), st.text("ab='\"#[]{}\\\n.", max_size=60)))
    def test_never_raises(self, text: str) -> None:
        """For what is not TOML, the lines are lines of the text."""
        for key, line in top_level_keys(text):
            self.assertIsInstance(key, str)
            self.assertTrue(1 <= line <= text.count("\n") + 1)


def _quoted(text: str) -> str:
    """As a string of TOML."""
    awkward = {each for each in text if each in '"\\' or not each.isprintable()}
    return '"' + "".join(f"\\U{ord(each):08x}" if each in awkward else each for each in text) + '"'


#: Strings that mean something to one key or another, or nearly.
AWKWARD = ["6m", "1h", "10GiB", ":80", "[::1]:80", "tcp:1", "unix:/x", "ssl:1:privateKey=x", "haproxy:", "a:b:c:d", "%"]
AWKWARD += ["0.0.0.0/0", "10.1.2.3/8", "redis://a:b@c/d", "rediss://[::1", "/", "..", "systemd:domain=:", "tcp:1:\\"]

#: Anything that TOML can say, as it stands in a file.
toml_values = st.recursive(
    st.one_of(
        st.booleans().map(lambda value: "true" if value else "false"),
        st.integers(-(10**20), 10**20).map(str),
        st.floats().map(lambda value: str(value) if math.isfinite(value) and "e" not in str(value) else "nan"),
        st.sampled_from(["inf", "-inf", "1e400", "07:32:00", "1979-05-27", "1979-05-27T07:32:00Z", "0x" + "f" * 5000]),
        st.text(st.characters(blacklist_categories=["Cs"]), max_size=20).map(_quoted),
        st.sampled_from(AWKWARD).map(_quoted),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
    max_leaves=4,
)


class NothingElseIsRaisedTests(ConfigTestCase):
    """Whatever the file, there is a configuration or a :class:`ConfigError`."""

    def outcome(self, content: bytes) -> Config | ConfigError:
        self.file.write_bytes(content)
        try:
            return load(self.file)
        except ConfigError as error:
            self.assertTrue(error.faults)
            for fault in error.faults:
                self.assertTrue(fault.startswith(f"{self.file}:"), fault)
                self.assertNotIn("\n", fault)
            return error

    @given(st.one_of(st.binary(), st.text().map(str.encode)))
    def test_any_bytes(self, content: bytes) -> None:
        """Bytes without sense."""
        self.outcome(content)

    @given(st.lists(st.tuples(st.sampled_from([*KEYS, "listenport", "Nonsense", "'a b'"]), toml_values), max_size=6))
    def test_any_values(self, settings: list[tuple[str, str]]) -> None:
        """Our keys, with values of all kinds; there is always a line to look at."""
        text = "".join(f"{key} = {value}\n" for key, value in settings)
        outcome = self.outcome(f'{text}secret = "{SECRET}"\n'.encode())
        if isinstance(outcome, ConfigError):
            for fault in outcome.faults:
                self.assertRegex(fault.removeprefix(f"{self.file}"), r"^:\d+:", text)


class ShippedFileTests(ConfigTestCase):
    """The config.toml at the root of the project."""

    def setUp(self) -> None:
        super().setUp()
        shutil.copy(ROOT / "config.toml", self.file)
        (self.directory / "data").mkdir()
        secret = self.directory / "data" / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        self.text = self.file.read_text()

    def test_runs_as_it_is(self) -> None:
        """With a secret in place, it loads without a word, and keeps all that it makes in ``data``."""
        config = load(self.file)
        self.assertEqual((config.warnings, config.inactive), ((), ()))
        self.assertEqual([place.name for place in config.listen], ["127.0.0.1:8080"])
        self.assertEqual([place.name for place in config.metrics_listen], ["127.0.0.1:9090"])
        self.assertEqual((config.store_dir, config.redis), (self.directory / "data" / "store", None))

    def test_what_is_commented_out(self) -> None:
        """Each line that is commented out can be taken in; where it shows a default, it is the default."""
        commented = re.findall(r"^#([A-Za-z]+ = .*)$", self.text, re.MULTILINE)
        self.assertGreater(len(commented), 5)
        for line in commented:
            ((name, value),) = tomllib.loads(line).items()
            if name not in ("Secret", "LogFile"):
                self.assertEqual(value, KEYS[name].default, line)
                self.file.write_text(self.text.replace(f"#{line}", line))
                load(self.file)


class DocumentationTests(ConfigTestCase):
    """docs/configuration.md, held against what the code does."""

    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    heads = re.findall(r"^### (\w+)\n\n((?:    .*\n)+)", page, re.MULTILINE)

    def test_every_key(self) -> None:
        """Every key has its paragraph, in the spelling that messages have, and there is none for anything else."""
        self.assertEqual(sorted(name for name, _ in self.heads), sorted(KEYS))
        self.assertEqual(re.findall(r"^### (\w+)", self.page, re.MULTILINE), [name for name, _ in self.heads])

    def test_every_key_is_in_the_overview(self) -> None:
        """The table at the top leads to every paragraph, in the order of the page."""
        overview = re.search(r"^- \[(?:.|\n)*?\n\n", self.page, re.MULTILINE)
        assert overview is not None
        links = re.findall(r"\[(\w+)\]\(#(\w+)\)[,\n]", overview[0])
        self.assertEqual(links, [(name, name.lower()) for name, _ in self.heads])

    def test_defaults(self) -> None:
        """The default that is stated is the default that is taken."""
        for name, head in self.heads:
            stated = re.search(r"^    Default: +(.*)$", head, re.MULTILINE)
            assert stated is not None, name
            if stated[1] == "none":
                self.assertIsNone(KEYS[name].default, name)
            else:
                # Through repr(), as False is 0 otherwise.
                self.assertEqual(repr(tomllib.loads(stated[1])), repr({name: KEYS[name].default}))

    def test_syntax(self) -> None:
        """The syntax is that of the key."""
        for name, head in self.heads:
            self.assertRegex(head, rf"^    Syntax: +{name} = \S")

    def test_in_force(self) -> None:
        """What nothing acts on is said to be so."""
        missing = {name for names in MISSING_FEATURES.values() for name in names}
        for name, head in self.heads:
            stated = "accepted, feature follows" if name in missing else "yes"
            self.assertRegex(head, rf"(?m)^    In force: +{stated}$", name)

    def test_reload(self) -> None:
        """Whether a change takes a restart is said as the code has it."""
        for name, head in self.heads:
            self.assertRegex(head, rf"(?m)^    Reload: +{'restart' if name in FIXED else 'live'}$", name)

    def test_examples(self) -> None:
        """Every key has an example that sets it, to something else than its default, and that loads."""
        (self.directory / "secret.txt").write_text(SECRET)
        (self.directory / "redis-ca.pem").touch()
        examples: dict[str, Any] = {}
        for block in re.findall(r"^```toml\n(.*?)^```", self.page, re.MULTILINE | re.DOTALL):
            config = self.load(block, secret="" if re.match("Secret(File)? =", block) else f'Secret = "{SECRET}"\n')
            self.assertIsInstance(config, Config)
            examples.update(tomllib.loads(block))
        self.assertEqual(set(KEYS) - set(examples), set())
        self.assertEqual([name for name, value in examples.items() if value == KEYS[name].default], [])

    def test_faults_in_the_text(self) -> None:
        """The messages that the page shows are those that an operator gets."""
        shown = re.search(r"^```\n(config\.toml:7: .*?)```", self.page, re.MULTILINE | re.DOTALL)
        assert shown is not None
        lines = [
            f'Secret = "{SECRET}"',
            *[""] * 5,
            'MaxRetentionTime = "6m"',
            *[""] * 4,
            "RetentionPolicyEnable = true",
        ]
        self.file.write_text("\n".join(lines))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.assertEqual(str(self.assertRaises(ConfigError, load, "config.toml")), shown[1].rstrip("\n"))
