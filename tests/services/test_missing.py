"""What is missing: routing less what ledger and the application's log prove; and who may say so."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from leadctl.cli.confirm import question_text
from leadctl.domain.errors import ConfigError, NothingSelected
from leadctl.domain.events import Event, RunEvent
from leadctl.domain.model import LeadId, LeadPlan
from leadctl.domain.outcomes import Outcome, RunStatus, TargetState
from leadctl.services import planning as planning_module
from leadctl.services.bootstrap import App
from leadctl.services.missing import missing_event, missing_line
from leadctl.services.planning import Planning, plan_leads
from leadctl.services.requests import LeadSelection, PlanTotals, Question, Selectors, SendRequest
from leadctl.services.resending import send
from leadctl.services.selections import as_options, from_options, selection_digest
from leadctl.services.settling import adopt
from leadctl.services.shapes import lead_plan_json
from leadctl.services.stopping import StopSwitch
from leadctl.store.leads import load_leads
from leadctl.store.rows import ItemRow, RunRow
from leadctl.store.schema import runs
from tests.cli.support import world as cli_world
from tests.services.ledgers import TELEGRAM, WEBHOOKS, leave, make_world, opened, planned
from tests.support.world import World

SINCE = datetime(2026, 11, 1, tzinfo=UTC)
ALL = Selectors()
MISSING = LeadSelection(since=SINCE, missing=True, typed=("since=2d",))
BY_CREDENTIAL = '{table}\nlead_id = "lead"\ncredential_id = "credential"\nat = "at"\nremote_id = "remote"\n'
BY_TYPE = '{table}\nlead_id = "lead"\ntype = "kind"\n[database.mapping.types]\nTg = "telegram"\n'
TABLE = '[database.mapping.deliveries]\ntable = "log"'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def logging(world: World, mapping: str = BY_CREDENTIAL) -> None:
    """The application keeps a log."""
    world.execute("CREATE TABLE log (lead INTEGER, credential TEXT, kind TEXT, at TEXT, remote TEXT)")
    world.write_config(mapping.format(table=TABLE))


def log(world: World, lead: int, credential: Any, kind: str | None = None, remote: str | None = None,
        at: str | None = "2026-11-24 09:00:00") -> None:  # fmt: skip
    world.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", lead, credential, kind, at, remote)


def plans(app: App, selection: LeadSelection | None = None, **how: Any) -> dict[LeadId, LeadPlan]:
    made = plan_leads(app, selection or LeadSelection(since=SINCE), ALL, **how)
    return {plan.lead_id: plan for plan in made}


def open_at(plan: LeadPlan) -> dict[Any, str]:
    """credential → state of what is to be sent."""
    return {planned.account.credential_id: str(planned.state) for planned in plan.deliveries}


def knowing(app: App) -> None:
    """A ledger that has seen a run."""
    app.ledger.new_run("resend", "digest", now=datetime(2026, 11, 24, tzinfo=UTC))


def finish(planning: Planning) -> PlanTotals:
    for _ in planning:
        pass
    return planning.totals


# --- the log as proof ------------------------------------------------------------------------------------------------


def test_what_the_log_has_is_delivered_already_with_time_and_id(world: World) -> None:
    logging(world)
    log(world, 2, "11", remote="77")
    with opened(world) as app:
        found = plans(app)
    assert {lead: open_at(plan) for lead, plan in found.items()} == {
        1: {11: "new", 12: "new"}, 2: {12: "new"}, 3: {11: "new", 12: "new"},
    }  # fmt: skip
    (proven,) = lead_plan_json(found[2])["already_delivered"]
    assert (proven["credential_id"], proven["state"]) == (11, None)
    assert (proven["delivered_at"], proven["remote_id"]) == ("2026-11-24T09:00:00.000Z", "77")


def test_a_log_without_times_and_ids_is_proof_too(world: World) -> None:
    logging(world, '{table}\nlead_id = "lead"\ncredential_id = "credential"\n')
    log(world, 1, "11")
    with opened(world) as app:
        (proven,) = lead_plan_json(plans(app)[1])["already_delivered"]
    assert (proven["delivered_at"], proven["remote_id"]) == (None, None)


def test_the_latest_row_tells_when(world: World) -> None:
    logging(world)
    log(world, 1, "11", remote="old", at="2026-11-20 09:00:00")
    log(world, 1, "11", remote="new", at="2026-11-23 09:00:00")
    log(world, 1, "11", remote="never", at=None)
    with opened(world) as app:
        assert plans(app)[1].already_delivered[0].proof == (datetime(2026, 11, 23, 9, tzinfo=UTC), "new")


def test_another_credential_of_the_same_destination_is_proof(world: World) -> None:
    """Switched off, or left out by the selectors: where it leads to is known."""
    logging(world)
    world.add_credential(13, "webhooks", WEBHOOKS, entity=2, enabled=False)
    world.add_credential(14, "webhooks", {"url": "http://127.0.0.1:9/hooks/elsewhere"}, entity=2)
    world.add_credential(15, "webhooks", '{"url": 5}', entity=2)
    world.add_credential(16, "fax", "{}", entity=2)
    log(world, 1, "13")
    for other in ("14", "15", "16", "gone"):
        log(world, 2, other)
    with opened(world) as app:
        found = plans(app)
        assert open_at(found[1]) == {11: "new"}
        assert open_at(found[2]) == {11: "new", 12: "new"}


def test_a_type_proves_every_credential_of_that_channel(world: World) -> None:
    logging(world, BY_TYPE)
    world.add_credential(13, "telegram", {**TELEGRAM, "chat_id": -100456})
    log(world, 1, "11", "Tg")
    log(world, 2, None, "tg")
    with opened(world) as app:
        found = plans(app)
        assert open_at(found[1]) == {12: "new"}
        assert open_at(found[2]) == {11: "new", 12: "new", 13: "new"}


@pytest.mark.parametrize("state", [TargetState.FAILED, TargetState.REJECTED, TargetState.UNKNOWN, TargetState.SENDING])
def test_the_log_proves_what_the_ledger_has_no_proof_of(world: World, state: TargetState) -> None:
    with opened(world) as app:
        leave(app, 1, 11, state)
    logging(world)
    log(world, 1, "11", at="2001-01-01 00:00:00")
    with opened(world) as app:
        assert open_at(plans(app)[1]) == {12: "new"}


def test_a_part_of_our_own_that_is_missing_is_completed(world: World) -> None:
    with opened(world) as app:
        leave(app, 1, 12, TargetState.INCOMPLETE)
    logging(world)
    log(world, 1, "12")
    with opened(world) as app:
        assert open_at(plans(app)[1]) == {11: "new", 12: "incomplete"}


def test_a_forced_send_is_the_second_one_and_then_the_ledger_speaks(world: World) -> None:
    logging(world)
    log(world, 1, "11")
    with opened(world) as app:
        forced = plans(app, LeadSelection([1]), force_reason="again")[1].deliveries[0]
        assert (forced.account.credential_id, forced.n, forced.target) == (11, 1, None)
        assert plans(app, LeadSelection([2]), force_reason="again")[2].deliveries[0].n == 0


def test_shapes_stand_for_leads_without_a_row(world: World) -> None:
    logging(world)
    log(world, 2, "11")
    with opened(world) as app:
        planning = plan_leads(app, LeadSelection(since=SINCE), ALL)
        kinds = [type(found).__name__ for page in planning.entries() for _, found in page]
        assert kinds == ["Shape", "LeadPlan", "Shape"]
        totals = planning.totals
    assert (totals.leads, totals.deliveries, totals.already_delivered) == (3, 5, 1)


def test_adopt_leaves_alone_what_the_log_proves(world: World) -> None:
    logging(world)
    log(world, 1, "11")
    with opened(world) as app:
        told = adopt(app, LeadSelection([1]), Selectors(channels=("telegram", "webhooks")), delivered=True, reason="x",
                     dry_run=False, confirm=lambda _: None)  # fmt: skip
        assert (told["adopted"], told["known"]) == (1, 1)
        undone = adopt(app, LeadSelection([1]), Selectors(channels=("telegram", "webhooks")), delivered=False,
                       reason="x", dry_run=False, confirm=lambda _: None)  # fmt: skip
        assert (undone["undone"], undone["known"]) == (1, 1)


# --- who may ask what is missing -------------------------------------------------------------------------------------


def test_on_a_ledger_that_knows_nothing_it_is_refused(world: World) -> None:
    for create in (False, True):
        with opened(world, create_ledger=create) as app:
            with pytest.raises(ConfigError, match="knows no earlier run") as caught:
                plan_leads(app, MISSING, ALL)
            assert caught.value.exit_code == 2
            for way in ("leadctl adopt", "[database.mapping.deliveries]", "--first-run"):
                assert way in caught.value.hint
            plan_leads(app, LeadSelection(since=SINCE), ALL)


def test_an_earlier_run_is_knowledge(world: World) -> None:
    with opened(world) as app:
        knowing(app)
        assert len(plans(app, MISSING)) == 3


def test_an_adoption_is_knowledge(world: World) -> None:
    with opened(world) as app:
        adopt(app, LeadSelection([1]), Selectors(channels=("telegram", "webhooks")), delivered=True, reason="the site",
              dry_run=False, confirm=lambda _: None)  # fmt: skip
        assert list(plans(app, MISSING)) == [2, 3]


def test_a_mapped_log_is_knowledge(world: World) -> None:
    logging(world)
    with opened(world, create_ledger=False) as app:
        assert len(plans(app, MISSING)) == 3


def test_a_person_says_that_it_is_the_first_run(world: World) -> None:
    with opened(world, create_ledger=False) as app:
        assert len(plans(app, LeadSelection(since=SINCE, missing=True, first_run=True))) == 3


# --- what is missing -------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Leads 1 to 9: one of each kind, those with nothing to send among them."""
    monkeypatch.setattr(planning_module, "PAGE", 2)
    world.add_leads(range(4, 8))
    world.add_leads([8], external_entity_id=None, external_project_id=None)
    world.add_leads([9], created_at="2026-10-01 00:00:00")
    with opened(world) as app:
        knowing(app)
        for lead in range(1, 8):
            leave(app, lead, 12, TargetState.DELIVERED)
        leave(app, 2, 11, TargetState.FAILED)
        leave(app, 3, 11, TargetState.UNKNOWN)
        leave(app, 4, 11, TargetState.DELIVERED)
        leave(app, 5, 11, TargetState.REJECTED, digest="another")
        leave(app, 6, 11, TargetState.REJECTED, digest=digest(app, 6))
    logging(world)
    log(world, 7, "11")
    return world


