"""How a row of somebody's table becomes a row of ours: ``[database.mapping]``, held against the table as it is."""

import difflib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from sqlalchemy import BigInteger, ColumnElement, Select, String, Uuid, cast, column, literal, select, table, types
from sqlalchemy.sql.expression import ColumnClause, TableClause

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import ExternalId, LeadId, parse_id
from leadctl.settings.mapping import ARROW, Choice, Constant, Scalar, TableMapping
from leadctl.store.encryption import Keyring, Unreadable, read_value

_INT64 = 2**63
#: Before the name of a column that is read whole, for what lies within it.
_WHOLE = "@"
#: In a row by our names: why something in it cannot be read.
PROBLEM = "@problem"


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


# --- where a value comes from -----------------------------------------------------------------------------------


class Row:
    """Some columns of one row, those that hold JSON read at most once."""

    def __init__(self, columns: Mapping[Any, Any], keyring: Keyring) -> None:
        self._columns = columns
        self._keyring = keyring
        self._opened: dict[str, Any] = {}
        #: Why something could not be read; holds no value.
        self.problem: str | None = None

    def column(self, name: str) -> Any:
        return self._columns[_WHOLE + name]

    def within(self, name: str) -> Any:
        """The object in a JSON column, decrypted where it is encrypted; None where it cannot be read."""
        if name not in self._opened:
            try:
                self._opened[name] = read_value(self.column(name), self._keyring)
            except Unreadable as error:
                self._opened[name] = None
                self.problem = self.problem or f"{name} {error}"
        return self._opened[name]


class Value(Protocol):
    """Where a value of ours comes from."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be read for it."""

    def read(self, row: Row) -> Any: ...


@dataclass(frozen=True, slots=True)
class InColumn:
    """A column as it is."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def read(self, row: Row) -> Any:
        return row.column(self.column)


@dataclass(frozen=True, slots=True)
class InJson:
    """A place within a JSON column. It is looked up here: each database has other words for it."""

    column: str
    keys: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def read(self, row: Row) -> Any:
        return dig(row.within(self.column), self.keys)


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same for all rows."""

    value: Any
    columns: tuple[str, ...] = ()

    def read(self, row: Row) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class OneOf:
    """Whether another value is one of these, all compared as text."""

    inner: "InColumn | InJson"
    texts: frozenset[str]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.inner.columns

    def read(self, row: Row) -> Any:
        return as_text(self.inner.read(row)) in self.texts


@dataclass(frozen=True, slots=True)
class Grouped:
    """An object that is put together from several places; what is empty there is left out."""

    parts: Mapping[str, "InColumn | InJson | Fixed"]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts.values() for name in part.columns)

    def read(self, row: Row) -> Any:
        found = {key: part.read(row) for key, part in self.parts.items()}
        return {key: value for key, value in found.items() if value is not None and value != ""}


def dig(value: Any, keys: Sequence[str], default: Any = None) -> Any:
    """What stands at that place of a nested object."""
    for key in keys:
        if isinstance(value, list) and key.isascii() and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        else:
            return default
    return value


def bury(value: Any, keys: Sequence[str], new: Any) -> Any:
    """A copy of the object with something else at that place."""
    if not keys:
        return new
    if isinstance(value, list) and keys[0].isdecimal() and int(keys[0]) < len(value):
        index = int(keys[0])
        return [*value[:index], bury(value[index], keys[1:], new), *value[index + 1 :]]
    inner = dict(value) if isinstance(value, Mapping) else {}
    return {**inner, keys[0]: bury(inner.get(keys[0]), keys[1:], new)}


def as_text(raw: Any) -> str | None:
    """A flag or an enumeration as it can be compared: true is 1, whatever the driver makes of it."""
    if raw is None:
        return None
    if isinstance(raw, bool):
        return "1" if raw else "0"
    if isinstance(raw, bytes):
        return str(raw[0]) if len(raw) == 1 and raw[0] < 2 else raw.decode("utf-8", "replace")
    return _plain(raw).strip()


