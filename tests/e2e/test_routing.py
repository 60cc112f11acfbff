"""Which integrations a lead gets (CONTRACT §2): skips and their reasons, destinations, proof, what goes again."""

import json
from typing import Any

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere, on_sqlite
from tests.support.world import World


def reasons(plan: dict[str, Any]) -> dict[int | str, str]:
    """credential → why it is skipped, for a plan of one lead."""
    (lead,) = plan["leads"]
    return {skip["credential_id"]: skip["reason"] for skip in lead["skipped"]}


def arrived(box: Sandbox, vendor: str, *leads: int) -> list[int]:
    counts = box.judge.by_lead(vendor)
    return [counts[str(lead)] for lead in leads]


@on_sqlite
def test_every_reason_of_a_skip_in_one_plan(world: World, box: Sandbox) -> None:
    hook, portal = box.vendor("webhooks").credential(), box.vendor("bitrix24").credential()
    per_budget = {"fields": {"UF_CRM_BUDGET": "{{ 100 // lead.answers.budget|int }}"}}
    world.add_credential(1, "webhooks", hook, project=1)
    world.add_credential(2, "webhooks", {**hook, "method": "post"})  # the same place
    world.add_credential(3, "webhooks", {**hook, "method": "PUT"}, enabled=False)
    world.add_credential(4, "Email", box.vendor("email").credential())  # types are compared exactly
    world.add_credential(5, "pipedrive", {"api_token": "k" * 32})
    world.add_credential(6, "amocrm", {"access_token": "t" * 40})
    world.add_credential(7, "bitrix24", portal, per_budget)
    world.add_credential(8, "telegram", box.vendor("telegram").credential())
    world.add_credential(9, "webhooks", {**hook, "method": "PATCH"})
    world.add_credential(10, "webhooks", "{broken", project=1)
    (lead,) = world.new_leads(answers=json.dumps({"budget": "none"}))
    box.faults.script("webhooks", lead, ["reject", "ok"])
    assert world.run("bulk-resend", lead, "--credential", 9).code == 1  # refused, once

    done = world.run("plan", "--entity", 1, "--skip-channel", "telegram", "--json")
    plan = done.json
    assert done.code == 0
    expected = {
        2: "duplicate_destination", 3: "disabled", 4: "unsupported_channel", 5: "unsupported_channel",
        6: "invalid_credential", 7: "invalid_lead", 8: "not_selected", 9: "rejected_before", 10: "invalid_credential",
    }  # fmt: skip
    assert reasons(plan) == expected
    (planned,) = plan["leads"][0]["deliveries"]
    assert (planned["credential_id"], planned["via"], planned["state"]) == (1, ["entity", "project"], "new")
    assert plan["totals"]["skipped"] == len(expected)
    details = {skip["credential_id"]: skip["detail"] for skip in plan["leads"][0]["skipped"]}
    assert "1" in details[2], "names the credential that goes"
    assert "subdomain" in details[6]
    assert "422" in details[9] or "scripted: reject" in details[9]

    sent = world.run("bulk-resend", "--entity", 1, "--skip-channel", "telegram", "--json")
    assert sent.code == 4, "an invalid credential is enabled, selected and linked"
    assert sent.outcomes == {1: "delivered", **dict.fromkeys(expected, "skipped")}


@everywhere
def test_ids_that_are_null_match_nothing_and_deleted_rows_do_not_exist(world: World, box: Sandbox) -> None:
    for table in ("leads", "credentials", "entity_credentials", "project_credentials"):
        world.execute(f"ALTER TABLE {table} ADD COLUMN deleted_at TEXT")
    hook = box.vendor("webhooks").credential()
    for number, method in enumerate(("POST", "PUT", "PATCH"), 1):
        world.execute(
            "INSERT INTO credentials (id, type, name, enabled, data) VALUES (?, 'webhooks', ?, true, ?)",
            number, method, json.dumps({**hook, "method": method}),
        )  # fmt: skip
    world.execute("INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (NULL, 1), (5, 2)")
    world.execute("INSERT INTO project_credentials (external_project_id, credentials_id) VALUES (NULL, 1), (5, 3)")
    (lonely,) = world.new_leads(external_entity_id=None, external_project_id=None)
    (lead,) = world.new_leads(external_entity_id=5, external_project_id=5)
    (gone,) = world.new_leads(deleted_at="2026-11-24 07:00:00")

    (plan,) = world.run("plan", lonely, "--json").json["leads"]
    assert (plan["deliveries"], plan["skipped"]) == ([], [])
    assert "no credentials" in plan["warnings"][0]
    (plan,) = world.run("plan", lead, "--json").json["leads"]
    assert [d["credential_id"] for d in plan["deliveries"]] == [2, 3]

    world.execute("UPDATE credentials SET deleted_at = '2026-11-24' WHERE id = 2")
    world.execute("UPDATE project_credentials SET deleted_at = '2026-11-24' WHERE credentials_id = 3")
    (plan,) = world.run("plan", lead, "--json").json["leads"]
    assert (plan["deliveries"], plan["skipped"]) == ([], [])
    assert world.run("resend", lead, "--credential", 2).code == 2, "a deleted credential does not exist"
    absent = world.run("resend", gone, "--json")
    assert (absent.code, absent.json["errors"][0]["code"]) == (1, "lead_not_found")
    assert "2" not in {str(row["credential_id"]) for row in world.run("channels", "check", "--json").json["checks"]}


