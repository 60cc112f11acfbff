"""The table of leads: which it is, and what its columns are called."""

from collections.abc import Mapping, Sequence
from typing import Any

from leadctl.services.recognising import words
from leadctl.services.recognising.tables import Names, best_table, name_score
from leadctl.services.recognising.values import (
    RULE,
    Look,
    Note,
    Notes,
    at,
    decoded,
    is_encrypted,
    key_paths,
    objects,
    rows_told,
)
from leadctl.settings.mapping import ARROW
from leadctl.store.inspection import TableLook
from leadctl.store.mapping import dig

_CONTACT = ("contact", "contacts", "client", "customer", "person", "lead", "user", "data", "fields", "form_data")
#: Below this a table is no candidate.
_ENOUGH = 36
#: Places in JSON that hold other things by the same names.
_ELSEWHERE = frozenset({*words.LEAD_COLUMNS["utm"], *words.LEAD_COLUMNS["answers"]}) - {"fields", "form_data"}


def find_leads(look: Look, names: Names, credentials: str | None, notes: Notes) -> TableLook | None:
    """The table of leads, looked into."""
    scores = {
        name: _score(table, names)
        for name, table in look.tables.items()
        if name != credentials and not names.is_framework(name)
    }
    # Only what its name or columns speak for is looked into.
    for name, score in scores.items():
        if score >= 12 and not _has_contact(look.tables[name]) and _json_contact(look.into(name)):
            scores[name] = score + 16
    found = best_table(look, scores, _ENOUGH, "leads", notes)
    if found is None:
        notes.ask(
            "leads",
            "no table of leads: looked for one that is called leads, requests, applications or the like, with a "
            "phone, an e-mail or a JSON column that holds them, and ids of entities and projects",
            "database.mapping.leads.table",
        )
    return found


def _score(table: TableLook, names: Names) -> float:
    columns = {words.plain(column) for column in table.columns}
    score = name_score(names.short(table.name), words.LEAD_TABLES)
    for field, worth in (("phone", 12), ("email", 8), ("name", 4), ("comment", 3), ("utm", 6), ("created_at", 2)):
        score += worth if words.pick(columns, words.LEAD_COLUMNS[field]) else 0
    score += 6 if "utm_source" in columns else 0
    owners = {words.owner_word(column) for column in columns}
    for role in (words.ENTITY_WORDS, words.PROJECT_WORDS):
        score += 8 if owners & set(role) else 0
    score -= 60 if columns & words.PEOPLE else 0
    # A table that belongs to leads or to credentials is none of leads.
    score -= 40 if columns & {"lead_id", "credential_id", "credentials_id", "integration_id"} else 0
    return score


def _has_contact(table: TableLook) -> bool:
    return any(words.pick(table.columns, words.LEAD_COLUMNS[field]) for field in ("phone", "email"))


def _json_contact(table: TableLook) -> bool:
    return any(
        words.plain(path[-1]) in (*words.LEAD_COLUMNS["phone"], *words.LEAD_COLUMNS["email"])
        for column in table.columns
        for path in key_paths(objects(table, column))
    )


def map_leads(table: TableLook, notes: Notes) -> dict[str, Any]:
    """What differs from the names of the contract, but for the external ids (:mod:`links` finds those)."""
    mapping: dict[str, Any] = {}
    place = len(notes.sure)
    if table.identity is None:
        notes.ask("leads.id", f"{table.name} has no primary key of one column", "database.mapping.leads.id")
    elif table.identity != "id":
        mapping["id"] = table.identity
    found: list[str] = []
    for field in ("name", "phone", "email", "comment", "page_url"):
        source = _text(table, field, notes)
        if source is None:
            continue
        found.append(field if source == field else f"{field} = {source}")
        if source != field:
            mapping[field] = source
        if any(map(is_encrypted, at(table.rows, source))):
            notes.encrypted.append(f"{table.name}.{source}")
    mapping.update(_utm(table, notes))
    mapping.update(_answers(table, notes))
    mapping.update(_created_at(table, notes))
    mapping.update(deleted(table, "leads", notes))
    told = f"table {table.name}, {rows_told(table)}" + (f": {', '.join(found)}" if found else "")
    notes.sure.insert(place, Note("leads", told))
    if not any(word.startswith(("phone", "email")) for word in found):
        notes.ask(
            "leads", f"neither phone nor e-mail is found in {table.name}", "database.mapping.leads.phone and .email"
        )
    return mapping


