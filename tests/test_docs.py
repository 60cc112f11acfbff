"""The documents are true: commands parse, links lead somewhere, generated text is fresh, shown steps work."""

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from leadctl.channelkit.templates import lead_context
from leadctl.channels import channel_class, channel_names
from leadctl.cli import reference
from leadctl.cli.app import UsageError, build
from leadctl.cli.completion import tree
from leadctl.cli.context import Context, Output
from leadctl.cli.exit_codes import ExitCode
from leadctl.domain import errors
from leadctl.domain.model import Lead
from leadctl.domain.outcomes import Outcome, SkipReason
from leadctl.sandbox.judge import FAULTS
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.settings import Settings
from leadctl.settings.mapping import MappingSettings
from leadctl.version import __version__

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
#: Marker comment, language and text of a fenced block.
_FENCE = re.compile(r"(?:<!-- ([a-z]+)(?:: (\S+))? -->\n)?^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(leadctl [^`]+)`")
_CONTROL = re.compile(r"[|&;()]+")
_REDIRECT = re.compile(r"&?[<>]+&?")


@dataclass(frozen=True)
class Block:
    """A fenced block, with the comment above it."""

    language: str
    text: str
    mark: str
    argument: str


BLOCKS = [Block(m[3], m[4], m[1] or "", m[2] or "") for m in _FENCE.finditer(README)]
TESTED = [block for block in BLOCKS if block.mark == "tested"]
FILES = {block.argument: block.text for block in BLOCKS if block.mark == "file"}


def of_language(name: str) -> list[str]:
    return [block.text for block in BLOCKS if block.language == name]


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a shell line, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if _REDIRECT.fullmatch(token):
            if words and words[-1].isdigit():
                words.pop()
            next(tokens, None)
        elif _CONTROL.fullmatch(token):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def shown_commands() -> list[str]:
    """Every leadctl command of the README: of its sh blocks, and in running text."""
    lines = [line for text in of_language("sh") for line in text.replace("\\\n", " ").splitlines()]
    typed = [words for line in lines for words in simple_commands(line) if words[:1] == ["leadctl"]]
    return list(dict.fromkeys([*map(shlex.join, typed), *_INLINE.findall(README)]))


def without_effect(command: Any) -> Any:
    """The command line with every command's work taken out: it only parses."""
    command.callback = lambda *args, **values: 0
    for child in getattr(command, "commands", {}).values():
        without_effect(child)
    return command


@pytest.mark.parametrize("line", shown_commands())
def test_every_shown_command_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    context = Context(words, None, Output(StringIO()), Output(StringIO()), {})
    command = without_effect(typer.main.get_command(build()))
    assert command.main(args=words, prog_name="leadctl", standalone_mode=False, obj=context) == 0


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    command = without_effect(typer.main.get_command(build()))
    for words in (["resend"], ["resend", "42", "--nosuch"], ["nosuch"], ["sandbox", "--port", "x"]):
        with pytest.raises(UsageError):
            command.main(args=words, prog_name="leadctl", standalone_mode=False, obj=None)


def test_every_command_is_shown_by_an_example() -> None:
    shown = [line.split()[1:] for line in shown_commands()]
    for node in tree(typer.main.get_command(build())).walk():
        path = [word for word in node.path if word != "list"]  # the group's name alone lists
        assert any(words[: len(path)] == path for words in shown), f"no example of leadctl {node.name}"


def config_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not MappingSettings:
            yield from config_keys(inner, name)
        else:
            yield f"{prefix}.{name}" if prefix else name


def test_every_config_key_is_documented_in_its_table() -> None:
    (text,) = re.findall(r"<!-- generated:config -->\n```toml\n(.*?)```", README, re.DOTALL)
    documented, table = set(), ""
    plain, _, mapped = text.partition("# [database.mapping]\n")
    for line in plain.splitlines():
        if header := re.fullmatch(r"(?:# )?\[([a-z]+)(?:\..*)?\]", line):
            table = header[1]
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            documented.add(f"{table}.{key[1]}" if table else key[1])
    assert documented | {"database.mapping"} == {*config_keys(Settings), "limits.rate", "limits.per"}
    example = tomllib.loads("[database.mapping]\n" + "\n".join(line.removeprefix("# ") for line in mapped.splitlines()))
    mapping = MappingSettings.model_validate(example["database"]["mapping"])
    assert set(MappingSettings.model_fields) - mapping.model_fields_set == {"settings"}  # like data


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_documented(code: ExitCode) -> None:
    assert f"| {int(code)} | {code.meaning} |" in README


@pytest.mark.parametrize("name", channel_names())
def test_every_channel_is_in_the_matrix_and_in_what_it_promises(name: str) -> None:
    (matrix,) = re.findall(r"<!-- generated:channels -->\n(.*?)<!-- /", README, re.DOTALL)
    (errors_table,) = re.findall(r"<!-- generated:errors -->\n(.*?)<!-- /", README, re.DOTALL)
    assert f"| `{name}` |" in matrix
    assert errors_table.count(f"| `{name}` |") == len(channel_class(name).spec.errors)
    promises = README.partition("## What each channel can promise")[2].partition("\n## ")[0]
    title = channel_class(name).spec.title.split(" /")[0].split(" (")[0]
    assert f"- **{title}**" in promises


@pytest.mark.parametrize("word", [*Outcome, *SkipReason, *FAULTS, *lead_context(Lead(1))])
def test_every_word_of_a_closed_vocabulary_is_explained(word: str) -> None:
    shown = word if word not in lead_context(Lead(1)) else f"lead.{word}"
    assert word == Outcome.PENDING or f"`{shown}`" in README