# --- a table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceTable:
    """One of the tables: its columns as they are, and where our values are among them."""

    clause: TableClause
    #: Of the columns as the database calls them.
    column_types: Mapping[str, types.TypeEngine[Any]]
    fields: Mapping[str, Value]
    where: Mapping[str, Scalar | list[Scalar]] = field(default_factory=dict)
    deleted_at: str | None = None
    keyring: Keyring = field(default_factory=Keyring)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> ColumnClause[Any]:
        """The column of a value that has one of its own, read as the driver gives it."""
        return self.clause.c[self.fields[name].columns[0]]

    def is_column(self, name: str) -> bool:
        """Whether the value is a column as it is: only then the database can compare it."""
        return isinstance(self.fields.get(name), InColumn)

    def type_of(self, name: str) -> types.TypeEngine[Any]:
        """The type of the column that the value is in."""
        return self.column_types[self.fields[name].columns[0]]

    def id_type(self, name: str) -> IdType:
        return IdType(self.type_of(name))

    @property
    def there(self) -> list[ColumnElement[bool]]:
        """The condition that a row is one of those that are meant, and not deleted."""
        conditions = [self._is(name, wanted) for name, wanted in self.where.items()]
        if self.deleted_at is not None:
            conditions.append(self.clause.c[self.deleted_at].is_(None))
        return conditions

    def _is(self, name: str, wanted: Scalar | list[Scalar]) -> ColumnElement[bool]:
        kind = self.column_types[name]
        values = [_comparable(value, kind) for value in (wanted if isinstance(wanted, list) else [wanted])]
        compared: ColumnElement[Any] = self.clause.c[name]
        if isinstance(kind, types.Enum):  # PostgreSQL compares its own enumerations with nothing else
            compared = cast(compared, String)
        as_typed = Uuid(as_uuid=False) if isinstance(kind, types.Uuid) else None
        return compared.in_([literal(value, as_typed) for value in values])

    def select(self, names: Sequence[str]) -> Select[Any]:
        """Those of the values that there are, of the rows that are meant; to be read by :meth:`read`."""
        there = [name for name in names if name in self]
        columns: list[ColumnElement[Any]] = []
        whole: dict[str, None] = {}
        for name in there:
            if self.is_column(name):
                own = self[name]
                columns.append(own if own.name == name else own.label(name))
            else:
                whole.update(dict.fromkeys(self.fields[name].columns))
        columns += [self.clause.c[name].label(_WHOLE + name) for name in whole]
        return select(*columns or [literal(1).label("one")]).select_from(self.clause).where(*self.there)

    def read(self, rows: Iterable[Any], names: Sequence[str]) -> Iterator[Mapping[Any, Any]]:
        """The rows of :meth:`select` by our names; what the table does not have is not in them."""
        elsewhere = [name for name in names if name in self and not self.is_column(name)]
        if not elsewhere:
            there = [name for name in names if name in self]
            # In half the time of SQLAlchemy's own mapping. What was selected behind these is for the caller.
            return (dict(zip(there, row, strict=False)) for row in rows)
        return (self._read(row._mapping, elsewhere) for row in rows)

    def _read(self, found: Mapping[Any, Any], elsewhere: Sequence[str]) -> Mapping[Any, Any]:
        row = Row(found, self.keyring)
        values = {name: self.fields[name].read(row) for name in elsewhere}
        ours = {name: value for name, value in found.items() if not name.startswith(_WHOLE)}
        return {**ours, **values, PROBLEM: row.problem}

    def tuples(self, rows: Iterable[Any], names: Sequence[str]) -> Iterable[Any]:
        """The rows of :meth:`select` as tuples of these values, None for what the table does not have."""
        if all(self.is_column(name) for name in names):
            return rows
        return (tuple(row.get(name) for name in names) for row in self.read(rows, names))


