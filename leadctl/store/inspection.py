"""A read-only look at somebody's database: which tables there are, how they hang together, and some of their rows.

Every read is bounded. What is read here may be personal or secret: it is looked at and never shown.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Engine,
    Select,
    bindparam,
    column,
    event,
    func,
    inspect,
    literal_column,
    select,
    table,
    types,
)
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.engine.reflection import Inspector, ObjectKind
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from leadctl.domain.errors import ConfigError
from leadctl.store.encryption import Keyring, Unreadable, read_value
from leadctl.store.engines import (
    describe,
    explain,
    explained,
    has_bad_bytes,
    parse_url,
    replace_bad_bytes,
    server_engine,
    sqlite_engine,
    sqlite_path,
)
from leadctl.store.mapping import IdType

Kind = Literal["integer", "number", "boolean", "text", "json", "time", "uuid", "binary", "other"]
#: A table and a column of it.
Place = tuple[str, str]

#: The newest rows that are looked at, of a table that matters.
SAMPLE_ROWS = 500
#: So many rows are looked through for the different values of a column, and so many values are told apart.
DISTINCT_ROWS, DISTINCT_VALUES = 20_000, 60
#: Rows are counted up to here.
COUNT_LIMIT = 100_000
#: Ids that are looked up elsewhere to see whether two columns mean the same.
SHARE_IDS = 200
#: Seconds that a server may take for one of these reads.
STATEMENT_TIMEOUT = 20.0
#: What a server says of a statement that took longer: PostgreSQL's SQLSTATE, MariaDB's and MySQL's numbers.
_TOO_LONG = {"57014", 1969, 3024}
_KINDS: Sequence[tuple[type[types.TypeEngine[Any]], Kind]] = (
    (types.Boolean, "boolean"),
    (types.Integer, "integer"),
    (types.Numeric, "number"),
    (types.JSON, "json"),
    (types.Uuid, "uuid"),
    (types.Date, "time"),
    (types.DateTime, "time"),
    (types.String, "text"),
    (types.LargeBinary, "binary"),
)

#: How an id is compared, by the kind of its column.
_BINDS: Mapping[Kind, types.TypeEngine[Any]] = {
    "integer": types.BigInteger(),
    "number": types.Numeric(),
    "uuid": types.Uuid(),
    "text": types.String(),
}


@dataclass(frozen=True, slots=True)
class TableLook:
    """A table. ``rows``, ``values`` and ``count`` are there only where it was looked into (:meth:`Inspection.into`)."""

    name: str
    columns: Mapping[str, Kind]
    primary_key: tuple[str, ...] = ()
    #: column → where it leads to.
    foreign_keys: Mapping[str, Place] = field(default_factory=dict)
    #: The newest ones, as the driver gives them.
    rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    #: Rows, counted up to ``COUNT_LIMIT``; None: not looked into.
    count: int | None = None
    #: Why nothing can be read of it.
    refused: str | None = None

    @property
    def identity(self) -> str | None:
        """The column that tells one row from another, if it is one."""
        if len(self.primary_key) == 1:
            return self.primary_key[0]
        return "id" if "id" in self.columns else None


class _TooSlow(ConfigError):
    """The server was not let go on with a read."""


def different(values: Select[Any]) -> Select[Any]:
    """Of a statement for one column: some of its different values, looked for among its first rows."""
    among = values.limit(DISTINCT_ROWS).subquery()
    return select(*among.c).distinct().limit(DISTINCT_VALUES)


class Inspection:
    """The open look. A context manager: leaving it closes the connections."""

    def __init__(self, url: str, app_key: str | None = None) -> None:
        """``app_key``: opens what Laravel has encrypted. Raises ConfigError where the URL is none, or the driver is
        missing. Connects only when something is read."""
        parsed = parse_url(url, "database.url")
        path = sqlite_path(parsed)
        #: For people: no password.
        self.location = describe(parsed)
        self._app_key = app_key
        self._engine = sqlite_engine(path, "ro") if path is not None else _read_only(server_engine(parsed))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def opened(self, raw: Any) -> Any:
        """What is in an encrypted value; the value itself where it cannot be opened."""
        try:
            return read_value(raw, self._keyring)
        except Unreadable:
            return raw

    @cached_property
    def _keyring(self) -> Keyring:
        try:
            return Keyring(self._app_key)
        except ConfigError:  # no key of Laravel's; who plans with it is told
            return Keyring()

    @cached_property
    def tables(self) -> Mapping[str, TableLook]:
        """Every table and view of the default schema, not looked into. Raises ConfigError, DatabaseUnreachable."""
        with explained(self.location), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a column's exotic type is none of our business
            inspector = inspect(self._engine)
            return dict([*_tables(inspector), *_views(inspector)])

    def into(self, name: str) -> TableLook:
        """The table with its newest rows. A table that this user may not read says so in ``refused``."""
        if name not in self._looked:
            self._looked[name] = self._look(self.tables[name])
        return self._looked[name]

    @cached_property
    def _looked(self) -> dict[str, TableLook]:
        return {}

    def values(self, name: str, of: str) -> list[Any]:
        """Different values of a column among the newest rows, without NULL; short of them where there are many."""
        look = self.tables[name]
        newest: Select[Any] = select(column(of)).select_from(table(name)).where(column(of).is_not(None))
        newest_of = _newest(newest, look)
        try:
            return [row[0] for row in self._rows(different(newest_of))]
        except _TooSlow:
            return []

    def share(self, held: Iterable[Any], there: Place) -> float | None:
        """Which part of some ids is found in a column; None where nothing can be said."""
        wanted = list(dict.fromkeys(str(value) for value in held if value is not None))[:SHARE_IDS]
        id_type = IdType(_BINDS.get(self.tables[there[0]].columns[there[1]], types.NullType()))
        values = [value for text in wanted if (value := id_type.value(text)) is not None]
        if not wanted or not self.into(there[0]).count:
            return None
        target: ColumnClause[Any] = column(there[1])
        among: ColumnElement[Any] = bindparam("ids", values, type_=id_type.bind, expanding=True)
        try:
            found = self._rows(select(target).select_from(table(there[0])).where(target.in_(among)).distinct())
        except _TooSlow:
            return None
        return len({str(row[0]) for row in found} & set(wanted)) / len(wanted)

    def _look(self, look: TableLook) -> TableLook:
        wanted: list[ColumnElement[Any]] = [column(name) for name, kind in look.columns.items() if kind != "binary"]
        statement = select(*wanted).select_from(table(look.name))
        some = select(literal_column("1")).select_from(table(look.name)).limit(COUNT_LIMIT + 1).subquery()
        try:
            rows = [dict(row._mapping) for row in self._rows(_newest(statement, look).limit(SAMPLE_ROWS))]
            count = self._rows(select(func.count()).select_from(some))[0][0]
        except ConfigError as error:  # the rights of a reading account end somewhere
            return replace(look, refused=error.message)
        return replace(look, rows=rows, count=count)

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        try:
            with self._engine.connect() as connection:
                try:
                    return connection.execute(statement).all()
                except OperationalError as error:
                    if not has_bad_bytes(error):
                        raise
                replace_bad_bytes(connection)
                return connection.execute(statement).all()
        except SQLAlchemyError as error:
            if _took_too_long(error):
                raise _TooSlow(f"{self.location}: reading takes longer than {STATEMENT_TIMEOUT:g} s") from None
            raise explain(error, self.location) from None


def _read_only(engine: Engine) -> Engine:
    """Sessions that can change nothing, and take long for nothing."""
    postgresql = engine.dialect.name == "postgresql"

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for statement in _settings_of_postgresql() if postgresql else _settings_of_mysql(connection):
                cursor.execute(statement)
        connection.commit()

    return engine


def _settings_of_postgresql() -> list[str]:
    milliseconds = round(STATEMENT_TIMEOUT * 1000)
    return [
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        f"SET SESSION statement_timeout = {milliseconds}",
    ]


def _settings_of_mysql(connection: Any) -> list[str]:
    mariadb = "MariaDB" in connection.get_server_info()
    longest = f"max_statement_time = {STATEMENT_TIMEOUT}"
    return [
        "SET SESSION TRANSACTION READ ONLY",
        f"SET SESSION {longest if mariadb else f'max_execution_time = {round(STATEMENT_TIMEOUT * 1000)}'}",
    ]


def _took_too_long(error: SQLAlchemyError) -> bool:
    orig = getattr(error, "orig", None)
    return not _TOO_LONG.isdisjoint((getattr(orig, "sqlstate", None), *getattr(orig, "args", ())[:1]))


def _newest(statement: Select[Any], look: TableLook) -> Select[Any]:
    return statement.order_by(column(look.identity).desc()) if look.identity else statement


def _tables(inspector: Inspector) -> Iterable[tuple[str, TableLook]]:
    keys = inspector.get_multi_pk_constraint(kind=ObjectKind.TABLE)
    leading = inspector.get_multi_foreign_keys(kind=ObjectKind.TABLE)
    for key, columns in inspector.get_multi_columns(kind=ObjectKind.TABLE).items():
        primary = keys.get(key)
        foreign = {
            one["constrained_columns"][0]: (one["referred_table"], one["referred_columns"][0])
            for one in leading.get(key, ())
            if len(one["constrained_columns"]) == 1 and len(one["referred_columns"]) == 1
        }
        yield key[1], TableLook(
            key[1], _kinds(columns), tuple(primary["constrained_columns"]) if primary else (), foreign
        )  # fmt: skip


def _views(inspector: Inspector) -> Iterable[tuple[str, TableLook]]:
    """One by one: a view of which a table is gone cannot be looked at, and takes nothing with it."""
    for name in inspector.get_view_names():
        try:
            columns = inspector.get_columns(name)
        except SQLAlchemyError:
            continue
        yield name, TableLook(name, _kinds(columns))


def _kinds(columns: Iterable[ReflectedColumn]) -> dict[str, Kind]:
    return {found["name"]: _kind(found["type"]) for found in columns}


def _kind(reflected: types.TypeEngine[Any]) -> Kind:
    return next((kind for family, kind in _KINDS if isinstance(reflected, family)), "other")
