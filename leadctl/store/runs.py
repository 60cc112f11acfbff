"""Runs and their deliveries: what was planned, and what became of it."""

import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    distinct,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import CredentialId, LeadId, parse_id, sort_key
from leadctl.domain.outcomes import ErrorCode, Outcome, RunStatus, SettledBy
from leadctl.store.base import LedgerBase
from leadctl.store.engines import explain
from leadctl.store.leads import Standing
from leadctl.store.rows import (
    ITEM_COLUMNS,
    RUN_COLUMNS,
    ErrorGroup,
    ItemRow,
    RunRow,
    item_from_row,
    item_to_row,
    run_from_row,
    run_to_row,
    storable,
    to_text,
)
from leadctl.store.schema import deliveries, run_leads, runs
from leadctl.store.tuples import TupleStatement, insert_tuples

#: A run that may be gone on with: it is going on, was killed, or left something unprocessed.
UNFINISHED = (RunStatus.RUNNING, RunStatus.INTERRUPTED, RunStatus.STOPPED)
#: Outcomes of a lead that was dispatched (CONTRACT §4).
DISPATCHED = (Outcome.DELIVERED, Outcome.ALREADY_DELIVERED, Outcome.REJECTED, Outcome.UNKNOWN)

_ITEM = tuple(deliveries.c[name] for name in ITEM_COLUMNS)
_RUN = tuple(runs.c[name] for name in RUN_COLUMNS)
_INSERT_ITEMS = insert_tuples(deliveries, ("run_id", *ITEM_COLUMNS))
_INSERT_LEADS = insert_tuples(run_leads, ("run_id", "seq", "lead_id", "status"))
#: Rows in one INSERT transaction, so that no other process waits long for the lock.
_CHUNK = 2000