def _text(table: TableLook, field: str, notes: Notes) -> str | None:
    """The column, or the place within JSON, of one of the texts."""
    texts = [column for column, kind in table.columns.items() if kind in ("text", "integer", "number", "other")]
    column = words.pick([name for name in texts if not _is_document(table, name)], words.LEAD_COLUMNS[field])
    if column is not None:
        if words.plain(column) == "first_name" and words.pick(texts, ("last_name", "surname")):
            message = f"{column} alone is sent as the name; leadctl takes one column"
            notes.ask("leads.name", message, "database.mapping.leads.name")
        return column
    return _text_in_json(table, field, notes)


def _is_document(table: TableLook, column: str) -> bool:
    return bool(objects(table, column))


def _text_in_json(table: TableLook, field: str, notes: Notes) -> str | None:
    wanted = words.LEAD_COLUMNS[field]
    candidates: list[tuple[int, int, int, str, float]] = []
    for column in table.columns:
        values = objects(table, column)
        for path, count in key_paths(values).items():
            said = [words.plain(key) for key in path]
            leaf = said[-1]
            if leaf not in wanted or {words.plain(column), *said[:-1]} & _ELSEWHERE or not _scalar(values, path):
                continue
            strange = int(any(parent not in _CONTACT for parent in said[:-1]))
            source = ARROW.join((column, *path))
            candidates.append((strange, wanted.index(leaf), len(path), source, count / len(values)))
    if not candidates:
        return None
    strange, _, _, source, often = min(candidates)
    sure = not strange and often >= RULE
    message = f"{source}, in {often:.0%} of the rows looked at"
    notes.say(f"leads.{field}", message, sure=sure, key=f"database.mapping.leads.{field}")
    return source


def _scalar(values: Sequence[Any], path: Sequence[str]) -> bool:
    """Whether there are texts or numbers at that place."""
    found = next((inner for value in values if (inner := dig(value, path)) is not None), None)
    return found is not None and not isinstance(found, (dict, list))


def _utm(table: TableLook, notes: Notes) -> dict[str, Any]:
    own = words.pick(table.columns, words.LEAD_COLUMNS["utm"])
    if own is not None and (values := objects(table, own)):
        return _utm_keys(own, set().union(*map(set, values)), notes)
    columns = [column for column in table.columns if words.plain(column).startswith("utm_")]
    if own is None and columns:
        group = {words.plain(column): column for column in columns}
        notes.know("leads.utm", f"columns of their own: {', '.join(columns)}")
        return {"utm": group}
    if own is not None:
        return {} if own == "utm" else {"utm": own}
    return _utm_in_json(table, notes)


def _utm_in_json(table: TableLook, notes: Notes) -> dict[str, Any]:
    for column in table.columns:
        values = objects(table, column)
        places = key_paths(values)
        for path in sorted(places, key=len):
            inner = [value for value in at(table.rows, ARROW.join((column, *path))) if isinstance(value, dict)]
            if words.plain(path[-1]) in words.LEAD_COLUMNS["utm"] and inner:
                return _utm_keys(ARROW.join((column, *path)), set().union(*map(set, inner)), notes)
        flat = {words.plain(path[-1]): path for path in places if words.plain(path[-1]) in words.UTM}
        if flat:
            group = {name: ARROW.join((column, *path)) for name, path in flat.items()}
            notes.know("leads.utm", f"within {column}: {', '.join(flat)}")
            return {"utm": group}
    return {}


