"""Tests for :mod:`hmacfs.config_retention`, and for the other keys of retention, quotas and deletion."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.config_retention import RetentionRule, retention_rules
from hmacfs.config_values import Here
from tests.test_config import DAY_S, SECRET, ConfigTestCase


class RetentionRulesTests(ConfigTestCase):
    """The list of rules."""

    def test_rules(self) -> None:
        """In the order of the file; keys in any case; types in lower case, paths as they are."""
        config = self.load(
            "RetentionRules = [\n"
            '  { Path = "Avatars/*", Keep = "forever" },\n'
            '  { type = "Video/*", KEEP = "7d" },\n'
            '  { Path = "*/chat_*", Type = "image/*", Keep = 3600 },\n]\n'
        )
        expected = (
            RetentionRule("Avatars/*", None, None),
            RetentionRule(None, "video/*", 7 * DAY_S),
            RetentionRule("*/chat_*", "image/*", 3600),
        )
        self.assertEqual(config.retention_rules, expected)

    def test_tables_of_an_array(self) -> None:
        """The long form of TOML for the same."""
        config = self.load(f'Secret = "{SECRET}"\n[[RetentionRules]]\nPath = "a/*"\nKeep = "7d"\n', secret="")
        self.assertEqual(config.retention_rules, (RetentionRule("a/*", None, 7 * DAY_S),))

    def test_faults(self) -> None:
        """Each says which rule is meant, and what was expected."""
        for written, expected in {
            '"avatars/*"': "expected a list such as",
            '["avatars/*"]': "rule 1: expected a table such as",
            '[{ Path = "a/*" }]': "rule 1: has no Keep",
            '[{ Keep = "7d" }]': "rule 1: has neither Path nor Type",
            '[{ Pathh = "a/*", Keep = "7d" }]': "rule 1: Pathh: expected Path, Type or Keep. Did you mean Path?",
            '[{ Zebra = 1, Keep = "7d" }]': "rule 1: Zebra: expected Path, Type or Keep",
            '[{ Path = "a/*", path = "b/*", Keep = "7d" }]': "rule 1: path: set a second time",
            '[{ Path = 5, Keep = "7d" }]': "rule 1: Path = 5: expected a string",
            '[{ Type = "", Keep = "7d" }]': 'rule 1: Type = "": is empty',
            '[{ Path = "/a", Keep = "7d" }]': 'rule 1: Path = "/a": paths begin below UploadSubDir, without a slash',
            '[{ Path = "a", Keep = "6m" }]': 'rule 1: Keep = "6m": ambiguous. Write "6min" or "6mo".',
            '[{ Path = "a", Keep = 0 }]': "rule 1: Keep = 0: expected a duration from 1s to",
            '[{ Path = "a", Keep = true }]': "rule 1: Keep = true: expected a number of seconds",
        }.items():
            with self.subTest(written=written):
                fault = self.fault(f"\nRetentionRules = {written}")
                self.assertTrue(fault.startswith("2: RetentionRules = "), fault)
                self.assertIn(expected, fault)

    def test_fits_other_files(self) -> None:
        """A rule that reads as if it were about files that it isn't about."""
        for rule, expected in {
            'Path = "upload/a/*"': 'rule 2: Path = "upload/a/*": fits upload/upload/a/*, as paths begin below UploadSubDir',
            'Type = "image"': 'rule 2: Type = "image": fits no type; "image/*" does',
        }.items():
            (warning,) = self.warnings(
                f'RetentionRules = [{{ Path = "a/*", Keep = "1d" }}, {{ {rule}, Keep = "forever" }}]'
            )
            self.assertTrue(warning.endswith(expected), warning)
        for rule in ('Path = "uploads/*"', 'Type = "*"', 'Type = "image*"', 'Type = "image?png"', 'Type = "[iv]*"'):
            self.assertEqual(self.warnings(f'RetentionRules = [{{ {rule}, Keep = "forever" }}]'), [])
        self.assertEqual(
            self.warnings('UploadSubDir = ""\nRetentionRules = [{ Path = "upload/a/*", Keep = "forever" }]'), []
        )

    def test_all_faults_at_once(self) -> None:
        """A fault of one rule hides none of another."""
        fault = self.fault('RetentionRules = [{ Keep = "7d" }, { Path = "a", Keep = "7d" }, { Path = "b" }]')
        self.assertIn("rule 1: has neither Path nor Type; rule 3: has no Keep", fault)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["Path", "type", "Keep", "x", "\u212aeep"]), inner, max_size=4)
            ),
            max_leaves=8,
        )
    )
    def test_any_value(self, value: object) -> None:
        """Rules, or ValueError: nothing else."""
        try:
            rules = retention_rules(value, Here())
        except ValueError:
            return
        self.assertTrue(all(rule.path is not None or rule.content_type is not None for rule in rules))


class OtherKeysTests(ConfigTestCase):
    """Quotas, the report and the secret of deletions."""

    def test_defaults(self) -> None:
        """Nothing is limited, reported or deleted."""
        config = self.load("")
        quotas = (config.quota_per_user_bytes, config.quota_per_domain_bytes, config.quota_total_bytes)
        self.assertEqual(quotas, (None, None, None))
        self.assertEqual((config.quota_policy, config.report_file, config.delete_secret), ("refuse", None, ""))
        self.assertEqual(config.retention_rules, ())

    def test_quotas(self) -> None:
        """Sizes."""
        config = self.load('QuotaPerUser = "1MB"\nQuotaPerDomain = "1GB"\nQuotaTotal = 5\nQuotaPolicy = "Oldest"')
        quotas = (config.quota_per_user_bytes, config.quota_per_domain_bytes, config.quota_total_bytes)
        self.assertEqual((quotas, config.quota_policy), ((10**6, 10**9, 5), "oldest"))

    def test_policy_without_a_quota(self) -> None:
        """Whoever says what is to go has forgotten to say when."""
        self.assertEqual(
            self.warnings('QuotaPolicy = "oldest"'),
            ['1: QuotaPolicy = "oldest": has no effect, as there is no quota'],
        )
        self.assertEqual(self.warnings('QuotaPolicy = "oldest"\nQuotaTotal = "1GB"'), [])

    def test_report_below_the_store(self) -> None:
        """Where it would be served."""
        fault = self.fault('StoreDir = "store"\nReportFile = "store/deleted.jsonl"')
        self.assertIn('2: ReportFile = "store/deleted.jsonl": lies in StoreDir', fault)

    def test_delete_secret(self) -> None:
        """It is never shown, and is not to be the other secret."""
        self.assertNotIn("delete-me", repr(self.load('DeleteSecret = "delete-me"')))
        self.assertEqual(self.fault("DeleteSecret = 5"), "1: DeleteSecret: expected a string")
        (warning,) = self.warnings(f'DeleteSecret = "{SECRET}"')
        self.assertIn("1: DeleteSecret: is the same as the secret", warning)
        self.assertNotIn(SECRET, warning)


class RuleTests(SynchronousTestCase):
    """A rule as a value."""

    def test_type_without_case(self) -> None:
        """Types are compared in lower case."""
        (rule,) = retention_rules([{"Type": "IMAGE/*", "Keep": "forever"}], Here())
        self.assertEqual(rule, RetentionRule(None, "image/*", None))
