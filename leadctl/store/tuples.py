"""Many rows at once: one statement over tuples, compiled once, without Core's work per row."""

import json
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Insert,
    Table,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.visitors import replacement_traverse

_PREFIX = "p_"
#: Before the name of a column that is compared with, where the same column is also set.
_AT = "at_"
_ROWS = "rows"
_COUNT = "<count>"


def bind(name: str) -> BindParameter[Any]:
    """The parameter for the tuples' column of that name."""
    return bindparam(_PREFIX + name)


def bind_at(name: str) -> BindParameter[Any]:
    """The parameter for what stands in that column before."""
    return bind(_AT + name)


class TupleStatement:
    """A statement whose parameters are :func:`bind` of ``columns``, or :func:`bind_at` of them where they begin with
    ``at_``; rows are tuples in that order.

    PostgreSQL gets all rows in one message. It takes a process for idle in its transaction only where it has answered
    everything; one that freezes within a pipeline, or between a statement and its parameters, would keep its locks, and
    all others would wait.
    """

    def __init__(self, statement: UpdateBase, columns: Sequence[str]) -> None:
        self._statement = statement
        self._columns = tuple(columns)
        self._compiled: dict[str, tuple[str, list[int] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute for each row; how many rows of the table were met (-1 where the driver cannot say)."""
        if not rows:
            return 0
        text, order = self._text(connection)
        parameters: Any
        if connection.dialect.name == "postgresql":
            # How many they are tells the server whether to look for each, or to read the table once.
            whole = text.replace(_COUNT, str(len(rows))).replace(f"%({_ROWS})s", self._literal(connection, rows))
            return connection.exec_driver_sql(whole, execution_options={"no_parameters": True}).rowcount
        if order is None:
            names = [_PREFIX + name for name in self._columns]
            parameters = [dict(zip(names, row, strict=True)) for row in rows]
        elif order == list(range(len(self._columns))):
            parameters = list(rows)
        else:
            parameters = list(map(itemgetter(*order), rows))
        return connection.exec_driver_sql(text, parameters).rowcount

    def _text(self, connection: Connection) -> tuple[str, list[int] | None]:
        """The SQL, and which column stands at each place; None where the driver wants names."""
        name = connection.dialect.name
        if name not in self._compiled:
            statement = self._of_all_rows() if name == "postgresql" else self._statement
            compiled = statement.compile(dialect=connection.dialect)
            places = compiled.positiontup
            order = [self._columns.index(place.removeprefix(_PREFIX)) for place in places] if places else None
            self._compiled[name] = str(compiled), order
        return self._compiled[name]

    def _literal(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> str:
        """The rows as a list of objects in JSON, in the quotes of this connection."""
        from psycopg.sql import Literal

        objects = [dict(zip(self._columns, row, strict=True)) for row in rows]
        driver: Any = connection.connection.dbapi_connection
        return Literal(json.dumps(objects, ensure_ascii=False)).as_string(driver)

    def _of_all_rows(self) -> UpdateBase:
        """The statement over a table that PostgreSQL makes of a list of JSON objects."""
        table = self._statement.table
        names = [column(name, table.c[name.removeprefix(_AT)].type) for name in self._columns]
        objects = func.json_to_recordset(bindparam(_ROWS, type_=JSON)).table_valued(*names)
        given = select(objects.render_derived(with_types=True)).limit(literal_column(_COUNT)).subquery("given")
        if isinstance(self._statement, Insert):
            return insert(table).from_select(self._columns, select(*given.c))

        def replaced(element: Any, **_: Any) -> Any:
            return given.c[element.key.removeprefix(_PREFIX)] if isinstance(element, BindParameter) else None

        whole: UpdateBase = replacement_traverse(self._statement, {}, replaced)  # type: ignore[assignment]
        return whole


def insert_tuples(table: Table, columns: Sequence[str]) -> TupleStatement:
    """INSERT of those columns."""
    return TupleStatement(insert(table).inline().values({name: bind(name) for name in columns}), columns)
