"""Chunks: what workers carry of a queued run. The ledger knows them all; the queue only says who does which next."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, update

from leadctl.domain.errors import ConfigError
from leadctl.domain.model import CredentialId, parse_id
from leadctl.domain.outcomes import Outcome, RunStatus
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import from_text, to_text
from leadctl.store.schema import chunks, deliveries, runs
from leadctl.store.tuples import insert_tuples


class ChunkState(StrEnum):
    """``CANCELLING``: a worker has it in hand, and shall end it before its next request."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    DONE = "done"


#: Something is still to be done.
OPEN = (ChunkState.QUEUED, ChunkState.RUNNING, ChunkState.CANCELLING)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of ``leadctl_chunks``: the pending deliveries of these credentials, which are one account's, whose leads
    stand between two places of the run."""

    run_id: str
    no: int
    queue: str
    account: str
    channel: str
    credential_ids: tuple[CredentialId, ...]
    first_seq: int
    last_seq: int
    deliveries: int
    priority: int = 0
    state: ChunkState = ChunkState.QUEUED
    #: Not to be begun before then: ``--delay``, or the vendor's word.
    not_before: datetime | None = None
    worker: str | None = None
    #: How often it was begun.
    tries: int = 0
    queued_at: datetime | None = None
    #: How often the vendor said "too fast".
    throttled: int = 0
    #: What the run's end must know of it: see :class:`leadctl.services.queueing.Report`.
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name in the queue."""
        return f"{self.run_id}:{self.no}"

    @property
    def lane(self) -> str:
        """One chunk of it at a time, over all workers."""
        return f"{self.queue}/{self.account}"


@dataclass(frozen=True, slots=True)
class Backlog:
    """Open chunks of one queue and account."""

    queue: str
    account: str
    channel: str
    queued: int
    running: int
    #: Planned deliveries of these chunks, those of a chunk that is being carried included.
    deliveries: int
    oldest: datetime | None
    #: The earliest time at which one may be begun; None: now.
    not_before: datetime | None
    workers: tuple[str, ...] = ()


_COLUMNS = ("run_id", "no", "queue", "account", "channel", "credential_ids", "first_seq", "last_seq", "deliveries",
            "priority", "state", "not_before", "worker", "tries", "queued_at", "throttled", "report")  # fmt: skip
_CHUNK = tuple(chunks.c[name] for name in _COLUMNS)
_INSERT = insert_tuples(chunks, ("source", *_COLUMNS))


