"""Row 13: how fast runs are queued, and whether several workers take as long as one does at the accounts' limits.

The server writes to its disk before it answers.
"""

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.measuring import LEADCTL, PATIENCE, Row, Sizes, at_least, at_most, environment, run
from benchmarks.world import World, build
from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.fleet.fleets import counting_refusals
from tests.support.servers import Server, query, require_postgresql, running_postgresql

#: Deliveries a second that are to be queued: plan, ledger, chunks and jobs.
WANTED = 10_000
ACCOUNTS = 20
#: Leads that each of them gets: two chunks at a quarter of amoCRM's limit, where this machine is not what is measured.
LEADS = 500
SCALE = 0.25
#: Requests a second that leadctl makes of amoCRM by default.
_RATE = 5.0
#: Several workers, to what one needs at the account's limit.
SLOWER = 1.15
_QUEUE_TARGET = f"≥ {WANTED:,} deliveries/s"
_DRAIN_TARGET = f"≤ {SLOWER} ×, no 429"
_DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")


@contextmanager
def _server() -> Iterator[Server]:
    with running_postgresql(*_DURABLE) as url:
        yield Server("postgresql", int(url.rpartition(":")[2]))


def _with_ledger(world: World, url: str) -> World:
    world.config.write_text(world.config.read_text(encoding="utf-8") + f'[ledger]\nurl = "{url}"\n', encoding="utf-8")
    return world


def _queue(world: World, *options: str) -> tuple[dict[str, object], float]:
    """Everything into the queue; the run's document, and the seconds that the command took."""
    command = [LEADCTL, "--config", str(world.config), "bulk-resend", "--since", "2020-01-01", "--yes", "--quiet",
               "--json", "--queue", *options]  # fmt: skip
    with (world.folder / "run.json").open("w+b") as out:
        spent = run(command, folder=world.folder, stdout=out)
        out.seek(0)
        return json.load(out), spent.wall


def queued(sizes: Sizes, folder: Path) -> list[Row]:
    """Its first line."""
    from leadctl.channels import channel_class

    spec = channel_class("webhooks").spec
    credentials = [
        ("webhooks", {**spec.example_data, "url": f"https://crm{number}.example/hooks/leads"}, spec.example_settings)
        for number in range(ACCOUNTS)
    ]
    with _server() as server:
        world = _with_ledger(build(folder / "world", sizes.leads, credentials), server.new_database())
        run([LEADCTL, "--config", str(world.config), "queue", "init"], folder=world.folder)
        document, seconds = _queue(world)
        number = int(document["outcomes"]["pending"])  # type: ignore[index]
    rate = number / seconds
    what = f"{number:,} deliveries to {ACCOUNTS} accounts queued, durable"
    figure, verdict = f"{rate:,.0f} deliveries/s", at_least(rate, WANTED)
    return [Row("13", what, _QUEUE_TARGET, figure, verdict, f"{seconds:.1f} s, the start included")]


def _company(folder: Path, box: Sandbox, server: Server, leads: int) -> World:
    credentials = [(vendor.name, vendor.credential(), vendor.settings()) for vendor in box.vendors]
    world = build(folder, leads, credentials, f"[limits]\nscale = {SCALE}\n")
    for change in (
        "UPDATE leads SET external_entity_id = 1, external_project_id = NULL",
        "DELETE FROM project_credentials",
        "UPDATE entity_credentials SET external_entity_id = 1",
    ):
        _execute(world, change)
    return _with_ledger(world, server.new_database())


def _execute(world: World, sql: str) -> None:
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.execute(sql)


def _drained(world: World, server_url: str, workers: int) -> float:
    """Seconds from the first request to the last with so many workers."""
    command = [LEADCTL, "--config", str(world.config), "--quiet", "worker"]
    running = [
        subprocess.Popen(command, cwd=world.folder, env=environment(Path(__file__).parents[1])) for _ in range(workers)
    ]
    try:
        end = time.monotonic() + PATIENCE
        while query(server_url, "SELECT 1 FROM leadctl_runs WHERE status = 'queued'"):
            if time.monotonic() > end:
                raise RuntimeError(f"{workers} workers do not come to an end")
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    ((first, last),) = query(server_url, "SELECT min(started_at), max(ended_at) FROM leadctl_attempts")
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def drained(sizes: Sizes, folder: Path) -> list[Row]:
    """Its second line."""
    leads = LEADS if sizes.leads >= LEADS else 10
    seconds: dict[int, float] = {}
    #: By the limit's arithmetic: as long as the requests of one account take.
    limits: dict[int, float] = {}
    with _server() as server, counting_refusals() as refusals:
        for workers in (1, 2, 4):
            with running_sandbox(["amocrm"] * ACCOUNTS, scale=SCALE) as box:
                world = _company(folder / f"world-{workers}", box, server, leads)
                url = world.config.read_text(encoding="utf-8").rpartition('url = "')[2].partition('"')[0]
                run([LEADCTL, "--config", str(world.config), "queue", "init"], folder=world.folder)
                _queue(world)
                seconds[workers] = _drained(world, url, workers)
                arrived = box.judge.by_lead("amocrm")
                if set(arrived.values()) != {ACCOUNTS}:
                    raise RuntimeError(f"{workers} workers: not every lead is at every account once")
                limits[workers] = box.judge.requests("amocrm") / ACCOUNTS / (_RATE * SCALE)
        refused = refusals()
    slowest = max(seconds[workers] / limits[workers] for workers in (2, 4))
    number = ACCOUNTS * leads
    what = f"{number:,} deliveries to {ACCOUNTS} accounts of amoCRM: 2 and 4 workers to the limit's arithmetic"
    details = ", ".join(f"{n}: {seconds[n]:.1f} s, {limits[n]:.1f} s at the limit" for n in seconds)
    return [
        Row("13", what, _DRAIN_TARGET, f"{slowest:.2f} ×, {refused} × 429",
            at_most(slowest, SLOWER) if not refused else f"short: {refused} × 429", details)
    ]  # fmt: skip


def fleet(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 13."""
    try:
        require_postgresql()
    except pytest.skip.Exception as missing:
        return [
            Row("13", "deliveries queued, durable", _QUEUE_TARGET, "", "not measured", str(missing)),
            Row("13", "2 and 4 workers to the limit's arithmetic", _DRAIN_TARGET, "", "not measured", str(missing)),
        ]
    return [*queued(sizes, folder), *drained(sizes, folder)]
