"""The rows of LESSONS, by number, from outside.

Those with a home of their own elsewhere:

== ====================================================================================================
11 test_exit_codes::test_2_for_what_cannot_be_meant
18 test_exit_codes::test_70_for_a_bug_in_one_channel_while_the_others_go_on
21 delivery/test_engine (a virtual clock)
24 test_ids_files::test_results_are_right_after_a_kill_and_after_the_same_command
27 test_memory
28 test_commands::test_streams_of_a_pipe_hold_no_escape_codes_whatever_the_environment_says
29 channelkit/test_transport_phases
30 test_signals::test_a_signal_drains_saves_and_the_same_command_goes_on
34 test_selection
35 test_hostile
36 test_secrets
== ====================================================================================================
"""

import json
import random
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from tests.support.schemas import validate_plan_line
from tests.support.servers import everywhere
from tests.support.world import World, wait_until

#: The ledger's outcome of a send cannot be written any more.
LEDGER_GONE = """
from leadctl.domain.errors import DatabaseUnreachable
from leadctl.store.writer import LedgerWriter
async def record(self, run_id, records):
    raise DatabaseUnreachable("the ledger is gone", hint="type it again")
LedgerWriter.record = record
"""


def arrived(box: Sandbox, vendor: str, leads: Sequence[int]) -> list[int]:
    counts = box.judge.by_lead(vendor)
    return [counts[str(lead)] for lead in leads]


def amocrm_of(box: Sandbox) -> AmoCrmVendor:
    vendor = box.vendor("amocrm")
    assert isinstance(vendor, AmoCrmVendor)
    return vendor


