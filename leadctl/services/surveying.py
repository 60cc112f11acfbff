"""``leadctl init`` in a database that is there: what it is taken for, and a plan for three of its leads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from leadctl.domain.errors import LeadctlError
from leadctl.services.bootstrap import open_app
from leadctl.services.planning import plan_leads
from leadctl.services.recognising import Note, recognise
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.shapes import lead_plan_json
from leadctl.settings import load_settings
from leadctl.settings.mapping import MappingSettings
from leadctl.store.inspection import Inspection
from leadctl.store.leads import heads_by_ids
from leadctl.store.mapping import canonical_id

#: Leads that are planned at the end, and ids that are tried for them: some rows may be deleted.
PLANNED, TRIED = 3, 100
#: Where the application's key may be, before there is a config that says so.
_KEYS = ("LEADCTL_DATABASE__APP_KEY", "APP_KEY")


@dataclass(frozen=True)
class Survey:
    """What was recognised."""

    mapping: Mapping[str, Any] = field(default_factory=dict)
    sure: tuple[Note, ...] = ()
    unsure: tuple[Note, ...] = ()
    #: Something in it is encrypted by Laravel.
    encrypted: bool = False
    #: Of the newest leads.
    lead_ids: tuple[int | str, ...] = ()


def recognise_database(url: str) -> Survey:
    """Look at a database, which stays as it is. Raises ConfigError, DatabaseUnreachable."""
    app_key = next((value for name in _KEYS if (value := os.environ.get(name))), None)
    with Inspection(url, app_key) as look:
        found = recognise(look)
        leads = look.into(found.leads) if found.leads else None
    identity = leads.identity if leads else None
    ids = [row[identity] for row in leads.rows if row[identity] is not None] if leads and identity else []
    unsure = found.unsure
    mapping = found.mapping
    try:
        MappingSettings.model_validate(mapping)
    except ValidationError as error:
        # Somebody's names may be such as no config takes; then nothing of it is written.
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        unsure = (*unsure, Note("mapping", f"{place} cannot be written: {error.errors()[0]['msg']}"))
        mapping = {}
    encrypted = bool(found.encrypted)
    return Survey(mapping, found.sure, unsure, encrypted, tuple(map(canonical_id, ids[:TRIED])))


def first_plan(config: Path, ids: Sequence[int | str]) -> tuple[list[dict[str, Any]], str | None]:
    """The plan of the first three of these leads that there are, by the new config; else why there is none."""
    if not ids:
        return [], "no plan: there is no lead yet"
    try:
        loaded = load_settings(str(config))
        with open_app(loaded) as app:
            there = heads_by_ids(app.db, ids)
            some = [identity for identity in ids if identity in there][:PLANNED]
            if not some:
                return [], "no plan: none of the newest rows is found as a lead"
            return [lead_plan_json(plan) for plan in plan_leads(app, LeadSelection(some), Selectors())], None
    except LeadctlError as error:
        return [], f"no plan could be made: {error.message}" + (f" ({error.hint})" if error.hint else "")
