"""The server goes, the queue's tables go, time passes: the ledger knows what is to be done."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.fleet.conftest import founded
from tests.fleet.fleets import Company
from tests.support.servers import Server, query, require_postgresql, restart_postgresql, running_postgresql
from tests.support.world import wait_until

TABLES = ("leadctl_pgqueuer", "leadctl_pgqueuer_log", "leadctl_pgqueuer_statistics", "leadctl_pgqueuer_schedules")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Company]:
    """A company whose server nobody else needs."""
    require_postgresql()
    with running_postgresql() as url:
        server = Server("postgresql", make_url(url).port or 0)
        with founded(tmp_path, server, ["amocrm"] * 3 + ["webhooks"], 20.0) as company:
            yield company


def test_a_server_that_restarts(alone: Company) -> None:
    alone.world.new_leads(300)
    run = alone.queue("--chunk", "0.2s")["run_id"]
    for _ in range(2):
        alone.work()
    wait_until(lambda: alone.done() > 200)
    restart_postgresql(alone.world.url)
    document = alone.finish(run)
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    alone.assert_once(300)


def test_tables_of_the_queue_are_dropped(company: Company) -> None:
    company.world.new_leads(200)
    run = company.queue("--chunk", "0.1s")["run_id"]
    worker = company.work("--concurrency", 2)
    wait_until(lambda: company.done() > 200)
    query(company.world.url, f"DROP TABLE {', '.join(TABLES)} CASCADE")
    query(company.world.url, "DROP TYPE leadctl_pgqueuer_status CASCADE")
    wait_until(lambda: worker.records("worker_waiting"))
    assert "leadctl queue init" in worker.records("worker_waiting")[0]["hint"]
    worker.send(signal.SIGKILL)
    refused = company.world.run("queue", "sync")
    assert refused.code == 2
    assert "leadctl queue init" in refused.err
    assert company.world.run("queue", "init").code == 0
    synced = company.world.run("queue", "sync", "--json").json
    assert synced["enqueued"] == synced["chunks"] > 0
    assert company.world.run("queue", "sync", "--json").json["enqueued"] == 0
    company.work("--once")
    assert company.finish(run)["outcomes"]["delivered"] == 1200
    company.assert_once(200)


def test_a_delayed_run(alone: Company) -> None:
    """It is quiet until its time, survives a restart of everything, and blocks nobody."""
    company = alone
    first, second = company.world.new_leads(2)
    delay = 8.0
    began = time.monotonic()
    later = company.world.run("resend", first, "--queue", "--delay", f"{delay:g}s", "--json").json
    assert later["status"] == "queued"
    now = company.world.run("resend", second, "--queue", "--json").json
    assert company.world.run("worker", "--once").code == 0
    assert company.finish(now["run_id"])["status"] == "ok"
    assert company.world.run("runs", "show", later["run_id"], "--json").json["status"] == "queued"
    restart_postgresql(company.world.url)
    company.work()
    assert company.finish(later["run_id"])["status"] == "ok"
    assert time.monotonic() - began >= delay
    arrived = {creation.lead: creation.at for creation in company.box.judge.creations()}
    assert arrived[str(first)] - arrived[str(second)] > 1.0
    for vendor in ("amocrm", "webhooks"):
        assert set(company.box.judge.by_lead(vendor)) == {str(first), str(second)}
    company.assert_once(2)