@contextmanager
def hanging(world: World, box: Sandbox, channel: str, lead: int) -> Iterator["subprocess.Popen[str]"]:
    """A ``resend`` that the vendor has taken and does not answer; it waits as long as the vendor may."""
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script(channel, lead, ["timeout"])
    process = world.start("resend", lead, "-c", channel, "--json")
    try:
        wait_until(lambda: box.judge.by_lead(channel)[str(lead)])
        world.write_config()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_lesson_01_delivered_after_the_window_it_failed_in(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads(created_at="2026-01-10 12:00:00")
    window = ("bulk-resend", "--since", "2026-01-10", "--until", "2026-01-11", "--json")
    box.faults.script("webhooks", lead, ["unauthorized"])
    assert world.run(*window).code == 4
    assert world.run("resend", lead).code == 0
    assert world.run(*window).outcomes == {11: "already_delivered"}
    assert arrived(box, "webhooks", [lead]) == [1]


def test_lessons_02_and_03_no_silent_cap_and_page_order_is_cursor_order(world: World, box: Sandbox) -> None:
    world.connect(box, ["amocrm"])
    ids = list(range(2_000_001, 2_010_002))
    random.Random(3).shuffle(ids)
    world.add_leads(ids, comment="", answers="{}", page_url="")  # nothing for a note
    plan = world.run("plan", "--entity", 1, "--jsonl")
    *lines, summary = map(json.loads, plan.out.splitlines())
    validate_plan_line(plan.out.splitlines()[0])
    assert [line["lead_id"] for line in lines] == sorted(ids)
    assert summary["totals"]["deliveries"] == 10_001
    done = world.run("bulk-resend", "--entity", 1, "--yes", "--json")
    document = done.json
    assert (done.code, document["outcomes"]["delivered"], document["total_count"]) == (0, 10_001, 10_001)
    assert len(document["deliveries"]) == 1000, "the document is bounded, the run is not"
    assert set(arrived(box, "amocrm", ids)) == {1}


@everywhere
def test_lesson_04_a_bulk_that_was_killed_is_found_without_its_stdin(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(120)
    world.write_config("[limits.webhooks]\nrate = 0.1\n")
    process = world.start("bulk-resend", "--ids-file", "-", "--yes", stdin="\n".join(map(str, leads)))
    wait_until(lambda: any(arrived(box, "webhooks", leads)))
    process.kill()
    world.finish(process)
    world.write_config()
    (run,) = world.run("runs", "--unfinished", "--json").json["runs"]
    done = world.run("runs", "resume", run["run_id"], "--json")
    assert (done.code, done.json["total_count"], done.json["exit_code"]) == (0, 120, 0)
    assert arrived(box, "webhooks", leads) == [1] * 120


def test_lessons_05_and_32_a_manual_send_has_its_retries_whatever_was_spent_before(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["server_error"] * 3)
    spent = world.run("resend", lead, "--json")
    assert (spent.outcomes, spent.json["deliveries"][0]["attempts"]) == ({11: "unknown"}, 3)
    box.faults.script("webhooks", lead, ["server_error", "ok"])
    done = world.run("resend", lead, "--json")
    assert (done.outcomes, done.json["deliveries"][0]["attempts"]) == ({11: "delivered"}, 2)


def test_lessons_06_07_13_33_what_another_process_has_in_hand(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    lead, other = world.new_leads(2)
    with hanging(world, box, "webhooks", lead) as holder:
        (run,) = world.run("runs", "--json").json["runs"]
        shown = world.run("runs", "show", run["run_id"], "--json").json
        assert (shown["status"], shown["finished_at"], shown["exit_code"]) == ("running", None, None)
        assert (shown["outcomes"]["pending"], shown["outcomes"]["delivered"]) == (1, 0), "sent is not delivered"

        holder.send_signal(signal.SIGSTOP)  # frozen beyond every time-out of the second process
        world.write_config("[send]\ntimeout = 1\n")
        second = world.run("bulk-resend", lead, other, "--json")
        assert (second.code, second.json["status"]) == (5, "stopped"), "the run is not complete"
        assert [(d["lead_id"], d["outcome"]) for d in second.json["deliveries"]] == [
            (lead, "unprocessed"), (other, "delivered"),
        ]  # fmt: skip
        assert second.json["errors"][0]["code"] == "in_use_elsewhere"
        holder.send_signal(signal.SIGCONT)
        assert box.judge.requests("webhooks") >= 2
        assert arrived(box, "webhooks", [lead, other]) == [1, 1]
    assert world.run("bulk-resend", lead, other).code == 0, "the holder is gone: it is settled"
    assert arrived(box, "webhooks", [lead, other]) == [1, 1]


@pytest.mark.parametrize(
    ("channel", "settled_by"),
    [("webhooks", "resend"), ("amocrm", "lookup"), ("bitrix24", "lookup"), ("email", "resend")],
)
def test_lessons_08_and_31_a_kill_and_a_time_out_after_the_send_are_settled_alike(
    world: World, box: Sandbox, channel: str, settled_by: str
) -> None:
    world.connect(box, [channel])
    killed, timed_out = world.new_leads(2)
    with hanging(world, box, channel, killed):
        pass
    box.faults.script(channel, timed_out, ["timeout"])
    done = world.run("bulk-resend", killed, timed_out, "--json")
    assert (done.code, [d["settled_by"] for d in done.json["deliveries"]]) == (0, [settled_by] * 2)
    assert arrived(box, channel, [killed, timed_out]) == [1, 1]


def test_lesson_31_telegram_is_unknown_after_either(world: World, box: Sandbox) -> None:
    world.connect(box, ["telegram"])
    killed, timed_out = world.new_leads(2)
    with hanging(world, box, "telegram", killed):
        pass
    box.faults.script("telegram", timed_out, ["timeout"])
    done = world.run("bulk-resend", killed, timed_out, "--json")
    assert (done.code, [d["outcome"] for d in done.json["deliveries"]]) == (6, ["unknown", "unknown"])
    assert arrived(box, "telegram", [killed, timed_out]) == [1, 1]


def test_lessons_09_10_19_what_did_not_happen_is_said(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    box.faults.script("webhooks", lead, ["reject"])
    done = world.run("bulk-resend", lead, 404_404)
    assert done.code == 1
    for word in ("404404", "partial", "rejected", "422"):
        assert word in done.out
    assert world.run("resend", lead).code == 0
    again = world.run("resend", lead)
    assert again.out.splitlines()[-1].startswith("nothing")
    assert "1 already delivered" in again.out


def test_lesson_12_two_forced_sends_are_two_sends_both_recorded(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    assert world.run("resend", lead).code == 0
    for number in (1, 2):
        done = world.run("resend", lead, "--force", "--reason", f"lost, time {number}", "--json")
        assert (done.code, done.outcomes) == (0, {11: "delivered"})
    assert arrived(box, "webhooks", [lead]) == [3]
    sends = world.run("history", lead, "--json").json["deliveries"]
    assert [send["n"] for send in sends] == [0, 1, 2]
    assert len({send["key"] for send in sends}) == len({send["remote_id"] for send in sends}) == 3


@pytest.mark.parametrize("channel", ["webhooks", "amocrm"])
@everywhere
def test_lesson_14_an_outcome_that_cannot_be_written_is_unknown_not_lost(
    world: World, box: Sandbox, channel: str
) -> None:
    world.connect(box, [channel])
    (lead,) = world.new_leads()
    broken = world.run("resend", lead, "--json", patch=LEDGER_GONE)
    assert (broken.code, broken.json["code"]) == (5, "database_unreachable")
    assert arrived(box, channel, [lead]) == [1]
    (planned,) = world.run("plan", lead, "--json").json["leads"][0]["deliveries"]
    assert planned["state"] == "unknown"
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered"})
    assert arrived(box, channel, [lead]) == [1]


def test_lesson_15_what_was_never_tried_is_sent_by_a_retry_too(world: World, box: Sandbox) -> None:
    world.connect(box, ["telegram"])
    leads = world.new_leads(2)
    assert world.run("bulk-resend", *leads, "--retry-unknown").code == 0
    assert arrived(box, "telegram", leads) == [1, 1]
    assert not [c for c in box.judge.creations("telegram") if c.lead in map(str, leads) and "овтор" in c.detail]


def test_lesson_16_99_of_100_refused_are_99_refused(world: World, box: Sandbox) -> None:
    amocrm = amocrm_of(box)
    settings = {**amocrm.settings(), "fields": {"771004": "{{ lead.answers.heat }}"}}
    world.add_credential(11, "amocrm", amocrm.credential(), settings)
    (good,) = world.new_leads(answers=json.dumps({"heat": "hot"}))
    bad = world.new_leads(99, answers=json.dumps({"heat": "lukewarm"}))
    done = world.run("bulk-resend", good, *bad, "--json")
    assert done.json["outcomes"] == {**dict.fromkeys(done.json["outcomes"], 0), "delivered": 1, "rejected": 99}
    assert done.json["errors_count"] == 99
    assert arrived(box, "amocrm", [good, *bad]) == [1] + [0] * 99


@everywhere
def test_lesson_17_batches_before_the_kill_are_recorded(world: World, box: Sandbox) -> None:
    world.connect(box, ["bitrix24"])
    leads = world.new_leads(200)
    box.faults.script("bitrix24", leads[-1], ["timeout"])
    world.write_config("[limits]\nscale = 1\n[limits.bitrix24]\nrate = 2\n")
    process = world.start("bulk-resend", *leads, "--yes")
    wait_until(lambda: all(arrived(box, "bitrix24", leads)))
    process.kill()
    world.finish(process)
    states = dict(world.ledger_rows("SELECT state, count(*) FROM leadctl_targets GROUP BY state"))
    assert states["delivered"] >= 100, "whole batches, at once"
    assert states["delivered"] + states["sending"] == 200
    world.write_config()
    assert world.run("bulk-resend", *leads, "--yes").code == 0
    assert arrived(box, "bitrix24", leads) == [1] * 200


class Answering(BaseHTTPRequestHandler):
    """A receiver that says yes."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's name
        """Nothing is written."""


def test_lesson_20_a_failed_one_is_tried_again_although_nothing_changed(world: World) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering, bind_and_activate=False) as server:
        server.server_bind()  # the port is ours, and refuses until it is listened at
        world.add_credential(11, "webhooks", {"url": f"http://127.0.0.1:{server.server_address[1]}/x"})
        world.new_leads(external_project_id=3)
        failed = world.run("bulk-resend", "--project", 3, "--json")
        assert (failed.code, failed.outcomes) == (1, {11: "failed"})
        (planned,) = world.run("plan", "--project", 3, "--json").json["leads"][0]["deliveries"]
        assert planned["state"] == "failed"
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        assert world.run("bulk-resend", "--project", 3, "--json").outcomes == {11: "delivered"}
        server.shutdown()
        thread.join()


def test_lesson_22_a_401_costs_nothing_once_the_token_is_right(world: World, box: Sandbox) -> None:
    good = amocrm_of(box).credential()
    world.add_credential(11, "amocrm", {**good, "access_token": "revoked-0123456789"})
    (lead,) = world.new_leads(comment="", answers="{}", page_url="", phone="")
    refused = world.run("resend", lead, "--json")
    assert (refused.code, refused.outcomes) == (4, {11: "unprocessed"})
    world.set_data(11, good)
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered"})
    assert arrived(box, "amocrm", [lead]) == [1]


def test_lesson_25_a_late_time_out_on_the_note_makes_no_second_deal(world: World, box: Sandbox) -> None:
    world.connect(box, ["amocrm"])
    timed_out, cut = world.new_leads(2)
    box.faults.script("amocrm", timed_out, ["ok", "timeout"])
    box.faults.script("amocrm", cut, ["ok", "reset_before"])
    for lead in (timed_out, cut):
        done = world.run("resend", lead, "--json")
        assert (done.code, done.outcomes) == (0, {11: "delivered"})
    assert arrived(box, "amocrm", [timed_out, cut]) == [1, 1]
    notes = [note["params"]["text"] for note in amocrm_of(box).notes()]
    assert [sum(f"-{lead}-" in note for note in notes) for lead in (timed_out, cut)] == [1, 1]


def test_lesson_26_an_index_that_lags_10_seconds_makes_no_duplicate(world: World, box: Sandbox) -> None:
    """The worst case: amoCRM stores at the end of our 60 s, and shows it in its lists 10 s later."""
    amocrm = amocrm_of(box)
    world.connect(box, ["amocrm"])
    world.write_config("[limits]\nscale = 60\n")
    (lead,) = world.new_leads()
    box.faults.script("amocrm", lead, ["timeout"])
    amocrm.index_lag = (60 + 10) / 60
    try:
        done = world.run("resend", lead, "--json")
    finally:
        amocrm.index_lag = 0.0
    assert (done.code, done.json["deliveries"][0]["settled_by"]) == (0, "lookup")
    assert arrived(box, "amocrm", [lead]) == [1]