def test_a_database_with_only_the_required_columns(world: World, box: Sandbox) -> None:
    world.execute("DROP TABLE leads")
    world.execute("CREATE TABLE leads (id VARCHAR(50) PRIMARY KEY, external_entity_id TEXT, external_project_id TEXT)")
    world.connect(box, ["amocrm", "bitrix24", "email", "telegram", "webhooks"])
    world.execute("INSERT INTO leads VALUES ('L-7f', '1', NULL)")
    done = world.run("resend", "L-7f", "--json")
    assert (done.code, set(done.outcomes.values())) == (0, {"delivered"})
    assert arrived(box, "webhooks", "L-7f") == [1]  # type: ignore[arg-type]


@everywhere
def test_proof_belongs_to_the_destination(world: World, box: Sandbox) -> None:
    first, second = (vendor.credential() for vendor in box.vendors if vendor.name == "webhooks")
    world.add_credential(11, "webhooks", first)
    (lead,) = world.new_leads()
    assert world.run("resend", lead).code == 0

    world.execute("DELETE FROM credentials")
    world.add_credential(30, "webhooks", first)  # another credential to the same place
    done = world.run("resend", lead, "--json")
    assert done.outcomes == {30: "already_delivered"}
    proven = world.run("plan", lead, "--json").json["leads"][0]["already_delivered"][0]
    assert proven["delivered_at"]
    assert proven["remote_id"].startswith("msg_")

    world.add_credential(31, "webhooks", {**second, "method": "PUT"}, entity=2)
    world.execute("UPDATE leads SET external_entity_id = 2 WHERE id = ?", lead)
    assert world.run("resend", lead, "--json").outcomes == {31: "delivered"}
    world.set_data(31, {**second, "method": "PUT", "url": f"{second['url']}?tenant=2"})
    assert world.run("resend", lead, "--json").outcomes == {31: "already_delivered"}, "the same account"
    world.set_data(31, {**first, "method": "PUT"})
    assert world.run("resend", lead, "--json").outcomes == {31: "delivered"}, "re-pointed to another account"
    assert arrived(box, "webhooks", lead) == [3]


@everywhere
def test_a_rejected_one_goes_again_when_it_is_named_or_changed(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads(external_project_id=77)
    box.faults.script("webhooks", lead, ["reject"] * 3)
    bulk = ("bulk-resend", "--project", "77", "--json")
    assert world.run(*bulk).outcomes == {11: "rejected"}
    unchanged = world.run(*bulk)
    assert (unchanged.code, unchanged.outcomes, unchanged.json["status"]) == (0, {11: "skipped"}, "nothing")
    assert world.run("bulk-resend", lead, "--json").outcomes == {11: "rejected"}, "named"
    world.execute("UPDATE leads SET phone = '+79001112233' WHERE id = ?", lead)
    assert world.run(*bulk).outcomes == {11: "rejected"}, "the lead has changed"
    assert world.run(*bulk).outcomes == {11: "skipped"}
    world.execute("UPDATE credentials SET settings = ? WHERE id = 11", json.dumps({"event_type": "lead.fixed"}))
    assert world.run(*bulk).outcomes == {11: "delivered"}, "the credential has changed"


def test_credentials_and_settings_from_files(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    hook = box.vendor("webhooks").credential()
    (lead,) = world.new_leads(external_entity_id=None)  # no link is needed
    world.path("creds.json", json.dumps({"webhooks": [{**hook, "method": "PUT"}, {**hook, "method": "PATCH"}]}))
    world.path("settings.json", json.dumps({"webhooks": {"event_type": "lead.special"}}))
    chosen = ("--credentials-file", "creds.json", "--settings-file", "settings.json")
    done = world.run("resend", lead, *chosen, "--json")
    assert set(done.outcomes.values()) == {"delivered"}
    assert all(str(number).startswith("file:") and len(str(number)) == 17 for number in done.outcomes)
    bodies = [json.loads(c.detail) for c in box.judge.creations("webhooks") if c.lead == str(lead)]
    assert [body["type"] for body in bodies] == ["lead.special"] * 2
    assert set(world.run("resend", lead, *chosen, "--json").outcomes.values()) == {"already_delivered"}

    (linked,) = world.new_leads()
    plan = world.run("plan", linked, "--credentials-file", "creds.json", "--json").json
    assert reasons(plan) == {11: "not_selected", 12: "not_selected"}
    world.add_credential(40, "webhooks", {**hook, "method": "PUT"}, entity=4)
    world.execute("UPDATE leads SET external_entity_id = 4 WHERE id = ?", lead)
    proven = world.run("resend", lead, "--json")
    assert proven.outcomes == {40: "already_delivered"}, "proof by destination, whoever carried it"

    world.path("creds.json", '{"amocmr": {}}')
    assert "amocrm" in world.run("resend", lead, "--credentials-file", "creds.json", "--json").json["hint"]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["-c", "webhooks,telegram"], {11, 12}),
        (["-c", "webhooks", "-c", "telegram"], {11, 12}),
        (["--skip-channel", "telegram"], {11, 13}),
        (["--credential", "13"], {13}),
        (["-c", "email,webhooks", "--credential", "11", "--credential", "12"], {11}),
    ],
)
def test_selectors(world: World, box: Sandbox, selectors: list[str], expected: set[int]) -> None:
    world.connect(box, ["webhooks", "telegram", "email"])
    (lead,) = world.new_leads()
    plan = world.run("plan", lead, *selectors, "--json").json
    assert {d["credential_id"] for d in plan["leads"][0]["deliveries"]} == expected
    assert reasons(plan) == dict.fromkeys({11, 12, 13} - expected, "not_selected")
