"""The writer: one thread, one connection, everything that is queued in one transaction.

The cost of a durable commit is shared by all who wait for it. A call returns after its commit.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, update

from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import DatabaseUnreachable, LeadctlError
from leadctl.domain.events import RunEvent
from leadctl.domain.masking import Secrets, clean, mask_personal
from leadctl.domain.model import Target
from leadctl.domain.outcomes import Outcome, TargetState, may_move
from leadctl.domain.ports import Claim, Clock, Granted, Intent, ItemOutcome, Observer, Record, Refusal, TargetWrite
from leadctl.store.commits import Committer
from leadctl.store.database import pages
from leadctl.store.leases import Leases
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import TARGET_COLUMNS, attempt_to_row, storable, target_from_row, target_to_row, to_text
from leadctl.store.schema import deliveries, targets
from leadctl.store.settling import INSERT_ATTEMPTS, INSERT_TARGETS, TARGET
from leadctl.store.tuples import TupleStatement, bind

#: At most so many rows in one transaction; a larger call is one of its own.
GROUP_ROWS = 1000
_ANSWER = 300
_MESSAGE = 500

Key = tuple[str, str, int]

_KEY = ("lead_id", "destination", "n")
_CHANGED = tuple(name for name in TARGET_COLUMNS if name not in _KEY)
_UPDATE_TARGETS = TupleStatement(
    update(targets)
    .where(*(targets.c[name] == bind(f"at_{name}") for name in ("source", *_KEY, "rev")))
    .values({name: bind(name) for name in _CHANGED}),
    (*TARGET_COLUMNS, "at_source", *(f"at_{name}" for name in _KEY), "at_rev"),
)
_OUTCOME = ("outcome", "attempts", "remote_id", "remote_url", "error_code", "error_message", "vendor_code",
            "settled_by", "finished_at")  # fmt: skip
_UPDATE_ITEMS = TupleStatement(
    update(deliveries)
    .where(*(deliveries.c[name] == bind(f"at_{name}") for name in ("lead_id", "run_id", "credential_id", "outcome")))
    .values({name: bind(name) for name in _OUTCOME}),
    (*_OUTCOME, "at_lead_id", "at_run_id", "at_credential_id", "at_outcome"),
)


@dataclass(slots=True)
class _Job:
    """One call that waits for the thread."""

    run_id: str
    intents: Sequence[Intent]
    records: Sequence[Record]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: LeadctlError | None = None

    @property
    def size(self) -> int:
        return len(self.intents) + len(self.records)

    @property
    def keys(self) -> Iterable[Key]:
        """The rows of ``leadctl_targets`` that it touches."""
        yield from map(_key, self.intents)
        yield from (_key(record.target) for record in self.records if record.target is not None)

    @property
    def given_up(self) -> bool:
        """Nobody waits for this claim any more: it would only leave a row in doubt."""
        return bool(self.intents) and self.future.cancelled()

    def answer(self) -> None:
        """In the loop's thread."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def _key(row: Intent | TargetWrite | Target) -> Key:
    return (str(row.lead_id), row.destination, row.n)


