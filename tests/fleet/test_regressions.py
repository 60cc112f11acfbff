"""What went wrong once, each as small as it can be shown."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from sqlalchemy import delete, make_url

from leadctl.domain.errors import DatabaseUnreachable, LeadctlError
from leadctl.domain.ports import Job
from leadctl.fleet.pgqueuer_queue import _for_asyncpg
from leadctl.services import working
from leadctl.services.queueing import close_run, listing, metrics, prune
from leadctl.services.sightings import _pause
from leadctl.services.stopping import StopSwitch
from leadctl.store.schema import deliveries
from tests.fleet.desks import Desk
from tests.fleet.fleets import HEARTBEAT, Company
from tests.support.servers import query
from tests.support.world import wait_until


def away(*_: Any, **__: Any) -> NoReturn:
    raise DatabaseUnreachable("the leads do not answer")


def test_while_the_leads_are_away_no_try_of_a_chunk_is_spent(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(2))
    monkeypatch.setattr(working, "AGAIN", 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(working, "Router", away)
        for _ in range(working.MOST_TRIES + 2):
            with pytest.raises(DatabaseUnreachable):
                desk.work()
    (chunk,) = desk.fleet.rows.of_run(run)
    assert chunk.tries == 0
    desk.work()
    assert desk.ended(run) == ("ok", 0)


def test_leads_that_go_away_in_the_middle_spend_none_either(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(2))
    monkeypatch.setattr(working, "AGAIN", 0.0)

    with monkeypatch.context() as patch:
        patch.setattr("leadctl.services.work.load_leads", away)
        with pytest.raises(DatabaseUnreachable):
            desk.work()
    (chunk,) = desk.fleet.rows.of_run(run)
    assert (chunk.tries, chunk.state.value, chunk.worker) == (0, "queued", None)
    desk.work()
    assert desk.ended(run) == ("ok", 0)


def test_a_worker_that_is_called_once_takes_over_from_the_dead(company: Company) -> None:
    company.world.new_leads(100)
    run = company.queue("--chunk", "5s")["run_id"]
    first = company.work()
    wait_until(lambda: company.done() > 20)
    first.send(signal.SIGKILL)
    first.wait()
    assert company.world.run("worker", "--once", "--heartbeat", f"{HEARTBEAT}s").code == 0
    assert company.status(run) == "ok"
    company.assert_once(100)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", {}),
        ("?connect_timeout=5&keepalives_idle=30&channel_binding=prefer", {}),
        ("?sslmode=require&application_name=leadctl", {"sslmode": "require", "application_name": "leadctl"}),
        (
            "?options=-c%20search_path%3Dcrm%20-cstatement_timeout%3D5s",
            {"search_path": "crm", "statement_timeout": "5s"},
        ),
    ],
)
def test_parameters_that_only_libpq_knows(given: str, kept: dict[str, str]) -> None:
    url = make_url(_for_asyncpg(f"postgresql://u:p%40ss@h:5/db{given}"))
    assert dict(url.query) == kept
    assert (url.username, url.password, url.host, url.port, url.database) == ("u", "p@ss", "h", 5, "db")


def test_a_ledger_with_such_parameters_has_a_queue(company: Company) -> None:
    url = f"{company.world.url}?connect_timeout=5&keepalives_idle=30&application_name=leadctl"
    assert company.world.run("queue", "init", LEADCTL_LEDGER__URL=url).code == 0
    assert company.world.run("queue", "list", LEADCTL_LEDGER__URL=url).code == 0


def test_a_chunk_of_single_requests_is_as_short_as_the_others(found: Callable[..., Desk]) -> None:
    """UniSender sends confirmation letters one by one; its import takes 500 rows."""
    desk = found("unisender")
    leads = desk.world.new_leads(30)
    desk.world.execute("UPDATE credentials SET settings = ?", '{"double_optin": 0}')
    chunks = desk.fleet.rows.of_run(desk.queue(leads, seconds=0.02))
    assert len(chunks) > 1
    assert max(chunk.deliveries for chunk in chunks) < 20


def test_what_is_queued_while_the_queue_is_looked_at(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two reads somebody hands a run over: neither is its job idle, nor its chunk without one."""
    desk = found("webhooks")
    lead, other = desk.world.new_leads(2)
    before, rows = desk.fleet.queue.keys, desk.fleet.rows.open_chunks
    made: list[str] = []

    async def keys() -> set[str]:
        known = await before()
        if not made:
            made.append(await asyncio.to_thread(desk.queue, [lead]))
        return known

    monkeypatch.setattr(desk.fleet.queue, "keys", keys)
    assert prune(desk.fleet, desk.app.clock.now())["jobs"] == 0
    monkeypatch.setattr(desk.fleet.queue, "keys", before)

    def open_chunks() -> Any:
        known = rows()
        if len(made) == 1:
            made.append(desk.queue([other]))
        return known

    monkeypatch.setattr(desk.fleet.rows, "open_chunks", open_chunks)
    assert listing(desk.app, desk.fleet)["without_job"] == 0
    desk.work()
    assert {desk.ended(run) for run in made} == {("ok", 0)}


