"""LESSONS 34: the plan counts with the same filters as the run, for every combination of selectors."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadctl.domain.events import Event
from leadctl.sandbox.server import running_sandbox
from leadctl.services.bootstrap import App, open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, PlanTotals, Question, Selectors, SendRequest
from leadctl.services.resending import send
from leadctl.services.stopping import StopSwitch
from leadctl.settings import load_settings
from tests.support.world import World

LEADS = range(1, 25)
DAYS = [None, *(f"2026-11-{day} 12:00:00" for day in (10, 15, 20))]
MOMENTS = [datetime(2026, 11, day, 12, tzinfo=UTC) for day in (9, 10, 15, 20, 21)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Leads of all kinds, credentials of all kinds, and a past: delivered, rejected, in doubt, never tried."""
    with running_sandbox(["webhooks", "telegram"], scale=1000) as box:
        world = World(tmp_path_factory.mktemp("base"), scale=1000)
        hook, bot = box.vendor("webhooks").credential(), box.vendor("telegram").credential()
        world.add_credential(1, "webhooks", hook, entity=1, project=2)
        world.add_credential(2, "webhooks", {**hook, "method": "PUT"}, entity=None, project=1)
        world.add_credential(3, "webhooks", hook, entity=1, project=1)  # where 1 goes
        world.add_credential(4, "telegram", bot, entity=2, project=1)
        world.add_credential(5, "webhooks", {**hook, "method": "PATCH"}, entity=1, enabled=False)
        world.add_credential(6, "Telegram", bot, entity=2)
        world.add_credential(7, "amocrm", {"access_token": "alone"}, entity=2, project=2)
        for lead in LEADS:
            world.add_leads(
                [lead],
                external_entity_id=[1, 2, 3, None][lead % 4],
                external_project_id=[1, 2, None][lead % 3],
                created_at=DAYS[lead // 2 % 4],
            )
        for lead in (2, 5, 8):
            box.faults.script("webhooks", lead, ["reject"])
            box.faults.script("telegram", lead, ["reset"])
        world.run("bulk-resend", *range(1, 13), "--yes")
        states = {state for (state,) in world.ledger_rows("SELECT DISTINCT state FROM leadctl_targets")}
        assert states == {"delivered", "rejected", "unknown"}
        yield world


some_ids = st.lists(st.integers(1, 30), max_size=12)
channels = st.lists(st.sampled_from(["webhooks", "telegram", "amocrm", "email"]), max_size=2, unique=True).map(tuple)
requests = st.builds(
    SendRequest,
    command=st.sampled_from(["resend", "bulk-resend"]),
    leads=st.builds(
        LeadSelection,
        ids=st.none() | some_ids,
        project=st.sampled_from([None, None, "1", "2", "9"]),
        entity=st.sampled_from([None, None, "1", "2", "3"]),
        since=st.none() | st.sampled_from(MOMENTS),
        until=st.none() | st.sampled_from(MOMENTS),
        missing=st.booleans(),
    ),
    selectors=st.builds(
        Selectors,
        channels=channels,
        skip_channels=channels,
        credentials=st.lists(st.sampled_from("1234567"), max_size=3, unique=True).map(tuple),
    ),
    force_reason=st.sampled_from([None, None, None, "once more"]),
    retry_unknown=st.booleans(),
)


def quiet(event: Event) -> None:
    """Nobody looks."""


def planned(app: App, request: SendRequest) -> PlanTotals:
    planning = plan_leads(
        app, request.leads, request.selectors, force_reason=request.force_reason, retry_unknown=request.retry_unknown
    )
    assert sum(1 for _ in planning) == planning.totals.leads
    return planning.totals


@given(request=requests)
@settings(max_examples=60, deadline=None, database=None)
def test_lesson_34_the_plan_counts_what_the_run_does(base: World, request: SendRequest) -> None:
    asked: list[Question] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("leads.db", "leads.db.leadctl.db"):
            shutil.copy(base.folder / name, folder)
        loaded = load_settings(
            str(base.folder / "leadctl.toml"), {"LEADCTL_DATABASE__URL": f"sqlite:///{folder}/leads.db"}
        )
        with open_app(loaded) as app:
            totals = planned(app, request)
            run = send(app, request, confirm=asked.append, observer=quiet, stop=StopSwitch())
        rows = dict(rows_of(Path(folder), run["run_id"]))
    outcomes = run["outcomes"]
    assert outcomes["already_delivered"] == totals.already_delivered
    assert outcomes["skipped"] == totals.skipped
    sent = {name: number for name, number in outcomes.items() if name not in ("already_delivered", "skipped")}
    assert sum(sent.values()) == totals.deliveries
    assert rows == {name: number for name, number in outcomes.items() if number}
    assert run["total_count"] == totals.leads + totals.not_found + totals.filtered_count
    assert run["filtered_count"] == totals.filtered_count
    by_channel = {
        channel: sum(number for outcome, number in counts.items() if outcome in sent)
        for channel, counts in run["by_channel"].items()
    }
    assert {channel: number for channel, number in by_channel.items() if number} == totals.by_channel
    assert [question.totals for question in asked] == ([totals] if totals.deliveries else []), "what was asked"


def rows_of(folder: Path, run_id: str) -> list[Any]:
    connection = sqlite3.connect(folder / "leads.db.leadctl.db")
    try:
        return connection.execute(
            "SELECT outcome, count(*) FROM leadctl_deliveries WHERE run_id = ? GROUP BY outcome", [run_id]
        ).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "selection",
    [
        "1 2 3 4 5 29 --project 1",
        "--entity 2 --since 2026-11-10T15:00 --until 2026-11-20T15:00 -c webhooks",
        "--project 1 --skip-channel telegram --credential 2 --credential 3",
    ],
)
def test_the_command_line_counts_alike(base: World, selection: str) -> None:
    plan = base.run("plan", *selection.split(), "--json").json
    dry = base.run("bulk-resend", *selection.split(), "--dry-run", "--json").json
    assert dry == plan
    entries = [len(lead[name]) for name in ("deliveries", "already_delivered", "skipped") for lead in plan["leads"]]
    totals = plan["totals"]
    assert sum(entries) == totals["deliveries"] + totals["already_delivered"] + totals["skipped"]