def _comparable(value: Scalar, kind: types.TypeEngine[Any]) -> Scalar:
    """The value as the column can be compared with it: PostgreSQL compares no number with a text."""
    if isinstance(kind, types.Boolean):
        return as_text(value) in ("1", "true", "t", "yes")
    if isinstance(kind, types.String) and not isinstance(value, str):
        return as_text(value) or ""
    if isinstance(kind, types.Integer) and isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    return int(value) if isinstance(kind, types.Integer) and isinstance(value, bool) else value


@dataclass(frozen=True)
class TablePlan:
    """What leadctl wants of one table."""

    #: Its name in the config and by default.
    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    #: Other names that are taken where ours is not there.
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Where the config says more of it."""
        return f"database.mapping.{self.name}"


def table_name(mapping: TableMapping, default: str, prefix: str) -> tuple[str, str | None]:
    """The table's name with the prefix, and its schema: ``crm.leads`` is the table ``leads`` of the schema ``crm``."""
    schema, _, name = (mapping.table or default).rpartition(".")
    return prefix + name, schema or None


def map_table(
    plan: TablePlan,
    mapping: TableMapping,
    place: str,
    name: tuple[str, str | None],
    found: Mapping[str, types.TypeEngine[Any]],
    keyring: Keyring,
) -> SourceTable:
    """Hold the mapping against the columns that were ``found``. Raises ConfigError naming the key, or the column."""
    fields: dict[str, Value] = {}
    for ours in (*plan.required, *plan.optional):
        source = getattr(mapping, ours, None)
        if source is None:
            theirs = next((one for one in (ours, plan.also.get(ours)) if one in found), None)
            if theirs is not None:
                fields[ours] = InColumn(theirs)
        else:
            fields[ours] = _value(source)
            for needed in fields[ours].columns:
                _check_column(f"{plan.key}.{ours}", needed, place, name[0], found)
    missing = [f"{name[0]}.{wanted}" for wanted in plan.required if wanted not in fields]
    if missing:
        raise ConfigError(
            f"{place}: required columns are missing: {', '.join(missing)}",
            hint=f"say in [{plan.key}] what they are called, or give leadctl views with these names",
        )
    deleted_at = _deleted_at(plan, mapping, place, name[0], found)
    for needed in mapping.where:
        _check_column(f"{plan.key}.where", needed, place, name[0], found)
    used = {part for value in fields.values() for part in value.columns} | set(mapping.where)
    used |= {deleted_at} if deleted_at else set()
    clause = table(name[0], *map(column, sorted(used)), schema=name[1])
    return SourceTable(clause, found, fields, mapping.where, deleted_at, keyring)


def _deleted_at(
    plan: TablePlan, mapping: TableMapping, place: str, name: str, found: Mapping[str, Any]
) -> str | None:  # fmt: skip
    if mapping.deleted_at is None:
        return "deleted_at" if "deleted_at" in found else None
    if mapping.deleted_at is False:
        return None
    _check_column(f"{plan.key}.deleted_at", mapping.deleted_at, place, name, found)
    return mapping.deleted_at


def _check_column(key: str, wanted: str, place: str, name: str, found: Mapping[str, Any]) -> None:
    if wanted in found:
        return
    near = difflib.get_close_matches(wanted, found, n=1, cutoff=0.5)
    raise ConfigError(
        f"{key}: the table {name} of {place} has no column {wanted}",
        hint=f"did you mean {near[0]}?" if near else f"it has {', '.join(found)}",
    )


def _value(source: Any) -> Value:
    if isinstance(source, Constant):
        return Fixed(source.value)
    if isinstance(source, Choice):
        texts = frozenset(text for value in source.equals if (text := as_text(value)) is not None)
        return OneOf(_place(source.column), texts)
    if isinstance(source, Mapping):
        return Grouped({key: Fixed(part.value) if isinstance(part, Constant) else _place(part)
                        for key, part in source.items()})  # fmt: skip
    return _place(source)


def _place(path: str) -> InColumn | InJson:
    name, *keys = path.split(ARROW)
    return InJson(name, tuple(keys)) if keys else InColumn(name)
