"""What leads have in common is planned, counted and encoded once, and says the same as a plan of each."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from leadctl.cli.plan_json import PlanEncoder
from leadctl.cli.render import lead_plan_line, line_of_entry
from leadctl.services import planning as planning_module
from leadctl.services.bootstrap import App, open_app
from leadctl.services.planning import Planning, Shape, plan_leads, plan_of
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.shapes import lead_plan_json
from leadctl.settings import load_settings
from tests.store.helpers import execute, sample

BITRIX = '{"webhook_url": "https://acme.bitrix24.com/rest/1/k3y0fth3w3bh00k/"}'


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Twelve leads of two entities and three projects; one template can fail, and fails for lead 5."""
    leads = sample(tmp_path / "leads.db")
    monkeypatch.setattr(planning_module, "PAGE", 5)
    monkeypatch.setattr(planning_module, "MEMO", 2)
    execute(
        leads,
        "INSERT INTO credentials (id, type, name, enabled, data, settings) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (1, "webhooks", "Ирина", 1, '{"url": "https://crm.example/hook"}', "{}"),
            (2, "bitrix24", None, 1, BITRIX, '{"fields": {"UF_CRM_A": "{{ lead.answers.budget }}"}}'),
            (3, "webhooks", None, 0, '{"url": "https://crm2.example/hook"}', "{}"),
            (
                4,
                "bitrix24",
                None,
                1,
                BITRIX.replace("acme", "beta"),
                '{"fields": {"UF_CRM_A": "{{ 1 / lead.name|int }}"}}',
            ),
        ],
    )
    execute(
        leads,
        "INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (?, ?)",
        [(1, 1), (1, 2), (1, 3), (2, 4)],
    )
    execute(leads, "INSERT INTO project_credentials (external_project_id, credentials_id) VALUES ('p1', 1)", [()])
    execute(
        leads,
        "INSERT INTO leads (id, external_entity_id, external_project_id, name, created_at) VALUES (?, ?, ?, ?, ?)",
        [
            (n, 1 + n % 2, f"p{n % 3}" if n < 12 else None, "0" if n == 5 else "4", f"2026-11-{n:02d} 06:00:00")
            for n in range(1, 13)
        ],
    )
    config = leads.with_name("leadctl.toml")
    config.write_text(f'[database]\nurl = "sqlite:///{leads}"\n')
    with open_app(load_settings(str(config), {})) as opened:
        yield opened


def everything(app: App) -> Planning:
    return plan_leads(app, LeadSelection(since=datetime(2000, 1, 1, tzinfo=UTC)), Selectors())


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_shapes_say_what_plans_say(app: App) -> None:
    entries = [entry for page in everything(app).entries() for entry in page]
    plans = list(map(plan_of, entries))
    assert plans == list(everything(app))
    assert [plan.lead_id for plan in plans] == list(range(1, 13))
    assert all(isinstance(found, Shape) for _, found in entries), "one that is refused is no reason to plan it alone"
    assert list(PlanEncoder(dumps).leads(entries)) == [dumps(lead_plan_json(plan)) for plan in plans]
    line = line_of_entry()
    assert [line(entry) for entry in entries] == list(map(lead_plan_line, plans))


def test_sums_are_those_of_the_plans(app: App) -> None:
    planning = everything(app)
    plans = list(planning)
    totals = planning.totals
    planned = [delivery for plan in plans for delivery in plan.deliveries]
    assert totals.leads == len(plans) == 12
    assert totals.deliveries == len(planned) > 0
    assert totals.skipped == sum(len(plan.skipped) for plan in plans) > 0
    for credential, number in totals.by_credential.items():
        assert number == sum(delivery.account.credential_id == credential for delivery in planned)
    assert totals.by_state == {"new": len(planned)}
    assert totals.oldest == datetime(2026, 11, 1, 6, tzinfo=UTC)


def test_a_channel_that_may_refuse_a_lead_is_asked(app: App) -> None:
    refused = [skip for plan in everything(app) for skip in plan.skipped if skip.reason == "invalid_lead"]
    assert [skip.account.credential_id for skip in refused] == [4]


def test_leads_that_are_judged_alike_share_a_shape(app: App, tmp_path: Path) -> None:
    data = '{"api_key": "k3y-k3y-k3y", "campaign_id": "V"}'
    insert = "INSERT INTO credentials (id, type, enabled, data, settings) VALUES (?, 'getresponse', 1, ?, '{}')"
    execute(tmp_path / "leads.db", insert, [(6, data), (7, data.replace("V", "W"))])
    execute(tmp_path / "leads.db", "INSERT INTO entity_credentials VALUES (?, '9', ?)", [(90, 6), (91, 7)])
    leads = "INSERT INTO leads (id, external_entity_id, email, phone) VALUES (?, '9', ?, ?)"
    good, bad = ["a@example.com", "b@example.com"], ["", "none", None]
    execute(tmp_path / "leads.db", leads, [(100 + n, text, f"+7900000000{n}") for n, text in enumerate(good + bad)])
    planning = plan_leads(app, LeadSelection(entity="9"), Selectors())
    entries = [entry for page in planning.entries() for entry in page]
    assert len({id(found) for _, found in entries[:2]}) == len({id(found) for _, found in entries[2:]}) == 1
    assert [len(plan_of(entry).deliveries) for entry in entries] == [2, 2, 0, 0, 0]
    assert [skip.reason for skip in plan_of(entries[4]).skipped] == ["invalid_lead"] * 2
    assert (planning.totals.deliveries, planning.totals.skipped, planning.totals.leads) == (4, 6, 5)


def test_a_channel_that_takes_every_lead_reads_none(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("no text is needed")

    monkeypatch.setattr(planning_module, "load_leads", load)
    planning = plan_leads(app, LeadSelection(entity="1"), Selectors())
    assert len(list(planning)) == 6


def test_only_leads_with_rows_are_looked_up(app: App) -> None:
    assert list(app.ledger.known_among([1, 2])) == []
