"""``python -m tests.mutation [NAME…]``: changes the code that decides, one place at a time, and runs its tests.

Each mutant is tried in a process of its own, forked before any of the product's decisions are imported. A mutant that
survives is a hole in the tests, or a line that decides nothing.

mutmut 3.8 (``source_paths=leadctl``, the same tests) makes other mutants of the functions, and none of the tables: of
its 248, three survive, the arguments of ``RetryCallState`` in ``retries._state`` that no rule of tenacity's reads.
"""

import contextlib
import importlib.abc
import importlib.util
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pydantic  # noqa: F401 imported once, for all forks
import pytest
import tenacity  # noqa: F401

ROOT = Path(__file__).parents[2]
#: Module → the tests that must notice.
TARGETS = {
    "leadctl.domain.outcomes": "tests/domain/test_outcomes.py",
    "leadctl.domain.buckets": "tests/domain/test_buckets.py",
    "leadctl.delivery.retries": "tests/delivery/test_retries.py",
    "leadctl.delivery.reconcile": "tests/delivery/test_reconcile.py",
    "leadctl.delivery.breaker": "tests/delivery/test_breaker.py",
}
#: Seconds after which a mutant that loops counts as noticed.
PATIENCE = 60


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant when the module is imported."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, f"<mutant of {self._name}>", "exec"), module.__dict__)


def survives(name: str, source: str, tests: str) -> bool:
    """Whether the tests pass with this source."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    signal.alarm(PATIENCE)
    sys.meta_path.insert(0, Mutated(name, source))
    code = 70
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(ROOT / tests)]))
    finally:
        os._exit(code)


def check(name: str, tests: str) -> bool:
    """Try all mutants of a module and say what became of them."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text("utf-8")
    if not survives(name, source, tests):
        say(f"{name}: {tests} fails without any mutation")
        return False
    tried = named_mutants(source)
    alive = [mutant for mutant, text in tried.items() if survives(name, text, tests)]
    say(f"{name}: {len(tried)} mutants, {len(tried) - len(alive)} killed")
    for mutant in alive:
        say(f"  survives: {mutant}")
    return not alive


def named_mutants(source: str) -> dict[str, str]:
    """In a process of its own too: making mutants imports the enums, and forks must import them anew."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        from tests.mutation.mutants import mutants

        os.close(reading)
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            json.dump(dict(mutants(source)), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        found: dict[str, str] = json.load(pipe)
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(TARGETS)
    results = [check(name, tests) for name, tests in TARGETS.items() if any(part in name for part in wanted)]
    sys.exit(not all(results))
