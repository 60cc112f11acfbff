"""The fleet as a person and a program see it: what each command prints, ends with, and does beside the others."""

import signal
from datetime import datetime

import pytest

from tests.fleet.fleets import HEARTBEAT, Company
from tests.support.world import wait_until


def test_a_run_is_watched_from_anywhere(company: Company) -> None:
    """``--watch`` ends as the run does, and says what the foreground would have said."""
    company.world.new_leads(200)
    run = company.queue("--chunk", "0.2s")["run_id"]
    watching = company.world.start("runs", "show", run, "--watch", "--json")
    shown = company.world.run("runs", "list", "--json").json["runs"][0]
    assert (shown["run_id"], shown["status"]) == (run, "queued")
    company.work()
    wait_until(lambda: company.done() > 100)
    assert watching.poll() is None
    watched = company.world.finish(watching)
    assert (watched.code, watched.json["status"]) == (0, "ok")
    assert watched.json["outcomes"]["delivered"] == 1200
    assert "\r" not in watched.err
    assert "\x1b" not in watched.err
    company.assert_once(200)


def test_workers_and_a_foreground_run_on_the_same_leads(company: Company) -> None:
    leads = company.world.new_leads(300)
    run = company.queue("--chunk", "0.2s")["run_id"]
    company.work()
    company.work()
    wait_until(lambda: company.done() > 50)
    here = company.world.run("bulk-resend", *leads, "--yes", "--json")
    assert company.finish(run)["outcomes"]["delivered"] > 0
    assert here.code in (0, 5), here.err  # 5: what a worker had in hand for too long
    company.assert_once(300)
    again = company.world.run("bulk-resend", *leads, "--yes", "--json")
    assert (again.code, again.json["outcomes"]["already_delivered"]) == (0, 1800)


def test_the_queue_is_listed_cancelled_and_repeated(company: Company) -> None:
    company.world.new_leads(3)
    run = company.queue()["run_id"]
    listed = company.world.run("queue", "list", "--json").json
    assert listed["runs"] == [run]
    assert sum(lane["deliveries"] for lane in listed["accounts"]) == 18
    chunks = company.world.run("queue", "show", run, "--json").json["chunks"]
    assert {chunk["state"] for chunk in chunks} == {"queued"}
    cancelled = company.world.run("queue", "cancel", run, "--json")
    assert (cancelled.code, cancelled.json["cancelled"]) == (0, len(chunks))
    stopped = company.world.run("runs", "show", run, "--json").json
    assert (stopped["status"], stopped["outcomes"]["unprocessed"], stopped["exit_code"]) == ("stopped", 18, 5)
    assert company.world.run("worker", "--once").code == 0
    assert company.done() == 0
    repeated = company.world.run("queue", "retry", run, "--json")
    assert (repeated.code, repeated.json["status"], repeated.json["outcomes"]["pending"]) == (0, "queued", 18)
    assert company.world.run("worker", "--once").code == 0
    assert company.finish(run)["status"] == "ok"
    company.assert_once(3)
    pruned = company.world.run("queue", "prune", "--before", "2099-01-01T00:00", "--json").json
    assert pruned["chunks"] == len(chunks)
    assert "leadctl_queue_chunks" in company.world.run("queue", "metrics").out


@pytest.mark.parametrize("command", [["cancel"], ["retry"], ["show"]])
def test_a_run_that_nobody_knows(company: Company, command: list[str]) -> None:
    refused = company.world.run("queue", *command, "20260101-000000-none", "--json")
    assert (refused.code, refused.json["exit_code"]) == (2, 2)
    assert "20260101-000000-none" in refused.json["message"]
    assert refused.json["hint"]


def test_a_killed_workers_chunk_goes_on_within_the_heartbeat(company: Company) -> None:
    company.world.new_leads(200)
    run = company.queue("--chunk", "0.5s")["run_id"]
    first, second = company.work(), company.work()
    wait_until(
        lambda: company.done() > 100 and len(first.records("chunk_started")) > len(first.records("chunk_finished"))
    )
    first.send(signal.SIGKILL)
    first.wait()
    last = max(datetime.fromisoformat(record["timestamp"]) for record in first.records())
    ended = {record["chunk"] for record in first.records("chunk_finished")}
    in_hand = {record["chunk"] for record in first.records("chunk_started")} - ended
    assert in_hand
    assert company.finish(run)["status"] == "ok"
    taken = {r["chunk"]: datetime.fromisoformat(r["timestamp"]) for r in second.records("chunk_started")}
    assert in_hand <= taken.keys()
    # After the last word of the dead: the heartbeat, a look a second, and the way there.
    assert max((taken[chunk] - last).total_seconds() for chunk in in_hand) < HEARTBEAT + 10
    assert {record["run_id"] for record in second.records("chunk_started")} == {run}
    assert len({record["worker"] for record in second.records("chunk_started")}) == 1
    company.assert_once(200)
