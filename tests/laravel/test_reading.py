"""Selecting by time on servers: the database leaves out most, and never a lead that is meant. And leads whose columns
the application has encrypted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, text

from leadctl.domain.model import Answer, Lead
from leadctl.settings import DatabaseSettings
from leadctl.settings.mapping import MappingSettings
from leadctl.store.database import Database
from leadctl.store.engines import parse_url
from leadctl.store.leads import LeadFilter, head_pages, load_leads
from tests.laravel.test_plan import APP_KEY
from tests.support.laravel import Laravel, running_laravel
from tests.support.servers import server_of

MOSCOW = "Europe/Moscow"
NOON = datetime(2026, 11, 1, 12, 0, tzinfo=ZoneInfo(MOSCOW))
TABLES = (
    "CREATE TABLE credentials (id INTEGER, type VARCHAR(20))",
    "CREATE TABLE entity_credentials (external_entity_id INTEGER, credentials_id INTEGER)",
    "CREATE TABLE project_credentials (external_project_id INTEGER, credentials_id INTEGER)",
)
#: Hours before or after noon in Moscow; a lead each.
HOURS = (-2000, -30, -25, -1, 0, 1, 25, 2000)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("postgresql", "TIMESTAMP"),
        ("postgresql", "TIMESTAMPTZ"),
        ("postgresql", "TEXT"),
        ("mariadb", "DATETIME"),
        ("mariadb", "TIMESTAMP NULL"),
        ("mariadb", "BIGINT"),
    ],
)
def test_since_and_until(request: pytest.FixtureRequest, kind: str, column: str) -> None:
    server = server_of(request, kind)
    assert server is not None
    url = server.new_database()
    fill(url, column)
    db = Database.open(DatabaseSettings(url=url, timezone=MOSCOW))
    read: list[int] = []
    rows = db.rows

    def counted(statement: object) -> Sequence[object]:
        found = rows(statement)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    db.rows = counted  # type: ignore[method-assign]
    hour = timedelta(hours=1)
    for since, until, wanted in [
        (NOON, None, [4, 5, 6, 7]),
        (None, NOON, [0, 1, 2, 3]),
        (NOON - hour, NOON + hour, [3, 4]),
        (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), list(range(len(HOURS)))),
    ]:
        found = [head.id for page in head_pages(db, LeadFilter(since=since, until=until)) for head in page]
        assert found == wanted
    if column not in ("TEXT", "BIGINT"):
        assert read[2] <= 5  # not all of them were read
    db.close()


def fill(url: str, column: str) -> None:
    engine = create_engine(parse_url(url, "url"))
    with engine.begin() as connection:
        columns = f"id INTEGER, external_entity_id INTEGER, external_project_id INTEGER, created_at {column}"
        for statement in (*TABLES, f"CREATE TABLE leads ({columns})"):
            connection.execute(text(statement))
        for number, hours in enumerate(HOURS):
            moment = NOON + timedelta(hours=hours)
            naive = moment.replace(tzinfo=None).isoformat(" ")
            value = {"TIMESTAMPTZ": moment.isoformat(), "BIGINT": int(moment.timestamp())}.get(column, naive)
            connection.execute(text("INSERT INTO leads VALUES (:id, 1, 1, :at)"), {"id": number, "at": value})
        connection.execute(text("INSERT INTO leads VALUES (99, 1, 1, NULL)"))
    engine.dispose()


@pytest.mark.parametrize(
    ("kind", "column", "stored", "where"),
    [
        ("postgresql", "state", "'new'", "new"),
        ("postgresql", "UUID", "'12345678-1234-4234-8234-123456789abc'", "12345678-1234-4234-8234-123456789ABC"),
        ("postgresql", "BOOLEAN", "TRUE", 1),
        ("postgresql", "INTEGER", "3", "3"),
        ("postgresql", "VARCHAR(5)", "'3'", 3),
        ("mariadb", "ENUM('new', 'old')", "'new'", ["new", "other"]),
        ("mariadb", "BIT(1)", "b'1'", True),
        ("mariadb", "TINYINT(1)", "1", True),
        ("mariadb", "VARCHAR(5)", "'3'", 3),
    ],
)
def test_rows_are_chosen_by_columns_of_any_type(
    request: pytest.FixtureRequest, kind: str, column: str, stored: str, where: object
) -> None:
    server = server_of(request, kind)
    assert server is not None
    url = server.new_database()
    engine = create_engine(parse_url(url, "url"))
    with engine.begin() as connection:
        if column == "state":
            connection.execute(text("CREATE TYPE state AS ENUM ('new', 'old')"))
        columns = f"id INTEGER, external_entity_id INTEGER, external_project_id INTEGER, kind {column} NULL"
        for statement in (*TABLES, f"CREATE TABLE leads ({columns})"):
            connection.execute(text(statement))
        connection.execute(text(f"INSERT INTO leads VALUES (1, 1, 1, {stored}), (2, 1, 1, NULL)"))
    engine.dispose()
    mapping = MappingSettings.model_validate({"leads": {"where": {"kind": where}}})
    db = Database.open(DatabaseSettings(url=url, mapping=mapping))
    assert [head.id for page in head_pages(db, LeadFilter()) for head in page] == [1]
    db.close()


# --- leads in columns that are encrypted ------------------------------------------------------------------------------

PAYLOAD: Mapping[str, Any] = {
    "contact": {"name": "Анна Ким", "phone": "+79161234567"},
    "answers": {"Бюджет": "100", "Когда": "завтра"},
    "utm": {"source": "yandex", "medium": "", "term": None},
    "tags": ["a", {"deep": "b"}],
}
#: Places within one column, one of them several; and a column of its own beside them.
PLACES: Mapping[str, Any] = {
    "name": "payload->contact->name", "phone": "payload->contact->phone", "answers": "payload->answers",
    "page_url": "payload->tags->1->deep",
    "utm": {"utm_source": "payload->utm->source", "utm_medium": "payload->utm->medium", "utm_term": "label"},
    "comment": "note",
}  # fmt: skip


@pytest.fixture(scope="module")
def laravel() -> Iterator[Laravel]:
    with running_laravel() as running:
        yield running


def lead_with(folder: Path, payload: str, note: str) -> Lead:
    """The lead of a row that holds these."""
    url = f"sqlite:///{folder / 'app.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        columns = "id INTEGER, external_entity_id INTEGER, external_project_id INTEGER, payload TEXT, note TEXT, label"
        for statement in (*TABLES, f"CREATE TABLE leads ({columns})"):
            connection.execute(text(statement))
        connection.execute(
            text("INSERT INTO leads VALUES (7, 1, NULL, :payload, :note, 'spring')"), {"payload": payload, "note": note}
        )
    engine.dispose()
    settings = {"url": url, "app_key": APP_KEY, "mapping": {"leads": PLACES}}
    db = Database.open(DatabaseSettings.model_validate(settings))
    try:
        return load_leads(db, [7])[7]
    finally:
        db.close()


@pytest.mark.parametrize("serialize", [True, False], ids=["Crypt::encrypt of an array", "encrypted:array"])
def test_places_within_a_column_that_is_encrypted(laravel: Laravel, tmp_path: Path, serialize: bool) -> None:
    inner = dict(PAYLOAD) if serialize else json.dumps(PAYLOAD)
    note = laravel.encrypt("Перезвоните", APP_KEY, serialize=False)
    lead = lead_with(tmp_path, laravel.encrypt(inner, APP_KEY, serialize=serialize), note)
    assert lead == Lead(
        7, 1, None, "Анна Ким", "+79161234567", comment="Перезвоните", page_url="b",
        utm={"utm_source": "yandex", "utm_term": "spring"},
        answers=(Answer("Бюджет", "100"), Answer("Когда", "завтра")), problem=None,
    )  # fmt: skip


def test_such_a_column_under_another_key_is_named(laravel: Laravel, tmp_path: Path) -> None:
    other = "base64:" + "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3Q="
    lead = lead_with(tmp_path, laravel.encrypt(dict(PAYLOAD), other), "plain")
    assert lead.problem is not None
    assert lead.problem.startswith("payload is encrypted, and the MAC does not match")
    assert (lead.name, lead.comment, lead.answers) == ("", "plain", ())
