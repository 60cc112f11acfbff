"""The look at somebody's database, on each kind of it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from leadctl.domain.errors import ConfigError, DatabaseUnreachable
from leadctl.store import inspection
from leadctl.store.engines import parse_url
from leadctl.store.inspection import Inspection
from tests.support.servers import KINDS, query, server_of

SCHEMA = """
CREATE TABLE companies (id INTEGER PRIMARY KEY, external_id VARCHAR(40));
CREATE TABLE leads (id INTEGER PRIMARY KEY, company_ref VARCHAR(40), amount NUMERIC(10, 2), active BOOLEAN,
  payload {json}, created_at TIMESTAMP NULL, note TEXT, picture {blob});
CREATE TABLE links (company_id INTEGER, lead_id INTEGER NOT NULL, kind VARCHAR(20),
  FOREIGN KEY (company_id) REFERENCES companies (id));
CREATE VIEW open_leads AS SELECT id, company_ref FROM leads;
INSERT INTO companies VALUES (1, 'ext-1'), (2, 'ext-2'), (3, 'ext-3');
INSERT INTO leads VALUES (1, 'ext-1', 1.5, {yes}, '{{"a": 1}}', NULL, 'Anna', NULL),
  (2, 'ext-2', NULL, {no}, NULL, NULL, NULL, NULL), (3, 'gone', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO links VALUES (1, 1, 'a'), (2, 2, 'b'), (2, 3, 'b'), (NULL, 3, NULL);
"""
TYPES = {
    "sqlite": {"json": "TEXT", "blob": "BLOB", "yes": "1", "no": "0"},
    "postgresql": {"json": "JSONB", "blob": "BYTEA", "yes": "TRUE", "no": "FALSE"},
    "mariadb": {"json": "JSON", "blob": "BLOB", "yes": "1", "no": "0"},
}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with these tables."""
    server = server_of(request, request.param)
    made = server.new_database() if server else f"sqlite:///{tmp_path}/app.db"
    engine = create_engine(parse_url(made, "url"))
    with engine.begin() as connection:
        for statement in SCHEMA.format(**TYPES[request.param]).split(";"):
            if statement.strip():
                connection.execute(text(statement.replace(":", "\\:")))
    engine.dispose()
    return made


@pytest.fixture
def look(url: str) -> Iterator[Inspection]:
    with Inspection(url) as look:
        yield look


def test_the_schema(look: Inspection) -> None:
    assert set(look.tables) == {"companies", "leads", "links", "open_leads"}
    leads = look.tables["leads"]
    kinds = dict(leads.columns)
    # SQLite and MariaDB keep JSON as text, and MariaDB a boolean as a small number.
    assert kinds.pop("payload") in ("json", "text")
    assert kinds.pop("active") in ("boolean", "integer")
    assert kinds == {
        "id": "integer", "company_ref": "text", "amount": "number", "created_at": "time", "note": "text",
        "picture": "binary",
    }  # fmt: skip
    assert (leads.primary_key, leads.identity, leads.rows, leads.count) == (("id",), "id", (), None)
    links = look.tables["links"]
    assert (links.primary_key, links.identity) == ((), None)
    assert links.foreign_keys == {"company_id": ("companies", "id")}
    assert look.tables["open_leads"].identity == "id"


def test_the_newest_rows(look: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SAMPLE_ROWS", 2)
    monkeypatch.setattr(inspection, "COUNT_LIMIT", 1)
    leads = look.into("leads")
    assert [row["id"] for row in leads.rows] == [3, 2]
    assert "picture" not in leads.rows[0]
    assert leads.count == 2  # it says no more than: above the limit
    assert leads.refused is None
    assert "gone" not in repr(leads)
    assert [row["company_ref"] for row in look.into("open_leads").rows] == ["gone", "ext-2"]


def test_different_values(look: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(look.values("links", "kind")) == ["a", "b"]
    assert len(look.values("leads", "active")) == 2
    monkeypatch.setattr(inspection, "DISTINCT_ROWS", 1)
    assert look.values("leads", "company_ref") == ["gone"]
    monkeypatch.setattr(inspection, "DISTINCT_VALUES", 0)
    assert look.values("leads", "company_ref") == []


@pytest.mark.parametrize(
    ("held", "there", "share"),
    [
        (["ext-1", "ext-2", "gone", None, "ext-1"], ("companies", "external_id"), 2 / 3),
        ([1, "2", "x"], ("companies", "id"), 2 / 3),  # what no such column can hold is not found there
        (["1", 2], ("links", "company_id"), 1.0),
        ([], ("companies", "id"), None),
        ([None], ("companies", "id"), None),
    ],
)
def test_how_many_ids_are_met(
    look: Inspection, held: list[object], there: tuple[str, str], share: float | None
) -> None:  # fmt: skip
    found = look.share(held, there)
    assert found == (None if share is None else pytest.approx(share))


def test_nothing_can_be_written(look: Inspection) -> None:
    with pytest.raises(SQLAlchemyError), look._engine.begin() as connection:
        connection.execute(text("INSERT INTO companies VALUES (9, 'x')"))
    with pytest.raises(SQLAlchemyError), look._engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (id INTEGER)"))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://u:s3cr3t@127.0.0.1:9/db", DatabaseUnreachable),
        ("mysql://u:s3cr3t@127.0.0.1:9/db", DatabaseUnreachable),
        ("sqlite:////dev/null/none.db", DatabaseUnreachable),
        ("oracle://h/db", ConfigError),
    ],
)
def test_what_cannot_be_opened(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught, Inspection(url) as look:
        assert not look.tables
    assert "s3cr3t" not in str(caught.value)


def test_a_table_that_this_user_may_not_read(request: pytest.FixtureRequest) -> None:
    server = server_of(request, "postgresql")
    assert server is not None
    made = server.new_database()
    role = f"reader{os.getpid()}"
    engine = create_engine(parse_url(made, "url"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE leads (id INTEGER PRIMARY KEY)"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    engine.dispose()
    with Inspection(made.replace("leadctl@", f"{role}@")) as look:
        refused = look.into("leads").refused
    assert refused is not None
    assert "permission denied" in refused


@pytest.mark.parametrize(("kind", "sleep"), [("postgresql", "CAST(pg_sleep(5) AS TEXT)"), ("mariadb", "SLEEP(5)")])
def test_a_read_that_takes_too_long(
    kind: str, sleep: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of(request, kind)
    assert server is not None
    made = server.new_database()
    query(made, f"CREATE VIEW slow AS SELECT 1 AS id, {sleep} AS kind")
    query(made, "CREATE TABLE leads (id INTEGER PRIMARY KEY)")
    monkeypatch.setattr(inspection, "STATEMENT_TIMEOUT", 0.2)
    with Inspection(made) as look:
        assert "takes longer than 0.2 s" in str(look.into("slow").refused)
        assert look.values("slow", "kind") == []
        assert look.into("leads").refused is None


def test_a_text_that_is_no_utf_8(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("CREATE TABLE leads (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO leads VALUES (1, CAST(x'ff41' AS TEXT))")
    with Inspection(f"sqlite:///{tmp_path}/a.db") as look:
        assert look.into("leads").rows[0]["name"] == "\ufffdA"


def test_a_view_of_what_is_gone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.executescript("CREATE TABLE a (id INTEGER); CREATE VIEW b AS SELECT id FROM a; DROP TABLE a")
    with Inspection(f"sqlite:///{tmp_path}/a.db") as look:
        assert "a" not in look.tables


def test_a_key_of_laravel_that_is_none_opens_nothing(tmp_path: Path) -> None:
    with Inspection(f"sqlite:///{tmp_path}/a.db", "base64:short") as look:
        assert look.opened("eyJpdiI6QUJD") == "eyJpdiI6QUJD"
        assert look.opened('{"a": 1}') == {"a": 1}
