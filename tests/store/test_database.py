"""Opening the database: what is missing is said, and nothing is created or changed."""

import importlib
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text, types
from sqlalchemy.exc import DBAPIError, OperationalError

from leadctl.domain.errors import ConfigError, DatabaseUnreachable, LeadctlError
from leadctl.settings import DatabaseSettings
from leadctl.store.database import Database, IdType
from leadctl.store.engines import describe, explain, explained, is_busy, is_race, parse_url, sqlite_engine
from leadctl.store.leads import LeadFilter, heads_by_ids, load_leads
from tests.store.helpers import execute, opened, sample
from tests.support.heads import iter_heads

mysql_errors: Any = importlib.import_module("pymysql.err")  # it has no types


def refused(url: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Database.open(DatabaseSettings(url=url))
    assert caught.value.exit_code == 2
    return caught.value


def test_a_missing_file_is_named_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    error = refused(f"sqlite:///{path}")
    assert str(path) in error.message
    assert "leadctl init" in error.hint
    assert not path.exists()


def test_a_directory_and_a_foreign_file(tmp_path: Path) -> None:
    assert "is a directory" in refused(f"sqlite:///{tmp_path}").message
    other = tmp_path / "notes.txt"
    other.write_text("these are no leads " * 100)
    assert "not a sound SQLite database" in refused(f"sqlite:///{other}").message


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:leads.db?mode=rwc&uri=true"])
def test_only_plain_files(url: str) -> None:
    assert "must name a SQLite file" in refused(url).message


@pytest.mark.parametrize("url", ["leads.db", "oracle://u:hunter22@h/x", "://", "postgresql://u:hunter22@h:port/x"])
def test_urls_that_are_none_or_of_other_databases(url: str) -> None:
    error = refused(url)
    assert "database.url" in error.message
    assert "hunter22" not in error.message + error.hint


@pytest.mark.parametrize("missing", ["leads", "credentials", "entity_credentials", "project_credentials"])
def test_a_missing_table_is_named(leads: Path, missing: str) -> None:
    execute(leads, f"DROP TABLE {missing}")
    error = refused(f"sqlite:///{leads}")
    assert f"the table {missing} is missing" in error.message
    assert "leadctl init" in error.hint


@pytest.mark.parametrize(
    ("table", "columns", "named"),
    [
        ("leads", "id, external_entity_id", "leads.external_project_id"),
        ("credentials", "id, data", "credentials.type"),
        ("entity_credentials", "id", "entity_credentials.external_entity_id, entity_credentials.credentials_id"),
        ("project_credentials", "external_project_id", "project_credentials.credentials_id"),
    ],
)
def test_a_missing_column_is_named(leads: Path, table: str, columns: str, named: str) -> None:
    execute(leads, f"DROP TABLE {table}")
    execute(leads, f"CREATE TABLE {table} ({columns})")
    assert refused(f"sqlite:///{leads}").message.endswith(f"required columns are missing: {named}")


def test_the_least_tables_and_views_will_do(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    execute(path, "CREATE TABLE lead_rows (id INTEGER PRIMARY KEY, external_entity_id, external_project_id)")
    execute(path, "CREATE VIEW leads AS SELECT * FROM lead_rows")
    execute(path, "CREATE TABLE credentials (id INTEGER PRIMARY KEY, type TEXT)")
    execute(path, "CREATE TABLE entity_credentials (external_entity_id, credentials_id)")
    execute(path, "CREATE TABLE project_credentials (external_project_id, credentials_id)")
    execute(path, "INSERT INTO lead_rows VALUES (?, ?, ?)", [(1, "a", None)])
    with opened(path) as db:
        assert [tuple(head) for head in iter_heads(db, None, LeadFilter())] == [(1, "a", None, None)]
        lead = load_leads(db, [1])[1]
        assert (lead.name, lead.utm, lead.answers, lead.created_at) == ("", {}, (), None)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_journal_mode_is_kept(leads: Path, mode: str) -> None:
    execute(leads, f"PRAGMA journal_mode={mode}")
    with opened(leads) as db:
        assert heads_by_ids(db, [1]) == {}
    assert execute(leads, "PRAGMA journal_mode") == [(mode,)]


def test_reading_cannot_write(leads: Path) -> None:
    with (
        opened(leads) as db,
        pytest.raises(DatabaseUnreachable, match="cannot be opened or written"),
        explained(db.location),
        db.engine.connect() as connection,
    ):
        connection.execute(text("INSERT INTO leads (id) VALUES (1)"))


def test_a_file_with_an_odd_name(tmp_path: Path) -> None:
    path = sample(tmp_path / "leads #1 [ü] 'x'.db")
    execute(path, "INSERT INTO leads (id) VALUES (?)", [(5,)])
    with opened(path) as db:
        assert list(heads_by_ids(db, [5])) == [5]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql", "mariadb"])
def test_a_server_that_does_not_answer(scheme: str) -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Database.open(DatabaseSettings(url=f"{scheme}://anna:hunter22@127.0.0.1:1/crm"))
    assert caught.value.exit_code == 5
    assert "hunter22" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(("scheme", "module", "extra"), [
    ("postgresql", "psycopg", "leadctl[postgresql]"),
    ("mysql", "pymysql", "leadctl[mysql]"),
])  # fmt: skip
def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    error = refused(f"{scheme}://anna:hunter22@127.0.0.1:1/crm")
    assert extra in error.hint
    assert "hunter22" not in error.message + error.hint


class _Refusal(Exception):
    """A driver's failure with the attributes that psycopg gives it."""

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            setattr(self, name, value)


class _Login:
    used_password = True
    needs_password = False


@pytest.mark.parametrize(
    ("orig", "kind"),
    [
        (_Refusal("FATAL: authentication failed", sqlstate=None, pgconn=_Login()), ConfigError),
        (_Refusal("no right", sqlstate="42501"), ConfigError),
        (_Refusal("connection refused", sqlstate=None, pgconn=None), DatabaseUnreachable),
        (mysql_errors.OperationalError(1045, "Access denied for user 'anna'"), ConfigError),
        (mysql_errors.OperationalError(1049, "Unknown database 'crm'"), ConfigError),
        (mysql_errors.OperationalError(2003, "Can't connect"), DatabaseUnreachable),
    ],
)
def test_a_refused_login_is_not_an_outage(orig: Exception, kind: type[LeadctlError]) -> None:
    assert type(explain(OperationalError("SELECT 1", {"p": "hunter22"}, orig), "mysql db/crm")) is kind


def test_messages_hold_neither_sql_nor_rows() -> None:
    orig = _Refusal("duplicate key\nDETAIL: Key (email)=(anna@example.com) already exists", sqlstate="23505")
    error = explain(DBAPIError("INSERT INTO leads", {"email": "anna@example.com"}, orig), "postgresql db/crm")
    assert "anna@" not in error.message
    assert "INSERT" not in error.message


@pytest.mark.parametrize(
    ("orig", "busy", "race"),
    [
        (_Refusal("deadlock", sqlstate="40P01"), True, False),
        (_Refusal("exists", sqlstate="42P07"), False, True),
        (_Refusal("syntax", sqlstate="42601"), False, False),
        (mysql_errors.OperationalError(1213, "Deadlock found"), True, False),
        (mysql_errors.OperationalError(1050, "Table exists"), False, True),
        (mysql_errors.ProgrammingError(1064, "syntax"), False, False),
    ],
)
def test_what_may_be_tried_again(orig: Exception, busy: bool, race: bool) -> None:
    error = DBAPIError("UPDATE", {}, orig)
    assert (is_busy(error), is_race(error)) == (busy, race)


def test_a_locked_file_is_busy(leads: Path) -> None:
    with closing(sqlite3.connect(leads, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        engine = create_engine(f"sqlite:///{leads}", connect_args={"timeout": 0})
        with pytest.raises(OperationalError) as caught, engine.connect() as connection:
            connection.execute(text("SELECT * FROM leads"))
        engine.dispose()
    assert is_busy(caught.value)
    assert "locked by another process" in explain(caught.value, str(leads)).message


def test_a_full_disk_is_said(leads: Path) -> None:
    engine = sqlite_engine(leads, "rw", immediate=True)
    with engine.begin() as connection:
        connection.execute(text("PRAGMA max_page_count=1"))
        insert = text("INSERT INTO leads (name) VALUES (:name)")
        with pytest.raises(DatabaseUnreachable, match="disk of the ledger is full"), explained("the ledger"):
            connection.execute(insert, {"name": "x" * 100_000})
        connection.rollback()
    engine.dispose()


def test_places_are_described_without_password() -> None:
    assert describe(parse_url("mysql://anna:hunter22@db:3307/crm", "k")) == "mysql db:3307/crm"
    assert describe(parse_url("postgresql://anna:hunter22@db/crm", "k")) == "postgresql db/crm"


@pytest.mark.parametrize(
    ("column", "typed", "value"),
    [
        (types.BigInteger(), "42", 42),
        (types.Integer(), " 007 ", 7),
        (types.Numeric(), "-3", -3),
        (types.String(), "A-7", "A-7"),
        (types.String(), "42", 42),
        (types.String(), "007", "007"),
        (types.Uuid(), "7B1C8E6E-5B0B-4B7E-9A55-0C8E5B6E9F10", "7b1c8e6e-5b0b-4b7e-9a55-0c8e5b6e9f10"),
        (types.NullType(), "42", 42),
    ],
)
def test_a_typed_id_takes_the_columns_type(column: types.TypeEngine[Any], typed: str, value: int | str) -> None:
    assert IdType(column).parse(typed) == value


@pytest.mark.parametrize(
    ("column", "typed"),
    [
        (types.Integer(), "abc"),
        (types.Integer(), "4.2"),
        (types.Integer(), "٤٢"),
        (types.Integer(), "-"),
        (types.Integer(), "9" * 19),
        (types.Integer(), "9" * 5000),
        (types.Integer(), ""),
        (types.String(), "  "),
        (types.Uuid(), "42"),
    ],
)
def test_an_id_that_the_column_cannot_hold(column: types.TypeEngine[Any], typed: str) -> None:
    with pytest.raises(ValueError, match=r"an id|UUID"):
        IdType(column).parse(typed)
    assert IdType(column).value(typed) is None


def test_lead_ids_of_the_database(leads: Path) -> None:
    with opened(leads) as db:
        assert db.lead_id("42") == 42
        with pytest.raises(ValueError, match="whole number"):
            db.lead_id("lead-42")