class RunTables(LedgerBase):
    """``leadctl_runs``, ``leadctl_run_leads`` and ``leadctl_deliveries``."""

    # --- runs ------------------------------------------------------------------------------------------------

    def new_run(
        self,
        command: str,
        selection_digest: str,
        *,
        now: datetime,
        options: Mapping[str, Any] | None = None,
        due_at: datetime | None = None,
        total_count: int = 0,
        filtered_count: int = 0,
        reason: str | None = None,
    ) -> RunRow:
        """A run that begins. Its id sorts by time."""
        tail = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(4))
        run = RunRow(
            id=f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{tail}",
            command=command,
            selection_digest=selection_digest,
            options=options or {},
            status=RunStatus.RUNNING,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=now,
            due_at=due_at,
            total_count=total_count,
            filtered_count=filtered_count,
            reason=storable(reason),
        )

        def begin(connection: Connection) -> int:
            connection.execute(insert(runs).values(source=self.source, **run_to_row(run)))
            return self._count_runs(connection, 1)

        self._remember(self.transact(begin))
        return run

    def run(self, run_id: str) -> RunRow | None:
        """The run of that id, of any source of this ledger."""
        return next((run_from_row(row) for row in self._read(select(*_RUN).where(runs.c.id == run_id))), None)

    def find_unfinished(self, selection_digest: str, command: str) -> RunRow | None:
        """The latest run of this selection that may be gone on with."""
        statement = self._runs(unfinished=True).where(
            runs.c.selection_digest == selection_digest, runs.c.command == command
        )
        return next((run_from_row(row) for row in self._read(statement.limit(1))), None)

    def list_runs(self, unfinished: bool = False, limit: int = 50) -> list[RunRow]:
        """The latest runs of this source, latest first."""
        return [run_from_row(row) for row in self._read(self._runs(unfinished).limit(limit))]

    def _runs(self, unfinished: bool) -> Select[Any]:
        statement = select(*_RUN).where(runs.c.source == self.source)
        if unfinished:
            statement = statement.where(is_unfinished())
        return statement.order_by(runs.c.started_at.desc(), runs.c.id.desc())

    def finish_run(
        self, run_id: str, status: RunStatus, exit_code: int | None, at: datetime, reason: str | None = None
    ) -> None:
        """Write how the run ended. ``reason`` None: what stands there stays."""
        values: dict[str, Any] = {"status": status.value, "exit_code": exit_code, "finished_at": to_text(at)}
        if reason is not None:
            values["reason"] = storable(reason)
        self._update_run(run_id, values)

    def touch_run(self, run_id: str, host: str, pid: int, at: datetime) -> None:
        """The run is taken up again, by that process."""
        self._update_run(
            run_id,
            {"status": RunStatus.RUNNING.value, "host": host, "pid": pid, "taken_at": to_text(at),
             "finished_at": None, "exit_code": None, "counter": runs.c.counter + 1},
        )  # fmt: skip

    def set_due(self, run_id: str, due_at: datetime | None) -> None:
        """When the run may begin to send (``--delay``)."""
        self._update_run(run_id, {"due_at": to_text(due_at) if due_at else None})

    def set_counts(self, run_id: str, total_count: int, filtered_count: int) -> None:
        """How many ids were asked for, and how many of them the other selectors left out."""
        self._update_run(run_id, {"total_count": total_count, "filtered_count": filtered_count})

    def _update_run(self, run_id: str, values: Mapping[str, Any]) -> None:
        change = update(runs).where(runs.c.id == run_id).values(**values)
        self._write(lambda connection: connection.execute(change), repeatable=True)

    # --- the plan of a run -----------------------------------------------------------------------------------

    def add_leads(self, run_id: str, rows: Sequence[tuple[int, LeadId, Standing]]) -> None:
        """The ids of a run, in order."""
        tuples = [(run_id, seq, str(lead_id), standing) for seq, lead_id, standing in rows]
        for start in range(0, len(tuples), _CHUNK):
            self._insert(_INSERT_LEADS, tuples[start : start + _CHUNK])

    def correct_leads(self, run_id: str, rows: Sequence[tuple[int, LeadId, Standing]]) -> None:
        """What has become of some ids of a run since they were written: they are there, and are read anew."""
        if not rows:
            return
        places = run_leads.c.seq.between(rows[0][0], rows[-1][0])
        statement = select(run_leads.c.seq, run_leads.c.status).where(run_leads.c.run_id == run_id, places)
        known = {row.seq: row.status for row in self._read(statement)}
        changed = [{"at": seq, "now": standing} for seq, _, standing in rows if known.get(seq) != standing]
        if changed:
            here = (run_leads.c.run_id == run_id, run_leads.c.seq == bindparam("at"))
            correct = update(run_leads).where(*here).values(status=bindparam("now"))
            self._write(lambda connection: connection.execute(correct, changed), repeatable=True)

    def add_items(self, run_id: str, rows: Sequence[ItemRow]) -> None:
        """The deliveries of a run, with their initial outcomes."""
        tuples = [(run_id, *item_to_row(row)) for row in rows]
        for start in range(0, len(tuples), _CHUNK):
            self._insert(_INSERT_ITEMS, tuples[start : start + _CHUNK])

    def _insert(self, statement: TupleStatement, rows: Sequence[tuple[Any, ...]]) -> None:
        """In one transaction; again also where its commit was not answered: rows of this run that are there then show
        that it had arrived."""
        tries = 0

        def work(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            statement.run(connection, rows)

        try:
            self._transaction(work, repeatable=True)
        except SQLAlchemyError as error:
            if tries == 1 or not isinstance(error, IntegrityError):
                raise explain(error, f"the ledger {self.location}") from None

    def clear_items(self, run_id: str) -> None:
        """Forget the plan of a run that is planned anew. Raises ConfigError when the run is finished."""
        self._write(lambda connection: self._clear(connection, run_id), repeatable=True)

    def _clear(self, connection: Connection, run_id: str) -> None:
        status = connection.execute(select(runs.c.status).where(runs.c.id == run_id).with_for_update()).scalar()
        if status is None or status not in UNFINISHED:
            raise ConfigError(f"run {run_id} is finished: its deliveries stay as they are")
        connection.execute(delete(deliveries).where(deliveries.c.run_id == run_id))
        connection.execute(delete(run_leads).where(run_leads.c.run_id == run_id))

    def run_lead_ids(
        self, run_id: str, page: int = 1000, *, standing: Standing | None = None
    ) -> Iterator[list[LeadId]]:
        """The ids of a run in order, whatever became of them, or only those of one standing."""
        statement = select(run_leads.c.seq, run_leads.c.lead_id).where(run_leads.c.run_id == run_id)
        if standing is not None:
            statement = statement.where(run_leads.c.status == standing)
        statement = statement.order_by(run_leads.c.seq).limit(page)
        last: int | None = None
        while rows := self._read(statement if last is None else statement.where(run_leads.c.seq > last)):
            yield [parse_id(row.lead_id) for row in rows]
            last = rows[-1].seq

    def lead_counts(self, run_id: str) -> dict[Standing, int]:
        """How many ids of the run are planned, not there, or filtered out."""
        statement = (
            select(run_leads.c.status, func.count())
            .where(run_leads.c.run_id == run_id)
            .group_by(run_leads.c.status)
        )  # fmt: skip
        return {row[0]: row[1] for row in self._read(statement)}

    # --- the deliveries of a run -----------------------------------------------------------------------------

    def pending_credentials(self, run_id: str) -> list[tuple[CredentialId, str, int]]:
        """(credential, channel, how many deliveries wait), numeric ids before text."""
        columns = (deliveries.c.credential_id, deliveries.c.channel)
        statement = select(*columns, func.count()).where(_pending(run_id)).group_by(*columns)
        found = [(parse_id(credential), channel, count) for credential, channel, count in self._read(statement)]
        return sorted(found, key=lambda entry: sort_key(entry[0]))

    def pending_items(
        self, run_id: str, credential_id: CredentialId, after_seq: int | None, limit: int
    ) -> list[ItemRow]:
        """The next deliveries of a credential that have no outcome yet, after that place."""
        statement = select(*_ITEM).where(_pending(run_id), deliveries.c.credential_id == str(credential_id))
        if after_seq is not None:
            statement = statement.where(deliveries.c.seq > after_seq)
        return [item_from_row(row) for row in self._read(statement.order_by(deliveries.c.seq).limit(limit))]

    def accepted_items(self, run_id: str, credential_id: CredentialId, after_seq: int, limit: int) -> list[ItemRow]:
        """The next deliveries of a credential, after that place, that the vendor has only queued."""
        own = (deliveries.c.run_id == run_id, deliveries.c.credential_id == str(credential_id))
        accepted = deliveries.c.settled_by == SettledBy.ACCEPTED.value
        statement = select(*_ITEM).where(*own, accepted, deliveries.c.seq > after_seq)
        return [item_from_row(row) for row in self._read(statement.order_by(deliveries.c.seq).limit(limit))]

    def iter_items(self, run_id: str, outcomes: Sequence[Outcome] | None = None, page: int = 1000) -> Iterator[ItemRow]:
        """The deliveries of a run in the order of its leads."""
        place = (deliveries.c.seq, deliveries.c.credential_id)
        statement = select(*_ITEM).where(deliveries.c.run_id == run_id).order_by(*place).limit(page)
        if outcomes is not None:
            statement = statement.where(deliveries.c.outcome.in_([outcome.value for outcome in outcomes]))
        last: ItemRow | None = None
        while True:
            after = [_after(last)] if last is not None else []
            rows = self._read(statement.where(*after))
            for row in rows:
                last = item_from_row(row)
                yield last
            if len(rows) < page:
                return

    def outcome_counts(self, run_id: str) -> dict[tuple[str, Outcome], int]:
        """(channel, outcome) → how many deliveries."""
        columns = (deliveries.c.channel, deliveries.c.outcome)
        statement = select(*columns, func.count()).where(deliveries.c.run_id == run_id).group_by(*columns)
        return {(channel, Outcome(outcome)): count for channel, outcome, count in self._read(statement)}

    def dispatched_count(self, run_id: str) -> int:
        """Leads with at least one delivery that is delivered, already delivered, rejected or unknown."""
        statement = select(func.count(distinct(deliveries.c.lead_id))).where(
            deliveries.c.run_id == run_id, deliveries.c.outcome.in_([outcome.value for outcome in DISPATCHED])
        )
        return sum(count for (count,) in self._read(statement))

    def group_errors(self, run_id: str) -> list[ErrorGroup]:
        """What went wrong, by credential and code, the most frequent first."""
        columns = (deliveries.c.channel, deliveries.c.credential_id, deliveries.c.error_code, deliveries.c.vendor_code)
        statement = (
            select(*columns, func.count().label("number"), func.min(deliveries.c.seq).label("seq"))
            .where(deliveries.c.run_id == run_id, deliveries.c.error_code.is_not(None))
            .group_by(*columns)
        )
        groups = [self._group(run_id, row) for row in self._read(statement)]
        return sorted(groups, key=lambda group: (-group.count, group.channel, sort_key(group.credential_id)))

    def _group(self, run_id: str, row: Any) -> ErrorGroup:
        first = self._read(
            select(deliveries.c.lead_id, deliveries.c.error_message).where(
                deliveries.c.run_id == run_id,
                deliveries.c.seq == row.seq,
                deliveries.c.credential_id == row.credential_id,
            )
        )[0]
        return ErrorGroup(
            row.channel, parse_id(row.credential_id), row.error_code, row.vendor_code, row.number,
            parse_id(first.lead_id), first.error_message,
        )  # fmt: skip

    def close_pending(
        self,
        run_id: str,
        outcome: Outcome,
        error_code: ErrorCode | None,
        message: str | None,
        credential_id: CredentialId | None = None,
        *,
        at: datetime | None = None,
    ) -> int:
        """Give everything that still waits this outcome; how many that were."""
        statement = (
            update(deliveries)
            .where(_pending(run_id))
            .values(
                outcome=outcome.value,
                error_code=error_code,
                error_message=storable(message),
                finished_at=to_text(at or datetime.now(UTC)),
            )
        )
        if credential_id is not None:
            statement = statement.where(deliveries.c.credential_id == str(credential_id))
        return self._write(lambda connection: connection.execute(statement).rowcount)


def is_unfinished() -> ColumnElement[bool]:
    """Whether a run may be gone on with, and no later one of the same selection did."""
    return and_(runs.c.status.in_([status.value for status in UNFINISHED]), runs.c.superseded_by.is_(None))


def _pending(run_id: str) -> Any:
    return and_(deliveries.c.run_id == run_id, deliveries.c.outcome == Outcome.PENDING.value)


def _after(last: ItemRow) -> Any:
    return or_(
        deliveries.c.seq > last.seq,
        and_(deliveries.c.seq == last.seq, deliveries.c.credential_id > str(last.credential_id)),
    )
