"""The database of leads and credentials: which of the four tables' columns exist, and how ids are typed there."""

import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, ColumnElement, Engine, Select, String, Uuid, column, inspect, select, table, types
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.sql.expression import ColumnClause, TableClause

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import ExternalId, LeadId, parse_id
from leadctl.settings import DatabaseSettings
from leadctl.store.engines import (
    describe,
    explain,
    explained,
    has_bad_bytes,
    is_busy,
    parse_url,
    patiently,
    replace_bad_bytes,
    server_engine,
    sqlite_engine,
    sqlite_path,
)

#: At most so many ids in one IN: below the parameter limits of every database.
IN_LIMIT = 500
_INT64 = 2**63

#: table → (columns that must exist, columns that may).
_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "leads": (
        ("id", "external_entity_id", "external_project_id"),
        ("name", "phone", "email", "comment", "page_url", "utm", "answers", "created_at", "deleted_at"),
    ),
    "credentials": (("id", "type"), ("name", "enabled", "data", "settings", "deleted_at")),
    "entity_credentials": (("external_entity_id", "credentials_id"), ("deleted_at",)),
    "project_credentials": (("external_project_id", "credentials_id"), ("deleted_at",)),
}

T = TypeVar("T")


def pages(items: Sequence[T], size: int = IN_LIMIT) -> Iterable[Sequence[T]]:
    """The items in slices of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))


def canonical_id(raw: Any) -> int | str:
    """A row's id as the ledger gives it back too: an integer where it is written as one."""
    if type(raw) is int:
        return raw
    return parse_id(_plain(raw))


def external_id(raw: Any) -> ExternalId | None:
    """An external id as it stands in the row."""
    if raw is None or type(raw) is int or type(raw) is str:
        return raw
    return int(raw) if _is_whole(raw) else _plain(raw)


def _plain(raw: Any) -> str:
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "replace")
    return str(int(raw)) if _is_whole(raw) else str(raw)


def _is_whole(raw: Any) -> bool:
    return isinstance(raw, (int, float, Decimal)) and raw == raw // 1


class IdType:
    """How an id column is typed: what can be in it, and how a value is compared with it."""

    def __init__(self, reflected: types.TypeEngine[Any]) -> None:
        self.integer = isinstance(reflected, (types.Integer, types.Numeric))
        self.uuid = isinstance(reflected, types.Uuid)
        self.text = isinstance(reflected, types.String)
        #: The type to bind with: wide enough that a value can always be compared.
        self.bind: types.TypeEngine[Any] = types.NullType()
        if self.integer:
            self.bind = BigInteger()
        elif self.uuid:
            self.bind = Uuid(as_uuid=False)
        elif self.text:
            self.bind = String()

    def parse(self, text: str) -> LeadId:
        """A typed id. Raises ValueError where the column cannot hold it."""
        text = text.strip()
        if not text:
            raise ValueError("an id is empty")
        if self.integer:
            if not (text.isascii() and text.removeprefix("-").isdigit()):
                raise ValueError("an id must be a whole number")
            if len(text) > 20 or not -_INT64 <= int(text) < _INT64:
                raise ValueError("an id is too large")
            return int(text)
        if self.uuid:
            return str(uuid.UUID(text))
        return parse_id(text)

    def value(self, identity: int | str) -> int | str | None:
        """What to compare the column with; None: no row can have this id."""
        try:
            parsed = self.parse(str(identity))
        except ValueError:
            return None
        return str(parsed) if self.text else parsed


