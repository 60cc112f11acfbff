"""The database of leads and credentials: which of the four tables' columns exist, and what they are called there."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, Inspector, Select, inspect, types
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import LeadId
from leadctl.settings import DatabaseSettings
from leadctl.settings.mapping import TableMapping, Through
from leadctl.store.encryption import Keyring
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
from leadctl.store.mapping import IdType, SourceTable, TablePlan, canonical_id, external_id, map_table, table_name

__all__ = ["Database", "IdType", "SourceTable", "canonical_id", "external_id", "pages"]

#: At most so many ids in one IN: below the parameter limits of every database.
IN_LIMIT = 500
#: What leadctl wants of the four tables.
_LEADS = TablePlan(
    "leads",
    ("id", "external_entity_id", "external_project_id"),
    ("name", "phone", "email", "comment", "page_url", "utm", "answers", "created_at"),
)
_CREDENTIALS = TablePlan("credentials", ("id", "type"), ("name", "enabled", "data", "settings"))
_CREDENTIAL = {"credentials_id": "credential_id"}
_ENTITIES = TablePlan("entity_credentials", ("external_entity_id", "credentials_id"), also=_CREDENTIAL)
_PROJECTS = TablePlan("project_credentials", ("external_project_id", "credentials_id"), also=_CREDENTIAL)
_TABLES = (_LEADS, _CREDENTIALS, _ENTITIES, _PROJECTS)

T = TypeVar("T")


def pages(items: Sequence[T], size: int = IN_LIMIT) -> Iterable[Sequence[T]]:
    """The items in slices of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))


class Database:
    """Leads and credentials. Open it with :meth:`open`."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.url = parse_url(settings.url, "database.url")
        self.name = settings.name
        self.timezone = ZoneInfo(settings.timezone)
        self.mapping = settings.mapping
        #: What opens columns that Laravel has encrypted.
        self.keyring = Keyring(
            settings.app_key.get_secret_value() if settings.app_key is not None else None,
            [key.get_secret_value() for key in settings.previous_keys],
        )
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
        self._through: dict[str, SourceTable] = {}

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

    def through(self, name: str) -> SourceTable | None:
        """The table between leads and that table of links, where there is one."""
        return self._through.get(name)

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
        for plan in _TABLES:
            mapping: TableMapping = getattr(self.mapping, plan.name)
            self._tables[plan.name] = self._map(inspector, plan, mapping)
            through: Through | None = getattr(mapping, "through", None)
            if through is not None:
                between = TablePlan(f"{plan.name}.through", ("id", "external_id"))
                self._through[plan.name] = self._map(inspector, between, through)

    def _map(self, inspector: Inspector, plan: TablePlan, mapping: TableMapping) -> SourceTable:
        name = table_name(mapping, plan.name, self.mapping.prefix)
        columns = self.columns_of(inspector, name, f"{plan.key}.table" if self._is_mapped(mapping) else None)
        return map_table(plan, mapping, self.location, name, columns, self.keyring)

    def _is_mapped(self, mapping: TableMapping) -> bool:
        return mapping.table is not None or bool(self.mapping.prefix)

    def columns_of(
        self, inspector: Inspector, name: tuple[str, str | None], key: str | None
    ) -> Mapping[str, types.TypeEngine[Any]]:
        """The columns of a table with their types. ``key``: where the config names it. Raises ConfigError."""
        table, schema = name
        if not inspector.has_table(table, schema=schema):
            full = f"{schema}.{table}" if schema else table
            if key is not None:
                raise ConfigError(f"{key}: {self.location} has no table {full}", hint="see it with: leadctl doctor")
            raise ConfigError(
                f"{self.location}: the table {full} is missing; leadctl needs {', '.join(p.name for p in _TABLES)}",
                hint="check [database] url, or say in [database.mapping] what it is called; a new SQLite file with "
                "these tables is made by: leadctl init",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a column's exotic type is none of our business
            return {column["name"]: column["type"] for column in inspector.get_columns(table, schema=schema)}


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, not a SQLite file", hint="check [database] url")
    if not path.exists():
        raise ConfigError(
            f"the SQLite file {path} does not exist", hint="check [database] url, or make one with: leadctl init"
        )
