"""What a database's tables are for: a mapping that is believed in, with what is sure of it and what is not.

It decides over a look at the schema (:class:`leadctl.services.recognising.values.Look`) and reads nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leadctl.services.recognising.credentials import find_credentials, map_credentials
from leadctl.services.recognising.deliveries import map_deliveries
from leadctl.services.recognising.leads import find_leads, map_leads
from leadctl.services.recognising.links import map_links
from leadctl.services.recognising.tables import Names
from leadctl.services.recognising.values import Look, Note, Notes

__all__ = ["Look", "Note", "Recognition", "recognise"]

_SOURCES = ("leads", "credentials", "entity_credentials", "project_credentials", "deliveries")


@dataclass(frozen=True)
class Recognition:
    """``[database.mapping]`` as far as it differs from the names of the contract, and what is said of it."""

    mapping: Mapping[str, Any]
    sure: tuple[Note, ...]
    unsure: tuple[Note, ...]
    #: Columns that hold values which Laravel has encrypted: ``app_key`` is needed.
    encrypted: tuple[str, ...]
    #: The table of leads, as the database calls it; None: there is none.
    leads: str | None


def recognise(look: Look) -> Recognition:
    """Look at the tables. Raises ConfigError, DatabaseUnreachable, where the database cannot be read at all."""
    notes = Notes()
    names = Names.of(look.tables)
    credentials = find_credentials(look, names, notes)
    leads = find_leads(look, names, credentials.name if credentials else None, notes)
    mapping: dict[str, Any] = {"leads": {}, "credentials": {}}
    if leads is not None:
        mapping["leads"] = _named(leads.name, "leads") | map_leads(leads, notes)
    if credentials is not None:
        found = map_credentials(look, credentials, notes)
        mapping |= found | {"credentials": _named(credentials.name, "credentials") | found["credentials"]}
    links = map_links(look, names, leads, credentials, notes)
    mapping["leads"] |= links.pop("leads", {})
    mapping |= links
    deliveries = map_deliveries(look, names, leads, credentials, notes)
    if deliveries is not None:
        mapping["deliveries"] = deliveries
    if notes.encrypted:
        message = f"{', '.join(notes.encrypted)}: encrypted by Laravel; app_key is read from APP_KEY"
        notes.ask("encryption", message, "database.app_key")
    mapping = {name: section for name, section in _without_prefix(mapping, names.prefix).items() if section}
    return Recognition(
        mapping, tuple(notes.sure), tuple(notes.unsure), tuple(notes.encrypted), leads.name if leads else None
    )


def _named(table: str, default: str) -> dict[str, Any]:
    return {} if table == default else {"table": table}


def _without_prefix(mapping: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The same, with the prefix said once; where a table does not have it, every name stays whole."""
    sections = [mapping[name] for name in _SOURCES if mapping.get(name)]
    holders = [*sections, *(section["through"] for section in sections if "through" in section)]
    if not prefix or not holders or not all(one.get("table", "").startswith(prefix) for one in holders):
        return mapping
    shorter = {
        name: _shorten(section, name, prefix) if name in _SOURCES and section else section
        for name, section in mapping.items()
    }
    return {"prefix": prefix, **shorter}


def _shorten(section: Mapping[str, Any], name: str, prefix: str) -> dict[str, Any]:
    short = {**section, "table": section["table"].removeprefix(prefix)}
    if short["table"] == name and name != "deliveries":
        del short["table"]
    if "through" in short:
        short["through"] = {**short["through"], "table": short["through"]["table"].removeprefix(prefix)}
    return short
