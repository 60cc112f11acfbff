"""The ledger, read and written outside of a run's hot path (that is :mod:`leadctl.store.writer`)."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from leadctl.domain.model import CredentialId, LeadId, Target, parse_id
from leadctl.domain.outcomes import TargetState
from leadctl.store.closing import ClosingTables
from leadctl.store.database import pages
from leadctl.store.doubts import DoubtTables
from leadctl.store.known import KnownTables
from leadctl.store.purge import PurgeTables
from leadctl.store.rows import (
    ATTEMPT_COLUMNS,
    ITEM_COLUMNS,
    AttemptRow,
    History,
    attempt_from_row,
    item_from_row,
    target_from_row,
    to_text,
)
from leadctl.store.runs import RunTables
from leadctl.store.schema import attempts, deliveries, overrides, runs, targets
from leadctl.store.settling import TARGET


class LedgerStore(RunTables, ClosingTables, DoubtTables, KnownTables, PurgeTables):
    """Everything that the ledger knows of one source of leads. Open it with :meth:`open`."""

    def has_any_proof(self) -> bool:
        """Whether anything of this source was ever delivered, as far as the ledger knows."""
        proven = (TargetState.DELIVERED.value, TargetState.INCOMPLETE.value)
        statement = select(targets.c.n).where(targets.c.source == self.source, targets.c.state.in_(proven))
        return bool(self._read(statement.limit(1)))

    def targets_for(
        self, lead_ids_page: Sequence[LeadId], destinations: Collection[str] | None = None
    ) -> dict[LeadId, list[Target]]:
        """What is known of each lead, by destination and n; at these destinations, if they are given. Leads of which
        nothing is known are left out."""
        found: dict[LeadId, list[Target]] = {}
        there = [] if destinations is None else [targets.c.destination.in_(sorted(destinations))]
        for some in pages(lead_ids_page):
            statement = select(*TARGET).where(
                targets.c.source == self.source, targets.c.lead_id.in_([str(identity) for identity in some]), *there
            )
            for row in self._read(statement.order_by(targets.c.lead_id, targets.c.destination, targets.c.n)):
                target = target_from_row(row)
                found.setdefault(target.lead_id, []).append(target)
        return found

    # --- overrides -------------------------------------------------------------------------------------------

    def overrides(self) -> dict[CredentialId, dict[str, Any]]:
        """What vendors changed in credentials whose rows could not be written."""
        columns = (overrides.c.credential_id, overrides.c.key, overrides.c.value)
        kept: dict[CredentialId, dict[str, Any]] = {}
        for row in self._read(select(*columns).where(overrides.c.source == self.source)):
            kept.setdefault(parse_id(row.credential_id), {})[row.key] = json.loads(row.value)
        return kept

    def keep_override(self, credential_id: CredentialId, key: str, value: Any, at: datetime) -> None:
        """Keep a value that the vendor changed."""
        identity = {"source": self.source, "credential_id": str(credential_id), "key": key}

        def replace(connection: Connection) -> None:
            connection.execute(delete(overrides).filter_by(**identity))
            connection.execute(insert(overrides).values(**identity, value=json.dumps(value), at=to_text(at)))

        self._write(replace)

    # --- the life of a lead ----------------------------------------------------------------------------------

    def attempts_for(self, lead_id: LeadId) -> list[AttemptRow]:
        """Every attempt of this lead, in the order of their writing."""
        columns = (attempts.c.id, attempts.c.run_id, *(attempts.c[name] for name in ATTEMPT_COLUMNS))
        statement = select(*columns).where(attempts.c.source == self.source, attempts.c.lead_id == str(lead_id))
        return [attempt_from_row(row) for row in self._read(statement.order_by(attempts.c.id))]

    def history(self, lead_id: LeadId) -> History:
        """All that the ledger knows of a lead."""
        columns = (deliveries.c.run_id, *(deliveries.c[name] for name in ITEM_COLUMNS))
        statement = (
            select(*columns)
            .join(runs, runs.c.id == deliveries.c.run_id)
            .where(deliveries.c.lead_id == str(lead_id), runs.c.source == self.source)
            .order_by(runs.c.started_at, runs.c.id, deliveries.c.credential_id)
        )
        items = tuple((run_id, item_from_row(rest)) for run_id, *rest in self._read(statement))
        return History(tuple(self.targets_for([lead_id]).get(lead_id, ())), tuple(self.attempts_for(lead_id)), items)
