"""How the cost of a plan grows with its leads: a row for the table, and a plot, ``growth.svg`` beside this file."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import log10
from pathlib import Path

import pytest

from benchmarks.measuring import Ratio, Row, Sizes, Spent, at_most, in_turn
from benchmarks.planning import MEMORY_MB, SAME, make_ledgers, plan, scan
from benchmarks.world import World, build, every_channel
from tests.support.servers import Server, connected, require_postgresql, running_postgresql
from tests.support.world import World as ServerWorld

PLOT = Path(__file__).with_name("growth.svg")
#: The numbers of leads, as parts of the one that the other rows have; the last is a million.
_STEPS = (0.01, 0.1, 1, 10)
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """What a plan of so many leads takes."""

    leads: int
    cpu: float
    peak_mb: float


def growth(sizes: Sizes, folder: Path) -> list[Row]:
    """The rows, and the plot where a million leads were planned."""
    credentials = every_channel(sizes.credentials)
    numbers = [max(1, int(sizes.leads * step)) for step in _STEPS]
    worlds = [build(folder / f"leads{number}", number, credentials) for number in numbers]
    make_ledgers(*worlds)
    points = [
        _point(number, [plan(world) for _ in range(sizes.rounds)])
        for number, world in zip(numbers, worlds, strict=True)
    ]
    text = svg(points, sizes.credentials)
    (PLOT if numbers[-1] >= _MILLION else folder / "growth.svg").write_text(text)
    later = beyond(points)
    flat = max(later) / min(later) if min(later) > 0 else 0.0
    peaks = [point.peak_mb for point in points]
    return [
        Row("4", f"how it grows: CPU a lead, beyond the plan of {numbers[0]:,}", "flat",
            ", ".join(f"{number:,}: {cost:.1f} µs" for number, cost in zip(numbers[1:], later, strict=True)),
            "stated", f"largest to smallest {flat:.2f}; growth.svg"),
        Row("4", "how it grows: resident memory", f"≤ {MEMORY_MB} MB, the same",
            ", ".join(f"{peak:.0f} MB" for peak in peaks),
            at_most(max(peaks), min(MEMORY_MB, min(peaks) * SAME)), "of " + ", ".join(f"{n:,}" for n in numbers)),
        _largest(worlds[-1], numbers[-1], sizes),
        _on_postgresql(worlds[-1], numbers[-1], folder / "server"),
    ]  # fmt: skip


def _largest(world: World, leads: int, sizes: Sizes) -> Row:
    mine, bare = in_turn(sizes.rounds, lambda: plan(world).cpu, lambda: scan(world))
    ratio = Ratio.of(mine, bare)
    return Row(
        "4", f"plan of {leads:,} leads, `--jsonl`, CPU, to a bare scan", "≤ 3 ×", str(ratio),
        at_most(ratio.value, 3.0), f"{min(mine):.2f} s to {min(bare):.2f} s at best",
    )  # fmt: skip


def _on_postgresql(world: World, leads: int, folder: Path) -> Row:
    """The same leads in a database of a server."""
    what, target = f"plan of {leads:,} leads that PostgreSQL has: resident memory", f"≤ {MEMORY_MB} MB"
    try:
        require_postgresql()
    except pytest.skip.Exception as missing:
        return Row("4", what, target, "", "not measured", str(missing))
    with running_postgresql() as url:
        there = ServerWorld(folder, server=Server("postgresql", int(url.rpartition(":")[2])))
        _copy(world, there.url)
        spent = plan(World(there.folder))
    return Row("4", what, target, f"{spent.peak_mb:.0f} MB", at_most(spent.peak_mb, MEMORY_MB), f"{spent.wall:.1f} s")


def _copy(world: World, url: str) -> None:
    with closing(sqlite3.connect(world.database)) as source, connected(url) as target:
        for table in ("credentials", "entity_credentials", "project_credentials", "leads"):
            rows = source.execute(f"SELECT * FROM {table}")
            names = ", ".join(column[0] for column in rows.description)
            with target.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def _point(leads: int, samples: Sequence[Spent]) -> Point:
    """The best of the samples: the machine's other work only adds."""
    return Point(leads, min(spent.cpu for spent in samples), max(spent.peak_mb for spent in samples))


def beyond(points: Sequence[Point]) -> list[float]:
    """Microseconds a lead, beyond what the first of the points takes: that is the start, mostly."""
    first = points[0]
    return [(point.cpu - first.cpu) / (point.leads - first.leads) * 1e6 for point in points[1:]]


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 300, 170, 60, 50, 60


def svg(points: Sequence[Point], credentials: int) -> str:
    """Two plots side by side over the number of leads."""
    total = 2 * (_WIDTH + _LEFT) + 40
    costs = list(zip([point.leads for point in points[1:]], beyond(points), strict=True))
    memory = [(point.leads, point.peak_mb) for point in points]
    shown = [point.leads for point in points]
    size = f"0 0 {total} {_TOP + _HEIGHT + _BOTTOM}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">',
        f'<rect width="{total}" height="{_TOP + _HEIGHT + _BOTTOM}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">leadctl plan --jsonl, {credentials:,} credentials, SQLite</text>',
        *_panel(_LEFT, "CPU a lead beyond the start, µs", shown, costs, lambda value: f"{value:.1f}"),
        *_panel(2 * _LEFT + _WIDTH + 20, "resident memory, MB", shown, memory, lambda value: f"{value:.0f}"),
        "</svg>\n",
    ])  # fmt: skip


def _panel(
    left: int, title: str, shown: Sequence[int], values: Sequence[tuple[int, float]], said: Callable[[float], str]
) -> list[str]:
    """One plot: leads on a logarithmic axis, values from zero."""
    top = max((value for _, value in values), default=1.0) * 1.4 or 1.0
    span = log10(shown[-1] / shown[0]) or 1.0
    bottom = _TOP + _HEIGHT

    def across(leads: int) -> float:
        return left + 15 + (_WIDTH - 30) * log10(leads / shown[0]) / span

    places = [(across(leads), bottom - _HEIGHT * max(0.0, value) / top, value) for leads, value in values]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    return [
        f'<text x="{left}" y="{_TOP - 10}">{title}</text>',
        f'<path d="M{left},{_TOP} V{bottom} H{left + _WIDTH}" fill="none" stroke="#888"/>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>',
        *(f'<text x="{across(n):.1f}" y="{bottom + 18}" text-anchor="middle">{n:,}</text>' for n in shown),
        f'<text x="{left + _WIDTH / 2:.0f}" y="{bottom + 40}" text-anchor="middle">leads</text>',
        f'<polyline points="{line}" fill="none" stroke="#1668b8" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#1668b8"/>' for x, y, _ in places),
        *(f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">{said(value)}</text>' for x, y, value in places),
    ]
