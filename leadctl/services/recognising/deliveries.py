"""The application's own log of what it has sent. It is proof, so only one that leaves no doubt is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.services.recognising import words
from leadctl.services.recognising.links import credential_column, lead_column
from leadctl.services.recognising.tables import Names
from leadctl.services.recognising.values import Look, Notes, flag, rows_told, told
from leadctl.store.inspection import TableLook

_KEY = "database.mapping.deliveries"
#: Statuses that say only that it went out, where another one says that it arrived.
_UNDER_WAY = frozenset({"sent", "accepted", "ok", "done"})


@dataclass(frozen=True)
class _Log:
    table: TableLook
    lead: str
    credential: str | None
    type: str | None
    status: str | None

    @property
    def worth(self) -> tuple[bool, bool, str]:
        return self.status is not None, self.credential is not None, self.table.name


def map_deliveries(
    look: Look, names: Names, leads: TableLook | None, credentials: TableLook | None, notes: Notes
) -> Mapping[str, Any] | None:
    """The section ``deliveries``; None where there is no log, or what it says is not clear."""
    if leads is None or credentials is None:
        return None
    logs = sorted(_logs(look, names, leads, credentials), key=lambda log: log.worth, reverse=True)
    if not logs:
        return None
    log = logs[0]
    if len(logs) > 1:
        others = ", ".join(other.table.name for other in logs[1:4])
        notes.ask("deliveries", f"{log.table.name} is looked at; there is also {others}", f"{_KEY}.table")
    if log.status is None:
        message = f"{log.table.name} may be a log of what was sent, but no column says what became of it"
        notes.ask("deliveries", f"{message}; it is not used", f"{_KEY}, if every row of it has arrived")
        return None
    arrived = _arrived(look.values(log.table.name, log.status), log, notes)
    if not arrived:
        return None
    who = f"credential in {log.credential}" if log.credential else f"type in {log.type}"
    notes.know(
        "deliveries",
        f"table {log.table.name}, {rows_told(look.into(log.table.name))}: lead in {log.lead}, {who}; what has "
        f"{log.status} {told(arrived)} counts as delivered already, and is not sent again",
    )
    return _section(log, arrived)


def _logs(look: Look, names: Names, leads: TableLook, credentials: TableLook) -> Sequence[_Log]:
    found = []
    for name, table in look.tables.items():
        lead = lead_column(table, names, leads)
        if lead is None or name in (leads.name, credentials.name) or names.is_framework(name):
            continue
        credential = credential_column(table, names, credentials)
        kind = words.pick(table.columns, words.DELIVERY_COLUMNS["type"])
        if credential is None and (kind is None or not _channels_in(look, name, kind)):
            continue
        status = words.pick(table.columns, words.DELIVERY_COLUMNS["status"])
        if (words.LOG_TABLE.search(names.short(name)) or status) and not look.into(name).refused:
            found.append(_Log(table, lead, credential, None if credential else kind, status))
    return found


def _channels_in(look: Look, name: str, column: str) -> bool:
    if look.into(name).refused:
        return False
    values = [flag(value) for value in look.values(name, column)]
    return any(words.channel_of(value, words.DATA_KEYS) for value in values)


def _arrived(values: Sequence[Any], log: _Log, notes: Notes) -> list[Any]:
    """The values of the status that say that it has arrived; none where that is not clear."""
    by_text = {flag(value).lower(): value for value in values}
    arrived = {text for text in by_text if text in words.ARRIVED}
    strange = set(by_text) - words.ARRIVED - words.NOT_ARRIVED
    key = f'{_KEY}: table = "{log.table.name}", status = "{log.status}", delivered = ["…"]'
    if arrived - _UNDER_WAY and arrived & _UNDER_WAY:
        strange |= arrived & _UNDER_WAY
        arrived -= _UNDER_WAY
    if not arrived or strange:
        said = told(values) if values else "no value yet"
        message = f"{log.table.name} may be a log of what was sent; {log.status} has {said}: which mean delivered?"
        notes.ask("deliveries", f"{message} It is not used", key)
        return []
    return sorted((_plain(by_text[text]) for text in arrived), key=str)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, str)) else flag(value)


def _section(log: _Log, arrived: Sequence[Any]) -> dict[str, Any]:
    columns = [column for column in log.table.columns if column not in (log.lead, log.credential, log.type, log.status)]
    own: dict[str, Any] = {"table": log.table.name}
    if log.lead != "lead_id":
        own["lead_id"] = log.lead
    own |= {"credential_id": log.credential} if log.credential else {"type": log.type}
    own |= {"status": log.status, "delivered": list(arrived)}
    for field in ("at", "remote_id"):
        if column := words.pick(columns, words.DELIVERY_COLUMNS[field]):
            own[field] = column
    return own
