"""What a ledger that was restored from a backup has forgotten: deliveries in doubt from before their first send."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, select, update

from leadctl.domain.model import RESTORED, Target
from leadctl.domain.outcomes import TargetState
from leadctl.store.database import pages
from leadctl.store.leases import Leases
from leadctl.store.rows import TARGET_COLUMNS, pack, target_from_row, target_to_row, to_text, unpack
from leadctl.store.schema import targets
from leadctl.store.settling import INSERT_TARGETS, TARGET, OperatorTables


class DoubtTables(OperatorTables):
    """Writes doubts into ``leadctl_targets``; from there on they are settled like any other."""

    def doubt(self, rows: Sequence[Target], before: datetime, now: datetime, leases: Leases) -> None:
        """Any of these may have been sent before that time, every step of it. Rows that are written since, or that a
        living process has in hand, stay as they are."""
        for some in pages(rows):
            self.transact(lambda c, some=some: self._doubt(c, some, before, now, leases), repeatable=True)  # type: ignore[misc]

    def _doubt(
        self, connection: Connection, rows: Sequence[Target], before: datetime, now: datetime, leases: Leases
    ) -> None:
        known = {(str(row.lead_id), row.destination, row.n): row for row in self._of_leads(connection, rows)}
        places = {(row.channel, row.account) for row in rows}
        contexts = {place: self._last_context(connection, *place, before) for place in places}
        fresh: list[Target] = []
        for row in rows:
            key = (str(row.lead_id), row.destination, row.n)
            found = known.get(key)
            if found is None:
                fresh.append(_doubted(row, contexts[row.channel, row.account], before, now))
            elif found.updated_at < before and not _is_certain(found, leases):
                doubted = _doubted(found, found.context or contexts[row.channel, row.account], before, now)
                values = dict(zip(TARGET_COLUMNS, target_to_row(doubted), strict=True))
                connection.execute(update(targets).where(self._is(*key)).values(**values))
        INSERT_TARGETS.run(connection, [(self.source, *target_to_row(row)) for row in fresh])

    def _of_leads(self, connection: Connection, rows: Sequence[Target]) -> list[Target]:
        leads = sorted({str(row.lead_id) for row in rows})
        statement = select(*TARGET).where(targets.c.source == self.source, targets.c.lead_id.in_(leads))
        ordered = statement.order_by(targets.c.lead_id, targets.c.destination, targets.c.n)
        return [target_from_row(row) for row in connection.execute(ordered.with_for_update()).all()]

    def _last_context(self, connection: Connection, channel: str, account: str, before: datetime) -> dict[str, str]:
        """What stood beside the last intent at that account that is known: what was forgotten was sent later."""
        statement = (
            select(targets.c.context)
            .where(
                targets.c.source == self.source,
                targets.c.channel == channel,
                targets.c.account == account,
                targets.c.sent_at < to_text(before),
                targets.c.context.not_in([pack({}), pack({RESTORED: "1"})]),
            )
            .order_by(targets.c.sent_at.desc())
            .limit(1)
        )
        return unpack(connection.execute(statement).scalar() or pack({}))


def _doubted(row: Target, context: Mapping[str, str], before: datetime, now: datetime) -> Target:
    """Of a delivery whose main step is done only what is missing is in doubt."""
    incomplete = row.state is TargetState.INCOMPLETE
    return replace(
        row,
        state=row.state if incomplete else TargetState.UNKNOWN,
        in_doubt=incomplete,
        context={**context, RESTORED: "1"},
        sent_at=before,
        updated_at=max(now, before),
        holder=None,
        rev=row.rev + 1,
    )


def _is_certain(row: Target, leases: Leases) -> bool:
    if row.state is TargetState.SENDING:
        return row.holder is not None and leases.is_alive(row.holder)
    return row.state is TargetState.DELIVERED
