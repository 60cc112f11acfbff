"""``python -m benchmarks``: measure, and print the table of README.md. ``--quick`` only shows that all of it works."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks import crowd, fleet, growth, ledger, planning, resuming, sending, starting, vendors
from benchmarks.measuring import Row, Sizes

#: Row of the table → what measures it.
SUITES: Mapping[str, Callable[[Sizes, Path], list[Row]]] = {
    "1": starting.version,
    "2": starting.help_texts,
    "3": planning.cold,
    "4": planning.many,
    "growth": growth.growth,
    "5": sending.bulk,
    "6": crowd.latency,
    "7": vendors.amocrm,
    "8": vendors.bitrix24,
    "9": vendors.smtp,
    "10": crowd.trouble,
    "11": resuming.resumed,
    "12": ledger.claims,
    "13": fleet.fleet,
}
_LEADS = 100_000
_USUAL = Sizes(rounds=3, starts=10, leads=_LEADS, credentials=3000, bulk=2000, ledger=6000, every_command=True)
_QUICK = Sizes(rounds=1, starts=1, leads=100, credentials=30, bulk=50, ledger=100, every_command=False)


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for, and print it."""
    given = _parser().parse_args(arguments)
    sizes = _QUICK if given.quick else replace(_USUAL, leads=given.leads)
    began = time.perf_counter()
    print(facts(), "", "| # | what | target | figure | verdict | beside it |", f"|{' --- |' * 6}", sep="\n", flush=True)
    # A process each: a child's peak of memory begins at its parent's, and emulated vendors remember all that they got.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for number in given.rows:
            with tempfile.TemporaryDirectory(prefix="leadctl-bench-") as folder:
                for row in pool.submit(SUITES[number], sizes, Path(folder)).result():
                    print(line(row), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s; load {_load()} at the end")
    if given.quick:
        print("--quick: the sizes are too small for these figures to say anything")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    parser.add_argument("--leads", type=int, default=_LEADS, metavar="N", help="leads of row 4 (default: %(default)s)")
    parser.add_argument(
        "--rows", type=_rows, default=list(SUITES), metavar="N,N", help=f"only these of {', '.join(SUITES)}"
    )
    return parser


def _rows(text: str) -> list[str]:
    numbers = [number.strip() for number in text.split(",")]
    unknown = [number for number in numbers if number not in SUITES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(unknown)}")
    return numbers


def facts() -> str:
    """The machine, the day, and what else it does."""
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    today = datetime.now().astimezone()
    return f"{today:%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {system}, load {_load()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (text.partition(":")[2].strip() for text in lines if text.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def line(row: Row) -> str:
    """The row in Markdown."""
    cells = (row.number, row.what, row.target, row.figure, row.verdict, row.details)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