def digest(app: App, lead_id: int) -> str:
    """Of the lead and credential 11 as they are."""
    return f"{load_leads(app.db, [lead_id])[lead_id].digest}:{planned(app, lead_id, 11).account.digest}"


def test_leads_that_lack_nothing_are_neither_in_the_plan_nor_in_its_sums(mixed: World) -> None:
    with opened(mixed) as app:
        planning = plan_leads(app, MISSING, ALL)
        found = {plan.lead_id: open_at(plan) for plan in planning}
        totals = planning.totals
    assert found == {1: {11: "new"}, 2: {11: "failed"}, 3: {11: "unknown"}, 5: {11: "rejected"}}
    assert (totals.leads, totals.deliveries, totals.already_delivered, totals.skipped) == (4, 4, 4, 0)
    assert totals.by_state == {"new": 1, "failed": 1, "unknown": 1, "rejected": 1}
    assert totals.held_unknown == 1
    assert missing_line(totals) == "missing: 1 never tried, 1 failed, 1 unknown, 1 rejected, and changed since"
    event = missing_event(totals)
    assert (event.name, event.fields) == (
        "missing_found",
        {"leads": 4, "never_tried": 1, "failed": 1, "unknown": 1, "rejected": 1, "incomplete": 0},
    )


def test_of_named_leads_those_that_lack_nothing_are_filtered(mixed: World) -> None:
    """Naming them does not bring back what was rejected: it is asked what is missing among them."""
    with opened(mixed) as app:
        planning = plan_leads(app, LeadSelection([9, 6, 2, 4, 99, 1], since=SINCE, missing=True), ALL)
        assert [plan.lead_id for plan in planning] == [2, 1]
        totals = planning.totals
        standings = plan_leads(app, LeadSelection([4, 2], since=SINCE, missing=True), ALL)
        list(standings.pages())
    assert (totals.leads, totals.not_found, totals.filtered_count) == (2, 1, 3)
    assert standings.standings == [(4, "filtered"), (2, "planned")]


