"""What cannot be decrypted is said, and is never sent as it stands."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.model import LeadPlan
from leadctl.services.bootstrap import open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.settings import DatabaseSettings, LoadedSettings, Settings
from tests.laravel.test_plan import APP_KEY
from tests.laravel.test_writing import php
from tests.store.helpers import sample

OTHER_KEY = "base64:" + "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMzI="
DATA = {"url": "https://hooks.example.com/1"}


def plan(path: Path, **database: Any) -> LeadPlan:
    """Of the one lead."""
    settings = Settings(database=DatabaseSettings.model_validate({"url": f"sqlite:///{path}", **database}))
    with open_app(LoadedSettings(settings, None)) as app:
        (planned,) = plan_leads(app, LeadSelection([1]), Selectors())
    return planned


def world(tmp_path: Path, kind: str, data: Mapping[str, Any], **lead: str) -> Path:
    path = sample(tmp_path / "leads.db")
    texts = {"name": "Анна", "phone": "+79161234567", "email": "anna@example.com", **lead}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO credentials (id, type, data) VALUES (1, ?, ?)",
                           (kind, str(php("encrypt", [data])[0])))  # fmt: skip
        connection.execute("INSERT INTO entity_credentials (external_entity_id, credentials_id) VALUES (5, 1)")
        connection.execute("INSERT INTO leads (id, external_entity_id, name, phone, email) VALUES (1, 5, ?, ?, ?)",
                           tuple(texts[name] for name in ("name", "phone", "email")))  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("keys", "detail"),
    [
        ({"app_key": APP_KEY}, None),
        ({"app_key": OTHER_KEY, "previous_keys": [APP_KEY]}, None),
        ({"app_key": OTHER_KEY}, "data is encrypted, and the MAC does not match: another app_key wrote it, or it was"),
        ({}, "data is encrypted; set [database] app_key"),
    ],
)
def test_a_credential(tmp_path: Path, keys: Mapping[str, Any], detail: str | None) -> None:
    planned = plan(world(tmp_path, "webhooks", DATA), **keys)
    if detail is None:
        assert [delivery.destination.target for delivery in planned.deliveries] == ["hooks.example.com"]
        return
    (skip,) = planned.skipped
    assert str(skip.reason) == "invalid_credential"
    assert detail in skip.detail
    assert "hooks.example.com" not in json.dumps(skip.detail)


@pytest.mark.parametrize(("key", "there"), [(APP_KEY, True), (OTHER_KEY, False)])
def test_a_leads_column(tmp_path: Path, key: str, there: bool) -> None:
    email, phone = php("encrypt", ["anna@example.com", "+79161234567"])
    data = {"api_key": "k" * 30, "campaign_id": "p86zQ"}
    path = world(tmp_path, "getresponse", data, email=str(email), phone=str(phone))
    planned = plan(path, app_key=key, previous_keys=[] if there else [APP_KEY])
    assert len(planned.deliveries) == 1  # an earlier key opens it as well
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE credentials SET data = ?", (json.dumps(data),))
    planned = plan(path, app_key=key)
    assert bool(planned.deliveries) is there
    if not there:
        assert str(planned.skipped[0].reason) == "invalid_lead"
        assert planned.skipped[0].detail.startswith(("phone is encrypted", "email is encrypted"))