@dataclass(slots=True)
class _Group:
    """One transaction: the rows it has read, what its calls make of them, and then the writes."""

    source: str
    holder: str
    leases: Leases
    secrets: Secrets
    now: datetime
    read: dict[Key, Target] = field(default_factory=dict)
    rows: dict[Key, Target] = field(default_factory=dict)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    items: list[tuple[Any, ...]] = field(default_factory=list)
    alive: dict[str, bool] = field(default_factory=dict)

    def load(self, connection: Connection, keys: set[Key]) -> None:
        """Read and lock. (SQLite's lock is the transaction's.)"""
        destinations = sorted({destination for _, destination, _ in keys})
        narrow = [targets.c.destination.in_(destinations)] if len(destinations) <= 100 else []
        for some in pages(sorted({lead_id for lead_id, _, _ in keys})):
            statement = select(*TARGET).where(targets.c.source == self.source, targets.c.lead_id.in_(some), *narrow)
            statement = statement.order_by(*(targets.c[name] for name in _KEY)).with_for_update()
            for row in connection.execute(statement).all():
                key = (row.lead_id, row.destination, row.n)
                if key in keys:
                    self.read[key] = target_from_row(row)
        self.rows = dict(self.read)

    def apply(self, job: _Job) -> None:
        """The whole call, or nothing of it and its error."""
        job.result = job.error = None
        try:
            if job.intents:
                job.result = self._claim(job.run_id, job.intents)
            self._record(job.run_id, job.records)
        except DatabaseUnreachable:
            raise  # while it asks who is alive: it passes, or the whole group fails
        except LeadctlError as error:
            job.error = error

    def write(self, connection: Connection) -> None:
        """Everything that changed."""
        fresh = [row for key, row in self.rows.items() if key not in self.read]
        INSERT_TARGETS.run(connection, [(self.source, *target_to_row(row)) for row in fresh])
        changed = [
            (*target_to_row(row), self.source, *key, self.read[key].rev)
            for key, row in self.rows.items()
            if key in self.read and row is not self.read[key]
        ]
        if _UPDATE_TARGETS.run(connection, changed) not in (-1, len(changed)):
            raise LeadctlError("rows of leadctl_targets changed under a lock")
        INSERT_ATTEMPTS.run(connection, self.attempts)
        _UPDATE_ITEMS.run(connection, self.items)

    # --- claims ----------------------------------------------------------------------------------------------

    def _claim(self, run_id: str, intents: Sequence[Intent]) -> list[Claim]:
        claims: list[Claim] = []
        granted: dict[Key, Target] = {}
        for intent in intents:
            key = _key(intent)
            row = granted.get(key) or self.rows.get(key)
            if row is None:
                granted[key] = self._new(run_id, intent)
            elif key not in granted and self._may_send(row, intent.rev):
                granted[key] = self._taken(run_id, intent, row)
            else:
                claims.append(Refusal(row, self._is_held(row)))
                continue
            claims.append(Granted(granted[key]))
        self.rows.update(granted)
        return claims

    def _may_send(self, row: Target, planned: int | None) -> bool:
        if row.rev != planned:
            return False
        if row.state is TargetState.SENDING:
            return not self._is_held(row)
        return may_move(row.state, TargetState.SENDING)

    def _is_held(self, row: Target) -> bool:
        """Whether another living process may be sending it just now."""
        if row.state is not TargetState.SENDING or row.holder is None or row.holder == self.holder:
            return False
        if row.holder not in self.alive:
            self.alive[row.holder] = self.leases.is_alive(row.holder)
        return self.alive[row.holder]

    def _new(self, run_id: str, intent: Intent) -> Target:
        return Target(
            lead_id=intent.lead_id,
            destination=intent.destination,
            n=intent.n,
            state=TargetState.SENDING,
            key=intent.key,
            credential_id=intent.credential_id,
            channel=intent.channel,
            account=intent.account,
            first_at=intent.first_at,
            updated_at=self.now,
            step=intent.step,
            context=intent.context,
            sent_at=intent.sent_at,
            run_id=run_id,
            holder=self.holder,
            rev=1,
        )

    def _taken(self, run_id: str, intent: Intent, row: Target) -> Target:
        """``first_at`` stays: it is the same in every attempt. So does the context of an earlier step, where this one
        has none: what was before that step was before this one."""
        return replace(
            row,
            state=TargetState.SENDING,
            key=intent.key,
            credential_id=intent.credential_id,
            channel=intent.channel,
            account=intent.account,
            updated_at=self.now,
            step=intent.step,
            context=intent.context or row.context,
            sent_at=intent.sent_at,
            run_id=run_id,
            holder=self.holder,
            rev=row.rev + 1,
        )

    # --- outcomes --------------------------------------------------------------------------------------------

    def _record(self, run_id: str, records: Sequence[Record]) -> None:
        changed: dict[Key, Target] = {}
        for record in records:
            if record.target is not None:
                key = _key(record.target)
                changed[key] = self._written(changed.get(key) or self.rows.get(key), record.target)
        self.rows.update(changed)
        for record in records:
            if record.attempt is not None:
                answer = self._say(mask_personal(self.secrets.hide(record.attempt.answer)[:2000]), _ANSWER)
                attempt = replace(record.attempt, vendor_code=self._code(record.attempt.vendor_code))
                self.attempts.append((self.source, run_id, *attempt_to_row(attempt, answer or "")))
            if record.item is not None:
                self.items.append(self._item(run_id, record.item))

    def _written(self, row: Target | None, write: TargetWrite) -> Target:
        place = f"lead {write.lead_id} at {write.destination}"
        if row is None or row.holder != self.holder:
            raise LeadctlError(f"{place}: an outcome for a row that is not held by this process")
        if not may_move(row.state, write.state):
            raise LeadctlError(f"{place}: {row.state} cannot become {write.state}")
        return replace(
            row,
            state=write.state,
            updated_at=self.now,
            done=row.done if write.done is None else write.done,
            remote_id=write.remote_id or row.remote_id,
            remote_url=write.remote_url or row.remote_url,
            digest=write.digest,
            in_doubt=write.in_doubt,
            error_code=write.error_code,
            error_message=self._say(write.error_message, _MESSAGE),
            vendor_code=self._code(write.vendor_code),
            settled_by=write.settled_by,
            rev=row.rev + 1,
        )

    def _item(self, run_id: str, item: ItemOutcome) -> tuple[Any, ...]:
        return (
            str(item.outcome), item.attempts, storable(item.remote_id), storable(item.remote_url), item.error_code,
            self._say(item.error_message, _MESSAGE), self._code(item.vendor_code), item.settled_by, to_text(self.now),
            str(item.lead_id), run_id, str(item.credential_id), Outcome.PENDING.value,
        )  # fmt: skip

    def _code(self, text: str | None) -> str | None:
        """The vendor's own code is a foreign text as well."""
        return storable(self.secrets.hide(text)) if text else text

    def _say(self, text: str | None, limit: int) -> str | None:
        """A text from outside as the ledger may keep it."""
        return storable(clean(self.secrets.hide(text), limit)) if text else text


