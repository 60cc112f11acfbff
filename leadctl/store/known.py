"""Which leads the ledger knows anything of: asked for every page of a plan, and answered "none" for most.

One parameter for all ids: an IN of a thousand takes SQLAlchemy several times as long as it takes the database.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Select, String, bindparam, cast, func, literal, select, text, true

from leadctl.domain.model import LeadId
from leadctl.store.base import LedgerBase
from leadctl.store.schema import targets

_IDS = bindparam("ids", type_=String())
_SOURCE = bindparam("source", type_=String())


def _among(listed: Any) -> Select[Any]:
    """Those of a sub-select's ids that have rows."""
    return select(targets.c.lead_id).where(targets.c.source == _SOURCE, targets.c.lead_id.in_(listed)).distinct()


def _one_by_one() -> Select[Any]:
    """PostgreSQL believes of a table that is new that it is empty, and would go through all of it for each id. The
    limit forbids that: it looks each id up by the key."""
    asked = func.json_array_elements_text(cast(_IDS, JSON)).table_valued("value")
    there = select(literal(1).label("one")).where(targets.c.source == _SOURCE, targets.c.lead_id == asked.c.value)
    return select(asked.c.value.label("lead_id")).join(there.limit(1).lateral(), true())


#: By kind of database; the ids are a JSON array of texts.
_KNOWN: dict[str, Select[Any]] = {
    "sqlite": _among(select(func.json_each(_IDS).table_valued("value").c.value)),
    "postgresql": _one_by_one(),
    "mysql": _among(
        text(
            "SELECT listed.id FROM JSON_TABLE(:ids, '$[*]' COLUMNS"
            " (id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS listed"
        )
    ),
}


class KnownTables(LedgerBase):
    """The part of the ledger that a plan looks at first."""

    def known_among(self, lead_ids: Sequence[LeadId]) -> Sequence[LeadId]:
        """Those of the leads that may have rows in ``leadctl_targets``; the others have none."""
        ids = json.dumps([str(identity) for identity in lead_ids])
        statement = _KNOWN[self.url.get_backend_name()].params(ids=ids, source=self.source)
        found = {row.lead_id for row in self._read(statement)}
        return [identity for identity in lead_ids if str(identity) in found] if found else ()
