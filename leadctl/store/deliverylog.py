"""The application's own log of what it has sent (``[database.mapping.deliveries]``), read as proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, inspect

from leadctl.domain.model import LeadId
from leadctl.settings.mapping import MappingSettings
from leadctl.store.database import Database, pages
from leadctl.store.engines import explained, is_busy, patiently
from leadctl.store.leads import read_text, read_time
from leadctl.store.mapping import SourceTable, TablePlan, as_text, canonical_id, map_table, table_name

#: Leads of one query: a page of a plan.
PAGE = 1000
_NAMES = ("lead_id", "credential_id", "type", "status", "at", "remote_id")


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A delivery that the application says it has made."""

    #: As text; None where the row names none.
    credential_id: str | None
    #: The channel of the row's type, by ``[database.mapping.types]``; None where the row names no type.
    channel: str | None
    #: Aware, UTC.
    at: datetime | None
    remote_id: str | None


class DeliveryLog:
    """The rows of the log that say "delivered". Open it with :meth:`open`."""

    def __init__(self, db: Database, source: SourceTable, mapping: MappingSettings) -> None:
        self._db = db
        self._source = source
        self._names = [name for name in _NAMES if name in source]
        self._aliases = mapping.types
        self._delivered = {as_text(value) for value in mapping.deliveries.delivered} if mapping.deliveries else set()
        self._id_type = source.id_type("lead_id")

    @classmethod
    def open(cls, db: Database, mapping: MappingSettings) -> "DeliveryLog | None":
        """Look at the mapped table; None where no log is mapped.

        Raises ConfigError naming the key whose table or column is missing, and DatabaseUnreachable.
        """
        log = mapping.deliveries
        if log is None:
            return None
        plan = TablePlan("deliveries", tuple(key for key in _NAMES if getattr(log, key) is not None))
        name = table_name(log, plan.name, mapping.prefix)
        with explained(db.location):
            found = patiently(lambda: db.columns_of(inspect(db.engine), name, f"{plan.key}.table"), is_busy)
        return cls(db, map_table(plan, log, db.location, name, found, db.keyring), mapping)

    def delivered(self, lead_ids: Sequence[LeadId]) -> dict[LeadId, list[LoggedRow]]:
        """What the log proves of these leads; the others are left out."""
        found: dict[LeadId, list[LoggedRow]] = {}
        for some in pages(lead_ids, PAGE):
            self._read(some, found)
        return found

    def _read(self, lead_ids: Sequence[LeadId], found: dict[LeadId, list[LoggedRow]]) -> None:
        asked = {text: identity for identity in lead_ids if (text := self._as_there(identity)) is not None}
        if not asked:
            return
        values: list[int | str] = [int(text) for text in asked] if self._id_type.integer else list(asked)
        among = bindparam("ids", values, type_=self._id_type.bind, expanding=True)
        statement = self._source.select(self._names).where(self._source["lead_id"].in_(among))
        for values_there in self._source.tuples(self._db.rows(statement), self._names):
            row = dict(zip(self._names, values_there, strict=True))
            # Compared once more: a database may take more for equal than text is, say upper and lower case.
            identity = asked.get(_id_text(row["lead_id"]) or "")
            if identity is not None and ("status" not in row or as_text(row["status"]) in self._delivered):
                found.setdefault(identity, []).append(self._row(row))

    def _as_there(self, identity: LeadId) -> str | None:
        """The id as the log's column would show it; None where it cannot hold it. "042" is not 42."""
        value = self._id_type.value(identity)
        if value is None or (self._id_type.integer and str(value) != str(identity)):
            return None
        return str(value)

    def _row(self, row: Mapping[str, Any]) -> LoggedRow:
        kind = read_text(row.get("type")) or None
        return LoggedRow(
            _id_text(row.get("credential_id")),
            self._aliases.get(kind, kind) if kind else None,
            read_time(row.get("at"), self._db.timezone),
            read_text(row.get("remote_id")) or None,
        )


def _id_text(raw: Any) -> str | None:
    if type(raw) is int:
        return str(raw)
    return None if raw is None else str(canonical_id(raw.strip() if isinstance(raw, str) else raw))
