"""Who uses which credential: the tables of links, what they are for, and which column of the lead meets them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from leadctl.services.recognising import words
from leadctl.services.recognising.leads import deleted
from leadctl.services.recognising.tables import Names
from leadctl.services.recognising.values import Look, Notes, at, flag, key_paths, objects
from leadctl.settings.mapping import ARROW
from leadctl.store.inspection import TableLook

Role = Literal["entity", "project"]
_ROLES: Mapping[Role, Sequence[str]] = {"entity": words.ENTITY_WORDS, "project": words.PROJECT_WORDS}
#: Of the ids of the leads so many must be met for columns to be matched by their values alone, or against their names.
_MEETS = 0.5
_NO_OWNER = frozenset({"created_by", "updated_by", "deleted_by", "parent_id", "sort", "order", "position", "priority"})
_IDS = ("integer", "number", "text", "uuid", "other")


@dataclass(frozen=True)
class Use:
    """A column of a table of links that says who uses the credential."""

    word: str
    table: str
    owner: str
    credential: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """A use with the place in the lead that meets it."""

    use: Use
    source: str
    #: table, its column that the link has, its column that the lead has.
    through: tuple[str, str, str] | None
    #: Which part of the leads' ids is met; None: nothing can be said.
    share: float | None
    sure: bool
    why: str

    @property
    def worth(self) -> tuple[bool, float]:
        return self.sure, -1 if self.share is None else self.share


def map_links(
    look: Look, names: Names, leads: TableLook | None, credentials: TableLook | None, notes: Notes
) -> dict[str, Any]:
    """``entity_credentials``, ``project_credentials``, and the external ids of ``leads``."""
    if leads is None or credentials is None:
        notes.ask("links", "not looked for: the tables of leads and of credentials come first")
        return {}
    uses = list(_uses(look, names, leads, credentials))
    options = list(_options(look, names, leads, uses))
    chosen = _assigned(options, notes)
    mapping: dict[str, Any] = {"leads": {}}
    for role in _ROLES:
        option = chosen.get(role)
        if option is not None:
            mapping[f"{role}_credentials"] = _link(look, role, option, notes)
            if option.source != f"external_{role}_id":
                mapping["leads"][f"external_{role}_id"] = option.source
            _tell(role, option, notes)
    _missing(look, mapping, chosen, uses, leads, notes)
    return mapping


# --- tables of links --------------------------------------------------------------------------------------------


def _uses(look: Look, names: Names, leads: TableLook, credentials: TableLook) -> Iterator[Use]:
    for name, table in look.tables.items():
        if name == leads.name or names.is_framework(name) or _of_lead(table, names, leads):
            continue
        credential = credentials.identity if name == credentials.name else credential_column(table, names, credentials)
        if credential is None or look.into(name).refused:
            continue
        yield from _polymorphic(look, table, credential)
        yield from _owners(table, credential, own=name == credentials.name)


def _of_lead(table: TableLook, names: Names, leads: TableLook) -> bool:
    """Whether the table is about single leads: a log, not a link."""
    return lead_column(table, names, leads) is not None


def lead_column(table: TableLook, names: Names, leads: TableLook) -> str | None:
    """The column that names a lead."""
    own = words.singular(names.short(leads.name))
    return _reference(table, leads, (f"{own}_id", f"{own}_uuid", "lead_id", "lead_uuid"))


def credential_column(table: TableLook, names: Names, credentials: TableLook) -> str | None:
    """The column that names a credential."""
    short = names.short(credentials.name)
    own = words.singular(short)
    tail = own.rpartition("_")[2]
    wanted = (
        f"{own}_id",
        f"{short}_id",
        f"{own}_uuid",
        "credentials_id",
        "credential_id",
        "integration_id",
        f"{tail}_id",
    )
    return _reference(table, credentials, wanted)


def _reference(table: TableLook, to: TableLook, wanted: Sequence[str]) -> str | None:
    led = next((column for column, place in table.foreign_keys.items() if place[0] == to.name), None)
    if led is not None:
        return led
    found = words.pick(table.columns, wanted)
    # A foreign key to another table says that the name means something else.
    return None if found in table.foreign_keys else found


def _polymorphic(look: Look, table: TableLook, credential: str) -> Iterator[Use]:
    """``integrable_type`` and ``integrable_id``: a use for each type."""
    for column in table.columns:
        owner = f"{column.removesuffix('_type')}_id"
        if column.endswith("_type") and owner in table.columns and owner != credential:
            for value in look.values(table.name, column):
                yield Use(words.class_word(flag(value)), table.name, owner, credential, {column: value})


def _owners(table: TableLook, credential: str, *, own: bool) -> Iterator[Use]:
    """A column for each kind of owner. In the table of credentials itself only what is called like one."""
    known = {*words.ENTITY_WORDS, *words.PROJECT_WORDS}
    for column, kind in table.columns.items():
        name = words.plain(column)
        if column in (credential, table.identity) and not own:
            continue
        if kind not in _IDS or name in _NO_OWNER or name == "id" or f"{name.removesuffix('_id')}_type" in table.columns:
            continue
        word = words.owner_word(column)
        is_id = name.endswith(("_id", "_uuid", "_ref", "_guid")) or column in table.foreign_keys
        if (word in known and (is_id or not own)) or (is_id and not own):
            yield Use(word, table.name, column, credential)


# --- which column of the lead -----------------------------------------------------------------------------------


def _options(look: Look, names: Names, leads: TableLook, uses: Sequence[Use]) -> Iterator[Option]:
    by_word = {use.word: list(_sources(leads, use.word)) for use in uses}
    taken = {source for sources in by_word.values() for source in sources}
    for use in uses:
        sources = by_word[use.word]
        if sources:
            yield max((_option(look, names, leads, use, source) for source in sources), key=lambda one: one.worth)
        elif use.word in {*words.ENTITY_WORDS, *words.PROJECT_WORDS}:
            yield from _by_values(look, names, leads, use, taken)


def _sources(leads: TableLook, word: str) -> Iterator[str]:
    """Columns, else places in JSON, that are called after the owner."""
    columns = [
        name for name, kind in leads.columns.items()
        if kind in _IDS and name != leads.identity and words.owner_word(name) == word and not objects(leads, name)
    ]  # fmt: skip
    if columns:
        first = (f"external_{word}_id", f"{word}_id")
        yield from sorted(columns, key=lambda name: (words.plain(name) not in first, name))
        return
    for column in leads.columns:
        for path in sorted(key_paths(objects(leads, column)), key=len):
            said = [words.plain(key) for key in path]
            named = words.owner_word(said[-1]) == word or (len(said) > 1 and said[-1] == "id" and said[-2] == word)
            source = ARROW.join((column, *path))
            if named and not any(isinstance(value, (dict, list)) for value in at(leads.rows, source)):
                yield source
                return


def _by_values(
    look: Look, names: Names, leads: TableLook, use: Use, taken: set[str]
) -> Iterator[Option]:  # fmt: skip
    """No name says it: the column whose ids the links know."""
    found = []
    for column, kind in leads.columns.items():
        if kind not in ("integer", "text", "uuid") or column in taken or column == leads.identity:
            continue
        option = _option(look, names, leads, use, column)
        if option.share is not None and option.share >= _MEETS:
            found.append(option)
    if found:
        best = max(found, key=lambda option: option.share or 0)
        why = f"only its values speak for it: {best.share:.0%} of them are met"
        yield Option(best.use, best.source, best.through, best.share, sure=False, why=why)


def _option(look: Look, names: Names, leads: TableLook, use: Use, source: str) -> Option:
    """Met directly, or through the owner's own table: names say it where values do not."""
    ids = at(leads.rows, source)
    direct = look.share(ids, (use.table, use.owner))
    between = _between(look, names, leads, use, source)
    if between is None:
        return Option(use, source, None, direct, sure=direct is None or direct > 0, why=_met(direct))
    table, _, external = between
    inner = look.share(ids, (table, external))
    by_name = _says_between(leads, use, source, table)
    if direct is not None and inner is not None and max(direct, inner) > 0:
        is_between = inner > direct if abs(inner - direct) > 0.1 else by_name
    else:
        is_between = by_name
    share = inner if is_between else direct
    sure = is_between == by_name and (share is None or share > 0)
    return Option(use, source, between if is_between else None, share, sure=sure, why=_met(share))


