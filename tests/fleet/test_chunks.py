"""What becomes of chunks and their runs: the same ends as in the foreground. One process, the queue in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.services.queueing import Fleet, cancel, chunks_of, listing, metrics, prune, sync
from leadctl.services.requests import LeadSelection, Queueing, SendRequest
from leadctl.services.resending import resume, send
from leadctl.services.stopping import StopSwitch
from leadctl.services.working import AGAIN, MOST_TRIES
from leadctl.store.chunks import ChunkState
from tests.fleet.desks import SCALE, Desk
from tests.fleet.memory_queue import MemoryQueue
from tests.support.schemas import validate


@contextmanager
def faulty(desk: Desk, vendor: str, kind: str) -> Iterator[None]:
    desk.box.faults.always(vendor, kind)
    try:
        yield
    finally:
        desk.box.faults.always(vendor, None)


@pytest.mark.parametrize(
    ("kind", "status", "exit_code", "outcome"),
    [(None, "ok", 0, "delivered"), ("reject", "partial", 1, "rejected"), ("unauthorized", "stopped", 4, "unprocessed")],
)
def test_a_run_ends_as_in_the_foreground(
    found: Callable[..., Desk], kind: str | None, status: str, exit_code: int, outcome: str
) -> None:
    desk = found("webhooks")
    leads = desk.world.new_leads(5)
    desk.box.faults.always("webhooks", kind)
    run = desk.queue(leads)
    assert desk.ended(run) == ("queued", None)
    assert desk.work() == 0
    assert desk.ended(run) == (status, exit_code)
    assert desk.report(run)["outcomes"][outcome] == 5
    desk.box.faults.always("webhooks", None)
    again = desk.queue(leads)
    desk.work()
    assert desk.report(again)["outcomes"]["delivered" if kind else "already_delivered"] == 5


def test_retry_queues_what_is_left(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    leads = desk.world.new_leads(3)
    with faulty(desk, "webhooks", "unauthorized"):
        run = desk.queue(leads)
        desk.work()
    assert desk.ended(run) == ("stopped", 4)
    document = resume(desk.app, run, observer=lambda _: None, stop=StopSwitch(), queue=True)
    assert (document["run_id"], document["status"], document["outcomes"]["pending"]) == (run, "queued", 3)
    desk.work()
    assert desk.ended(run) == ("ok", 0)


def test_a_chunk_waits_for_a_vendor_that_is_down_and_goes_on(found: Callable[..., Desk]) -> None:
    desk = found("webhooks", config="[send]\npatience = 0.2\ntries = 50\n")
    run = desk.queue(desk.world.new_leads(8))
    with faulty(desk, "webhooks", "502"):
        assert desk.work() == 0
        assert desk.ended(run) == ("running", None)
        assert desk.report(run)["outcomes"]["pending"] == 8
    (chunk,) = desk.fleet.rows.of_run(run)
    assert (chunk.state, chunk.tries) == (ChunkState.QUEUED, 1)
    assert chunk.not_before is not None
    assert desk.said("chunk_put_back")[0]["again_s"] == pytest.approx(max(1.0, AGAIN / SCALE), abs=0.5)
    assert listing(desk.app, desk.fleet)["accounts"][0]["not_before"] is not None
    desk.app.clock.now = lambda now=desk.app.clock.now: now() + timedelta(seconds=5)  # type: ignore[method-assign, misc]
    assert desk.work() == 0
    assert desk.ended(run) == ("ok", 0)


def test_what_nobody_comes_to_the_end_of_is_given_up(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(2))
    (chunk,) = desk.fleet.rows.of_run(run)
    for number in range(MOST_TRIES):
        begun = desk.fleet.rows.begin(chunk, f"worker-{number}", desk.app.clock.now())
        assert begun is not None
    desk.work()
    assert desk.ended(run) == ("stopped", 5)
    document = desk.report(run)
    assert document["outcomes"]["unprocessed"] == 2
    assert f"{MOST_TRIES} times" in document["errors"][0]["message"]


def test_a_cancelled_run_sends_nothing_more(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(4))
    document = cancel(desk.app, desk.fleet, run)
    validate(document)
    assert (document["cancelled"], document["running"]) == (1, 0)
    assert desk.ended(run) == ("stopped", 5)
    assert desk.report(run)["errors"][0]["message"] == "the run was cancelled"
    with pytest.raises(ConfigError, match="not queued"):
        cancel(desk.app, desk.fleet, run)
    resume(desk.app, run, observer=lambda _: None, stop=StopSwitch())
    assert desk.ended(run) == ("ok", 0)


def test_a_chunk_that_is_cancelled_in_a_worker_that_died(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(4))
    (chunk,) = desk.fleet.rows.of_run(run)
    assert desk.fleet.rows.begin(chunk, "gone", desk.app.clock.now())
    assert cancel(desk.app, desk.fleet, run)["running"] == 1
    assert desk.ended(run) == ("running", None)
    desk.work()
    assert desk.ended(run) == ("stopped", 5)
    assert desk.report(run)["outcomes"]["unprocessed"] == 4


def test_a_credential_that_leads_elsewhere_by_now_gets_nothing(found: Callable[..., Desk]) -> None:
    desk = found("telegram")
    run = desk.queue(desk.world.new_leads(2))
    data = dict(desk.box.vendor("telegram").credential())
    before = len(desk.box.judge.creations("telegram"))
    desk.world.set_data(11, {**data, "message_thread_id": 7})
    desk.work()
    assert desk.ended(run) == ("stopped", 4)
    assert desk.report(run)["errors"][0]["message"].startswith("the credential was changed")
    assert len(desk.box.judge.creations("telegram")) == before


def test_a_credential_that_is_switched_off_gets_nothing(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(2))
    desk.world.execute("UPDATE credentials SET enabled = ?", False)
    desk.work()
    assert desk.ended(run) == ("stopped", 4)


def test_chunks_are_cut_by_time_and_do_not_overlap(found: Callable[..., Desk]) -> None:
    desk = found("webhooks", "amocrm")
    run = desk.queue(desk.world.new_leads(50), seconds=0.01)
    document = chunks_of(desk.app, run)
    validate(document)
    for channel in ("webhooks", "amocrm"):
        rows = [chunk for chunk in desk.fleet.rows.of_run(run) if chunk.channel == channel]
        assert len(rows) > 1
        assert sum(row.deliveries for row in rows) == 50
        assert all(one.last_seq < other.first_seq for one, other in pairwise(rows))
    desk.work()
    assert desk.ended(run) == ("ok", 0)
    assert {row["chunk"] for row in desk.said("chunk_finished")} == {chunk["no"] for chunk in document["chunks"]}


def test_sync_gives_the_queue_what_it_lost(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    run = desk.queue(desk.world.new_leads(2))
    lost = Fleet(desk.fleet.rows, MemoryQueue())
    assert listing(desk.app, lost)["without_job"] == 1
    first, second = sync(desk.app, lost), sync(desk.app, lost)
    validate(first)
    assert (first["enqueued"], second["enqueued"]) == (1, 0)
    desk.work()
    assert desk.ended(run) == ("ok", 0)


def test_prune_and_metrics(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    desk.queue(desk.world.new_leads(3))
    text = metrics(desk.app)
    assert 'leadctl_queue_chunks{queue="integrations",channel="webhooks",state="queued"} 1\n' in text
    assert 'leadctl_queue_deliveries{channel="webhooks",outcome="pending"} 3\n' in text
    desk.work()
    assert 'leadctl_queue_deliveries{channel="webhooks",outcome="delivered"} 3\n' in metrics(desk.app)
    now = desk.app.clock.now()
    assert prune(desk.fleet, now - timedelta(days=1))["chunks"] == 0
    document = prune(desk.fleet, now + timedelta(days=1))
    validate(document)
    assert document["chunks"] == 1


def test_a_forced_run_is_not_queued_twice(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    leads = desk.world.new_leads(1)
    run = desk.queue(leads, force_reason="lost there")
    with pytest.raises(ConfigError, match=run):
        desk.queue(leads, force_reason="lost there")


def test_priorities(found: Callable[..., Desk]) -> None:
    desk = found("webhooks")
    first, second = desk.world.new_leads(2)
    desk.queue([first])
    request = SendRequest("resend", LeadSelection([second]), queueing=Queueing("integrations", priority=5))
    send(desk.app, request, confirm=lambda _: None, observer=lambda _: None, stop=StopSwitch())
    before = len(desk.box.judge.creations("webhooks"))
    desk.work()
    arrived = [creation.lead for creation in desk.box.judge.creations("webhooks")[before:]]
    assert arrived == [str(second), str(first)]
