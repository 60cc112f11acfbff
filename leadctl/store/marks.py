"""How far somebody has looked, and which leads no run has planned yet."""

from collections.abc import Sequence

from sqlalchemy import select

from leadctl.domain.model import LeadId, parse_id
from leadctl.store.base import set_meta
from leadctl.store.database import pages
from leadctl.store.ledger import LedgerStore
from leadctl.store.schema import deliveries, meta, runs


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

    def planned(self, ids: Sequence[LeadId]) -> set[LeadId]:
        """Those of the leads that some run has planned a delivery for."""
        found: set[LeadId] = set()
        for some in pages(ids):
            statement = (
                select(deliveries.c.lead_id)
                .join(runs, runs.c.id == deliveries.c.run_id)
                .where(runs.c.source == self._ledger.source, deliveries.c.lead_id.in_([str(one) for one in some]))
                .distinct()
            )
            rows = self._ledger.transact(
                lambda connection, wanted=statement: connection.execute(wanted).all(),  # type: ignore[misc]
                repeatable=True,
            )
            found.update(parse_id(lead_id) for (lead_id,) in rows)
        return found
