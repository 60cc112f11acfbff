"""The look at the end of a queued bulk run, for what a vendor has only queued: a warning, never a verdict."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from leadctl.domain.errors import DatabaseUnreachable
from leadctl.sandbox.getresponse import GetResponseVendor
from leadctl.services import looking
from leadctl.services.queueing import cancel, sync
from leadctl.services.stopping import StopSwitch
from tests.fleet.desks import Desk


def dropping(desk: Desk, leads: list[int]) -> None:
    vendor = desk.box.vendor("getresponse")
    assert isinstance(vendor, GetResponseVendor)
    vendor.base.dropped.clear()
    vendor.base.dropped |= {f"lead{lead}@example.com" for lead in leads}


def test_what_is_not_seen_is_a_warning(found: Callable[..., Desk]) -> None:
    desk = found("getresponse", "webhooks")
    leads = desk.world.new_leads(12)
    dropping(desk, leads[:2])
    run = desk.queue(leads, seconds=0.01)
    assert len(desk.fleet.rows.of_run(run)) > 2
    assert desk.work() == 0
    ((notice, place),) = desk.notices
    assert (notice.code, notice.channel, place["run_id"]) == ("not_visible", "getresponse", run)
    assert "has accepted 12 leads and does not show 2 of them yet" in notice.message
    assert desk.ended(run) == ("ok", 0)
    assert desk.report(run)["outcomes"]["delivered"] == 24


def test_where_all_are_seen_nothing_is_said(found: Callable[..., Desk]) -> None:
    desk = found("getresponse")
    run = desk.queue(desk.world.new_leads(3))
    dropping(desk, [])
    desk.work()
    assert (desk.notices, desk.ended(run)) == ([], ("ok", 0))


@pytest.mark.parametrize(
    ("error", "event"), [(DatabaseUnreachable("it is away"), "look_failed"), (ZeroDivisionError(), "bug")]
)
def test_a_look_that_fails_changes_nothing(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, error: Exception, event: str
) -> None:
    async def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(looking, "look_for_accepted", failing)
    desk = found("getresponse")
    run = desk.queue(desk.world.new_leads(2))
    assert desk.work() == 0
    assert [record["run_id"] for record in desk.said(event)] == [run]
    assert desk.ended(run) == ("ok", 0)


def test_a_stop_ends_the_look_and_the_run_has_its_end(
    found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, statuses = StopSwitch(), []

    async def endless(_: Any, run_id: str, *__: Any) -> None:
        statuses.append(desk.ended(run_id))
        stop.request(signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(looking, "look_for_accepted", endless)
    desk = found("getresponse")
    run = desk.queue(desk.world.new_leads(2))
    assert desk.work(stop) == 128 + signal.SIGTERM
    assert statuses == [("ok", 0)]
    assert desk.ended(run) == ("ok", 0)
    assert not desk.said("look_failed")
    assert desk.said("worker_stopped")


def test_who_is_not_looked_for(found: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Single leads; runs that a person has cancelled; what `queue sync` closes; a credential that was refused."""
    looked: list[str] = []

    async def noting(_: Any, run_id: str, *__: Any) -> None:
        looked.append(run_id)

    monkeypatch.setattr(looking, "look_for_accepted", noting)
    desk = found("getresponse")
    single, cancelled, synced, refused = desk.world.new_leads(4)
    desk.queue([single], command="resend")
    desk.work()
    cancel(desk.app, desk.fleet, desk.queue([cancelled]))
    run = desk.queue([synced])
    (chunk,) = desk.fleet.rows.of_run(run)
    desk.fleet.rows.end(chunk, None, desk.app.clock.now(), throttled=0, report=chunk.report)
    assert sync(desk.app, desk.fleet)["closed_runs"] == [run]
    desk.box.faults.always("getresponse", "unauthorized")
    run = desk.queue([refused])
    desk.work()
    assert desk.ended(run) == ("stopped", 4)
    desk.box.faults.always("getresponse", None)
    assert looked == []
    run = desk.queue([refused])
    desk.work()
    assert looked == [run]
