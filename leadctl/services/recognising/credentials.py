"""The table of credentials: which it is, what its columns, its types and the keys of its data are called."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from leadctl.channels import channel_names
from leadctl.services.catalog import channel_rows
from leadctl.services.recognising import words
from leadctl.services.recognising.leads import deleted
from leadctl.services.recognising.tables import Names, best_table, name_score
from leadctl.services.recognising.values import (
    RULE,
    Look,
    Notes,
    decoded,
    filled,
    flag,
    is_encrypted,
    is_php,
    is_sealed,
    key_paths,
    objects,
    rows_told,
    told,
)
from leadctl.settings.mapping import ARROW
from leadctl.store.inspection import TableLook

_ENOUGH = 40
_KEY = "database.mapping.credentials"


def find_credentials(look: Look, names: Names, notes: Notes) -> TableLook | None:
    """The table of credentials, looked into."""
    scores = {
        name: score
        for name, table in look.tables.items()
        if not names.is_framework(name) and (score := _score(look, table, names)) > 0
    }
    found = best_table(look, scores, _ENOUGH, "credentials", notes)
    if found is None:
        notes.ask(
            "credentials",
            "no table of credentials: looked for one that is called credentials, integrations, connections, accounts "
            "or the like, with a column of the type (amocrm, telegram, …) and one of JSON or text with the account",
            f"{_KEY}.table",
        )
    return found


def _score(look: Look, table: TableLook, names: Names) -> float:
    score = name_score(names.short(table.name), words.CREDENTIAL_TABLES)
    columns = {words.plain(column) for column in table.columns}
    if columns & words.PEOPLE - {"api_token"} or "lead_id" in columns or not _type_columns(table):
        return 0
    if not score and not words.pick(table.columns, words.CREDENTIAL_COLUMNS["data"]):
        return 0  # not looked into: its name says nothing, and it has no place for an account
    column, known = _type_column(look, table)
    if not score and known < RULE:
        return 0
    score += 40 * known if column else 0
    return score + (12 if _data_column(look.into(table.name), column) else 0)


def _type_columns(table: TableLook) -> list[str]:
    wanted = words.CREDENTIAL_COLUMNS["type"]
    there = [column for column, kind in table.columns.items() if kind in ("text", "integer", "other")]
    return sorted(
        (column for column in there if words.plain(column) in wanted), key=lambda c: wanted.index(words.plain(c))
    )


def _type_column(look: Look, table: TableLook) -> tuple[str | None, float]:
    """The column whose values are channels, and which part of its values they are."""
    if look.into(table.name).refused:
        return None, 0
    best: tuple[str | None, float] = (None, 0)
    for column in _type_columns(table):
        values = [flag(value) for value in look.values(table.name, column)]
        known = sum(words.channel_of(value, _channels()) is not None for value in values) / max(len(values), 1)
        if known > best[1] or best[0] is None:
            best = (column, known)
    return best


def _channels() -> Collection[str]:
    return channel_names()


def map_credentials(look: Look, table: TableLook, notes: Notes) -> dict[str, Any]:
    """What differs from the contract: ``credentials``, ``types``, ``data`` and ``settings`` of the mapping."""
    own: dict[str, Any] = {}
    notes.know("credentials", f"table {table.name}, {rows_told(table)}")
    if table.identity not in ("id", None):
        own["id"] = table.identity
    kind, known = _type_column(look, table)
    channels: dict[str, str] = {}
    if kind is None:
        notes.ask("credentials.type", f"{table.name} has no column of the type", f"{_KEY}.type")
    else:
        if kind != "type":
            own["type"] = kind
        channels = _types(look.values(table.name, kind), notes)
        notes.say("credentials.type", f"column {kind}", sure=known >= RULE, key=f"{_KEY}.type")
    title = words.pick((name for name in table.columns if name != kind), words.CREDENTIAL_COLUMNS["name"])
    if title not in ("name", None):
        own["name"] = title
    elif kind == "name":
        own["name"] = {"value": ""}
    own.update(_enabled(look, table, notes))
    own.update(deleted(table, "credentials", notes))
    data = _data_column(table, kind)
    mapping = {"credentials": own, "types": {name: channel for name, channel in channels.items() if name != channel}}
    if data is None:
        notes.ask("credentials.data", f"{table.name} has no column with JSON or encrypted text", f"{_KEY}.data")
        return mapping
    if any(map(is_encrypted, filled(table.rows, data))):
        notes.encrypted.append(f"{table.name}.{data}")
    opened = replace(table, rows=[{**row, data: _opened(look, row.get(data))} for row in table.rows])
    return {**mapping, **_data(opened, own, kind, data, channels, notes)}


def _opened(look: Look, raw: Any) -> Any:
    return look.opened(raw) if is_sealed(raw) or is_php(raw) else raw


def _types(values: Sequence[Any], notes: Notes) -> dict[str, str]:
    """type → channel."""
    channels: dict[str, str] = {}
    doubtful, strange = [], []
    for value in values:
        name = flag(value)
        found = words.channel_of(name, _channels())
        if found is None:
            strange.append(name)
            continue
        channels[name] = found[0]
        if not found[1]:
            doubtful.append(f"{name} as {found[0]}")
    exact = [f"{name} as {channel}" for name, channel in channels.items() if f"{name} as {channel}" not in doubtful]
    if exact:
        notes.know("types", ", ".join(sorted(exact)))
    if doubtful:
        notes.ask("types", f"taken: {', '.join(sorted(doubtful))}", "database.mapping.types")
    if strange:
        message = f"of no channel: {told(strange)}; what has such a type is skipped"
        notes.ask("types", message, 'database.mapping.types, say "CrmV2" = "amocrm"')
    return channels


# --- enabled ----------------------------------------------------------------------------------------------------


def _enabled(look: Look, table: TableLook, notes: Notes) -> dict[str, Any]:
    column = words.pick(table.columns, words.CREDENTIAL_COLUMNS["enabled"])
    if column is None:
        return _disabled(look, table, notes)
    values = {flag(value).lower(): value for value in look.values(table.name, column)}
    if set(values) <= words.PLAIN_TRUTH and (words.plain(column) not in ("status", "state") or values):
        notes.know("credentials.enabled", f"column {column}" + (f" ({told(values)})" if values else ""))
        return {} if column == "enabled" else {"enabled": column}
    strange = sorted(set(values) - words.POSITIVE - words.NEGATIVE)
    yes = sorted(flag(values[text]) for text in values if text in words.POSITIVE)
    if not yes:
        message = f"{column} has {told(values.values()) or 'no value yet'}: which of them mean enabled?"
        notes.ask("credentials.enabled", message, f'{_KEY}.enabled = {{ column = "{column}", equals = ["…"] }}')
        return {"enabled": {"column": column, "equals": ["active"]}}
    message = f"where {column} is {' or '.join(yes)}"
    if strange:
        message += f"; not where it is {told(values[text] for text in strange)}"
    notes.say("credentials.enabled", message, sure=not strange, key=f"{_KEY}.enabled")
    return {"enabled": {"column": column, "equals": yes}}


def _disabled(look: Look, table: TableLook, notes: Notes) -> dict[str, Any]:
    """A column that says the contrary."""
    column = words.pick(table.columns, words.CREDENTIAL_COLUMNS["disabled"])
    values = {flag(value).lower() for value in look.values(table.name, column)} if column else set()
    no = sorted(values & {"0", "n", "no", "f", "false", "off"}) or ["0"]
    if column is None or not values <= words.PLAIN_TRUTH:
        notes.ask("credentials.enabled", f"{table.name} has no such column: every row counts", f"{_KEY}.enabled")
        return {}
    notes.know("credentials.enabled", f"where {column} is {' or '.join(no)}")
    return {"enabled": {"column": column, "equals": no}}


# --- data -------------------------------------------------------------------------------------------------------


def _data_column(table: TableLook, kind: str | None) -> str | None:
    """Where the account is: objects or encrypted text by preference, else a column that is called so."""
    there = [name for name, how in table.columns.items() if how in ("json", "text", "other") and name != kind]
    called = [name for word in words.CREDENTIAL_COLUMNS["data"] for name in there if words.plain(name) == word]
    holding = [
        name
        for name in called
        if objects(table, name) or any(is_sealed(value) or is_php(value) for value in filled(table.rows, name))
    ]
    if holding or table.rows:
        return next(iter(holding), None)
    return next(iter(called), None)


def _data(
    table: TableLook, own: dict[str, Any], kind: str | None, column: str, channels: Mapping[str, str], notes: Notes
) -> dict[str, Any]:
    """Adds ``data`` and ``settings`` to ``own``; the keys that are called otherwise, by channel, are returned."""
    values = filled(table.rows, column)
    if any(map(is_sealed, values)):
        if column != "data":
            own["data"] = column
        notes.know("credentials.data", f"column {column}, encrypted by Laravel")
        message = (
            "what the keys within are called cannot be seen without the key: set APP_KEY in the environment of init"
        )
        notes.ask("data", message, 'database.mapping.data.CHANNEL, say bot_token = "token"')
        return {}
    by_channel = _by_channel(table, column, kind, channels)
    root = _root([value for found in by_channel.values() for value in found])
    source = ARROW.join((column, *root))
    if source != "data":
        own["data"] = source
    notes.know("credentials.data", source)
    by_channel = {
        channel: [inner for value in found if isinstance(inner := (value.get(root[0]) if root else value), dict)]
        for channel, found in by_channel.items()
    }
    _settings(table, own, column, source, by_channel, notes)
    data = {channel: keys for channel, found in by_channel.items() if (keys := _keys(channel, found, notes))}
    return {"data": data} if data else {}


def _by_channel(
    table: TableLook, column: str, kind: str | None, channels: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.rows:
        channel = channels.get(flag(row.get(kind))) if kind else None
        value = decoded(row.get(column))
        if channel and isinstance(value, dict):
            found.setdefault(channel, []).append(value)
    return found


def _known_words() -> set[str]:
    return {word for keys in words.DATA_KEYS.values() for key, others in keys.items() for word in (key, *others)}


def _root(values: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The one key that all of them have their account under, if they do."""
    if not values or len(shared := set.intersection(*map(set, values))) == 0:
        return ()
    known = _known_words()
    for key in sorted(shared):
        inner = [value[key] for value in values]
        if all(isinstance(one, dict) and {words.plain(name) for name in one} & known for one in inner) and not any(
            {words.plain(name) for name in value} & known - {words.plain(key)} for value in values
        ):
            return (key,)
    return ()