class LedgerWriter:
    """Implements :class:`leadctl.domain.ports.Ledger` for one process.

    ``holder`` is what :meth:`leadctl.store.leases.Leases.open_holder` gave; answers are kept without ``secrets``.
    """

    def __init__(
        self,
        store: LedgerStore,
        leases: Leases,
        holder: str,
        *,
        secrets: Secrets | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._commits = Committer(store, leases, holder)
        self._observer = observer
        self._source = store.source
        self._leases = leases
        self._holder = holder
        self._secrets = secrets or Secrets()
        self._clock = clock or SystemClock()
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._dead: LeadctlError | None = None
        self._thread = threading.Thread(target=self._run, name="leadctl-ledger", daemon=True)
        self._thread.start()

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        """See :class:`leadctl.domain.ports.Ledger`."""
        claims: list[Claim] = await self._submit(run_id, intents, ()) if intents else []
        return claims

    async def record(self, run_id: str, records: Sequence[Record]) -> None:
        """See :class:`leadctl.domain.ports.Ledger`. A caller that is cancelled does not undo it."""
        if records:
            await self._submit(run_id, (), records)

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _submit(self, run_id: str, intents: Sequence[Intent], records: Sequence[Record]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        job = _Job(run_id, intents, records, loop, loop.create_future())
        with self._changed:
            if self._dead is not None:
                raise self._dead
            if self._closing:
                raise LeadctlError("the ledger's writer is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        jobs: list[_Job] = []
        try:
            while jobs := self._take():
                self._serve(jobs)
        except BaseException as error:  # noqa: BLE001 whatever ends the thread, nobody waits for ever
            self._die(error, jobs)
        finally:
            self._commits.close()

    def _take(self) -> list[_Job]:
        """Everything that waits, up to a limit; empty at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            jobs: list[_Job] = []
            size = 0
            while self._waiting and (not jobs or size + self._waiting[0].size <= GROUP_ROWS):
                jobs.append(self._waiting.popleft())
                size += jobs[-1].size
            return jobs

    def _serve(self, jobs: Sequence[_Job]) -> None:
        wanted = [job for job in jobs if not job.given_up]
        try:
            self._commits.run(partial(self._write, wanted), partial(self._say, wanted))
        except LeadctlError as error:
            for job in wanted:
                job.error = error
        _answer(wanted)

    def _write(self, jobs: Sequence[_Job], connection: Connection) -> None:
        group = _Group(self._source, self._holder, self._leases, self._secrets, self._clock.now())
        group.load(connection, {key for job in jobs for key in job.keys})
        for job in jobs:
            group.apply(job)
        group.write(connection)

    def _say(self, jobs: Sequence[_Job], message: str) -> None:
        """The lanes stand still: why, in the loop's thread."""
        if self._observer is not None:
            event = RunEvent("ledger_waiting", "warning", {"message": message})
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
                jobs[0].loop.call_soon_threadsafe(self._observer, event)

    def _die(self, error: BaseException, jobs: Sequence[_Job]) -> None:
        dead = LeadctlError(f"the ledger's writer has stopped ({type(error).__name__})")
        dead.__cause__ = error
        with self._changed:
            self._dead = dead
            orphans = [*jobs, *self._waiting]
            self._waiting.clear()
        for job in orphans:
            job.error = dead
        _answer(orphans)


def _answer(jobs: Sequence[_Job]) -> None:
    """One call into each loop for all of its jobs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, theirs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
            loop.call_soon_threadsafe(_wake, theirs)


def _wake(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.answer()
