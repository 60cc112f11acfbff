"""Many rows at once: one prepared statement over tuples, without Core's work per row."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, Connection, Table, bindparam, insert
from sqlalchemy.sql.dml import UpdateBase

_PREFIX = "p_"


def bind(name: str) -> BindParameter[Any]:
    """The parameter for the tuples' column of that name."""
    return bindparam(_PREFIX + name)


class TupleStatement:
    """A statement whose parameters are :func:`bind` of ``columns``; rows are tuples in that order."""

    def __init__(self, statement: UpdateBase, columns: Sequence[str]) -> None:
        self._statement = statement
        self._columns = tuple(columns)
        self._compiled: dict[str, tuple[str, list[int] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute for each row; how many rows of the table were met (-1 where the driver cannot say)."""
        if not rows:
            return 0
        text, order = self._text(connection)
        if order is None:
            names = [_PREFIX + name for name in self._columns]
            return connection.exec_driver_sql(text, [dict(zip(names, row, strict=True)) for row in rows]).rowcount
        if order != list(range(len(self._columns))):
            rows = list(map(itemgetter(*order), rows))
        return connection.exec_driver_sql(text, list(rows)).rowcount

    def _text(self, connection: Connection) -> tuple[str, list[int] | None]:
        """The SQL, and which column stands at each place; None where the driver wants names."""
        name = connection.dialect.name
        if name not in self._compiled:
            compiled = self._statement.compile(dialect=connection.dialect)
            places = compiled.positiontup
            order = [self._columns.index(place.removeprefix(_PREFIX)) for place in places] if places else None
            self._compiled[name] = str(compiled), order
        return self._compiled[name]


def insert_tuples(table: Table, columns: Sequence[str]) -> TupleStatement:
    """INSERT of those columns."""
    return TupleStatement(insert(table).inline().values({name: bind(name) for name in columns}), columns)
