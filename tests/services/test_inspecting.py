"""Reports from the ledger, the life of a lead, and checks of credentials."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError, LeadNotFound
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus, TargetState
from leadctl.sandbox.server import running_sandbox
from leadctl.services.bootstrap import App
from leadctl.services.inspecting import (
    RUN_LEASE,
    check_channels,
    check_exit_code,
    history,
    list_runs,
    run_groups,
    run_report,
)
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.settling import adopt
from leadctl.store.rows import ItemRow, RunRow
from tests.services.ledgers import TELEGRAM, leave, make_world, opened, planned
from tests.support.channels import NOW
from tests.support.schemas import validate
from tests.support.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def app(world: World) -> Iterator[App]:
    with opened(world) as app:
        yield app


DELIVERED = ItemRow(0, 1, "webhooks", 12, outcome=Outcome.DELIVERED, attempts=1, remote_id="evt_1")
UNKNOWN = ItemRow(
    0, 1, "telegram", 11, outcome=Outcome.UNKNOWN, attempts=1,
    error_code=ErrorCode.MAYBE_DELIVERED, error_message="no answer", vendor_code="502",
)  # fmt: skip
REJECTED = ItemRow(
    1, 2, "webhooks", 12, outcome=Outcome.REJECTED, attempts=1,
    error_code=ErrorCode.VENDOR_REJECTED, error_message="no such field", vendor_code="422",
)  # fmt: skip
INCOMPLETE = replace(DELIVERED, seq=1, lead_id=2, error_code=ErrorCode.INCOMPLETE, error_message="the note is missing")
PENDING = replace(DELIVERED, outcome=Outcome.PENDING, attempts=0, remote_id=None)
SKIPPED = ItemRow(1, 2, "telegram", 11, outcome=Outcome.SKIPPED, reason="invalid_lead", detail="no e-mail")


def make_run(app: App, *items: ItemRow, status: RunStatus | None = RunStatus.PARTIAL, exit_code: int = 1) -> RunRow:
    """A run of leads 1 and 2, of 404 (not there) and of 3 (filtered out)."""
    run = app.ledger.new_run("bulk-resend", "digest", now=NOW)
    app.ledger.add_leads(run.id, [(0, 1, "planned"), (1, 2, "planned"), (2, 404, "not_found"), (3, 3, "filtered")])
    app.ledger.add_items(run.id, items)
    if status is not None:
        app.ledger.finish_run(run.id, status, exit_code, NOW)
    return run


def report(app: App, run: RunRow) -> dict[str, Any]:
    document = run_report(app, run.id)
    validate(document)
    return document


def test_a_report_from_the_ledger_alone(app: App) -> None:
    document = report(app, make_run(app, DELIVERED, UNKNOWN, REJECTED, SKIPPED))
    assert document["outcomes"] == {
        "delivered": 1, "already_delivered": 0, "rejected": 1, "failed": 0, "unknown": 1, "skipped": 1,
        "unprocessed": 0, "pending": 0,
    }  # fmt: skip
    assert document["by_channel"] == {
        "telegram": {"skipped": 1, "unknown": 1}, "webhooks": {"delivered": 1, "rejected": 1}
    }  # fmt: skip
    assert (document["total_count"], document["filtered_count"], document["dispatched_count"]) == (4, 1, 2)
    assert document["errors_count"] == 3
    assert [(e["lead_id"], e["channel"], e["code"], e["vendor_code"]) for e in document["errors"]] == [
        (404, None, "lead_not_found", None),
        (1, "telegram", "maybe_delivered", "502"),
        (2, "webhooks", "vendor_rejected", "422"),
    ]
    assert (document["status"], document["exit_code"], document["next_command"]) == ("partial", 1, None)
    assert len(document["deliveries"]) == 4


def test_a_part_that_is_missing_is_an_error_of_a_delivered_one(app: App) -> None:
    document = report(app, make_run(app, DELIVERED, INCOMPLETE))
    assert document["outcomes"]["delivered"] == 2
    assert [(e["lead_id"], e["code"]) for e in document["errors"]] == [(404, "lead_not_found"), (2, "incomplete")]


def test_a_killed_run_is_interrupted_and_a_living_one_is_running(app: App) -> None:
    run = make_run(app, DELIVERED, PENDING_OF_2, status=None)
    document = report(app, run)
    assert (document["status"], document["finished_at"], document["exit_code"]) == ("interrupted", None, None)
    assert document["next_command"] == f"leadctl runs resume {run.id}"
    lease = app.leases.acquire(RUN_LEASE.format(source=app.ledger.source, digest="digest"), {})
    assert lease is not None
    with lease:
        document = report(app, run)
        assert (document["status"], document["next_command"]) == ("running", None)
        assert list_runs(app, unfinished=True)[0]["status"] == "running"


PENDING_OF_2 = replace(PENDING, seq=1, lead_id=2)


def test_the_global_options_go_into_the_next_command(app: App) -> None:
    stopped = replace(PENDING, outcome=Outcome.UNPROCESSED, error_code=ErrorCode.RUN_STOPPED, error_message="stopped")
    run = make_run(app, stopped, status=RunStatus.STOPPED, exit_code=5)
    document = run_report(app, run.id, ("--config", "a b.toml"))
    validate(document)
    assert document["next_command"] == f"leadctl --config 'a b.toml' runs resume {run.id}"


def test_an_unknown_run_is_a_usage_error(app: App) -> None:
    with pytest.raises(ConfigError, match="no run nope"):
        run_report(app, "nope")


def test_groups_say_what_to_do(app: App) -> None:
    run = make_run(app, DELIVERED, UNKNOWN, REJECTED, replace(REJECTED, seq=0, lead_id=1, credential_id=99))
    groups = {(group["code"], group["credential_id"]): group for group in run_groups(app, run.id)}
    assert groups["lead_not_found", None]["count"] == 1
    assert groups["lead_not_found", None]["first_lead"] == 404
    held = groups["maybe_delivered", 11]
    assert held["credential_name"] == "telegram 11"
    assert "leadctl settle 1 --credential 11" in held["advice"]
    assert "--retry-unknown" in held["advice"]
    rejected = groups["vendor_rejected", 12]
    assert (rejected["count"], rejected["first_lead"], rejected["vendor_code"]) == (1, 2, "422")
    assert rejected["message"] == "no such field"
    assert "leadctl resend 2 -c webhooks" in rejected["advice"]
    assert groups["vendor_rejected", 99]["credential_name"] is None


def test_on_unknown_hold_makes_it_a_matter_for_a_person(app: App, world: World) -> None:
    unknown = replace(UNKNOWN, channel="webhooks", credential_id=12)
    run = make_run(app, unknown)
    (_, group) = run_groups(app, run.id)
    assert "leadctl runs resume" in group["advice"]
    world.execute("UPDATE credentials SET settings = ? WHERE id = 12", json.dumps({"on_unknown": "hold"}))
    (_, group) = run_groups(app, run.id)
    assert "leadctl settle" in group["advice"]


def test_list_runs(app: App) -> None:
    done = make_run(app, DELIVERED)
    killed = make_run(app, PENDING, status=None)
    rows = list_runs(app, unfinished=False)
    validate({"schema": "leadctl.runs/1", "runs": rows})
    assert {row["run_id"]: row["status"] for row in rows} == {done.id: "partial", killed.id: "interrupted"}
    assert {row["total_count"] for row in rows} == {4}
    assert [row["run_id"] for row in list_runs(app, unfinished=True)] == [killed.id]


def test_no_ledger_means_no_runs(world: World) -> None:
    with opened(world, create_ledger=False) as app:
        assert list_runs(app, unfinished=False) == []
    assert not world.ledger_path.exists()


def test_the_life_of_a_lead(app: App) -> None:
    leave(app, 1, 11, TargetState.UNKNOWN, error_code="maybe_delivered", error_message="no answer", vendor_code="502")
    place = planned(app, 1, 11).destination.key
    run = make_run(app, replace(UNKNOWN, destination=place), replace(DELIVERED, destination="webhooks:x"), SKIPPED)
    document = history(app, 1)
    validate(document)
    telegram, webhooks = document["deliveries"]
    assert (telegram["channel"], telegram["credential_id"], telegram["state"]) == ("telegram", 11, "unknown")
    assert telegram["key"] == f"lc-{app.ledger.installation}-1-11"
    assert telegram["error"] == {"code": "maybe_delivered", "message": "no answer", "vendor_code": "502"}
    assert [(r["run_id"], r["outcome"]) for r in telegram["runs"]] == [(run.id, "unknown")]
    (attempt,) = telegram["attempts"]
    assert (attempt["trigger"], attempt["outcome"], attempt["http_status"]) == ("first", "ambiguous", 502)
    # Planned by a run, and never claimed.
    assert (webhooks["state"], webhooks["key"], webhooks["attempts"]) == (None, None, [])


def test_a_lead_that_was_never_sent_has_an_empty_life(app: App) -> None:
    document = history(app, 2)
    validate(document)
    assert document["deliveries"] == []


def test_a_lead_that_nobody_knows(app: App) -> None:
    with pytest.raises(LeadNotFound, match="lead 404"):
        history(app, 404)


def test_an_undone_adoption_stays_in_the_life(app: App) -> None:
    for delivered in (True, False):
        adopt(
            app, LeadSelection([1]), Selectors(channels=("webhooks",)), delivered=delivered, reason="a mistake",
            dry_run=False, confirm=lambda question: None,
        )  # fmt: skip
    document = history(app, 1)
    validate(document)
    (webhooks,) = document["deliveries"]
    assert (webhooks["channel"], webhooks["state"]) == ("webhooks", None)
    assert [(a["trigger"], a["outcome"], a["answer"]) for a in webhooks["attempts"]] == [
        ("operator", "found", "a mistake"), ("operator", "absent", "a mistake"),
    ]  # fmt: skip


def checked(app: App, channel: str | None = None, credential: str | None = None) -> dict[int, tuple[str, str]]:
    rows = check_channels(app, channel, credential)
    validate({"schema": "leadctl.check/1", "checks": rows})
    return {row["credential_id"]: (row["verdict"], row["message"]) for row in rows}


def test_checks_over_real_sockets(world: World) -> None:
    with running_sandbox(["telegram"], scale=20) as box, opened(world, create_ledger=False) as app:
        good = box.vendor("telegram").credential()
        world.execute("UPDATE credentials SET data = ? WHERE id = 11", json.dumps(good))
        refused = {**good, "bot_token": "999999999:AAHrefusedrefusedrefusedrefusedrefus"}
        world.add_credential(13, "telegram", refused)
        world.add_credential(14, "telegram", TELEGRAM)
        world.add_credential(15, "telegram", {"chat_id": 1})
        world.add_credential(16, "telegram", '{"bot_token": ')
        world.add_credential(17, "telegram", good, enabled=False)
        world.add_credential(18, "Telegram", good)
        rows = checked(app, "telegram")
        assert {number: verdict for number, (verdict, _) in rows.items()} == {
            11: "ok", 13: "refused", 14: "unreachable", 15: "invalid", 16: "invalid",
        }  # fmt: skip
        assert "bot_token" in rows[15][1]
        assert not any("AAH" in message for _, message in rows.values())
        assert list(checked(app, None, "11")) == [11]
        assert checked(app, "webhooks", "11") == {}
        assert box.judge.creations() == []


def test_what_the_ledger_keeps_is_checked_instead(world: World) -> None:
    with running_sandbox(["telegram"], scale=20) as box, opened(world) as app:
        good = box.vendor("telegram").credential()
        world.execute("UPDATE credentials SET data = ? WHERE id = 11", json.dumps({**good, "chat_id": 5}))
        app.ledger.keep_override(11, "chat_id", good["chat_id"], NOW)
        (row,) = check_channels(app, None, "11")
        assert (row["verdict"], row["target"]) == ("ok", str(good["chat_id"]))


@pytest.mark.parametrize(
    ("channel", "credential", "said"),
    [("telegramm", None, "no such channel"), (None, "7", "no such credential")],
)
def test_what_does_not_exist_is_a_usage_error(
    app: App, channel: str | None, credential: str | None, said: str
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        check_channels(app, channel, credential)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((), 0),
        (("ok",), 0),
        (("ok", "unreachable"), 5),
        (("unreachable", "refused"), 4),
        (("invalid", "ok"), 4),
    ],
)
def test_check_exit_code(verdicts: tuple[str, ...], code: int) -> None:
    assert check_exit_code([{"verdict": verdict} for verdict in verdicts]) == code
