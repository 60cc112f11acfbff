"""The shapes of CONTRACT §4."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from leadctl.domain.errors import LeadctlError
from leadctl.domain.model import Account, Destination, LeadPlan, PlannedDelivery, Skip, Target
from leadctl.domain.outcomes import ErrorCode, Outcome, PlanState, RunStatus, SkipReason, TargetState
from leadctl.services.requests import PlanTotals
from leadctl.services.shapes import (
    RunFacts,
    check_sums,
    lead_plan_json,
    not_found_entry,
    plan_document,
    plan_summary_line,
    run_document,
    run_status,
)
from tests.support.channels import NOW
from tests.support.schemas import validate, validate_plan_line

ACCOUNT = Account(7, "amocrm", "Main", data={"access_token": "s3cr3t-token"})
DESTINATION = Destination("amocrm", ("acme.amocrm.ru",), ("acme.amocrm.ru", "s3cr3t-part"), "acme.amocrm.ru")


@dataclass(frozen=True)
class Item:
    lead_id: int | str = 42
    channel: str = "amocrm"
    credential_id: int | str = 7
    outcome: Outcome = Outcome.DELIVERED
    remote_id: str | None = None
    remote_url: str | None = None
    attempts: int = 1
    error_code: str | None = None
    error_message: str | None = None
    vendor_code: str | None = None
    settled_by: str | None = None


def facts(*items: Item, **changes: Any) -> RunFacts:
    values: dict[str, Any] = {
        "run_id": "r1", "command": "bulk-resend", "status": RunStatus.OK, "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=1.25), "exit_code": 0, "leads": len({i.lead_id for i in items}),
        "not_found_count": 0, "filtered_count": 0, "outcomes": Counter((i.channel, i.outcome) for i in items),
        "incomplete": sum(i.error_code == "incomplete" for i in items), "dispatched_count": 1,
    }  # fmt: skip
    return RunFacts(**{**values, **changes})


def document(run: RunFacts, *items: Item, not_found: tuple[int, ...] = ()) -> dict[str, Any]:
    made = run_document(run, iter(items), iter(items), iter(not_found), NOW + timedelta(minutes=1))
    validate(made)
    return made


def plan() -> LeadPlan:
    proof = Target(
        42, DESTINATION.key, 0, TargetState.DELIVERED, "lc-abc123-42-7", 7, "amocrm", DESTINATION.account_key,
        NOW, NOW, remote_id="9774766",
    )  # fmt: skip
    return LeadPlan(
        42, 1, "p-1",
        deliveries=(PlannedDelivery(42, ACCOUNT, DESTINATION, ("entity", "project"), PlanState.FAILED),),
        already_delivered=(PlannedDelivery(42, ACCOUNT, DESTINATION, ("entity",), None, target=proof),),
        skipped=(Skip(Account(9, "Email"), SkipReason.UNSUPPORTED_CHANNEL, "no channel named Email", ("project",)),),
        warnings=("one",),
    )  # fmt: skip


def test_lead_plan() -> None:
    made = lead_plan_json(plan())
    validate_plan_line(json.dumps(made))
    assert made["deliveries"] == [
        {"channel": "amocrm", "state": "failed", "credential_id": 7, "credential_name": "Main",
         "via": ["entity", "project"], "target": "acme.amocrm.ru"}
    ]  # fmt: skip
    assert made["already_delivered"][0]["remote_id"] == "9774766"
    assert made["already_delivered"][0]["delivered_at"] == "2026-03-01T10:00:00.000Z"
    assert made["skipped"][0]["reason"] == "unsupported_channel"
    assert "s3cr3t" not in json.dumps(made)


def test_plan_document_and_summary_line() -> None:
    totals = PlanTotals(2, 1, 3, 1, 1, 1, {"amocrm": 1}, {"failed": 1}, 4, 5)
    errors = [not_found_entry(404)]
    made = plan_document([lead_plan_json(plan())], totals, errors)
    validate(made)
    assert made["totals"] == {
        "leads": 2, "filtered_count": 3, "deliveries": 1, "already_delivered": 1, "skipped": 1,
        "by_channel": {"amocrm": 1},
    }  # fmt: skip
    summary = validate_plan_line(json.dumps(plan_summary_line(totals, errors)))
    assert summary["type"] == "summary"
    assert summary["errors"] == errors


def test_run_document_to_the_letter() -> None:
    items = (
        Item(remote_id="9774766"),
        Item(43, outcome=Outcome.REJECTED, error_code="vendor_rejected", error_message="no", vendor_code="400"),
        Item(44, "email", 8, Outcome.SKIPPED, attempts=0),
        Item(45, outcome=Outcome.ALREADY_DELIVERED, attempts=0),
    )
    run = facts(*items, status=RunStatus.PARTIAL, exit_code=1, not_found_count=1, filtered_count=2)
    made = document(run, *items, not_found=(404,))
    assert made["deliveries"][0] == {
        "lead_id": 42, "channel": "amocrm", "credential_id": 7, "outcome": "delivered", "remote_id": "9774766",
        "remote_url": None, "attempts": 1, "error": None, "settled_by": None,
    }  # fmt: skip
    assert made["deliveries"][1]["error"] == {"code": "vendor_rejected", "message": "no", "vendor_code": "400"}
    assert made["by_channel"] == {
        "amocrm": {"already_delivered": 1, "delivered": 1, "rejected": 1}, "email": {"skipped": 1}
    }  # fmt: skip
    assert made["total_count"] == 4 + 1 + 2
    assert (made["filtered_count"], made["errors_count"]) == (2, 2)
    assert [(e["lead_id"], e["code"], e["channel"]) for e in made["errors"]] == [
        (404, "lead_not_found", None), (43, "vendor_rejected", "amocrm"),
    ]  # fmt: skip
    assert (made["duration_s"], made["finished_at"]) == (1.25, "2026-03-01T10:00:01.250Z")


def test_a_delivered_one_with_a_part_missing_is_an_error_entry() -> None:
    item = Item(error_code="incomplete", error_message="the note is missing")
    made = document(facts(item, Item(43), status=RunStatus.PARTIAL, exit_code=1), item, Item(43))
    assert made["outcomes"]["delivered"] == 2
    assert made["errors_count"] == 1
    assert [entry["code"] for entry in made["errors"]] == ["incomplete"]
    assert made["deliveries"][0]["error"]["code"] == "incomplete"


def test_a_failure_without_a_kept_reason_is_still_told() -> None:
    item = Item(outcome=Outcome.UNKNOWN)
    made = document(facts(item, status=RunStatus.PARTIAL, exit_code=70), item)
    assert made["errors"][0]["message"] == "unknown, with no reason kept"


UNPROCESSED = Item(outcome=Outcome.UNPROCESSED, error_code="run_stopped", error_message="stopped")
FAILED = Item(outcome=Outcome.FAILED, error_code="tries_exhausted", error_message="3 tries")
PENDING = Item(outcome=Outcome.PENDING, attempts=0)


@pytest.mark.parametrize(
    ("exit_code", "planned", "unprocessed", "status"),
    [
        (0, 1, 0, RunStatus.OK),
        (0, 0, 0, RunStatus.NOTHING),
        (1, 0, 0, RunStatus.PARTIAL),
        (4, 0, 0, RunStatus.PARTIAL),
        (1, 2, 0, RunStatus.PARTIAL),
        (4, 2, 0, RunStatus.PARTIAL),
        (6, 2, 0, RunStatus.PARTIAL),
        (70, 2, 0, RunStatus.PARTIAL),
        (5, 2, 0, RunStatus.STOPPED),
        (4, 2, 1, RunStatus.STOPPED),
        (5, 2, 1, RunStatus.STOPPED),
        (143, 2, 1, RunStatus.STOPPED),
        (130, 2, 0, RunStatus.STOPPED),
    ],
)
def test_status(exit_code: int, planned: int, unprocessed: int, status: RunStatus) -> None:
    assert run_status(exit_code, planned=planned, outcomes={("telegram", Outcome.UNPROCESSED): unprocessed}) == status


@pytest.mark.parametrize(
    ("status", "exit_code", "goes_on"),
    [
        (RunStatus.OK, 0, False),
        (RunStatus.NOTHING, 0, False),
        (RunStatus.PARTIAL, 1, False),
        (RunStatus.STOPPED, 5, True),
        (RunStatus.RUNNING, None, False),
        (RunStatus.INTERRUPTED, None, True),
    ],
)
def test_next_command(status: RunStatus, exit_code: int | None, goes_on: bool) -> None:
    made = document(facts(Item(), status=status, exit_code=exit_code), Item())
    assert made["next_command"] == ("leadctl runs resume r1" if goes_on else None)


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.INTERRUPTED])
def test_a_run_that_has_not_ended_has_no_end(status: RunStatus) -> None:
    # As it is after a run was gone on with and killed again.
    made = document(facts(Item(), PENDING, status=status), Item(), PENDING)
    assert (made["finished_at"], made["exit_code"], made["duration_s"]) == (None, None, 60.0)
    assert made["outcomes"]["pending"] == 1


def test_next_command_repeats_the_global_options() -> None:
    run = facts(UNPROCESSED, status=RunStatus.STOPPED, exit_code=5, global_options=("--config", "my config.toml"))
    assert document(run, UNPROCESSED)["next_command"] == "leadctl --config 'my config.toml' runs resume r1"


@pytest.mark.parametrize(("command", "shown"), [("bulk-resend", 1000), ("resend", 1500)])
def test_lists_are_capped_for_bulk_and_the_counts_stay_true(command: str, shown: int) -> None:
    items = [replace(FAILED, lead_id=number) for number in range(1500)]
    made = document(facts(*items, status=RunStatus.PARTIAL, exit_code=1, command=command), *items)
    assert (len(made["errors"]), len(made["deliveries"])) == (shown, shown)
    assert made["errors_count"] == made["outcomes"]["failed"] == 1500


def test_a_document_reads_no_more_than_it_shows() -> None:
    read: Counter[str] = Counter()

    def items(name: str, item: Item) -> Iterator[Item]:
        for number in range(5000):
            read[name] += 1
            yield replace(item, lead_id=number)

    run = facts(command="bulk-resend", not_found_count=999, outcomes={("amocrm", Outcome.FAILED): 5000})
    run_document(run, items("all", FAILED), items("failed", FAILED), iter(range(999)), NOW)
    assert read == {"all": 1000, "failed": 1}
    read.clear()
    one = facts(outcomes={("amocrm", Outcome.FAILED): 1})
    run_document(one, items("all", Item()), items("failed", FAILED), iter(()), NOW)
    assert read["failed"] == 1


COUNTS = {
    ("amocrm", Outcome.DELIVERED): 1, ("email", Outcome.UNPROCESSED): 1,
    ("email", Outcome.ALREADY_DELIVERED): 1, ("email", Outcome.SKIPPED): 1,
}  # fmt: skip


def test_sums_add_up() -> None:
    check_sums("r1", 4, COUNTS)


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {**COUNTS, ("amocrm", Outcome.DELIVERED): 2},
        {**COUNTS, ("amocrm", Outcome.DELIVERED): 0, ("amocrm", Outcome.PENDING): 1},
    ],
)
def test_sums_that_do_not_add_up_are_a_bug(counts: dict[tuple[str, Outcome], int]) -> None:
    with pytest.raises(LeadctlError) as caught:
        check_sums("r1", 4, counts)
    assert (caught.value.exit_code, caught.value.code) == (70, "bug")
    assert "leadctl runs show r1" in caught.value.hint
    validate(caught.value.as_json())


def test_the_schemas_refuse_a_key_too_many_and_a_word_that_is_not_in_the_list() -> None:
    made = document(facts(Item()), Item())
    for wrong in ({**made, "extra": 1}, {**made, "status": "done"}, {**made, "finished_at": "2026-03-01 10:00"}):
        with pytest.raises(jsonschema.ValidationError):
            validate(wrong)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_the_schemas_know_every_error_code(code: ErrorCode) -> None:
    validate({**plan_document([], PlanTotals(), []), "errors": [{**not_found_entry(1), "code": code.value}]})
