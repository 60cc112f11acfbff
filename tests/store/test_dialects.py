"""What servers would be sent: every statement and table compiles, and row tuples land in their columns."""

import importlib
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from leadctl.store import groups, runs, schema, settling
from leadctl.store.tuples import TupleStatement

STATEMENTS = {
    "items": (runs._INSERT_ITEMS, "INSERT INTO leadctl_deliveries"),
    "leads": (runs._INSERT_LEADS, "INSERT INTO leadctl_run_leads"),
    "targets": (settling.INSERT_TARGETS, "INSERT INTO leadctl_targets"),
    "attempts": (settling.INSERT_ATTEMPTS, "INSERT INTO leadctl_attempts"),
    "claim": (groups._UPDATE_TARGETS, "UPDATE leadctl_targets"),
    "outcome": (groups._UPDATE_ITEMS, "UPDATE leadctl_deliveries"),
}


class _Connection:
    """Keeps what a driver would get."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.sent: list[tuple[str, list[Any]]] = []
        self.rowcount = 1
        self.connection = SimpleNamespace(dbapi_connection=None)

    def exec_driver_sql(self, text: str, rows: list[Any] = [], **_: Any) -> "_Connection":  # noqa: B006
        self.sent.append((text, rows))
        return self


def dialect(name: str) -> Dialect:
    module = importlib.import_module(f"sqlalchemy.dialects.{name}")
    made: Dialect = module.dialect()
    return made


DIALECTS = ["postgresql.psycopg", "mysql.pymysql", "sqlite.pysqlite"]


@pytest.mark.parametrize("name", DIALECTS)
def test_tables_compile(name: str) -> None:
    server = dialect(name)
    for table in schema.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name}" in str(CreateTable(table).compile(dialect=server))
        for index in table.indexes:
            assert str(index.name) in str(CreateIndex(index).compile(dialect=server))


def test_mysql_compares_ids_byte_by_byte() -> None:
    text = str(CreateTable(schema.targets).compile(dialect=dialect("mysql.pymysql")))
    assert "ENGINE=InnoDB" in text
    assert "COLLATE utf8mb4_bin" in text


@pytest.mark.parametrize("name", DIALECTS[1:])
@pytest.mark.parametrize("kind", STATEMENTS)
def test_every_value_lands_in_its_column(name: str, kind: str) -> None:
    statement, beginning = STATEMENTS[kind]
    row = tuple(f"value of {column}" for column in statement._columns)
    connection: Any = _Connection(dialect(name))
    assert statement.run(connection, [row, row]) == 1
    ((text, rows),) = connection.sent
    assert text.startswith(beginning)
    assert "RETURNING" not in text
    assert len(rows) == 2
    for column, value in _bound(text, rows[0]):
        assert value in (f"value of {column}", f"value of at_{column}")


@pytest.mark.parametrize("kind", STATEMENTS)
def test_every_value_lands_in_its_column_of_one_statement_for_postgresql(kind: str) -> None:
    statement, beginning = STATEMENTS[kind]
    row = tuple(f"value of {column}" for column in statement._columns)
    connection: Any = _Connection(dialect("postgresql.psycopg"))
    assert statement.run(connection, [row, row]) == 1
    ((text, _),) = connection.sent
    assert text.startswith(beginning)
    assert "RETURNING" not in text
    ((rows, columns),) = re.findall(r"json_to_recordset\('(.+)'::JSON\) AS \w+\((.+, \w+ [\w()]+)\)", text)
    assert json.loads(rows) == [{name: f"value of {name}" for name in statement._columns}] * 2
    assert [part.split()[0] for part in columns.split(", ")] == list(statement._columns)
    read = re.findall(r"given\.(\w+)", text)
    assert all(name in read or f"at_{name}" in read for name in statement._columns)
    written = _columns(text)
    assert len(read) == len(written)
    for column, name in zip(written, read, strict=True):
        assert name in (column, f"at_{column}")


def _columns(text: str) -> list[str]:
    """The statement's columns in the order of their values."""
    if text.startswith("INSERT"):
        return re.findall(r"\w+", text[text.index("(") + 1 : text.index(")")])
    return re.findall(r"(\w+)[\"`]?(?:(?: \|\| ''|, ''\))\))?\s*=\s*(?:%|\?|given)", text)


def _bound(text: str, row: Any) -> list[tuple[str, str]]:
    """(column, value) of each place of the statement."""
    columns = _columns(text)
    if isinstance(row, dict):
        return list(zip(columns, (row[name] for name in re.findall(r"%\((\w+)\)s", text)), strict=True))
    return list(zip(columns, row, strict=True))


def test_nothing_is_sent_for_no_rows() -> None:
    statement: TupleStatement = settling.INSERT_TARGETS
    connection: Any = _Connection(dialect("sqlite.pysqlite"))
    assert statement.run(connection, []) == 0
    assert connection.sent == []
