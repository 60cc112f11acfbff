"""Runs that stop and go on: what was not begun gets its outcome, what is final stays, the rest is planned anew."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, func, not_, or_, select, update

from leadctl.domain.model import CredentialId, LeadId, parse_id
from leadctl.domain.outcomes import ErrorCode, Outcome, PlanState, RunStatus, TargetState
from leadctl.store.base import LedgerBase
from leadctl.store.database import pages
from leadctl.store.rows import RUN_COLUMNS, RunRow, run_from_row, storable, to_text
from leadctl.store.runs import is_unfinished
from leadctl.store.schema import deliveries, runs, targets

#: What a run that goes on does not do again.
_FINAL = (Outcome.DELIVERED, Outcome.ALREADY_DELIVERED)


class ClosingTables(LedgerBase):
    """The ends of runs, over ``leadctl_runs`` and ``leadctl_deliveries``."""

    def unfinished_of(self, selection_digest: str, command: str) -> list[RunRow]:
        """Every run of this selection that did not finish, the latest first."""
        statement = (
            select(*(runs.c[name] for name in RUN_COLUMNS))
            .where(
                runs.c.source == self.source,
                runs.c.selection_digest == selection_digest,
                runs.c.command == command,
                is_unfinished(),
            )
            .order_by(runs.c.started_at.desc(), runs.c.id.desc())
        )
        return [run_from_row(row) for row in self._read(statement)]

    def queued_of(self, selection_digest: str) -> list[str]:
        """The runs of this selection that workers carry."""
        own = (runs.c.source == self.source, runs.c.selection_digest == selection_digest)
        statement = select(runs.c.id).where(*own, runs.c.status == RunStatus.QUEUED.value).order_by(runs.c.id)
        return [run_id for (run_id,) in self._read(statement)]

    def queued_among(self, lead_ids: Sequence[LeadId]) -> dict[str, set[str]]:
        """lead → credentials, both as text: what queued runs have not sent yet."""
        found: dict[str, set[str]] = {}
        for some in pages([str(identity) for identity in lead_ids]):
            statement = (
                select(deliveries.c.lead_id, deliveries.c.credential_id)
                .join(runs, runs.c.id == deliveries.c.run_id)
                .where(
                    runs.c.source == self.source,
                    runs.c.status == RunStatus.QUEUED.value,
                    deliveries.c.outcome == Outcome.PENDING.value,
                    deliveries.c.lead_id.in_(some),
                )
            )
            for lead_id, credential_id in self._read(statement):
                found.setdefault(lead_id, set()).add(credential_id)
        return found

    def supersede_run(self, run_id: str, by: str, at: datetime) -> None:
        """A later run of the same selection took over: this one stopped for good."""
        values = {"status": RunStatus.STOPPED.value, "exit_code": 5, "finished_at": to_text(at), "superseded_by": by}
        statement = update(runs).where(runs.c.id == run_id).values(**values)
        self._write(lambda connection: connection.execute(statement), repeatable=True)

    def close_unsent(
        self,
        run_id: str,
        message: str,
        *,
        code: ErrorCode = ErrorCode.RUN_STOPPED,
        credential_id: CredentialId | None = None,
        places: tuple[int, int] | None = None,
    ) -> None:
        """Give what still waits its outcome: unprocessed, or unknown where an earlier attempt is in doubt.

        ``places``: only for leads between these two places of the run.
        """
        in_doubt = deliveries.c.reason == PlanState.UNKNOWN.value
        statement = (
            update(deliveries)
            .where(deliveries.c.run_id == run_id, deliveries.c.outcome == Outcome.PENDING.value)
            .values(
                outcome=case((in_doubt, Outcome.UNKNOWN.value), else_=Outcome.UNPROCESSED.value),
                error_code=case((in_doubt, ErrorCode.MAYBE_DELIVERED.value), else_=code.value),
                error_message=storable(message),
                finished_at=to_text(datetime.now(UTC)),
            )
        )
        if credential_id is not None:
            statement = statement.where(deliveries.c.credential_id == str(credential_id))
        if places is not None:
            statement = statement.where(deliveries.c.seq.between(*places))
        self._write(lambda connection: connection.execute(statement), repeatable=True)

    def reopen_items(self, run_id: str, *, keep_rejected: bool) -> None:
        """A run that goes on: forget the deliveries that are to be planned anew; the ids of the run stay.

        What was settled as delivered since then is not: planned anew, a forced run would send it once more.
        """
        final = [*_FINAL, *([Outcome.REJECTED] if keep_rejected else [])]
        is_final = deliveries.c.outcome.in_([outcome.value for outcome in final])
        incomplete = func.coalesce(deliveries.c.error_code, "") == ErrorCode.INCOMPLETE.value
        is_open = and_(deliveries.c.run_id == run_id, or_(not_(is_final), incomplete))
        proof = ("remote_id", "remote_url", "settled_by")
        known: dict[str, Any] = {name: self._proof(targets.c[name]).scalar_subquery() for name in proof}
        known |= dict.fromkeys(("error_code", "error_message", "vendor_code"))
        known["outcome"] = case((is_final, deliveries.c.outcome), else_=Outcome.ALREADY_DELIVERED.value)
        settled = update(deliveries).where(is_open, self._proof(targets.c.n).exists()).values(**known)

        def work(connection: Connection) -> None:
            connection.execute(settled)
            connection.execute(delete(deliveries).where(is_open))

        self._write(work, repeatable=True)

    def _proof(self, column: ColumnElement[Any]) -> Select[Any]:
        """Of the row that a delivery of a run made, if that is delivered."""
        here = (targets.c[name] == deliveries.c[name] for name in ("lead_id", "destination", "n"))
        delivered = targets.c.state == TargetState.DELIVERED.value
        return select(column).where(targets.c.source == self.source, *here, delivered).correlate(deliveries)

    def kept_items(self, run_id: str, lead_ids: Sequence[LeadId]) -> set[tuple[LeadId, CredentialId]]:
        """(lead, credential) of these leads that have their final outcome in this run."""
        kept: set[tuple[LeadId, CredentialId]] = set()
        for some in pages(lead_ids):
            statement = select(deliveries.c.lead_id, deliveries.c.credential_id).where(
                deliveries.c.run_id == run_id, deliveries.c.lead_id.in_([str(identity) for identity in some])
            )
            kept.update((parse_id(row.lead_id), parse_id(row.credential_id)) for row in self._read(statement))
        return kept

    def verdict_counts(self, run_id: str) -> dict[tuple[CredentialId, Outcome, str | None], int]:
        """(credential, outcome, error code) → how many deliveries."""
        columns = (deliveries.c.credential_id, deliveries.c.outcome, deliveries.c.error_code)
        statement = select(*columns, func.count()).where(deliveries.c.run_id == run_id).group_by(*columns)
        return {
            (parse_id(credential_id), Outcome(outcome), code): count
            for credential_id, outcome, code, count in self._read(statement)
        }
