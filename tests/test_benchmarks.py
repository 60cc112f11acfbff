"""The benchmarks run and print every row. What they measure is judged by ``make bench``, not here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = ["#", "what", "target", "figure", "verdict", "beside it"]
VERDICTS = ("met", "short: ", "stated", "not measured")
#: Row of the table → how many lines it has.
LINES = {"1": 2, "2": 2, "3": 2, "4": 7, "5": 4, "6": 1, "7": 1, "8": 2, "9": 1, "10": 1, "11": 3, "12": 3, "13": 2}


def test_the_suite_runs_and_prints_every_row() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    table = [line for line in ran.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == COLUMNS
    found: dict[str, int] = {}
    for number, what, target, figure, verdict, _ in cells[2:]:
        found[number] = found.get(number, 0) + 1
        assert what
        assert target
        assert any(character.isdigit() for character in figure) or verdict == "not measured", what
        assert verdict.startswith(VERDICTS), f"{what}: {verdict}"
    assert found == LINES


def test_a_row_that_is_not_there_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "--rows", "99"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "no such row: 99" in ran.stderr
