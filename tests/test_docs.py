"""The documentation says what is: links lead somewhere, commands exist, snippets load, tables are complete."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from hmacfs.cli import parser
from hmacfs.cli.commands import every_command
from hmacfs.config import load
from hmacfs.errors import StartError
from hmacfs.metrics import Metrics
from tests.e2e.processes import ROOT
from tests.e2e.signing import SECRET

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
_SPAN = re.compile(r"`([^`\n]+)`")
#: What takes a status and a reason word.
_REFUSING = ("Refused", "MalformedHead", "canned_answer")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(markdown: str) -> str:
    """The prose alone: what looks like a link or a heading in code is none."""
    return _SPAN.sub("", _FENCED.sub("", markdown))


def snippets(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [code for name, code in _FENCED.findall(text(page)) if name == language]


def anchors(page: Path) -> set[str]:
    """What a link into the page may name, as the usual renderers make it of headings."""
    headings = re.findall(r"^#+ +(.+)$", _FENCED.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[str]:
    """Every line of shell on the page, without prompt, comment and the directory of the program."""
    markdown = text(page)
    lines = [
        line.strip().removeprefix("$ ")
        for block in _INDENTED.findall(_FENCED.sub("", markdown))
        for line in block.splitlines()
    ]
    lines += [
        line.removeprefix("$ ") for code in snippets(page, "console") for line in code.splitlines() if line[:2] == "$ "
    ]
    lines += _SPAN.findall(_FENCED.sub("", markdown))
    return (re.sub(r"^\S*/", "", line.partition(" # ")[0]).strip() for line in lines)


def rows(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, a list of cells each."""
    _, _, below = text(page).partition(f"\n{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


class LinkTests(SynchronousTestCase):
    """From page to page."""

    def test_links(self) -> None:
        """Every relative link names a file that is there, and a heading in it."""
        for page in PAGES:
            for target in _LINK.findall(without_code(text(page))):
                if "://" in target:
                    continue
                name, _, anchor = target.partition("#")
                linked = (page.parent / name).resolve() if name else page
                self.assertTrue(linked.exists(), f"{page.name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(linked), f"{page.name}: {target}")

    def test_index(self) -> None:
        """The index leads to every page."""
        index = ROOT / "docs" / "index.md"
        linked = {target.partition("#")[0] for target in _LINK.findall(text(index))}
        pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {index.name}
        self.assertEqual(pages - linked, set())


class CommandTests(SynchronousTestCase):
    """What the pages tell their readers to type."""

    def test_make(self) -> None:
        """Every target of make that is named exists."""
        targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
        named = {
            (page.name, match[1])
            for page in PAGES
            for line in commands(page)
            if (match := re.match(r"make ([a-z]+)", line))
        }
        self.assertIn(("README.md", "run"), named)
        self.assertEqual({(page, target) for page, target in named if target not in targets}, set())

    def test_hmacfs(self) -> None:
        """Every ``hmacfs`` command that is named exists, with its options."""
        named = {(page.name, line) for page in PAGES for line in commands(page) if re.match(r"hmacfs [a-z]", line)}
        self.assertIn("README.md", {page for page, _ in named})
        for page, line in named:
            words = shlex.split(line.partition(">")[0])
            help_text = self.help_of(words)
            self.assertIsNotNone(help_text, f"{page}: {line}")
            for option in (word for word in words if re.match(r"--?[a-z]", word)):
                self.assertRegex(help_text or "", rf"{re.escape(option)}\b", f"{page}: {line}")

    def help_of(self, words: list[str]) -> str | None:
        """What the command that a line begins with says of itself; ``None`` if there is no such command."""
        helps = {command.words: command.parser.format_help() for command in every_command(parser())}
        beginnings = (" ".join(words[:count]) for count in range(len(words), 1, -1))
        return next((helps[words] for words in beginnings if words in helps), None)


class SnippetTests(SynchronousTestCase):
    """Code on the pages."""

    def test_toml(self) -> None:
        """Every piece of configuration loads, once it has a secret and the files that it names.

        Those of ``configuration.md`` are looked at in :mod:`tests.test_config`.
        """
        for page in ("operators-guide.md", "proxies.md"):
            found = snippets(ROOT / "docs" / page, "toml")
            self.assertNotEqual(found, [], page)
            for code in found:
                self.check_config(page, code)

    def check_config(self, page: str, code: str) -> None:
        """Load a piece of configuration."""
        with tempfile.TemporaryDirectory(prefix="hmacfs-") as directory:
            code = code.replace("/etc/hmacfs", directory)
            for name in ("secret", "upload-secret", "privkey.pem", "cert.pem", "chain.pem"):
                Path(directory, name).write_text(f"{SECRET}\n", encoding="ascii")
            config = Path(directory, "config.toml")
            missing = "" if "SecretFile" in code else 'SecretFile = "secret"\n'
            config.write_text(missing + code, encoding="utf-8")
            try:
                load(config, {"CREDENTIALS_DIRECTORY": directory})
            except StartError as error:
                self.fail(f"{page}: {error}")

    def test_unit(self) -> None:
        """systemd's unit has the sections that it needs, and starts what there is."""
        [unit] = snippets(ROOT / "docs" / "operators-guide.md", "ini")
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(unit)
        self.assertEqual(parser.sections(), ["Unit", "Service", "Install"])
        self.assertRegex(parser["Service"]["ExecStart"], r"^/\S+/twistd --nodaemon --pidfile= hmacfs --config /\S+$")

    def test_json(self) -> None:
        """JSON is JSON."""
        found = [code for page in PAGES for code in snippets(page, "json")]
        self.assertGreater(len(found), 1)
        for code in found:
            json.loads(code)


@frozen
class Reason:
    """One reason word of the code, with one status that it is used with."""

    word: str
    status: int


def reasons() -> set[Reason]:
    """Every reason word that stands in the code."""
    found: set[Reason] = set()
    for module in (ROOT / "hmacfs").rglob("*.py"):
        for node in ast.walk(ast.parse(text(module))):
            found.update(_reasons_of(node))
    return found


def _reasons_of(node: ast.AST) -> Iterator[Reason]:
    """What one call refuses with, or what is noted for the log alone: there the connection has ended, which is 499."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _REFUSING:
        status, word = (_constant(argument) for argument in node.args[:2])
        if isinstance(status, int) and isinstance(word, str):
            yield Reason(word, status)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reportMalformed":
        status, word = (_constant(argument) for argument in node.args[1:3])
        if isinstance(status, int) and isinstance(word, str):
            yield Reason(word, status)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "_STATUSES":
        # What a dialect has another status for.
        assert isinstance(node.value, ast.Dict)
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            word, status = _constant(key), _constant(value)
            assert isinstance(status, int) and isinstance(word, str)
            yield Reason(word, status)
    elif (
        isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and node.targets[0].attr == "reason"
    ):
        word = _constant(node.value)
        if isinstance(word, str) and word != "internal":
            yield Reason(word, 499)


def _constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


class TableTests(SynchronousTestCase):
    """Tables that are to be complete."""

    def listed(self, page: str, heading: str, word: int, status: int) -> set[Reason]:
        """What a table says, given the columns of the words and of the statuses."""
        return {
            Reason(reason, int(number))
            for cells in rows(ROOT / "docs" / page, heading)
            for position, reason in enumerate(_SPAN.findall(cells[word]))
            for number in self.numbers(cells[status], position, len(_SPAN.findall(cells[word])))
        }

    def numbers(self, cell: str, position: int, words: int) -> list[str]:
        """The statuses of one of several words: its own where there are as many, otherwise all."""
        numbers = re.findall(r"\d+", cell)
        return [numbers[position]] if words == len(numbers) > 1 else numbers

    def test_reasons(self) -> None:
        """The operator's guide has every reason word of the code, with its statuses, and no other."""
        self.assertIn(Reason("bad-signature", 403), reasons())
        self.assertEqual(self.listed("operators-guide.md", "## Reasons", 0, 1), reasons())

    def test_reasons_of_clients(self) -> None:
        """The protocol's page has every one of them that a client can be told."""
        told = {reason for reason in reasons() if reason.status != 499 and reason.word != "head-timeout"}
        self.assertEqual(self.listed("protocol.md", "### Status codes and reason words", 1, 0), told)

    def test_metrics(self) -> None:
        """The operator's guide has every metric, under the name that Prometheus gets."""
        metrics = Metrics()
        for gauge in (metrics.redis_up, metrics.redis_round_trip_seconds):
            metrics.watch(gauge, lambda: 1.0)
        types = re.findall(r"^# TYPE (hmac_file_server_\w+) ", metrics.expose().decode(), re.MULTILINE)
        exposed = {name for name in types if not name.endswith("_created")}
        table = rows(ROOT / "docs" / "operators-guide.md", "## Metrics")
        self.assertEqual({name for cells in table for name in _SPAN.findall(cells[0])}, exposed)


#: What hmacfs says to Redis outside of scripts; AUTH needs no permission.
_REDIS_CONNECTION = {"ping", "select", "eval", "evalsha", "subscribe"}


class SecurityTests(SynchronousTestCase):
    """The page on security promises nothing that isn't looked after."""

    page = ROOT / "docs" / "security.md"

    def test_tests(self) -> None:
        """Every test that is named as the proof of a promise exists, and every promise names one."""
        there = {
            f"{module.stem}.{suite.name}.{test.name}"
            for module in (ROOT / "tests").rglob("test_*.py")
            for suite in ast.parse(text(module)).body
            if isinstance(suite, ast.ClassDef)
            for test in suite.body
            if isinstance(test, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        promises, _, _ = text(self.page).partition("## What it doesn't promise")
        named = [span for span in _SPAN.findall(promises) if span.startswith("test_")]
        self.assertGreater(len(named), 50)
        self.assertEqual(set(named) - there, set())
        for heading in re.findall(r"^### .*$", promises, re.MULTILINE):
            for _, proof in rows(self.page, heading):
                self.assertIn("`test_", proof, heading)

    def test_redis_user(self) -> None:
        """The user for Redis may do all that the scripts do, and nothing else."""
        [line] = [line for line in text(self.page).splitlines() if line.startswith("user hmacfs ")]
        called = {
            command.lower()
            for module in (ROOT / "hmacfs").rglob("*.py")
            for command in re.findall(r"""redis\.p?call\(['"](\w+)""", text(module))
        }
        self.assertEqual(set(re.findall(r" \+(\w+)", line)), called | _REDIS_CONNECTION)

    def test_compared_in_constant_time(self) -> None:
        """No MAC, signature or token of a client is compared with ``==`` where the other side is the right one."""
        suspicious = re.compile(
            r"(?<!\w)(mac|signature|expected|computed|given)(\([^)]*\))? (==|!=) |(==|!=) (mac|given)\b"
        )
        for module in (ROOT / "hmacfs" / "access").glob("*.py"):
            self.assertIsNone(suspicious.search(text(module)), module.name)
        for name in ("signatures.py", "diagnosis.py"):
            self.assertIn("hmac.compare_digest(", text(ROOT / "hmacfs" / "access" / name), name)
