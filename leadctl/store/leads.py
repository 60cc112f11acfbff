"""Reading leads: which are selected, in key pages, and what they say."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, bindparam, literal, types

from leadctl.domain.model import EMPTY, Answer, ExternalId, Lead, LeadId
from leadctl.store.database import Database, canonical_id, external_id, pages
from leadctl.store.encryption import SEALED, Keyring, Unreadable, decrypt_text
from leadctl.store.mapping import PROBLEM

#: What became of an id that was asked for, as ``leadctl_run_leads`` keeps it.
Standing = Literal["planned", "not_found", "filtered"]

_HEAD = ("id", "external_entity_id", "external_project_id", "created_at")
_UTC = ZoneInfo("UTC")
_TEXTS = ("name", "phone", "email", "comment", "page_url")
_DAY = timedelta(days=1)
#: The columns with what a lead says.
CONTENT = (*_TEXTS, "utm", "answers")


class LeadHead(NamedTuple):
    """What routing and selection need of a lead. ``created_at`` is aware, UTC."""

    id: LeadId
    external_entity_id: ExternalId | None
    external_project_id: ExternalId | None
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class LeadFilter:
    """The selectors that are ANDed to the ids, or stand alone. ``since`` ≤ created_at < ``until``, both aware.

    External ids are compared as text: 5 is "5". NULL never matches.
    """

    project: ExternalId | None = None
    entity: ExternalId | None = None
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, head: LeadHead) -> bool:
        """Whether the lead is selected."""
        return (
            _same(self.project, head.external_project_id)
            and _same(self.entity, head.external_entity_id)
            and self._in_time(head.created_at)
        )

    def among(self, heads: list[LeadHead]) -> list[LeadHead]:
        """Those of them that are selected."""
        if self.project is None and self.entity is None and self.until is None and self.since is not None:
            since = self.since
            return [head for head in heads if head.created_at is not None and since <= head.created_at]
        return heads if self == _EVERYTHING else [head for head in heads if self.matches(head)]

    def _in_time(self, created_at: datetime | None) -> bool:
        if self.since is None and self.until is None:
            return True
        if created_at is None:
            return False
        return (self.since is None or self.since <= created_at) and (self.until is None or created_at < self.until)


#: The selection without its ids, which are given apart.
Selection = LeadFilter
_EVERYTHING = LeadFilter()


def _same(wanted: ExternalId | None, found: ExternalId | None) -> bool:
    return wanted is None or (found is not None and str(wanted) == str(found))


def classify(
    db: Database, ids_page: Sequence[LeadId], filters: LeadFilter
) -> Iterator[tuple[LeadId, Standing, LeadHead | None]]:
    """Each id in order: whether it is selected, not there, or there but filtered out."""
    heads = heads_by_ids(db, ids_page)
    for identity in ids_page:
        head = heads.get(identity)
        if head is None:
            yield identity, "not_found", None
        else:
            yield identity, "planned" if filters.matches(head) else "filtered", head


def heads_by_ids(db: Database, ids_page: Sequence[LeadId]) -> dict[LeadId, LeadHead]:
    """The heads of those that exist and are not deleted."""
    return {head.id: head for head in _heads(db, _rows_by_ids(db, _HEAD, ids_page))}


def head_pages(db: Database, filters: LeadFilter, page: int = 1000) -> Iterator[list[LeadHead]]:
    """The leads that match, ascending by id, a list for each query: none, or fewer than ``page``, may match."""
    identity, id_type = db.leads["id"], db.lead_id_type
    statement = db.leads.select(_HEAD).where(identity.is_not(None), *_conditions(db, filters))
    last: Any = None
    while True:
        after = [identity > literal(last, id_type.bind)] if last is not None else []
        rows = db.rows(statement.where(*after).order_by(identity).limit(page))
        yield filters.among(_heads(db, rows))
        if len(rows) < page:
            return
        last = str(rows[-1].id) if id_type.uuid else rows[-1].id


def _conditions(db: Database, filters: LeadFilter) -> list[ColumnElement[bool]]:
    """What the database can leave out already; :meth:`LeadFilter.matches` has the last word."""
    conditions = []
    for name, wanted in (("external_project_id", filters.project), ("external_entity_id", filters.entity)):
        if not db.leads.is_column(name):
            continue
        id_type = db.leads.id_type(name)
        value = id_type.value(wanted) if wanted is not None and (id_type.integer or id_type.text) else None
        if value is not None:
            conditions.append(db.leads[name] == literal(value, id_type.bind))
    return conditions + _in_time(db, filters)


def _in_time(db: Database, filters: LeadFilter) -> list[ColumnElement[bool]]:
    """Of a server's date column, a day wider than wanted: no clock change and no session's zone leaves a lead out.

    SQLite has no such type: its column may hold numbers as well as texts.
    """
    if db.path is not None or not db.leads.is_column("created_at"):
        return []
    kind, created_at = db.leads.type_of("created_at"), db.leads["created_at"]
    if not isinstance(kind, types.DateTime):
        return []

    def at(moment: datetime, margin: timedelta) -> ColumnElement[datetime]:
        moment = (moment + margin).astimezone(UTC if kind.timezone else db.timezone)
        return literal(moment if kind.timezone else moment.replace(tzinfo=None), types.DateTime(kind.timezone))

    conditions = []
    with suppress(OverflowError):  # the ends of time
        if filters.since is not None:
            conditions.append(created_at >= at(filters.since, -_DAY))
        if filters.until is not None:
            conditions.append(created_at < at(filters.until, _DAY))
    return conditions


def _rows_by_ids(db: Database, names: Sequence[str], ids: Sequence[LeadId]) -> Iterator[Any]:
    id_type = db.lead_id_type
    values = [value for identity in ids if (value := id_type.value(identity)) is not None]
    statement = db.leads.select(names)
    for some in pages(values):
        among = bindparam("ids", some, type_=id_type.bind, expanding=True)
        yield from db.rows(statement.where(db.leads["id"].in_(among)))


def _heads(db: Database, rows: Iterable[Any]) -> list[LeadHead]:
    zone = db.timezone
    rows = db.leads.tuples(rows, _HEAD)
    read = _read_utc if zone is _UTC else partial(read_time, zone=zone)
    return [
        LeadHead(canonical_id(identity), external_id(entity), external_id(project), read(created))
        for identity, entity, project, created in rows
    ]


def load_leads(db: Database, ids_page: Sequence[LeadId], columns: Collection[str] = CONTENT) -> dict[LeadId, Lead]:
    """The whole leads of those that exist and are not deleted. ``columns``: those of :data:`CONTENT` that are needed;
    the others are empty then."""
    names = (*_HEAD, *(name for name in CONTENT if name in columns))
    rows = db.leads.read(_rows_by_ids(db, names, ids_page), names)
    leads = (_lead(row, db.timezone, db.keyring) for row in rows)
    return {lead.id: lead for lead in leads}


def _lead(row: Mapping[Any, Any], zone: ZoneInfo, keyring: Keyring) -> Lead:
    problem = row.get(PROBLEM)
    sealed = [name for name, value in row.items() if isinstance(value, str) and value.startswith(SEALED)]
    if sealed:
        row, problem = _unsealed(row, sealed, keyring, problem)
    return Lead(
        id=canonical_id(row["id"]),
        external_entity_id=external_id(row["external_entity_id"]),
        external_project_id=external_id(row["external_project_id"]),
        **{name: read_text(row.get(name)) for name in _TEXTS},
        utm=_utm(row.get("utm")),
        answers=_answers(row.get("answers")),
        created_at=read_time(row.get("created_at"), zone),
        problem=problem,
    )


def _unsealed(
    row: Mapping[Any, Any], sealed: Iterable[Any], keyring: Keyring, problem: str | None
) -> tuple[Mapping[Any, Any], str | None]:
    """The row with what the application has encrypted in it as plain text, and what of it cannot be read."""
    plain: dict[Any, Any] = {}
    for name in sealed:
        try:
            plain[name] = decrypt_text(row[name], keyring)
        except Unreadable as error:
            plain[name] = None
            problem = problem or f"{name} {error}"
    return {**row, **plain}, problem


def _utm(raw: Any) -> Mapping[str, str]:
    decoded = _json(raw)
    if not isinstance(decoded, dict):
        return EMPTY
    texts = {read_text(key): read_text(value) for key, value in decoded.items()}
    return {key: value for key, value in texts.items() if value} or EMPTY


def _answers(raw: Any) -> tuple[Answer, ...]:
    decoded = _json(raw)
    if isinstance(decoded, dict):
        return tuple(Answer(read_text(question), read_text(answer)) for question, answer in decoded.items())
    if not isinstance(decoded, list):
        return ()
    return tuple(
        Answer(read_text(entry.get("question")), read_text(entry.get("answer")))
        for entry in decoded
        if isinstance(entry, dict) and ("question" in entry or "answer" in entry)
    )


def _json(raw: Any) -> Any:
    """A JSON column, or text; None where it cannot be read: a lead is not held up by its UTM."""
    if not isinstance(raw, (str, bytes)):
        return raw
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def read_text(value: Any) -> str:
    """Any value as text that can be encoded: None is empty, True is "true", what is nested is JSON."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        value = _nested(value)
    text = str(value)
    # JSON may hold half of a surrogate pair, which no encoding takes.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _nested(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return ""


def _read_utc(value: Any) -> datetime | None:
    """:func:`read_time` in UTC, in half of the time for the usual text, ``2026-11-24 09:00:00``."""
    if type(value) is str and len(value) == 19:  # a date alone would take the zone for its time of day
        try:
            return datetime.fromisoformat(value + "+00:00")
        except ValueError:
            pass
    return read_time(value, _UTC)


def read_time(value: Any, zone: ZoneInfo) -> datetime | None:
    """A date column as an aware UTC time: a datetime, ISO text or Unix seconds; naive ones in ``zone``."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return datetime.fromtimestamp(value, UTC)
        if not isinstance(value, datetime):
            return None
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
