"""One transaction of the ledger's writer: what its calls wish, held against the rows as they are."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, literal_column, select, update

from leadctl.domain.errors import DatabaseUnreachable, LeadctlError
from leadctl.domain.masking import Secrets, clean, mask_personal
from leadctl.domain.model import Target
from leadctl.domain.outcomes import Outcome, TargetState, may_move
from leadctl.domain.ports import AttemptRecord, Claim, Granted, Intent, ItemOutcome, Record, Refusal, TargetWrite
from leadctl.store.database import pages
from leadctl.store.leases import Leases
from leadctl.store.rows import TARGET_COLUMNS, attempt_to_row, storable, target_from_row, target_to_row, to_text
from leadctl.store.schema import deliveries, targets
from leadctl.store.settling import INSERT_ATTEMPTS, INSERT_TARGETS, TARGET
from leadctl.store.tuples import TupleStatement, bind, bind_at

_ANSWER = 300
_MESSAGE = 500

Key = tuple[str, str, int]

_KEY = ("lead_id", "destination", "n")
_CHANGED = tuple(name for name in TARGET_COLUMNS if name not in _KEY)
_UPDATE_TARGETS = TupleStatement(
    update(targets)
    .where(*(targets.c[name] == bind_at(name) for name in ("source", *_KEY, "rev")))
    .values({name: bind(name) for name in _CHANGED}),
    (*TARGET_COLUMNS, "at_source", *(f"at_{name}" for name in _KEY), "at_rev"),
)
_OUTCOME = ("outcome", "attempts", "remote_id", "remote_url", "error_code", "error_message", "vendor_code",
            "settled_by", "finished_at")  # fmt: skip
_ITEM = ("lead_id", "run_id", "credential_id", "outcome")
#: A run is found by no index here. PostgreSQL, which believes of a table that is new that every run has one row there,
#: would else go through the whole run for each of its rows, by the index that lanes read their pages from.
_BY_LEAD = {"run_id": deliveries.c.run_id.concat(literal_column("''"))}
_UPDATE_ITEMS = TupleStatement(
    update(deliveries)
    .where(*(_BY_LEAD.get(name, deliveries.c[name]) == bind_at(name) for name in _ITEM))
    .values({name: bind(name) for name in _OUTCOME}),
    (*_OUTCOME, *(f"at_{name}" for name in _ITEM)),
)


@dataclass(slots=True)
class Call:
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


class Changed(LeadctlError):
    """A row is not as it was read, or as its holder left it."""


def _key(row: Intent | TargetWrite | Target) -> Key:
    return (str(row.lead_id), row.destination, row.n)


@dataclass(slots=True)
class Group:
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
    #: Some rows were not read, since only we write to them.
    trusting: bool = False

    def load(self, connection: Connection, keys: set[Key], held: Mapping[Key, Target]) -> None:
        """Read and lock. (SQLite's lock is the transaction's.) What is ``held`` is known: only its holder writes there,
        and should anybody else have done so, :meth:`write` notices."""
        self.read = {key: held[key] for key in keys if key in held}
        self.trusting = bool(self.read)
        self._select(connection, keys - self.read.keys())
        self.rows = dict(self.read)

    def _select(self, connection: Connection, keys: set[Key]) -> None:
        destinations = sorted({destination for _, destination, _ in keys})
        narrow = [targets.c.destination.in_(destinations)] if len(destinations) <= 100 else []
        for some in pages(sorted({lead_id for lead_id, _, _ in keys})):
            statement = select(*TARGET).where(targets.c.source == self.source, targets.c.lead_id.in_(some), *narrow)
            statement = statement.order_by(*(targets.c[name] for name in _KEY)).with_for_update()
            for row in connection.execute(statement).all():
                key = (row.lead_id, row.destination, row.n)
                if key in keys:
                    self.read[key] = target_from_row(row)

    def apply(self, job: Call) -> None:
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
            for key, row in sorted(self.rows.items(), key=itemgetter(0))  # all lock in one order
            if key in self.read and row is not self.read[key]
        ]
        met = _UPDATE_TARGETS.run(connection, changed)
        if met != len(changed) and (met != -1 or self.trusting):  # -1: the driver cannot say
            raise Changed("rows of leadctl_targets changed under a lock")
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
                self.attempts.append((self.source, run_id, *self._attempt(record.attempt)))
            if record.item is not None:
                self.items.append(self._item(run_id, record.item))

    def _attempt(self, attempt: AttemptRecord) -> tuple[Any, ...]:
        if attempt.vendor_code:
            attempt = replace(attempt, vendor_code=self._code(attempt.vendor_code))
        answer = mask_personal(self.secrets.hide(attempt.answer)[:2000]) if attempt.answer else ""
        return attempt_to_row(attempt, self._say(answer, _ANSWER) or "")

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