def test_every_error_type_is_explained() -> None:
    for kind in errors.DeliveryError.__subclasses__():
        assert f"| `{kind.__name__}` |" in README


def test_every_log_event_exists() -> None:
    (listed,) = re.findall(r"### Log events\n\n(.*?)\n\n", README, re.DOTALL)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "leadctl").rglob("*.py"))
    names = set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", listed)))
    assert names >= {"run_started", "run_finished", "credential_parked", "throttled", "token_refreshed", "progress"}
    for name in names:
        assert f'"{name}"' in sources, f"no event is called {name}"


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = {line.split()[1] for text in of_language("sh") for line in text.splitlines() if line.startswith("make ")}
    named = shown | set(re.findall(r"`make ([a-z]+)`", README))
    assert {"demo", "test", "check", "bench", "help"} <= named <= targets


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("text", [README, CHANGELOG], ids=["README", "CHANGELOG"])
def test_links_lead_somewhere(text: str) -> None:
    prose = _FENCE.sub("", text)
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("#"):
            assert target[1:] in anchors, f"no heading has the anchor {target}"
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), f"there is no file {target}"


def test_generated_text_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err
    assert set(re.findall(r"<!-- generated:([a-z-]+) -->", README)) == {
        "help", "exit-codes", "channels", "config", "errors", "fault-matrix"
    }  # fmt: skip


def test_blocks_are_what_they_say() -> None:
    assert all(block.language or block.mark == "" for block in BLOCKS)
    for text in of_language("json"):
        json.loads(text)
    for text in of_language("toml"):
        Settings.model_validate(tomllib.loads(text))
    for text in of_language("python"):
        compile(text, "README.md", "exec")


def test_the_changelog_knows_the_version() -> None:
    assert re.search(r"^## \[Unreleased\]$", CHANGELOG, re.MULTILINE)
    assert __version__ in CHANGELOG
    for name in channel_names():
        assert f"`{name}`" in CHANGELOG


# --- what is shown is done


@dataclass
class Reader:
    """Somebody who does what the README says, in an empty folder, with ``leadctl`` on the path."""

    folder: Path

    def __post_init__(self) -> None:
        shim = self.folder / "bin" / "leadctl"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m leadctl "$@"\n')
        shim.chmod(0o755)

    def run(self, command: Sequence[str]) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEADCTL_")}
        environment = {
            **kept, "PATH": f"{self.folder / 'bin'}:{kept['PATH']}", "PYTHONWARNINGS": "error",
            "LEADCTL_NETWORK__ALLOW_PRIVATE": "127.0.0.0/8", "LEADCTL_LIMITS__SCALE": "20",
        }  # fmt: skip
        ran = subprocess.run(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert ran.returncode == 0, f"{command[-1]}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def do(self, block: Block, box: Sandbox) -> None:
        match block.language:
            case "sql":
                self._make_database(block.text, box)
            case "python":
                self.run([sys.executable, "-c", block.text])
            case "sh":
                self.run(["sh", "-euc", block.text.replace("RUN", self._latest_run())])

    def _make_database(self, sql: str, box: Sandbox) -> None:
        """As shown; then the sandbox's credentials stand where the reader's own would."""
        with closing(sqlite3.connect(self.folder / "leads.db")) as connection, connection:
            connection.executescript(sql)
            connection.execute("DELETE FROM credentials")
            connection.execute("DELETE FROM entity_credentials")
            for number, vendor in enumerate(box.vendors, 1):
                row = (number, vendor.name, vendor.name, json.dumps(vendor.credential()), json.dumps(vendor.settings()))
                connection.execute("INSERT INTO credentials VALUES (?, ?, ?, 1, ?, ?)", row)
                connection.execute("INSERT INTO entity_credentials VALUES (7, ?)", (number,))

    def _latest_run(self) -> str:
        if not (self.folder / "leads.db.leadctl.db").exists():
            return "RUN"
        runs: list[Mapping[str, Any]] = json.loads(self.run(["leadctl", "runs", "--json"]))["runs"]
        return str(runs[0]["run_id"])


def test_the_tested_steps_work_one_after_the_other(tmp_path: Path) -> None:
    assert [block.language for block in TESTED] == ["sql", "sh", "sh", "sh", "sh", "sh", "python"]
    reader = Reader(tmp_path)
    with running_sandbox(scale=20) as box:
        for block in TESTED:
            reader.do(block, box)
        for name in channel_names():
            assert box.judge.by_lead(name) == {"42": 1, "43": 1, "44": 1}, name
    delivered = (tmp_path / "results" / "delivered.csv").read_text(encoding="utf-8")
    assert len(delivered.splitlines()) == 1 + 2 * (len(channel_names()) - 1)


def test_the_imagined_channel_passes_the_contract_suite(tmp_path: Path) -> None:
    """The files of "Add a channel", laid beside the real ones for one process."""
    assert sorted(FILES) == ["leadctl/channels/acme.py", "leadctl/sandbox/acme.py", "tests/channels/test_acme.py"]
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    code = f"""
import sys
import leadctl.channels, leadctl.sandbox, pytest
leadctl.channels.__path__.append({str(tmp_path / "leadctl" / "channels")!r})
leadctl.sandbox.__path__.append({str(tmp_path / "leadctl" / "sandbox")!r})
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", {str(tmp_path)!r},
                      {str(tmp_path / "tests" / "channels" / "test_acme.py")!r}]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
