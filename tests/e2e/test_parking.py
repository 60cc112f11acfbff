"""From outside: parked credentials, outages, a person's word, sends of several steps, and forced ones."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from leadctl.sandbox._amocrm_rules import TokenOffice
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.bitrix24 import CONTACT, DEAL, Bitrix24Vendor
from leadctl.sandbox.server import Sandbox
from tests.support.world import Finished, World, wait_until

HOLD = {"on_unknown": "hold"}


@pytest.fixture
def amocrm(box: Sandbox) -> AmoCrmVendor:
    vendor = box.vendor("amocrm")
    assert isinstance(vendor, AmoCrmVendor)
    vendor.oauth = TokenOffice()
    return vendor


@pytest.fixture
def bitrix24(box: Sandbox) -> Bitrix24Vendor:
    vendor = box.vendor("bitrix24")
    assert isinstance(vendor, Bitrix24Vendor)
    return vendor


def counts(box: Sandbox, channel: str, leads: Sequence[int]) -> list[int]:
    return [box.judge.by_lead(channel)[str(lead)] for lead in leads]


def of_channel(done: Finished, channel: str) -> list[dict[str, Any]]:
    return [delivery for delivery in done.json["deliveries"] if delivery["channel"] == channel]


def history(world: World, lead: int) -> dict[int, dict[str, Any]]:
    """credential → what is known of the lead there; the latest send."""
    return {life["credential_id"]: life for life in world.run("history", lead, "--json").json["deliveries"]}


# --- parked credentials -------------------------------------------------------------------------------------------


def test_a_token_that_dies_in_the_middle_parks_its_credential_and_burns_no_tries(
    world: World, box: Sandbox, amocrm: AmoCrmVendor
) -> None:
    world.write_config("[send]\ntries = 1\n[limits.amocrm]\nrate = 0.05\n")  # 5 requests a second
    world.connect(box, ["webhooks"])
    token = {"base_url": amocrm.url, "access_token": amocrm.oauth.access_token}
    world.add_credential(20, "amocrm", token, amocrm.settings())
    leads = world.new_leads(100)
    process = world.start("bulk-resend", *leads, "--json", "--log-format", "json", "--yes")
    wait_until(lambda: sum(counts(box, "amocrm", leads)) > 5)
    amocrm.oauth.expire()
    done = world.finish(process)
    document, there = done.json, sum(counts(box, "amocrm", leads))
    assert (done.code, document["status"]) == (4, "stopped")
    assert document["by_channel"] == {
        "webhooks": {"delivered": 100},
        "amocrm": {"delivered": there, "unprocessed": 100 - there},
    }
    assert {e["code"] for e in document["errors"] if e["lead_id"] in leads[there:]} == {"credential_refused"}
    parked = done.record("credential_parked")
    assert (parked["credential_id"], parked["credential_name"]) == (20, "amocrm 20")
    shown = world.run("runs", "show", document["run_id"]).out
    assert f"amocrm #20 amocrm 20: {100 - there} × credential_refused" in shown
    assert "channels check amocrm --credential 20" in shown

    steps = [
        made + bool(_notes_of(amocrm, [lead])) for lead, made in zip(leads, counts(box, "amocrm", leads), strict=True)
    ]
    assert steps[-1] == 0
    world.set_data(20, amocrm.credential())
    world.write_config("[send]\ntries = 1\n")
    mended = world.run("bulk-resend", *leads, "--json", "--yes")
    assert mended.code == 0, mended.json["errors"][:3]
    assert Counter(d["outcome"] for d in of_channel(mended, "webhooks")) == {"already_delivered": 100}
    whole, noteless, missing = ("already_delivered", 0), ("delivered", 1), ("delivered", 2)
    sent = {d["lead_id"]: (d["outcome"], d["attempts"]) for d in of_channel(mended, "amocrm")}
    assert [sent[lead] for lead in leads] == [(missing, noteless, whole)[done] for done in steps]
    for channel in ("webhooks", "amocrm"):
        assert counts(box, channel, leads) == [1] * 100
    assert len(_notes_of(amocrm, leads)) == 100


def _notes_of(amocrm: AmoCrmVendor, leads: Sequence[int]) -> list[dict[str, Any]]:
    shown = {f": {lead} [" for lead in leads}
    return [note for note in amocrm.notes() if any(text in note["params"]["text"] for text in shown)]


def test_a_ban_in_the_middle_ends_the_credential_for_this_run_without_probing(
    world: World, box: Sandbox, amocrm: AmoCrmVendor
) -> None:
    world.write_config("[send]\ntries = 1\n[limits.amocrm]\nrate = 0.05\n")
    numbers = world.connect(box, ["amocrm", "webhooks"])
    leads = world.new_leads(70)
    process = world.start("bulk-resend", *leads, "--json", "--yes")
    wait_until(lambda: sum(counts(box, "amocrm", leads)) > 5)
    requests = box.judge.requests("amocrm")
    amocrm.banned = True
    done = world.finish(process)
    document, there = done.json, sum(counts(box, "amocrm", leads))
    assert (done.code, document["status"]) == (5, "stopped")
    assert document["by_channel"]["webhooks"] == {"delivered": 70}
    assert document["by_channel"]["amocrm"] == {"delivered": there, "unprocessed": 70 - there}
    errors = Counter((error["credential_id"], error["code"]) for error in document["errors"])
    assert errors[numbers["amocrm"], "limit_reached"] == 70 - there
    assert box.judge.requests("amocrm") <= requests + 2, "one was on its way; the next one was refused"

    amocrm.banned = False
    world.write_config()
    resumed = world.run(*shlex.split(document["next_command"])[3:], "--json")
    assert (resumed.code, resumed.json["outcomes"]["delivered"]) == (0, 140), "the missing notes too"
    assert counts(box, "amocrm", leads) == [1] * 70
    assert len(_notes_of(amocrm, leads)) == 70


# --- outages ------------------------------------------------------------------------------------------------------


def test_an_outage_shorter_than_patience_costs_time_only(world: World, box: Sandbox) -> None:
    world.connect(box, ["bitrix24", "telegram"])
    (known,) = world.new_leads()
    assert world.run("resend", known, "-c", "bitrix24").code == 0  # a portal whose owner is seen to read our leads
    leads = world.new_leads(50)
    box.faults.always("bitrix24", "server_error")
    process = world.start("bulk-resend", *leads, "--json", "--log-format", "json")
    wait_until(lambda: sum(counts(box, "telegram", leads)) > 0)
    requests = box.judge.requests("bitrix24")
    time.sleep(3)
    asked = box.judge.requests("bitrix24") - requests
    assert sum(counts(box, "telegram", leads)) == 50, "the other lane was not slowed"
    assert counts(box, "bitrix24", leads) == [0] * 50
    assert asked in range(1, 30), "it is asked whether it is well again, ever less often"
    box.faults.clear()
    done = world.finish(process)
    assert (done.code, done.json["status"]) == (0, "ok"), done.json["errors"][:3]
    tries = sorted(d["attempts"] for d in of_channel(done, "bitrix24"))
    assert tries == [1] * 47 + [2] * 3, "only those that opened the breaker were tried"
    assert {d["attempts"] for d in of_channel(done, "telegram")} == {1}
    assert counts(box, "bitrix24", leads) == [1] * 50
    assert done.record("throttled")["channel"] == "bitrix24"


def test_an_outage_longer_than_patience_and_the_same_command_delivers(world: World, box: Sandbox) -> None:
    world.write_config("[send]\npatience = 0.5\n")
    world.connect(box, ["amocrm", "webhooks"])
    leads = world.new_leads(30)
    box.faults.always("amocrm", "bad_gateway")
    done = world.run("bulk-resend", *leads, "--json")
    document = done.json
    assert (done.code, document["status"]) == (5, "stopped")
    assert document["by_channel"]["webhooks"] == {"delivered": 30}
    assert "vendor_down" in {error["code"] for error in document["errors"]}
    assert document["next_command"].endswith(f"runs resume {document['run_id']}")
    attempts = sorted(delivery["attempts"] for delivery in of_channel(done, "amocrm"))
    assert attempts[-1] <= 3
    assert attempts[:20] == [0] * 20

    box.faults.clear()
    again = world.run("bulk-resend", *leads, "--json")
    assert (again.code, again.json["by_channel"]["amocrm"]) == (0, {"delivered": 30})
    for channel in ("amocrm", "webhooks"):
        assert counts(box, channel, leads) == [1] * 30


# --- a person's word ----------------------------------------------------------------------------------------------


def test_on_unknown_hold_leaves_what_is_in_doubt_to_a_person_and_the_next_run_acts_on_it(
    world: World, box: Sandbox
) -> None:
    faults = {"amocrm": "reset", "bitrix24": "reset", "email": "reset", "webhooks": "reset_before"}
    numbers = dict(zip(faults, range(11, 15), strict=True))
    (lead,) = world.new_leads()
    for channel, number in numbers.items():
        vendor = box.vendor(channel)
        world.add_credential(number, channel, vendor.credential(), {**vendor.settings(), **HOLD})
        box.faults.script(channel, lead, [faults[channel]])
    done = world.run("resend", lead, "--json")
    assert (done.code, set(done.outcomes.values())) == (6, {"unknown"})
    assert [d["attempts"] for d in done.json["deliveries"]] == [1] * 4

    requests = [box.judge.requests(channel) for channel in faults]
    again = world.run("resend", lead, "--json")
    assert (again.code, set(again.outcomes.values())) == (6, {"unknown"})
    assert [box.judge.requests(channel) for channel in faults] == requests, "nobody is asked, nothing is sent"
    for number, answer in ((11, "--delivered"), (14, "--not-delivered")):
        settle = world.run("settle", lead, "--credential", number, answer, "--reason", "seen there", "--json")
        assert (settle.code, len(settle.json["settled"])) == (0, 1)

    last = world.run("resend", lead, "--json")
    assert (last.code, last.outcomes) == (6, {11: "already_delivered", 12: "unknown", 13: "unknown", 14: "delivered"})
    assert {d["credential_id"]: d["settled_by"] for d in last.json["deliveries"]}[11] == "operator"
    assert [counts(box, channel, [lead]) for channel in faults] == [[1]] * 4
    lives = history(world, lead)
    assert (lives[11]["state"], lives[11]["settled_by"], lives[14]["state"]) == ("delivered", "operator", "delivered")
    for number, found in ((11, "found"), (14, "absent")):
        (said,) = (attempt for attempt in lives[number]["attempts"] if attempt["trigger"] == "operator")
        assert (said["outcome"], said["answer"]) == (found, "seen there")


def test_a_crash_in_the_middle_is_held_too(world: World, box: Sandbox) -> None:
    vendor = box.vendor("webhooks")
    world.add_credential(11, "webhooks", vendor.credential(), HOLD)
    (lead,) = world.new_leads()
    world.write_config("[limits]\nscale = 1\n")
    box.faults.script("webhooks", lead, ["timeout"])
    process = world.start("resend", lead)
    wait_until(lambda: counts(box, "webhooks", [lead]) == [1])
    process.kill()
    world.finish(process)
    requests = box.judge.requests("webhooks")
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (6, {11: "unknown"})
    assert box.judge.requests("webhooks") == requests


def test_how_each_was_settled_is_said_by_runs_show_and_history(world: World, box: Sandbox) -> None:
    numbers = world.connect(box, ["amocrm", "bitrix24", "email", "webhooks"])
    (lead,) = world.new_leads()
    expected = {"amocrm": "lookup", "bitrix24": "lookup", "email": None, "webhooks": "resend"}
    for channel in ("amocrm", "bitrix24", "webhooks"):
        box.faults.script(channel, lead, ["reset"])
    done = world.run("resend", lead, "--json")
    assert done.code == 0
    shown = world.run("runs", "show", done.json["run_id"], "--json").json
    assert {d["channel"]: d["settled_by"] for d in shown["deliveries"]} == expected
    assert shown == {**done.json, "next_command": shown["next_command"]}
    lives = history(world, lead)
    assert {channel: lives[number]["settled_by"] for channel, number in numbers.items()} == expected
    triggers = {channel: [a["trigger"] for a in lives[number]["attempts"]] for channel, number in numbers.items()}
    assert triggers["webhooks"] == ["first", "retry"]
    assert triggers["amocrm"][:2] == triggers["bitrix24"][:2] == ["first", "lookup"]
    assert [counts(box, channel, [lead]) for channel in expected] == [[1]] * 4


# --- several steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["timeout", "reset_before"])
def test_a_late_failure_of_the_last_step_repeats_no_earlier_one(
    world: World, box: Sandbox, amocrm: AmoCrmVendor, bitrix24: Bitrix24Vendor, fault: str
) -> None:
    world.connect(box, ["amocrm"])
    world.add_credential(12, "bitrix24", bitrix24.credential(), {"entity": "deal"})
    (lead,) = world.new_leads()
    for channel in ("amocrm", "bitrix24"):
        box.faults.script(channel, lead, ["ok", fault])
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered", 12: "delivered"})
    rows = world.ledger_rows("SELECT credential_id, t.key, done FROM leadctl_targets t")
    steps = {int(number): json.loads(text) for number, _, text in rows}
    keys = {int(number): key for number, key, _ in rows}
    (deal,) = (made for made in amocrm.leads.values() if str(made.id) == steps[11]["lead"])
    (note,) = _notes_of(amocrm, [lead])
    assert steps[11] == {"lead": str(deal.id), "contact": str(deal.contact_id), "note": str(note["id"])}
    assert note["entity_id"] == deal.id
    (contact,) = (i for i in bitrix24.items[CONTACT].values() if i["originId"] == keys[12])
    (made,) = (i for i in bitrix24.items[DEAL].values() if i["contactId"] == contact["id"])
    assert steps[12] == {"contact": str(contact["id"]), "deal": str(made["id"])}
    for name in ("amocrm", "bitrix24", "bitrix24:contact"):
        assert counts(box, name, [lead]) == [1]


# --- forced -------------------------------------------------------------------------------------------------------


def test_a_forced_send_is_a_second_one_with_its_own_key_and_its_reason(world: World, box: Sandbox) -> None:
    world.connect(box, ["amocrm"])
    (lead,) = world.new_leads()
    assert world.run("resend", lead).code == 0
    forced = world.run("resend", lead, "--force", "--reason", "the client lost it", "--json")
    assert (forced.code, forced.outcomes) == (0, {11: "delivered"})
    first, second = (c.key for c in box.judge.creations("amocrm") if c.lead == str(lead))
    assert second == f"{first}-1"
    sends = [(0, first, "delivered"), (1, second, "delivered")]
    assert world.ledger_rows("SELECT n, t.key, state FROM leadctl_targets t ORDER BY n") == sends
    reasons = dict(world.ledger_rows("SELECT id, reason FROM leadctl_runs"))
    assert reasons.pop(forced.json["run_id"]) == "the client lost it"
    assert list(reasons.values()) == [None]
    assert "forced: the client lost it" in world.run("runs", "show", forced.json["run_id"]).out
    lives = world.run("history", lead, "--json").json["deliveries"]
    assert [(life["n"], life["key"], life["state"]) for life in lives] == sends
    assert [life["attempts"][0]["trigger"] for life in lives] == ["first", "force"]
    assert world.run("resend", lead, "--json").outcomes == {11: "already_delivered"}
    assert counts(box, "amocrm", [lead]) == [2]


def test_a_forced_run_that_was_killed_goes_on_by_resume_only_and_doubles_nothing(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    leads = world.new_leads(40)
    command = ("bulk-resend", *leads, "-c", "webhooks,telegram", "--json")
    assert world.run(*command).code == 0
    world.write_config("[limits.webhooks]\nrate = 0.2\n")  # 20 a second
    box.faults.script("telegram", leads[2], ["timeout"])
    force = (*command, "--force", "--reason", "they were lost")
    process = world.start(*force)
    wait_until(lambda: counts(box, "telegram", leads)[4] == 2 and sum(counts(box, "webhooks", leads)) > 45)
    process.kill()
    world.finish(process)

    refused = world.run(*force)
    ((run_id,),) = world.ledger_rows("SELECT id FROM leadctl_runs WHERE reason IS NOT NULL")
    assert (refused.code, refused.json["schema"]) == (2, "leadctl.error/1")
    assert run_id in refused.json["message"]
    assert f"runs resume {run_id}" in refused.json["hint"]

    telegram = 12
    settle = world.run("settle", leads[2], "--credential", telegram, "--delivered", "--reason", "it is in the chat")
    assert settle.code == 0
    resumed = world.run("runs", "resume", run_id, "--json")
    assert resumed.json["run_id"] == run_id
    unknown = {e["lead_id"] for e in resumed.json["errors"]}
    assert resumed.code == (6 if unknown else 0)
    assert len(unknown) <= 1, "what was on its way to the chat when it was killed"
    assert leads[2] not in unknown
    assert counts(box, "webhooks", leads) == [2] * 40
    assert set(counts(box, "telegram", [lead for lead in leads if lead not in unknown])) == {2}
