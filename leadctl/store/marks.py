"""How far somebody has looked, and which leads no run has planned yet."""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection, Executable, select, union

from leadctl.domain.model import LeadId, parse_id
from leadctl.store.base import set_meta
from leadctl.store.database import pages
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import to_text
from leadctl.store.schema import deliveries, meta, run_leads, runs


class Marks:
    """Small texts by name in ``leadctl_meta``, of one source of leads."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger

    def get(self, name: str) -> str | None:
        """What was kept under that name."""
        statement = select(meta.c.value).where(meta.c.key == self._key(name))
        return self._ledger.transact(lambda connection: connection.execute(statement).scalar(), repeatable=True)

    def keep(self, name: str, text: str) -> None:
        """Keep it, in place of what was there."""
        self._ledger.transact(lambda connection: set_meta(connection, self._key(name), text), repeatable=True)

    def _key(self, name: str) -> str:
        return f"mark:{self._ledger.source}:{name}"

    def planned(self, ids: Sequence[LeadId], since: datetime) -> set[LeadId]:
        """Those of the leads that some run has planned a delivery for, or has found nothing for since then."""
        own = runs.c.source == self._ledger.source
        sent = select(deliveries.c.lead_id).join(runs, runs.c.id == deliveries.c.run_id).where(own)
        seen = select(run_leads.c.lead_id).join(runs, runs.c.id == run_leads.c.run_id)
        seen = seen.where(own, runs.c.started_at >= to_text(since))
        found: set[LeadId] = set()
        for some in pages([str(one) for one in ids]):
            both = union(sent.where(deliveries.c.lead_id.in_(some)), seen.where(run_leads.c.lead_id.in_(some)))
            found.update(parse_id(lead_id) for lead_id in self._ledger.transact(_first_column(both), repeatable=True))
        return found


def _first_column(statement: Executable) -> Callable[[Connection], Sequence[str]]:
    return lambda connection: connection.execute(statement).scalars().all()
