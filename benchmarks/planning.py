"""Rows 3 and 4: planning one lead from a cold start, and planning very many."""

import json
import resource
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import LEADCTL, PYTHON, Ratio, Row, Sizes, Spent, at_most, in_turn, run
from benchmarks.world import World, build, every_channel

MEMORY_MB = 150
#: "The same": what a larger number of leads may add.
SAME = 1.1

#: Runs a command of leadctl and writes down which modules it has imported and which statements it has executed.
_TRACED = """
import json, sys
from sqlalchemy import Engine, event
queries = []
@event.listens_for(Engine, "before_cursor_execute")
def note(connection, cursor, statement, parameters, context, many):
    queries.append([connection.engine.url.database, statement, list(parameters)])
from leadctl.__main__ import main
target, sys.argv[1:] = sys.argv[1], sys.argv[2:]
code = main()
modules = [name for name in sys.modules if name != "__main__"]
json.dump({"modules": modules, "queries": queries}, open(target, "w"))
sys.exit(code)
"""

_SCRIPT = """
import importlib
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a name that another module put there
import sqlite3
connections = {{}}
for path, statement, parameters in {queries!r}:
    if path not in connections:
        connections[path] = sqlite3.connect(path + "?mode=ro", uri=True)
    connections[path].execute(statement, parameters).fetchall()
"""


def cold(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 3."""
    few = build(folder / "few", 1000, every_channel(5))
    many = build(folder / "many", 1000, every_channel(sizes.credentials))
    make_ledgers(few, many)
    return [
        _cold(few, "5 credentials", sizes),
        _cold(many, f"{sizes.credentials:,} credentials", sizes),
    ]


def _cold(world: World, name: str, sizes: Sizes) -> Row:
    arguments = ["--config", str(world.config), "plan", "42"]
    trace = world.folder / "trace.json"
    run([PYTHON, "-c", _TRACED, str(trace), *arguments], folder=world.folder)
    seen = json.loads(trace.read_text())
    libraries = [module for module in seen["modules"] if module.partition(".")[0] != "leadctl"]
    for module, imports in (("bare", libraries), ("own_modules", seen["modules"])):
        text = _SCRIPT.format(modules=imports, queries=seen["queries"])
        (world.folder / f"{module}.py").write_text(text)

    ours, bare, own = in_turn(
        sizes.rounds,
        lambda: run([LEADCTL, *arguments], folder=world.folder).cpu,
        lambda: _script(world, "bare"),
        lambda: _script(world, "own_modules"),
        warm=True,
    )
    ratio = Ratio.of(ours, bare)
    spent = ", ".join(
        f"{what} {statistics.median(times) * 1000:.0f} ms"
        for what, times in (("leadctl", ours), ("script", bare), ("script that imports leadctl's modules too", own))
    )
    return Row(
        "3", f"`leadctl plan 42` cold, {name}, CPU, to a script with the same imports and queries", "≤ 1.2 ×",
        str(ratio), at_most(ratio.value, 1.2), f"{len(seen['queries'])} queries; {spent}",
    )  # fmt: skip


def _script(world: World, module: str) -> float:
    return run([PYTHON, "-c", f"import {module}"], folder=world.folder, path=world.folder).cpu


def make_ledgers(*worlds: World) -> None:
    """Empty ledgers, as they are after a first run that sent nothing: then they are asked too.

    In a process of its own: what this one imports would count into the memory of its children.
    """
    code = (
        "import sys; from leadctl.settings import load_settings; from leadctl.services.bootstrap import open_app\n"
        "for path in sys.argv[1:]: open_app(load_settings(path, {}), create_ledger=True).close()"
    )
    run([PYTHON, "-c", code, *(str(world.config) for world in worlds)], folder=worlds[0].folder)


def many(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 4."""
    credentials = every_channel(sizes.credentials)
    small = build(folder / "tenth", sizes.leads // 10, credentials)
    large = build(folder / "all", sizes.leads, credentials)
    make_ledgers(small, large)
    tenth = plan(small)
    plans: list[Spent] = []

    def ours() -> float:
        plans.append(plan(large))
        return plans[-1].cpu

    mine, bare = in_turn(sizes.rounds, ours, lambda: scan(large))
    ratio = Ratio.of(mine, bare)
    peak = statistics.median(spent.peak_mb for spent in plans)
    per_lead = (statistics.median(mine) - tenth.cpu) / (sizes.leads - sizes.leads // 10) * 1e6
    written = (large.folder / "plan.jsonl").stat().st_size / 1e6
    large.scatter_projects(sizes.credentials)
    scattered = plan(large)
    return [
        Row("4", f"plan of {sizes.leads:,} leads, {sizes.credentials:,} credentials, `--jsonl`, CPU, to a bare scan",
            "≤ 3 ×", str(ratio), at_most(ratio.value, 3.0),
            f"{statistics.median(mine):.2f} s to {statistics.median(bare):.2f} s, {written:.0f} MB written; "
            f"{per_lead:.0f} µs a lead beyond the start"),
        Row("4", f"its resident memory, and that of {sizes.leads // 10:,} leads", f"≤ {MEMORY_MB} MB, the same",
            f"{peak:.0f} MB, {tenth.peak_mb:.0f} MB", _memory(peak, tenth.peak_mb), _own_peak(peak)),
        Row("4", "its memory where entity and project of a lead do not depend on each other", f"≤ {MEMORY_MB} MB",
            f"{scattered.peak_mb:.0f} MB", at_most(scattered.peak_mb, MEMORY_MB), f"CPU {scattered.cpu:.2f} s"),
    ]  # fmt: skip


def _memory(large: float, small: float) -> str:
    if large > MEMORY_MB:
        return at_most(large, MEMORY_MB)
    return at_most(large, small * SAME)


def _own_peak(peak: float) -> str:
    """A child's peak begins at ours when it is forked."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return "at most: this process itself has as much" if ours >= peak else ""


def plan(world: World) -> Spent:
    """The plan of all leads, into a file beside the database."""
    command: Sequence[str] = [LEADCTL, "--config", str(world.config), "plan", "--since", "2000-01-01", "--jsonl"]
    with (world.folder / "plan.jsonl").open("wb") as output:
        return run(command, folder=world.folder, stdout=output)


def scan(world: World) -> float:
    """Over the bytes of the latest plan."""
    command = [PYTHON, "-m", "benchmarks.peers", "scan", str(world.database), str(world.folder / "plan.jsonl")]
    with (world.folder / "scan.jsonl").open("wb") as output:
        return run(command, folder=world.folder, stdout=output).cpu