def _settings(
    table: TableLook,
    own: dict[str, Any],
    column: str,
    source: str,
    by_channel: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Notes,
) -> None:
    """Where pipelines, templates and the like are: a column, or within the data."""
    if "settings" in table.columns:
        return
    known = {row["name"]: {one["key"] for one in row["settings_keys"]} for row in channel_rows()}
    for name in words.CREDENTIAL_COLUMNS["settings"]:
        theirs = words.pick(table.columns, (name,))
        if theirs not in (None, column) and objects(table, str(theirs)):
            own["settings"] = theirs
            notes.know("credentials.settings", f"column {theirs}")
            return
    for key in ("settings", "options"):
        if any(isinstance(value.get(key), dict) for found in by_channel.values() for value in found):
            own["settings"] = ARROW.join((source, key))
            notes.know("credentials.settings", own["settings"])
            return
    beside = sorted({key for name, found in by_channel.items() for value in found for key in known[name] & set(value)})
    if beside:
        own["settings"] = source
        notes.know("credentials.settings", f"in {source}, beside the account: {', '.join(beside)}")


def _keys(channel: str, values: Sequence[Mapping[str, Any]], notes: Notes) -> dict[str, str]:
    """Our key → theirs, where they differ."""
    rows = next(row["data_keys"] for row in channel_rows() if row["name"] == channel)
    ours = [row["key"] for row in rows]
    there = key_paths(values, depth=2)
    top = [path[0] for path in there if len(path) == 1]
    nested = {ARROW.join(path): path[1] for path in there if len(path) == 2}
    found: dict[str, str] = {}
    for key in ours:
        if key in top:
            continue
        others = words.DATA_KEYS.get(channel, {}).get(key, ())
        taken = {*ours, *found.values()}
        named = [name for word in (key, *others) for name in top if words.plain(name) == word and name not in taken]
        deep = [path for word in (key, *others) for path, leaf in nested.items() if words.plain(leaf) == word]
        candidates = named or [path for path in deep if path not in taken]
        if candidates:
            found[key] = candidates[0]
        if len(set(candidates)) > 1:
            message = f"{channel}: {key} is taken from {candidates[0]}; it could also be {', '.join(candidates[1:3])}"
            notes.ask("data", message, f"database.mapping.data.{channel}.{key}")
    if found:
        notes.know("data", f"{channel}: " + ", ".join(f"{key} from {theirs}" for key, theirs in found.items()))
    here = {*top, *found}
    groups = [(row["key"],) for row in rows if row["required"]] + list(words.ONE_OF.get(channel, ()))
    for group in groups:
        if values and not here & set(group):
            notes.ask(
                "data", f"{channel}: nothing is found for {' or '.join(group)} among {told(top, 12)}",
                f'database.mapping.data.{channel}.{group[0]} = {{ key = "…" }}, or with a default',
            )  # fmt: skip
    return found