def test_an_invalid_credential_is_told_of_although_its_leads_lack_nothing_else(mixed: World) -> None:
    mixed.add_credential(17, "webhooks", '{"url": 5}')
    with opened(mixed) as app:
        assert finish(plan_leads(app, LeadSelection([4], since=SINCE, missing=True), ALL)).invalid_credentials == 1


def test_a_lead_that_only_an_invalid_credential_waits_for_is_told_of(world: World) -> None:
    world.add_credential(17, "webhooks", '{"url": 5}', entity=5)
    world.add_leads([20], external_entity_id=5)
    with opened(world) as app:
        knowing(app)
        totals = finish(plan_leads(app, LeadSelection([20], since=SINCE, missing=True), ALL))
    assert (totals.leads, totals.filtered_count, totals.invalid_credentials) == (0, 1, 1)


def test_the_question_says_why_they_are_missing(mixed: World) -> None:
    asked: list[Question] = []
    seen: list[Event] = []

    def decline(question: Question) -> None:
        asked.append(question)
        raise ConfigError("no")

    with opened(mixed) as app, pytest.raises(ConfigError, match="no"):
        send(app, SendRequest("bulk-resend", MISSING), confirm=decline, observer=seen.append, stop=StopSwitch())
    (question,) = asked
    assert not question.nothing_known
    text = question_text(cli_world().context, question)
    assert "missing: 1 never tried, 1 failed, 1 unknown, 1 rejected, and changed since" in text
    assert [event.name for event in seen if isinstance(event, RunEvent)] == ["missing_found"]


