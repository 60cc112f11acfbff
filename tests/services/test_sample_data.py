"""The sample database: deterministic, and with every oddity that a real one has."""

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from leadctl.services.bootstrap import open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, PlanTotals, Selectors
from leadctl.services.sample_data import LONELY_ENTITY, LONELY_PROJECT, Working, build_sample_database
from leadctl.services.shapes import lead_plan_json
from leadctl.settings import load_settings
from leadctl.store.leads import load_leads
from tests.services.ledgers import TELEGRAM, WEBHOOKS
from tests.support.schemas import validate_plan_line

SECOND = {**WEBHOOKS, "url": "http://127.0.0.1:9/other"}
CREDENTIALS: Working = {"telegram": [(TELEGRAM, {"locale": "ru"})], "webhooks": [(WEBHOOKS, {}), (SECOND, {})]}
CONFIG = '[database]\nurl = "sqlite:///{}"\n[network]\nallow_private = ["127.0.0.0/8"]\n'


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.db"
    build_sample_database(path, CREDENTIALS)
    (tmp_path / "leadctl.toml").write_text(CONFIG.format(path))
    return path


def contents(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def planned(path: Path) -> tuple[list[dict[str, Any]], PlanTotals]:
    with open_app(load_settings(str(path.with_name("leadctl.toml")), {})) as app:
        planning = plan_leads(app, LeadSelection(), Selectors())
        return [validate_plan_line(json.dumps(lead_plan_json(plan))) for plan in planning], planning.totals


def test_the_same_arguments_give_the_same_rows(sample: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.db"
    build_sample_database(again, CREDENTIALS)
    assert contents(again) == contents(sample)


def test_every_reason_to_skip_is_there(sample: Path) -> None:
    plans, totals = planned(sample)
    assert totals.leads == 300
    assert totals.deliveries > 300
    assert set(totals.by_channel) == {"telegram", "webhooks"}
    reasons = Counter(skip["reason"] for plan in plans for skip in plan["skipped"])
    assert set(reasons) == {"disabled", "invalid_credential", "unsupported_channel", "duplicate_destination"}


def test_leads_with_everything_and_leads_with_nothing(sample: Path) -> None:
    plans, _ = planned(sample)
    assert any(delivery["via"] == ["entity", "project"] for plan in plans for delivery in plan["deliveries"])
    assert any(len(plan["deliveries"]) == 3 for plan in plans)
    lonely = [
        plan
        for plan in plans
        if plan["external_entity_id"] in {None, LONELY_ENTITY} and plan["external_project_id"] in {None, LONELY_PROJECT}
    ]
    assert lonely
    assert all(not plan["deliveries"] and plan["warnings"] for plan in lonely)


def test_texts_of_two_languages_and_hostile_ones(sample: Path) -> None:
    with open_app(load_settings(str(sample.with_name("leadctl.toml")), {})) as app:
        leads = load_leads(app.db, range(1, 301))
    names = {lead.name for lead in leads.values()}
    assert {"Анна Ким", "John Smith", "", "[red]Anna[/red] <b>x</b> & <a href=x>"} <= names
    assert any("\r\n" in lead.name for lead in leads.values())
    assert max(len(lead.comment) for lead in leads.values()) > 10_000
    assert all(lead.created_at is not None for lead in leads.values())


@pytest.mark.parametrize("leads", [0, 1, 25])
def test_another_size_and_no_working_credentials(tmp_path: Path, leads: int) -> None:
    path = tmp_path / "small.db"
    build_sample_database(path, {}, leads)
    (tmp_path / "leadctl.toml").write_text(CONFIG.format(path))
    plans, totals = planned(path)
    assert (len(plans), totals.deliveries) == (leads, 0)