class ChunkRows:
    """``leadctl_chunks`` of one source of leads. Raises ConfigError where the ledger is not on PostgreSQL."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger
        self._own = chunks.c.source == ledger.source
        if ledger.url.get_backend_name() != "postgresql":
            raise ConfigError(
                f"workers need a ledger on PostgreSQL, which all of them reach; this one is {ledger.location}",
                hint="set [ledger] url (or LEADCTL_LEDGER__URL) to postgresql://…; the leads may stay where they are",
            )
        ledger.make()

    @property
    def dsn(self) -> str:
        """Where the ledger is, for other drivers; holds the password."""
        return self._ledger.url.set(drivername="postgresql").render_as_string(hide_password=False)

    # --- a run -----------------------------------------------------------------------------------------------

    def ranges(self, run_id: str, credential_ids: Sequence[CredentialId], size: int) -> list[tuple[int, int, int]]:
        """The pending deliveries of these credentials, in parts of ``size`` leads: (first place, last place, how many
        deliveries)."""
        names = [str(identity) for identity in credential_ids]
        rank = func.dense_rank().over(order_by=deliveries.c.seq)
        ranked = select(deliveries.c.seq, ((rank - 1) // size).label("part")).where(
            deliveries.c.run_id == run_id,
            deliveries.c.credential_id.in_(names),
            deliveries.c.outcome == Outcome.PENDING.value,
        )
        parts = ranked.subquery()
        statement = (
            select(func.min(parts.c.seq), func.max(parts.c.seq), func.count())
            .group_by(parts.c.part)
            .order_by(func.min(parts.c.seq))
        )
        return [(first, last, count) for first, last, count in self._read(statement)]

    def replace(self, run_id: str, rows: Sequence[Chunk], now: datetime) -> list[Chunk]:
        """These are the run's chunks from now on, and it is queued: all of it, or nothing. Numbered anew, so that no
        job of an earlier chunk stands for one of them."""

        def work(connection: Connection) -> list[Chunk]:
            connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update())
            after = connection.execute(select(func.max(chunks.c.no)).where(chunks.c.run_id == run_id)).scalar()
            numbered = [
                dataclasses.replace(row, no=no, queued_at=now)
                for no, row in enumerate(rows, 0 if after is None else after + 1)
            ]
            connection.execute(delete(chunks).where(chunks.c.run_id == run_id))
            _INSERT.run(connection, [(self._ledger.source, *_to_row(row)) for row in numbered])
            connection.execute(update(runs).where(runs.c.id == run_id).values(status=RunStatus.QUEUED.value))
            return numbered

        return self._ledger.transact(work, repeatable=True)

    def of_run(self, run_id: str) -> list[Chunk]:
        """All chunks of a run, in order."""
        statement = select(*_CHUNK).where(self._own, chunks.c.run_id == run_id).order_by(chunks.c.no)
        return [_from_row(row) for row in self._read(statement)]

    def cancel(self, run_id: str, now: datetime) -> tuple[list[str], int]:
        """Nothing more of the run is begun: the keys that were waiting, and how many a worker has in hand."""

        def work(connection: Connection) -> tuple[list[str], int]:
            waiting = connection.execute(
                update(chunks)
                .where(self._own, chunks.c.run_id == run_id, chunks.c.state == ChunkState.QUEUED.value)
                .values(state=ChunkState.CANCELLED.value, finished_at=to_text(now))
                .returning(chunks.c.no)
            ).all()
            running = connection.execute(
                update(chunks)
                .where(self._own, chunks.c.run_id == run_id, chunks.c.state == ChunkState.RUNNING.value)
                .values(state=ChunkState.CANCELLING.value)
            ).rowcount
            return [f"{run_id}:{no}" for (no,) in waiting], running

        return self._ledger.transact(work, repeatable=True)

    def close_run(self, run_id: str, status: RunStatus, exit_code: int, now: datetime) -> bool:
        """The run has ended, unless somebody has closed it or taken it up again since."""
        statement = (
            update(runs)
            .where(runs.c.id == run_id, runs.c.status == RunStatus.QUEUED.value)
            .values(status=status.value, exit_code=exit_code, finished_at=to_text(now))
        )
        return bool(self._write(statement))

    def begun(self, run_id: str) -> bool:
        """Whether a worker has begun with the run."""
        statement = select(chunks.c.no).where(chunks.c.run_id == run_id, chunks.c.started_at.is_not(None)).limit(1)
        return bool(self._read(statement))

    # --- a chunk ---------------------------------------------------------------------------------------------

    def get(self, run_id: str, no: int) -> Chunk | None:
        """The chunk of that number."""
        rows = self._read(select(*_CHUNK).where(self._own, chunks.c.run_id == run_id, chunks.c.no == no))
        return _from_row(rows[0]) if rows else None

    def begin(self, chunk: Chunk, worker: str, now: datetime) -> Chunk | None:
        """It is that worker's now, whoever had it before (only a worker that shows no life is robbed by the queue).
        None: there is nothing to do any more."""
        at = to_text(now)
        statement = (
            update(chunks)
            .where(_is(chunk), chunks.c.state.in_([ChunkState.QUEUED.value, ChunkState.RUNNING.value]))
            .values(state=ChunkState.RUNNING.value, worker=worker, tries=chunks.c.tries + 1,
                    started_at=func.coalesce(chunks.c.started_at, at))
            .returning(*_CHUNK)
        )  # fmt: skip
        rows = self._read(statement)
        return _from_row(rows[0]) if rows else None

    def end(
        self, chunk: Chunk, worker: str | None, now: datetime, *, throttled: int, report: Mapping[str, Any]
    ) -> None:
        """Nothing of it is left to be done. Does nothing where another worker has it by now."""
        cancelled = chunks.c.state == ChunkState.CANCELLING.value
        self._write(
            update(chunks)
            .where(_is(chunk), chunks.c.worker.is_not_distinct_from(worker), _open())
            .values(
                state=case((cancelled, ChunkState.CANCELLED.value), else_=ChunkState.DONE.value),
                finished_at=to_text(now),
                throttled=chunk.throttled + throttled,
                report=json.dumps(dict(report)),
            )
        )

    def put_back(
        self,
        chunk: Chunk,
        worker: str,
        not_before: datetime,
        *,
        throttled: int = 0,
        report: Mapping[str, Any] | None = None,
        counted: bool = True,
    ) -> None:
        """It goes on later, wherever. Does nothing where another worker has it by now. ``counted`` False: this try does
        not count, for it says nothing of the chunk."""
        statement = (
            update(chunks)
            .where(_is(chunk), chunks.c.worker == worker, chunks.c.state == ChunkState.RUNNING.value)
            .values(state=ChunkState.QUEUED.value, worker=None, not_before=to_text(not_before),
                    tries=chunks.c.tries - (0 if counted else 1), throttled=chunk.throttled + throttled,
                    report=json.dumps(dict(chunk.report if report is None else report)))
        )  # fmt: skip
        self._write(statement)

    def hold_account(self, account: str, until: datetime) -> None:
        """The vendor lets nothing of the account through until then: whatever waits for it waits longer."""
        at = to_text(until)
        statement = (
            update(chunks)
            .where(
                self._own,
                chunks.c.account == account,
                chunks.c.state == ChunkState.QUEUED.value,
                or_(chunks.c.not_before.is_(None), chunks.c.not_before < at),
            )
            .values(not_before=at)
        )
        self._write(statement)

    # --- all of them -----------------------------------------------------------------------------------------

    def open_lanes(self, queue: str) -> set[str]:
        """Lanes of a queue that something is to be done in."""
        statement = select(chunks.c.account).where(self._own, _open(), chunks.c.queue == queue).distinct()
        return {f"{queue}/{account}" for (account,) in self._read(statement)}

    def due(self, queue: str, now: datetime) -> int:
        """How many chunks of the queue may be begun, or are in somebody's hands, who may be dead: the queue tells after
        a heartbeat."""
        ready = or_(
            chunks.c.state != ChunkState.QUEUED.value,
            chunks.c.not_before.is_(None),
            chunks.c.not_before <= to_text(now),
        )
        statement = select(func.count()).where(self._own, _open(), chunks.c.queue == queue, ready)
        return int(self._read(statement)[0][0])

    def cancelling(self, worker: str) -> set[str]:
        """Keys of the chunks that this worker shall end."""
        statement = select(chunks.c.run_id, chunks.c.no).where(
            self._own, chunks.c.state == ChunkState.CANCELLING.value, chunks.c.worker == worker
        )
        return {f"{run_id}:{no}" for run_id, no in self._read(statement)}

    def open_chunks(self) -> list[Chunk]:
        """What is to be done, in the order of its making."""
        statement = select(*_CHUNK).where(self._own, _open())
        return [_from_row(row) for row in self._read(statement.order_by(chunks.c.queued_at, chunks.c.no))]

    def is_open(self, run_id: str) -> bool:
        """Whether something of the run is still to be done."""
        return bool(self._read(select(chunks.c.no).where(chunks.c.run_id == run_id, _open()).limit(1)))

    def queued_runs(self) -> list[str]:
        """Runs that workers carry, the oldest first."""
        statement = select(runs.c.id).where(
            runs.c.source == self._ledger.source, runs.c.status == RunStatus.QUEUED.value
        )
        return [run_id for (run_id,) in self._read(statement.order_by(runs.c.started_at, runs.c.id))]

    def backlog(self) -> list[Backlog]:
        """Open chunks by queue and account, the largest first."""
        queued = func.count().filter(chunks.c.state == ChunkState.QUEUED.value)
        early = func.min(func.coalesce(chunks.c.not_before, ""))
        columns = (chunks.c.queue, chunks.c.account, chunks.c.channel)
        statement = (
            select(*columns, queued, func.count(), func.sum(chunks.c.deliveries), func.min(chunks.c.queued_at), early,
                   func.array_agg(chunks.c.worker.distinct()))
            .where(self._own, _open())
            .group_by(*columns)
            .order_by(chunks.c.queue, func.sum(chunks.c.deliveries).desc(), chunks.c.account)
        )  # fmt: skip
        return [
            Backlog(queue, account, channel, waiting, number - waiting, total, from_text(oldest),
                    from_text(start or None), tuple(sorted(filter(None, workers))))
            for queue, account, channel, waiting, number, total, oldest, start, workers in self._read(statement)
        ]  # fmt: skip

    def outcomes(self) -> dict[tuple[str, Outcome], int]:
        """(channel, outcome) → how many deliveries of the runs whose chunks are kept."""
        columns = (deliveries.c.channel, deliveries.c.outcome)
        known = select(chunks.c.run_id).where(self._own).distinct()
        statement = select(*columns, func.count()).where(deliveries.c.run_id.in_(known)).group_by(*columns)
        return {(channel, Outcome(outcome)): number for channel, outcome, number in self._read(statement)}

    def throttlings(self) -> dict[str, int]:
        """Channel → how often it said "too fast" in the chunks that are kept."""
        statement = select(chunks.c.channel, func.sum(chunks.c.throttled)).where(self._own).group_by(chunks.c.channel)
        return {channel: int(number) for channel, number in self._read(statement)}

    def prune(self, before: datetime) -> int:
        """Delete the chunks of runs that ended before that time; how many."""
        ended = select(runs.c.id).where(runs.c.finished_at < to_text(before))
        gone = or_(chunks.c.run_id.in_(ended), chunks.c.run_id.not_in(select(runs.c.id)))
        closed = chunks.c.state.in_([ChunkState.DONE.value, ChunkState.CANCELLED.value])
        return self._write(delete(chunks).where(self._own, closed, gone))

    def _read(self, statement: Any) -> Sequence[Any]:
        found: Sequence[Any] = self._ledger.transact(
            lambda connection: connection.execute(statement).all(), repeatable=True
        )
        return found

    def _write(self, statement: Any) -> int:
        changed: int = self._ledger.transact(
            lambda connection: connection.execute(statement).rowcount, repeatable=True
        )  # fmt: skip
        return changed


def _open() -> ColumnElement[bool]:
    return chunks.c.state.in_([state.value for state in OPEN])


def _is(chunk: Chunk) -> ColumnElement[bool]:
    return and_(chunks.c.run_id == chunk.run_id, chunks.c.no == chunk.no)


def _to_row(row: Chunk) -> tuple[Any, ...]:
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    values["credential_ids"] = json.dumps(list(row.credential_ids))
    values["report"] = json.dumps(dict(row.report))
    for name in ("not_before", "queued_at"):
        values[name] = to_text(values[name]) if values[name] else None
    return tuple(values.values())


def _from_row(row: Any) -> Chunk:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["credential_ids"] = tuple(parse_id(str(identity)) for identity in json.loads(row.credential_ids))
    values["report"] = json.loads(row.report)
    values["state"] = ChunkState(row.state)
    for name in ("not_before", "queued_at"):
        values[name] = from_text(values[name])
    return Chunk(**values)
