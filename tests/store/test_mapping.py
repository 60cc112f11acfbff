"""``[database.mapping]``: names, places within JSON, constants, filters and keys, held against real tables."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import Account, Answer, Lead
from leadctl.settings import DatabaseSettings
from leadctl.settings.mapping import KeySource, MappingSettings
from leadctl.store.credentials import load_credentials, load_links, renamed
from leadctl.store.database import Database
from leadctl.store.leads import LeadFilter, load_leads
from leadctl.store.mapping import bury, dig
from tests.store.helpers import execute, sample
from tests.support.heads import iter_heads

SCHEMA = """
    CREATE TABLE crm_requests ("key" INTEGER, "select" TEXT, project TEXT, payload TEXT, src TEXT, kind TEXT, at TEXT);
    CREATE TABLE crm_accounts (number INTEGER, provider TEXT, title TEXT, state TEXT, body TEXT, kind TEXT);
    CREATE TABLE crm_links (owner TEXT, owner_type TEXT, credential_id TEXT, gone_at TEXT);
    CREATE TABLE crm_entities (id INTEGER, code TEXT, deleted_at TEXT);
"""
MAPPING: Mapping[str, Any] = {
    "prefix": "crm_",
    "leads": {
        "table": "requests",
        "id": "key",
        "external_entity_id": "select",
        "external_project_id": "project",
        "name": "payload->contact->name",
        "phone": "payload->contact->phones->0",
        "email": {"value": "office@example.com"},
        "utm": {"utm_source": "src", "utm_medium": {"value": "site"}, "utm_term": "payload->term"},
        "answers": "payload->answers",
        "created_at": "at",
        "where": {"kind": ["lead", "call"]},
    },
    "credentials": {
        "table": "accounts",
        "id": "number",
        "type": "provider",
        "name": "title",
        "enabled": {"column": "state", "equals": ["on", "trial"]},
        "data": "body",
        "settings": "body",
        "where": {"kind": "x"},
    },
    "entity_credentials": {
        "table": "links",
        "external_entity_id": "owner",
        "where": {"owner_type": "App\\Models\\Entity"},
        "deleted_at": "gone_at",
        "through": {"table": "entities", "external_id": "code"},
    },
    "project_credentials": {
        "table": "links",
        "external_project_id": "owner",
        "where": {"owner_type": "App\\Models\\Project"},
        "deleted_at": False,
    },
    "types": {"Tg": "telegram"},
    "data": {"telegram": {"bot_token": "auth->token", "chat_id": {"key": "chat", "default": "-100"}}},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "crm.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path


def opened(path: Path, mapping: Mapping[str, Any] = MAPPING) -> Database:
    return Database.open(
        DatabaseSettings(url=f"sqlite:///{path}", mapping=MappingSettings.model_validate(mapping))
    )  # fmt: skip


def add_lead(path: Path, number: int, payload: Any = None, **columns: Any) -> None:
    row = {"select": "e1", "project": "p1", "src": "ya", "kind": "lead", "at": "2026-11-01 10:00:00", **columns}
    body = json.dumps(payload) if not isinstance(payload, str) else payload
    execute(path, "INSERT INTO crm_requests VALUES (?,?,?,?,?,?,?)",
            [[number, row["select"], row["project"], body, row["src"], row["kind"], row["at"]]])  # fmt: skip


def lead_of(path: Path, number: int) -> Lead | None:
    db = opened(path)
    try:
        return load_leads(db, [number]).get(number)
    finally:
        db.close()


def test_a_lead_whose_values_are_all_elsewhere(path: Path) -> None:
    payload = {"contact": {"name": "Анна", "phones": ["+7916", "x"]}, "term": "окна", "answers": {"Бюджет": 100}}
    add_lead(path, 42, payload)
    assert lead_of(path, 42) == Lead(
        42, "e1", "p1", name="Анна", phone="+7916", email="office@example.com",
        utm={"utm_source": "ya", "utm_medium": "site", "utm_term": "окна"}, answers=(Answer("Бюджет", "100"),),
        created_at=lead_of(path, 42).created_at,  # type: ignore[union-attr]
    )  # fmt: skip


def test_what_is_not_there_in_the_json_is_empty(path: Path) -> None:
    add_lead(path, 1, {"contact": None}, src=None)
    lead = lead_of(path, 1)
    assert lead is not None
    assert (lead.name, lead.phone, lead.answers, lead.problem) == ("", "", (), None)
    assert lead.utm == {"utm_medium": "site"}


def test_json_that_cannot_be_read_is_the_leads_problem(path: Path) -> None:
    add_lead(path, 1, '{"contact": ')
    lead = lead_of(path, 1)
    assert lead is not None
    assert lead.problem == "payload is not valid JSON"


def test_rows_that_are_not_meant_do_not_exist(path: Path) -> None:
    for number, kind in enumerate(("lead", "call", "spam"), 1):
        add_lead(path, number, {}, kind=kind)
    db = opened(path)
    assert [head.id for head in iter_heads(db, None, LeadFilter())] == [1, 2]
    assert [head.id for head in iter_heads(db, None, LeadFilter(entity="e1"))] == [1, 2]
    assert list(load_leads(db, [1, 2, 3])) == [1, 2]
    db.close()


def accounts_of(path: Path, *rows: tuple[Any, ...]) -> list[Account]:
    execute(path, "INSERT INTO crm_accounts VALUES (?,?,?,?,?,?)", rows)
    db = opened(path)
    try:
        return load_credentials(db)
    finally:
        db.close()


def test_credentials_with_aliases_states_and_keys_of_their_own(path: Path) -> None:
    body = json.dumps({"auth": {"token": "1:a", "more": 1}, "other": 2})
    telegram, webhooks = accounts_of(
        path, (2, "webhooks", "W", "off", '{"url": "https://x"}', "x"), (1, "Tg", "T", "trial", body, "x"),
        (3, "Tg", None, "on", "{}", "y"),
    )  # fmt: skip
    assert (telegram.credential_id, telegram.channel, telegram.name, telegram.enabled) == (1, "telegram", "T", True)
    assert telegram.data == {"auth": {"token": "1:a", "more": 1}, "other": 2, "bot_token": "1:a", "chat_id": "-100"}
    assert telegram.settings == {"auth": {"token": "1:a", "more": 1}, "other": 2}
    assert (webhooks.channel, webhooks.enabled, webhooks.data) == ("webhooks", False, {"url": "https://x"})


@pytest.mark.parametrize(
    ("found", "keys", "ours"),
    [
        ({"token": "a"}, {"bot_token": {"key": "token"}}, {"bot_token": "a"}),
        ({"token": ""}, {"bot_token": {"key": "token", "default": "d"}}, {"bot_token": "d"}),
        ({}, {"bot_token": {"key": "token"}}, {}),
        ({"bot_token": "own"}, {"bot_token": {"key": "token"}}, {"bot_token": "own"}),
        ({"a": 1, "b": 2}, {"a": {"key": "b"}, "b": {"key": "a"}}, {"a": 2, "b": 1}),
        ({"url": "x"}, {"url": {"default": "d"}}, {"url": "x"}),
        ({"off": False}, {"ssl": {"key": "off", "default": True}}, {"ssl": False}),
    ],
)
def test_keys_are_renamed(found: Any, keys: Mapping[str, Any], ours: Any) -> None:
    assert renamed(found, {key: KeySource.model_validate(source) for key, source in keys.items()}) == ours


def test_links_through_a_table_and_of_one_kind(path: Path) -> None:
    accounts_of(path, *((number, "Tg", None, "on", "{}", "x") for number in (1, 2, 3)))
    execute(path, "INSERT INTO crm_entities VALUES (?,?,?)", [(10, "e1", None), (11, "e2", "2026"), (12, None, None)])
    execute(path, "INSERT INTO crm_links VALUES (?,?,?,?)", [
        ("10", "App\\Models\\Entity", "1", None), ("10", "App\\Models\\Entity", "2", "2026-01-01"),
        ("11", "App\\Models\\Entity", "2", None), ("12", "App\\Models\\Entity", "2", None),
        ("p1", "App\\Models\\Project", "3", "2026-01-01"), ("p1", "App\\Models\\User", "2", None),
    ])  # fmt: skip
    db = opened(path)
    links = load_links(db, {1, 2, 3})
    assert links.for_lead("e1", "p1") == ((1, ("entity",)), (3, ("project",)))
    assert links.for_lead("e2", None) == ()
    assert links.for_lead("10", None) == ()
    db.close()


@pytest.mark.parametrize(
    ("table", "changes", "said", "hint"),
    [
        ("leads", {"table": "request"}, "leads.table: {} has no table crm_request", ""),
        ("leads", {"id": "kee"}, "leads.id: the table crm_requests of {} has no column kee", "did you mean key?"),
        ("leads", {"where": {"qqqq": 1}}, "leads.where: the table crm_requests of {} has no column qqqq", "it has key"),
        ("credentials", {"deleted_at": "gone"},
         "credentials.deleted_at: the table crm_accounts of {} has no column gone", ""),
        ("entity_credentials", {"through": {"table": "e", "external_id": "x"}},
         "entity_credentials.through.table: {} has no table crm_e", ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_key(
    path: Path, table: str, changes: Mapping[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(path, {**MAPPING, table: {**MAPPING[table], **changes}})
    assert caught.value.message == f"database.mapping.{said.format(path)}"
    assert hint in caught.value.hint


def test_a_column_that_is_needed_and_not_mapped(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(path, {**MAPPING, "leads": {"table": "requests", "id": "key", "external_project_id": "project"}})
    assert caught.value.message == f"{path}: required columns are missing: crm_requests.external_entity_id"
    assert "[database.mapping.leads]" in caught.value.hint


def test_names_are_quoted_and_values_bound(tmp_path: Path) -> None:
    path = sample(tmp_path / "leads.db")
    evil = 'x"; DROP TABLE leads; --'
    quoted = '"x""; DROP TABLE leads; --"'
    execute(path, f"CREATE TABLE {quoted} (id INTEGER, external_entity_id TEXT, {quoted} TEXT, kind TEXT)")
    execute(path, f"INSERT INTO {quoted} VALUES (?,?,?,?)", [(1, "e", "p", evil), (2, "e", "p", "other")])
    db = opened(path, {"leads": {"table": evil, "external_project_id": evil, "where": {"kind": evil}}})
    assert [(head.id, head.external_project_id) for head in iter_heads(db, None, LeadFilter())] == [(1, "p")]
    db.close()
    assert execute(path, "SELECT count(*) FROM leads") == [(0,)]


@pytest.mark.parametrize(
    ("value", "keys", "found", "changed"),
    [
        ({"a": {"b": 1}}, ("a", "b"), 1, {"a": {"b": 9}}),
        ({"a": [1, 2]}, ("a", "1"), 2, {"a": [1, 9]}),
        ({"a": 5}, ("a", "b"), None, {"a": {"b": 9}}),
        ({}, ("a",), None, {"a": 9}),
        ({"a": [1]}, ("a", "7"), None, {"a": {"7": 9}}),
        (3, (), 3, 9),
    ],
)
def test_places_within_json(value: Any, keys: tuple[str, ...], found: Any, changed: Any) -> None:
    assert dig(value, keys) == found
    assert bury(value, keys, 9) == changed
