"""Which leads the ledger knows anything of: asked for every page of a plan, and answered "none" for most.

One parameter for all ids: an IN of a thousand takes SQLAlchemy several times as long as it takes the database.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, String, bindparam, cast, func, select, text

from leadctl.domain.model import LeadId
from leadctl.store.base import LedgerBase
from leadctl.store.schema import targets

_IDS = bindparam("ids", type_=String())
#: A JSON array of texts as rows, by kind of database.
_LISTED: dict[str, Any] = {
    "sqlite": select(func.json_each(_IDS).table_valued("value").c.value),
    "postgresql": select(func.json_array_elements_text(cast(_IDS, JSON)).column_valued("value")),
    "mysql": text(
        "SELECT listed.id FROM JSON_TABLE(:ids, '$[*]' COLUMNS"
        " (id VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS listed"
    ),
}


class KnownTables(LedgerBase):
    """The part of the ledger that a plan looks at first."""

    def known_among(self, lead_ids: Sequence[LeadId]) -> Sequence[LeadId]:
        """Those of the leads that may have rows in ``leadctl_targets``; the others have none."""
        listed = _LISTED[self.url.get_backend_name()]
        statement = select(targets.c.lead_id).where(targets.c.source == self.source, targets.c.lead_id.in_(listed))
        ids = json.dumps([str(identity) for identity in lead_ids])
        found = {row.lead_id for row in self._read(statement.distinct().params(ids=ids))}
        return [identity for identity in lead_ids if str(identity) in found] if found else ()
