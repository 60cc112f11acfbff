"""The four tables of CONTRACT §7 in a new SQLite file."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    column,
    func,
    insert,
    true,
)
from sqlalchemy import table as raw_table
from sqlalchemy.types import JSON

from leadctl.domain.errors import ConfigError
from leadctl.store.engines import explained, parse_url, sqlite_engine, sqlite_path

metadata = MetaData()

Table(
    "leads",
    metadata,
    Column("id", Integer, primary_key=True),
    # SQLite keeps a text in an INTEGER column as text: external ids may be either.
    Column("external_entity_id", Integer),
    Column("external_project_id", Integer),
    Column("name", Text),
    Column("phone", Text),
    Column("email", Text),
    Column("comment", Text),
    Column("page_url", Text),
    Column("utm", JSON),
    Column("answers", JSON),
    Column("created_at", DateTime, server_default=func.current_timestamp()),
    Index("leads_external_entity_id", "external_entity_id"),
    Index("leads_external_project_id", "external_project_id"),
)
Table(
    "credentials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("name", Text),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("data", JSON, nullable=False),
    Column("settings", JSON),
)
for _owner in ("entity", "project"):
    Table(
        f"{_owner}_credentials",
        metadata,
        Column("id", Integer, primary_key=True),
        Column(f"external_{_owner}_id", Integer),
        Column("credentials_id", Integer, ForeignKey("credentials.id"), nullable=False),
        Index(f"{_owner}_credentials_external_id", f"external_{_owner}_id"),
    )


def create_tables(url: str) -> bool:
    """Make a SQLite file (mode 0600) with the four tables.

    False, and nothing is done, for a file that is there and for a server. Raises ConfigError.
    """
    path = sqlite_path(parse_url(url, "database.url"))
    if path is None or path.exists():
        return False
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"the SQLite file {path} cannot be made ({error.strerror})", hint="check [database] url"
        ) from None
    engine = sqlite_engine(path, "rw", immediate=True)
    try:
        with explained(str(path)):
            metadata.create_all(engine)
    finally:
        engine.dispose()
    return True


def insert_rows(url: str, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert into one of the four tables, each value as it stands: a JSON column may hold what is no JSON.

    All rows have the columns of the first one.
    """
    path = sqlite_path(parse_url(url, "database.url"))
    if path is None:
        raise ConfigError("sample rows are written to a SQLite file only", hint="check [database] url")
    if not rows:
        return
    statement = insert(raw_table(table, *map(column, rows[0])))
    engine = sqlite_engine(path, "rw", immediate=True)
    try:
        with explained(str(path)), engine.begin() as connection:
            connection.execute(statement, [dict(row) for row in rows])
    finally:
        engine.dispose()