def test_a_delivery_that_is_gone_does_not_add_up(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    first, second = desk.world.new_leads(2)
    run = desk.queue([first, second])
    with desk.app.ledger.writing.begin() as connection:
        connection.execute(delete(deliveries).where(deliveries.c.run_id == run, deliveries.c.lead_id == str(second)))
    desk.work()
    with pytest.raises(LeadctlError, match="2 in the plan, 1 with an outcome"):
        close_run(desk.app, desk.fleet.rows, run)
    assert desk.ended(run)[0] in ("queued", "running")


def test_metrics_need_no_queue(company: Company) -> None:
    company.world.new_leads(1)
    company.queue()
    query(company.world.url, "DROP TABLE leadctl_pgqueuer CASCADE")
    told = company.world.run("queue", "metrics")
    assert (told.code, "leadctl_queue_oldest_seconds" in told.out) == (0, True)


def test_an_account_that_must_wait_keeps_its_other_chunks_waiting(found: Callable[..., Desk]) -> None:
    desk = found("telegram")
    run = desk.queue(desk.world.new_leads(6), seconds=0.01)
    first, *others = desk.fleet.rows.of_run(run)
    assert others
    until = desk.app.clock.now().replace(year=2099, microsecond=0)
    desk.fleet.rows.hold_account(first.account, until)
    assert {chunk.not_before for chunk in desk.fleet.rows.of_run(run)} == {until}
    assert 'leadctl_queue_waiting_accounts{queue="integrations",channel="telegram"} 1\n' in metrics(desk.app)
    desk.work()
    assert desk.box.judge.by_lead("telegram").keys().isdisjoint({str(c.first_seq) for c in others})
    assert desk.ended(run)[0] == "queued"


def test_who_waits_for_what_a_vendor_has_queued_holds_no_thread() -> None:
    """The default pool of two cores has six."""

    async def main() -> None:
        stop = StopSwitch()
        waiting = [asyncio.create_task(_pause(3600.0, stop)) for _ in range(100)]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
        assert not any(task.done() for task in waiting)
        stop.request(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        await asyncio.wait_for(_pause(3600.0, stop), 5)

    asyncio.run(main())


def test_a_lead_that_nothing_is_linked_to_is_looked_at_once(company: Company) -> None:
    company.world.new_leads(1, external_entity_id=None, external_project_id=None, created_at="2099-01-01 00:00:00")
    assert company.world.run("watch", "--once", "--yes").code == 0
    runs = company.world.run("runs", "list", "--json").json["runs"]
    for _ in range(2):
        assert company.world.run("watch", "--once", "--yes").code == 0
    assert company.world.run("runs", "list", "--json").json["runs"] == runs


def test_jobs_are_done_by_priority_on_the_real_queue(company: Company) -> None:
    low, high = company.world.new_leads(2)
    assert company.world.run("resend", low, "-c", "webhooks", "--queue").code == 0
    said = company.world.run("resend", high, "-c", "webhooks", "--queue", "--priority", 5)
    assert "watch it with: leadctl" in said.out
    assert "--watch" in said.out
    assert company.world.run("worker", "--once", "--concurrency", 1).code == 0
    assert [creation.lead for creation in company.box.judge.creations("webhooks")] == [str(high), str(low)]


def test_a_run_that_died_is_watched_to_its_end(company: Company) -> None:
    company.world.new_leads(50)
    company.world.write_config("[limits.webhooks]\nrate = 0.05\n")
    process = company.world.start("bulk-resend", "--since", "2020-01-01", "--yes", "-c", "webhooks")
    company.world.wait_for_row("SELECT 1 FROM leadctl_attempts")
    process.kill()
    process.communicate()
    ((run,),) = company.world.ledger_rows("SELECT id FROM leadctl_runs")
    watched = company.world.run("runs", "show", run, "--watch", "--json")
    assert (watched.code, watched.json["status"]) == (5, "interrupted")


def test_enqueueing_that_dies_half_way_is_made_good(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks are in the ledger, the jobs are not: what a worker does first gives them to the queue."""
    desk = found("webhooks")

    async def dies(jobs: list[Job]) -> int:
        raise DatabaseUnreachable("the queue does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(desk.fleet.queue, "enqueue", dies)
        with pytest.raises(DatabaseUnreachable):
            desk.queue(desk.world.new_leads(3))
    (run,) = desk.fleet.rows.queued_runs()
    assert listing(desk.app, desk.fleet)["without_job"] == 1
    desk.work()
    assert desk.ended(run) == ("ok", 0)
