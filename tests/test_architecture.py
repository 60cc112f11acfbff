"""The shape of the tree: who may import whom, what every vendor has, how long things may be, what start-up costs."""

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leadctl import channels, sandbox
from leadctl.channels import channel_names

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "leadctl").rglob("*.py"))
MAX_FILE = 450
MAX_FUNCTION = 60
HEAVY = ("sqlalchemy", "httpx", "pydantic", "rich", "typer", "asyncio", "aiohttp", "jinja2", "structlog")


def test_imports_go_down_only() -> None:
    """The contracts of pyproject.toml."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


@pytest.mark.parametrize("name", channel_names())
def test_every_channel_has_its_sandbox_and_its_tests(name: str) -> None:
    assert (ROOT / "leadctl" / "sandbox" / f"{name}.py").is_file(), f"{name} has no emulated vendor"
    test = ROOT / "tests" / "channels" / f"test_{name}.py"
    assert test.is_file(), f"{name} has no tests"
    assert "ChannelContract" in test.read_text(encoding="utf-8"), f"{name} does not inherit the contract suite"


def test_every_emulated_vendor_is_of_a_channel() -> None:
    core = {"judge", "server", "vendor"}
    vendors = {module.name for module in pkgutil.iter_modules(sandbox.__path__)} - core
    assert {name for name in vendors if not name.startswith("_")} <= set(channel_names())


def test_every_module_of_channels_is_a_channel() -> None:
    assert set(channel_names()) == {module.name for module in pkgutil.iter_modules(channels.__path__)}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short_and_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_FILE, f"{path.name} is longer than {MAX_FILE} lines"
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MAX_FUNCTION, f"{path.name}: {function.name} has {length} lines"
    assert ast.get_docstring(tree), f"{path.name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # In pieces, so that a search for these words finds what was left for later, and not this check.
    for word in ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error"):
        assert word not in text, f"{path.name} holds {word}"


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after this statement."""
    code = f"import sys; {statement}; print(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("statement", ["import leadctl", "import leadctl.channels; leadctl.channels.channel_names()"])
def test_starting_imports_nothing_heavy(statement: str) -> None:
    assert not imported_by(statement) & set(HEAVY)


def test_the_domain_is_standard_library_only() -> None:
    modules = [f"leadctl.domain.{module.stem}" for module in (ROOT / "leadctl" / "domain").glob("[a-z]*.py")]
    others = imported_by(f"import {', '.join(modules)}") - set(sys.stdlib_module_names) - {"leadctl"}
    assert not {name for name in others if not name.startswith("_")}
