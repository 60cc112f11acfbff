"""Row 5: a bulk run to one webhook receiver that answers at once, beside bare loops."""

import json
import os
import statistics
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import LEADCTL, PYTHON, ROOT, Ratio, Row, Sizes, Spent, at_least, environment, in_turn, run
from benchmarks.world import World, build

#: A Python that has Apprise (``python -m venv …; pip install apprise``); without it that peer is left out.
APPRISE = "LEADCTL_BENCH_APPRISE"
#: No limit of ours shall be in the way: 1,000/s is the most that may be set, times a scale for test servers.
_LIMITS = "[limits]\nscale = 20.0\n[limits.webhooks]\nrate = 1000\n"


@contextmanager
def receiver(*options: str) -> Iterator[str]:
    """The receiver's URL."""
    process = subprocess.Popen(
        [PYTHON, "-m", "benchmarks.receiver", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(ROOT),
        cwd=ROOT,
    )
    with process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/hooks/leads"
        finally:
            process.terminate()


def account(url: str, count: int) -> dict[str, Any]:
    """What has arrived since the last look. Raises RuntimeError if it is not ``count`` different events."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    if not found["count"] == found["distinct"] == count:
        raise RuntimeError(f"{count} events were to arrive, {found['count']} did, {found['distinct']} different ones")
    return found


class _Sides:
    """leadctl and the bare loops, against one receiver."""

    def __init__(self, url: str, world: World, count: int, concurrency: int) -> None:
        self._url = url
        self._world = world
        self._count = count
        self._concurrency = concurrency
        self._size = 0
        self.spent: dict[str, list[Spent]] = {}
        self.middle: list[float] = []

    def leadctl(self) -> float:
        """A whole run: planned, claimed, sent and recorded. Its requests a second, as the receiver saw them."""
        self._world.forget()  # else all of it would be proven already
        command = [LEADCTL, "--config", str(self._world.config), "bulk-resend", "--entity", "1", "--yes", "--quiet"]
        found = self._measured("leadctl", command)
        self._size = found["size"]
        self.middle.append(found["middle_rate"])
        return float(found["rate"])

    def aiohttp(self) -> float:
        return self._peer("aiohttp", self._size, self._concurrency)

    def jobs(self) -> float:
        return self._peer("jobs", self._size)

    def queue(self) -> float:
        for old in self._world.folder.glob("jobs.db*"):
            old.unlink()
        return self._peer("queue", self._size, self._world.folder / "jobs.db")

    def apprise(self) -> float:
        return self._peer("apprise", self._size, python=os.environ[APPRISE])

    def _peer(self, name: str, *more: object, python: str = PYTHON) -> float:
        """With bodies of the size that leadctl has sent."""
        peers = str(Path(__file__).with_name("peers.py"))
        command = [python, peers, name, self._url, str(self._count), *map(str, more)]
        return float(self._measured(name, command)["rate"])

    def _measured(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        self.spent.setdefault(name, []).append(run(command, folder=self._world.folder))
        return account(self._url, self._count)

    def whole(self, name: str) -> float:
        """Requests a second over the whole life of the process."""
        return self._count / statistics.median(spent.wall for spent in self.spent[name])

    def cpu(self, name: str) -> float:
        """CPU of a request, in µs, starting included."""
        return statistics.median(spent.cpu for spent in self.spent[name]) / self._count * 1e6


def bulk(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 5."""
    from leadctl.channels import channel_class

    spec = channel_class("webhooks").spec
    with receiver() as url:
        credential = ("webhooks", {**spec.example_data, "url": url}, spec.example_settings)
        world = build(folder / "bulk", sizes.bulk, [credential], _LIMITS)
        sides = _Sides(url, world, sizes.bulk, spec.concurrency)
        ours, bare, queue, jobs = in_turn(sizes.rounds, sides.leadctl, sides.aiohttp, sides.queue, sides.jobs)
        apprise = _to_apprise(sizes, sides)
    to_bare, to_queue, to_jobs = (Ratio.of(ours, theirs) for theirs in (bare, queue, jobs))
    rates = [statistics.median(side) for side in (ours, bare, queue, jobs)]
    whole = ", ".join(f"{sides.whole(name):,.0f}/s" for name in ("leadctl", "aiohttp", "queue", "jobs"))
    what = f"bulk of {sizes.bulk:,} to a webhook receiver, ledger durable, {spec.concurrency} in flight, requests/s"
    return [
        Row("5", f"{what}, to a bare aiohttp loop", "≥ 0.35 ×", str(to_bare), at_least(to_bare.value, 0.35),
            f"{rates[0]:,.0f}/s to {rates[1]:,.0f}/s ({statistics.median(sides.middle):,.0f}/s in the middle half of "
            f"the run); CPU a request {sides.cpu('leadctl'):,.0f} µs to {sides.cpu('aiohttp'):,.0f} µs"),
        Row("5", "the same, to a queue worker: one job, one request, kept alive; its table durable", "≥ 2 ×",
            str(to_queue), at_least(to_queue.value, 2.0), f"{rates[0]:,.0f}/s to {rates[2]:,.0f}/s"),
        Row("5", "the same, to that loop without its table: jobs cost nothing", "≥ 2 ×",
            str(to_jobs), at_least(to_jobs.value, 2.0),
            f"{rates[0]:,.0f}/s to {rates[3]:,.0f}/s; whole commands, start and plan included: {whole}"),
        apprise,
    ]  # fmt: skip


def _to_apprise(sizes: Sizes, sides: _Sides) -> Row:
    what = "the same, to Apprise's library, a notification at a time"
    if APPRISE not in os.environ:
        return Row("5", what, "≥ 5 ×", "–", "not measured", f"name a Python that has it in {APPRISE}")
    ours, theirs = in_turn(sizes.rounds, sides.leadctl, sides.apprise)
    ratio = Ratio.of(ours, theirs)
    rates = f"{statistics.median(ours):,.0f}/s to {statistics.median(theirs):,.0f}/s"
    return Row("5", what, "≥ 5 ×", str(ratio), at_least(ratio.value, 5.0), rates)
