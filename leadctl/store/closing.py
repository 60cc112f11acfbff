"""Runs that stop and go on: what was not begun gets its outcome, what is final stays, the rest is planned anew."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, case, delete, func, select, update

from leadctl.domain.model import CredentialId, LeadId, parse_id
from leadctl.domain.outcomes import ErrorCode, Outcome, PlanState, RunStatus
from leadctl.store.base import LedgerBase
from leadctl.store.database import pages
from leadctl.store.rows import RUN_COLUMNS, RunRow, run_from_row, storable, to_text
from leadctl.store.runs import is_unfinished
from leadctl.store.schema import deliveries, runs

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

    def supersede_run(self, run_id: str, by: str, at: datetime) -> None:
        """A later run of the same selection took over: this one stopped for good."""
        values = {"status": RunStatus.STOPPED.value, "exit_code": 5, "finished_at": to_text(at), "superseded_by": by}
        statement = update(runs).where(runs.c.id == run_id).values(**values)
        self._write(lambda connection: connection.execute(statement).rowcount)

    def close_unsent(
        self,
        run_id: str,
        message: str,
        *,
        code: ErrorCode = ErrorCode.RUN_STOPPED,
        credential_id: CredentialId | None = None,
    ) -> int:
        """Give what still waits its outcome: unprocessed, or unknown where an earlier attempt is in doubt."""
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
        return self._write(lambda connection: connection.execute(statement).rowcount)

    def reopen_items(self, run_id: str, *, keep_rejected: bool) -> None:
        """A run that goes on: forget the deliveries that are to be planned anew; the ids of the run stay."""
        final = [*_FINAL, *([Outcome.REJECTED] if keep_rejected else [])]
        statement = delete(deliveries).where(
            deliveries.c.run_id == run_id, deliveries.c.outcome.not_in([outcome.value for outcome in final])
        )

        def work(connection: Connection) -> None:
            connection.execute(statement)

        self._write(work)

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