def _utm_keys(source: str, keys: set[str], notes: Notes) -> dict[str, Any]:
    """An object of UTM, whose keys may lack the ``utm_``."""
    short = {f"utm_{key}": key for key in sorted(keys) if f"utm_{key}" in words.UTM}
    if short and not keys & set(words.UTM):
        notes.know("leads.utm", f"{source}: {', '.join(short.values())}, as {', '.join(short)}")
        return {"utm": {name: ARROW.join((source, key)) for name, key in short.items()}}
    if source != "utm":
        notes.know("leads.utm", source)
        return {"utm": source}
    return {}


def _answers(table: TableLook, notes: Notes) -> dict[str, Any]:
    source = words.pick(table.columns, words.LEAD_COLUMNS["answers"])
    if source is not None and table.rows and not any(decoded(v) is not None for v in at(table.rows, source)):
        source = "answers" if source == "answers" else None
    if source is None:
        source = _answers_in_json(table)
    if source is None:
        return {}
    values = [decoded(value) for value in at(table.rows, source)]
    lists = [value for value in values if isinstance(value, list) and value]
    strange = [value for value in lists if not any(isinstance(one, dict) and "answer" in one for one in value)]
    if strange:
        notes.ask(
            "leads.answers",
            f'{source} holds lists whose entries are not {{"question", "answer"}}: these answers are not sent',
            "database.mapping.leads.answers",
        )
    if source == "answers":
        return {}
    notes.say("leads.answers", source, sure=not strange, key="database.mapping.leads.answers")
    return {"answers": source}


def _answers_in_json(table: TableLook) -> str | None:
    for column in table.columns:
        for path in sorted(key_paths(objects(table, column)), key=len):
            source = ARROW.join((column, *path))
            if words.plain(path[-1]) in words.LEAD_COLUMNS["answers"] and any(
                decoded(value) is not None for value in at(table.rows, source)
            ):
                return source
    return None


def _created_at(table: TableLook, notes: Notes) -> dict[str, Any]:
    dates = [column for column, kind in table.columns.items() if kind in ("time", "integer", "text", "other")]
    column = words.pick(dates, words.LEAD_COLUMNS["created_at"])
    if column is None:
        notes.ask(
            "leads.created_at",
            f"{table.name} has no column of when a lead came: --since, --until and --max-age select nothing",
            "database.mapping.leads.created_at",
        )
        return {}
    return {} if column == "created_at" else {"created_at": column}


def deleted(table: TableLook, part: str, notes: Notes) -> dict[str, Any]:
    """Soft deletes that are not called ``deleted_at``."""
    if "deleted_at" in table.columns:
        notes.know(part, f"{table.name}: rows with deleted_at are left out")
        return {}
    times = [column for column, kind in table.columns.items() if kind == "time"]
    key = f"database.mapping.{part}"
    if column := words.pick(times, words.DELETED_TIMES):
        notes.say(part, f"{table.name}: rows with {column} are left out as deleted",
                  sure=bool(table.rows) and len(at(table.rows, column)) < RULE * len(table.rows),
                  key=f"{key}.deleted_at")  # fmt: skip
        return {"deleted_at": column}
    if column := words.pick(table.columns, words.DELETED_FLAGS):
        return _deleted_flag(table, part, column, notes)
    return {}


def _deleted_flag(table: TableLook, part: str, column: str, notes: Notes) -> dict[str, Any]:
    alive: Mapping[str, Any] = {"boolean": False, "integer": 0, "number": 0}
    value = alive.get(table.columns[column])
    values = [row.get(column) for row in table.rows]
    key = f'database.mapping.{part}.where, say {{ {column} = "N" }}'
    if value is None or not values or None in values:
        notes.ask(part, f"{table.name}: {column} may mean deleted; all rows are taken", key)
        return {}
    notes.know(part, f"{table.name}: only rows whose {column} is {str(value).lower()}")
    return {"where": {column: value}}