def _met(share: float | None) -> str:
    if share is None:
        return "no row shows whether their values meet"
    return f"{share:.0%} of the ids looked at are met"


def _between(
    look: Look, names: Names, leads: TableLook, use: Use, source: str
) -> tuple[str, str, str] | None:  # fmt: skip
    """A table of the owners, by whose other id leads or links may name them: table, the link's and the lead's."""
    led = look.tables[use.table].foreign_keys.get(use.owner)
    table = led[0] if led else None
    if table is None:
        table = next((name for name in look.tables if words.singular(names.short(name)) == use.word), None)
    if table is None or table in (use.table, leads.name):
        return None
    owners = look.tables[table]
    leaf = words.plain(source.rpartition(ARROW)[2])
    wanted = (
        leaf, f"external_{use.word}_id", "external_id", "ext_id", "remote_id", "crm_id", "uuid", "uid", "guid", "code"
    )  # fmt: skip
    external = words.pick((name for name in owners.columns if name != owners.identity), wanted)
    if external is None or owners.identity is None or look.into(table).refused:
        return None
    if words.plain(use.owner).startswith(("external_", "ext_")):
        return table, external, owners.identity  # the link has the other id, and the lead the table's own
    return table, led[1] if led else owners.identity, external


def _says_between(leads: TableLook, use: Use, source: str, table: str) -> bool:
    """Whether names say that lead and link name the owner by different ids."""
    place = leads.foreign_keys.get(source)
    if place is not None:
        return place[0] == table and words.plain(use.owner).startswith(("external_", "ext_"))
    mine, theirs = words.plain(source.rpartition(ARROW)[2]), words.plain(use.owner)
    marks = ("external_", "ext_"), ("_ref", "_uuid", "_guid", "_external_id", "_crm_id")
    foreign = [name.startswith(marks[0]) or name.endswith(marks[1]) for name in (mine, theirs)]
    return foreign[0] != foreign[1]


