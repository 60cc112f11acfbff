"""A large run that goes on sends what is planned while the rest is: nothing is lost, nothing doubled, all adds up."""

from collections.abc import Sequence

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.world import World, wait_until

CHANNELS = ("webhooks", "uontravel")
#: Pages of five leads, and runs of any size count as large.
SMALL = """
import leadctl.services.planning, leadctl.services.resending
leadctl.services.planning.PAGE, leadctl.services.resending.AHEAD_FROM = 5, 1
"""
#: Half a second passes, or something else happens, before each page of the plan but the first.
BETWEEN = (
    SMALL
    + """
import time
from leadctl.domain.errors import DatabaseUnreachable
from leadctl.services.planning import Planning
pages = Planning.pages
def one_by_one(planning):
    for number, page in enumerate(pages(planning)):
        if number:
            {between}
        yield page
Planning.pages = one_by_one
"""
)
SLOW = BETWEEN.format(between="time.sleep(0.5)")
FAILING = BETWEEN.format(between='time.sleep(0.5)\n            raise DatabaseUnreachable("the database is gone")')


def counts(box: Sandbox, leads: Sequence[int], channel: str | None = None) -> list[int]:
    """How often each lead is there, over all channels or in one."""
    named = (channel,) if channel else CHANNELS
    return [sum(box.judge.by_lead(name)[str(lead)] for name in named) for lead in leads]


@pytest.fixture
def leads(world: World, box: Sandbox) -> list[int]:
    """Of a run that was killed when a few of them were sent."""
    world.connect(box, CHANNELS)
    world.write_config("[limits.webhooks]\nrate = 0.2\n[limits.uontravel]\nrate = 0.2\n")  # 20 a second
    found = world.new_leads(40)
    process = world.start("bulk-resend", *found, "--json")
    wait_until(lambda: sum(counts(box, found)) >= 5)
    process.kill()
    world.finish(process)
    world.write_config()
    return found


def run_of(world: World) -> str:
    ((run_id,),) = world.ledger_rows("SELECT id FROM leadctl_runs")
    return str(run_id)


def planned(world: World) -> int:
    """Deliveries of the run that are made, or planned so far."""
    ((number,),) = world.ledger_rows("SELECT count(*) FROM leadctl_deliveries")
    return int(number)


def test_what_is_planned_is_sent_before_the_last_page(world: World, box: Sandbox, leads: list[int]) -> None:
    before = sum(counts(box, leads))
    process = world.start("runs", "resume", run_of(world), "--json", patch=SLOW)
    wait_until(lambda: sum(counts(box, leads)) > before)
    assert planned(world) < 80
    done = world.finish(process)
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 80)
    assert counts(box, leads) == [2] * 40


def test_killed_on_the_way_it_goes_on(world: World, box: Sandbox, leads: list[int]) -> None:
    process = world.start("runs", "resume", run_of(world), "--json", patch=SLOW)
    before = sum(counts(box, leads))
    wait_until(lambda: sum(counts(box, leads)) > before + 10)
    process.kill()
    world.finish(process)
    assert planned(world) < 80
    done = world.run("runs", "resume", run_of(world), "--json", patch=SMALL)
    assert (done.code, done.json["outcomes"]["delivered"], done.json["total_count"]) == (0, 80, 40)
    assert counts(box, leads) == [2] * 40


def test_stopped_on_the_way_every_lead_has_its_outcome(world: World, box: Sandbox, leads: list[int]) -> None:
    before = sum(counts(box, leads))
    process = world.start("runs", "resume", run_of(world), "--json", patch=SLOW)
    wait_until(lambda: sum(counts(box, leads)) > before)
    process.terminate()
    stopped = world.finish(process)
    outcomes = stopped.json["outcomes"]
    assert (stopped.code, stopped.json["status"]) == (143, "stopped")
    assert outcomes["delivered"] + outcomes["unprocessed"] + outcomes["unknown"] == sum(outcomes.values()) == 80
    assert outcomes["delivered"] <= sum(counts(box, leads)) <= outcomes["delivered"] + outcomes["unknown"]
    assert outcomes["unprocessed"] >= 10, "nothing is begun after the signal"
    done = world.run("runs", "resume", run_of(world), "--json", patch=SMALL)
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 80)
    assert counts(box, leads) == [2] * 40


def test_a_failure_of_the_plan_loses_nothing(world: World, box: Sandbox, leads: list[int]) -> None:
    failed = world.run("runs", "resume", run_of(world), "--json", patch=FAILING)
    assert (failed.code, failed.json["code"]) == (5, "database_unreachable")
    assert planned(world) < 80
    done = world.run("runs", "resume", run_of(world), "--json", patch=SMALL)
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 80)
    assert counts(box, leads) == [2] * 40


def test_a_credential_that_is_new_is_sent_to_at_the_end(world: World, box: Sandbox, leads: list[int]) -> None:
    world.add_credential(90, "getresponse", box.vendor("getresponse").credential())
    done = world.run("runs", "resume", run_of(world), "--json", patch=SMALL)
    assert (done.code, done.json["outcomes"]["delivered"]) == (0, 120)
    assert counts(box, leads) == [2] * 40
    assert counts(box, leads, "getresponse") == [1] * 40


def test_what_cannot_be_sent_is_told_before_the_first_request(world: World, box: Sandbox, leads: list[int]) -> None:
    """Whatever page of the plan it stands on: nothing is sent ahead where something may be forbidden."""
    before = sum(counts(box, leads))
    world.write_config("[limits.getresponse]\nrate = 1000\nper = 1\n")
    world.add_credential(90, "getresponse", box.vendor("getresponse").credential(), entity=2)
    world.execute("UPDATE leads SET external_entity_id = 2 WHERE id = ?", leads[-1])
    refused = world.run("runs", "resume", run_of(world), "--json", patch=SMALL)
    assert refused.code == 2
    assert "limits.getresponse" in refused.json["message"]
    assert sum(counts(box, leads)) == before


#: Pages that follow sooner: the run of these tests has few.
BRISK = BETWEEN.format(between="time.sleep(0.4)")


def interrupted(world: World, box: Sandbox, done: int) -> list[int]:
    """Twenty leads of a run that was killed when about so many deliveries were made."""
    world.write_config("[limits.webhooks]\nrate = 0.2\n[limits.uontravel]\nrate = 0.2\n")
    found = world.new_leads(20)
    process = world.start("bulk-resend", *found, "--json")
    wait_until(lambda: sum(counts(box, found)) >= done)
    process.kill()
    world.finish(process)
    world.write_config()
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_credentials_that_share_a_lane_wait_for_the_whole_plan(world: World, box: Sandbox, shared: bool) -> None:
    """One of them with nothing written yet would keep the others waiting; each in a lane of its own sends ahead."""
    first, second = (vendor.credential() for vendor in box.vendors if vendor.name == "webhooks")
    world.connect(box, ["uontravel"])
    world.add_credential(21, "webhooks", first)
    world.add_credential(22, "webhooks", {**(first if shared else second), "method": "PUT"})
    leads = interrupted(world, box, 5)
    before = sum(counts(box, leads))
    process = world.start("runs", "resume", run_of(world), "--json", patch=BRISK)
    wait_until(lambda: sum(counts(box, leads)) > before)
    assert (planned(world) == 3 * len(leads)) is shared
    finished = world.finish(process)
    outcomes = finished.json["outcomes"]
    assert (finished.code, outcomes["delivered"], sum(outcomes.values())) == (0, 60, 60)
    assert counts(box, leads) == [3] * len(leads)
    assert counts(box, leads, "uontravel") == [1] * len(leads)