def test_an_ordinary_question_does_not(mixed: World) -> None:
    question = Question("bulk-resend", PlanTotals(deliveries=1), nothing_known=False)
    assert "missing" not in question_text(cli_world().context, question)


def test_nothing_missing_is_an_empty_selection(world: World) -> None:
    logging(world)
    for lead in (1, 2, 3):
        log(world, lead, "11")
        log(world, lead, "12")
    with opened(world) as app:
        how: dict[str, Any] = {"confirm": lambda _: None, "observer": lambda _: None, "stop": StopSwitch()}
        with pytest.raises(NothingSelected):
            send(app, SendRequest("bulk-resend", MISSING, fail_on_empty=True), **how)
        run = send(app, SendRequest("bulk-resend", MISSING), **how)
    assert (run["status"], run["exit_code"], run["total_count"], run["deliveries"]) == ("nothing", 0, 0, [])


# --- what a run keeps of it ------------------------------------------------------------------------------------------


def run_with(options: dict[str, Any]) -> RunRow:
    return RunRow("r", "bulk-resend", "d", options, RunStatus.STOPPED, "host", 1, SINCE)


def test_a_run_keeps_that_it_is_about_what_is_missing() -> None:
    request = SendRequest("bulk-resend", LeadSelection([1], since=SINCE, missing=True))
    options = json.loads(json.dumps(as_options(request)))
    kept = from_options(run_with(options)).leads
    assert kept.missing
    assert not kept.by_name, "what was rejected stays so when the run goes on"
    assert not from_options(run_with({})).leads.missing


def test_what_is_missing_is_another_selection() -> None:
    def name(**more: Any) -> str:
        return selection_digest(SendRequest("bulk-resend", LeadSelection(since=SINCE, **more)))

    assert name() != name(missing=True) == name(missing=True, first_run=True)


# --- what workers have in their queue -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "left"),
    [
        (Outcome.PENDING, RunStatus.QUEUED, {1: {12: "new"}, 2: {11: "new", 12: "new"}, 3: {11: "new", 12: "new"}}),
        (Outcome.UNPROCESSED, RunStatus.QUEUED, None),
        (Outcome.PENDING, RunStatus.INTERRUPTED, None),
    ],
)
def test_what_is_in_the_queue_is_not_missing(
    world: World, outcome: Outcome, status: RunStatus, left: dict[LeadId, dict[Any, str]] | None
) -> None:
    whole = {lead: {11: "new", 12: "new"} for lead in (1, 2, 3)}
    with opened(world) as app:
        run = app.ledger.new_run("bulk-resend", "digest", now=datetime(2026, 11, 24, tzinfo=UTC))
        item = ItemRow(seq=0, lead_id=1, channel="webhooks", credential_id=11, destination="x", outcome=outcome)
        app.ledger.add_items(run.id, [item])
        app.ledger.set_counts(run.id, 1, 0)
        with app.ledger.writing.begin() as connection:
            connection.execute(update(runs).where(runs.c.id == run.id).values(status=status.value))
        found = plans(app, replace(MISSING, unless_queued=True))
        assert {lead: open_at(plan) for lead, plan in found.items()} == (left or whole)
        assert {lead: open_at(plan) for lead, plan in plans(app, MISSING).items()} == whole
        if left:
            (skip,) = found[1].skipped
            assert (str(skip.reason), skip.account.credential_id) == ("not_selected", 11)