# --- entity and project -----------------------------------------------------------------------------------------


def _assigned(options: Sequence[Option], notes: Notes) -> dict[Role, Option]:
    """The best option of each word; the words to the two roles, what is left as a question."""
    best: dict[str, Option] = {}
    for option in options:
        word = option.use.word
        other = best.get(word)
        first, second = (option, other) if other is None or option.worth > other.worth else (other, option)
        best[word] = first
        if second is not None:
            notes.ask("links", f"{word}: {_place(first.use)} is taken; there is also {_place(second.use)}",
                      "database.mapping.entity_credentials and .project_credentials")  # fmt: skip
    chosen: dict[Role, Option] = {}
    for role, known in _ROLES.items():
        mine = [best[word] for word in known if word in best]
        if mine:
            # The word of the role itself goes first: "entity" before "company".
            chosen[role] = mine[0] if mine[0].use.word == role else max(mine, key=lambda option: option.worth)
    for option in sorted(best.values(), key=lambda option: option.worth, reverse=True):
        if option in chosen.values():
            continue
        free: Role | None = next((role for role in _ROLES if role not in chosen), None)
        if free is None:
            notes.ask("links", f"left out, as leads have two kinds of owners only: {_place(option.use)}",
                      "database.mapping.entity_credentials or .project_credentials")  # fmt: skip
        else:
            chosen[free] = option
    return chosen


def _place(use: Use) -> str:
    where = f" where {next(iter(use.where))} is {flag(next(iter(use.where.values())))}" if use.where else ""
    return f"{use.table}.{use.owner}{where}"


def _link(look: Look, role: Role, option: Option, notes: Notes) -> dict[str, Any]:
    use = option.use
    table = look.into(use.table)
    own: dict[str, Any] = {}
    if use.table != f"{role}_credentials":
        own["table"] = use.table
    if use.owner != f"external_{role}_id":
        own[f"external_{role}_id"] = use.owner
    # credential_id is taken without being told, where credentials_id is not there.
    if use.credential != "credentials_id" and (use.credential != "credential_id" or "credentials_id" in table.columns):
        own["credentials_id"] = use.credential
    gone = deleted(table, f"{role}_credentials", notes)
    where = {**use.where, **gone.pop("where", {})}
    if where:
        own["where"] = where
    own.update(gone)
    if option.through is not None:
        name, identity, external = option.through
        own["through"] = {"table": name, "external_id": external, **({} if identity == "id" else {"id": identity})}
    return own


def _tell(role: Role, option: Option, notes: Notes) -> None:
    through = f" through {option.through[0]}.{option.through[2]}" if option.through else ""
    message = f"leads.{option.source} meets {_place(option.use)}{through}: {option.why}"
    notes.say(f"{role}_credentials", message, sure=option.sure, key=f"database.mapping.{role}_credentials")


def _missing(
    look: Look,
    mapping: dict[str, Any],
    chosen: Mapping[Role, Option],
    uses: Sequence[Use],
    leads: TableLook,
    notes: Notes,
) -> None:
    for role in _ROLES:
        if role in chosen:
            continue
        seen = sorted({_place(use) for use in uses})
        among = f"; tables of links: {', '.join(seen[:5])}" if seen else "; no table names a credential and its owner"
        message = f"no link of credentials to a{'n' if role == 'entity' else ''} {role} of the leads{among}"
        notes.ask(f"{role}_credentials", message, f"database.mapping.{role}_credentials")
    if len(chosen) == 1:
        _stand_in(look, mapping, chosen, leads)


def _stand_in(look: Look, mapping: dict[str, Any], chosen: Mapping[Role, Option], leads: TableLook) -> None:
    """Leads have one kind of owner only: the other one is empty, and its links are the same, which meet nothing."""
    role, option = next(iter(chosen.items()))
    other: Role = "project" if role == "entity" else "entity"
    if f"{other}_credentials" not in look.tables:
        same = {key: value for key, value in mapping[f"{role}_credentials"].items() if key != f"external_{role}_id"}
        own = {"table": option.use.table, f"external_{other}_id": option.use.owner, **same}
        mapping[f"{other}_credentials"] = own
    if f"external_{other}_id" not in leads.columns:
        mapping["leads"][f"external_{other}_id"] = {"value": ""}
