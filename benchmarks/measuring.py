"""Measuring: processes by CPU, wall time and memory; sides in turn; a figure held against its target."""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
#: The installed command, as a user starts it.
LEADCTL = str(Path(PYTHON).with_name("leadctl"))
#: Seconds after which a process that hangs is ended.
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    #: Process starts that make one sample of a very short command.
    starts: int
    leads: int
    credentials: int
    bulk: int
    ledger: int
    every_command: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    number: str
    what: str
    target: str
    figure: str
    verdict: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one process took. ``cpu``: user and system seconds, its children included."""

    wall: float
    cpu: float
    peak_mb: float


def run(
    command: Sequence[str],
    *,
    folder: Path,
    stdout: IO[bytes] | None = None,
    path: Path | None = None,
) -> Spent:
    """Run a process to its end. ``path``: for Python's imports. Raises RuntimeError with its stderr where it fails."""
    with (folder / "stderr.txt").open("w+b") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=stderr,
            cwd=folder,
            env=environment(path or ROOT),
        )
        guard = threading.Timer(PATIENCE, process.kill)
        guard.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        guard.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            stderr.seek(0)
            said = stderr.read().decode("utf-8", "replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{said}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment(path: Path) -> dict[str, str]:
    """This process's, without settings of leadctl. Modules are compiled once and kept, as an installation has them,
    whatever this environment says, in a folder that goes with this process."""
    dropped = ("LEADCTL_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(path), "PYTHONPYCACHEPREFIX": _compiled().name, "NO_COLOR": "1"}


@cache
def _compiled() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="leadctl-bench-pyc-")


def in_turn(rounds: int, *sides: Callable[[], float], warm: bool = False) -> list[list[float]]:
    """Round by round every side once: what else the machine does meets all of them alike.

    The first round goes in the order given, the next one in the reverse, and so on. ``warm``: every side runs once
    before that, uncounted, for its modules to be compiled.
    """
    for side in sides if warm else ():
        side()
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        places = list(range(len(sides)))
        for place in places if number % 2 == 0 else reversed(places):
            found[place].append(sides[place]())
    return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """One side against the other: the medians' ratio, and the rounds' extremes."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Ratio":
        rounds = [our / their for our, their in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ours) / statistics.median(theirs), min(rounds), max(rounds))

    def __str__(self) -> str:
        return f"{self.value:.2f} × ({self.low:.2f}–{self.high:.2f})"


def at_most(value: float, limit: float) -> str:
    """The verdict on a figure that must not be above ``limit``."""
    return "met" if value <= limit else f"short: {value / limit:.2f} × the target"


def at_least(value: float, limit: float) -> str:
    """The verdict on a figure that must not be below ``limit``."""
    return "met" if value >= limit else f"short: {value / limit:.2f} × the target"