@dataclass(frozen=True)
class SourceTable:
    """One of the four tables, with the columns that it really has."""

    clause: TableClause
    types: dict[str, types.TypeEngine[Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.types

    def __getitem__(self, name: str) -> ColumnClause[Any]:
        """The column, read as the driver gives it."""
        return self.clause.c[name]

    def id_type(self, name: str) -> IdType:
        return IdType(self.types[name])

    @property
    def there(self) -> list[ColumnElement[bool]]:
        """The condition that a row is not deleted, if the table knows deletion."""
        return [self["deleted_at"].is_(None)] if "deleted_at" in self else []

    def select(self, names: Sequence[str]) -> Select[Any]:
        """Those of the columns that exist, of rows that are not deleted."""
        return select(*(self[name] for name in names if name in self)).where(*self.there)


class Database:
    """Leads and credentials. Open it with :meth:`open`."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.url = parse_url(settings.url, "database.url")
        self.name = settings.name
        self.timezone = ZoneInfo(settings.timezone)
        #: The SQLite file; None for a server.
        self.path: Path | None = sqlite_path(self.url)
        #: For people: no password.
        self.location = describe(self.url)
        if self.path is not None:
            _check_file(self.path)
            self.engine = sqlite_engine(self.path, "ro")
        else:
            self.engine = server_engine(self.url)
        self._writing: Engine | None = None
        self._tables: dict[str, SourceTable] = {}

    @classmethod
    def open(cls, settings: DatabaseSettings) -> "Database":
        """Connect and look at the tables. Raises ConfigError, DatabaseUnreachable."""
        database = cls(settings)
        try:
            with explained(database.location):
                patiently(database._reflect, is_busy)
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()
        if self._writing is not None:
            self._writing.dispose()

    @property
    def writing(self) -> Engine:
        """An engine for writing to credentials; a SQLite file is opened for writing only here."""
        if self._writing is None:
            self._writing = self.engine if self.path is None else sqlite_engine(self.path, "rw", immediate=True)
        return self._writing

    @property
    def leads(self) -> SourceTable:
        return self._tables["leads"]

    @property
    def credentials(self) -> SourceTable:
        return self._tables["credentials"]

    @property
    def entity_credentials(self) -> SourceTable:
        return self._tables["entity_credentials"]

    @property
    def project_credentials(self) -> SourceTable:
        return self._tables["project_credentials"]

    @cached_property
    def lead_id_type(self) -> IdType:
        return self.leads.id_type("id")

    def lead_id(self, text: str) -> LeadId:
        """The id that a person typed, as the column ``leads.id`` has it. Raises ValueError."""
        return self.lead_id_type.parse(text)

    def rows(self, statement: Select[Any]) -> Sequence[Any]:
        """All rows of a short read: no transaction stays open behind it."""

        def read(*, again: bool = False) -> Sequence[Any]:
            with self.engine.connect() as connection:
                if again:
                    replace_bad_bytes(connection)
                try:
                    return connection.execute(statement).all()
                except OperationalError as error:
                    if again or not has_bad_bytes(error):
                        raise
            return read(again=True)

        try:
            return patiently(read)
        except SQLAlchemyError as error:
            raise explain(error, self.location) from None

    def _reflect(self) -> None:
        inspector = inspect(self.engine)
        for name, (required, optional) in _TABLES.items():
            if not inspector.has_table(name):
                raise ConfigError(
                    f"{self.location}: the table {name} is missing; leadctl needs {', '.join(_TABLES)}",
                    hint="check [database] url; a new SQLite file with these tables is made by: leadctl init",
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a column's exotic type is none of our business
                found = {column["name"]: column["type"] for column in inspector.get_columns(name)}
            missing = [f"{name}.{wanted}" for wanted in required if wanted not in found]
            if missing:
                raise ConfigError(
                    f"{self.location}: required columns are missing: {', '.join(missing)}",
                    hint="add them, or give leadctl views with these names",
                )
            known = {wanted: found[wanted] for wanted in (*required, *optional) if wanted in found}
            self._tables[name] = SourceTable(table(name, *map(column, known)), known)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, not a SQLite file", hint="check [database] url")
    if not path.exists():
        raise ConfigError(
            f"the SQLite file {path} does not exist", hint="check [database] url, or make one with: leadctl init"
        )
